//! What may be tried, what counts, and what is said of it: no library, and no process.

use bailiwick_attestation::{
    Sha256Digest,
    proto::v1::{Claim, claim::Value},
};

use super::{
    Answer, Around, Baseline, Figures, Rate, Stopped, Tried, Verdict, around, claims, judge, look,
    look::Look, not_run,
};

fn rate(mb_s: u64) -> Rate {
    Rate {
        mb_s,
        spread_percent: 1,
    }
}

fn figures() -> Figures {
    Figures {
        mix_us: 40,
        memory_bytes: 1 << 30,
        to_device: rate(20_000),
        to_host: rate(10_000),
        within: rate(2_000_000),
        took_ms: 900,
    }
}

fn tried(outcome: Result<Figures, Stopped>) -> Tried {
    Tried {
        uuid: "GPU-7".to_owned(),
        mode: "off".to_owned(),
        outcome,
        around: Around {
            links: Ok([18, 18]),
            clocks: Ok(0),
            xids: Ok(vec![]),
        },
    }
}

fn answer(outcomes: Vec<Result<Figures, Stopped>>) -> Answer {
    Answer {
        cuda: Some(13_000),
        gpus: outcomes.into_iter().map(tried).collect(),
        not_run: None,
    }
}

fn baseline() -> Baseline {
    Baseline {
        mode: "off".to_owned(),
        to_device_mb_s: 20_000,
        to_host_mb_s: 10_000,
        within_mb_s: 2_000_000,
        tolerance: 0.1,
        nvlinks: Some(18),
    }
}

/// Row, what is other than it should be, verdict, what is said of it.
type Row = (&'static str, fn(&mut Answer), Verdict, &'static str);

#[test]
fn only_what_ran_and_is_right_and_within_its_band_has_passed() {
    let failed = || Err(Stopped::Failed("what was computed: 1, not 2".to_owned()));
    let rows: &[Row] = &[
        ("all right", |_| {}, Verdict::Passed, ""),
        (
            "at the lower edge",
            |it| it.gpus[0].outcome.as_mut().unwrap().to_device = rate(18_000),
            Verdict::Passed,
            "",
        ),
        (
            "below it",
            |it| it.gpus[0].outcome.as_mut().unwrap().to_device = rate(17_999),
            Verdict::Failed,
            "GPU 0: 17999 MB/s from the host, 20000 within 10 % expected",
        ),
        (
            "faster than its mode allows",
            |it| it.gpus[1].outcome.as_mut().unwrap().to_host = rate(11_001),
            Verdict::Failed,
            "GPU 1: 11001 MB/s to the host",
        ),
        (
            "slow memory",
            |it| it.gpus[0].outcome.as_mut().unwrap().within = rate(1_000_000),
            Verdict::Failed,
            "within memory",
        ),
        (
            "a mode nobody measured",
            |it| it.gpus[1].mode = "on".to_owned(),
            Verdict::NotRun,
            "GPU 1: right so far, and no baseline for mode \"on\"",
        ),
        (
            "one that was not tried",
            |it| it.gpus[0].outcome = Err(Stopped::NotRun("2 processes use it".to_owned())),
            Verdict::NotRun,
            "GPU 0: 2 processes use it",
        ),
        (
            "a link that is down",
            |it| it.gpus[1].around.links = Ok([17, 17]),
            Verdict::Failed,
            "GPU 1: 17 NVLinks are up, 18 expected",
        ),
        (
            "links nobody can tell, where they are asked for",
            |it| it.gpus[0].around.links = Err("not supported".to_owned()),
            Verdict::NotRun,
            "GPU 0: not supported",
        ),
        (
            "clocks held down",
            |it| it.gpus[0].around.clocks = Ok(0x40),
            Verdict::Failed,
            "GPU 0: clocks are held down: heat, by hardware",
        ),
        (
            "an error of the driver",
            |it| it.gpus[0].around.xids = Ok(vec![48]),
            Verdict::Failed,
            "GPU 0: Xid 48 came meanwhile",
        ),
        (
            "an error of the driver, and it was not run to its end",
            |it| {
                it.gpus[0].around.xids = Ok(vec![79]);
                it.gpus[0].outcome = Err(Stopped::NotRun("its time was over".to_owned()));
            },
            Verdict::Failed,
            "GPU 0: Xid 79 came meanwhile",
        ),
        (
            "a wrong answer, and an error",
            |it| {
                it.gpus[0].around.xids = Ok(vec![79]);
                it.gpus[0].outcome = Err(Stopped::Failed("wrong".to_owned()));
            },
            Verdict::Failed,
            "GPU 0: wrong",
        ),
        (
            "a driver that knows neither clocks nor errors",
            |it| {
                it.gpus[0].around.clocks = Err("not supported".to_owned());
                it.gpus[0].around.xids = Err("not supported".to_owned());
            },
            Verdict::Passed,
            "",
        ),
        (
            "none at all",
            |it| it.gpus.clear(),
            Verdict::NotRun,
            "there is no GPU",
        ),
        (
            "a probe that did not answer",
            |it| *it = Answer::nothing("the probe did not answer in 50s"),
            Verdict::NotRun,
            "did not answer",
        ),
        (
            "figures, and yet not run",
            |it| it.not_run = Some("half of it".to_owned()),
            Verdict::NotRun,
            "half of it",
        ),
    ];
    for (name, edit, verdict, reason) in rows {
        let mut answer = answer(vec![Ok(figures()), Ok(figures())]);
        edit(&mut answer);
        let judged = judge(&answer, &[baseline()]);
        assert_eq!(judged.verdict, *verdict, "{name}");
        let said = judged.reason.unwrap_or_default();
        assert!(said.contains(reason), "{name}: {said}");
        assert_eq!(said.is_empty(), reason.is_empty(), "{name}: {said}");
    }
    let left = Err(Stopped::NotRun("hot".to_owned()));
    let judged = judge(&answer(vec![left, failed(), Ok(figures())]), &[baseline()]);
    let each = [Verdict::NotRun, Verdict::Failed, Verdict::Passed];
    assert_eq!(
        (judged.verdict, judged.gpus),
        (Verdict::Failed, each.to_vec())
    );
    assert_eq!(
        judged.reason.as_deref(),
        Some("GPU 1: what was computed: 1, not 2"),
        "what failed is told before what was not run"
    );
    let unmeasured = judge(&answer(vec![Ok(figures())]), &[]);
    assert_eq!(
        unmeasured.verdict,
        Verdict::NotRun,
        "nothing to hold it against"
    );
}

