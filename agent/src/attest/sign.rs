//! The two ways in which a statement is signed, and what travels beside each.
//!
//! A TPM quotes; beside the quote come the registers, the geotag, and the processor's report where
//! there is one. In a guest without a TPM the report *is* the signature, and the host's certificates are
//! all that comes beside it.

use bailiwick_attestation::{
    evidence::{
        Binding, Freshness, StatementSigner, TeeReportSigner, TpmQuoteSigner, geotag_binding,
        tee_report_data,
    },
    proto::v1::{
        Claim, Geotag, PcrBank, PcrValue, TeeEvidence, TeeReport, TpmQuote, claim::Value, evidence,
    },
};
use tracing::warn;

use super::AttestError;
use crate::{
    clock,
    collect::{claim, tee::Tee},
    config::Config,
    signer::{Guest, Signer},
    tpm::{Bank, Tpm},
};

/// Where the private halves of events have their keys, in a guest without a TPM.
const KEYS: &str = "events.keys";

/// A signature, and what was gathered with it.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) signer: evidence::Signer,
    pub(super) pcrs: Vec<PcrBank>,
    pub(super) geotag: Option<Geotag>,
    pub(super) tee: Option<TeeEvidence>,
    /// What leases count on: the TPM's clock, or the kernel's, milliseconds.
    pub(super) clock_ms: u64,
    /// The TPM's; 0 where there is none, and the key is of one boot.
    pub(super) reset_count: u32,
    /// `CLOCK_BOOTTIME` just before, nanoseconds.
    pub(super) boot_time_ns: u64,
}

/// Who signs statements.
#[derive(Debug)]
pub(super) enum Voice {
    Tpm(Chip),
    Guest(Guest),
}

/// A TPM, and the processor that may speak beside it.
#[derive(Debug)]
pub(super) struct Chip {
    tpm: Tpm,
    tee: Tee,
    bank: Bank,
}

impl Voice {
    pub(super) fn new(config: &Config, signer: &Signer) -> Self {
        match signer {
            Signer::Tpm(tpm) => Self::Tpm(Chip {
                tpm: tpm.clone(),
                tee: Tee::new(&config.tee).beside(tpm),
                bank: config.tpm.bank,
            }),
            Signer::Guest(guest) => Self::Guest(guest.clone()),
        }
    }

    /// What a statement says of its own signer.
    pub(super) fn claims(&self) -> Vec<Claim> {
        match self {
            Self::Tpm(chip) => chip.tee.claims(),
            Self::Guest(_) => vec![claim(KEYS, "agent", Value::Text("memory".to_owned()))],
        }
    }

    /// What it says of a guest's key; empty beside a quote.
    pub(super) fn guest_key(&self) -> Vec<u8> {
        match self {
            Self::Tpm(_) => Vec::new(),
            Self::Guest(guest) => guest.signer().key.0.to_vec(),
        }
    }

    pub(super) async fn sign(
        &mut self,
        freshness: &Freshness,
        statement: &[u8],
    ) -> Result<Signed, AttestError> {
        match self {
            Self::Tpm(chip) => chip.quote(freshness, statement).await,
            Self::Guest(guest) => report(guest, freshness, statement).await,
        }
    }
}

async fn report(
    guest: &Guest,
    freshness: &Freshness,
    statement: &[u8],
) -> Result<Signed, AttestError> {
    let data = TeeReportSigner::carrier(&Binding::new(freshness, statement));
    let boot_time_ns = clock::boot_time_ns();
    let given = guest.report(data).await.map_err(AttestError::Processor)?;
    let certificates = given.certificates;
    Ok(Signed {
        signer: evidence::Signer::TeeReport(TeeReport {
            kind: given.kind.to_owned(),
            report: given.report,
        }),
        pcrs: Vec::new(),
        geotag: None,
        tee: (!certificates.is_empty()).then(|| TeeEvidence {
            certificates,
            ..TeeEvidence::default()
        }),
        clock_ms: boot_time_ns / 1_000_000,
        reset_count: 0,
        boot_time_ns,
    })
}

impl Chip {
    async fn quote(
        &mut self,
        freshness: &Freshness,
        statement: &[u8],
    ) -> Result<Signed, AttestError> {
        let binding = Binding::new(freshness, statement);
        let quoted = self.tpm.quote(TpmQuoteSigner::carrier(&binding)).await?;
        let geotag = self.geotag(freshness, statement).await;
        let ak_name = &self.tpm.identity().ak_name;
        let report_data = tee_report_data(freshness, statement, ak_name);
        let tee = self.tee.evidence(report_data).await;
        Ok(Signed {
            signer: evidence::Signer::TpmQuote(TpmQuote {
                attest: quoted.signed.attest,
                signature: quoted.signed.signature,
            }),
            pcrs: vec![PcrBank {
                algorithm: self.bank.algorithm(),
                values: quoted
                    .pcrs
                    .into_iter()
                    .map(|(index, digest)| PcrValue {
                        index: index.into(),
                        digest,
                    })
                    .collect(),
            }],
            geotag,
            tee,
            clock_ms: quoted.clock.clock_ms,
            reset_count: quoted.clock.reset_count,
            boot_time_ns: quoted.boot_time_ns,
        })
    }

    /// The node's geotag, certified for this statement. Whether it is any good is the collector's to
    /// say.
    async fn geotag(&self, freshness: &Freshness, statement: &[u8]) -> Option<Geotag> {
        let binding = geotag_binding(freshness, statement);
        match self.tpm.certify_geotag(binding.0).await {
            Ok(area) => area.map(|area| Geotag {
                nv_public: area.public,
                attest: area.signed.attest,
                signature: area.signed.signature,
                unavailable: String::new(),
            }),
            Err(why) => {
                let why = crate::uplink::link::chain(&why);
                warn!(why, "the TPM does not certify the geotag");
                Some(Geotag {
                    unavailable: why,
                    ..Geotag::default()
                })
            }
        }
    }
}
