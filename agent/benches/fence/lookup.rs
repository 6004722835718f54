//! One lookup, in the kernel: the world map beside the kernel's own prefix trie, beside DIR-24-8
//! and beside nothing, with the same table and the same addresses.
//!
//! Each number is the median of runs of 32 lookups that wait for one another, so that what is
//! measured is how long an answer takes; "empty" is what such a run costs without a lookup, and is
//! taken off the others.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRunOptions,
    maps::{Array, LpmTrie, MapData, lpm_trie::Key},
    programs::{SchedClassifier, TestRun as _},
};
use bailiwick_ebpf_common::{
    Address, WorldImage,
    world::{LEAF_BASE, Node},
};
use serde_json::{Map, Value, json};

use super::table::Prefix;

const LOOKUPS: u32 = 32;
/// Runs before the addresses begin again: a million addresses.
const RUNS: u32 = 32_768;
/// Runs per measurement, and measurements of which the median counts.
const REPEAT: u32 = 8192;
const MEASUREMENTS: usize = 7;
/// Blocks of DIR-24-8.
const BLOCKS: usize = 32_768;

/// How many different addresses are asked for: every one a prefix drawn evenly and a host in it
/// drawn evenly, so that deep entries are met as often as they exist.
pub(crate) const PATTERNS: [(&str, usize); 3] =
    [("hot", 16), ("4k", 4096), ("random", 32 * 32_768)];

/// As the object has it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Dir24 {
    first: [u16; 1 << 24],
    blocks: [[u16; 256]; BLOCKS],
}

// SAFETY: `repr(C)`, integers only, no padding.
unsafe impl aya::Pod for Dir24 {}

/// The bench's programs and their maps.
pub(crate) struct Kernel(Ebpf);

/// A prefix, and the number of where it lies.
pub(crate) type Row = (Prefix, u32);

impl Kernel {
    pub(crate) fn load() -> Result<Self> {
        let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/bailiwick-bench");
        let object = PathBuf::from(object);
        let bytes = fs::read(&object)
            .with_context(|| format!("{}: run `cargo xtask build`", object.display()))?;
        Ok(Self(EbpfLoader::new().load(&bytes)?))
    }

    pub(crate) fn world(&mut self, world: &WorldImage) -> Result<()> {
        self.array::<WorldImage>("WORLD")?.set(0, world, 0)?;
        Ok(())
    }

    /// Everything the issue of speed asks of one lookup.
    pub(crate) fn measure(&mut self, world: &WorldImage, prefixes: &[Prefix]) -> Result<Value> {
        self.world(world)?;
        self.fill_dir24(world)?;
        let mut families = Map::new();
        for (family, v4) in [("v4", true), ("v6", false)] {
            let rows = table(world, prefixes, v4);
            eprintln!("   {family}: {} prefixes", rows.len());
            let lpm = if v4 { "bench_lpm_v4" } else { "bench_lpm_v6" };
            self.fill_trie(&rows, v4)?;
            let programs = [
                ("ours_ns", Some("bench_world")),
                ("lpm_ns", Some(lpm)),
                // Made for IPv4.
                ("dir24_ns", v4.then_some("bench_dir24")),
            ];
            let mut found: Map<String, Value> = Map::new();
            for (pattern, distinct) in PATTERNS {
                self.draw(&rows, distinct)?;
                let empty = self.median("bench_nothing")?;
                let mut note = |name: &str, nanos: Option<f64>| {
                    let entry = found.entry(name).or_insert_with(|| json!({}));
                    entry[pattern] = nanos.map(round).into();
                };
                for (name, program) in programs {
                    let nanos = match program {
                        None => None,
                        Some(program) => {
                            if program != "bench_world" && !self.agree("bench_world", program)? {
                                bail!("{program} answers differently");
                            }
                            Some((self.median(program)? - empty).max(0.01))
                        }
                    };
                    note(name, nanos);
                }
                note("empty_ns", Some(empty));
            }
            families.insert(family.to_owned(), Value::Object(found));
        }
        Ok(Value::Object(families))
    }

    /// Nanoseconds of one lookup of ours, over random prefixes.
    pub(crate) fn random(&mut self, world: &WorldImage, rows: &[Row]) -> Result<f64> {
        self.world(world)?;
        self.draw(rows, 32 * 32_768)?;
        let empty = self.median("bench_nothing")?;
        Ok((self.median("bench_world")? - empty).max(0.01))
    }

