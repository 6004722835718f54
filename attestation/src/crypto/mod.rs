//! The few primitives every format needs, over one provider.
//!
//! *Not supported* and *does not verify* are different answers: the first concerns whoever chose
//! the algorithm, the second whoever made the bytes. SHA-1 is computed where a format names it
//! (event logs, old PCR banks) and never accepted under a signature.

mod hash;
mod key;
mod sm3;
mod verify;

pub use hash::{Digest, HashAlgorithm};
pub use key::{Curve, KeyError, PublicKey};
pub(crate) use verify::ecdsa_der;
pub use verify::{PreparedKey, SignatureScheme, Unsupported, VerifyError, verify, verify_digest};

#[cfg(test)]
mod tests;
