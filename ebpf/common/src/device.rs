//! Which device may be opened by whom, and who may make a raw socket.
//!
//! Two tables. [`HostDevices`] says which device numbers of this host are governed at all; it holds
//! before there is a policy, and grows when a driver is loaded. [`DeviceTable`] is a part of the
//! policy's image and says which of them a study or host service is granted. Both hold numbers, for
//! the kernel asks by number, whatever a node is called and wherever it lies.
//!
//! Governed are character devices of the [`class`]es below. Making a node (`mknod`) opens nothing
//! and is left alone, as are block devices. A study is also kept from drivers that were not there
//! when the tables were made ([`class::UNKNOWN`]): a driver loaded a moment ago may be one of ours.
//!
//! A device with a *unit* belongs to one study at a time. The kernel takes a unit for a study when
//! it is opened; user space gives it back when nobody holds a descriptor any more.
//!
//! Audit mode does not concern devices: an open device cannot be taken back.

use core::hint::black_box;

use crate::policy::{SUBJECTS, Slice, kind};

/// Grants of all studies and host services together.
pub const GRANTS: usize = 4096;
/// Grants of one study or host service.
pub const GRANTS_PER_SUBJECT: u32 = 256;
/// Ranges of governed devices.
pub const GOVERNED: usize = 128;
/// Units that may be held at one time.
pub const UNITS: usize = 1024;

#[expect(
    clippy::as_conversions,
    reason = "a small constant, as the tables count"
)]
const RANGES: u32 = GOVERNED as u32;

/// `BAILDEVS`, big-endian.
pub const HOST_MAGIC: u64 = 0x4241_494c_4445_5653;

/// [`Governed::class`], and of events.
pub mod class {
    /// Left as the system has it.
    pub const NONE: u8 = 0;
    /// A GPU, by its own node or the one of its display driver.
    pub const GPU: u8 = 1;
    /// What all users of NVIDIA's driver share: control, mode setting.
    pub const GPU_CONTROL: u8 = 2;
    /// Unified memory: `nvidia-uvm`, `nvidia-uvm-tools`.
    pub const GPU_MEMORY: u8 = 3;
    /// A capability of NVIDIA's driver: a MIG instance, fabric management.
    pub const GPU_CAPABILITY: u8 = 4;
    /// NVLink, NVSwitch, and memory shared over them between hosts.
    pub const GPU_FABRIC: u8 = 5;
    /// RDMA: `uverbs`, `umad`, `issm`, `rdma_cm`.
    pub const RDMA: u8 = 6;
    /// Devices passed through: VFIO and IOMMUFD.
    pub const VFIO: u8 = 7;
    /// A driver that was not there when the tables were made.
    pub const UNKNOWN: u8 = 8;
    /// No device: a raw socket.
    pub const RAW_SOCKET: u8 = 9;
    /// A socket to the machine's host, or to machines it is the host of.
    pub const VSOCK: u8 = 10;
    /// A call of `bpf(2)`.
    pub const BPF: u8 = 11;
    /// What the kernel is to read or load: a module, another kernel, a policy.
    pub const MODULE: u8 = 12;
    /// By number, as events and statements spell them.
    pub const NAMES: [&str; 13] = [
        "",
        "gpu",
        "gpu-control",
        "gpu-memory",
        "gpu-capability",
        "gpu-fabric",
        "rdma",
        "vfio",
        "unknown",
        "raw-socket",
        "vsock",
        "bpf",
        "module",
    ];

    /// The name of a number; an unknown number is named so.
    #[must_use]
    pub fn name(class: u8) -> &'static str {
        NAMES.get(usize::from(class)).copied().unwrap_or("unknown")
    }
}

/// A character device's number.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Device {
    /// Of the driver.
    pub major: u32,
    /// The driver's own.
    pub minor: u32,
}

/// A range of devices that may be opened only where a grant says so.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Governed {
    /// Of the driver.
    pub major: u32,
    /// First minor number.
    pub first: u32,
    /// Last minor number.
    pub last: u32,
    /// One of [`class`].
    pub class: u8,
    /// Zero.
    pub reserved: [u8; 3],
}
const _: () = assert!(size_of::<Governed>() == 16);

/// Device numbers of this host. Map `DEVICES`, swapped whole; it needs no policy.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct HostDevices {
    /// [`HOST_MAGIC`]; zero in a map nobody has filled.
    pub magic: u64,
    /// Entries of `governed` in use.
    pub count: u32,
    /// Zero.
    pub reserved: u32,
    /// Bit `n` of word `n / 64`: a driver has the character major `n`.
    pub majors: [u64; 8],
    /// The same for the minors of [`MISC`], as far as they go; those beyond are unknown.
    pub misc: [u64; 16],
    /// In any order; the first that holds a number decides its class.
    pub governed: [Governed; GOVERNED],
}
const _: () = assert!(size_of::<HostDevices>() == 16 + 64 + 128 + GOVERNED * 16);

