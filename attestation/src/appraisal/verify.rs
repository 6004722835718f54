//! Who spoke: the envelope's signature, challenge and register values.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    logs::LogsRead,
    signed::{ReportRefused, Signature, Signed},
    signer::Signer,
};
use crate::{
    crypto::{Digest, HashAlgorithm},
    evidence::{
        Freshness, GPU_CHAINS, GPU_REPORTS, Nonce, NonceError, ParsedStatement, SignerKind,
        StatementRefused, geotag_binding, log_name, tee_report_data_of,
    },
    geotag::GEOTAG_INDEX,
    ids::{Sha256Digest, UnixTime},
    profile::Profile,
    proto::v1,
    tpm::{
        AkPublic, BoundPcrs, CertifiedNv, ClockInfo, NvRefused, PcrRefused, PcrValueError,
        QuoteRefused,
    },
};

/// Names of logs in envelopes and statements.
const BOOT_LOG: &str = "boot";
const IMA_LIST: &str = "ima";
const USERSPACE_LOG: &str = "userspace";
/// Most characters of a node's own words.
const WORDS: usize = 400;

/// Why bytes are not this node's evidence. Nothing of them is believed or recorded as its own.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EvidenceRefused {
    /// The envelope lacks a part or holds one twice.
    #[error("Evidence.{field}: {fault}")]
    Envelope {
        /// Which part.
        field: &'static str,
        /// What is wrong.
        fault: &'static str,
    },
    /// The nonce has another length.
    #[error("Evidence.nonce")]
    Nonce(#[source] NonceError),
    /// The envelope answers another challenge than the one asked about.
    #[error("the evidence answers another challenge")]
    Freshness,
    /// Another kind of signer than enrolled: neither may stand in the place of the other.
    #[error("signed by {found}, and what enrolled signs by {enrolled}")]
    SignerKind {
        /// Of the envelope.
        found: SignerKind,
        /// Of the enrolment.
        enrolled: SignerKind,
    },
    /// The statement is malformed.
    #[error("malformed statement")]
    Statement(#[source] StatementRefused),
    /// The quote is not the AK's, or not over this statement and challenge.
    #[error("quote refused")]
    Quote(#[source] QuoteRefused),
    /// The report that was to sign the statement is not one, or not over this statement and challenge.
    #[error("report refused")]
    Report(#[source] ReportRefused),
    /// The statement speaks for another key than enrolled, or for one beside a quote.
    #[error("Statement.guest_key is {}, and the key that enrolled is {}", key(*.found), key(*.enrolled))]
    GuestKey {
        /// By the statement.
        found: Option<Sha256Digest>,
        /// By the enrolment; `None`: an AK enrolled.
        enrolled: Option<Sha256Digest>,
    },
    /// The register values are not well-formed.
    #[error("Evidence.pcrs")]
    PcrValue(#[source] PcrValueError),
    /// The register values are not those quoted.
    #[error("register values refused")]
    Pcrs(#[source] PcrRefused),
}

impl EvidenceRefused {
    /// Stable word for answers, logs and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Envelope { .. } | Self::Nonce(_) => "evidence-malformed",
            Self::Freshness => "nonce",
            Self::SignerKind { .. } => "signer-kind",
            Self::Statement(refused) => refused.code(),
            Self::Quote(refused) => refused.code(),
            Self::Report(refused) => refused.code(),
            Self::GuestKey { .. } => "guest-key",
            Self::PcrValue(error) => error.code(),
            Self::Pcrs(refused) => refused.code(),
        }
    }
}

/// A key in words.
fn key(digest: Option<Sha256Digest>) -> String {
    digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string())
}

/// What the TPM certified of the node's geotag.
#[derive(Clone, Debug)]
pub enum GeotagShown {
    /// The envelope brings none.
    Absent,
    /// The node says why it brings none.
    Unavailable(String),
    /// The area is not what it is to be, or not certified for this statement.
    Refused(NvRefused),
    /// What stands in it; whose word it is, is not asked yet.
    Certified(CertifiedNv),
}

/// Evidence that the enrolled AK signed in answer to a known challenge, or that comes with a report of
/// a guest's processor on just that. Only [`VerifiedEvidence::verify`] makes one.
///
/// A report's own signature is judged in [`super::appraise`]: it takes a maker's word, and a time.
#[derive(Clone, Debug)]
pub struct VerifiedEvidence {
    pub(super) statement: ParsedStatement,
    pub(super) freshness: Freshness,
    pub(super) signed: Signed,
    /// The fence's own log as it came, read after the quote.
    pub(super) fence_log: Option<Vec<u8>>,
    /// The boot event log, as it came or as it was kept.
    pub(super) boot_log: Option<Arc<[u8]>>,
    /// The kernel's measurement list, likewise.
    pub(super) ima_list: Option<Arc<[u8]>>,
    /// The list as it came, where what came is the end of one whose beginning came earlier.
    ima_part: Option<v1::Log>,
    /// Names of the logs that can be read on, once somebody is to keep what they show.
    names: Names,
    /// Whether the envelope brought boot log, user space's log and list, the list whole.
    brought: [bool; 3],
    /// What the logs show, where somebody keeps that.
    read: Option<Arc<LogsRead>>,
    /// What user space measured after the boot event log ended, likewise.
    pub(super) userspace_log: Option<Arc<[u8]>>,
    /// The geotag the envelope brought.
    geotag: GeotagShown,
    /// What the processor says of the guest, as it came, and what it was to bind.
    pub(super) tee: Option<(Box<v1::TeeEvidence>, [u8; 64])>,
    /// Reports of GPUs that the statement cites, likewise.
    pub(super) gpu_reports: Option<Arc<[u8]>>,
    /// Their chains, likewise.
    pub(super) gpu_chains: Option<Arc<[u8]>>,
    /// SHA-256 of the name of the AK that signed it, or of what stands for one.
    pub(super) ak: Sha256Digest,
}

/// What names the logs of a statement, brought along or kept.
#[derive(Clone, Copy, Debug, Default)]
struct Names {
    boot: Option<Sha256Digest>,
    userspace: Option<Sha256Digest>,
    ima: Option<Sha256Digest>,
}

impl VerifiedEvidence {
    /// Checks the envelope against who enrolled and the challenge it is to answer.
    ///
    /// Order: shape of the envelope, kind of signer, challenge, statement, quote (scheme, signature,
    /// qualifying data, selection), register values under the labels the quote signed. Of a guest
    /// without a TPM: its key, what may not come beside a report, and the report's data.
    pub fn verify<'s>(
        evidence: &v1::Evidence,
        signer: impl Into<Signer<'s>>,
        expected: &Freshness,
    ) -> Result<Self, EvidenceRefused> {
        let signer = signer.into();
        let signature = Signature::of(evidence, signer)?;
        let freshness = freshness_of(evidence)?;
        if freshness != *expected {
            return Err(EvidenceRefused::Freshness);
        }
        let statement =
            ParsedStatement::parse(&evidence.statement).map_err(EvidenceRefused::Statement)?;
        let (signed, ak, tee, geotag) = match signature {
            Signature::Quote(quote, ak) => {
                let signed = Signed::by_quote(evidence, quote, ak, &freshness, &statement)?;
                let name = ak.name();
                let tee = evidence.tee.clone().map(|tee| {
                    let data = tee_report_data_of(&freshness, &statement.digest, name.as_bytes());
                    (tee, data)
                });
                let ak_digest = Sha256Digest::of(&[name.as_bytes()]);
                (signed, ak_digest, tee, geotag(evidence, &freshness, ak))
            }
            Signature::Report(report, guest) => {
                let (signed, tee) =
                    Signed::by_report(evidence, report, guest, &freshness, &statement)?;
                let name = Sha256Digest::of(&[&guest.name()]);
                (signed, name, Some(tee), GeotagShown::Absent)
            }
        };
        let boot_log = whole(evidence, BOOT_LOG)?.map(Arc::from);
        let userspace_log = whole(evidence, USERSPACE_LOG)?.map(Arc::from);
        let (ima_list, ima_part) = measurement_list(evidence)?;
        let brought = [
            boot_log.is_some(),
            userspace_log.is_some(),
            ima_list.is_some(),
        ];
        let cited = statement.gpu.as_ref();
        let gpu_reports = log_cited(evidence, GPU_REPORTS, cited.map(|gpu| gpu.reports))?;
        let gpu_chains = log_cited(evidence, GPU_CHAINS, cited.map(|gpu| gpu.chains))?;
        Ok(Self {
            tee,
            geotag,
            gpu_reports,
            gpu_chains,
            statement,
            freshness,
            signed,
            ak,
            fence_log: whole(evidence, "fence")?,
            boot_log,
            ima_list,
            ima_part,
            names: Names::default(),
            brought,
            read: None,
            userspace_log,
        })
    }

    /// Logs that the statement names by digest instead of bringing them along, and what a part goes on
    /// from: those of an earlier envelope that somebody kept.
    #[must_use]
    pub fn lacks(&self) -> Vec<(&'static str, Sha256Digest)> {
        let logs = [
            (BOOT_LOG, &self.boot_log),
            (IMA_LIST, &self.ima_list),
            (USERSPACE_LOG, &self.userspace_log),
            (GPU_REPORTS, &self.gpu_reports),
            (GPU_CHAINS, &self.gpu_chains),
        ];
        let absent = logs.into_iter().filter(|(_, log)| log.is_none());
        absent
            .filter_map(|(name, _)| Some((name, self.wanted(name)?)))
            .collect()
    }

    /// What has to be kept of a log, for it to be whole.
    fn wanted(&self, name: &str) -> Option<Sha256Digest> {
        match &self.ima_part {
            Some(part) if name == IMA_LIST => Sha256Digest::from_slice(&part.follows),
            _ => self.named(name),
        }
    }

    /// The digest under which the statement names a log.
    fn named(&self, name: &str) -> Option<Sha256Digest> {
        let gpu = self.statement.gpu.as_ref();
        match name {
            GPU_REPORTS => gpu.map(|gpu| gpu.reports),
            GPU_CHAINS => gpu.map(|gpu| gpu.chains),
            other => self.statement.logs.get(other).copied(),
        }
    }

    /// Adds a log that was kept whole. Other bytes than the statement names are left out; what the
    /// log is worth, its replay shows.
    pub fn keep(&mut self, name: &str, log: &Arc<[u8]>) {
        if self.wanted(name) == Some(Sha256Digest::of(&[log])) {
            self.put(name, log);
        }
    }

    /// Adds logs that were kept, whole or in parts, in any order. A log of which a part is missing, or
    /// is not the one that the next part names, is left out.
    pub fn keep_all(&mut self, logs: &[v1::Log]) {
        for (name, last) in self.lacks() {
            if let Some(whole) = joined(logs, name, last) {
                self.put(name, &whole.into());
            }
        }
    }

    fn put(&mut self, name: &str, log: &Arc<[u8]>) {
        let place = match name {
            BOOT_LOG => &mut self.boot_log,
            IMA_LIST => &mut self.ima_list,
            USERSPACE_LOG => &mut self.userspace_log,
            GPU_REPORTS => &mut self.gpu_reports,
            GPU_CHAINS => &mut self.gpu_chains,
            _ => return,
        };
        let part = self.ima_part.as_ref().filter(|_| name == IMA_LIST);
        place.get_or_insert_with(|| match part {
            Some(part) => [log, part.content.as_slice()].concat().into(),
            None => Arc::clone(log),
        });
    }

    /// Reads the logs under a profile, for its appraisal at that time and for the statement after.
    ///
    /// With what the logs of an earlier statement showed, only what came since is read, and the logs
    /// before need not be here. `false`: that cannot be. Then nothing is concluded: the logs have to be
    /// added ([`Self::keep_all`]) and read without.
    pub fn read_logs(
        &mut self,
        profile: &Profile,
        at: UnixTime,
        earlier: Option<&LogsRead>,
    ) -> bool {
        let read = match earlier {
            Some(earlier) => {
                self.name_logs();
                earlier.advance(self, profile, at)
            }
            None => Some(LogsRead::of(self, profile, at)),
        };
        self.read = read.map(Arc::new);
        self.read.is_some()
    }

    /// What [`Self::read_logs`] found, for the statement after.
    #[must_use]
    pub fn logs_read(&mut self) -> Option<Arc<LogsRead>> {
        self.name_logs();
        let read = self.read.as_ref()?;
        Some(Arc::new(read.named(self)))
    }

    /// What the logs show under that profile, read already or now.
    pub(super) fn logs_under(&self, profile: &Profile, at: UnixTime) -> Arc<LogsRead> {
        match &self.read {
            Some(read) if read.is_under(profile, at) => Arc::clone(read),
            _ => Arc::new(LogsRead::of(self, profile, at)),
        }
    }

    /// What came along is named by its content; what did not, as the statement names it.
    fn name_logs(&mut self) {
        let name = |log: &Option<Arc<[u8]>>, brought: bool, name| match log {
            Some(log) if brought => Some(Sha256Digest::of(&[log])),
            _ => self.named(name),
        };
        let [boot, userspace, ima] = self.brought;
        self.names = Names {
            boot: name(&self.boot_log, boot, BOOT_LOG),
            userspace: name(&self.userspace_log, userspace, USERSPACE_LOG),
            ima: match &self.ima_part {
                Some(part) => Some(log_name(part)),
                None => name(&self.ima_list, ima, IMA_LIST),
            },
        };
    }

    /// Names of the logs that were complete when the kernel was.
    pub(super) const fn boot_logs(&self) -> [Option<Sha256Digest>; 2] {
        [self.names.boot, self.names.userspace]
    }

    /// What names the whole list.
    pub(super) const fn list_name(&self) -> Option<Sha256Digest> {
        self.names.ima
    }

    /// What the list holds beyond the one of that name, and its own name; `None` where it is not said
    /// to go on from there.
    pub(super) fn list_since(&self, earlier: &Sha256Digest) -> Option<(Sha256Digest, &[u8])> {
        let name = self.names.ima?;
        match &self.ima_part {
            Some(part) if part.follows == earlier.as_bytes() => Some((name, &part.content)),
            None if name == *earlier => Some((name, &[])),
            _ => None,
        }
    }

    /// What was said.
    #[must_use]
    pub const fn statement(&self) -> &ParsedStatement {
        &self.statement
    }

    /// The TPM's clock when it was quoted; `None`: no TPM signed it.
    #[must_use]
    pub const fn clock(&self) -> Option<ClockInfo> {
        match &self.signed {
            Signed::Tpm { clock, .. } => Some(*clock),
            Signed::Tee { .. } => None,
        }
    }

    /// `TPMS_ATTEST.firmwareVersion`, as the AK signed it; `None`: no TPM did.
    #[must_use]
    pub const fn firmware_version(&self) -> Option<u64> {
        match &self.signed {
            Signed::Tpm {
                firmware_version, ..
            } => Some(*firmware_version),
            Signed::Tee { .. } => None,
        }
    }

    /// What signed it.
    #[must_use]
    pub const fn signer_kind(&self) -> SignerKind {
        match &self.signed {
            Signed::Tpm { .. } => SignerKind::TpmQuote,
            Signed::Tee { .. } => SignerKind::TeeReport,
        }
    }

    /// A report of the processor alone signed it: no register of a TPM stands behind anything in it.
    pub(super) const fn alone(&self) -> bool {
        matches!(self.signed, Signed::Tee { .. })
    }

    /// The challenge it answers.
    #[must_use]
    pub const fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// What the TPM certified of the node's geotag.
    #[must_use]
    pub const fn geotag(&self) -> &GeotagShown {
        &self.geotag
    }

    /// What the processor says of the guest, as it came, and what it was to bind: nothing of it is
    /// verified.
    #[must_use]
    pub fn tee(&self) -> Option<(&v1::TeeEvidence, &[u8; 64])> {
        self.tee.as_ref().map(|(tee, data)| (&**tee, data))
    }

    /// The register values the TPM signed for; `None`: no TPM signed anything.
    #[must_use]
    pub const fn pcrs(&self) -> Option<&BoundPcrs> {
        match &self.signed {
            Signed::Tpm { pcrs, .. } => Some(pcrs),
            Signed::Tee { .. } => None,
        }
    }

    /// One register that somebody signed for.
    pub(super) fn register(&self, bank: HashAlgorithm, index: u8) -> Option<&Digest> {
        self.pcrs()?.get(bank, index)
    }

    /// RTMR 0 to 3 of the TDX guest whose quote signed it, as they stand there.
    pub(super) fn rtmrs(&self) -> Option<&[Digest; 4]> {
        match &self.signed {
            Signed::Tpm { .. } => None,
            Signed::Tee { rtmrs } => rtmrs.as_deref(),
        }
    }

    /// All of them.
    pub(super) fn registers(&self) -> impl Iterator<Item = (HashAlgorithm, u8, &Digest)> {
        self.pcrs().into_iter().flat_map(BoundPcrs::iter)
    }
}

/// The challenge an envelope says it answers.
pub(super) fn freshness_of(evidence: &v1::Evidence) -> Result<Freshness, EvidenceRefused> {
    match &evidence.freshness {
        Some(v1::evidence::Freshness::Nonce(nonce)) => Nonce::from_slice(nonce)
            .map(Freshness::Challenged)
            .map_err(EvidenceRefused::Nonce),
        Some(v1::evidence::Freshness::Unchallenged(unchallenged)) => {
            let last_receipt = Sha256Digest::from_slice(&unchallenged.last_receipt).ok_or(
                EvidenceRefused::Envelope {
                    field: "unchallenged.last_receipt",
                    fault: "must have 32 bytes",
                },
            )?;
            Ok(Freshness::Unchallenged {
                last_receipt,
                number: unchallenged.number,
            })
        }
        None => Err(EvidenceRefused::Envelope {
            field: "freshness",
            fault: "is absent",
        }),
    }
}

impl Freshness {
    /// The challenge an envelope says it answers. Whether that challenge was ever made, and to
    /// this node, is for the caller to know.
    pub fn of(evidence: &v1::Evidence) -> Result<Self, EvidenceRefused> {
        freshness_of(evidence)
    }
}

/// The one log of that name.
fn log<'e>(evidence: &'e v1::Evidence, name: &str) -> Result<Option<&'e v1::Log>, EvidenceRefused> {
    let mut named = evidence.logs.iter().filter(|log| log.name == name);
    let first = named.next();
    if named.next().is_some() {
        return Err(EvidenceRefused::Envelope {
            field: "logs",
            fault: "holds one log twice",
        });
    }
    Ok(first)
}

