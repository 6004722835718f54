//! RFC 6962 §2.1: the tree over a list of entries, and its two kinds of proof.
//!
//! Only roots of *perfect* subtrees are ever stored, each under its [`NodeIndex`]: they never
//! change once written. Every other hash is folded from them.

use crate::ids::Sha256Digest;

/// Root of the perfect subtree over leaves `index << level .. (index + 1) << level`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeIndex {
    /// Height above the leaves; 0 is a leaf.
    pub level: u8,
    /// Position within the level, from the left.
    pub index: u64,
}

/// Why a proof shows nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProofRefused {
    /// The leaf's index is not below the tree's size, or the sizes are the wrong way round.
    #[error("index or size {index} does not lie below {size}")]
    OutOfRange {
        /// Index, or size of the smaller tree.
        index: u64,
        /// Size of the tree.
        size: u64,
    },
    /// The path has a length no proof for this index and size has.
    #[error("the proof has {found} hashes, wanted {want}")]
    Length {
        /// Hashes given.
        found: usize,
        /// Hashes a proof for these sizes has.
        want: usize,
    },
    /// The path leads to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// Hash of a leaf: SHA-256(0x00 ‖ entry).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Sha256Digest {
    Sha256Digest::of(&[&[0], entry])
}

/// Hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Sha256Digest, right: &Sha256Digest) -> Sha256Digest {
    Sha256Digest::of(&[&[1], left.as_bytes(), right.as_bytes()])
}

/// Which stored hashes make up each hash of a proof, outermost list in proof order.
///
/// The hashes of one inner list are folded from the right: `h(a, h(b, c))`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan(Vec<Vec<NodeIndex>>);

impl Plan {
    /// Every stored hash needed, in no particular order.
    pub fn needed(&self) -> impl Iterator<Item = NodeIndex> + '_ {
        self.0.iter().flatten().copied()
    }

    /// The proof, or the first hash that `stored` does not have.
    pub fn fold(
        &self,
        stored: impl Fn(NodeIndex) -> Option<Sha256Digest>,
    ) -> Result<Vec<Sha256Digest>, NodeIndex> {
        self.0
            .iter()
            .map(|parts| {
                let mut hashes = Vec::with_capacity(parts.len());
                for part in parts {
                    hashes.push(stored(*part).ok_or(*part)?);
                }
                let mut from_right = hashes.into_iter().rev();
                let last = from_right.next().unwrap_or_else(empty_root);
                Ok(from_right.fold(last, |right, left| node_hash(&left, &right)))
            })
            .collect()
    }
}

/// Root of the empty tree: SHA-256 of nothing.
pub(super) fn empty_root() -> Sha256Digest {
    Sha256Digest::of(&[])
}

/// The perfect subtrees that tile leaves `start..end`, left to right; `start` must be aligned as
/// RFC 6962 splits are.
pub(super) fn tiles(start: u64, end: u64) -> Vec<NodeIndex> {
    let mut out = Vec::new();
    let mut at = start;
    while at < end {
        let by_alignment = if at == 0 {
            63
        } else {
            at.trailing_zeros().min(63)
        };
        let by_length = (end - at).ilog2();
        let level = by_alignment.min(by_length);
        // Both are below 64, so the level fits a byte and the shift does not overflow.
        out.push(NodeIndex {
            level: u8::try_from(level).unwrap_or(63),
            index: at >> level,
        });
        at += 1 << level;
    }
    out
}

/// Largest power of two below `n`, for `n` of at least 2.
const fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// The root of the first `size` leaves: one hash.
#[must_use]
pub fn root_plan(size: u64) -> Plan {
    Plan(vec![tiles(0, size)])
}

/// The subtrees that become perfect when leaf number `index` is appended, leaf first. Each is the
/// [`node_hash`] of its two children, the left one stored before, the right one just made.
#[must_use]
pub fn completed_by(index: u64) -> Vec<NodeIndex> {
    let mut out = vec![NodeIndex { level: 0, index }];
    let mut at = index;
    let mut level = 0;
    while at & 1 == 1 {
        at >>= 1;
        level += 1;
        out.push(NodeIndex { level, index: at });
    }
    out
}

