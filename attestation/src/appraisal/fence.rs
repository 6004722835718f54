//! The fence: what the statement says of it, and what its log shows of it.
//!
//! The log says what was about to be put in force, and the PCR that nobody took it back. That it
//! is still attached, in which mode, and what it counted, only the kernel says through the agent:
//! those claims stay self-reported, whatever the log shows.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    claims::Found,
    logs::{NO_TPM, UNSIGNED},
    result::{AppraisedClaim, AttestationResult, Deviation, Finding},
    verify::VerifiedEvidence,
};
use crate::{
    crypto::HashAlgorithm,
    evidence::ParsedStatement,
    fence_log::{self, FenceLogRefused, Logged},
    ids::Sha256Digest,
    profile::{Provenance, Value},
    proto::v1::fence_state::Mode,
};

/// Most characters of a node's own words in a deviation.
const WORDS: usize = 400;

/// The word for a fence mode in claims and profiles.
const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Unspecified => "unspecified",
        Mode::Absent => "absent",
        Mode::DefaultDeny => "default-deny",
        Mode::Enforcing => "enforcing",
    }
}

/// What the statement says of itself.
pub(super) fn judge(result: &mut AttestationResult, evidence: &VerifiedEvidence) {
    let fence = &evidence.statement.fence;
    let mode = fence.mode();
    let mut deviate = |finding, code: &str, expected: &str, found: String| {
        result.deviate(Deviation {
            claim: "fence.mode".to_owned(),
            finding,
            code: code.to_owned(),
            expected: expected.to_owned(),
            found,
            provenance: Some(Provenance::SelfReported),
        });
    };
    if let Some(fault) = &fence.fault {
        let fault = fault.chars().take(400).collect();
        // The agent could not read the fence: no reason to believe in it, none to call it broken.
        // No lease follows, and the one in force runs out.
        let (finding, code) = match mode {
            Mode::Unspecified => (Finding::Unchecked, "fence-unknown"),
            _ => (Finding::Refused, "fence-fault"),
        };
        deviate(finding, code, "a fence without fault", fault);
    }
    let expected = match mode {
        Mode::Enforcing => return,
        Mode::DefaultDeny if evidence.statement.policy.is_none() => return,
        Mode::Unspecified if fence.fault.is_some() => return,
        Mode::DefaultDeny => "enforcing, since a policy is in force",
        Mode::Absent | Mode::Unspecified => "enforcing",
    };
    let found = mode_word(mode).to_owned();
    deviate(Finding::Refused, "fence-mode", expected, found);
}

/// Claims whose value is the log's where it can be believed.
const LOGGED: [&str; 7] = [
    "fence.agent",
    "fence.break_glass",
    "fence.policy",
    "fence.policy_version",
    "fence.programs",
    "fence.rules",
    "fence.world",
];

/// What the fence's log shows.
#[derive(Debug)]
pub(super) enum LogSays {
    /// What was in force at the quote, measured.
    State(Box<Logged>),
    /// The fence changed between statement and quote, so that the statement speaks of one state and
    /// the log of the next: what is measured could not be checked, and is not said to be wrong.
    Changing,
    /// Nothing: the node's word is what there is.
    Nothing,
}

/// Replays the log to the quoted register and holds the statement against it. Unless it shows a
/// state, the result says why.
pub(super) fn replay(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    pcr: u8,
    bank: HashAlgorithm,
) -> LogSays {
    let mut deviate = |claim: String, finding, code: &str, expected: String, found: String| {
        result.deviate(Deviation {
            claim,
            finding,
            code: code.to_owned(),
            expected,
            found,
            provenance: None,
        });
    };
    let log = || "fence.log".to_owned();
    let register = format!("tpm.pcr.{bank}.{pcr}");
    if evidence.alone() {
        let expected = format!("a log that replays to {register}");
        let (finding, found) = (Finding::Unchecked, NO_TPM.to_owned());
        deviate(log(), finding, UNSIGNED, expected, found);
        return LogSays::Nothing;
    }
    let Some(quoted) = evidence.register(bank, pcr) else {
        let expected = "quoted, since the fence's log is extended into it".to_owned();
        let found = "not in the quote".to_owned();
        deviate(
            register,
            Finding::Refused,
            "pcr-not-quoted",
            expected,
            found,
        );
        return LogSays::Nothing;
    };
    let expected = format!("a log that replays to {register}");
    let Some(bytes) = &evidence.fence_log else {
        let found = "none in the envelope".to_owned();
        deviate(
            log(),
            Finding::Unchecked,
            "fence-log-missing",
            expected,
            found,
        );
        return LogSays::Nothing;
    };
    let replayed = match fence_log::replay(bytes, bank, quoted) {
        Ok(replayed) => replayed,
        Err(refused) => {
            let found = in_words(&refused);
            deviate(log(), Finding::Refused, refused.code(), expected, found);
            return LogSays::Nothing;
        }
    };
    let statement = &evidence.statement;
    if let Some(why) = &statement.fence.log_fault {
        // The node says itself that the register does not hold everything.
        let expected = "a log with all that is in force".to_owned();
        let found = why.chars().take(WORDS).collect();
        let code = "fence-log-unavailable";
        deviate(log(), Finding::Unchecked, code, expected, found);
        return LogSays::Nothing;
    }
    if statement.fence.mode() == Mode::Unspecified {
        // The agent knows nothing of its fence: there is nothing to compare, and what was put in
        // force stands in the register all the same.
        return LogSays::State(Box::new(replayed.state));
    }
    let Some(other) = disagreement(statement, &replayed.state) else {
        return LogSays::State(Box::new(replayed.state));
    };
    let Disagreement {
        claim,
        logged,
        said,
    } = other;
    // An honest node whose fence changed between statement and quote says what was so just before;
    // the next statement says what is. One that goes on like that shows nothing.
    let changed = replayed.held_before(|state| disagreement(statement, state).is_none());
    let (finding, code, shown) = if changed {
        (Finding::Unchecked, "fence-log-changed", LogSays::Changing)
    } else {
        (Finding::Refused, "fence-log-mismatch", LogSays::Nothing)
    };
    deviate(claim.to_owned(), finding, code, logged, said);
    shown
}

