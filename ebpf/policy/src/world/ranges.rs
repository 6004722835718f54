//! Ranges in any order to one answer for every address.

use bailiwick_attestation::FileError;
use bailiwick_ebpf_common::world::Jurisdiction;

/// Who says it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Layer {
    /// The world map.
    World,
    /// The registries of special-purpose addresses, as built in.
    BuiltIn,
    /// `sites.toml`.
    Sites,
}

/// From `start` to `end`, both included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) start: u128,
    pub(super) end: u128,
    /// Jurisdiction number.
    pub(super) code: u16,
    pub(super) layer: Layer,
    /// Line of the layer's file; 0 for what is built in.
    pub(super) line: u32,
}

/// From the end of the segment before up to `end`, included. `code` is `None` where nobody says
/// anything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Segment {
    pub(super) end: u128,
    pub(super) code: Option<u16>,
    pub(super) layer: Layer,
    pub(super) line: u32,
}

/// Two ranges that have no common answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conflict {
    pub(super) first: Range,
    pub(super) second: Range,
}

impl Conflict {
    /// The complaint, at the line that stands later in the file.
    pub(super) fn error(&self, file: &str) -> FileError {
        let (early, late) = if self.first.line <= self.second.line {
            (self.first, self.second)
        } else {
            (self.second, self.first)
        };
        let same = early.start == late.start && early.end == late.end;
        let fault = if same {
            format!(
                "is the range of line {} again, with another code; keep one of them",
                early.line
            )
        } else {
            format!(
                "crosses the range of line {}, neither lies inside the other; cut one of them",
                early.line
            )
        };
        FileError {
            file: file.to_owned(),
            line: usize::try_from(late.line).unwrap_or(usize::MAX),
            key: String::new(),
            fault,
        }
    }
}

/// Segments from address 0 to `last`. The narrower of two nested ranges decides, which for
/// prefixes is the longest match. Ranges that cross are refused: no order of lines shall matter.
pub(super) fn flatten(mut ranges: Vec<Range>, last: u128) -> Result<Vec<Segment>, Conflict> {
    let order = |r: &Range| (r.start, u128::MAX - r.end);
    if !ranges.is_sorted_by_key(order) {
        ranges.sort_by_key(order);
    }
    let mut out = Segments::default();
    let mut open: Vec<Range> = Vec::new();
    // First address without an answer; `None` once the last one has it.
    let mut at = Some(0);
    for range in ranges {
        while let Some(outer) = open.pop_if(|outer| outer.end < range.start) {
            at = out.close(at, &outer);
        }
        if let Some(&outer) = open.last() {
            if range.end > outer.end {
                return Err(Conflict {
                    first: outer,
                    second: range,
                });
            }
            if (range.start, range.end) == (outer.start, outer.end) {
                if range.code == outer.code {
                    continue;
                }
                return Err(Conflict {
                    first: outer,
                    second: range,
                });
            }
        }
        if let Some(from) = at
            && let Some(before) = range.start.checked_sub(1)
            && from <= before
        {
            out.push(match open.last() {
                Some(outer) => outer.segment(before),
                None => nothing(before),
            });
        }
        at = Some(range.start);
        open.push(range);
    }
    while let Some(outer) = open.pop() {
        at = out.close(at, &outer);
    }
    if at.is_some_and(|from| from <= last) {
        out.push(nothing(last));
    }
    Ok(out.0)
}

fn nothing(end: u128) -> Segment {
    Segment {
        end,
        code: None,
        layer: Layer::BuiltIn,
        line: 0,
    }
}

impl Range {
    fn segment(&self, end: u128) -> Segment {
        Segment {
            end,
            code: Some(self.code),
            layer: self.layer,
            line: self.line,
        }
    }
}

/// Neighbours with one answer are one segment.
#[derive(Default)]
struct Segments(Vec<Segment>);

impl Segments {
    fn push(&mut self, segment: Segment) {
        match self.0.last_mut() {
            Some(before) if before.code == segment.code => before.end = segment.end,
            _ => self.0.push(segment),
        }
    }

    /// What is left of a range up to its end; gives the first address behind it.
    fn close(&mut self, at: Option<u128>, range: &Range) -> Option<u128> {
        if at.is_some_and(|from| from <= range.end) {
            self.push(range.segment(range.end));
            return range.end.checked_add(1);
        }
        at
    }
}

