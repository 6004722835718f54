//! Rows as the rest of the collector sees them.

use bailiwick_attestation::appraisal::Enrolled;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::ActKind;
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_policy::kind::Kind;
use prost::Message as _;

use super::StoreError;
use super::acts::NewAct;
use crate::direct::pending_name;
use crate::place::ShownPlace;

/// What is concluded about a node, in the words of the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Nothing concluded: no statement yet, or nothing to hold it against.
    None,
    /// As the profile wants it.
    Affirming,
    /// Something could not be checked.
    Warning,
    /// Checked and refused.
    Contraindicated,
    /// Silent for longer than the profile allows.
    Stale,
}

impl Verdict {
    /// The word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
            Self::Stale => "stale",
        }
    }

    /// The verdict a word stands for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::None,
            Self::Affirming,
            Self::Warning,
            Self::Contraindicated,
            Self::Stale,
        ]
        .into_iter()
        .find(|verdict| verdict.as_str() == word)
    }
}

/// An activated enrolment.
#[derive(Clone, Debug)]
pub struct NewEnrolment {
    /// Which TPM.
    pub ek: Sha256Digest,
    /// What the node calls itself.
    pub claimed_name: String,
    /// Its AK.
    pub ak_name: Vec<u8>,
    /// SHA-256 of the certificate issued: the only one its streams may show.
    pub certificate: Sha256Digest,
    /// First moment after the certificate's life.
    pub certificate_not_after: UnixTime,
    /// What it enrolled with.
    pub enrolment: v1::Enrolment,
    /// When.
    pub now: UnixTime,
}

impl NewEnrolment {
    /// Devices it says it has.
    pub(super) fn devices(&self) -> &[String] {
        let guest = self.enrolment.guest.as_ref();
        let guest = guest.and_then(|guest| guest.request.as_ref());
        match (&self.enrolment.request, guest) {
            (Some(request), _) => &request.devices,
            (None, Some(guest)) => &guest.devices,
            (None, None) => &[],
        }
    }

    /// The running guest it is of: what its processor calls it, else its key. `None`: there is a TPM.
    pub(super) fn instance(&self) -> Result<Option<[u8; 32]>, StoreError> {
        if self.enrolment.guest.is_none() {
            return Ok(None);
        }
        match Enrolled::of(&self.enrolment) {
            Ok(Enrolled::Guest(guest)) => Ok(Some(guest.instance.unwrap_or(guest.key.0))),
            // Whoever could not be told from others would be let in beside them.
            Ok(Enrolled::Ak(_)) | Err(_) => Err(StoreError::Corrupt {
                table: "enrolments",
                column: "enrolment",
            }),
        }
    }

    /// The act it is.
    pub(super) fn act(&self) -> NewAct {
        NewAct {
            kind: ActKind::Enrolment,
            subject: match self.enrolment.node.as_str() {
                "" => pending_name(&self.ek),
                node => node.to_owned(),
            },
            ek: Some(self.ek),
            actor: "collector".to_owned(),
            body: self.enrolment.encode_to_vec(),
            now: self.now,
        }
    }
}

/// What a statement says about the fence, reduced to what alerts need.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FenceFacts {
    /// `enforcing`, `default-deny`, `absent`, `fault` or `unknown`.
    pub state: String,
    /// Why it is not what it should be.
    pub reason: String,
    /// Break-glass in force: its manifest in hex, and until when by this clock.
    pub break_glass: Option<(String, UnixTime)>,
}

/// A statement that was appraised.
#[derive(Clone, Debug)]
pub struct NewStatement {
    /// Which TPM.
    pub ek: Sha256Digest,
    /// Inventory name, or `ek-…`.
    pub subject: String,
    /// Epoch of the node's log.
    pub epoch: u64,
    /// Index in it.
    pub sequence: u64,
    /// SHA-256 of the statement's bytes.
    pub digest: Sha256Digest,
    /// The envelope.
    pub evidence: v1::Evidence,
    /// What appraisal concluded.
    pub verdict: Verdict,
    /// One line per deviation.
    pub reasons: Vec<String>,
    /// The attestation result, JSON.
    pub result: Vec<u8>,
    /// When it came.
    pub received: UnixTime,
    /// The policy it was held against.
    pub manifest_digest: Option<Sha256Digest>,
    /// The enrolment it was held against.
    pub enrolment: v1::Enrolment,
    /// The AK that signed it.
    pub ak_name: Vec<u8>,
    /// The statement it was held against: the one accepted before it from the same AK.
    pub previous: Option<v1::PreviousStatement>,
    /// What the next one will be held against.
    pub newest: v1::PreviousStatement,
    /// Policy version the node says is in force.
    pub policy_version: u64,
    /// It answered a challenge: only then does it move the node's standing.
    pub challenged: bool,
    /// Wall time at which the lease granted with it ends.
    pub lease_until: Option<UnixTime>,
    /// Why the lease was ended early; none where it was not.
    pub lease_ended: Option<String>,
    /// The fence, by the node's word.
    pub fence: FenceFacts,
    /// What the node or the sequence says was lost.
    pub gap: Option<String>,
    /// Devices it names; none where it could not say.
    pub devices: Option<Vec<String>>,
    /// GPUs whose maker certified them and whose reports it cites: `PDI-` and 16 hex digits.
    pub gpus: Vec<String>,
    /// Its place.
    pub place: ShownPlace,
}

