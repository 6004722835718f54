//! `[devices]`: what a study or host service may open, by names that mean the same on every host.
//!
//! Which numbers a name has is each host's own affair: [`crate::image::set_devices`].

use std::fmt;

use bailiwick_attestation::{FileError, TomlFile};
use serde::Deserialize;
use toml::Spanned;

use super::Rule;
use super::raw::{self, Texts};

/// Most names in one list; a host has sixteen GPUs, a divided GPU seven parts.
pub const DEVICES_LIMIT: usize = 64;

/// What a study or host service may open. Without a `[devices]` section: nothing that is governed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Devices {
    /// Whole GPUs; of a study's each is its alone.
    pub gpus: Vec<Rule<Gpu>>,
    /// Parts of GPUs that are divided (MIG).
    pub mig: Vec<Rule<Mig>>,
    /// Other governed devices.
    pub nodes: Vec<Rule<Node>>,
    /// Whether it may make raw IPv4 and IPv6 sockets. What it sends by them is judged all the same.
    pub raw_sockets: bool,
    /// Whether it may make vsock sockets, where the BPF LSM is in force: what is sent by them no hook
    /// sees.
    pub vsock: bool,
    /// Whether a study may call `bpf(2)`, and a host service detach links, where the BPF LSM is in
    /// force.
    pub bpf: bool,
    /// Whether a study may open its devices while the node has no lease.
    pub unattested: bool,
    /// Whether a study takes confidential GPUs: it opens its devices, and starts, only while the
    /// node's lease says that all its GPUs proved themselves.
    pub confidential: bool,
    /// What becomes of a study that holds a device it may not open (any more).
    pub on_failure: OnFailure,
}

impl Devices {
    /// Whether nothing may be opened.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        let named = self.gpus.is_empty() && self.mig.is_empty() && self.nodes.is_empty();
        named && !self.raw_sockets && !self.vsock && !self.bpf
    }
}

/// What becomes of a study that holds a device it may not open (any more).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnFailure {
    /// It opens none again; what it holds is evidence, and stays open.
    #[default]
    Deny,
    /// Its cgroups that hold one are frozen and killed.
    Stop,
}

impl OnFailure {
    /// The word used in policy files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Stop => "stop",
        }
    }
}

/// A GPU, or all of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Gpu {
    /// Every GPU of the host.
    All,
    /// The number in `/dev/nvidia<N>`, which is not always NVML's index.
    Minor(u32),
    /// `GPU-` and a UUID, as `nvidia-smi -L` prints it.
    Uuid(String),
}

/// The last number a GPU's node has; 254 and 255 are mode setting and control.
pub const LAST_GPU: u32 = 253;

impl Gpu {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(uuid) = text.strip_prefix("GPU-") {
            let right = uuid.len() == 36
                && uuid.bytes().enumerate().all(|(at, byte)| match at {
                    8 | 13 | 18 | 23 => byte == b'-',
                    _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
                });
            if right {
                return Ok(Self::Uuid(text.to_owned()));
            }
        } else if let Some(minor) = number(text).filter(|minor| *minor <= LAST_GPU) {
            return Ok(Self::Minor(minor));
        }
        Err(format!(
            "{text:?} is no GPU: a number from 0 to {LAST_GPU}, GPU- and a UUID in lower case, or all"
        ))
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Minor(minor) => minor.fmt(f),
            Self::Uuid(uuid) => f.write_str(uuid),
        }
    }
}

/// A part of a divided GPU: `GPU/INSTANCE` or `GPU/INSTANCE/COMPUTE`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mig {
    /// Which; never [`Gpu::All`].
    pub gpu: Gpu,
    /// Id of the GPU instance.
    pub instance: u32,
    /// Id of the compute instance in it; `None`: the whole GPU instance.
    pub compute: Option<u32>,
}

impl Mig {
    fn parse(text: &str) -> Result<Self, String> {
        let fault = || {
            format!(
                "{text:?} is no part of a GPU: GPU/INSTANCE or GPU/INSTANCE/COMPUTE, for example 0/1/0"
            )
        };
        let mut parts = text.split('/');
        let gpu = Gpu::parse(parts.next().unwrap_or_default()).map_err(|_whole| fault())?;
        let instance = parts.next().and_then(number).ok_or_else(fault)?;
        let compute = match parts.next() {
            Some(compute) => Some(number(compute).ok_or_else(fault)?),
            None => None,
        };
        if gpu == Gpu::All || parts.next().is_some() {
            return Err(fault());
        }
        Ok(Self {
            gpu,
            instance,
            compute,
        })
    }
}