/// What NVML cannot tell has not passed, nor has what was asked of a GPU that was not tried.
#[test]
fn links_clocks_and_errors_are_judged_each_by_itself() {
    let passed = || Ok(());
    let failed = |why: &str| Err(Stopped::Failed(why.to_owned()));
    let left = |why: &str| Err(Stopped::NotRun(why.to_owned()));
    let unknown = || "NVML cannot".to_owned();
    type Checks = [Result<(), Stopped>; 3];
    type Row<'a> = (&'a str, &'a dyn Fn(&mut Tried), Option<u32>, Checks);
    let all = || [passed(), passed(), passed()];
    let links = |it| [it, passed(), passed()];
    let clocks = |it| [passed(), it, passed()];
    let xids = |it| [passed(), passed(), it];
    let rows: &[Row<'_>] = &[
        ("all right", &|_| {}, Some(18), all()),
        (
            "none expected, and none up",
            &|it| it.around.links = Ok([0, 0]),
            Some(0),
            all(),
        ),
        (
            "nobody said how many",
            &|_| {},
            None,
            links(left("no baseline says how many NVLinks are up")),
        ),
        (
            "one more than expected",
            &|_| {},
            Some(17),
            links(failed("18 NVLinks are up, 17 expected")),
        ),
        (
            "one fell, whatever is expected",
            &|it| it.around.links = Ok([18, 17]),
            None,
            links(failed("18 NVLinks were up before, 17 after")),
        ),
        (
            "one came",
            &|it| it.around.links = Ok([17, 18]),
            Some(18),
            links(failed("17 NVLinks were up before, 18 after")),
        ),
        (
            "links that cannot be asked",
            &|it| it.around.links = Err(unknown()),
            Some(18),
            links(left("NVML cannot")),
        ),
        (
            "idle, configured, capped, in step with others, a display: nothing is wrong",
            &|it| it.around.clocks = Ok(0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x100),
            Some(18),
            all(),
        ),
        (
            "hot, by software",
            &|it| it.around.clocks = Ok(0x21),
            Some(18),
            clocks(failed("clocks are held down: heat, by software")),
        ),
        (
            "hot, by hardware",
            &|it| it.around.clocks = Ok(0x48),
            Some(18),
            clocks(failed("clocks are held down: heat, by hardware")),
        ),
        (
            "the power supply",
            &|it| it.around.clocks = Ok(0x88),
            Some(18),
            clocks(failed("clocks are held down: the power brake")),
        ),
        (
            "all of them",
            &|it| it.around.clocks = Ok(u64::MAX),
            Some(18),
            clocks(failed(
                "clocks are held down: heat, by software, heat, by hardware, the power brake",
            )),
        ),
        (
            "clocks that cannot be asked",
            &|it| it.around.clocks = Err(unknown()),
            Some(18),
            clocks(left("NVML cannot")),
        ),
        (
            "errors",
            &|it| it.around.xids = Ok(vec![48, 63]),
            Some(18),
            xids(failed("Xid 48, 63 came meanwhile")),
        ),
        (
            "errors that cannot be asked",
            &|it| it.around.xids = Err(unknown()),
            Some(18),
            xids(left("NVML cannot")),
        ),
        (
            "nothing was tried",
            &|it| it.outcome = Err(Stopped::NotRun("hot".to_owned())),
            Some(18),
            [left("hot"), left("hot"), left("hot")],
        ),
        (
            "nothing was tried, and errors came",
            &|it| {
                it.outcome = Err(Stopped::NotRun("hot".to_owned()));
                it.around.xids = Ok(vec![79]);
            },
            Some(18),
            [left("hot"), left("hot"), failed("Xid 79 came meanwhile")],
        ),
        (
            "it was tried, and failed",
            &|it| it.outcome = Err(Stopped::Failed("wrong".to_owned())),
            Some(18),
            all(),
        ),
    ];
    for (name, edit, nvlinks, want) in rows {
        let mut tried = tried(Ok(figures()));
        edit(&mut tried);
        let baseline = Baseline {
            nvlinks: *nvlinks,
            ..baseline()
        };
        let found = around::checks(&tried, Some(&baseline));
        assert_eq!(found.clone().map(|(_, check)| check), *want, "{name}");
        assert_eq!(found.map(|(name, _)| name), ["links", "clocks", "xids"]);
    }
}

