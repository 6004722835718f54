//! Turns the wire contract into Rust types.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    // Envelopes are moved around, and most bring no geotag and no TEE report.
    prost_build::Config::new()
        .boxed(".bailiwick.v1.Evidence.geotag")
        .boxed(".bailiwick.v1.Evidence.tee")
        .compile_protos(
            &[
                "proto/bailiwick/v1/evidence.proto",
                "proto/bailiwick/v1/enroll.proto",
                "proto/bailiwick/v1/record.proto",
            ],
            &["proto"],
        )
}
