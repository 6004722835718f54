//! What Intel publishes: edited, out of date, of another platform, by another signer.

use serde_json::{Value, json};

use super::super::{Collateral, MAX_COLLATERAL_BYTES};
use super::made::{AT, Plan, made};
use super::{V4, V5, endorsed, judged};
use crate::ids::UnixTime;

#[test]
fn collateral_counts_as_it_was_signed() {
    let published = V4.collateral.publish();
    assert_eq!(endorsed(&V4, &published, AT), Ok(()));
    let edit = |part: &str, from: &str, to: &str| {
        let mut edited = published.clone();
        let text = edited[part].as_str().unwrap();
        assert!(text.contains(from), "{part}");
        edited[part] = text.replacen(from, to, 1).into();
        edited
    };
    let swap = |one: &str, other: &str| {
        let mut edited = published.clone();
        edited[one] = published[other].clone();
        edited
    };
    let flip = |part: &str| {
        let mut edited = published.clone();
        let text = edited[part].as_str().unwrap();
        let last = if text.ends_with('0') { "1" } else { "0" };
        edited[part] = (text[..text.len() - 1].to_owned() + last).into();
        edited
    };
    let rows: [(&str, Value, &[&str]); 8] = [
        (
            "a level made better",
            edit("tcb_info", "OutOfDate", "UpToDate"),
            &["collateral-signature"],
        ),
        (
            "one space more",
            edit("qe_identity", ",", ", "),
            &["collateral-signature"],
        ),
        (
            "another signature",
            flip("tcb_info_signature"),
            &["collateral-signature"],
        ),
        (
            "the other's signature",
            swap("qe_identity_signature", "tcb_info_signature"),
            &["collateral-signature"],
        ),
        (
            "the root's list changed",
            flip("root_ca_crl"),
            &["crl-signature"],
        ),
        ("the PCK list changed", flip("pck_crl"), &["crl-signature"]),
        (
            "the root's list for both",
            swap("pck_crl", "root_ca_crl"),
            &["crl-issuer"],
        ),
        (
            "the PCK list for both",
            swap("root_ca_crl", "pck_crl"),
            &["crl-issuer"],
        ),
    ];
    for (name, published, want) in rows {
        assert_eq!(endorsed(&V4, &published, AT), Err(want.to_vec()), "{name}");
    }
    // Everything of another root.
    let other = endorsed(&V4, &V5.collateral.publish(), AT).unwrap_err();
    assert_eq!(other, ["root-not-known"; 3]);
}

/// Forged and out of date are told apart, and neither hides the other.
#[test]
fn collateral_is_news_in_its_time() {
    let published = V4.collateral.publish();
    let mut edited = published.clone();
    edited["tcb_info"] = (published["tcb_info"].as_str().unwrap().to_owned() + " ").into();
    let early = ["collateral-not-yet-valid"];
    let stale = ["collateral-expired"];
    let rows: [(&str, &Value, u64, Vec<&str>); 9] = [
        (
            "the lists' first second",
            &published,
            1_767_225_600,
            [&early[..], &early].concat(),
        ),
        (
            "the second before",
            &published,
            1_767_225_599,
            early.repeat(4),
        ),
        (
            "the TCB info's first second",
            &published,
            1_767_607_200,
            early.to_vec(),
        ),
        (
            "the identity's first second",
            &published,
            1_767_693_600,
            vec![],
        ),
        (
            "the TCB info's last second",
            &published,
            1_770_199_200,
            vec![],
        ),
        (
            "the second after",
            &published,
            1_770_199_201,
            stale.to_vec(),
        ),
        (
            "after the identity's last",
            &published,
            1_770_285_601,
            stale.repeat(2),
        ),
        (
            "after the lists' last",
            &published,
            1_772_323_201,
            stale.repeat(4),
        ),
        (
            "edited, and old",
            &edited,
            1_772_323_201,
            vec![
                "collateral-expired",
                "collateral-expired",
                "collateral-signature",
                "collateral-expired",
            ],
        ),
    ];
    for (name, published, at, want) in rows {
        let refused = endorsed(&V4, published, UnixTime::from_secs(at));
        assert_eq!(refused.err().unwrap_or_default(), want, "{name}");
    }
}

#[test]
fn texts_are_signed_by_who_signs_texts() {
    let mut ours = made(&Plan::v4());
    ours.collateral.sign_as("Intel SGX PCK Certificate");
    let refused = endorsed(&ours, &ours.collateral.publish(), AT);
    assert_eq!(refused, Err(vec!["collateral-signer"; 2]));
    // Whoever has a key below the CA of processors can choose a name.
    ours.collateral.sign_below_the_pck_ca();
    let refused = endorsed(&ours, &ours.collateral.publish(), AT);
    assert_eq!(refused, Err(vec!["collateral-signer"; 2]));
    ours.collateral.sign_as("Intel SGX TCB Signing");
    assert_eq!(endorsed(&ours, &ours.collateral.publish(), AT), Ok(()));
}

