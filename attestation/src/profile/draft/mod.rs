//! A profile drafted from what good nodes showed.
//!
//! What was the same in every boot is demanded; what was not is left out, with the reason beside
//! it. Of one boot alone nobody can tell the two apart: everything is demanded then, since a draft
//! that lets pass what nobody looked at would be worse than one that is refused once too often, and
//! it is said aloud. A draft says what was, not what is right: people read it and sign.

#[cfg(test)]
mod tests;
mod toml;

use std::collections::{BTreeMap, BTreeSet};

use super::{Bank, FENCE_PCR_MAX, Profile, Provenance, Value, claim_name};
use crate::appraisal::{AppraisedClaim, Shown};
use crate::boot::Quirk;
use crate::ids::UnixTime;

/// Registers whose values belong to the stack: firmware, boot loaders and what they read. Those of
/// the kernel's list (10), of the points systemd passes (11) and of the machine itself (15) change
/// while it runs, and those above are reset at will.
const PINNED: [u8; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14];
/// The kernel's measurement list.
const IMA_PCR: u8 = 10;
/// What of the fence belongs to the stack: not what approvers change with each policy, nor what
/// follows workloads.
const FENCE: [&str; 7] = [
    "fence.agent",
    "fence.attached",
    "fence.break_glass",
    "fence.first_in_chain",
    "fence.programs",
    "fence.root",
    "fence.whole_host",
];
/// Families of self-reported claims that tell the stack.
const STACK: [&str; 7] = [
    "boot.",
    "cpu.",
    "firmware.",
    "kernel.",
    "nvidia.",
    "nvml.driver-version",
    "system.",
];
/// Parts of names of claims that tell one machine from the next.
const OWN: [&str; 6] = [
    "serial",
    "uuid",
    "address",
    "hostname",
    "machine-id",
    "mac-",
];
/// Most files that are listed: with their names they fill a good half of a profile.
const FILES_LIMIT: usize = 15_000;
/// Most bytes of a text that a profile may hold.
const TEXT_LIMIT: usize = super::raw::TEXT_LIMIT;

/// One boot of one node, as its newest statement showed it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Whose.
    pub node: String,
    /// When the statement came.
    pub at: UnixTime,
    /// All of it.
    pub shown: Shown,
}

/// A claim that is demanded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Demand {
    /// Dotted name.
    pub claim: String,
    /// What it said in every boot.
    pub value: Value,
    /// The weakest source it had.
    pub provenance: Provenance,
}

/// Why something is not demanded.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Why {
    /// It was not the same in every boot: how many values there were.
    Varies(usize),
    /// Some boots showed nothing of it: how many did.
    NotAlways(usize),
    /// It tells this machine from others.
    OfOneMachine,
    /// A count, which nobody expects to stay.
    Count,
    /// Longer than a profile may hold: how many bytes.
    TooLong(usize),
    /// No part of the stack, as far as this version knows.
    NotStack,
}

/// What the draft is made of. [`Draft::to_toml`] writes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Draft {
    /// Name for people.
    pub name: String,
    /// Nodes and when their statements came, as given.
    pub seen: Vec<(String, UnixTime)>,
    /// The profile in force, whose terms are kept.
    pub terms: Profile,
    /// PCRs quoted in every boot.
    pub require: BTreeSet<u8>,
    /// Values that were the same in every boot, hex.
    pub values: BTreeMap<u8, String>,
    /// Quirks, and registers that did not replay; `None`: no boot log was shown in every boot.
    pub boot: Option<(Vec<Quirk>, BTreeSet<u8>)>,
    /// Most files that changed while they were measured; `None`: no list in every boot.
    pub violations: Option<u64>,
    /// Files that the kernel measured in any boot, digest and name.
    pub files: BTreeMap<String, String>,
    /// The fence's register.
    pub fence: Option<u8>,
    /// Claims that were the same in every boot, by name.
    pub demands: Vec<Demand>,
    /// What was left out, by name.
    pub left_out: BTreeMap<String, Why>,
    /// What a person has to know before signing.
    pub notes: Vec<String>,
}