/// The audit path of leaf `index` in a tree of `size`, leaf upwards. `None` if there is no such
/// leaf.
#[must_use]
pub fn inclusion_plan(index: u64, size: u64) -> Option<Plan> {
    if index >= size {
        return None;
    }
    let mut path = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(tiles(middle, end));
            end = middle;
        } else {
            path.push(tiles(start, middle));
            start = middle;
        }
    }
    path.reverse();
    Some(Plan(path))
}

/// The proof that the tree of `old` leaves is a prefix of the tree of `new`. `None` unless
/// `0 < old <= new`; empty when they are equal.
#[must_use]
pub fn consistency_plan(old: u64, new: u64) -> Option<Plan> {
    if old == 0 || old > new {
        return None;
    }
    let mut path = Vec::new();
    let (mut start, mut end) = (0, new);
    // True while the subtree looked at is still the whole old tree, whose root the verifier has.
    let mut whole = true;
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            path.push(tiles(middle, end));
            end = middle;
        } else {
            path.push(tiles(start, middle));
            start = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(tiles(start, end));
    }
    path.reverse();
    Some(Plan(path))
}

/// Checks that `leaf` stands at `index` of the tree of `size` leaves whose root is `root`.
pub fn verify_inclusion(
    leaf: &Sha256Digest,
    index: u64,
    size: u64,
    path: &[Sha256Digest],
    root: &Sha256Digest,
) -> Result<(), ProofRefused> {
    let Some(plan) = inclusion_plan(index, size) else {
        return Err(ProofRefused::OutOfRange { index, size });
    };
    let length = ProofRefused::Length {
        found: path.len(),
        want: plan.0.len(),
    };
    // RFC 9162 §2.1.3.2.
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    let mut hashes = path.iter();
    while last > 0 {
        // A node that is the last of its level and a left child has no sibling there.
        if at & 1 == 1 || at < last {
            let sibling = hashes.next().ok_or(length)?;
            hash = if at & 1 == 1 {
                node_hash(sibling, &hash)
            } else {
                node_hash(&hash, sibling)
            };
        }
        at >>= 1;
        last >>= 1;
    }
    if hashes.next().is_some() {
        return Err(length);
    }
    if hash == *root {
        Ok(())
    } else {
        Err(ProofRefused::Root)
    }
}

