//! What the kernel would say to somebody who opens a device.
//!
//! By [`device::judge`], which the kernel runs too, over a policy's names as most hosts number them:
//! what a name means on one host, and who has a GPU at this moment, only that host can tell.

use bailiwick_ebpf_common::device::{self, Device, Opener, Reason, class, classify};
use bailiwick_ebpf_common::{Action, Plain, PolicyImage};

use super::{Explainer, Explanation, UnknownSubject};
use crate::image::{HostNumbers, Who, device_names, set_devices, subjects};
use crate::model::devices::{Devices, Gpu, LAST_GPU, Node};

/// A study or host service, and what it opens.
#[derive(Clone, Copy, Debug)]
pub struct DeviceQuery<'a> {
    /// Name of a study or host service.
    pub subject: &'a str,
    /// Path of the device's node, such as `/dev/nvidia0`.
    pub path: &'a str,
    /// Whether the node has a lease.
    pub attested: bool,
}

/// What a path below `/dev` names, as drivers spell it.
fn named(path: &str, host: &HostNumbers) -> Option<Device> {
    const NVIDIA: u32 = 195;
    let name = path.strip_prefix("/dev/")?;
    let name = ["infiniband/", "nvidia-caps/"]
        .iter()
        .find_map(|folder| name.strip_prefix(folder))
        .unwrap_or(name);
    let gpu = name.strip_prefix("nvidia").and_then(|n| n.parse().ok());
    if let Some(minor) = gpu.filter(|minor| *minor <= LAST_GPU) {
        return Some(Device {
            major: NVIDIA,
            minor,
        });
    }
    let imex = name.strip_prefix("nvidia-caps-imex-channels/channel");
    let name = imex.map_or_else(|| name.to_owned(), |n| format!("nvidia-imex{n}"));
    let meant = host.meant(Node::parse(&name).ok()?);
    meant.first().map(|range| Device {
        major: range.major,
        minor: range.first,
    })
}

impl Explainer<'_> {
    /// Asks [`device::judge`].
    pub fn explain_device(&self, query: &DeviceQuery<'_>) -> Result<Explanation, UnknownSubject> {
        let all = subjects(self.model);
        let found = (0_u32..)
            .zip(&all)
            .find(|(_, who)| who.name() == query.subject);
        let Some((number, who)) = found else {
            let names: Vec<&str> = all.iter().map(Who::name).collect();
            return Err(UnknownSubject {
                name: query.subject.chars().take(80).collect(),
                known: names.join(", "),
            });
        };
        let host = HostNumbers::conventional();
        let Some(device) = named(query.path, &host) else {
            return Ok(answer(Reason::LeftAlone, query, who));
        };
        let mut image = PolicyImage::zeroed();
        image.bytes_mut().copy_from_slice(self.policy.bytes());
        set_devices(&mut image, &device_names(self.model), &host);
        let table = host.table();
        let class = classify(Some(&table), device);
        let (Some(subject), Some(devices)) = (image.subject(number), image.devices.subject(number))
        else {
            return Ok(answer(Reason::NoSubject, query, who));
        };
        let judged = device::judge(
            class,
            &Opener {
                policy: true,
                kind: subject.kind,
                attested: query.attested,
                subject: *devices,
                granted: image.devices.granted(number, device),
            },
        );
        let mut told = answer(judged.reason, query, who);
        if judged.reason == Reason::Granted && judged.unit != 0 {
            told.because
                .push_str("; unless another study has it at that moment");
        }
        let by_host = only_the_host_knows(who.devices(), class);
        if judged.reason == Reason::NotGranted && by_host {
            told.because.push_str(
                "; it names GPUs by UUID or parts of GPUs, and which devices these are only the \
                 host can tell",
            );
        }
        Ok(told)
    }
}

/// A GPU by its UUID, or a part of one, may be this device.
fn only_the_host_knows(devices: &Devices, class: u8) -> bool {
    let uuid = devices
        .gpus
        .iter()
        .any(|rule| matches!(rule.value, Gpu::Uuid(_)));
    match class {
        class::GPU => uuid || !devices.mig.is_empty(),
        class::GPU_CAPABILITY => !devices.mig.is_empty(),
        _ => false,
    }
}

fn answer(reason: Reason, query: &DeviceQuery<'_>, who: &Who<'_>) -> Explanation {
    let DeviceQuery { path, .. } = query;
    let (name, file) = (who.name(), &who.place().file);
    let opens = matches!(reason, Reason::Granted | Reason::LeftAlone);
    let because = match reason {
        Reason::LeftAlone => format!(
            "{path} is none of the devices that are governed: GPUs, RDMA, VFIO and what controls them"
        ),
        Reason::Granted => format!("[devices] of {name} names {path}"),
        Reason::NotGranted => format!("no line of [devices] of {name} names {path}"),
        Reason::NoLease => format!(
            "the node has no lease, and [devices] of {name} does not say `unattested = true`"
        ),
        other => format!("{path}: {}", other.name()),
    };
    let change = match reason {
        Reason::NotGranted => Some(format!("name the device in [devices] of {file}")),
        Reason::NoLease => Some(format!(
            "bring the node back to standing (`bailiwick node why NODE` tells what it lacks), or \
             say `unattested = true` in [devices] of {file}"
        )),
        _ => None,
    };
    Explanation {
        action: if opens { Action::Allow } else { Action::Deny },
        rule: reason.name(),
        jurisdiction: String::new(),
        place: (reason != Reason::LeftAlone).then(|| who.place().clone()),
        because,
        change,
    }
}
