use super::*;
use crate::crypto::PublicKey;

#[test]
fn names_are_hashes_over_the_bytes_as_they_came() {
    let key = SoftKey::new();
    let area = key.area(AK);
    let digest = HashAlgorithm::Sha256.digest(&[&area]).unwrap();
    let name = [&[0x00, 0x0b], digest.as_slice()].concat();
    let public = Public::parse(&area).unwrap();
    assert_eq!(public.name().unwrap().as_bytes(), name);
    assert_eq!(public.as_bytes(), area);
    assert_eq!(public.digest().as_bytes(), digest.as_slice());
    assert_eq!(Public::parse_either(&sized(&area)).unwrap(), public);
    assert_eq!(Public::parse_either(&area).unwrap(), public);
    assert_eq!(Name::parse(&name).unwrap(), public.name().unwrap());
    for bad in [&name[1..], &name[..33], &[&name[..], &[0]].concat()] {
        assert!(Name::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn malformed_public_areas_say_where() {
    let area = SoftKey::new().area(AK);
    let last = area.len() - 1;
    let changed = |at: usize, to: u8| {
        let mut area = area.clone();
        area[at] = to;
        area
    };
    for (case, bytes, want) in [
        (
            "empty",
            vec![],
            "TPMT_PUBLIC.type at offset 0: needs 2 bytes, 0 left",
        ),
        (
            "no such type",
            changed(1, 0x77),
            "TPMT_PUBLIC.type at offset 0: 0x77 is not a value this field may hold",
        ),
        (
            "no such hash",
            changed(3, 0x77),
            "TPMT_PUBLIC.nameAlg at offset 2: 0x77 is not a value this field may hold",
        ),
        (
            "no such scheme",
            changed(13, 0x77),
            "TPMT_PUBLIC.parameters.scheme.scheme at offset 12: \
             0x77 is not a value this field may hold",
        ),
        (
            "one short",
            area[..last].to_vec(),
            "TPMT_PUBLIC.unique.ecc.y.buffer at offset 56: needs 32 bytes, 31 left",
        ),
        (
            "one long",
            [&area[..], &[0]].concat(),
            "TPMT_PUBLIC.end at offset 88: 1 bytes too many",
        ),
    ] {
        assert_eq!(
            Public::parse(&bytes).unwrap_err().to_string(),
            want,
            "{case}"
        );
    }
    let framed = sized(&area);
    assert!(Public::parse_sized(&framed[..framed.len() - 1]).is_err());
    assert!(Public::parse_sized(&[&framed[..], &[0]].concat()).is_err());
}

#[test]
fn coordinates_have_the_width_of_the_curve() {
    let mut area = SoftKey::new().area(AK);
    // x of 31 bytes: a TPM that drops the leading zero.
    area.truncate(22);
    area[20..22].copy_from_slice(&31u16.to_be_bytes());
    area.extend([5; 31]);
    area.extend(sized(&[6; 32]));
    let public = Public::parse(&area).unwrap();
    let Some(PublicKey::Ec { point, .. }) = public.key() else {
        panic!("a point");
    };
    assert_eq!(*point, [&[4, 0][..], &[5; 31], &[6; 32]].concat());

    area[20..22].copy_from_slice(&33u16.to_be_bytes());
    area.splice(22..53, [5; 33]);
    assert_eq!(
        Public::parse(&area).unwrap_err().to_string(),
        "TPMT_PUBLIC.unique.ecc at offset 20: has a coordinate wider than the curve"
    );
}

#[test]
fn rsa_areas_state_the_size_of_their_modulus() {
    let area = |bits: u16, exponent: u32, modulus: &[u8]| {
        [
            &[0x00, 0x01, 0x00, 0x0b][..],
            &AK.to_be_bytes(),
            &[0, 0, 0x00, 0x10, 0x00, 0x14, 0x00, 0x0b],
            &bits.to_be_bytes(),
            &exponent.to_be_bytes(),
            &sized(modulus),
        ]
        .concat()
    };
    let public = Public::parse(&area(2048, 0, &[0xff; 256])).unwrap();
    let Some(PublicKey::Rsa { exponent, .. }) = public.key() else {
        panic!("an RSA key");
    };
    assert_eq!(*exponent, [1, 0, 1], "zero stands for 65537");
    for (case, bytes) in [
        ("more bits than stated", area(1024, 0, &[0xff; 256])),
        ("fewer", area(2048, 0, &[0x7f; 256])),
    ] {
        assert_eq!(
            Public::parse(&bytes).unwrap_err().to_string(),
            "TPMT_PUBLIC.parameters.keyBits at offset 16: is not the size of the modulus",
            "{case}"
        );
    }
    let long = area(4096, 0, &[0xff; 513]);
    assert!(Public::parse(&long).is_err(), "longer than RSA-4096");
}
