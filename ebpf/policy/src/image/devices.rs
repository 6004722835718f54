//! Devices as the kernel reads them: names become numbers of one host.
//!
//! What a host has comes from whoever knows it, as [`HostNumbers`]. A name that the host does not
//! have grants nothing, and is reported.

use bailiwick_attestation::{Place, Sha256Digest};
use bailiwick_ebpf_common::Plain;
use bailiwick_ebpf_common::device::{
    ALWAYS, Device, DeviceSubject, GOVERNED, GRANTS, GRANTS_PER_SUBJECT, Governed, Grant,
    HOST_MAGIC, HostDevices, MISC, PARTS, class, flag, governed, sharing,
};
use bailiwick_ebpf_common::policy::{PolicyImage, Slice};

use super::{Who, digest, number, subjects};
use crate::model::devices::{Devices, Family, Gpu, LAST_GPU, Mig, Node};
use crate::model::{Model, Rule};

/// Major number of NVIDIA's GPUs and of what controls them.
const NVIDIA: u32 = 195;
/// Major number of the first RDMA devices of each kind.
const INFINIBAND: u32 = 231;
/// Units of capabilities stand behind those of GPUs.
const CAPABILITY_UNITS: u32 = 0x1_0000;

/// The device numbers of one host, as its kernel and NVIDIA's driver give them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostNumbers {
    /// Character majors: name of the driver and number, as in `/proc/devices`. A name may stand
    /// there more than once.
    pub majors: Vec<(String, u32)>,
    /// Minors of [`MISC`]: name and number, as in `/proc/misc`.
    pub misc: Vec<(String, u32)>,
    /// NVIDIA's GPUs.
    pub gpus: Vec<HostGpu>,
    /// Capabilities of the parts of divided GPUs.
    pub parts: Vec<HostPart>,
}

/// A GPU of this host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostGpu {
    /// The number in `/dev/nvidia<N>`.
    pub minor: u32,
    /// `GPU-` and a UUID, where the driver tells it.
    pub uuid: Option<String>,
    /// Nodes of its display driver, by which it can be used too.
    pub display: Vec<Device>,
}

/// A part of a divided GPU, and the capability that opens it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HostPart {
    /// [`HostGpu::minor`].
    pub gpu: u32,
    /// Id of the GPU instance.
    pub instance: u32,
    /// Id of the compute instance; `None`: the GPU instance's own capability.
    pub compute: Option<u32>,
    /// The number in `/dev/nvidia-caps/nvidia-cap<N>`.
    pub capability: u32,
}

/// A name of the policy that grants nothing on this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unmet {
    /// The study or host service.
    pub subject: String,
    /// The name as it was written.
    pub name: String,
    /// Where.
    pub place: Place,
    /// There is such a device, and no room for it in the table.
    pub no_room: bool,
}

impl HostNumbers {
    /// Numbers as most hosts have them, for whoever asks about names away from the host: those that
    /// kernels choose anew at each boot are set here once and for all.
    #[must_use]
    pub fn conventional() -> Self {
        let named = |list: &[(&str, u32)]| {
            let entries = list.iter();
            entries
                .map(|(name, number)| ((*name).to_owned(), *number))
                .collect()
        };
        Self {
            majors: named(&[
                ("nvidia", NVIDIA),
                ("infiniband_verbs", INFINIBAND),
                ("nvidia-uvm", 511),
                ("nvidia-caps", 510),
                ("nvidia-caps-imex-channels", 509),
                ("nvidia-nvswitch", 508),
                ("nvidia-nvlink", 507),
                ("vfio", 506),
            ]),
            misc: named(&[("vfio", 196), ("rdma_cm", 121), ("iommu", 120)]),
            gpus: (0..=LAST_GPU)
                .map(|minor| HostGpu {
                    minor,
                    ..HostGpu::default()
                })
                .collect(),
            parts: Vec::new(),
        }
    }

    /// Whether this host has a driver of anything that is governed.
    #[must_use]
    pub fn any(&self) -> bool {
        let major = |(name, number): &(String, u32)| {
            let ours = ["nvidia", "infiniband", "vfio"];
            [NVIDIA, INFINIBAND].contains(number) || ours.iter().any(|it| name.starts_with(it))
        };
        let misc =
            |(name, _): &(String, u32)| ["vfio", "rdma_cm", "iommu"].contains(&name.as_str());
        !self.gpus.is_empty() || self.majors.iter().any(major) || self.misc.iter().any(misc)
    }

