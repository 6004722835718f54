//! Whether the kernel side fits the stack of the oldest kernel it is written for.
//!
//! A chain of calls has 512 bytes. Linux before 6.8 counts each function of it in steps of 32 bytes,
//! later ones in steps of 16: what loads on a developer's kernel may be refused by 6.1. Its verifier
//! says so at load; this says so at build.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};

/// `MAX_BPF_STACK`
const LIMIT: u32 = 512;
/// Of `check_max_stack_depth` in Linux 6.1.
const STEP: u32 = 32;

/// What a function takes itself, and whom it calls.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Frame {
    bytes: u32,
    calls: BTreeSet<String>,
}

type Frames = BTreeMap<String, Frame>;

/// Fails with the chain that is too deep.
pub(crate) fn check(object: &Path) -> Result<()> {
    let bytes = fs::read(object).with_context(|| format!("read {}", object.display()))?;
    let frames = frames(&bytes).with_context(|| format!("read {}", object.display()))?;
    for name in frames.keys() {
        let (depth, chain) = deepest(&frames, name, 0)?;
        if depth > LIMIT {
            bail!(
                "{}: {} take {depth} bytes of stack as Linux 6.1 counts, of {LIMIT}",
                object.display(),
                chain.join(" -> ")
            );
        }
    }
    Ok(())
}

fn frames(bytes: &[u8]) -> Result<Frames> {
    let file = object::File::parse(bytes)?;
    let mut starts = HashMap::new();
    for symbol in file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
    {
        if let (Some(section), Ok(name)) = (symbol.section_index(), symbol.name()) {
            starts.insert(
                (section, symbol.address()),
                (name.to_owned(), symbol.size()),
            );
        }
    }
    let mut frames = Frames::new();
    for ((section, start), (name, size)) in &starts {
        let section = file.section_by_index(*section)?;
        let code = section
            .data_range(*start, *size)?
            .context("a function without code")?;
        let mut frame = Frame {
            bytes: own(code),
            ..Frame::default()
        };
        for (at, relocation) in section.relocations() {
            let inside = at.checked_sub(*start).filter(|at| at < size);
            let Some(instruction) = inside.and_then(|at| instruction(code, at)) else {
                continue;
            };
            let RelocationTarget::Symbol(symbol) = relocation.target() else {
                continue;
            };
            if !instruction.calls_a_function() {
                continue;
            }
            let symbol = file.symbol_by_index(symbol)?;
            // Relative to a section for functions that only this object sees, in instructions.
            let to = match symbol.kind() {
                SymbolKind::Section => {
                    u64::from(instruction.imm.wrapping_add(1).cast_unsigned()) * 8
                }
                _ => symbol.address(),
            };
            let place = symbol.section_index().context("a call to nowhere")?;
            let (callee, _) = starts.get(&(place, to)).context("a call to no function")?;
            frame.calls.insert(callee.clone());
        }
        frames.insert(name.clone(), frame);
    }
    Ok(frames)
}

#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    imm: i32,
}

impl Instruction {
    /// `BPF_CALL` of `BPF_PSEUDO_CALL`.
    const fn calls_a_function(self) -> bool {
        self.code == 0x85 && self.source == 1
    }
}

fn instruction(code: &[u8], at: u64) -> Option<Instruction> {
    let from = usize::try_from(at).ok()?;
    let bytes: [u8; 8] = code.get(from..from.checked_add(8)?)?.try_into().ok()?;
    let [code, registers, o0, o1, i0, i1, i2, i3] = bytes;
    Some(Instruction {
        code,
        destination: registers & 0xf,
        source: registers >> 4,
        offset: i16::from_le_bytes([o0, o1]),
        imm: i32::from_le_bytes([i0, i1, i2, i3]),
    })
}

