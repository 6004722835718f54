//! What the node keeps of its log for good, and the log put together again from it.

use std::{io, path::Path};

use bailiwick_attestation::{
    Sha256Digest,
    tlog::{Frontier, Tail},
};

use crate::spool::slots::Slots;

/// Room for the edge of a log of 2^63 entries.
const SLOT: usize = 4096;
const MAGIC: [u8; 8] = *b"bwlog001";

/// The right edge of the log at the last size the collector accepted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Kept {
    /// Epoch of the log.
    pub(super) epoch: u64,
    /// Boot whose first entry is in the log; zeroes before the first.
    pub(super) boot_id: [u8; 16],
    pub(super) edge: Frontier,
}

/// The file that holds it.
#[derive(Debug)]
pub(super) struct KeptFile(Slots);

impl KeptFile {
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Kept>)> {
        let (slots, body) = Slots::open(path, MAGIC, SLOT)?;
        Ok((Self(slots), body.and_then(|body| decode(&body))))
    }

    pub(super) fn write(&mut self, kept: &Kept) -> io::Result<()> {
        self.0.write(&encode(kept))
    }
}

fn encode(kept: &Kept) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&kept.epoch.to_be_bytes());
    out.extend_from_slice(&kept.boot_id);
    out.extend_from_slice(&kept.edge.size().to_be_bytes());
    for peak in kept.edge.peaks() {
        out.extend_from_slice(peak.as_bytes());
    }
    out
}

fn decode(body: &[u8]) -> Option<Kept> {
    let (epoch, rest) = body.split_first_chunk::<8>()?;
    let (boot_id, rest) = rest.split_first_chunk::<16>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let size = u64::from_be_bytes(*size);
    let count = usize::try_from(size.count_ones()).ok()?;
    let peaks = rest.as_chunks::<32>().0.get(..count)?;
    Some(Kept {
        epoch: u64::from_be_bytes(*epoch),
        boot_id: *boot_id,
        edge: Frontier::from_parts(size, peaks.iter().copied().map(Sha256Digest).collect())?,
    })
}

/// A record of the spool: which entries, and their leaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Batch {
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) leaves: Vec<Sha256Digest>,
}

/// What edge and spool amount to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Restored {
    Nothing,
    Whole(Kept, Tail),
    /// And whose epoch it was.
    Lost(&'static str, Kept),
}

/// Puts the log together: the edge, and every entry since, without a hole, to at least the size
/// that the newest statement `named` (epoch and size).
pub(super) fn restore(
    kept: Option<Kept>,
    batches: &[Batch],
    named: Option<(u64, u64)>,
) -> Restored {
    let kept = match (kept, batches.first()) {
        (Some(kept), _) => kept,
        (None, None) => {
            return match named {
                None => Restored::Nothing,
                Some((epoch, _)) => lost("its files are gone", epoch),
            };
        }
        // Cut off before the edge was first written, or the edge's file is gone.
        (None, Some(oldest)) => Kept {
            epoch: oldest.epoch,
            ..Kept::default()
        },
    };
    let lost = |why| Restored::Lost(why, kept.clone());
    let mut tail = Tail::new(kept.edge.clone());
    let mut expected = None;
    // Other epochs' are left over from one that ended.
    for batch in batches.iter().filter(|batch| batch.epoch == kept.epoch) {
        let fits = match expected {
            None => batch.first <= kept.edge.size(),
            Some(expected) => batch.first == expected,
        };
        if !fits {
            return lost("entries are missing");
        }
        for (index, leaf) in (batch.first..).zip(&batch.leaves) {
            if index >= kept.edge.size() {
                tail.push(*leaf);
            }
        }
        let count = u64::try_from(batch.leaves.len()).unwrap_or(u64::MAX);
        expected = Some(batch.first.saturating_add(count));
    }
    if expected.is_some_and(|end| end < kept.edge.size()) {
        return lost("entries are missing");
    }
    match named {
        Some((epoch, size)) if epoch == kept.epoch && size > tail.size() => {
            lost("it is shorter than a statement said")
        }
        Some((epoch, _)) if epoch > kept.epoch => lost("it is older than a statement"),
        _ if tail.size() == 0 => Restored::Nothing,
        _ => Restored::Whole(kept, tail),
    }
}

