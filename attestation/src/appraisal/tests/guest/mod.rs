//! A guest without a TPM, whose processor's report alone signs: affirmed, and each neighbour that is not.

mod appraise;
mod logs;
mod tdx;
mod verify;

use std::sync::LazyLock;

use super::*;
use crate::{
    cvm::{
        Launch,
        snp::{
            Product,
            tests::{Made, made, milan},
        },
    },
    evidence::{Binding, GuestSigner, StatementSigner, TeeReportSigner},
    x509::Certificate,
};

const FILE: Sha256Digest = Sha256Digest([8; 32]);
/// SHA-256 of the key that the guest drew for its boot.
const KEY: Sha256Digest = Sha256Digest([0x61; 32]);
/// `REPORT_ID` of the guest.
const INSTANCE: [u8; 32] = [0x1d; 32];
/// Where it stands in a report.
const REPORT_ID: usize = 0x140;

static MILAN: LazyLock<Made> = LazyLock::new(|| made(&milan()));

/// A profile that says nothing of registers.
const PROFILE: &str = r#"
name = "guests-1"
lease_seconds = 300
max_silence_seconds = 180
[tpm]
bank = "sha256"
require = []
[[require]]
claim = "kernel.lockdown"
one_of = ["integrity", "confidentiality"]
provenance = "self-reported"
[[require]]
claim = "fence.whole_host"
is = true
provenance = "self-reported"
"#;

/// Everything a guest shows and is held against, each part of which a row may spoil.
pub(super) struct Guest {
    pub(super) case: Case,
    pub(super) enrolled: GuestSigner,
    listed: Option<GuestIdentity>,
    /// Bytes put over the report, before it is signed.
    over: Vec<(usize, Vec<u8>)>,
    /// What the chip binds instead of what it should.
    data: Option<[u8; 64]>,
    /// Spoils what travels.
    edit: fn(&mut v1::Evidence),
}

impl Guest {
    /// Its maker's root is known, nothing is asked of revocation, and its operator brought all
    /// certificates.
    fn ordinary() -> Self {
        Self::with("")
    }

    /// The same with these keys under `[cvm]`.
    pub(super) fn with(section: &str) -> Self {
        let mut case = Case::ordinary();
        let unasked = match section.contains("revocation") {
            true => "",
            false => "revocation = false\n",
        };
        case.profile = format!("{PROFILE}[cvm]\n{unasked}{section}\n");
        case.statement.guest_key = KEY.0.to_vec();
        case.ak_word = AkWord::Processor;
        case.ek = crate::evidence::guest_id(&NodeId::new("gpu-01").unwrap());
        let enrolled = GuestSigner {
            key: KEY,
            instance: Some(INSTANCE),
        };
        let before = case.previous();
        before.ak = Sha256Digest::of(&[&enrolled.name()]);
        before.clock = None;
        before.boot.reset_count = 0;
        let mut guest = Self {
            case,
            enrolled,
            listed: Some(GuestIdentity {
                chips: vec![format!("SNP-{}", "07".repeat(64))],
                launch: Launch {
                    measurement: Some("06".repeat(48)),
                    next_measurement: None,
                    ..Launch::default()
                },
            }),
            over: vec![(REPORT_ID, INSTANCE.to_vec())],
            data: None,
            edit: |_| {},
        };
        guest.hardware(&MILAN);
        let all = [&MILAN.key, &MILAN.ask, &MILAN.root].map(Certificate::clone);
        let processors = &mut guest.case.endorsements.processors;
        assert!(processors.add_certificates(FILE, all.to_vec()));
        guest
    }

    /// Its root is taken for AMD's, and no other.
    fn hardware(&mut self, made: &Made) {
        let processors = &mut self.case.endorsements.processors;
        let roots = [(Product::Milan, made.root_key())];
        *processors = processors.clone().where_hardware_is(&roots, "");
    }

    fn evidence(&self) -> v1::Evidence {
        let statement = encode(&self.case.statement);
        let binding = Binding::new(&self.case.freshness, &statement);
        let data = self
            .data
            .unwrap_or_else(|| TeeReportSigner::carrier(&binding));
        let mut over: Vec<(usize, &[u8])> = vec![(0x50, &data)];
        over.extend(self.over.iter().map(|(at, what)| (*at, what.as_slice())));
        let mut evidence = self.case.tpm.evidence(&statement, &self.case.freshness);
        evidence.pcrs.clear();
        evidence.logs.clone_from(&self.case.logs);
        evidence.signer = Some(v1::evidence::Signer::TeeReport(v1::TeeReport {
            kind: "sev-snp".to_owned(),
            report: MILAN.report_with(&over),
        }));
        (self.edit)(&mut evidence);
        evidence
    }

    pub(super) fn verify(&self) -> Result<VerifiedEvidence, EvidenceRefused> {
        VerifiedEvidence::verify(&self.evidence(), &self.enrolled, &self.case.freshness)
    }
}

impl Guest {
    pub(super) fn appraise(&self) -> AttestationResult {
        self.appraise_verified(&self.verify().unwrap())
    }

    pub(super) fn appraise_verified(&self, verified: &VerifiedEvidence) -> AttestationResult {
        let signer = (&self.enrolled).into();
        self.case
            .appraise_of(verified, signer, self.listed.as_ref())
    }

    /// The next statement, after this one was recorded.
    pub(super) fn next(&mut self) {
        let verified = self.verify().unwrap();
        let after = Previous::after(&verified, self.case.previous.as_ref());
        let statement = &mut self.case.statement;
        statement.sequence += 1;
        statement.previous = Some(after.digest.0.to_vec());
        self.case.previous = Some(after);
    }
}

fn codes(result: &AttestationResult) -> Vec<&str> {
    result.deviations().map(|it| it.code.as_str()).collect()
}

fn report(evidence: &mut v1::Evidence) -> &mut v1::TeeReport {
    match &mut evidence.signer {
        Some(v1::evidence::Signer::TeeReport(report)) => report,
        other => panic!("{other:?}"),
    }
}
