//! Reports that are there or not, cited or kept, and how old they may be.

use super::*;

#[test]
fn what_is_not_there_or_did_not_answer_is_told_apart() {
    use Finding::{Refused, Unchecked};
    type Edit = fn(&mut Node);
    type Row<'a> = (&'a str, Edit, &'a [(&'a str, Finding)]);
    let rows: &[Row<'_>] = &[
        (
            "a GPU failed",
            |node| {
                node.reports.reports.truncate(1);
                node.gpus.truncate(1);
                node.reports.stopped = "GPU 1: lost".to_owned();
            },
            &[("gpu-not-proven", Refused), ("gpu-count", Refused)],
        ),
        (
            "one was left out",
            |node| node.reports.count = Some(3),
            &[("gpu-not-proven", Refused)],
        ),
        (
            "nobody counted",
            |node| node.reports.count = None,
            &[("gpu-not-proven", Refused)],
        ),
        (
            "torn down",
            |node| {
                node.reports.reports.clear();
                node.gpus.clear();
                node.reports.mode = Some(v1::GpuMode::default());
            },
            &[
                ("gpu-mode", Refused),
                ("gpu-not-proven", Refused),
                ("gpu-count", Refused),
            ],
        ),
        (
            "developers' mode",
            |node| {
                node.reports.mode.as_mut().unwrap().devtools = true;
            },
            &[("gpu-devtools", Refused)],
        ),
        (
            "developers' mode, allowed",
            |node| {
                node.reports.mode.as_mut().unwrap().devtools = true;
                node.profile("count = 2", "count = 2\ndevtools = true");
            },
            &[],
        ),
        (
            "one answers twice",
            |node| {
                node.gpus.pop();
                let again = node.reports.reports[0].report.clone();
                node.reports.reports[1].report = again;
                let first = &node.gpus[0];
                let copy = Made {
                    chain: crate::gpu::tests::made::Chain {
                        certificates: first.chain.certificates.clone(),
                        keys: Vec::new(),
                    },
                    bundle: first.bundle.clone(),
                    report: first.report.clone(),
                };
                node.gpus.push(copy);
            },
            &[("topology", Refused)],
        ),
        (
            "made for no challenge that is known",
            |node| {
                node.ask(Nonce::new([8; 32]), &Said::hopper());
                node.trust(true);
            },
            &[("gpu-unanchored", Unchecked)],
        ),
    ];
    for (name, edit, want) in rows {
        let mut node = Node::new();
        edit(&mut node);
        let want: Vec<_> = want
            .iter()
            .map(|(code, it)| ((*code).to_owned(), *it))
            .collect();
        assert_eq!(node.codes(), want, "{name}");
    }
    // No citation at all, and one of what nobody kept.
    let mut silent = Node::new().case;
    assert_eq!(
        codes(&silent.appraise()),
        [("gpu-missing".to_owned(), Refused)]
    );
    silent.statement.claims.push(v1::Claim {
        name: "nvml.reports".to_owned(),
        source: "nvml".to_owned(),
        value: Some(v1::claim::Value::Unavailable(
            "asked a moment ago".to_owned(),
        )),
    });
    assert_eq!(
        codes(&silent.appraise()),
        [("gpu-unavailable".to_owned(), Unchecked)]
    );
    let mut lost = Node::new();
    lost.cite();
    lost.case.logs.clear();
    assert_eq!(
        codes(&lost.case.appraise()),
        [("gpu-not-kept".to_owned(), Unchecked)]
    );
}

#[test]
fn hardware_is_what_every_gpu_there_is_has_proven_and_nothing_less() {
    type Edit = fn(&mut Node);
    let rows: &[(&str, Edit, bool)] = &[
        ("all of them", |_| {}, true),
        (
            "asking was stopped",
            |node| node.reports.stopped = "GPU 2: lost".to_owned(),
            false,
        ),
        ("nobody counted", |node| node.reports.count = None, false),
        ("one more", |node| node.reports.count = Some(3), false),
        (
            "none at all",
            |node| {
                node.reports.reports.clear();
                node.gpus.clear();
                node.reports.count = Some(0);
            },
            false,
        ),
        (
            "for no challenge that is known",
            |node| {
                node.ask(Nonce::new([8; 32]), &Said::hopper());
                node.trust(true);
            },
            false,
        ),
        ("under no maker's root", |node| node.trust(false), false),
    ];
    for (name, edit, want) in rows {
        let mut node = Node::new();
        edit(&mut node);
        let found = claim(&node.result(), "gpu.hardware");
        assert_eq!(found.map(|it| it.0), Some(Value::Flag(*want)), "{name}");
    }
}

