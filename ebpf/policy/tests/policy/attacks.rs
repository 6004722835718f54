//! Everything somebody might try to have a policy accepted that approvers did not sign, each
//! beside the honest bundle it differs from.

use std::sync::Arc;

use bailiwick_attestation::proto::v1 as proto;
use bailiwick_attestation::{DeploymentId, UnixTime};
use bailiwick_policy::approvers::Approvers;
use bailiwick_policy::bundle::{Bundle, InForce, PolicyRefused, VerifiedBundle, WorldKind};
use bailiwick_policy::kind::Kind;

use crate::support::{Fleet, NAMESPACE, NOT_AFTER, NOW, demo, files, manifest, manifest_of};

/// A fleet of three approvers with two needed, and an honest first policy.
struct Scene {
    fleet: Fleet,
    honest: Bundle,
    text: String,
}

impl Scene {
    fn new() -> Self {
        let fleet = Fleet::new();
        let text = manifest(1, None, &files());
        let honest = fleet.bundle(&text, &files(), &["alice", "bob"]);
        Self {
            fleet,
            honest,
            text,
        }
    }

    fn verify(&self, bundle: &Bundle) -> Result<VerifiedBundle, PolicyRefused> {
        bundle.verify(&self.fleet.approvers(), &demo(), NOW, None)
    }

    fn sign(&self, name: &str, namespace: &str) -> Vec<u8> {
        self.fleet
            .keys
            .sign(name, namespace, self.text.as_bytes(), &[])
    }

    #[track_caller]
    fn refused(&self, bundle: &Bundle, code: &str, says: &str) {
        let refusal = self.verify(bundle).expect_err("must be refused");
        check(&refusal, code, says);
    }
}

#[track_caller]
fn check(refusal: &PolicyRefused, code: &str, says: &str) {
    assert_eq!(refusal.code(), code, "{refusal}");
    assert!(refusal.to_string().contains(says), "{refusal}");
}

#[test]
fn an_honest_policy_is_accepted_and_says_who_signed() {
    let scene = Scene::new();
    let verified = scene.verify(&scene.honest).unwrap();
    let who: Vec<&str> = verified
        .signers
        .iter()
        .map(|s| s.principals.as_str())
        .collect();
    assert_eq!(who, ["alice@example.org", "bob@example.org"]);
    assert_eq!((verified.manifest.version, verified.expired), (1, false));
    assert_eq!(verified.manifest.digest, scene.honest.manifest_digest());
    assert_eq!(verified.model.studies.len(), 1);
    assert!(verified.ignored.is_empty());
    assert_eq!(verified.world.kind, WorldKind::Csv);
    // And the same over the wire, and a second time.
    let wire = proto::PolicyBundle::from(scene.honest.clone());
    let again = Bundle::from(wire);
    assert_eq!(again, scene.honest);
    let current = Some(verified.in_force());
    again
        .verify(&scene.fleet.approvers(), &demo(), NOW, current)
        .unwrap();
}

#[test]
fn a_world_map_in_the_other_format_is_named_so() {
    let scene = Scene::new();
    let mut files = files();
    let csv = files.remove("world.csv").unwrap();
    files.insert("world.txt".to_owned(), csv.clone());
    let bundle = scene
        .fleet
        .bundle(&manifest(1, None, &files), &files, &["alice", "bob"]);
    let world = scene.verify(&bundle).unwrap().world;
    assert_eq!(
        (world.kind, world.bytes.as_slice()),
        (WorldKind::GeoipDb, csv.as_slice())
    );
}

#[test]
fn unsigned() {
    let scene = Scene::new();
    let bundle = Bundle {
        signatures: Vec::new(),
        ..scene.honest.clone()
    };
    scene.refused(
        &bundle,
        "policy-unsigned",
        "ssh-keygen -Y sign -n bailiwick/demo/policy",
    );
}

#[test]
fn under_signed() {
    let scene = Scene::new();
    let bundle = scene.fleet.bundle(&scene.text, &files(), &["alice"]);
    scene.refused(&bundle, "policy-under-signed", "1 of 2 approvals");
}

