//! An ordinary node that is affirmed, and each neighbour of it that is not.

mod boot;
mod booted;
mod cvm;
mod draft;
mod drift;
mod fence;
mod geo;
mod gpu;
mod guest;
mod host;
mod identity;
mod ima;
mod logs;
mod merge;
mod strict;
mod time;
mod vtpm;
mod written;

use super::*;
use crate::{
    evidence::{Freshness, Nonce},
    fixture::{PROFILE, SoftTpm, encode, previous, statement},
    proto::v1,
};

const NOW: UnixTime = UnixTime(1_800_000_000_000);
const CHALLENGE: Freshness = Freshness::Challenged(Nonce::new([6; 32]));

/// Everything an appraisal takes, each part of which a case may spoil.
struct Case {
    tpm: SoftTpm,
    statement: v1::Statement,
    logs: Vec<v1::Log>,
    freshness: Freshness,
    profile: String,
    listed: bool,
    policy: bool,
    version: u64,
    now: UnixTime,
    previous: Option<Previous>,
    ek: Sha256Digest,
    kind: TpmKind,
    ak_word: AkWord,
    listed_ak: Option<Vec<u8>>,
    chassis_serial: Option<String>,
    devices: Vec<String>,
    foreign_devices: Vec<(String, NodeId)>,
    epoch: u64,
    endorsed_until: Option<UnixTime>,
    receipt: Option<LogEntry>,
    geotag: GeoWord,
    endorsements: Endorsements,
}

impl Case {
    fn ordinary() -> Self {
        let tpm = SoftTpm::new();
        Self {
            statement: statement(5, Some(Sha256Digest([9; 32]))),
            logs: Vec::new(),
            freshness: CHALLENGE,
            profile: PROFILE.to_owned(),
            listed: true,
            policy: true,
            version: 2,
            now: NOW,
            previous: Some(previous(&tpm)),
            tpm,
            ek: Sha256Digest([7; 32]),
            kind: TpmKind::Chip,
            ak_word: AkWord::Collector,
            listed_ak: None,
            chassis_serial: None,
            devices: Vec::new(),
            foreign_devices: Vec::new(),
            epoch: 0,
            endorsed_until: None,
            receipt: None,
            geotag: GeoWord::Absent,
            endorsements: Endorsements::default(),
        }
    }

    fn verify(&self) -> Result<VerifiedEvidence, EvidenceRefused> {
        let mut evidence = self.tpm.evidence(&encode(&self.statement), &self.freshness);
        evidence.logs.clone_from(&self.logs);
        VerifiedEvidence::verify(&evidence, &self.tpm.ak(), &self.freshness)
    }

    fn appraise(&self) -> AttestationResult {
        self.appraise_verified(&self.verify().unwrap())
    }

    fn appraise_verified(&self, verified: &VerifiedEvidence) -> AttestationResult {
        self.appraise_of(verified, (&self.tpm.ak()).into(), None)
    }

    /// The same of somebody with that key, whom the inventory lists so.
    fn appraise_of(
        &self,
        verified: &VerifiedEvidence,
        signer: Signer<'_>,
        guest: Option<&GuestIdentity>,
    ) -> AttestationResult {
        let (deployment, node) = (
            DeploymentId::new("demo").unwrap(),
            NodeId::new("gpu-01").unwrap(),
        );
        let place = JurisdictionCode::new("DE").unwrap();
        let subject = Subject {
            deployment: &deployment,
            node: self.listed.then_some(&node),
            jurisdiction: Some(&place),
            ek: &self.ek,
            signer,
            guest,
            tpm: self.kind,
            ak_word: &self.ak_word,
            listed_ak: self.listed_ak.as_deref(),
            chassis_serial: self.chassis_serial.as_deref(),
            devices: &self.devices,
            foreign_devices: &self.foreign_devices,
            epoch: self.epoch,
            endorsed_until: self.endorsed_until,
            receipt: self.receipt.as_ref(),
            geotag: &self.geotag,
        };
        let profile = Profile::parse("profile.toml", self.profile.as_bytes()).unwrap();
        let reference = Reference {
            profile: &profile,
            version: self.version,
            manifest: Sha256Digest([4; 32]),
            not_after: UnixTime(2_000_000_000_000),
            approvers: Sha256Digest([3; 32]),
            approvers_before: &[Sha256Digest([2; 32])],
            endorsements: &self.endorsements,
        };
        let reference = self.policy.then_some(&reference);
        appraise(
            verified,
            &subject,
            reference,
            self.previous.as_ref(),
            self.now,
        )
    }

