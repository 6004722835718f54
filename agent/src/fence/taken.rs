//! Tables in which programs count, taken away whole.
//!
//! Putting a map into a slot of a map of maps returns when no program that runs can still have the
//! old one in its hands (`maybe_wait_bpf_programs`): what is read then is final. A table that was
//! taken away and not read is given up with the process that took it; what stands in a slot waits
//! for the next process.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bailiwick_ebpf_common::{
    Plain,
    tally::{FLOWS, OTHERS, PASSED, Passed, PassedKey, TABLES, TALLIES, Tally, TallyKey},
};

use super::{FenceError, load::Maps};
use crate::{
    clock,
    sys::{bpf, hash, ids},
};

const KEY: usize = size_of::<TallyKey>();
const VALUE: usize = size_of::<Tally>();
const PASSED_KEY: usize = size_of::<PassedKey>();
const PASSED_VALUE: usize = size_of::<Passed>();

/// Denials and samples.
#[derive(Debug, Default)]
pub(super) struct Denied {
    /// One by one.
    pub(super) flows: Vec<(TallyKey, Tally)>,
    /// What the kernel counted together.
    pub(super) others: Vec<(TallyKey, Tally)>,
}

/// What passed since a time.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Counted {
    /// CLOCK_BOOTTIME, ns.
    pub(super) since_ns: u64,
    /// CLOCK_BOOTTIME, ns: after the last packet in it.
    pub(super) until_ns: u64,
    pub(super) flows: Vec<(PassedKey, Passed)>,
    /// What found no room.
    pub(super) others: Passed,
}

/// Puts a table into every slot that has none.
pub(super) fn provide(maps: &Maps) -> Result<(), FenceError> {
    let slots = (0_u32..).take(TABLES);
    for index in slots {
        if inner(&maps.tally, "TALLY", index)?.is_none() {
            put(&maps.tally, "TALLY", index, new_tally(index))?;
        }
    }
    if inner(&maps.passed, "PASSED", 0)?.is_none() {
        put(&maps.passed, "PASSED", 0, new_passed(clock::boot_time_ns()))?;
    }
    Ok(())
}

/// Denials and samples since the last call; none where there were none.
pub(super) fn denied(maps: &Maps) -> Result<Denied, FenceError> {
    let [flows, others] = [
        inner(&maps.tally, "TALLY", FLOWS)?,
        inner(&maps.tally, "TALLY", OTHERS)?,
    ];
    let more_than = |map: &Option<OwnedFd>, count| match map {
        Some(map) => hash::has_more_than::<KEY>(map.as_fd(), count),
        None => Ok(false),
    };
    // One entry of the second is always there.
    let some = more_than(&flows, 0).and_then(|some| Ok(some || more_than(&others, 1)?));
    if !some.map_err(FenceError::kernel("read an inner map of", "TALLY"))? {
        return Ok(Denied::default());
    }
    let mut taken = Denied::default();
    for (index, old, into) in [
        (FLOWS, flows, &mut taken.flows),
        (OTHERS, others, &mut taken.others),
    ] {
        put(&maps.tally, "TALLY", index, new_tally(index))?;
        let Some(old) = old else { continue };
        *into =
            tallies(old.as_fd()).map_err(FenceError::kernel("read an inner map of", "TALLY"))?;
    }
    Ok(taken)
}

/// What passed since the table was put there.
pub(super) fn passed(maps: &Maps) -> Result<Option<Counted>, FenceError> {
    let old = inner(&maps.passed, "PASSED", 0)?;
    // The new one may count what comes between this moment and the next line; the old one ends
    // with the line.
    let now = clock::boot_time_ns();
    put(&maps.passed, "PASSED", 0, new_passed(now))?;
    let Some(old) = old else { return Ok(None) };
    let entries = hash::entries_per_cpu::<PASSED_KEY, PASSED_VALUE>(old.as_fd())
        .map_err(FenceError::kernel("read an inner map of", "PASSED"))?;
    Ok(Some(counted(&entries, now)))
}

