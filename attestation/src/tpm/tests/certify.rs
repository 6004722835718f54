use super::*;

const PURPOSE: &[u8] = b"transport key of this enrolment.";

#[test]
fn a_certified_key_is_the_one_presented_for_the_purpose_asked() {
    let (ak_key, tls) = (SoftKey::new(), SoftKey::new());
    let ak = ak_key.ak();
    let name = tls.public(TLS).name().unwrap();
    let good = attest(CERTIFY, PURPOSE, &certify_info(name.as_bytes()));
    let stranger = SoftKey::new();

    let quote = quote_info(&[(HashAlgorithm::Sha256, 1)], &[&[0; 32]]);
    let quote = attest(QUOTE, PURPOSE, &quote);
    let other = attest(CERTIFY, PURPOSE, &certify_info(ak.name().as_bytes()));
    let unnamed = attest(CERTIFY, PURPOSE, &certify_info(&[]));
    let forged = [&[0xfe], &good[1..]].concat();
    type Row<'a> = (&'a str, u32, &'a [u8], &'a SoftKey, &'a [u8], &'a str);
    let cases: &[Row<'_>] = &[
        ("good", TLS, &good, &ak_key, PURPOSE, "ok"),
        (
            "a quote instead",
            TLS,
            &quote,
            &ak_key,
            PURPOSE,
            "certify-type",
        ),
        ("another key", TLS, &other, &ak_key, PURPOSE, "certify-name"),
        ("no key", TLS, &unnamed, &ak_key, PURPOSE, "certify-name"),
        (
            "attributes other than certified",
            AK,
            &good,
            &ak_key,
            PURPOSE,
            "certify-name",
        ),
        (
            "another signer",
            TLS,
            &good,
            &stranger,
            PURPOSE,
            "certify-signature",
        ),
        (
            "another purpose",
            TLS,
            &good,
            &ak_key,
            b"?",
            "certify-qualifying-data",
        ),
        (
            "not made by a TPM",
            TLS,
            &forged,
            &ak_key,
            PURPOSE,
            "certify-malformed",
        ),
    ];
    for (case, attributes, bytes, signer, purpose, want) in cases {
        let public = tls.public(*attributes);
        let signature = signer.sign(bytes);
        let made = CertifiedKey::verify(public, bytes, &signature, &ak, &qualifying(purpose));
        assert_eq!(
            made.map_or_else(|refused| refused.code(), |_| "ok"),
            *want,
            "{case}"
        );
    }

    let sha384 = [&[0x00, 0x18, 0x00, 0x0c], &ak_key.sign(&good)[4..]].concat();
    let public = tls.public(TLS);
    let made = CertifiedKey::verify(public, &good, &sha384, &ak, &qualifying(PURPOSE));
    assert_eq!(made.unwrap_err().code(), "certify-signature-scheme");
    let made = CertifiedKey::verify(tls.public(TLS), &good, &[0], &ak, &qualifying(PURPOSE));
    assert_eq!(made.unwrap_err().code(), "certify-malformed");
}

#[test]
fn a_certified_key_lives_in_the_tpm_and_signs_handshakes() {
    let (ak_key, tls) = (SoftKey::new(), SoftKey::new());
    let without = |bit: ObjectAttributes| TLS & !bit.0;
    let with = |bit: ObjectAttributes| TLS | bit.0;
    for (case, attributes, want) in [
        ("a TLS key", TLS, "ok"),
        (
            "does not sign",
            without(ObjectAttributes::SIGN),
            "lacks the attribute sign",
        ),
        (
            "may leave",
            without(ObjectAttributes::FIXED_TPM),
            "lacks the attribute fixedTPM",
        ),
        (
            "may move",
            without(ObjectAttributes::FIXED_PARENT),
            "lacks the attribute fixedParent",
        ),
        (
            "made elsewhere",
            without(ObjectAttributes::SENSITIVE_DATA_ORIGIN),
            "lacks the attribute sensitiveDataOrigin",
        ),
        (
            "signs TPM data alone",
            with(ObjectAttributes::RESTRICTED),
            "has the attribute restricted",
        ),
        (
            "decrypts",
            with(ObjectAttributes::DECRYPT),
            "has the attribute decrypt",
        ),
    ] {
        let public = tls.public(attributes);
        let name = public.name().unwrap();
        let bytes = attest(CERTIFY, PURPOSE, &certify_info(name.as_bytes()));
        let signature = ak_key.sign(&bytes);
        let ak = ak_key.ak();
        let made = CertifiedKey::verify(public, &bytes, &signature, &ak, &qualifying(PURPOSE));
        let said = made.map_or_else(|refused| refused.to_string(), |_| "ok".to_owned());
        assert!(said.ends_with(want), "{case}: {said}");
    }
}
