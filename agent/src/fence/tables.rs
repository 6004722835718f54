//! Tables as this process put them there, and put back where somebody else has written.
//!
//! Root can write what programs read: an older policy, an emptied table, a lease without end. It
//! cannot do so for long, nor unseen. Between the writing and the next look packets are judged by
//! what was written; what is put back says so ([`super::changed`]).

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use bailiwick_ebpf_common::abi::Lease;

use super::{
    Fence, FenceError,
    changed::{self, Where, Who},
    image::{self, Image},
    load::Maps,
    peers,
    pins::Kind,
};
use crate::sys::{bpf, ids};

/// Between looks at the addresses of other nodes, of which there may be many.
const LOOK: Duration = Duration::from_secs(10);

/// An inner map and its id.
type Inner = (u32, OwnedFd);

/// What the process before this one left in force: it stands until a policy of this one's does.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    rules: Option<Inner>,
    world: Option<Inner>,
}

impl Inherited {
    pub(super) fn find(maps: &Maps) -> Result<Self, FenceError> {
        Ok(Self {
            rules: inner(&maps.policy, "POLICY")?,
            world: inner(&maps.world, "WORLD")?,
        })
    }

    /// Puts its map of the world back, where a policy was taken by half.
    pub(super) fn enforce_world(&self, maps: &Maps) -> Result<(), FenceError> {
        match &self.world {
            Some((_, map)) => image::put(&maps.world, "WORLD", map.as_fd()),
            None => image::withdraw(&maps.world, "WORLD"),
        }
    }
}

fn inner(outer: &OwnedFd, name: &'static str) -> Result<Option<Inner>, FenceError> {
    let Some(id) = image::in_force(outer, name)? else {
        return Ok(None);
    };
    let map = ids::map(id).map_err(FenceError::kernel("open an inner map of", name))?;
    Ok(map.map(|map| (id, map)))
}

fn lent(inner: &Option<Inner>) -> Option<(u32, BorrowedFd<'_>)> {
    inner.as_ref().map(|(id, map)| (*id, map.as_fd()))
}

/// The value of `LEASE`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Leased {
    /// CLOCK_BOOTTIME, ns; 0: no lease.
    pub(super) end_boot_ns: u64,
    /// Threshold and second line stand, so that what the host translates is judged again.
    pub(super) translated: bool,
}

impl Leased {
    /// As the kernel has it.
    pub(super) fn read(maps: &Maps) -> Result<Self, FenceError> {
        let mut lease = [0; size_of::<Lease>()];
        bpf::lookup(maps.lease.as_fd(), 0, &mut lease)
            .map_err(FenceError::kernel("read", "LEASE"))?;
        let [a, b, c, d, e, f, g, h, translated @ ..] = lease;
        Ok(Self {
            end_boot_ns: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            translated: translated == 1_u64.to_ne_bytes(),
        })
    }

    fn write(self, maps: &Maps) -> Result<(), FenceError> {
        let translated = u64::from(self.translated);
        let lease = [self.end_boot_ns.to_ne_bytes(), translated.to_ne_bytes()].concat();
        bpf::update(maps.lease.as_fd(), 0, &lease).map_err(FenceError::kernel("write", "LEASE"))
    }
}

/// A map that programs hold, and its pin.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) name: &'static str,
    pub(super) map: OwnedFd,
    pub(super) id: u32,
}

impl Fence {
    pub(super) fn write_lease(&mut self, lease: Leased) -> Result<(), FenceError> {
        lease.write(&self.maps)?;
        self.leased = lease;
        Ok(())
    }

    /// Puts back what somebody else has written, and what they pinned if they may have touched the
    /// pins. Goes on after a failure, and tells the first.
    pub(super) fn mend_tables(&mut self, touched: bool) -> Result<(), FenceError> {
        let slots = self.mend_slots();
        let lease = self.mend_lease();
        let peers = self.mend_peers();
        let pins = match touched {
            true => self.mend_pins(),
            false => Ok(()),
        };
        slots.and(lease).and(peers).and(pins)
    }

