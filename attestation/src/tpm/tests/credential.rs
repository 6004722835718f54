use super::*;

/// Turns the public area of a signing key into that of an EK: symmetric AES-CFB, no scheme.
fn ek_area(key: &SoftKey, attributes: u32, name_algorithm: u16, symmetric: &[u8]) -> Vec<u8> {
    let signing = key.area_with(attributes, &[0x00, 0x10]);
    [
        &signing[..2],
        &name_algorithm.to_be_bytes(),
        &signing[4..10],
        symmetric,
        &signing[12..],
    ]
    .concat()
}

const AES_128_CFB: &[u8] = &[0x00, 0x06, 0x00, 0x80, 0x00, 0x43];

#[test]
fn an_ek_receives_secrets_and_signs_nothing() {
    let key = SoftKey::new();
    let without = |bit: ObjectAttributes| EK & !bit.0;
    let none: &[u8] = &[0x00, 0x10];
    let cbc: &[u8] = &[0x00, 0x06, 0x00, 0x80, 0x00, 0x42];
    let wide: &[u8] = &[0x00, 0x06, 0x01, 0x00, 0x00, 0x43];
    let odd: &[u8] = &[0x00, 0x06, 0x00, 0xc0, 0x00, 0x43];
    let camellia: &[u8] = &[0x00, 0x26, 0x00, 0x80, 0x00, 0x43];
    for (case, attributes, name_algorithm, symmetric, want) in [
        ("an EK", EK, 0x000b, AES_128_CFB, "ok"),
        ("AES-256", EK, 0x000c, wide, "ok"),
        ("an AK", AK, 0x000b, AES_128_CFB, "ek-attributes"),
        (
            "signs",
            EK | ObjectAttributes::SIGN.0,
            0x000b,
            AES_128_CFB,
            "ek-attributes",
        ),
        (
            "free",
            without(ObjectAttributes::RESTRICTED),
            0x000b,
            AES_128_CFB,
            "ek-attributes",
        ),
        (
            "no decryption",
            without(ObjectAttributes::DECRYPT),
            0x0b,
            AES_128_CFB,
            "ek-attributes",
        ),
        (
            "may leave",
            without(ObjectAttributes::FIXED_TPM),
            0x0b,
            AES_128_CFB,
            "ek-attributes",
        ),
        (
            "may move",
            without(ObjectAttributes::FIXED_PARENT),
            0x0b,
            AES_128_CFB,
            "ek-attributes",
        ),
        (
            "made elsewhere",
            without(ObjectAttributes::SENSITIVE_DATA_ORIGIN),
            0x0b,
            AES_128_CFB,
            "ek-attributes",
        ),
        ("SHA-1 name", EK, 0x0004, AES_128_CFB, "ek-name-algorithm"),
        ("no name", EK, 0x0010, AES_128_CFB, "ek-name-algorithm"),
        ("no cipher", EK, 0x000b, none, "ek-symmetric"),
        ("CBC", EK, 0x000b, cbc, "ek-symmetric"),
        ("AES-192", EK, 0x000b, odd, "ek-symmetric"),
        ("Camellia", EK, 0x000b, camellia, "ek-symmetric"),
    ] {
        let area = ek_area(&key, attributes, name_algorithm, symmetric);
        let made = EkPublic::new(Public::parse(&area).unwrap());
        assert_eq!(
            made.map_or_else(|refused| refused.code(), |_| "ok"),
            want,
            "{case}"
        );
    }
}

#[test]
fn credentials_have_the_shape_a_tpm_reads() {
    let key = SoftKey::new();
    let area = ek_area(&key, EK, 0x000b, AES_128_CFB);
    let ek = EkPublic::new(Public::parse(&area).unwrap()).unwrap();
    let name = key.public(AK).name().unwrap();
    let made = make_credential(&ek, &name, &[7; 32]).unwrap();
    // Integrity (2 + 32), then the secret and its length under AES.
    assert_eq!(made.id_object.len(), 2 + (2 + 32) + (2 + 32));
    assert_eq!(made.id_object[..4], [0, 68, 0, 32]);
    // Two coordinates at full width.
    assert_eq!(made.encrypted_secret.len(), 2 + 2 * (2 + 32));
    assert_eq!(made.encrypted_secret[..4], [0, 68, 0, 32]);

    let again = make_credential(&ek, &name, &[7; 32]).unwrap();
    assert_ne!(made, again, "every credential has a seed of its own");
    for (case, secret) in [("empty", &[][..]), ("longer than the EK's hash", &[7; 33])] {
        let refused = make_credential(&ek, &name, secret).unwrap_err();
        assert_eq!(refused.code(), "credential-secret", "{case}");
    }
}

#[test]
fn a_point_off_the_curve_gets_no_credential() {
    let mut area = ek_area(&SoftKey::new(), EK, 0x000b, AES_128_CFB);
    *area.last_mut().unwrap() ^= 1;
    let ek = EkPublic::new(Public::parse(&area).unwrap()).unwrap();
    let name = SoftKey::new().public(AK).name().unwrap();
    assert_eq!(
        make_credential(&ek, &name, &[7; 32]).unwrap_err().code(),
        "ek-unusable"
    );
}

#[test]
fn an_rsa_ek_has_2048_to_4096_bits() {
    let area = |bytes: usize| {
        let bits = u16::try_from(bytes * 8).unwrap();
        [
            &[0x00, 0x01, 0x00, 0x0b][..],
            &EK.to_be_bytes(),
            &[0, 0],
            AES_128_CFB,
            &[0x00, 0x10],
            &bits.to_be_bytes(),
            &[0; 4],
            &sized(&vec![0xff; bytes]),
        ]
        .concat()
    };
    for (bytes, want) in [
        (128, "ek-key"),
        (255, "ek-key"),
        (256, "ok"),
        (384, "ok"),
        (512, "ok"),
    ] {
        let made = EkPublic::new(Public::parse(&area(bytes)).unwrap());
        let said = made.map_or_else(|refused| refused.code(), |_| "ok");
        assert_eq!(said, want, "{bytes} bytes");
    }
    let keyed_hash = [
        &[0x00, 0x08, 0x00, 0x0b][..],
        &EK.to_be_bytes(),
        &[0, 0, 0x00, 0x10],
        &sized(&[1; 32]),
    ]
    .concat();
    let made = EkPublic::new(Public::parse(&keyed_hash).unwrap());
    assert_eq!(made.unwrap_err().code(), "ek-key", "no key at all");
}