    fn fence(&mut self) -> &mut v1::FenceState {
        self.statement.fence.as_mut().unwrap()
    }

    fn claim(&mut self, name: &str) -> &mut v1::Claim {
        self.statement
            .claims
            .iter_mut()
            .find(|claim| claim.name == name)
            .unwrap()
    }

    fn previous(&mut self) -> &mut Previous {
        self.previous.as_mut().unwrap()
    }

    fn require(&mut self, claim: &str, rest: &str) {
        self.profile
            .push_str(&format!("[[require]]\nclaim = \"{claim}\"\n{rest}\n"));
    }
}

#[test]
fn an_ordinary_node_is_affirmed() {
    let mut case = Case::ordinary();
    let result = case.appraise();
    assert_eq!(result.deviations().next(), None);
    assert_eq!(result.status, Status::Affirming);
    let claim = &result.submods["tpm"].claims["tpm.pcr.sha256.7"];
    assert_eq!(claim.provenance, crate::profile::Provenance::HardwareSigned);
    // Its first statement has nothing before it.
    case.previous = None;
    case.statement = statement(0, None);
    assert_eq!(case.appraise().status, Status::Affirming);
}

#[test]
fn every_way_to_fall_short_has_its_own_code() {
    use Status::{Contraindicated, None as Undecided, Warning};
    type Spoil = fn(&mut Case);
    let cases: &[(&str, Spoil, Status, &str)] = &[
        (
            "a register differs",
            |c| c.tpm.pcrs[7] = [1; 32],
            Contraindicated,
            "pcr-value",
        ),
        (
            "a claim is left out",
            |c| c.statement.claims.retain(|x| x.name != "kernel.lockdown"),
            Contraindicated,
            "claim-missing",
        ),
        (
            "a claim could not be read",
            |c| {
                c.claim("kernel.lockdown").value =
                    Some(v1::claim::Value::Unavailable("EACCES".to_owned()))
            },
            Undecided,
            "claim-unavailable",
        ),
        (
            "a claim is wrong",
            |c| c.claim("boot.secure-boot").value = Some(v1::claim::Value::Flag(false)),
            Contraindicated,
            "claim-value",
        ),
        (
            "a claim has another type",
            |c| c.claim("boot.secure-boot").value = Some(v1::claim::Value::Text("true".to_owned())),
            Contraindicated,
            "claim-value",
        ),
        (
            "a source is too weak",
            |c| {
                c.require(
                    "kernel.release",
                    "is = \"6.12.41+deb13-amd64\"\nprovenance = \"measured\"",
                )
            },
            Contraindicated,
            "claim-provenance",
        ),
        (
            "another name",
            |c| c.statement.node = "gpu-02".to_owned(),
            Contraindicated,
            "node-name",
        ),
        (
            "other approvers",
            |c| c.statement.approvers_digest = vec![1; 32],
            Contraindicated,
            "other-approvers",
        ),
        (
            "approvers that have handed on since",
            |c| c.statement.approvers_digest = vec![2; 32],
            Warning,
            "approvers-behind",
        ),
        (
            "no policy on the node",
            |c| c.statement.policy = None,
            Undecided,
            "policy-absent",
        ),
        ("policy behind", |c| c.version = 3, Warning, "policy-behind"),
        ("policy ahead", |c| c.version = 1, Undecided, "policy-ahead"),
        (
            "another policy of that version",
            |c| c.statement.policy.as_mut().unwrap().manifest_digest = vec![8; 32],
            Contraindicated,
            "other-policy",
        ),
        (
            "policy ended",
            |c| {
                c.now = UnixTime(2_000_000_000_001);
                c.statement.wall_time_ms = c.now.0;
            },
            Warning,
            "policy-expired",
        ),
        (
            "fence gone",
            |c| c.fence().mode = v1::fence_state::Mode::Absent.into(),
            Contraindicated,
            "fence-mode",
        ),
        (
            "fence mode unknown",
            |c| c.fence().mode = 99,
            Contraindicated,
            "fence-mode",
        ),
        (
            "fence without its policy",
            |c| c.fence().mode = v1::fence_state::Mode::DefaultDeny.into(),
            Contraindicated,
            "fence-mode",
        ),
        (
            "fence out of sight",
            |c| {
                c.fence().mode = v1::fence_state::Mode::Unspecified.into();
                c.fence().fault = Some("its process is out of reach".to_owned());
            },
            Undecided,
            "fence-unknown",
        ),
        (
            "fence fault",
            |c| c.fence().fault = Some("link 7 is gone".to_owned()),
            Contraindicated,
            "fence-fault",
        ),
        (
            "a subtree only",
            |c| c.fence().whole_host = false,
            Contraindicated,
            "claim-value",
        ),
        (
            "out of reach",
            |c| {
                c.freshness = Freshness::Unchallenged {
                    last_receipt: Sha256Digest([0; 32]),
                    number: 1,
                }
            },
            Undecided,
            "unchallenged",
        ),
        (
            "not in the inventory",
            |c| c.listed = false,
            Undecided,
            "pending",
        ),
        (
            "no policy at all",
            |c| c.policy = false,
            Undecided,
            "no-policy",
        ),
        (
            "events lost",
            |c| {
                c.statement.gaps.push(v1::Gap {
                    what: "events".to_owned(),
                    count: 3,
                    reason: "full".to_owned(),
                })
            },
            Warning,
            "gap",
        ),
        (
            "statements missing",
            |c| c.previous().sequence = 2,
            Warning,
            "sequence-gap",
        ),
        (
            "number used before",
            |c| c.previous().sequence = 5,
            Contraindicated,
            "sequence-repeated",
        ),
        (
            "another past",
            |c| c.previous().digest = Sha256Digest([8; 32]),
            Contraindicated,
            "chain-broken",
        ),
        (
            "log lost",
            |c| (c.statement.epoch, c.epoch) = (1, 1),
            Undecided,
            "epoch-changed",
        ),
        (
            "log found again",
            |c| c.previous().epoch = 1,
            Contraindicated,
            "epoch-changed",
        ),
        (
            "clock went back",
            |c| c.previous().clock.as_mut().unwrap().clock = 1001,
            Contraindicated,
            "clock-went-back",
        ),
        (
            "resumes went back",
            |c| c.previous().clock.as_mut().unwrap().restart_count = 1,
            Contraindicated,
            "clock-went-back",
        ),
        (
            "TPM cleared",
            |c| c.previous().clock.as_mut().unwrap().reset_count = 8,
            Contraindicated,
            "tpm-cleared",
        ),
        (
            "TPM reset under the kernel",
            |c| c.previous().boot.reset_count = 6,
            Contraindicated,
            "reset-without-boot",
        ),
        (
            "kernel started without reset",
            |c| c.previous().boot.id = [2; 16],
            Contraindicated,
            "boot-without-reset",
        ),
    ];
    for (name, spoil, status, code) in cases {
        let mut case = Case::ordinary();
        spoil(&mut case);
        let result = case.appraise();
        let codes: Vec<_> = result.deviations().map(|d| d.code.as_str()).collect();
        assert_eq!(codes, [*code], "{name}");
        assert_eq!(result.status, *status, "{name}");
    }
}

