//! Addresses of a study, signed by the node that hosts them.
//!
//! An entry counts only if the node's transport key signed it, the AK that the signed inventory
//! names certified that key for that TPM, and every address lies in the range the inventory gives
//! the node and among the study's own. Whoever carries entries may leave some out; nobody can add
//! one, revive an older one ([`Seen`]), or make one last longer.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use bailiwick_attestation::ParseError;
use bailiwick_attestation::crypto::{Curve, PublicKey};
use bailiwick_attestation::evidence::transport_binding;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::{
    AkPublic, AkRefused, CertifiedKey, CertifyRefused, Public, QualifyingData,
};
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, StudyId};
use ipnet::IpNet;
use prost::Message as _;

use crate::model::{Model, Node, Study};

/// What is signed begins with this, so that no handshake of the same key is an entry.
const DOMAIN: &[u8] = b"bailiwick peer v1\0";
/// Most addresses of one node in one study.
pub const ADDRESSES_LIMIT: usize = 64;
/// Longest body: names, and addresses with their framing.
const BODY_LIMIT: usize = 2048;
/// An entry nobody renews is over after this, ms.
pub const LIFE_LIMIT_MS: u64 = 3_600_000;
/// Most entries of one message: what the kernel's table holds, if each has one address.
pub const ENTRIES_LIMIT: usize = 8192;

/// Why an entry does not count.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PeerRefused {
    /// Not a `PeerBody`, or too long to be one.
    #[error("PeerEntry.body: {0}")]
    Malformed(&'static str),
    /// Made for another installation.
    #[error("PeerBody.deployment is another")]
    Deployment,
    /// The inventory in force does not list the node.
    #[error("PeerBody.node {0:?} is not in the inventory")]
    Node(String),
    /// The policy in force has no such study.
    #[error("PeerBody.study {0:?} is not in the policy")]
    Study(String),
    /// It would last for no time, or for longer than any entry may.
    #[error("PeerBody.lasts_ms {0} is not between 1 and {LIFE_LIMIT_MS}")]
    Life(u64),
    /// Outside of the range that approvers gave the node.
    #[error("{0} is not in the range the inventory gives the node")]
    Range(IpAddr),
    /// Not one of the study's own addresses.
    #[error("{0} is not one of the study's own addresses")]
    NotOfStudy(IpAddr),
    /// It is a guest without a TPM: it has no AK that could have certified a key.
    #[error("PeerBody.node {0} is a guest without a TPM, and no AK speaks for it")]
    Guest(NodeId),
    /// The inventory names no AK for the node: nobody has confirmed one.
    #[error("the inventory names no AK for the node")]
    NoAk,
    /// The AK shown is not the one the inventory names.
    #[error("PeerEntry.ak_public is not the AK the inventory names")]
    OtherAk,
    /// The AK's public area is malformed.
    #[error("PeerEntry.ak_public")]
    AkPublic(#[source] ParseError),
    /// The AK could lie.
    #[error("PeerEntry.ak_public")]
    Ak(#[source] AkRefused),
    /// The key's public area is malformed.
    #[error("PeerEntry.key_public")]
    KeyPublic(#[source] ParseError),
    /// The AK did not certify the key as this TPM's transport key.
    #[error("PeerEntry.key_attest")]
    Key(#[source] CertifyRefused),
    /// Not a P-256 key.
    #[error("PeerEntry.key_public is no P-256 key")]
    KeyKind,
    /// The node's transport key did not sign it.
    #[error("PeerEntry.signature does not verify")]
    Signature,
    /// A later entry of this node for this study was seen.
    #[error("PeerBody.issued_ms {found} is older than {seen}, which was seen")]
    Older {
        /// The entry's.
        found: u64,
        /// The latest seen.
        seen: u64,
    },
}

impl PeerRefused {
    /// Stable word for logs and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "peer-malformed",
            Self::Deployment => "peer-deployment",
            Self::Node(_) => "peer-node-not-listed",
            Self::Study(_) => "peer-study-unknown",
            Self::Life(_) => "peer-life",
            Self::Range(_) => "peer-out-of-range",
            Self::NotOfStudy(_) => "peer-not-of-study",
            Self::Guest(_) => "peer-guest",
            Self::NoAk => "peer-ak-not-named",
            Self::OtherAk => "peer-other-ak",
            Self::AkPublic(_) | Self::Ak(_) => "peer-ak",
            Self::KeyPublic(_) | Self::Key(_) | Self::KeyKind => "peer-key",
            Self::Signature => "peer-signature",
            Self::Older { .. } => "peer-older",
        }
    }
}

/// An entry that its node signed. Only [`verify`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedPeer {
    node: NodeId,
    ek: Sha256Digest,
    study: StudyId,
    addresses: Vec<IpAddr>,
    issued_ms: u64,
    lasts_ms: u64,
}

impl VerifiedPeer {
    /// The node that hosts the addresses.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    /// Its TPM.
    #[must_use]
    pub const fn ek(&self) -> Sha256Digest {
        self.ek
    }

    /// Whose they are.
    #[must_use]
    pub const fn study(&self) -> &StudyId {
        &self.study
    }

    /// The addresses.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The node's word about UTC, ms: of two entries the later holds.
    #[must_use]
    pub const fn issued_ms(&self) -> u64 {
        self.issued_ms
    }
}

/// Bytes that a node's transport key signs for this body.
#[must_use]
pub fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}

