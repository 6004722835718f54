//! The firmware's variables, in the file that stands for its flash: what a person at the machine
//! would set in its menus.
//!
//! Layout: `MdePkg/Include/Pi/PiFirmwareVolume.h` and
//! `MdeModulePkg/Include/Guid/VariableFormat.h` of EDK II, authenticated variables, little-endian.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// `gEfiAuthenticatedVariableGuid`, with which a store of such variables begins.
const STORE: [u8; 16] = [
    0x78, 0x2c, 0xf3, 0xaa, 0x7b, 0x94, 0x9a, 0x43, 0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92,
];
/// The store's own header.
const STORE_HEADER: usize = 28;
/// A variable's.
const HEADER: usize = 60;
const START: [u8; 2] = [0xaa, 0x55];
/// Written whole, and since then not replaced.
const ADDED: u8 = 0x3f;
/// Bit that is cleared when it is replaced.
const DELETED: u8 = 0xfd;

/// `EFI_CERT_SHA256_GUID`: a list of images' digests.
const DIGESTS: [u8; 16] = [
    0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28,
];

/// Switches Secure Boot on or off, keys and all else as they are.
pub(super) fn secure_boot(file: &Path, on: bool) -> Result<()> {
    edit(file, |bytes| {
        let one = find(bytes, "SecureBootEnable").context("no variable SecureBootEnable")?;
        if let Some(byte) = bytes.get_mut(one.data) {
            *byte = on.into();
        }
        Ok(())
    })
}

/// Forbids an image by its Authenticode digest: SHA-256, hex.
pub(super) fn forbid(file: &Path, digest: &str) -> Result<()> {
    let digest = hex(digest).context("a digest is 64 hexadecimal digits")?;
    edit(file, |bytes| {
        let one = find(bytes, "dbx").context("no variable dbx")?;
        let mut data = bytes
            .get(one.data..one.data + one.length)
            .context("dbx ends behind the store")?
            .to_vec();
        // EFI_SIGNATURE_LIST: type, its size, no header, size of one; then owner and digest.
        data.extend_from_slice(&DIGESTS);
        for number in [28 + 48_u32, 0, 48] {
            data.extend_from_slice(&number.to_le_bytes());
        }
        data.extend_from_slice(&[0; 16]);
        data.extend_from_slice(&digest);
        replace(bytes, &one, &data)
    })
}

fn edit(file: &Path, change: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let mut bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    change(&mut bytes).with_context(|| format!("change {}", file.display()))?;
    fs::write(file, bytes).with_context(|| format!("write {}", file.display()))
}

/// One variable, by where its parts begin in the file.
struct Variable {
    start: usize,
    data: usize,
    length: usize,
}

/// The variable in force under that name, whoever's it is.
fn find(bytes: &[u8], name: &str) -> Option<Variable> {
    let wanted: Vec<u8> = name
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    walk(bytes)?.0.into_iter().find(|one| {
        bytes.get(one.start + 2) == Some(&ADDED)
            && bytes.get(one.start + HEADER..one.data) == Some(&wanted)
    })
}

/// All variables, and where the next one would be written.
fn walk(bytes: &[u8]) -> Option<(Vec<Variable>, usize)> {
    let store = bytes.windows(STORE.len()).position(|at| at == STORE)?;
    let mut at = store + STORE_HEADER;
    let mut all = Vec::new();
    while bytes.get(at..at + 2) == Some(&START) {
        let data = at + HEADER + number(bytes, at + 36)?;
        let length = number(bytes, at + 40)?;
        all.push(Variable {
            start: at,
            data,
            length,
        });
        at = (data + length).next_multiple_of(4);
    }
    Some((all, at))
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(four)).ok()
}

/// As firmware does: the new one behind all others, then the old one marked.
fn replace(bytes: &mut [u8], old: &Variable, data: &[u8]) -> Result<()> {
    let (_, free) = walk(bytes).context("no store of variables")?;
    let mut new = bytes
        .get(old.start..old.data)
        .context("a variable ends behind the store")?
        .to_vec();
    let length = u32::try_from(data.len()).context("a variable is short")?;
    new.splice(40..44, length.to_le_bytes());
    new.extend_from_slice(data);
    let place = bytes
        .get_mut(free..free + new.len())
        .context("the store is full")?;
    if place.iter().any(|byte| *byte != 0xff) {
        bail!("the store is full");
    }
    place.copy_from_slice(&new);
    if let Some(state) = bytes.get_mut(old.start + 2) {
        *state &= DELETED;
    }
    Ok(())
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(state: u8, name: &str, data: &[u8]) -> Vec<u8> {
        let name: Vec<u8> = name
            .encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect();
        let mut bytes = vec![0; HEADER];
        bytes[..2].copy_from_slice(&START);
        bytes[2] = state;
        bytes[36..40].copy_from_slice(&u32::try_from(name.len()).unwrap().to_le_bytes());
        bytes[40..44].copy_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
        bytes.extend(name);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0xff);
        bytes
    }

    fn store(variables: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0xff; 72];
        bytes.extend(STORE);
        bytes.extend([0; STORE_HEADER - 16]);
        bytes.extend(variables.concat());
        bytes.extend([0xff; 512]);
        bytes
    }

    fn value(bytes: &[u8], name: &str) -> Vec<u8> {
        let one = find(bytes, name).unwrap();
        bytes[one.data..one.data + one.length].to_vec()
    }

    #[test]
    fn the_variable_in_force_is_found() {
        let bytes = store(&[
            variable(0x3d, "dbx", b"old"),
            variable(ADDED, "db", b"other"),
            variable(ADDED, "dbx", b"new"),
        ]);
        assert_eq!(value(&bytes, "dbx"), b"new");
        assert_eq!(value(&bytes, "db"), b"other");
        assert!(find(&bytes, "dbt").is_none());
        assert!(find(&[0xff; 100], "db").is_none());
    }

    #[test]
    fn a_longer_value_takes_the_place_of_the_old_one() {
        let mut bytes = store(&[variable(ADDED, "dbx", b"abc"), variable(ADDED, "db", b"d")]);
        let one = find(&bytes, "dbx").unwrap();
        replace(&mut bytes, &one, b"abcdefgh").unwrap();
        assert_eq!(value(&bytes, "dbx"), b"abcdefgh");
        assert_eq!(value(&bytes, "db"), b"d");
        let one = find(&bytes, "dbx").unwrap();
        assert!(replace(&mut bytes, &one, &[0; 600]).is_err(), "full");
        assert_eq!(value(&bytes, "dbx"), b"abcdefgh");
    }

    #[test]
    fn a_digest_has_64_digits() {
        assert_eq!(hex(&"0f".repeat(32)), Some([0x0f; 32]));
        for text in ["", "0f", &"0g".repeat(32), &"é".repeat(32)] {
            assert!(hex(text).is_none(), "{text}");
        }
    }
}
