//! One stored statement, appraised again with trust anchors of the auditor's own.
//!
//! Nothing the file says of whom to trust is believed: roots of TPM makers, approvers and
//! threshold come from the caller, and from them, through the signed policy, inventory, profile
//! and log key. Not shown by one file alone: that `previous` was the statement before, and that
//! the log showed everyone the same head.

mod agree;
mod entry;
mod guest;
mod keys;

use bailiwick_attestation::appraisal::{
    AttestationResult, Enrolled, Reference, Status, Subject, VerifiedEvidence, appraise,
};
use bailiwick_attestation::evidence::Freshness;
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{LogKey, ReceiptRefused};
use bailiwick_attestation::tpm::{AkPublic, EkChain, EkPublic, Public};
use bailiwick_attestation::x509::Certificate;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_policy::approvers::{Approvers, Chain};
use bailiwick_policy::bundle::{Bundle, Verified, VerifiedBundle};
use bailiwick_policy::kind::Kind;
use bailiwick_policy::model::Node;
use serde::Serialize;

use crate::appraise::{endorsed_until, previous_of, reasons, receipt_of};
use crate::identity::{Makers, Presented, ak_word, foreign_devices, geo_word, tpm_kind};
use crate::ingest::error_chain;
use agree::{as_logged, results, told};
use keys::{Word, word};

/// What the auditor brings.
#[derive(Debug)]
pub struct Anchors<'a> {
    /// Whose record it is to be.
    pub deployment: &'a DeploymentId,
    /// Who may approve policy.
    pub approvers: &'a Approvers,
    /// TPM makers.
    pub roots: &'a [Certificate],
    /// What a path may pass through.
    pub intermediates: &'a [Certificate],
    /// Device makers, whose IAK certificates count.
    pub iak_roots: &'a [Certificate],
    /// What their paths may pass through.
    pub iak_intermediates: &'a [Certificate],
    /// What vouches for GPUs: NVIDIA's roots, reference values.
    pub endorsements: &'a Endorsements,
    /// The newest policy the auditor knows: which keys of the log were revoked since. Its other
    /// files may be left out.
    pub keys: Option<&'a Bundle>,
}

/// How one check came out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Shown.
    Ok,
    /// Checked and refused.
    Refused,
    /// Could not be checked: something is not there.
    Undecided,
}

/// One check.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// How it came out.
    pub outcome: Outcome,
    /// In words.
    pub detail: String,
}

/// What comes of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Every check was shown.
    pub verified: bool,
    /// Name of the node by the signed inventory.
    pub node: Option<String>,
    /// SHA-256 of the statement.
    pub statement: Option<Sha256Digest>,
    /// When the collector says it came, ms since 1970.
    pub received_ms: u64,
    /// Whose word it is that the AK lives in this TPM.
    pub ak: String,
    /// What appraisal concludes now; absent if it could not be run.
    pub verdict: Option<Status>,
    /// Why, one line each.
    pub reasons: Vec<String>,
    /// Every check, in order.
    pub checks: Vec<Check>,
}

impl Report {
    fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.push(name, Outcome::Ok, detail.into());
    }

    fn refuse(&mut self, name: &'static str, detail: impl Into<String>) {
        self.push(name, Outcome::Refused, detail.into());
    }

    fn undecided(&mut self, name: &'static str, detail: impl Into<String>) {
        self.push(name, Outcome::Undecided, detail.into());
    }

    fn push(&mut self, name: &'static str, outcome: Outcome, detail: String) {
        self.checks.push(Check {
            name,
            outcome,
            detail,
        });
    }

    /// The worst of the checks.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let any = |outcome| self.checks.iter().any(|check| check.outcome == outcome);
        match (any(Outcome::Refused), any(Outcome::Undecided)) {
            (true, _) => Outcome::Refused,
            (false, true) => Outcome::Undecided,
            (false, false) => Outcome::Ok,
        }
    }
}

/// Checks and appraises a stored statement again.
#[must_use]
pub fn verify(stored: &v1::StoredStatement, anchors: &Anchors<'_>) -> Report {
    let mut report = Report {
        received_ms: stored.received_ms,
        ..Report::default()
    };
    steps(stored, anchors, &mut report);
    report.verified = report.outcome() == Outcome::Ok;
    report
}

