//! Segments to strides of eight bits, equal nodes stored once.

use bailiwick_ebpf_common::world::{LEAF_BASE, Node};

use super::ranges::Segment;

/// One family's table, as long as it needs to be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Trie {
    /// By the first 16 bits.
    pub(super) root: Vec<u16>,
    pub(super) nodes: Vec<Node>,
}

/// More nodes than the image has room for: the segment that needed one more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full(pub(super) Segment);

impl Trie {
    /// `bits`: length of an address, 32 or 128. The segments reach from 0 to the last address.
    /// Fails with more than `capacity` nodes.
    pub(super) fn build(segments: &[Segment], bits: u32, capacity: usize) -> Result<Self, Full> {
        let mut builder = Builder {
            segments,
            current: 0,
            capacity,
            nodes: Vec::new(),
            slots: vec![NONE; 1 << 17],
        };
        let mut root = vec![LEAF_BASE; 1 << 16];
        builder.fill(&mut root, 0, bits.saturating_sub(16))?;
        Ok(Self {
            root,
            nodes: builder.nodes,
        })
    }
}

/// A slot of the hash table that holds no node.
const NONE: u16 = u16::MAX;

struct Builder<'a> {
    segments: &'a [Segment],
    /// Index of the segment that holds the address being filled: addresses only move up.
    current: usize,
    capacity: usize,
    nodes: Vec<Node>,
    /// Open addressing, node numbers; twice as many slots as there are nodes at most.
    slots: Vec<u16>,
}

impl Builder<'_> {
    /// Fills entries that each stand for 2 to the power of `shift` addresses, from `base` on.
    fn fill(&mut self, entries: &mut [u16], base: u128, shift: u32) -> Result<(), Full> {
        let mask = u128::MAX.checked_shl(shift).map_or(u128::MAX, |high| !high);
        let mut at = base;
        let mut rest = entries;
        while !rest.is_empty() {
            let segment = self.holding(at);
            // Entries this segment covers to their ends.
            let beyond = segment.end.saturating_sub(at);
            let mut whole = beyond >> shift;
            if beyond & mask == mask {
                whole = whole.saturating_add(1);
            }
            let count = usize::try_from(whole).unwrap_or(usize::MAX).min(rest.len());
            let filled;
            if count > 0 {
                (filled, rest) = rest.split_at_mut(count);
                filled.fill(leaf(&segment));
            } else {
                (filled, rest) = rest.split_at_mut(1);
                let mut node = [LEAF_BASE; 256];
                self.fill(&mut node, at, shift.saturating_sub(8))?;
                filled.fill(self.intern(node).ok_or_else(|| self.full())?);
            }
            let step = u128::try_from(filled.len()).unwrap_or(u128::MAX) << shift;
            at = at.wrapping_add(step);
        }
        Ok(())
    }

    fn holding(&mut self, at: u128) -> Segment {
        let ahead = self.segments.get(self.current..).unwrap_or_default();
        let skip = ahead.iter().take_while(|segment| segment.end < at).count();
        self.current = self.current.saturating_add(skip);
        let last = Segment {
            end: u128::MAX,
            ..NOTHING
        };
        self.segments.get(self.current).copied().unwrap_or(last)
    }

    /// The last line that said anything about the block being filled.
    fn full(&self) -> Full {
        let so_far = self.segments.get(..=self.current).unwrap_or_default();
        let said = so_far.iter().rfind(|segment| segment.line > 0);
        Full(said.copied().unwrap_or(NOTHING))
    }

    /// The node's number, new or old; `None` where there is no room for a new one.
    fn intern(&mut self, node: Node) -> Option<u16> {
        let mask = self.slots.len().saturating_sub(1);
        let mut slot = hash(&node) & mask;
        loop {
            let number = *self.slots.get(slot)?;
            if number == NONE {
                break;
            }
            if self.nodes.get(usize::from(number)) == Some(&node) {
                return Some(number);
            }
            slot = slot.wrapping_add(1) & mask;
        }
        let number = u16::try_from(self.nodes.len()).ok()?;
        if self.nodes.len() >= self.capacity || number >= LEAF_BASE {
            return None;
        }
        self.nodes.push(node);
        *self.slots.get_mut(slot)? = number;
        Some(number)
    }
}

const NOTHING: Segment = Segment {
    end: 0,
    code: None,
    layer: super::ranges::Layer::BuiltIn,
    line: 0,
};

fn leaf(segment: &Segment) -> u16 {
    LEAF_BASE.saturating_add(segment.code.unwrap_or(0))
}

/// Spreads a node over the slots; a policy is signed, so nobody aims for collisions.
fn hash(node: &Node) -> usize {
    let (groups, _) = node.as_chunks::<4>();
    let mixed = groups.iter().fold(0_u64, |hash, &[a, b, c, d]| {
        let word = u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48;
        (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    usize::try_from(mixed >> 32).unwrap_or(0)
}