impl fmt::Display for Mig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.gpu, self.instance)?;
        match self.compute {
            Some(compute) => write!(f, "/{compute}"),
            None => Ok(()),
        }
    }
}

/// Names of governed devices that are no GPUs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// `nvidiactl`, which every grant of a GPU brings along.
    NvidiaControl,
    /// `nvidia-modeset`
    NvidiaModeset,
    /// `nvidia-uvm`
    NvidiaUvm,
    /// `nvidia-uvm-tools`
    NvidiaUvmTools,
    /// `nvidia-cap<N>`: a capability by its number.
    NvidiaCap,
    /// `nvidia-nvlink`
    NvidiaNvlink,
    /// `nvidia-nvswitch<N>`, and `nvidia-nvswitchctl`, which is number 255.
    NvidiaNvswitch,
    /// `nvidia-imex<N>`: `/dev/nvidia-caps-imex-channels/channel<N>`.
    NvidiaImex,
    /// `uverbs<N>`
    Uverbs,
    /// `umad<N>`
    Umad,
    /// `issm<N>`
    Issm,
    /// `rdma_cm`
    RdmaCm,
    /// `vfio/<N>`: a group, and the container that goes with it.
    Vfio,
    /// `iommu`
    Iommu,
}

impl Family {
    /// Spelling, and whether the name is one device, one of many, or may be both: without a number
    /// it is all of them.
    const NAMES: [(&'static str, Self, Numbered); 14] = [
        ("nvidiactl", Self::NvidiaControl, Numbered::Never),
        ("nvidia-modeset", Self::NvidiaModeset, Numbered::Never),
        ("nvidia-uvm-tools", Self::NvidiaUvmTools, Numbered::Never),
        ("nvidia-uvm", Self::NvidiaUvm, Numbered::Never),
        ("nvidia-nvlink", Self::NvidiaNvlink, Numbered::Never),
        ("nvidia-nvswitch", Self::NvidiaNvswitch, Numbered::Maybe),
        ("nvidia-imex", Self::NvidiaImex, Numbered::Maybe),
        ("nvidia-cap", Self::NvidiaCap, Numbered::Always),
        ("uverbs", Self::Uverbs, Numbered::Maybe),
        ("umad", Self::Umad, Numbered::Maybe),
        ("issm", Self::Issm, Numbered::Maybe),
        ("rdma_cm", Self::RdmaCm, Numbered::Never),
        ("vfio", Self::Vfio, Numbered::Slash),
        ("iommu", Self::Iommu, Numbered::Never),
    ];
}

#[derive(Clone, Copy)]
enum Numbered {
    Never,
    Maybe,
    Always,
    /// As [`Numbered::Maybe`], behind a slash.
    Slash,
}

/// A governed device that is no GPU, or all of one family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Node {
    /// What kind.
    pub family: Family,
    /// Which of them; `None`: the only one, or all.
    pub number: Option<u32>,
}

impl Node {
    /// A name as policies spell it.
    pub fn parse(text: &str) -> Result<Self, String> {
        for (name, family, numbered) in Family::NAMES {
            let Some(rest) = text.strip_prefix(name) else {
                continue;
            };
            let found = match (numbered, rest) {
                (Numbered::Never | Numbered::Maybe | Numbered::Slash, "") => Some(None),
                (Numbered::Maybe, "ctl") if family == Family::NvidiaNvswitch => Some(Some(255)),
                (Numbered::Maybe | Numbered::Always, rest) => number(rest).map(Some),
                (Numbered::Slash, rest) => rest.strip_prefix('/').and_then(number).map(Some),
                (Numbered::Never, _) => None,
            };
            if let Some(number) = found {
                return Ok(Self { family, number });
            }
        }
        let known: Vec<String> = Family::NAMES
            .iter()
            .map(|(name, _, numbered)| match numbered {
                Numbered::Never => (*name).to_owned(),
                Numbered::Maybe => format!("{name}[N]"),
                Numbered::Always => format!("{name}N"),
                Numbered::Slash => format!("{name}[/N]"),
            })
            .collect();
        let shown: String = text.chars().take(80).collect();
        Err(format!(
            "{shown:?} is no device known here: {}; GPUs stand in gpus and mig",
            known.join(", ")
        ))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Family::NAMES.iter().find(|(_, it, _)| *it == self.family);
        let Some((name, _, numbered)) = named else {
            return Ok(());
        };
        f.write_str(name)?;
        match (self.number, numbered) {
            (None, _) => Ok(()),
            (Some(255), _) if self.family == Family::NvidiaNvswitch => f.write_str("ctl"),
            (Some(number), Numbered::Slash) => write!(f, "/{number}"),
            (Some(number), _) => number.fmt(f),
        }
    }
}

