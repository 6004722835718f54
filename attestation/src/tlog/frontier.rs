//! A log without its entries: what is needed to go on, and to prove that one goes on.
//!
//! [`Frontier`] is the right edge of a tree: enough to append and to know the root. [`Tail`] is a
//! frontier and the leaves since: enough to prove that any later size extends any size from the
//! frontier on.

use super::merkle::{
    NodeIndex, Plan, ProofRefused, consistency_plan, empty_root, inclusion_plan, node_hash, tiles,
    verify_consistency,
};
use crate::{ids::Sha256Digest, proto::v1};

/// A path over 2^63 leaves has at most this many hashes.
const MAX_PATH: usize = 64;

/// Size and RFC 6962 root of a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Leaves.
    pub size: u64,
    /// Root over them.
    pub root: Sha256Digest,
}

impl Head {
    /// Of the log without a leaf.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            size: 0,
            root: empty_root(),
        }
    }

    /// From the wire; `None` unless the root has 32 bytes, and is that of nothing for size 0.
    #[must_use]
    pub fn of(head: &v1::LogHead) -> Option<Self> {
        let root = Sha256Digest::from_slice(&head.root)?;
        (head.size > 0 || root == empty_root()).then_some(Self {
            size: head.size,
            root,
        })
    }

    /// To the wire.
    #[must_use]
    pub fn to_proto(&self) -> v1::LogHead {
        v1::LogHead {
            size: self.size,
            root: self.root.as_bytes().to_vec(),
        }
    }
}

/// Why a head does not follow the one before.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeadRefused {
    /// Checked: leaves are gone.
    #[error("the node's log has {found} entries, it had {had}")]
    Shrank {
        /// Size now.
        found: u64,
        /// Size accepted before.
        had: u64,
    },
    /// Checked: what was there is not there any more.
    #[error("the node's log of {size} entries does not extend the one of {had} accepted before")]
    Rewritten {
        /// Size now.
        size: u64,
        /// Size accepted before.
        had: u64,
        /// What the proof lacks.
        #[source]
        source: ProofRefused,
    },
    /// Not checked: there is no proof from the size accepted before.
    #[error("no proof that the node's log of {size} entries extends the one of {had}")]
    Unproven {
        /// Size now.
        size: u64,
        /// Size accepted before.
        had: u64,
    },
    /// A hash of another length, or too many.
    #[error("Evidence.log_consistency.path: not hashes of 32 bytes, at most 64")]
    Malformed,
}

impl HeadRefused {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Shrank { .. } | Self::Rewritten { .. } => "log-rewritten",
            Self::Unproven { .. } => "log-unproven",
            Self::Malformed => "evidence-malformed",
        }
    }
}

/// Checks that the log `head` names has everything the log `before` named, where it stood.
pub fn head_follows(
    before: &Head,
    head: &Head,
    proof: Option<&v1::LogConsistency>,
) -> Result<(), HeadRefused> {
    let (size, had) = (head.size, before.size);
    if size < had {
        return Err(HeadRefused::Shrank { found: size, had });
    }
    // Equal sizes and the empty log need no hashes.
    let path = match proof {
        _ if size == had || had == 0 => &[],
        Some(proof) if proof.from_size == had => proof.path.as_slice(),
        _ => return Err(HeadRefused::Unproven { size, had }),
    };
    if path.len() > MAX_PATH {
        return Err(HeadRefused::Malformed);
    }
    let path = path
        .iter()
        .map(|hash| Sha256Digest::from_slice(hash))
        .collect::<Option<Vec<_>>>()
        .ok_or(HeadRefused::Malformed)?;
    verify_consistency(had, &before.root, size, &head.root, &path)
        .map_err(|source| HeadRefused::Rewritten { size, had, source })
}

/// The right edge of a log: roots of the perfect subtrees that tile it, left to right.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Sha256Digest>,
}

impl Default for Frontier {
    fn default() -> Self {
        Self::empty()
    }
}

impl Frontier {
    /// Of the log without a leaf.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            size: 0,
            peaks: Vec::new(),
        }
    }

    /// As kept; `None` unless there are as many peaks as `size` has set bits.
    #[must_use]
    pub fn from_parts(size: u64, peaks: Vec<Sha256Digest>) -> Option<Self> {
        let want = usize::try_from(size.count_ones()).ok()?;
        (peaks.len() == want).then_some(Self { size, peaks })
    }

    /// Leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Roots of perfect subtrees, left to right.
    #[must_use]
    pub fn peaks(&self) -> &[Sha256Digest] {
        &self.peaks
    }

    /// Appends a leaf's hash.
    pub fn push(&mut self, leaf: Sha256Digest) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// Size and root.
    #[must_use]
    pub fn head(&self) -> Head {
        let mut from_right = self.peaks.iter().rev().copied();
        let last = from_right.next().unwrap_or_else(empty_root);
        Head {
            size: self.size,
            root: from_right.fold(last, |right, left| node_hash(&left, &right)),
        }
    }

    fn tile(&self, node: NodeIndex) -> Option<Sha256Digest> {
        let position = tiles(0, self.size).iter().position(|tile| *tile == node)?;
        self.peaks.get(position).copied()
    }
}

