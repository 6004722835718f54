//! What the processor says of the confidential guest this node runs in: beside each quote, or in a
//! quote's place where there is no TPM.
//!
//! Asked through configfs-tsm, which kernels have since 6.7 for every kind of processor; where there
//! is none, through `/dev/sev-guest`; where an SVSM keeps a vTPM, it is asked about that; and where a
//! paravisor asks in the guest's place, in the vTPM that it keeps. Three outcomes are kept apart.
//! *There is no such thing*: nothing is said of it. *It could not be asked*: permissions, another
//! writer, a time that ran out. *It refused*: it was asked, and gave no report. Whether a report is any
//! good is the collector's to say.

mod azure;
mod configfs;
mod device;
#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bailiwick_attestation::{
    ParseError,
    cvm::{snp::Report, tdx::Quote},
    proto::v1::{Claim, TeeEvidence, TeeReport, claim::Value},
};
use tokio::sync::oneshot;
use tracing::warn;

use super::claim;
use crate::config::TeeSection;
use crate::tpm::{Tpm, TpmError};
use azure::Paravisor;

/// How claims about it begin.
pub const NAMES: &str = "tee.";
/// Time for one report. Firmware takes milliseconds, a quoting enclave some tenths of a second; a host
/// that holds requests back may take the better part of a minute, and no statement waits for that.
const PATIENCE: Duration = Duration::from_secs(8);
/// Longest report: `TSM_REPORT_OUTBLOB_MAX` of kernels that have a processor known here.
const MAX_REPORT: usize = 32 << 10;
/// Longest table of certificates: a chain of three and a list take eight.
const MAX_CERTIFICATES: usize = 32 << 10;
/// Most characters of an error that travel.
const WORDS: usize = 300;

/// A report as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Given {
    /// `sev-snp`, `tdx`, `azure-vtpm` or `svsm-vtpm`.
    pub kind: &'static str,
    /// The report.
    pub report: Vec<u8>,
    /// What the host keeps of certificates; empty where it keeps none.
    pub certificates: Vec<u8>,
    /// What the report is about beside the guest, where it is.
    pub manifest: Vec<u8>,
}

impl Given {
    /// What was launched, as an inventory and a profile ask for it, and nothing that names the chip.
    pub fn launch(&self) -> Result<String, ParseError> {
        let (measurement, host_data, more) = match self.kind {
            "tdx" => {
                let quote = Quote::parse(&self.report)?;
                let body = &quote.body;
                let more = format!("debug {}", body.debug());
                (
                    hex::encode(body.mr_td),
                    hex::encode(body.mr_config_id),
                    more,
                )
            }
            _ => {
                let report = Report::parse(&self.report)?;
                let more = format!(
                    "id_key {}, family_id {}, image_id {}, VMPL {:#x}, debug {}",
                    hex::encode(report.id_key_digest),
                    hex::encode(report.family_id),
                    hex::encode(report.image_id),
                    report.vmpl,
                    report.debug()
                );
                let (measurement, host_data) = (report.measurement, report.host_data);
                (hex::encode(measurement), hex::encode(host_data), more)
            }
        };
        let kind = self.kind;
        Ok(format!(
            "{kind}, measurement {measurement}, host_data {host_data}, {more}"
        ))
    }
}

