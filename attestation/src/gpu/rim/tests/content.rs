//! What a RIM may say: everything here is signed, by a signer who is trusted.

use std::sync::LazyLock;

use super::made::{AT, Resource, Signer, Tag};
use crate::gpu::rim::{Checked, RimRefused, check};

static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::new);

fn signed(text: &str) -> Checked {
    check(SIGNER.sign(text).as_bytes(), &SIGNER.anchors(), AT)
}

fn tag() -> Tag {
    let mut tag = Tag::vbios(&[9, 0]);
    tag.resources.push(Resource {
        index: 12,
        active: true,
        values: (0..11).map(|n| [n; 48]).collect(),
    });
    tag.resources.push(Resource {
        index: 63,
        active: false,
        values: vec![[1; 48]],
    });
    tag
}

#[test]
fn active_measurements_are_read_with_all_they_may_be() {
    let found = signed(&tag().text());
    assert_eq!(found.refusals, []);
    let rim = found.endorsed().unwrap().rim();
    let indices: Vec<u8> = rim.golden.iter().map(|golden| golden.index).collect();
    assert_eq!(indices, [0, 9, 12], "in order, without the inactive one");
    let last = rim.golden.last().unwrap();
    assert_eq!(last.name, "Measurement_12");
    let want: Vec<[u8; 48]> = (0..11).map(|n| [n; 48]).collect();
    assert_eq!(
        last.alternatives, want,
        "Hash10 is the eleventh, not the third"
    );
    assert!(rim.covers(12) && !rim.covers(63) && !rim.covers(13));
    assert_eq!(rim.edition, "GPU");
    // Up to the last index that SPDM has for measurements.
    let text = tag().text();
    let last = signed(&text.replacen("index=\"12\"", "index=\"253\"", 1));
    let rim = last.endorsed().unwrap().rim();
    let indices: Vec<u8> = rim.golden.iter().map(|golden| golden.index).collect();
    assert_eq!(indices, [0, 9, 253]);
}

#[test]
fn a_prefix_is_a_matter_of_taste() {
    let text = tag().text();
    let namespace = super::made::SWID;
    let prefixed = text
        .replace("xmlns=", "xmlns:a=")
        .replace("<SoftwareIdentity", "<a:SoftwareIdentity")
        .replace("</SoftwareIdentity", "</a:SoftwareIdentity");
    assert!(prefixed.contains(namespace));
    // Its children have no namespace then.
    assert!(matches!(
        signed(&prefixed).refusals.first(),
        Some(RimRefused::Malformed(_))
    ));
}

#[test]
fn what_means_nothing_or_two_things_is_refused_by_name() {
    let text = tag().text();
    let resource = text.find("<Resource").unwrap();
    let end = text.find("</Resource>").unwrap() + "</Resource>".len();
    let first = &text[resource..end];
    let edit = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    for (case, document, want) in [
        (
            "another document",
            text.replace("SoftwareIdentity", "ReferenceManifest"),
            "SoftwareIdentity.SoftwareIdentity",
        ),
        (
            "another namespace",
            edit("schema.xsd", "schema.xsi"),
            "SoftwareIdentity.SoftwareIdentity",
        ),
        (
            "no id",
            edit(" tagId=\"00c0ffee\"", ""),
            "tagId at offset 0: is missing",
        ),
        (
            "an empty id",
            edit("00c0ffee", ""),
            "tagId at offset 0: is empty",
        ),
        (
            "an id longer than any",
            edit("00c0ffee", &"c".repeat(257)),
            "tagId at offset 0: is empty or too long",
        ),
        (
            "an id to fool a terminal",
            edit("00c0ffee", "00&#x9b;31m"),
            "something else than ASCII",
        ),
        (
            "no Meta",
            edit("<Meta ", "<Mete ").replace("</Meta", "</Mete"),
            "Meta at offset 0: there is none",
        ),
        (
            "two Meta",
            edit("</Meta>", "</Meta><Meta></Meta>"),
            "Meta at offset",
        ),
        (
            "no version",
            edit("colloquialVersion=\"96.00.9F.00.01\" ", ""),
            "colloquialVersion",
        ),
        ("no product", edit(" product=\"GH100\"", ""), "product"),
        ("no edition", edit("edition=\"GPU\" ", ""), "edition"),
        (
            "two Payload",
            edit("</Payload>", "</Payload><Payload></Payload>"),
            "Payload at offset",
        ),
        (
            "no Payload",
            text.replace("Payload>", "Load>"),
            "Payload at offset 0: there is none",
        ),
        (
            "a measurement twice",
            edit(first, &first.repeat(2)),
            "Resource.index",
        ),
        (
            "a measurement twice, once inactive",
            edit(first, &(first.replace("True", "False") + first)),
            "Resource.index",
        ),
        (
            "an index beyond a report",
            edit("index=\"9\"", "index=\"254\""),
            "is not one a report can have",
        ),
        (
            "an index that is no number",
            edit("index=\"9\"", "index=\"+9\""),
            "index at offset",
        ),
        ("no index", edit(" index=\"9\"", ""), "index at offset"),
        (
            "active in lower case",
            edit("active=\"True\"", "active=\"true\""),
            "Resource.active",
        ),
        (
            "active as a number",
            edit("active=\"True\"", "active=\"1\""),
            "Resource.active",
        ),
        (
            "no active",
            edit("active=\"True\" ", ""),
            "active at offset",
        ),
        (
            "another type",
            edit("type=\"Measurement\"", "type=\"Log\""),
            "Resource.type",
        ),
        (
            "another size",
            edit("size=\"48\"", "size=\"32\""),
            "Resource.size",
        ),
        (
            "no alternative",
            edit("alternatives=\"1\"", "alternatives=\"0\""),
            "alternatives",
        ),
        (
            "fewer hashes than said",
            edit("alternatives=\"1\"", "alternatives=\"2\""),
            "Resource.Hash",
        ),
        (
            "more hashes than said",
            edit("alternatives=\"11\"", "alternatives=\"10\""),
            "Resource.Hash",
        ),
        (
            "a gap",
            edit("ns2:Hash5", "ns2:Hash11"),
            "Resource.Hash at offset",
        ),
        (
            "hash without namespace",
            edit("ns2:Hash0=\"09", "Hash0=\"09"),
            "Resource.Hash",
        ),
        (
            "a digit short",
            edit("ns2:Hash0=\"09", "ns2:Hash0=\"0"),
            "is not 96 hex digits",
        ),
        (
            "no hex",
            edit("ns2:Hash0=\"09", "ns2:Hash0=\"0g"),
            "is not 96 hex digits",
        ),
        (
            "something else in the payload",
            edit("<Payload>", "<Payload><File></File>"),
            "Payload at offset",
        ),
        (
            "nothing active",
            text.replace("True", "False"),
            "no measurement is active",
        ),
        (
            "an inactive one that is wrong",
            edit(
                "<Resource active=\"False\" alternatives=\"1\"",
                "<Resource active=\"False\" alternatives=\"2\"",
            ),
            "Resource.Hash",
        ),
    ] {
        let found = signed(&document);
        let [RimRefused::Malformed(error)] = found.refusals.as_slice() else {
            panic!("{case}: {:?}", found.refusals);
        };
        assert!(error.to_string().contains(want), "{case}: {error}");
        assert!(found.content().is_none(), "{case}");
    }
    let longest = signed(&edit("00c0ffee", &"c".repeat(256)));
    assert_eq!(longest.refusals, []);
}