#[test]
fn reports_are_those_cited_and_kept_ones_will_do() {
    let mut node = Node::new();
    node.cite();
    let logs = std::mem::take(&mut node.case.logs);
    let mut verified = node.case.verify().unwrap();
    assert_eq!(verified.lacks().len(), 2);
    verified.keep("gpu", &logs[1].content.clone().into());
    assert_eq!(verified.lacks().len(), 2, "other bytes are left out");
    for log in &logs {
        verified.keep(&log.name, &log.content.clone().into());
    }
    assert_eq!(verified.lacks(), []);
    let result = node.case.appraise_verified(&verified);
    assert_eq!(result.status, Status::Affirming);
    // What comes along has to be what the statement cites.
    node.case.logs = logs;
    node.case.logs[0].content.push(0);
    assert!(matches!(
        node.case.verify(),
        Err(EvidenceRefused::Envelope { field: "logs", .. })
    ));
    node.case.logs[0].content.pop();
    node.case.statement.gpu = None;
    assert!(node.case.verify().is_err(), "and cited at all");
}

#[test]
fn a_report_ages_by_the_tpms_clock_and_ends_with_its_boot() {
    let mut node = Node::new();
    node.cite();
    let first = node.case.verify().unwrap();
    let anchored = Previous::after(&first, node.case.previous.as_ref());
    let anchor = anchored.gpu.unwrap();
    assert_eq!((anchor.challenge, anchor.clock_ms), (ASKED, 1000));
    // The next statement answers another challenge and cites the same.
    let answer = |node: &mut Node, clock: u64, reset: u32, anchor: Option<GpuAnchor>| {
        node.case.freshness = Freshness::Challenged(Nonce::new([9; 32]));
        node.case.tpm.clock.clock = clock;
        node.case.tpm.clock.reset_count = reset;
        let previous = node.case.previous.as_mut().unwrap();
        previous.gpu = anchor;
        previous.boot.reset_count = reset;
        previous.clock.as_mut().unwrap().reset_count = reset;
        let result = node.result();
        let evidence = node.case.verify().unwrap();
        let next = Previous::after(&evidence, node.case.previous.as_ref());
        (codes(&result), claim(&result, "gpu.age_seconds"), next.gpu)
    };
    let old = ("gpu-report-old".to_owned(), Finding::Refused);
    let unknown = ("gpu-unanchored".to_owned(), Finding::Unchecked);
    let seconds = |age| Some((Value::Number(age), Provenance::HardwareSigned));
    let limit = 5400 * 1000 + 1000;
    let rows = [
        (
            "an hour",
            3_601_000,
            7,
            Some(anchor),
            vec![],
            seconds(3600),
            Some(anchor),
        ),
        (
            "the last second",
            limit,
            7,
            Some(anchor),
            vec![],
            seconds(5400),
            Some(anchor),
        ),
        (
            "too old",
            limit + 1000,
            7,
            Some(anchor),
            vec![old],
            seconds(5401),
            Some(anchor),
        ),
        (
            "another boot",
            3_601_000,
            8,
            Some(anchor),
            vec![unknown.clone()],
            None,
            None,
        ),
        (
            "nobody knows it",
            3_601_000,
            7,
            None,
            vec![unknown.clone()],
            None,
            None,
        ),
        (
            "another report",
            3_601_000,
            7,
            Some(GpuAnchor {
                reports: Sha256Digest([0; 32]),
                ..anchor
            }),
            vec![unknown.clone()],
            None,
            None,
        ),
        (
            "another challenge",
            3_601_000,
            7,
            Some(GpuAnchor {
                challenge: Nonce::new([0; 32]),
                ..anchor
            }),
            vec![unknown],
            None,
            None,
        ),
    ];
    for (name, clock, reset, anchor, want, age, next) in rows {
        let got = answer(&mut node, clock, reset, anchor);
        assert_eq!(got, (want, age, next), "{name}");
    }
}