    fn majors_named<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = u32> + 'a {
        let same = self.majors.iter().filter(move |(name, _)| name == prefix);
        same.map(|(_, major)| *major)
    }

    fn misc_named(&self, wanted: &str) -> Option<u32> {
        let found = self.misc.iter().find(|(name, _)| name == wanted);
        found.map(|(_, minor)| *minor)
    }

    fn gpus_meant(&self, gpu: &Gpu) -> Vec<&HostGpu> {
        let meant = self.gpus.iter().filter(|host| match gpu {
            Gpu::All => true,
            Gpu::Minor(minor) => host.minor == *minor,
            Gpu::Uuid(uuid) => host.uuid.as_ref() == Some(uuid),
        });
        meant.collect()
    }

    /// Ranges of devices that a name means here.
    #[must_use]
    pub fn meant(&self, node: Node) -> Vec<Governed> {
        let all_or_one = |first: u32, last: u32| match node.number {
            None => Some((first, last)),
            Some(number) => {
                let minor = first.checked_add(number)?;
                (minor <= last).then_some((minor, minor))
            }
        };
        let of = |major: u32, range: Option<(u32, u32)>, class: u8| {
            range.map(|(first, last)| governed(major, first, last, class))
        };
        let of_major = |name: &str, range: Option<(u32, u32)>, class: u8| {
            let majors = self.majors_named(name);
            majors
                .filter_map(|major| of(major, range, class))
                .collect::<Vec<_>>()
        };
        let of_misc = |name: &str, class: u8| {
            let minor = self.misc_named(name);
            of(MISC, minor.map(|minor| (minor, minor)), class)
        };
        let nvidia = !self.gpus.is_empty() || self.majors.iter().any(|(_, major)| *major == NVIDIA);
        match node.family {
            Family::NvidiaControl if nvidia => {
                vec![governed(NVIDIA, 255, 255, class::GPU_CONTROL)]
            }
            Family::NvidiaModeset if nvidia => {
                vec![governed(NVIDIA, 254, 254, class::GPU_CONTROL)]
            }
            Family::NvidiaControl | Family::NvidiaModeset => Vec::new(),
            Family::NvidiaUvm => of_major("nvidia-uvm", Some((0, 0)), class::GPU_MEMORY),
            Family::NvidiaUvmTools => of_major("nvidia-uvm", Some((1, 1)), class::GPU_MEMORY),
            Family::NvidiaCap => of_major(
                "nvidia-caps",
                all_or_one(0, u32::MAX),
                class::GPU_CAPABILITY,
            ),
            Family::NvidiaNvlink => {
                of_major("nvidia-nvlink", all_or_one(0, u32::MAX), class::GPU_FABRIC)
            }
            Family::NvidiaNvswitch => {
                of_major("nvidia-nvswitch", all_or_one(0, 255), class::GPU_FABRIC)
            }
            Family::NvidiaImex => of_major(
                "nvidia-caps-imex-channels",
                all_or_one(0, u32::MAX),
                class::GPU_FABRIC,
            ),
            // The first of each kind have places in one major, the rest majors of their own.
            Family::Uverbs => self.rdma(node.number, 192, 32, "infiniband_verbs"),
            Family::Umad => self.rdma(node.number, 0, 64, "infiniband_mad"),
            Family::Issm => self.rdma(node.number, 64, 64, "infiniband_mad"),
            Family::RdmaCm => of_misc("rdma_cm", class::RDMA).into_iter().collect(),
            Family::Vfio => {
                let container = of_misc("vfio", class::VFIO);
                let groups = of_major("vfio", all_or_one(0, u32::MAX), class::VFIO);
                let alone = groups.is_empty();
                let found = groups.into_iter().chain(container.filter(|_| !alone));
                found.collect()
            }
            Family::Iommu => of_misc("iommu", class::VFIO).into_iter().collect(),
        }
    }

    /// RDMA devices: `count` minors of the old major from `first` on, then majors named `beyond`.
    fn rdma(&self, number: Option<u32>, first: u32, count: u32, beyond: &str) -> Vec<Governed> {
        let there = self.majors.iter().any(|(_, major)| *major == INFINIBAND);
        let extra = self
            .majors_named(beyond)
            .filter(|major| *major != INFINIBAND);
        match number {
            _ if !there => Vec::new(),
            None => {
                let old = governed(
                    INFINIBAND,
                    first,
                    first.saturating_add(count).saturating_sub(1),
                    class::RDMA,
                );
                let extra = extra.map(|major| governed(major, 0, u32::MAX, class::RDMA));
                std::iter::once(old).chain(extra).collect()
            }
            Some(number) if number < count => {
                let minor = first.saturating_add(number);
                vec![governed(INFINIBAND, minor, minor, class::RDMA)]
            }
            Some(number) if beyond == "infiniband_verbs" => {
                let minor = number.saturating_sub(count);
                let extra = extra.map(|major| governed(major, minor, minor, class::RDMA));
                extra.collect()
            }
            // Two kinds share the major beyond, and nothing tells which minors are whose.
            Some(_) => Vec::new(),
        }
    }

    /// All that is governed on this host, with or without a policy.
    #[must_use]
    pub fn table(&self) -> Box<HostDevices> {
        let mut ranges = vec![
            governed(NVIDIA, 254, 255, class::GPU_CONTROL),
            governed(NVIDIA, 0, u32::MAX, class::GPU),
        ];
        ranges.extend(ALWAYS.iter().filter(|range| range.major != NVIDIA));
        for (name, major) in &self.majors {
            let class = match name.as_str() {
                _ if *major == NVIDIA || *major == INFINIBAND => continue,
                "nvidia-uvm" => class::GPU_MEMORY,
                "nvidia-caps" => class::GPU_CAPABILITY,
                "nvidia-caps-imex-channels" | "nvidia-nvswitch" | "nvidia-nvlink" => {
                    class::GPU_FABRIC
                }
                // What the driver may be given one day.
                other if other.starts_with("nvidia") => class::GPU_CONTROL,
                other if other.starts_with("infiniband") => class::RDMA,
                other if other.starts_with("vfio") => class::VFIO,
                _ => continue,
            };
            ranges.push(governed(*major, 0, u32::MAX, class));
        }
        for (name, class) in [("rdma_cm", class::RDMA), ("iommu", class::VFIO)] {
            let minor = self.misc_named(name);
            ranges.extend(minor.map(|minor| governed(MISC, minor, minor, class)));
        }
        for device in self.gpus.iter().flat_map(|gpu| &gpu.display) {
            ranges.push(governed(
                device.major,
                device.minor,
                device.minor,
                class::GPU,
            ));
        }
        let mut table = HostDevices::zeroed();
        table.magic = HOST_MAGIC;
        ranges.truncate(GOVERNED);
        table.count = number(ranges.len());
        for (slot, range) in table.governed.iter_mut().zip(ranges) {
            *slot = range;
        }
        for (_, major) in &self.majors {
            set(&mut table.majors, *major);
        }
        for (_, minor) in &self.misc {
            set(&mut table.misc, *minor);
        }
        table
    }
}