/// The one log of that name, which has no parts.
fn whole(evidence: &v1::Evidence, name: &str) -> Result<Option<Vec<u8>>, EvidenceRefused> {
    match log(evidence, name)? {
        Some(part) if !part.follows.is_empty() => Err(EvidenceRefused::Envelope {
            field: "logs.follows",
            fault: "is there for a log that travels whole",
        }),
        found => Ok(found.map(|log| log.content.clone())),
    }
}

type MeasurementList = (Option<Arc<[u8]>>, Option<v1::Log>);

/// The list if it came whole, or the part of it that came.
fn measurement_list(evidence: &v1::Evidence) -> Result<MeasurementList, EvidenceRefused> {
    match log(evidence, IMA_LIST)? {
        None => Ok((None, None)),
        Some(log) if log.follows.is_empty() => Ok((Some(log.content.as_slice().into()), None)),
        Some(part) if part.follows.len() == 32 => Ok((None, Some(part.clone()))),
        Some(_) => Err(EvidenceRefused::Envelope {
            field: "logs.follows",
            fault: "must have 32 bytes",
        }),
    }
}

/// All parts of the log whose last one has that name, put together.
fn joined(logs: &[v1::Log], name: &str, last: Sha256Digest) -> Option<Vec<u8>> {
    let own = logs.iter().filter(|log| log.name == name);
    let mut named: BTreeMap<Sha256Digest, &v1::Log> = own.map(|log| (log_name(log), log)).collect();
    let (mut parts, mut wanted) = (Vec::new(), last);
    loop {
        // Taken away, so that it ends whatever is named.
        let part = named.remove(&wanted)?;
        parts.push(part.content.as_slice());
        if part.follows.is_empty() {
            break;
        }
        wanted = Sha256Digest::from_slice(&part.follows)?;
    }
    parts.reverse();
    Some(parts.concat())
}

