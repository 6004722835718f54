//! Services of the wire contract, and the messages between the agent's own processes.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=../attestation/proto");
    println!("cargo::rerun-if-changed=proto");
    tonic_prost_build::configure()
        .build_server(false)
        .extern_path(".bailiwick.v1", "::bailiwick_attestation::proto::v1")
        .compile_protos(
            &[
                "../attestation/proto/bailiwick/v1/evidence.proto",
                "../attestation/proto/bailiwick/v1/enroll.proto",
                "proto/fence_ipc.proto",
            ],
            &["../attestation/proto", "proto"],
        )
}
