//! One report of a guest's processor, held against roots, question and what vouches for the key.
//!
//! *Refused* is what contradicts itself: bytes that were not signed, another question's answer, a key
//! that leads to a root nobody trusts, firmware that its maker took back. *Could not check* is what
//! somebody has to bring first: the certificate of a key, collateral, a newer list.

mod amd;
mod azure;
mod intel;
mod svsm;

use std::collections::BTreeSet;
use std::error::Error;

use super::endorsements::Endorsements;
use super::hcl::HclReport;
use super::snp::Report;
use super::tdx::{Quote, TcbStatus};
use crate::crypto::{Digest, PublicKey};
use crate::error::ParseError;
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::{Certificate, RevocationList};

/// Code of a report whose data are another's.
pub(super) const ANOTHER_QUESTION: &str = "cvm-report-data";
/// Code of a report that names another TPM's key.
pub(super) const ANOTHER_AK: &str = "cvm-vtpm-ak";

/// The VMPL that a guest under another program never runs at.
const PRIVILEGED: u32 = 0;

/// A report, and what it is held against.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `sev-snp`, `tdx`, `azure-vtpm` or `svsm-vtpm`, as the envelope says.
    pub kind: &'a str,
    /// The report as it came.
    pub report: &'a [u8],
    /// The host's table of certificates as it came; may be empty.
    pub table: &'a [u8],
    /// What the guest was to bind.
    pub report_data: &'a [u8; 64],
    /// What the report is about beside the guest, as it came: of an SVSM's vTPM the EK; else empty.
    pub manifest: &'a [u8],
    /// Keys of the TPM that quoted beside it, one of which a report of a vTPM has to name; `None`: nobody
    /// asks.
    pub tpm: Option<Keys<'a>>,
    /// Certificates and collateral, as an operator brought them.
    pub endorsements: &'a Endorsements,
    /// Lists of revoked certificates, likewise.
    pub crls: &'a [RevocationList],
    /// Roots beside the makers', which vouch for no hardware.
    pub roots: &'a [&'a Certificate],
    /// The time asked about.
    pub at: UnixTime,
}

/// What a TPM is known by.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    /// Signed the quote.
    pub ak: &'a PublicKey,
    /// SHA-256 of the EK's `TPMT_PUBLIC`.
    pub ek: &'a Sha256Digest,
}

/// One thing that is wrong with a report.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Stable word.
    pub code: &'static str,
    /// It was checked; otherwise something to check it with is missing.
    pub refused: bool,
    /// In words.
    pub why: String,
}

/// What a report says, whoever vouches for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Facts {
    /// `sev-snp` or `tdx`.
    pub technology: &'static str,
    /// Of the report's format.
    pub version: u32,
    /// The chip by the name an inventory has for it: `SNP-` or `TDX-` and its identifier, hex; `None`:
    /// it is hidden, or not known.
    pub chip: Option<String>,
    /// Product line, of SEV-SNP.
    pub product: Option<&'static str>,
    /// Versions of firmware that the key stands for, by name.
    pub tcb: Vec<(&'static str, u64)>,
    /// What Intel says of the firmware, where it was asked.
    pub tcb_status: Option<TcbStatus>,
    /// Level the guest asked at, of SEV-SNP.
    pub vmpl: Option<u32>,
    /// The host may read the guest.
    pub debug: bool,
    /// The guest as launched, hex.
    pub measurement: String,
    /// What whoever launched it put beside, hex: `HOST_DATA`, `MRCONFIGID`.
    pub host_data: String,
    /// `POLICY` or `TDATTRIBUTES`, hex.
    pub policy: String,
    /// `RTMR0` to `RTMR3`, hex, of TDX.
    pub registers: Vec<String>,
    /// Who signed the measurement before the launch, of SEV-SNP, where somebody did.
    pub signer: Option<LaunchSigner>,
    /// `REPORT_ID` of SEV-SNP: one running guest of its chip. `TD_ID` of TDX, where its quote has one:
    /// one launch.
    pub instance: Option<[u8; 32]>,
}

/// Whose signature the processor checked over a measurement before it launched that.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaunchSigner {
    /// `ID_KEY_DIGEST`, hex.
    pub id_key: String,
    /// `FAMILY_ID`, hex: whatever the signer means by it.
    pub family: String,
    /// `IMAGE_ID`, hex, likewise.
    pub image: String,
    /// `GUEST_SVN`, likewise.
    pub svn: u32,
}

/// What a report says of the TPM beside the guest, where it is about one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Vtpm {
    /// It names the AK that was asked about, or the EK.
    pub named: bool,
    /// It was made for this question.
    pub fresh: bool,
}

/// What is known of revocation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Revocation {
    /// Asked of lists in their time, and none names a key of the path.
    Good,
    /// Not known, and why.
    Unknown(String),
}

/// A report, judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// What it says; `None`: it cannot be read.
    pub facts: Option<Facts>,
    /// All that is wrong; empty: it is signed under a root that counts, and answers the question.
    pub faults: Vec<Fault>,
    /// Its signature, and the path to a root that counts, are good. Whether it answers this question
    /// does not matter here: one that is played again is of somebody's chip.
    pub signed: bool,
    /// That root is its maker's.
    pub hardware: bool,
    /// What it says of a TPM. Whoever launched the guest has to be believed, too: this is what was launched
    /// that speaks.
    pub vtpm: Option<Vtpm>,
    /// Whether keys of the path were taken back.
    pub revocation: Revocation,
    /// Documents that the conclusion hangs on, by SHA-256.
    pub relied_on: BTreeSet<Sha256Digest>,
}