fn set<const N: usize>(words: &mut [u64; N], bit: u32) {
    let word = usize::try_from(bit / 64).unwrap_or(usize::MAX);
    if let Some(word) = words.get_mut(word) {
        *word |= 1 << (bit % 64);
    }
}

/// What stays the same when studies are numbered anew: the first half of a digest of the name.
#[must_use]
pub fn owner_id(study: &str) -> u64 {
    let Sha256Digest([a, b, c, d, e, f, g, h, ..]) =
        Sha256Digest::of(&[b"bailiwick device owner v1\0", study.as_bytes()]);
    // Two values mean something else.
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(PARTS.saturating_add(1))
}

/// What one subject of a policy may open, in names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceNames {
    /// The study or host service.
    pub subject: String,
    /// It is a study.
    pub study: bool,
    /// What it may open.
    pub devices: Devices,
}

impl DeviceNames {
    /// The same, while the node's GPUs have proven themselves or not: a study that takes
    /// confidential ones has no devices without that.
    #[must_use]
    pub fn under(&self, proven: bool) -> Self {
        let mut names = self.clone();
        if names.devices.confidential && !proven {
            names.devices = Devices {
                confidential: true,
                on_failure: names.devices.on_failure,
                ..Devices::default()
            };
        }
        names
    }
}

/// The names of all subjects, in the order of their numbers.
#[must_use]
pub fn device_names(model: &Model) -> Vec<DeviceNames> {
    let all = subjects(model).into_iter();
    all.map(|who| DeviceNames {
        subject: who.name().to_owned(),
        study: matches!(who, Who::Study(_)),
        devices: who.devices().clone(),
    })
    .collect()
}

/// Puts the devices of every subject into an image, replacing what it had, and renews the digest.
/// Returns the names that grant nothing on this host.
pub fn set_devices(
    image: &mut PolicyImage,
    names: &[DeviceNames],
    host: &HostNumbers,
) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    let mut grants: Vec<Grant> = Vec::new();
    let mut slots = image.devices.subjects.iter_mut();
    for DeviceNames {
        subject, devices, ..
    } in names
    {
        let Some(slot) = slots.next() else { break };
        let first = grants.len();
        let most = usize::try_from(GRANTS_PER_SUBJECT)
            .unwrap_or(0)
            .min(GRANTS.saturating_sub(first));
        for (rule, of_rule) in grants_of(devices, host) {
            let there = !of_rule.is_empty();
            let fits = grants
                .len()
                .saturating_sub(first)
                .saturating_add(of_rule.len())
                <= most;
            if there && fits {
                grants.extend(of_rule);
            } else {
                unmet.push(Unmet {
                    subject: subject.clone(),
                    name: rule.value,
                    place: rule.place,
                    no_room: there,
                });
            }
        }
        *slot = DeviceSubject {
            id: owner_id(subject),
            grants: Slice {
                first: number(first),
                count: number(grants.len().saturating_sub(first)),
            },
            flags: flags(devices),
            reserved: 0,
        };
    }
    for slot in slots {
        *slot = DeviceSubject::default();
    }
    let rest = std::iter::repeat(Grant::default());
    for (slot, grant) in image
        .devices
        .grants
        .iter_mut()
        .zip(grants.into_iter().chain(rest))
    {
        *slot = grant;
    }
    image.header.digest = digest(image).0;
    unmet
}

