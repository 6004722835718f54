//! What signed a statement: a quote and the registers under it, or a report of the processor alone.
//!
//! Neither may stand in the place of the other, and beside a report nothing may lie that looks as if a
//! TPM had signed it: registers and a geotag are refused there, not left unread.

use super::{signer::Signer, verify::EvidenceRefused};
use crate::{
    crypto::{Digest, HashAlgorithm},
    cvm,
    error::ParseError,
    evidence::{
        Binding, Freshness, GuestSigner, ParsedStatement, SignerKind, StatementSigner,
        TeeReportSigner, TpmQuoteSigner,
    },
    ids::Sha256Digest,
    proto::v1,
    tpm::{AkPublic, BoundPcrs, ClockInfo, PcrValues, QualifyingData, Quote},
};

/// Most banks and registers presented: eight banks of 32.
const MAX_REGISTERS: usize = 256;
/// Most characters of an envelope's own words.
const WORDS: usize = 40;

/// Why a report does not sign a statement.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReportRefused {
    /// Only `sev-snp` and `tdx` sign statements: reports of other kinds speak of a TPM.
    #[error("{0:?} is no kind of report that signs statements")]
    Kind(String),
    /// It cannot be read.
    #[error("malformed report")]
    Malformed(#[source] ParseError),
    /// It was made for another statement, challenge or purpose.
    #[error("report data {found}, and this statement's would be {expected}")]
    ReportData {
        /// Of the report, hex.
        found: String,
        /// Of the statement and the challenge, hex.
        expected: String,
    },
}

impl ReportRefused {
    /// Stable word for answers, logs and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Kind(_) => "cvm-kind",
            Self::Malformed(_) => "cvm-malformed",
            Self::ReportData { .. } => "cvm-report-data",
        }
    }
}

/// What an envelope is signed with, of the kind that enrolled.
pub(super) enum Signature<'e, 's> {
    Quote(&'e v1::TpmQuote, &'s AkPublic),
    Report(&'e v1::TeeReport, &'s GuestSigner),
}

impl<'e, 's> Signature<'e, 's> {
    pub(super) fn of(
        evidence: &'e v1::Evidence,
        signer: Signer<'s>,
    ) -> Result<Self, EvidenceRefused> {
        let other = |found, enrolled| Err(EvidenceRefused::SignerKind { found, enrolled });
        match (&evidence.signer, signer) {
            (Some(v1::evidence::Signer::TpmQuote(quote)), Signer::Ak(ak)) => {
                Ok(Self::Quote(quote, ak))
            }
            (Some(v1::evidence::Signer::TeeReport(report)), Signer::Guest(guest)) => {
                Ok(Self::Report(report, guest))
            }
            (Some(v1::evidence::Signer::TeeReport(_)), Signer::Ak(_)) => {
                other(SignerKind::TeeReport, SignerKind::TpmQuote)
            }
            (Some(v1::evidence::Signer::TpmQuote(_)), Signer::Guest(_)) => {
                other(SignerKind::TpmQuote, SignerKind::TeeReport)
            }
            (None, _) => Err(EvidenceRefused::Envelope {
                field: "signer",
                fault: "is absent",
            }),
        }
    }
}

/// What is known of whoever signed a statement, and of nothing else.
#[derive(Clone, Debug)]
pub(super) enum Signed {
    /// A TPM, by a quote under the enrolled AK.
    Tpm {
        clock: ClockInfo,
        firmware_version: u64,
        pcrs: BoundPcrs,
    },
    /// Whoever made the report that came: nobody has asked yet who that is.
    Tee {
        /// RTMR 0 to 3, of a TDX guest.
        rtmrs: Option<Box<[Digest; 4]>>,
    },
}

/// What the processor says, and what it was to bind.
pub(super) type Reported = (Box<v1::TeeEvidence>, [u8; 64]);

impl Signed {
    pub(super) fn by_quote(
        evidence: &v1::Evidence,
        quote: &v1::TpmQuote,
        ak: &AkPublic,
        freshness: &Freshness,
        statement: &ParsedStatement,
    ) -> Result<Self, EvidenceRefused> {
        let binding = Binding::of(freshness, &statement.digest);
        let want = QualifyingData::from(Sha256Digest(TpmQuoteSigner::carrier(&binding)));
        let verified = Quote::parse(&quote.attest)
            .and_then(|parsed| parsed.verify(ak, &quote.signature, &want))
            .map_err(EvidenceRefused::Quote)?;
        speaks_for(statement, None)?;
        let pcrs = verified
            .pcrs(&presented(evidence)?)
            .map_err(EvidenceRefused::Pcrs)?;
        Ok(Self::Tpm {
            clock: verified.clock_info(),
            firmware_version: verified.firmware_version(),
            pcrs,
        })
    }

