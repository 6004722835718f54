//! Responses about revocation, brought by an operator, believed for as long as they say.
//!
//! Format: RFC 6960. NVIDIA's responder answers *good* for numbers it never gave out, so a good
//! answer says little and a bad one all. A device on hold is out: nobody knows why it is held.

use std::borrow::Cow;

use const_oid::ObjectIdentifier;

use crate::crypto::{self, HashAlgorithm, PublicKey, SignatureScheme};
use crate::error::ParseError;
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::Certificate;

use super::packed::Packed;
use super::path::{p384_point, signed_by};
use super::remembered::{GoodSignatures, Kind, once};

mod parse;

/// Longest response that is read: real ones have 1 KiB.
pub const MAX_OCSP_BYTES: usize = 64 * 1024;
const FILE: Packed = Packed {
    structure: "OCSPResponse",
    label: "OCSP RESPONSE",
    most: MAX_OCSP_BYTES,
};
/// How far the clocks of whoever signs and whoever reads may differ.
pub(super) const SKEW_SECS: u64 = 5 * 60;
/// How long a response counts that does not say.
const DEFAULT_LIFE_SECS: u64 = 60 * 60;

const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");

/// Which certificate an answer is about.
#[derive(Clone, Debug, Eq, PartialEq)]
struct CertId {
    hash: HashAlgorithm,
    issuer_name: Vec<u8>,
    issuer_key: Vec<u8>,
    serial: Vec<u8>,
}

/// What the responder says of a certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Not revoked, as far as the responder knows.
    Good,
    /// Revoked, or on hold.
    Revoked {
        /// When, seconds since 1970.
        since: u64,
        /// `CRLReason`, where one is given; 6 is hold.
        reason: Option<u8>,
    },
    /// The responder knows nothing of it.
    Unknown,
}

impl Status {
    /// `good`, `revoked`, `unknown`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Revoked { .. } => "revoked",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Answer {
    id: CertId,
    status: Status,
    this_update: UnixTime,
    next_update: Option<UnixTime>,
}

impl Answer {
    /// The last second of it.
    fn until(&self) -> UnixTime {
        match self.next_update {
            Some(next) => next,
            None => UnixTime::from_secs(self.this_update.secs().saturating_add(DEFAULT_LIFE_SECS)),
        }
    }
}

/// Who signed.
#[derive(Clone, Debug, Eq, PartialEq)]
enum ResponderId {
    /// DER of the name.
    Name(Vec<u8>),
    /// SHA-1 of the key.
    Key(Vec<u8>),
}

/// A successful response. Nothing in it is trusted before [`Response::check`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response {
    digest: Sha256Digest,
    tbs: Vec<u8>,
    hash: HashAlgorithm,
    signature: Vec<u8>,
    responder: ResponderId,
    produced_at: UnixTime,
    answers: Vec<Answer>,
    certificates: Vec<Certificate>,
}

/// A believed answer about one of the certificates asked about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Revocation<'a> {
    /// The certificate.
    pub subject: &'a Certificate,
    /// What is said of it.
    pub status: Status,
    /// Since when that is so.
    pub this_update: UnixTime,
    /// SHA-256 of the document that says so.
    pub document: Sha256Digest,
}

/// Why a response is not believed, or believed and bad.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OcspRefused {
    /// Not a response.
    #[error("malformed OCSP response")]
    Malformed(#[from] ParseError),
    /// The responder answered with an error.
    #[error("the responder did not answer: status {0}")]
    Unsuccessful(u8),
    /// About none of the certificates at hand.
    #[error("the response is about none of the certificates given")]
    NotForCertificate,
    /// Nobody who may say so signed it: whatever it says, it is nobody's word.
    #[error("the response about {subject:?}, which says {said}: {why}")]
    Signature {
        /// Label of the certificate.
        subject: String,
        /// What it says of it: `good`, `revoked`, `unknown`.
        said: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Before it counts, or after.
    #[error(
        "the response about {subject:?} counts from {this_update} to {next_update}, seconds since 1970"
    )]
    Expired {
        /// Label of the certificate.
        subject: String,
        /// When it begins.
        this_update: u64,
        /// When it ends.
        next_update: u64,
    },
    /// The certificate is revoked or on hold.
    #[error("{subject:?} is revoked since {since}, seconds since 1970{}", reason_text(.reason))]
    Revoked {
        /// Its label.
        subject: String,
        /// When it was.
        since: u64,
        /// `CRLReason`.
        reason: Option<u8>,
    },
    /// The responder does not know the certificate.
    #[error("the responder does not know {0:?}")]
    Unknown(String),
}

