//! A maker's word for an AK, and certificates that end: with software TPMs and an authority of the
//! test's own.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use std::time::Duration;

use bailiwick_agent::config::Iak;
use bailiwick_attestation::appraisal::{AkWord, Enrolled};
use bailiwick_attestation::cvm::GuestIdentity;
use bailiwick_attestation::evidence::GuestSigner;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::{AkPublic, Public};
use bailiwick_attestation::x509::{Bundle, Certificate};
use bailiwick_attestation::{DeploymentId, UnixTime};
use bailiwick_collector::clock;
use bailiwick_collector::direct::read_approvers;
use bailiwick_collector::identity::{Makers, Presented, ak_word, makers_word};
use bailiwick_policy::model::{Node, edit};
use stand::{Machine, Maker, Stand, entry};

const HANDLE: u32 = 0x8101_0010;
const IAK: [&str; 2] = [
    "tpm2_createprimary -C e -G ecc256:ecdsa-sha256:null -c iak.ctx \
     -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|restricted",
    "tpm2_evictcontrol -C o -c iak.ctx 0x81010010",
];

/// A machine whose maker gave it an IAK, certified for device `serial`.
async fn machine(stand: &Stand, maker: &Maker, serial: &str) -> Machine {
    let mut machine = stand.machine_with("gpu-01", &IAK);
    let word = machine.tpm.certify_ak(HANDLE, [0; 32]).await.unwrap();
    let file = stand.dir.path().join(format!("iak-{serial}.pem"));
    std::fs::write(&file, maker.certify_iak(&word.public, serial)).unwrap();
    machine.config.tpm.iak = Some(Iak {
        handle: HANDLE,
        certificates: vec![file.display().to_string()],
    });
    machine
}

fn listed(machine: &Machine, serial: &str) -> String {
    format!(
        "{}chassis_serial = \"{serial}\"\n",
        entry("gpu-01", machine)
    )
}

fn roots(maker: &Maker) -> Vec<Certificate> {
    Bundle::parse(maker.root.as_bytes()).unwrap().certificates
}

