//! From what GPUs say, over the verdict, to what a study may open.
//!
//! The GPUs are an ABI double's, asked over the agent's whole path: where a profile asks for proof
//! there is none, and that is what the fence has to make of it.

use bailiwick_agent::{
    collect::gpu::{self, LOGS},
    fence::Fence,
    fence_service::Enforcer,
};
use bailiwick_attestation::{
    DeploymentId, JurisdictionCode, NodeId, Sha256Digest, UnixTime,
    appraisal::{
        AkWord, AttestationResult, GeoWord, Reference, Status, Subject, TpmKind, VerifiedEvidence,
        appraise,
    },
    evidence::{Freshness, Nonce, gpu_nonce},
    gpu::Endorsements,
    profile::Profile,
    proto::v1::Log,
};
use bailiwick_nvml_double::{Staged, library};

use super::{DENIED, Host, full, until};
use crate::fixture::{PROFILE, SoftTpm, encode, statement};

const CHALLENGE: Nonce = Nonce::new([6; 32]);
const NOW: UnixTime = UnixTime(1_800_000_000_000);

/// What the agent says of a double's GPUs, appraised.
fn verdict(host: &Host, asked: &str) -> AttestationResult {
    let tpm = SoftTpm::new();
    let ak = tpm.ak();
    let mut double = Staged::new(&library().unwrap(), &host.scene.folder().join("nvml")).unwrap();
    double.add_made(1).unwrap();
    double.write().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let nonce = gpu_nonce(&CHALLENGE, ak.name().as_bytes());
    let collected = runtime.block_on(gpu::ask(
        crate::scene::PROGRAM.into(),
        Some(&double.path()),
        nonce,
        gpu::PATIENCE,
    ));
    let cited = gpu::cited(&collected, &CHALLENGE, 1);
    let mut said = statement(0, None);
    said.gpu = Some(cited.citation);
    let freshness = Freshness::Challenged(CHALLENGE);
    let mut envelope = tpm.evidence(&encode(&said), &freshness);
    let logs = LOGS.into_iter().zip(cited.logs);
    envelope.logs.extend(logs.map(|(name, content)| Log {
        name: name.to_owned(),
        content,
        ..Log::default()
    }));
    let verified = VerifiedEvidence::verify(&envelope, &ak, &freshness).unwrap();
    let profile = format!("{PROFILE}{asked}");
    let profile = Profile::parse("profile.toml", profile.as_bytes()).unwrap();
    let (deployment, node) = (
        DeploymentId::new("demo").unwrap(),
        NodeId::new("gpu-01").unwrap(),
    );
    let place = JurisdictionCode::new("DE").unwrap();
    let subject = Subject {
        deployment: &deployment,
        node: Some(&node),
        jurisdiction: Some(&place),
        ek: &Sha256Digest([0; 32]),
        signer: (&ak).into(),
        guest: None,
        tpm: TpmKind::Chip,
        ak_word: &AkWord::Collector,
        listed_ak: None,
        chassis_serial: None,
        devices: &[],
        foreign_devices: &[],
        epoch: 0,
        endorsed_until: None,
        receipt: None,
        geotag: &GeoWord::Absent,
    };
    let reference = Reference {
        profile: &profile,
        version: 2,
        manifest: Sha256Digest([4; 32]),
        not_after: UnixTime(2_000_000_000_000),
        approvers: Sha256Digest([3; 32]),
        approvers_before: &[],
        endorsements: &Endorsements::default(),
    };
    appraise(&verified, &subject, Some(&reference), None, NOW)
}

/// What follows for the fence, as a lease says it.
fn lease(fence: &mut Fence, result: &AttestationResult) {
    let stands = result.status == Status::Affirming;
    let proven = stands && result.shows("gpu.hardware");
    fence.set_gpus_proven(proven).unwrap();
    fence
        .set_lease_end(if stands { u64::MAX } else { 0 })
        .unwrap();
}

#[test]
fn a_profile_that_asks_for_gpus_turns_the_verdict_and_closes_the_devices() {
    let host = Host::new("asked");
    let mut fence = host.scene.open();
    host.policy(&mut fence, 1, "gpus = [\"0\"]\non_failure = \"stop\"\n", "");
    // Nobody asks: affirmed, and what a double says is shown as what it is.
    let silent = verdict(&host, "");
    assert_eq!(silent.status, Status::Affirming);
    assert!(!silent.shows("gpu.hardware"));
    lease(&mut fence, &silent);
    assert_eq!(host.open("studies/cardio", 1, 7), "opened");
    let mut holding = host.hold("studies/cardio", 1, 7);

    // A profile asks: the same GPUs prove nothing, new opens are denied and the holder is stopped.
    let asked = verdict(&host, "[gpu]\nmeasurements = false\n");
    assert_eq!(asked.status, Status::Contraindicated);
    let why = asked.deviations().find(|one| one.code == "not-hardware");
    assert!(why.unwrap().found.contains("not hardware"));
    lease(&mut fence, &asked);
    assert_eq!(host.open("studies/cardio", 1, 7), DENIED);
    until(&mut fence, "stopped", |_| holding.gone());

    lease(&mut fence, &silent);
    until(&mut fence, "thawed", |_| {
        host.open("studies/cardio", 1, 7) == "opened"
    });
}

#[test]
fn a_study_of_confidential_gpus_starts_and_opens_them_under_proof_alone() {
    let host = Host::new("proven");
    let mut fence = host.scene.open();
    let confidential = "gpus = [\"0\"]\nconfidential = true\non_failure = \"stop\"\n";
    host.policy(&mut fence, 1, confidential, "gpus = [\"1\"]\n");
    fence.set_lease_end(u64::MAX).unwrap();
    let counter = |fence: &mut Fence| fence.state().counters.get("cgroups.held-back").copied();
    assert_eq!(
        host.open("studies/cardio", 1, 7),
        DENIED,
        "a lease is no proof"
    );
    assert_eq!(counter(&mut fence), Some(1), "and the study is not started");
    assert_eq!(
        host.open("studies/neuro", 195, 1),
        super::NOBODY,
        "the other is"
    );

    fence.set_gpus_proven(true).unwrap();
    assert_eq!(counter(&mut fence), Some(0));
    assert_eq!(host.open("studies/cardio", 1, 7), "opened");
    let mut holding = host.hold("studies/cardio", 1, 7);
    until(&mut fence, "held", |fence| full(fence).is_some());
    assert!(!holding.gone());

    // The next lease says so no more.
    fence.set_gpus_proven(false).unwrap();
    assert_eq!(host.open("studies/cardio", 1, 7), DENIED, "at once");
    until(&mut fence, "stopped", |_| holding.gone());
    assert_eq!(
        counter(&mut fence),
        Some(0),
        "what ran goes on without its GPUs"
    );
}
