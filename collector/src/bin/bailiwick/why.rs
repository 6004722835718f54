//! Deviations in an operator's words: what is wrong, who says so, and what restores standing.

use bailiwick_attestation::appraisal::{Deviation, Finding};
use bailiwick_attestation::proto::v1;
use serde_json::{Value, json};

use crate::format::time;

/// What restores standing, by the deviation's code.
fn restore(code: &str) -> &'static str {
    match code {
        "pending" => "have approvers list this TPM in inventory.toml and sign a new policy",
        "no-policy" => "apply a signed policy: bailiwick policy apply FOLDER",
        "policy-absent" | "policy-behind" => {
            "the node has been offered the policy; if it stays so, read its agent's log"
        }
        "policy-ahead" => "apply the newer policy here: bailiwick policy apply FOLDER",
        "other-policy" => {
            "two manifests of one version exist: find out who signed them, then sign a later one"
        }
        "other-approvers" => {
            "the node was installed with other approvers than this collector: reinstall one of them"
        }
        "policy-expired" => "sign and apply a new version with a later not_after",
        "pcr-value" => {
            "the machine booted something else than was validated: boot what was, or, if the change \
             is approved, add the new value to profile.toml and sign"
        }
        "pcr-not-quoted" => "add the register to the agent's configuration",
        "fence-mode" | "fence-fault" => {
            "the fence is not whole: restart bailiwick-fence, and find out who detached it"
        }
        "claim-value" => {
            "bring the machine back to what the profile demands, or sign a profile that allows this"
        }
        "boot-log-replay" => {
            "something was measured that this log does not say: read the log on the machine itself, with \
             bailiwick inspect tcg-eventlog --pcrs; if its firmware leaves events out, name the register \
             under boot.unreplayable in profile.toml and sign"
        }
        "boot-log-missing" | "ima-list-missing" => {
            "the kernel gave none (a TPM driver loaded too late, IMA off), or this collector lost what \
             came with the first statement of the boot: restart the agent"
        }
        "digest-not-of-data"
        | "unexpected-event"
        | "policy-twice"
        | "no-separator"
        | "startup-locality"
        | "startup-locality-late"
        | "separator-error"
        | "separator-data" => {
            "the log contradicts itself, as a forged one does: treat the machine as tampered with until \
             its firmware explains it"
        }
        "duplicate-separator" => {
            "known of some OVMF builds: if this is one, name the quirk under boot.quirks and sign"
        }
        "ima-replay" | "ima-entry" => {
            "the list is not what PCR 10 was extended with: treat the machine as tampered with"
        }
        "ima-violations" => {
            "files were open for writing while they were measured: exclude what does so from the IMA \
             policy, or allow a number under [ima] in profile.toml and sign"
        }
        "revoked" => {
            "it was good once and is taken back, whatever else allows it: replace it on the machine"
        }
        "strict-secure-boot"
        | "strict-command-line"
        | "strict-lockdown"
        | "strict-modules"
        | "strict-kexec"
        | "strict-ima-policy" => {
            "until this is measured, root may have said all of it: boot the machine as the strict part \
             of the profile demands, or leave the strict part out and take the fence's claims for root's \
             word"
        }
        "strict-unknown" | "strict-agent" => {
            "something ran that the profile does not know, or the agent is not the one it names: treat \
             the machine as tampered with, or list what is approved and sign"
        }
        "pcr-ended" | "pcr-early" | "pcr-revoked" | "claim-ended" | "claim-early"
        | "claim-revoked" => {
            "it is known, and not good now: bring the machine to what is, or sign other dates"
        }
        "claim-missing" | "claim-unavailable" => {
            "the agent did not or could not read this: see its log, or its version"
        }
        "claim-provenance" => "the profile wants a better source than this machine has",
        "gap" | "sequence-gap" => {
            "part of the record is lost and stays so; the next whole statement restores standing"
        }
        "epoch-changed" => "the node lost its log; look at its disk before you believe it again",
        "chain-broken" | "sequence-repeated" => {
            "two histories of one node exist: a restored snapshot or a copied disk; find the other"
        }
        "epoch-unacknowledged" => {
            "look at the node, then: bailiwick enroll approve NODE, and sign the policy"
        }
        "ak-not-of-node" => "have an approver challenge it: bailiwick enroll approve NODE",
        "chassis-serial" | "device-missing" | "device-of-another-node" => {
            "compare machine and inventory.toml; whichever is wrong, put right"
        }
        "gpu-of-another-node" | "gpu-not-of-node" | "gpu-of-node-missing" => {
            "a chip's own certificate says so: find out which host it is in; if it was moved, change \
             inventory.toml and sign"
        }
        "gpu-unlisted" => "list the identifiers of its GPUs (PDI-…) in inventory.toml and sign",
        "not-hardware" => {
            "what answered is no GPU that proves itself under NVIDIA's root: look at what is in the host"
        }
        "rim-missing" | "rim-signer-expired" | "revocation-unknown" => {
            "bring newer documents: bailiwick endorsements import, into the collector's store"
        }
        "ocsp-signature" => {
            "a response among the endorsements is signed by nobody who may: find out who brought it, \
             and take it out of the store"
        }
        "device-unlisted" => "list the device in inventory.toml, or take it out",
        "chassis-unavailable" | "devices-unavailable" | "clock-unsafe" => {
            "see why the node could not read it; the next statement is judged anew"
        }
        "tpm-cleared" => "somebody cleared the TPM: enrol the node again and have it confirmed",
        "clock-went-back" => "the TPM's clock was set back: treat the machine as tampered with",
        "reset-without-boot" | "boot-without-reset" => {
            "boot and TPM do not agree (kexec, or a reset chip): power-cycle the machine"
        }
        "unchallenged" => "none needed: it was out of reach; the next challenge is answered anew",
        "node-name" => "correct the node's name in its agent's configuration",
        _ => "see the collector's documentation for this code",
    }
}

