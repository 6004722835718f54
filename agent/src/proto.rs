//! Generated clients and messages; see `attestation/proto` and `agent/proto`.

/// Clients (and, for tests, servers) of the collector's services.
pub mod v1 {
    #![allow(
        clippy::allow_attributes,
        reason = "`expect` would have to name what the generator happens to trigger"
    )]
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::restriction,
        reason = "generated code"
    )]
    tonic::include_proto!("bailiwick.v1");
}

/// Messages between `fence` and `run`.
pub mod fence {
    tonic::include_proto!("bailiwick.fence.v1");
}