#[test]
fn a_register_outside_the_quote_cannot_be_demanded_into_it() {
    let mut case = Case::ordinary();
    case.profile = PROFILE
        .replace("bank = \"sha256\"", "bank = \"sha384\"")
        .replace(
            "\"0000000000000000000000000000000000000000000000000000000000000000\"",
            &format!("\"{}\"", "00".repeat(48)),
        );
    let result = case.appraise();
    assert_eq!(result.status, Status::Contraindicated);
    assert!(result.deviations().all(|d| d.code == "pcr-not-quoted"));
    assert_eq!(result.deviations().count(), 8);
}

#[test]
fn what_happens_on_every_reboot_is_no_deviation() {
    let mut case = Case::ordinary();
    case.previous().clock = Some(ClockInfo {
        clock: 900,
        reset_count: 6,
        restart_count: 3,
        safe: true,
    });
    case.previous().boot = Boot {
        id: [2; 16],
        reset_count: 6,
    };
    case.tpm.clock.safe = false;
    case.tpm.clock.clock = 800;
    assert_eq!(case.appraise().deviations().next(), None);
}

#[test]
fn a_broken_boot_stays_broken_until_an_honest_one() {
    let mut case = Case::ordinary();
    let ak = case.tpm.ak();
    let steps = [
        ("the kernel runs on", [1; 16], 8, Some("reset-without-boot")),
        ("and on", [1; 16], 8, Some("reset-without-boot")),
        ("an honest boot", [2; 16], 9, None),
        ("kexec", [3; 16], 9, Some("boot-without-reset")),
        ("and on", [3; 16], 9, Some("boot-without-reset")),
        ("an honest boot", [4; 16], 10, None),
        ("and on", [4; 16], 10, None),
    ];
    for (name, boot_id, reset_count, code) in steps {
        let previous = *case.previous();
        case.statement = statement(previous.sequence + 1, Some(previous.digest));
        case.statement.boot_id = boot_id.to_vec();
        case.tpm.clock.reset_count = reset_count;
        case.tpm.clock.clock += 10;
        let result = case.appraise();
        let codes: Vec<_> = result.deviations().map(|d| d.code.as_str()).collect();
        assert_eq!(codes, Vec::from_iter(code), "{name}");
        let evidence = case.tpm.evidence(&encode(&case.statement), &case.freshness);
        let verified = VerifiedEvidence::verify(&evidence, &ak, &case.freshness).unwrap();
        case.previous = Some(Previous::after(&verified, Some(&previous)));
    }
}

