//! What is kept of each kind, what the TPM remembers, and what a policy's end means.

use std::collections::BTreeMap;

use bailiwick_attestation::{Sha256Digest, UnixTime, proto::v1::PolicyBundle};
use bailiwick_policy::{approvers::Approvers, bundle::InForce, kind::Kind};
use prost::Message;

use super::{
    Core,
    tests::{Recorder, Scene, small_policy},
};
use crate::{
    floor::Floor,
    proto::fence::{
        ApplyLease, ApplyPolicy, GetState, Request, State, request::Request as Ask,
        response::Response as Answer,
    },
};

/// `done`, or the code of the refusal.
fn ask(core: &mut Core<Recorder>, ask: Ask) -> String {
    let request = Request { request: Some(ask) };
    match core.handle(request).response {
        Some(Answer::Done(_)) => "done".to_owned(),
        Some(Answer::Refusal(refusal)) => refusal.code,
        other => panic!("{other:?}"),
    }
}

fn apply(core: &mut Core<Recorder>, kind: &str, bundle: PolicyBundle) -> String {
    let apply = ApplyPolicy {
        bundle: Some(bundle),
        kind: kind.to_owned(),
    };
    ask(core, Ask::ApplyPolicy(apply))
}

fn state(core: &mut Core<Recorder>) -> State {
    let request = Request {
        request: Some(Ask::GetState(GetState {})),
    };
    match core.handle(request).response {
        Some(Answer::State(state)) => state,
        other => panic!("{other:?}"),
    }
}

fn digest(bundle: &PolicyBundle) -> Sha256Digest {
    Sha256Digest::of(&[&bundle.manifest])
}

fn version(core: &mut Core<Recorder>) -> u64 {
    state(core).policy.map_or(0, |policy| policy.version)
}

fn fault(core: &mut Core<Recorder>) -> String {
    state(core).fence.unwrap().fault.unwrap_or_default()
}

fn set(lines: &[&str]) -> BTreeMap<String, Vec<u8>> {
    [
        ("approvers.toml".to_owned(), b"threshold = 1\n".to_vec()),
        ("allowed_signers".to_owned(), lines.concat().into_bytes()),
    ]
    .into()
}

/// Alice hands on to bob, bob to carol.
fn changes(scene: &Scene) -> (PolicyBundle, PolicyBundle) {
    let alice = std::fs::read_to_string(scene.path("alice.pub")).unwrap();
    let first = Approvers::parse("a", format!("alice {alice}").as_bytes(), 1).unwrap();
    let (bob, carol) = (scene.key("bob"), scene.key("carol"));
    let signed = |version, previous, line: &str, signers: &[&str]| {
        let files = set(&[line]);
        scene.signed(Kind::Approvers, version, Some(previous), &files, signers)
    };
    let one = signed(1, first.digest(), &bob, &["alice", "bob"]);
    let two = signed(2, digest(&one), &carol, &["bob", "carol"]);
    (one, two)
}

#[test]
fn approvers_hand_on_without_a_restart_and_across_one() {
    let scene = Scene::new();
    let (one, two) = changes(&scene);
    let mut core = scene.core();
    let first = state(&mut core).approvers_digest;
    let policy = scene.bundle(1, None);
    assert_eq!(apply(&mut core, "", policy.clone()), "done");

    assert_eq!(
        apply(&mut core, "approvers", two.clone()),
        "policy-under-signed"
    );
    let mut edited = one.clone();
    edited.files[1].content.push(b'\n');
    assert_eq!(apply(&mut core, "approvers", edited), "policy-file-digest");
    assert_eq!(apply(&mut core, "", one.clone()), "policy-wrong-kind");
    assert_eq!(apply(&mut core, "later", one.clone()), "request-malformed");
    assert_eq!(state(&mut core).approvers_digest, first, "nothing changed");

    // A machine that was away gets both at once.
    let mut both = two.clone();
    both.before = vec![one.clone()];
    assert_eq!(apply(&mut core, "approvers", both), "done");
    let told = state(&mut core);
    assert_ne!(told.approvers_digest, first);
    assert_eq!(told.held.len(), 1);
    assert_eq!(
        (told.held[0].kind.as_str(), told.held[0].version),
        ("approvers", 2)
    );

    let next = |signers: &[&str]| {
        let files = small_policy();
        scene.signed(Kind::Policy, 2, Some(digest(&policy)), &files, signers)
    };
    assert_eq!(
        apply(&mut core, "", next(&["alice", "bob"])),
        "policy-under-signed"
    );
    assert_eq!(version(&mut core), 1, "what alice signed stays in force");
    drop(core);
    let mut core = scene.core();
    assert_eq!(version(&mut core), 1, "and after a restart");
    assert_eq!(state(&mut core).approvers_digest, told.approvers_digest);
    assert_eq!(apply(&mut core, "", next(&["carol"])), "done");
    assert_eq!(version(&mut core), 2);
    drop(core);

    // Half a chain is no chain: the first approvers are left, and carol's policy is nobody's.
    let mut broken = two;
    broken.before.clear();
    std::fs::write(
        scene.path("state/fence/kept/approvers"),
        broken.encode_to_vec(),
    )
    .unwrap();
    let mut core = scene.core();
    assert_eq!(version(&mut core), 0);
    assert_eq!(state(&mut core).approvers_digest, first);
    assert!(fault(&mut core).contains("kept approvers"));
}

