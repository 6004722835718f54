//! Services of the wire contract, and the messages between the agent's own processes.

use std::path::Path;

fn main() -> std::io::Result<()> {
    // Set in .cargo/config.toml; the object is taken in where the fence is loaded.
    println!("cargo::rerun-if-env-changed=BAILIWICK_BPF_OBJECT");
    let object = std::env::var("BAILIWICK_BPF_OBJECT").unwrap_or_default();
    println!("cargo::rerun-if-changed={object}");
    if !Path::new(&object).is_file() {
        println!("cargo::error=the kernel side is not built ({object:?}): run `cargo xtask build`");
        return Ok(());
    }
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
