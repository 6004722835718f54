use std::sync::{Arc, Mutex};

use bailiwick_attestation::{
    Sha256Digest,
    fence_log::{Begun, LoggedPolicy, Program, extend, replay, zero},
};

use super::*;

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

/// How the next commands end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mood {
    Good,
    /// Nothing is done.
    Gone,
    /// It is done, and the answer is lost.
    Late,
}

/// A register whose log is looked at before each extension.
#[derive(Clone, Debug)]
struct Chip(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    value: Digest,
    mood: Mood,
    extended: u32,
    file: PathBuf,
}

impl Chip {
    fn set(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    fn extended(&self) -> u32 {
        self.0.lock().unwrap().extended
    }

    fn put(&self, value: Digest) {
        self.0.lock().unwrap().value = value;
    }

    fn value(&self) -> Digest {
        self.0.lock().unwrap().value.clone()
    }
}

impl Register for Chip {
    fn extend(&mut self, event: &[u8], patience: Duration) -> Result<(), RegisterError> {
        let mut state = self.0.lock().unwrap();
        if state.mood == Mood::Gone {
            return Err(RegisterError::Late(patience));
        }
        let log = std::fs::read(&state.file).unwrap();
        assert!(log.ends_with(event), "written before it is extended");
        state.value = extend(BANK, &state.value, event).unwrap();
        state.extended += 1;
        match state.mood {
            Mood::Late => Err(RegisterError::Late(patience)),
            _ => Ok(()),
        }
    }

    fn value(&mut self, patience: Duration) -> Result<Digest, RegisterError> {
        let state = self.0.lock().unwrap();
        match state.mood {
            Mood::Good => Ok(state.value.clone()),
            _ => Err(RegisterError::Late(patience)),
        }
    }

    fn bank(&self) -> HashAlgorithm {
        BANK
    }

    fn index(&self) -> u8 {
        13
    }
}

struct Scene {
    dir: tempfile::TempDir,
    chip: Chip,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let chip = Chip(Arc::new(Mutex::new(State {
            value: zero(BANK).unwrap(),
            mood: Mood::Good,
            extended: 0,
            file: dir.path().join("run/fence.log"),
        })));
        Self { dir, chip }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("run/fence.log")
    }

    fn recorder(&self) -> Recorder {
        Recorder::new(Box::new(self.chip.clone()), &self.file())
    }

    /// What the log says of the register now; panics where it does not replay to its end.
    fn logged(&self) -> Logged {
        let log = std::fs::read(self.file()).unwrap();
        let replayed = replay(&log, BANK, &self.chip.value()).unwrap();
        let entries = fence_log::entries(&log).count();
        assert_eq!(replayed.covered, entries, "nothing beyond the register");
        replayed.state
    }
}

fn begin() -> Entry {
    Entry::Begin(Begun {
        agent: "0.1.0".to_owned(),
        root: "/".to_owned(),
        whole_host: true,
    })
}

fn program(fill: u8) -> Entry {
    Entry::Program {
        hook: "cgroup_skb/egress".to_owned(),
        program: Program {
            tag: [fill; 8],
            object: Sha256Digest([fill; 32]),
        },
    }
}

fn policy(version: u64) -> [Entry; 2] {
    let fill = u8::try_from(version).unwrap();
    [
        Entry::World(Sha256Digest([fill; 32])),
        Entry::Policy(LoggedPolicy {
            version,
            manifest: Sha256Digest([fill; 32]),
            rules: Sha256Digest([fill; 32]),
        }),
    ]
}

fn version(logged: &Logged) -> Option<u64> {
    logged.policy.map(|policy| policy.version)
}

