#![no_main]
// The canonical form is a document, and its own canonical form; and it is not much longer.
use bailiwick_attestation::gpu::rim::canonical_form;

bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(form) = canonical_form(data) {
        assert!(form.len() <= 6 * data.len() + 16);
        if form.len() <= 1024 * 1024 {
            assert_eq!(canonical_form(&form).as_ref(), Ok(&form));
        }
    }
});
