//! What approvers wrote, as types that cannot be wrong.
//!
//! [`Model::parse`] reads every file of a bundle whole, checks each by itself and then all against
//! one another, and gives nothing at all unless everything is sound. Every complaint, and every
//! rule that decides a packet later, names the file, line and key it comes from.

mod collector;
pub mod confirm;
mod cross;
pub mod devices;
pub mod edit;
#[cfg(test)]
mod guest_tests;
mod host;
#[cfg(test)]
mod host_tests;
mod inventory;
#[cfg(test)]
mod inventory_tests;
mod prefix;
mod raw;
mod selector;
mod site;
mod study;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bailiwick_attestation::profile::{Brake, Profile, WorldProfile};
use bailiwick_attestation::{FileError, JurisdictionCode, Place, Sha256Digest, StudyId, Term};
use bailiwick_ebpf_common::policy::SUBJECTS;
use ipnet::IpNet;

pub use devices::Devices;
pub use inventory::{Confirmed, Inventory, Node, Retired};
pub use selector::Selector;
pub(crate) use site::parse as sites;

/// Most studies in one deployment: their numbers index a table of that size in the kernel.
pub const STUDIES_LIMIT: usize = SUBJECTS;
/// Most host services; they share that table with the studies.
pub const HOSTS_LIMIT: usize = SUBJECTS;
/// Most services others may name: each costs an entry in every fence that names it.
pub const SERVICES_LIMIT: usize = 4096;
/// Most selectors of one study or host service.
pub const SELECTORS_LIMIT: usize = 64;
/// Most selectors of all together: each is compared with each.
pub const SELECTORS_TOTAL_LIMIT: usize = 4096;
/// Most prefixes in one list: an allow list longer than this is a geo database, and belongs there.
pub const PREFIXES_LIMIT: usize = 4096;
/// Most ethertypes beside those that are judged or always pass.
pub const ETHERTYPES_LIMIT: usize = 8;
/// Most prefixes of the operator's own: they are merged into the world map.
pub const SITES_LIMIT: usize = 65_536;
/// Most nodes of one deployment: what one collector is designed for.
pub const NODES_LIMIT: usize = 100_000;
/// Most lease keys, log keys and CAs: the one in force, the next, and some that are being retired.
pub const KEYS_LIMIT: usize = 16;

/// Most bytes of a study or of the host fence.
pub const STUDY_FILE_LIMIT: usize = 512 * 1024;
/// Most bytes of the sites.
pub const SITES_FILE_LIMIT: usize = 8 * 1024 * 1024;
/// Most bytes of the inventory: 50,000 confirmed nodes of some 1,100 bytes each, signature
/// included, or 100,000 of some 550.
pub const INVENTORY_FILE_LIMIT: usize = 56 * 1024 * 1024;
/// Most devices of one node: sixteen GPUs, their switches, and the chips of two sockets.
pub const DEVICES_LIMIT: usize = 64;
/// Most address ranges of one node.
pub const ADDRESSES_LIMIT: usize = 64;
/// Most bytes of the collector's keys.
pub const COLLECTOR_FILE_LIMIT: usize = 64 * 1024;

/// Everything a bundle says, the world map's content excepted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Model {
    /// Sorted by name; names are unique, selectors and peers do not overlap.
    pub studies: Vec<Study>,
    /// Targets others may name, by name.
    pub services: BTreeMap<String, Service>,
    /// What may talk without being a study, sorted by name.
    pub hosts: Vec<Host>,
    /// What concerns every packet of the host.
    pub host_fence: HostFence,
    /// The operator's own networks; they win over the geo database.
    pub sites: Vec<Site>,
    /// The nodes, sorted by name.
    pub inventory: Inventory,
    /// Keys of the collector that these approvers stand behind.
    pub collector: CollectorKeys,
    /// What a node is held against.
    pub profile: Profile,
    /// What a guest without a TPM is held against instead; `None`: the same as every other node.
    pub guest_profile: Option<Profile>,
    /// What is allowed and probably not meant, for whoever signs.
    pub warnings: Vec<FileError>,
}

/// A value, and where it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule<T> {
    /// The value.
    pub value: T,
    /// File, line and key.
    pub place: Place,
}