#[test]
fn a_process_that_starts_again_extends_nothing() {
    let scene = Scene::new();
    for start in 0..3 {
        let mut recorder = scene.recorder();
        if start == 0 {
            recorder.note(&[begin(), Entry::Deny]);
        }
        recorder.note(&[begin()]);
        recorder.note(&[program(1)]);
        recorder.record(&policy(1)).unwrap();
        assert_eq!(scene.chip.extended(), 5, "start {start}");
        assert_eq!(recorder.fault(), None);
        assert!(recorder.ready());
    }
    // What did change is extended, and that alone.
    let mut recorder = scene.recorder();
    recorder.note(&[begin()]);
    recorder.note(&[program(2)]);
    recorder.record(&policy(1)).unwrap();
    assert_eq!(scene.chip.extended(), 6);
    recorder.record(&policy(2)).unwrap();
    recorder.note(&[Entry::Deny]);
    recorder.note(&[Entry::Deny]);
    assert_eq!(scene.chip.extended(), 9);
    let logged = scene.logged();
    assert_eq!((version(&logged), logged.denying), (None, true));
}

#[test]
fn a_policy_waits_for_the_tpm_and_what_closes_does_not() {
    let scene = Scene::new();
    scene.chip.set(Mood::Gone);
    let mut recorder = scene.recorder();
    recorder.note(&[begin(), Entry::Deny]);
    recorder.note(&[program(1)]);
    assert!(!recorder.ready());
    let refused = recorder.record(&policy(1)).unwrap_err();
    assert_eq!(refused.to_string(), "PCR 13");
    assert!(recorder.fault().unwrap().starts_with("PCR 13: no answer"));
    assert_eq!(scene.chip.extended(), 0);

    // Paid in the order it took effect; the policy that was refused is not among it.
    scene.chip.set(Mood::Good);
    recorder.journal.as_mut().unwrap().retry = None;
    recorder.reconcile();
    assert_eq!((recorder.fault(), recorder.ready()), (None, true));
    let logged = scene.logged();
    assert_eq!((version(&logged), logged.denying), (None, true));
    assert_eq!(logged.programs.len(), 1);
    recorder.record(&policy(2)).unwrap();
    assert_eq!(version(&scene.logged()), Some(2));
}

#[test]
fn what_is_owed_is_paid_before_a_policy() {
    let scene = Scene::new();
    scene.chip.set(Mood::Gone);
    let mut recorder = scene.recorder();
    recorder.note(&[begin(), Entry::Deny, program(1)]);
    scene.chip.set(Mood::Good);
    recorder.reconcile();
    assert!(!recorder.ready(), "not asked again at once");
    recorder.record(&policy(1)).unwrap();
    let logged = scene.logged();
    assert_eq!(logged.programs.len(), 1);
    assert_eq!(version(&logged), Some(1));
    assert_eq!(scene.chip.extended(), 5);
}

#[test]
fn an_answer_that_was_lost_is_found_out() {
    for (mood, extended) in [(Mood::Late, 3), (Mood::Gone, 3)] {
        let scene = Scene::new();
        let mut recorder = scene.recorder();
        recorder.note(&[begin()]);
        scene.chip.set(mood);
        recorder.record(&policy(1)).unwrap_err();
        scene.chip.set(Mood::Good);
        recorder.record(&policy(1)).unwrap();
        assert_eq!(scene.chip.extended(), extended, "{mood:?}: none twice");
        assert_eq!(version(&scene.logged()), Some(1), "{mood:?}");
    }
    // The same across a restart: a process that died between file and register.
    for (mood, extended) in [(Mood::Late, 3), (Mood::Gone, 3)] {
        let scene = Scene::new();
        let mut recorder = scene.recorder();
        recorder.note(&[begin()]);
        scene.chip.set(mood);
        recorder.record(&policy(1)).unwrap_err();
        drop(recorder);
        scene.chip.set(Mood::Good);
        let mut recorder = scene.recorder();
        recorder.note(&[begin()]);
        recorder.record(&policy(1)).unwrap();
        assert_eq!(scene.chip.extended(), extended, "{mood:?}: none twice");
        assert_eq!(version(&scene.logged()), Some(1), "{mood:?}");
    }
}

