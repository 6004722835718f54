//! Paths of NVIDIA's: from a device, or from the signer of its reference values, to a root key.

use std::fmt;

use const_oid::ObjectIdentifier;

use crate::crypto::{Curve, PublicKey};
use crate::ids::UnixTime;
use crate::x509::{Certificate, MAX_PATH, MAX_SIGNATURE_CHECKS};

use super::remembered::{GoodSignatures, Kind, once};

/// Name and key of "NVIDIA Device Identity CA", the same in both certificates NVIDIA published
/// for it (serials `2d3670b1…5b54`, of 2021, in nvtrust as `verifier_device_root.pem`, and
/// `3aaf87db…4c09`, of 2020): SHA-256 of the `SubjectPublicKeyInfo` is `a90c4eb5…b06a4`.
const DEVICE_ROOT: (&str, [u8; 97]) = (
    "NVIDIA Device Identity CA",
    point(
        b"040e4c14a33bf8a5626658db4129607e4cbf4519c4412716f4d0d917c4978005bdeabeaefd57bc66082d718a4f8b6052e1\
          516ee8a7c422b84de857071bb58fd395bea0cfa1c63ee7c80d6bd63901d91cbbd187d3857dc16b5cceaf238ff8c27dbd",
    ),
);

/// Name and key of "NVIDIA CoRIM signing Root CA" (serial `45dae3a0…e270`, until 2053, in nvtrust
/// as `verifier_RIM_root.pem`): SHA-256 of the `SubjectPublicKeyInfo` is `dec1dc31…1e1a3`.
const RIM_ROOT: (&str, [u8; 97]) = (
    "NVIDIA CoRIM signing Root CA",
    point(
        b"04b840b28bdbcd33e230da57d4cf2065747030682d4717b4c2829d7641c1325139b74da831c2be3c779e7e2b6548956608\
          0e4ecd94021075c57f15fedeb862c8f906ae8fddc7b12238597dbdf0fa56e78453833f6d0be43af3871a47f057584799",
    ),
);

/// A name and a key that somebody chose to trust.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Anchor {
    label: String,
    key: PublicKey,
}

/// What paths may end in. Keys are compared, not certificates: NVIDIA published two for one key,
/// and the copy of the root that a device sends says nothing by itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Anchors(Vec<Anchor>);

impl Anchors {
    /// NVIDIA's root for devices, built in.
    #[must_use]
    pub fn device() -> Self {
        Self::built_in(&DEVICE_ROOT)
    }

    /// NVIDIA's root for signers of reference values, built in.
    #[must_use]
    pub fn rim() -> Self {
        Self::built_in(&RIM_ROOT)
    }

    fn built_in((label, point): &(&str, [u8; 97])) -> Self {
        Self(vec![Anchor {
            label: (*label).to_owned(),
            key: PublicKey::Ec {
                curve: Curve::P384,
                point: point.to_vec(),
            },
        }])
    }

    /// The keys of certificates that an operator named. One whose key cannot be used is left out.
    #[must_use]
    pub fn of(certificates: &[Certificate]) -> Self {
        let anchors = certificates.iter().filter_map(|certificate| {
            Some(Anchor {
                label: certificate.subject().label(),
                key: certificate.key().ok()?.clone(),
            })
        });
        Self(anchors.collect())
    }

    /// These and the others.
    #[must_use]
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// The certificate has the key of one of them.
    #[must_use]
    pub fn hold(&self, certificate: &Certificate) -> bool {
        certificate
            .key()
            .is_ok_and(|key| self.0.iter().any(|anchor| anchor.key == *key))
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter().map(|anchor| &anchor.key)
    }

    /// The one that issued the certificate, by name and signature.
    fn issuer_of(&self, certificate: &Certificate) -> Option<&Anchor> {
        let label = certificate.issuer().label();
        self.0
            .iter()
            .find(|anchor| anchor.label == label && signed_by(certificate, &anchor.key, None))
    }
}

