use std::fs;

use super::{
    double::{Double, Play},
    *,
};

const DATA: [u8; 64] = [7; 64];

fn section(reports: &Path) -> TeeSection {
    TeeSection {
        reports: reports.to_owned(),
        device: reports.join("no-device"),
        ..TeeSection::default()
    }
}

fn report() -> Vec<u8> {
    [&b"report of "[..], &DATA].concat()
}

#[test]
fn a_report_answers_the_question_that_was_asked() {
    let plays = [
        ("a bare one", Play::default(), "sev-snp", vec![]),
        (
            "with certificates",
            Play {
                certificates: Some(b"table".to_vec()),
                ..Play::default()
            },
            "sev-snp",
            b"table".to_vec(),
        ),
        (
            "under a paravisor",
            Play {
                floor: Some(2),
                ..Play::default()
            },
            "sev-snp",
            vec![],
        ),
        (
            "at the most privileged level",
            Play {
                floor: Some(0),
                ..Play::default()
            },
            "sev-snp",
            vec![],
        ),
        (
            "Intel's",
            Play {
                provider: Some("tdx_guest"),
                ..Play::default()
            },
            "tdx",
            vec![],
        ),
    ];
    for (name, play, kind, certificates) in plays {
        let double = Double::start(play);
        let want = Given {
            kind,
            report: report(),
            certificates,
            manifest: Vec::new(),
        };
        for _ in 0..2 {
            let given = ask(&section(&double.root), &DATA).unwrap();
            assert_eq!(given.as_ref(), Some(&want), "{name}");
        }
    }
}

#[test]
fn an_svsm_is_asked_about_the_tpm_it_keeps() {
    let double = Double::start(Play {
        certificates: Some(b"table".to_vec()),
        svsm: Some(b"an EK".to_vec()),
        ..Play::default()
    });
    let service = b"svsm c476f1eb-0123-45a5-9641-b4e7dde5bfe3 ";
    let want = Given {
        kind: "svsm-vtpm",
        report: [&service[..], &DATA].concat(),
        certificates: b"table".to_vec(),
        manifest: b"an EK".to_vec(),
    };
    let given = ask(&section(&double.root), &DATA).unwrap();
    assert_eq!(given, Some(want));
}

#[test]
fn an_answer_to_somebody_else_is_not_taken() {
    let before = |before| Play {
        before,
        ..Play::default()
    };
    let behind = |behind| Play {
        behind,
        ..Play::default()
    };
    let rows = [
        ("once, before the answer", before(1), true),
        ("once, behind it", behind(1), true),
        ("each time before", before(3), false),
        ("each time behind", behind(3), false),
    ];
    for (name, play, taken) in rows {
        let double = Double::start(play);
        match (ask(&section(&double.root), &DATA), taken) {
            (Ok(Some(given)), true) => assert_eq!(given.report, report(), "{name}"),
            (Err(why), false) => {
                assert_eq!(
                    (why.code(), why.refused()),
                    ("tee-disturbed", false),
                    "{name}"
                );
            }
            (other, _) => panic!("{name}: {other:?}"),
        }
    }
    let longest = Double::start(Play {
        more: MAX_REPORT - report().len(),
        ..Play::default()
    });
    let given = ask(&section(&longest.root), &DATA).unwrap().unwrap();
    assert_eq!(given.report.len(), MAX_REPORT);
    let long = Double::start(Play {
        more: MAX_REPORT,
        ..Play::default()
    });
    let why = ask(&section(&long.root), &DATA).unwrap_err();
    assert_eq!(why.code(), "tee-malformed", "{why}");
}

/// An entry as plain files, which answer what they hold.
fn entry(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let entry = dir.path().join("bailiwick");
    fs::create_dir(&entry).unwrap();
    for (name, content) in files {
        match *content {
            "/" => fs::create_dir(entry.join(name)).unwrap(),
            content => fs::write(entry.join(name), content).unwrap(),
        }
    }
    dir
}

