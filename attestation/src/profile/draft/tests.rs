//! What is kept, what is left out and why, and that a draft reads back as it was meant.

use super::*;
use crate::appraisal::{Deviation, Finding};
use crate::profile::Expected;

const TERMS: &str = "name = \"r16\"\nlease_seconds = 600\nmax_silence_seconds = 90\n\
    [tpm]\nbank = \"sha256\"\nrequire = [0]\n[brake]\nshare_percent = 7\nwindow_seconds = 60\n\
    min_nodes = 3\n[time]\nwarn_skew_seconds = 5\nmax_skew_seconds = 50\n\
    [world]\nmax_age_days = 60\n";

fn terms() -> Profile {
    Profile::parse("terms", TERMS.as_bytes()).unwrap()
}

fn seen(node: &str, rows: &[(&str, Value, Provenance)]) -> Seen {
    let claim = |(name, value, provenance): &(&str, Value, Provenance)| {
        let claim = AppraisedClaim {
            value: value.clone(),
            provenance: *provenance,
        };
        ((*name).to_owned(), claim)
    };
    Seen {
        node: node.to_owned(),
        at: UnixTime::from_secs(1_800_000_000),
        shown: Shown {
            claims: rows.iter().map(claim).collect(),
            ..Shown::default()
        },
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn fault(claim: &str, code: &str) -> Deviation {
    Deviation {
        claim: claim.to_owned(),
        finding: Finding::Refused,
        code: code.to_owned(),
        expected: String::new(),
        found: "so".to_owned(),
        provenance: None,
    }
}

/// Each claim, in the first and the second boot; `None`: not shown.
#[test]
fn what_is_the_same_in_every_boot_is_demanded_and_the_rest_says_why_not() {
    use Provenance::{HardwareSigned, Measured, SelfReported};
    let long = "x".repeat(TEXT_LIMIT + 1);
    let fits = "x".repeat(TEXT_LIMIT);
    let (one, two) = (text("one"), text("two"));
    type Row<'a> = (
        &'a str,
        Option<Value>,
        Option<Value>,
        Provenance,
        Option<Why>,
    );
    let same = |value: &Value| (Some(value.clone()), Some(value.clone()));
    let row = |name, (first, second), provenance, why| -> Row<'_> {
        (name, first, second, provenance, why)
    };
    let other = || (Some(one.clone()), Some(two.clone()));
    let rows: Vec<Row<'_>> = vec![
        row("boot.command_line", same(&one), Measured, None),
        row("boot.initrd", other(), Measured, Some(Why::Varies(2))),
        row(
            "boot.db",
            (Some(one.clone()), None),
            Measured,
            Some(Why::NotAlways(1)),
        ),
        row(
            "boot.authorities",
            same(&text(&long)),
            Measured,
            Some(Why::TooLong(TEXT_LIMIT + 1)),
        ),
        row("boot.sbat_level", same(&text(&fits)), Measured, None),
        row("boot.pk", same(&one), SelfReported, None),
        row(
            "ima.entries",
            same(&Value::Number(3)),
            Measured,
            Some(Why::Count),
        ),
        row("kernel.release", same(&one), SelfReported, None),
        row("kernel.taint", same(&Value::Number(0)), SelfReported, None),
        row("kernel.lsm", other(), SelfReported, Some(Why::Varies(2))),
        row("nvml.driver-version", same(&one), SelfReported, None),
        row(
            "nvml.gpus",
            same(&Value::Number(8)),
            SelfReported,
            Some(Why::NotStack),
        ),
        row(
            "chassis.serial",
            same(&one),
            SelfReported,
            Some(Why::OfOneMachine),
        ),
        row(
            "system.uuid",
            same(&one),
            SelfReported,
            Some(Why::OfOneMachine),
        ),
        row("host.fact-1", same(&one), SelfReported, Some(Why::NotStack)),
        row(
            "Kernel.release\n[[require]]",
            same(&one),
            SelfReported,
            Some(Why::NotStack),
        ),
        row("fence.agent", same(&one), Measured, None),
        row(
            "fence.policy_version",
            same(&Value::Number(3)),
            Measured,
            Some(Why::NotStack),
        ),
        row("fence.lines", same(&one), SelfReported, Some(Why::NotStack)),
        row(
            "tpm.firmware_version",
            same(&one),
            HardwareSigned,
            Some(Why::OfOneMachine),
        ),
        row(
            "tpm.reset_count",
            same(&Value::Number(3)),
            HardwareSigned,
            Some(Why::Count),
        ),
    ];
    let boot = |second: bool| {
        let shown = rows.iter().filter_map(|(name, one, two, provenance, _)| {
            let value = if second { two } else { one };
            Some((*name, value.clone()?, *provenance))
        });
        let mut shown: Vec<_> = shown.collect();
        let (name, value, provenance) = pcr(0, 1);
        shown.push((&name, value, provenance));
        seen("gpu-01", &shown)
    };
    let draft = draft("r17", &terms(), &[boot(false), boot(true)]);
    for (name, first, _, provenance, why) in &rows {
        assert_eq!(draft.left_out.get(*name), why.as_ref(), "{name}");
        let demand = draft.demands.iter().find(|demand| demand.claim == *name);
        let want = why.is_none().then(|| Demand {
            claim: (*name).to_owned(),
            value: first.clone().unwrap(),
            provenance: *provenance,
        });
        assert_eq!(demand, want.as_ref(), "{name}");
    }
    assert!(
        !draft
            .notes
            .iter()
            .any(|note| note.contains("one boot only"))
    );
    read_back(&draft);
}