/// One enrolled TPM and the newest that is known of it.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// Which TPM.
    pub ek: Sha256Digest,
    /// What the node calls itself.
    pub claimed_name: String,
    /// Its AK.
    pub ak_name: Vec<u8>,
    /// SHA-256 of the certificate in force.
    pub certificate: Sha256Digest,
    /// Set when the certificate was revoked.
    pub revoked: Option<UnixTime>,
    /// What it enrolled with.
    pub enrolment: v1::Enrolment,
    /// The newest accepted statement.
    pub newest: Option<v1::PreviousStatement>,
    /// The AK that signed it; an enrolment since may have brought another.
    pub newest_ak: Option<Vec<u8>>,
    /// When it came.
    pub last_seen: Option<UnixTime>,
    /// Policy version in force there.
    pub policy_version: u64,
    /// Statements accepted.
    pub statements: u64,
    /// Standing.
    pub verdict: Verdict,
    /// First deviation, or empty.
    pub reason: String,
    /// When the verdict began.
    pub since: UnixTime,
    /// What appraisal last said, why, and since when; silence does not unsay it.
    pub appraised: (Verdict, String, UnixTime),
    /// Wall time at which the lease ends.
    pub lease_until: Option<UnixTime>,
    /// What ended the last lease early; empty where nothing did.
    pub lease_ended: String,
    /// The fence, by the node's word.
    pub fence: FenceFacts,
    /// When the fence came to be so.
    pub fence_since: UnixTime,
    /// When something was last found missing, and what.
    pub gap: Option<(UnixTime, String)>,
    /// When its own log was last found to be other than it was, and how.
    pub log_fault: Option<(UnixTime, String)>,
    /// When two running guests were last found to have its name, and which came back.
    pub twice: Option<(UnixTime, String)>,
    /// Name the inventory last gave it; empty while pending.
    pub listed_name: String,
    /// Devices it says it has.
    pub devices: Vec<String>,
    /// When it last enrolled.
    pub enrolled: UnixTime,
}

/// A statement as stored.
#[derive(Clone, Debug)]
pub struct StatementRow {
    /// SHA-256 of the statement's bytes.
    pub digest: Sha256Digest,
    /// Inventory of what appraisal said.
    pub verdict: String,
    /// One line per deviation.
    pub reasons: Vec<String>,
    /// Place in the log.
    pub log_index: u64,
    /// Everything `verify` needs, the policy and the receipt not yet filled in.
    pub stored: v1::StoredStatement,
    /// The policy it was held against.
    pub manifest_digest: Option<Sha256Digest>,
}

/// A span of time with one verdict.
#[derive(Clone, Debug)]
pub struct Interval {
    /// The verdict.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// First moment.
    pub from: UnixTime,
    /// First moment after it; none: it lasts.
    pub to: Option<UnixTime>,
    /// The statement that began it; none where silence did.
    pub digest: Option<Sha256Digest>,
}

/// A policy that met the threshold.
#[derive(Clone, Debug)]
pub struct NewPolicy {
    /// What it is about.
    pub kind: Kind,
    /// Its version.
    pub version: u64,
    /// SHA-256 of its manifest.
    pub manifest_digest: Sha256Digest,
    /// A serialized `PolicyBundle`.
    pub bundle: Vec<u8>,
    /// The operator who brought it.
    pub applied_by: String,
    /// When.
    pub now: UnixTime,
}

impl NewPolicy {
    /// The act it is: its body is the manifest, and the leaf names that by its digest.
    pub(super) fn act(&self) -> NewAct {
        let bundle = v1::PolicyBundle::decode(self.bundle.as_slice()).unwrap_or_default();
        NewAct {
            kind: ActKind::Policy,
            subject: "policy".to_owned(),
            ek: None,
            actor: self.applied_by.clone(),
            body: bundle.manifest,
            now: self.now,
        }
    }
}

/// A policy as stored.
#[derive(Clone, Debug)]
pub struct PolicyRow {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its manifest.
    pub manifest_digest: Sha256Digest,
    /// A serialized `PolicyBundle`.
    pub bundle: Vec<u8>,
    /// When it was applied here.
    pub applied: UnixTime,
}

/// An alert to raise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewAlert {
    /// `alertname`.
    pub name: String,
    /// The node it is about.
    pub node: String,
    /// All labels, as JSON.
    pub labels: String,
    /// `critical`, `warning` or `info`.
    pub severity: String,
    /// One line for a person.
    pub summary: String,
}

/// An alert as stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AlertRow {
    /// Key.
    pub id: i64,
    /// What it says.
    pub alert: NewAlert,
    /// When it began.
    pub since: UnixTime,
    /// When it was over.
    pub resolved: Option<UnixTime>,
    /// When every receiver last took it.
    pub notified: Option<UnixTime>,
}

/// What happens to an alert.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AlertChange {
    /// It begins.
    Raise(NewAlert, UnixTime),
    /// Severity or summary changed while it fires.
    Update(i64, NewAlert),
    /// It is over.
    Resolve(i64, UnixTime),
    /// Every receiver took it; with `true`, that it is over.
    Notified(i64, UnixTime, bool),
}
