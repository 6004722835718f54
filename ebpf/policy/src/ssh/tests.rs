use bailiwick_attestation::Reader;

use super::key::{fixed, padded};
use super::{PublicKey, mpint, string, text};

fn wire(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        out.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        out.extend(*part);
    }
    out
}

#[test]
fn strings_are_bounded_by_what_is_there() {
    let cases: &[(&str, &[u8], &str)] = &[
        (
            "no length",
            &[0, 0, 0],
            "t.f at offset 0: needs 4 bytes, 3 left",
        ),
        (
            "one byte short",
            &[0, 0, 0, 2, 1],
            "t.f at offset 4: needs 2 bytes, 1 left",
        ),
        (
            "four gigabytes",
            &[255; 8],
            "t.f at offset 4: needs 4294967295 bytes, 4 left",
        ),
    ];
    for (name, bytes, want) in cases {
        let got = string(&mut Reader::new("t", bytes), "f").unwrap_err();
        assert_eq!(got.to_string(), *want, "{name}");
    }
    let got = text(&mut Reader::new("t", &wire(&[b"\xff"])), "f").unwrap_err();
    assert_eq!(got.to_string(), "t.f at offset 0: is not UTF-8");
}

#[test]
fn numbers_have_one_spelling() {
    type Case<'a> = (&'a [u8], Result<&'a [u8], &'a str>);
    let cases: &[Case<'_>] = &[
        (&[1], Ok(&[1])),
        (&[0x7f, 0], Ok(&[0x7f, 0])),
        (&[0, 0x80], Ok(&[0x80])),
        (&[0, 0x7f], Err("has a second spelling (leading zero)")),
        (&[0, 0, 0x80], Err("has a second spelling (leading zero)")),
        (&[0x80], Err("is negative")),
        (&[0], Err("is zero")),
        (&[], Err("is zero")),
    ];
    for (bytes, want) in cases {
        let blob = wire(&[bytes]);
        let got = mpint(&mut Reader::new("t", &blob), "n").map_err(|err| err.fault.to_string());
        assert_eq!(got, want.map_err(str::to_owned), "{bytes:x?}");
    }
}

#[test]
fn short_numbers_of_a_signature_are_filled_up() {
    let blob = wire(&[&[1, 2], &[0, 0xff, 3]]);
    assert_eq!(fixed(&blob, 4).unwrap(), [0, 0, 1, 2, 0, 0, 0xff, 3]);
    assert_eq!(fixed(&blob, 2).unwrap(), [1, 2, 0xff, 3]);
    assert!(fixed(&blob, 1).is_err(), "longer than the curve");
    let long = [blob.as_slice(), &[0]].concat();
    assert!(fixed(&long, 4).is_err(), "one byte long");
    assert!(fixed(&blob[..blob.len() - 1], 4).is_err(), "one byte short");
    assert_eq!(padded(&[7], 3), Some(vec![0, 0, 7]));
    assert_eq!(padded(&[7, 7], 1), None);
}

#[test]
fn keys_are_read_to_their_last_byte() {
    let ed = wire(&[b"ssh-ed25519", &[1; 32]]);
    let p256 = |point: &[u8]| wire(&[b"ecdsa-sha2-nistp256", b"nistp256", point]);
    let uncompressed = [[4].as_slice(), &[1; 64]].concat();
    let rsa = |first: u8, len: usize| {
        let mut n = vec![0; len];
        n[0] = first;
        let n = if first >= 0x80 {
            [vec![0], n].concat()
        } else {
            n
        };
        wire(&[b"ssh-rsa", &[1, 0, 1], &n])
    };
    let sound = [
        ed.clone(),
        p256(&uncompressed),
        rsa(0x80, 256),
        rsa(0x80, 1024),
    ];
    for blob in sound {
        let key = PublicKey::parse(&blob).unwrap();
        assert!(key.same_holder(&key));
        for cut in 0..blob.len() {
            assert!(
                PublicKey::parse(&blob[..cut]).is_err(),
                "{} cut at {cut}",
                key.kind()
            );
        }
        let long = [blob.as_slice(), &[0]].concat();
        assert!(
            PublicKey::parse(&long).is_err(),
            "{} one byte long",
            key.kind()
        );
    }
    let refused = [
        (
            "31 bytes",
            wire(&[b"ssh-ed25519", &[1; 31]]),
            "pk at offset 15: is not 32 bytes",
        ),
        (
            "compressed",
            p256(&[&[2][..], &[1; 32]].concat()),
            "is no uncompressed point",
        ),
        (
            "hybrid",
            p256(&[&[6][..], &[1; 64]].concat()),
            "is no uncompressed point",
        ),
        (
            "other curve",
            wire(&[b"ecdsa-sha2-nistp256", b"nistp384", &uncompressed]),
            "curve",
        ),
        (
            "RSA of 2047 bits",
            rsa(0x7f, 256),
            "an RSA key of 2047 bits",
        ),
        (
            "RSA of 8193 bits",
            rsa(0x01, 1025),
            "an RSA key of 8193 bits",
        ),
        (
            "DSA",
            wire(&[b"ssh-dss", &[1]]),
            "\"ssh-dss\" keys cannot approve",
        ),
        (
            "certificate",
            wire(&[b"ssh-ed25519-cert-v01@openssh.com", &[1]]),
            "cannot approve",
        ),
    ];
    for (name, blob, says) in refused {
        let got = PublicKey::parse(&blob).unwrap_err().to_string();
        assert!(got.contains(says), "{name}: {got}");
    }
}
