//! Turns the wire contract into Rust types.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    prost_build::Config::new().compile_protos(
        &[
            "proto/bailiwick/v1/evidence.proto",
            "proto/bailiwick/v1/enroll.proto",
            "proto/bailiwick/v1/record.proto",
        ],
        &["proto"],
    )
}