fn value(claims: &[Claim], name: &str) -> Option<Value> {
    let claim = claims.iter().find(|claim| claim.name == name)?;
    claim.value.clone()
}

#[test]
fn claims_have_verdict_figures_and_the_digest_of_the_answer() {
    let answer = answer(vec![Ok(figures()), Err(Stopped::NotRun("hot".to_owned()))]);
    let judged = judge(&answer, &[baseline()]);
    let bytes = serde_json::to_vec(&answer).unwrap();
    let made = claims(&judged, &answer, &[baseline()], &bytes, 7_500_000_000);
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    for (name, want) in [
        ("oq.verdict", text("not-run")),
        ("oq.reason", text("GPU 1: hot")),
        (
            "oq.answer",
            Some(Value::Data(Sha256Digest::of(&[&bytes]).0.to_vec())),
        ),
        ("oq.boot-s", Some(Value::Number(7))),
        ("oq.gpu.0.verdict", text("passed")),
        ("oq.gpu.0.mode", text("off")),
        ("oq.gpu.0.to-device-mb-s", Some(Value::Number(20_000))),
        ("oq.gpu.0.within-mb-s", Some(Value::Number(2_000_000))),
        ("oq.gpu.1.verdict", text("not-run")),
        ("oq.gpu.1.within-mb-s", None),
        ("oq.gpu.0.links", text("passed")),
        ("oq.gpu.0.clocks", text("passed")),
        ("oq.gpu.0.xids", text("passed")),
        ("oq.gpu.0.xids-reason", None),
        ("oq.gpu.1.links", text("not-run")),
        ("oq.gpu.1.links-reason", text("hot")),
    ] {
        assert_eq!(value(&made, name), want, "{name}");
    }
    let none = not_run("a study holds it");
    assert_eq!(value(&none, "oq.verdict"), text("not-run"));
    assert_eq!(value(&none, "oq.reason"), text("a study holds it"));
    assert_eq!(none.len(), 2, "and nothing that was not measured");
    let long = not_run(&"x".repeat(10_000));
    assert!(matches!(value(&long, "oq.reason"), Some(Value::Text(text)) if text.len() == 300));
}