/// Drafts a profile from one statement of each boot; there has to be one at least. `terms` is the
/// profile in force or one like it: how long a lease lasts, which map, what the brake allows.
#[must_use]
pub fn draft(name: &str, terms: &Profile, boots: &[Seen]) -> Draft {
    let mut draft = Draft {
        name: name.to_owned(),
        seen: boots
            .iter()
            .map(|boot| (boot.node.clone(), boot.at))
            .collect(),
        terms: terms.clone(),
        require: BTreeSet::new(),
        values: BTreeMap::new(),
        boot: None,
        violations: None,
        files: BTreeMap::new(),
        fence: fence_register(boots),
        demands: Vec::new(),
        left_out: BTreeMap::new(),
        notes: Vec::new(),
    };
    if boots.len() == 1 {
        draft.notes.push(
            "seen in one boot only: which of it stays the same after a reboot could not be told, so \
             all of it is demanded; capture again after another boot"
                .to_owned(),
        );
    }
    draft.logs(boots);
    let names: BTreeSet<&String> = boots
        .iter()
        .flat_map(|boot| boot.shown.claims.keys())
        .collect();
    for name in names {
        let found: Vec<&AppraisedClaim> = boots
            .iter()
            .filter_map(|boot| boot.shown.claims.get(name))
            .collect();
        match name.strip_prefix("tpm.pcr.") {
            Some(register) => draft.register(terms.tpm.bank, register, &found, boots.len()),
            None => draft.claim(name, &found, boots.len()),
        }
    }
    if let Some((_, unreplayable)) = &mut draft.boot {
        unreplayable.retain(|register| draft.require.contains(register));
    }
    draft.missed(terms);
    draft
}

/// The fence's register, if it is one and the same in every boot.
fn fence_register(boots: &[Seen]) -> Option<u8> {
    let mut registers = boots.iter().map(|boot| boot.shown.fence);
    let first = registers.next().flatten()?;
    registers.all(|other| other == Some(first)).then_some(first)
}

impl Draft {
    /// Whether logs are demanded, and what has to be excused for it.
    fn logs(&mut self, boots: &[Seen]) {
        let mut unreplayable = BTreeSet::new();
        let mut readable = true;
        for boot in boots {
            for fault in &boot.shown.faults {
                if let Some(register) = fault.claim.strip_prefix("boot.log.pcr.") {
                    unreplayable.extend(register.parse::<u8>());
                } else if fault.claim == "boot.log" {
                    readable = false;
                    self.note_once(format!(
                        "no boot log is demanded: {} [{}]",
                        fault.found, fault.code
                    ));
                } else if fault.claim.starts_with("fence.") {
                    self.note_once(format!("{}: {} [{}]", fault.claim, fault.found, fault.code));
                }
            }
        }
        if readable {
            for register in &unreplayable {
                self.notes.push(format!(
                    "register {register} holds what its boot log does not say. Find out why before \
                     you sign: either this firmware leaves events out, or what was booted is hidden. \
                     What the log says of it is not demanded, its value is"
                ));
            }
            let quirks = self.terms.boot.as_ref();
            let quirks = quirks.map_or_else(Vec::new, |boot| boot.quirks.clone());
            self.boot = Some((quirks, unreplayable));
        }
        let violations = boots
            .iter()
            .map(|boot| boot.shown.claims.get("ima.violations"));
        let violations: Option<Vec<u64>> = violations
            .map(|claim| match claim.map(|claim| &claim.value) {
                Some(Value::Number(number)) => Some(*number),
                _ => None,
            })
            .collect();
        self.violations = violations.and_then(|all| all.into_iter().max());
        match self.violations {
            Some(0) => {}
            Some(most) => self.notes.push(format!(
                "{most} files changed while they were measured, and as many are allowed: what was in \
                 them is not known"
            )),
            None => self.notes.push(
                "no measurement list is demanded: not every boot showed one that replays to PCR 10"
                    .to_owned(),
            ),
        }
        // A node need not run everything in every boot: what ran in one of them is known.
        let files = boots.iter().flat_map(|boot| &boot.shown.files);
        self.files = files
            .map(|(digest, name)| (digest.clone(), name.clone()))
            .collect();
        match self.files.len() {
            0 => {}
            many if many > FILES_LIMIT => {
                self.files.clear();
                self.notes.push(format!(
                    "{many} files were measured, more than a profile lists: anything may run. List \
                     what signs them under [[ima.key]]"
                ));
            }
            many => self.notes.push(format!(
                "{many} files were measured and are listed; what else the kernel measures is refused, \
                 unless [ima] says unknown = \"warn\""
            )),
        }
        if self.fence.is_none() {
            self.notes.push(
                "no log of the fence was shown: what is in force is the statement's word alone"
                    .to_owned(),
            );
        }
    }

