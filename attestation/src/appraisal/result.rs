//! The attestation result: an EAR (draft-ietf-rats-ear) with AR4SI trust vectors, and under each
//! submodule the deviations in words a person can act on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{AkWord, Reference, Subject, verify::VerifiedEvidence};
use crate::{
    evidence::Freshness,
    ids::{Sha256Digest, UnixTime},
    profile::{Provenance, Value},
};

/// The EAR profile string; pinned, since EAR is a draft.
const EAT_PROFILE: &str = "tag:github.com,2023:veraison/ear";

/// Tier of a result, worst last. AR4SI calls them by these names.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Everything asked for was shown.
    Affirming,
    /// Shown, with something a person should look at.
    Warning,
    /// Something could not be checked: no conclusion.
    None,
    /// Something was checked and refused.
    Contraindicated,
}

impl Status {
    /// The word used on the wire and in tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::None => "none",
            Self::Contraindicated => "contraindicated",
        }
    }

    /// The AR4SI trust claim value of this tier.
    const fn ar4si(self) -> i8 {
        match self {
            Self::Affirming => 2,
            Self::Warning => 32,
            Self::None => 0,
            Self::Contraindicated => 96,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a claim fell short.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Checked, and not as demanded: a security officer's concern.
    Refused,
    /// Could not be checked: an operator's concern.
    Unchecked,
    /// As demanded, with something to look at.
    Warning,
}

impl Finding {
    const fn status(self) -> Status {
        match self {
            Self::Refused => Status::Contraindicated,
            Self::Unchecked => Status::None,
            Self::Warning => Status::Warning,
        }
    }
}

/// One claim that is not as the reference demands.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub struct Deviation {
    /// Dotted name.
    pub claim: String,
    /// How it fell short.
    pub finding: Finding,
    /// Stable word, kebab-case.
    pub code: String,
    /// What was demanded.
    pub expected: String,
    /// What was there.
    pub found: String,
    /// Who said so; absent where nobody did.
    pub provenance: Option<Provenance>,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            claim,
            code,
            expected,
            found,
            ..
        } = self;
        write!(f, "{claim}: expected {expected}, found {found} [{code}]")
    }
}

/// A claim that the profile asked for, as found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AppraisedClaim {
    /// Its value.
    pub value: Value,
    /// Who says so.
    pub provenance: Provenance,
}

/// AR4SI trustworthiness vector: only the claims this appraiser makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TrustVector {
    /// `instance-identity`: is it who it says.
    InstanceIdentity,
    /// `executables`: what was measured into registers.
    Executables,
    /// `configuration`: how it is set up.
    Configuration,
    /// `hardware`: is it what it says it is.
    Hardware,
}

impl TrustVector {
    const fn as_str(self) -> &'static str {
        match self {
            Self::InstanceIdentity => "instance-identity",
            Self::Executables => "executables",
            Self::Configuration => "configuration",
            Self::Hardware => "hardware",
        }
    }
}

/// One part of the node and how it fared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Submod {
    /// Worst of its deviations.
    pub status: Status,
    /// What its status speaks of.
    pub vector: TrustVector,
    /// What fell short.
    pub deviations: Vec<Deviation>,
    /// What the profile asked for, as found.
    pub claims: BTreeMap<String, AppraisedClaim>,
}

/// The submodules, and which claims belong to each.
const SUBMODS: [(&str, TrustVector, &[&str]); 6] = [
    (GPU, TrustVector::Hardware, &["gpu."]),
    (CVM, TrustVector::Hardware, &["cvm."]),
    (
        "identity",
        TrustVector::InstanceIdentity,
        &["node.", "evidence.", "geo."],
    ),
    (
        "tpm",
        TrustVector::Executables,
        &["tpm.", "boot.log", "ima."],
    ),
    ("fence", TrustVector::Configuration, &["fence.", "policy."]),
    ("host", TrustVector::Configuration, &[""]),
];

/// Member of the EAR with the documents a conclusion about GPUs and processors hangs on; absent where there are
/// none.
pub const ENDORSEMENTS: &str = "bailiwick.endorsements";

/// The submodules that are there only where there is something to say.
const GPU: &str = "gpu";
const CVM: &str = "cvm";

impl Submod {
    const fn new(vector: TrustVector) -> Self {
        Self {
            status: Status::Affirming,
            vector,
            deviations: Vec::new(),
            claims: BTreeMap::new(),
        }
    }
}

