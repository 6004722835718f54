//! Files by their signatures: of three forms, and every way of spoiling one.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};

use super::super::{FileRefused, Judged, KeyId, KnownDigest, KnownFiles, List, SigningKey};
use super::{SHA1, SHA256, at, binary, data};
use crate::crypto::{Curve, PublicKey};
use crate::ids::UnixTime;
use crate::term::Term;

const NOW: UnixTime = UnixTime(1_800_000_000_000);

/// A key that signs files.
enum Signer {
    Rsa(Box<RsaKeyPair>, PublicKey),
    Ec(EcdsaKeyPair, PublicKey),
}

impl Signer {
    fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let public = PublicKey::from_spki_der(spki.as_ref()).unwrap();
        Self::Rsa(Box::new(pair), public)
    }

    fn ec() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let public = PublicKey::ec_from_coordinates(Curve::P256, x, y).unwrap();
        Self::Ec(pair, public)
    }

    fn public(&self) -> &PublicKey {
        match self {
            Self::Rsa(_, public) | Self::Ec(_, public) => public,
        }
    }

    /// Over SHA-256 of the message.
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair, _) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Self::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    fn header(&self, kind: u8, version: u8, message: &[u8]) -> Vec<u8> {
        let signature = self.sign(message);
        let len = u16::try_from(signature.len()).unwrap();
        let id = KeyId::of(self.public()).0;
        [&[kind, version, 4][..], &id, &len.to_be_bytes(), &signature].concat()
    }

    fn known(&self, term: Term) -> KnownFiles {
        KnownFiles {
            keys: vec![SigningKey {
                name: "vendor 2026".to_owned(),
                key: self.public().clone(),
                id: KeyId::of(self.public()),
                term,
            }],
            ..KnownFiles::default()
        }
    }
}

/// One entry of these fields.
fn entry(template: &str, fields: &[&[u8]]) -> Vec<u8> {
    let data = data(fields);
    binary(
        10,
        SHA1.digest(&[&data]).unwrap().as_slice(),
        template,
        &data,
    )
}

fn digest(tag: &str, content: &[u8]) -> Vec<u8> {
    let hash = SHA256.digest(&[content]).unwrap();
    [tag.as_bytes(), &[0], hash.as_slice()].concat()
}

fn code(known: &KnownFiles, entry: &[u8]) -> &'static str {
    let list = List::parse(entry).unwrap();
    match known.judge(&at(&list, 0), NOW) {
        Ok(Judged::Listed(_)) => "listed",
        Ok(Judged::Signed(_)) => "signed",
        Ok(Judged::Unjudged(_)) => "unjudged",
        Err(refused) => refused.code(),
    }
}