/// Stops where what follows has nothing to stand on; the report then says why.
fn steps(stored: &v1::StoredStatement, anchors: &Anchors<'_>, report: &mut Report) -> Option<()> {
    let received = UnixTime(stored.received_ms);
    if stored.format != 1 {
        report.undecided("format", format!("{} is not 1", stored.format));
        return None;
    }
    let (Some(evidence), Some(enrolment)) = (&stored.evidence, &stored.enrolment) else {
        report.undecided("format", "evidence or enrolment is absent");
        return None;
    };
    let chain = approvers(stored, anchors, received, report)?;
    let before: Vec<Sha256Digest> = chain.sets().skip(1).map(Approvers::digest).collect();
    let policy = policy(stored, anchors, &chain, received, report);
    let Enrollee {
        ek: ek_digest,
        listed,
        signer,
    } = match &enrolment.guest {
        Some(guest) => guest::enrolled(enrolment, guest, policy.as_ref(), anchors, report)?,
        None => tpm(enrolment, policy.as_ref(), anchors, report)?,
    };
    let presented = Presented {
        deployment: anchors.deployment,
        enrolment,
        ek: &ek_digest,
        signer: &signer,
    };
    let makers = Makers {
        roots: anchors.iak_roots,
        intermediates: anchors.iak_intermediates,
    };
    let word = ak_word(&presented, listed, chain.current(), &makers);
    report.ak = word.to_string();
    let (signed, by_whom) = match &signer {
        Enrolled::Ak(_) => ("quote", "the AK signed this statement and these PCR values"),
        Enrolled::Guest(_) => (
            "report",
            "a report is on this statement, for the key that enrolled; appraisal says whose",
        ),
    };
    let mut verified = match Freshness::of(evidence)
        .and_then(|freshness| VerifiedEvidence::verify(evidence, &signer, &freshness))
    {
        Ok(verified) => verified,
        Err(error) => {
            report.refuse(signed, format!("{}: {}", error.code(), error_chain(&error)));
            return None;
        }
    };
    verified.keep_all(&stored.logs);
    let statement = verified.statement();
    report.statement = Some(statement.digest);
    report.ok(signed, by_whom);
    if statement.deployment != *anchors.deployment {
        report.refuse(
            "deployment",
            format!(
                "made in {}, not {}",
                statement.deployment, anchors.deployment
            ),
        );
    }
    let foreign = match (&policy, listed) {
        (Some(policy), Some(node)) => {
            let owner = |device: &str| policy.model.inventory.by_device(device);
            foreign_devices(&verified, &node.name, owner)
        }
        _ => Vec::new(),
    };
    let logs = policy
        .as_ref()
        .map_or(&[][..], |policy| &policy.model.collector.logs);
    let name = listed.map(|node| &node.name);
    let shown = receipt_of(evidence, logs, name, &ek_digest);
    let signed = listed.map(|node| (node, chain.current()));
    let place = geo_word(verified.geotag(), anchors.deployment, signed, received);
    let subject = Subject {
        geotag: &place,
        endorsed_until: endorsed_until(enrolment),
        receipt: shown.as_ref(),
        deployment: anchors.deployment,
        node: listed.map(|node| &node.name),
        jurisdiction: listed.map(|node| &node.jurisdiction),
        ek: &ek_digest,
        signer: (&signer).into(),
        guest: listed.and_then(|node| node.guest.as_ref()),
        tpm: tpm_kind(enrolment, listed),
        ak_word: &word,
        listed_ak: listed.and_then(|node| node.ak.as_deref()),
        chassis_serial: listed.and_then(|node| node.chassis_serial.as_deref()),
        devices: listed.map_or(&[], |node| &node.devices),
        foreign_devices: &foreign,
        epoch: listed.map_or(0, |node| node.epoch),
    };
    let reference = policy.as_ref().map(|policy| Reference {
        profile: policy.model.profile_of(listed),
        version: policy.manifest.version,
        manifest: policy.manifest.digest,
        not_after: policy.manifest.not_after,
        approvers: chain.current().digest(),
        approvers_before: &before,
        endorsements: anchors.endorsements,
    });
    let previous = stored.previous.as_ref().and_then(previous_of);
    if stored.previous.is_some() && previous.is_none() {
        report.refuse("previous", "the statement before is not whole");
    }
    let result = appraise(
        &verified,
        &subject,
        reference.as_ref(),
        previous.as_ref(),
        received,
    );
    report.verdict = Some(result.status);
    report.reasons = reasons(&result);
    same_result(stored, &result, anchors.iak_roots.is_empty(), report);
    let keys = keys::log_keys(stored, policy.as_ref(), anchors, report);
    receipt(stored, &keys, &result, received, report);
    entry::node_log(evidence, statement, previous.as_ref(), report);
    entry::entry(stored, statement, report);
    Some(())
}