/// The lowest byte of its frame that a function touches, or takes the address of.
fn own(code: &[u8]) -> u32 {
    const FRAME: u8 = 10;
    let mut deepest = 0;
    let mut copied = None;
    let mut at = 0;
    while let Some(one) = instruction(code, at) {
        at += 8;
        let below = match one.code & 7 {
            // BPF_LDX reads from its source; BPF_ST and BPF_STX write to their destination.
            1 if one.source == FRAME => i32::from(one.offset),
            2 | 3 if one.destination == FRAME => i32::from(one.offset),
            // BPF_ADD | BPF_K to what was copied from the frame pointer just before.
            7 if one.code == 0x07 && copied == Some(one.destination) => one.imm,
            _ => 0,
        };
        deepest = deepest.min(below);
        // BPF_MOV | BPF_X
        copied = (one.code == 0xbf && one.source == FRAME).then_some(one.destination);
        if one.code == 0x18 {
            at += 8; // two slots, and the second is no instruction
        }
    }
    deepest.unsigned_abs()
}

fn deepest<'a>(frames: &'a Frames, name: &'a str, calls: u32) -> Result<(u32, Vec<&'a str>)> {
    // The verifier's own limit, MAX_CALL_FRAMES.
    if calls >= 8 {
        bail!("{name} is called through eight functions");
    }
    let frame = frames
        .get(name)
        .with_context(|| format!("{name} is no function"))?;
    let mut below = (0, Vec::new());
    for callee in &frame.calls {
        let found = deepest(frames, callee, calls + 1)?;
        if found.0 > below.0 {
            below = found;
        }
    }
    let (depth, mut chain) = below;
    chain.insert(0, name);
    Ok((frame.bytes.max(1).next_multiple_of(STEP) + depth, chain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_counted_as_the_oldest_kernel_does() {
        let frame = |bytes, calls: &[&str]| Frame {
            bytes,
            calls: calls.iter().map(|name| (*name).to_owned()).collect(),
        };
        let frames: Frames = [
            ("main", frame(4, &["judge", "report"])),
            ("judge", frame(392, &["weigh", "peer"])),
            ("report", frame(400, &[])),
            ("weigh", frame(80, &[])),
            ("peer", frame(24, &[])),
            ("leaf", frame(0, &[])),
            ("round", frame(8, &["round"])),
        ]
        .map(|(name, frame)| (name.to_owned(), frame))
        .into();
        let cases = [
            // As Linux 6.1 said of it: "combined stack size of 3 calls is 544".
            ("main", 544, vec!["main", "judge", "weigh"]),
            ("judge", 512, vec!["judge", "weigh"]),
            ("report", 416, vec!["report"]),
            ("leaf", 32, vec!["leaf"]),
        ];
        for (name, depth, chain) in cases {
            assert_eq!(deepest(&frames, name, 0).unwrap(), (depth, chain), "{name}");
        }
        assert!(deepest(&frames, "round", 0).is_err());
        assert!(deepest(&frames, "nobody", 0).is_err());
    }

    #[test]
    fn a_frame_is_as_deep_as_its_lowest_byte() {
        let cases: [(&str, &[u8], u32); 7] = [
            ("nothing", &[], 0),
            ("returns", &[0x95, 0, 0, 0, 0, 0, 0, 0], 0),
            // *(u64 *)(r10 - 8) = r1
            ("a store", &[0x7b, 0x1a, 0xf8, 0xff, 0, 0, 0, 0], 8),
            // r1 = *(u64 *)(r10 - 24)
            ("a load", &[0x79, 0xa1, 0xe8, 0xff, 0, 0, 0, 0], 24),
            (
                "a load from elsewhere",
                &[0x79, 0x21, 0xe8, 0xff, 0, 0, 0, 0],
                0,
            ),
            // r2 = r10; r2 += -40
            (
                "an address",
                &[
                    0xbf, 0xa2, 0, 0, 0, 0, 0, 0, 0x07, 2, 0, 0, 0xd8, 0xff, 0xff, 0xff,
                ],
                40,
            ),
            // r2 = r3; r2 += -40
            (
                "a number",
                &[
                    0xbf, 0x32, 0, 0, 0, 0, 0, 0, 0x07, 2, 0, 0, 0xd8, 0xff, 0xff, 0xff,
                ],
                0,
            ),
        ];
        for (name, code, want) in cases {
            assert_eq!(own(code), want, "{name}");
        }
    }
}