/// Both as one: `above` decides wherever it says anything. Both end at the same address.
pub(super) fn overlay(below: &[Segment], above: &[Segment]) -> Vec<Segment> {
    let mut out = Segments::default();
    let mut below = below.iter().peekable();
    let mut above = above.iter().peekable();
    while let (Some(&&low), Some(&&high)) = (below.peek(), above.peek()) {
        let end = low.end.min(high.end);
        let answer = if high.code.is_some() { high } else { low };
        out.push(Segment { end, ..answer });
        if low.end == end {
            below.next();
        }
        if high.end == end {
            above.next();
        }
    }
    out.0
}

/// `(first, prefix length, answer)`. IANA registries of special-purpose IPv4 addresses; 240/4 and
/// 224/4 by RFC 1112. The documentation networks are left to the map.
const SPECIAL_V4: [(u32, u32, Jurisdiction); 16] = [
    (0x0000_0000, 8, Jurisdiction::RESERVED),
    (0x0a00_0000, 8, Jurisdiction::RESERVED),
    (0x6440_0000, 10, Jurisdiction::RESERVED),
    (0x7f00_0000, 8, Jurisdiction::LOOPBACK),
    (0xa9fe_0000, 16, Jurisdiction::LINK_LOCAL),
    (0xac10_0000, 12, Jurisdiction::RESERVED),
    (0xc000_0000, 24, Jurisdiction::RESERVED),
    // AS112, announced by whoever wants to (RFC 7534, RFC 7535).
    (0xc01f_c400, 24, Jurisdiction::ANYCAST),
    // Multicast tunnelling (RFC 7450).
    (0xc034_c100, 24, Jurisdiction::ANYCAST),
    // Relays of 6to4, withdrawn (RFC 7526).
    (0xc058_6300, 24, Jurisdiction::RESERVED),
    (0xc0a8_0000, 16, Jurisdiction::RESERVED),
    (0xc0af_3000, 24, Jurisdiction::ANYCAST),
    (0xc612_0000, 15, Jurisdiction::RESERVED),
    (0xe000_0000, 4, Jurisdiction::MULTICAST),
    (0xf000_0000, 4, Jurisdiction::RESERVED),
    (0xffff_ffff, 32, Jurisdiction::MULTICAST),
];

/// The same for IPv6. Only `2000::/3` is handed out at all (RFC 4291 §2.4); forms that carry an
/// IPv4 address are judged by that one before anything is looked up.
const SPECIAL_V6: [(u128, u32, Jurisdiction); 13] = [
    (0, 3, Jurisdiction::RESERVED),
    (1, 128, Jurisdiction::LOOPBACK),
    (0x2001 << 112, 23, Jurisdiction::RESERVED),
    (0x2001_0003 << 96, 32, Jurisdiction::ANYCAST),
    (0x2001_0004_0112 << 80, 48, Jurisdiction::ANYCAST),
    (0x2002 << 112, 16, Jurisdiction::RESERVED),
    (0x2620_004f_8000 << 80, 48, Jurisdiction::ANYCAST),
    (0x4000 << 112, 2, Jurisdiction::RESERVED),
    (0x8000 << 112, 1, Jurisdiction::RESERVED),
    (0xfc00 << 112, 7, Jurisdiction::RESERVED),
    (0xfe80 << 112, 10, Jurisdiction::LINK_LOCAL),
    (0xfec0 << 112, 10, Jurisdiction::RESERVED),
    (0xff00 << 112, 8, Jurisdiction::MULTICAST),
];

fn built_in(start: u128, hosts: u128, jurisdiction: Jurisdiction) -> Range {
    Range {
        start,
        end: start | hosts,
        code: jurisdiction.0,
        layer: Layer::BuiltIn,
        line: 0,
    }
}

/// Special-purpose ranges of IPv4.
pub(super) fn special_v4() -> Vec<Range> {
    let all = SPECIAL_V4.iter();
    all.map(|&(start, length, jurisdiction)| {
        let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
        built_in(start.into(), hosts.into(), jurisdiction)
    })
    .collect()
}

/// Special-purpose ranges of IPv6.
pub(super) fn special_v6() -> Vec<Range> {
    let all = SPECIAL_V6.iter();
    all.map(|&(start, length, jurisdiction)| {
        let hosts = u128::MAX.checked_shr(length).unwrap_or(0);
        built_in(start, hosts, jurisdiction)
    })
    .collect()
}
