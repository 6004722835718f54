//! The confidential guest: what its processor says, held against roots, challenge, inventory and
//! profile.
//!
//! Judged where the profile has `[cvm]` or requires a claim `cvm.*`, and wherever a report alone signed
//! the statement: without a processor's word nobody has said anything then. Noted in any case. A claim is
//! `hardware-signed` only if the maker's root vouches for the key that signed the report, in answer to
//! this statement; under a root of the operator's own it is somebody's word, a double's for instance.
//! What could not be checked, or was refused, makes no claim.

use std::collections::BTreeMap;

use super::{
    Reference, Subject,
    claims::Found,
    guest,
    result::{AppraisedClaim, AttestationResult, Deviation, Finding},
    verify::VerifiedEvidence,
};
use crate::{
    cvm::{self, Facts, Judged, LaunchSigner, Revocation},
    ids::UnixTime,
    profile::{CvmProfile, Profile, Provenance, Value, VtpmProfile},
    proto::v1,
    x509::Certificate,
};

/// How the claims of this part begin; no node makes one of them.
const PREFIX: &str = "cvm.";
/// What the whole of it is called.
const REPORT: &str = "cvm.report";
/// Most characters of a node's own words.
const WORDS: usize = 400;

/// What is known of the guest.
#[derive(Debug, Default)]
pub(super) struct CvmClaims {
    claims: BTreeMap<String, AppraisedClaim>,
    /// The result says already why there are none.
    told: bool,
    /// Whether the processor says of the AK that it is kept beside the guest.
    keeps_tpm: Keeps,
}

/// Whether a guest's TPM is out of its reach, and its provider's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Keeps {
    /// Nobody says so, or nobody whom the profile believes.
    #[default]
    No,
    /// Something that has to be checked with is missing, and the rest would say so.
    Unknown,
    /// What the profile believes to keep a TPM says so, and its processor that it is that.
    Yes,
}

impl CvmClaims {
    /// What was found under a name of this part's: nothing more where the result says why. `None`: not
    /// such a name.
    pub(super) fn find(&self, claim: &str) -> Option<Option<Found>> {
        claim.starts_with(PREFIX).then(|| {
            let found = self.claims.get(claim);
            let found = found.map(|found| Found::Is(found.value.clone(), found.provenance));
            match (found, self.told) {
                (Some(found), _) => Some(found),
                (None, true) => None,
                (None, false) => Some(Found::Missing),
            }
        })
    }

    /// What the TPM says is as good as what hardware says, though it is none.
    pub(super) const fn keeps_tpm(&self) -> Keeps {
        self.keeps_tpm
    }

    fn put(&mut self, name: &str, value: Value, provenance: Provenance) {
        let claim = AppraisedClaim { value, provenance };
        self.claims.insert(format!("{PREFIX}{name}"), claim);
    }
}

/// A profile that asks for nothing of it refuses no guest, but one whose chip is another node's.
pub(super) fn asked(profile: &Profile) -> bool {
    let mut all = profile.requirements.iter();
    profile.cvm.is_some() || all.any(|one| one.claim.starts_with(PREFIX))
}

