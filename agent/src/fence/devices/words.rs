//! Denials and holders, in words.

use bailiwick_attestation::proto::v1::{
    FenceEvent,
    fence_state::{DeviceHolder, HeldDevice},
};
use bailiwick_ebpf_common::{
    abi::hook,
    device::{self, Device, DeviceEvent, Reason, class, state},
    kernel,
};
use bailiwick_policy::image::DeviceNames;

use super::{Devices, Holding, owner_name};
use crate::clock;

/// What is said of a study that was stopped.
const STOPPED: &str = "device-holder-stopped";

/// `gpu 195:0`
pub(super) fn device(class: u8, device: Device) -> String {
    let Device { major, minor } = device;
    format!("{} {major}:{minor}", class::name(class))
}

/// A denial, but for study, cgroup path and times, which all events have alike.
pub(in crate::fence) fn denial(event: &DeviceEvent) -> FenceEvent {
    let socket = matches!(event.class, class::RAW_SOCKET | class::VSOCK);
    let at = Device {
        major: event.major,
        minor: event.minor,
    };
    let hook = match event.class {
        class::RAW_SOCKET | class::VSOCK if kernel::socket_class(event.major) != class::NONE => {
            hook::LSM_SOCKET
        }
        class::RAW_SOCKET => hook::SOCK_CREATE,
        class::BPF => hook::LSM_BPF,
        class::MODULE if event.minor == kernel::BY_MEMORY => hook::LSM_LOAD_DATA,
        class::MODULE => hook::LSM_READ_FILE,
        _ => hook::DEVICE,
    };
    FenceEvent {
        boot_time_ns: event.boot_ns,
        cgroup_id: event.cgroup,
        direction: "egress".to_owned(),
        protocol: if socket { event.minor } else { 0 },
        rule: Reason::name_of(event.reason).to_owned(),
        verdict: "deny".to_owned(),
        hook: hook::name(hook).to_owned(),
        count: event.count,
        device: device(event.class, at),
        ..FenceEvent::default()
    }
}

/// A study was stopped.
pub(super) fn stopped(study: &str, device: String) -> FenceEvent {
    FenceEvent {
        boot_time_ns: clock::boot_time_ns(),
        wall_time_ms: clock::now().millis(),
        study: study.to_owned(),
        direction: "egress".to_owned(),
        rule: STOPPED.to_owned(),
        verdict: "deny".to_owned(),
        hook: hook::name(hook::DEVICE).to_owned(),
        count: 1,
        device,
        ..FenceEvent::default()
    }
}

impl Devices {
    /// Devices that somebody holds or has, as the last look found them; and whether it saw all.
    pub(in crate::fence) fn held(&self, names: &[DeviceNames]) -> (Vec<HeldDevice>, bool) {
        let owners = self.owners().unwrap_or_default();
        let mut all: Vec<HeldDevice> = Vec::new();
        let mut told = std::collections::BTreeSet::new();
        for (at, holdings) in &self.held {
            let owner = owners.get(&self.unit_of(*at));
            told.insert(self.unit_of(*at));
            all.push(HeldDevice {
                device: device(device::classify(Some(&self.table), *at), *at),
                owner: owner.map_or_else(String::new, |owner| owner_name(owner.id, names)),
                changing_hands: owner.is_some_and(|owner| owner.state != state::HELD),
                holders: holdings
                    .iter()
                    .map(|(holding, processes)| holder(holding, *processes, names))
                    .collect(),
            });
        }
        // Opened a moment ago, or not given back yet.
        for (unit, owner) in owners.iter().filter(|(unit, _)| !told.contains(unit)) {
            all.push(HeldDevice {
                device: match self
                    .host
                    .gpus
                    .iter()
                    .find(|gpu| gpu.minor.checked_add(1) == Some(*unit))
                {
                    Some(gpu) => device(
                        class::GPU,
                        Device {
                            major: 195,
                            minor: gpu.minor,
                        },
                    ),
                    None => format!("unit {unit}"),
                },
                owner: owner_name(owner.id, names),
                changing_hands: owner.state != state::HELD,
                holders: Vec::new(),
            });
        }
        (all, !self.scan.cut && self.scan.unseen.is_empty())
    }
}

fn holder(holding: &Holding, processes: u32, names: &[DeviceNames]) -> DeviceHolder {
    let named = holding
        .subject
        .and_then(|subject| names.get(usize::try_from(subject).ok()?));
    DeviceHolder {
        subject: named.map_or_else(String::new, |names| names.subject.clone()),
        processes,
        standing: holding.reason.to_owned(),
    }
}
