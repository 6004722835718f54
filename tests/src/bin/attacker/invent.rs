//! A collector invents a node: the AK is a software key, the quote is made up, and result and
//! receipt are signed with the collector's own keys, so that everything fits together.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_attestation::appraisal::{
    AkWord, GeoWord, Reference, Subject, TpmKind, VerifiedEvidence, appraise,
};
use bailiwick_attestation::evidence::Freshness;
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{Checkpoint, LogEntry, NoteSigner, leaf_hash};
use bailiwick_attestation::tpm::{AkPublic, Public};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_collector::appraise::endorsed_until;
use bailiwick_collector::direct::read_approvers;
use bailiwick_collector::init::StateDir;
use bailiwick_policy::bundle::Bundle;
use prost::Message as _;

#[expect(dead_code, reason = "its statement and profile serve benchmarks")]
#[path = "../../../../attestation/src/fixture.rs"]
mod fixture;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// An honest statement, as `bailiwick node statement` wrote it
    #[arg(long)]
    stored: PathBuf,
    /// The collector's state folder
    #[arg(long)]
    collector: PathBuf,
    /// The approvers' `allowed_signers`
    #[arg(long)]
    approvers: PathBuf,
    /// How many of them must have signed
    #[arg(long)]
    threshold: u32,
    /// Where the forgery goes
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Identity {
    /// A statement, as `bailiwick node statement` wrote it
    stored: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let bytes = std::fs::read(&args.stored).context("read the honest statement")?;
    let honest = v1::StoredStatement::decode(bytes.as_slice())?;
    let forged = forge(args, honest)?;
    std::fs::write(&args.out, forged.encode_to_vec()).context("write the forgery")
}

/// Prints the EK's digest and the AK's name of an honest statement, as inventories spell them.
pub(crate) fn identity(args: &Identity) -> anyhow::Result<()> {
    let bytes = std::fs::read(&args.stored).context("read the honest statement")?;
    let honest = v1::StoredStatement::decode(bytes.as_slice())?;
    let enrolment = honest.enrolment.context("an enrolment")?;
    let request = enrolment.request.context("a request")?;
    let ak = AkPublic::new(Public::parse(&request.ak_public)?)?;
    let json = serde_json::json!({
        "ek": Sha256Digest::of(&[&request.ek_public]).to_string(),
        "ak": hex::encode(ak.name().as_bytes()),
    });
    writeln!(std::io::stdout(), "{json}").context("write to stdout")
}

fn forge(args: &Args, honest: v1::StoredStatement) -> anyhow::Result<v1::StoredStatement> {
    let evidence = honest.evidence.as_ref().context("evidence")?;
    let mut key = fixture::SoftTpm::new();
    for value in evidence.pcrs.iter().flat_map(|bank| &bank.values) {
        let index = usize::try_from(value.index)?;
        let register = key.pcrs.get_mut(index).context("a register beyond 23")?;
        *register = value.digest.as_slice().try_into()?;
    }
    let ak = key.ak();
    let mut made = key.evidence(&evidence.statement, &Freshness::of(evidence)?);
    made.logs.clone_from(&evidence.logs);
    made.quoted_boot_time_ns = evidence.quoted_boot_time_ns;
    made.log_consistency.clone_from(&evidence.log_consistency);

    let state = StateDir::at(&args.collector);
    let identity = state.identity()?;
    let approvers = read_approvers(&args.approvers, args.threshold)?;
    let received = UnixTime(honest.received_ms);
    let bundle = honest.policy.clone().context("a policy")?;
    let policy =
        Bundle::from(bundle).verify_in_force(&approvers, &identity.deployment, received)?;
    let enrolment = honest.enrolment.as_ref().context("an enrolment")?;
    let request = enrolment.request.clone().context("a request")?;
    let ek = Sha256Digest::of(&[&request.ek_public]);
    let listed = policy.model.inventory.by_ek(&ek).context("not listed")?;

    let verified = VerifiedEvidence::verify(&made, &ak, &Freshness::of(&made)?)?;
    let result = appraise(
        &verified,
        &Subject {
            deployment: &identity.deployment,
            node: Some(&listed.name),
            jurisdiction: Some(&listed.jurisdiction),
            ek: &ek,
            signer: (&ak).into(),
            guest: None,
            tpm: TpmKind::Chip,
            // Nobody else's word can be had for a key that no TPM holds.
            ak_word: &AkWord::Collector,
            listed_ak: listed.ak.as_deref(),
            chassis_serial: listed.chassis_serial.as_deref(),
            devices: &listed.devices,
            foreign_devices: &[],
            epoch: listed.epoch,
            endorsed_until: endorsed_until(enrolment),
            receipt: None,
            geotag: &GeoWord::Absent,
        },
        Some(&Reference {
            endorsements: &Endorsements::default(),
            profile: &policy.model.profile,
            version: policy.manifest.version,
            manifest: policy.manifest.digest,
            not_after: policy.manifest.not_after,
            approvers: approvers.digest(),
            approvers_before: &[],
        }),
        None,
        received,
    );
    let entry = LogEntry {
        subject: listed.name.to_string(),
        epoch: verified.statement().epoch,
        sequence: verified.statement().sequence,
        statement: result.statement,
        verdict: result.status.as_str().to_owned(),
        received,
    };
    let entry = entry.to_bytes();
    let checkpoint = Checkpoint {
        origin: identity.log_origin.clone(),
        size: 1,
        root: leaf_hash(&entry),
    };
    let log = NoteSigner::from_pkcs8(&identity.log_origin, &state.log_key()?)?;
    let receipt = v1::Receipt {
        statement_digest: result.statement.as_bytes().to_vec(),
        log: identity.log_origin,
        index: 0,
        entry,
        inclusion_path: Vec::new(),
        checkpoint: checkpoint.sign(&log)?.into_bytes(),
    };
    Ok(v1::StoredStatement {
        evidence: Some(made),
        enrolment: Some(v1::Enrolment {
            request: Some(v1::EnrollRequest {
                ak_public: ak.public().as_bytes().to_vec(),
                ..request
            }),
            ..enrolment.clone()
        }),
        previous: None,
        result: result.to_json().to_string().into_bytes(),
        receipt: Some(receipt),
        ..honest
    })
}