/// Who enrolled, as far as the stored enrolment shows it.
struct Enrollee<'p> {
    /// Digest of the EK, or what stands for it.
    ek: Sha256Digest,
    /// Its entry in the signed inventory.
    listed: Option<&'p Node>,
    signer: Enrolled,
}

fn tpm<'p>(
    enrolment: &v1::Enrolment,
    policy: Option<&'p VerifiedBundle>,
    anchors: &Anchors<'_>,
    report: &mut Report,
) -> Option<Enrollee<'p>> {
    let Some(request) = &enrolment.request else {
        report.undecided("format", "enrolment.request is absent");
        return None;
    };
    let ek = ek(request, report)?;
    let listed = policy.and_then(|policy| policy.model.inventory.by_ek(&ek.digest()));
    maker(enrolment, request, &ek, listed, anchors, report);
    report.node = listed.map(|node| node.name.to_string());
    let ak = ak(request, report)?;
    if let Some(other) = listed.and_then(|node| node.ak.as_deref())
        && other != ak.name().as_bytes()
    {
        // Approvers named one AK: no other speaks for this node, whatever the record says.
        let detail = format!(
            "ak-not-of-node: {}, and the signed inventory names {}",
            hex::encode(ak.name().as_bytes()),
            hex::encode(other)
        );
        report.refuse("ak", detail);
    }
    Some(Enrollee {
        ek: ek.digest(),
        listed,
        signer: Enrolled::Ak(Box::new(ak)),
    })
}

/// From the auditor's own approvers to those in force when the statement came.
fn approvers(
    stored: &v1::StoredStatement,
    anchors: &Anchors<'_>,
    received: UnixTime,
    report: &mut Report,
) -> Option<Chain> {
    let changes: Vec<Bundle> = stored.approvers.iter().cloned().map(Bundle::from).collect();
    let first = anchors.approvers.clone();
    match Chain::restore(first, anchors.deployment, received, &changes) {
        Ok(chain) => {
            if !changes.is_empty() {
                let detail = format!(
                    "handed on {} times, each signed by both sets",
                    changes.len()
                );
                report.ok("approvers", detail);
            }
            Some(chain)
        }
        Err(refused) => {
            report.refuse("approvers", format!("{}: {refused}", refused.code()));
            None
        }
    }
}

fn policy(
    stored: &v1::StoredStatement,
    anchors: &Anchors<'_>,
    chain: &Chain,
    received: UnixTime,
    report: &mut Report,
) -> Option<VerifiedBundle> {
    let Some(bundle) = &stored.policy else {
        report.undecided("policy", "none was in force: nothing could be affirmed");
        return None;
    };
    let bundle = Bundle::from(bundle.clone());
    let world = match &stored.world {
        None => None,
        Some(world) => {
            let world = Bundle::from(world.clone());
            match chain.settled(Kind::World, &world, anchors.deployment, None, received) {
                Ok(Verified::World(world)) => Some(world.content),
                Ok(_) => None,
                Err(refused) => {
                    report.refuse("world", format!("{}: {refused}", refused.code()));
                    return None;
                }
            }
        }
    };
    let settled = chain.settled(
        Kind::Policy,
        &bundle,
        anchors.deployment,
        world.as_ref(),
        received,
    );
    match settled {
        Ok(Verified::Policy(policy)) => {
            let detail = format!(
                "version {}, signed by {} of {} approvers needed",
                policy.manifest.version,
                policy.signers.len(),
                chain.current().threshold()
            );
            report.ok("policy", detail);
            Some(*policy)
        }
        Ok(_) => None,
        Err(refused) => {
            report.refuse("policy", format!("{}: {refused}", refused.code()));
            None
        }
    }
}

fn ek(request: &v1::EnrollRequest, report: &mut Report) -> Option<EkPublic> {
    let public = match Public::parse(&request.ek_public) {
        Ok(public) => public,
        Err(error) => {
            report.refuse("ek", error.to_string());
            return None;
        }
    };
    match EkPublic::new(public) {
        Ok(ek) => Some(ek),
        Err(refused) => {
            report.refuse("ek", format!("{}: {refused}", refused.code()));
            None
        }
    }
}

