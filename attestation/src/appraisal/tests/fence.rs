//! The fence's log beside the statement: what it shows, and what it cannot.

use super::{Case, NOW, Status};
use crate::{
    Sha256Digest,
    appraisal::AttestationResult,
    crypto::HashAlgorithm,
    fence_log::{self, Begun, Entry, LoggedGlass, LoggedPolicy, Program},
    profile::{Provenance, Value},
    proto::v1,
};

const PCR: usize = 13;

fn begin() -> Entry {
    Entry::Begin(Begun {
        agent: "0.1.0".to_owned(),
        root: "/".to_owned(),
        whole_host: true,
    })
}

fn program(hook: &str) -> Entry {
    Entry::Program {
        hook: hook.to_owned(),
        program: Program {
            tag: [7; 8],
            object: Sha256Digest([8; 32]),
        },
    }
}

fn policy(version: u64) -> Entry {
    Entry::Policy(LoggedPolicy {
        version,
        manifest: Sha256Digest([4; 32]),
        rules: Sha256Digest([6; 32]),
    })
}

fn ordinary() -> Vec<Entry> {
    vec![
        begin(),
        Entry::Deny,
        program("cgroup_skb/egress"),
        program("cgroup_skb/ingress"),
        Entry::World(Sha256Digest([5; 32])),
        policy(2),
    ]
}

fn bytes(entries: &[Entry]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| entry.encode().unwrap())
        .collect()
}

/// Extends the register with these, and with nothing else.
fn extended(case: &mut Case, entries: &[Entry]) {
    let bank = HashAlgorithm::Sha256;
    let mut value = fence_log::zero(bank).unwrap();
    for entry in entries {
        value = fence_log::extend(bank, &value, &entry.encode().unwrap()).unwrap();
    }
    case.tpm.pcrs[PCR] = value.as_slice().try_into().unwrap();
}

fn sent(case: &mut Case, content: Vec<u8>) {
    case.logs = vec![v1::Log {
        name: "fence".to_owned(),
        content,
        ..v1::Log::default()
    }];
}

/// A node whose fence is extended before it takes effect, and a profile that asks for it.
fn measured() -> Case {
    let mut case = Case::ordinary();
    let fence = case.fence();
    fence.object_digest = vec![8; 32];
    fence.links = ["cgroup_skb/egress", "cgroup_skb/ingress"]
        .into_iter()
        .map(|hook| v1::fence_state::Link {
            hook: hook.to_owned(),
            program_tag: vec![7; 8],
            ..Default::default()
        })
        .collect();
    case.profile = case.profile.replace(
        "[[require]]\nclaim = \"kernel.lockdown\"",
        "[fence]\npcr = 13\n[[require]]\nclaim = \"kernel.lockdown\"",
    );
    extended(&mut case, &ordinary());
    sent(&mut case, bytes(&ordinary()));
    case
}

fn codes(result: &AttestationResult) -> Vec<&str> {
    result.deviations().map(|d| d.code.as_str()).collect()
}

fn source(result: &AttestationResult, claim: &str) -> Option<Provenance> {
    let claim = result.submods["fence"].claims.get(claim)?;
    Some(claim.provenance)
}

const MEASURED: [&str; 6] = [
    "fence.agent",
    "fence.break_glass",
    "fence.policy",
    "fence.programs",
    "fence.rules",
    "fence.world",
];
const SAID: [&str; 4] = [
    "fence.attached",
    "fence.mode",
    "fence.root",
    "fence.whole_host",
];

#[test]
fn what_was_put_in_force_is_measured_and_what_is_attached_now_is_not() {
    let mut case = measured();
    for claim in ["fence.policy", "fence.programs", "fence.world"] {
        let fill = match claim {
            "fence.policy" => "04",
            "fence.world" => "05",
            _ => "08",
        };
        let is = format!("is = \"{}\"\nprovenance = \"measured\"", fill.repeat(32));
        case.require(claim, &is);
    }
    let result = case.appraise();
    assert_eq!(codes(&result), [""; 0]);
    assert_eq!(result.status, Status::Affirming);
    for claim in MEASURED {
        assert_eq!(
            source(&result, claim),
            Some(Provenance::Measured),
            "{claim}"
        );
    }
    for claim in SAID {
        let found = source(&result, claim);
        assert_eq!(found, Some(Provenance::SelfReported), "{claim}");
    }
    let version = &result.submods["fence"].claims["fence.policy_version"];
    assert_eq!(version.value, Value::Number(2));
}