    pub(super) fn by_report(
        evidence: &v1::Evidence,
        report: &v1::TeeReport,
        guest: &GuestSigner,
        freshness: &Freshness,
        statement: &ParsedStatement,
    ) -> Result<(Self, Reported), EvidenceRefused> {
        speaks_for(statement, Some(guest.key))?;
        let certificates = bare(evidence)?;
        let binding = Binding::of(freshness, &statement.digest);
        let expected = TeeReportSigner::carrier(&binding);
        answers(report, &expected).map_err(EvidenceRefused::Report)?;
        let malformed = |why| EvidenceRefused::Report(ReportRefused::Malformed(why));
        let tee = v1::TeeEvidence {
            report: Some(report.clone()),
            certificates: certificates.to_vec(),
            ..v1::TeeEvidence::default()
        };
        let rtmrs = cvm::rtmrs(&report.kind, &report.report).map_err(malformed)?;
        let rtmrs = rtmrs.map(Box::new);
        Ok((Self::Tee { rtmrs }, (Box::new(tee), expected)))
    }
}

/// The statement names the key that enrolled, and none beside a quote.
fn speaks_for(
    statement: &ParsedStatement,
    enrolled: Option<Sha256Digest>,
) -> Result<(), EvidenceRefused> {
    let found = statement.guest_key;
    if found == enrolled {
        return Ok(());
    }
    Err(EvidenceRefused::GuestKey { found, enrolled })
}

/// The host's certificates, and nothing that only a TPM could sign, or that would be a second report.
fn bare(evidence: &v1::Evidence) -> Result<&[u8], EvidenceRefused> {
    let refused = |field, fault| Err(EvidenceRefused::Envelope { field, fault });
    if !evidence.pcrs.is_empty() {
        return refused("pcrs", "are there, and no TPM signed them");
    }
    if evidence.geotag.is_some() {
        return refused("geotag", "is there, and no TPM certified it");
    }
    let Some(tee) = &evidence.tee else {
        return Ok(&[]);
    };
    let v1::TeeEvidence {
        report,
        certificates,
        unavailable,
        refused: gave_none,
        manifest,
    } = &**tee;
    let more = !(unavailable.is_empty() && gave_none.is_empty() && manifest.is_empty());
    if report.is_some() || more {
        let fault = "has more than certificates beside a report that signs";
        return refused("tee", fault);
    }
    Ok(certificates)
}

fn answers(report: &v1::TeeReport, expected: &[u8; 64]) -> Result<(), ReportRefused> {
    let found = cvm::bound(&report.kind, &report.report).map_err(ReportRefused::Malformed)?;
    let Some(found) = found else {
        let kind = report.kind.chars().take(WORDS).collect();
        return Err(ReportRefused::Kind(kind));
    };
    if found != *expected {
        return Err(ReportRefused::ReportData {
            found: hex::encode(found),
            expected: hex::encode(expected),
        });
    }
    Ok(())
}

fn presented(evidence: &v1::Evidence) -> Result<PcrValues, EvidenceRefused> {
    let registers = evidence
        .pcrs
        .iter()
        .map(|bank| bank.values.len())
        .sum::<usize>();
    if registers > MAX_REGISTERS {
        let fault = "has more than 256 values";
        return Err(EvidenceRefused::Envelope {
            field: "pcrs",
            fault,
        });
    }
    let mut values = PcrValues::new();
    for bank in &evidence.pcrs {
        let algorithm = u16::try_from(bank.algorithm)
            .ok()
            .and_then(HashAlgorithm::from_tpm_id)
            .ok_or(EvidenceRefused::Envelope {
                field: "pcrs.algorithm",
                fault: "is not a TPM_ALG_ID of a hash",
            })?;
        for value in &bank.values {
            values
                .insert(algorithm, value.index, &value.digest)
                .map_err(EvidenceRefused::PcrValue)?;
        }
    }
    Ok(values)
}
