//! Software keys in the clothes of a TPM: they sign what a TPM would, and what it never would.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};

use super::*;
use crate::model::Files;

/// `fixedTPM | fixedParent | sensitiveDataOrigin | userWithAuth | restricted | sign`
const AK: u32 = 0x0005_0072;
/// The same without `restricted`.
const TLS: u32 = 0x0004_0072;
const LATER: [u8; 16] = [7; 16];
const BOOT: [u8; 16] = [1; 16];

/// What an operator reads under each code.
fn says(code: &str) -> &'static str {
    match code {
        "peer-malformed" => "PeerEntry.body: ",
        "peer-deployment" => "PeerBody.deployment is another",
        "peer-node-not-listed" => " is not in the inventory",
        "peer-study-unknown" => "PeerBody.study \"onco\" is not in the policy",
        "peer-life" => " is not between 1 and 3600000",
        "peer-out-of-range" => " is not in the range the inventory gives the node",
        "peer-not-of-study" => "10.9.2.5 is not one of the study's own addresses",
        "peer-guest" => "is a guest without a TPM",
        "peer-ak-not-named" => "the inventory names no AK for the node",
        "peer-other-ak" => "PeerEntry.ak_public is not the AK the inventory names",
        "peer-ak" => "PeerEntry.ak_public",
        "peer-key" => "PeerEntry.key_",
        "peer-signature" => "PeerEntry.signature does not verify",
        other => panic!("{other} is not known here"),
    }
}

struct SoftKey(Vec<u8>);

fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes(), bytes].concat()
}

impl SoftKey {
    fn new() -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        Self(pkcs8.as_ref().to_vec())
    }

    /// `TPMT_PUBLIC`, ECDSA with SHA-256.
    fn area(&self, attributes: u32) -> Vec<u8> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.0).unwrap();
        let point = pair.public_key().as_ref();
        let mut out = vec![0x00, 0x23, 0x00, 0x0b];
        out.extend(attributes.to_be_bytes());
        out.extend([
            0, 0, 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00, 0x03, 0x00, 0x10,
        ]);
        out.extend(sized(&point[1..33]));
        out.extend(sized(&point[33..]));
        out
    }

    fn name(&self, attributes: u32) -> Vec<u8> {
        let public = Public::parse(&self.area(attributes)).unwrap();
        public.name().unwrap().as_bytes().to_vec()
    }

    /// `TPMS_ATTEST` of `TPM2_Certify` and `TPMT_SIGNATURE`.
    fn certify(&self, name: &[u8], purpose: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut attest = vec![0xff, b'T', b'C', b'G', 0x80, 0x17];
        attest.extend(sized(&[0x00, 0x0b]));
        attest.extend(sized(purpose));
        attest.extend([0; 17 + 8]);
        attest.extend(sized(name));
        attest.extend(sized(&[0x00, 0x0b]));
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.0).unwrap();
        let signed = pair.sign(&SystemRandom::new(), &attest).unwrap();
        let (r, s) = signed.as_ref().split_at(32);
        let signature = [&[0x00, 0x18, 0x00, 0x0b][..], &sized(r), &sized(s)].concat();
        (attest, signature)
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.0).unwrap();
        let signed = pair.sign(&SystemRandom::new(), message).unwrap();
        signed.as_ref().to_vec()
    }
}

/// A node's keys, and the EK digest the inventory has for it.
struct Keys {
    ek: Sha256Digest,
    ak: SoftKey,
    tls: SoftKey,
}

impl Keys {
    fn new(ek: u8) -> Self {
        Self {
            ek: Sha256Digest([ek; 32]),
            ak: SoftKey::new(),
            tls: SoftKey::new(),
        }
    }

    fn entry(&self, body: &v1::PeerBody) -> v1::PeerEntry {
        let purpose = transport_binding(&deployment(), &self.ek);
        let (key_attest, key_signature) = self.ak.certify(&self.tls.name(TLS), &purpose.0);
        let body = body.encode_to_vec();
        v1::PeerEntry {
            signature: self.tls.sign(&signed_bytes(&body)),
            body,
            key_public: self.tls.area(TLS),
            key_attest,
            key_signature,
            ak_public: self.ak.area(AK),
        }
    }
}

fn deployment() -> DeploymentId {
    DeploymentId::new("demo").unwrap()
}