/// The draft's TOML means what the draft says.
fn read_back(draft: &Draft) -> Profile {
    let toml = draft.to_toml();
    let profile = Profile::parse("draft", toml.as_bytes()).unwrap_or_else(|error| {
        panic!("{error}\n{toml}");
    });
    assert_eq!(profile.name, draft.name);
    assert_eq!(profile.tpm.require, draft.require);
    let values = profile.tpm.values.iter();
    let values: BTreeMap<u8, String> = values
        .map(|(at, all)| (*at, all.iter().map(hex_of).collect()))
        .collect();
    assert_eq!(values, draft.values);
    let demands: Vec<Demand> = profile
        .requirements
        .iter()
        .map(|one| Demand {
            claim: one.claim.clone(),
            value: match &one.expected {
                Expected::Is(value) => value.clone(),
                other => panic!("{other:?}"),
            },
            provenance: one.minimum,
        })
        .collect();
    assert_eq!(demands, draft.demands);
    let boot = profile.boot.as_ref();
    let boot = boot.map(|boot| (boot.quirks.clone(), boot.unreplayable.clone()));
    assert_eq!(boot, draft.boot);
    assert_eq!(profile.fence.map(|fence| fence.pcr), draft.fence);
    assert_eq!(
        profile.ima.as_ref().and_then(|ima| ima.max_violations),
        draft.violations
    );
    let terms = &draft.terms;
    assert_eq!(
        (
            profile.lease_seconds,
            profile.max_silence_seconds,
            profile.time
        ),
        (terms.lease_seconds, terms.max_silence_seconds, terms.time)
    );
    assert_eq!((profile.brake, profile.world), (terms.brake, terms.world));
    profile
}

fn pcr(index: u8, byte: u8) -> (String, Value, Provenance) {
    let value = hex::encode([byte; 32]);
    (
        format!("tpm.pcr.sha256.{index}"),
        Value::Text(value),
        Provenance::HardwareSigned,
    )
}

#[test]
fn registers_of_the_stack_are_pinned_and_those_that_change_are_not() {
    let boot = |odd: u8| {
        let mut rows: Vec<_> = (0..24).map(|index| pcr(index, 1)).collect();
        rows[5] = pcr(5, odd);
        rows.push((
            "tpm.pcr.sha384.0".to_owned(),
            text("00"),
            Provenance::HardwareSigned,
        ));
        rows.push((
            "tpm.pcr.sha256.x".to_owned(),
            text("00"),
            Provenance::HardwareSigned,
        ));
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, value, p)| (name.as_str(), value.clone(), *p))
            .collect();
        let mut seen = seen("gpu-01", &rows);
        seen.shown.fence = Some(13);
        seen
    };
    let two = draft("r17", &terms(), &[boot(1), boot(2)]);
    assert_eq!(two.require, (0..16).collect());
    let pinned: Vec<u8> = two.values.keys().copied().collect();
    // 13 is the fence's, and its log explains it.
    assert_eq!(pinned, [0, 1, 2, 3, 4, 6, 7, 8, 9, 12, 14]);
    assert_eq!(two.left_out["tpm.pcr.sha256.5"], Why::Varies(2));
    assert_eq!(read_back(&two).fence.map(|fence| fence.pcr), Some(13));
    // Of one boot nobody can tell, so all is demanded and it is said.
    let one = draft("r17", &terms(), &[boot(1)]);
    assert!(one.values.contains_key(&5));
    assert!(
        one.notes[0].starts_with("seen in one boot only"),
        "{:?}",
        one.notes
    );
    assert!(one.to_toml().contains("# NOTE: seen in one boot only"));
    read_back(&one);
    // Not quoted in every boot: not demanded, and not pinned.
    let mut less = boot(1);
    less.shown.claims.remove("tpm.pcr.sha256.3");
    less.shown.fence = Some(12);
    let mixed = draft("r17", &terms(), &[boot(1), less]);
    assert!(!mixed.require.contains(&3) && !mixed.values.contains_key(&3));
    assert_eq!(mixed.left_out["tpm.pcr.sha256.3"], Why::NotAlways(1));
    assert_eq!(mixed.fence, None, "two registers are none");
    read_back(&mixed);
}

