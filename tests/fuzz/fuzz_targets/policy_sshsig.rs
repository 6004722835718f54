#![no_main]
// Armored or not; what parses is verified, which must come out as a refusal or not at all.
use bailiwick_policy::ssh::SshSignature;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    for signature in [SshSignature::parse(data), SshSignature::parse_blob(data)]
        .into_iter()
        .flatten()
    {
        signature.verify(&signature.namespace, b"a manifest").ok();
    }
});