#[test]
fn could_not_ask_is_told_from_was_refused_and_both_from_nobody_there() {
    let nobody = tempfile::tempdir().unwrap();
    let nobody = nobody.path().join("none");
    assert_eq!(ask(&section(&nobody), &DATA).unwrap(), None);
    let asked = ("provider", "sev_guest");
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let rows: [Row<'_>; 6] = [
        ("no file", &[], "tee-unavailable"),
        (
            "another's",
            &[("provider", "arm_cca_guest")],
            "tee-provider",
        ),
        (
            "no number",
            &[asked, ("generation", "many")],
            "tee-malformed",
        ),
        (
            "no question",
            &[asked, ("generation", "1")],
            "tee-unavailable",
        ),
        // Its number stands still, as one that was never asked.
        (
            "a question nobody took",
            &[asked, ("generation", "1"), ("inblob", "")],
            "tee-disturbed",
        ),
        (
            "too long a name",
            &[("provider", &"x".repeat(200))],
            "tee-unavailable",
        ),
    ];
    for (name, files, code) in rows {
        let dir = entry(files);
        let why = ask(&section(dir.path()), &DATA).unwrap_err();
        assert_eq!((why.code(), why.refused()), (code, false), "{name}: {why}");
    }
    // An entry that was made for the question is gone after it.
    let dir = tempfile::tempdir().unwrap();
    let why = ask(&section(dir.path()), &DATA).unwrap_err();
    assert_eq!(why.code(), "tee-unavailable");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_kernels_errors_say_whether_the_question_arrived() {
    let rows = [
        ("firmware", libc::EIO, true),
        ("a level it may not ask as", libc::EINVAL, true),
        ("a host that holds it back", libc::EBUSY, false),
        ("likewise", libc::EAGAIN, false),
        ("no answer in time", libc::ETIMEDOUT, false),
        ("a signal", libc::EINTR, false),
        ("not root", libc::EACCES, false),
        ("no memory", libc::ENOMEM, false),
        ("a module that is gone", libc::ENOTTY, false),
        ("likewise, at the folder", libc::ENXIO, false),
    ];
    for (name, number, refused) in rows {
        let error = io::Error::from_raw_os_error(number);
        let why = kernel_says("reading", Path::new("outblob"), error);
        assert_eq!(why.refused(), refused, "{name}");
        let code = ["tee-unavailable", "tee-refused"][usize::from(refused)];
        assert_eq!(why.code(), code, "{name}");
    }
}

#[tokio::test]
async fn a_statement_says_what_the_last_question_came_to() {
    let said = |tee: &Tee| -> Vec<(String, Option<Value>)> {
        let claims = tee.claims().into_iter();
        claims.map(|claim| (claim.name, claim.value)).collect()
    };
    let text = |text: &str| Some(Value::Text(text.to_owned()));

    let double = Double::start(Play::default());
    let mut tee = Tee::new(&section(&double.root));
    assert_eq!(said(&tee), [], "nobody was asked yet");
    let evidence = tee.evidence(DATA).await.unwrap();
    assert_eq!(evidence.report.unwrap().report, report());
    assert_eq!((evidence.unavailable, evidence.refused), Default::default());
    assert_eq!(said(&tee), [("tee.report".to_owned(), text("sev-snp"))]);

    let none = tempfile::tempdir().unwrap();
    let mut tee = Tee::new(&section(&none.path().join("none")));
    assert_eq!(tee.evidence(DATA).await, None);
    assert_eq!(said(&tee), []);

    let other = entry(&[("provider", "arm_cca_guest")]);
    let mut tee = Tee::new(&section(other.path()));
    let evidence = tee.evidence(DATA).await.unwrap();
    assert_eq!((evidence.report, evidence.refused.as_str()), (None, ""));
    assert!(evidence.unavailable.starts_with("tee-provider: "));
    assert_eq!(
        said(&tee),
        [(
            "tee.report".to_owned(),
            Some(Value::Unavailable(evidence.unavailable))
        )]
    );

    let file = Path::new("outblob").to_owned();
    let why = "Input/output error".to_owned();
    let (last, evidence) = told(Err(TeeError::Refused { file, why }));
    let evidence = evidence.unwrap();
    assert_eq!((evidence.report, evidence.unavailable.as_str()), (None, ""));
    assert!(evidence.refused.starts_with("tee-refused: "));
    tee.last = Some(last);
    assert_eq!(
        said(&tee),
        [
            ("tee.report".to_owned(), text("refused")),
            ("tee.refusal".to_owned(), text(&evidence.refused)),
        ]
    );
    assert!(said(&tee).iter().all(|(name, _)| name.starts_with(NAMES)));
}

/// Nobody serves the pipe, so its reader waits for ever; the statement does not, and nobody asks again
/// beside it.
#[tokio::test]
async fn no_statement_waits_for_one_that_does_not_answer() {
    let dir = entry(&[]);
    let pipe = dir.path().join("bailiwick/provider");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut tee = Tee::new(&section(dir.path()));
    tee.patience = Duration::from_millis(20);
    for _ in 0..2 {
        let evidence = tee.evidence(DATA).await.unwrap();
        assert!(evidence.unavailable.starts_with("tee-late: "));
    }
    assert!(tee.asking.load(Ordering::Acquire));
}
