//! What `BPF_PROG_TEST_RUN` measures: the world map beside the kernel's own prefix trie and beside
//! DIR-24-8, with the same table. Never attached to anything.
//!
//! A run does 32 lookups, each address made to wait for the answer before it, so that what is
//! measured is how long an answer takes and not how many are under way.
#![no_std]
#![no_main]

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, LpmTrie};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use bailiwick_ebpf_common::{Address, WorldImage, opaque};

/// Addresses of one run.
const RUN: usize = 32;
/// Runs before the addresses begin again: a million addresses.
const RUNS: usize = 32_768;
const MASK: u64 = 32_767;
/// Prefixes of one family.
const PREFIXES: usize = 1_000_000;

/// What one run looks up.
#[repr(C)]
pub struct Batch {
    addresses: [Pair; RUN],
}

/// Upper and lower half of an address.
#[repr(C)]
pub struct Pair {
    hi: u64,
    lo: u64,
}

/// Blocks of 256 addresses with more than one answer: the first bit of an entry tells.
const BLOCKS: usize = 32_768;

/// DIR-24-8 (Gupta, Lin, McKeown 1998): one entry for each 24 bits, a block of 256 where that is
/// not enough.
#[repr(C)]
pub struct Dir24 {
    first: [u16; 1 << 24],
    blocks: [[u16; 256]; BLOCKS],
}

#[btf_map]
static DIR24: Array<Dir24, 1> = Array::new();
#[btf_map]
static WORLD: Array<WorldImage, 1> = Array::new();
#[btf_map]
static LPM_V4: LpmTrie<[u8; 4], u32, PREFIXES> = LpmTrie::new();
#[btf_map]
static LPM_V6: LpmTrie<[u8; 16], u32, PREFIXES> = LpmTrie::new();
#[btf_map]
static ADDRESSES: Array<Batch, RUNS> = Array::new();
/// Runs so far.
#[btf_map]
static TURN: Array<u64, 1> = Array::new();

#[classifier]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn bench_nothing(_ctx: TcContext) -> i32 {
    run(look_at_nothing)
}

#[classifier]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn bench_world(_ctx: TcContext) -> i32 {
    run(look_at_world)
}

#[classifier]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn bench_lpm_v4(_ctx: TcContext) -> i32 {
    run(look_at_lpm_v4)
}

#[classifier]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn bench_lpm_v6(_ctx: TcContext) -> i32 {
    run(look_at_lpm_v6)
}

#[classifier]
#[expect(unreachable_pub, reason = "the loader finds it by name")]
pub fn bench_dir24(_ctx: TcContext) -> i32 {
    run(look_at_dir24)
}

#[inline(always)]
fn run(look: extern "C" fn(u64, u64) -> u32) -> i32 {
    let Some(turn) = TURN.get_ptr_mut(0) else {
        return -1;
    };
    // SAFETY: the kernel keeps the slot; one run at a time.
    let now = unsafe { *turn };
    // SAFETY: as above.
    unsafe { *turn = now.wrapping_add(1) };
    let [.., a, b] = (now & MASK).to_be_bytes();
    let Some(batch) = ADDRESSES.get(u16::from_be_bytes([a, b]).into()) else {
        return -1;
    };
    let zero = now >> 63;
    let mut answer = 0;
    let mut sum: u32 = 0;
    for Pair { hi, lo } in &batch.addresses {
        let wait = u64::from(answer) & zero;
        answer = look(hi ^ wait, lo ^ wait);
        sum = sum.wrapping_mul(31).wrapping_add(answer);
    }
    (sum & 0x7fff_ffff).cast_signed()
}

// Global linkage: the verifier checks each once, not once for every turn of the loop.

// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look_at_nothing(hi: u64, lo: u64) -> u32 {
    let [.., a, b] = core::hint::black_box(hi ^ lo).to_be_bytes();
    u16::from_be_bytes([a, b]).into()
}

// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look_at_world(hi: u64, lo: u64) -> u32 {
    match WORLD.get(0) {
        Some(world) => world.locate(Address { hi, lo }).0.into(),
        None => 0,
    }
}

#[inline(always)]
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look_at_dir24(hi: u64, lo: u64) -> u32 {
    if hi != 0 {
        return 0;
    }
    let Some(table) = DIR24.get(0) else {
        return 0;
    };
    let first = opaque(lo >> 8) & 0x00ff_ffff;
    let Some(&entry) = table.first.get(index(first)) else {
        return 0;
    };
    if entry >> 15 == 0 {
        return entry.into();
    }
    let block = opaque(entry.into()) & 0x7fff;
    match table.blocks.get(index(block)) {
        Some(block) => block.get(index(lo & 0xff)).copied().unwrap_or(0).into(),
        None => 0,
    }
}

// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look_at_lpm_v4(hi: u64, lo: u64) -> u32 {
    if hi != 0 {
        return 0;
    }
    let [_, _, _, _, a, b, c, d] = lo.to_be_bytes();
    LPM_V4
        .get(&Key::new(32, [a, b, c, d]))
        .copied()
        .unwrap_or(0)
}

// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look_at_lpm_v6(hi: u64, lo: u64) -> u32 {
    let [a, b, c, d, e, f, g, h] = hi.to_be_bytes();
    let [i, j, k, l, m, n, o, p] = lo.to_be_bytes();
    let key = Key::new(128, [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]);
    LPM_V6.get(&key).copied().unwrap_or(0)
}

// SAFETY: no other symbol has this name; the loader reads the section.
#[unsafe(link_section = "license")]
// SAFETY: as above.
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
