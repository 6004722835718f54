//! Confidential virtual machines: what the processor says of the guest it runs.
//!
//! | module | holds |
//! |---|---|
//! | [`snp`] | AMD SEV-SNP attestation reports and the keys that sign them |

pub mod snp;
