//! Three times of one statement, kept apart: when the node says it was made, when its TPM signed
//! it, and when the collector took it.
//!
//! The TPM's clock cannot be set back and counts whatever the host's says, so what a node says of
//! its own past is held against it. Over one boot the kernel's `CLOCK_BOOTTIME` and the TPM's clock
//! run side by side; a statement that claims to be later than its signature was made in advance,
//! however late it is played out. Wall clocks are wrong often enough: they end no standing by
//! themselves, and open none.

use super::{
    Previous, Subject,
    result::{AttestationResult, Deviation, Finding},
    verify::VerifiedEvidence,
};
use crate::{
    evidence::Freshness,
    ids::{Sha256Digest, UnixTime},
    profile::{Provenance, TimeProfile},
    proto::v1,
    tlog::{LogEntry, NoteVerifier, verify_receipt},
    tpm::ClockInfo,
};
use prost::Message as _;

/// How far two clocks of one machine may part, beside their drift: a quote on a busy TPM.
const SLACK_MS: u64 = 30_000;
/// Drift of the TPM's clock, percent: TPM 2.0 Library r1.59, Part 1, "Clock": within 15 %.
const TPM_DRIFT: u64 = 15;
/// Drift of a wall clock that is being corrected, percent.
const WALL_DRIFT: u64 = 1;

/// Both clocks at one moment of one boot: what later statements of that boot are measured from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tie {
    /// The TPM's.
    pub clock: ClockInfo,
    /// The kernel's, ns.
    pub boot_time_ns: u64,
    /// It answered a challenge, so that statement and signature were made together.
    pub fresh: bool,
}

/// The run of statements made out of reach that the one before belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Run {
    /// SHA-256 of the receipt they are signed under; zeroes before the first.
    pub last_receipt: Sha256Digest,
    /// Number of the last one.
    pub number: u64,
}

/// The receipt an unchallenged envelope was signed under, if the log of the signed policy issued it
/// for a statement of this node. `keys` are the log's, as C2SP verifier keys; `names` are those the
/// node has had in the log.
#[must_use]
pub fn shown_receipt<'a>(
    evidence: &v1::Evidence,
    keys: impl IntoIterator<Item = &'a str>,
    names: &[&str],
) -> Option<LogEntry> {
    let Some(v1::evidence::Freshness::Unchallenged(unchallenged)) = &evidence.freshness else {
        return None;
    };
    let named = Sha256Digest::from_slice(&unchallenged.last_receipt)?;
    if Sha256Digest::of(&[&unchallenged.receipt]) != named {
        return None;
    }
    let receipt = &v1::Receipt::decode(unchallenged.receipt.as_slice()).ok()?;
    let of = Sha256Digest::from_slice(&receipt.statement_digest)?;
    let verified = keys
        .into_iter()
        .filter_map(|key| NoteVerifier::parse(key).ok())
        .find_map(|key| verify_receipt(receipt, &of, &key, None).ok())?;
    let entry = verified.entry;
    names.contains(&entry.subject.as_str()).then_some(entry)
}

/// What the clocks say, ms since the tie, or why they cannot be compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Elapsed {
    /// By the TPM.
    tpm: u64,
    /// By the statement's own `CLOCK_BOOTTIME`.
    boot: u64,
}

impl Elapsed {
    /// `None`: a clock that went back, which is judged as such. The tie is of the same boot.
    fn since(tie: &Tie, evidence: &VerifiedEvidence) -> Option<Self> {
        let boot_ns = evidence
            .statement
            .boot_time_ns
            .checked_sub(tie.boot_time_ns)?;
        Some(Self {
            tpm: evidence.clock()?.clock.checked_sub(tie.clock.clock)?,
            boot: boot_ns / 1_000_000,
        })
    }

    /// The statement says it is later than the TPM's clock was when it signed.
    fn in_advance(self) -> bool {
        self.boot > self.tpm.saturating_add(tolerance(self.boot, TPM_DRIFT))
    }

