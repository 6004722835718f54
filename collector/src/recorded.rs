//! A stored statement read again: that what enrolled spoke it, and the logs it names.

use bailiwick_attestation::appraisal::{
    Enrolled, EvidenceRefused, NobodyEnrolled, VerifiedEvidence,
};
use bailiwick_attestation::evidence::Freshness;
use bailiwick_attestation::proto::v1;

/// Why a stored statement shows nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordedRefused {
    /// A part of the record is not there.
    #[error("StoredStatement.{0} is absent")]
    Absent(&'static str),
    /// It was enrolled with nothing that could sign.
    #[error("StoredStatement.enrolment")]
    Enrolment(#[source] NobodyEnrolled),
    /// It is not by what enrolled.
    #[error("StoredStatement.evidence")]
    Evidence(#[source] EvidenceRefused),
}

impl RecordedRefused {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Absent(_) | Self::Enrolment(_) => "record-malformed",
            Self::Evidence(refused) => refused.code(),
        }
    }
}

/// The evidence, verified again under what it was recorded with: an AK, or a guest's key. Whose that is,
/// the record says and `bailiwick verify` shows.
pub fn recorded(
    stored: &v1::StoredStatement,
) -> Result<(Enrolled, VerifiedEvidence), RecordedRefused> {
    let evidence = stored.evidence.as_ref();
    let evidence = evidence.ok_or(RecordedRefused::Absent("evidence"))?;
    let enrolment = stored.enrolment.as_ref();
    let enrolment = enrolment.ok_or(RecordedRefused::Absent("enrolment"))?;
    let signer = Enrolled::of(enrolment).map_err(RecordedRefused::Enrolment)?;
    let freshness = Freshness::of(evidence);
    let verified =
        freshness.and_then(|freshness| VerifiedEvidence::verify(evidence, &signer, &freshness));
    let mut verified = verified.map_err(RecordedRefused::Evidence)?;
    verified.keep_all(&stored.logs);
    Ok((signer, verified))
}