#[test]
fn worse_outranks_and_nothing_is_hidden() {
    let mut case = Case::ordinary();
    case.tpm.pcrs[7] = [1; 32];
    case.version = 3;
    case.claim("kernel.lockdown").value = Some(v1::claim::Value::Unavailable("EACCES".to_owned()));
    let result = case.appraise();
    let codes: Vec<_> = result.deviations().map(|d| d.code.as_str()).collect();
    assert_eq!(codes, ["pcr-value", "claim-unavailable", "policy-behind"]);
    assert_eq!(result.status, Status::Contraindicated);
    assert_eq!(result.submods["host"].status, Status::None);
    assert_eq!(result.submods["fence"].status, Status::Warning);
    assert_eq!(result.submods["identity"].status, Status::Affirming);
}

#[test]
fn a_stored_result_is_read_back() {
    let mut case = Case::ordinary();
    case.tpm.pcrs[7] = [1; 32];
    let result = case.appraise();
    let json = result.to_json();
    assert_eq!(json["eat_profile"], "tag:github.com,2023:veraison/ear");
    assert_eq!(
        json["submods"]["tpm"]["ear.trustworthiness-vector"]["executables"],
        96
    );
    assert_eq!(json["bailiwick.ak"], "collector's word");
    let (status, deviations) = AttestationResult::read_json(json.to_string().as_bytes()).unwrap();
    assert_eq!(status, result.status);
    assert_eq!(deviations, result.deviations().cloned().collect::<Vec<_>>());
    assert_eq!(
        AttestationResult::read_json(b"{}").unwrap_err().to_string(),
        "attestation result, bailiwick.status: is absent"
    );
}