    fn array<V: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        let map = self.0.map_mut(name);
        Ok(Array::try_from(
            map.with_context(|| format!("no map {name}"))?,
        )?)
    }

    fn fill_trie(&mut self, rows: &[Row], v4: bool) -> Result<()> {
        let name = if v4 { "LPM_V4" } else { "LPM_V6" };
        let map = self.0.map_mut(name);
        let map = map.with_context(|| format!("no map {name}"))?;
        if v4 {
            let mut trie: LpmTrie<_, [u8; 4], u32> = LpmTrie::try_from(map)?;
            for (prefix, answer) in rows {
                let [.., a, b, c, d] = prefix.first.to_be_bytes();
                trie.insert(&Key::new(prefix.length - 96, [a, b, c, d]), answer, 0)?;
            }
        } else {
            let mut trie: LpmTrie<_, [u8; 16], u32> = LpmTrie::try_from(map)?;
            for (prefix, answer) in rows {
                let key = Key::new(prefix.length, prefix.first.to_be_bytes());
                trie.insert(&key, answer, 0)?;
            }
        }
        Ok(())
    }

    /// The same answers as the world map gives, in the other's shape; blocks are not shared.
    fn fill_dir24(&mut self, world: &WorldImage) -> Result<()> {
        let mut first = Vec::with_capacity(1 << 24);
        let mut blocks: Vec<[u16; 256]> = Vec::new();
        let node = |entry: u16| -> Result<&Node> {
            let node = world.v4_nodes.get(usize::from(entry));
            node.context("a node out of range")
        };
        for &root in &world.v4_root {
            if let Some(code) = root.checked_sub(LEAF_BASE) {
                first.extend([code; 256]);
                continue;
            }
            for &entry in node(root)? {
                if let Some(code) = entry.checked_sub(LEAF_BASE) {
                    first.push(code);
                    continue;
                }
                first.push(0x8000 | u16::try_from(blocks.len())?);
                blocks.push(node(entry)?.map(|leaf| leaf.saturating_sub(LEAF_BASE)));
            }
        }
        blocks.resize(BLOCKS, [0; 256]);
        if blocks.len() > BLOCKS {
            bail!("the table has more mixed blocks than DIR-24-8 has room for");
        }
        let table = Box::<Dir24>::new_zeroed();
        // SAFETY: every bit pattern is a value of `Dir24`, zeros included.
        let mut table = unsafe { table.assume_init() };
        table.first.copy_from_slice(&first);
        table.blocks.copy_from_slice(&blocks);
        self.array::<Dir24>("DIR24")?.set(0, table.as_ref(), 0)?;
        Ok(())
    }

    /// The addresses that every program looks up, the same in each run of this bench.
    fn draw(&mut self, rows: &[Row], distinct: usize) -> Result<()> {
        let mut random = random(0x9e37_79b9_7f4a_7c15);
        let count = u64::try_from(rows.len())?;
        let mut drawn = Vec::with_capacity(distinct);
        for _ in 0..distinct {
            let chosen = usize::try_from(random() % count)?;
            let (prefix, _) = rows.get(chosen).context("drawn below the length")?;
            let host = u128::from(random()) << 64 | u128::from(random());
            let address = prefix.first | host & (prefix.last - prefix.first);
            drawn.push([
                u64::try_from(address >> 64)?,
                u64::try_from(address & u128::from(u64::MAX))?,
            ]);
        }
        let mut next = drawn.iter().cycle();
        let mut addresses = self.array::<[[u64; 2]; 32]>("ADDRESSES")?;
        for run in 0..RUNS {
            let mut batch = [[0; 2]; 32];
            for slot in &mut batch {
                *slot = *next.next().context("a cycle has no end")?;
            }
            addresses.set(run, batch, 0)?;
        }
        Ok(())
    }

    /// Nanoseconds per lookup.
    fn median(&mut self, name: &str) -> Result<f64> {
        let mut all = Vec::new();
        for _ in 0..MEASUREMENTS {
            let (_, time) = self.run(name, REPEAT)?;
            all.push(time.as_secs_f64() * 1e9 / f64::from(LOOKUPS));
        }
        all.sort_by(f64::total_cmp);
        all.get(MEASUREMENTS / 2).copied().context("some of them")
    }

    /// Whether both give the same answers, in order, to 256 runs' addresses.
    fn agree(&mut self, one: &str, other: &str) -> Result<bool> {
        let mut sums = |name: &str| -> Result<Vec<u32>> {
            self.array::<u64>("TURN")?.set(0, 0, 0)?;
            (0..256).map(|_| Ok(self.run(name, 1)?.0)).collect()
        };
        Ok(sums(one)? == sums(other)?)
    }

    /// What the program returned, and how long one of its runs took on average.
    fn run(&mut self, name: &str, repeat: u32) -> Result<(u32, Duration)> {
        let program = self.0.program_mut(name);
        let program: &mut SchedClassifier = program
            .with_context(|| format!("no program {name}"))?
            .try_into()?;
        if program.fd().is_err() {
            program.load()?;
        }
        let packet = [0; 64];
        let done = program.test_run(TestRunOptions {
            data_in: Some(&packet),
            repeat,
            ..TestRunOptions::new()
        })?;
        Ok((done.return_value, done.duration))
    }
}

/// Xorshift: the same numbers in every run.
pub(crate) fn random(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

pub(crate) fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Prefixes of one family with what the world map says of them. Those the built-in registries cut
/// through, and IPv6 that carries IPv4, are left out: the trie knows no such rules.
pub(crate) fn table(world: &WorldImage, prefixes: &[Prefix], v4: bool) -> Vec<Row> {
    let at = |address: u128| Address::from_bytes(address.to_be_bytes());
    let number = |address: u128| u32::from(world.locate(at(address)).0);
    let plain = |address: u128| at(address).canonical() == at(address);
    prefixes
        .iter()
        .filter(|prefix| prefix.is_v4() == v4)
        .filter(|prefix| plain(prefix.first) && plain(prefix.last))
        .map(|prefix| (*prefix, number(prefix.first)))
        .filter(|(prefix, answer)| *answer > 8 && number(prefix.last) == *answer)
        .collect()
}
