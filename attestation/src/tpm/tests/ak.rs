use super::*;

#[test]
fn an_ak_has_the_attributes_that_keep_it_honest() {
    let key = SoftKey::new();
    let without = |bit: ObjectAttributes| AK & !bit.0;
    let with = |bit: ObjectAttributes| AK | bit.0;
    for (name, attributes, want) in [
        ("an AK", AK, "ok"),
        (
            "free to sign anything",
            without(ObjectAttributes::RESTRICTED),
            "ak-not-restricted",
        ),
        (
            "free to leave",
            without(ObjectAttributes::FIXED_TPM),
            "ak-not-fixed-tpm",
        ),
        (
            "free to move",
            without(ObjectAttributes::FIXED_PARENT),
            "ak-not-fixed-parent",
        ),
        (
            "made elsewhere",
            without(ObjectAttributes::SENSITIVE_DATA_ORIGIN),
            "ak-imported",
        ),
        (
            "not for signing",
            without(ObjectAttributes::SIGN),
            "ak-does-not-sign",
        ),
        (
            "decrypts too",
            with(ObjectAttributes::DECRYPT),
            "ak-decrypts",
        ),
        ("an EK", EK, "ak-does-not-sign"),
        ("nothing at all", 0, "ak-not-restricted"),
    ] {
        let made = AkPublic::new(key.public(attributes));
        assert_eq!(
            made.map_or_else(|refused| refused.code(), |_| "ok"),
            want,
            "{name}"
        );
    }
}

#[test]
fn an_ak_is_fixed_to_a_scheme_and_a_hash() {
    let key = SoftKey::new();
    for (name, scheme, want) in [
        ("ECDSA, SHA-256", &[0x00, 0x18, 0x00, 0x0b][..], "ok"),
        ("ECDSA, SHA-384", &[0x00, 0x18, 0x00, 0x0c], "ok"),
        ("ECDSA, SHA-512", &[0x00, 0x18, 0x00, 0x0d], "ok"),
        ("ECDSA, SHA-1", &[0x00, 0x18, 0x00, 0x04], "ak-hash"),
        ("ECDSA, SM3", &[0x00, 0x18, 0x00, 0x12], "ak-hash"),
        ("ECDSA, no such hash", &[0x00, 0x18, 0x7f, 0xff], "ak-hash"),
        ("none", &[0x00, 0x10], "ak-scheme"),
        ("EC-Schnorr", &[0x00, 0x1c, 0x00, 0x0b], "ak-scheme"),
        ("ECDAA", &[0x00, 0x1a, 0x00, 0x0b, 0x00, 0x01], "ak-scheme"),
    ] {
        let public = Public::parse(&key.area_with(AK, scheme)).unwrap();
        let made = AkPublic::new(public);
        assert_eq!(
            made.map_or_else(|refused| refused.code(), |_| "ok"),
            want,
            "{name}"
        );
    }
}

#[test]
fn what_is_no_key_is_no_ak() {
    let key = SoftKey::new();
    let mut unknown_curve = key.area(AK);
    unknown_curve[17] = 0x20;
    let keyed_hash = [
        &[0x00, 0x08, 0x00, 0x0b][..],
        &AK.to_be_bytes(),
        &[0, 0, 0x00, 0x05, 0x00, 0x0b],
        &sized(&[1; 32]),
    ]
    .concat();
    let mut nameless = key.area(AK);
    nameless[2..4].copy_from_slice(&[0x00, 0x10]);
    for (name, bytes, want) in [
        ("an unknown curve", unknown_curve, "ak-key"),
        ("a keyed hash", keyed_hash, "ak-key"),
        ("without a name", nameless, "ak-name"),
    ] {
        let made = AkPublic::new(Public::parse(&bytes).unwrap());
        assert_eq!(
            made.map_or_else(|refused| refused.code(), |_| "ok"),
            want,
            "{name}"
        );
    }
}