/// Major number of drivers that have one device only (`MISC_MAJOR`).
pub const MISC: u32 = 10;

/// Governed where nobody has filled [`HostDevices`]: numbers that never change.
pub const ALWAYS: [Governed; 3] = [
    governed(195, 0, u32::MAX, class::GPU),
    governed(231, 0, u32::MAX, class::RDMA),
    governed(MISC, 196, 196, class::VFIO),
];

/// One range.
#[must_use]
pub const fn governed(major: u32, first: u32, last: u32, class: u8) -> Governed {
    Governed {
        major,
        first,
        last,
        class,
        reserved: [0; 3],
    }
}

impl Governed {
    /// Whether the range holds a device.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, device: Device) -> bool {
        self.major == device.major && self.first <= device.minor && device.minor <= self.last
    }
}

/// The class of a device, of which [`class::NONE`] is left alone.
#[inline(always)]
#[must_use]
pub fn classify(host: Option<&HostDevices>, device: Device) -> u8 {
    let Some(host) = host else {
        for range in &ALWAYS {
            if range.holds(device) {
                return range.class;
            }
        }
        return class::NONE;
    };
    for at in 0..RANGES {
        if at >= host.count {
            break;
        }
        let Some(range) = host.governed.get(black_box(crate::index(at))) else {
            break;
        };
        if range.holds(device) {
            return range.class;
        }
    }
    if known(host, device) {
        class::NONE
    } else {
        class::UNKNOWN
    }
}

/// Whether the driver was there when the table was made. Fixed majors are known: whoever has one is
/// in the kernel's list of devices, and what of that list is governed stands in the table.
#[inline(always)]
fn known(host: &HostDevices, device: Device) -> bool {
    if device.major == MISC {
        // Beyond 255, and in a stretch below it, numbers are given out as they are asked for.
        return bit(&host.misc, device.minor);
    }
    // `CHRDEV_MAJOR_DYN_END` to 254, and `CHRDEV_MAJOR_DYN_EXT_END` to 511.
    let dynamic = (device.major >= 234 && device.major <= 254) || device.major >= 384;
    !dynamic || bit(&host.majors, device.major)
}

#[inline(always)]
fn bit<const N: usize>(words: &[u64; N], number: u32) -> bool {
    match words.get(black_box(crate::index(number >> 6))) {
        Some(word) => (word >> (number & 63)) & 1 == 1,
        None => false,
    }
}

/// [`Grant::sharing`]. Unknown values are [`sharing::WHOLE`].
pub mod sharing {
    /// The unit is the study's alone.
    pub const WHOLE: u8 = 0;
    /// The unit is divided, and shared by studies that are granted parts.
    pub const PART: u8 = 1;
}

/// The owner of a unit of which studies have parts; no study has this id.
pub const PARTS: u64 = 1;

/// A range of devices that a study or host service may open.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Grant {
    /// Of the driver.
    pub major: u32,
    /// First minor number.
    pub first: u32,
    /// Last minor number.
    pub last: u32,
    /// Unit of the first, from which the others count on; 0: devices that all may share.
    pub unit: u32,
    /// One of [`sharing`].
    pub sharing: u8,
    /// Zero.
    pub reserved: [u8; 7],
}
const _: () = assert!(size_of::<Grant>() == 24);

/// [`DeviceSubject::flags`].
pub mod flag {
    /// Grants hold without a lease, too.
    pub const UNATTESTED: u32 = 1;
    /// It may make raw sockets.
    pub const RAW_SOCKETS: u32 = 2;
    /// It may make vsock sockets.
    pub const VSOCK: u32 = 4;
    /// A study may call `bpf(2)`; a host service may detach links.
    pub const BPF: u32 = 8;
}

/// What of devices belongs to one subject of the policy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct DeviceSubject {
    /// Stays the same when policies number their studies anew: from the study's name.
    pub id: u64,
    /// Its grants.
    pub grants: Slice,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}
const _: () = assert!(size_of::<DeviceSubject>() == 24);

/// The part of the policy's image that speaks of devices.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DeviceTable {
    /// Index: subject.
    pub subjects: [DeviceSubject; SUBJECTS],
    /// Of all subjects.
    pub grants: [Grant; GRANTS],
}
const _: () = assert!(size_of::<DeviceTable>() == SUBJECTS * 24 + GRANTS * 24);

/// A grant that holds a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Granted {
    /// What is taken with it; 0: nothing.
    pub unit: u32,
    /// One of [`sharing`].
    pub sharing: u8,
}

