//! TPMs that are not what they claim to be, and what the collector says to each.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::proto::v1::enrolled::State;
use stand::{Maker, Stand, entry};
use tonic::{Code, Status};

/// The stable word a refusal begins with.
fn code(refused: &Status) -> &str {
    refused.message().split(':').next().unwrap()
}

/// Flips attribute bits of a `TPMT_PUBLIC`: four bytes after type and nameAlg.
fn without(public: &[u8], bits: u32) -> Vec<u8> {
    let mut out = public.to_vec();
    let old = u32::from_be_bytes(out[4..8].try_into().unwrap());
    out[4..8].copy_from_slice(&(old & !bits).to_be_bytes());
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn genuine_but_not_in_the_inventory() {
    let stand = Stand::new().await;
    let machine = stand.machine("gpu-01");
    let enrolled = machine.enroll(&stand.maker).await;
    assert_eq!(enrolled.state(), State::Pending);
    assert_eq!(enrolled.node, "");
    // The reason is what to sign.
    let want = format!("[[node]]\nname = \"gpu-01\"\nek = \"{}\"\n", machine.ek());
    assert!(enrolled.reason.contains(&want), "{}", enrolled.reason);
    // Evidence is kept; policy is not for it.
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let request = v1::FetchPolicyRequest::default();
    let refused = stream.client.fetch_policy(request).await.unwrap_err();
    assert_eq!(code(&refused), "no-policy");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_ek_root() {
    let stand = Stand::new().await;
    let machine = stand.machine("gpu-01");
    // Another root, and one that has the name of the right one.
    for (name, want) in [("other maker", "no-path"), ("maker", "signature")] {
        let request = machine.request(&Maker::new(name)).await;
        let refused = machine.enroll_as(request, &machine.tpm).await.unwrap_err();
        assert_eq!(
            (refused.code(), code(&refused)),
            (Code::FailedPrecondition, want)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ek_certificate_of_another_tpm() {
    let stand = Stand::new().await;
    let (machine, other) = (stand.machine("gpu-01"), stand.machine("gpu-02"));
    let mut request = machine.request(&stand.maker).await;
    request.ek_certificates = other.request(&stand.maker).await.ek_certificates;
    let refused = machine.enroll_as(request, &machine.tpm).await.unwrap_err();
    assert_eq!(code(&refused), "ek-key-mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ek_certificate_and_nobody_signed_for_it() {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    let mut request = machine.request(&stand.maker).await;
    request.ek_certificates.clear();
    let refused = machine.enroll_as(request.clone(), &machine.tpm).await;
    assert_eq!(code(&refused.unwrap_err()), "ek-unvouched");
    // Approvers may: then it is their word in place of a maker's.
    stand.apply(&entry("gpu-01", &machine)).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll_as(request, &machine.tpm).await.unwrap();
    assert_eq!(
        (enrolled.state(), enrolled.node.as_str()),
        (State::Enrolled, "gpu-01")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ek_of_another_tpm_for_a_known_node() {
    let mut stand = Stand::new().await;
    let (known, mut thief) = (stand.machine("gpu-01"), stand.machine("gpu-01-again"));
    stand.apply(&entry("gpu-01", &known)).await;
    stand.meet(&mut thief);
    let mut request = thief.request(&stand.maker).await;
    request.node = "gpu-01".into();
    let refused = thief.enroll_as(request, &thief.tpm).await.unwrap_err();
    assert_eq!(code(&refused), "ek-not-of-node");
    // And a known TPM under another name.
    let mut known = known;
    stand.meet(&mut known);
    let mut request = known.request(&stand.maker).await;
    request.node = "gpu-99".into();
    let refused = known.enroll_as(request, &known.tpm).await.unwrap_err();
    assert_eq!(code(&refused), "ek-not-of-node");
}

#[tokio::test(flavor = "multi_thread")]
async fn ak_other_than_the_one_confirmed() {
    let mut stand = Stand::new().await;
    let (mut machine, mut other) = (stand.machine("gpu-01"), stand.machine("gpu-02"));
    let wrong = format!("000b{}", "ab".repeat(32));
    let inventory = format!(
        "{}ak = \"{}\"\n{}ak = \"{wrong}\"\n",
        entry("gpu-01", &machine),
        machine.ak(),
        entry("gpu-02", &other),
    );
    stand.apply(&inventory).await;
    stand.meet(&mut machine);
    stand.meet(&mut other);
    assert_eq!(machine.enroll(&stand.maker).await.state(), State::Enrolled);
    let request = other.request(&stand.maker).await;
    let refused = other.enroll_as(request, &other.tpm).await.unwrap_err();
    assert_eq!(code(&refused), "ak-not-of-node");
}

#[tokio::test(flavor = "multi_thread")]
async fn ak_that_could_lie() {
    let stand = Stand::new().await;
    let machine = stand.machine("gpu-01");
    let cases = [
        ("restricted", 0x0001_0000, "ak-not-restricted"),
        ("fixedTPM", 0x0000_0002, "ak-not-fixed-tpm"),
        ("fixedParent", 0x0000_0010, "ak-not-fixed-parent"),
        ("sensitiveDataOrigin", 0x0000_0020, "ak-imported"),
    ];
    for (name, bit, want) in cases {
        let mut request = machine.request(&stand.maker).await;
        request.ak_public = without(&request.ak_public, bit);
        let refused = machine.enroll_as(request, &machine.tpm).await.unwrap_err();
        assert_eq!(code(&refused), want, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transport_key_that_the_ak_did_not_certify_for_this() {
    let stand = Stand::new().await;
    let (machine, other) = (stand.machine("gpu-01"), stand.machine("gpu-02"));
    let good = machine.request(&stand.maker).await;
    let foreign = other.request(&stand.maker).await;
    type Edit = fn(&mut v1::EnrollRequest, &v1::EnrollRequest);
    let cases: [(&str, Edit, &str); 4] = [
        (
            "another TPM's key",
            |request, foreign| request.transport_public = foreign.transport_public.clone(),
            "certify-name",
        ),
        (
            "another TPM's certification",
            |request, foreign| {
                request.transport_public = foreign.transport_public.clone();
                request.transport_attest = foreign.transport_attest.clone();
                request.transport_signature = foreign.transport_signature.clone();
            },
            "certify-signature",
        ),
        (
            "one byte changed",
            |request, _| *request.transport_attest.last_mut().unwrap() ^= 1,
            "certify-signature",
        ),
        (
            "a key that is no signing key for TLS",
            |request, _| request.transport_public = request.ak_public.clone(),
            "certify-name",
        ),
    ];
    for (name, edit, want) in cases {
        let mut request = good.clone();
        edit(&mut request, &foreign);
        let refused = machine.enroll_as(request, &machine.tpm).await.unwrap_err();
        assert_eq!(code(&refused), want, "{name}");
    }
    let certified = machine.tpm.certify_transport([0; 32]).await.unwrap();
    let mut request = good;
    request.transport_attest = certified.attest;
    request.transport_signature = certified.signature;
    let refused = machine.enroll_as(request, &machine.tpm).await.unwrap_err();
    assert_eq!(code(&refused), "certify-qualifying-data");
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_answered_by_another_tpm() {
    let stand = Stand::new().await;
    let (machine, other) = (stand.machine("gpu-01"), stand.machine("gpu-02"));
    let request = machine.request(&stand.maker).await;
    let refused = machine.enroll_as(request, &other.tpm).await.unwrap_err();
    assert_eq!(
        (refused.code(), code(&refused)),
        (Code::PermissionDenied, "credential-mismatch")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_used_once() {
    let stand = Stand::new().await;
    let machine = stand.machine("gpu-01");
    let mut client = machine.enroller().await;
    let challenge = client.begin(machine.request(&stand.maker).await).await;
    let challenge = challenge.unwrap().into_inner();
    let secret = machine
        .tpm
        .activate(challenge.credential_blob, challenge.encrypted_secret)
        .await
        .unwrap();
    let proof = v1::EnrollProof {
        session: challenge.session,
        secret,
    };
    client.finish(proof.clone()).await.unwrap();
    let refused = client.finish(proof).await.unwrap_err();
    assert_eq!(code(&refused), "session-unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_deployments_node() {
    let stand = Stand::new().await;
    let machine = stand.machine("gpu-01");
    let mut request = machine.request(&stand.maker).await;
    request.deployment = "other".into();
    let refused = machine.enroll_as(request, &machine.tpm).await.unwrap_err();
    assert_eq!(code(&refused), "deployment-mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_bounded() {
    let stand = Stand::new().await;
    let machine = stand.machine("gpu-01");
    let good = machine.request(&stand.maker).await;
    let cases = [
        ("as many certificates as there may be", 16, 200, None),
        ("one certificate more", 17, 200, Some("request-too-long")),
        ("a serial too long", 1, 201, Some("request-too-long")),
    ];
    for (name, certificates, serial, want) in cases {
        let mut request = good.clone();
        request
            .ek_certificates
            .resize(certificates, vec![0x30, 0x00]);
        request.chassis_serial = "x".repeat(serial);
        let came = machine.enroll_as(request, &machine.tpm).await;
        let came = came.as_ref().err().map(code);
        assert_eq!(came, want, "{name}");
    }
}

/// TLS looked once: the stream that the older certificate opened ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn enrolling_again_closes_what_the_older_certificate_opened() {
    let stand = Stand::new().await;
    let machine = stand.machine("gpu-01");
    let first = machine.enroll(&stand.maker).await;
    let mut stream = machine.stream(&first).await.unwrap();
    let second = machine.enroll(&stand.maker).await;
    let ended = stream.next().await.unwrap_err();
    assert_eq!(code(&ended), "node-re-enrolled");
    let Err(refused) = machine.stream(&first).await else {
        panic!("the older certificate still opens streams");
    };
    assert_eq!(code(&refused), "certificate-superseded");
    machine.stream(&second).await.unwrap();
}