/// Since when the table in force counts, and whether anything has passed.
pub(super) fn passing(maps: &Maps) -> Result<Option<(u64, bool)>, FenceError> {
    let Some(map) = inner(&maps.passed, "PASSED", 0)? else {
        return Ok(None);
    };
    let read = |err| FenceError::kernel("read an inner map of", "PASSED")(err);
    // Two entries are always there.
    let some = hash::has_more_than::<PASSED_KEY>(map.as_fd(), 2).map_err(read)?;
    let began = hash::get_per_cpu::<PASSED_VALUE>(map.as_fd(), PassedKey::BEGAN.bytes());
    let began = began.map_err(read)?.first().map(value::<Passed, _>);
    Ok(Some((began.map_or(0, |began| began.packets), some)))
}

fn counted(entries: &[hash::PerCpu<PASSED_KEY, PASSED_VALUE>], now: u64) -> Counted {
    let mut all = Counted {
        since_ns: now,
        until_ns: now,
        flows: Vec::new(),
        others: Passed::default(),
    };
    for (key, values) in entries {
        let key: PassedKey = value(key);
        let values = values.iter().map(value::<Passed, _>);
        if key == PassedKey::BEGAN {
            // Every CPU has the same.
            all.since_ns = values
                .map(|began| began.packets)
                .max()
                .unwrap_or(now)
                .min(now);
            continue;
        }
        let sum = values.fold(Passed::default(), |sum, value| Passed {
            packets: sum.packets.saturating_add(value.packets),
            bytes: sum.bytes.saturating_add(value.bytes),
        });
        if key == PassedKey::OTHERS {
            all.others = sum;
        } else if sum.packets > 0 {
            all.flows.push((key, sum));
        }
    }
    all.flows.sort_by_key(|(key, _)| *key);
    all
}

fn tallies(map: BorrowedFd<'_>) -> io::Result<Vec<(TallyKey, Tally)>> {
    let entries = hash::entries::<KEY, VALUE>(map)?.into_iter();
    let entries =
        entries.map(|(key, tally)| (value::<TallyKey, _>(&key), value::<Tally, _>(&tally)));
    // An entry that was made and not yet added to when the table was full elsewhere.
    Ok(entries.filter(|(_, tally)| tally.count > 0).collect())
}

fn new_tally(index: u32) -> io::Result<OwnedFd> {
    let map = hash::create("TALLY", false, (KEY, VALUE), TALLIES)?;
    if index == OTHERS {
        hash::put(
            map.as_fd(),
            TallyKey::REST.bytes(),
            Tally::default().bytes(),
        )?;
    }
    Ok(map)
}

fn new_passed(now: u64) -> io::Result<OwnedFd> {
    let map = hash::create("PASSED", true, (PASSED_KEY, PASSED_VALUE), PASSED)?;
    let began = Passed {
        packets: now,
        bytes: 0,
    };
    hash::put_per_cpu(map.as_fd(), PassedKey::BEGAN.bytes(), began.bytes())?;
    hash::put_per_cpu(
        map.as_fd(),
        PassedKey::OTHERS.bytes(),
        Passed::default().bytes(),
    )?;
    Ok(map)
}

fn inner(outer: &OwnedFd, name: &'static str, index: u32) -> Result<Option<OwnedFd>, FenceError> {
    let id = bpf::inner(outer.as_fd(), index).map_err(FenceError::kernel("read", name))?;
    match id {
        Some(id) => ids::map(id).map_err(FenceError::kernel("open an inner map of", name)),
        None => Ok(None),
    }
}

fn put(
    outer: &OwnedFd,
    name: &'static str,
    index: u32,
    map: io::Result<OwnedFd>,
) -> Result<(), FenceError> {
    let map = map.map_err(FenceError::kernel("create an inner map of", name))?;
    bpf::set_inner(outer.as_fd(), index, map.as_fd())
        .map_err(FenceError::kernel("swap the inner map of", name))
}

/// As long as the type, by the constants above.
fn value<T: Plain + Default, const N: usize>(bytes: &[u8; N]) -> T {
    let mut value = T::default();
    let to = value.bytes_mut();
    if to.len() == N {
        to.copy_from_slice(bytes);
    }
    value
}