#[test]
fn a_disk_behind_the_tpm_gets_no_lease_and_no_older_policy() {
    let scene = Scene::new();
    let one = scene.bundle(1, None);
    let two = scene.bundle(2, Some(digest(&one)));
    let three = scene.bundle(3, Some(digest(&two)));
    let (change, _) = changes(&scene);
    let at = |version, bundle: &PolicyBundle| {
        Some(InForce {
            version,
            manifest_digest: digest(bundle),
        })
    };
    let floor = Floor {
        policy: at(3, &three),
        approvers: None,
    };
    let lease = || {
        Ask::ApplyLease(ApplyLease {
            lease: Some(Default::default()),
            ek_digest: vec![0; 32],
            ..ApplyLease::default()
        })
    };
    // An empty disk in a machine that has had version 3.
    let mut core = scene.core();
    assert_eq!(ask(&mut core, Ask::SetFloor(floor.message())), "done");
    assert_eq!(apply(&mut core, "", one.clone()), "policy-rolled-back");
    assert_eq!(apply(&mut core, "", two.clone()), "policy-rolled-back");
    let mut files = small_policy();
    files.insert("sites.toml".to_owned(), b"# another\n".to_vec());
    let other = scene.signed(Kind::Policy, 3, Some(digest(&two)), &files, &["alice"]);
    assert_eq!(apply(&mut core, "", other), "policy-version-taken");
    assert!(scene.recorder.0.lock().unwrap().applied.is_empty());
    assert_eq!(apply(&mut core, "", three.clone()), "done");
    assert_eq!(
        ask(&mut core, lease()),
        "lease-node-not-listed",
        "judged as ever"
    );

    // A disk from a backup.
    std::fs::write(scene.path("state/fence/policy"), two.encode_to_vec()).unwrap();
    let mut core = scene.core();
    assert_eq!((version(&mut core), fault(&mut core)), (2, String::new()));
    assert_eq!(ask(&mut core, Ask::SetFloor(floor.message())), "done");
    assert!(fault(&mut core).starts_with("policy rolled back: version 2 is in force"));
    assert_eq!(scene.recorder.0.lock().unwrap().lease_ends, [0]);
    assert_eq!(ask(&mut core, lease()), "policy-rolled-back");
    let lower = Floor {
        policy: at(1, &one),
        approvers: None,
    };
    assert_eq!(ask(&mut core, Ask::SetFloor(lower.message())), "done");
    assert_eq!(
        ask(&mut core, lease()),
        "policy-rolled-back",
        "a floor never sinks"
    );
    assert_eq!(apply(&mut core, "", three), "done");
    assert_eq!(fault(&mut core), "");
    assert_eq!(ask(&mut core, lease()), "lease-node-not-listed");

    // Approvers that were thrown out sign nothing for a machine that lost the change.
    let floor = Floor {
        policy: None,
        approvers: at(1, &change),
    };
    assert_eq!(ask(&mut core, Ask::SetFloor(floor.message())), "done");
    assert!(fault(&mut core).starts_with("approvers rolled back"));
    let four = scene.bundle(4, Some(digest(&scene.bundle(3, Some(digest(&two))))));
    assert_eq!(apply(&mut core, "", four), "policy-rolled-back");
    assert_eq!(apply(&mut core, "approvers", change), "done");
    assert_eq!(fault(&mut core), "");
    let mut short = floor.message();
    short.approvers.as_mut().unwrap().manifest_digest.pop();
    assert_eq!(ask(&mut core, Ask::SetFloor(short)), "request-malformed");
}