/// What is wrong with a chain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChainRefused {
    /// Another number of certificates than such a chain has.
    #[error("the chain has {found} certificates, such a chain has {want}")]
    Length {
        /// As given.
        found: usize,
        /// As it has to be.
        want: usize,
    },
    /// Two neighbours of which the second is not whom the first names as issuer.
    #[error("{subject:?} was issued by {issuer:?}, and {next:?} follows it")]
    Name {
        /// Label of the lower one.
        subject: String,
        /// Label of the issuer it names.
        issuer: String,
        /// Label of the one above.
        next: String,
    },
    /// The issuer is there, and did not sign this.
    #[error("{issuer:?} did not sign {subject:?}")]
    Signature {
        /// Label of the lower one.
        subject: String,
        /// Label of the one above.
        issuer: String,
    },
    /// An issuer that is not a CA.
    #[error("{0:?} is no CA")]
    NotCa(String),
    /// An issuer whose key may not sign certificates.
    #[error("the key of {0:?} may not sign certificates")]
    KeyUsage(String),
    /// More CAs below an issuer than it allows.
    #[error("{0:?} allows fewer CAs below it")]
    PathLength(String),
    /// A critical extension that is not understood.
    #[error("{subject:?} has the critical extension {id}, which is not understood")]
    CriticalExtension {
        /// Its label.
        subject: String,
        /// What it is.
        id: ObjectIdentifier,
    },
    /// The chain ends in a key nobody chose to trust.
    #[error("the chain ends in {0:?}, whose key is not one that is trusted")]
    Root(String),
    /// Of the certificates given, none continues the path to a key that is trusted.
    #[error("no path from {0:?} to a key that is trusted")]
    NoPath(String),
    /// Before `notBefore`.
    #[error("{subject:?} is not valid before {not_before}, seconds since 1970")]
    NotYetValid {
        /// Its label.
        subject: String,
        /// When it begins.
        not_before: u64,
    },
    /// After `notAfter`.
    #[error("{subject:?} was valid until {not_after}, seconds since 1970")]
    Expired {
        /// Its label.
        subject: String,
        /// When it ended.
        not_after: u64,
    },
}

impl ChainRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Length { .. } => "chain-length",
            Self::Name { .. }
            | Self::Signature { .. }
            | Self::NotCa(_)
            | Self::KeyUsage(_)
            | Self::PathLength(_)
            | Self::CriticalExtension { .. } => "chain-signature",
            Self::Root(_) | Self::NoPath(_) => "chain-root",
            Self::NotYetValid { .. } => "chain-not-yet-valid",
            Self::Expired { .. } => "chain-expired",
        }
    }
}

/// Checks a chain of exactly `length` certificates, leaf first, each issued by the next, the last
/// with an anchor's key; everything but dates, which [`outside_dates`] checks. All that is wrong
/// is told, nothing else is said of a chain of another length.
///
/// Every key is P-384 and every signature ECDSA, as in all of NVIDIA's.
#[must_use]
pub fn check_chain(chain: &[Certificate], length: usize, anchors: &Anchors) -> Vec<ChainRefused> {
    check_remembering(chain, length, anchors, None)
}

/// The same, sparing signatures that were good before.
pub(super) fn check_remembering(
    chain: &[Certificate],
    length: usize,
    anchors: &Anchors,
    memory: Option<&GoodSignatures>,
) -> Vec<ChainRefused> {
    if chain.len() != length {
        return vec![ChainRefused::Length {
            found: chain.len(),
            want: length,
        }];
    }
    let mut refused = Vec::new();
    for (below, certificate) in chain.iter().enumerate() {
        refused.extend(unknown_critical(certificate));
        if let Some(issuer) = chain.get(below + 1) {
            refused.extend(not_issued(certificate, issuer, memory));
            refused.extend(not_an_issuer(issuer, below));
        }
    }
    if let Some(last) = chain.last()
        && !anchors.hold(last)
    {
        refused.push(ChainRefused::Root(last.subject().label()));
    }
    refused
}

