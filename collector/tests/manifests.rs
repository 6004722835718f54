//! Manifests of every kind at the collector: approvers hand on while it runs, what is offered
//! follows, and a restart finds it all.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::NoteSigner;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_collector::direct::{ApplyError, Director};
use bailiwick_collector::record::Store;
use bailiwick_policy::approvers::Approvers;
use bailiwick_policy::bundle::Bundle;
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{Draft, compose};
use prost::Message as _;
use rcgen::{KeyPair, PKCS_ED25519};

const NOW: UnixTime = UnixTime(1_900_000_000_000);

type Files = BTreeMap<String, Vec<u8>>;

fn key(dir: &Path, name: &str) -> String {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(dir.join(name))
        .status();
    assert!(made.unwrap().success());
    let public = std::fs::read_to_string(dir.join(format!("{name}.pub"))).unwrap();
    format!("{name} {public}")
}

fn files(entries: &[(&str, &str)]) -> Files {
    let entries = entries.iter();
    entries
        .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
        .collect()
}

fn signed(
    dir: &Path,
    kind: Kind,
    version: u64,
    previous: Option<Sha256Digest>,
    files: &Files,
    signers: &[&str],
) -> (Vec<u8>, Sha256Digest) {
    let deployment = DeploymentId::new("demo").unwrap();
    let draft = Draft {
        deployment: &deployment,
        kind,
        version,
        previous,
        not_after: UnixTime(4_000_000_000_000),
        reason: "a test",
    };
    let text = compose(&draft, files).unwrap();
    let manifest = dir.join("manifest.toml");
    std::fs::write(&manifest, &text).unwrap();
    let signatures = signers.iter().map(|signer| {
        let signed = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", &kind.namespace(&deployment), "-f"])
            .arg(dir.join(signer))
            .arg(&manifest)
            .status();
        assert!(signed.unwrap().success());
        let file = dir.join("manifest.toml.sig");
        let signature = std::fs::read(&file).unwrap();
        std::fs::remove_file(file).unwrap();
        signature
    });
    let signatures = signatures.collect();
    let bundle = Bundle::from_files(text.into_bytes(), signatures, files.clone());
    let digest = bundle.manifest_digest();
    (v1::PolicyBundle::from(bundle).encode_to_vec(), digest)
}

async fn open(dir: &Path, log: &KeyPair, first: &str) -> Director {
    let signer = NoteSigner::from_pkcs8("log.example/demo", &log.serialize_der()).unwrap();
    let (store, _writer) = Store::open(&dir.join("collector.db"), signer)
        .await
        .unwrap();
    let approvers = Approvers::parse("a", first.as_bytes(), 1).unwrap();
    let deployment = DeploymentId::new("demo").unwrap();
    Director::open(approvers, deployment, store, NOW)
        .await
        .unwrap()
}