/// Decimal digits without a sign or leading zeros: a number has one spelling.
fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let one_spelling = text == "0" || !text.starts_with('0');
    (plain && one_spelling).then(|| text.parse().ok()).flatten()
}

/// `[devices]` of a study.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDevices {
    #[serde(default)]
    gpus: Texts,
    #[serde(default)]
    mig: Texts,
    #[serde(default)]
    nodes: Texts,
    #[serde(default)]
    raw_sockets: bool,
    #[serde(default)]
    vsock: bool,
    #[serde(default)]
    bpf: bool,
    #[serde(default)]
    unattested: bool,
    confidential: Option<Spanned<bool>>,
    on_failure: Option<Spanned<String>>,
}

/// `[host.devices]`: a host service is told by root what to do, and has no lease to lose.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHostDevices {
    #[serde(default)]
    gpus: Texts,
    #[serde(default)]
    mig: Texts,
    #[serde(default)]
    nodes: Texts,
    #[serde(default)]
    raw_sockets: bool,
    #[serde(default)]
    vsock: bool,
    #[serde(default)]
    bpf: bool,
}

pub(super) fn of_study(file: &TomlFile<'_>, raw: &RawDevices) -> Result<Devices, FileError> {
    let on_failure = match &raw.on_failure {
        None => OnFailure::Deny,
        Some(word) => match word.get_ref().as_str() {
            "deny" => OnFailure::Deny,
            "stop" => OnFailure::Stop,
            other => {
                let fault = format!("{other:?} is nothing that can be done: deny or stop");
                return Err(file.error(word.span(), fault));
            }
        },
    };
    let confidential = raw.confidential.as_ref();
    if let Some(word) = confidential.filter(|word| *word.get_ref() && raw.unattested) {
        let fault = "without a lease nobody says that GPUs are confidential: not beside unattested";
        return Err(file.error(word.span(), fault));
    }
    Ok(Devices {
        raw_sockets: raw.raw_sockets,
        vsock: raw.vsock,
        bpf: raw.bpf,
        unattested: raw.unattested,
        confidential: confidential.is_some_and(|word| *word.get_ref()),
        on_failure,
        ..lists(file, &raw.gpus, &raw.mig, &raw.nodes)?
    })
}

pub(super) fn of_host(file: &TomlFile<'_>, raw: &RawHostDevices) -> Result<Devices, FileError> {
    Ok(Devices {
        raw_sockets: raw.raw_sockets,
        vsock: raw.vsock,
        bpf: raw.bpf,
        ..lists(file, &raw.gpus, &raw.mig, &raw.nodes)?
    })
}