#[test]
fn signed_by_a_stranger() {
    let scene = Scene::new();
    scene.fleet.keys.make("mallory", "-t ed25519");
    let bundle = scene
        .fleet
        .bundle(&scene.text, &files(), &["alice", "mallory"]);
    scene.refused(&bundle, "policy-under-signed", "signature 2: key SHA256:");
    // Beside two good ones a stranger's signature does no harm, and is not passed over in silence.
    let bundle = scene
        .fleet
        .bundle(&scene.text, &files(), &["mallory", "alice", "bob"]);
    let verified = scene.verify(&bundle).unwrap();
    assert_eq!(verified.signers.len(), 2);
    assert_eq!(verified.ignored.len(), 1);
    assert!(
        verified.ignored[0]
            .to_string()
            .starts_with("signature 1: key SHA256:")
    );
}

#[test]
fn one_signature_twice() {
    let scene = Scene::new();
    let bundle = scene
        .fleet
        .bundle(&scene.text, &files(), &["alice", "alice"]);
    let says = "alice@example.org has signed already and counts once";
    scene.refused(&bundle, "policy-under-signed", says);
}

#[test]
fn one_person_with_two_keys() {
    let mut scene = Scene::new();
    let second = scene.fleet.keys.make("alice-2", "-t ecdsa -b 256");
    scene
        .fleet
        .allowed
        .push_str(&format!("alice@example.org {second}\n"));
    let bundle = scene
        .fleet
        .bundle(&scene.text, &files(), &["alice", "alice-2"]);
    let says = "1 of 2 approvals; signature 2: alice@example.org has signed already";
    scene.refused(&bundle, "policy-under-signed", says);
    let bundle = scene
        .fleet
        .bundle(&scene.text, &files(), &["alice-2", "bob"]);
    assert_eq!(scene.verify(&bundle).unwrap().signers.len(), 2);
}

#[test]
fn one_key_under_two_names() {
    let scene = Scene::new();
    let line = scene.fleet.keys.make("x", "-t ed25519");
    let other = scene.fleet.keys.make("y", "-t ed25519");
    let sign = |name: &str| scene.sign(name, NAMESPACE);
    let bundle = Bundle {
        signatures: vec![sign("x"), sign("x")],
        ..scene.honest.clone()
    };
    let allowed = format!("dave {line}\nerin {line}\nfrank {other}\n");
    let approvers = Approvers::parse("a", allowed.as_bytes(), 2).unwrap();
    let refusal = bundle.verify(&approvers, &demo(), NOW, None).unwrap_err();
    check(&refusal, "policy-under-signed", "1 of 2 approvals");
    let bundle = Bundle {
        signatures: vec![sign("x"), sign("y")],
        ..scene.honest.clone()
    };
    assert!(bundle.verify(&approvers, &demo(), NOW, None).is_ok());
    // A threshold that only such doubles could meet is refused where it is configured.
    let allowed = format!("dave {line}\nerin {line}\n");
    let says = Approvers::parse("a", allowed.as_bytes(), 2)
        .unwrap_err()
        .to_string();
    assert!(
        says.contains("cannot be met: a names 1 person(s)"),
        "{says}"
    );
    assert!(Approvers::parse("a", allowed.as_bytes(), 0).is_err());
}

#[test]
fn one_private_key_as_two_kinds_of_key() {
    use base64::Engine as _;
    let scene = Scene::new();
    let plain = scene.fleet.keys.make("x", "-t ed25519");
    let base64 = base64::engine::general_purpose::STANDARD;
    let blob = base64.decode(plain.split(' ').nth(1).unwrap()).unwrap();
    let point = &blob[blob.len() - 32..];
    let mut token = Vec::new();
    for part in [b"sk-ssh-ed25519@openssh.com".as_slice(), point, b"ssh:"] {
        token.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        token.extend(part);
    }
    let token = base64.encode(token);
    let allowed = format!("dave {plain}\nerin sk-ssh-ed25519@openssh.com {token}\n");
    assert!(Approvers::parse("a", allowed.as_bytes(), 1).is_ok());
    assert!(Approvers::parse("a", allowed.as_bytes(), 2).is_err());
}