/// A geotag that does not hold says nothing of the statement beside it.
fn geotag(evidence: &v1::Evidence, freshness: &Freshness, ak: &AkPublic) -> GeotagShown {
    match &evidence.geotag {
        None => GeotagShown::Absent,
        Some(tag) if !tag.unavailable.is_empty() => {
            GeotagShown::Unavailable(tag.unavailable.chars().take(WORDS).collect())
        }
        Some(tag) => {
            let want = geotag_binding(freshness, &evidence.statement).into();
            let (public, attest) = (&tag.nv_public, &tag.attest);
            let shown =
                CertifiedNv::verify(GEOTAG_INDEX, public, attest, &tag.signature, ak, &want);
            shown.map_or_else(GeotagShown::Refused, GeotagShown::Certified)
        }
    }
}

/// The one log of that name, which has to be what the statement names: it proves nothing of how it
/// came to be, so the statement answers for it.
fn log_cited(
    evidence: &v1::Evidence,
    name: &str,
    cited: Option<Sha256Digest>,
) -> Result<Option<Arc<[u8]>>, EvidenceRefused> {
    let Some(found) = whole(evidence, name)? else {
        return Ok(None);
    };
    if cited != Some(Sha256Digest::of(&[&found])) {
        return Err(EvidenceRefused::Envelope {
            field: "logs",
            fault: "holds other reports or chains of GPUs than the statement cites",
        });
    }
    Ok(Some(found.into()))
}