#[test]
fn what_did_not_take_effect_is_taken_back() {
    let scene = Scene::new();
    let mut recorder = scene.recorder();
    recorder.note(&[begin(), Entry::Deny]);
    for (first, want) in [(None, None), (Some(1), Some(1))] {
        if let Some(first) = first {
            recorder.record(&policy(first)).unwrap();
        }
        let before = recorder.wanted();
        recorder.record(&policy(2)).unwrap();
        assert_eq!(version(&scene.logged()), Some(2));
        recorder.take_back(before);
        let logged = scene.logged();
        assert_eq!(version(&logged), want);
        assert_eq!(logged.denying, want.is_none());
        assert_eq!(recorder.fault(), None);
    }
}

#[test]
fn a_log_of_another_boot_is_begun_anew() {
    let scene = Scene::new();
    let mut recorder = scene.recorder();
    recorder.note(&[begin(), Entry::Deny, program(1)]);
    recorder.record(&policy(1)).unwrap();
    scene.chip.put(zero(BANK).unwrap());
    let mut recorder = scene.recorder();
    recorder.note(&[begin(), Entry::Deny]);
    assert_eq!(recorder.fault(), None);
    let logged = scene.logged();
    assert_eq!((version(&logged), logged.programs.len()), (None, 0));
}

#[test]
fn a_register_that_the_log_does_not_explain_is_told() {
    type Spoil = fn(&Scene);
    let cases: &[(&str, Spoil)] = &[
        ("log lost", |s| std::fs::remove_file(s.file()).unwrap()),
        ("log emptied", |s| std::fs::write(s.file(), b"").unwrap()),
        ("log torn", |s| {
            let log = std::fs::read(s.file()).unwrap();
            std::fs::write(s.file(), &log[..log.len() - 1]).unwrap();
        }),
        ("log of somebody else", |s| {
            std::fs::write(s.file(), vec![0; MAX_LOG + 1]).unwrap();
        }),
        ("somebody else extends", |s| {
            let value = extend(BANK, &s.chip.value(), b"x").unwrap();
            s.chip.put(value);
        }),
    ];
    for (name, spoil) in cases {
        let scene = Scene::new();
        let mut recorder = scene.recorder();
        recorder.note(&[begin(), Entry::Deny]);
        recorder.record(&policy(1)).unwrap();
        spoil(&scene);
        let mut recorder = scene.recorder();
        recorder.note(&[begin()]);
        let fault = recorder.fault().unwrap();
        assert!(
            fault.starts_with("PCR 13 holds what the log does not explain: "),
            "{name}: {fault}"
        );
        // The node goes on: its verdict says what this is worth.
        recorder.record(&policy(2)).unwrap();
        assert!(recorder.fault().is_some(), "{name}: until the next reset");
        let log = std::fs::read(scene.file()).unwrap();
        assert_eq!(fence_log::entries(&log).count(), 3, "{name}: begun anew");
        scene.chip.put(zero(BANK).unwrap());
        let mut recorder = scene.recorder();
        recorder.note(&[begin()]);
        assert_eq!(recorder.fault(), None, "{name}");
    }
}

#[test]
fn a_log_that_cannot_be_read_is_left_alone() {
    let scene = Scene::new();
    std::fs::create_dir_all(scene.file()).unwrap();
    let mut recorder = scene.recorder();
    let refused = recorder.record(&policy(1)).unwrap_err();
    assert!(matches!(refused, RecordError::File { .. }), "{refused}");
    let beside: Vec<_> = std::fs::read_dir(scene.file().parent().unwrap())
        .unwrap()
        .collect();
    assert_eq!(beside.len(), 1, "nothing was written");
    assert_eq!(scene.chip.extended(), 0);
}

#[test]
fn a_log_has_an_end() {
    let scene = Scene::new();
    let mut recorder = scene.recorder();
    recorder.note(&[begin(), Entry::Deny]);
    recorder.journal.as_mut().unwrap().length = MAX_LOG - 100;
    let refused = recorder.record(&policy(1)).unwrap_err();
    assert!(matches!(refused, RecordError::Full));
    assert_eq!(scene.chip.extended(), 3, "the world still fitted");
}

