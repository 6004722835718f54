//! The enrolment port: how a TPM becomes a node.
//!
//! Anybody may call it; what it proves itself by is what only its TPM can answer, or the processor of a
//! guest without one ([`guest`]). `Begin` checks
//! everything that can be checked on paper and seals a secret to EK and AK; `Finish` takes the
//! secret back and issues the transport certificate. Nobody is trusted for having come first.

mod checks;
pub mod guest;
mod joins;
mod retire;
mod service;
mod sessions;
mod trust;

pub use checks::EnrollRefused;
pub use retire::{Retiring, to_retire};
pub use service::{Enroll, Parts};
pub use sessions::{SessionRefused, Sessions};
pub use trust::{EkTrust, EkTrustError, read_all};
