//! Who may approve: OpenSSH's `allowed_signers`, and how many of them it takes.
//!
//! The file says which keys belong to which principal, for which namespaces and how long
//! (ssh-keygen(1), "ALLOWED SIGNERS"). Where it could mean more than one thing for a count of
//! people, this reader is stricter than OpenSSH, which has nothing to count:
//!
//! - one bad line refuses the file, instead of being passed over;
//! - a principal is a name, not a pattern, since a pattern is nobody in particular;
//! - times end in `Z`, since local time depends on the machine;
//! - certificate authorities are refused, since whoever they certify cannot be counted.
//!
//! Principals that share a key, and keys that share a principal, are one person.

mod chain;
mod file;
mod line;

use std::collections::BTreeSet;

use bailiwick_attestation::{FileError, Sha256Digest, UnixTime};

use crate::kind::{Kind, Role};
use crate::ssh::{PublicKey, SignatureFault, SshSignature};
pub use chain::{CHAIN_LIMIT, Chain};
pub use file::{THRESHOLDS_FILE_LIMIT, Thresholds};
use line::Line;

/// Most bytes of an `allowed_signers` file.
pub const APPROVERS_FILE_LIMIT: usize = 256 * 1024;
/// Most keys: a few dozen people with some keys each.
pub const APPROVERS_LIMIT: usize = 256;

/// Who may approve, and how many of them it takes.
#[derive(Clone, Debug)]
pub struct Approvers {
    lines: Vec<Line>,
    /// Line → person: equal numbers are one person.
    persons: Vec<usize>,
    thresholds: Thresholds,
    digest: Sha256Digest,
}

/// Approvers that cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ApproversError {
    /// A line that cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A threshold of zero: anybody could write policy.
    #[error("threshold 0 lets anybody write policy; set it to 1 or more")]
    Zero,
    /// A threshold nobody can meet.
    #[error(
        "threshold {threshold} cannot be met: {file} names {persons} person(s) (principals that \
         share a key, and keys that share a principal, count once)"
    )]
    Unreachable {
        /// The file.
        file: String,
        /// What is asked for.
        threshold: u32,
        /// What there is.
        persons: usize,
    },
}

/// Why a good signature does not count as an approval.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAnApprover {
    /// The signature itself is no good.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// No line has the key.
    #[error("key {fingerprint} is not among the approvers")]
    Unknown {
        /// `SHA256:…`.
        fingerprint: String,
    },
    /// The key's line does not name the namespace.
    #[error("{principals} may not sign for namespace {namespace:?} (line {line})")]
    Namespace {
        /// Whose key it is.
        principals: String,
        /// What was signed for.
        namespace: String,
        /// Line of the approvers' file.
        line: usize,
    },
    /// The key's line begins to hold later.
    #[error(
        "key of {principals} is valid from {from} (Unix seconds), and it is {now} (line {line})"
    )]
    NotYetValid {
        /// Whose key it is.
        principals: String,
        /// First second.
        from: u64,
        /// The present.
        now: u64,
        /// Line of the approvers' file.
        line: usize,
    },
    /// The key's line holds no more.
    #[error(
        "key of {principals} was valid until {until} (Unix seconds), and it is {now} (line {line})"
    )]
    NoLongerValid {
        /// Whose key it is.
        principals: String,
        /// Last second.
        until: u64,
        /// The present.
        now: u64,
        /// Line of the approvers' file.
        line: usize,
    },
}

/// When a key must be valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Validity {
    /// At this time: for whatever is new.
    At(UnixTime),
    /// Whenever: for what was accepted before, and is read again.
    Settled,
}

/// One person who approved.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Approval {
    /// Equal for two approvals of one person.
    pub person: usize,
    /// Principals of the line, comma-separated.
    pub principals: String,
    /// `SHA256:…` of the key.
    pub fingerprint: String,
}

impl Approvers {
    /// Reads an `allowed_signers` file whole; the threshold holds for every role.
    pub fn parse(file: &str, bytes: &[u8], threshold: u32) -> Result<Self, ApproversError> {
        let thresholds = Thresholds {
            main: threshold,
            ..Thresholds::default()
        };
        Self::with(file, bytes, thresholds)
    }