#[test]
fn rolled_back() {
    let scene = Scene::new();
    let approvers = scene.fleet.approvers();
    let first = scene.verify(&scene.honest).unwrap();
    let previous = Some(first.manifest.digest);
    let second = scene.fleet.bundle(
        &manifest(2, previous, &files()),
        &files(),
        &["alice", "bob"],
    );
    let current = second
        .verify(&approvers, &demo(), NOW, Some(first.in_force()))
        .unwrap();
    let current = Some(current.in_force());
    let refusal = scene
        .honest
        .verify(&approvers, &demo(), NOW, current)
        .unwrap_err();
    check(
        &refusal,
        "policy-rolled-back",
        "sign the old files as version 3 or later",
    );
    assert!(
        second.verify(&approvers, &demo(), NOW, current).is_ok(),
        "the same again"
    );
}

#[test]
fn two_policies_of_one_version() {
    let scene = Scene::new();
    let mut other = files();
    other.insert("sites.toml".to_owned(), b"# another\n".to_vec());
    let other = scene
        .fleet
        .bundle(&manifest(1, None, &other), &other, &["alice", "bob"]);
    let current = Some(scene.verify(&scene.honest).unwrap().in_force());
    let refusal = other
        .verify(&scene.fleet.approvers(), &demo(), NOW, current)
        .unwrap_err();
    check(
        &refusal,
        "policy-version-taken",
        "sign this one as version 2",
    );
}

#[test]
fn a_next_version_of_another_line() {
    let scene = Scene::new();
    let approvers = scene.fleet.approvers();
    let current = scene.verify(&scene.honest).unwrap().in_force();
    let elsewhere = InForce {
        manifest_digest: demo_digest(),
        ..current
    };
    let next = manifest(2, Some(current.manifest_digest), &files());
    let next = scene.fleet.bundle(&next, &files(), &["alice", "carol"]);
    assert!(next.verify(&approvers, &demo(), NOW, Some(current)).is_ok());
    let refusal = next
        .verify(&approvers, &demo(), NOW, Some(elsewhere))
        .unwrap_err();
    check(
        &refusal,
        "policy-wrong-previous",
        "make it anew from the one in force",
    );
    // Whoever missed versions in between cannot know; versions still only move forward.
    let later = manifest(5, Some(demo_digest()), &files());
    let later = scene.fleet.bundle(&later, &files(), &["alice", "carol"]);
    assert!(
        later
            .verify(&approvers, &demo(), NOW, Some(current))
            .is_ok()
    );
}

fn demo_digest() -> bailiwick_attestation::Sha256Digest {
    bailiwick_attestation::Sha256Digest([7; 32])
}

#[test]
fn for_another_deployment() {
    let scene = Scene::new();
    let other = DeploymentId::new("other").unwrap();
    let refusal = scene
        .honest
        .verify(&scene.fleet.approvers(), &other, NOW, None)
        .unwrap_err();
    check(
        &refusal,
        "policy-wrong-deployment",
        "made for deployment \"demo\", and this is",
    );
    // Signed for this one, and saying another.
    let text = scene.text.replace("\"demo\"", "\"other\"");
    let bundle = scene.fleet.bundle(&text, &files(), &["alice", "bob"]);
    scene.refused(
        &bundle,
        "policy-wrong-deployment",
        "made for deployment \"other\"",
    );
}