fn lists(
    file: &TomlFile<'_>,
    gpus: &Texts,
    mig: &Texts,
    nodes: &Texts,
) -> Result<Devices, FileError> {
    let devices = Devices {
        gpus: raw::rules(file, gpus, DEVICES_LIMIT, Gpu::parse)?,
        mig: raw::rules(file, mig, DEVICES_LIMIT, Mig::parse)?,
        nodes: raw::rules(file, nodes, DEVICES_LIMIT, Node::parse)?,
        ..Devices::default()
    };
    let all = devices.gpus.iter().find(|rule| rule.value == Gpu::All);
    if let (Some(all), true) = (all, devices.gpus.len() > 1) {
        return Err(all.place.error("\"all\" stands beside other GPUs"));
    }
    // Whole and in parts at once would make a study its own rival for the GPU.
    for part in &devices.mig {
        let whole = devices
            .gpus
            .iter()
            .find(|rule| rule.value == Gpu::All || rule.value == part.value.gpu);
        if let Some(whole) = whole {
            let fault = format!(
                "{} is a part of GPU {}, which is named whole in {}",
                part.value, part.value.gpu, whole.place
            );
            return Err(part.place.error(fault));
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        let gpus: &[(&str, Option<Gpu>)] = &[
            ("all", Some(Gpu::All)),
            ("0", Some(Gpu::Minor(0))),
            ("253", Some(Gpu::Minor(253))),
            ("254", None),
            ("00", None),
            ("+1", None),
            ("-1", None),
            ("", None),
            ("All", None),
            ("/dev/nvidia0", None),
            (
                "GPU-5a3c1b2d-0f4e-4c6d-8b7a-001122334455",
                Some(Gpu::Uuid(
                    "GPU-5a3c1b2d-0f4e-4c6d-8b7a-001122334455".to_owned(),
                )),
            ),
            ("GPU-5A3C1B2D-0f4e-4c6d-8b7a-001122334455", None),
            ("GPU-5a3c1b2d-0f4e-4c6d-8b7a-00112233445", None),
            ("GPU-5a3c1b2d-0f4e-4c6d-8b7a-0011223344556", None),
            ("GPU-5a3c1b2d00f4e-4c6d-8b7a-001122334455", None),
        ];
        for (text, want) in gpus {
            assert_eq!(Gpu::parse(text).ok(), *want, "{text}");
            if let Some(gpu) = want {
                assert_eq!(gpu.to_string(), *text);
            }
        }
        type Parts<'a> = &'a [(&'a str, Option<(u32, Option<u32>)>)];
        let parts: Parts<'_> = &[
            ("0/1", Some((1, None))),
            ("0/1/0", Some((1, Some(0)))),
            (
                "GPU-5a3c1b2d-0f4e-4c6d-8b7a-001122334455/7",
                Some((7, None)),
            ),
            ("0", None),
            ("0/", None),
            ("0/x", None),
            ("0/1/", None),
            ("0/1/0/0", None),
            ("all/1", None),
            ("/1", None),
        ];
        for (text, want) in parts {
            let found = Mig::parse(text).ok();
            let numbers = found.as_ref().map(|mig| (mig.instance, mig.compute));
            assert_eq!(numbers, *want, "{text}");
            if let Some(found) = found {
                assert_eq!(found.to_string(), *text);
            }
        }
        type Nodes<'a> = &'a [(&'a str, Option<(Family, Option<u32>)>)];
        let nodes: Nodes<'_> = &[
            ("nvidia-uvm", Some((Family::NvidiaUvm, None))),
            ("nvidia-uvm-tools", Some((Family::NvidiaUvmTools, None))),
            ("nvidia-uvm0", None),
            ("nvidiactl", Some((Family::NvidiaControl, None))),
            ("nvidia0", None),
            ("nvidia-cap12", Some((Family::NvidiaCap, Some(12)))),
            ("nvidia-cap", None),
            ("nvidia-nvswitch", Some((Family::NvidiaNvswitch, None))),
            ("nvidia-nvswitch3", Some((Family::NvidiaNvswitch, Some(3)))),
            (
                "nvidia-nvswitchctl",
                Some((Family::NvidiaNvswitch, Some(255))),
            ),
            ("uverbs", Some((Family::Uverbs, None))),
            ("uverbs0", Some((Family::Uverbs, Some(0)))),
            ("uverbs01", None),
            ("uverbsctl", None),
            ("rdma_cm", Some((Family::RdmaCm, None))),
            ("rdma_cm0", None),
            ("vfio", Some((Family::Vfio, None))),
            ("vfio/12", Some((Family::Vfio, Some(12)))),
            ("vfio12", None),
            ("vfio/", None),
            ("", None),
            ("null", None),
        ];
        for (text, want) in nodes {
            let found = Node::parse(text).ok();
            assert_eq!(
                found.map(|node| (node.family, node.number)),
                *want,
                "{text}"
            );
            if let Some(found) = found {
                assert_eq!(found.to_string(), *text);
            }
        }
    }
}
