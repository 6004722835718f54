//! AMD SEV-SNP: the attestation report, read as received and checked against the chip's key.
//!
//! The signature covers the bytes as they came; nothing is encoded again. A report is worth what
//! its key is worth: the certificate has to lead to a root key of AMD that is built in, be valid
//! at the time asked about, and name the very chip and firmware versions of the report.
//!
//! Format: SEV Secure Nested Paging Firmware ABI Specification 1.58, §7.3 and §8.17; certificates:
//! Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification 1.02.

mod report;
mod table;
mod verify;

pub use report::{Product, Report, SigningKey, Tcb};
pub use table::{MAX_TABLE, Table};
pub use verify::{Endorsement, SnpRefused, verify};
pub(crate) use verify::{ROOTS, endorsed_under, is_for, is_key, is_of_chip, product, signature};

#[cfg(test)]
pub(crate) mod tests;
