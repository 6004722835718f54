//! A signed policy in the kernel, and cgroups that come and go.

use std::fs;

use bailiwick_agent::fence_service::Enforcer;
use bailiwick_attestation::proto::v1::{FenceState, fence_state::Mode};
use bailiwick_policy::bundle::VerifiedBundle;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{bundle, scene::Scene};

fn signed(scene: &Scene, version: u64, study: &str, world: &str) -> VerifiedBundle {
    let files = [("studies/cardio.toml", study), ("world.csv", world)];
    bundle::signed(&scene.folder(), version, &files)
}

fn study(scene: &Scene) -> String {
    format!(
        "name = \"cardio\"\nmode = \"enforce\"\n[select]\ncgroups = [{:?}]\n\
         [allow]\njurisdictions = [\"DE\"]\nprefixes = [\"127.0.0.0/8\"]\n",
        scene.path("studies/cardio")
    )
}

fn map(state: &FenceState, name: &str) -> Option<(u32, Vec<u8>)> {
    let found = state.maps.iter().find(|map| map.name == name)?;
    Some((found.map_id, found.digest.clone()))
}

#[test]
fn a_policy_is_in_force_until_another_is_or_none() {
    let scene = Scene::new("policy");
    let mut fence = scene.open();
    let first = signed(&scene, 1, &study(&scene), "192.0.2.0/24,DE\n");
    fence.apply_policy(&first).unwrap();
    let state = fence.state();
    assert_eq!(state.fault, None);
    assert_eq!(state.mode(), Mode::Enforcing);
    let (rules, world) = (
        map(&state, "POLICY").unwrap(),
        map(&state, "WORLD").unwrap(),
    );
    assert_eq!((rules.1.len(), world.1.len()), (32, 32));
    assert_eq!(fence.world_digest().unwrap().0.to_vec(), world.1);
    assert_eq!(scene.send("studies"), "denied", "no study's");

    let second = signed(&scene, 2, &study(&scene), "192.0.2.0/24,FR\n");
    fence.apply_policy(&second).unwrap();
    let state = fence.state();
    assert_eq!(state.fault, None);
    assert_ne!(map(&state, "WORLD").unwrap(), world);
    assert_ne!(map(&state, "POLICY").unwrap(), rules);
    let rules = map(&state, "POLICY").unwrap();

    // The next process finds it in the kernel, and takes it out if it cannot answer for it.
    drop(fence);
    let mut fence = scene.open();
    assert_eq!(map(&fence.state(), "POLICY").unwrap().0, rules.0);
    assert!(fence.state().fault.unwrap().starts_with("WORLD holds map "));
    fence.deny_everything().unwrap();
    let state = fence.state();
    assert_eq!((state.mode(), state.fault), (Mode::DefaultDeny, None));
}

#[test]
fn cgroups_that_come_and_go_are_followed() {
    let scene = Scene::new("follow");
    let mut fence = scene.open();
    fs::remove_dir(scene.cgroup("studies/cardio")).unwrap();
    let bundle = signed(&scene, 1, &study(&scene), "");
    fence.apply_policy(&bundle).unwrap();
    let rules = |fence: &mut dyn Enforcer<Error = _>| map(&fence.state(), "POLICY").unwrap();
    let none = rules(&mut fence);
    assert_eq!(fence.state().counters["selectors.unmatched"], 1);
    fence.reconcile().unwrap();
    assert_eq!(rules(&mut fence), none, "nothing has changed");

    fs::create_dir(scene.cgroup("studies/cardio")).unwrap();
    fence.reconcile().unwrap();
    let one = rules(&mut fence);
    assert_ne!(one, none);
    assert_eq!(fence.state().counters["selectors.unmatched"], 0);
    assert_eq!(fence.state().fault, None);
    fs::create_dir(scene.cgroup("studies/cardio/task")).unwrap();
    fs::create_dir(scene.cgroup("studies/neuro")).unwrap();
    fence.reconcile().unwrap();
    assert_eq!(rules(&mut fence), one, "neither is selected");

    fs::remove_dir(scene.cgroup("studies/cardio/task")).unwrap();
    fs::remove_dir(scene.cgroup("studies/cardio")).unwrap();
    fence.reconcile().unwrap();
    assert_eq!(rules(&mut fence).1, none.1);
}