#[test]
fn without_a_register_nothing_is_recorded_or_held_up() {
    let mut recorder = Recorder::default();
    recorder.note(&[begin()]);
    recorder.record(&policy(1)).unwrap();
    let fault = recorder.fault().unwrap();
    assert_eq!(fault, "fence.measured is false: nothing is extended");
    assert!(recorder.ready());
    assert_eq!(recorder.wanted(), None);
}

fn uses(of: &[(u8, u64)]) -> BTreeMap<Sha256Digest, u64> {
    of.iter()
        .map(|(fill, end)| (Sha256Digest([*fill; 32]), *end))
        .collect()
}

#[test]
fn glass_is_recorded_once_and_what_took_no_effect_is_withdrawn() {
    let scene = Scene::new();
    let mut recorder = scene.recorder();
    recorder.note(&[begin(), Entry::Deny]);
    recorder.record_glass(&uses(&[])).unwrap();
    assert_eq!(scene.chip.extended(), 2, "nothing was used");
    let before = recorder.record_glass(&uses(&[(1, 50)])).unwrap();
    assert_eq!((before, scene.chip.extended()), (uses(&[]), 3));
    recorder.record_glass(&uses(&[(1, 50)])).unwrap();
    assert_eq!(scene.chip.extended(), 3, "said already");
    // A second one, that the kernel did not take.
    let before = recorder.record_glass(&uses(&[(1, 50), (2, 90)])).unwrap();
    assert_eq!(before, uses(&[(1, 50)]));
    recorder.take_back_glass(before);
    let logged = scene.logged();
    assert_eq!(logged.break_glass, uses(&[(1, 50), (2, 0)]));
    assert_eq!(logged.broken_glass(49).unwrap().end_boot_ns, 50);
    assert_eq!(logged.broken_glass(50), None, "over");

    // The next process of this boot knows what was said before it, and takes nothing of it back
    // that it could not record.
    let mut recorder = scene.recorder();
    scene.chip.set(Mood::Gone);
    recorder.record_glass(&uses(&[(3, 70)])).unwrap_err();
    scene.chip.set(Mood::Good);
    recorder.journal.as_mut().unwrap().retry = None;
    recorder.reconcile();
    assert_eq!(scene.chip.extended(), 5);
    let mut recorder = scene.recorder();
    let before = recorder.record_glass(&uses(&[(1, 50)])).unwrap();
    assert_eq!(
        (before, scene.chip.extended()),
        (uses(&[(1, 50), (2, 0)]), 5)
    );

    // It says the same, before and after it knows what was used.
    let mut recorder = scene.recorder();
    recorder.note(&[begin()]);
    assert_eq!(scene.chip.extended(), 5);
    recorder.record_glass(&uses(&[(1, 50)])).unwrap();
    assert_eq!(scene.chip.extended(), 5);
    // One that has lost its memory of it closes what was open, and says so.
    recorder.record_glass(&uses(&[])).unwrap();
    assert_eq!(scene.logged().break_glass, uses(&[(1, 0), (2, 0)]));
    assert_eq!((recorder.fault(), recorder.ready()), (None, true));
}

#[test]
fn glass_waits_for_the_tpm_and_an_answer_that_was_lost_is_found_out() {
    for (mood, want) in [(Mood::Gone, uses(&[])), (Mood::Late, uses(&[(1, 0)]))] {
        let scene = Scene::new();
        let mut recorder = scene.recorder();
        recorder.note(&[begin()]);
        scene.chip.set(mood);
        recorder.record_glass(&uses(&[(1, 50)])).unwrap_err();
        scene.chip.set(Mood::Good);
        recorder.journal.as_mut().unwrap().retry = None;
        recorder.reconcile();
        assert_eq!(scene.logged().break_glass, want, "{mood:?}");
        recorder.record_glass(&uses(&[(1, 60)])).unwrap();
        assert_eq!(scene.logged().break_glass, uses(&[(1, 60)]), "{mood:?}");
    }
    let mut none = Recorder::default();
    none.record_glass(&uses(&[(1, 50)])).unwrap();
}
