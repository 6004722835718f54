#![no_main]
use bailiwick_attestation::host::ModuleSignature;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(Some(signature)) = ModuleSignature::parse(data) {
        assert!(signature.signer.to_string().len() < 2048);
    }
});
