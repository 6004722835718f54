//! The node's place in its own sequence: what the next statement is called and what it follows.

use std::{io, path::Path};

use super::slots::Slots;

const SLOT: usize = 512;
const MAGIC: [u8; 8] = *b"bwchain2";

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
    /// Entries of the node's log lost likewise.
    pub lost_events: u64,
}

/// The file that remembers it.
#[derive(Debug)]
pub struct ChainFile(Slots);

impl ChainFile {
    /// Reads the newest state; makes the file where there is none and says so by `None`.
    pub fn open(path: &Path) -> io::Result<(Self, Option<Chain>)> {
        let (slots, body) = Slots::open(path, MAGIC, SLOT)?;
        Ok((Self(slots), body.and_then(|body| decode(&body))))
    }

    /// On disk when this returns.
    pub fn write(&mut self, chain: &Chain) -> io::Result<()> {
        self.0.write(&encode(chain))
    }
}

fn encode(chain: &Chain) -> Vec<u8> {
    let mut out = Vec::with_capacity(SLOT);
    for number in [
        chain.epoch,
        chain.sequence,
        chain.unchallenged,
        chain.lost_statements,
        chain.lost_events,
        u64::from(chain.previous.is_some()),
    ] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&chain.previous.unwrap_or_default());
    out.extend_from_slice(&chain.last_receipt);
    out
}

fn decode(body: &[u8]) -> Option<Chain> {
    let mut rest = body;
    let mut number = || {
        let (head, tail) = rest.split_first_chunk::<8>()?;
        rest = tail;
        Some(u64::from_be_bytes(*head))
    };
    let mut chain = Chain {
        epoch: number()?,
        sequence: number()?,
        unchallenged: number()?,
        lost_statements: number()?,
        lost_events: number()?,
        ..Chain::default()
    };
    let has_previous = number()? == 1;
    let (previous, rest) = rest.split_first_chunk::<32>()?;
    let (last_receipt, _) = rest.split_first_chunk::<32>()?;
    chain.previous = has_previous.then_some(*previous);
    chain.last_receipt = *last_receipt;
    Some(chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain");
        let (mut file, found) = ChainFile::open(&path).unwrap();
        assert_eq!(found, None, "new");
        let mut chain = Chain {
            epoch: 9,
            sequence: 1,
            previous: Some([3; 32]),
            last_receipt: [4; 32],
            unchallenged: 7,
            lost_statements: 8,
            lost_events: 5,
        };
        for previous in [Some([3; 32]), None] {
            chain.previous = previous;
            file.write(&chain).unwrap();
            assert_eq!(ChainFile::open(&path).unwrap().1, Some(chain));
        }
    }
}