#[tokio::test(flavor = "multi_thread")]
async fn a_makers_key_vouches_for_the_ak_of_its_own_device() {
    let mut stand = Stand::new().await;
    let (maker, stranger) = (Maker::new("device maker"), Maker::new("device maker"));
    let mut machine = machine(&stand, &maker, "ABC123").await;
    let request = machine.request(&stand.maker).await;
    assert_eq!(request.iak_certificates.len(), 1);

    let (deployment, ek) = (DeploymentId::new("demo").unwrap(), machine.ek());
    let ak = AkPublic::new(Public::parse(&request.ak_public).unwrap()).unwrap();
    let approvers = read_approvers(&stand.dir.path().join("allowed"), 1).unwrap();
    let node =
        |serial: &str| -> Node { edit::read(&listed(&machine, serial)).unwrap().nodes[0].clone() };
    let nameless = edit::read(&entry("gpu-01", &machine)).unwrap().nodes[0].clone();
    let (known, unknown) = (roots(&maker), roots(&stranger));
    let other = stand.machine("gpu-02");
    let foreign = other.request(&stand.maker).await;
    let foreign_ak = AkPublic::new(Public::parse(&foreign.ak_public).unwrap()).unwrap();
    let other_ek = other.ek();
    let cases = [
        ("its device", node("ABC123"), &known, &ak, &ek, Ok(())),
        (
            "another device of the maker",
            node("ABC124"),
            &known,
            &ak,
            &ek,
            Err("iak-other-device"),
        ),
        (
            "nobody wrote the chassis down",
            nameless,
            &known,
            &ak,
            &ek,
            Err("iak-no-chassis"),
        ),
        (
            "another maker of the same name",
            node("ABC123"),
            &unknown,
            &ak,
            &ek,
            Err("signature"),
        ),
        (
            "another TPM's AK",
            node("ABC123"),
            &known,
            &foreign_ak,
            &ek,
            Err("certify-name"),
        ),
        (
            "beside another EK",
            node("ABC123"),
            &known,
            &ak,
            &other_ek,
            Err("certify-qualifying-data"),
        ),
    ];
    let enrolment = v1::Enrolment {
        request: Some(request.clone()),
        activated_ms: clock::now().millis(),
        ..v1::Enrolment::default()
    };
    for (name, node, roots, ak, ek, want) in cases {
        let presented = Presented {
            deployment: &deployment,
            enrolment: &enrolment,
            ek,
            signer: &Enrolled::Ak(Box::new(ak.clone())),
        };
        let makers = Makers {
            roots,
            intermediates: &[],
        };
        let got = makers_word(&presented, &node, &makers);
        assert_eq!(got.map_err(|refused| refused.code()), want, "{name}");
        let word = ak_word(&presented, Some(&node), &approvers, &makers);
        let wanted = if want.is_ok() {
            AkWord::Iak
        } else {
            AkWord::Collector
        };
        assert_eq!(word, wanted, "{name}");
    }
    // A guest has no AK that a maker could know: its processor speaks for it, where it is listed as one.
    let presented = Presented {
        deployment: &deployment,
        enrolment: &enrolment,
        ek: &ek,
        signer: &Enrolled::Guest(GuestSigner {
            key: ek,
            instance: None,
        }),
    };
    let makers = Makers {
        roots: &known,
        intermediates: &[],
    };
    let tpm = node("ABC123");
    let guest = Node {
        guest: Some(GuestIdentity::default()),
        ..tpm.clone()
    };
    let refused = makers_word(&presented, &tpm, &makers).unwrap_err();
    assert_eq!(refused.code(), "iak-no-tpm");
    for (listed, want) in [
        (Some(&guest), AkWord::Processor),
        (Some(&tpm), AkWord::Collector),
        (None, AkWord::Collector),
    ] {
        assert_eq!(ak_word(&presented, listed, &approvers, &makers), want);
    }

    // And the collector says so, with the maker's root configured.
    stand.trust_devices_of(&maker);
    stand.apply(&listed(&machine, "ABC123")).await;
    stand.meet(&mut machine);
    machine.enroll(&stand.maker).await;
    let mut operator = stand.operator().await;
    let rows = operator.list_enrolments(bailiwick_attestation::proto::v1::ListEnrolmentsRequest {});
    let rows = rows.await.unwrap().into_inner().enrolments;
    assert_eq!(rows[0].ak, "iak");
}

/// TLS looked once: a stream does not outlive the certificate that opened it, and the enrolment
/// port renews it for whoever's TPM answers, without anybody's help.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_closes_its_stream_and_is_renewed_by_activation() {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    stand.certificates_last(10);
    stand.apply(&entry("gpu-01", &machine)).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll(&stand.maker).await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let ended = loop {
        match tokio::time::timeout(Duration::from_secs(15), stream.next()).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => break status,
            Err(_elapsed) => panic!("the stream outlives its certificate"),
        }
    };
    assert_eq!(ended.message(), "certificate-expired: enrol again");
    assert!(clock::now() >= UnixTime(enrolled.certificate_not_after_ms));
    let renewed = machine.enroll(&stand.maker).await;
    assert!(renewed.certificate_not_after_ms > enrolled.certificate_not_after_ms);
    drop(machine.stream(&renewed).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_closes_its_stream_and_opens_none() {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    stand.apply(&entry("gpu-01", &machine)).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll(&stand.maker).await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let request = bailiwick_attestation::proto::v1::RevokeNodeRequest {
        node: "gpu-01".into(),
    };
    stand.operator().await.revoke_node(request).await.unwrap();
    let ended = loop {
        if let Err(status) = stream.next().await {
            break status;
        }
    };
    assert_eq!(ended.message(), "certificate-revoked");
    let Err(refused) = machine.stream(&enrolled).await else {
        panic!("a revoked certificate opens a stream");
    };
    assert_eq!(refused.message(), "certificate-revoked: enrol again");
    let renewed = machine.enroll(&stand.maker).await;
    drop(machine.stream(&renewed).await.unwrap());
}