#[test]
fn of_another_kind() {
    let scene = Scene::new();
    for (namespace, code) in [
        ("bailiwick/demo/world", "policy-wrong-kind"),
        ("file", "policy-wrong-kind"),
        ("bailiwick/other/policy", "policy-wrong-deployment"),
    ] {
        let signatures = ["alice", "bob"].map(|name| scene.sign(name, namespace));
        let bundle = Bundle {
            signatures: signatures.into(),
            ..scene.honest.clone()
        };
        scene.refused(
            &bundle,
            code,
            if code.ends_with("kind") {
                namespace
            } else {
                "\"other\""
            },
        );
        // One of two for something else is one too few.
        let signatures = vec![scene.sign("alice", NAMESPACE), scene.sign("bob", namespace)];
        let bundle = Bundle {
            signatures,
            ..scene.honest.clone()
        };
        scene.refused(
            &bundle,
            "policy-under-signed",
            "signature 2: made for namespace",
        );
    }
    // Signed as a policy, and saying something else.
    let text = scene.text.replace("\"fleet\"", "\"rack-1\"");
    let bundle = scene.fleet.bundle(&text, &files(), &["alice", "bob"]);
    scene.refused(&bundle, "policy-wrong-kind", "scope is \"rack-1\"");
    let world = [("world.csv".to_owned(), Vec::new())].into();
    let text = manifest_of(Kind::World, 1, None, &world);
    let bundle = scene.fleet.bundle(&text, &world, &["alice", "bob"]);
    scene.refused(&bundle, "policy-wrong-kind", "kind is \"world\"");
}

#[test]
fn a_manifest_with_one_byte_changed() {
    let scene = Scene::new();
    for at in [0, scene.text.len() / 2, scene.text.len() - 1] {
        let mut bundle = scene.honest.clone();
        bundle.manifest[at] ^= 1;
        scene.refused(
            &bundle,
            "policy-under-signed",
            "signature 1: does not verify over these bytes",
        );
    }
    let mut bundle = scene.honest.clone();
    bundle.manifest.push(b'\n');
    scene.refused(&bundle, "policy-under-signed", "0 of 2 approvals");
}

#[test]
fn a_file_swapped() {
    let scene = Scene::new();
    for (index, (path, content)) in scene.honest.files.iter().enumerate() {
        let mut bundle = scene.honest.clone();
        let mut other = content.to_vec();
        other.push(b'\n');
        bundle.files[index].1 = Arc::new(other);
        scene.refused(&bundle, "policy-file-digest", path);
    }
    // The contents of two files exchanged.
    let mut bundle = scene.honest.clone();
    let first = Arc::clone(&bundle.files[0].1);
    bundle.files[0].1 = Arc::clone(&bundle.files[3].1);
    bundle.files[3].1 = first;
    scene.refused(&bundle, "policy-file-digest", "restore the file");
}

#[test]
fn a_file_added_or_left_out() {
    let scene = Scene::new();
    let mut bundle = scene.honest.clone();
    bundle
        .files
        .push(("studies/mallory.toml".to_owned(), Arc::new(Vec::new())));
    scene.refused(&bundle, "policy-file-unlisted", "studies/mallory.toml");
    let mut bundle = scene.honest.clone();
    let twice = bundle.files[0].clone();
    bundle.files.push(twice);
    scene.refused(&bundle, "policy-file-unlisted", "came twice");
    for index in 0..scene.honest.files.len() {
        let mut bundle = scene.honest.clone();
        let (path, _) = bundle.files.remove(index);
        scene.refused(&bundle, "policy-file-missing", &path);
    }
}

#[test]
fn signed_and_malformed() {
    let scene = Scene::new();
    let sign = |files: &_| {
        scene
            .fleet
            .bundle(&manifest(1, None, files), files, &["alice", "bob"])
    };
    let with = |path: &str, content: &[u8]| {
        let mut files = files();
        files.insert(path.to_owned(), content.to_vec());
        files
    };
    let study = b"name = \"cardio\"\nmode = \"enforce\"\nselect.cgroups = []\n";
    let rows: &[(&str, &[u8], &str)] = &[
        (
            "studies/cardio.toml",
            study,
            "studies/cardio.toml:3: select.cgroups: selects nothing",
        ),
        (
            "profile.toml",
            b"",
            "profile.toml:1: missing field `name`: correct it and sign anew",
        ),
        ("inventory.toml", b"\xff", "inventory.toml:1: is not UTF-8"),
        (
            "sites.toml",
            b"site = 3",
            "sites.toml:1: site: invalid type",
        ),
        ("world.txt", b"", "world.csv and world.txt are both listed"),
    ];
    for (path, content, says) in rows {
        scene.refused(&sign(&with(path, content)), "policy-malformed", says);
    }
    let mut without_world = files();
    without_world.remove("world.csv");
    scene.refused(&sign(&without_world), "policy-no-world", "apply one first");
    for path in ["profile.toml", "host-fence.toml", "inventory.toml"] {
        let mut files = files();
        files.remove(path);
        scene.refused(
            &sign(&files),
            "policy-malformed",
            "is not listed, and every manifest of kind policy has one",
        );
    }
    // Signed bytes that are no manifest at all.
    for text in ["", "deployment = \"demo\"", "\u{0}"] {
        let bundle = scene.fleet.bundle(text, &files(), &["alice", "bob"]);
        scene.refused(&bundle, "policy-malformed", "manifest.toml:1");
    }
}

