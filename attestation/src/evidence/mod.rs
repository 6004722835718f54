//! The statement a node makes, what a signer binds of it, and the envelope around both.
//!
//! Everything that does not prove itself by replay is in the statement. The statement's bytes are
//! hashed, with the collector's nonce, into what the signer signs ([`Binding`]); PCR values and
//! logs travel beside it and are read *after* the signature, for they replay to values the
//! signature covers.

mod binding;
mod claims;
mod guest;
mod log;
mod statement;

pub use binding::{
    Binding, Freshness, Nonce, NonceError, SignerKind, StatementSigner, TeeReportSigner,
    TpmQuoteSigner, geotag_binding, gpu_nonce, iak_binding, tee_report_data, tee_report_data_of,
    transport_binding,
};
pub use claims::ClaimValue;
pub use guest::{GuestSigner, guest_id, guest_transport_data};
pub use log::log_name;
pub(crate) use statement::{GPU_CHAINS, GPU_REPORTS};
pub use statement::{GpuCitation, MAX_STATEMENT, ParsedStatement, PolicyClaim, StatementRefused};
