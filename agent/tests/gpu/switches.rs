//! The way to NVSwitches, whole: the built agent's `probe switches` over a double of NSCQ, by itself
//! and behind the GPUs of its set. Each fault by its name.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bailiwick_agent::collect::gpu::{
    Collected, Switches, ask_all,
    switches::{ask, probe},
};
use bailiwick_attestation::{
    gpu::{Anchors, Asked, Checked, Evidence, Topology, appraise, judge, parse_evidence},
    x509::Bundle,
};
use bailiwick_nvml_double::{Fault, Staged, library};

use super::{AGENT, AT, NONCE, REPORT};

struct Ground {
    double: Staged,
    _folder: tempfile::TempDir,
}

impl Ground {
    /// Eight GPUs and their four switches.
    fn with(edit: impl FnOnce(&mut Staged)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut double = Staged::new(&library().unwrap(), folder.path()).unwrap();
        double.add_set().unwrap();
        edit(&mut double);
        double.write().unwrap();
        Self {
            double,
            _folder: folder,
        }
    }

    fn failing(what: &str, fault: Fault) -> Self {
        Self::with(|double| {
            double.nscq.faults.insert(what.to_owned(), fault);
        })
    }

    fn ask(&self, nonce: Option<[u8; 32]>, patience: Duration) -> Switches {
        let library = self.double.nscq_path();
        block_on(ask(PathBuf::from(AGENT), Some(&library), nonce, patience))
    }

    fn ask_all(&self) -> Collected {
        let (nvml, nscq) = (self.double.path(), self.double.nscq_path());
        let patience = Duration::from_secs(30);
        let asked = ask_all(
            PathBuf::from(AGENT),
            Some(&nvml),
            Some(&nscq),
            NONCE,
            patience,
        );
        block_on(asked)
    }

