use super::super::*;
use crate::crypto::HashAlgorithm::{Sha256, Sha384};

#[test]
fn commands_have_the_bytes_a_tpm_reads() {
    // As tpm2-tss sends them.
    let event = pcr_event(13, b"abc").unwrap();
    assert_eq!(
        hex::encode(event),
        "8002000000200000013c0000000d00000009400000090000000000000361".to_owned() + "6263"
    );
    assert_eq!(
        hex::encode(pcr_read(Sha256, 13)),
        "8001000000140000017e00000001000b03002000"
    );
    assert_eq!(pcr_event(0, &[0; 1024]).unwrap().len(), 27 + 2 + 1024);
    assert_eq!(pcr_event(0, &[0; 1025]), None);
}

#[test]
fn commands_about_an_area_have_the_bytes_a_tpm_reads() {
    // As tpm2-tss sends them.
    let index = 0x0180_0b43;
    let public = "80010000000e0000016901800b43";
    assert_eq!(hex::encode(nv_read_public(index)), public);
    let lock = "80020000001f00000138400000010180".to_owned() + "0b4300000009400000090000000000";
    assert_eq!(hex::encode(nv_write_lock(index)), lock);
    let certify = nv_certify(0x8000_0002, index, &super::qualifying(&[0xaa, 0xbb]), 5);
    let want = "800200000036000001848000000240000001018".to_owned()
        + "00b4300000012400000090000000000400000090000000000"
        + "0002aabb001000050000";
    assert_eq!(hex::encode(certify), want);
    assert_eq!(
        hex::encode(context_load(&[1, 2])),
        "80010000000c000001610102"
    );
    let flush = "80010000000e0000016580000002";
    assert_eq!(hex::encode(flush_context(0x8000_0002)), flush);
}

/// A response with this tag and code.
fn response(tag: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 10).unwrap().to_be_bytes();
    [&[0x80, tag][..], &length, &[0, 0, 0, code], body].concat()
}

#[test]
fn what_is_said_of_an_area_is_read_to_its_last_byte() {
    let answers = [0; 10];
    let body = |size: u32, attest: &[u8], signature: &[u8]| {
        let attest = super::sized(attest);
        [&size.to_be_bytes()[..], &attest, signature, &answers].concat()
    };
    let good = response(2, 0, &body(7, b"abc", b"de"));
    let read = nv_certify_response(&good).unwrap();
    assert_eq!(read, (b"abc".to_vec(), b"de".to_vec()));
    let rows: &[(&str, Vec<u8>)] = &[
        ("another size", response(2, 0, &body(8, b"abc", b"de"))),
        ("no authorizations", response(2, 0, &[0, 0, 0, 2, 0, 0])),
        (
            "an attestation over the edge",
            response(2, 0, &body(7, b"abc", b"de")[..9]),
        ),
        ("without sessions", response(1, 0, &body(7, b"abc", b"de"))),
        ("a refusal", response(1, 9, &[])),
        ("nothing", Vec::new()),
    ];
    for (name, bytes) in rows {
        assert!(nv_certify_response(bytes).is_err(), "{name}");
    }
    // The attestation may not reach into the authorizations.
    let mut far = good.clone();
    far[15] = 12;
    assert!(nv_certify_response(&far).is_err(), "a long attestation");

    let public = [super::sized(b"public"), super::sized(b"name")].concat();
    let read = nv_read_public_response(&response(1, 0, &public)).unwrap();
    assert_eq!(read, b"public");
    let long = [public.as_slice(), &[0]].concat();
    assert!(nv_read_public_response(&response(1, 0, &long)).is_err());
    assert!(nv_read_public_response(&response(1, 0, &public[..9])).is_err());
    let handle = [0x80, 0, 0, 1];
    assert_eq!(
        context_load_response(&response(1, 0, &handle)),
        Ok(0x8000_0001)
    );
    assert!(context_load_response(&response(1, 0, &[0; 5])).is_err());
    assert_eq!(nv_write_lock_response(&response(2, 0, &[0; 9])), Ok(()));
    let locked = nv_write_lock_response(&response(1, 9, &[])).unwrap_err();
    assert_eq!(locked, ResponseRefused::Code(9));
    assert_eq!(flush_context_response(&response(1, 0, &[])), Ok(()));
}