/// Judges what the envelope brings, where the profile asks for it.
pub(super) fn judge(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    subject: &Subject<'_>,
    reference: &Reference<'_>,
    now: UnixTime,
) -> CvmClaims {
    let profile = reference.profile;
    let alone = evidence.alone();
    let asked = alone || asked(profile);
    let (report, tee, report_data) = match came(evidence) {
        Ok(came) => came,
        Err(absent) => {
            let told = asked && (profile.cvm.is_some() || !matches!(absent, Absent::None));
            let vtpm = profile.cvm.as_ref().and_then(|cvm| cvm.vtpm.as_ref());
            let keeps_tpm = match (vtpm, &absent) {
                (Some(_), Absent::Unavailable(_)) => Keeps::Unknown,
                _ => Keeps::No,
            };
            if told {
                result.deviate(absent.deviation());
            }
            return CvmClaims {
                told,
                keeps_tpm,
                ..CvmClaims::default()
            };
        }
    };
    let mut strict = profile.cvm.clone().unwrap_or_default();
    // Whoever reads a guest has its key, and speaks for it.
    strict.debug &= !alone;
    let endorsements = reference.endorsements;
    let named = strict.roots.as_ref();
    let roots: Vec<&Certificate> = match named {
        Some(named) => endorsements.counting(named, now).collect(),
        None => Vec::new(),
    };
    let judged = cvm::judge(&cvm::Asked {
        kind: &report.kind,
        report: &report.report,
        table: &tee.certificates,
        report_data,
        manifest: &tee.manifest,
        tpm: subject.signer.ak().map(|ak| cvm::Keys {
            ak: ak.key(),
            ek: subject.ek,
        }),
        endorsements: &endorsements.processors,
        crls: &endorsements.crls,
        roots: &roots,
        at: now,
    });
    let own = roots
        .iter()
        .filter_map(|root| endorsements.brought_root(root));
    if judged.signed && !judged.hardware {
        result.endorsements.extend(own);
    }
    result.endorsements.extend(judged.relied_on.iter().copied());
    if alone {
        result.report = Some(match judged.proven() {
            true => Provenance::HardwareSigned,
            false => Provenance::SelfReported,
        });
    }
    // Where a guest may run, its own entry says.
    let placed = placed(&judged, subject, strict.listed && asked && !alone);
    let other = match alone {
        true => guest::other(&judged, subject),
        false => Vec::new(),
    };
    let faults = if asked {
        faults(&judged, &strict)
    } else {
        Vec::new()
    };
    let stale = stale(&judged, &strict);
    let keeps_tpm = keeps(&judged, &strict, &faults);
    let told = !judged.faults.is_empty() || !judged.signed || stale;
    for deviation in faults.into_iter().chain(placed).chain(other) {
        result.deviate(deviation);
    }
    if told {
        return CvmClaims {
            told: asked,
            keeps_tpm,
            ..CvmClaims::default()
        };
    }
    let mut claims = CvmClaims {
        keeps_tpm,
        ..claims(&judged)
    };
    if let Some(vtpm) = judged.vtpm {
        let by = provenance(&judged);
        claims.put("vtpm", Value::Flag(keeps_tpm == Keeps::Yes), by);
        claims.put("vtpm.fresh", Value::Flag(vtpm.fresh), by);
    }
    for (name, claim) in &claims.claims {
        result.note(name.clone(), claim.clone());
    }
    claims
}

/// Why there is nothing to look at.
enum Absent {
    /// The envelope brings nothing, and says nothing of it.
    None,
    /// The node could not ask.
    Unavailable(String),
    /// The processor, or the host before it, gave none.
    Refused(String),
}

/// The report, what came beside it, and what was to be bound.
fn came(
    evidence: &VerifiedEvidence,
) -> Result<(&v1::TeeReport, &v1::TeeEvidence, &[u8; 64]), Absent> {
    let (tee, data) = evidence.tee.as_ref().ok_or(Absent::None)?;
    let clip = |words: &str| words.chars().take(WORDS).collect();
    if !tee.unavailable.is_empty() {
        return Err(Absent::Unavailable(clip(&tee.unavailable)));
    }
    if !tee.refused.is_empty() {
        return Err(Absent::Refused(clip(&tee.refused)));
    }
    let report = tee.report.as_ref().ok_or(Absent::None)?;
    Ok((report, tee, data))
}

impl Absent {
    fn deviation(self) -> Deviation {
        let (finding, code, found) = match self {
            // Leaving it out must not be worth more than showing a bad one.
            Self::None => (Finding::Refused, "cvm-missing", "none".to_owned()),
            Self::Unavailable(why) => (
                Finding::Unchecked,
                "cvm-unavailable",
                format!("unavailable: {why}"),
            ),
            Self::Refused(why) => (Finding::Refused, "cvm-refused", why),
        };
        Deviation {
            claim: REPORT.to_owned(),
            finding,
            code: code.to_owned(),
            expected: "a report of its processor on this guest, over this statement".to_owned(),
            found,
            provenance: None,
        }
    }
}