/// Checks one entry against the policy in force.
pub fn verify(
    entry: &v1::PeerEntry,
    model: &Model,
    deployment: &DeploymentId,
) -> Result<VerifiedPeer, PeerRefused> {
    if entry.body.len() > BODY_LIMIT {
        return Err(PeerRefused::Malformed("longer than any entry"));
    }
    let body = v1::PeerBody::decode(entry.body.as_slice())
        .map_err(|_decode| PeerRefused::Malformed("not a PeerBody"))?;
    if body.deployment != deployment.as_str() {
        return Err(PeerRefused::Deployment);
    }
    let unlisted = || PeerRefused::Node(body.node.chars().take(80).collect());
    let name = NodeId::new(&body.node).map_err(|_name| unlisted())?;
    let node = model.inventory.by_name(&name).ok_or_else(unlisted)?;
    if node.guest.is_some() {
        return Err(PeerRefused::Guest(name));
    }
    let unknown = || PeerRefused::Study(body.study.chars().take(80).collect());
    let mut studies = model.studies.iter();
    let study = studies
        .find(|study| study.name.as_str() == body.study)
        .ok_or_else(unknown)?;
    if !(1..=LIFE_LIMIT_MS).contains(&body.lasts_ms) {
        return Err(PeerRefused::Life(body.lasts_ms));
    }
    let addresses = addresses(&body.addresses)?;
    for address in &addresses {
        if !holds(&node.addresses, *address) {
            return Err(PeerRefused::Range(*address));
        }
        if !of_study(study, *address) {
            return Err(PeerRefused::NotOfStudy(*address));
        }
    }
    check_signature(entry, node, deployment)?;
    Ok(VerifiedPeer {
        node: name,
        ek: node.ek,
        study: study.name.clone(),
        addresses,
        issued_ms: body.issued_ms,
        lasts_ms: body.lasts_ms,
    })
}

/// The studies that ask for entries, and which of these addresses of a node each of them may
/// have there: what the node signs. A guest without a TPM signs nothing that would count.
#[must_use]
pub fn own(model: &Model, node: &Node, candidates: &[IpAddr]) -> BTreeMap<StudyId, Vec<IpAddr>> {
    let mut own: BTreeMap<StudyId, Vec<IpAddr>> = BTreeMap::new();
    if node.guest.is_some() {
        return own;
    }
    for study in model.studies.iter().filter(|study| study.peers_attested) {
        let mut addresses: Vec<IpAddr> = candidates
            .iter()
            .map(IpAddr::to_canonical)
            .filter(|address| holds(&node.addresses, *address) && of_study(study, *address))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESSES_LIMIT);
        if !addresses.is_empty() {
            own.insert(study.name.clone(), addresses);
        }
    }
    own
}

/// What was seen of each node and study, so that an older entry gains nothing and the same one,
/// told again, does not last longer. Kept on disk: a restart must not forget it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    latest: BTreeMap<(NodeId, StudyId), Latest>,
}

/// The latest entry of one node for one study.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Latest {
    issued_ms: u64,
    /// Which boot of this machine `end_boot_ns` is of.
    boot: [u8; 16],
    end_boot_ns: u64,
}

