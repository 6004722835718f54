//! What takes effect is in the fence's PCR first; what closes does not wait for it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bailiwick_agent::{
    fence::{Fence, FenceError, Recorder, Register, RegisterError},
    fence_service::Enforcer,
};
use bailiwick_attestation::{
    Sha256Digest,
    crypto::{Digest, HashAlgorithm},
    fence_log::{self, Entry},
    proto::v1::fence_state::Mode,
};
use bailiwick_policy::bundle::VerifiedBundle;

use crate::{
    bundle,
    scene::{PROGRAM, Scene, run_in},
    traffic::Stage,
};

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

/// A register, and what the study's process could send when it was extended.
#[derive(Clone, Debug)]
struct Chip(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    value: Digest,
    gone: bool,
    cgroup: PathBuf,
    seen: Vec<(&'static str, String)>,
}

impl Chip {
    fn new(scene: &Scene) -> Self {
        Self(Arc::new(Mutex::new(State {
            value: fence_log::zero(BANK).unwrap(),
            gone: false,
            cgroup: scene.cgroup("studies/cardio"),
            seen: Vec::new(),
        })))
    }

    fn gone(&self, gone: bool) {
        self.0.lock().unwrap().gone = gone;
    }

    /// What was extended since the last call, and what could be sent just before; one line for
    /// the programs of all hooks.
    fn seen(&self) -> Vec<(&'static str, String)> {
        let mut seen = std::mem::take(&mut self.0.lock().unwrap().seen);
        seen.dedup();
        seen
    }
}

impl Register for Chip {
    fn extend(&mut self, event: &[u8], patience: Duration) -> Result<(), RegisterError> {
        let mut state = self.0.lock().unwrap();
        if state.gone {
            return Err(RegisterError::Late(patience));
        }
        let entry = fence_log::entries(event).next().unwrap().unwrap().1;
        let name = match entry {
            Entry::Begin(_) => "begin",
            Entry::Program { .. } => "program",
            Entry::Deny => "deny",
            Entry::World(_) => "world",
            Entry::Policy(_) => "policy",
            Entry::BreakGlass(_) => "break-glass",
        };
        let sent = run_in(&state.cgroup, PROGRAM, &["probe", "fence"]).stdout;
        state.seen.push((name, String::from_utf8(sent).unwrap()));
        state.value = fence_log::extend(BANK, &state.value, event).unwrap();
        Ok(())
    }

    fn value(&mut self, patience: Duration) -> Result<Digest, RegisterError> {
        let state = self.0.lock().unwrap();
        match state.gone {
            true => Err(RegisterError::Late(patience)),
            false => Ok(state.value.clone()),
        }
    }

    fn bank(&self) -> HashAlgorithm {
        BANK
    }

    fn index(&self) -> u8 {
        13
    }
}

fn open(scene: &Scene, chip: &Chip) -> Fence {
    let log = scene.folder().join("fence.log");
    let recorder = Recorder::new(Box::new(chip.clone()), &log);
    Fence::open(&scene.section, recorder).unwrap()
}

/// A policy whose study the process is in, or is not.
fn policy(scene: &Scene, version: u64, open: bool) -> VerifiedBundle {
    let selected = if open {
        "studies/cardio"
    } else {
        "studies/neuro"
    };
    let study = format!(
        "name = \"cardio\"\nmode = \"enforce\"\n[select]\ncgroups = [{:?}]\n\
         [allow]\njurisdictions = [\"DE\"]\nprefixes = [\"127.0.0.0/8\"]\n",
        scene.path(selected)
    );
    let files = [("studies/cardio.toml", study.as_str()), ("world.csv", "")];
    bundle::signed(&scene.folder(), version, &files)
}

fn said(seen: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    seen.iter()
        .map(|(name, sent)| (*name, (*sent).to_owned()))
        .collect()
}

#[test]
fn everything_is_extended_before_it_takes_effect() {
    let scene = Scene::new("measured");
    let chip = Chip::new(&scene);
    let mut fence = open(&scene, &chip);
    let want = said(&[
        ("begin", "passed"),
        ("deny", "passed"),
        ("program", "denied"),
    ]);
    assert_eq!(chip.seen(), want);
    fence.set_lease_end(u64::MAX).unwrap();
    fence.apply_policy(&policy(&scene, 1, true)).unwrap();
    let want = said(&[("world", "denied"), ("policy", "denied")]);
    assert_eq!(chip.seen(), want);
    assert_eq!(scene.send("studies/cardio"), "passed");
    fence.apply_policy(&policy(&scene, 2, false)).unwrap();
    let want = said(&[("world", "passed"), ("policy", "passed")]);
    assert_eq!(chip.seen(), want);
    assert_eq!(scene.send("studies/cardio"), "denied");

    // The log and the statement say the same.
    let log = std::fs::read(scene.folder().join("fence.log")).unwrap();
    let value = chip.0.lock().unwrap().value.clone();
    let logged = fence_log::replay(&log, BANK, &value).unwrap().state;
    let state = fence.state();
    assert_eq!(state.log_fault, None);
    for link in &state.links {
        let program = &logged.programs[&link.hook];
        assert_eq!(program.tag.to_vec(), link.program_tag, "{}", link.hook);
        assert_eq!(program.object.0.to_vec(), state.object_digest);
    }
    assert_eq!(logged.world, fence.world_digest());
    assert_eq!(logged.policy.unwrap().version, 2);
    let begun = logged.begun.unwrap();
    assert_eq!((begun.root, begun.whole_host), (state.root, false));
}

#[test]
fn a_process_that_starts_again_extends_nothing() {
    let scene = Scene::new("measured-again");
    let chip = Chip::new(&scene);
    let bundle = policy(&scene, 1, true);
    let mut fence = open(&scene, &chip);
    fence.apply_policy(&bundle).unwrap();
    drop(fence);
    assert_eq!(chip.seen().len(), 5);
    let mut fence = open(&scene, &chip);
    fence.apply_policy(&bundle).unwrap();
    fence.reconcile().unwrap();
    assert_eq!(chip.seen(), []);
    assert_eq!(fence.state().log_fault, None);
    fence.deny_everything().unwrap();
    assert_eq!(chip.seen().len(), 1);
}

#[test]
fn a_line_found_missing_at_a_start_is_closed_first_and_recorded() {
    for (name, missing, closed) in [
        ("none", &[][..], false),
        ("out", &["egress"], true),
        ("in", &["ingress"], true),
        ("a line that judges nothing", &["setsockopt"], false),
    ] {
        let scene = Scene::new("measured-missing");
        let chip = Chip::new(&scene);
        let mut fence = open(&scene, &chip);
        fence.apply_policy(&policy(&scene, 1, true)).unwrap();
        drop(fence);
        chip.seen();
        for link in missing {
            std::fs::remove_file(scene.pin("links").join(link)).unwrap();
        }
        drop(open(&scene, &chip));
        let said = chip.seen().iter().any(|(entry, _)| *entry == "deny");
        assert_eq!(said, closed, "{name}");
    }
}

#[test]
fn without_a_tpm_it_closes_and_opens_for_nobody() {
    let scene = Scene::new("unmeasured");
    let chip = Chip::new(&scene);
    chip.gone(true);
    let mut fence = open(&scene, &chip);
    assert_eq!(
        scene.send("studies/cardio"),
        "denied",
        "closed all the same"
    );
    let state = fence.state();
    assert_eq!((state.mode(), state.fault), (Mode::DefaultDeny, None));
    assert!(state.log_fault.unwrap().starts_with("PCR 13: no answer"));
    fence.set_lease_end(u64::MAX).unwrap();
    let first = policy(&scene, 1, true);
    let refused = fence.apply_policy(&first).unwrap_err();
    assert!(matches!(refused, FenceError::Unmeasured(_)));
    assert!(Fence::held_back(&refused));
    assert!(!fence.ready());
    assert_eq!(scene.send("studies/cardio"), "denied");
    assert_eq!(fence.state().mode(), Mode::DefaultDeny);

    chip.gone(false);
    fence.apply_policy(&first).unwrap();
    let names: Vec<_> = chip.seen().into_iter().map(|(name, _)| name).collect();
    let want = ["begin", "deny", "program", "world", "policy"];
    assert_eq!(names, want, "what was owed comes first");
    assert_eq!(scene.send("studies/cardio"), "passed");
    assert_eq!(fence.state().log_fault, None);
    let world = fence.world_digest();

    // The old policy stays while a new one cannot be measured.
    chip.gone(true);
    let refused = fence.apply_policy(&policy(&scene, 2, false)).unwrap_err();
    assert!(Fence::held_back(&refused));
    assert_eq!(scene.send("studies/cardio"), "passed");
    assert_eq!(fence.world_digest(), world);
    // Closing does not wait.
    fence.deny_everything().unwrap();
    assert_eq!(scene.send("studies/cardio"), "denied");
    assert_ne!(world, Some(Sha256Digest([0; 32])));
}

#[test]
fn glass_is_extended_before_it_opens_and_without_a_tpm_it_opens_nothing() {
    let scene = Scene::new("measured-glass");
    let chip = Chip::new(&scene);
    let mut stage = Stage::opened("measured-glass", scene, |scene| open(scene, &chip));
    let mut world = stage.world();
    world.count_at("0.0.0.0:5000");
    let mut cardio = stage.inside("studies/cardio");
    let mut reached = || {
        cardio.send("10.9.1.1:0", "192.0.2.7:5000");
        world.counted() > 0
    };
    stage.fence.set_lease_end(0).unwrap();
    assert!(!reached(), "no lease");
    let extended = || -> Vec<_> { chip.seen().into_iter().map(|(name, _)| name).collect() };
    extended();
    let ends = || [("cardio".to_owned(), u64::MAX)].into();
    let uses = [(Sha256Digest([1; 32]), u64::MAX)].into();
    chip.gone(true);
    let refused = stage.fence.set_break_glass(ends(), &uses).unwrap_err();
    assert!(Fence::held_back(&refused));
    assert!(!reached(), "what is not extended opens nothing");
    chip.gone(false);
    stage.fence.set_break_glass(ends(), &uses).unwrap();
    assert_eq!(extended(), ["break-glass"]);
    assert!(reached());
    stage.fence.set_break_glass(ends(), &uses).unwrap();
    assert_eq!(extended(), [""; 0], "said already");
    stage.fence.set_break_glass([].into(), &[].into()).unwrap();
    assert_eq!(extended(), ["break-glass"], "withdrawn");
    assert!(!reached());
}
