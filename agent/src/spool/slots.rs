//! A small state of fixed size that a torn write or a full disk cannot take away.
//!
//! Two slots in one file, written in turn and in place: while one is written the other one stands,
//! and nothing has to be allocated.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::crc::crc32c;
use crate::files::{make_private_folder, sync_folder};

/// Magic and generation before the body, checksum after it.
const AROUND: usize = 8 + 8 + 4;

/// The file.
#[derive(Debug)]
pub(crate) struct Slots {
    file: File,
    path: PathBuf,
    magic: [u8; 8],
    /// Bytes of one slot.
    len: usize,
    generation: u64,
}

impl Slots {
    /// Reads the newer slot's body, zeroes up to its full length; makes the file where there is
    /// none and says so by `None`.
    pub(crate) fn open(
        path: &Path,
        magic: [u8; 8],
        len: usize,
    ) -> io::Result<(Self, Option<Vec<u8>>)> {
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        make_private_folder(folder)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut out = Self {
            file,
            path: path.to_owned(),
            magic,
            len,
            generation: 0,
        };
        let mut newest = None;
        let mut slot = vec![0; len];
        for offset in [0, out.second()] {
            match out.file.read_exact_at(&mut slot, offset) {
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::UnexpectedEof => continue,
                Err(err) => return Err(err),
            }
            if let Some((generation, body)) = decode(&slot, &magic)
                && generation > out.generation
            {
                out.generation = generation;
                newest = Some(body.to_vec());
            }
        }
        if newest.is_none() {
            out.file.write_all_at(&vec![0; 2 * len], 0)?;
            out.file.sync_all()?;
            sync_folder(folder)?;
        }
        Ok((out, newest))
    }

    /// On disk when this returns. A body longer than the slot is an error.
    pub(crate) fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let named =
            |err: io::Error| io::Error::new(err.kind(), format!("{}: {err}", self.path.display()));
        let generation = self.generation + 1;
        let slot = encode(generation, &self.magic, body, self.len)
            .ok_or_else(|| named(ErrorKind::FileTooLarge.into()))?;
        let offset = if generation.is_multiple_of(2) {
            0
        } else {
            self.second()
        };
        self.file.write_all_at(&slot, offset).map_err(named)?;
        self.file.sync_data().map_err(named)?;
        self.generation = generation;
        Ok(())
    }

    fn second(&self) -> u64 {
        u64::try_from(self.len).unwrap_or(u64::MAX)
    }
}

fn encode(generation: u64, magic: &[u8; 8], body: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(magic);
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(body);
    if body.len() + AROUND > len {
        return None;
    }
    out.resize(len - 4, 0);
    let crc = crc32c(&[&out]);
    out.extend_from_slice(&crc.to_be_bytes());
    Some(out)
}

fn decode<'a>(slot: &'a [u8], magic: &[u8; 8]) -> Option<(u64, &'a [u8])> {
    let (rest, crc) = slot.split_last_chunk::<4>()?;
    if *crc != crc32c(&[rest]).to_be_bytes() {
        return None;
    }
    let (generation, body) = rest.strip_prefix(magic)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*generation), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: [u8; 8] = *b"bwtest01";

    fn open(path: &Path) -> (Slots, Option<Vec<u8>>) {
        Slots::open(path, MAGIC, 64).unwrap()
    }

    #[test]
    fn a_write_torn_anywhere_leaves_the_state_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (mut slots, found) = open(&path);
        assert_eq!(found, None, "new");
        slots.write(b"first").unwrap();
        slots.write(b"second").unwrap();
        drop(slots);
        let before = std::fs::read(&path).unwrap();
        assert!(open(&path).1.unwrap().starts_with(b"second\0"));
        let (mut slots, _) = open(&path);
        slots.write(b"third").unwrap();
        drop(slots);
        let after = std::fs::read(&path).unwrap();
        // The third went over the first: every prefix of it may be what reached the disk.
        for torn in 0..=64 {
            let mut mixed = before.clone();
            mixed[64..64 + torn].copy_from_slice(&after[64..64 + torn]);
            std::fs::write(&path, &mixed).unwrap();
            let found = open(&path).1.unwrap();
            let whole = mixed == after;
            let want: &[u8] = if whole { b"third\0" } else { b"second\0" };
            assert!(found.starts_with(want), "{torn}");
        }
    }

    #[test]
    fn what_is_not_ours_or_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (mut slots, _) = open(&path);
        slots.write(&[7; 64 - AROUND]).unwrap();
        slots.write(&[7; 64 - AROUND + 1]).unwrap_err();
        assert_eq!(open(&path).1, Some(vec![7; 64 - AROUND]));
        let (_, other) = Slots::open(&path, *b"bwtest02", 64).unwrap();
        assert_eq!(other, None, "another format's");
    }
}
