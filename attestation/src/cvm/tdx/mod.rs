//! Intel TDX: the quote of a guest, read as received, and what stands behind it.
//!
//! A quote is believed in three steps, each of which can be taken alone:
//!
//! 1. [`verify`]: the attestation key signed these bytes, the quoting enclave vouches for that
//!    key, and the processor's key (PCK) for the enclave, up to Intel's root, which is built in.
//!    So the quote is of a processor of Intel's; which enclave and which firmware it ran with,
//!    and whether Intel took keys back since, this does not show.
//! 2. [`endorse`]: what Intel publishes (revocation lists, TCB info, identity of the quoting
//!    enclave), under Intel's signatures and in its time. *Forged* and *out of date* have codes
//!    of their own: the first concerns a security officer, the second whoever fills the folder.
//! 3. [`evaluate`]: the quote held against that. What is revoked or not listed is refused; every
//!    other state of firmware is a fact, with the advisories that name it.
//!
//! Formats: Intel TDX DCAP Quoting Library API 0.9, Appendix A (quote versions 4 and 5); Intel SGX
//! PCK Certificate and CRL Profile Specification 1.5; Intel SGX and TDX Provisioning Certification
//! Service API, version 4 (TCB info version 3, enclave identity version 2).

mod collateral;
mod evaluate;
mod pck;
mod quote;
mod refused;
mod signed;
mod verify;

pub use collateral::{Collateral, MAX_COLLATERAL_BYTES, TcbStatus};
pub use evaluate::{Tcb, evaluate};
pub use pck::Pck;
pub use quote::{Body, MAX_QUOTE_BYTES, QeReport, Quote};
pub use refused::TdxRefused;
pub(crate) use signed::endorse_under;
pub use signed::{Endorsements, endorse};
pub use verify::{Certified, verify};
pub(crate) use verify::{ROOT, verify_under};

#[cfg(test)]
pub(crate) mod tests;