/// A log from some size on: the frontier there and the leaves since.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tail {
    base: Frontier,
    leaves: Vec<Sha256Digest>,
    /// At the end of `leaves`.
    end: Frontier,
}

impl Tail {
    /// Without leaves since.
    #[must_use]
    pub fn new(base: Frontier) -> Self {
        Self {
            end: base.clone(),
            base,
            leaves: Vec::new(),
        }
    }

    /// Where it begins.
    #[must_use]
    pub const fn base(&self) -> &Frontier {
        &self.base
    }

    /// Leaves in the whole log.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.end.size
    }

    /// Leaves since the base.
    #[must_use]
    pub fn leaves(&self) -> usize {
        self.leaves.len()
    }

    /// Size and root of the whole log.
    #[must_use]
    pub fn head(&self) -> Head {
        self.end.head()
    }

    /// Appends a leaf's hash.
    pub fn push(&mut self, leaf: Sha256Digest) {
        self.leaves.push(leaf);
        self.end.push(leaf);
    }

    /// The frontier at `size`; `None` outside of what is kept.
    #[must_use]
    pub fn at(&self, size: u64) -> Option<Frontier> {
        let since = usize::try_from(size.checked_sub(self.base.size)?).ok()?;
        let (first, _) = self.leaves.split_at_checked(since)?;
        let mut out = self.base.clone();
        for leaf in first {
            out.push(*leaf);
        }
        Some(out)
    }

    /// Lets go of the leaves before `size`. False outside of what is kept: nothing changes.
    pub fn advance(&mut self, size: u64) -> bool {
        let Some(base) = self.at(size) else {
            return false;
        };
        let gone = self
            .leaves
            .len()
            .min(usize::try_from(size - self.base.size).unwrap_or(usize::MAX));
        self.leaves.drain(..gone);
        self.base = base;
        true
    }

    /// Proof that the log of `to` leaves extends that of `from`; `None` outside of what is kept.
    #[must_use]
    pub fn consistency(&self, from: u64, to: u64) -> Option<v1::LogConsistency> {
        let until = Self {
            base: self.at(from)?,
            leaves: self
                .leaves
                .get(self.position(from)?..self.position(to)?)?
                .to_vec(),
            end: self.at(to)?,
        };
        let path = match consistency_plan(from, to) {
            Some(plan) => until.fold(&plan)?,
            // The empty log is a prefix of every log.
            None => Vec::new(),
        };
        Some(v1::LogConsistency {
            from_size: from,
            path: path.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
        })
    }

    /// Proof that leaf `index` stands in the log of `size` leaves; `None` outside of what is kept.
    #[must_use]
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Sha256Digest>> {
        let until = Self {
            base: self.base.clone(),
            leaves: self.leaves.get(..self.position(size)?)?.to_vec(),
            end: self.at(size)?,
        };
        until.fold(&inclusion_plan(index, size)?)
    }

    fn position(&self, size: u64) -> Option<usize> {
        usize::try_from(size.checked_sub(self.base.size)?).ok()
    }

    fn fold(&self, plan: &Plan) -> Option<Vec<Sha256Digest>> {
        plan.fold(|node| self.subtree(node)).ok()
    }

    /// Root of a perfect subtree that is a tile of the base or lies behind it.
    fn subtree(&self, node: NodeIndex) -> Option<Sha256Digest> {
        let start = node.index.checked_shl(node.level.into())?;
        if start < self.base.size {
            return self.base.tile(node);
        }
        if node.level == 0 {
            let position = self.position(start)?;
            return self.leaves.get(position).copied();
        }
        let child = |right| {
            self.subtree(NodeIndex {
                level: node.level - 1,
                index: node.index * 2 + right,
            })
        };
        Some(node_hash(&child(0)?, &child(1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlog::{leaf_hash, verify_inclusion};

    fn leaf(index: u64) -> Sha256Digest {
        leaf_hash(&index.to_be_bytes())
    }

    fn frontier(size: u64) -> Frontier {
        let mut out = Frontier::empty();
        for index in 0..size {
            out.push(leaf(index));
        }
        out
    }

    fn tail(base: u64, size: u64) -> Tail {
        let mut out = Tail::new(frontier(base));
        for index in base..size {
            out.push(leaf(index));
        }
        out
    }

    #[test]
    fn a_frontier_has_the_root_of_the_whole_tree() {
        // RFC 6962 §2.1, by its definition.
        fn root(leaves: &[Sha256Digest]) -> Sha256Digest {
            match leaves {
                [] => empty_root(),
                [one] => *one,
                many => {
                    let middle = many.len().next_power_of_two() / 2;
                    let (left, right) = many.split_at(middle);
                    node_hash(&root(left), &root(right))
                }
            }
        }
        for size in 0..70 {
            let leaves: Vec<_> = (0..size).map(leaf).collect();
            let edge = frontier(size);
            assert_eq!(edge.head().root, root(&leaves), "{size}");
            assert_eq!(edge.head().size, size);
            let kept = Frontier::from_parts(size, edge.peaks().to_vec()).unwrap();
            assert_eq!(kept, edge);
            let mut more = edge.peaks().to_vec();
            more.push(leaf(0));
            assert_eq!(Frontier::from_parts(size, more), None, "{size}");
        }
    }

    #[test]
    fn every_extension_of_every_kept_size_is_proved() {
        for base in 0..20 {
            let whole = tail(base, 40);
            assert_eq!(whole.head(), frontier(40).head());
            for from in base..=40 {
                for to in from..=40 {
                    let (before, after) = (frontier(from).head(), frontier(to).head());
                    let proof = whole.consistency(from, to).unwrap();
                    head_follows(&before, &after, Some(&proof)).unwrap();
                }
            }
            if base > 0 {
                assert_eq!(whole.consistency(base - 1, 40), None, "not kept");
            }
            assert_eq!(whole.consistency(base, 41), None, "not there");
        }
    }

    #[test]
    fn every_leaf_that_is_kept_is_proved() {
        let whole = tail(0, 23);
        for size in 1..=23 {
            let root = frontier(size).head().root;
            for index in 0..size {
                let path = whole.inclusion(index, size).unwrap();
                verify_inclusion(&leaf(index), index, size, &path, &root).unwrap();
            }
            assert_eq!(whole.inclusion(size, size), None, "{size}");
        }
        assert_eq!(whole.inclusion(0, 24), None);
    }

    #[test]
    fn letting_go_keeps_the_head() {
        let mut kept = tail(3, 21);
        assert!(!kept.advance(2), "gone already");
        assert!(!kept.advance(22), "not there yet");
        assert!(kept.advance(13));
        assert_eq!((kept.base().size(), kept.leaves()), (13, 8));
        assert_eq!(kept.head(), frontier(21).head());
        assert_eq!(kept, tail(13, 21));
    }

    #[test]
    fn what_does_not_follow_is_refused_by_name() {
        let (nine, twenty) = (frontier(9).head(), frontier(20).head());
        let whole = tail(0, 20);
        let proof = whole.consistency(9, 20).unwrap();
        let forged = |head: &Head| Head {
            root: leaf(99),
            ..*head
        };
        type Row<'a> = (&'a str, Head, Head, Option<v1::LogConsistency>, &'a str);
        // From three leaves to 2^63: the third leaf, the fourth, the first two, and then what
        // stands right of them on each of the other 61 levels.
        let path: Vec<_> = (0..64).map(leaf).collect();
        let three = Head {
            size: 3,
            root: node_hash(&path[2], &path[0]),
        };
        let four = node_hash(&path[2], &node_hash(&path[0], &path[1]));
        let root = path[3..]
            .iter()
            .fold(four, |root, hash| node_hash(&root, hash));
        let huge = Head {
            size: 1 << 63,
            root,
        };
        let longest = v1::LogConsistency {
            from_size: 3,
            path: path.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
        };
        let mut long = longest.clone();
        long.path.push(vec![0; 32]);
        let mut short = proof.clone();
        short.path[0].pop();
        let mut fewer = proof.clone();
        fewer.path.pop();
        let cases: &[Row<'_>] = &[
            ("proved", nine, twenty, Some(proof.clone()), ""),
            ("the same", nine, nine, None, ""),
            ("the first", Head::empty(), twenty, None, ""),
            (
                "smaller",
                twenty,
                nine,
                Some(proof.clone()),
                "log-rewritten",
            ),
            ("emptied", nine, Head::empty(), None, "log-rewritten"),
            ("same size", nine, forged(&nine), None, "log-rewritten"),
            (
                "other old",
                forged(&nine),
                twenty,
                Some(proof.clone()),
                "log-rewritten",
            ),
            (
                "other new",
                nine,
                forged(&twenty),
                Some(proof.clone()),
                "log-rewritten",
            ),
            (
                "short of a hash",
                nine,
                twenty,
                Some(fewer),
                "log-rewritten",
            ),
            ("no proof", nine, twenty, None, "log-unproven"),
            (
                "from elsewhere",
                nine,
                twenty,
                whole.consistency(8, 20),
                "log-unproven",
            ),
            (
                "short hash",
                nine,
                twenty,
                Some(short),
                "evidence-malformed",
            ),
            ("the longest", three, huge, Some(longest), ""),
            ("a hash more", three, huge, Some(long), "evidence-malformed"),
        ];
        for (name, before, head, proof, want) in cases {
            let found = head_follows(before, head, proof.as_ref());
            let code = found.err().map_or("", |refused| refused.code());
            assert_eq!(code, *want, "{name}");
        }
    }

    #[test]
    fn a_head_is_a_size_and_the_root_that_goes_with_it() {
        let good = frontier(3).head().to_proto();
        assert_eq!(Head::of(&good), Some(frontier(3).head()));
        assert_eq!(Head::of(&Head::empty().to_proto()), Some(Head::empty()));
        let emptied = v1::LogHead {
            size: 0,
            ..good.clone()
        };
        assert_eq!(Head::of(&emptied), None, "nothing has one root");
        let mut short = good;
        short.root.pop();
        assert_eq!(Head::of(&short), None);
    }
}
