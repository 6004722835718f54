//! A signed policy in the kernel, and cgroups that come and go.

use std::fs;

use bailiwick_agent::fence_service::Enforcer;
use bailiwick_attestation::proto::v1::{FenceState, fence_state::Mode};
use bailiwick_policy::bundle::VerifiedBundle;

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
