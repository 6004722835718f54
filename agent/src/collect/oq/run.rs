//! The computation itself, on one device.

use std::{
    ffi::CStr,
    time::{Duration, Instant},
};

use super::{
    Figures, Rate, Stopped,
    expected::{self, ELEMENTS, MIXED},
};
use crate::sys::cuda::{Context, Fault, Memory};

/// The device's half, as text: the driver compiles it for whatever family it finds.
const KERNELS: &CStr =
    match CStr::from_bytes_with_nul(concat!(include_str!("kernels.ptx"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => panic!("the text has a NUL"),
    };
/// Blocks and threads: some for each multiprocessor of the largest GPU.
const GRID: [u32; 2] = [2048, 256];
/// How often each thing is done.
const TIMES: usize = 10;
/// Most bytes that go between host and device at once.
const MOST_MOVED: usize = 64 << 20;
/// Less than this is no memory worth looking at.
const LEAST: usize = 8 << 20;

/// What a run may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Of the device's memory, bytes. Never more than a twentieth of what is free is taken.
    pub(super) memory: usize,
    pub(super) until: Instant,
}

/// Before anything is computed, an error says that it cannot be; after that, that it went wrong.
fn not_run(fault: &Fault) -> Stopped {
    Stopped::NotRun(fault.to_string())
}

fn failed(fault: &Fault) -> Stopped {
    Stopped::Failed(fault.to_string())
}

/// Computes, writes, reads and moves; whatever is not as it has to be ends it.
pub(super) fn run(context: &Context<'_>, limits: Limits) -> Result<Figures, Stopped> {
    let refuse = |fault| not_run(&fault);
    let bad = |fault| failed(&fault);
    let begun = Instant::now();
    let free = context.free().map_err(refuse)?;
    let taken = limits.memory.min(free / 20);
    if taken < LEAST {
        let why = format!("{taken} bytes of memory may be taken, {LEAST} is the least");
        return Err(Stopped::NotRun(why));
    }
    let names = [c"bailiwick_mix", c"bailiwick_fill", c"bailiwick_check"];
    let [mix, fill, check] = context.functions(KERNELS, names).map_err(refuse)?;
    let half = taken / 2 / 8 * 8;
    let answer = context.memory(MIXED.len() * 8).map_err(refuse)?;
    let first = context.memory(half).map_err(refuse)?;
    let second = context.memory(half).map_err(refuse)?;
    let mut host = context.pinned(half.min(MOST_MOVED) / 8).map_err(refuse)?;

    let mut mixing = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        limits.hold()?;
        answer.put(&[0; MIXED.len()]).map_err(bad)?;
        let at = Instant::now();
        context
            .launch(mix, GRID, &mut [answer.address(), ELEMENTS])
            .map_err(bad)?;
        mixing.push(at.elapsed());
        let mut found = [0; MIXED.len()];
        answer.get(&mut found).map_err(bad)?;
        agree("what was computed", &found, &MIXED)?;
    }

    let words = u64::try_from(half / 8).unwrap_or(u64::MAX);
    let look = |memory: &Memory<'_>, count: u64, flipped: bool, what: &str| {
        answer.put(&[0; 2]).map_err(bad)?;
        let mut arguments = [memory.address(), count, flip(flipped), answer.address()];
        context.launch(check, GRID, &mut arguments).map_err(bad)?;
        let mut found = [0; 2];
        answer.get(&mut found).map_err(bad)?;
        agree(what, &found, &[0, expected::sum(count, flipped)])
    };
    for flipped in [false, true] {
        limits.hold()?;
        context
            .launch(fill, GRID, &mut [first.address(), words, flip(flipped)])
            .map_err(bad)?;
        look(&first, words, flipped, "what was kept in memory")?;
    }
    let within = timed(&limits, || {
        second.copy(&first).map_err(bad)?;
        context.wait().map_err(bad)
    })?;
    look(&second, words, true, "what was moved within memory")?;

    let moved = host.words();
    for (index, place) in (0..).zip(moved.iter_mut()) {
        *place = expected::word(index, false);
    }
    let to_device = timed(&limits, || second.put(moved).map_err(bad))?;
    let count = u64::try_from(moved.len()).unwrap_or(u64::MAX);
    look(&second, count, false, "what was moved to the device")?;
    moved.fill(0);
    let to_host = timed(&limits, || second.get(moved).map_err(bad))?;
    let other = (0..)
        .zip(moved.iter())
        .find(|(index, found)| **found != expected::word(*index, false));
    if let Some((index, found)) = other {
        let why = format!("what was moved to the host: word {index} is {found:#x}");
        return Err(Stopped::Failed(why));
    }
    let bytes = moved.len() * 8;
    Ok(Figures {
        mix_us: micros(median(&mut mixing).0),
        memory_bytes: u64::try_from(half * 2).unwrap_or(u64::MAX),
        to_device: Rate::of(bytes, to_device),
        to_host: Rate::of(bytes, to_host),
        within: Rate::of(half, within),
        took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

const fn flip(flipped: bool) -> u64 {
    if flipped { u64::MAX } else { 0 }
}

fn agree(what: &str, found: &[u64], expected: &[u64]) -> Result<(), Stopped> {
    if found == expected {
        return Ok(());
    }
    let hex = |words: &[u64]| {
        let words: Vec<String> = words.iter().map(|word| format!("{word:016x}")).collect();
        words.join(" ")
    };
    let (found, expected) = (hex(found), hex(expected));
    Err(Stopped::Failed(format!("{what}: {found}, not {expected}")))
}

fn timed(
    limits: &Limits,
    mut work: impl FnMut() -> Result<(), Stopped>,
) -> Result<Vec<Duration>, Stopped> {
    let mut out = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        limits.hold()?;
        let at = Instant::now();
        work()?;
        out.push(at.elapsed());
    }
    Ok(out)
}

impl Limits {
    /// There is time left.
    fn hold(&self) -> Result<(), Stopped> {
        match Instant::now() < self.until {
            true => Ok(()),
            false => Err(Stopped::NotRun("its time was over".to_owned())),
        }
    }
}

/// The one in the middle, and the middle of how far all are from it.
fn median(times: &mut [Duration]) -> (Duration, Duration) {
    let middle = |times: &mut [Duration]| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let centre = middle(times);
    let mut apart: Vec<Duration> = times.iter().map(|time| time.abs_diff(centre)).collect();
    (centre, middle(&mut apart))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Rate {
    /// Of moving `bytes` in each of these times.
    fn of(bytes: usize, mut times: Vec<Duration>) -> Self {
        let (centre, apart) = median(&mut times);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Self {
            // Bytes in a microsecond are megabytes in a second.
            mb_s: bytes / micros(centre).max(1),
            spread_percent: micros(apart) * 100 / micros(centre).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_middle() {
        let times = |micros: &[u64]| micros.iter().map(|it| Duration::from_micros(*it)).collect();
        for (name, of, rate, spread) in [
            ("steady", [100, 100, 100], 640, 0),
            ("one that is late", [100, 100, 9000], 640, 0),
            ("restless", [50, 100, 150], 640, 50),
            ("no time at all", [0, 0, 0], 64_000, 0),
        ] {
            let found = Rate::of(64_000, times(&of));
            assert_eq!((found.mb_s, found.spread_percent), (rate, spread), "{name}");
        }
    }

    #[test]
    fn answers_agree_word_by_word() {
        assert_eq!(agree("x", &[1, 2], &[1, 2]), Ok(()));
        let why = Stopped::Failed("x: 0000000000000001, not 0000000000000002".to_owned());
        assert_eq!(agree("x", &[1], &[2]), Err(why));
    }
}
