//! The node's place in its own sequence: what the next statement is called and what it follows.
//!
//! Two slots in one file of fixed size, written in turn and in place, so that a full disk cannot
//! stop the node from knowing which number it used last.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::crc::crc32c;
use crate::files::{make_private_folder, sync_folder};

const SLOT: usize = 512;
const MAGIC: [u8; 8] = *b"bwchain1";

/// What is remembered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Chain {
    /// Counts the losses of the node's log; 0 for the first.
    pub epoch: u64,
    /// Sequence of the next statement.
    pub sequence: u64,
    /// SHA-256 of the statement before; `None` before the first of the epoch.
    pub previous: Option<[u8; 32]>,
    /// SHA-256 of the last receipt; zero before the first.
    pub last_receipt: [u8; 32],
    /// Running number of statements made out of reach.
    pub unchallenged: u64,
    /// Statements that could not be made or kept since the last one that says so.
    pub lost_statements: u64,
    /// Fence events lost likewise.
    pub lost_events: u64,
    /// Index the next fence event gets, over all boots.
    pub next_event: u64,
}

/// The file that remembers it.
#[derive(Debug)]
pub struct ChainFile {
    file: File,
    path: PathBuf,
    generation: u64,
}

impl ChainFile {
    /// Reads the newer slot; makes the file where there is none and says so by `None`.
    pub fn open(path: &Path) -> io::Result<(Self, Option<Chain>)> {
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        make_private_folder(folder)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut newest = None;
        let mut buffer = [0; SLOT];
        for offset in [0, 512] {
            match file.read_exact_at(&mut buffer, offset) {
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::UnexpectedEof => continue,
                Err(err) => return Err(err),
            }
            if let Some((generation, chain)) = decode(&buffer)
                && newest.is_none_or(|(newer, _)| generation > newer)
            {
                newest = Some((generation, chain));
            }
        }
        if newest.is_none() {
            file.write_all_at(&[0; 2 * SLOT], 0)?;
            file.sync_all()?;
            sync_folder(folder)?;
        }
        let out = Self {
            file,
            path: path.to_owned(),
            generation: newest.map_or(0, |(generation, _)| generation),
        };
        Ok((out, newest.map(|(_, chain)| chain)))
    }

    /// On disk when this returns.
    pub fn write(&mut self, chain: &Chain) -> io::Result<()> {
        let generation = self.generation + 1;
        let offset = if generation.is_multiple_of(2) { 0 } else { 512 };
        let named =
            |err: io::Error| io::Error::new(err.kind(), format!("{}: {err}", self.path.display()));
        self.file
            .write_all_at(&encode(generation, chain), offset)
            .map_err(named)?;
        self.file.sync_data().map_err(named)?;
        self.generation = generation;
        Ok(())
    }
}

fn encode(generation: u64, chain: &Chain) -> Vec<u8> {
    let mut out = Vec::with_capacity(SLOT);
    out.extend_from_slice(&MAGIC);
    for number in [
        generation,
        chain.epoch,
        chain.sequence,
        chain.unchallenged,
        chain.lost_statements,
        chain.lost_events,
        chain.next_event,
        u64::from(chain.previous.is_some()),
    ] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&chain.previous.unwrap_or_default());
    out.extend_from_slice(&chain.last_receipt);
    out.resize(SLOT - 4, 0);
    let crc = crc32c(&[&out]);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

fn decode(slot: &[u8; SLOT]) -> Option<(u64, Chain)> {
    let (body, crc) = slot.split_last_chunk::<4>()?;
    if *crc != crc32c(&[body]).to_be_bytes() {
        return None;
    }
    let mut rest = body.strip_prefix(&MAGIC)?;
    let mut number = || {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        rest = tail;
        Some(u64::from_be_bytes(*head))
    };
    let generation = number()?;
    let mut chain = Chain {
        epoch: number()?,
        sequence: number()?,
        unchallenged: number()?,
        lost_statements: number()?,
        lost_events: number()?,
        next_event: number()?,
        ..Chain::default()
    };
    let has_previous = number()? == 1;
    let (previous, rest) = rest.split_first_chunk::<32>()?;
    let (last_receipt, _) = rest.split_first_chunk::<32>()?;
    chain.previous = has_previous.then_some(*previous);
    chain.last_receipt = *last_receipt;
    Some((generation, chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_leaves_the_older_slot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain");
        let (mut file, found) = ChainFile::open(&path).unwrap();
        assert_eq!(found, None, "new");
        let mut chain = Chain {
            sequence: 1,
            previous: Some([3; 32]),
            lost_events: 5,
            ..Chain::default()
        };
        file.write(&chain).unwrap();
        chain.sequence = 2;
        file.write(&chain).unwrap();
        let (_, found) = ChainFile::open(&path).unwrap();
        assert_eq!(found, Some(chain));

        // The second write went to the first slot.
        let raw = OpenOptions::new().write(true).open(&path).unwrap();
        raw.write_all_at(&[0xff; 3], 40).unwrap();
        let (_, found) = ChainFile::open(&path).unwrap();
        assert_eq!(found.unwrap().sequence, 1);
    }
}
