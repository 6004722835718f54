//! An approver's challenge, and collectors that lie about who answers it. The TPMs are software
//! TPMs with certificates of the test's own maker; the collector that passes bytes is the real one.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bailiwick_attestation::proto::v1::{
    self, activation_answer::Answer, collector_message::Message, node_message,
};
use bailiwick_attestation::tpm::{Public, make_credential};
use bailiwick_attestation::x509::Bundle;
use bailiwick_attestation::{DeploymentId, Sha256Digest};
use bailiwick_collector::approve::{Applicant, ApproveRefused, Expect, answered, examine};
use bailiwick_collector::clock;
use bailiwick_policy::model::{confirm, edit};
use prost::Message as _;
use stand::{Conversation, Machine, Maker, Stand, entry};

/// Looks at what a collector shows, with the roots of `maker`.
fn look(
    request: &v1::EnrollRequest,
    maker: &Maker,
    ek: Option<Sha256Digest>,
    serial: Option<&str>,
) -> Result<Applicant, ApproveRefused> {
    let roots = Bundle::parse(maker.root.as_bytes()).unwrap().certificates;
    let enrolment = v1::Enrolment {
        request: Some(request.clone()),
        ..v1::Enrolment::default()
    };
    let expect = Expect {
        deployment: &DeploymentId::new("demo").unwrap(),
        roots: &roots,
        intermediates: &[],
        ek,
        chassis_serial: serial,
        now: clock::now(),
    };
    examine(Some(&enrolment), &expect)
}