/// Whose word the claims about the fence are, where it is nobody's but root's.
pub(crate) fn word(result: &Value) -> &'static str {
    let word = result.pointer("/submods/fence/bailiwick.claims/fence.word/value");
    match word.and_then(Value::as_str) {
        Some("root") => {
            "\nwhat is said of the fence is the word of root on that machine: its profile has no strict \
             part that holds\n"
        }
        _ => "",
    }
}

const fn finding_word(finding: Finding) -> &'static str {
    match finding {
        Finding::Refused => "checked and refused",
        Finding::Unchecked => "could not be checked",
        Finding::Warning => "to look at",
    }
}

/// One deviation for machines.
pub(crate) fn row(deviation: &Deviation) -> Value {
    let mut row = serde_json::to_value(deviation).unwrap_or_default();
    if let Some(object) = row.as_object_mut() {
        object.insert("restore".to_owned(), json!(restore(&deviation.code)));
    }
    row
}

/// What standing hangs on, for machines: a row beside those of deviations.
pub(crate) fn standing_row(line: &v1::StandingLine) -> Value {
    json!({
        "claim": "standing",
        "code": line.code,
        "found": line.what,
        "until": line.until_ms.map(time),
        "restore": line.restore,
    })
}

/// All of them for people.
pub(crate) fn text(
    summary: &v1::NodeSummary,
    standing: &[v1::StandingLine],
    deviations: &[Deviation],
) -> String {
    let mut text = format!(
        "{} is {} since {}\n",
        summary.node,
        summary.verdict,
        time(summary.since_ms)
    );
    for line in standing {
        let until = line.until_ms.map(time);
        let until = until.map_or_else(String::new, |until| format!(" (until {until})"));
        text.push_str(&format!(
            "\n{}: {}{until}\n  to restore: {}\n",
            line.code, line.what, line.restore
        ));
    }
    for deviation in deviations {
        let source = deviation
            .provenance
            .map_or_else(String::new, |provenance| format!(" ({provenance})"));
        text.push_str(&format!(
            "\n{}: {}\n  expected:   {}\n  found:      {}{source}\n  to restore: {}\n",
            deviation.claim,
            finding_word(deviation.finding),
            deviation.expected,
            deviation.found,
            restore(&deviation.code),
        ));
    }
    plain(&text)
}

/// What nodes send may hold anything; a terminal is shown plain text.
pub(crate) fn plain(text: &str) -> String {
    let control = |c: char| c.is_control() && c != '\n';
    text.chars()
        .map(|c| if control(c) { ' ' } else { c })
        .collect()
}
