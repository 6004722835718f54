//! Clocks that are wrong, that lie, and statements made when nobody could hear them.

use super::{Case, NOW, Previous, Status};
use crate::{
    Sha256Digest, UnixTime,
    appraisal::{AttestationResult, Run, Tie, shown_receipt},
    evidence::Freshness,
    fixture::statement,
    proto::v1,
    tlog::{Checkpoint, LogEntry, NoteSigner, leaf_hash},
    tpm::ClockInfo,
};
use aws_lc_rs::{rand::SystemRandom, signature::Ed25519KeyPair};
use prost::Message as _;

const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
const RECEIPT: Sha256Digest = Sha256Digest([7; 32]);
const NONE: Sha256Digest = Sha256Digest([0; 32]);

fn codes(result: &AttestationResult) -> Vec<&str> {
    result.deviations().map(|d| d.code.as_str()).collect()
}

fn entry() -> LogEntry {
    LogEntry {
        subject: "gpu-01".to_owned(),
        epoch: 0,
        sequence: 3,
        statement: Sha256Digest([9; 32]),
        verdict: "affirming".to_owned(),
        received: NOW,
    }
}

#[test]
fn a_clock_that_is_off_is_told_and_decides_nothing_else() {
    let cases: &[(&str, u64, &[&str], Status)] = &[
        ("right", 0, &[], Status::Affirming),
        ("five minutes", 300_999, &[], Status::Affirming),
        ("more", 301_000, &["clock-skew"], Status::Warning),
        ("an hour", HOUR_MS + 999, &["clock-skew"], Status::Warning),
        (
            "more than that",
            HOUR_MS + 1000,
            &["clock-skew"],
            Status::None,
        ),
        ("a year", YEAR_MS, &["clock-skew"], Status::None),
    ];
    for (name, off, want, status) in cases {
        for ahead in [false, true] {
            let mut case = Case::ordinary();
            case.statement.wall_time_ms = match ahead {
                true => NOW.0 + off,
                false => NOW.0 - off,
            };
            let result = case.appraise();
            assert_eq!(codes(&result), *want, "{name}, {ahead}");
            assert_eq!(result.status, *status, "{name}, {ahead}");
            let word = if ahead {
                "s ahead of it"
            } else {
                "s behind it"
            };
            for deviation in result.deviations() {
                assert!(deviation.found.ends_with(word), "{}", deviation.found);
            }
        }
    }
    // The limits are the profile's.
    let mut case = Case::ordinary();
    case.statement.wall_time_ms = NOW.0 + YEAR_MS;
    case.profile = case.profile.replace(
        "[tpm]\n",
        "[time]\nwarn_skew_seconds = 31622400\nmax_skew_seconds = 31622400\n[tpm]\n",
    );
    assert_eq!(case.appraise().status, Status::Affirming);
    // What was made out of reach arrives late, and never early.
    for (off, want) in [(0, 1), (-1, 1), (1, 2)] {
        let mut case = history();
        let year = i64::try_from(YEAR_MS).unwrap() * off;
        case.statement.wall_time_ms = NOW.0.checked_add_signed(year).unwrap();
        case.previous().wall_time = UnixTime(case.statement.wall_time_ms - 60_000);
        assert_eq!(case.appraise().deviations().count(), want, "{off} years");
    }
}

/// A node that was affirmed, and a minute later makes a statement out of reach.
fn history() -> Case {
    let mut case = Case::ordinary();
    let clock = ClockInfo {
        clock: 100_000,
        reset_count: 7,
        restart_count: 0,
        safe: true,
    };
    let previous = case.previous();
    previous.clock = Some(clock);
    previous.wall_time = UnixTime(NOW.0 - 60_000);
    previous.boot_time_ns = 500_000_000_000;
    previous.tie = Some(Tie {
        clock,
        boot_time_ns: 500_000_000_000,
        fresh: true,
    });
    case.tpm.clock = ClockInfo {
        clock: 160_000,
        ..clock
    };
    case.statement.boot_time_ns = 560_000_000_000;
    case.freshness = Freshness::Unchallenged {
        last_receipt: RECEIPT,
        number: 0,
    };
    case.receipt = Some(entry());
    case
}