    /// Reads an `allowed_signers` file whole.
    pub fn with(file: &str, bytes: &[u8], thresholds: Thresholds) -> Result<Self, ApproversError> {
        let threshold = thresholds.main;
        let lines = line::parse_all(file, bytes)?;
        let persons = persons(&lines);
        let mut distinct = persons.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if threshold == 0 {
            return Err(ApproversError::Zero);
        }
        if usize::try_from(threshold).map_or(true, |threshold| threshold > distinct.len()) {
            return Err(ApproversError::Unreachable {
                file: file.to_owned(),
                threshold,
                persons: distinct.len(),
            });
        }
        let digest = digest(&thresholds, bytes);
        Ok(Self {
            lines,
            persons,
            thresholds,
            digest,
        })
    }

    /// How many persons it takes, where no role says otherwise.
    #[must_use]
    pub const fn threshold(&self) -> u32 {
        self.thresholds.main
    }

    /// How many persons of a role it takes.
    #[must_use]
    pub fn threshold_of_role(&self, role: Role) -> u32 {
        let own = self.thresholds.roles.get(&role).copied();
        own.unwrap_or(self.thresholds.main)
    }

    /// How many persons it takes for a manifest of this kind.
    #[must_use]
    pub fn threshold_of(&self, kind: Kind) -> u32 {
        match kind.role() {
            Some(role) => self.threshold_of_role(role),
            None => self.thresholds.main,
        }
    }

    /// How many persons there are whose key may sign for a namespace.
    #[must_use]
    pub fn reachable(&self, namespace: &str, validity: Validity) -> usize {
        let lines = self.lines.iter().zip(&self.persons);
        let persons: BTreeSet<usize> = lines
            .filter(|(line, _)| line.permits(namespace, validity).is_ok())
            .map(|(_, person)| *person)
            .collect();
        persons.len()
    }

    /// What statements and profiles name. Without roles SHA-256 over `"bailiwick approvers v1"`,
    /// the threshold (four bytes, big-endian) and the file; with roles `"bailiwick approvers v2"`,
    /// the threshold, the number of roles, for each in the order of [`Role::ALL`] the length of its
    /// name, the name and its threshold (numbers in four bytes, big-endian), and the file.
    #[must_use]
    pub const fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Checks one signature over `message` for `namespace`, and whose it is.
    pub fn approve(
        &self,
        signature: &SshSignature,
        namespace: &str,
        message: &[u8],
        validity: Validity,
    ) -> Result<Approval, NotAnApprover> {
        signature.verify(namespace, message)?;
        self.permits(&signature.key, namespace, validity)
    }

    /// The first line that lets this key sign for the namespace at that time; else why the last
    /// one that has the key does not.
    fn permits(
        &self,
        key: &PublicKey,
        namespace: &str,
        validity: Validity,
    ) -> Result<Approval, NotAnApprover> {
        let mut refusal = NotAnApprover::Unknown {
            fingerprint: key.fingerprint(),
        };
        for (line, person) in self.lines.iter().zip(&self.persons) {
            if line.key != *key {
                continue;
            }
            match line.permits(namespace, validity) {
                Ok(()) => {
                    return Ok(Approval {
                        person: *person,
                        principals: line.principals.join(","),
                        fingerprint: key.fingerprint(),
                    });
                }
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }
}

fn digest(thresholds: &Thresholds, file: &[u8]) -> Sha256Digest {
    let main = thresholds.main.to_be_bytes();
    if thresholds.roles.is_empty() {
        return Sha256Digest::of(&[b"bailiwick approvers v1", &main, file]);
    }
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
    let mut roles = number(thresholds.roles.len()).to_vec();
    for (role, threshold) in &thresholds.roles {
        roles.extend(number(role.as_str().len()));
        roles.extend(role.as_str().as_bytes());
        roles.extend(threshold.to_be_bytes());
    }
    Sha256Digest::of(&[b"bailiwick approvers v2", &main, &roles, file])
}

/// Numbers lines so that equal numbers are connected through principals or keys.
fn persons(lines: &[Line]) -> Vec<usize> {
    let mut person: Vec<usize> = (0..lines.len()).collect();
    for (i, a) in lines.iter().enumerate() {
        for (j, b) in lines.iter().enumerate().take(i) {
            let same = a.key.same_holder(&b.key)
                || a.principals.iter().any(|name| b.principals.contains(name));
            let (Some(from), Some(to)) = (person.get(i).copied(), person.get(j).copied()) else {
                continue;
            };
            if same && from != to {
                for p in &mut person {
                    if *p == from {
                        *p = to;
                    }
                }
            }
        }
    }
    person
}