#[test]
fn logs_are_demanded_where_every_boot_showed_them() {
    let number = |n| Value::Number(n);
    let boot = |violations: Option<u64>, faults: &[(&str, &str)]| {
        let pcrs = [pcr(0, 1), pcr(10, 1)];
        let rows = pcrs.iter();
        let rows = rows.map(|(name, value, source)| (name.as_str(), value.clone(), *source));
        let mut rows: Vec<_> = rows.collect();
        rows.extend(violations.map(|n| ("ima.violations", number(n), Provenance::Measured)));
        let mut seen = seen("gpu-01", &rows);
        seen.shown.faults = faults
            .iter()
            .map(|(claim, code)| fault(claim, code))
            .collect();
        seen
    };
    let missing: &[(&str, &str)] = &[("boot.log", "boot-log-missing")];
    let other: &[(&str, &str)] = &[("boot.log.pcr.0", "boot-log-replay")];
    type Row<'a> = (&'a str, Seen, Option<&'a [u8]>, Option<u64>, &'a str);
    let rows: Vec<Row<'_>> = vec![
        ("both", boot(Some(0), &[]), Some(&[]), Some(0), ""),
        (
            "no boot log",
            boot(Some(0), missing),
            None,
            Some(0),
            "no boot log is demanded: so [boot-log-missing]",
        ),
        (
            "a register hidden",
            boot(Some(0), other),
            Some(&[0]),
            Some(0),
            "register 0 holds what its boot log does not say",
        ),
        (
            "no list",
            boot(None, &[]),
            Some(&[]),
            None,
            "no measurement list is demanded",
        ),
        (
            "violations",
            boot(Some(2), &[]),
            Some(&[]),
            Some(2),
            "2 files changed while they were measured",
        ),
    ];
    for (name, second, replay, violations, note) in rows {
        let draft = draft("r17", &terms(), &[boot(Some(0), &[]), second]);
        let registers = draft.boot.as_ref().map(|(_, registers)| registers.clone());
        assert_eq!(
            registers,
            replay.map(|all| all.iter().copied().collect()),
            "{name}"
        );
        assert_eq!(draft.violations, violations, "{name}");
        assert!(
            draft.notes.iter().any(|said| said.contains(note)),
            "{name}: {:?}",
            draft.notes
        );
        read_back(&draft);
    }
}

/// What a node says of itself adds no line and no key.
#[test]
fn a_nodes_words_stay_words() {
    let hostile = [
        "\"\nname = \"evil",
        "\\",
        "'''\"\"\"",
        "\u{7f}\u{85}\r\n\t\0",
        "# NOTE: \u{1b}[31m",
        "ü€\u{10ffff}",
    ];
    for words in hostile {
        let mut boot = seen(
            "gpu-01",
            &[
                ("kernel.release", text(words), Provenance::SelfReported),
                (words, text("x"), Provenance::SelfReported),
            ],
        );
        words.clone_into(&mut boot.node);
        boot.shown.faults = vec![Deviation {
            found: words.to_owned(),
            ..fault("boot.log", "boot-log-malformed")
        }];
        boot.shown.files.insert("07".repeat(32), words.to_owned());
        let number = Value::Number(0);
        boot.shown.claims.insert(
            "ima.violations".to_owned(),
            AppraisedClaim {
                value: number,
                provenance: Provenance::Measured,
            },
        );
        let (name, value, provenance) = pcr(10, 1);
        boot.shown
            .claims
            .insert(name, AppraisedClaim { value, provenance });
        let profile = read_back(&draft("r17", &terms(), &[boot]));
        assert_eq!(profile.requirements.len(), 1, "{words:?}");
        let files = profile.ima.unwrap().files.unwrap().known.files;
        assert_eq!(files.len(), 1, "{words:?}");
    }
}

#[test]
fn what_the_profile_in_force_demands_besides_is_named() {
    let mut terms = TERMS.to_owned();
    for claim in ["kernel.release", "node.ak_confirmed"] {
        let more = format!(
            "[[require]]\nclaim = \"{claim}\"\nis = true\nprovenance = \"self-reported\"\n"
        );
        terms.push_str(&more);
    }
    let terms = Profile::parse("terms", terms.as_bytes()).unwrap();
    let row = [("kernel.release", text("6.12"), Provenance::SelfReported)];
    let draft = draft("r17", &terms, &[seen("gpu-01", &row)]);
    let note = draft.notes.last().unwrap();
    assert!(note.ends_with("wanted: node.ak_confirmed"), "{note}");
}

fn hex_of(one: &crate::profile::Alternative) -> String {
    match &one.value {
        Value::Text(text) => text.clone(),
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_proven_is_demanded_and_words_only_of_the_stack() {
    use Provenance::{HardwareSigned, Measured, SelfReported};
    let rows = [
        ("gpu.0.mode", HardwareSigned, Ok(())),
        ("ima.kernels", Measured, Ok(())),
        ("gpu.0.mode", SelfReported, Err(Why::NotStack)),
        ("kernel.release", SelfReported, Ok(())),
        ("kernel.release", Measured, Ok(())),
        ("kernel.taint", SelfReported, Ok(())),
        ("ima.entries", Measured, Err(Why::Count)),
        ("ima.module.nvidia", Measured, Err(Why::NotStack)),
        ("board.serial", HardwareSigned, Err(Why::OfOneMachine)),
    ];
    for (name, source, want) in rows {
        assert_eq!(demanded(name, source), want, "{name}, {source:?}");
    }
}
