//! From a leaf to an anchor.

use crate::crypto::{KeyError, Unsupported, VerifyError};
use crate::ids::UnixTime;

use super::certificate::{Certificate, SignatureRefused};

/// Certificates in one path, leaf and anchor included. The longest known, Intel's on-die chain,
/// has six.
pub const MAX_PATH: usize = 8;
/// Signatures checked in the search for one path: certificates that share a name and differ in
/// key cost one each, and whoever sends intermediates chooses how many.
pub const MAX_SIGNATURE_CHECKS: usize = 64;

/// Why there is no path from a certificate to an anchor.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathRefused {
    /// No certificate given vouches for this one, all the way to an anchor.
    #[error("nothing given issued {subject:?}; it names {issuer:?} as its issuer")]
    NoPath {
        /// Label of the certificate where the path ends.
        subject: String,
        /// Label of the issuer it names.
        issuer: String,
    },
    /// Before `notBefore` of a certificate on the path.
    #[error("{subject:?} is not valid before {not_before}, seconds since 1970")]
    NotYetValid {
        /// Its label.
        subject: String,
        /// When it begins.
        not_before: u64,
    },
    /// After `notAfter` of a certificate on the path.
    #[error("{subject:?} was valid until {not_after}, seconds since 1970")]
    Expired {
        /// Its label.
        subject: String,
        /// When it ended.
        not_after: u64,
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
        /// The extension, dotted.
        id: String,
    },
    /// Signed with SHA-1.
    #[error("{0:?} is signed with SHA-1")]
    Sha1(String),
    /// Signed in a way that cannot be checked.
    #[error("the signature of {subject:?} cannot be checked")]
    Unsupported {
        /// Its label.
        subject: String,
        /// Why.
        #[source]
        reason: SignatureRefused,
    },
    /// An issuer's key that cannot be used.
    #[error("the key of {subject:?} cannot be used")]
    Key {
        /// Its label.
        subject: String,
        /// Why.
        #[source]
        reason: KeyError,
    },
    /// The issuer is there, and did not sign this.
    #[error("{issuer:?} did not sign {subject:?}")]
    Signature {
        /// Label of the certificate.
        subject: String,
        /// Label of the would-be issuer.
        issuer: String,
    },
    /// A limit of the search was reached.
    #[error("the search for a path was given up: more than {MAX_SIGNATURE_CHECKS} signatures")]
    Limit,
}

impl PathRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoPath { .. } => "no-path",
            Self::NotYetValid { .. } => "not-yet-valid",
            Self::Expired { .. } => "expired",
            Self::NotCa(_) => "not-a-ca",
            Self::KeyUsage(_) => "key-usage",
            Self::PathLength(_) => "path-length",
            Self::CriticalExtension { .. } => "critical-extension",
            Self::Sha1(_) => "sha1-signature",
            Self::Unsupported { .. } => "unsupported-signature",
            Self::Key { reason, .. } => reason.code(),
            Self::Signature { .. } => "signature",
            Self::Limit => "path-limit",
        }
    }
}

/// Finds a path from `leaf` to one of `anchors`, leaf first, and checks every certificate of it
/// at the time `at`.
///
/// An anchor is a key and a name somebody configured: its own signature is not looked at, and a
/// copy of it among the intermediates is one too. Intermediates may come in any order; those
/// that fit nowhere are ignored. Where no path is good, the reason is of the one that came
/// furthest.
pub fn find_path<'a>(
    leaf: &'a Certificate,
    intermediates: &'a [Certificate],
    anchors: &'a [Certificate],
    at: UnixTime,
) -> Result<Vec<&'a Certificate>, PathRefused> {
    check_itself(leaf, at)?;
    let mut search = Search {
        intermediates,
        anchors,
        at,
        checks: 0,
        furthest: None,
    };
    let mut path = vec![leaf];
    if search.extend(&mut path)? {
        return Ok(path);
    }
    let (_, refused) = search.furthest.unwrap_or_else(|| (0, no_path(leaf)));
    Err(refused)
}

struct Search<'a> {
    intermediates: &'a [Certificate],
    anchors: &'a [Certificate],
    at: UnixTime,
    checks: usize,
    /// The refusal met on the longest path, and that length.
    furthest: Option<(usize, PathRefused)>,
}