#[test]
fn past_its_end_a_policy_admits_no_new_cgroup_of_a_study() {
    let scene = Scene::new("expired");
    let study = study(&scene).replace("studies/cardio", "studies/*");
    let bundle = signed(&scene, 1, &study, "");
    let mut fence = scene.open();
    fence.apply_policy(&bundle).unwrap();
    fence.set_lease_end(u64::MAX).unwrap();
    assert_eq!(scene.send("studies/cardio"), "passed");

    fence.admit(false);
    fs::create_dir(scene.cgroup("studies/late")).unwrap();
    fence.reconcile().unwrap();
    drop(fence.drain_events());
    assert_eq!(scene.send("studies/late"), "denied");
    assert_eq!(scene.send("studies/cardio"), "passed", "what ran goes on");
    let (events, _) = fence.drain_events();
    let event = events.first().unwrap();
    assert_eq!(
        (event.rule.as_str(), event.study.as_str()),
        ("policy-expired", "cardio")
    );
    assert!(event.cgroup.ends_with("/studies/late"), "{}", event.cgroup);
    assert_eq!(fence.state().counters["cgroups.held-back"], 1);
    assert_eq!(fence.state().fault, None);

    // The next process reads from the kernel what ran.
    drop(fence);
    let mut fence = scene.open();
    fence.admit(false);
    fence.apply_policy(&bundle).unwrap();
    assert_eq!(scene.send("studies/late"), "denied");
    assert_eq!(scene.send("studies/cardio"), "passed");
    fence.admit(true);
    fence.reconcile().unwrap();
    assert_eq!(scene.send("studies/late"), "passed", "a new policy came");
    assert_eq!(fence.state().counters["cgroups.held-back"], 0);
    drop(fence);
    // Nothing is in the kernel after a boot: nothing ran.
    let mut fence = scene.open();
    fence.deny_everything().unwrap();
    fence.admit(false);
    fence.apply_policy(&bundle).unwrap();
    assert_eq!(scene.send("studies/cardio"), "denied");
}

#[test]
fn a_cgroup_that_appears_is_told_at_once() {
    let scene = Scene::new("told");
    let mut fence = scene.open();
    fence
        .apply_policy(&signed(&scene, 1, &study(&scene), ""))
        .unwrap();
    fence.set_lease_end(u64::MAX).unwrap();
    let readable = fence.changes().unwrap();
    let told = || {
        let mut fds = [PollFd::new(&readable, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).unwrap() > 0
    };
    fence.reconcile().unwrap();
    assert!(!told());
    fs::create_dir(scene.cgroup("studies/cardio/task")).unwrap();
    assert!(!told(), "a study's own affair");
    fs::remove_dir(scene.cgroup("studies/cardio/task")).unwrap();
    fs::remove_dir(scene.cgroup("studies/cardio")).unwrap();
    assert!(told());
    fence.reconcile().unwrap();
    assert!(!told());
    fs::create_dir(scene.cgroup("studies/cardio")).unwrap();
    assert!(told());
    assert_eq!(scene.send("studies/cardio"), "denied", "not looked at yet");
    fence.reconcile().unwrap();
    assert_eq!(scene.send("studies/cardio"), "passed");
    // The way to it, made anew.
    fs::remove_dir(scene.cgroup("studies/cardio")).unwrap();
    fs::remove_dir(scene.cgroup("studies")).unwrap();
    fence.reconcile().unwrap();
    fs::create_dir(scene.cgroup("studies")).unwrap();
    assert!(told());
    fence.reconcile().unwrap();
    fs::create_dir(scene.cgroup("studies/cardio")).unwrap();
    assert!(told());
    fence.reconcile().unwrap();
    assert_eq!(scene.send("studies/cardio"), "passed");
    assert_eq!(fence.state().counters["cgroups.polled"], 0);
}
