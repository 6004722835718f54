//! Protected PCIe: eight GPUs and four switches that name each other.
//!
//! What a device says of its neighbours is held against the identifiers in the neighbours'
//! certificates, in both directions. That they sit in one machine follows from their links; that
//! it is this machine does not.

use std::collections::BTreeSet;

use super::device::Device;
use super::opaque::{Mode, Pdi};

/// Devices of a set.
const GPUS: usize = 8;
const SWITCHES: usize = 4;
/// What a switch says whose configuration is locked.
const LOCKED: u16 = 1;
/// What stands for a link that is off.
const NONE: Pdi = [0; 8];

/// What the devices given make together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Topology {
    /// A whole set whose members name each other.
    Whole,
    /// Not what it would have to be.
    Bad,
    /// GPUs of such a set, without its switches.
    Incomplete,
}

impl Topology {
    /// `ok`, `bad`, `incomplete`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "ok",
            Self::Bad => "bad",
            Self::Incomplete => "incomplete",
        }
    }
}

/// What is wrong with a set. Devices are counted from 0, as given.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TopologyRefused {
    /// One device, given twice.
    #[error("devices {first} and {second} are the same")]
    Twice {
        /// The first of them.
        first: usize,
        /// The other.
        second: usize,
    },
    /// Another number of devices.
    #[error("{gpus} GPUs and {switches} switches: a set has {GPUS} and {SWITCHES}")]
    Count {
        /// GPUs given.
        gpus: usize,
        /// Switches given.
        switches: usize,
    },
    /// No identifier to hold against what others say.
    #[error("device {0} has no certified identifier")]
    Unidentified(usize),
    /// A GPU that is not in this mode.
    #[error("GPU {0} is not in Protected-PCIe mode")]
    Mode(usize),
    /// Asked at another time than the first.
    #[error("device {0} answers another challenge than the first")]
    Nonce(usize),
    /// A GPU that is linked to other switches.
    #[error("GPU {0} is linked to other switches than those given")]
    Links(usize),
    /// A switch that names itself otherwise than its certificate.
    #[error("switch {0} names itself otherwise than its certificate")]
    Itself(usize),
    /// A switch that is linked to other GPUs.
    #[error("switch {0} is linked to other GPUs than those given")]
    Gpus(usize),
    /// A switch that can be configured anew.
    #[error("the configuration of switch {0} is not locked")]
    Unlocked(usize),
}

impl TopologyRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "topology"
    }
}

/// Judges devices as a set; `None`: nothing makes them one. All that is wrong is told.
#[must_use]
pub fn judge_set(devices: &[Device<'_>]) -> (Option<Topology>, Vec<TopologyRefused>) {
    let mut refused = twice(devices);
    let (mut gpus, mut switches) = (Vec::new(), Vec::new());
    for (place, device) in devices.iter().enumerate() {
        if device.is_switch() {
            switches.push((place, device));
        } else {
            gpus.push((place, device));
        }
    }
    let together = !gpus.is_empty() && !switches.is_empty();
    if together {
        refused.extend(inconsistent(&gpus, &switches));
    }
    let topology = if !refused.is_empty() {
        Some(Topology::Bad)
    } else if together {
        Some(Topology::Whole)
    } else if gpus.iter().any(|(_, gpu)| is_protected(gpu)) {
        Some(Topology::Incomplete)
    } else {
        None
    };
    (topology, refused)
}

fn is_protected(device: &Device<'_>) -> bool {
    let mode = device.report.as_ref().and_then(|r| r.opaque.mode());
    mode == Some(Mode::ProtectedPcie)
}

fn twice(devices: &[Device<'_>]) -> Vec<TopologyRefused> {
    let mut refused = Vec::new();
    for (second, device) in devices.iter().enumerate() {
        let serial = |device: &Device<'_>| device.identity.as_ref().map(|one| one.serial.clone());
        let Some(own) = serial(device) else {
            continue;
        };
        let earlier = devices.iter().take(second);
        if let Some(first) = earlier
            .into_iter()
            .position(|one| serial(one).as_ref() == Some(&own))
        {
            refused.push(TopologyRefused::Twice { first, second });
        }
    }
    refused
}

fn inconsistent(
    gpus: &[(usize, &Device<'_>)],
    switches: &[(usize, &Device<'_>)],
) -> Vec<TopologyRefused> {
    let mut refused = Vec::new();
    if gpus.len() != GPUS || switches.len() != SWITCHES {
        refused.push(TopologyRefused::Count {
            gpus: gpus.len(),
            switches: switches.len(),
        });
    }
    let certified = |devices: &[(usize, &Device<'_>)]| -> BTreeSet<Pdi> {
        devices.iter().filter_map(|(_, one)| own_pdi(one)).collect()
    };
    let (gpu_pdis, switch_pdis) = (certified(gpus), certified(switches));
    let nonce = |device: &Device<'_>| device.report.as_ref().map(|report| *report.nonce);
    let all = || gpus.iter().chain(switches);
    let first = all().find_map(|(_, device)| nonce(device));
    for (place, device) in all() {
        if own_pdi(device).is_none() {
            refused.push(TopologyRefused::Unidentified(*place));
        }
        if nonce(device) != first {
            refused.push(TopologyRefused::Nonce(*place));
        }
    }
    for (place, gpu) in gpus {
        if !is_protected(gpu) {
            refused.push(TopologyRefused::Mode(*place));
        }
        if linked_switches(gpu) != Some(switch_pdis.clone()) {
            refused.push(TopologyRefused::Links(*place));
        }
    }
    for (place, switch) in switches {
        let opaque = switch.report.as_ref().map(|report| &report.opaque);
        let itself = opaque.and_then(|o| o.pdis.as_deref());
        if itself.is_none() || itself != own_pdi(switch).as_ref().map(std::slice::from_ref) {
            refused.push(TopologyRefused::Itself(*place));
        }
        let around = opaque.and_then(|o| o.ports.as_ref());
        let around = around.map(|ports| ports.gpus.iter().copied().collect::<BTreeSet<Pdi>>());
        if around.as_ref() != Some(&gpu_pdis) {
            refused.push(TopologyRefused::Gpus(*place));
        }
        if opaque.and_then(|o| o.lock) != Some(LOCKED) {
            refused.push(TopologyRefused::Unlocked(*place));
        }
    }
    refused
}

fn own_pdi(device: &Device<'_>) -> Option<Pdi> {
    device.identity.as_ref()?.pdi
}

/// A GPU has these the other way round, and one for each of its links.
fn linked_switches(gpu: &Device<'_>) -> Option<BTreeSet<Pdi>> {
    let links = gpu.report.as_ref()?.opaque.pdis.as_ref()?;
    let on = links.iter().filter(|pdi| **pdi != NONE);
    let reversed = on.map(|pdi| {
        let mut pdi = *pdi;
        pdi.reverse();
        pdi
    });
    Some(reversed.collect())
}
