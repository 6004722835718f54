//! What an approver signs who challenged a node's EK and AK, and whether a signature holds.
//!
//! The text has one spelling, so that two people who mean the same entry sign the same bytes. One
//! line per fact, `key value`, `\n` after each, in this order; what the entry does not say has no
//! line:
//!
//! ```text
//! bailiwick inventory v1
//! deployment demo
//! node gpu-01
//! ek 5f…                    SHA-256 of the EK's TPMT_PUBLIC, lower-case hexadecimal
//! ak 000b…                  name of the AK, likewise
//! chassis-serial ABC123
//! device GPU-7f…            one line each, sorted by bytes
//! place FRA1 / row 3
//! jurisdiction DE
//! address 10.9.1.11/32      one line each, sorted
//! replaces 77…
//! at 2026-11-21T16:00:00Z
//! ```
//!
//! No value holds a control character, so no value can pretend to be a line. `epoch`, `tpm` and
//! `geotags_since` are not in it: they are the bundle's signers' word, and say nothing about keys.

use bailiwick_attestation::{DeploymentId, NodeId, UnixTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Node;
use crate::approvers::{Approval, Approvers, NotAnApprover, Validity};
use crate::ssh::{SignatureFault, SshSignature};

/// Why nobody's confirmation holds for an entry.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotConfirmed {
    /// The entry names no AK, or nobody signed for it.
    #[error("no approver signed that this AK and this EK are one TPM's")]
    Absent,
    /// The entry is a guest's, which has neither: there is nothing to challenge.
    #[error("{0} is a guest without a TPM: it has no AK to confirm")]
    Guest(NodeId),
    /// The entry is about another key.
    #[error("the entry confirms another AK: {listed}")]
    OtherAk {
        /// Name in the entry, hex.
        listed: String,
    },
    /// The signature cannot be read.
    #[error("node.confirmed.signature: {0}")]
    Signature(#[from] SignatureFault),
    /// It is no approver's, or over another text.
    #[error("node.confirmed.signature: {0}")]
    NotAnApprover(#[from] NotAnApprover),
}

impl NotConfirmed {
    /// Stable word for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Absent => "ak-unconfirmed",
            Self::Guest(_) => "ak-of-a-guest",
            Self::OtherAk { .. } => "ak-confirmed-other",
            Self::Signature(_) => "confirmation-malformed",
            Self::NotAnApprover(_) => "confirmation-refused",
        }
    }
}

/// What a signature over an inventory entry must say it is for.
#[must_use]
pub fn namespace(deployment: &DeploymentId) -> String {
    format!("bailiwick/{deployment}/inventory")
}

/// The bytes that are signed. `at` is the time of [`Confirmed`](super::Confirmed), whole seconds.
#[must_use]
pub fn text(deployment: &DeploymentId, node: &Node, at: UnixTime) -> String {
    let mut out = String::from("bailiwick inventory v1\n");
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        out.push_str(&format!("{key} {value}\n"));
    };
    line("deployment", deployment);
    line("node", &node.name);
    line("ek", &node.ek);
    if let Some(ak) = &node.ak {
        line("ak", &hex::encode(ak));
    }
    if let Some(serial) = &node.chassis_serial {
        line("chassis-serial", serial);
    }
    let mut devices: Vec<&String> = node.devices.iter().collect();
    devices.sort();
    for device in devices {
        line("device", device);
    }
    if let Some(place) = &node.place {
        line("place", place);
    }
    line("jurisdiction", &node.jurisdiction);
    let mut addresses = node.addresses.clone();
    addresses.sort();
    for address in &addresses {
        line("address", address);
    }
    if let Some(replaces) = &node.replaces {
        line("replaces", replaces);
    }
    line("at", &rfc3339(at));
    out
}

/// Whose word it is that `ak` (a key's name) and the entry's EK are one TPM's.
///
/// The key has to have been good when it signed, by the signer's own word about the time: the
/// bundle around the entry is what m of n stand behind.
pub fn verify(
    node: &Node,
    deployment: &DeploymentId,
    ak: &[u8],
    approvers: &Approvers,
) -> Result<Approval, NotConfirmed> {
    if node.guest.is_some() {
        return Err(NotConfirmed::Guest(node.name.clone()));
    }
    let (Some(listed), Some(confirmed)) = (&node.ak, &node.confirmed) else {
        return Err(NotConfirmed::Absent);
    };
    if listed != ak {
        return Err(NotConfirmed::OtherAk {
            listed: hex::encode(listed),
        });
    }
    let signature = SshSignature::parse(confirmed.signature.as_bytes())?;
    let approval = approvers.approve(
        &signature,
        &namespace(deployment),
        text(deployment, node, confirmed.at).as_bytes(),
        Validity::At(confirmed.at),
    )?;
    Ok(approval)
}

/// `2026-11-21T16:00:00Z`: whole seconds of UTC.
#[must_use]
pub fn rfc3339(at: UnixTime) -> String {
    let seconds = i64::try_from(at.secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        // Beyond the year 9999; compared with what somebody wrote, it equals nothing.
        .unwrap_or_else(|| format!("{} s", at.secs()))
}