/// What appraisal concludes of one statement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttestationResult {
    /// Worst of the submodules.
    pub status: Status,
    /// When it was concluded.
    pub at: UnixTime,
    /// Node id, absent while pending.
    pub node: Option<String>,
    /// The statement appraised.
    pub statement: Sha256Digest,
    /// The challenge it answers, hex; absent if unchallenged.
    pub nonce: Option<String>,
    /// SHA-256 of the profile, if there was one.
    pub profile: Option<Sha256Digest>,
    /// SHA-256 and version of the policy's manifest, if there was one.
    pub policy: Option<(u64, Sha256Digest)>,
    /// Whose word it is that AK and EK are one TPM's.
    pub ak_word: AkWord,
    /// The best that what rests on the TPM can be: `hardware-signed`, or `provider-signed` of a vTPM for
    /// which no processor speaks.
    pub tpm: Provenance,
    /// A processor's report alone signed the statement: whose word that is. `None`: a TPM signed it.
    pub report: Option<Provenance>,
    /// Whether a processor speaks for the TPM could not be checked: what it says may be better than
    /// `tpm`.
    pub tpm_unknown: bool,
    /// Documents that what is concluded of GPUs and processors hangs on, by SHA-256: reference values,
    /// certificates, collateral, and what is known of revocation.
    pub endorsements: BTreeSet<Sha256Digest>,
    /// By name: `identity`, `tpm`, `fence`, `host`; `gpu` where GPUs gave reports or should have, `cvm`
    /// where a guest's processor did.
    pub submods: BTreeMap<&'static str, Submod>,
}

/// A stored result that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("attestation result, {field}: {fault}")]
pub struct ParseResultError {
    /// Path of the member.
    pub field: String,
    /// What is wrong.
    pub fault: String,
}

impl AttestationResult {
    pub(super) fn new(
        evidence: &VerifiedEvidence,
        subject: &Subject<'_>,
        reference: Option<&Reference<'_>>,
        now: UnixTime,
    ) -> Self {
        Self {
            node: subject.node.map(ToString::to_string),
            profile: reference.map(|reference| reference.profile.digest),
            policy: reference.map(|reference| (reference.version, reference.manifest)),
            ak_word: subject.ak_word.clone(),
            ..Self::empty(evidence, now)
        }
    }

    /// Of nobody yet, and held against nothing.
    pub(super) fn empty(evidence: &VerifiedEvidence, now: UnixTime) -> Self {
        Self {
            status: Status::None,
            at: now,
            node: None,
            statement: evidence.statement.digest,
            nonce: match evidence.freshness {
                Freshness::Challenged(nonce) => Some(hex::encode(nonce.as_bytes())),
                Freshness::Unchallenged { .. } => None,
            },
            profile: None,
            policy: None,
            ak_word: AkWord::Collector,
            // Until it is known to be a chip.
            tpm: Provenance::ProviderSigned,
            // Until its maker vouches for it.
            report: evidence.alone().then_some(Provenance::SelfReported),
            tpm_unknown: false,
            endorsements: BTreeSet::new(),
            submods: SUBMODS
                .iter()
                .filter(|(name, ..)| ![GPU, CVM].contains(name))
                .map(|(name, vector, _)| (*name, Submod::new(*vector)))
                .collect(),
        }
    }

    fn submod_of(&mut self, claim: &str) -> Option<&mut Submod> {
        let (name, vector, _) = SUBMODS
            .iter()
            .find(|(_, _, prefixes)| prefixes.iter().any(|prefix| claim.starts_with(prefix)))?;
        let submod = self.submods.entry(name);
        Some(submod.or_insert_with(|| Submod::new(*vector)))
    }

    pub(super) fn deviate(&mut self, mut deviation: Deviation) {
        let by = |said| self.by(&deviation.claim, said);
        deviation.provenance = deviation.provenance.map(by);
        if let Some(submod) = self.submod_of(&deviation.claim) {
            submod.status = submod.status.max(deviation.finding.status());
            submod.deviations.push(deviation);
        }
    }

    pub(super) fn note(&mut self, claim: String, mut value: AppraisedClaim) {
        value.provenance = self.by(&claim, value.provenance);
        if let Some(submod) = self.submod_of(&claim) {
            submod.claims.insert(claim, value);
        }
    }

    pub(super) fn conclude(&mut self) {
        self.status = self
            .submods
            .values()
            .map(|submod| submod.status)
            .max()
            .unwrap_or(Status::None);
    }

