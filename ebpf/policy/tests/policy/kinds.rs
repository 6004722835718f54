//! Manifests of every kind through the one door, each beside what differs from it by one thing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_policy::approvers::{Approvers, Thresholds};
use bailiwick_policy::bundle::{Bundle, Draft, InForce, Judged, PolicyRefused, Terms, Verified};
use bailiwick_policy::kind::{Kind, Role};

use crate::support::{Fleet, NOT_AFTER, NOW, demo, files, manifest, manifest_of};

const BREAK_GLASS: &str = "nodes = [\"*\"]\nstudies = [\"cardio\"]\nduration_seconds = 60\n\
    use_before = \"2026-12-01T00:00:00Z\"\nreason = \"the collector is gone\"\n";

/// Content by path.
type Files = BTreeMap<String, Vec<u8>>;

fn one(path: &str, text: &str) -> Files {
    [(path.to_owned(), text.as_bytes().to_vec())].into()
}

/// As little as each kind needs.
fn smallest(kind: Kind, fleet: &Fleet) -> Files {
    match kind {
        Kind::Policy => files(),
        Kind::World => one("world.csv", "192.0.2.0,192.0.2.255,DE\n"),
        Kind::BreakGlass => one("break-glass.toml", BREAK_GLASS),
        Kind::Erasure => one("erasure.toml", "study = \"cardio\"\nreason = \"over\"\n"),
        Kind::Approvers => {
            let mut files = one("approvers.toml", "threshold = 2\n");
            files.insert("allowed_signers".to_owned(), fleet.allowed.clone().into());
            files
        }
    }
}

/// What the first manifest of a kind follows.
fn start(kind: Kind, approvers: &Approvers) -> (Option<Sha256Digest>, Option<InForce>) {
    match kind {
        Kind::Approvers => {
            let manifest_digest = approvers.digest();
            let genesis = InForce {
                version: 0,
                manifest_digest,
            };
            (Some(manifest_digest), Some(genesis))
        }
        _ => (None, None),
    }
}

fn open(
    bundle: &Bundle,
    kind: Kind,
    approvers: &Approvers,
    now: UnixTime,
    current: Option<InForce>,
) -> Result<Verified, PolicyRefused> {
    bundle.open(
        kind,
        &Terms {
            approvers,
            deployment: &demo(),
            now,
            judged: Judged::New(current),
            world: None,
        },
    )
}

#[track_caller]
fn refused(result: Result<Verified, PolicyRefused>, code: &str, name: &str) {
    let refused = result.map(|_| ()).expect_err(name);
    assert_eq!(refused.code(), code, "{name}: {refused}");
}

#[test]
fn a_manifest_of_each_kind_is_accepted_and_its_neighbours_are_refused() {
    let fleet = Fleet::new();
    let approvers = fleet.approvers();
    let deployment = DeploymentId::new("other").unwrap();
    for kind in Kind::ALL {
        let files = smallest(kind, &fleet);
        let (previous, current) = start(kind, &approvers);
        let text = manifest_of(kind, 1, previous, &files);
        let good = fleet.bundle_of(kind, &text, &files, &["alice", "bob"]);
        let verified = open(&good, kind, &approvers, NOW, current).unwrap();
        assert_eq!(verified.manifest().kind, kind);
        assert_eq!(verified.signers().len(), 2);
        let known = Some(InForce {
            version: 1,
            manifest_digest: good.manifest_digest(),
        });
        open(&good, kind, &approvers, NOW, known).expect("the newest again");
        let late = UnixTime(NOT_AFTER.0 + 1000);
        open(&good, kind, &approvers, late, known).expect("the newest again, late");

        let row = |name: &str| format!("{kind}: {name}");
        let mut bundle = good.clone();
        bundle.signatures.clear();
        let result = open(&bundle, kind, &approvers, NOW, current);
        refused(result, "policy-unsigned", &row("unsigned"));
        let bundle = fleet.bundle_of(kind, &text, &files, &["alice"]);
        let result = open(&bundle, kind, &approvers, NOW, current);
        refused(result, "policy-under-signed", &row("one of two"));
        let result = open(&good, kind, &approvers, late, current);
        refused(result, "policy-expired", &row("expired"));
        let newer = Some(InForce {
            version: 2,
            manifest_digest: Sha256Digest([2; 32]),
        });
        let result = open(&good, kind, &approvers, NOW, newer);
        refused(result, "policy-rolled-back", &row("rolled back"));
        let taken = Some(InForce {
            version: 1,
            manifest_digest: Sha256Digest([2; 32]),
        });
        let result = open(&good, kind, &approvers, NOW, taken);
        refused(
            result,
            "policy-version-taken",
            &row("another of this version"),
        );
        for other in Kind::ALL.into_iter().filter(|other| *other != kind) {
            let result = open(&good, other, &approvers, NOW, current);
            refused(result, "policy-wrong-kind", &row(other.as_str()));
            // Signed for the kind it says, and handed in as another; and the other way round.
            let bundle = fleet.bundle_of(other, &text, &files, &["alice", "bob"]);
            let result = open(&bundle, other, &approvers, NOW, current);
            refused(result, "policy-wrong-kind", &row("signed for another kind"));
        }
        let elsewhere = text.replace("\"demo\"", "\"other\"");
        let bundle = fleet.bundle_of(kind, &elsewhere, &files, &["alice", "bob"]);
        let result = open(&bundle, kind, &approvers, NOW, current);
        refused(result, "policy-wrong-deployment", &row("says another"));
        let namespace = kind.namespace(&deployment);
        let mut bundle = good.clone();
        bundle.signatures = ["alice", "bob"]
            .map(|name| fleet.keys.sign(name, &namespace, text.as_bytes(), &[]))
            .into();
        let result = open(&bundle, kind, &approvers, NOW, current);
        refused(
            result,
            "policy-wrong-deployment",
            &row("signed for another"),
        );
    }
}

