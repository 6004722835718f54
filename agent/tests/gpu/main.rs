//! The way to the GPUs, whole: the built agent's `probe gpu` and `probe nvml` over an ABI double of
//! NVML, each fault by its name. No hardware is asked, and none is claimed.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod oq;
mod switches;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use bailiwick_agent::collect::gpu::{Collected, ask};
use bailiwick_attestation::{
    UnixTime,
    gpu::{Anchors, Checked, Evidence, judge, parse_evidence},
    x509::Bundle,
};
use bailiwick_nvml_double::{Fault, Staged, library};

const AGENT: &str = env!("CARGO_BIN_EXE_bailiwick-agent");
const NONCE: [u8; 32] = [0x5a; 32];
/// 2026-01-01, when the made certificates are valid.
const AT: UnixTime = UnixTime::from_secs(1_767_225_600);
const CERTIFICATE: &str = "nvmlDeviceGetConfComputeGpuCertificate";
const REPORT: &str = "nvmlDeviceGetConfComputeGpuAttestationReport";

struct Ground {
    double: Staged,
    _folder: tempfile::TempDir,
}

impl Ground {
    /// Two GPUs that answer.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut double = Staged::new(&library().unwrap(), folder.path()).unwrap();
        for number in 1..=2 {
            double.add_made(number).unwrap();
        }
        double.write().unwrap();
        Self {
            double,
            _folder: folder,
        }
    }

    fn with(edit: impl FnOnce(&mut Staged)) -> Self {
        let mut ground = Self::new();
        edit(&mut ground.double);
        ground.double.write().unwrap();
        ground
    }

    fn failing(symbol: &str, fault: Fault) -> Self {
        Self::with(|double| {
            double.script.faults.insert(symbol.to_owned(), fault);
        })
    }

    fn ask_for(&self, patience: Duration) -> Collected {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let library = self.double.path();
        runtime.block_on(ask(PathBuf::from(AGENT), Some(&library), NONCE, patience))
    }

    fn ask(&self) -> Collected {
        self.ask_for(Duration::from_secs(30))
    }

    fn nvml(&self) -> serde_json::Value {
        let out = Command::new(AGENT)
            .args(["probe", "nvml", "--library"])
            .arg(self.double.path())
            .env_clear()
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn calls(&self) -> Vec<String> {
        self.double.calls().unwrap()
    }
}

#[test]
fn each_gpu_answers_once_and_no_double_is_taken_for_hardware() {
    let ground = Ground::new();
    let collected = ground.ask();
    assert_eq!(collected.stopped, None);
    let asked = [(CERTIFICATE, 0), (REPORT, 0), (CERTIFICATE, 1), (REPORT, 1)];
    let asked = asked.map(|(symbol, index)| format!("{symbol} {index}"));
    assert_eq!(ground.calls(), asked);
    let mode = collected.mode.clone().unwrap();
    assert_eq!(
        (mode.enabled, mode.devtools, mode.environment),
        (true, false, 2)
    );
    assert_eq!((mode.multi_gpu, mode.ready), (Ok(0), Ok(true)));

    let json = serde_json::to_vec(&collected).unwrap();
    let stored = parse_evidence(&json).unwrap();
    assert_eq!(stored.len(), 2);
    for (stored, uuid) in stored.iter().zip(&collected.evidence) {
        assert!(uuid.uuid.starts_with("GPU-"), "{uuid:?}");
        let chain = Bundle::parse(&stored.chain).unwrap();
        let evidence = Evidence {
            report: &stored.report,
            chain: Some(&chain),
            stated_nonce: stored.nonce,
        };
        let made = judge(evidence, &ground.double.anchors(), Some(NONCE), AT);
        assert_eq!(made.refused, [], "good under the root of the test");
        let pinned = judge(evidence, &Anchors::device(), Some(NONCE), AT);
        assert_eq!(pinned.signature, Checked::Good);
        assert_eq!(pinned.chain, Checked::Bad, "and under no other");
    }
}