impl Seen {
    /// Until when an entry counts, on the boot clock in ns: from the moment it was first told, in
    /// this boot. Of an earlier boot nothing is left to last. An older one is refused.
    pub fn take(
        &mut self,
        peer: &VerifiedPeer,
        boot: [u8; 16],
        now_boot_ns: u64,
    ) -> Result<u64, PeerRefused> {
        let key = (peer.node.clone(), peer.study.clone());
        if let Some(latest) = self.latest.get(&key) {
            if peer.issued_ms < latest.issued_ms {
                return Err(PeerRefused::Older {
                    found: peer.issued_ms,
                    seen: latest.issued_ms,
                });
            }
            if peer.issued_ms == latest.issued_ms {
                return Ok(if latest.boot == boot {
                    latest.end_boot_ns
                } else {
                    0
                });
            }
        }
        let end_boot_ns = now_boot_ns.saturating_add(peer.lasts_ms.saturating_mul(1_000_000));
        let latest = Latest {
            issued_ms: peer.issued_ms,
            boot,
            end_boot_ns,
        };
        self.latest.insert(key, latest);
        Ok(end_boot_ns)
    }

    /// One line per node and study: for a file of the agent's own.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.latest
            .iter()
            .map(|((node, study), latest)| {
                let boot = hex::encode(latest.boot);
                let Latest {
                    issued_ms,
                    end_boot_ns,
                    ..
                } = latest;
                format!("{node} {study} {issued_ms} {boot} {end_boot_ns}\n")
            })
            .collect()
    }

    /// The reverse; `None` for anything else.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let mut seen = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [node, study, issued, boot, end] = words.as_slice() else {
                return None;
            };
            let key = (NodeId::new(node).ok()?, StudyId::new(study).ok()?);
            let latest = Latest {
                issued_ms: issued.parse().ok()?,
                boot: hex::decode(boot).ok()?.try_into().ok()?,
                end_boot_ns: end.parse().ok()?,
            };
            seen.latest.insert(key, latest);
        }
        Some(seen)
    }
}

/// Network order, 4 or 16 bytes; IPv4 in IPv6 is the IPv4 address.
fn addresses(raw: &[Vec<u8>]) -> Result<Vec<IpAddr>, PeerRefused> {
    if raw.is_empty() || raw.len() > ADDRESSES_LIMIT {
        return Err(PeerRefused::Malformed("no addresses, or more than 64"));
    }
    let parsed = raw.iter().map(|bytes| {
        let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(|four| Ipv4Addr::from(four).into());
        let v6 = <[u8; 16]>::try_from(bytes.as_slice()).map(|six| Ipv6Addr::from(six).into());
        v4.or(v6)
            .map(|address: IpAddr| address.to_canonical())
            .map_err(|_length| PeerRefused::Malformed("an address of neither 4 nor 16 bytes"))
    });
    parsed.collect()
}

fn holds(ranges: &[IpNet], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

fn of_study(study: &Study, address: IpAddr) -> bool {
    study.peers.iter().any(|rule| rule.value.contains(&address))
}

/// From the inventory's AK over the transport key to the body.
fn check_signature(
    entry: &v1::PeerEntry,
    node: &Node,
    deployment: &DeploymentId,
) -> Result<(), PeerRefused> {
    let named = node.ak.as_deref().ok_or(PeerRefused::NoAk)?;
    let ak = Public::parse(&entry.ak_public).map_err(PeerRefused::AkPublic)?;
    let ak = AkPublic::new(ak).map_err(PeerRefused::Ak)?;
    if ak.name().as_bytes() != named {
        return Err(PeerRefused::OtherAk);
    }
    let key = Public::parse(&entry.key_public).map_err(PeerRefused::KeyPublic)?;
    let want = QualifyingData::from(transport_binding(deployment, &node.ek));
    let key = CertifiedKey::verify(key, &entry.key_attest, &entry.key_signature, &ak, &want)
        .map_err(PeerRefused::Key)?;
    let PublicKey::Ec {
        curve: Curve::P256,
        point,
    } = key.key()
    else {
        return Err(PeerRefused::KeyKind);
    };
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(&signed_bytes(&entry.body), &entry.signature)
        .map_err(|_unspecified| PeerRefused::Signature)
}