/// It is about a TPM, and was made for another question than this statement's. The paravisor makes a new
/// one some time after it was asked, so it need not be somebody's forgery.
fn stale(judged: &Judged, profile: &CvmProfile) -> bool {
    let allowed = profile.vtpm.as_ref().is_some_and(|vtpm| vtpm.stale);
    judged.vtpm.is_some_and(|vtpm| !vtpm.fresh) && !allowed
}

/// What was launched is what the profile believes to keep a TPM from its guest.
fn believed(facts: &Facts, profile: &VtpmProfile) -> bool {
    let signer = facts.signer.as_ref().map(|signer| &signer.id_key);
    profile.measurements.contains(&facts.measurement)
        || signer.is_some_and(|key| profile.id_keys.contains(key))
}

/// Whether the TPM's word is lifted. Without any fault, and never in a guest that its host reads: it
/// would read the TPM's keys, whatever a profile allows.
fn keeps(judged: &Judged, profile: &CvmProfile, faults: &[Deviation]) -> Keeps {
    let (Some(vtpm), Some(known)) = (judged.vtpm, &profile.vtpm) else {
        return Keeps::No;
    };
    let launched = judged.facts.as_ref();
    let other = |facts: &Facts| facts.debug || !believed(facts, known);
    if !vtpm.named || launched.is_some_and(other) {
        return Keeps::No;
    }
    let refused = |it: &Deviation| it.finding == Finding::Refused;
    match faults {
        [] if judged.proven() => Keeps::Yes,
        [_, ..] if !faults.iter().any(refused) => Keeps::Unknown,
        _ => Keeps::No,
    }
}

/// Whose word a report is.
pub(super) fn provenance(judged: &Judged) -> Provenance {
    match judged.signed && judged.hardware {
        true => Provenance::HardwareSigned,
        false => Provenance::SelfReported,
    }
}

fn said(judged: &Judged, claim: &str, code: &str, expected: &str, found: String) -> Deviation {
    Deviation {
        claim: format!("{PREFIX}{claim}"),
        finding: Finding::Refused,
        code: code.to_owned(),
        expected: expected.to_owned(),
        found,
        provenance: Some(provenance(judged)),
    }
}

/// What is wrong with the report itself, and with what it says under this profile.
fn faults(judged: &Judged, profile: &CvmProfile) -> Vec<Deviation> {
    let unchecked = |claim: &str, code: &str, expected: &str, found: String| Deviation {
        finding: Finding::Unchecked,
        provenance: None,
        ..said(judged, claim, code, expected, found)
    };
    let mut out: Vec<Deviation> = Vec::new();
    for fault in &judged.faults {
        let expected = "a report under a root that counts, over this statement";
        let found = fault.why.clone();
        out.push(match fault.refused {
            true => said(judged, "report", fault.code, expected, found),
            false => unchecked("report", fault.code, expected, found),
        });
    }
    let Some(facts) = &judged.facts else {
        return out;
    };
    if stale(judged, profile) && judged.faults.is_empty() {
        let expected = "a report that was made for this statement";
        let found = "one that was made before, or for another".to_owned();
        out.push(unchecked("report", "cvm-not-fresh", expected, found));
    }
    if facts.debug && !profile.debug {
        let found = format!("policy {}", facts.policy);
        let expected = "a guest that its host cannot read";
        out.push(said(judged, "debug", "cvm-debug", expected, found));
    }
    let kinds = profile.technologies.as_ref();
    if let Some(kinds) = kinds.filter(|kinds| !kinds.contains(&facts.technology)) {
        let found = facts.technology.to_owned();
        let expected = kinds.join(" or ");
        out.push(said(
            judged,
            "technology",
            "cvm-technology",
            &expected,
            found,
        ));
    }
    if let (Some(most), Some(found)) = (profile.max_vmpl, facts.vmpl)
        && found > most
    {
        let expected = format!("{most} at most");
        let found = format!("{found:#x}");
        out.push(said(judged, "vmpl", "cvm-vmpl", &expected, found));
    }
    if let Some(status) = facts.tcb_status.filter(|it| !profile.tcb.contains(it)) {
        let allowed: Vec<&str> = profile.tcb.iter().map(|status| status.name()).collect();
        let found = status.name().to_owned();
        let expected = allowed.join(" or ");
        out.push(said(
            judged,
            "tcb_status",
            "cvm-tcb-status",
            &expected,
            found,
        ));
    }
    if let (Revocation::Unknown(why), true, true) = (
        &judged.revocation,
        profile.revocation,
        judged.faults.is_empty(),
    ) {
        let expected = "that nobody took its key back";
        let code = "cvm-revocation-unknown";
        out.push(unchecked("revocation", code, expected, why.clone()));
    }
    out
}

