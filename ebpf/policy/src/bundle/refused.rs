//! Why a policy does not take effect, and what to do about it.

use bailiwick_attestation::{DeploymentId, FileError, Sha256Digest};

use crate::approvers::{ApproversError, NotAnApprover};

/// A signature that was not counted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("signature {number}: {why}")]
pub struct IgnoredSignature {
    /// Its place in the bundle, from 1.
    pub number: usize,
    /// Why.
    pub why: NotCounted,
}

/// Why a signature was not counted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotCounted {
    /// It is no good, or its key may not approve.
    #[error(transparent)]
    Refused(#[from] NotAnApprover),
    /// Its signer has approved with another signature already.
    #[error("{0} has signed already and counts once")]
    SamePerson(String),
}

/// Why a policy does not take effect, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PolicyRefused {
    /// There is no signature.
    #[error("no signature: sign manifest.toml with `ssh-keygen -Y sign -n {namespace}`")]
    Unsigned {
        /// What to sign for.
        namespace: String,
    },
    /// Too few persons signed.
    #[error(
        "{counted} of {threshold} approvals{}: have another approver sign",
        list(ignored)
    )]
    UnderSigned {
        /// Distinct persons with a good signature.
        counted: usize,
        /// How many it takes.
        threshold: u32,
        /// What was not counted.
        ignored: Vec<IgnoredSignature>,
    },
    /// Too few of those whom new approvers name signed it.
    #[error(
        "{counted} of {threshold} approvals by the new approvers{}: whoever is to approve from \
         now on has to sign this too",
        list(ignored)
    )]
    NewUnderSigned {
        /// Distinct persons of the new set with a good signature.
        counted: usize,
        /// How many of them it takes.
        threshold: u32,
        /// What was not counted.
        ignored: Vec<IgnoredSignature>,
    },
    /// New approvers who could never act.
    #[error("{0}: correct it and sign anew")]
    Approvers(ApproversError),
    /// New approvers, and those between them and the ones in force are not known.
    #[error(
        "version {found} of the approvers does not follow version {current}: bring every version \
         between them too"
    )]
    Gap {
        /// What it says.
        found: u64,
        /// What is in force.
        current: u64,
    },
    /// A policy without a world map, where there is no other.
    #[error(
        "carries no world map, and no manifest of kind world is known: apply one first, or add \
         world.csv"
    )]
    NoWorld,
    /// Another world map than the one the policy names.
    #[error(
        "the world map has digest {found}, and the policy names {want}: bring that one, or sign a \
         policy that names this one"
    )]
    OtherWorld {
        /// Of the map that came.
        found: Sha256Digest,
        /// As `profile.toml` says in `world.sha256`.
        want: Sha256Digest,
    },
    /// Made for another deployment.
    #[error("made for deployment {found:?}, and this is {want:?}: sign one for {want:?}")]
    WrongDeployment {
        /// What it says.
        found: String,
        /// What it should say.
        want: DeploymentId,
    },
    /// No policy, or not for the fleet.
    #[error("{what} is {found:?}, and only {want:?} is accepted here")]
    WrongKind {
        /// `kind`, `scope` or `namespace`.
        what: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        want: String,
    },
    /// An older version.
    #[error(
        "version {found} is older than {current}, which is in force: to go back, sign the old \
         files as version {} or later", current.saturating_add(1)
    )]
    RolledBack {
        /// What it says.
        found: u64,
        /// What is in force.
        current: u64,
    },
    /// Two manifests of one version.
    #[error(
        "another one of version {version} is in force ({current}): sign this one as version \
         {} with that digest as `previous`", version.saturating_add(1)
    )]
    VersionTaken {
        /// The version of both.
        version: u64,
        /// Manifest digest of the one in force.
        current: Sha256Digest,
    },
    /// The next version, and of another line.
    #[error(
        "names {found:?} as the one before, and {current:?} is in force: make it anew from the one \
         in force"
    )]
    WrongPrevious {
        /// What it says.
        found: Option<Sha256Digest>,
        /// What is in force.
        current: Sha256Digest,
    },
    /// Past its end.
    #[error(
        "expired at {not_after} (Unix seconds), and it is {now}: sign a new version with a later \
         not_after, or correct this machine's clock"
    )]
    Expired {
        /// Last second.
        not_after: u64,
        /// The present.
        now: u64,
    },
    /// A listed file did not come.
    #[error("{0} is listed in the manifest and missing: deliver the bundle whole")]
    FileMissing(String),
    /// A file that is not listed, or came twice.
    #[error("{0} is not listed in the manifest, or came twice: take it away, or list and sign it")]
    FileUnlisted(String),
    /// A file with other content.
    #[error("{path} has digest {found}, and {want} was signed: restore the file, or sign anew")]
    FileDigest {
        /// Which one.
        path: String,
        /// Of what came.
        found: Sha256Digest,
        /// Of what was signed.
        want: Sha256Digest,
    },
    /// More bytes or signatures than any policy has.
    #[error("{what}: {found} exceed the limit of {limit}: make the policy smaller")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much is read.
        limit: usize,
    },
    /// A file that does not say what it may say.
    #[error("{0}: correct it and sign anew")]
    Malformed(FileError),
}

fn list(ignored: &[IgnoredSignature]) -> String {
    ignored.iter().map(|entry| format!("; {entry}")).collect()
}

impl PolicyRefused {
    /// The refusal as a stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unsigned { .. } => "policy-unsigned",
            Self::UnderSigned { .. } => "policy-under-signed",
            Self::NewUnderSigned { .. } => "approvers-new-under-signed",
            Self::Approvers(_) => "approvers-unreachable",
            Self::Gap { .. } => "approvers-gap",
            Self::NoWorld => "policy-no-world",
            Self::OtherWorld { .. } => "policy-other-world",
            Self::WrongDeployment { .. } => "policy-wrong-deployment",
            Self::WrongKind { .. } => "policy-wrong-kind",
            Self::RolledBack { .. } => "policy-rolled-back",
            Self::VersionTaken { .. } => "policy-version-taken",
            Self::WrongPrevious { .. } => "policy-wrong-previous",
            Self::Expired { .. } => "policy-expired",
            Self::FileMissing(_) => "policy-file-missing",
            Self::FileUnlisted(_) => "policy-file-unlisted",
            Self::FileDigest { .. } => "policy-file-digest",
            Self::TooLarge { .. } => "policy-too-large",
            Self::Malformed(_) => "policy-malformed",
        }
    }
}
