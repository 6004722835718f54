//! Break-glass: once, for whom approvers signed it, and only what can be measured.

use std::collections::BTreeMap;

use bailiwick_attestation::{Sha256Digest, proto::v1::PolicyBundle};
use bailiwick_policy::kind::Kind;

use super::{
    Core,
    tests::{Recorded, Recorder, Scene},
};
use crate::proto::fence::{ApplyPolicy, Request, UseBreakGlass, request, response};

#[tokio::test]
async fn glass_is_broken_once_by_what_approvers_signed_for_this_node() {
    let scene = Scene::new();
    let mut core = scene.core();
    let use_it = |core: &mut Core<Recorder>, bundle: PolicyBundle| -> String {
        let ask = request::Request::UseBreakGlass(UseBreakGlass {
            bundle: Some(bundle),
        });
        let request = Request { request: Some(ask) };
        match core.handle(request).response {
            Some(response::Response::BreakGlassUsed(used)) => used.studies.join(","),
            Some(response::Response::Refusal(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    };
    let good = scene.glass(1, "demo", "gpu-01");
    assert_eq!(use_it(&mut core, good.clone()), "lease-no-policy");
    let policy = scene.bundle(1, None);
    let apply = ApplyPolicy {
        bundle: Some(policy.clone()),
        ..ApplyPolicy::default()
    };
    let request = Request {
        request: Some(request::Request::ApplyPolicy(apply)),
    };
    core.handle(request);

    let mut unsigned = good.clone();
    unsigned.signatures.clear();
    let mut edited = good.clone();
    edited.files[0].content.push(b'\n');
    for (name, bundle, want) in [
        ("unsigned", unsigned, "policy-unsigned"),
        ("edited", edited, "policy-file-digest"),
        (
            "another deployment's",
            scene.glass(1, "prod", "gpu-01"),
            "policy-wrong-deployment",
        ),
        ("another kind", policy, "policy-wrong-kind"),
        (
            "another node's",
            scene.glass(1, "demo", "gpu-02"),
            "break-glass-other-node",
        ),
    ] {
        assert_eq!(use_it(&mut core, bundle), want, "{name}");
    }
    let ends = || scene.recorder.0.lock().unwrap().glass.clone();
    let in_force = |core: &mut Core<Recorder>| {
        let request = Request {
            request: Some(request::Request::GetState(Default::default())),
        };
        match core.handle(request).response {
            Some(response::Response::State(state)) => state.fence.unwrap().break_glass,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((ends(), in_force(&mut core)), (BTreeMap::new(), None));
    assert_eq!(use_it(&mut core, good.clone()), "cardio");
    let end = ends()["cardio"];
    let told = in_force(&mut core).unwrap();
    assert_eq!(told.end_boot_ns, end);
    assert_eq!(told.manifest_digest, Sha256Digest::of(&[&good.manifest]).0);
    assert_eq!(use_it(&mut core, good.clone()), "break-glass-used");

    // The next process of this boot, then the next boot.
    drop(core);
    scene.recorder.0.lock().unwrap().glass.clear();
    let mut core = scene.core();
    assert_eq!(ends(), [("cardio".to_owned(), end)].into());
    assert_eq!(use_it(&mut core, good.clone()), "break-glass-used");
    drop(core);
    let mut rebooted = scene.core_in([2; 16]);
    assert_eq!((ends(), in_force(&mut rebooted)), (BTreeMap::new(), None));
    assert_eq!(use_it(&mut rebooted, good), "break-glass-used");
    assert_eq!(
        use_it(&mut rebooted, scene.glass(2, "demo", "gpu-01")),
        "policy-wrong-previous"
    );
}

#[test]
fn glass_that_cannot_be_measured_is_not_broken_and_may_be_later() {
    let scene = Scene::new();
    let mut core = scene.core();
    let policy = ApplyPolicy {
        bundle: Some(scene.bundle(1, None)),
        ..ApplyPolicy::default()
    };
    core.handle(Request {
        request: Some(request::Request::ApplyPolicy(policy)),
    });
    let good = scene.glass(1, "demo", "gpu-01");
    let manifest = Sha256Digest::of(&[&good.manifest]);
    let use_it = |core: &mut Core<Recorder>| -> String {
        let ask = request::Request::UseBreakGlass(UseBreakGlass {
            bundle: Some(good.clone()),
        });
        match core.handle(Request { request: Some(ask) }).response {
            Some(response::Response::BreakGlassUsed(used)) => used.studies.join(","),
            Some(response::Response::Refusal(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    };
    let seen = || {
        let recorded = scene.recorder.0.lock().unwrap();
        (recorded.glass.clone(), recorded.uses.clone())
    };
    scene.recorder.0.lock().unwrap().unmeasured = true;
    assert_eq!(use_it(&mut core), "fence-pcr-unavailable");
    assert_eq!(seen(), (BTreeMap::new(), BTreeMap::new()));
    scene.recorder.0.lock().unwrap().unmeasured = false;
    assert_eq!(use_it(&mut core), "cardio", "it was no use");
    let (ends, uses) = seen();
    let end = ends["cardio"];
    assert_eq!(uses, [(manifest, end)].into(), "what the log has to say");
    assert_eq!(use_it(&mut core), "break-glass-used");
    // The next process of this boot, and the next boot, which has a log of its own.
    drop(core);
    *scene.recorder.0.lock().unwrap() = Recorded::default();
    drop(scene.core());
    assert_eq!(seen().1, [(manifest, end)].into());
    drop(scene.core_in([2; 16]));
    assert_eq!(seen(), (BTreeMap::new(), BTreeMap::new()));
}

#[test]
fn glass_that_the_collector_brings_is_broken_where_it_is_for() {
    let scene = Scene::new();
    let mut core = scene.core();
    let apply = |core: &mut Core<Recorder>, kind: &str, bundle: PolicyBundle| -> String {
        let apply = ApplyPolicy {
            bundle: Some(bundle),
            kind: kind.to_owned(),
        };
        let request = Request {
            request: Some(request::Request::ApplyPolicy(apply)),
        };
        match core.handle(request).response {
            Some(response::Response::Done(_)) => "done".to_owned(),
            Some(response::Response::Refusal(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    };
    let used = || scene.recorder.0.lock().unwrap().glass.len();
    {
        let early = Scene::new();
        let mut core = early.core();
        let glass = early.glass(1, "demo", "gpu-01");
        assert_eq!(apply(&mut core, "break-glass", glass), "done");
        assert!(
            early.recorder.0.lock().unwrap().glass.is_empty(),
            "there is no policy"
        );
        assert_eq!(apply(&mut core, "policy", early.bundle(1, None)), "done");
        assert_eq!(
            early.recorder.0.lock().unwrap().glass.len(),
            1,
            "now there is"
        );
    }
    assert_eq!(apply(&mut core, "policy", scene.bundle(1, None)), "done");
    let other = scene.glass(1, "demo", "gpu-02");
    assert_eq!(
        (apply(&mut core, "break-glass", other.clone()), used()),
        ("done".to_owned(), 0)
    );
    let previous = Sha256Digest::of(&[&other.manifest]);
    let glass_after = |previous| {
        let files = scene.glass(1, "demo", "gpu-01").files.into_iter();
        let files = files.map(|file| (file.path, file.content)).collect();
        scene.signed(Kind::BreakGlass, 2, Some(previous), &files, &["alice"])
    };
    let mut unsigned = glass_after(previous);
    unsigned.signatures.clear();
    assert_eq!(apply(&mut core, "break-glass", unsigned), "policy-unsigned");
    assert_eq!(used(), 0);
    let ours = glass_after(previous);
    assert_eq!(
        (apply(&mut core, "break-glass", ours.clone()), used()),
        ("done".to_owned(), 1)
    );
    let end = scene.recorder.0.lock().unwrap().glass["cardio"];
    assert_eq!(
        apply(&mut core, "break-glass", ours),
        "done",
        "offered again"
    );
    assert_eq!(
        scene.recorder.0.lock().unwrap().glass["cardio"],
        end,
        "and not used again"
    );
}

#[test]
fn without_its_memory_no_glass_is_broken() {
    let scene = Scene::new();
    std::fs::create_dir_all(scene.path("state/fence")).unwrap();
    std::fs::write(scene.path("state/fence/break-glass"), b"damaged\n").unwrap();
    let mut core = scene.core();
    let policy = ApplyPolicy {
        bundle: Some(scene.bundle(1, None)),
        ..ApplyPolicy::default()
    };
    core.handle(Request {
        request: Some(request::Request::ApplyPolicy(policy)),
    });
    let ask = UseBreakGlass {
        bundle: Some(scene.glass(1, "demo", "gpu-01")),
    };
    let answer = core.handle(Request {
        request: Some(request::Request::UseBreakGlass(ask)),
    });
    let Some(response::Response::Refusal(refusal)) = answer.response else {
        panic!("{answer:?}");
    };
    assert_eq!(refusal.code, "policy-not-kept");
    assert!(scene.recorder.0.lock().unwrap().glass.is_empty());
}