/// The chip belongs where the inventory has it. Several guests run on one chip, and its host may be a
/// node, too: a chip of another entry is not a foreign one, but one of none of this node's is.
fn placed(judged: &Judged, subject: &Subject<'_>, demanded: bool) -> Option<Deviation> {
    if !judged.signed {
        return None;
    }
    let facts = judged.facts.as_ref()?;
    let own = subject.devices.iter();
    let own: Vec<&str> = own
        .filter(|name| cvm::is_chip_name(name))
        .map(String::as_str)
        .collect();
    let found = facts.chip.as_deref();
    if found.is_some_and(|chip| own.contains(&chip)) {
        return None;
    }
    let label = found.unwrap_or("a chip that hides its identifier");
    if own.is_empty() {
        return demanded.then(|| Deviation {
            finding: Finding::Unchecked,
            provenance: None,
            ..said(
                judged,
                "chip_id",
                "cvm-unlisted",
                "the chip it runs on in the inventory",
                format!("none, and it runs on {label}"),
            )
        });
    }
    let expected = own.join(" or ");
    let code = "cvm-chip-not-of-node";
    Some(said(judged, "chip_id", code, &expected, label.to_owned()))
}

/// What was said, and by whom.
fn claims(judged: &Judged) -> CvmClaims {
    let mut claims = CvmClaims::default();
    let Some(facts) = &judged.facts else {
        return claims;
    };
    let by = provenance(judged);
    let text = |text: &str| Value::Text(text.to_owned());
    let Facts {
        technology,
        version,
        chip,
        product,
        tcb,
        tcb_status,
        vmpl,
        debug,
        measurement,
        host_data,
        policy,
        registers,
        signer,
        instance: _,
    } = facts;
    let mut put = |name: &str, value| claims.put(name, value, by);
    put("hardware", Value::Flag(judged.proven()));
    put("technology", text(technology));
    put("version", Value::Number((*version).into()));
    put("debug", Value::Flag(*debug));
    put("measurement", text(measurement));
    put("host_data", text(host_data));
    put("policy", text(policy));
    put("tcb", text(&cvm::tcb_text(tcb)));
    for (part, number) in tcb {
        put(&format!("tcb.{part}"), Value::Number(*number));
    }
    for (number, register) in registers.iter().enumerate() {
        put(&format!("rtmr.{number}"), text(register));
    }
    if let Some(signer) = signer {
        let LaunchSigner {
            id_key,
            family,
            image,
            svn,
        } = signer;
        put("id_key", text(id_key));
        put("family_id", text(family));
        put("image_id", text(image));
        put("guest_svn", Value::Number((*svn).into()));
    }
    if let Some(chip) = chip {
        put("chip_id", text(chip));
    }
    if let Some(product) = product {
        put("product", text(product));
    }
    if let Some(status) = tcb_status {
        put("tcb_status", text(status.name()));
    }
    if let Some(vmpl) = vmpl {
        put("vmpl", Value::Number((*vmpl).into()));
    }
    claims
}