    fn calls(&self) -> Vec<String> {
        self.double.switch_calls().unwrap()
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work)
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_set_answers_with_its_switches_and_is_whole() {
    let ground = Ground::with(|_| {});
    let collected = ground.ask_all();
    assert_eq!((&collected.stopped, &collected.count), (&None, &Ok(12)));
    assert_eq!(ground.calls().len(), 8, "a chain and a report of each");
    let stored = parse_evidence(&serde_json::to_vec(&collected).unwrap()).unwrap();
    let chains: Vec<Bundle> = stored
        .iter()
        .map(|one| Bundle::parse(&one.chain).unwrap())
        .collect();
    let devices: Vec<Evidence<'_>> = stored
        .iter()
        .zip(&chains)
        .map(|(one, chain)| Evidence {
            report: &one.report,
            chain: Some(chain),
            stated_nonce: one.nonce,
        })
        .collect();
    let asked = |devices: &[Evidence<'_>]| {
        appraise(&Asked {
            devices,
            anchors: &ground.double.anchors(),
            nonce: Some(NONCE),
            ocsp: &[],
            crls: &[],
            rims: &[],
            at: AT,
            memory: None,
        })
        .topology
    };
    assert_eq!(asked(&devices), Some(Topology::Whole));
    assert_eq!(asked(devices.get(..8).unwrap()), Some(Topology::Incomplete));
    for device in &devices {
        let judged = judge(*device, &Anchors::device(), Some(NONCE), AT);
        assert_eq!(judged.signature, Checked::Good);
        assert_eq!(
            judged.chain,
            Checked::Bad,
            "no double leads to a pinned root"
        );
    }
}

#[test]
fn switches_are_asked_only_behind_gpus_that_answered_in_that_mode() {
    let alone = Ground::with(|double| double.script.multi_gpu = 0);
    let collected = alone.ask_all();
    assert_eq!((collected.evidence.len(), collected.count), (8, Ok(8)));
    assert_eq!(alone.calls(), [""; 0]);
    let failing = Ground::with(|double| {
        double
            .script
            .faults
            .insert(REPORT.to_owned(), Fault::Code(999));
    });
    assert!(failing.ask_all().stopped.is_some());
    assert_eq!(failing.calls(), [""; 0]);
    let broken = Ground::failing("config/attestation_report", Fault::Code(7));
    let collected = broken.ask_all();
    let why = collected.stopped.unwrap();
    assert!(why.starts_with("switches: switch 0: /SWX-"), "{why}");
    assert_eq!((collected.evidence.len(), collected.count), (8, Ok(12)));
}

#[test]
fn switches_are_listed_without_asking_for_reports() {
    let ground = Ground::with(|double| double.nscq.switches[1].mode = 0);
    let listed = ground.ask(None, LONG).switches.unwrap();
    assert_eq!(ground.calls(), [""; 0]);
    assert_eq!(listed.len(), 4);
    assert!(listed[0].uuid.starts_with("SWX-"), "{listed:?}");
    assert_eq!(listed[0].architecture, Ok("LS10".to_owned()));
    assert_eq!(listed[0].mode, Ok("locked".to_owned()));
    assert_eq!(listed[1].mode, Ok("off".to_owned()));
    let asked = ground.ask(Some(NONCE), LONG);
    assert_eq!((asked.evidence.len(), asked.stopped), (3, None));
}

#[test]
fn what_fails_is_named_and_ends_the_asking() {
    // What, fault, what is said, requests made.
    type Row = (&'static str, Fault, &'static str, usize);
    const CERTIFICATE: &str = "config/certificate";
    const SIGNED: &str = "config/attestation_report";
    let rows: &[Row] = &[
        (
            SIGNED,
            Fault::Code(8),
            "config/attestation_report failed with -8",
            2,
        ),
        (
            CERTIFICATE,
            Fault::Code(7),
            "config/certificate failed with -7",
            1,
        ),
        (
            SIGNED,
            Fault::Oversized,
            "a report of 8193 bytes, in a buffer of 8192",
            2,
        ),
        (
            CERTIFICATE,
            Fault::Oversized,
            "a chain of 5121 bytes, in a buffer of 5120",
            1,
        ),
        (SIGNED, Fault::Empty, "an empty report", 2),
        (CERTIFICATE, Fault::Empty, "an empty chain", 1),
        (SIGNED, Fault::Crash, "the probe ended with signal: 6", 2),
        (
            "nscq_session_create",
            Fault::Code(6),
            "nscq_session_create failed with -6",
            0,
        ),
        (
            "nscq_session_path_observe",
            Fault::Code(1),
            "/drv/nvswitch/{device}/uuid failed with -1",
            0,
        ),
        (
            "nscq_uuid_to_label",
            Fault::Code(2),
            "nscq_uuid_to_label failed with -2",
            0,
        ),
        (
            "nscq_session_set_input",
            Fault::Code(4),
            "nscq_session_set_input failed with -4",
            1,
        ),
    ];
    for (what, fault, want, requests) in rows {
        let ground = Ground::failing(what, *fault);
        let why = ground.ask(Some(NONCE), LONG).stopped.unwrap_or_default();
        assert!(why.contains(want), "{what}: {why}");
        assert_eq!(ground.calls().len(), *requests, "{what}");
    }
    let unknown = Ground::failing("config/pcie_mode", Fault::Code(5));
    let asked = unknown.ask(Some(NONCE), LONG);
    assert_eq!((asked.evidence.len(), unknown.calls().len()), (0, 0));
    let slashed = Ground::with(|double| double.nscq.switches[0].label = "a/b".to_owned());
    let why = slashed.ask(None, LONG).switches.unwrap_err();
    assert!(why.contains("a switch whose name is none"), "{why}");
}

#[test]
fn a_library_that_hangs_is_killed_with_its_process() {
    let ground = Ground::failing("config/attestation_report", Fault::Hang);
    let begun = Instant::now();
    let asked = ground.ask(Some(NONCE), Duration::from_secs(2));
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(
        asked.stopped.as_deref(),
        Some("the probe did not answer in 2s")
    );
}

#[test]
fn each_symbol_that_is_missing_is_named() {
    for symbol in [
        "nscq_session_create",
        "nscq_session_path_observe",
        "nscq_uuid_to_label",
        "nscq_session_set_input",
    ] {
        let ground = Ground::with(|_| {});
        ground.double.without(symbol).unwrap();
        let why = ground.ask(Some(NONCE), LONG).stopped.unwrap_or_default();
        let want = format!("it has no symbol {symbol}");
        assert!(why.contains(&want), "{symbol}: {why}");
    }
    let ground = Ground::with(|_| {});
    ground.double.without("nscq_session_destroy").unwrap();
    assert_eq!(ground.ask(Some(NONCE), LONG).evidence.len(), 4);
    let absent = probe(Some("/nonexistent/libnvidia-nscq.so.2".as_ref()), None);
    let why = absent.stopped.unwrap();
    assert!(why.starts_with("/nonexistent/libnvidia-nscq.so.2"), "{why}");
}
