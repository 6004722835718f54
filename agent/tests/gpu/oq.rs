//! The way to a computation, whole: the built agent's `probe oq` over doubles of NVML and of CUDA's
//! driver API, which computes on the host. Each fault by its name.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bailiwick_agent::collect::oq::{Answer, Baseline, Bounds, Stopped, Verdict, ask, judge};
use bailiwick_nvml_double::{Fault, Staged, Wrong, library};

use super::AGENT;

struct Ground {
    double: Staged,
    _folder: tempfile::TempDir,
}

impl Ground {
    /// One GPU that computes.
    fn with(edit: impl FnOnce(&mut Staged)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut double = Staged::new(&library().unwrap(), folder.path()).unwrap();
        double.add_made(1).unwrap();
        double.script.feature = 0;
        edit(&mut double);
        double.write().unwrap();
        Self {
            double,
            _folder: folder,
        }
    }

    fn failing(symbol: &str, fault: Fault) -> Self {
        Self::with(|double| {
            double.cuda.faults.insert(symbol.to_owned(), fault);
        })
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            nvml: Some(self.double.path()),
            cuda: Some(self.double.cuda_path()),
            memory: 16 << 20,
            time: Duration::from_secs(20),
        }
    }

    fn ask(&self) -> Answer {
        self.ask_for(Duration::from_secs(50))
    }

    fn ask_for(&self, patience: Duration) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let (answer, _) = runtime.block_on(ask(PathBuf::from(AGENT), &self.bounds(), patience));
        answer
    }

    /// Why the one GPU has no figures, or why none was tried.
    fn stopped(&self) -> Stopped {
        let answer = self.ask();
        match (answer.not_run, answer.gpus.into_iter().next()) {
            (Some(why), None) => Stopped::NotRun(why),
            (None, Some(gpu)) => gpu.outcome.unwrap_err(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_gpu_that_computes_rightly_has_figures_and_passes_where_it_was_measured() {
    let ground = Ground::with(|_| {});
    let answer = ground.ask();
    assert_eq!((answer.cuda, &answer.not_run), (Some(13_000), &None));
    let [gpu] = answer.gpus.as_slice() else {
        panic!("{answer:?}");
    };
    let figures = gpu.outcome.clone().unwrap();
    assert_eq!(figures.memory_bytes, 16 << 20);
    assert_eq!(gpu.mode, "off");
    assert_eq!(judge(&answer, &[]).verdict, Verdict::NotRun, "no baseline");
    let baseline = |factor: u64| Baseline {
        mode: "off".to_owned(),
        to_device_mb_s: figures.to_device.mb_s * factor,
        to_host_mb_s: figures.to_host.mb_s,
        within_mb_s: figures.within.mb_s,
        tolerance: 0.1,
        nvlinks: None,
    };
    assert_eq!(judge(&answer, &[baseline(1)]).verdict, Verdict::Passed);
    assert_eq!(judge(&answer, &[baseline(2)]).verdict, Verdict::Failed);
}

#[test]
fn a_wrong_answer_fails_by_its_name() {
    let rows = [
        (Wrong::Computed, "what was computed: "),
        (Wrong::Kept, "what was kept in memory: "),
        (Wrong::Copied, "what was moved within memory: "),
        (Wrong::Arrived, "what was moved to the device: "),
        (Wrong::Returned, "what was moved to the host: word 7 "),
    ];
    for (wrong, want) in rows {
        let ground = Ground::with(|double| double.cuda.wrong = Some(wrong));
        match ground.stopped() {
            Stopped::Failed(why) => assert!(why.starts_with(want), "{wrong:?}: {why}"),
            other => panic!("{wrong:?}: {other:?}"),
        }
    }
    for symbol in ["cuLaunchKernel", "cuCtxSynchronize", "cuMemcpyDtoD_v2"] {
        match Ground::failing(symbol, Fault::Code(700)).stopped() {
            Stopped::Failed(why) => {
                let want = format!("{symbol} failed with 700 (CUDA_ERROR_ILLEGAL_ADDRESS)");
                assert_eq!(why, want);
            }
            other => panic!("{symbol}: {other:?}"),
        }
    }
}

fn refuses(double: &mut Staged, symbol: &str) {
    let faults = &mut double.cuda.faults;
    faults.insert(symbol.to_owned(), Fault::Code(2));
}

#[test]
fn what_cannot_be_run_is_named_and_has_not_failed() {
    type Row = (&'static str, fn(&mut Staged), &'static str);
    let rows: &[Row] = &[
        (
            "no memory is given",
            |it| refuses(it, "cuMemAlloc_v2"),
            "cuMemAlloc_v2 failed with 2 (CUDA_ERROR_OUT_OF_MEMORY)",
        ),
        (
            "no memory of the host",
            |it| refuses(it, "cuMemAllocHost_v2"),
            "cuMemAllocHost_v2 failed",
        ),
        (
            "no context",
            |it| refuses(it, "cuCtxCreate_v2"),
            "cuCtxCreate_v2 failed",
        ),
        (
            "no device",
            |it| refuses(it, "cuInit"),
            "cuInit failed with 2",
        ),
        (
            "text it cannot read",
            |it| refuses(it, "cuModuleLoadData"),
            "cuModuleLoadData failed",
        ),
        (
            "the process ends in it",
            |it| {
                it.cuda
                    .faults
                    .insert("cuLaunchKernel".to_owned(), Fault::Crash);
            },
            "the probe ended with signal: 6",
        ),
        (
            "memory is full",
            |it| it.cuda.free = 100 << 20,
            "bytes of memory may be taken",
        ),
        (
            "CUDA knows another GPU",
            |it| it.cuda.devices = vec!["GPU-ffffffff-0000-4000-8000-000000000001".to_owned()],
            "CUDA does not name it",
        ),
        (
            "a process uses it",
            |it| it.script.devices[0].computing = vec![1],
            "1 processes use it",
        ),
        (
            "a process comes meanwhile",
            |it| it.script.devices[0].computing = vec![0, 1],
            "somebody else came meanwhile",
        ),
        (
            "it is divided",
            |it| it.script.devices[0].mig = (1, 1),
            "it is divided",
        ),
        ("it is hot", |it| it.script.devices[0].degrees = 90, "90 °C"),
        (
            "it is busy",
            |it| it.script.devices[0].busy = 50,
            "busy, 50 %",
        ),
        (
            "rows wait for a reset",
            |it| it.script.devices[0].remap_pending = true,
            "wait for a reset",
        ),
        (
            "it accepts no work",
            |it| {
                it.script.feature = 1;
                it.script.ready = 0;
            },
            "it accepts no work",
        ),
        (
            "there is none",
            |it| it.script.devices.clear(),
            "there is no GPU",
        ),
    ];
    for (name, edit, want) in rows {
        match Ground::with(edit).stopped() {
            Stopped::NotRun(why) => assert!(why.contains(want), "{name}: {why}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    let errors = Ground::with(|it| it.script.devices[0].errors = vec![1, 4]);
    match errors.stopped() {
        Stopped::Failed(why) => assert!(why.starts_with("3 errors in memory"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_symbol_that_is_missing_is_named_and_nothing_passes() {
    for symbol in [
        "cuInit",
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDeviceGetUuid_v2",
        "cuCtxCreate_v2",
        "cuMemGetInfo_v2",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuMemAlloc_v2",
        "cuMemAllocHost_v2",
        "cuMemcpyHtoD_v2",
        "cuMemcpyDtoH_v2",
        "cuMemcpyDtoD_v2",
        "cuLaunchKernel",
        "cuCtxSynchronize",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
    ] {
        let ground = Ground::with(|_| {});
        ground.double.without(symbol).unwrap();
        let (Stopped::NotRun(why) | Stopped::Failed(why)) = ground.stopped();
        assert!(why.contains(symbol), "{symbol}: {why}");
    }
    // Without these it does as well.
    for symbol in [
        "cuDriverGetVersion",
        "cuGetErrorName",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetNvLinkState",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        "nvmlEventSetCreate",
        "nvmlDeviceRegisterEvents",
        "nvmlEventSetWait_v2",
        "nvmlEventSetFree",
    ] {
        let ground = Ground::with(|_| {});
        ground.double.without(symbol).unwrap();
        let answer = ground.ask();
        assert!(answer.gpus[0].outcome.is_ok(), "{symbol}: {answer:?}");
    }
}

#[test]
fn a_gpu_that_hangs_is_left_with_its_process() {
    let ground = Ground::failing("cuCtxSynchronize", Fault::Hang);
    let begun = Instant::now();
    let answer = ground.ask_for(Duration::from_secs(2));
    assert!(begun.elapsed() < Duration::from_secs(20));
    let late = "the probe did not answer in 2s".to_owned();
    assert_eq!(answer.not_run.as_ref(), Some(&late));
    let judged = judge(&answer, &[]);
    assert_eq!(
        (judged.verdict, judged.reason),
        (Verdict::NotRun, Some(late))
    );
}

#[test]
fn a_run_ends_in_its_time() {
    let ground = Ground::with(|_| {});
    let bounds = Bounds {
        time: Duration::ZERO,
        ..ground.bounds()
    };
    let begun = Instant::now();
    let answer = bailiwick_agent::collect::oq::probe(&bounds);
    assert!(begun.elapsed() < Duration::from_secs(20));
    let over = Stopped::NotRun("its time was over".to_owned());
    assert_eq!(answer.gpus[0].outcome, Err(over));
    let absent = Bounds {
        cuda: Some(PathBuf::from("/nonexistent/libcuda.so.1")),
        ..ground.bounds()
    };
    let why = bailiwick_agent::collect::oq::probe(&absent)
        .not_run
        .unwrap();
    assert!(why.starts_with("/nonexistent/libcuda.so.1"), "{why}");
}

/// Links, clocks and Xid errors through the real calls; what has no answer says why, by its symbol.
#[test]
fn links_clocks_and_errors_are_asked_around_a_run() {
    let around = |ground: &Ground| {
        let mut answer = ground.ask();
        assert_eq!(answer.not_run, None);
        answer.gpus.remove(0).around
    };
    let good = |double: &mut Staged| {
        let device = &mut double.script.devices[0];
        device.links = 12;
        device.links_up = vec![12];
    };
    let found = around(&Ground::with(good));
    assert_eq!(
        (found.links, found.clocks, found.xids),
        (Ok([12, 12]), Ok(0), Ok(vec![]))
    );
    let found = around(&Ground::with(|double| {
        good(double);
        let device = &mut double.script.devices[0];
        device.links = 18;
        device.links_up = vec![18, 11];
        device.throttled = vec![0x1, 0x40];
        device.xids = vec![48, 999, 79];
    }));
    assert_eq!(
        (found.links, found.clocks, found.xids),
        (Ok([18, 11]), Ok(0x41), Ok(vec![48, 999, 79]))
    );
    let many = around(&Ground::with(|it| {
        it.script.devices[0].xids = vec![13; 100]
    }));
    assert_eq!(many.xids, Ok(vec![13; 8]));
    let none = around(&Ground::with(|_| {}));
    assert!(
        none.links.is_err(),
        "a GPU without links has none that are up"
    );
    type Missing = fn(bailiwick_agent::collect::oq::Around) -> Option<String>;
    let rows: [(&str, Missing); 6] = [
        ("nvmlDeviceGetNvLinkState", |it| it.links.err()),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", |it| {
            it.clocks.err()
        }),
        ("nvmlEventSetCreate", |it| it.xids.err()),
        ("nvmlDeviceRegisterEvents", |it| it.xids.err()),
        ("nvmlEventSetWait_v2", |it| it.xids.err()),
        ("nvmlEventSetFree", |it| it.xids.err()),
    ];
    for (symbol, missing) in rows {
        let ground = Ground::with(good);
        ground.double.without(symbol).unwrap();
        let why = missing(around(&ground)).unwrap_or_default();
        assert!(why.contains(symbol), "{symbol}: {why:?}");
        if symbol == "nvmlEventSetFree" {
            continue;
        }
        let ground = Ground::with(|double| {
            good(double);
            double
                .script
                .faults
                .insert(symbol.to_owned(), Fault::Code(3));
        });
        assert!(missing(around(&ground)).is_some(), "{symbol}");
    }
}