#[test]
fn a_signature_counts_over_what_was_measured() {
    for signer in [Signer::rsa(), Signer::ec()] {
        let known = signer.known(Term::default());
        let content = b"the file";
        let plain = digest("sha256:", content);
        let typed = digest("ima:sha256:", content);
        let verity = digest("verity:sha256:", content);
        let raw = SHA256.digest(&[content]).unwrap();
        let old = signer.header(3, 2, content);
        let of_kind = |kind: u8| [&[kind, 4], raw.as_slice()].concat();
        let new = signer.header(3, 3, &of_kind(3));
        let sealed = signer.header(6, 3, &of_kind(6));
        let other = Signer::ec();
        let mut flipped = old.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut stolen = other.header(3, 2, content);
        stolen[3..7].copy_from_slice(&KeyId::of(signer.public()).0);
        let (short, long) = (old[..old.len() - 1].to_vec(), [&old[..], &[0]].concat());
        let mut sha1 = old.clone();
        sha1[2] = 2;
        let changed = digest("sha256:", b"another file");
        let attributes = [&[5][..], &old[1..]].concat();
        // Name, template, digest, signature, what it is worth.
        type Row<'r> = (&'r str, &'r str, &'r [u8], &'r [u8], &'r str);
        let rows: &[Row<'_>] = &[
            ("as most sign", "ima-sig", &plain, &old, "signed"),
            (
                "with the kind under it",
                "ima-sigv2",
                &typed,
                &new,
                "signed",
            ),
            ("of fs-verity", "ima-sigv2", &verity, &sealed, "signed"),
            ("none", "ima-sig", &plain, &[], "file-unknown"),
            (
                "a bit of it changed",
                "ima-sig",
                &plain,
                &flipped,
                "file-signature",
            ),
            (
                "of another file",
                "ima-sig",
                &changed,
                &old,
                "file-signature",
            ),
            (
                "by another key",
                "ima-sig",
                &plain,
                &other.header(3, 2, content),
                "file-unknown",
            ),
            (
                "by another key under its name",
                "ima-sig",
                &plain,
                &stolen,
                "file-signature",
            ),
            (
                "one byte short",
                "ima-sig",
                &plain,
                &short,
                "file-signature",
            ),
            ("one byte long", "ima-sig", &plain, &long, "file-signature"),
            (
                "said to be over SHA-1",
                "ima-sig",
                &plain,
                &sha1,
                "file-signature",
            ),
            (
                "of a file, for its verity digest",
                "ima-sigv2",
                &verity,
                &old,
                "file-signature",
            ),
            (
                "of a verity digest, for a file",
                "ima-sig",
                &plain,
                &sealed,
                "file-signature",
            ),
            (
                "of another kind",
                "ima-sigv2",
                &typed,
                &signer.header(3, 3, &of_kind(6)),
                "file-signature",
            ),
            (
                "of fs-verity, without its kind",
                "ima-sigv2",
                &verity,
                &signer.header(6, 2, content),
                "file-signature",
            ),
            (
                "over attributes",
                "ima-sig",
                &plain,
                &attributes,
                "file-signature",
            ),
        ];
        for (name, template, digest, signature, want) in rows {
            let bytes = entry(template, &[digest, b"/bin/a\0", signature]);
            assert_eq!(code(&known, &bytes), *want, "{name}");
        }
        let bytes = entry("ima-sig", &[&plain, b"/bin/a\0", &old]);
        for (name, term, want) in [
            (
                "over",
                Term {
                    not_after: Some(NOW),
                    ..Term::default()
                },
                "file-key",
            ),
            (
                "taken back",
                Term {
                    revoked: Some(NOW),
                    ..Term::default()
                },
                "file-key",
            ),
            (
                "in its time",
                Term {
                    not_before: Some(NOW),
                    ..Term::default()
                },
                "signed",
            ),
        ] {
            assert_eq!(code(&signer.known(term), &bytes), want, "{name}");
        }
        // What was taken back is not good again because somebody signed it.
        let mut revoked = known.clone();
        let listed = super::super::KnownFile {
            name: "tool 1.1".to_owned(),
            term: Term {
                revoked: Some(NOW),
                ..Term::default()
            },
        };
        let text = format!("sha256:{raw}");
        let digest = KnownDigest::from_text(&text).unwrap();
        revoked.files.insert(digest.clone(), vec![listed.clone()]);
        assert_eq!(code(&revoked, &bytes), "file-revoked");
        // What has only ended is.
        let ended = super::super::KnownFile {
            term: Term {
                not_after: Some(NOW),
                ..Term::default()
            },
            ..listed
        };
        revoked.files.insert(digest, vec![ended]);
        assert_eq!(code(&revoked, &bytes), "signed");
    }
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = match content.len() {
        len @ 0..=127 => vec![u8::try_from(len).unwrap()],
        len @ 128..=255 => vec![0x81, u8::try_from(len).unwrap()],
        len => {
            let len = u16::try_from(len).unwrap().to_be_bytes();
            [&[0x82], &len[..]].concat()
        }
    };
    [&[tag][..], &len, content].concat()
}

const SHA256_OID: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 3, 4, 2, 1];

/// `SignedData` without certificates, as `sign-file` makes it, or with attributes.
fn message(signer: &Signer, content: &[u8], attributes: Option<&[u8]>) -> Vec<u8> {
    let algorithm = tlv(0x30, &[tlv(6, SHA256_OID), vec![5, 0]].concat());
    let (signed, attributes) = match attributes {
        None => (signer.sign(content), vec![]),
        Some(set) => (signer.sign(&tlv(0x31, set)), tlv(0xa0, set)),
    };
    let info = [
        vec![2, 1, 1],
        tlv(0x30, &[]),
        algorithm.clone(),
        attributes,
        tlv(0x30, &[]),
        tlv(4, &signed),
    ];
    let data = [
        vec![2, 1, 1],
        tlv(0x31, &algorithm),
        tlv(0x30, &[]),
        tlv(0x31, &tlv(0x30, &info.concat())),
    ];
    let oid = tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2]);
    let content = tlv(0xa0, &tlv(0x30, &data.concat()));
    tlv(0x30, &[oid, content].concat())
}

