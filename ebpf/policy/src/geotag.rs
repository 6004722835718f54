//! Whether a geotag is an approver's word about a node of this deployment.

use bailiwick_attestation::geotag::{Geotag, GeotagMalformed, Record, namespace};
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, UnixTime};

use crate::approvers::{Approval, Approvers, NotAnApprover, Validity};
use crate::model::Node;
use crate::ssh::{SignatureFault, SshSignature};

/// Why a geotag does not count.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GeotagRefused {
    /// Not a record, or not the text of one.
    #[error(transparent)]
    Malformed(#[from] GeotagMalformed),
    /// Written for another installation.
    #[error("written for deployment {0}")]
    Deployment(DeploymentId),
    /// About a guest without a TPM: nothing keeps a tag where the guest is.
    #[error("{0} is a guest without a TPM, which a geotag would have to lie in")]
    Guest(NodeId),
    /// Written for another machine.
    #[error("written for the TPM with EK {0}")]
    Ek(Sha256Digest),
    /// The signature cannot be read.
    #[error("signature: {0}")]
    Signature(#[from] SignatureFault),
    /// It is nobody's who may sign geotags, or over another text.
    #[error("signature: {0}")]
    NotAnApprover(#[from] NotAnApprover),
    /// The inventory takes it back.
    #[error(
        "the inventory counts what was written since {since} s after 1970, this one is of {at}"
    )]
    Revoked {
        /// `geotags_since` of the node, seconds.
        since: u64,
        /// When it was written, seconds.
        at: u64,
    },
}

impl GeotagRefused {
    /// Stable word for answers and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(malformed) => malformed.code(),
            Self::Deployment(_) => "geotag-other-deployment",
            Self::Guest(_) => "geotag-guest",
            Self::Ek(_) => "geotag-other-node",
            Self::Signature(_) => "geotag-signature",
            Self::NotAnApprover(_) => "geotag-not-an-approver",
            Self::Revoked { .. } => "geotag-revoked",
        }
    }
}

/// Reads what the node's TPM holds, and whose word it is. Its end is not looked at here.
///
/// The key has to be good at `now` as well as when it signed: that time is the signer's own word,
/// and no bundle stands around it.
pub fn verify(
    record: &[u8],
    deployment: &DeploymentId,
    node: &Node,
    approvers: &Approvers,
    now: UnixTime,
) -> Result<(Geotag, Approval), GeotagRefused> {
    if node.guest.is_some() {
        return Err(GeotagRefused::Guest(node.name.clone()));
    }
    let record = Record::parse(record)?;
    let tag = Geotag::parse(record.text)?;
    if tag.deployment != *deployment {
        return Err(GeotagRefused::Deployment(tag.deployment));
    }
    if tag.ek != node.ek {
        return Err(GeotagRefused::Ek(tag.ek));
    }
    let signature = SshSignature::parse_blob(record.signature)?;
    let namespace = namespace(deployment);
    approvers.approve(&signature, &namespace, record.text, Validity::At(tag.at))?;
    let approval = approvers.approve(&signature, &namespace, record.text, Validity::At(now))?;
    if let Some(since) = node.geotags_since
        && tag.at < since
    {
        let (since, at) = (since.secs(), tag.at.secs());
        return Err(GeotagRefused::Revoked { since, at });
    }
    Ok((tag, approval))
}