    /// Policy, map of the world, device numbers.
    fn mend_slots(&mut self) -> Result<(), FenceError> {
        let policy = self.policy.as_ref();
        let (numbers, table) = self.devices.table();
        let rules = match policy {
            Some(policy) => Some(policy.rules.held()),
            None => lent(&self.inherited.rules),
        };
        let world = match policy {
            Some(policy) => Some(policy.world.held()),
            None => lent(&self.inherited.world),
        };
        let mut outcome = Ok(());
        for (name, outer, wanted) in [
            ("POLICY", &self.maps.policy, rules),
            ("WORLD", &self.maps.world, world),
            ("DEVICES", numbers, table.map(Image::held)),
        ] {
            let mended = mend_slot(name, outer, wanted);
            match mended {
                Ok(None) => {}
                Ok(Some((what, who))) => self.changed.note(Where::Table(name), &what, &who),
                Err(err) => outcome = outcome.and(Err(err)),
            }
        }
        outcome
    }

    fn mend_lease(&mut self) -> Result<(), FenceError> {
        let found = Leased::read(&self.maps)?;
        let wanted = self.leased;
        if found == wanted {
            return Ok(());
        }
        wanted.write(&self.maps)?;
        let what = format!(
            "held a lease until {} ns after boot, not {}",
            found.end_boot_ns, wanted.end_boot_ns
        );
        let what = match found.end_boot_ns == wanted.end_boot_ns {
            true => "said otherwise whether translated addresses are judged again",
            false => &what,
        };
        self.changed
            .note(Where::Table("LEASE"), what, &Who::default());
        Ok(())
    }

    /// Addresses of studies on other nodes.
    fn mend_peers(&mut self) -> Result<(), FenceError> {
        let Some(policy) = &self.policy else {
            return Ok(());
        };
        if self.peers_trouble.is_some()
            || self.peers_looked.is_some_and(|when| when.elapsed() < LOOK)
        {
            return Ok(());
        }
        self.peers_looked = Some(Instant::now());
        let wanted = policy.peers(&self.peers)?;
        let found: BTreeMap<_, _> = peers::read(&self.maps.peers)?.into_iter().collect();
        if found == wanted {
            return Ok(());
        }
        peers::add(&self.maps.peers, &wanted)?;
        peers::keep_only(&self.maps.peers, &wanted)?;
        let what = differences(&found, &wanted);
        self.changed
            .note(Where::Table("PEERS"), &what, &Who::default());
        Ok(())
    }

    /// The next process takes over what it finds under these names.
    fn mend_pins(&mut self) -> Result<(), FenceError> {
        for Pinned { name, map, id } in &self.pinned {
            let [found, _] = self.pins.find(Kind::Map, name)?;
            let (what, who) = match found {
                None => ("was unpinned".to_owned(), Who::default()),
                Some(found) => {
                    let info = bpf::map_info(found.as_fd())
                        .map_err(FenceError::kernel("look at", name))?;
                    if info.id == *id {
                        continue;
                    }
                    let (other, who) = changed::map(info.id);
                    (format!("its pin led to {other}"), who)
                }
            };
            self.pins.replace(Kind::Map, name, map)?;
            self.changed.note(Where::Table(name), &what, &who);
        }
        Ok(())
    }
}

/// One slot of a map of maps; what was there, where it was not what is wanted.
fn mend_slot(
    name: &'static str,
    outer: &OwnedFd,
    wanted: Option<(u32, BorrowedFd<'_>)>,
) -> Result<Option<(String, Who)>, FenceError> {
    let found = image::in_force(outer, name)?;
    if found == wanted.map(|(id, _)| id) {
        return Ok(None);
    }
    // Before anything is put back: what is there now may go with that.
    let (what, who) = match found {
        None => ("was emptied".to_owned(), Who::default()),
        Some(id) => {
            let (map, who) = changed::map(id);
            (format!("held {map}"), who)
        }
    };
    match wanted {
        Some((_, map)) => image::put(outer, name, map)?,
        None => image::withdraw(outer, name)?,
    }
    Ok(Some((what, who)))
}

/// How many entries were not as they should be.
pub(super) fn differences<K: Ord, V: PartialEq>(
    found: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
) -> String {
    let added = found.keys().filter(|key| !wanted.contains_key(key));
    let missing = wanted.keys().filter(|key| !found.contains_key(key));
    let other = wanted
        .iter()
        .filter(|(key, value)| found.get(key).is_some_and(|found| found != *value));
    format!(
        "{} entries were added, {} removed, {} changed",
        added.count(),
        missing.count(),
        other.count()
    )
}
