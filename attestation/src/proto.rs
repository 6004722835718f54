//! The wire contract, generated from `attestation/proto`.
//!
//! What is hashed or signed travels as `bytes` inside these messages: parse it to read it, keep
//! the bytes to check it.

/// Messages of protocol version 1.
pub mod v1 {
    #![expect(
        missing_docs,
        reason = "generated code; the comments stand in the .proto files"
    )]
    include!(concat!(env!("OUT_DIR"), "/bailiwick.v1.rs"));
}