#[test]
fn a_log_and_a_statement_that_part_have_their_own_codes() {
    use Status::{Contraindicated, None as Undecided};
    type Spoil = fn(&mut Case);
    let cases: &[(&str, Spoil, Status, &str)] = &[
        ("no log", |c| c.logs.clear(), Undecided, "fence-log-missing"),
        (
            "a log lost and begun anew",
            |c| sent(c, Vec::new()),
            Contraindicated,
            "fence-log-does-not-replay",
        ),
        (
            "a torn log",
            |c| {
                let mut log = bytes(&ordinary());
                log.pop();
                sent(c, log);
            },
            Contraindicated,
            "fence-log-does-not-replay",
        ),
        (
            "an entry that was never extended",
            |c| {
                let mut entries = ordinary();
                entries.insert(5, policy(1));
                sent(c, bytes(&entries));
            },
            Contraindicated,
            "fence-log-does-not-replay",
        ),
        (
            "somebody else extended the register",
            |c| c.tpm.pcrs[PCR] = [1; 32],
            Contraindicated,
            "fence-log-does-not-replay",
        ),
        (
            "no entries at all",
            |c| {
                let mut log = bytes(&ordinary());
                log[0] = 0xff;
                sent(c, log);
            },
            Contraindicated,
            "fence-log-malformed",
        ),
        (
            "the TPM failed, as the node says",
            |c| {
                extended(c, &ordinary()[..2]);
                sent(c, bytes(&ordinary()[..2]));
                c.fence().log_fault = Some("no answer within 1 s".to_owned());
            },
            Undecided,
            "fence-log-unavailable",
        ),
        (
            "nothing was extended, and the node says nothing of it",
            |c| {
                extended(c, &[]);
                sent(c, Vec::new());
            },
            Contraindicated,
            "fence-log-mismatch",
        ),
        (
            "another root",
            |c| {
                c.fence().root = "/trial".to_owned();
            },
            Contraindicated,
            "fence-log-mismatch",
        ),
        (
            "another program",
            |c| c.fence().links[1].program_tag = vec![9; 8],
            Contraindicated,
            "fence-log-mismatch",
        ),
        (
            "a program at a hook that the log does not know",
            |c| c.fence().links[1].hook = "tcx/egress".to_owned(),
            Contraindicated,
            "fence-log-mismatch",
        ),
        (
            "a line on a device that the log does not know",
            |c| {
                c.fence().lines = vec![v1::fence_state::Line {
                    hook: "tcx/egress".to_owned(),
                    program_tag: vec![7; 8],
                    ..Default::default()
                }];
            },
            Contraindicated,
            "fence-log-mismatch",
        ),
        (
            "another object",
            |c| c.fence().object_digest = vec![9; 32],
            Contraindicated,
            "fence-log-mismatch",
        ),
        (
            "another world",
            |c| c.statement.policy.as_mut().unwrap().world_digest = vec![9; 32],
            Contraindicated,
            "fence-log-mismatch",
        ),
        (
            "a policy that was never put in force",
            |c| {
                let mut entries = ordinary();
                entries[5] = policy(1);
                extended(c, &entries);
                sent(c, bytes(&entries));
            },
            Contraindicated,
            "fence-log-mismatch",
        ),
        (
            "all denied since, and the statement says enforcing",
            |c| {
                let mut entries = ordinary();
                entries.splice(4..6, [Entry::Deny]);
                extended(c, &entries);
                sent(c, bytes(&entries));
            },
            Contraindicated,
            "fence-log-mismatch",
        ),
        (
            "a policy put in force between statement and quote",
            |c| {
                let mut entries = ordinary();
                entries.push(policy(3));
                extended(c, &entries);
                sent(c, bytes(&entries));
            },
            Undecided,
            "fence-log-changed",
        ),
    ];
    for (name, spoil, status, code) in cases {
        let mut case = measured();
        spoil(&mut case);
        let result = case.appraise();
        assert_eq!(codes(&result), [*code], "{name}");
        assert_eq!(result.status, *status, "{name}");
        for claim in ["fence.policy", "fence.programs", "fence.world"] {
            assert_ne!(source(&result, claim), Some(Provenance::Measured), "{name}");
        }
    }
}

