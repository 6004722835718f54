//! The example under `deploy/` is a policy: it can be composed, signed and verified.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{MANIFEST, Manifest, is_signature};

use crate::support::{Fleet, NOW, demo, manifest};

/// The files of a policy below `dir`, by path.
fn read(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for below in ["", "studies/"] {
        for entry in fs::read_dir(dir.join(below)).unwrap() {
            let path = format!("{below}{}", entry.unwrap().file_name().to_str().unwrap());
            if Kind::Policy.holds(&path) {
                files.insert(path.clone(), fs::read(dir.join(path)).unwrap());
            }
        }
    }
    files
}

#[test]
fn the_example_is_a_policy() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/policy");
    let files = read(&dir);
    assert_eq!(files.len(), 9);
    let fleet = Fleet::new();
    let bundle = fleet.bundle(&manifest(1, None, &files), &files, &["alice", "bob"]);
    let verified = bundle
        .verify(&fleet.approvers(), &demo(), NOW, None)
        .unwrap();
    assert_eq!(verified.model.warnings, []);
    assert_eq!(verified.model.studies.len(), 2);
    assert_eq!(verified.model.profile.name, "fra1-2026");
    let guests = verified.model.guest_profile.as_ref().unwrap();
    assert_eq!(guests.name, "fra1-2026-guests");
}

#[test]
fn a_manifest_says_what_went_into_it() {
    let files = crate::support::files();
    let text = manifest(
        3,
        Some(bailiwick_attestation::Sha256Digest([9; 32])),
        &files,
    );
    let read = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(
        (read.version, read.kind, read.scope.as_str()),
        (3, Kind::Policy, "fleet")
    );
    assert_eq!(read.not_after, crate::support::NOT_AFTER);
    assert!(read.files.keys().eq(files.keys()));
    assert!(!files.contains_key(MANIFEST));
}

#[test]
fn manifests_are_refused_by_file_line_and_key() {
    let good = manifest(1, None, &crate::support::files());
    let rows = [
        (
            "version = 1",
            "version = 0",
            "manifest.toml:4: version: versions count from 1",
        ),
        (
            "version = 1",
            "version = 2",
            "manifest.toml:4: version: version 1 has no `previous`, and every later version has one",
        ),
        (
            "version = 1",
            "version = -1",
            "manifest.toml:4: version: invalid value: integer `-1`, expected u64",
        ),
        (
            "2027-01-01T00:00:00Z",
            "2027-01-01",
            "manifest.toml:5: not_after: is no time: 2027-01-01T00:00:00Z",
        ),
        (
            "a test",
            "",
            "manifest.toml:6: reason: a reason has 1 to 1000 bytes on one line",
        ),
        (
            "a test",
            "a\\u001b[2Jtest",
            "manifest.toml:6: reason: a reason has 1 to 1000 bytes on one line",
        ),
        (
            "\"demo\"",
            "\"Demo\"",
            "manifest.toml:1: deployment: \"Demo\" may hold only a-z, 0-9, '-' and '.'",
        ),
        (
            "sites.toml",
            "sites.txt",
            "manifest.toml:25: file.path: \"sites.txt\" is no file of a manifest of kind policy",
        ),
        (
            "sites.toml",
            "studies/../../x.toml",
            "manifest.toml:25: file.path: \"studies/../../x.toml\" is no file of a manifest of kind policy",
        ),
        (
            "sites.toml",
            "profile.toml",
            "manifest.toml:25: file.path: \"profile.toml\" is named twice",
        ),
        (
            "\"policy\"",
            "\"policies\"",
            "manifest.toml:2: kind: \"policies\" is no kind: approvers, world, policy, break-glass, erasure",
        ),
        (
            "\"policy\"",
            "\"\"",
            "manifest.toml:2: kind: \"\" is no kind: approvers, world, policy, break-glass, erasure",
        ),
        (
            "reason = ",
            "why = ",
            "manifest.toml:6: why: unknown field `why`, expected one of `deployment`, `kind`, `scope`, `version`, `previous`, `not_after`, `reason`, `file`",
        ),
    ];
    for (from, to, want) in rows {
        let text = good.replacen(from, to, 1);
        let got = Manifest::parse(text.as_bytes()).expect_err(want);
        assert_eq!(got.to_string(), want);
    }
}

#[test]
fn a_folder_is_read_by_names() {
    for good in [
        "manifest.toml.sig",
        "manifest.toml.alice.sig",
        "manifest.toml.a.b.sig",
    ] {
        assert!(is_signature(good), "{good}");
    }
    for bad in [
        "manifest.toml",
        "manifest.tomlx.sig",
        "manifest.sig",
        "a.manifest.toml.sig",
    ] {
        assert!(!is_signature(bad), "{bad}");
    }
    for good in [
        "studies/a.toml",
        "sites.toml",
        "world.txt",
        "studies/a.b-c.toml",
    ] {
        assert!(Kind::Policy.holds(good), "{good}");
    }
    for bad in [
        "a.toml",
        "studies/A.toml",
        "studies/.toml",
        "studies/a/b.toml",
        "/sites.toml",
        "./sites.toml",
    ] {
        assert!(!Kind::Policy.holds(bad), "{bad}");
    }
}