fn in_words(refused: &FenceLogRefused) -> String {
    match refused {
        FenceLogRefused::Malformed(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// Where a statement and a log part.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Disagreement {
    claim: &'static str,
    logged: String,
    said: String,
}

/// The first thing in which the statement says other than the log, if there is one.
fn disagreement(statement: &ParsedStatement, logged: &Logged) -> Option<Disagreement> {
    let fence = &statement.fence;
    let differs = |claim, logged: String, said: String| {
        (logged != said).then_some(Disagreement {
            claim,
            logged,
            said,
        })
    };
    let place = |root: &str, whole_host: bool| match whole_host {
        true => format!("{root}, the whole host"),
        false => format!("{root}, a part of the host"),
    };
    let begun = logged.begun.as_ref();
    let root = differs(
        "fence.root",
        begun.map_or_else(nothing, |begun| place(&begun.root, begun.whole_host)),
        place(&fence.root, fence.whole_host),
    );
    let programs = || {
        // What is not attached any more is the statement's to say, and no lie about the log.
        let links = fence.links.iter();
        let links = links.map(|link| (&link.hook, &link.program_tag));
        let lines = fence.lines.iter();
        let lines = lines.map(|line| (&line.hook, &line.program_tag));
        links.chain(lines).find_map(|(hook, tag)| {
            let program = logged.programs.get(hook);
            differs(
                "fence.programs",
                program.map_or_else(nothing, |program| {
                    word(hook, &program.tag, program.object.as_bytes())
                }),
                word(hook, tag, &fence.object_digest),
            )
        })
    };
    let policy = || {
        differs(
            "fence.policy",
            logged.policy.map_or_else(nothing, |policy| {
                format!("version {}, {}", policy.version, policy.manifest)
            }),
            statement.policy.map_or_else(nothing, |policy| {
                format!("version {}, {}", policy.version, policy.manifest)
            }),
        )
    };
    let world = || {
        // A world table without a policy is judged by nobody.
        let logged = logged.policy.and(logged.world);
        differs(
            "fence.world",
            logged.map_or_else(nothing, |world| world.to_string()),
            statement
                .policy
                .map_or_else(nothing, |policy| policy.world.to_string()),
        )
    };
    root.or_else(programs)
        .or_else(policy)
        .or_else(world)
        .or_else(|| glass(statement, logged))
}

/// Break-glass that the log knows and the statement keeps to itself, or the other way round. What
/// the statement names may have run out while it was put together; what the log knows of may not
/// outlast it.
fn glass(statement: &ParsedStatement, logged: &Logged) -> Option<Disagreement> {
    let said = statement.fence.break_glass.as_ref();
    let latest = logged.broken_glass(statement.boot_time_ns);
    let agree = match said {
        None => latest.is_none(),
        Some(said) => {
            let manifest = Sha256Digest::from_slice(&said.manifest_digest);
            let end = manifest.and_then(|manifest| logged.break_glass.get(&manifest));
            end == Some(&said.end_boot_ns)
                && latest.is_none_or(|latest| latest.end_boot_ns <= said.end_boot_ns)
        }
    };
    let shown = |manifest: &[u8], end: u64| format!("{} until {end} ns", hex::encode(manifest));
    (!agree).then(|| Disagreement {
        claim: "fence.break_glass",
        logged: latest.map_or_else(nothing, |glass| {
            shown(glass.manifest.as_bytes(), glass.end_boot_ns)
        }),
        said: said.map_or_else(nothing, |glass| {
            shown(
                glass.manifest_digest.get(..32).unwrap_or_default(),
                glass.end_boot_ns,
            )
        }),
    })
}

fn nothing() -> String {
    "none".to_owned()
}

fn word(hook: &str, tag: &[u8], object: &[u8]) -> String {
    let (tag, object) = (hex::encode(tag), hex::encode(object));
    format!("{hook} runs {tag} of object {object}")
}

fn count(of: usize) -> Value {
    Value::Number(u64::try_from(of).unwrap_or(u64::MAX))
}

/// Everything a profile can ask of the fence, by name, each with its source.
pub(super) struct FenceClaims {
    claims: BTreeMap<&'static str, AppraisedClaim>,
    /// The log shows another state than the statement, and the next statement tells.
    changing: bool,
}

impl FenceClaims {
    /// What was put in force comes from the log where it shows a state, and from the statement
    /// otherwise.
    pub(super) fn new(evidence: &VerifiedEvidence, shown: &LogSays) -> Self {
        let statement = &evidence.statement;
        let fence = &statement.fence;
        let mode = fence.mode();
        let text = |text: &str| Value::Text(text.to_owned());
        let paths = u64::try_from(fence.unfenced_paths.len()).unwrap_or(u64::MAX);
        let mut claims = BTreeMap::new();
        let mut put = |name, value, provenance| {
            claims.insert(name, AppraisedClaim { value, provenance });
        };
        let said = Provenance::SelfReported;
        put("fence.mode", text(mode_word(mode)), said);
        let attached = matches!(mode, Mode::Enforcing | Mode::DefaultDeny);
        put("fence.attached", Value::Flag(attached), said);
        put("fence.whole_host", Value::Flag(fence.whole_host), said);
        put("fence.root", text(&fence.root), said);
        put("fence.unfenced_paths", Value::Number(paths), said);
        put("fence.unfenced", count(fence.unfenced.len()), said);
        // What is open although nobody would be let in by now. A look that did not see all says
        // nothing here, and a profile that asks fails.
        if !fence.devices_unseen {
            let holders = fence.devices.iter().flat_map(|device| &device.holders);
            let without = holders.filter(|holder| holder.standing != "device-granted");
            put(
                "fence.devices_held_without_grant",
                count(without.count()),
                said,
            );
        }
        let hooks: BTreeSet<&str> = fence
            .links
            .iter()
            .map(|link| link.hook.as_str())
            .chain(fence.lines.iter().map(|line| line.hook.as_str()))
            .collect();
        let hooks: Vec<&str> = hooks.into_iter().collect();
        put("fence.lines", text(&hooks.join(",")), said);
        let first = fence.lines.iter().all(|line| line.position == 0);
        put("fence.first_in_chain", Value::Flag(first), said);
        match shown {
            LogSays::State(logged) => {
                let seen = Provenance::Measured;
                let objects: BTreeSet<String> = logged
                    .programs
                    .values()
                    .map(|program| program.object.to_string())
                    .collect();
                if !objects.is_empty() {
                    let objects: Vec<String> = objects.into_iter().collect();
                    put("fence.programs", Value::Text(objects.join(",")), seen);
                }
                if let Some(begun) = &logged.begun {
                    put("fence.agent", text(&begun.agent), seen);
                }
                let glass = logged.broken_glass(statement.boot_time_ns);
                let glass = glass.map_or_else(nothing, |glass| glass.manifest.to_string());
                put("fence.break_glass", Value::Text(glass), seen);
                if let (Some(policy), world) = (&logged.policy, logged.world) {
                    put("fence.policy", text(&policy.manifest.to_string()), seen);
                    put("fence.policy_version", Value::Number(policy.version), seen);
                    put("fence.rules", text(&policy.rules.to_string()), seen);
                    if let Some(world) = world {
                        put("fence.world", text(&world.to_string()), seen);
                    }
                }
            }
            LogSays::Changing | LogSays::Nothing => {
                let glass = fence.break_glass.as_ref();
                let glass = glass.map_or_else(nothing, |glass| hex::encode(&glass.manifest_digest));
                put("fence.break_glass", Value::Text(glass), said);
                if !fence.object_digest.is_empty() {
                    let object = hex::encode(&fence.object_digest);
                    put("fence.programs", Value::Text(object), said);
                }
                if let Some(policy) = &statement.policy {
                    put("fence.policy", text(&policy.manifest.to_string()), said);
                    put("fence.policy_version", Value::Number(policy.version), said);
                    put("fence.world", text(&policy.world.to_string()), said);
                }
            }
        }
        let changing = matches!(shown, LogSays::Changing);
        Self { claims, changing }
    }

    /// One of them, for somebody who believes no source below `minimum`. What only the log could
    /// say well enough is unavailable while it speaks of another state.
    pub(super) fn find(&self, claim: &str, minimum: Provenance) -> Found {
        match self.claims.get(claim) {
            Some(found) if !self.awaited(claim) || found.provenance >= minimum => {
                Found::Is(found.value.clone(), found.provenance)
            }
            _ if self.awaited(claim) => Found::Unavailable(
                "the fence changed between statement and quote; the next statement tells"
                    .to_owned(),
            ),
            _ => Found::Missing,
        }
    }

    fn awaited(&self, claim: &str) -> bool {
        self.changing && LOGGED.contains(&claim)
    }

    /// Shows them all, so that nobody takes one for better than it is.
    pub(super) fn note(&self, result: &mut AttestationResult) {
        for (name, claim) in &self.claims {
            result.note((*name).to_owned(), claim.clone());
        }
    }
}
