//! Claims against the profile, and the few demands that no profile can drop.

use super::{
    Devices, Reference, Subject, boot,
    fence::{self, FenceClaims, LogSays},
    geo::Place,
    gpu, host,
    logs::{NO_TPM, UNSIGNED},
    result::{AppraisedClaim, AttestationResult, Deviation, Finding},
    strict,
    verify::VerifiedEvidence,
};
use crate::{
    crypto::HashAlgorithm,
    evidence::ClaimValue,
    ids::{NodeId, UnixTime},
    profile::{Bank, Met, Profile, Provenance, Requirement, TpmProfile, Value, any_met, moment},
    term::Lapsed,
};

/// What has to be so under any profile.
pub(super) fn judge(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    node: &NodeId,
    reference: &Reference<'_>,
    now: UnixTime,
) {
    name(result, evidence, node);
    policy(result, evidence, reference, now);
    fence::judge(result, evidence);
    host::judge(result, evidence);
}

/// What the profile demands of the evidence itself. Without a subject there is no inventory to ask,
/// and claims of it are missing.
pub(super) fn demands(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    subject: Option<&Subject<'_>>,
    profile: &Profile,
    devices: &Devices,
    now: UnixTime,
) {
    registers(result, evidence, &profile.tpm, now);
    let log = profile.fence.as_ref();
    let bank = hash_of(profile.tpm.bank);
    let shown = log.map_or(LogSays::Nothing, |log| {
        fence::replay(result, evidence, log.pcr, bank)
    });
    let fence = FenceClaims::new(evidence, &shown);
    if log.is_some() {
        fence.note(result);
    }
    let measured = boot::judge(result, evidence, profile, now);
    measured.note(result);
    let place = Place::judge(result, subject, profile, now);
    for requirement in &profile.requirements {
        let claim = &requirement.claim;
        if let Some(found) = place.find(claim).or_else(|| devices.guest.find(claim)) {
            if let Some(found) = found {
                require(result, requirement, found, now);
            }
            continue;
        }
        let found = match measured.find(claim) {
            Some(found) => found,
            None if claim.starts_with(gpu::PREFIX) => devices.gpus.find(claim),
            None => find(evidence, subject, &fence, requirement),
        };
        require(result, requirement, found, now);
    }
    host::modules(result, evidence, &measured);
    strict::judge(result, profile, &measured);
    strict::revoked(result, evidence, profile, &measured, now);
}

fn name(result: &mut AttestationResult, evidence: &VerifiedEvidence, node: &NodeId) {
    if evidence.statement.node != *node {
        result.deviate(Deviation {
            claim: "node.name".to_owned(),
            finding: Finding::Refused,
            code: "node-name".to_owned(),
            expected: node.to_string(),
            found: evidence.statement.node.to_string(),
            provenance: Some(Provenance::SelfReported),
        });
    }
}

pub(super) const fn hash_of(bank: Bank) -> HashAlgorithm {
    match bank {
        Bank::Sha256 => HashAlgorithm::Sha256,
        Bank::Sha384 => HashAlgorithm::Sha384,
    }
}

fn registers(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    profile: &TpmProfile,
    now: UnixTime,
) {
    let bank = hash_of(profile.bank);
    for index in &profile.require {
        let claim = format!("tpm.pcr.{bank}.{index}");
        let allowed = profile.values.get(index);
        let expected = || match allowed.map(Vec::as_slice) {
            Some([one]) => one.value.to_string().trim_matches('"').to_owned(),
            Some(many) => format!("one of {} values of profile", many.len()),
            None => "any value, quoted".to_owned(),
        };
        let Some(value) = evidence.register(bank, *index) else {
            let (code, found) = match evidence.alone() {
                false => ("pcr-not-quoted", "not in the quote"),
                true => (UNSIGNED, NO_TPM),
            };
            result.deviate(Deviation {
                claim,
                finding: Finding::Refused,
                code: code.to_owned(),
                expected: expected(),
                found: found.to_owned(),
                provenance: None,
            });
            continue;
        };
        let found = Value::Text(value.to_string());
        let met = allowed.map_or(Met::Yes, |values| any_met(values, &found, now));
        let wrong = match met {
            Met::Yes => None,
            Met::No => Some(("pcr-value", value.to_string())),
            Met::NotNow(lapsed) => {
                let (code, why) = lapsed_words(lapsed, ["pcr-early", "pcr-ended", "pcr-revoked"]);
                Some((code, format!("{value}, {why}")))
            }
        };
        if let Some((code, found)) = wrong {
            result.deviate(Deviation {
                claim: claim.clone(),
                finding: Finding::Refused,
                code: code.to_owned(),
                expected: expected(),
                found,
                provenance: Some(Provenance::HardwareSigned),
            });
        }
        result.note(
            claim,
            AppraisedClaim {
                value: found,
                provenance: Provenance::HardwareSigned,
            },
        );
    }
}

