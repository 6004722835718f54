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
