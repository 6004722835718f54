//! Clients and servers of the wire contract, generated from `attestation/proto`.
#![expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    clippy::clone_on_ref_ptr,
    reason = "generated code"
)]

tonic::include_proto!("bailiwick.v1");