/// Why there is no report, though there is somebody to ask.
#[derive(Debug, thiserror::Error)]
pub enum TeeError {
    /// A file or the device that could not be used.
    #[error("{what} {}", .file.display())]
    Unavailable {
        /// What was tried.
        what: &'static str,
        /// With what.
        file: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Somebody else wrote to the same entry meanwhile: the report may answer them.
    #[error("{} was written to by somebody else: generation {found}, expected {expected}", .file.display())]
    Disturbed {
        /// The entry.
        file: PathBuf,
        /// Generation it has.
        found: u64,
        /// Generation it would have after our own writes.
        expected: u64,
    },
    /// There is nobody to ask.
    #[error("there is neither {} nor {}: this is no confidential guest, or its kernel lacks the module", .reports.display(), .device.display())]
    Absent {
        /// configfs-tsm.
        reports: PathBuf,
        /// AMD's device.
        device: PathBuf,
    },
    /// A report that answers another question, or is none.
    #[error("the {kind} report")]
    Answer {
        /// Its kind.
        kind: &'static str,
        /// What is wrong with it.
        #[source]
        source: NotAnswered,
    },
    /// A provider whose reports nobody here reads.
    #[error("the provider {0:?} is none whose reports can be read")]
    Provider(String),
    /// No answer in time, or none to an earlier question yet.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Late,
    /// The TPM, where the report lies in it.
    #[error("the paravisor's report")]
    Tpm(#[source] Box<TpmError>),
    /// An answer that is no answer.
    #[error("{}: {fault}", .file.display())]
    Malformed {
        /// Where it was read.
        file: PathBuf,
        /// What is wrong.
        fault: String,
    },
    /// Asked, and refused.
    #[error("{} refused: {why}", .file.display())]
    Refused {
        /// Who was asked.
        file: PathBuf,
        /// In its words.
        why: String,
    },
}

/// Why a report cannot sign what it was asked for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotAnswered {
    /// Not the structure that it is called.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// It binds other data.
    #[error("binds other report data than it was asked for")]
    Other,
}

impl TeeError {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "tee-unavailable",
            Self::Disturbed { .. } => "tee-disturbed",
            Self::Absent { .. } => "tee-absent",
            Self::Answer { .. } => "tee-answer",
            Self::Provider(_) => "tee-provider",
            Self::Late => "tee-late",
            Self::Tpm(_) => "tee-tpm",
            Self::Malformed { .. } => "tee-malformed",
            Self::Refused { .. } => "tee-refused",
        }
    }

    /// Who was asked said no, and nothing came between.
    #[must_use]
    pub const fn refused(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// What an error of the kernel means: some say that the question never reached the processor.
fn kernel_says(what: &'static str, file: &Path, source: io::Error) -> TeeError {
    use io::ErrorKind::{
        Interrupted, NotFound, OutOfMemory, PermissionDenied, ResourceBusy, TimedOut, WouldBlock,
    };
    let kinds = [
        Interrupted,
        NotFound,
        OutOfMemory,
        PermissionDenied,
        ResourceBusy,
        TimedOut,
        WouldBlock,
    ];
    let numbers = [libc::ENOTTY, libc::ENXIO, libc::ENODEV];
    let unasked = kinds.contains(&source.kind())
        || source
            .raw_os_error()
            .is_some_and(|number| numbers.contains(&number));
    let file = file.to_owned();
    if unasked {
        return TeeError::Unavailable { what, file, source };
    }
    let why = source.to_string();
    TeeError::Refused { file, why }
}

/// Asks whoever there is; `None`: there is nobody.
fn ask(section: &TeeSection, data: &[u8; 64]) -> Result<Option<Given>, TeeError> {
    match configfs::ask(&section.reports, data)? {
        Some(given) => Ok(Some(given)),
        None => device::ask(&section.device, data),
    }
}

/// Asks for the guest's own report, and no other's: it is what signs where there is no TPM.
fn ask_own(section: &TeeSection, data: &[u8; 64]) -> Result<Option<Given>, TeeError> {
    match configfs::ask_own(&section.reports, data)? {
        Some(given) => Ok(Some(given)),
        None => device::ask(&section.device, data),
    }
}

/// That a report of the processor binds these data. Whose it is, is not asked.
fn answers(given: &Given, data: &[u8; 64]) -> Result<(), NotAnswered> {
    let bound = match given.kind {
        "tdx" => *Quote::parse(&given.report)?.body.report_data,
        _ => *Report::parse(&given.report)?.report_data,
    };
    match bound == *data {
        true => Ok(()),
        false => Err(NotAnswered::Other),
    }
}

type Ask = fn(&TeeSection, &[u8; 64]) -> Result<Option<Given>, TeeError>;

/// What the last question came to.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Last {
    /// There is nobody to ask.
    Absent,
    Given(&'static str),
    /// Could not be asked, and why.
    Unavailable(String),
    Refused(String),
}

/// The processor, to be asked once for each quote.
#[derive(Debug)]
pub struct Tee {
    section: TeeSection,
    patience: Duration,
    /// A question that was given up is still being answered.
    asking: Arc<AtomicBool>,
    last: Option<Last>,
    paravisor: Option<Paravisor>,
}

impl Tee {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(section: &TeeSection) -> Self {
        Self {
            section: section.clone(),
            patience: PATIENCE,
            asking: Arc::default(),
            last: None,
            paravisor: None,
        }
    }

    /// The same, with a TPM that may have been laid a report into.
    #[must_use]
    pub fn beside(self, tpm: &Tpm) -> Self {
        Self {
            paravisor: Some(Paravisor::new(tpm.clone())),
            ..self
        }
    }

    /// A report with these data, or why there is none; `None` where there is nobody to ask.
    pub async fn evidence(&mut self, data: [u8; 64]) -> Option<TeeEvidence> {
        let asked = match (self.asked(ask, data).await, &mut self.paravisor) {
            (Ok(None), Some(paravisor)) => paravisor.ask(&data).await,
            (asked, _) => asked,
        };
        if let Err(why) = &asked {
            let code = why.code();
            warn!(code, why = %crate::uplink::link::chain(why), "no TEE report");
        }
        let (last, evidence) = told(asked);
        self.last = Some(last);
        evidence
    }

    /// The guest's own report over these data: what signs where there is no TPM.
    pub async fn signed(&self, data: [u8; 64]) -> Result<Given, TeeError> {
        let given = self.asked(ask_own, data).await?;
        let given = given.ok_or_else(|| TeeError::Absent {
            reports: self.section.reports.clone(),
            device: self.section.device.clone(),
        })?;
        match answers(&given, &data) {
            Ok(()) => Ok(given),
            Err(source) => Err(TeeError::Answer {
                kind: given.kind,
                source,
            }),
        }
    }

    async fn asked(&self, ask: Ask, data: [u8; 64]) -> Result<Option<Given>, TeeError> {
        if self.asking.swap(true, Ordering::AcqRel) {
            return Err(TeeError::Late);
        }
        let (section, asking) = (self.section.clone(), Arc::clone(&self.asking));
        let (answer, answered) = oneshot::channel();
        // A thread of its own: the runtime waits for those of its pool when it stops, and the kernel
        // may hold this one for a minute.
        let asker = move || {
            let found = ask(&section, &data);
            asking.store(false, Ordering::Release);
            drop(answer.send(found));
        };
        let spawned = std::thread::Builder::new().name("tee".to_owned());
        if let Err(source) = spawned.spawn(asker) {
            self.asking.store(false, Ordering::Release);
            return Err(TeeError::Unavailable {
                what: "a thread for",
                file: self.section.reports.clone(),
                source,
            });
        }
        match tokio::time::timeout(self.patience, answered).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => Err(TeeError::Late),
        }
    }

    /// What a statement says of it, of the last question: its own is asked when it is complete.
    /// Nothing where there is nobody to ask, or nobody was asked yet.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let source = self.source();
        let said = match &self.last {
            None | Some(Last::Absent) => return Vec::new(),
            Some(Last::Given(kind)) => Value::Text((*kind).to_owned()),
            Some(Last::Unavailable(why)) => Value::Unavailable(why.clone()),
            Some(Last::Refused(why)) => {
                return vec![
                    claim("tee.report", &source, Value::Text("refused".to_owned())),
                    claim("tee.refusal", &source, Value::Text(why.clone())),
                ];
            }
        };
        vec![claim("tee.report", &source, said)]
    }

    fn source(&self) -> String {
        if self.last == Some(Last::Given(azure::KIND)) {
            return "tpm".to_owned();
        }
        let way = match self.section.reports.is_dir() {
            true => &self.section.reports,
            false => &self.section.device,
        };
        way.display().to_string()
    }
}

/// What is remembered and what travels.
fn told(asked: Result<Option<Given>, TeeError>) -> (Last, Option<TeeEvidence>) {
    match asked {
        Ok(None) => (Last::Absent, None),
        Ok(Some(given)) => {
            let evidence = TeeEvidence {
                report: Some(TeeReport {
                    kind: given.kind.to_owned(),
                    report: given.report,
                }),
                certificates: given.certificates,
                manifest: given.manifest,
                ..TeeEvidence::default()
            };
            (Last::Given(given.kind), Some(evidence))
        }
        Err(why) => {
            let words = format!("{}: {}", why.code(), crate::uplink::link::chain(&why));
            let words: String = words.chars().take(WORDS).collect();
            let mut evidence = TeeEvidence::default();
            if why.refused() {
                evidence.refused.clone_from(&words);
                (Last::Refused(words), Some(evidence))
            } else {
                evidence.unavailable.clone_from(&words);
                (Last::Unavailable(words), Some(evidence))
            }
        }
    }
}