/// Checks that the tree of `old` leaves and root `old_root` is a prefix of that of `new` leaves.
pub fn verify_consistency(
    old: u64,
    old_root: &Sha256Digest,
    new: u64,
    new_root: &Sha256Digest,
    path: &[Sha256Digest],
) -> Result<(), ProofRefused> {
    let want = match consistency_plan(old, new) {
        Some(plan) => plan.0.len(),
        // Every tree extends the empty one, and there is nothing to show.
        None if old == 0 => 0,
        None => {
            return Err(ProofRefused::OutOfRange {
                index: old,
                size: new,
            });
        }
    };
    let length = ProofRefused::Length {
        found: path.len(),
        want,
    };
    if path.len() != want {
        return Err(length);
    }
    if old == 0 {
        let roots_agree = *old_root == empty_root() && (new > 0 || *new_root == empty_root());
        return if roots_agree {
            Ok(())
        } else {
            Err(ProofRefused::Root)
        };
    }
    if old == new {
        return if old_root == new_root {
            Ok(())
        } else {
            Err(ProofRefused::Root)
        };
    }
    // RFC 9162 §2.1.4.2: climb from the right edge of the old tree.
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let mut hashes = path.iter();
    let seed = if at == 0 {
        Some(old_root)
    } else {
        hashes.next()
    };
    let seed = seed.ok_or(length)?;
    let (mut old_hash, mut new_hash) = (*seed, *seed);
    while last > 0 {
        if at & 1 == 1 || at < last {
            let sibling = hashes.next().ok_or(length)?;
            if at & 1 == 1 {
                old_hash = node_hash(sibling, &old_hash);
                new_hash = node_hash(sibling, &new_hash);
            } else {
                new_hash = node_hash(&new_hash, sibling);
            }
        }
        at >>= 1;
        last >>= 1;
    }
    if old_hash == *old_root && new_hash == *new_root {
        Ok(())
    } else {
        Err(ProofRefused::Root)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    struct Tree {
        stored: HashMap<NodeIndex, Sha256Digest>,
        leaves: Vec<Sha256Digest>,
    }

    impl Tree {
        fn of(size: u64) -> Self {
            let mut tree = Self {
                stored: HashMap::new(),
                leaves: Vec::new(),
            };
            for index in 0..size {
                let mut hash = leaf_hash(&index.to_be_bytes());
                tree.leaves.push(hash);
                for node in completed_by(index) {
                    if node.level > 0 {
                        let left = NodeIndex {
                            level: node.level - 1,
                            index: node.index * 2,
                        };
                        hash = node_hash(&tree.stored[&left], &hash);
                    }
                    tree.stored.insert(node, hash);
                }
            }
            tree
        }

        fn fold(&self, plan: &Plan) -> Vec<Sha256Digest> {
            plan.fold(|node| self.stored.get(&node).copied()).unwrap()
        }

        fn root(&self, size: u64) -> Sha256Digest {
            *self.fold(&root_plan(size)).first().unwrap()
        }

        fn leaf(&self, index: u64) -> Sha256Digest {
            *self.leaves.get(usize::try_from(index).unwrap()).unwrap()
        }
    }

    /// The definition of RFC 6962 §2.1, as it stands.
    fn naive_root(leaves: &[Sha256Digest]) -> Sha256Digest {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            many => {
                let middle = split(u64::try_from(many.len()).unwrap());
                let (left, right) = many.split_at(usize::try_from(middle).unwrap());
                node_hash(&naive_root(left), &naive_root(right))
            }
        }
    }

    #[test]
    fn roots_agree_with_the_definition() {
        let tree = Tree::of(70);
        for size in 0..=70 {
            let (first, _) = tree.leaves.split_at(usize::try_from(size).unwrap());
            assert_eq!(tree.root(size), naive_root(first), "{size}");
        }
    }

    #[test]
    fn every_leaf_of_every_size_is_proved_and_nothing_else() {
        let tree = Tree::of(40);
        for size in 1..=40 {
            let root = tree.root(size);
            for index in 0..size {
                let leaf = tree.leaf(index);
                let path = tree.fold(&inclusion_plan(index, size).unwrap());
                verify_inclusion(&leaf, index, size, &path, &root).unwrap();

                if let Some((_, short)) = path.split_last() {
                    let elsewhere = (index + 1) % size;
                    assert!(verify_inclusion(&leaf, elsewhere, size, &path, &root).is_err());
                    assert!(verify_inclusion(&leaf, index, size, short, &root).is_err());
                }
                let mut long = path.clone();
                long.push(leaf);
                assert!(matches!(
                    verify_inclusion(&leaf, index, size, &long, &root),
                    Err(ProofRefused::Length { .. })
                ));
                let other = leaf_hash(b"another entry");
                assert_eq!(
                    verify_inclusion(&other, index, size, &path, &root),
                    Err(ProofRefused::Root)
                );
            }
            assert_eq!(
                verify_inclusion(&root, size, size, &[], &root),
                Err(ProofRefused::OutOfRange { index: size, size })
            );
        }
    }

    #[test]
    fn every_prefix_is_proved_and_a_rewritten_one_is_not() {
        let tree = Tree::of(40);
        let forged = leaf_hash(b"rewritten");
        for new in 1..=40 {
            let new_root = tree.root(new);
            for old in 1..=new {
                let old_root = tree.root(old);
                let path = tree.fold(&consistency_plan(old, new).unwrap());
                verify_consistency(old, &old_root, new, &new_root, &path).unwrap();
                assert!(verify_consistency(old, &forged, new, &new_root, &path).is_err());
                assert!(verify_consistency(old, &old_root, new, &forged, &path).is_err());
                let mut long = path.clone();
                long.push(forged);
                assert!(verify_consistency(old, &old_root, new, &new_root, &long).is_err());
            }
            verify_consistency(0, &empty_root(), new, &new_root, &[]).unwrap();
            assert!(verify_consistency(0, &forged, new, &new_root, &[]).is_err());
        }
        assert!(verify_consistency(5, &empty_root(), 4, &empty_root(), &[]).is_err());
    }

    #[test]
    fn a_missing_hash_is_named() {
        let missing = NodeIndex { level: 1, index: 0 };
        let plan = inclusion_plan(2, 3).unwrap();
        assert_eq!(plan.fold(|_| None), Err(missing));
    }
}
