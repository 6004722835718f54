//! What a TPM says, and how far it can be believed.
//!
//! An attestation key becomes an [`AkPublic`] only by the check of its attributes; a [`Quote`]
//! becomes a [`VerifiedQuote`] only under such a key; PCR values become [`BoundPcrs`] only under
//! the labels the quote itself signed. Credential activation ([`make_credential`]) shows that the AK
//! lives beside an EK, and the EK's certificate ([`EkChain`]) who made the TPM. Start reading at
//! `quote.rs`.

mod ak;
mod attest;
mod certify;
mod command;
mod credential;
mod ek;
mod iak;
mod nv;
mod nv_command;
mod pcr;
mod pcr_file;
mod public;
mod quote;
mod signature;

pub use ak::{AkPublic, AkRefused};
pub use attest::{Attest, AttestKind, Attested, ClockInfo, QualifyingData};
pub use certify::{CertifiedKey, CertifyRefused};
pub use command::{
    MAX_RESPONSE, ResponseRefused, pcr_event, pcr_event_response, pcr_read, pcr_read_response,
};
pub use credential::{Credential, CredentialError, EkPublic, EkRefused, make_credential};
pub use ek::{EkCertRefused, EkChain, TpmIdentity, read_leaf, tpm_identity};
pub use iak::{Iak, IakClaim, IakRefused};
pub use nv::{CertifiedNv, NvAttributes, NvPublic, NvRefused};
pub use nv_command::{
    context_load, context_load_response, flush_context, flush_context_response, nv_certify,
    nv_certify_response, nv_read_public, nv_read_public_response, nv_write_lock,
    nv_write_lock_response,
};
pub use pcr::{BankSelection, PCR_COUNT, PcrSelection, PcrValueError, PcrValues};
pub use pcr_file::PcrFileError;
pub use public::{KeyScheme, Name, ObjectAttributes, Public, PublicKind, SymmetricScheme};
pub use quote::{BoundPcrs, PcrRefused, Quote, QuoteRefused, VerifiedQuote};
pub use signature::Signature;

#[cfg(test)]
mod tests;