/// `gpu-01` hosts 10.9.1.0/25, `gpu-02` 10.9.1.128/25, `gpu-03` nobody confirmed, and `vm-01` is a
/// guest without a TPM.
fn model(one: &Keys, two: &Keys) -> Model {
    let inventory = format!(
        "[[node]]\nname = \"gpu-01\"\nek = \"{}\"\nak = \"{}\"\njurisdiction = \"DE\"\n\
         addresses = [\"10.9.1.0/25\", \"10.9.2.0/25\", \"2001:db8::/64\"]\n\
         [[node]]\nname = \"gpu-02\"\nek = \"{}\"\nak = \"{}\"\njurisdiction = \"DE\"\n\
         addresses = [\"10.9.1.128/25\"]\n\
         [[node]]\nname = \"gpu-03\"\nek = \"{}\"\njurisdiction = \"DE\"\n\
         addresses = [\"10.9.3.0/24\"]\n\
         [[guest]]\nname = \"vm-01\"\nchips = [\"SNP-0123456789abcdef\"]\nmeasurement = \"{}\"\n\
         jurisdiction = \"DE\"\naddresses = [\"10.9.4.0/24\"]\n",
        one.ek,
        hex::encode(one.ak.name(AK)),
        two.ek,
        hex::encode(two.ak.name(AK)),
        Sha256Digest([3; 32]),
        "7".repeat(96),
    );
    let study = |name: &str, peers: &str, attested: bool| {
        format!(
            "name = \"{name}\"\nmode = \"enforce\"\nselect.cgroups = [\"/{name}\"]\n\
             peers = {{addresses = [{peers}], attested = {attested}}}\n"
        )
    };
    let cardio = study(
        "cardio",
        r#""10.9.1.0/24", "10.9.3.0/24", "10.9.4.0/24", "2001:db8::/64""#,
        true,
    );
    let neuro = study("neuro", r#""10.9.2.0/24""#, false);
    Model::parse(&Files {
        studies: &[
            ("studies/cardio.toml", cardio.as_bytes()),
            ("studies/neuro.toml", neuro.as_bytes()),
        ],
        host_fence: b"",
        sites: b"",
        inventory: inventory.as_bytes(),
        collector: b"",
        profile: b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\n\
                   tpm={bank=\"sha256\",require=[0]}\n",
        guest_profile: None,
    })
    .unwrap()
}

fn body() -> v1::PeerBody {
    v1::PeerBody {
        deployment: "demo".to_owned(),
        node: "gpu-01".to_owned(),
        study: "cardio".to_owned(),
        addresses: vec![vec![10, 9, 1, 5]],
        issued_ms: 1000,
        lasts_ms: 600_000,
    }
}

#[test]
fn an_entry_counts_for_what_the_inventory_gives_its_node() {
    let (one, two) = (Keys::new(1), Keys::new(2));
    let model = model(&one, &two);
    type Edit = fn(&mut v1::PeerBody);
    let six = |last: u8| [&[0x20, 0x01, 0x0d, 0xb8][..], &[0; 11], &[last]].concat();
    assert_eq!(six(9).len(), 16);
    let rows: &[(&str, Edit, &str)] = &[
        ("as it should be", |_| {}, "ok"),
        (
            "first of the range",
            |b| b.addresses = vec![vec![10, 9, 1, 0]],
            "ok",
        ),
        (
            "last of the range",
            |b| b.addresses = vec![vec![10, 9, 1, 127]],
            "ok",
        ),
        (
            "IPv4 in IPv6",
            |b| {
                b.addresses = vec![[&[0; 10][..], &[255, 255, 10, 9, 1, 5]].concat()];
            },
            "ok",
        ),
        (
            "another node's address",
            |b| b.addresses = vec![vec![10, 9, 1, 128]],
            "peer-out-of-range",
        ),
        (
            "its own and another's",
            |b| b.addresses.push(vec![10, 9, 1, 200]),
            "peer-out-of-range",
        ),
        (
            "nobody's address",
            |b| b.addresses = vec![vec![10, 9, 9, 9]],
            "peer-out-of-range",
        ),
        (
            "of another study",
            |b| b.addresses = vec![vec![10, 9, 2, 5]],
            "peer-not-of-study",
        ),
        ("no address", |b| b.addresses.clear(), "peer-malformed"),
        (
            "64 addresses",
            |b| b.addresses = vec![vec![10, 9, 1, 5]; 64],
            "ok",
        ),
        (
            "65 addresses",
            |b| b.addresses = vec![vec![10, 9, 1, 5]; 65],
            "peer-malformed",
        ),
        (
            "five bytes",
            |b| b.addresses = vec![vec![10, 9, 1, 5, 0]],
            "peer-malformed",
        ),
        (
            "another deployment",
            |b| b.deployment.push('x'),
            "peer-deployment",
        ),
        (
            "an unknown node",
            |b| b.node = "gpu-09".to_owned(),
            "peer-node-not-listed",
        ),
        ("no node", |b| b.node.clear(), "peer-node-not-listed"),
        (
            "an unknown study",
            |b| b.study = "onco".to_owned(),
            "peer-study-unknown",
        ),
        ("no time", |b| b.lasts_ms = 0, "peer-life"),
        ("an hour", |b| b.lasts_ms = LIFE_LIMIT_MS, "ok"),
        (
            "longer than an hour",
            |b| b.lasts_ms = LIFE_LIMIT_MS + 1,
            "peer-life",
        ),
        (
            "in another's name",
            |b| {
                b.node = "gpu-02".to_owned();
                b.addresses = vec![vec![10, 9, 1, 200]];
            },
            "peer-other-ak",
        ),
        (
            "of a node without an AK",
            |b| {
                b.node = "gpu-03".to_owned();
                b.addresses = vec![vec![10, 9, 3, 5]];
            },
            "peer-ak-not-named",
        ),
        (
            "in a guest's name",
            |b| {
                b.node = "vm-01".to_owned();
                b.addresses = vec![vec![10, 9, 4, 5]];
            },
            "peer-guest",
        ),
        (
            "a body too long",
            |b| b.deployment = "d".repeat(3000),
            "peer-malformed",
        ),
    ];
    for (name, edit, want) in rows {
        let mut body = body();
        edit(&mut body);
        let found = verify(&one.entry(&body), &model, &deployment());
        if let Err(why) = &found {
            let text = why.to_string();
            assert!(text.contains(says(why.code())), "{name}: {text}");
        }
        assert_eq!(
            found.map_or_else(|why| why.code(), |_| "ok"),
            *want,
            "{name}"
        );
    }
    let good = verify(&one.entry(&body()), &model, &deployment()).unwrap();
    assert_eq!(
        (good.node().as_str(), good.study().as_str()),
        ("gpu-01", "cardio")
    );
    assert_eq!(good.ek(), one.ek);
    assert_eq!(good.addresses(), ["10.9.1.5".parse::<IpAddr>().unwrap()]);
}

/// Fills up by a field that is newer than this version.
fn fill(body: &mut Vec<u8>, len: usize) {
    let left = len - body.len() - 4;
    body.extend([0xa2, 0x06]);
    prost::encode_length_delimiter(left, body).unwrap();
    body.resize(len, 0);
}

#[test]
fn nobody_but_the_node_makes_an_entry_of_it() {
    let (one, two) = (Keys::new(1), Keys::new(2));
    let model = model(&one, &two);
    let good = one.entry(&body());
    type Forge<'a> = Box<dyn Fn(&mut v1::PeerEntry) + 'a>;
    let rows: Vec<(&str, Forge<'_>, &str)> = vec![
        ("as it was", Box::new(|_| {}), "ok"),
        (
            "a later time written in",
            Box::new(|e| {
                e.body = v1::PeerBody {
                    issued_ms: 9000,
                    ..body()
                }
                .encode_to_vec();
            }),
            "peer-signature",
        ),
        (
            "one bit of the signature",
            Box::new(|e| e.signature[10] ^= 1),
            "peer-signature",
        ),
        (
            "no signature",
            Box::new(|e| e.signature.clear()),
            "peer-signature",
        ),
        (
            "signed without the domain",
            Box::new(|e| e.signature = one.tls.sign(&e.body)),
            "peer-signature",
        ),
        (
            "signed by a key of the collector's",
            Box::new(|e| {
                e.signature = two.tls.sign(&signed_bytes(&e.body));
            }),
            "peer-signature",
        ),
        (
            "with that key instead",
            Box::new(|e| {
                e.signature = two.tls.sign(&signed_bytes(&e.body));
                e.key_public = two.tls.area(TLS);
            }),
            "peer-key",
        ),
        (
            "with everything of another node",
            Box::new(|e| {
                *e = v1::PeerEntry {
                    body: e.body.clone(),
                    ..two.entry(&body())
                };
            }),
            "peer-other-ak",
        ),
        (
            "an AK that signs anything",
            Box::new(|e| e.ak_public = one.ak.area(TLS)),
            "peer-ak",
        ),
        (
            "a key certified for another TPM",
            Box::new(|e| {
                let purpose = transport_binding(&deployment(), &two.ek);
                (e.key_attest, e.key_signature) = one.ak.certify(&one.tls.name(TLS), &purpose.0);
            }),
            "peer-key",
        ),
        (
            "a key certified by another AK",
            Box::new(|e| {
                let purpose = transport_binding(&deployment(), &one.ek);
                (e.key_attest, e.key_signature) = two.ak.certify(&one.tls.name(TLS), &purpose.0);
            }),
            "peer-key",
        ),
        (
            "as long as one may be",
            Box::new(|e| {
                fill(&mut e.body, BODY_LIMIT);
                e.signature = one.tls.sign(&signed_bytes(&e.body));
            }),
            "ok",
        ),
        (
            "longer than any",
            Box::new(|e| {
                fill(&mut e.body, BODY_LIMIT + 1);
                e.signature = one.tls.sign(&signed_bytes(&e.body));
            }),
            "peer-malformed",
        ),
        ("no key", Box::new(|e| e.key_public.clear()), "peer-key"),
        ("no AK", Box::new(|e| e.ak_public.clear()), "peer-ak"),
    ];
    for (name, forge, want) in rows {
        let mut entry = good.clone();
        forge(&mut entry);
        let found = verify(&entry, &model, &deployment());
        if let Err(why) = &found {
            let text = why.to_string();
            assert!(text.contains(says(why.code())), "{name}: {text}");
        }
        assert_eq!(
            found.map_or_else(|why| why.code(), |_| "ok"),
            want,
            "{name}"
        );
    }
}

#[test]
fn an_older_entry_gains_nothing_and_the_same_one_lasts_no_longer() {
    let (one, two) = (Keys::new(1), Keys::new(2));
    let model = model(&one, &two);
    let of = |issued_ms| {
        let body = v1::PeerBody {
            issued_ms,
            ..body()
        };
        verify(&one.entry(&body), &model, &deployment()).unwrap()
    };
    let mut seen = Seen::default();
    let minutes = |n: u64| n * 60_000_000_000;
    assert_eq!(seen.take(&of(1000), BOOT, minutes(1)), Ok(minutes(11)));
    assert_eq!(
        seen.take(&of(1000), BOOT, minutes(9)),
        Ok(minutes(11)),
        "told again"
    );
    let older = PeerRefused::Older {
        found: 999,
        seen: 1000,
    };
    assert_eq!(seen.take(&of(999), BOOT, minutes(9)), Err(older));
    // A restart of the process, then of the machine.
    let text = seen.to_text();
    let mut seen = Seen::from_text(&text).unwrap();
    assert_eq!(seen.take(&of(1000), BOOT, minutes(10)), Ok(minutes(11)));
    assert_eq!(
        seen.take(&of(1000), LATER, minutes(0)),
        Ok(0),
        "of an earlier boot"
    );
    assert_eq!(seen.take(&of(1001), LATER, minutes(2)), Ok(minutes(12)));
    let why = seen.take(&of(1000), LATER, minutes(2)).unwrap_err();
    assert_eq!(why.code(), "peer-older");
    let text = why.to_string();
    assert_eq!(
        text,
        "PeerBody.issued_ms 1000 is older than 1001, which was seen"
    );
    for broken in [
        "gpu-01 cardio 1\n",
        "gpu-01 cardio x 00 1\n",
        "\n",
        &text.replace(' ', "  "),
    ] {
        assert_eq!(Seen::from_text(broken), None, "{broken:?}");
    }
    assert_eq!(Seen::from_text(""), Some(Seen::default()));
}

#[test]
fn a_node_signs_for_what_is_there_and_its_own() {
    let (one, two) = (Keys::new(1), Keys::new(2));
    let model = model(&one, &two);
    let node = model.inventory.by_ek(&one.ek).unwrap();
    let candidates = [
        "10.9.1.7",
        "10.9.1.5",
        "::ffff:10.9.1.5",
        "10.9.1.200",
        "10.9.2.5",
        "127.0.0.1",
        "2001:db8::1",
    ];
    let candidates = candidates.map(|text| text.parse().unwrap());
    let found = own(&model, node, &candidates);
    let want: Vec<IpAddr> = ["10.9.1.5", "10.9.1.7", "2001:db8::1"]
        .map(|text| text.parse().unwrap())
        .into();
    assert_eq!(found, [(StudyId::new("cardio").unwrap(), want)].into());
    assert!(own(&model, node, &[]).is_empty());
    // It has an address that is the study's, and no AK to sign for it with.
    let guest = model.inventory.by_name(&NodeId::new("vm-01").unwrap());
    let its = ["10.9.4.5".parse().unwrap()];
    assert!(own(&model, guest.unwrap(), &its).is_empty());
}
