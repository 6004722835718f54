//! The maps. Names, sizes and flags are part of the pins' contract: see `common::abi::ABI`.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG};
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf,
};
use aya_ebpf::macros::btf_map;
use bailiwick_ebpf_common::abi::{Config, FlowState, Lease, NETWORK_DEVICES, PortKey, counter};
use bailiwick_ebpf_common::device::{
    DeviceEvent, DeviceKey, HOST_MAGIC, HostDevices, Owner, UNITS,
};
use bailiwick_ebpf_common::peers::{PEER_SLOTS, PeerEnd, PeerKey};
use bailiwick_ebpf_common::policy::POLICY_MAGIC;
use bailiwick_ebpf_common::tally::{
    PASSED as PASSED_KEYS, Passed, PassedKey, TABLES, TALLIES, Tally, TallyKey,
};
use bailiwick_ebpf_common::{PolicyImage, WorldImage};

/// Programs read these and cannot write them.
#[expect(
    clippy::as_conversions,
    reason = "a flag of 32 bits, in a const parameter"
)]
const READ_ONLY: usize = BPF_F_RDONLY_PROG as usize;
const _: u32 = BPF_F_WRONLY_PROG;

/// As above, and memory only for what is there: most nodes have a handful of peers.
#[expect(
    clippy::as_conversions,
    reason = "flags of 32 bits, in a const parameter"
)]
const SPARSE: usize = (BPF_F_RDONLY_PROG | BPF_F_NO_PREALLOC) as usize;

/// Programs write these; memory only for what is there.
#[expect(
    clippy::as_conversions,
    reason = "a flag of 32 bits, in a const parameter"
)]
const WRITTEN: usize = BPF_F_NO_PREALLOC as usize;
#[expect(
    clippy::as_conversions,
    reason = "a small constant, in a const parameter"
)]
const COUNTERS_LEN: usize = counter::COUNT as usize;

#[btf_map]
pub(crate) static CONFIG: Array<Config, 1, READ_ONLY> = Array::new();

/// Written by the agent for each lease; programs only read.
#[btf_map]
pub(crate) static LEASE: Array<Lease, 1, READ_ONLY> = Array::new();

/// Addresses of studies on other nodes; the agent writes, programs read.
#[btf_map]
pub(crate) static PEERS: HashMap<PeerKey, PeerEnd, PEER_SLOTS, SPARSE> = HashMap::new();

/// How the frames of a device begin, by index: one of `common::frame::link`. The agent writes,
/// programs read.
#[btf_map]
pub(crate) static LINKS: HashMap<u32, u32, NETWORK_DEVICES, SPARSE> = HashMap::new();

/// Whose workload is on the other side of a device; the agent writes, programs read.
#[btf_map]
pub(crate) static PORTS: HashMap<PortKey, u32, NETWORK_DEVICES, SPARSE> = HashMap::new();

/// The table of jurisdictions, behind one more map so that it is swapped whole.
#[btf_map]
pub(crate) static WORLD: ArrayOfMaps<Array<WorldImage, 1, READ_ONLY>, 1> = ArrayOfMaps::new();

/// Studies and host services, swapped whole.
#[btf_map]
pub(crate) static POLICY: ArrayOfMaps<Array<PolicyImage, 1, READ_ONLY>, 1> = ArrayOfMaps::new();

#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();

/// Denials and samples, and what found no room among them; the agent takes the inner maps away.
#[btf_map]
pub(crate) static TALLY: ArrayOfMaps<HashMap<TallyKey, Tally, TALLIES, WRITTEN>, TABLES> =
    ArrayOfMaps::new();

/// What passed, by study and jurisdiction; the agent takes the inner map away.
#[btf_map]
pub(crate) static PASSED: ArrayOfMaps<PerCpuHashMap<PassedKey, Passed, PASSED_KEYS, WRITTEN>, 1> =
    ArrayOfMaps::new();

/// Bytes of the ring buffer of denied devices: some 700 events.
const DEVICE_EVENT_BYTES: usize = 64 * 1024;
/// Kinds of denials whose events are held back.
const DEVICE_DENIALS: usize = 1024;

/// Device numbers of this host, swapped whole.
#[btf_map]
pub(crate) static DEVICES: ArrayOfMaps<Array<HostDevices, 1, READ_ONLY>, 1> = ArrayOfMaps::new();

/// Who has which unit. Programs add; the agent closes and removes.
#[btf_map]
pub(crate) static DEVICE_OWNERS: HashMap<u32, Owner, UNITS> = HashMap::new();

/// When each unit was last opened, CLOCK_BOOTTIME in nanoseconds. Programs write, the agent reads.
#[btf_map]
pub(crate) static DEVICE_OPENED: HashMap<u32, u64, UNITS> = HashMap::new();

#[btf_map]
pub(crate) static DEVICE_EVENTS: RingBuf<DeviceEvent, DEVICE_EVENT_BYTES> = RingBuf::new();

/// Denied opens and when each was last reported.
#[btf_map]
pub(crate) static DENIED_DEVICES: LruHashMap<DeviceKey, FlowState, DEVICE_DENIALS> =
    LruHashMap::new();

/// Device numbers of this host; `None` before the agent has filled them in.
#[inline(always)]
pub(crate) fn devices() -> Option<&'static HostDevices> {
    let host = DEVICES.get_value(0, &0)?;
    (host.magic == HOST_MAGIC).then_some(host)
}

/// The policy in force.
#[inline(always)]
pub(crate) fn policy() -> Option<&'static PolicyImage> {
    let image = POLICY.get_value(0, &0)?;
    (image.header.magic == POLICY_MAGIC).then_some(image)
}

/// The policy in force, if it is still the one that made this tag ([`PolicyImage::tag`]), and the
/// subject. All bits set: no subject.
#[inline(always)]
pub(crate) fn tagged(tagged: u64) -> Option<(&'static PolicyImage, u32)> {
    let policy = policy()?;
    let [.., a, b, c, d] = tagged.to_be_bytes();
    let subject = u32::from_be_bytes([a, b, c, d]);
    (policy.tag(subject) == tagged).then_some((policy, subject))
}

/// The table of jurisdictions.
#[inline(always)]
pub(crate) fn world() -> Option<&'static WorldImage> {
    WORLD.get_value(0, &0)
}
