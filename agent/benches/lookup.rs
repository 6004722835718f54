//! The world map beside the kernel's own prefix trie, in the kernel: same table, same addresses,
//! one process. Prints one JSON object.
//!
//! Table: Debian's `tor-geoipdb`, else nothing to measure. Addresses: a prefix of the table drawn
//! evenly, then a host in it drawn evenly, so that deep entries are met as often as they exist.
//! Each number is the median of runs of 32 lookups that wait for one another, less what the same
//! run costs without a lookup.

use std::{env, fs, net::IpAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRunOptions,
    maps::{Array, LpmTrie, MapData, lpm_trie::Key},
    programs::{SchedClassifier, TestRun as _},
};
use bailiwick_ebpf_common::{Address, WorldImage};
use bailiwick_policy::{
    bundle::{WorldKind, WorldSource},
    world::World,
};
use serde_json::{Value, json};

const TABLES: [&str; 2] = ["/usr/share/tor/geoip", "/usr/share/tor/geoip6"];
const LOOKUPS: u32 = 32;
const RUNS: u32 = 32_768;
/// Runs per measurement, and measurements of which the median counts.
const REPEAT: u32 = 8192;
const MEASUREMENTS: usize = 9;

/// A prefix of the table: first address, last address, length counted in 128 bits.
#[derive(Clone, Copy)]
struct Prefix {
    first: u128,
    last: u128,
    length: u32,
}

const V4: u128 = 0xffff_0000_0000;