fn idle() -> Look {
    Look {
        uuid: "GPU-7".to_owned(),
        mode: "off".to_owned(),
        processes: Ok(0),
        divided: Ok(false),
        remap_pending: Ok(false),
        ready: Ok(true),
        busy: Ok(0),
        degrees: Ok(40),
        errors: Ok(3),
    }
}

#[test]
fn a_gpu_is_tried_only_if_nobody_uses_it_and_nothing_is_wrong_with_it() {
    let why = || Err("not supported".to_owned());
    let with = |edit: &dyn Fn(&mut Look)| {
        let mut look = idle();
        edit(&mut look);
        look.refusal()
    };
    type Row<'a> = (&'static str, &'a dyn Fn(&mut Look), Option<&'static str>);
    let rows: &[Row<'_>] = &[
        ("idle", &|_| {}, None),
        (
            "in use",
            &|it| it.processes = Ok(1),
            Some("1 processes use it"),
        ),
        (
            "nobody knows",
            &|it| it.processes = Err("old driver".to_owned()),
            Some("is not told: old driver"),
        ),
        ("divided", &|it| it.divided = Ok(true), Some("divided")),
        ("cannot be divided", &|it| it.divided = why(), None),
        (
            "broken rows",
            &|it| it.remap_pending = Ok(true),
            Some("wait for a reset"),
        ),
        ("no such rows", &|it| it.remap_pending = why(), None),
        (
            "not ready",
            &|it| it.ready = Ok(false),
            Some("accepts no work"),
        ),
        (
            "nobody knows whether",
            &|it| it.ready = why(),
            Some("not told"),
        ),
        ("hardly busy", &|it| it.busy = Ok(5), None),
        ("busy", &|it| it.busy = Ok(6), Some("busy, 6 %")),
        ("warm", &|it| it.degrees = Ok(80), None),
        ("hot", &|it| it.degrees = Ok(81), Some("81 °C")),
        (
            "does not say",
            &|it| it.degrees = Err("not supported".to_owned()),
            None,
        ),
    ];
    for (name, edit, want) in rows {
        let found = with(*edit);
        match want {
            None => assert_eq!(found, None, "{name}"),
            Some(want) => {
                assert!(
                    found.clone().unwrap_or_default().contains(want),
                    "{name}: {found:?}"
                );
            }
        }
    }
}

#[test]
fn what_happened_meanwhile_counts() {
    let after = |edit: &dyn Fn(&mut Look)| {
        let mut after = idle();
        edit(&mut after);
        idle().held_against(&after, Ok(figures()))
    };
    let not_run = |why: &str| Err(Stopped::NotRun(why.to_owned()));
    assert_eq!(after(&|_| {}), Ok(figures()));
    assert_eq!(
        after(&|it| it.processes = Ok(1)),
        not_run("somebody else came meanwhile")
    );
    assert_eq!(
        after(&|it| it.processes = Err("lost".to_owned())),
        not_run("somebody else came meanwhile")
    );
    assert_eq!(
        after(&|it| "on".clone_into(&mut it.mode)),
        not_run("its mode changed meanwhile")
    );
    let broken = Err(Stopped::Failed(
        "2 errors in memory that could not be corrected".to_owned(),
    ));
    assert_eq!(after(&|it| it.errors = Ok(5)), broken);
    let wrong = Err(Stopped::Failed("wrong".to_owned()));
    assert_eq!(idle().held_against(&idle(), wrong.clone()), wrong);
}

#[test]
fn names_are_written_as_the_driver_does() {
    let bytes = [
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0, 0, 0, 0, 0, 0, 0, 0x7f,
    ];
    let want = "GPU-01234567-89ab-cdef-0000-00000000007f";
    assert_eq!(look::uuid(&bytes), want);
}
