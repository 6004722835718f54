//! A stored statement read again: that its AK spoke it, and the logs it names.

use bailiwick_attestation::appraisal::{EvidenceRefused, VerifiedEvidence};
use bailiwick_attestation::evidence::Freshness;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::{AkPublic, Public};

use crate::ingest::error_chain;

/// Why a stored statement shows nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordedRefused {
    /// A part of the record is not there.
    #[error("StoredStatement.{0} is absent")]
    Absent(&'static str),
    /// The AK it was enrolled with is none.
    #[error("enrolment.request.ak_public: {0}")]
    Ak(String),
    /// It is not that AK's.
    #[error("StoredStatement.evidence")]
    Evidence(#[source] EvidenceRefused),
}

impl RecordedRefused {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Absent(_) | Self::Ak(_) => "record-malformed",
            Self::Evidence(refused) => refused.code(),
        }
    }
}

/// The evidence, verified again under the AK it was recorded with. Whose AK that is, the record says
/// and `bailiwick verify` shows.
pub fn recorded(
    stored: &v1::StoredStatement,
) -> Result<(AkPublic, VerifiedEvidence), RecordedRefused> {
    let evidence = stored.evidence.as_ref();
    let evidence = evidence.ok_or(RecordedRefused::Absent("evidence"))?;
    let enrolment = stored.enrolment.as_ref();
    let request = enrolment.and_then(|enrolment| enrolment.request.as_ref());
    let request = request.ok_or(RecordedRefused::Absent("enrolment.request"))?;
    let public = Public::parse(&request.ak_public);
    let public = public.map_err(|error| RecordedRefused::Ak(error.to_string()))?;
    let ak = AkPublic::new(public);
    let ak = ak.map_err(|refused| RecordedRefused::Ak(error_chain(&refused)))?;
    let freshness = Freshness::of(evidence);
    let verified =
        freshness.and_then(|freshness| VerifiedEvidence::verify(evidence, &ak, &freshness));
    let mut verified = verified.map_err(RecordedRefused::Evidence)?;
    verified.keep_all(&stored.logs);
    Ok((ak, verified))
}