#[test]
fn history_is_held_against_the_tpms_clock() {
    type Spoil = fn(&mut Case);
    fn run(case: &mut Case, last_receipt: Sha256Digest, number: u64) {
        case.previous().run = Some(Run {
            last_receipt,
            number,
        });
    }
    fn number(case: &mut Case, number: u64) {
        case.freshness = Freshness::Unchallenged {
            last_receipt: RECEIPT,
            number,
        };
    }
    fn later(case: &mut Case, boot_ms: u64, tpm_ms: u64) {
        case.statement.boot_time_ns = 500_000_000_000 + boot_ms * 1_000_000;
        case.statement.wall_time_ms = NOW.0 - 60_000 + boot_ms;
        case.now = UnixTime(NOW.0 + boot_ms.max(tpm_ms));
        case.tpm.clock.clock = 100_000 + tpm_ms;
    }
    let cases: &[(&str, Spoil, Status, &[&str])] = &[
        ("honest", |_| {}, Status::None, &[]),
        (
            "the next of a run",
            |c| {
                run(c, RECEIPT, 0);
                number(c, 1);
            },
            Status::None,
            &[],
        ),
        (
            "the first under another receipt",
            |c| run(c, Sha256Digest([6; 32]), 5),
            Status::None,
            &[],
        ),
        (
            "a number again",
            |c| {
                run(c, RECEIPT, 4);
                number(c, 4);
            },
            Status::None,
            &["history-number"],
        ),
        (
            "a number before",
            |c| {
                run(c, RECEIPT, 4);
                number(c, 3);
            },
            Status::None,
            &["history-number"],
        ),
        (
            "a receipt that nobody issued",
            |c| c.receipt = None,
            Status::None,
            &["receipt-unknown"],
        ),
        (
            "before the first receipt",
            |c| {
                c.receipt = None;
                c.freshness = Freshness::Unchallenged {
                    last_receipt: NONE,
                    number: 0,
                };
            },
            Status::None,
            &[],
        ),
        (
            "an hour out of reach",
            |c| later(c, HOUR_MS, HOUR_MS),
            Status::None,
            &[],
        ),
        (
            "a TPM's clock that is 14 % slow",
            |c| later(c, HOUR_MS, HOUR_MS / 100 * 86),
            Status::None,
            &[],
        ),
        (
            "signed in advance: it says an hour, the TPM says a second",
            |c| later(c, HOUR_MS, 1000),
            Status::Contraindicated,
            &["signed-in-advance"],
        ),
        (
            "signed in advance by little more than clocks drift",
            |c| later(c, HOUR_MS, HOUR_MS / 100 * 84),
            Status::Contraindicated,
            &["signed-in-advance"],
        ),
        (
            "as far ahead as clocks may drift",
            |c| later(c, HOUR_MS, HOUR_MS - 570_000),
            Status::None,
            &[],
        ),
        (
            "a millisecond further",
            |c| later(c, HOUR_MS, HOUR_MS - 570_001),
            Status::Contraindicated,
            &["signed-in-advance"],
        ),
        (
            "as far behind as clocks may drift",
            |c| later(c, HOUR_MS - 570_000, HOUR_MS),
            Status::None,
            &[],
        ),
        (
            "a millisecond later",
            |c| later(c, HOUR_MS - 570_001, HOUR_MS),
            Status::None,
            &["quoted-late"],
        ),
        (
            "a TPM reset under a running kernel ties nothing",
            |c| {
                later(c, HOUR_MS, 1000);
                c.tpm.clock.reset_count = 8;
            },
            Status::Contraindicated,
            &["reset-without-boot"],
        ),
        (
            "a kernel that came without a reset ties nothing",
            |c| {
                later(c, HOUR_MS, 1000);
                c.statement.boot_id = vec![2; 16];
            },
            Status::Contraindicated,
            &["boot-without-reset"],
        ),
        (
            "signed in advance, as far as a first statement of a boot can tell",
            |c| {
                later(c, HOUR_MS, 1000);
                c.previous().tie.as_mut().unwrap().fresh = false;
            },
            Status::None,
            &["signed-in-advance"],
        ),
        (
            "made up afterwards, or quoted again",
            |c| later(c, 60_000, HOUR_MS),
            Status::None,
            &["quoted-late"],
        ),
        (
            "the wall clock runs away from the kernel's",
            |c| {
                later(c, 60_000, 60_000);
                c.statement.wall_time_ms -= 31_000;
            },
            Status::None,
            &["clock-disagrees"],
        ),
        (
            "as far as a wall clock is corrected",
            |c| {
                later(c, 60_000, 60_000);
                c.statement.wall_time_ms -= 30_600;
            },
            Status::None,
            &[],
        ),
        (
            "a millisecond more",
            |c| {
                later(c, 60_000, 60_000);
                c.statement.wall_time_ms -= 30_601;
            },
            Status::None,
            &["clock-disagrees"],
        ),
        (
            "the wall clock goes back",
            |c| c.statement.wall_time_ms = NOW.0 - HOUR_MS,
            Status::None,
            &["clock-disagrees"],
        ),
        (
            "another boot: nothing to compare with",
            |c| {
                later(c, HOUR_MS, 1000);
                c.statement.boot_id = vec![2; 16];
                c.tpm.clock.reset_count = 8;
            },
            Status::None,
            &[],
        ),
        (
            "a resume: the TPM's clock may have stood still",
            |c| {
                later(c, HOUR_MS, 1000);
                c.tpm.clock.restart_count = 1;
            },
            Status::None,
            &[],
        ),
    ];
    for (name, spoil, status, want) in cases {
        let mut case = history();
        spoil(&mut case);
        let result = case.appraise();
        let mut found = codes(&result);
        found.retain(|code| *code != "unchallenged");
        assert_eq!(found, *want, "{name}");
        assert_eq!(result.status, *status, "{name}");
    }
}

