//! Confidential virtual machines: what the processor says of the guest it runs.
//!
//! | module | holds |
//! |---|---|
//! | [`hcl`] | what Azure's paravisor says of its vTPM, and the report it says it with |
//! | [`snp`] | AMD SEV-SNP attestation reports and the keys that sign them |
//! | [`tdx`] | Intel TDX quotes, the keys that sign them, and what Intel says of their firmware |
//!
//! [`judge`] holds one report against what a node was asked and what an operator brought
//! ([`Endorsements`]).

mod coming;
mod endorsements;
pub mod hcl;
mod judge;
mod launch;
pub mod snp;
pub mod tdx;
#[cfg(test)]
mod tests;

pub use coming::{Turn, turn};
pub use endorsements::{Endorsements, MAX_CERTIFICATES_BYTES, is_certificates, parse_certificates};
pub use judge::{
    Asked, Facts, Fault, Judged, Keys, LaunchSigner, Revocation, Vtpm, bound, instance, judge,
    rtmrs, tcb_text, words,
};
pub use launch::{GuestIdentity, Launch, LaunchKey, Other};

/// How an inventory's name of a chip by AMD begins; behind it stands `CHIP_ID`.
pub const SNP_PREFIX: &str = "SNP-";
/// How an inventory's name of a processor by Intel begins; behind it stands its `PPID`.
pub const TDX_PREFIX: &str = "TDX-";

/// The inventory means a processor by that name, and no GPU.
#[must_use]
pub fn is_chip_name(name: &str) -> bool {
    name.starts_with(SNP_PREFIX) || name.starts_with(TDX_PREFIX)
}