impl<'a> Who<'a> {
    /// What it may open.
    #[must_use]
    pub fn devices(&self) -> &'a Devices {
        match self {
            Self::Study(study) => &study.devices,
            Self::Host(host) => &host.devices,
        }
    }
}

fn flags(devices: &Devices) -> u32 {
    let mut flags = 0;
    if devices.unattested {
        flags |= flag::UNATTESTED;
    }
    if devices.raw_sockets {
        flags |= flag::RAW_SOCKETS;
    }
    if devices.vsock {
        flags |= flag::VSOCK;
    }
    if devices.bpf {
        flags |= flag::BPF;
    }
    flags
}

/// The grants behind each name. With a GPU or a part of one comes what all users of the driver
/// share, [`Family::NvidiaControl`].
fn grants_of(devices: &Devices, host: &HostNumbers) -> Vec<(Rule<String>, Vec<Grant>)> {
    let control = Node {
        family: Family::NvidiaControl,
        number: None,
    };
    let mut control: Vec<Grant> = host.meant(control).into_iter().map(shared).collect();
    let mut found = Vec::new();
    for rule in &devices.gpus {
        let mut grants: Vec<Grant> = host
            .gpus_meant(&rule.value)
            .into_iter()
            .flat_map(|gpu| whole(gpu, sharing::WHOLE))
            .collect();
        if !grants.is_empty() {
            grants.append(&mut control);
        }
        found.push((text(rule), grants));
    }
    for rule in &devices.mig {
        let mut grants = part(&rule.value, host);
        if !grants.is_empty() {
            grants.append(&mut control);
        }
        found.push((text(rule), grants));
    }
    for rule in &devices.nodes {
        let grants = host.meant(rule.value).into_iter().map(shared).collect();
        found.push((text(rule), grants));
    }
    found
}

fn text<T: std::fmt::Display>(rule: &Rule<T>) -> Rule<String> {
    Rule {
        value: rule.value.to_string(),
        place: rule.place.clone(),
    }
}

fn shared(range: Governed) -> Grant {
    Grant {
        major: range.major,
        first: range.first,
        last: range.last,
        ..Grant::default()
    }
}

/// A GPU's own node, and those of its display driver: one unit.
fn whole(gpu: &HostGpu, sharing: u8) -> Vec<Grant> {
    let unit = gpu.minor.saturating_add(1);
    let own = Device {
        major: NVIDIA,
        minor: gpu.minor,
    };
    let nodes = std::iter::once(&own).chain(&gpu.display);
    nodes
        .map(|node| Grant {
            unit,
            sharing,
            ..shared(governed(node.major, node.minor, node.minor, class::GPU))
        })
        .collect()
}

/// The GPU, shared with those who have other parts of it, and the capabilities of the part: a
/// compute instance needs that of its GPU instance too, and shares it likewise.
fn part(mig: &Mig, host: &HostNumbers) -> Vec<Grant> {
    let Some(caps) = host.majors_named("nvidia-caps").next() else {
        return Vec::new();
    };
    let mut grants = Vec::new();
    for gpu in host.gpus_meant(&mig.gpu) {
        let capabilities = host.parts.iter().filter(|part| {
            part.gpu == gpu.minor
                && part.instance == mig.instance
                && (mig.compute.is_none() || part.compute.is_none() || part.compute == mig.compute)
        });
        let capabilities: Vec<Grant> = capabilities
            .map(|part| Grant {
                unit: CAPABILITY_UNITS.saturating_add(part.capability),
                sharing: if mig.compute.is_some() && part.compute.is_none() {
                    sharing::PART
                } else {
                    sharing::WHOLE
                },
                ..shared(governed(
                    caps,
                    part.capability,
                    part.capability,
                    class::GPU_CAPABILITY,
                ))
            })
            .collect();
        let wanted = host.parts.iter().any(|part| {
            part.gpu == gpu.minor && part.instance == mig.instance && part.compute == mig.compute
        });
        if wanted {
            grants.extend(whole(gpu, sharing::PART));
            grants.extend(capabilities);
        }
    }
    grants
}

#[cfg(test)]
mod tests;
