//! What parts two pieces of evidence of one node, claim by claim.

use std::collections::BTreeSet;

use super::{result::AppraisedClaim, shown::Shown};
use crate::profile::{Provenance, Value};

/// Most characters of one value in words.
const WORDS: usize = 200;
/// Claims that grow while the machine runs, as is their nature.
const GROWING: [&str; 3] = ["ima.entries", "ima.listed", "ima.signed"];
/// Registers that are extended while it runs: the kernel's list, the points that systemd passes, and
/// those anybody resets.
const RUNNING: [u8; 2] = [10, 11];
const RESETTABLE: u8 = 16;

/// A claim that is not what it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drift {
    /// Its name.
    pub claim: String,
    /// What it was; `None`: not shown.
    pub before: Option<AppraisedClaim>,
    /// What it is; `None`: not shown any more.
    pub after: Option<AppraisedClaim>,
    /// It changes on every machine that runs, and says nothing by itself.
    pub running: bool,
}

/// Every claim that is not the same in both, by name.
#[must_use]
pub fn drift(before: &Shown, after: &Shown) -> Vec<Drift> {
    let names: BTreeSet<&String> = before.claims.keys().chain(after.claims.keys()).collect();
    let fence = [before.fence, after.fence];
    let all = names.into_iter().map(|name| Drift {
        claim: name.clone(),
        before: before.claims.get(name).cloned(),
        after: after.claims.get(name).cloned(),
        running: running(name, &fence) || counted(before, name) || counted(after, name),
    });
    all.filter(|one| value(&one.before) != value(&one.after))
        .collect()
}

fn value(claim: &Option<AppraisedClaim>) -> Option<&Value> {
    claim.as_ref().map(|claim| &claim.value)
}

fn running(name: &str, fence: &[Option<u8>]) -> bool {
    let register = name
        .strip_prefix("tpm.pcr.")
        .and_then(|rest| rest.rsplit('.').next());
    match register.map(str::parse::<u8>) {
        Some(Ok(index)) => {
            index >= RESETTABLE || RUNNING.contains(&index) || fence.contains(&Some(index))
        }
        _ => GROWING.contains(&name),
    }
}

/// A number that the kernel or a driver says: a counter, an offset, a temperature.
fn counted(shown: &Shown, name: &str) -> bool {
    let claim = shown.claims.get(name);
    let counted = claim.is_some_and(|claim| {
        matches!(claim.value, Value::Number(_)) && claim.provenance == Provenance::SelfReported
    });
    counted && name != "kernel.taint"
}

impl Drift {
    /// What it is called at three in the morning.
    #[must_use]
    pub fn subject(&self) -> String {
        let known = match self.claim.as_str() {
            "boot.secure_boot" | "boot.secure-boot" => "Secure Boot",
            "boot.command_line" | "kernel.cmdline" => "command line",
            "boot.initrd" => "initrd",
            "boot.load_options" => "load options",
            "boot.applications" => "boot loaders or kernel",
            "boot.authorities" => "what verified them",
            "boot.drivers" => "drivers from option ROMs",
            "boot.firmware_version" | "firmware.version" => "firmware",
            "boot.section.linux" => "kernel in the unified image",
            "boot.section.initrd" => "initrd in the unified image",
            "boot.section.cmdline" => "command line in the unified image",
            "boot.sbat_level" => "SBAT level",
            "kernel.release" => "kernel",
            "kernel.taint" => "kernel taint",
            "fence.programs" => "the fence's programs",
            "fence.agent" => "agent",
            "nvidia.driver-version" | "nvml.driver-version" => "NVIDIA driver",
            other => {
                let register = other
                    .strip_prefix("tpm.pcr.")
                    .and_then(|rest| rest.split_once('.'));
                return register.map_or_else(
                    || other.to_owned(),
                    |(_, index)| format!("register {index}"),
                );
            }
        };
        known.to_owned()
    }

    /// How: the words in which two texts part, or one value and the other. Of a digest nobody reads
    /// more than that it is another.
    #[must_use]
    pub fn how(&self) -> String {
        match (&self.before, &self.after) {
            (None, None) => "as it was".to_owned(),
            (None, Some(_)) => "was not shown before".to_owned(),
            (Some(_), None) => "is not shown any more".to_owned(),
            (Some(before), Some(after)) => match (&before.value, &after.value) {
                (Value::Text(before), Value::Text(after)) => parted(before, after),
                (before, after) => format!("{after}, was {before}"),
            },
        }
    }
}

fn parted(before: &str, after: &str) -> String {
    let digest = |word: &str| word.len() >= 40 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = |text: &'_ str| -> Vec<String> {
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let (old, new) = (words(before), words(after));
    let only = |these: &[String], others: &[String]| -> Vec<String> {
        let own = these.iter().filter(|word| !others.contains(word));
        own.cloned().collect()
    };
    let (gone, come) = (only(&old, &new), only(&new, &old));
    let all: Vec<&String> = gone.iter().chain(&come).collect();
    if !all.is_empty() && all.iter().all(|word| digest(word)) {
        return match (old.len(), new.len()) {
            (1, 1) => "is another".to_owned(),
            _ => format!("{} gone, {} new", gone.len(), come.len()),
        };
    }
    let kept = old.len() > gone.len();
    match (kept, gone.is_empty(), come.is_empty()) {
        (false, ..) => format!("{:?}, was {:?}", clip(after), clip(before)),
        (true, true, true) => "in another order".to_owned(),
        (true, false, true) => format!("without {:?}", clip(&gone.join(" "))),
        (true, true, false) => format!("with {:?}", clip(&come.join(" "))),
        (true, false, false) => format!(
            "with {:?}, without {:?}",
            clip(&come.join(" ")),
            clip(&gone.join(" "))
        ),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(WORDS).collect()
}
