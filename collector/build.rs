//! Services of the wire contract; its messages are `bailiwick_attestation`'s.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=../attestation/proto");
    println!("cargo::rerun-if-changed=migrations");
    tonic_prost_build::configure()
        .extern_path(".bailiwick.v1", "::bailiwick_attestation::proto::v1")
        .compile_protos(
            &[
                "../attestation/proto/bailiwick/v1/evidence.proto",
                "../attestation/proto/bailiwick/v1/enroll.proto",
                "../attestation/proto/bailiwick/v1/record.proto",
            ],
            &["../attestation/proto"],
        )
}
