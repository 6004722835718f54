//! Who signed a RIM, and whether it is what was signed.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::made::{AT, C14N, DSIG, SIGNER_FROM, SIGNER_UNTIL, Shape, Signer, Tag};
use crate::gpu::rim::c14n::canonical;
use crate::gpu::rim::dsig::Signature;
use crate::gpu::rim::xml::Document;
use crate::gpu::rim::{Checked, check};
use crate::ids::{Sha256Digest, UnixTime};

static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::new);

fn tag() -> Tag {
    Tag::vbios(&[0, 9])
}

fn checked(rim: &str) -> Checked {
    check(rim.as_bytes(), &SIGNER.anchors(), AT)
}

fn codes(checked: &Checked) -> Vec<&'static str> {
    checked.refusals.iter().map(|why| why.code()).collect()
}

/// The detail of the one refusal.
fn detail(checked: &Checked) -> String {
    let [only] = checked.refusals.as_slice() else {
        panic!("{:?}", checked.refusals);
    };
    let mut text = only.to_string();
    let mut cause = std::error::Error::source(only);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[test]
fn a_rim_is_believed_under_its_root_alone() {
    let rim = SIGNER.rim(&tag());
    let good = checked(&rim);
    assert_eq!(good.refusals, []);
    assert_eq!(
        (good.signature, good.chain, good.signer_valid),
        (Some(true), Some(true), Some(true))
    );
    assert_eq!(good.digest, Sha256Digest::of(&[rim.as_bytes()]));
    let content = good.endorsed().unwrap().rim();
    assert_eq!(content.id, "00c0ffee");
    assert_eq!(content.product, "GH100");
    assert_eq!(content.version, "96.00.9F.00.01");
    let indices: Vec<u8> = content.golden.iter().map(|golden| golden.index).collect();
    assert_eq!(indices, [0, 9]);

    // Another root of the same name, and the one that is built in.
    let other = Signer::new();
    for anchors in [other.anchors(), crate::gpu::Anchors::rim()] {
        let stranger = check(rim.as_bytes(), &anchors, AT);
        assert_eq!(codes(&stranger), ["rim-chain"]);
        assert_eq!(
            (stranger.signature, stranger.chain),
            (Some(true), Some(false))
        );
        assert!(stranger.content().is_some(), "what it says can be shown");
        assert!(
            stranger.endorsed().is_none(),
            "and is not to be compared with"
        );
    }
}

#[test]
fn every_byte_counts_or_means_the_same() {
    let signer = Signer::short();
    let rim = signer.rim(&Tag::vbios(&[9]));
    // An anchor is a key: the copy of its certificate that comes along says nothing.
    let root = rim.rfind("<ds:X509Certificate>").unwrap()..rim.find("</ds:X509Data>").unwrap();
    let form = |bytes: &[u8]| {
        let document = Document::parse(bytes).unwrap();
        let root = document.root().unwrap();
        let signature = root.children().find(|one| one.is(DSIG, "Signature"));
        canonical(root, signature)
    };
    let signed = form(rim.as_bytes());
    let mut bytes = rim.clone().into_bytes();
    let mut accepted = 0;
    for at in 0..bytes.len() {
        let bit = 1 << (at % 7);
        bytes[at] ^= bit;
        if check(&bytes, &signer.anchors(), AT).refusals.is_empty() {
            assert_eq!(form(&bytes), signed, "byte {at}");
            accepted += usize::from(!root.contains(&at));
        }
        bytes[at] ^= bit;
    }
    // A space that becomes another white space, little else.
    assert!(accepted < 20, "{accepted}");
}

#[test]
fn what_was_changed_after_signing_is_refused() {
    let rim = SIGNER.rim(&tag());
    for (case, from, to) in [
        ("a reference value", "0909", "0908"),
        (
            "a measurement left out",
            "active=\"True\"",
            "active=\"False\"",
        ),
        ("the version", "96.00.9F", "96.00.9E"),
        ("white space between elements", "</Meta>\n", "</Meta> \n"),
        ("an attribute more", "tagId=", "corpus=\"x\" tagId="),
        ("a namespace more", "tagId=", "xmlns:x=\"urn:x\" tagId="),
        (
            "a prefix for the same namespace",
            "<Meta ",
            "<Meta xmlns:z=\"urn:z\" ",
        ),
    ] {
        let changed = rim.replacen(from, to, 1);
        assert_ne!(changed, rim, "{case}");
        let found = codes(&checked(&changed));
        assert!(found.contains(&"rim-digest"), "{case}: {found:?}");
        assert!(checked(&changed).content().is_none(), "{case}");
    }
    let other = SIGNER.rim(&Tag::vbios(&[0, 8]));
    let between = |text: &str, tag: &str| {
        let (_, after) = text.split_once(&format!("<ds:{tag}>")).unwrap();
        after.split_once("</").unwrap().0.to_owned()
    };
    let swap = |tag| rim.replace(&between(&rim, tag), &between(&other, tag));
    let digest = checked(&swap("DigestValue"));
    assert_eq!(codes(&digest), ["rim-digest", "rim-signature"]);
    assert_eq!(codes(&checked(&swap("SignatureValue"))), ["rim-signature"]);
}

#[test]
fn the_same_canonical_form_is_the_same_rim() {
    let rim = SIGNER.rim(&tag());
    let edit = |from: &str, to: &str| {
        let changed = rim.replace(from, to);
        assert_ne!(changed, rim, "{from}");
        changed
    };
    let (head, tail) = rim.split_at(rim.find("</ds:SignatureValue>").unwrap() - 20);
    for (case, same) in [
        ("quotes", edit("edition=\"GPU\"", "edition='GPU'")),
        (
            "order of attributes",
            edit(
                "edition=\"GPU\" product=\"GH100\"",
                "product=\"GH100\" edition=\"GPU\"",
            ),
        ),
        ("empty element", edit("></Meta>", "/>")),
        ("space in tags", edit("</Payload>", "</Payload\n >")),
        ("space around =", edit("size=\"48\"", "size\t= \"48\"")),
        (
            "character reference",
            edit("edition=\"GPU\"", "edition=\"&#x47;PU\""),
        ),
        ("reference in text", edit("</Meta>\n", "</Meta>&#10;")),
        ("line ends of another system", edit("\n", "\r\n")),
        (
            "redundant namespace",
            edit(
                "<Payload>",
                "<Payload xmlns:ns2=\"http://www.w3.org/2001/04/xmlenc#sha384\">",
            ),
        ),
        (
            "declaration",
            format!("<?xml version='1.0' encoding='utf-8'?>\n{rim}\n"),
        ),
        ("byte order mark", format!("\u{feff}{rim}")),
        ("white space in base64", format!("{head} \n\t{tail}")),
        (
            "a key beside the certificates",
            edit("<ds:KeyInfo>", "<ds:KeyInfo><ds:KeyName>x</ds:KeyName>"),
        ),
    ] {
        let found = checked(&same);
        assert_eq!(found.refusals, [], "{case}");
        assert!(found.endorsed().is_some(), "{case}");
    }
}

#[test]
fn every_form_of_file_holds_the_same() {
    let rim = SIGNER.rim(&tag());
    let packed = STANDARD.encode(&rim);
    let lines: Vec<String> = packed
        .as_bytes()
        .chunks(76)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    let want = Sha256Digest::of(&[rim.as_bytes()]);
    for (case, file) in [
        ("base64", packed.clone()),
        ("base64 in lines", lines.join("\r\n") + "\n"),
        (
            "the service's answer",
            format!("\n{{\"id\": \"X\", \"rim\": \"{packed}\", \"sha256\": \"00\"}}"),
        ),
    ] {
        let found = checked(&file);
        assert_eq!(found.refusals, [], "{case}");
        assert_eq!(found.digest, want, "{case}");
    }
    for (case, file, want) in [
        ("nothing", "", "XML.element at offset 0: is wanted here"),
        (
            "no base64",
            "RIM!",
            "RIM.file at offset 0: is neither XML nor base64 of it",
        ),
        (
            "JSON of something else",
            "{\"RIM\": 1}",
            "RIM.file at offset 0: is not the JSON",
        ),
        ("base64 of base64", &STANDARD.encode(&packed), "XML."),
    ] {
        let found = checked(file);
        assert_eq!(codes(&found), ["rim-malformed"], "{case}");
        assert!(detail(&found).contains(want), "{case}: {}", detail(&found));
    }
    for (more, refused) in [(0, false), (1, true)] {
        let long = "A".repeat(crate::gpu::rim::MAX_RIM_FILE + more);
        let said = detail(&checked(&long)).contains("exceeds the limit of 2097152");
        assert_eq!(said, refused, "{more}");
    }
}

#[test]
fn there_is_one_signature_and_it_is_the_documents() {
    let rim = SIGNER.rim(&tag());
    let begin = rim.find("<ds:Signature ").unwrap();
    let end = rim.find("</ds:Signature>").unwrap() + "</ds:Signature>".len();
    let signature = &rim[begin..end];
    let text = tag().text();
    let evil = text.replace("0909", "6666");
    let inside = |document: &str, place: &str, what: &str| {
        document.replacen(place, &format!("{place}{what}"), 1)
    };
    for (case, document, want) in [
        ("none", text.clone(), "there is none"),
        (
            "two",
            inside(&rim, "<Payload>", signature),
            "there is more than one",
        ),
        (
            "the same twice",
            rim.replace(signature, &signature.repeat(2)),
            "more than one",
        ),
        (
            "wrapped whole",
            inside(&evil, "</Meta>\n", &rim),
            "inside something else",
        ),
        (
            "in another element",
            inside(&evil, "<Payload>", signature),
            "inside something else",
        ),
        (
            "original kept in an Object",
            evil.replace(
                "</SoftwareIdentity>",
                &format!(
                    "{}</SoftwareIdentity>",
                    signature.replace(
                        "</ds:Signature>",
                        &format!("<ds:Object>{text}</ds:Object></ds:Signature>"),
                    )
                ),
            ),
            "does not hold what it has to",
        ),
        (
            "no SignedInfo",
            rim.replace("ds:SignedInfo>", "ds:SignedInf>"),
            "does not hold what it has to",
        ),
        (
            "no KeyInfo",
            rim.replace("ds:KeyInfo>", "ds:Keys>"),
            "does not hold what it has to",
        ),
        (
            "no X509Data",
            rim.replace("ds:X509Data>", "ds:Data>"),
            "one X509Data",
        ),
        (
            "no certificate",
            rim.replace("ds:X509Certificate>", "ds:X509CRL>"),
            "holds something else",
        ),
        (
            "a certificate that is none",
            inside(&rim, "<ds:X509Certificate>", "AAAA"),
            "Certificate.certificate",
        ),
        (
            "a certificate that is not base64",
            inside(&rim, "<ds:X509Certificate>", "?"),
            "is not base64",
        ),
        (
            "a value that is long",
            inside(&rim, "<ds:SignatureValue>", "AAAA"),
            "has another length",
        ),
        (
            "a digest that is long",
            inside(&rim, "<ds:DigestValue>", "AAAA"),
            "has another length",
        ),
        (
            "an element in the digest",
            inside(&rim, "<ds:DigestValue>", "<x/>"),
            "holds something else than text",
        ),
    ] {
        let found = checked(&document);
        assert_eq!(codes(&found), ["rim-malformed"], "{case}");
        assert!(detail(&found).contains(want), "{case}: {}", detail(&found));
        assert!(found.content().is_none(), "{case}");
    }
}

#[test]
fn nothing_but_the_one_set_of_algorithms_is_taken() {
    let shapes: [(&str, Shape); 7] = [
        (
            "exclusive canonicalisation",
            Shape {
                canonicalization: "http://www.w3.org/2001/10/xml-exc-c14n#",
                ..Shape::default()
            },
        ),
        (
            "canonical XML 1.0",
            Shape {
                canonicalization: "http://www.w3.org/TR/2001/REC-xml-c14n-20010315",
                ..Shape::default()
            },
        ),
        (
            "HMAC",
            Shape {
                method: "http://www.w3.org/2001/04/xmldsig-more#hmac-sha384",
                ..Shape::default()
            },
        ),
        (
            "SHA-1",
            Shape {
                hash: "http://www.w3.org/2000/09/xmldsig#sha1",
                ..Shape::default()
            },
        ),
        (
            "a transform less",
            Shape {
                transforms: vec![C14N],
                ..Shape::default()
            },
        ),
        (
            "transforms the other way round",
            Shape {
                transforms: Shape::default().transforms.into_iter().rev().collect(),
                ..Shape::default()
            },
        ),
        (
            "a stylesheet",
            Shape {
                transforms: [
                    Shape::default().transforms,
                    vec!["http://www.w3.org/TR/1999/REC-xslt-19991116"],
                ]
                .concat(),
                ..Shape::default()
            },
        ),
    ];
    for (case, shape) in shapes {
        let found = checked(&SIGNER.sign_as(&tag().text(), &shape));
        assert_eq!(codes(&found), ["rim-algorithm"], "{case}");
        assert!(found.content().is_none(), "{case}");
    }
    for (case, reference) in [
        ("a part of the document", " URI=\"#payload\""),
        ("another file", " URI=\"file:///etc/passwd\""),
        ("nothing", ""),
    ] {
        let shape = Shape {
            reference,
            ..Shape::default()
        };
        let found = checked(&SIGNER.sign_as(&tag().text(), &shape));
        assert_eq!(codes(&found), ["rim-malformed"], "{case}");
        assert!(detail(&found).contains("Reference.URI"), "{case}");
    }
    let two = SIGNER.rim(&tag());
    let begin = two.find("<ds:Reference ").unwrap();
    let end = two.find("</ds:SignedInfo>").unwrap();
    let reference = two[begin..end].to_owned();
    let two = two.replace(&reference, &reference.repeat(2));
    assert_eq!(codes(&checked(&two)), ["rim-malformed"], "two references");
    let parameters = SIGNER.rim(&tag()).replace(
        "</ds:SignatureMethod>",
        "<ds:HMACOutputLength>1</ds:HMACOutputLength></ds:SignatureMethod>",
    );
    assert!(detail(&checked(&parameters)).contains("has parameters"));
}

#[test]
fn the_key_is_that_of_the_first_certificate() {
    let rim = SIGNER.rim(&tag());
    let attacker = Signer::new();
    let evil = attacker.sign(&tag().text().replace("0909", "6666"));
    let data = |text: &str| {
        let begin = text.find("<ds:X509Data>").unwrap();
        let end = text.find("</ds:KeyInfo>").unwrap();
        text[begin..end].to_owned()
    };
    let genuine = data(&rim);
    let own = data(&evil);
    let certificates = |data: &str| {
        let inner = data.strip_prefix("<ds:X509Data>").unwrap();
        inner.strip_suffix("</ds:X509Data>").unwrap().to_owned()
    };
    let together = |first: &str, second: &str| {
        let both = certificates(first) + &certificates(second);
        evil.replace(&own, &format!("<ds:X509Data>{both}</ds:X509Data>"))
    };
    let key = "<ds:KeyValue><ds:ECKeyValue xmlns:ds=\"http://www.w3.org/2009/xmldsig11#\">\
               </ds:ECKeyValue></ds:KeyValue>";
    for (case, document, want) in [
        ("under a chain of its own", evil.clone(), vec!["rim-chain"]),
        (
            "under the genuine certificates",
            evil.replace(&own, &genuine),
            vec!["rim-signature"],
        ),
        (
            "with its own key in front",
            evil.replace(&own, &format!("{key}{genuine}")),
            vec!["rim-signature"],
        ),
        (
            "its own chain first",
            together(&own, &genuine),
            vec!["rim-chain"],
        ),
        (
            "its own chain last",
            together(&genuine, &own),
            vec!["rim-signature"],
        ),
        (
            "two X509Data",
            evil.replace(&own, &format!("{own}{genuine}")),
            vec!["rim-malformed"],
        ),
    ] {
        assert_eq!(codes(&checked(&document)), want, "{case}");
        assert!(checked(&document).endorsed().is_none(), "{case}");
    }
}

#[test]
fn the_path_is_over_cas_that_are_valid() {
    let until = |year| {
        move |params: &mut rcgen::CertificateParams| {
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
        }
    };
    let debug = |name: &'static str| {
        move |params: &mut rcgen::CertificateParams| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
        }
    };
    type Edit = Box<dyn Fn(usize, &mut rcgen::CertificateParams)>;
    let at = |wanted: usize, edit: Box<dyn Fn(&mut rcgen::CertificateParams)>| -> Edit {
        Box::new(move |place, params| {
            if place == wanted {
                edit(params);
            }
        })
    };
    let rows: [(&str, Edit, &[&str]); 6] = [
        ("nothing changed", at(0, Box::new(|_| {})), &[]),
        (
            "a CA that ran out",
            at(1, Box::new(until(2025))),
            &["rim-chain"],
        ),
        (
            "the copy of a root that ran out: a key is trusted, no certificate",
            at(3, Box::new(until(2025))),
            &[],
        ),
        (
            "a CA that is none",
            at(1, Box::new(|params| params.is_ca = rcgen::IsCa::NoCa)),
            &["rim-chain"],
        ),
        (
            "a CA for debugging",
            at(
                1,
                Box::new(debug("Test Reference Value L3 GH100 001 Debug Only")),
            ),
            &["rim-chain"],
        ),
        (
            "a root for debugging, trusted by name",
            at(3, Box::new(debug("Test Root CA Debug Only"))),
            &[],
        ),
    ];
    for (case, edit, want) in rows {
        let signer = Signer::with(edit);
        let rim = signer.rim(&tag());
        let found = check(rim.as_bytes(), &signer.anchors(), AT);
        assert_eq!(codes(&found), want, "{case}");
        assert_eq!(found.chain, Some(want.is_empty()), "{case}");
        assert_eq!(found.signature, Some(true), "{case}");
    }
    // Without the copy of the root: an anchor is a key, and needs no certificate to come along.
    let rim = SIGNER.rim(&tag());
    let last = rim.rfind("<ds:X509Certificate>").unwrap();
    let end = rim.find("</ds:X509Data>").unwrap();
    let without = format!("{}{}", &rim[..last], &rim[end..]);
    assert_eq!(codes(&checked(&without)), [""; 0]);
    let cut = rim[..last].rfind("<ds:X509Certificate>").unwrap();
    let without = format!("{}{}", &rim[..cut], &rim[last..]);
    assert_eq!(codes(&checked(&without)), ["rim-chain"], "a gap");
}