    fn note_once(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// `sha256.7`, with its values.
    fn register(&mut self, bank: Bank, name: &str, found: &[&AppraisedClaim], boots: usize) {
        let index = name.strip_prefix(bank.as_str());
        let index = index.and_then(|index| index.strip_prefix('.')?.parse::<u8>().ok());
        let Some(index) = index.filter(|index| *index <= FENCE_PCR_MAX) else {
            return;
        };
        if found.len() < boots {
            self.left_out
                .insert(format!("tpm.pcr.{name}"), Why::NotAlways(found.len()));
            return;
        }
        self.require.insert(index);
        if !PINNED.contains(&index) || self.fence == Some(index) {
            return;
        }
        match same(found) {
            Ok(Value::Text(value)) => drop(self.values.insert(index, value.clone())),
            Ok(_) => {}
            Err(values) => drop(
                self.left_out
                    .insert(format!("tpm.pcr.{name}"), Why::Varies(values)),
            ),
        }
    }

    fn claim(&mut self, name: &str, found: &[&AppraisedClaim], boots: usize) {
        let weakest = found.iter().map(|claim| claim.provenance).min();
        let weakest = weakest.unwrap_or(Provenance::SelfReported);
        let result = demanded(name, weakest).and_then(|()| {
            if found.len() < boots {
                return Err(Why::NotAlways(found.len()));
            }
            let value = same(found).map_err(Why::Varies)?;
            match value {
                Value::Text(text) if text.len() > TEXT_LIMIT => Err(Why::TooLong(text.len())),
                value => Ok(value.clone()),
            }
        });
        match result {
            Ok(value) => self.demands.push(Demand {
                claim: name.to_owned(),
                value,
                provenance: weakest,
            }),
            Err(why) => drop(self.left_out.insert(name.to_owned(), why)),
        }
    }

    /// What the profile in force demands and this one does not: nobody drops that unawares.
    fn missed(&mut self, terms: &Profile) {
        let drafted: BTreeSet<&str> = self.demands.iter().map(|one| one.claim.as_str()).collect();
        let missed = terms.requirements.iter().map(|one| one.claim.as_str());
        let missed: Vec<&str> = missed.filter(|claim| !drafted.contains(claim)).collect();
        if !missed.is_empty() {
            self.notes.push(format!(
                "profile {} demands what is not drafted here, so add it where it is still wanted: {}",
                terms.name,
                missed.join(", ")
            ));
        }
    }
}

/// Whether a claim of that name and source belongs to the stack.
fn demanded(name: &str, source: Provenance) -> Result<(), Why> {
    if !claim_name(name) {
        return Err(Why::NotStack);
    }
    if OWN.iter().any(|part| name.contains(part)) {
        return Err(Why::OfOneMachine);
    }
    match name {
        // What `[ima]` asks, and a list that grows while the machine runs.
        "ima.entries" | "ima.violations" => Err(Why::Count),
        // Modules come when they are asked for; which may come is in the files of `[ima]`.
        module if module.starts_with("ima.module.") => Err(Why::NotStack),
        fence if fence.starts_with("fence.") => {
            let kept = FENCE.contains(&fence);
            kept.then_some(()).ok_or(Why::NotStack)
        }
        // Each AK is shown the version under another number, as the counters are.
        "tpm.firmware_version" => Err(Why::OfOneMachine),
        tpm if tpm.starts_with("tpm.") => Err(Why::Count),
        _ if source > Provenance::SelfReported => Ok(()),
        other => {
            let kept = STACK.iter().any(|family| other.starts_with(family));
            kept.then_some(()).ok_or(Why::NotStack)
        }
    }
}

/// The one value, or how many there are. An empty text demands nothing worth a line, and is one all
/// the same: what was empty must stay so.
fn same<'a>(found: &[&'a AppraisedClaim]) -> Result<&'a Value, usize> {
    let mut values: Vec<&Value> = Vec::new();
    for claim in found {
        if !values.contains(&&claim.value) {
            values.push(&claim.value);
        }
    }
    match values.as_slice() {
        [one] => Ok(one),
        many => Err(many.len()),
    }
}