#[test]
fn files_of_two_versions_make_no_manifest() {
    let fleet = Fleet::new();
    let approvers = fleet.approvers();
    for kind in Kind::ALL {
        let (previous, current) = start(kind, &approvers);
        let files = smallest(kind, &fleet);
        let text = manifest_of(kind, 1, previous, &files);
        let mut mixed = fleet.bundle_of(kind, &text, &files, &["alice", "bob"]);
        for at in 0..mixed.files.len() {
            let kept = Arc::clone(&mixed.files[at].1);
            mixed.files[at].1 = Arc::new([kept.as_slice(), b"\n"].concat());
            let result = open(&mixed, kind, &approvers, NOW, current);
            refused(result, "policy-file-digest", kind.as_str());
            mixed.files[at].1 = kept;
        }
        // The signatures of one version over the manifest of the next.
        let mut mixed = mixed.clone();
        mixed.manifest = text.replace("a test", "b test").into_bytes();
        let result = open(&mixed, kind, &approvers, NOW, current);
        refused(result, "policy-under-signed", kind.as_str());
    }
}

#[test]
fn a_role_has_its_own_threshold_and_nothing_but_its_kind() {
    let fleet = Fleet::new();
    let dave = fleet.keys.make("dave", "-t ed25519");
    let allowed = format!(
        "{}dave namespaces=\"bailiwick/demo/world\" {dave}\n",
        fleet.allowed
    );
    let thresholds = Thresholds {
        main: 2,
        roles: [(Role::World, 1)].into(),
    };
    let approvers = Approvers::with("a", allowed.as_bytes(), thresholds).unwrap();
    let world = smallest(Kind::World, &fleet);
    let text = manifest_of(Kind::World, 1, None, &world);
    let bundle = fleet.bundle_of(Kind::World, &text, &world, &["dave"]);
    open(&bundle, Kind::World, &approvers, NOW, None).unwrap();
    let result = open(&bundle, Kind::World, &fleet.approvers(), NOW, None);
    refused(result, "policy-under-signed", "no such role yet");
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::World) {
        let files = smallest(kind, &fleet);
        let (previous, current) = start(kind, &approvers);
        let text = manifest_of(kind, 1, previous, &files);
        for signers in [&["dave"][..], &["dave", "alice"]] {
            let bundle = fleet.bundle_of(kind, &text, &files, signers);
            let result = open(&bundle, kind, &approvers, NOW, current);
            refused(result, "policy-under-signed", kind.as_str());
        }
    }
    assert_eq!(approvers.threshold_of_role(Role::Inventory), 2);
    assert_ne!(
        approvers.digest(),
        Approvers::parse("a", allowed.as_bytes(), 2)
            .unwrap()
            .digest(),
        "roles are part of what is named"
    );
}

#[test]
fn a_policy_without_a_world_map_takes_the_newest_there_is() {
    let fleet = Fleet::new();
    let approvers = fleet.approvers();
    let world = smallest(Kind::World, &fleet);
    let text = manifest_of(Kind::World, 1, None, &world);
    let signed = fleet.bundle_of(Kind::World, &text, &world, &["alice", "bob"]);
    let terms = Terms {
        approvers: &approvers,
        deployment: &demo(),
        now: NOW,
        judged: Judged::New(None),
        world: None,
    };
    let map = signed.verify_world(&terms).unwrap().content;
    let mut without = files();
    without.remove("world.csv");
    let bundle = fleet.bundle(&manifest(1, None, &without), &without, &["alice", "bob"]);
    let result = bundle.verify_policy(&terms).map(|_| ());
    let refused = result.unwrap_err();
    assert_eq!(refused.code(), "policy-no-world");
    assert_eq!(
        refused.to_string(),
        "carries no world map, and no manifest of kind world is known: apply one first, or add \
         world.csv"
    );
    let terms = Terms {
        world: Some(&map),
        ..terms
    };
    assert_eq!(bundle.verify_policy(&terms).unwrap().world.bytes, map.bytes);
    // A map of its own is what was signed with it, and stays.
    let mut own = files();
    own.insert("world.csv".to_owned(), b"192.0.2.0,192.0.2.9,FR\n".to_vec());
    let bundle = fleet.bundle(&manifest(1, None, &own), &own, &["alice", "bob"]);
    let verified = bundle.verify_policy(&terms).unwrap();
    assert_eq!(verified.world.bytes.as_slice(), own["world.csv"]);
}