impl DeviceTable {
    /// The entry of a subject; one beyond the table has nothing.
    #[inline(always)]
    #[must_use]
    pub fn subject(&self, number: u32) -> Option<&DeviceSubject> {
        self.subjects.get(black_box(crate::index(number)))
    }

    /// The first grant of a subject that holds the device.
    #[inline(always)]
    #[must_use]
    pub fn granted(&self, subject: u32, device: Device) -> Option<Granted> {
        let slice = self.subject(subject)?.grants;
        let mut at = 0;
        while at < GRANTS_PER_SUBJECT {
            if at >= slice.count {
                break;
            }
            let grant = self
                .grants
                .get(black_box(crate::index(slice.first.wrapping_add(at))))?;
            if grant.major == device.major
                && grant.first <= device.minor
                && device.minor <= grant.last
            {
                let unit = match grant.unit {
                    0 => 0,
                    first => first.wrapping_add(device.minor - grant.first),
                };
                return Some(Granted {
                    unit,
                    sharing: grant.sharing,
                });
            }
            at += 1;
        }
        None
    }
}

/// Why a device may be opened, or not. The numbers are part of the event's layout.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Reason {
    /// Not governed.
    LeftAlone = 0,
    /// The policy grants it.
    Granted = 1,
    /// The fence stands and no policy was loaded.
    NoPolicy = 2,
    /// The cgroup belongs to no study and no named host service.
    NoSubject = 3,
    /// No line of the policy grants it.
    NotGranted = 4,
    /// Granted with a lease, and the node has none.
    NoLease = 5,
    /// Another study has it.
    Held = 6,
    /// Whether anybody still has it is being looked into.
    ChangingHands = 7,
    /// A driver that the fence has not seen yet.
    UnknownDriver = 8,
    /// The fence could not take note of who opens it.
    NoRoom = 9,
}

impl Reason {
    /// As events, counters and explanations spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeftAlone => "left-alone",
            Self::Granted => "device-granted",
            Self::NoPolicy => "no-policy",
            Self::NoSubject => "no-subject",
            Self::NotGranted => "device-not-granted",
            Self::NoLease => "no-lease",
            Self::Held => "device-held",
            Self::ChangingHands => "device-changing-hands",
            Self::UnknownDriver => "device-unknown-driver",
            Self::NoRoom => "device-no-room",
        }
    }

    /// The number that stands in events.
    #[inline(always)]
    #[must_use]
    #[expect(
        clippy::as_conversions,
        reason = "the discriminant of a `repr(u8)` enum"
    )]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name of a number; an unknown number is named so.
    #[must_use]
    pub fn name_of(number: u8) -> &'static str {
        const ALL: [Reason; 10] = [
            Reason::LeftAlone,
            Reason::Granted,
            Reason::NoPolicy,
            Reason::NoSubject,
            Reason::NotGranted,
            Reason::NoLease,
            Reason::Held,
            Reason::ChangingHands,
            Reason::UnknownDriver,
            Reason::NoRoom,
        ];
        let found = ALL.iter().find(|reason| reason.number() == number);
        found.map_or("unknown", |reason| reason.name())
    }
}

/// Who opens, as far as it was found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opener {
    /// A policy is in force.
    pub policy: bool,
    /// One of [`kind`]; [`kind::NONE`] where the cgroup is nobody's.
    pub kind: u8,
    /// The node has a lease, or a break-glass manifest stands in for it.
    pub attested: bool,
    /// Of its subject; zeros where there is none.
    pub subject: DeviceSubject,
    /// The grant that holds the device.
    pub granted: Option<Granted>,
}

/// The answer to an open, before anybody has looked who holds the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// Why. Only [`Reason::LeftAlone`] and [`Reason::Granted`] open.
    pub reason: Reason,
    /// What has to be taken first; 0: nothing.
    pub unit: u32,
    /// For whom: a study's id, or [`PARTS`].
    pub owner: u64,
}

/// May this be opened? Where the answer names a unit, [`settle`] has the last word.
#[inline(always)]
#[must_use]
pub fn judge(class: u8, who: &Opener) -> Answer {
    let answer = |reason| Answer {
        reason,
        unit: 0,
        owner: 0,
    };
    let study = who.kind == kind::STUDY;
    if class == class::NONE || (class == class::UNKNOWN && !study) {
        return answer(Reason::LeftAlone);
    }
    if !who.policy {
        return answer(Reason::NoPolicy);
    }
    if !study && who.kind != kind::HOST {
        return answer(Reason::NoSubject);
    }
    if class == class::UNKNOWN {
        return answer(Reason::UnknownDriver);
    }
    let Some(granted) = who.granted else {
        return answer(Reason::NotGranted);
    };
    if !study {
        return answer(Reason::Granted);
    }
    if !who.attested && who.subject.flags & flag::UNATTESTED == 0 {
        return answer(Reason::NoLease);
    }
    Answer {
        reason: Reason::Granted,
        unit: granted.unit,
        owner: if granted.sharing == sharing::PART {
            PARTS
        } else {
            who.subject.id
        },
    }
}