/// The attack: an hour's statements signed within a second, handed in one by one.
#[test]
fn a_stock_signed_in_advance_is_told_at_each_statement() {
    let mut case = history();
    for number in 1..=60 {
        let previous = *case.previous();
        case.statement = statement(previous.sequence + 1, Some(previous.digest));
        case.statement.boot_time_ns = 500_000_000_000 + number * 60_000_000_000;
        case.statement.wall_time_ms = NOW.0 + number * 60_000;
        case.now = UnixTime(NOW.0 + number * 60_000);
        case.tpm.clock.clock += 10;
        case.freshness = Freshness::Unchallenged {
            last_receipt: RECEIPT,
            number,
        };
        let result = case.appraise();
        let told = codes(&result).contains(&"signed-in-advance");
        // The first one is as old as it says.
        assert_eq!(told, number > 1, "{number}");
        assert_ne!(result.status, Status::Affirming);
        let next = Previous::after(&case.verify().unwrap(), Some(&previous));
        assert_eq!(next.tie, previous.tie, "what it is measured from stays");
        case.previous = Some(next);
    }
}

/// A statement whose challenge was lost is quoted once more, after others were signed.
#[test]
fn a_statement_quoted_again_is_no_step_back_for_those_behind_it() {
    let mut case = history();
    let steps: [(&str, u64, u64, u64, &[&str]); 3] = [
        (
            "made first, quoted last",
            60_000,
            HOUR_MS,
            2,
            &["quoted-late"],
        ),
        ("made and quoted meanwhile", 120_000, 120_000, 0, &[]),
        ("and again", 180_000, 180_000, 1, &[]),
    ];
    for (name, boot_ms, tpm_ms, number, want) in steps {
        let previous = *case.previous();
        case.statement = statement(previous.sequence + 1, Some(previous.digest));
        case.statement.boot_time_ns = 500_000_000_000 + boot_ms * 1_000_000;
        case.statement.wall_time_ms = NOW.0 - 60_000 + boot_ms;
        case.now = UnixTime(NOW.0 + 2 * HOUR_MS);
        case.tpm.clock.clock = 100_000 + tpm_ms;
        case.freshness = Freshness::Unchallenged {
            last_receipt: RECEIPT,
            number,
        };
        let result = case.appraise();
        let mut found = codes(&result);
        found.retain(|code| *code != "unchallenged");
        assert_eq!(found, want, "{name}");
        let verified = case.verify().unwrap();
        case.previous = Some(Previous::after(&verified, Some(&previous)));
    }
    let run = case.previous().run.unwrap();
    assert_eq!((run.last_receipt, run.number), (RECEIPT, 1));
    // An answer to a challenge ends the run and ties both clocks anew.
    let previous = *case.previous();
    case.freshness = super::CHALLENGE;
    case.statement = statement(previous.sequence + 1, Some(previous.digest));
    case.tpm.clock.clock = 100_000 + 2 * HOUR_MS;
    let after = Previous::after(&case.verify().unwrap(), Some(&previous));
    assert_eq!(after.run, None);
    let tie = after.tie.unwrap();
    assert_eq!((tie.clock, tie.fresh), (case.tpm.clock, true));
}