#[test]
fn signed_outside_the_validity_of_a_key() {
    let mut scene = Scene::new();
    for (option, says) in [
        ("valid-before=\"20260101Z\"", "was valid until"),
        ("valid-after=\"20270101Z\"", "is valid from"),
    ] {
        let line = scene.fleet.keys.make(says, "-t ed25519");
        scene
            .fleet
            .allowed
            .push_str(&format!("dave {option} {line}\n"));
        let bundle = scene.fleet.bundle(&scene.text, &files(), &["alice", says]);
        scene.refused(&bundle, "policy-under-signed", says);
        // What was accepted while the key was valid stays readable after a restart.
        let approvers = scene.fleet.approvers();
        assert!(bundle.verify_in_force(&approvers, &demo(), NOW).is_ok());
        let current = InForce {
            version: 1,
            manifest_digest: bundle.manifest_digest(),
        };
        assert!(
            bundle
                .verify(&approvers, &demo(), NOW, Some(current))
                .is_ok()
        );
        scene.fleet.allowed = scene
            .fleet
            .allowed
            .lines()
            .take(3)
            .map(|l| format!("{l}\n"))
            .collect();
    }
}

#[test]
fn expired() {
    let scene = Scene::new();
    let approvers = scene.fleet.approvers();
    let verify = |now, current| scene.honest.verify(&approvers, &demo(), now, current);
    assert!(!verify(NOT_AFTER, None).unwrap().expired);
    let late = UnixTime(NOT_AFTER.0 + 1000);
    check(
        &verify(late, None).unwrap_err(),
        "policy-expired",
        "sign a new version",
    );
    // The policy in force stays in force, and says so.
    let current = verify(NOW, None).unwrap().in_force();
    assert!(verify(late, Some(current)).unwrap().expired);
    assert!(!verify(NOW, Some(current)).unwrap().expired);
}

#[test]
fn larger_than_any_policy() {
    let scene = Scene::new();
    let mut bundle = scene.honest.clone();
    bundle.signatures = vec![b"x".to_vec(); 65];
    scene.refused(
        &bundle,
        "policy-too-large",
        "signatures: 65 exceed the limit of 64",
    );
    let mut bundle = scene.honest.clone();
    bundle.manifest = vec![b' '; 512 * 1024 + 1];
    scene.refused(&bundle, "policy-too-large", "bytes of manifest");
    let mut bundle = scene.honest.clone();
    bundle.files[6].1 = Arc::new(vec![b' '; 64 * 1024 * 1024 + 1]);
    scene.refused(&bundle, "policy-too-large", "bytes");
    let mut bundle = scene.honest.clone();
    bundle.files = vec![bundle.files[0].clone(); 1033];
    scene.refused(&bundle, "policy-too-large", "files");
}

#[test]
fn a_threshold_of_one_takes_one() {
    let scene = Scene::new();
    let approvers = Approvers::parse("a", scene.fleet.allowed.as_bytes(), 1).unwrap();
    let bundle = scene.fleet.bundle(&scene.text, &files(), &["carol"]);
    let verified = bundle.verify(&approvers, &demo(), NOW, None).unwrap();
    assert_eq!(verified.signers[0].principals, "carol@example.org");
    assert_ne!(approvers.digest(), scene.fleet.approvers().digest());
}