/// A real TPM: a maker's chain, or approvers who signed for it where it has no certificate.
fn maker(
    enrolment: &v1::Enrolment,
    request: &v1::EnrollRequest,
    ek: &EkPublic,
    listed: Option<&Node>,
    anchors: &Anchors<'_>,
    report: &mut Report,
) {
    if request.ek_certificates.is_empty() {
        match listed {
            Some(node) => report.ok(
                "ek",
                format!("no certificate; approvers signed for it as {}", node.name),
            ),
            None => report.refuse("ek", "no certificate, and no approver signed for it"),
        }
        return;
    }
    // Certificates on the way are no anchors: those the collector recorded may help to find it.
    let recorded = enrolment.ek_chain.iter().skip(1);
    let mut intermediates = anchors.intermediates.to_vec();
    intermediates.extend(recorded.filter_map(|der| Certificate::parse(der).ok()));
    let chain = EkChain::verify_for(
        ek,
        &request.ek_certificates,
        &intermediates,
        anchors.roots,
        UnixTime(enrolment.activated_ms),
    );
    match chain {
        // The auditor's own path counts; that the collector recorded another must not pass unseen.
        Ok(chain)
            if !chain
                .path()
                .iter()
                .map(|certificate| certificate.as_der())
                .eq(enrolment.ek_chain.iter().map(Vec::as_slice)) =>
        {
            report.refuse("ek", "chains, and not as the collector recorded it");
        }
        Ok(chain) => {
            let root = chain.path().last();
            let root = root.map_or_else(String::new, |root| root.subject().label());
            let detail = format!("chains to {root}");
            report.ok("ek", detail);
        }
        Err(refused) => report.refuse(
            "ek",
            format!("{}: {}", refused.code(), error_chain(&refused)),
        ),
    }
    match listed {
        Some(node) => report.ok(
            "inventory",
            format!("the signed inventory calls it {}", node.name),
        ),
        None => report.undecided("inventory", "the signed inventory does not list this TPM"),
    }
}

fn ak(request: &v1::EnrollRequest, report: &mut Report) -> Option<AkPublic> {
    let public = match Public::parse(&request.ak_public) {
        Ok(public) => public,
        Err(error) => {
            report.refuse("ak", error.to_string());
            return None;
        }
    };
    match AkPublic::new(public) {
        Ok(ak) => Some(ak),
        Err(refused) => {
            report.refuse("ak", format!("{}: {refused}", refused.code()));
            None
        }
    }
}

/// `unasked`: the auditor brought no roots of device makers, and cannot say what they vouch for.
fn same_result(
    stored: &v1::StoredStatement,
    result: &AttestationResult,
    unasked: bool,
    report: &mut Report,
) {
    let then = match serde_json::from_slice(&stored.result) {
        Ok(then) => then,
        Err(error) => {
            let detail = format!("the stored result is not JSON: {error}");
            return report.refuse("result", detail);
        }
    };
    let agreement = results(then, result.to_json(), unasked);
    for (name, outcome, detail) in told(agreement, result.status.as_str()) {
        report.push(name, outcome, detail);
    }
}

fn receipt(
    stored: &v1::StoredStatement,
    keys: &[LogKey],
    result: &AttestationResult,
    received: UnixTime,
    report: &mut Report,
) {
    let Some(receipt) = &stored.receipt else {
        return report.undecided("receipt", "none in the file");
    };
    let proved = match word(receipt, &result.statement, keys) {
        Word::Proved(proved) => proved,
        Word::Unshown(since) => {
            let detail = format!(
                "receipt-key-revoked: signed by a key that is revoked since {} ms, and dated \
                 before; fetch it again: the log shows it under another key, or does not",
                since.millis()
            );
            return report.undecided("receipt", detail);
        }
        Word::Refused(ReceiptRefused::UnknownLog(log)) => {
            let detail = format!("the signed policy names no log {log:?}");
            return report.undecided("receipt", detail);
        }
        Word::Refused(refused) => {
            report.refuse(
                "receipt",
                format!("{}: {}", refused.code(), error_chain(&refused)),
            );
            return;
        }
    };
    if let Some(fault) = as_logged(&proved.entry, received, result.status.as_str()) {
        report.refuse("receipt", fault);
    } else {
        let (index, checkpoint) = (proved.index, &proved.checkpoint);
        let (size, origin) = (checkpoint.size, &checkpoint.origin);
        report.ok("receipt", format!("entry {index} of {size} in {origin}"));
    }
}
