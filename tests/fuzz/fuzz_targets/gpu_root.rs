#![no_main]
// A root in any of its forms; one that is taken is the same whatever it came in.
use bailiwick_attestation::gpu::Root;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Ok(root) = Root::parse(data) else {
        return;
    };
    let der = Root::document(data).expect("read once already");
    assert_eq!(Root::parse(&der), Ok(root));
});
