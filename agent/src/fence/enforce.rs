//! What the service asks of the fence.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bailiwick_attestation::{
    Sha256Digest,
    fence_log::{Entry, LoggedPolicy},
    proto::v1::{FenceEvent, FenceState},
};
use bailiwick_ebpf_common::Plain;
use bailiwick_policy::bundle::VerifiedBundle;
use rustix::event::epoll;

use super::{
    Fence, FenceError, events, image, legacy,
    lines::Lines,
    peers, record,
    tables::{Inherited, Leased},
};
use crate::fence_service::{Enforcer, Peer};

impl Enforcer for Fence {
    type Error = FenceError;

    fn apply_policy(&mut self, bundle: &VerifiedBundle) -> Result<(), FenceError> {
        let (policy, names) = self.prepare(bundle)?;
        // Under the new policy's numbers, which mean nothing to the old one.
        let peers = policy.peers(&self.peers)?;
        let before = self.recorder.wanted();
        let rules = Sha256Digest::of(&[bundle.policy_image(&[])?.bytes()]);
        self.recorder.record(&[
            Entry::World(policy.world.digest),
            Entry::Policy(LoggedPolicy {
                version: bundle.manifest.version,
                manifest: bundle.manifest.digest,
                rules,
            }),
        ])?;
        let owners = self
            .lines
            .as_mut()
            .map(|lines| lines.owners(&policy.image, (&self.hierarchy, &self.root)));
        let owners = owners.unwrap_or_default();
        let swapped = peers::add(&self.maps.peers, &peers)
            .and_then(|()| match &mut self.lines {
                Some(lines) => lines.add_owners(&self.maps, &owners),
                None => Ok(()),
            })
            .and_then(|()| self.swap(&policy, names));
        if swapped.is_err() {
            self.recorder.take_back(before);
            return swapped;
        }
        self.policy = Some(policy);
        self.inherited = Inherited::default();
        self.trouble = None;
        // What is left over counts for nobody; the next call tries again.
        self.peers_trouble = peers::keep_only(&self.maps.peers, &peers)
            .err()
            .map(|err| format!("{:#}", anyhow::Error::from(err)));
        Ok(())
    }

    fn held_back(error: &FenceError) -> bool {
        matches!(error, FenceError::Unmeasured(_))
    }

    fn ready(&self) -> bool {
        self.recorder.ready()
    }

    fn admit(&mut self, new: bool) {
        self.closed = !new;
    }

    fn changes(&self) -> Option<OwnedFd> {
        let watch = self.watch.as_ref().map(AsFd::as_fd);
        let devices = self.lines.as_ref().and_then(Lines::changes);
        either(watch, devices).ok()
    }

    fn deny_everything(&mut self) -> Result<(), FenceError> {
        self.recorder.note(&[Entry::Deny]);
        // What cannot be emptied now is emptied by the watch: nothing is wanted there any more.
        self.policy = None;
        self.inherited = Inherited::default();
        image::withdraw(&self.maps.policy, "POLICY")?;
        image::withdraw(&self.maps.world, "WORLD")?;
        peers::keep_only(&self.maps.peers, &BTreeMap::new())
    }

    fn reconcile(&mut self) -> Result<(), FenceError> {
        self.recorder.reconcile();
        if let Some(watch) = &self.watch {
            watch.drain();
        }
        let touched = self.pins_touched();
        let mended = self.mend(touched.is_some());
        let tables = self.mend_tables(touched.is_some());
        if let Some(seen) = touched {
            let sound = mended.is_ok() && tables.is_ok();
            self.pins_sound = seen.filter(|_| sound);
        }
        let outcome = mended.and(tables).and_then(|()| {
            let drivers = self.devices.follow()?;
            let Some(mut policy) = self.policy.take() else {
                return self.tend_devices(None);
            };
            let outcome = self
                .follow_cgroups(&mut policy)
                .and_then(|()| self.follow_drivers(drivers, &mut policy))
                .and_then(|()| self.tend_devices(Some(&policy)));
            self.policy = Some(policy);
            outcome
        });
        let devices = self.follow_devices();
        let outcome = outcome.and(devices);
        self.trouble = outcome
            .as_ref()
            .err()
            .map(|err| format!("the host is not followed: {}", record::in_words(err)));
        outcome
    }

    fn set_lease_end(&mut self, boot_ns: u64) -> Result<(), FenceError> {
        self.write_lease(Leased {
            end_boot_ns: boot_ns,
            ..self.leased
        })
    }

    fn set_gpus_proven(&mut self, proven: bool) -> Result<(), FenceError> {
        if !self.devices.prove(proven) {
            return Ok(());
        }
        let Some(mut policy) = self.policy.take() else {
            return Ok(());
        };
        let outcome = self.follow_drivers(true, &mut policy);
        let outcome = outcome.and_then(|()| self.follow_cgroups(&mut policy));
        self.policy = Some(policy);
        if outcome.is_err() {
            // The next lease, or the next look, tries again.
            self.devices.prove(!proven);
        }
        outcome
    }

    fn set_peers(&mut self, peers: Vec<Peer>) -> Result<(), FenceError> {
        let outcome = match &self.policy {
            // They wait for the policy that numbers their studies.
            None => Ok(()),
            Some(policy) => policy.peers(&peers).and_then(|entries| {
                peers::add(&self.maps.peers, &entries)?;
                peers::keep_only(&self.maps.peers, &entries)
            }),
        };
        if outcome.is_ok() {
            self.peers = peers;
        }
        self.peers_trouble = outcome
            .as_ref()
            .err()
            .map(|err| format!("peers are those of before: {err}"));
        outcome
    }

    fn set_break_glass(
        &mut self,
        ends: BTreeMap<String, u64>,
        uses: &BTreeMap<Sha256Digest, u64>,
    ) -> Result<(), FenceError> {
        let before = self.recorder.record_glass(uses)?;
        let outcome = self.enforce_glass(&ends);
        if outcome.is_err() {
            self.recorder.take_back_glass(before);
            return outcome;
        }
        self.break_glass = ends;
        Ok(())
    }

    fn state(&mut self) -> FenceState {
        self.look_around();
        self.read_back()
    }

    fn unfit(&self) -> Option<String> {
        let policy = self.policy.as_ref()?;
        let studies = policy.selectors.iter().filter_map(|selected| {
            let at = usize::try_from(selected.subject).ok()?;
            let study = policy.studies.get(at)?.as_deref()?;
            Some((study, &selected.selector))
        });
        match legacy::stray(studies) {
            Ok(stray) => stray.map(|stray| stray.to_string()),
            Err(err) => Some(format!("{:#}", anyhow::Error::from(err))),
        }
    }

    fn world_digest(&self) -> Option<Sha256Digest> {
        self.policy.as_ref().map(|policy| policy.world.digest)
    }

    fn drain_events(&mut self) -> (Vec<FenceEvent>, u64) {
        let (mut events, lost) = self.events.drain(&self.maps, &self.hierarchy);
        let (denied, acts) = self.devices.drain();
        events.extend(self.events.of_devices(&denied, &self.hierarchy));
        events.extend(acts);
        events.extend(self.changed.tell());
        let held_back = self.policy.as_ref().map(|policy| &policy.held_back);
        if let Some(held_back) = held_back {
            events::hold_back(&mut events, held_back);
        }
        (events, lost)
    }
}

/// Readable when one of them is.
fn either(one: Option<BorrowedFd<'_>>, other: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let both = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for fd in [one, other].into_iter().flatten() {
        epoll::add(
            &both,
            fd,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
    }
    Ok(both)
}
