//! The map as text: comments that say where it comes from, then ranges in order.

use std::fmt::Write as _;

use bailiwick_ebpf_common::world::Jurisdiction;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::Origin;
use crate::world::Codes;
use crate::world::atlas::ip;
use crate::world::ranges::Segment;

/// The text, and how many ranges it has.
pub(super) fn text(
    origins: &[Origin],
    codes: &Codes,
    v4: &[Segment],
    v6: &[Segment],
) -> (Vec<u8>, usize) {
    let mut out = String::from("# Made by `bailiwick world build`; sites.toml is not in it.\n");
    for origin in origins {
        comments(&mut out, origin);
    }
    let mut ranges = 0_usize;
    for (segments, six) in [(v4, false), (v6, true)] {
        let mut first = 0_u128;
        for segment in segments {
            if let Some(code) = segment.code.and_then(|code| word(codes, code)) {
                line(&mut out, first, segment.end, six, code);
                ranges = ranges.saturating_add(1);
            }
            first = segment.end.saturating_add(1);
        }
    }
    (out.into_bytes(), ranges)
}

fn comments(out: &mut String, origin: &Origin) {
    let Origin {
        name,
        format,
        digest,
        built,
        licence,
        ranges,
    } = origin;
    let format = format.as_str();
    let made = built
        .and_then(|seconds| i64::try_from(seconds).ok())
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc2822).ok());
    let lines = [
        Some(format!("Source: {name}")),
        Some(format!(
            "Read as {format}, {ranges} ranges, SHA-256 {digest}"
        )),
        made.map(|made| format!("Generated: {made}")),
        (!licence.is_empty()).then(|| format!("Licence: {licence}")),
    ];
    out.push_str("#\n");
    for line in lines.iter().flatten() {
        out.push_str("# ");
        out.push_str(line);
        out.push('\n');
    }
}

/// As the text's reader takes it back; `None` for what is unknown and so need not be said.
fn word(codes: &Codes, number: u16) -> Option<&str> {
    Some(match Jurisdiction(number) {
        Jurisdiction::UNKNOWN => return None,
        Jurisdiction::ANYCAST => "A3",
        Jurisdiction::PLACELESS => "A1",
        other => codes.name(other),
    })
}

/// A prefix where the range is one, which is shorter.
fn line(out: &mut String, first: u128, last: u128, six: bool, code: &str) {
    let bits = if six { 128 } else { 32 };
    let hosts = last ^ first;
    // All the bits in which the ends differ, down to the lowest: a prefix if they are 0 and 1.
    let whole = hosts & hosts.wrapping_add(1) == 0 && first & hosts == 0;
    let (start, end) = (ip(first, six), ip(last, six));
    let done = if whole {
        let length = hosts.count_ones();
        writeln!(out, "{start}/{},{code}", u32::saturating_sub(bits, length))
    } else {
        writeln!(out, "{start},{end},{code}")
    };
    done.expect("a string grows");
}