fn lost(why: &'static str, epoch: u64) -> Restored {
    Restored::Lost(
        why,
        Kept {
            epoch,
            ..Kept::default()
        },
    )
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::tlog::leaf_hash;

    use super::*;

    fn leaf(index: u64) -> Sha256Digest {
        leaf_hash(&index.to_be_bytes())
    }

    fn edge(size: u64) -> Frontier {
        let mut out = Frontier::empty();
        for index in 0..size {
            out.push(leaf(index));
        }
        out
    }

    fn kept(epoch: u64, size: u64) -> Kept {
        Kept {
            epoch,
            boot_id: [3; 16],
            edge: edge(size),
        }
    }

    fn batch(epoch: u64, first: u64, end: u64) -> Batch {
        Batch {
            epoch,
            first,
            leaves: (first..end).map(leaf).collect(),
        }
    }

    #[test]
    fn an_edge_of_any_size_is_read_back() {
        for size in [0, 1, 7, 8, 1000] {
            let kept = kept(9, size);
            let mut body = encode(&kept);
            body.resize(SLOT - 20, 0);
            assert_eq!(decode(&body), Some(kept), "{size}");
        }
        // 2^63 - 1 entries have 63 peaks.
        let peaks = vec![leaf(1); 63];
        let widest = Kept {
            edge: Frontier::from_parts((1 << 63) - 1, peaks).unwrap(),
            ..Kept::default()
        };
        assert!(encode(&widest).len() < SLOT - 20);
        let full = encode(&kept(9, 7));
        assert_eq!(decode(&full[..full.len() - 1]), None, "a peak short");
    }

    #[test]
    fn a_log_is_whole_or_lost_and_says_why() {
        type Row<'a> = (
            &'a str,
            Option<Kept>,
            Vec<Batch>,
            Option<(u64, u64)>,
            Result<u64, &'a str>,
        );
        let hole = "entries are missing";
        let short = "it is shorter than a statement said";
        let cases: Vec<Row<'_>> = vec![
            ("edge alone", Some(kept(1, 5)), vec![], None, Ok(5)),
            (
                "entries since",
                Some(kept(1, 5)),
                vec![batch(1, 5, 7), batch(1, 7, 9)],
                Some((1, 9)),
                Ok(9),
            ),
            (
                "accepted and not delivered",
                Some(kept(1, 5)),
                vec![batch(1, 2, 4), batch(1, 4, 7)],
                None,
                Ok(7),
            ),
            (
                "accepted to the last and not let go of",
                Some(kept(1, 5)),
                vec![batch(1, 2, 5)],
                None,
                Ok(5),
            ),
            ("no edge yet", None, vec![batch(4, 0, 3)], None, Ok(3)),
            (
                "left over from the epoch before",
                Some(kept(2, 1)),
                vec![batch(1, 8, 9), batch(2, 1, 2)],
                Some((1, 9)),
                Ok(2),
            ),
            (
                "a record gone after the edge",
                Some(kept(1, 5)),
                vec![batch(1, 6, 7)],
                None,
                Err(hole),
            ),
            (
                "a record gone in the middle",
                Some(kept(1, 5)),
                vec![batch(1, 5, 6), batch(1, 7, 8)],
                None,
                Err(hole),
            ),
            (
                "a record twice",
                Some(kept(1, 5)),
                vec![batch(1, 5, 6), batch(1, 5, 6)],
                None,
                Err(hole),
            ),
            (
                "the last record gone before the edge",
                Some(kept(1, 5)),
                vec![batch(1, 2, 4)],
                None,
                Err(hole),
            ),
            ("edge gone", None, vec![batch(1, 5, 6)], None, Err(hole)),
            (
                "last entries gone",
                Some(kept(1, 5)),
                vec![batch(1, 5, 6)],
                Some((1, 7)),
                Err(short),
            ),
            (
                "everything gone",
                None,
                vec![],
                Some((1, 7)),
                Err("its files are gone"),
            ),
            (
                "older than its statements",
                Some(kept(1, 5)),
                vec![],
                Some((2, 1)),
                Err("it is older than a statement"),
            ),
        ];
        for (name, kept, batches, named, want) in cases {
            let found = match restore(kept, &batches, named) {
                Restored::Whole(_, tail) => {
                    assert_eq!(tail.head(), edge(tail.size()).head(), "{name}");
                    Ok(tail.size())
                }
                Restored::Lost(why, _) => Err(why),
                Restored::Nothing => panic!("{name}"),
            };
            assert_eq!(found, want, "{name}");
        }
        assert_eq!(restore(None, &[], None), Restored::Nothing);
        let begun = Some(kept(3, 0));
        assert_eq!(
            restore(begun, &[], None),
            Restored::Nothing,
            "cut off at its begin"
        );
    }
}
