//! A guest's enrolment, asked again: that its processor bound this key in answer to this nonce, and is the
//! listed guest's.

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::appraisal::Enrolled;
use bailiwick_attestation::evidence::Nonce;
use bailiwick_attestation::proto::v1;
use bailiwick_policy::bundle::VerifiedBundle;

use super::{Anchors, Enrollee, Report};
use crate::enroll::guest::{Asked, GuestRefused, check, judge, of_node};
use crate::ingest::error_chain;

/// Who enrolled; none where nothing can be said of its statements.
pub(super) fn enrolled<'p>(
    enrolment: &v1::Enrolment,
    guest: &v1::GuestEnrolment,
    policy: Option<&'p VerifiedBundle>,
    anchors: &Anchors<'_>,
    report: &mut Report,
) -> Option<Enrollee<'p>> {
    let (Some(request), Ok(nonce)) = (&guest.request, Nonce::from_slice(&guest.nonce)) else {
        report.undecided("format", "enrolment.guest has no request, or no nonce");
        return None;
    };
    if enrolment.request.is_some() || !enrolment.ek_chain.is_empty() {
        let both = "both-enrolled: it is of a guest without a TPM, and of a TPM";
        report.refuse("enrolment", both);
        return None;
    }
    let told = |why: GuestRefused, report: &mut Report| {
        let detail = format!("{}: {}", why.code(), error_chain(&why));
        match why.unchecked() {
            true => report.undecided("enrolment", detail),
            false => report.refuse("enrolment", detail),
        }
    };
    let applicant = check(request, anchors.deployment);
    let applicant = applicant.map_err(|why| told(why, report)).ok()?;
    let listed = policy.and_then(|policy| policy.model.inventory.by_ek(&applicant.id));
    report.node = listed.map(|node| node.name.to_string());
    let model = policy.map(|policy| &policy.model);
    let asked = Asked {
        deployment: anchors.deployment,
        nonce: &nonce,
        profile: model.map(|model| model.guest_profile.as_ref().unwrap_or(&model.profile)),
        endorsements: anchors.endorsements,
        at: UnixTime(enrolment.activated_ms),
    };
    let shown = judge(&applicant, guest.evidence.as_ref(), &asked);
    let shown = shown.map_err(|why| told(why, report)).ok()?;
    match (listed, of_node(listed, &shown.facts, request)) {
        (Some(node), Ok(())) => {
            let name = &node.name;
            report.ok("enrolment", "the processor bound this key for this guest");
            report.ok("inventory", format!("the signed inventory calls it {name}"));
        }
        (Some(_), Err(why)) => told(why, report),
        (None, _) => {
            let unlisted = "the signed inventory does not list this guest";
            report.undecided("inventory", unlisted);
        }
    }
    Some(Enrollee {
        ek: applicant.id,
        listed,
        signer: Enrolled::Guest(shown.signer),
    })
}