/// One study: who belongs to it and where it may go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Study {
    /// Its name.
    pub name: StudyId,
    /// Whether a denial is carried out.
    pub mode: Mode,
    /// Whose traffic is meant; at least one.
    pub select: Vec<Rule<Selector>>,
    /// What it may reach with a lease, beside what stands in `unattested`.
    pub allow: Grant,
    /// Prefixes it may not reach; against `allow.prefixes` the longer match wins, deny wins ties.
    pub deny: Vec<Rule<IpNet>>,
    /// Its own addresses. Every study may reach its own peers and no other study's.
    pub peers: Vec<Rule<IpNet>>,
    /// An address of `peers` counts only while a node in standing has signed for it.
    pub peers_attested: bool,
    /// What it may reach without a lease; with one it may too, for standing takes nothing away.
    pub unattested: Grant,
    /// What it may open.
    pub devices: Devices,
    /// Where its name stands.
    pub place: Place,
}

/// Whether a denial is carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Denied packets are dropped.
    Enforce,
    /// Denied packets pass and are reported.
    Audit,
}

impl Mode {
    /// The word used in policy files and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}

/// What may be reached. Everything else may not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grant {
    /// Where the world map says the address is.
    pub jurisdictions: Vec<Rule<JurisdictionCode>>,
    /// Addresses, wherever they are.
    pub prefixes: Vec<Rule<IpNet>>,
    /// Names of [`Model::services`]; each is known.
    pub services: Vec<Rule<String>>,
}

impl Grant {
    /// Whether nothing at all is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jurisdictions.is_empty() && self.prefixes.is_empty() && self.services.is_empty()
    }
}

/// A target that studies and host services may name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: IpNet,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Ports of the service's side, host byte order; `None` for any. Only with TCP and UDP.
    pub ports: Option<RangeInclusive<u16>>,
    /// Where it was written.
    pub place: Place,
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP to an IPv4 address, ICMPv6 to an IPv6 address.
    Icmp,
    /// Whatever runs over IP.
    Any,
}

impl Protocol {
    /// The word used in policy files and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
            Self::Any => "any",
        }
    }
}

/// A part of the host that may talk without being a study.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    /// Its name; no study has it.
    pub name: String,
    /// Whose traffic is meant; at least one. The deepest that matches decides.
    pub select: Vec<Rule<Selector>>,
    /// What it may reach; leases do not matter.
    pub allow: Grant,
    /// Where it says that it may reach the management plane, by its own rules; `None`: it may not.
    pub management: Option<Place>,
    /// What it may open; leases do not matter.
    pub devices: Devices,
    /// Where its name stands.
    pub place: Place,
}

/// What `host-fence.toml` says beside services and who may name them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostFence {
    /// What the host itself sends and receives so that it has a network at all.
    pub essentials: Vec<Rule<Essential>>,
    /// Ethertypes that may leave beside IPv4, IPv6 and ARP.
    pub ethertypes: Vec<Rule<u16>>,
    /// Service addresses: judged where the packet leaves, once they have been translated.
    pub translated: Vec<Rule<IpNet>>,
    /// The management plane: for the host services named for it, and for no study.
    pub management: Vec<Rule<IpNet>>,
    /// What the kernel's own sockets may reach; names are unique.
    pub kernel: Vec<KernelTarget>,
}

/// What a host needs to have a network at all. Never a study's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Essential {
    /// Solicitations and advertisements that do not leave the link.
    NeighbourDiscovery,
    /// A client's DHCP, to everybody on the link.
    Dhcp,
    /// Which groups this host listens to: IGMP, MLD.
    Groups,
    /// ICMP's errors.
    IcmpErrors,
    /// TCP's refusals.
    TcpResets,
}

impl Essential {
    /// The word used in policy files and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let found = host::ESSENTIALS.iter().find(|(_, one)| *one == self);
        found.map_or("", |(name, _)| name)
    }
}

/// A target of the kernel's own sockets: NFS, SMB, NVMe over TCP, Ceph, WireGuard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelTarget {
    /// Its name, address, protocol and ports.
    pub target: Service,
    /// The study that is served, by whose fence it is judged; `None`: the host itself.
    pub study: Option<Rule<String>>,
}

/// One network of the operator's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Site {
    /// Its addresses; no two sites have the same prefix, nested ones are fine.
    pub prefix: IpNet,
    /// Where it is.
    pub jurisdiction: JurisdictionCode,
    /// Where it was written.
    pub place: Place,
}

