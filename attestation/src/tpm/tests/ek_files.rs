//! EK certificates as NV and files hold them.

use base64::Engine as _;

use super::makers::*;
use crate::x509::Bundle;

#[test]
fn what_nv_adds_is_taken_away_and_nothing_else() {
    let root = root();
    let ek = issued(leaf(), &root);
    let with = |more: &[u8]| [&ek.der[..], more].concat();
    for (case, bytes, want) in [
        ("bare", ek.der.clone(), "ok"),
        ("0xff", with(&[0xff; 500]), "ok"),
        ("0x00", with(&[0; 500]), "ok"),
        ("both", with(&[0, 0xff]), "malformed"),
        ("a byte of something", with(&[0xff, 0xff, 1]), "malformed"),
        (
            "one byte short",
            ek.der[..ek.der.len() - 1].to_vec(),
            "malformed",
        ),
        (
            "the header of TPM 1.2",
            [&[0x10, 0x01, 0x00][..], &ek.der].concat(),
            "malformed",
        ),
        (
            "larger than any NV index",
            with(&[0xff; 16384]),
            "malformed",
        ),
        ("nothing", vec![], "malformed"),
        ("padding alone", vec![0xff; 64], "malformed"),
    ] {
        assert_eq!(outcome(&bytes, &[], &[&root]), want, "{case}");
    }
    let base64 = base64::engine::general_purpose::STANDARD.encode(&ek.der);
    let block = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    let text = format!("# made by nobody\n{block}# and so on\n");
    assert_eq!(
        outcome(text.as_bytes(), &[], &[&root]),
        "ok",
        "PEM between comments"
    );
    let cut = block.replace("-----END", "END");
    assert_eq!(
        outcome(cut.as_bytes(), &[], &[&root]),
        "malformed",
        "PEM without an end"
    );
}

#[test]
fn bundles_hold_certificates_one_after_the_other() {
    let root = root();
    let maker = issued(ca("maker"), &root);
    let both = [&root.der[..], &maker.der].concat();
    let padded = [&both[..], &[0xff; 100]].concat();
    let base64 = |der: &[u8]| base64::engine::general_purpose::STANDARD.encode(der);
    let block =
        |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    let odd = [
        block(&base64(&root.der)),
        block("AAAA"),
        block(&base64(&maker.der)),
    ]
    .concat();
    let latin = [b"# M\xfcnchen\n", odd.as_bytes()].concat();
    for (case, bytes, readable, unreadable) in [
        ("DER", &both[..], 2, 0),
        ("DER with padding", &padded, 2, 0),
        ("one", &root.der, 1, 0),
        ("PEM with an odd one", odd.as_bytes(), 2, 1),
        ("PEM with a comment in Latin-1", &latin, 2, 1),
    ] {
        let bundle = Bundle::parse(bytes).unwrap();
        assert_eq!(bundle.certificates.len(), readable, "{case}");
        assert_eq!(bundle.unreadable.len(), unreadable, "{case}");
    }
    for (case, bytes) in [
        ("nothing", vec![]),
        ("prose", b"no certificate".to_vec()),
        ("one byte short", both[..both.len() - 1].to_vec()),
        ("one byte of something", [&both[..], &[1]].concat()),
    ] {
        assert!(Bundle::parse(&bytes).is_err(), "{case}");
    }
}
