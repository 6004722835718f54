//! Reads what an operator packed: POSIX tar, uncompressed, files alone.
//!
//! Nothing is ever written where a name in an archive says, so names are only shown. Links,
//! folders, devices and the headers of extensions are passed over.

use anyhow::{Context as _, bail, ensure};

const BLOCK: usize = 512;
/// Where the header says `ustar`.
const MAGIC_AT: usize = 257;

/// The bytes look like an archive.
pub(super) fn is_archive(bytes: &[u8]) -> bool {
    let magic = bytes.get(MAGIC_AT..MAGIC_AT + 5);
    magic == Some(b"ustar")
}

/// Names and contents of the files inside, at most `most` of them.
pub(super) fn files(bytes: &[u8], most: usize) -> anyhow::Result<Vec<(String, &[u8])>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some((header, after)) = rest.split_at_checked(BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            return Ok(found);
        }
        let at = bytes.len() - rest.len();
        let (name, size) = entry(header).with_context(|| format!("tar header at offset {at}"))?;
        let padded = size.div_ceil(BLOCK).checked_mul(BLOCK);
        let cut = padded.and_then(|len| after.split_at_checked(len));
        let Some((content, next)) = cut else {
            bail!("tar entry at offset {at}: {size} bytes, fewer are left");
        };
        if matches!(header.get(156), Some(b'0' | 0)) {
            ensure!(
                found.len() < most,
                "the archive holds more than {most} files"
            );
            found.push((name, content.get(..size).unwrap_or_default()));
        }
        rest = next;
    }
    ensure!(rest.is_empty(), "the archive ends inside a header");
    Ok(found)
}

/// Name and size, if the checksum is right.
fn entry(header: &[u8]) -> anyhow::Result<(String, usize)> {
    let field = |from: usize, len: usize| header.get(from..from + len).unwrap_or_default();
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0);
        String::from_utf8_lossy(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default())
            .into_owned()
    };
    let sum: u64 = header
        .iter()
        .enumerate()
        // The checksum counts as spaces in its own sum.
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                0x20
            } else {
                u64::from(*byte)
            }
        })
        .sum();
    ensure!(octal(field(148, 8))? == sum, "the checksum is wrong");
    let size = usize::try_from(octal(field(124, 12))?).context("size")?;
    let (name, prefix) = (text(field(0, 100)), text(field(345, 155)));
    Ok(if prefix.is_empty() {
        (name, size)
    } else {
        (format!("{prefix}/{name}"), size)
    })
}

/// Digits in base 8, filled up with spaces or zeros.
fn octal(field: &[u8]) -> anyhow::Result<u64> {
    let text = std::str::from_utf8(field).context("a number is not ASCII")?;
    let digits = text.trim_matches([' ', '\0']);
    u64::from_str_radix(digits, 8).context("a number is not octal")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(entries: &[(&str, u8, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, kind, content) in entries {
            let mut header = [0; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            header[148..156].copy_from_slice(b"        ");
            header[156] = *kind;
            header[257..265].copy_from_slice(b"ustar\x0000");
            let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            archive.extend(header);
            archive.extend(*content);
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        }
        archive.extend([0; 2 * BLOCK]);
        archive
    }

    #[test]
    fn files_are_read_and_all_else_is_passed_over() {
        let long = vec![7; 1000];
        let archive = packed(&[
            ("folder/", b'5', b""),
            ("folder/a.xml", b'0', b"<a/>"),
            ("link", b'2', b""),
            ("PaxHeader", b'x', b"11 path=xx\n"),
            ("../../etc/passwd", 0, &long),
        ]);
        assert!(is_archive(&archive));
        let found = files(&archive, 10).unwrap();
        let want: [(String, &[u8]); 2] = [
            ("folder/a.xml".to_owned(), b"<a/>"),
            ("../../etc/passwd".to_owned(), &long),
        ];
        assert_eq!(found, want);
        assert!(!is_archive(b"<a/>"));
    }

    #[test]
    fn archives_that_lie_are_refused() {
        let good = packed(&[("a", b'0', b"1"), ("b", b'0', b"2")]);
        let edit = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let mut huge = good.clone();
        huge[124..135].copy_from_slice(b"77777777777");
        let fewer: u64 = huge[..BLOCK]
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u64::from(*byte)
                }
            })
            .sum();
        huge[148..156].copy_from_slice(format!("{fewer:06o}\0 ").as_bytes());
        for (case, bytes, want) in [
            (
                "a byte of the name",
                edit(0, b'z'),
                "tar header at offset 0",
            ),
            (
                "a size that is no number",
                edit(130, b'9'),
                "tar header at offset 0",
            ),
            ("a size beyond the end", huge, "fewer are left"),
            (
                "cut inside a header",
                good[..BLOCK * 2 + 100].to_vec(),
                "ends inside a header",
            ),
            (
                "cut inside a file",
                good[..BLOCK + 100].to_vec(),
                "fewer are left",
            ),
        ] {
            let error = format!("{:#}", files(&bytes, 10).unwrap_err());
            assert!(error.contains(want), "{case}: {error}");
        }
        assert!(files(&good, 1).is_err(), "more than are read");
    }
}
