//! What a policy says of the collector's keys, read without the rest of it.

use bailiwick_policy::approvers::Chain;
use bailiwick_policy::bundle::Bundle;
use bailiwick_policy::kind::Kind;

use crate::support::{Fleet, demo, files, manifest};

#[test]
fn keys_are_read_from_a_policy_that_was_signed_and_from_nothing_else() {
    let fleet = Fleet::new();
    let chain = Chain::new(fleet.approvers());
    let mut files = files();
    let ca = format!("[[ca]]\nid = \"ca-1\"\nspki = \"{}\"\n", "ab".repeat(32));
    files.insert("collector.toml".to_owned(), ca.into_bytes());
    let text = manifest(1, None, &files);
    let signed = fleet.bundle(&text, &files, &["alice", "bob"]);
    let slim = |bundle: &Bundle| Bundle {
        files: bundle
            .files
            .iter()
            .filter(|(path, _)| path == "collector.toml")
            .cloned()
            .collect(),
        ..bundle.clone()
    };
    let (read, keys) = slim(&signed).collector_keys(&chain, &demo()).unwrap();
    assert_eq!(read.digest, signed.manifest_digest());
    assert_eq!(keys.cas[0].id, "ca-1");
    assert_eq!(signed.collector_keys(&chain, &demo()).unwrap().1, keys);

    let mut changed = slim(&signed);
    let content = std::sync::Arc::make_mut(&mut changed.files[0].1);
    content.push(b'\n');
    let mut none = slim(&signed);
    none.files.clear();
    let rows = [
        (
            "one signer",
            slim(&fleet.bundle(&text, &files, &["alice"])),
            "policy-under-signed",
        ),
        (
            "nobody",
            slim(&fleet.bundle(&text, &files, &[])),
            "policy-unsigned",
        ),
        (
            "of another kind",
            slim(&fleet.bundle_of(Kind::World, &text, &files, &["alice", "bob"])),
            "policy-wrong-kind",
        ),
        ("changed after signing", changed, "policy-file-digest"),
        ("left out", none, "policy-file-missing"),
    ];
    for (name, bundle, code) in rows {
        let refused = bundle.collector_keys(&chain, &demo()).unwrap_err();
        assert_eq!(refused.code(), code, "{name}");
    }
    let elsewhere = bailiwick_attestation::DeploymentId::new("other").unwrap();
    let refused = slim(&signed)
        .collector_keys(&chain, &elsewhere)
        .unwrap_err();
    assert_eq!(refused.code(), "policy-wrong-deployment");
}