/// [`Owner::state`]. Every value but [`state::HELD`] closes.
pub mod state {
    /// Its owner may open it again.
    pub const HELD: u64 = 0;
    /// Nobody may: user space is finding out whether a descriptor is left.
    pub const CLOSED: u64 = 1;
}

/// Who has a unit. Map `DEVICE_OWNERS`, key: the unit (u32). Programs add, user space closes and
/// removes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Owner {
    /// A study's [`DeviceSubject::id`], or [`PARTS`].
    pub id: u64,
    /// One of [`state`].
    pub state: u64,
}
const _: () = assert!(size_of::<Owner>() == 16);

/// What becomes of an open that needs a unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Settled {
    /// It is the opener's already.
    Open,
    /// It is nobody's: take it, and open if that succeeds.
    Take,
    /// Somebody else's.
    Deny(Reason),
}

/// Whether a unit is free for `owner`.
#[inline(always)]
#[must_use]
pub fn settle(owner: u64, held: Option<&Owner>) -> Settled {
    match held {
        None => Settled::Take,
        Some(held) if held.id != owner => Settled::Deny(Reason::Held),
        Some(held) if held.state != state::HELD => Settled::Deny(Reason::ChangingHands),
        Some(_) => Settled::Open,
    }
}

/// `SOCK_RAW`
pub const SOCK_RAW: u32 = 3;

/// May this socket be made? Only raw ones are asked about: what others send is judged packet by
/// packet. The kernel asks for IPv4 and IPv6 sockets alone.
#[inline(always)]
#[must_use]
pub fn judge_socket(socket_type: u32, who: &Opener) -> Reason {
    if socket_type != SOCK_RAW {
        return Reason::LeftAlone;
    }
    if !who.policy {
        return Reason::NoPolicy;
    }
    if who.kind != kind::STUDY && who.kind != kind::HOST {
        return Reason::NoSubject;
    }
    if who.subject.flags & flag::RAW_SOCKETS == 0 {
        return Reason::NotGranted;
    }
    Reason::Granted
}

/// One denial, through the ring buffer `DEVICE_EVENTS`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct DeviceEvent {
    /// CLOCK_BOOTTIME in nanoseconds.
    pub boot_ns: u64,
    /// The process's cgroup.
    pub cgroup: u64,
    /// Denials this event stands for: itself, and those of the same kind since its last event.
    pub count: u64,
    /// Generation of the policy that judged, its lower 32 bits; 0: none.
    pub generation: u64,
    /// Who has the unit, where somebody has.
    pub owner: u64,
    /// Number in the policy image, or `u32::MAX`.
    pub subject: u32,
    /// Of the device; of a socket the address family; the command of `bpf(2)`; what was to be read
    /// or loaded.
    pub major: u32,
    /// Of the device; of a socket the protocol; of what was to be read or loaded, from where.
    pub minor: u32,
    /// Thread group.
    pub pid: u32,
    /// Of the first user namespace.
    pub uid: u32,
    /// One of [`class`].
    pub class: u8,
    /// [`Reason`] as a number.
    pub reason: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// The thread's name, zero-padded.
    pub comm: [u8; 16],
}
const _: () = assert!(size_of::<DeviceEvent>() == 80);

/// Key of the map that keeps a flood of one kind of denial to one event per window.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct DeviceKey {
    /// The process's cgroup.
    pub cgroup: u64,
    /// As in the event.
    pub major: u32,
    /// As in the event.
    pub minor: u32,
    /// As in the event.
    pub class: u8,
    /// As in the event.
    pub reason: u8,
    /// Zero.
    pub reserved: [u8; 6],
}
const _: () = assert!(size_of::<DeviceKey>() == 24);

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, integers only, no padding (size asserted above).
    unsafe impl aya::Pod for super::HostDevices {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Owner {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::DeviceKey {}
}

// SAFETY: `repr(C)`, integers only, no padding (size asserted above).
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for HostDevices {}
// SAFETY: `repr(C)`, integers only, no padding (size asserted above).
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for DeviceEvent {}
// SAFETY: `repr(C)`, integers only, no padding (size asserted above).
#[cfg(not(target_arch = "bpf"))]
unsafe impl crate::Plain for Owner {}

#[cfg(not(target_arch = "bpf"))]
impl DeviceEvent {
    /// Reads one record; another length is no event.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut event = Self::default();
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        crate::Plain::bytes_mut(&mut event).copy_from_slice(bytes);
        Some(event)
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