    /// A claim of the result is that flag, from the best of sources.
    #[must_use]
    pub fn shows(&self, claim: &str) -> bool {
        let mut claims = self.submods.values().flat_map(|submod| &submod.claims);
        claims.any(|(name, found)| {
            name == claim
                && found.value == Value::Flag(true)
                && found.provenance == Provenance::HardwareSigned
        })
    }

    /// All deviations, worst submodule's first.
    pub fn deviations(&self) -> impl Iterator<Item = &Deviation> {
        let mut submods: Vec<_> = self.submods.values().collect();
        submods.sort_by_key(|submod| std::cmp::Reverse(submod.status));
        submods
            .into_iter()
            .flat_map(|submod| submod.deviations.iter())
    }

    /// The EAR as JSON. Members outside the draft begin with `bailiwick.`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let submods: serde_json::Map<String, Json> = self
            .submods
            .iter()
            .map(|(name, submod)| ((*name).to_owned(), self.submod_json(submod)))
            .collect();
        let mut ear = json!({
            "eat_profile": EAT_PROFILE,
            "iat": self.at.secs(),
            "eat_nonce": self.nonce,
            "ear.verifier-id": {
                "developer": "Bailiwick",
                "build": concat!("bailiwick-attestation ", env!("CARGO_PKG_VERSION")),
            },
            "submods": submods,
            "bailiwick.status": self.status,
            "bailiwick.node": self.node,
            "bailiwick.statement": self.statement,
            "bailiwick.policy": self.policy.map(|(version, manifest)| {
                json!({ "version": version, "manifest": manifest })
            }),
            "bailiwick.ak": self.ak_word.to_string(),
        });
        let Some(members) = ear.as_object_mut() else {
            return ear;
        };
        if !self.endorsements.is_empty() {
            members.insert(ENDORSEMENTS.to_owned(), json!(self.endorsements));
        }
        if let Some(report) = self.report {
            members.insert("bailiwick.report".to_owned(), json!(report));
        } else if self.tpm != Provenance::HardwareSigned {
            // A chip's word is what nobody wonders about.
            members.insert("bailiwick.tpm".to_owned(), json!(self.tpm));
        }
        ear
    }

    fn submod_json(&self, submod: &Submod) -> Json {
        let claims: serde_json::Map<String, Json> = submod
            .claims
            .iter()
            .map(|(name, claim)| {
                let value = match &claim.value {
                    Value::Text(text) => json!(text),
                    Value::Number(number) => json!(number),
                    Value::Flag(flag) => json!(flag),
                };
                (
                    name.clone(),
                    json!({ "value": value, "provenance": claim.provenance }),
                )
            })
            .collect();
        json!({
            "ear.status": submod.status,
            "ear.trustworthiness-vector": { submod.vector.as_str(): submod.status.ar4si() },
            "ear.appraisal-policy-id": self.profile.map(|digest| format!("sha256:{digest}")),
            "bailiwick.deviations": submod.deviations,
            "bailiwick.claims": claims,
        })
    }

    /// Status and deviations of a stored EAR, for whoever shows or compares one.
    pub fn read_json(bytes: &[u8]) -> Result<(Status, Vec<Deviation>), ParseResultError> {
        let fail = |field: &str, fault: String| ParseResultError {
            field: field.to_owned(),
            fault,
        };
        let ear: Json =
            serde_json::from_slice(bytes).map_err(|error| fail("document", error.to_string()))?;
        let member = |name: &str| {
            ear.get(name)
                .cloned()
                .ok_or_else(|| fail(name, "is absent".to_owned()))
        };
        let status = serde_json::from_value(member("bailiwick.status")?)
            .map_err(|error| fail("bailiwick.status", error.to_string()))?;
        let submods = member("submods")?;
        let submods = submods
            .as_object()
            .ok_or_else(|| fail("submods", "is not an object".to_owned()))?;
        let mut ranked = Vec::new();
        for (name, submod) in submods {
            let field = |member: &str| format!("submods.{name}.{member}");
            let read = |member: &str| submod.get(member).cloned().unwrap_or(Json::Null);
            let status: Status = serde_json::from_value(read("ear.status"))
                .map_err(|error| fail(&field("ear.status"), error.to_string()))?;
            let deviations: Vec<Deviation> =
                serde_json::from_value(read("bailiwick.deviations"))
                    .map_err(|error| fail(&field("bailiwick.deviations"), error.to_string()))?;
            ranked.push((status, deviations));
        }
        ranked.sort_by_key(|(status, _)| std::cmp::Reverse(*status));
        Ok((
            status,
            ranked
                .into_iter()
                .flat_map(|(_, deviations)| deviations)
                .collect(),
        ))
    }
}
