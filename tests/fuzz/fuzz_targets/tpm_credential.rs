#![no_main]
use bailiwick_attestation::tpm::{EkPublic, Name, Public, make_credential};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let name = Name::parse(&[&[0, 0x0b][..], &[0; 32]].concat()).expect("a name");
    if let Some(ek) = Public::parse(data)
        .ok()
        .and_then(|public| EkPublic::new(public).ok())
    {
        make_credential(&ek, &name, &[7; 32]).ok();
    }
});