#[test]
fn evidence_that_is_not_this_nodes_is_refused_before_it_is_read() {
    let case = Case::ordinary();
    let bytes = encode(&case.statement);
    let good = case.tpm.evidence(&bytes, &CHALLENGE);
    let ak = case.tpm.ak();
    type Spoil<'a> = Box<dyn Fn(&mut v1::Evidence) + 'a>;
    let quote = |evidence: &mut v1::Evidence, edit: &dyn Fn(&mut v1::TpmQuote)| {
        if let Some(v1::evidence::Signer::TpmQuote(quote)) = &mut evidence.signer {
            edit(quote);
        }
    };
    let tee = v1::TeeReport {
        kind: "sev-snp".to_owned(),
        report: vec![0; 1184],
    };
    let cases: Vec<(&str, Spoil<'_>, &str)> = vec![
        (
            "one byte of the statement",
            Box::new(|e| e.statement[9] ^= 1),
            "statement-malformed",
        ),
        (
            "statement re-encoded",
            Box::new(|e| e.statement = reordered(&e.statement)),
            "nonce",
        ),
        (
            "signature flipped",
            Box::new(|e| quote(e, &|q| q.signature[20] ^= 1)),
            "signature",
        ),
        (
            "quote flipped",
            Box::new(|e| quote(e, &|q| q.attest[60] ^= 1)),
            "signature",
        ),
        (
            "register changed",
            Box::new(|e| e.pcrs[0].values[7].digest = vec![1; 32]),
            "pcr-digest",
        ),
        (
            "register left out",
            Box::new(|e| {
                e.pcrs[0].values.pop();
            }),
            "pcr-missing",
        ),
        (
            "register relabelled",
            Box::new(|e| e.pcrs[0].values[7].index = 30),
            "pcr-missing",
        ),
        (
            "register twice",
            Box::new(|e| {
                e.pcrs[0].values.push(v1::PcrValue {
                    index: 3,
                    digest: vec![0; 32],
                })
            }),
            "pcr-values",
        ),
        (
            "register endless",
            Box::new(|e| e.pcrs[0].values = vec![v1::PcrValue::default(); 257]),
            "evidence-malformed",
        ),
        (
            "bank unknown",
            Box::new(|e| e.pcrs[0].algorithm = 0x1_000b),
            "evidence-malformed",
        ),
        (
            "nonce short",
            Box::new(|e| e.freshness = Some(v1::evidence::Freshness::Nonce(vec![6; 31]))),
            "evidence-malformed",
        ),
        (
            "another nonce",
            Box::new(|e| e.freshness = Some(v1::evidence::Freshness::Nonce(vec![5; 32]))),
            "nonce",
        ),
        (
            "no nonce",
            Box::new(|e| e.freshness = None),
            "evidence-malformed",
        ),
        (
            "no signer",
            Box::new(|e| e.signer = None),
            "evidence-malformed",
        ),
        (
            "TEE report",
            Box::new(|e| e.signer = Some(v1::evidence::Signer::TeeReport(tee.clone()))),
            "signer-kind",
        ),
    ];
    VerifiedEvidence::verify(&good, &ak, &CHALLENGE).unwrap();
    for (name, spoil, code) in cases {
        let mut bad = good.clone();
        spoil(&mut bad);
        let refused = VerifiedEvidence::verify(&bad, &ak, &CHALLENGE).unwrap_err();
        assert_eq!(refused.code(), code, "{name}: {refused:?}");
    }
    let other = SoftTpm::new().ak();
    assert_eq!(
        VerifiedEvidence::verify(&good, &other, &CHALLENGE)
            .unwrap_err()
            .code(),
        "signature"
    );
    let replay = Freshness::Challenged(Nonce::new([7; 32]));
    assert_eq!(
        VerifiedEvidence::verify(&good, &ak, &replay)
            .unwrap_err()
            .code(),
        "nonce"
    );
}

/// The same message, its first field moved to the end: equal to a protobuf reader.
fn reordered(bytes: &[u8]) -> Vec<u8> {
    // Field 1 is a varint of one byte: two bytes in all.
    [&bytes[2..], &bytes[..2]].concat()
}