fn code(outcome: Result<bailiwick_collector::direct::Applied, ApplyError>) -> &'static str {
    match outcome {
        Ok(_) => "applied",
        Err(ApplyError::Refused(refused)) => refused.code(),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn approvers_hand_on_while_the_collector_runs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let log = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let (alice, bob) = (key(dir, "alice"), key(dir, "bob"));
    let first = Approvers::parse("a", alice.as_bytes(), 1).unwrap().digest();
    let profile = "name = \"p\"\nlease_seconds = 60\nmax_silence_seconds = 60\n[tpm]\n\
                   bank = \"sha256\"\nrequire = [0]\n";
    let policy_files = files(&[
        ("host-fence.toml", ""),
        ("sites.toml", ""),
        ("inventory.toml", ""),
        ("collector.toml", ""),
        ("profile.toml", profile),
    ]);
    let world = |text: &str| files(&[("world.csv", text)]);
    let handed = files(&[
        ("approvers.toml", "threshold = 1\n"),
        ("allowed_signers", &bob),
    ]);
    let policy = |version, previous, signer| {
        signed(
            dir,
            Kind::Policy,
            version,
            previous,
            &policy_files,
            &[signer],
        )
    };
    let director = open(dir, &log, &alice).await;
    let (one, one_digest) = policy(1, None, "alice");
    assert_eq!(
        code(director.apply(one.clone(), "op", NOW).await),
        "policy-no-world"
    );
    let (map, map_digest) = signed(
        dir,
        Kind::World,
        1,
        None,
        &world("192.0.2.0/24,DE\n"),
        &["alice"],
    );
    assert_eq!(code(director.apply(map, "op", NOW).await), "applied");
    assert_eq!(code(director.apply(one, "op", NOW).await), "applied");
    assert_eq!(director.current().unwrap().version(), 1);

    let change = |signers: &[&str]| signed(dir, Kind::Approvers, 1, Some(first), &handed, signers);
    let (half, _) = change(&["alice"]);
    assert_eq!(
        code(director.apply(half, "op", NOW).await),
        "approvers-new-under-signed"
    );
    let (whole, _) = change(&["alice", "bob"]);
    assert_eq!(
        code(director.apply(whole.clone(), "op", NOW).await),
        "applied"
    );
    assert_eq!(
        code(director.apply(whole, "op", NOW).await),
        "applied",
        "the same again"
    );
    let current = director.current().unwrap();
    let none = bailiwick_attestation::gpu::Endorsements::default();
    let reference = current.reference(&Sha256Digest([0; 32]), &none);
    assert_ne!(reference.approvers, first);
    assert_eq!(
        reference.approvers_before,
        [first],
        "nodes may lag for a moment"
    );
    let (stale, _) = policy(2, Some(one_digest), "alice");
    assert_eq!(
        code(director.apply(stale, "op", NOW).await),
        "policy-under-signed"
    );
    let (two, _) = policy(2, Some(one_digest), "bob");
    assert_eq!(code(director.apply(two, "op", NOW).await), "applied");
    let (map, _) = signed(
        dir,
        Kind::World,
        2,
        Some(map_digest),
        &world("192.0.2.0/24,FR\n"),
        &["bob"],
    );
    assert_eq!(code(director.apply(map, "op", NOW).await), "applied");
    let mapped = director.current().unwrap();
    assert_eq!(
        mapped.verified().world.bytes.as_slice(),
        b"192.0.2.0/24,FR\n"
    );
    drop(director);

    let director = open(dir, &log, &alice).await;
    let manifests = director.manifests();
    let offered: Vec<(&str, u64)> = Kind::ALL
        .iter()
        .filter_map(|kind| Some((kind.as_str(), manifests.get(kind)?.manifest.version)))
        .collect();
    assert_eq!(offered, [("approvers", 1), ("world", 2), ("policy", 2)]);
    assert_ne!(
        director
            .current()
            .unwrap()
            .reference(&Sha256Digest([0; 32]), &none)
            .approvers,
        first
    );
    assert_eq!(director.chain().await.changes().len(), 1);
}

/// A stream that is woken by an offer asks whether its node is listed: by the policy that the
/// offer goes with, whichever of the two it would look at first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sees_an_offer_sees_the_policy_it_goes_with() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let log = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let alice = key(dir, "alice");
    let director = open(dir, &log, &alice).await;
    let (ek, other) = (Sha256Digest([7; 32]), Sha256Digest([8; 32]));
    let mut watch = director.watch();
    assert!(watch.borrow().offered_to(&ek).is_none(), "no policy");
    let watcher = tokio::spawn(async move {
        let mut seen = Vec::new();
        while watch.changed().await.is_ok() {
            let now = watch.borrow_and_update().clone();
            let policy = now.policy.clone().unwrap();
            let offered = now.manifests[&Kind::Policy].manifest.version;
            let told = now.offered_to(&ek).is_some();
            assert!(now.offered_to(&other).is_none(), "nobody lists it");
            seen.push((
                policy.version(),
                offered,
                policy.listed(&ek).is_some(),
                told,
            ));
        }
        seen
    });
    let profile = "name = \"p\"\nlease_seconds = 60\nmax_silence_seconds = 60\n[tpm]\n\
                   bank = \"sha256\"\nrequire = [0]\n";
    let entry = format!("[[node]]\nname = \"gpu-01\"\nek = \"{ek}\"\njurisdiction = \"DE\"\n");
    let mut previous = None;
    for version in 1..=6 {
        // Listed in every other one.
        let inventory = if version % 2 == 0 { entry.as_str() } else { "" };
        let files = files(&[
            ("host-fence.toml", ""),
            ("sites.toml", ""),
            ("inventory.toml", inventory),
            ("collector.toml", ""),
            ("profile.toml", profile),
            ("world.csv", "192.0.2.0/24,DE\n"),
        ]);
        let (bundle, digest) = signed(dir, Kind::Policy, version, previous, &files, &["alice"]);
        assert_eq!(code(director.apply(bundle, "op", NOW).await), "applied");
        previous = Some(digest);
    }
    drop(director);
    let seen = watcher.await.unwrap();
    for (policy, offered, listed, told) in &seen {
        assert_eq!((policy, listed), (offered, told), "{seen:?}");
        assert_eq!(*listed, policy % 2 == 0, "{seen:?}");
    }
    assert_eq!(seen.last(), Some(&(6, 6, true, true)));
}
