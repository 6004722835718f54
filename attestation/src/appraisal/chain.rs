//! Whether a statement follows the one before it: the node's own chain, the TPM's clock, the boot.
//!
//! `resetCount` counts reboots, `restartCount` resumes within one boot, `clock` never falls except
//! within the window an unorderly power loss explains (`safe` is then false). What a lie would
//! look like is refused; what an ordinary crash looks like is a note.

use super::{
    Boot, Previous,
    result::{AttestationResult, Deviation, Finding},
    verify::VerifiedEvidence,
};
use crate::profile::Provenance;

pub(super) fn judge(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    previous: Option<&Previous>,
) {
    for gap in &evidence.statement.gaps {
        result.deviate(Deviation {
            claim: "evidence.gaps".to_owned(),
            finding: Finding::Warning,
            code: "gap".to_owned(),
            expected: "nothing lost".to_owned(),
            found: format!(
                "{} {} lost: {}",
                gap.count,
                clip(&gap.what),
                clip(&gap.reason)
            ),
            provenance: Some(Provenance::SelfReported),
        });
    }
    let Some(previous) = previous else {
        return;
    };
    sequence(result, evidence, previous);
    if previous.ak == evidence.ak {
        clock(result, evidence, previous);
        boot(result, evidence, previous);
    } else {
        another_ak(result, evidence, previous);
    }
}

fn clip(text: &str) -> String {
    text.chars().take(200).collect()
}

fn sequence(result: &mut AttestationResult, evidence: &VerifiedEvidence, previous: &Previous) {
    let statement = &evidence.statement;
    let mut deviate = |finding, code: &str, expected: String, found: String| {
        result.deviate(Deviation {
            claim: "evidence.sequence".to_owned(),
            finding,
            code: code.to_owned(),
            expected,
            found,
            provenance: Some(Provenance::SelfReported),
        });
    };
    if statement.epoch != previous.epoch {
        let finding = if statement.epoch > previous.epoch {
            // Disks die; standing waits until an approver has looked.
            Finding::Unchecked
        } else {
            Finding::Refused
        };
        let found = format!("epoch {}", statement.epoch);
        deviate(
            finding,
            "epoch-changed",
            format!("epoch {}", previous.epoch),
            found,
        );
        return;
    }
    let next = previous.sequence.saturating_add(1);
    if statement.sequence == next {
        if statement.previous != Some(previous.digest) {
            let found = statement
                .previous
                .map_or_else(|| "none".to_owned(), |d| d.to_string());
            deviate(
                Finding::Refused,
                "chain-broken",
                previous.digest.to_string(),
                found,
            );
        }
    } else if statement.sequence > next {
        let found = format!("number {}", statement.sequence);
        deviate(
            Finding::Warning,
            "sequence-gap",
            format!("number {next}"),
            found,
        );
    } else {
        let found = format!("number {}", statement.sequence);
        deviate(
            Finding::Refused,
            "sequence-repeated",
            format!("number {next}"),
            found,
        );
    }
}

/// The TPM shows its counters to each AK under numbers of that AK's own, and its clock to all of
/// them alike: it goes back to zero when the TPM is cleared, and some way after an unorderly loss
/// of power (it says that it is not safe then).
fn another_ak(result: &mut AttestationResult, evidence: &VerifiedEvidence, previous: &Previous) {
    let (Some(now), Some(before)) = (evidence.clock(), previous.clock) else {
        return;
    };
    if now.clock >= before.clock {
        return;
    }
    let (finding, code) = if now.safe {
        (Finding::Refused, "tpm-cleared")
    } else {
        (Finding::Unchecked, "clock-unsafe")
    };
    result.deviate(Deviation {
        claim: "tpm.clock".to_owned(),
        finding,
        code: code.to_owned(),
        expected: format!("at least {} ms, as under the AK before", before.clock),
        found: format!("{} ms", now.clock),
        provenance: Some(Provenance::HardwareSigned),
    });
}

fn clock(result: &mut AttestationResult, evidence: &VerifiedEvidence, previous: &Previous) {
    let (Some(now), Some(before)) = (evidence.clock(), previous.clock) else {
        return;
    };
    let mut refuse = |claim: &str, code: &str, expected: String, found: String| {
        result.deviate(Deviation {
            claim: claim.to_owned(),
            finding: Finding::Refused,
            code: code.to_owned(),
            expected,
            found,
            provenance: Some(Provenance::HardwareSigned),
        });
    };
    if now.reset_count < before.reset_count {
        // Only TPM2_Clear resets the counter: another life of the same chip.
        let expected = format!("at least {}", before.reset_count);
        refuse(
            "tpm.reset_count",
            "tpm-cleared",
            expected,
            now.reset_count.to_string(),
        );
        return;
    }
    if now.reset_count > before.reset_count {
        return;
    }
    if now.clock < before.clock {
        let expected = format!("at least {} ms", before.clock);
        refuse(
            "tpm.clock",
            "clock-went-back",
            expected,
            format!("{} ms", now.clock),
        );
    }
    if now.restart_count < before.restart_count {
        let expected = format!("at least {}", before.restart_count);
        refuse(
            "tpm.restart_count",
            "clock-went-back",
            expected,
            now.restart_count.to_string(),
        );
    }
}

/// Both parts are the same, or both are not.
pub(super) fn boots_agree(now: &Boot, before: &Boot) -> bool {
    (now.id == before.id) == (now.reset_count == before.reset_count)
}

fn boot(result: &mut AttestationResult, evidence: &VerifiedEvidence, previous: &Previous) {
    let now = Boot::of(evidence);
    let before = previous.clock.map(|clock| clock.reset_count);
    let cleared = before.is_some_and(|before| now.reset_count < before);
    if boots_agree(&now, &previous.boot) || cleared {
        return;
    }
    if evidence.alone() {
        return outlived(result, &now, &previous.boot);
    }
    let (code, expected, found) = if now.id == previous.boot.id {
        // The chip was reset under a running kernel: its registers no longer speak of this boot.
        (
            "reset-without-boot",
            "one boot, one reset of the TPM",
            "the TPM was reset, the kernel runs on",
        )
    } else {
        (
            "boot-without-reset",
            "a new boot resets the TPM",
            "a new kernel, the TPM was not reset (kexec?)",
        )
    };
    result.deviate(Deviation {
        claim: "tpm.reset_count".to_owned(),
        finding: Finding::Refused,
        code: code.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
        provenance: Some(Provenance::SelfReported),
    });
}

/// A guest keeps its key in memory: whoever speaks for it in another boot took it along.
fn outlived(result: &mut AttestationResult, now: &Boot, before: &Boot) {
    result.deviate(Deviation {
        claim: "evidence.boot_id".to_owned(),
        finding: Finding::Refused,
        code: "guest-key-outlived-boot".to_owned(),
        expected: format!(
            "boot {}, in which the key was drawn",
            hex::encode(before.id)
        ),
        found: format!("boot {}", hex::encode(now.id)),
        provenance: Some(Provenance::SelfReported),
    });
}