/// Keys of the collector that approvers stand behind.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CollectorKeys {
    /// Whose leases count; ids are unique.
    pub lease_keys: Vec<LeaseKey>,
    /// Whose checkpoints count; a log has several while its key changes.
    pub logs: Vec<LogKey>,
    /// To whom nodes wrap the keys of sealed events; ids are unique. The first is used.
    pub key_stores: Vec<StoreKey>,
    /// Whose certificates count, of the collector's servers and of nodes. None: whatever agents and
    /// collector are configured with. The first that the collector holds issues.
    pub cas: Vec<CaKey>,
}

/// A certificate authority of the collector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaKey {
    /// What people call it.
    pub id: String,
    /// SHA-256 of its `SubjectPublicKeyInfo`, DER.
    pub spki: Sha256Digest,
    /// When its certificates count.
    pub term: Term,
}

/// A key store of the collector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoreKey {
    /// What a wrapped key names it by.
    pub id: String,
    /// Its P-256 public key: 65 bytes, a point of the curve, uncompressed (SEC 1, 2.3.3).
    pub p256: [u8; 65],
}

/// A key that signs leases.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeaseKey {
    /// What a lease names it by.
    pub id: String,
    /// Ed25519 public key.
    pub ed25519: [u8; 32],
    /// When its leases count.
    pub term: Term,
}

/// A transparency log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogKey {
    /// First line of its checkpoints, and the name in its verifier key.
    pub origin: String,
    /// C2SP signed-note verifier key: name, `+`, key hash, `+`, base64.
    pub vkey: String,
    /// When its checkpoints count.
    pub term: Term,
}

/// The files a model is made of: path and content.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// `studies/*.toml`.
    pub studies: &'a [(&'a str, &'a [u8])],
    /// `host-fence.toml`.
    pub host_fence: &'a [u8],
    /// `sites.toml`.
    pub sites: &'a [u8],
    /// `inventory.toml`.
    pub inventory: &'a [u8],
    /// `collector.toml`.
    pub collector: &'a [u8],
    /// `profile.toml`.
    pub profile: &'a [u8],
    /// `guest-profile.toml`, where there is one.
    pub guest_profile: Option<&'a [u8]>,
}

impl Model {
    /// Reads and checks everything, or says what is wrong first.
    pub fn parse(files: &Files<'_>) -> Result<Self, FileError> {
        let mut studies = Vec::with_capacity(files.studies.len());
        for (path, bytes) in files.studies {
            studies.push(study::parse(path, bytes)?);
        }
        let host::Parsed {
            services,
            hosts,
            fence,
        } = host::parse("host-fence.toml", files.host_fence)?;
        let mut model = Self {
            studies,
            services,
            hosts,
            host_fence: fence,
            sites: site::parse("sites.toml", files.sites)?,
            inventory: inventory::parse("inventory.toml", files.inventory)?,
            collector: collector::parse("collector.toml", files.collector)?,
            profile: Profile::parse("profile.toml", files.profile)?,
            guest_profile: files.guest_profile.map(guest_profile).transpose()?,
            warnings: Vec::new(),
        };
        cross::check(&mut model)?;
        Ok(model)
    }

    /// What this node is held against; `None`: one that nobody listed.
    #[must_use]
    pub fn profile_of(&self, node: Option<&Node>) -> &Profile {
        let guest = node.filter(|node| node.guest.is_some());
        let own = guest.and(self.guest_profile.as_ref());
        own.unwrap_or(&self.profile)
    }
}

/// What concerns the whole deployment stands in one place, or the two could differ.
fn guest_profile(bytes: &[u8]) -> Result<Profile, FileError> {
    const FILE: &str = "guest-profile.toml";
    let profile = Profile::parse(FILE, bytes)?;
    let elsewhere = [
        ("world", profile.world != WorldProfile::default()),
        ("brake", profile.brake != Brake::default()),
    ];
    match elsewhere.into_iter().find(|(_, there)| *there) {
        None => Ok(profile),
        Some((key, _)) => Err(FileError {
            file: FILE.to_owned(),
            line: 1,
            key: key.to_owned(),
            fault: "concerns every node: it stands in profile.toml".to_owned(),
        }),
    }
}