/// Certificates that are not valid at `at`; the first and the last second are inside.
#[must_use]
pub fn outside_dates<'a>(
    certificates: impl IntoIterator<Item = &'a Certificate>,
    at: UnixTime,
) -> Vec<ChainRefused> {
    let refused = certificates.into_iter().filter_map(|certificate| {
        let subject = || certificate.subject().label();
        if at < certificate.not_before() {
            Some(ChainRefused::NotYetValid {
                subject: subject(),
                not_before: certificate.not_before().secs(),
            })
        } else if at.secs() > certificate.not_after().secs() {
            Some(ChainRefused::Expired {
                subject: subject(),
                not_after: certificate.not_after().secs(),
            })
        } else {
            None
        }
    });
    refused.collect()
}

/// Finds a path from `leaf` over `others`, in any order and with any left over, to an anchor, all
/// valid at `at`, and gives the common names on it, leaf first, the anchor's last.
pub fn find_chain(
    leaf: &Certificate,
    others: &[Certificate],
    anchors: &Anchors,
    at: UnixTime,
) -> Result<Vec<String>, Vec<ChainRefused>> {
    find_path(leaf, others, anchors, at).map(|path| path.names())
}

/// The same, and gives the certificates.
pub fn find_path<'a>(
    leaf: &'a Certificate,
    others: &'a [Certificate],
    anchors: &'a Anchors,
    at: UnixTime,
) -> Result<FoundPath<'a>, Vec<ChainRefused>> {
    let found = find_path_above(leaf, others, anchors, at);
    let own = outside_dates([leaf], at);
    match found {
        Ok(path) if own.is_empty() => Ok(path),
        Ok(_) => Err(own),
        Err(refused) => Err(own.into_iter().chain(refused).collect()),
    }
}

/// A path that was found.
#[derive(Clone, Debug)]
pub struct FoundPath<'a> {
    /// The certificates on it, leaf first.
    pub certificates: Vec<&'a Certificate>,
    /// Label of the anchor that issued the last of them, where that is none itself.
    pub anchor: Option<String>,
}

impl FoundPath<'_> {
    /// Common names, leaf first, the anchor's last.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let own = self.certificates.iter().map(|one| one.subject().label());
        own.chain(self.anchor.clone()).collect()
    }
}

/// As [`find_chain`], but for the dates of `leaf` itself: who signed what is signed once and read
/// for years is one question, until when the signer's certificate counts is another.
pub fn find_chain_above(
    leaf: &Certificate,
    others: &[Certificate],
    anchors: &Anchors,
    at: UnixTime,
) -> Result<Vec<String>, Vec<ChainRefused>> {
    find_path_above(leaf, others, anchors, at).map(|path| path.names())
}

fn find_path_above<'a>(
    leaf: &'a Certificate,
    others: &'a [Certificate],
    anchors: &'a Anchors,
    at: UnixTime,
) -> Result<FoundPath<'a>, Vec<ChainRefused>> {
    let critical: Vec<ChainRefused> = unknown_critical(leaf).into_iter().collect();
    if !critical.is_empty() {
        return Err(critical);
    }
    let search = |at| {
        let mut search = Search {
            others,
            anchors,
            at,
            checks: 0,
        };
        let mut path = vec![leaf];
        search.extend(&mut path).map(|anchor| (path, anchor))
    };
    if let Some((certificates, anchor)) = search(Some(at)) {
        return Ok(FoundPath {
            certificates,
            anchor,
        });
    }
    // Is there a path, and only time is against it?
    let outside = search(None).map(|(path, _)| outside_dates(path.into_iter().skip(1), at));
    Err(match outside {
        Some(refused) if !refused.is_empty() => refused,
        _ => vec![ChainRefused::NoPath(leaf.subject().label())],
    })
}

/// Depth first, bounded in depth and in signatures: certificates that share a name and differ in
/// key cost one check each.
struct Search<'a> {
    others: &'a [Certificate],
    anchors: &'a Anchors,
    /// When every certificate has to be valid; `None`: whenever.
    at: Option<UnixTime>,
    checks: usize,
}