fn reason_text(reason: &Option<u8>) -> String {
    match reason {
        None => String::new(),
        Some(1) => " (keyCompromise)".to_owned(),
        Some(2) => " (cACompromise)".to_owned(),
        Some(6) => " (certificateHold)".to_owned(),
        Some(other) => format!(" (reason {other})"),
    }
}

impl OcspRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "ocsp-malformed",
            Self::Unsuccessful(_) => "ocsp-status",
            Self::NotForCertificate => "ocsp-not-for-certificate",
            Self::Signature { .. } => "ocsp-signature",
            Self::Expired { .. } => "ocsp-expired",
            Self::Revoked { .. } => "ocsp-revoked",
            Self::Unknown(_) => "ocsp-unknown",
        }
    }
}

impl Response {
    /// Reads DER, or base64 of it, to its last byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, OcspRefused> {
        parse::response(bytes)
    }

    /// The DER in a file, whatever its form: what a digest is of, and what is kept.
    pub fn document(file: &[u8]) -> Result<Cow<'_, [u8]>, OcspRefused> {
        Ok(FILE.der(file)?)
    }

    /// SHA-256 of the DER.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Serial numbers of the certificates it is about, as they stand there.
    pub fn serials(&self) -> impl Iterator<Item = &[u8]> {
        self.answers
            .iter()
            .map(|answer| answer.id.serial.as_slice())
    }

    /// From when until when all of it counts, both inclusive, by its own word.
    #[must_use]
    pub fn counts(&self) -> (UnixTime, UnixTime) {
        let from = self.answers.iter().map(|answer| answer.this_update).max();
        let until = self.answers.iter().map(Answer::until).min();
        let made = self.produced_at;
        (from.unwrap_or(made), until.unwrap_or(made))
    }

    /// The certificates that came with it: its responder's, if the issuer did not sign itself.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// What it says of the certificates in `pairs`, each with its issuer: only what that issuer,
    /// or a responder it certified for this, signed, and only while it counts. All that is wrong
    /// is told.
    pub fn check<'a>(
        &self,
        pairs: &[(&'a Certificate, &'a Certificate)],
        at: UnixTime,
    ) -> (Vec<Revocation<'a>>, Vec<OcspRefused>) {
        self.check_remembering(pairs, at, None)
    }

    /// The same, sparing signatures that were good before.
    pub(super) fn check_remembering<'a>(
        &self,
        pairs: &[(&'a Certificate, &'a Certificate)],
        at: UnixTime,
        memory: Option<&GoodSignatures>,
    ) -> (Vec<Revocation<'a>>, Vec<OcspRefused>) {
        let (mut believed, mut refused) = (Vec::new(), Vec::new());
        let mut found = false;
        for answer in &self.answers {
            let about = pairs
                .iter()
                .find(|(subject, issuer)| answer.id.names(subject, issuer));
            let Some((subject, issuer)) = about else {
                continue;
            };
            found = true;
            let wrong = self.wrong(answer, subject, issuer, at, memory);
            if wrong.is_empty() {
                believed.push(Revocation {
                    subject,
                    status: answer.status,
                    this_update: answer.this_update,
                    document: self.digest,
                });
            }
            refused.extend(wrong);
        }
        if !found {
            refused.push(OcspRefused::NotForCertificate);
        }
        (believed, refused)
    }

    fn wrong(
        &self,
        answer: &Answer,
        subject: &Certificate,
        issuer: &Certificate,
        at: UnixTime,
        memory: Option<&GoodSignatures>,
    ) -> Vec<OcspRefused> {
        let label = || subject.subject().label();
        // What nobody signed revokes nothing, or whoever can hand in a file could close any node.
        // Its dates are nobody's word either.
        if let Err(why) = self.signed_for(issuer, memory) {
            return vec![OcspRefused::Signature {
                subject: label(),
                said: answer.status.name(),
                why,
            }];
        }
        let mut refused = Vec::new();
        let this_update = answer.this_update.secs();
        let next_update = answer.until().secs();
        if at.secs().saturating_add(SKEW_SECS) < this_update || at.secs() > next_update {
            refused.push(OcspRefused::Expired {
                subject: label(),
                this_update,
                next_update,
            });
        }
        match answer.status {
            Status::Good => {}
            Status::Revoked { since, reason } => refused.push(OcspRefused::Revoked {
                subject: label(),
                since,
                reason,
            }),
            Status::Unknown => refused.push(OcspRefused::Unknown(label())),
        }
        refused
    }

    /// The issuer signed this response, or a responder that it certified for just this.
    fn signed_for(
        &self,
        issuer: &Certificate,
        memory: Option<&GoodSignatures>,
    ) -> Result<(), &'static str> {
        let issuer_key = match issuer.key() {
            Ok(key) if p384_point(key).is_some() => key,
            _ => return Err("the key of the issuer is not P-384"),
        };
        if self.is_by(issuer) {
            return self.signed_by(issuer_key, memory);
        }
        let responder = self.certificates.iter().find(|one| self.is_by(one));
        let Some(responder) = responder else {
            return Err("the certificate of its responder is not in it");
        };
        let certified = || signed_by(responder, issuer_key, memory);
        if responder.issuer() != issuer.subject() || !certified() {
            return Err("its responder was certified by another than the issuer");
        }
        let purposes = responder.purposes().unwrap_or_default();
        if !purposes.contains(&OCSP_SIGNING) {
            return Err("its responder is not certified for OCSP");
        }
        if responder.unknown_critical().is_some() {
            return Err("its responder has a critical extension that is not understood");
        }
        let made = self.produced_at;
        if made < responder.not_before() || made.secs() > responder.not_after().secs() {
            return Err("its responder was not valid when it was made");
        }
        match responder.key() {
            Ok(key) if p384_point(key).is_some() => self.signed_by(key, memory),
            _ => Err("the key of its responder is not P-384"),
        }
    }

    fn signed_by(
        &self,
        key: &PublicKey,
        memory: Option<&GoodSignatures>,
    ) -> Result<(), &'static str> {
        let scheme = SignatureScheme::Ecdsa(self.hash);
        let point = p384_point(key).unwrap_or_default();
        let hash = self.hash.to_string();
        let parts = [point, hash.as_bytes(), &self.tbs, &self.signature];
        let verify = || crypto::verify(key, scheme, &self.tbs, &self.signature);
        once(memory, Kind::Response, &parts, verify)
            .map_err(|_mismatch| "its signature does not verify")
    }

    fn is_by(&self, certificate: &Certificate) -> bool {
        match &self.responder {
            ResponderId::Name(name) => *name == certificate.subject_der(),
            ResponderId::Key(digest) => certificate.key().is_ok_and(|key| {
                let own = HashAlgorithm::Sha1.digest(&[key_bits(key)]);
                own.is_some_and(|own| own.as_slice() == digest.as_slice())
            }),
        }
    }
}

impl CertId {
    fn names(&self, subject: &Certificate, issuer: &Certificate) -> bool {
        let is = |part: &[u8], digest: &[u8]| {
            let own = self.hash.digest(&[part]);
            own.is_some_and(|own| own.as_slice() == digest)
        };
        subject.serial() == self.serial
            && subject.issuer() == issuer.subject()
            && is(subject.issuer_der(), &self.issuer_name)
            && issuer
                .key()
                .is_ok_and(|key| is(key_bits(key), &self.issuer_key))
    }
}

/// What stands in the bit string of a key; RSA keys have no such form here and match nothing.
fn key_bits(key: &PublicKey) -> &[u8] {
    match key {
        PublicKey::Ec { point, .. } => point,
        PublicKey::Ed25519(key) => key,
        PublicKey::Rsa { .. } => &[],
    }
}
