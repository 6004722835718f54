//! Confidential virtual machines: what the processor says of the guest it runs.
//!
//! | module | holds |
//! |---|---|
//! | [`snp`] | AMD SEV-SNP attestation reports and the keys that sign them |
//! | [`tdx`] | Intel TDX quotes, the keys that sign them, and what Intel says of their firmware |

pub mod snp;
pub mod tdx;