impl<'a> Search<'a> {
    /// Extends a path until its end has an anchor's key, or an anchor issued that end: then the
    /// label of that anchor is given too.
    fn extend(&mut self, path: &mut Vec<&'a Certificate>) -> Option<Option<String>> {
        let last = *path.last()?;
        if self.anchors.hold(last) {
            return Some(None);
        }
        if path.len() >= MAX_PATH {
            return None;
        }
        for issuer in self.others {
            if issuer.subject() != last.issuer() || path.contains(&issuer) {
                continue;
            }
            let valid = |at| outside_dates([issuer], at).is_empty();
            if unknown_critical(issuer).is_some()
                || !not_an_issuer(issuer, path.len() - 1).is_empty()
                || !self.at.is_none_or(valid)
            {
                continue;
            }
            self.checks += 1;
            if self.checks > MAX_SIGNATURE_CHECKS {
                return None;
            }
            if not_issued(last, issuer, None).is_some() {
                continue;
            }
            path.push(issuer);
            if let Some(found) = self.extend(path) {
                return Some(found);
            }
            path.pop();
        }
        let anchor = self.anchors.issuer_of(last)?;
        Some(Some(anchor.label.clone()))
    }
}

fn unknown_critical(certificate: &Certificate) -> Option<ChainRefused> {
    certificate
        .unknown_critical()
        .map(|id| ChainRefused::CriticalExtension {
            subject: certificate.subject().label(),
            id,
        })
}

/// Name and signature. Names are compared first: that they differ explains a bad signature.
fn not_issued(
    below: &Certificate,
    issuer: &Certificate,
    memory: Option<&GoodSignatures>,
) -> Option<ChainRefused> {
    if below.issuer() != issuer.subject() {
        return Some(ChainRefused::Name {
            subject: below.subject().label(),
            issuer: below.issuer().label(),
            next: issuer.subject().label(),
        });
    }
    if issuer.key().is_ok_and(|key| signed_by(below, key, memory)) {
        return None;
    }
    Some(ChainRefused::Signature {
        subject: below.subject().label(),
        issuer: issuer.subject().label(),
    })
}

/// Why a certificate may not stand above others, `cas_below` of them CAs.
fn not_an_issuer(certificate: &Certificate, cas_below: usize) -> Vec<ChainRefused> {
    let label = || certificate.subject().label();
    let mut refused = Vec::new();
    if !certificate.is_ca() {
        refused.push(ChainRefused::NotCa(label()));
    }
    if !certificate.may_sign_certificates() {
        refused.push(ChainRefused::KeyUsage(label()));
    }
    let most = certificate.path_length().map(usize::try_from);
    if most.is_some_and(|most| most.is_ok_and(|most| cas_below > most)) {
        refused.push(ChainRefused::PathLength(label()));
    }
    refused
}

/// ECDSA by a P-384 key; which hash, the certificate says.
pub(super) fn signed_by(
    below: &Certificate,
    key: &PublicKey,
    memory: Option<&GoodSignatures>,
) -> bool {
    let Some(point) = p384_point(key) else {
        return false;
    };
    let parts = [point, below.as_der()];
    let verified = once(memory, Kind::Certificate, &parts, || {
        below.verify_signature(key)
    });
    verified.is_ok()
}

/// The point of a key on P-384; of other keys nothing.
pub(super) const fn p384_point(key: &PublicKey) -> Option<&[u8]> {
    match key {
        PublicKey::Ec {
            curve: Curve::P384,
            point,
        } => Some(point.as_slice()),
        _ => None,
    }
}

/// The only kind of key NVIDIA's devices and signers have.
pub(super) const fn is_p384(key: &PublicKey) -> bool {
    p384_point(key).is_some()
}

impl fmt::Display for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<&str> = self.0.iter().map(|anchor| anchor.label.as_str()).collect();
        f.write_str(&labels.join(", "))
    }
}

/// An uncompressed point from hex, while compiling.
const fn point(hex: &[u8; 194]) -> [u8; 97] {
    const fn digit(c: u8) -> u8 {
        match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            _ => panic!("not a hex digit"),
        }
    }
    let mut bytes = [0; 97];
    let mut rest: &[u8] = hex;
    let mut left: &mut [u8] = &mut bytes;
    while let ([high, low, more @ ..], [byte, others @ ..]) = (rest, left) {
        *byte = digit(*high) << 4 | digit(*low);
        rest = more;
        left = others;
    }
    bytes
}