#[test]
fn what_was_revoked_counts_no_more() {
    let mut ours = made(&Plan::v4());
    assert!(judged(&ours, &ours.collateral.publish()).is_ok());
    let pck = ours.collateral.pck.serial().to_vec();
    ours.collateral.pck_revokes = vec![vec![1], pck];
    let refused = judged(&ours, &ours.collateral.publish());
    assert_eq!(refused, Err(vec!["certificate-revoked"]));
    ours.collateral.pck_revokes = vec![vec![1]];
    assert!(judged(&ours, &ours.collateral.publish()).is_ok());

    let signer = ours.collateral.signer.certificate.serial().to_vec();
    ours.collateral.root_revokes = vec![signer];
    let refused = judged(&ours, &ours.collateral.publish());
    assert_eq!(refused, Err(vec!["certificate-revoked"; 2]));
    ours.collateral.root_revokes = vec![ours.collateral.platform_serial()];
    let refused = judged(&ours, &ours.collateral.publish());
    assert_eq!(refused, Err(vec!["certificate-revoked"]));
}

/// A quote's own CA may be revoked where the list of its processors comes from another.
#[test]
fn the_lists_are_asked_about_the_quotes_own_path() {
    use super::super::evaluate;
    use super::super::signed::endorse_under;
    use super::super::verify::verify_under;
    use super::{Quote, codes};
    let mut ours = made(&Plan::v4());
    let quote = Quote::parse(&ours.quote).unwrap();
    let chain = quote.pck_chain.clone().unwrap();
    let certified = verify_under(&ours.root, &quote, &chain, AT).unwrap();
    ours.collateral.another_pck_ca();
    ours.collateral.root_revokes = vec![chain[1].serial().to_vec()];
    let published = ours.collateral.publish().to_string();
    let published = Collateral::parse(published.as_bytes()).unwrap();
    let said = endorse_under(&ours.root, &published, AT).unwrap();
    let refused = evaluate(&certified, &said).unwrap_err();
    assert_eq!(
        codes(&refused),
        ["collateral-mismatch", "certificate-revoked"]
    );
}

#[test]
fn collateral_is_of_this_platform_and_this_purpose() {
    let rows: [(&str, &str, &str, Value, &[&str]); 6] = [
        (
            "another platform",
            "tcb_info",
            "fmspc",
            json!("50806F000000"),
            &["collateral-mismatch"],
        ),
        (
            "another PCE",
            "tcb_info",
            "pceId",
            json!("0001"),
            &["collateral-mismatch"],
        ),
        (
            "of SGX",
            "tcb_info",
            "id",
            json!("SGX"),
            &["collateral-mismatch"],
        ),
        (
            "an older form",
            "tcb_info",
            "version",
            json!(2),
            &["collateral-mismatch"],
        ),
        (
            "the enclave of SGX",
            "qe_identity",
            "id",
            json!("QE"),
            &["collateral-mismatch"],
        ),
        (
            "a form to come",
            "qe_identity",
            "version",
            json!(3),
            &["collateral-mismatch"],
        ),
    ];
    for (name, part, field, value, want) in rows {
        let mut ours = made(&Plan::v4());
        match part {
            "tcb_info" => ours.collateral.tcb_info[field] = value,
            _ => ours.collateral.qe_identity[field] = value,
        }
        let refused = judged(&ours, &ours.collateral.publish()).unwrap_err();
        assert_eq!(refused, want, "{name}");
    }
}

#[test]
fn malformed_collateral_says_where() {
    let good = V4.collateral.publish();
    let with = |field: &str, value: Value| {
        let mut edited = good.clone();
        edited[field] = value;
        edited.to_string()
    };
    let rows = [
        ("nothing", String::new(), "Collateral.object"),
        ("a list", "[]".to_owned(), "Collateral.object"),
        (
            "a number for a text",
            with("tcb_info", json!(5)),
            "Collateral.object",
        ),
        (
            "no hexadecimal",
            with("pck_crl", json!("zz")),
            "Collateral.pck_crl",
        ),
        (
            "no list",
            with("pck_crl", json!("3003020101")),
            "CertificateList",
        ),
        (
            "half a signature",
            with("tcb_info_signature", json!("00")),
            "Collateral.tcb_info_signature",
        ),
        (
            "no signature",
            with("qe_identity_signature", json!("")),
            "Collateral.qe_identity_signature",
        ),
        (
            "no certificates",
            with("pck_crl_issuer_chain", json!("")),
            "Certificate",
        ),
    ];
    for (name, text, want) in rows {
        let error = Collateral::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
    let long = vec![b' '; MAX_COLLATERAL_BYTES + 1];
    let error = Collateral::parse(&long).unwrap_err().to_string();
    assert!(error.contains("exceeds the limit"), "{error}");

    // Signed, and still not what it should be.
    for (field, value) in [
        ("tcbLevels", json!(null)),
        ("fmspc", json!("B0C06F")),
        ("issueDate", json!("2026-01-05")),
        ("tdxModule", json!({})),
    ] {
        let mut ours = made(&Plan::v4());
        ours.collateral.tcb_info[field] = value;
        let refused = endorsed(&ours, &ours.collateral.publish(), AT);
        assert_eq!(refused, Err(vec!["collateral-malformed"]), "{field}");
    }
    let mut ours = made(&Plan::v4());
    ours.collateral.tcb_info["tcbLevels"][0]["tcbStatus"] = json!("Splendid");
    let refused = endorsed(&ours, &ours.collateral.publish(), AT);
    assert_eq!(refused, Err(vec!["collateral-malformed"]));
}
