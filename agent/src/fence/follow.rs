//! What is followed on the host: devices, links, ways past the hooks.

use std::path::Path;

use super::{
    Fence, FenceError,
    changed::Where,
    devices::{Place, Rules},
    lines::Role,
    pins::Look,
    policy::Policy,
    tables::Leased,
};
use crate::{clock, collect::unfenced};

/// An inventory of ways past the hooks is good for so long; a look takes one part in so many of the
/// time.
const INVENTORY_NS: u64 = 30_000_000_000;
const INVENTORY_SHARE: u64 = 200;

impl Fence {
    /// What stands on network devices, and whose ports are whose.
    pub(super) fn follow_devices(&mut self) -> Result<(), FenceError> {
        let Some(lines) = &mut self.lines else {
            return Ok(());
        };
        let outcome = lines.reconcile(&self.pins, &self.maps, &mut self.changed);
        lines.mend_owners(&self.maps, &mut self.changed)?;
        if let Some(policy) = &self.policy {
            let owners = lines.owners(&policy.image, (&self.hierarchy, &self.root));
            lines.add_owners(&self.maps, &owners)?;
            lines.keep_owners(&self.maps, owners)?;
        }
        // Where one of the two is missing, a service address is judged as it is written.
        let both = outcome.is_ok() && lines.has(Role::Uplink) && lines.has(Role::Port);
        if both != self.leased.translated {
            self.write_lease(Leased {
                translated: both,
                ..self.leased
            })?;
        }
        outcome
    }

    /// Whether pins have to be looked at one by one, and what the folders are like before that:
    /// they have changed since they were found sound, or it is time to look all the same, for a
    /// mount over a pin changes no folder.
    pub(super) fn pins_touched(&mut self) -> Option<Option<Look>> {
        const ALL_THE_SAME: u32 = 16;
        let seen = self.pins.look();
        self.pins_rounds = self.pins_rounds.wrapping_add(1);
        let due = self.pins_rounds.is_multiple_of(ALL_THE_SAME);
        (due || seen.is_none() || seen != self.pins_sound).then_some(seen)
    }

    /// Root can detach; it cannot do so unseen.
    pub(super) fn mend(&mut self, touched: bool) -> Result<(), FenceError> {
        for hook in &mut self.hooks {
            if let Some((what, who)) = hook.mend(&self.pins, &self.root, touched)? {
                self.changed.note(Where::Hook(hook.names.hook), &what, &who);
            }
        }
        Ok(())
    }

    /// Looks for ways past the hooks, where the last look is not fresh any more.
    pub(super) fn look_around(&mut self) {
        let now = clock::boot_time_ns();
        if now < self.next_inventory_ns {
            return;
        }
        self.inventory = unfenced::look(Path::new("/proc"), Path::new("/sys"));
        let took = clock::boot_time_ns().saturating_sub(now);
        let pause = took.saturating_mul(INVENTORY_SHARE).max(INVENTORY_NS);
        self.next_inventory_ns = now.saturating_add(pause);
    }

    pub(super) fn tend_devices(&mut self, policy: Option<&Policy>) -> Result<(), FenceError> {
        let lease_end_ns = self.leased.end_boot_ns;
        let rules = policy.map(|policy| Rules {
            image: &policy.image,
            names: &policy.devices,
            cgroups: &policy.cgroups,
            lease_end_ns,
        });
        let place = Place {
            hierarchy: &self.hierarchy,
            root: &self.root,
        };
        self.devices.tend(rules, place)
    }
}