#[test]
fn an_endorsement_that_ended_is_told() {
    for (until, want) in [
        (None, &[][..]),
        (Some(NOW), &[]),
        (Some(UnixTime(NOW.0 - 1)), &["endorsement-expired"]),
    ] {
        let mut case = Case::ordinary();
        case.endorsed_until = until;
        let result = case.appraise();
        assert_eq!(codes(&result), want, "{until:?}");
        let status = if want.is_empty() {
            Status::Affirming
        } else {
            Status::Warning
        };
        assert_eq!(result.status, status);
    }
}

#[test]
fn a_receipt_is_the_logs_and_this_nodes() {
    let signer = || {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        NoteSigner::from_pkcs8("log.example/demo", key.as_ref()).unwrap()
    };
    let (log, other) = (signer(), signer());
    let receipt = |signer: &NoteSigner, entry: &LogEntry| {
        let entry = entry.to_bytes();
        let checkpoint = Checkpoint {
            origin: "log.example/demo".to_owned(),
            size: 1,
            root: leaf_hash(&entry),
        };
        v1::Receipt {
            statement_digest: vec![9; 32],
            log: "log.example/demo".to_owned(),
            index: 0,
            entry,
            inclusion_path: Vec::new(),
            checkpoint: checkpoint.sign(signer).unwrap().into_bytes(),
        }
    };
    let sent = |receipt: Option<v1::Receipt>, digest: Option<Sha256Digest>| {
        let receipt = receipt.map_or_else(Vec::new, |receipt| receipt.encode_to_vec());
        let own = Sha256Digest::of(&[&receipt]);
        let freshness = v1::evidence::Freshness::Unchallenged(v1::Unchallenged {
            last_receipt: digest.unwrap_or(own).0.to_vec(),
            number: 0,
            receipt,
        });
        v1::Evidence {
            freshness: Some(freshness),
            ..v1::Evidence::default()
        }
    };
    let good = receipt(&log, &entry());
    let stranger = receipt(&other, &entry());
    let neighbour = receipt(
        &log,
        &LogEntry {
            subject: "gpu-02".to_owned(),
            ..entry()
        },
    );
    let mut moved = good.clone();
    moved.index = 1;
    let key = log.verifier().to_string();
    let names = ["gpu-01", "ek-0123456789abcdef"];
    let cases = [
        ("good", sent(Some(good.clone()), None), true),
        ("none", sent(None, None), false),
        (
            "another than signed under",
            sent(Some(good), Some(RECEIPT)),
            false,
        ),
        ("of another log", sent(Some(stranger), None), false),
        ("of another node", sent(Some(neighbour), None), false),
        ("at another place", sent(Some(moved), None), false),
        ("in answer to a challenge", v1::Evidence::default(), false),
    ];
    for (name, evidence, want) in &cases {
        let shown = shown_receipt(evidence, [key.as_str()], &names);
        assert_eq!(shown, want.then(entry), "{name}");
        assert_eq!(shown_receipt(evidence, [], &names), None, "{name}: no log");
        assert_eq!(
            shown_receipt(evidence, ["x"], &names),
            None,
            "{name}: no key"
        );
    }
}

#[test]
fn the_first_statement_of_a_boot_ties_its_clocks() {
    let mut case = history();
    case.previous = None;
    case.statement = statement(0, None);
    let tie = Previous::after(&case.verify().unwrap(), None).tie.unwrap();
    assert!(!tie.fresh);
    assert_eq!(tie.boot_time_ns, case.statement.boot_time_ns);
}