#[test]
fn what_fails_is_named_ends_the_asking_and_is_not_asked_again() {
    // Fault, what is said, requests made.
    type Row = (&'static str, &'static str, Fault, &'static str, usize);
    let rows: &[Row] = &[
        ("a report refused", REPORT, Fault::Code(15), "GPU 0: ", 2),
        (
            "a chain refused",
            CERTIFICATE,
            Fault::Code(999),
            "GPU 0: ",
            1,
        ),
        (
            "a report longer than its buffer",
            REPORT,
            Fault::Oversized,
            "GPU 0: a report of 8193 bytes, in a buffer of 8192",
            2,
        ),
        (
            "a chain longer than its buffer",
            CERTIFICATE,
            Fault::Oversized,
            "GPU 0: a chain of 5121 bytes, in a buffer of 5120",
            1,
        ),
        (
            "an empty report",
            REPORT,
            Fault::Empty,
            "GPU 0: an empty report",
            2,
        ),
        (
            "an empty chain",
            CERTIFICATE,
            Fault::Empty,
            "GPU 0: an empty chain",
            1,
        ),
        (
            "the process ends in the library",
            REPORT,
            Fault::Crash,
            "the probe ended with signal: 6",
            2,
        ),
        (
            "a name refused",
            "nvmlDeviceGetUUID",
            Fault::Code(15),
            "GPU 0: ",
            0,
        ),
    ];
    for (name, symbol, fault, want, requests) in rows {
        let ground = Ground::failing(symbol, *fault);
        let collected = ground.ask();
        let why = collected.stopped.unwrap_or_default();
        assert!(why.starts_with(want), "{name}: {why}");
        assert_eq!(collected.evidence, [], "{name}");
        assert_eq!(ground.calls().len(), *requests, "{name}");
    }
}

#[test]
fn a_library_that_hangs_is_killed_with_its_process() {
    let ground = Ground::failing(REPORT, Fault::Hang);
    let begun = Instant::now();
    let collected = ground.ask_for(Duration::from_secs(2));
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(
        collected.stopped.as_deref(),
        Some("the probe did not answer in 2s")
    );
    assert_eq!(ground.calls().len(), 2);
}

#[test]
fn confidential_computing_torn_down_is_seen_and_nothing_more_is_asked() {
    let mut ground = Ground::failing(REPORT, Fault::Code(999));
    assert!(ground.ask().stopped.is_some());
    assert!(ground.double.torn_down());
    // The fault is gone, and what it did is not.
    ground.double.script.faults.clear();
    ground.double.write().unwrap();
    let before = ground.calls().len();
    let collected = ground.ask();
    assert!(!collected.mode.unwrap().enabled);
    assert_eq!((collected.evidence.len(), collected.stopped), (0, None));
    assert_eq!(ground.calls().len(), before, "off: nothing is asked");
    assert_eq!(ground.nvml()["Ok"]["confidential"]["enabled"]["Ok"], false);
}

#[test]
fn where_it_is_off_nothing_is_asked() {
    let off = Ground::with(|double| double.script.feature = 0);
    let collected = off.ask();
    assert!(!collected.mode.unwrap().enabled);
    assert_eq!(off.calls(), [""; 0]);
    let protected = Ground::with(|double| {
        double.script.feature = 0;
        double.script.multi_gpu = 1;
    });
    // The double tears down here as the driver does without a session; the agent asked once.
    assert!(protected.ask().stopped.is_some());
    assert_eq!(protected.calls().len(), 1);
}

#[test]
fn each_symbol_that_is_missing_is_an_answer() {
    let needed = [
        ("nvmlInit_v2", "nvmlInit_v2"),
        (
            "nvmlDeviceGetHandleByIndex_v2",
            "nvmlDeviceGetHandleByIndex_v2",
        ),
        ("nvmlDeviceGetUUID", "nvmlDeviceGetUUID"),
        (CERTIFICATE, CERTIFICATE),
        (REPORT, REPORT),
    ];
    for (symbol, said) in needed {
        let ground = Ground::new();
        ground.double.without(symbol).unwrap();
        let why = ground.ask().stopped.unwrap_or_default();
        assert!(why.contains(said), "{symbol}: {why}");
    }
    // Without these there is no count, or no state: nothing is asked.
    for symbol in ["nvmlDeviceGetCount_v2", "nvmlSystemGetConfComputeState"] {
        let ground = Ground::new();
        ground.double.without(symbol).unwrap();
        let collected = ground.ask();
        let why = [collected.count.err(), collected.mode.err()];
        let why = why.into_iter().flatten().next().unwrap_or_default();
        assert!(why.contains(symbol), "{symbol}: {why}");
        assert_eq!(ground.calls(), [""; 0], "{symbol}");
    }
    // What is told beside: an old driver lacks them, and all else stands.
    let beside = [
        (
            "nvmlSystemGetConfComputeSettings",
            "/confidential/multi_gpu",
        ),
        ("nvmlSystemGetConfComputeCapabilities", "/confidential/cpu"),
        (
            "nvmlSystemGetConfComputeGpusReadyState",
            "/confidential/ready",
        ),
        (
            "nvmlDeviceGetConfComputeMemSizeInfo",
            "/gpus/0/protected_kib",
        ),
        ("nvmlDeviceGetPdi", "/gpus/0/pdi"),
        ("nvmlDeviceGetMigMode", "/gpus/0/mig"),
        ("nvmlDeviceGetEccMode", "/gpus/0/ecc"),
        ("nvmlDeviceGetRemappedRows", "/gpus/0/remapped_rows"),
        ("nvmlDeviceGetSerial", "/gpus/0/serial"),
        ("nvmlSystemGetDriverVersion", "/driver_version"),
    ];
    for (symbol, place) in beside {
        let ground = Ground::new();
        ground.double.without(symbol).unwrap();
        let said = ground.nvml();
        let answer = said["Ok"].pointer(place).unwrap();
        let why = answer["Err"].as_str().unwrap_or_default();
        assert!(why.contains(symbol), "{symbol}: {answer}");
        assert_eq!(
            said["Ok"]["gpus"][0]["name"]["Ok"],
            "ABI double, no hardware"
        );
        assert_eq!(ground.ask().evidence.len(), 2, "{symbol}");
    }
}

#[test]
fn what_the_driver_says_is_read_into_words() {
    let ground = Ground::with(|double| {
        double.script.devtools = 1;
        double.script.environment = 1;
        double.script.multi_gpu = 1;
        double.script.ready = 0;
        double.script.cpu = 4;
        if let Some(device) = double.script.devices.first_mut() {
            device.mig = (0, 1);
            device.ecc = (1, 1);
        }
    });
    let said = ground.nvml();
    let said = &said["Ok"];
    let rows = [
        ("/driver_version", serde_json::json!("550.90.07")),
        ("/count", 2.into()),
        ("/confidential/environment", "simulation".into()),
        ("/confidential/enabled", true.into()),
        ("/confidential/devtools", true.into()),
        ("/confidential/multi_gpu", "protected-pcie".into()),
        ("/confidential/ready", false.into()),
        ("/confidential/cpu", "sev-snp-vtom".into()),
        ("/gpus/0/mig", "off, on after the next reset".into()),
        ("/gpus/0/ecc", "on".into()),
        ("/gpus/0/pdi", "48b02d0000000001".into()),
        ("/gpus/1/pdi", "48b02d0000000002".into()),
        ("/gpus/0/pci", "00000000:01:00.0".into()),
        ("/gpus/0/protected_kib", (80 << 20).into()),
        ("/gpus/0/remapped_rows", 0.into()),
        ("/gpus/0/remap_failed", false.into()),
        ("/gpus/0/vbios", "96.00.9F.00.01".into()),
        ("/gpus/1/serial", "double-2".into()),
    ];
    for (place, want) in rows {
        assert_eq!(said.pointer(place).unwrap()["Ok"], want, "{place}");
    }
}

#[test]
fn a_library_that_is_none_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let double = Staged::new(&library().unwrap(), folder.path()).unwrap();
    fs::write(double.path(), b"no library").unwrap();
    let ground = Ground {
        double,
        _folder: folder,
    };
    let collected = ground.ask();
    assert!(collected.stopped.unwrap().contains("libnvidia-ml.so.1"));
    assert!(collected.count.is_err());
}