#[test]
fn what_a_kind_cannot_do_without_is_named() {
    let fleet = Fleet::new();
    let approvers = fleet.approvers();
    let none = BTreeMap::new();
    let both: Files = ["world.csv", "world.txt"]
        .map(|path| (path.to_owned(), Vec::new()))
        .into();
    let rows: &[(Kind, &Files, &str)] = &[
        (Kind::World, &none, "world.csv or world.txt is not listed"),
        (Kind::World, &both, "are both listed; one is needed"),
        (
            Kind::World,
            &one("world.csv", "here,there,DE\n"),
            "world.csv:1",
        ),
        (Kind::BreakGlass, &none, "break-glass.toml is not listed"),
        (
            Kind::BreakGlass,
            &one("break-glass.toml", ""),
            "break-glass.toml:1: missing field",
        ),
        (Kind::Erasure, &none, "erasure.toml is not listed"),
        (
            Kind::Erasure,
            &one("erasure.toml", "study = 3"),
            "erasure.toml:1: study: invalid type",
        ),
        (Kind::Approvers, &none, "approvers.toml is not listed"),
        (
            Kind::Approvers,
            &one("approvers.toml", "threshold = 1"),
            "allowed_signers is not listed",
        ),
    ];
    for (kind, files, says) in rows {
        let (previous, current) = start(*kind, &approvers);
        let mut text = manifest_of(*kind, 1, previous, &smallest(*kind, &fleet));
        if files.is_empty() {
            text.truncate(text.find("[[file]]").unwrap());
            text.push_str("file = []\n");
        } else {
            text = manifest_of(*kind, 1, previous, files);
        }
        let bundle = fleet.bundle_of(*kind, &text, files, &["alice", "bob"]);
        let refused = open(&bundle, *kind, &approvers, NOW, current)
            .map(|_| ())
            .unwrap_err();
        assert_eq!(refused.code(), "policy-malformed", "{says}: {refused}");
        assert!(refused.to_string().contains(says), "{refused}");
    }
}

#[test]
fn another_map_than_the_policy_names_is_refused() {
    let fleet = Fleet::new();
    let approvers = fleet.approvers();
    let terms = Terms {
        approvers: &approvers,
        deployment: &demo(),
        now: NOW,
        judged: Judged::New(None),
        world: None,
    };
    let dated = "# Generated: Thu, 25 Jun 2026 04:33:59 GMT\n192.0.2.0,192.0.2.255,DE\n";
    let digest = Sha256Digest::of(&[dated.as_bytes()]).to_string();
    let hex = digest.trim_start_matches("sha256:");
    let named = format!("[world]\nsha256 = \"{hex}\"\nmax_age_days = 60\n");
    let aged = "[world]\nmax_age_days = 60\n";
    let undated = "192.0.2.0,192.0.2.255,DE\n";
    let more = format!("{dated}\n");
    let other = format!(
        "the world map has digest {}, and the policy names {digest}: bring that one, or sign a \
         policy that names this one",
        Sha256Digest::of(&[more.as_bytes()])
    );
    let no_date = "profile.toml:1: world.max_age_days: the world map does not say when it was \
                   made: no line of it is `# Generated: DATE`: correct it and sign anew";
    let cases = [
        ("the one named", named.as_str(), dated, None),
        (
            "a byte more",
            &named,
            &more,
            Some(("policy-other-world", other.as_str())),
        ),
        (
            "no date, where its age matters",
            aged,
            undated,
            Some(("policy-malformed", no_date)),
        ),
        ("a date", aged, dated, None),
        ("no date, and nobody asks", "", undated, None),
    ];
    for (name, world, map, want) in cases {
        let mut files = files();
        let profile = files.get_mut("profile.toml").unwrap();
        profile.extend(world.as_bytes());
        files.insert("world.csv".to_owned(), map.as_bytes().to_vec());
        let bundle = fleet.bundle(&manifest(1, None, &files), &files, &["alice", "bob"]);
        let refused = bundle.verify_policy(&terms).err();
        let told = refused.map(|refused| (refused.code(), refused.to_string()));
        let told = told.as_ref().map(|(code, says)| (*code, says.as_str()));
        assert_eq!(told, want, "{name}");
        assert_eq!(Draft::read(files, None).is_err(), want.is_some(), "{name}");
    }
}