/// Why what is known does not count: one of these codes, and in words.
fn lapsed_words(
    lapsed: Lapsed,
    [early, ended, revoked]: [&'static str; 3],
) -> (&'static str, String) {
    let (code, why, at) = match lapsed {
        Lapsed::Early(from) => (early, "good only from", from),
        Lapsed::Ended(until) => (ended, "good only until", until),
        Lapsed::Revoked(since) => (revoked, "revoked since", since),
    };
    (code, format!("{why} {}", moment(at)))
}

fn policy(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    reference: &Reference<'_>,
    now: UnixTime,
) {
    let statement = &evidence.statement;
    let mut deviate = |claim: &str, finding, code: &str, expected: String, found: String| {
        result.deviate(Deviation {
            claim: claim.to_owned(),
            finding,
            code: code.to_owned(),
            expected,
            found,
            provenance: Some(Provenance::SelfReported),
        });
    };
    if statement.approvers != reference.approvers {
        let (expected, found) = (
            reference.approvers.to_string(),
            statement.approvers.to_string(),
        );
        // Handing on takes a moment on each node, and says nothing against it.
        let (finding, code) = if reference.approvers_before.contains(&statement.approvers) {
            (Finding::Warning, "approvers-behind")
        } else {
            (Finding::Refused, "other-approvers")
        };
        deviate("policy.approvers", finding, code, expected, found);
    }
    let wanted = format!("version {}", reference.version);
    match &statement.policy {
        None => {
            let found = "none applied on the node".to_owned();
            deviate(
                "policy.version",
                Finding::Unchecked,
                "policy-absent",
                wanted,
                found,
            );
        }
        Some(policy) if policy.version < reference.version => {
            let found = format!("version {}", policy.version);
            deviate(
                "policy.version",
                Finding::Warning,
                "policy-behind",
                wanted,
                found,
            );
        }
        Some(policy) if policy.version > reference.version => {
            let found = format!("version {}", policy.version);
            deviate(
                "policy.version",
                Finding::Unchecked,
                "policy-ahead",
                wanted,
                found,
            );
        }
        Some(policy) if policy.manifest != reference.manifest => {
            let (expected, found) = (reference.manifest.to_string(), policy.manifest.to_string());
            deviate(
                "policy.manifest",
                Finding::Refused,
                "other-policy",
                expected,
                found,
            );
        }
        Some(_) => {}
    }
    if now > reference.not_after {
        let expected = format!("a policy valid at {}", now.secs());
        let found = format!("it ended at {}", reference.not_after.secs());
        deviate(
            "policy.not_after",
            Finding::Warning,
            "policy-expired",
            expected,
            found,
        );
    }
}

/// What was found under a claim's name.
pub(super) enum Found {
    Is(Value, Provenance),
    Unavailable(String),
    Missing,
}

fn find(
    evidence: &VerifiedEvidence,
    subject: Option<&Subject<'_>>,
    fence: &FenceClaims,
    requirement: &Requirement,
) -> Found {
    let claim = requirement.claim.as_str();
    let said = |value| Found::Is(value, Provenance::SelfReported);
    let hardware = |value| Found::Is(value, Provenance::HardwareSigned);
    let statement = &evidence.statement;
    let text = |text: &str| Value::Text(text.to_owned());
    match claim {
        "tpm.firmware_version" => evidence
            .firmware_version()
            .map_or(Found::Missing, |version| {
                hardware(Value::Text(format!("{version:016x}")))
            }),
        "tpm.reset_count" | "tpm.restart_count" | "tpm.clock_safe" => {
            evidence.clock().map_or(Found::Missing, |clock| {
                hardware(match claim {
                    "tpm.reset_count" => Value::Number(clock.reset_count.into()),
                    "tpm.restart_count" => Value::Number(clock.restart_count.into()),
                    _ => Value::Flag(clock.safe),
                })
            })
        }
        "policy.version" => statement
            .policy
            .map_or(Found::Missing, |policy| said(Value::Number(policy.version))),
        "policy.world" => statement.policy.map_or(Found::Missing, |policy| {
            said(text(&policy.world.to_string()))
        }),
        "node.jurisdiction" => {
            let place = subject.and_then(|subject| subject.jurisdiction);
            place.map_or(Found::Missing, |place| {
                Found::Is(text(place.as_str()), Provenance::OperatorSigned)
            })
        }
        // Somebody else than the collector says that this AK is this TPM's.
        "node.ak_confirmed" => subject.map_or(Found::Missing, |subject| {
            let vouched = Value::Flag(subject.ak_word.vouched());
            Found::Is(vouched, Provenance::OperatorSigned)
        }),
        fenced if fenced.starts_with("fence.") => fence.find(fenced, requirement.minimum),
        other => register(evidence, other).unwrap_or_else(|| match statement.claims.get(other) {
            Some(ClaimValue::Text(found)) => said(text(found)),
            Some(ClaimValue::Number(number)) => said(Value::Number(*number)),
            Some(ClaimValue::Flag(flag)) => said(Value::Flag(*flag)),
            Some(ClaimValue::Data(data)) => said(Value::Text(hex::encode(data))),
            Some(ClaimValue::Unavailable(why)) => Found::Unavailable(why.clone()),
            None => Found::Missing,
        }),
    }
}

/// `tpm.pcr.<bank>.<index>`, if the claim is one.
fn register(evidence: &VerifiedEvidence, claim: &str) -> Option<Found> {
    let (bank, index) = claim.strip_prefix("tpm.pcr.")?.split_once('.')?;
    let value = HashAlgorithm::from_name(bank)
        .zip(index.parse().ok())
        .and_then(|(bank, index)| evidence.register(bank, index));
    Some(value.map_or(Found::Missing, |value| {
        Found::Is(Value::Text(value.to_string()), Provenance::HardwareSigned)
    }))
}

fn require(result: &mut AttestationResult, requirement: &Requirement, found: Found, now: UnixTime) {
    let found = result.heard(&requirement.claim, found, requirement.minimum);
    let mut deviate = |finding, code: &str, expected: String, found: String, provenance| {
        result.deviate(Deviation {
            claim: requirement.claim.clone(),
            finding,
            code: code.to_owned(),
            expected,
            found,
            provenance,
        });
    };
    let expected = || requirement.expected.to_string();
    match found {
        // Leaving a claim out must not be worth more than making it wrongly.
        Found::Missing => {
            deviate(
                Finding::Refused,
                "claim-missing",
                expected(),
                "not in the evidence".to_owned(),
                None,
            );
        }
        Found::Unavailable(why) => {
            let why = format!("unavailable: {}", why.chars().take(400).collect::<String>());
            deviate(
                Finding::Unchecked,
                "claim-unavailable",
                expected(),
                why,
                None,
            );
        }
        Found::Is(value, provenance) => {
            if provenance < requirement.minimum {
                let wanted = format!("{}, at least {}", expected(), requirement.minimum);
                let found = format!("{value}, {provenance}");
                deviate(
                    Finding::Refused,
                    "claim-provenance",
                    wanted,
                    found,
                    Some(provenance),
                );
            } else {
                match requirement.expected.met_by(&value, now) {
                    Met::Yes => {}
                    Met::No => {
                        let nearest = requirement.expected.nearest(&value);
                        let nearest =
                            nearest.map_or_else(String::new, |nearest| format!("; {nearest}"));
                        deviate(
                            Finding::Refused,
                            "claim-value",
                            expected(),
                            format!("{value}{nearest}"),
                            Some(provenance),
                        );
                    }
                    Met::NotNow(lapsed) => {
                        let codes = ["claim-early", "claim-ended", "claim-revoked"];
                        let (code, why) = lapsed_words(lapsed, codes);
                        let found = format!("{value}, {why}");
                        deviate(Finding::Refused, code, expected(), found, Some(provenance));
                    }
                }
            }
            result.note(
                requirement.claim.clone(),
                AppraisedClaim { value, provenance },
            );
        }
    }
}