    /// The TPM signed long after the statement says it was made.
    fn late(self) -> bool {
        self.tpm > self.boot.saturating_add(tolerance(self.tpm, TPM_DRIFT))
    }
}

const fn tolerance(span_ms: u64, percent: u64) -> u64 {
    SLACK_MS.saturating_add(span_ms.saturating_mul(percent) / 100)
}

/// What the next statement of this boot is measured from; `None`: there is one clock alone.
pub(super) fn tie_after(evidence: &VerifiedEvidence, previous: Option<&Previous>) -> Option<Tie> {
    let clock = evidence.clock()?;
    let fresh = matches!(evidence.freshness, Freshness::Challenged(_));
    let kept = previous.and_then(|previous| tie_of(evidence, previous));
    Some(match kept {
        Some(tie) if !fresh => *tie,
        _ => Tie {
            clock,
            boot_time_ns: evidence.statement.boot_time_ns,
            fresh,
        },
    })
}

/// The tie of the statement's own boot, with no resume in between: the TPM's clock may have stood
/// still, as the kernel's does not.
fn tie_of<'a>(evidence: &VerifiedEvidence, previous: &'a Previous) -> Option<&'a Tie> {
    let (tie, clock) = (previous.tie.as_ref()?, evidence.clock()?);
    let one_boot = previous.boot.id == evidence.statement.boot_id
        && tie.clock.reset_count == clock.reset_count
        && tie.clock.restart_count == clock.restart_count;
    one_boot.then_some(tie)
}

/// A statement that was quoted again after others had been signed: its clock and number are later
/// than theirs, and theirs are no step back.
pub(super) fn quoted_late(evidence: &VerifiedEvidence, previous: Option<&Previous>) -> bool {
    matches!(evidence.freshness, Freshness::Unchallenged { .. })
        && previous
            .and_then(|previous| Elapsed::since(tie_of(evidence, previous)?, evidence))
            .is_some_and(Elapsed::late)
}

/// The run that the next statement is held against.
pub(super) fn run_after(evidence: &VerifiedEvidence, previous: Option<&Previous>) -> Option<Run> {
    let before = previous.and_then(|previous| previous.run);
    match evidence.freshness {
        Freshness::Challenged(_) => None,
        Freshness::Unchallenged { .. } if quoted_late(evidence, previous) => before,
        Freshness::Unchallenged {
            last_receipt,
            number,
        } => Some(Run {
            last_receipt,
            number,
        }),
    }
}

pub(super) fn judge(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    subject: &Subject<'_>,
    previous: Option<&Previous>,
    limits: &TimeProfile,
    now: UnixTime,
) {
    skew(result, evidence, limits, now);
    endorsement(result, subject, now);
    if let Freshness::Unchallenged {
        last_receipt,
        number,
    } = evidence.freshness
    {
        let run = Run {
            last_receipt,
            number,
        };
        history(result, evidence, subject, previous, run);
    }
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms / 1000)
}

/// The node's wall clock against the collector's. What was made out of reach is older than its
/// arrival and never newer.
fn skew(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    limits: &TimeProfile,
    now: UnixTime,
) {
    let said = evidence.statement.wall_time;
    let (ahead, behind) = (said.since(now), now.since(said));
    let fresh = matches!(evidence.freshness, Freshness::Challenged(_));
    let (off, word) = match (ahead, behind) {
        (0, behind) if fresh => (behind, "behind"),
        (ahead, _) => (ahead, "ahead of"),
    };
    let secs = off / 1000;
    let (finding, limit) = if secs > u64::from(limits.max_skew_seconds) {
        (Finding::Unchecked, limits.max_skew_seconds)
    } else if secs > u64::from(limits.warn_skew_seconds) {
        (Finding::Warning, limits.warn_skew_seconds)
    } else {
        return;
    };
    result.deviate(Deviation {
        claim: "evidence.wall_time".to_owned(),
        finding,
        code: "clock-skew".to_owned(),
        expected: format!("within {limit} s of the collector's clock"),
        found: format!("{secs} s {word} it"),
        provenance: Some(Provenance::SelfReported),
    });
}

