//! What is refused as bytes: nothing of it is recorded as the guest's.

use super::*;
use crate::evidence::SignerKind;

#[test]
fn evidence_of_a_guest_is_what_its_report_binds_for_its_key() {
    let guest = Guest::ordinary();
    let verified = guest.verify().unwrap();
    assert_eq!(verified.signer_kind(), SignerKind::TeeReport);
    assert_eq!(
        (verified.clock(), verified.firmware_version()),
        (None, None)
    );
    assert!(verified.pcrs().is_none());
    let (tee, data) = verified.tee().unwrap();
    assert_eq!(tee.report.as_ref().unwrap().kind, "sev-snp");
    let statement = encode(&guest.case.statement);
    let binding = Binding::new(&CHALLENGE, &statement);
    assert_eq!(*data, TeeReportSigner::carrier(&binding));

    let mut hosts = Guest::ordinary();
    hosts.edit = |evidence| {
        evidence.tee = Some(Box::new(v1::TeeEvidence {
            certificates: vec![7; 9],
            ..v1::TeeEvidence::default()
        }));
    };
    let verified = hosts.verify().unwrap();
    assert_eq!(verified.tee().unwrap().0.certificates, [7; 9]);
}

#[test]
fn bytes_that_a_guest_did_not_sign_are_refused() {
    type Row = (&'static str, fn(&mut Guest), &'static str);
    let rows: &[Row] = &[
        (
            "a TPM's quote",
            |g| {
                g.edit = |evidence| {
                    evidence.signer = SoftTpm::new()
                        .evidence(&evidence.statement, &CHALLENGE)
                        .signer;
                };
            },
            "signer-kind",
        ),
        (
            "no signer",
            |g| g.edit = |e| e.signer = None,
            "evidence-malformed",
        ),
        (
            "played again from an earlier challenge",
            |g| {
                let before = Freshness::Challenged(Nonce::new([5; 32]));
                let binding = Binding::new(&before, &encode(&g.case.statement));
                g.data = Some(TeeReportSigner::carrier(&binding));
            },
            "cvm-report-data",
        ),
        (
            "made for another statement",
            |g| {
                let mut other = g.case.statement.clone();
                other.sequence = 6;
                let binding = Binding::new(&CHALLENGE, &encode(&other));
                g.data = Some(TeeReportSigner::carrier(&binding));
            },
            "cvm-report-data",
        ),
        (
            "a report that was made to lie beside a quote",
            |g| {
                let statement = encode(&g.case.statement);
                let name = g.enrolled.name();
                let data = crate::evidence::tee_report_data(&CHALLENGE, &statement, &name);
                g.data = Some(data);
            },
            "cvm-report-data",
        ),
        (
            "padded with something",
            |g| {
                let binding = Binding::new(&CHALLENGE, &encode(&g.case.statement));
                let mut data = TeeReportSigner::carrier(&binding);
                data[63] = 1;
                g.data = Some(data);
            },
            "cvm-report-data",
        ),
        (
            "for another key",
            |g| g.case.statement.guest_key = vec![0x62; 32],
            "guest-key",
        ),
        (
            "for no key",
            |g| g.case.statement.guest_key.clear(),
            "guest-key",
        ),
        (
            "for half a key",
            |g| g.case.statement.guest_key.truncate(16),
            "statement-malformed",
        ),
        (
            "cut short",
            |g| {
                g.edit = |e| {
                    report(e).report.truncate(1183);
                };
            },
            "cvm-malformed",
        ),
        (
            "of a processor of another maker",
            |g| g.edit = |e| report(e).kind = "tdx".to_owned(),
            "cvm-malformed",
        ),
        (
            "of a paravisor, which speaks of a TPM",
            |g| g.edit = |e| report(e).kind = "azure-vtpm".to_owned(),
            "cvm-kind",
        ),
        (
            "of an SVSM, likewise",
            |g| g.edit = |e| report(e).kind = "svsm-vtpm".to_owned(),
            "cvm-kind",
        ),
        (
            "of a kind to come",
            |g| g.edit = |e| report(e).kind = "cca".to_owned(),
            "cvm-kind",
        ),
        (
            "registers smuggled in beside it",
            |g| {
                g.edit = |evidence| {
                    evidence.pcrs = SoftTpm::new()
                        .evidence(&evidence.statement, &CHALLENGE)
                        .pcrs;
                };
            },
            "evidence-malformed",
        ),
        (
            "a geotag smuggled in beside it",
            |g| g.edit = |e| e.geotag = Some(Box::new(SoftTpm::new().nv_certify(&[1; 32], b"DE"))),
            "evidence-malformed",
        ),
        (
            "a second report beside it",
            |g| {
                g.edit = |evidence| {
                    let report = Some(report(evidence).clone());
                    evidence.tee = Some(Box::new(v1::TeeEvidence {
                        report,
                        ..v1::TeeEvidence::default()
                    }));
                };
            },
            "evidence-malformed",
        ),
        (
            "a vTPM's manifest beside it",
            |g| {
                g.edit = |evidence| {
                    evidence.tee = Some(Box::new(v1::TeeEvidence {
                        manifest: vec![1],
                        ..v1::TeeEvidence::default()
                    }));
                };
            },
            "evidence-malformed",
        ),
        (
            "said to be unavailable, and there",
            |g| {
                g.edit = |evidence| {
                    evidence.tee = Some(Box::new(v1::TeeEvidence {
                        unavailable: "EACCES".to_owned(),
                        ..v1::TeeEvidence::default()
                    }));
                };
            },
            "evidence-malformed",
        ),
        (
            "said to be refused, and there",
            |g| {
                g.edit = |evidence| {
                    evidence.tee = Some(Box::new(v1::TeeEvidence {
                        refused: "EIO".to_owned(),
                        ..v1::TeeEvidence::default()
                    }));
                };
            },
            "evidence-malformed",
        ),
        (
            "another nonce on the envelope",
            |g| g.edit = |e| e.freshness = Some(v1::evidence::Freshness::Nonce(vec![5; 32])),
            "nonce",
        ),
    ];
    Guest::ordinary().verify().unwrap();
    for (name, spoil, code) in rows {
        let mut guest = Guest::ordinary();
        spoil(&mut guest);
        let refused = guest.verify().unwrap_err();
        assert_eq!(refused.code(), *code, "{name}: {refused:?}");
    }
}

/// A node with a TPM is not heard through a report, however good that is.
#[test]
fn a_report_signs_nothing_for_a_node_with_a_tpm() {
    let guest = Guest::ordinary();
    let ak = guest.case.tpm.ak();
    let refused = VerifiedEvidence::verify(&guest.evidence(), &ak, &CHALLENGE).unwrap_err();
    assert_eq!(refused.code(), "signer-kind");
    assert_eq!(
        refused.to_string(),
        "signed by a processor's report, and what enrolled signs by a TPM's quote"
    );
    // Nor does a quote speak for a key that a processor would have to vouch for.
    let mut node = Case::ordinary();
    node.verify().unwrap();
    node.statement.guest_key = KEY.0.to_vec();
    assert_eq!(node.verify().unwrap_err().code(), "guest-key");
}
