//! Lists of revoked certificates, brought by an operator, believed for as long as they say.
//!
//! Format: RFC 5280, read by [`RevocationList`]. A list is an issuer's word on its own certificates,
//! and only under the key of the issuer that stands in the chain. One that ended says nothing good
//! of anybody any more; what it took back stays so.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::error::ParseError;
use crate::ids::UnixTime;
use crate::x509::{Certificate, ListRefused, RevocationList};

use super::ocsp::{Revocation, SKEW_SECS, Status};
use super::packed::Packed;
use super::remembered::{GoodSignatures, Kind, once};

/// Longest list that is read: some twenty thousand certificates.
pub const MAX_CRL_BYTES: usize = 1024 * 1024;

/// Issuers of one name whose keys a list is tried with. The devices of a machine have one or two;
/// whoever makes up hundreds gets no list verified hundreds of times.
const MAX_ISSUERS: usize = 16;

const FILE: Packed = Packed {
    structure: "CertificateList",
    label: "X509 CRL",
    most: MAX_CRL_BYTES,
};

/// Why a list is not believed, or believed and bad.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CrlRefused {
    /// Not a list.
    #[error("malformed list of revoked certificates")]
    Malformed(#[from] ParseError),
    /// By none of the issuers at hand.
    #[error("the list of {0:?} is about none of the certificates given")]
    NotForCertificate(String),
    /// Its issuer did not make it, or may not.
    #[error("the list of revoked certificates")]
    List(#[source] ListRefused),
    /// Before it counts, or after: it says nothing good of anybody.
    #[error(
        "the list of {issuer:?} counts from {this_update} to {next_update}, seconds since 1970"
    )]
    Expired {
        /// Label of whoever made it.
        issuer: String,
        /// When it begins.
        this_update: u64,
        /// When it ends.
        next_update: u64,
    },
    /// It names the certificate.
    #[error("{subject:?} is revoked by {issuer:?}, as of {this_update}, seconds since 1970")]
    Revoked {
        /// Label of the certificate.
        subject: String,
        /// Label of whoever revoked it.
        issuer: String,
        /// When the list was made.
        this_update: u64,
    },
}

impl CrlRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "crl-malformed",
            Self::NotForCertificate(_) => "crl-not-for-certificate",
            Self::List(ListRefused::KeyUsage(_)) => "crl-key-usage",
            Self::List(why) => why.code(),
            Self::Expired { .. } => "crl-expired",
            Self::Revoked { .. } => "crl-revoked",
        }
    }
}

/// The DER in a file, be it DER, base64 or PEM: what a digest is of, and what is kept.
pub fn crl_document(file: &[u8]) -> Result<Cow<'_, [u8]>, CrlRefused> {
    Ok(FILE.der(file)?)
}

/// Reads a list to its last byte, in any of those forms.
pub fn parse_crl(file: &[u8]) -> Result<RevocationList, CrlRefused> {
    Ok(RevocationList::parse(&crl_document(file)?)?)
}

/// What a list says of the certificates in `pairs`, each with its issuer: only what that very
/// issuer signed, and good things only while it counts. All that is wrong is told.
pub fn check_crl<'a>(
    list: &RevocationList,
    pairs: &[(&'a Certificate, &'a Certificate)],
    at: UnixTime,
) -> (Vec<Revocation<'a>>, Vec<CrlRefused>) {
    check_remembering(list, pairs, at, None)
}

/// The same, sparing signatures that were good before.
pub(super) fn check_remembering<'a>(
    list: &RevocationList,
    pairs: &[(&'a Certificate, &'a Certificate)],
    at: UnixTime,
    memory: Option<&GoodSignatures>,
) -> (Vec<Revocation<'a>>, Vec<CrlRefused>) {
    let (mut believed, mut refused) = (Vec::new(), Vec::new());
    let own = |(subject, issuer): &&(&Certificate, &Certificate)| {
        subject.issuer() == list.issuer() && issuer.subject() == list.issuer()
    };
    let about: Vec<_> = pairs.iter().filter(own).collect();
    if about.is_empty() {
        let issuer = list.issuer().label();
        return (believed, vec![CrlRefused::NotForCertificate(issuer)]);
    }
    // Devices of one machine share their upper certificates.
    let mut seen = BTreeSet::new();
    let mut issuers: Vec<(&Certificate, bool)> = Vec::new();
    let expired = outside(list, at);
    for (subject, issuer) in about {
        if !seen.insert((subject.as_der(), issuer.as_der())) {
            continue;
        }
        let known = issuers.iter().find(|(known, _)| known == issuer);
        let made = match known {
            Some((_, made)) => *made,
            None if issuers.len() == MAX_ISSUERS => false,
            None => {
                let made = made_by(list, issuer, memory);
                issuers.push((issuer, made.is_ok()));
                refused.extend(made.as_ref().err().cloned().map(CrlRefused::List));
                made.is_ok()
            }
        };
        if !made {
            continue;
        }
        if list.names(subject) {
            refused.push(CrlRefused::Revoked {
                subject: subject.subject().label(),
                issuer: list.issuer().label(),
                this_update: list.this_update().secs(),
            });
        } else if expired.is_none() {
            believed.push(Revocation {
                subject,
                status: Status::Good,
                this_update: list.this_update(),
                document: list.digest(),
            });
        }
    }
    // The dates of a list that nobody made are nobody's word.
    refused.extend(expired.filter(|_| issuers.iter().any(|(_, made)| *made)));
    (believed, refused)
}

fn made_by(
    list: &RevocationList,
    issuer: &Certificate,
    memory: Option<&GoodSignatures>,
) -> Result<(), ListRefused> {
    let digest = list.digest();
    let parts: [&[u8]; 2] = [issuer.as_der(), digest.as_bytes()];
    once(memory, Kind::List, &parts, || list.verify(issuer))
}

fn outside(list: &RevocationList, at: UnixTime) -> Option<CrlRefused> {
    let (from, until) = (list.this_update().secs(), list.next_update().secs());
    let counts = at.secs().saturating_add(SKEW_SECS) >= from && at.secs() <= until;
    (!counts).then(|| CrlRefused::Expired {
        issuer: list.issuer().label(),
        this_update: from,
        next_update: until,
    })
}
