//! Signers that are not quite what signers are.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::made::{AT, Signer, Tag, params};
use crate::crypto::VerifyError;
use crate::gpu::rim::{Checked, RimRefused, check};
use crate::x509::Certificate;

fn checked(signer: &Signer) -> Checked {
    let rim = signer.rim(&Tag::vbios(&[0, 9]));
    check(rim.as_bytes(), &signer.anchors(), AT)
}

fn codes(checked: &Checked) -> Vec<&'static str> {
    checked.refusals.iter().map(|why| why.code()).collect()
}

#[test]
fn a_key_on_another_curve_signs_nothing() {
    let p256 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let own = params("HCC RIM L4 Signer", false).self_signed(&p256);
    let mut signer = Signer::new();
    signer.chain[0] = Certificate::parse(own.unwrap().der()).unwrap();
    let found = checked(&signer);
    assert_eq!(codes(&found), ["rim-signature", "rim-chain"]);
    let [RimRefused::Signature { reason, .. }, _] = found.refusals.as_slice() else {
        panic!("{:?}", found.refusals);
    };
    assert_eq!(*reason, VerifyError::KeyKind, "not even looked at");
}

#[test]
fn a_ca_for_debugging_counts_under_a_root_for_debugging_alone() {
    let rows: [(&str, &[usize], &[&str]); 4] = [
        ("neither", &[], &[]),
        ("the CA", &[1], &["rim-chain"]),
        ("the root", &[3], &[]),
        ("both", &[1, 3], &[]),
    ];
    for (case, places, want) in rows {
        let signer = Signer::with(|place, params: &mut CertificateParams| {
            if places.contains(&place) {
                let name = format!("Test CA {place} Debug Only");
                params.distinguished_name = DistinguishedName::new();
                params.distinguished_name.push(DnType::CommonName, name);
            }
        });
        assert_eq!(codes(&checked(&signer)), want, "{case}");
    }
}
