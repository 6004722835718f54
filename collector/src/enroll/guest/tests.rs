//! Who is refused, and what approvers are told to sign. Reports that are good are those of a made chip, in
//! the whole-system tests.

use std::collections::BTreeSet;

use bailiwick_attestation::JurisdictionCode;
use bailiwick_attestation::cvm::{
    GuestIdentity, Judged, Launch, LaunchKey, LaunchSigner, Revocation,
};
use bailiwick_policy::model::edit;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _,
    SignatureAlgorithm,
};

use super::checks::*;
use super::*;
use crate::enroll::checks::{DEVICES, SERIAL};
use bailiwick_attestation::evidence::guest_id;
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest};
use bailiwick_policy::model::Node;

const NOW: UnixTime = UnixTime(1_800_000_000_000);

fn demo() -> DeploymentId {
    DeploymentId::new("demo").unwrap()
}

fn name() -> NodeId {
    NodeId::new("guest-01").unwrap()
}

fn spki(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    key.subject_public_key_info()
}

fn request() -> v1::GuestRequest {
    v1::GuestRequest {
        deployment: "demo".to_owned(),
        node: "guest-01".to_owned(),
        transport_spki: spki(&PKCS_ECDSA_P256_SHA256),
        chassis_serial: String::new(),
        devices: Vec::new(),
    }
}

fn node(guest: Option<GuestIdentity>) -> Node {
    let name = name();
    Node {
        ek: guest_id(&name),
        name,
        guest,
        ak: None,
        chassis_serial: None,
        devices: Vec::new(),
        place: None,
        jurisdiction: JurisdictionCode::new("DE").unwrap(),
        addresses: Vec::new(),
        epoch: 0,
        tpm: None,
        geotags_since: None,
        replaces: None,
        confirmed: None,
    }
}

/// What a report of a Milan says: in the clear, and as the inventory spells it.
fn report(kind: &str) -> v1::TeeEvidence {
    let mut report = vec![0; 1184];
    report[0] = 3;
    report[0x34] = 1;
    report[0x90..0xc0].fill(6);
    report[0x188..0x18a].copy_from_slice(&[0x19, 0x01]);
    report[0x1a0..0x1e0].fill(7);
    v1::TeeEvidence {
        report: Some(v1::TeeReport {
            kind: kind.to_owned(),
            report,
        }),
        ..v1::TeeEvidence::default()
    }
}

fn facts(host_data: &str, signer: Option<LaunchSigner>) -> bailiwick_attestation::cvm::Facts {
    bailiwick_attestation::cvm::Facts {
        technology: "sev-snp",
        version: 3,
        chip: Some(format!("SNP-{}", "07".repeat(64))),
        product: None,
        tcb: Vec::new(),
        tcb_status: None,
        vmpl: Some(0),
        debug: false,
        measurement: "06".repeat(48),
        host_data: host_data.to_owned(),
        policy: String::new(),
        registers: Vec::new(),
        signer,
        instance: Some([5; 32]),
    }
}

#[test]
fn a_request_is_bounded_and_its_key_is_one_that_transport_has() {
    type Edit = fn(&mut v1::GuestRequest);
    let rows: [(&str, Edit, Option<&str>); 13] = [
        ("a good one", |_| {}, None),
        (
            "of another deployment",
            |it| it.deployment = "other".to_owned(),
            Some("deployment-mismatch"),
        ),
        (
            "no name",
            |it| it.node = "Guest 01".to_owned(),
            Some("node-name"),
        ),
        (
            "no key",
            |it| it.transport_spki.clear(),
            Some("transport-key"),
        ),
        (
            "a key with something behind it",
            |it| it.transport_spki.push(0),
            Some("transport-key"),
        ),
        (
            "a key on another curve",
            |it| it.transport_spki = spki(&PKCS_ECDSA_P384_SHA384),
            Some("transport-key"),
        ),
        (
            "a key of another kind",
            |it| it.transport_spki = spki(&PKCS_ED25519),
            Some("transport-key"),
        ),
        (
            "as long as one may be, and none",
            |it| it.transport_spki = vec![0; 256],
            Some("transport-key"),
        ),
        (
            "longer than any key",
            |it| it.transport_spki = vec![0; 257],
            Some("request-too-long"),
        ),
        (
            "the longest serial",
            |it| it.chassis_serial = "s".repeat(SERIAL),
            None,
        ),
        (
            "a longer one",
            |it| it.chassis_serial = "s".repeat(SERIAL + 1),
            Some("request-too-long"),
        ),
        (
            "a longer device",
            |it| it.devices = vec!["d".repeat(SERIAL + 1)],
            Some("request-too-long"),
        ),
        (
            "more devices",
            |it| it.devices = vec!["d".to_owned(); DEVICES + 1],
            Some("request-too-long"),
        ),
    ];
    for (row, edit, want) in rows {
        let mut request = request();
        edit(&mut request);
        let got = check(&request, &demo());
        assert_eq!(got.as_ref().err().map(GuestRefused::code), want, "{row}");
    }
    let mut most = request();
    most.devices = vec!["d".repeat(SERIAL); DEVICES];
    let good = check(&most, &demo()).unwrap();
    assert_eq!(good.id, guest_id(&name()));
    assert_eq!(good.key, Sha256Digest::of(&[&most.transport_spki]));
}

