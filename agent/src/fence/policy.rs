//! What this process puts in force: prepared whole, swapped, and kept true to the host's cgroups.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Instant,
};

use bailiwick_ebpf_common::{Plain, PolicyImage, peers::PEERS};
use bailiwick_policy::{
    bundle::VerifiedBundle,
    image::{DeviceNames, Unmet, Who, device_names, set_break_glass, set_cgroups, subjects},
    model::Selector,
    world::Codes,
};
use tracing::{error, info, warn};

use super::{
    Fence, FenceError,
    admit::{self, HeldBack, Met},
    events::Names,
    image::Image,
    origin::Origin,
    peers,
};
use crate::fence_service::Peer;

/// What this process has put in force.
pub(super) struct Policy {
    /// With the cgroups of the last reconciliation.
    pub(super) image: Box<PolicyImage>,
    pub(super) rules: Image,
    pub(super) world: Image,
    /// Whose traffic is which subject's.
    pub(super) selectors: Vec<Selected>,
    /// Cgroup and subject, ascending.
    pub(super) cgroups: Vec<(u64, u32)>,
    /// By subject number; `None` for a host service.
    pub(super) studies: Vec<Option<String>>,
    /// Cgroups that would be a study's, had its policy not expired before they came.
    pub(super) held_back: HeldBack,
    /// What each subject may open.
    pub(super) devices: Vec<DeviceNames>,
    /// Of those, what this host does not have.
    pub(super) unmet: Vec<String>,
    /// Whose word the map in force is.
    pub(super) origin: Origin,
}

impl Policy {
    pub(super) fn peers(&self, peers: &[Peer]) -> Result<BTreeMap<[u8; 24], u64>, FenceError> {
        let generation = self.image.header.generation;
        peers::entries(peers, generation, &self.studies).map_err(|found| FenceError::Peers {
            found,
            limit: PEERS,
        })
    }
}

/// Studies that are judged as if a lease stood, under their numbers.
fn glass(studies: &[Option<String>], ends: &BTreeMap<String, u64>) -> Vec<(u32, u64)> {
    let numbered = (0_u32..).zip(studies);
    numbered
        .filter_map(|(number, study)| Some((number, *ends.get(study.as_ref()?)?)))
        .collect()
}