/// What `answering` makes of a challenge to `applicant`.
async fn challenge(applicant: &Applicant, answering: &Machine) -> Result<(), ApproveRefused> {
    let secret = [3; 32];
    let sealed = make_credential(&applicant.ek, applicant.ak.name(), &secret).unwrap();
    let opened = answering
        .tpm
        .activate(sealed.id_object, sealed.encrypted_secret)
        .await;
    let answer = match opened {
        Ok(secret) => Answer::Secret(secret),
        Err(why) => Answer::Refused(why.to_string()),
    };
    answered(&secret, Some(&answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_shows_is_checked_on_paper() {
    let stand = Stand::new().await;
    let (machine, other) = (stand.machine("gpu-01"), stand.machine("gpu-02"));
    let good = machine.request(&stand.maker).await;
    let foreign = other.request(&stand.maker).await;
    let stranger = machine.request(&Maker::new("stranger")).await;
    assert!(look(&good, &stand.maker, None, None).is_ok());
    assert!(look(&good, &stand.maker, Some(machine.ek()), Some("ABC123")).is_ok());

    type Edit = fn(&mut v1::EnrollRequest, &v1::EnrollRequest);
    let cases: &[(&str, Edit, &str)] = &[
        (
            "another deployment's",
            |r, _| r.deployment = "other".into(),
            "deployment-mismatch",
        ),
        (
            "another EK under this certificate",
            |r, f| r.ek_public = f.ek_public.clone(),
            "ek-key-mismatch",
        ),
        (
            "no certificate",
            |r, _| r.ek_certificates.clear(),
            "ek-uncertified",
        ),
        (
            "an AK that signs anything",
            |r, _| r.ak_public = r.transport_public.clone(),
            "ak-not-restricted",
        ),
        (
            "an EK that signs",
            |r, _| r.ek_public = r.ak_public.clone(),
            "ek-attributes",
        ),
        (
            "bytes that are no key",
            |r, _| r.ak_public.truncate(9),
            "public-malformed",
        ),
    ];
    for (name, edit, want) in cases {
        let mut shown = good.clone();
        edit(&mut shown, &foreign);
        let refused = look(&shown, &stand.maker, None, None).unwrap_err();
        assert_eq!(refused.code(), *want, "{name}");
    }
    let refused = look(&stranger, &stand.maker, None, None).unwrap_err();
    assert_eq!(
        refused.code(),
        "no-path",
        "a maker the approver does not know"
    );
    // A genuine TPM, and not this machine's: what the approver read there decides.
    let refused = look(&foreign, &stand.maker, Some(machine.ek()), None).unwrap_err();
    assert_eq!(refused.code(), "ek-other");
    let refused = look(&good, &stand.maker, None, Some("ABC124")).unwrap_err();
    assert_eq!(refused.code(), "chassis-other");
    let mut uncertified = good.clone();
    uncertified.ek_certificates.clear();
    assert!(look(&uncertified, &stand.maker, Some(machine.ek()), None).is_ok());
    let absent = examine(
        None,
        &Expect {
            deployment: &DeploymentId::new("demo").unwrap(),
            roots: &[],
            intermediates: &[],
            ek: None,
            chassis_serial: None,
            now: clock::now(),
        },
    );
    assert_eq!(absent.unwrap_err().code(), "enrolment-absent");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_tpm_that_has_both_keys_answers() {
    let stand = Stand::new().await;
    let (machine, other) = (stand.machine("gpu-01"), stand.machine("gpu-02"));
    let good = machine.request(&stand.maker).await;
    let applicant = look(&good, &stand.maker, None, None).unwrap();
    challenge(&applicant, &machine).await.unwrap();
    let refused = challenge(&applicant, &other).await.unwrap_err();
    assert_eq!(refused.code(), "credential-refused", "another TPM");

    // The collector shows another TPM's AK, or a key in software, beside a genuine EK: whichever
    // TPM it asks, none opens the secret.
    let mut mixed = good.clone();
    mixed.ak_public = other.request(&stand.maker).await.ak_public;
    let invented = software_ak(&good.ak_public);
    let mut software = good.clone();
    software.ak_public = invented;
    for (name, shown) in [("another TPM's AK", mixed), ("a software key", software)] {
        let applicant = look(&shown, &stand.maker, None, None).unwrap();
        for answering in [&machine, &other] {
            let refused = challenge(&applicant, answering).await.unwrap_err();
            assert_eq!(refused.code(), "credential-refused", "{name}");
        }
    }

    // An answer to an older challenge is none to this one.
    let older = make_credential(&applicant.ek, applicant.ak.name(), &[4; 32]).unwrap();
    let replayed = machine
        .tpm
        .activate(older.id_object, older.encrypted_secret)
        .await
        .unwrap();
    let refused = answered(&[3; 32], Some(&Answer::Secret(replayed))).unwrap_err();
    assert_eq!(refused.code(), "credential-mismatch");
}

/// The AK's public area with another point of the curve in it.
fn software_ak(ak_public: &[u8]) -> Vec<u8> {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let point = &key.der_bytes()[1..];
    let mut out = ak_public.to_vec();
    let at = out.len() - 68;
    out[at + 2..at + 34].copy_from_slice(&point[..32]);
    out[at + 36..].copy_from_slice(&point[32..]);
    assert!(Public::parse(&out).is_ok());
    out
}

/// `bailiwick` with arguments separated by spaces.
async fn bailiwick(config: &Path, arguments: &str) -> Output {
    let here = std::env::current_exe().unwrap();
    let binary: PathBuf = here
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("bailiwick");
    assert!(
        binary.is_file(),
        "{} is missing: build the workspace first",
        binary.display()
    );
    let words: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let config = config.to_owned();
    let run = move || {
        Command::new(binary)
            .args(words)
            .arg("--config")
            .arg(config)
            .output()
            .unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

async fn answer(machine: &Machine, stream: &mut Conversation) {
    let activation = loop {
        if let Message::Activation(activation) = stream.next().await.unwrap() {
            break activation;
        }
    };
    let opened = machine
        .tpm
        .activate(activation.credential_blob, activation.encrypted_secret);
    let answer = v1::ActivationAnswer {
        id: activation.id,
        answer: Some(Answer::Secret(opened.await.unwrap())),
    };
    stream.send(node_message::Message::Activation(answer)).await;
}

/// From pending to confirmed, in one command; and out again in another.
#[tokio::test(flavor = "multi_thread")]
async fn an_approver_approves_and_retires_with_one_command_each() {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    let enrolled = machine.enroll(&stand.maker).await;
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let mut statement = machine.statement(&stand, None);
    statement.epoch = 3;
    let evidence = machine
        .quote(&statement.encode_to_vec(), stream.nonce)
        .await;
    assert_eq!(stream.evidence(evidence).await.unwrap().code(), "accepted");

    let config = stand.client_config();
    let policy = stand.dir.path().join("approved");
    std::fs::create_dir(&policy).unwrap();
    let other = format!("# ours\n{}", entry("gpu-09", &stand.machine("gpu-09")));
    std::fs::write(policy.join("inventory.toml"), &other).unwrap();
    let root = stand.dir.path().join("ek-roots.pem");
    let arguments = format!(
        "enroll approve gpu-01 --policy {} --key {} --deployment demo --roots {} --place row-3 \
         --jurisdiction DE --address 10.9.1.0/28 --device GPU-a --by alice --yes --output json",
        policy.display(),
        stand.dir.path().join("approver").display(),
        root.display(),
    );
    let (output, ()) = tokio::join!(
        bailiwick(&config, &arguments),
        answer(&machine, &mut stream)
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let seen: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(seen["ek"], machine.ek().to_string());
    assert_eq!(seen["ak"], machine.ak());
    assert_eq!(seen["chassis_serial"], "ABC123");
    assert_eq!(seen["epoch"], 3);
    assert_eq!(seen["ek_chain"].as_array().unwrap().len(), 2);

    let text = std::fs::read_to_string(policy.join("inventory.toml")).unwrap();
    assert!(text.starts_with(&other), "{text}");
    let inventory = edit::read(&text).unwrap();
    let node = inventory.by_ek(&machine.ek()).unwrap();
    assert_eq!((node.name.as_str(), node.epoch), ("gpu-01", 3));
    let approvers =
        bailiwick_collector::direct::read_approvers(&stand.dir.path().join("allowed"), 1).unwrap();
    let deployment = DeploymentId::new("demo").unwrap();
    let ak = &machine.tpm.identity().ak_name;
    let approval = confirm::verify(node, &deployment, ak, &approvers).unwrap();
    assert_eq!(approval.principals, "alice");

    // With it in force, the collector says the same.
    drop(stream);
    stand.apply(&text).await;
    stand.meet(&mut machine);
    let config = stand.client_config();
    let output = bailiwick(&config, "enroll list --output json").await;
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = rows.as_array().unwrap().iter();
    let row = row.clone().find(|row| row["node"] == "gpu-01").unwrap();
    assert_eq!(row["state"], "enrolled");
    assert_eq!(row["ak"], "confirmed by alice");
    let acts = format!("enroll acts --kind enrolment --vkey {}", stand.log_vkey());
    let output = bailiwick(&config, &acts).await;
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("in the log"), "{said}");

    let retire = format!(
        "enroll retire gpu-01 --policy {} --reason sold",
        policy.display()
    );
    assert!(bailiwick(&config, &retire).await.status.success());
    let text = std::fs::read_to_string(policy.join("inventory.toml")).unwrap();
    let inventory = edit::read(&text).unwrap();
    assert_eq!(
        inventory.retired(&machine.ek()).as_deref(),
        Some("gpu-01 was retired: sold")
    );
}

/// A collector that shows one TPM and asks another: nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_that_is_not_answered_writes_nothing() {
    let stand = Stand::new().await;
    let (machine, other) = (stand.machine("gpu-01"), stand.machine("gpu-02"));
    let enrolled = machine.enroll(&stand.maker).await;
    let config = stand.client_config();
    let policy = stand.dir.path().join("approved");
    std::fs::create_dir(&policy).unwrap();
    let root = stand.dir.path().join("ek-roots.pem");
    let arguments = format!(
        "enroll approve gpu-01 --policy {} --key {} --deployment demo --roots {} \
         --jurisdiction DE --yes",
        policy.display(),
        stand.dir.path().join("approver").display(),
        root.display(),
    );
    let output = bailiwick(&config, &arguments).await;
    assert_eq!(output.status.code(), Some(1), "not connected");
    let mut stream = machine.stream(&enrolled).await.unwrap();
    let lie = async {
        let activation = loop {
            if let Message::Activation(activation) = stream.next().await.unwrap() {
                break activation;
            }
        };
        let opened = other
            .tpm
            .activate(activation.credential_blob, activation.encrypted_secret)
            .await;
        let answer = v1::ActivationAnswer {
            id: activation.id,
            answer: Some(match opened {
                Ok(secret) => Answer::Secret(secret),
                Err(_) => Answer::Secret(vec![0; 32]),
            }),
        };
        stream.send(node_message::Message::Activation(answer)).await;
    };
    let (output, ()) = tokio::join!(bailiwick(&config, &arguments), lie);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("credential-mismatch"), "{stderr}");
    assert!(!policy.join("inventory.toml").exists());
}