/// The attribute that says what the content hashes to.
fn said(content: &[u8]) -> Vec<u8> {
    let oid = tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 4]);
    let hash = SHA256.digest(&[content]).unwrap();
    tlv(0x30, &[oid, tlv(0x31, &tlv(4, hash.as_slice()))].concat())
}

#[test]
fn an_appended_signature_counts_over_what_lies_before_it() {
    for signer in [Signer::rsa(), Signer::ec()] {
        let known = signer.known(Term::default());
        let content = b"a module";
        let whole = digest("sha256:", b"a module and its signature");
        let before = digest("sha256:", content);
        let other = digest("sha256:", b"another module");
        let good = message(&signer, content, None);
        let twice = [said(content), said(content)].concat();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let rows: &[(&str, &[u8], Vec<u8>, &str)] = &[
            ("as the kernel signs", &before, good.clone(), "signed"),
            (
                "with attributes",
                &before,
                message(&signer, content, Some(&said(content))),
                "signed",
            ),
            (
                "attributes of other content",
                &before,
                message(&signer, content, Some(&said(b"x"))),
                "file-unknown",
            ),
            (
                "attributes without it",
                &before,
                message(&signer, content, Some(&[])),
                "file-signature",
            ),
            (
                "attributes with it twice",
                &before,
                message(&signer, content, Some(&twice)),
                "file-signature",
            ),
            ("of other content", &other, good.clone(), "file-unknown"),
            ("a bit of it changed", &before, flipped, "file-unknown"),
            (
                "by another key",
                &before,
                message(&Signer::ec(), content, None),
                "file-unknown",
            ),
            (
                "one byte short",
                &before,
                good[..good.len() - 1].to_vec(),
                "file-signature",
            ),
            (
                "one byte long",
                &before,
                [&good[..], &[0]].concat(),
                "file-signature",
            ),
        ];
        for (name, digest, message, want) in rows {
            let fields: &[&[u8]] = &[&whole, b"/a.ko\0", &[], digest, message];
            assert_eq!(code(&known, &entry("ima-modsig", fields)), *want, "{name}");
        }
    }
}

#[test]
fn owners_are_told_by_the_kernels_own_template_alone() {
    let known = KnownFiles {
        unjudged_owners: [1000].into(),
        ..KnownFiles::default()
    };
    let plain = digest("sha256:", b"x");
    let of = |owner: u32| {
        let (owner, group, mode) = (owner.to_le_bytes(), [0; 4], [0; 2]);
        entry(
            "evm-sig",
            &[&plain, b"/a\0", &[], &[], &[], &[], &owner, &group, &mode],
        )
    };
    assert_eq!(code(&known, &of(1000)), "unjudged");
    assert_eq!(code(&known, &of(1001)), "file-unknown");
    assert_eq!(code(&known, &of(0)), "file-unknown");
    let own = entry(
        "d-ng|n-ng|iuid",
        &[&plain, b"/a\0", &1000_u32.to_le_bytes()],
    );
    assert_eq!(code(&known, &own), "file-unknown");
}

#[test]
fn digests_have_one_spelling_and_no_weak_kind() {
    let rows: &[(&str, Option<&str>)] = &[
        (&"ab".repeat(32), Some("sha256:")),
        (&"ab".repeat(48), Some("sha384:")),
        (&"ab".repeat(64), Some("sha512:")),
        (
            &format!("verity:sha256:{}", "ab".repeat(32)),
            Some("verity:sha256:"),
        ),
        (&"ab".repeat(20), None),
        (&format!("sha1:{}", "ab".repeat(20)), None),
        (&format!("sha384:{}", "ab".repeat(32)), None),
        (&format!("sm3:{}", "ab".repeat(32)), None),
        (&"xy".repeat(32), None),
        ("", None),
    ];
    for (text, want) in rows {
        let found = KnownDigest::from_text(text).map(|digest| digest.to_string());
        assert_eq!(found.is_some(), want.is_some(), "{text}");
        assert!(
            found.is_none_or(|found| found.starts_with(want.unwrap())),
            "{text}"
        );
    }
    let sha1 = entry("ima-ng", &[&[b"sha1:\0", &[7; 20][..]].concat(), b"/a\0"]);
    let refused = FileRefused::Unknown { signer: None };
    let list = List::parse(&sha1).unwrap();
    assert_eq!(
        KnownFiles::default().judge(&at(&list, 0), NOW),
        Err(refused)
    );
}