fn unmet(unmet: &[Unmet]) -> Vec<String> {
    let of = |unmet: &Unmet| format!("{}: {}", unmet.subject, unmet.name);
    unmet.iter().map(of).collect()
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("rules", &self.rules)
            .field("world", &self.world)
            .field("cgroups", &self.cgroups.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct Selected {
    pub(super) subject: u32,
    pub(super) name: String,
    pub(super) selector: Selector,
    /// Said once until it changes.
    pub(super) met: bool,
}

impl Fence {
    /// The cgroups there are now, for every selector.
    fn resolve(&mut self, selectors: &mut [Selected]) -> Vec<(u64, u32)> {
        let mut folders = BTreeSet::new();
        let mut cgroups = self.look(selectors, &mut folders);
        if let Some(watch) = &mut self.watch
            && watch.follow(&folders)
        {
            // What appeared between looking and watching would be found by polling alone.
            cgroups = self.look(selectors, &mut folders);
        }
        cgroups
    }

    fn look(&self, selectors: &mut [Selected], folders: &mut BTreeSet<PathBuf>) -> Vec<(u64, u32)> {
        let mut cgroups = Vec::new();
        for selected in selectors {
            let ids = self.finder.find(&selected.selector, folders);
            let met = !ids.is_empty();
            if met != selected.met {
                let Selected { name, selector, .. } = selected;
                if met {
                    info!(%name, %selector, cgroups = ids.len(), "selected");
                } else {
                    warn!(%name, %selector, "no cgroup is selected");
                }
                selected.met = met;
            }
            cgroups.extend(ids.into_iter().map(|id| (id, selected.subject)));
        }
        cgroups.sort_unstable();
        cgroups
    }

    /// Both tables, frozen and not in force yet.
    pub(super) fn prepare(
        &mut self,
        bundle: &VerifiedBundle,
    ) -> Result<(Policy, Names), FenceError> {
        let all = subjects(&bundle.model);
        let mut selectors: Vec<Selected> = Vec::new();
        for (who, subject) in all.iter().zip(0_u32..) {
            selectors.extend(who.select().iter().map(|rule| Selected {
                subject,
                name: who.name().to_owned(),
                selector: rule.value.clone(),
                met: true,
            }));
        }
        let studies: Vec<Option<String>> = all
            .iter()
            .map(|who| match who {
                Who::Study(study) => Some(study.name.to_string()),
                Who::Host(_) => None,
            })
            .collect();
        let met = self.resolve(&mut selectors);
        let devices = device_names(&bundle.model);
        let (cgroups, held_back) = self.admitted(met, &studies, &devices, self.policy.as_ref())?;
        let mut image = bundle.policy_image(&cgroups)?;
        let unmet = unmet(&self.devices.fill(&mut image, &devices));
        let table = bundle.world_image();
        let names = Names {
            generation: bundle.manifest.version,
            studies: studies.clone(),
            codes: Codes::of(&table.header),
        };
        set_break_glass(&mut image, &glass(&studies, &self.break_glass));
        let begun = Instant::now();
        let world = Image::new("WORLD", table.bytes())?;
        self.took.load = begun.elapsed();
        let origin = Origin::new(&table.header, bundle.model.profile.world);
        drop(table);
        let policy = Policy {
            origin,
            rules: Image::new("POLICY", image.bytes())?,
            world,
            image,
            selectors,
            cgroups,
            studies,
            held_back,
            devices,
            unmet,
        };
        Ok((policy, names))
    }

    /// Puts both tables in force, or neither.
    pub(super) fn swap(&mut self, policy: &Policy, names: Names) -> Result<(), FenceError> {
        // Until both are swapped, one of them is the old one. Numbers of countries mean the same
        // in both; a table with other codes of the operator's own answers for none of them.
        self.events.learn(names);
        let begun = Instant::now();
        policy.world.enforce(&self.maps.world, "WORLD")?;
        self.took.swap = begun.elapsed();
        if let Err(err) = policy.rules.enforce(&self.maps.policy, "POLICY") {
            match &self.policy {
                Some(old) => old.world.enforce(&self.maps.world, "WORLD")?,
                None => self.inherited.enforce_world(&self.maps)?,
            }
            return Err(err);
        }
        Ok(())
    }

    /// Of the cgroups that selectors meet, those that count, and those held back.
    fn admitted(
        &self,
        met: Vec<Met>,
        studies: &[Option<String>],
        devices: &[DeviceNames],
        before: Option<&Policy>,
    ) -> Result<(Vec<Met>, HeldBack), FenceError> {
        let proven = self.devices.proven();
        let waits = |names: &DeviceNames| names.study && names.devices.confidential && !proven;
        if !self.closed && !devices.iter().any(waits) {
            return Ok((met, HeldBack::new()));
        }
        let why = |study: &str| {
            let mut waiting = devices.iter().filter(|names| waits(names));
            match self.closed {
                true => Some(admit::EXPIRED),
                false => waiting
                    .any(|names| names.subject == study)
                    .then_some(admit::UNPROVEN),
            }
        };
        let established = match before {
            Some(policy) => policy.cgroups.iter().map(|(cgroup, _)| *cgroup).collect(),
            None => admit::in_kernel(&self.maps.policy)?,
        };
        Ok(admit::choose(met, &established, studies, why))
    }

    pub(super) fn enforce_glass(&mut self, ends: &BTreeMap<String, u64>) -> Result<(), FenceError> {
        let Some(policy) = &mut self.policy else {
            return Ok(());
        };
        set_break_glass(&mut policy.image, &glass(&policy.studies, ends));
        let rules = Image::new("POLICY", policy.image.bytes())?;
        let outcome = rules.enforce(&self.maps.policy, "POLICY");
        match outcome {
            Ok(()) => policy.rules = rules,
            // The next table made of it says what is in force.
            Err(_) => set_break_glass(
                &mut policy.image,
                &glass(&policy.studies, &self.break_glass),
            ),
        }
        outcome
    }

    pub(super) fn follow_cgroups(&mut self, policy: &mut Policy) -> Result<(), FenceError> {
        let met = self.resolve(&mut policy.selectors);
        let (cgroups, held_back) =
            self.admitted(met, &policy.studies, &policy.devices, Some(policy))?;
        if held_back != policy.held_back {
            for (cgroup, back) in &held_back {
                if !policy.held_back.contains_key(cgroup) {
                    error!(cgroup, study = back.study, rule = back.rule, "not started");
                }
            }
            policy.held_back = held_back;
        }
        if cgroups == policy.cgroups {
            return Ok(());
        }
        if let Some(lines) = &mut self.lines {
            lines.look_again();
        }
        set_cgroups(&mut policy.image, &cgroups)?;
        let rules = Image::new("POLICY", policy.image.bytes())?;
        rules.enforce(&self.maps.policy, "POLICY")?;
        info!(cgroups = cgroups.len(), "cgroups have changed");
        policy.rules = rules;
        policy.cgroups = cgroups;
        Ok(())
    }

    /// Numbers that the policy's names have on this host have changed.
    pub(super) fn follow_drivers(
        &mut self,
        changed: bool,
        policy: &mut Policy,
    ) -> Result<(), FenceError> {
        if !changed {
            return Ok(());
        }
        policy.unmet = unmet(&self.devices.fill(&mut policy.image, &policy.devices));
        let rules = Image::new("POLICY", policy.image.bytes())?;
        rules.enforce(&self.maps.policy, "POLICY")?;
        policy.rules = rules;
        Ok(())
    }
}