#[test]
fn a_name_is_a_guests_a_tpms_or_out_of_service() {
    let (guest, tpm) = (node(Some(GuestIdentity::default())), node(None));
    let nobody = Words::default();
    let rows = [
        ("nobody's", nobody, Ok(false)),
        (
            "a guest's",
            Words {
                named: Some(&guest),
                ..nobody
            },
            Ok(true),
        ),
        (
            "a TPM's",
            Words {
                named: Some(&tpm),
                ..nobody
            },
            Err("guest-of-tpm-node"),
        ),
        (
            "out of service, and listed all the same",
            Words {
                retired: Some("guest-01 was retired: over"),
                named: Some(&guest),
                ..nobody
            },
            Err("node-retired"),
        ),
    ];
    for (row, words, want) in rows {
        let got = named(&words, &name());
        let got = got.map(|listed| listed.is_some());
        assert_eq!(got.map_err(|why| why.code()), want, "{row}");
    }
}

#[test]
fn a_report_is_one_of_a_guest_alone() {
    type Edit = fn(&mut v1::TeeEvidence);
    let rows: [(&str, Edit, &str, bool); 10] = [
        ("nothing vouches for it", |_| {}, "cvm-report-data", false),
        ("none", |it| it.report = None, "guest-evidence", false),
        (
            "of a TPM beside the guest",
            |it| it.report.as_mut().unwrap().kind = "svsm-vtpm".to_owned(),
            "guest-evidence",
            false,
        ),
        (
            "likewise",
            |it| it.report.as_mut().unwrap().kind = "azure-vtpm".to_owned(),
            "guest-evidence",
            false,
        ),
        (
            "with a manifest",
            |it| it.manifest = vec![1],
            "guest-evidence",
            false,
        ),
        (
            "as long as one may be, and none",
            |it| it.report.as_mut().unwrap().report = vec![0; 64 * 1024],
            "cvm-malformed",
            false,
        ),
        (
            "too long",
            |it| it.report.as_mut().unwrap().report = vec![0; 64 * 1024 + 1],
            "request-too-long",
            false,
        ),
        (
            "with as many certificates as there may be, for another question",
            |it| it.certificates = vec![0; 32 * 1024],
            "cvm-report-data",
            false,
        ),
        (
            "with too many certificates",
            |it| it.certificates = vec![0; 32 * 1024 + 1],
            "request-too-long",
            false,
        ),
        (
            "cut off",
            |it| {
                it.report.as_mut().unwrap().report.pop();
            },
            "cvm-malformed",
            false,
        ),
    ];
    let applicant = check(&request(), &demo()).unwrap();
    let endorsements = Endorsements::default();
    let nonce = Nonce::new([9; 32]);
    let deployment = demo();
    let asked = Asked {
        deployment: &deployment,
        nonce: &nonce,
        profile: None,
        endorsements: &endorsements,
        at: NOW,
    };
    for (row, edit, code, unchecked) in rows {
        let mut evidence = report("sev-snp");
        edit(&mut evidence);
        let why = judge(&applicant, Some(&evidence), &asked).unwrap_err();
        assert_eq!((why.code(), why.unchecked()), (code, unchecked), "{row}");
    }
    let none = judge(&applicant, None, &asked).unwrap_err();
    assert_eq!(none.code(), "guest-evidence");
    // The answer to this question, and nobody has the certificate of the chip.
    let mut evidence = report("sev-snp");
    let data =
        bailiwick_attestation::evidence::guest_transport_data(&deployment, &nonce, &applicant.key);
    evidence.report.as_mut().unwrap().report[0x50..0x90].copy_from_slice(&data);
    let why = judge(&applicant, Some(&evidence), &asked).unwrap_err();
    assert_eq!((why.code(), why.unchecked()), ("cvm-key-missing", true));
}

/// Whatever judged it found no fault, and no signature either.
#[test]
fn a_report_that_nothing_vouches_for_is_refused_without_a_fault() {
    let judged = |signed| Judged {
        facts: Some(facts(&"0".repeat(64), None)),
        faults: Vec::new(),
        signed,
        hardware: signed,
        vtpm: None,
        revocation: Revocation::Good,
        relied_on: BTreeSet::new(),
    };
    assert!(good(judged(true)).is_ok());
    let why = good(judged(false)).unwrap_err();
    assert_eq!((why.code(), why.unchecked()), ("cvm-unsigned", false));
}

