//! Whose report signed a statement: that of the guest which approvers listed, and of the one that
//! enrolled, or of another.
//!
//! That the report is signed at all is no less a demand than a quote's signature is, whatever the profile
//! asks: see [`super::cvm`].

use super::{
    Subject,
    cvm::provenance,
    result::{Deviation, Finding},
    signer::Signer,
};
use crate::{
    cvm::{Facts, Judged},
    evidence::SignerKind,
    profile::Provenance,
};

/// What tells guests of one launch on one chip apart.
const INSTANCE: &str = "cvm.instance";

/// The inventory lists who signs: a TPM, or a guest's processor. Neither speaks for the other.
pub(super) fn listed(signed: SignerKind, subject: &Subject<'_>) -> Option<Deviation> {
    let listed = match subject.guest {
        Some(_) => SignerKind::TeeReport,
        None => SignerKind::TpmQuote,
    };
    (signed != listed).then(|| Deviation {
        claim: "node.signer".to_owned(),
        finding: Finding::Refused,
        code: "signer-not-of-node".to_owned(),
        expected: format!("{listed}, as the inventory lists the node"),
        found: signed.to_string(),
        provenance: Some(Provenance::OperatorSigned),
    })
}

/// Where a report that somebody's key signed is not this guest's, or not that of the running one that
/// enrolled.
pub(super) fn other(judged: &Judged, subject: &Subject<'_>) -> Vec<Deviation> {
    let facts = judged.facts.as_ref().filter(|_| judged.signed);
    let Some(facts) = facts else {
        return Vec::new();
    };
    let said = |claim: &str, code: &str, expected: String, found: String| Deviation {
        claim: claim.to_owned(),
        finding: Finding::Refused,
        code: code.to_owned(),
        expected,
        found,
        provenance: Some(provenance(judged)),
    };
    let launched = subject.guest.and_then(|guest| guest.other(facts));
    let launched = launched.map(|other| {
        let code = match other.claim {
            "cvm.chip_id" => "guest-chip",
            _ => "guest-launch",
        };
        said(other.claim, code, other.expected, other.found)
    });
    let instance = another_instance(facts, subject.signer);
    let instance = instance.map(|(expected, found)| {
        let expected = format!("{expected}, which enrolled");
        said(INSTANCE, "guest-instance", expected, found)
    });
    launched.into_iter().chain(instance).collect()
}

/// The one that enrolled and the one that speaks, where they are two.
fn another_instance(facts: &Facts, signer: Signer<'_>) -> Option<(String, String)> {
    let Signer::Guest(enrolled) = signer else {
        return None;
    };
    let called = match facts.technology {
        "tdx" => "TD_ID",
        _ => "REPORT_ID",
    };
    let name = |instance: Option<[u8; 32]>| match instance {
        Some(instance) => format!("{called} {}", hex::encode(instance)),
        None => format!("a guest without a {called}"),
    };
    (enrolled.instance != facts.instance).then(|| (name(enrolled.instance), name(facts.instance)))
}