/// Enrolment showed a maker's chain that was valid then.
fn endorsement(result: &mut AttestationResult, subject: &Subject<'_>, now: UnixTime) {
    if let Some(until) = subject.endorsed_until
        && now > until
    {
        result.deviate(Deviation {
            claim: "node.endorsement".to_owned(),
            finding: Finding::Warning,
            code: "endorsement-expired".to_owned(),
            expected: format!("an EK certificate chain valid at {}", now.secs()),
            found: format!("it ended at {}", until.secs()),
            provenance: Some(Provenance::HardwareSigned),
        });
    }
}

/// A statement made out of reach, against the one before and the TPM's clock.
fn history(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    subject: &Subject<'_>,
    previous: Option<&Previous>,
    run: Run,
) {
    // No number is better told than whoever signed it.
    let signed = result.by("evidence.history", Provenance::HardwareSigned);
    let mut deviate = |finding, code: &str, expected: String, found: String, provenance| {
        result.deviate(Deviation {
            claim: "evidence.history".to_owned(),
            finding,
            code: code.to_owned(),
            expected,
            found,
            provenance,
        });
    };
    let none = run.last_receipt == Sha256Digest([0; 32]);
    if !none && subject.receipt.is_none() {
        let expected = "signed under a receipt that the log issued for this node".to_owned();
        let found = format!("under {}, which is not shown to be one", run.last_receipt);
        deviate(Finding::Unchecked, "receipt-unknown", expected, found, None);
    }
    let Some(previous) = previous else {
        return;
    };
    let late = quoted_late(evidence, Some(previous));
    if let Some(before) = previous.run
        && before.last_receipt == run.last_receipt
        && run.number <= before.number
    {
        let expected = format!("a number above {}", before.number);
        let found = format!("number {}", run.number);
        deviate(
            Finding::Unchecked,
            "history-number",
            expected,
            found,
            Some(signed),
        );
    }
    let hardware = Some(Provenance::HardwareSigned);
    if let Some(tie) = tie_of(evidence, previous)
        && let Some(elapsed) = Elapsed::since(tie, evidence)
    {
        let expected = format!("made {} after the tie of both clocks", seconds(elapsed.tpm));
        let found = format!("it says {}", seconds(elapsed.boot));
        if elapsed.in_advance() {
            // With a fresh tie the TPM itself contradicts the node.
            let finding = if tie.fresh {
                Finding::Refused
            } else {
                Finding::Unchecked
            };
            deviate(finding, "signed-in-advance", expected, found, hardware);
        } else if late {
            deviate(Finding::Warning, "quoted-late", expected, found, hardware);
        }
    }
    wall(&mut deviate, evidence, previous);
}

/// The wall clock and the kernel's between two statements of one boot.
fn wall(
    deviate: &mut impl FnMut(Finding, &str, String, String, Option<Provenance>),
    evidence: &VerifiedEvidence,
    previous: &Previous,
) {
    let statement = &evidence.statement;
    let boot_ns = statement.boot_time_ns.checked_sub(previous.boot_time_ns);
    let (Some(boot_ns), true) = (boot_ns, statement.boot_id == previous.boot.id) else {
        return;
    };
    let boot = boot_ns / 1_000_000;
    let (forward, back) = (
        statement.wall_time.since(previous.wall_time),
        previous.wall_time.since(statement.wall_time),
    );
    let apart = forward.abs_diff(boot).saturating_add(back);
    if apart > tolerance(boot, WALL_DRIFT) {
        let expected = format!("{} after the one before", seconds(boot));
        let found = match back {
            0 => format!("the wall clock says {}", seconds(forward)),
            back => format!("the wall clock went back {}", seconds(back)),
        };
        let said = Some(Provenance::SelfReported);
        deviate(Finding::Unchecked, "clock-disagrees", expected, found, said);
    }
}
