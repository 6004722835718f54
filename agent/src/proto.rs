//! Generated clients and messages; see `attestation/proto` and `agent/proto`.

/// Clients of the collector's services.
pub mod v1 {
    #![expect(clippy::allow_attributes_without_reason, reason = "generated code")]
    tonic::include_proto!("bailiwick.v1");
}

/// Messages between `fence` and `run`.
pub mod fence {
    #![expect(
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("bailiwick.fence.v1");
}