#[test]
fn what_approvers_are_told_to_sign_is_this_guest() {
    let zeros = "0".repeat(64);
    let signer = LaunchSigner {
        id_key: "0a".repeat(48),
        family: "0b".repeat(16),
        image: "0c".repeat(16),
        svn: 1,
    };
    let rows = [
        ("a launch nobody signed", facts(&zeros, None)),
        ("a signed one", facts(&zeros, Some(signer.clone()))),
        ("with data of its host", facts(&"0d".repeat(32), None)),
        ("with data that has no zero", facts(&"dd".repeat(32), None)),
    ];
    let mut request = request();
    request.devices = vec![
        "GPU-1".to_owned(),
        "a\"b".to_owned(),
        format!("SNP-{}", "07".repeat(64)),
        String::new(),
    ];
    for (row, facts) in &rows {
        let refused = of_node(None, facts, &request).unwrap_err();
        assert_eq!(refused.code(), "guest-unlisted");
        let text = entry(&request, facts);
        assert!(refused.to_string().ends_with(&text), "{row}: {refused}");
        let data = text.contains(&format!("host_data = \"{}\"", facts.host_data));
        assert_eq!(data, facts.host_data != zeros, "{row}: {text}");
        let signed = text.replace("place = \"\" ", "place = \"here\" ");
        let signed = signed.replace("jurisdiction = \"\"", "jurisdiction = \"DE\"");
        let inventory = edit::read(&signed).unwrap_or_else(|why| panic!("{row}: {why}\n{signed}"));
        let listed = inventory.by_name(&name()).unwrap();
        of_node(Some(listed), facts, &request).unwrap();
        assert!(listed.devices.contains(&"GPU-1".to_owned()), "{row}");
    }
    let hostile = v1::GuestRequest {
        node: "x\"\n[[guest]]".to_owned(),
        ..v1::GuestRequest::default()
    };
    assert!(entry(&hostile, &rows[0].1).starts_with("[[guest]]\nname = \"\"\n"));

    let shown = v1::GuestEnrolment {
        request: Some(request.clone()),
        nonce: Vec::new(),
        evidence: Some(report("sev-snp")),
    };
    let text = to_sign(&shown, NOW);
    assert!(text.contains(&format!("SNP-{}", "07".repeat(64))), "{text}");
    assert!(text.contains(&"06".repeat(48)), "{text}");
    let unread = v1::GuestEnrolment::default();
    assert_eq!(to_sign(&unread, NOW), "its report cannot be read\n");
}

#[test]
fn a_report_of_another_guest_is_refused() {
    let own = GuestIdentity {
        chips: vec![format!("SNP-{}", "07".repeat(64))],
        launch: Launch {
            measurement: Some("06".repeat(48)),
            next_measurement: None,
            signer: Some(LaunchKey {
                id_key: "0a".repeat(48),
                family: "0b".repeat(16),
                image: "0c".repeat(16),
            }),
            host_data: Some("0d".repeat(32)),
        },
    };
    let listed = node(Some(own));
    let signer = LaunchSigner {
        id_key: "0a".repeat(48),
        family: "0b".repeat(16),
        image: "0c".repeat(16),
        svn: 9,
    };
    let good = facts(&"0d".repeat(32), Some(signer));
    type Edit = fn(&mut bailiwick_attestation::cvm::Facts);
    let rows: [(&str, Edit, Option<&str>); 7] = [
        ("this one", |_| {}, None),
        (
            "on another chip",
            |it| it.chip = Some(format!("SNP-{}", "08".repeat(64))),
            Some("guest-chip"),
        ),
        (
            "on a chip that hides",
            |it| it.chip = None,
            Some("guest-chip"),
        ),
        (
            "another launch",
            |it| it.measurement = "07".repeat(48),
            Some("guest-launch"),
        ),
        (
            "for another host's data",
            |it| it.host_data = "0e".repeat(32),
            Some("guest-launch"),
        ),
        (
            "that nobody signed",
            |it| it.signer = None,
            Some("guest-launch"),
        ),
        (
            "another image",
            |it| it.signer.as_mut().unwrap().image = "0d".repeat(16),
            Some("guest-launch"),
        ),
    ];
    for (row, edit, want) in rows {
        let mut facts = good.clone();
        edit(&mut facts);
        let got = of_node(Some(&listed), &facts, &request());
        assert_eq!(got.err().map(|why| why.code()), want, "{row}");
    }
}