fn main() -> ExitCode {
    match measure() {
        Ok(result) => {
            #[expect(clippy::print_stdout, reason = "the result")]
            {
                println!("{result}");
            }
            ExitCode::SUCCESS
        }
        Err(err) => {
            eprintln!("lookup: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<Value> {
    let mut text = Vec::new();
    for table in TABLES {
        text.extend(fs::read(table).with_context(|| format!("{table}: install tor-geoipdb"))?);
    }
    let text = Arc::new(text);
    let source = WorldSource {
        kind: WorldKind::GeoipDb,
        bytes: Arc::clone(&text),
    };
    let world = World::compile(&source, &[])?.image(1);
    let prefixes = prefixes(&text)?;

    let object = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/bailiwick-bench");
    let object = fs::read(object).with_context(|| format!("{object}: run `cargo xtask build`"))?;
    let mut kernel = EbpfLoader::new().load(&object)?;
    array::<WorldImage>(&mut kernel, "WORLD")?.set(0, world.as_ref(), 0)?;
    let mut result = serde_json::Map::new();
    for (family, lpm, v4) in [("v4", "bench_lpm_v4", true), ("v6", "bench_lpm_v6", false)] {
        let ours = table(&world, &prefixes, v4);
        fill_trie(&mut kernel, &ours, v4)?;
        draw(&mut kernel, &ours)?;
        let nothing = median(&mut kernel, "bench_nothing")?;
        let map = median(&mut kernel, "bench_world")?;
        let trie = median(&mut kernel, lpm)?;
        let same = same_answers(&mut kernel, lpm)?;
        if !same {
            bail!("the two tables answer differently");
        }
        let map = (map - nothing).max(0.01);
        let trie = (trie - nothing).max(0.01);
        result.insert(
            family.to_owned(),
            json!({
                "prefixes": ours.len(),
                "world_map_ns": round(map),
                "lpm_trie_ns": round(trie),
                "loop_ns": round(nothing),
                "ratio": round(trie / map),
                "same_answers": same,
            }),
        );
    }
    Ok(json!({ "world_map_lookup": result }))
}

fn round(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// The exact prefixes of the text's ranges.
fn prefixes(text: &[u8]) -> Result<Vec<Prefix>> {
    let mut all = Vec::new();
    for line in std::str::from_utf8(text)?.lines() {
        if line.starts_with('#') {
            continue;
        }
        let mut fields = line.split(',');
        let mut address = || -> Result<u128> {
            let field = fields.next().context("a range has two ends")?;
            Ok(match field.parse::<u32>() {
                Ok(number) => V4 | u128::from(number),
                Err(_) => match field.parse::<IpAddr>()? {
                    IpAddr::V4(v4) => V4 | u128::from(v4.to_bits()),
                    IpAddr::V6(v6) => v6.to_bits(),
                },
            })
        };
        let (mut first, last) = (address()?, address()?);
        loop {
            // The largest aligned block that begins here and does not end behind the range.
            let room = (last - first).saturating_add(1);
            let fits = room.ilog2().min(first.trailing_zeros().min(127));
            let size = 1_u128 << fits;
            let end = first + (size - 1);
            all.push(Prefix {
                first,
                last: end,
                length: 128 - fits,
            });
            if end == last {
                break;
            }
            first = end + 1;
        }
    }
    Ok(all)
}

fn is_v4(prefix: &Prefix) -> bool {
    prefix.first >> 32 == V4 >> 32
}

fn number(world: &WorldImage, address: u128) -> u32 {
    world
        .locate(Address::from_bytes(address.to_be_bytes()))
        .0
        .into()
}

/// Prefixes of one family with what the world map says of them. Those the built-in registries cut
/// through, and IPv6 that carries IPv4, are left out: the trie knows no such rules.
fn table(world: &WorldImage, prefixes: &[Prefix], v4: bool) -> Vec<(Prefix, u32)> {
    let plain = |address: u128| {
        let address = Address::from_bytes(address.to_be_bytes());
        address.canonical() == address
    };
    prefixes
        .iter()
        .filter(|prefix| is_v4(prefix) == v4)
        .filter(|prefix| plain(prefix.first) && plain(prefix.last))
        .map(|prefix| (*prefix, number(world, prefix.first)))
        .filter(|(prefix, answer)| *answer != 0 && number(world, prefix.last) == *answer)
        .filter(|(_, answer)| *answer > 8)
        .collect()
}

fn array<'a, V: aya::Pod>(kernel: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut MapData, V>> {
    let map = kernel
        .map_mut(name)
        .with_context(|| format!("no map {name}"))?;
    Ok(Array::try_from(map)?)
}

fn fill_trie(kernel: &mut Ebpf, table: &[(Prefix, u32)], v4: bool) -> Result<()> {
    let name = if v4 { "LPM_V4" } else { "LPM_V6" };
    let map = kernel
        .map_mut(name)
        .with_context(|| format!("no map {name}"))?;
    if v4 {
        let mut trie: LpmTrie<_, [u8; 4], u32> = LpmTrie::try_from(map)?;
        for (prefix, answer) in table {
            let [.., a, b, c, d] = prefix.first.to_be_bytes();
            trie.insert(&Key::new(prefix.length - 96, [a, b, c, d]), answer, 0)?;
        }
    } else {
        let mut trie: LpmTrie<_, [u8; 16], u32> = LpmTrie::try_from(map)?;
        for (prefix, answer) in table {
            trie.insert(
                &Key::new(prefix.length, prefix.first.to_be_bytes()),
                answer,
                0,
            )?;
        }
    }
    Ok(())
}

/// The addresses every program of this family looks up, the same in each run of this bench.
fn draw(kernel: &mut Ebpf, table: &[(Prefix, u32)]) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut addresses = array::<[[u64; 2]; 32]>(kernel, "ADDRESSES")?;
    let count = u64::try_from(table.len())?;
    for run in 0..RUNS {
        let mut batch = [[0; 2]; 32];
        for slot in &mut batch {
            let chosen = usize::try_from(random() % count)?;
            let (prefix, _) = table.get(chosen).context("drawn below the length")?;
            let host =
                (u128::from(random()) << 64 | u128::from(random())) & (prefix.last - prefix.first);
            let address = prefix.first | host;
            *slot = [
                u64::try_from(address >> 64)?,
                u64::try_from(address & u128::from(u64::MAX))?,
            ];
        }
        addresses.set(run, batch, 0)?;
    }
    Ok(())
}

/// Nanoseconds per lookup.
fn median(kernel: &mut Ebpf, name: &str) -> Result<f64> {
    let mut all = Vec::new();
    for _ in 0..MEASUREMENTS {
        let (_, time) = test_run(kernel, name, REPEAT)?;
        all.push(time.as_secs_f64() * 1e9 / f64::from(LOOKUPS));
    }
    all.sort_by(f64::total_cmp);
    all.get(MEASUREMENTS / 2).copied().context("nine of them")
}

/// Whether trie and map give the same answers, in order, to 256 runs' addresses.
fn same_answers(kernel: &mut Ebpf, lpm: &str) -> Result<bool> {
    let mut sums = |name: &str| -> Result<Vec<u32>> {
        array::<u64>(kernel, "TURN")?.set(0, 0, 0)?;
        (0..256).map(|_| Ok(test_run(kernel, name, 1)?.0)).collect()
    };
    Ok(sums("bench_world")? == sums(lpm)?)
}

/// What the program returned, and how long one of its runs took on average.
fn test_run(kernel: &mut Ebpf, name: &str, repeat: u32) -> Result<(u32, Duration)> {
    let program: &mut SchedClassifier = kernel
        .program_mut(name)
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