fn read_response(selection: &[u8], digests: &[&[u8]]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 7];
    body.extend(selection);
    body.extend(u32::try_from(digests.len()).unwrap().to_be_bytes());
    for digest in digests {
        body.extend(u16::try_from(digest.len()).unwrap().to_be_bytes());
        body.extend(*digest);
    }
    let mut out = vec![0x80, 0x01];
    out.extend(u32::try_from(body.len() + 10).unwrap().to_be_bytes());
    out.extend([0; 4]);
    out.extend(body);
    out
}

#[test]
fn a_value_read_is_the_one_asked_for() {
    let ours = [0, 0, 0, 1, 0, 0x0b, 3, 0, 0x20, 0];
    let none = [0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0];
    let other = [0, 0, 0, 1, 0, 0x0b, 3, 0, 0x40, 0];
    let good = read_response(&ours, &[&[5; 32]]);
    assert_eq!(
        pcr_read_response(&good, Sha256, 13).unwrap().as_slice(),
        [5; 32]
    );
    let no_register = ResponseRefused::NoRegister {
        bank: Sha256,
        index: 13,
    }
    .to_string();
    let mut short = good.clone();
    short.pop();
    let mut long = good.clone();
    long.push(0);
    let mut stretched = long.clone();
    stretched[5] += 1;
    let mut tag = good.clone();
    tag[1] = 2;
    let cases: &[(&str, &[u8], &str)] = &[
        (
            "bank not allocated",
            &read_response(&none, &[]),
            &no_register,
        ),
        (
            "another register",
            &read_response(&other, &[&[5; 32]]),
            &no_register,
        ),
        (
            "selected and left out",
            &read_response(&ours, &[]),
            &no_register,
        ),
        (
            "a short digest",
            &read_response(&ours, &[&[5; 31]]),
            &no_register,
        ),
        (
            "a long digest",
            &read_response(&ours, &[&[5; 33]]),
            "malformed response",
        ),
        (
            "two",
            &read_response(&ours, &[&[5; 32], &[5; 32]]),
            "malformed response",
        ),
        ("one byte short", &short, "malformed response"),
        ("one byte long", &long, "malformed response"),
        (
            "one byte long, and says so",
            &stretched,
            "malformed response",
        ),
        ("another tag", &tag, "malformed response"),
        ("nothing", &[], "malformed response"),
        (
            "not started",
            &[0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0],
            "the TPM answers with code 0x100",
        ),
    ];
    for (name, bytes, want) in cases {
        let refused = pcr_read_response(bytes, Sha256, 13).unwrap_err();
        assert_eq!(refused.to_string(), *want, "{name}");
    }
    assert!(pcr_read_response(&good, Sha384, 13).is_err());
}

#[test]
fn an_event_is_extended_or_an_error() {
    let answer = |tag: u8, code: [u8; 4]| {
        let [a, b, c, d] = code;
        pcr_event_response(&[0x80, tag, 0, 0, 0, 10, a, b, c, d])
    };
    assert_eq!(answer(2, [0; 4]), Ok(()));
    assert!(answer(1, [0; 4]).is_err());
    for (code, again) in [
        ([0, 0, 9, 0x22], true),
        ([0, 0, 9, 0x08], true),
        ([0, 0, 9, 0x0a], true),
        ([0, 0, 9, 0x07], false),
        ([0, 0, 1, 0], false),
    ] {
        // Errors come without sessions, whatever was asked.
        let refused = answer(1, code).unwrap_err();
        assert_eq!(refused, ResponseRefused::Code(u32::from_be_bytes(code)));
        assert_eq!(refused.try_again(), again, "{refused}");
    }
    assert!(!pcr_event_response(&[]).unwrap_err().try_again());
}