#[test]
fn what_only_the_log_can_say_is_not_refused_while_the_fence_changes() {
    use Status::{Contraindicated, None as Undecided};
    type Row<'a> = (&'a str, &'a str, &'a [&'a str], Status);
    let rows: &[Row<'_>] = &[
        (
            "the log's alone",
            "claim = \"fence.policy_version\"\none_of = [2, 3]\nprovenance = \"measured\"",
            &["fence-log-changed", "claim-unavailable"],
            Undecided,
        ),
        (
            "in no statement",
            "claim = \"fence.agent\"\nis = \"0.1.0\"\nprovenance = \"self-reported\"",
            &["fence-log-changed", "claim-unavailable"],
            Undecided,
        ),
        (
            "the node's word is enough",
            "claim = \"fence.policy_version\"\nis = 2\nprovenance = \"self-reported\"",
            &["fence-log-changed"],
            Undecided,
        ),
        (
            "the node's word is enough, and not the right one",
            "claim = \"fence.policy_version\"\nis = 3\nprovenance = \"self-reported\"",
            &["fence-log-changed", "claim-value"],
            Contraindicated,
        ),
        (
            "what no log says",
            "claim = \"fence.attached\"\nis = true\nprovenance = \"measured\"",
            &["fence-log-changed", "claim-provenance"],
            Contraindicated,
        ),
    ];
    for (name, require, expected, status) in rows {
        let mut case = measured();
        case.profile += &format!("\n[[require]]\n{require}\n");
        let mut entries = ordinary();
        entries.push(policy(3));
        extended(&mut case, &entries);
        sent(&mut case, bytes(&entries));
        let result = case.appraise();
        assert_eq!(codes(&result), *expected, "{name}");
        assert_eq!(result.status, *status, "{name}");
    }
    // Where no log came, nothing tells that one would have agreed.
    let mut case = measured();
    case.profile += "\n[[require]]\nclaim = \"fence.policy_version\"\nis = 2\n\
                     provenance = \"measured\"\n";
    case.logs.clear();
    let result = case.appraise();
    assert_eq!(codes(&result), ["fence-log-missing", "claim-provenance"]);
    assert_eq!(result.status, Contraindicated);
}

#[test]
fn a_list_may_run_ahead_of_a_quote() {
    let mut case = measured();
    let mut entries = ordinary();
    entries.push(policy(3));
    sent(&mut case, bytes(&entries));
    let result = case.appraise();
    assert_eq!(codes(&result), [""; 0]);
    let version = &result.submods["fence"].claims["fence.policy_version"];
    assert_eq!(
        version.value,
        Value::Number(2),
        "what was not extended is nothing"
    );
}

#[test]
fn a_fence_out_of_sight_leaves_what_was_measured() {
    let mut case = measured();
    case.statement.policy = None;
    *case.fence() = v1::FenceState {
        fault: Some("its process is out of reach".to_owned()),
        ..v1::FenceState::default()
    };
    case.profile = case.profile.replace(
        "[[require]]\nclaim = \"fence.whole_host\"\nis = true\nprovenance = \"self-reported\"\n",
        "",
    );
    let result = case.appraise();
    assert_eq!(codes(&result), ["policy-absent", "fence-unknown"]);
    assert_eq!(source(&result, "fence.policy"), Some(Provenance::Measured));
}

#[test]
fn the_quote_covers_the_register_that_the_profile_names() {
    let mut case = measured();
    case.profile = case
        .profile
        .replace("bank = \"sha256\"", "bank = \"sha384\"")
        .replace(&"00".repeat(32), &"00".repeat(48));
    let result = case.appraise();
    let fence = result
        .deviations()
        .find(|deviation| deviation.claim == "tpm.pcr.sha384.13");
    assert_eq!(fence.unwrap().code, "pcr-not-quoted");
    assert_eq!(result.status, Status::Contraindicated);
}

#[test]
fn without_its_log_the_statement_has_nothing_but_its_own_word() {
    let mut case = measured();
    case.logs.clear();
    let result = case.appraise();
    assert_eq!(codes(&result), ["fence-log-missing"]);
    for claim in ["fence.programs", "fence.policy", "fence.world"] {
        let found = source(&result, claim);
        assert_eq!(found, Some(Provenance::SelfReported), "{claim}");
    }
    let programs = &result.submods["fence"].claims["fence.programs"];
    assert_eq!(programs.value, Value::Text("08".repeat(32)));
    case.fence().object_digest.clear();
    assert_eq!(source(&case.appraise(), "fence.programs"), None);
    case.require(
        "fence.policy_version",
        "at_least = 1\nprovenance = \"measured\"",
    );
    let result = case.appraise();
    assert_eq!(result.status, Status::Contraindicated);
    assert!(codes(&result).contains(&"claim-provenance"));
}

/// Root has detached the fence, extended nothing, and has the TPM sign what it likes.
#[test]
fn root_that_forges_the_statement_gains_no_provenance() {
    let forged = measured();
    let result = forged.appraise();
    // The register still holds what was in force until root fell, and that is all it says.
    assert_eq!(result.status, Status::Affirming);
    for claim in SAID {
        let found = source(&result, claim);
        assert_eq!(found, Some(Provenance::SelfReported), "{claim}");
    }
    // A profile that relies on more demands, as measured, what keeps root from lying.
    let demands = [
        ("fence.attached", "is = true"),
        ("fence.mode", "is = \"enforcing\""),
        ("boot.lockdown_measured", "is = \"integrity\""),
    ];
    for (claim, is) in demands {
        let mut case = measured();
        case.require(claim, &format!("{is}\nprovenance = \"measured\""));
        let result = case.appraise();
        let code = match claim {
            "boot.lockdown_measured" => "claim-missing",
            _ => "claim-provenance",
        };
        assert_eq!(codes(&result), [code], "{claim}");
        assert_eq!(result.status, Status::Contraindicated, "{claim}");
    }
    // The node's own word for the same, however good it sounds, is its own word.
    let mut case = measured();
    case.profile = case.profile.replacen(
        "one_of = [\"integrity\", \"confidentiality\"]\nprovenance = \"self-reported\"",
        "one_of = [\"integrity\", \"confidentiality\"]\nprovenance = \"measured\"",
        1,
    );
    let result = case.appraise();
    assert_eq!(codes(&result), ["claim-provenance"]);
    assert_eq!(result.at, NOW);
}

#[test]
fn without_a_profile_that_names_the_register_the_log_is_not_judged() {
    let mut case = measured();
    case.profile = case.profile.replace("[fence]\npcr = 13\n", "");
    sent(&mut case, vec![0xff]);
    let result = case.appraise();
    assert_eq!(codes(&result), [""; 0]);
    case.require("fence.policy", "is = \"x\"\nprovenance = \"measured\"");
    assert_eq!(codes(&case.appraise()), ["claim-provenance"]);
}

#[test]
fn one_log_of_a_name() {
    let mut case = measured();
    let again = case.logs.clone();
    case.logs.extend(again);
    let refused = case.verify().unwrap_err();
    assert_eq!(refused.to_string(), "Evidence.logs: holds one log twice");
}

/// Uses of break-glass as the log has them and as the statement does, at a moment of the boot
/// clock.
#[test]
fn a_use_of_break_glass_stands_in_the_log_and_in_the_statement_or_the_node_is_refused() {
    const NOW_NS: u64 = 1_000_000_000;
    let used = |fill: u8, end: u64| {
        Entry::BreakGlass(LoggedGlass {
            manifest: Sha256Digest([fill; 32]),
            end_boot_ns: end,
        })
    };
    let (later, latest) = (NOW_NS + 1, NOW_NS + 2);
    type Row<'a> = (
        &'a str,
        &'a [Entry],
        Option<(u8, u64)>,
        &'a [&'a str],
        &'a str,
    );
    let mismatch: &[&str] = &["fence-log-mismatch"];
    let changed: &[&str] = &["fence-log-changed"];
    let none = "none";
    let one = "01".repeat(32);
    let rows: &[Row<'_>] = &[
        ("none at all", &[], None, &[], none),
        (
            "one, and said so",
            &[used(1, later)],
            Some((1, later)),
            &[],
            &one,
        ),
        (
            "over when the statement was made",
            &[used(1, NOW_NS)],
            None,
            &[],
            none,
        ),
        (
            "over while it was put together",
            &[used(1, NOW_NS)],
            Some((1, NOW_NS)),
            &[],
            none,
        ),
        ("withdrawn", &[used(1, later), used(1, 0)], None, &[], none),
        (
            "two, and the last to end is said",
            &[used(2, later), used(1, latest)],
            Some((1, latest)),
            &[],
            &one,
        ),
        // It was so just before: the next statement tells.
        ("kept to itself", &[used(1, later)], None, changed, none),
        ("made up", &[], Some((1, later)), mismatch, none),
        (
            "another manifest",
            &[used(2, later)],
            Some((1, later)),
            mismatch,
            none,
        ),
        (
            "another end",
            &[used(1, later)],
            Some((1, latest)),
            mismatch,
            none,
        ),
        (
            "the first to end is said",
            &[used(1, later), used(2, latest)],
            Some((1, later)),
            changed,
            none,
        ),
    ];
    for (name, log, said, want, claim) in rows {
        let mut case = measured();
        case.statement.boot_time_ns = NOW_NS;
        case.fence().break_glass = said.map(|(fill, end)| v1::fence_state::BreakGlass {
            manifest_digest: vec![fill; 32],
            end_boot_ns: end,
        });
        let entries = [ordinary(), log.to_vec()].concat();
        extended(&mut case, &entries);
        sent(&mut case, bytes(&entries));
        let result = case.appraise();
        assert_eq!(codes(&result), *want, "{name}");
        if want.is_empty() {
            let found = &result.submods["fence"].claims["fence.break_glass"];
            let is = (found.value.clone(), found.provenance);
            let want = (Value::Text((*claim).to_owned()), Provenance::Measured);
            assert_eq!(is, want, "{name}");
        }
    }
    // Kept to itself for longer than a statement: root took it out of what the agent says.
    let mut case = measured();
    case.statement.boot_time_ns = NOW_NS;
    let entries = [vec![used(1, later)], ordinary()].concat();
    extended(&mut case, &entries);
    sent(&mut case, bytes(&entries));
    assert_eq!(codes(&case.appraise()), *mismatch);
}