#[test]
fn a_policy_takes_its_map_from_the_newest_world_manifest() {
    let scene = Scene::new();
    let mut files = small_policy();
    files.remove("world.csv");
    let policy = scene.signed(Kind::Policy, 1, None, &files, &["alice"]);
    let world = |version, previous, text: &str| {
        let files = [("world.csv".to_owned(), text.as_bytes().to_vec())].into();
        scene.signed(Kind::World, version, previous, &files, &["alice"])
    };
    let one = world(1, None, "192.0.2.0/24,DE\n");
    let two = world(2, Some(digest(&one)), "192.0.2.0/24,FR\n");
    let mut core = scene.core();
    assert_eq!(apply(&mut core, "", policy.clone()), "policy-no-world");
    assert_eq!(apply(&mut core, "world", one.clone()), "done");
    assert!(scene.recorder.0.lock().unwrap().applied.is_empty());
    assert_eq!(apply(&mut core, "", policy), "done");
    assert_eq!(apply(&mut core, "world", two.clone()), "done");
    assert_eq!(scene.recorder.0.lock().unwrap().applied, [1, 1]);
    assert_eq!(apply(&mut core, "world", one), "policy-rolled-back");
    drop(core);
    let mut core = scene.core();
    assert_eq!(version(&mut core), 1);
    let held = state(&mut core).held;
    assert_eq!((held[0].kind.as_str(), held[0].version), ("world", 2));
    drop(core);
    std::fs::write(scene.path("state/fence/kept/world"), b"\xff").unwrap();
    let mut core = scene.core();
    assert_eq!(version(&mut core), 0, "without its map a policy is none");
    assert!(fault(&mut core).contains("kept world"));
}

#[test]
fn past_its_end_a_policy_stays_and_admits_nothing_new() {
    let scene = Scene::new();
    let over = UnixTime::from_secs(1_700_000_000);
    let files = small_policy();
    let expired = scene.signed_until((Kind::Policy, "demo"), 1, None, &files, &["alice"], over);
    let mut core = scene.core();
    assert_eq!(apply(&mut core, "", expired.clone()), "policy-expired");
    drop(core);
    std::fs::create_dir_all(scene.path("state/fence")).unwrap();
    std::fs::write(scene.path("state/fence/policy"), expired.encode_to_vec()).unwrap();
    let mut core = scene.core();
    assert_eq!(version(&mut core), 1, "the fence stays");
    assert!(scene.recorder.0.lock().unwrap().closed);
    core.reconcile();
    assert!(scene.recorder.0.lock().unwrap().closed);
    let told = state(&mut core);
    assert_eq!(told.fence.unwrap().counters["policy.expired"], 1);
    assert_eq!(told.policy.unwrap().not_after_ms, over.millis());
    let next = scene.bundle(2, Some(digest(&expired)));
    assert_eq!(apply(&mut core, "", next), "done");
    assert!(!scene.recorder.0.lock().unwrap().closed);
    assert_eq!(
        state(&mut core).fence.unwrap().counters["policy.expired"],
        0
    );
}

#[test]
fn break_glass_and_erasure_are_kept_and_move_forward() {
    let scene = Scene::new();
    let glass = "nodes = [\"*\"]\nstudies = [\"cardio\"]\nduration_seconds = 60\n\
                 use_before = \"2096-12-01T00:00:00Z\"\nreason = \"a test\"\n";
    let erasure = "study = \"cardio\"\nreason = \"a test\"\n";
    let mut core = scene.core();
    for (kind, path, text) in [
        (Kind::BreakGlass, "break-glass.toml", glass),
        (Kind::Erasure, "erasure.toml", erasure),
    ] {
        let files = [(path.to_owned(), text.as_bytes().to_vec())].into();
        let one = scene.signed(kind, 1, None, &files, &["alice"]);
        let two = scene.signed(kind, 2, Some(digest(&one)), &files, &["alice"]);
        let unsigned = scene.signed(kind, 2, Some(digest(&one)), &files, &[]);
        let word = kind.as_str();
        assert_eq!(apply(&mut core, word, one.clone()), "done");
        assert_eq!(apply(&mut core, word, unsigned), "policy-unsigned");
        assert_eq!(apply(&mut core, word, two.clone()), "done");
        assert_eq!(apply(&mut core, word, one), "policy-rolled-back");
        assert_eq!(apply(&mut core, word, two), "done", "the newest again");
    }
    drop(core);
    let mut core = scene.core();
    let held = state(&mut core).held;
    let held: Vec<(&str, u64)> = held.iter().map(|h| (h.kind.as_str(), h.version)).collect();
    assert_eq!(held, [("break-glass", 2), ("erasure", 2)]);
    assert_eq!(fault(&mut core), "");
}