#[test]
fn the_signers_own_dates_are_a_refusal_of_their_own() {
    let rim = SIGNER.rim(&tag());
    let changed = rim.replacen("0909", "0908", 1);
    for (case, at, want) in [
        (
            "the second before",
            SIGNER_FROM - 1,
            &["rim-not-yet-valid"][..],
        ),
        ("the first second", SIGNER_FROM, &[]),
        ("the last second", SIGNER_UNTIL, &[]),
        (
            "the second after",
            SIGNER_UNTIL + 1,
            &["rim-signer-expired"],
        ),
    ] {
        let at = UnixTime::from_secs(at);
        let found = check(rim.as_bytes(), &SIGNER.anchors(), at);
        assert_eq!(codes(&found), want, "{case}");
        assert_eq!(found.signer_valid, Some(want.is_empty()), "{case}");
        // It is as it was: a profile may pin it by its digest.
        assert_eq!(
            (found.signature, found.chain),
            (Some(true), Some(true)),
            "{case}"
        );
        assert!(found.endorsed().is_some(), "{case}");
        let changed = check(changed.as_bytes(), &SIGNER.anchors(), at);
        let want = [&["rim-digest"], want].concat();
        assert_eq!(codes(&changed), want, "{case}, and changed");
    }
}

#[test]
fn a_signature_is_read_as_it_stands() {
    let rim = SIGNER.rim(&tag());
    let document = Document::parse(rim.as_bytes()).unwrap();
    let signature = Signature::find(document.root().unwrap()).unwrap();
    assert_eq!(signature.foreign, []);
    assert_eq!(signature.certificates, SIGNER.chain);
    assert!(signature.digest_fits(document.root().unwrap()));
    let [first, second] = [0, 1].map(|place: usize| SIGNER.chain[place].key().unwrap());
    assert_eq!(signature.signed_by(first), Ok(()));
    assert!(signature.signed_by(second).is_err());
}