impl<'a> Search<'a> {
    /// Extends a path to an anchor, depth first. `Err` only where the search is given up.
    fn extend(&mut self, path: &mut Vec<&'a Certificate>) -> Result<bool, PathRefused> {
        let Some(last) = path.last().copied() else {
            return Ok(false);
        };
        if path.len() >= MAX_PATH {
            return Ok(false);
        }
        let mut met_issuer = false;
        let candidates = self.anchors.iter().map(|c| (c, true));
        for (issuer, is_root) in candidates.chain(self.intermediates.iter().map(|c| (c, false))) {
            if issuer.subject() != last.issuer() || path.contains(&issuer) {
                continue;
            }
            met_issuer = true;
            if let Err(refused) = self.check_issuer(issuer, last, path) {
                if refused == PathRefused::Limit {
                    return Err(refused);
                }
                self.note(path.len(), refused);
                continue;
            }
            path.push(issuer);
            if is_root || self.is_anchor(issuer) || self.extend(path)? {
                return Ok(true);
            }
            path.pop();
        }
        if !met_issuer {
            self.note(path.len(), no_path(last));
        }
        Ok(false)
    }

    fn is_anchor(&self, certificate: &Certificate) -> bool {
        self.anchors.iter().any(|anchor| {
            anchor.subject() == certificate.subject()
                && anchor.key().is_ok()
                && anchor.key() == certificate.key()
        })
    }

    fn note(&mut self, length: usize, refused: PathRefused) {
        // Of equally long paths, a reason other than "nothing there" tells more.
        let better = match &self.furthest {
            None => true,
            Some((longest, PathRefused::NoPath { .. } | PathRefused::Signature { .. })) => {
                length >= *longest
            }
            Some((longest, _)) => length > *longest,
        };
        if better {
            self.furthest = Some((length, refused));
        }
    }

    /// Everything that lets `issuer` stand above `below`, the costly check last.
    fn check_issuer(
        &mut self,
        issuer: &Certificate,
        below: &Certificate,
        path: &[&Certificate],
    ) -> Result<(), PathRefused> {
        let subject = || issuer.subject().label();
        if !issuer.is_ca() {
            return Err(PathRefused::NotCa(subject()));
        }
        if !issuer.may_sign_certificates() {
            return Err(PathRefused::KeyUsage(subject()));
        }
        let between = path
            .iter()
            .skip(1)
            .filter(|ca| !ca.is_self_issued())
            .count();
        if issuer
            .path_length()
            .is_some_and(|most| usize::try_from(most).is_ok_and(|most| between > most))
        {
            return Err(PathRefused::PathLength(subject()));
        }
        check_itself(issuer, self.at)?;
        let key = issuer.key().map_err(|reason| PathRefused::Key {
            subject: subject(),
            reason: reason.clone(),
        })?;
        self.checks += 1;
        if self.checks > MAX_SIGNATURE_CHECKS {
            return Err(PathRefused::Limit);
        }
        below.verify_signature(key).map_err(|reason| match reason {
            SignatureRefused::Verify(VerifyError::Unsupported(Unsupported::Sha1)) => {
                PathRefused::Sha1(below.subject().label())
            }
            SignatureRefused::Verify(VerifyError::Mismatch | VerifyError::KeyKind) => {
                PathRefused::Signature {
                    subject: below.subject().label(),
                    issuer: subject(),
                }
            }
            reason => PathRefused::Unsupported {
                subject: below.subject().label(),
                reason,
            },
        })
    }
}

fn no_path(certificate: &Certificate) -> PathRefused {
    PathRefused::NoPath {
        subject: certificate.subject().label(),
        issuer: certificate.issuer().label(),
    }
}

/// What a certificate must satisfy wherever on a path it stands.
fn check_itself(certificate: &Certificate, at: UnixTime) -> Result<(), PathRefused> {
    let subject = || certificate.subject().label();
    if at < certificate.not_before() {
        return Err(PathRefused::NotYetValid {
            subject: subject(),
            not_before: certificate.not_before().secs(),
        });
    }
    // The last second is inside.
    if at.secs() > certificate.not_after().secs() {
        return Err(PathRefused::Expired {
            subject: subject(),
            not_after: certificate.not_after().secs(),
        });
    }
    if let Some(id) = certificate.unknown_critical() {
        return Err(PathRefused::CriticalExtension {
            subject: subject(),
            id: id.to_string(),
        });
    }
    Ok(())
}