impl Judged {
    fn unread(fault: Fault) -> Self {
        Self {
            facts: None,
            faults: vec![fault],
            signed: false,
            hardware: false,
            vtpm: None,
            revocation: Revocation::Unknown("nothing to ask about".to_owned()),
            relied_on: BTreeSet::new(),
        }
    }

    fn of(facts: Facts) -> Self {
        Self {
            facts: Some(facts),
            faults: Vec::new(),
            signed: false,
            hardware: false,
            vtpm: None,
            revocation: Revocation::Unknown("its key was not found good".to_owned()),
            relied_on: BTreeSet::new(),
        }
    }

    /// The chip's own word under a root of its maker, in answer to the question.
    #[must_use]
    pub fn proven(&self) -> bool {
        self.signed && self.hardware && self.faults.is_empty()
    }
}

/// Judges one report.
#[must_use]
pub fn judge(asked: &Asked<'_>) -> Judged {
    match asked.kind {
        "sev-snp" => match Report::parse(asked.report) {
            Ok(report) => amd::judge(asked, &report),
            Err(why) => Judged::unread(refused("cvm-malformed", words(&why))),
        },
        "tdx" => match Quote::parse(asked.report) {
            Ok(quote) => intel::judge(asked, &quote),
            Err(why) => Judged::unread(refused("cvm-malformed", words(&why))),
        },
        "svsm-vtpm" => match Report::parse(asked.report) {
            Ok(report) => svsm::judge(asked, &report),
            Err(why) => Judged::unread(refused("cvm-malformed", words(&why))),
        },
        "azure-vtpm" => match HclReport::parse(asked.report) {
            Ok(hcl) => azure::judge(asked, &hcl),
            Err(why) => Judged::unread(refused("cvm-malformed", words(&why))),
        },
        other => {
            let kind: String = other.chars().take(40).collect();
            let why = format!("{kind:?} is no kind of report that is known here");
            Judged::unread(unchecked("cvm-kind", why))
        }
    }
}

/// What tells the guest of a report from others that run on its chip, by bytes nobody has verified yet;
/// `None`: nothing does.
pub fn instance(kind: &str, report: &[u8]) -> Result<Option<[u8; 32]>, ParseError> {
    match kind {
        "sev-snp" => Report::parse(report).map(|report| Some(*report.report_id)),
        "tdx" => Quote::parse(report).map(|quote| quote.body.launch_id().copied()),
        _ => Ok(None),
    }
}

/// What a guest bound in a report that says nothing of a TPM, by bytes nobody has verified yet; `None`: it
/// is of another kind.
pub fn bound(kind: &str, report: &[u8]) -> Result<Option<[u8; 64]>, ParseError> {
    match kind {
        "sev-snp" => Report::parse(report).map(|report| Some(*report.report_data)),
        "tdx" => Quote::parse(report).map(|quote| Some(*quote.body.report_data)),
        _ => Ok(None),
    }
}

/// RTMR 0 to 3 of a TDX guest, by bytes nobody has verified yet; `None`: of another kind.
pub fn rtmrs(kind: &str, report: &[u8]) -> Result<Option<[Digest; 4]>, ParseError> {
    match kind {
        "tdx" => Quote::parse(report).map(|quote| {
            let held = quote.body.rtmr.map(|held| Digest::from_slice(held));
            Some(held.map(Option::unwrap_or_default))
        }),
        _ => Ok(None),
    }
}

/// What keeps a TPM asks from where no guest beside it runs. From any other level it is not its word.
fn privileged(judged: &Judged) -> Option<Fault> {
    let level = judged.facts.as_ref()?.vmpl?;
    (level != PRIVILEGED).then(|| {
        let why =
            format!("VMPL {level:#x} asked for it, and what keeps a TPM asks at {PRIVILEGED}");
        refused("cvm-vtpm-level", why)
    })
}

fn refused(code: &'static str, why: impl Into<String>) -> Fault {
    Fault {
        code,
        refused: true,
        why: why.into(),
    }
}

fn unchecked(code: &'static str, why: impl Into<String>) -> Fault {
    Fault {
        code,
        refused: false,
        why: why.into(),
    }
}

/// An error with all its causes, in a line.
#[must_use]
pub fn words(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The answer has to be to this question.
fn answers(found: &[u8; 64], expected: &[u8; 64]) -> Option<Fault> {
    (found != expected).then(|| {
        let (found, expected) = (hex::encode(found), hex::encode(expected));
        let why = format!("report data {found}, and this statement's would be {expected}");
        refused(ANOTHER_QUESTION, why)
    })
}

/// Versions in words.
#[must_use]
pub fn tcb_text(tcb: &[(&'static str, u64)]) -> String {
    let parts = tcb.iter().map(|(name, value)| format!("{name} {value}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// The name an inventory has for a chip; a hidden one is all zeroes.
fn chip(prefix: &str, id: &[u8]) -> Option<String> {
    id.iter()
        .any(|byte| *byte != 0)
        .then(|| format!("{prefix}{}", hex::encode(id)))
}
