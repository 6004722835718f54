use super::*;

const NV: u16 = 0x8014;
const INDEX: u32 = 0x0180_0b43;
const PURPOSE: &[u8] = b"this statement, this challenge..";
/// `ownerwrite | writeall | writedefine | ownerread | no_da`, written and locked.
const LOCKED: u32 = 0x2202_3802;

/// `TPMS_NV_PUBLIC` of an area of `size` bytes.
fn area(index: u32, attributes: u32, size: u16) -> Vec<u8> {
    let mut out = index.to_be_bytes().to_vec();
    out.extend([0x00, 0x0b]);
    out.extend(attributes.to_be_bytes());
    out.extend([0, 0]);
    out.extend(size.to_be_bytes());
    out
}

/// `TPMS_NV_CERTIFY_INFO` for that area.
fn info(public: &[u8], offset: u16, contents: &[u8]) -> Vec<u8> {
    let digest = HashAlgorithm::Sha256.digest(&[public]).unwrap();
    let name = [&[0x00, 0x0b], digest.as_slice()].concat();
    [
        sized(&name).as_slice(),
        &offset.to_be_bytes(),
        &sized(contents),
    ]
    .concat()
}

#[test]
fn an_area_is_the_one_presented_whole_and_locked_for_good() {
    let (key, stranger) = (SoftKey::new(), SoftKey::new());
    let ak = key.ak();
    let code = |public: &[u8], bytes: &[u8], signer: &SoftKey, purpose: &[u8]| {
        let signature = signer.sign(bytes);
        let want = qualifying(purpose);
        match CertifiedNv::verify(INDEX, public, bytes, &signature, &ak, &want) {
            Ok(certified) => {
                assert_eq!(certified.contents(), b"FRA1");
                "ok"
            }
            Err(refused) => refused.code(),
        }
    };
    let public = area(INDEX, LOCKED, 4);
    let good = attest(NV, PURPOSE, &info(&public, 0, b"FRA1"));
    assert_eq!(code(&public, &good, &key, PURPOSE), "ok");

    let quote = quote_info(&[(HashAlgorithm::Sha256, 1)], &[&[0; 32]]);
    let quote = attest(QUOTE, PURPOSE, &quote);
    type Case<'a> = (&'a str, &'a [u8], &'a [u8], &'a SoftKey, &'a [u8], &'a str);
    let cases: &[Case<'_>] = &[
        (
            "another TPM",
            &public,
            &good,
            &stranger,
            PURPOSE,
            "nv-signature",
        ),
        (
            "an older answer",
            &public,
            &good,
            &key,
            b"before",
            "nv-qualifying-data",
        ),
        ("a quote instead", &public, &quote, &key, PURPOSE, "nv-type"),
        (
            "another area",
            &area(INDEX + 1, LOCKED, 4),
            &good,
            &key,
            PURPOSE,
            "nv-name",
        ),
        (
            "called locked",
            &public,
            &attest(
                NV,
                PURPOSE,
                &info(&area(INDEX, LOCKED & !0x800, 4), 0, b"FRA1"),
            ),
            &key,
            PURPOSE,
            "nv-name",
        ),
        (
            "no area",
            &public[..13],
            &good,
            &key,
            PURPOSE,
            "nv-malformed",
        ),
        (
            "one byte short",
            &public,
            &good[..good.len() - 1],
            &key,
            PURPOSE,
            "nv-malformed",
        ),
        (
            "a key's handle",
            &area(0x8100_0001, LOCKED, 4),
            &good,
            &key,
            PURPOSE,
            "nv-malformed",
        ),
    ];
    for (name, public, bytes, signer, purpose, want) in cases {
        assert_eq!(code(public, bytes, signer, purpose), *want, "{name}");
    }

    // The TPM tells the truth about what is not good enough.
    type Area<'a> = (&'a str, Vec<u8>, u16, &'a [u8], &'a str);
    let areas: &[Area<'_>] = &[
        (
            "another index",
            area(INDEX + 1, LOCKED, 4),
            0,
            b"FRA1",
            "nv-index",
        ),
        (
            "never written",
            area(INDEX, LOCKED & !(1 << 29), 4),
            0,
            b"FRA1",
            "nv-unlocked",
        ),
        (
            "locked until a reset",
            area(INDEX, LOCKED & !(1 << 13), 4),
            0,
            b"FRA1",
            "nv-unlocked",
        ),
        (
            "not locked",
            area(INDEX, LOCKED & !(1 << 11), 4),
            0,
            b"FRA1",
            "nv-unlocked",
        ),
        (
            "cleared by a reset",
            area(INDEX, LOCKED | 1 << 27, 4),
            0,
            b"FRA1",
            "nv-unlocked",
        ),
        (
            "a counter",
            area(INDEX, LOCKED | 1 << 4, 4),
            0,
            b"FRA1",
            "nv-unlocked",
        ),
        (
            "its beginning",
            area(INDEX, LOCKED, 5),
            0,
            b"FRA1",
            "nv-part",
        ),
        ("its end", area(INDEX, LOCKED, 4), 1, b"FRA1", "nv-part"),
    ];
    for (name, public, offset, contents, want) in areas {
        let bytes = attest(NV, PURPOSE, &info(public, *offset, contents));
        assert_eq!(code(public, &bytes, &key, PURPOSE), *want, "{name}");
    }

    let sha384 = [&[0x00, 0x18, 0x00, 0x0c], &key.sign(&good)[4..]].concat();
    let want = qualifying(PURPOSE);
    let refused = CertifiedNv::verify(INDEX, &public, &good, &sha384, &ak, &want).unwrap_err();
    assert_eq!(refused.code(), "nv-signature-scheme");
}
