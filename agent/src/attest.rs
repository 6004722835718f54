//! Puts a statement together, has it signed, keeps it.
//!
//! Order matters. The statement is complete before the quote signs its digest; registers and logs
//! are read after the quote, for they replay to values it covers; the envelope is on disk, and the
//! node's place in its sequence too, before anything is sent. Who signs, and with what beside it, is
//! [`sign`]'s: a TPM, or in a guest without one the processor.

mod history;
mod logs;
mod receipt;
mod sign;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_guest;

use std::{
    collections::{BTreeSet, VecDeque},
    io,
};

use bailiwick_attestation::{
    Sha256Digest,
    evidence::Freshness,
    proto::v1::{
        Claim, Evidence, FenceState, Gap, PolicyState, Receipt, Statement, Unchallenged, Welcome,
        claim::Value, evidence,
    },
    standing::QuotedAt,
};
use prost::Message;
use tokio::task::{block_in_place, spawn_blocking};
use tracing::{error, warn};

use self::{
    logs::{Sent, SentLogs},
    receipt::LastReceipt,
    sign::{Signed, Voice},
};
use crate::{
    clock,
    collect::{
        Host, LogFile,
        gpu::{self, Cited},
        read_logs,
        tee::TeeError,
    },
    config::Config,
    log::{LogError, NodeLog, edge_file},
    signer::Signer,
    spool::{
        Spool, SpoolError,
        chain::{Chain, ChainFile},
    },
    tpm::TpmError,
    uplink::exchange::Item,
};

/// Statements of this boot whose clocks are remembered, for leases that answer them.
const QUOTED: usize = 64;

/// Why a guest's statement is lost with the boot it was made in.
const EARLIER: &str = "signed for the key of an earlier boot";

/// Longest reason of a gap.
const MAX_REASON: usize = 200;

/// What the spool kept.
#[derive(Debug, Default)]
struct Kept {
    /// Oldest first.
    items: Vec<Item>,
    /// Those among them that were signed for another key than this node has now.
    earlier: BTreeSet<Sha256Digest>,
    /// Epoch and log size of the newest.
    newest: Option<(u64, u64)>,
}

/// Why there is no statement.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// No quote.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// No report.
    #[error("the processor does not sign")]
    Processor(#[source] TeeError),
    /// A statement of an earlier boot.
    #[error("it names the key of an earlier boot, which is gone")]
    EarlierKey,
    /// Not kept.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The place in the sequence could not be remembered: a statement sent now could be followed
    /// by another of the same number.
    #[error("the node's place in its sequence")]
    Chain(#[source] io::Error),
    /// The node's log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The kernel's boot id.
    #[error("boot id")]
    BootId(#[source] io::Error),
    /// Bytes in the spool that are not an envelope.
    #[error("spool record {0} is not an envelope")]
    Record(u64),
}

/// What changes from statement to statement.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// From files and NVML.
    pub claims: Vec<Claim>,
    /// As the fence process says, or why it does not.
    pub fence: FenceState,
    /// Policy in force.
    pub policy: Option<PolicyState>,
    /// The newest reports of GPUs, if there are any.
    pub gpu: Option<Cited>,
    /// Who may sign now, as the fence says; `None`: those of the machine's configuration.
    pub approvers: Option<Sha256Digest>,
}

/// Makes statements. Owns spool, chain and the node's log.
#[derive(Debug)]
pub struct Attester {
    voice: Voice,
    host: Host,
    deployment: String,
    node: String,
    approvers: Sha256Digest,
    boot_id: [u8; 16],
    spool: Spool,
    chain: Chain,
    chain_file: ChainFile,
    last_receipt: LastReceipt,
    /// Kept statements that nobody here can sign again.
    earlier: BTreeSet<Sha256Digest>,
    /// Why statements were lost, for the next one.
    gap_reason: String,
    quoted: VecDeque<QuotedAt>,
    reset_count: u32,
    logs: SentLogs,
    spool_was_full: bool,
    log: NodeLog,
    log_was_full: bool,
    /// Why the log begins a new epoch, as soon as it can be said what the collector holds.
    epoch_wanted: Option<&'static str>,
    /// What the collector said it holds.
    welcome: Option<Welcome>,
    /// Statements sent: digest, epoch, and the size of the log they name.
    named: VecDeque<(Sha256Digest, u64, u64)>,
}

/// A statement, signed.
#[derive(Debug)]
pub struct Made {
    /// To track it by.
    pub item: Item,
    /// To send.
    pub envelope: Evidence,
}

impl Attester {
    /// Opens spool, chain and log; answers what the spool kept, oldest first.
    pub fn open(
        config: &Config,
        signer: &Signer,
        host: Host,
        approvers: Sha256Digest,
    ) -> Result<(Self, Vec<Item>), AttestError> {
        let (spool, recovered) = Spool::open(
            &config.spool_dir().join("statements"),
            config.spool.max_bytes / 4 * 3,
        )?;
        let (chain_file, had_chain) =
            ChainFile::open(&config.state_dir.join("chain")).map_err(AttestError::Chain)?;
        let boot_id = host.boot_id().map_err(AttestError::BootId)?;
        let mut chain = had_chain.unwrap_or_default();
        let kept = recover(&spool, &mut chain, &signer.guest_key())?;
        let (log, found) = NodeLog::open(
            &edge_file(&config.state_dir),
            &config.spool_dir().join("log"),
            config.spool.max_bytes / 4,
            kept.newest,
        )?;
        let epoch = history::epoch_on(
            &history::Disk {
                chain: had_chain,
                statements: kept.newest.is_some(),
                keys: signer.key_was_kept(),
                log: found,
                log_epoch: log.epoch(),
            },
            chain.epoch,
        );
        let mut attester = Self {
            voice: Voice::new(config, signer),
            host,
            deployment: config.deployment.to_string(),
            node: config.node.to_string(),
            approvers,
            boot_id,
            spool,
            chain,
            chain_file,
            last_receipt: LastReceipt::open(&config.state_dir),
            earlier: kept.earlier,
            gap_reason: String::new(),
            quoted: VecDeque::new(),
            reset_count: 0,
            logs: SentLogs::default(),
            spool_was_full: false,
            log,
            log_was_full: false,
            epoch_wanted: None,
            welcome: None,
            named: VecDeque::new(),
        };
        attester.write_chain()?;
        attester.settle_epoch(epoch)?;
        if attester.chain.lost_statements > 0 {
            "lost before a restart".clone_into(&mut attester.gap_reason);
        }
        if recovered.torn_bytes > 0 {
            warn!(
                bytes = recovered.torn_bytes,
                "cut an unfinished record off the spool"
            );
        }
        if recovered.lost_records > 0 {
            error!(records = recovered.lost_records, "the spool is damaged");
            attester.lost_statements(recovered.lost_records, "spool damaged");
        }
        if attester.log_begun() {
            return Ok((attester, kept.items));
        }
        // What they name of the log cannot be proved any more.
        attester.dropped(&kept.items, "the node's log is lost")?;
        Ok((attester, Vec::new()))
    }

    /// Puts a statement of now together and has it signed. With `reachable` it is worth sending
    /// even where the spool is full; without, a full spool means there is none.
    pub async fn make(
        &mut self,
        facts: &Facts,
        freshness: Freshness,
        reachable: bool,
    ) -> Result<Made, AttestError> {
        if let Some(why) = self.epoch_wanted {
            // Nobody said what the collector holds, and the statement cannot wait for it.
            self.begin_epoch(why)?;
        }
        let statement = self.statement(facts).encode_to_vec();
        let gpu = facts.gpu.clone();
        let (envelope, logs) = self.sign(statement, freshness, gpu).await?;
        let digest = Sha256Digest::of(&[&envelope.statement]);
        let index = match self.keep(&envelope) {
            Ok(index) => Some(index),
            Err(full @ SpoolError::Full { .. }) => {
                if !self.spool_was_full {
                    error!(%full, "statements are not kept any more; the collector will see a gap");
                    self.spool_was_full = true;
                }
                if !reachable {
                    self.lost_statements(1, "spool full");
                    self.write_chain()?;
                    return Err(full.into());
                }
                None
            }
            Err(err) => return Err(err.into()),
        };
        self.chain.sequence = self.chain.sequence.saturating_add(1);
        self.chain.previous = Some(digest.0);
        self.chain.lost_statements = 0;
        self.chain.lost_events = 0;
        if matches!(freshness, Freshness::Unchallenged { .. }) {
            self.chain.unchallenged = self.chain.unchallenged.saturating_add(1);
        }
        self.write_chain()?;
        self.logs.sending(digest, logs);
        Ok(Made {
            item: Item { digest, index },
            envelope,
        })
    }

    /// A kept envelope, as it was.
    pub fn kept(&self, index: u64) -> Result<Evidence, AttestError> {
        let record = block_in_place(|| self.spool.read(index))?;
        let record = record.ok_or(AttestError::Record(index))?;
        Evidence::decode(record.as_slice()).map_err(|_malformed| AttestError::Record(index))
    }

    /// Kept statements that were signed for a key which is gone: sent as they are, for the collector may
    /// have recorded them, and never signed again.
    #[must_use]
    pub const fn of_earlier_keys(&self) -> &BTreeSet<Sha256Digest> {
        &self.earlier
    }

    /// A kept statement under another nonce: same bytes, new quote. The spool keeps the old
    /// envelope; should this one get lost too, it is quoted once more.
    pub async fn requote(
        &mut self,
        item: Item,
        freshness: Freshness,
    ) -> Result<Evidence, AttestError> {
        let Some(index) = item.index else {
            return Err(AttestError::Record(0));
        };
        if self.earlier.contains(&item.digest) {
            return Err(AttestError::EarlierKey);
        }
        let statement = self.kept(index)?.statement;
        // What it cites of GPUs came along the first time, or is lost.
        let (envelope, logs) = self.sign(statement, freshness, None).await?;
        if matches!(freshness, Freshness::Unchallenged { .. }) {
            self.chain.unchallenged = self.chain.unchallenged.saturating_add(1);
            self.write_chain()?;
        }
        self.logs.sending(item.digest, logs);
        Ok(envelope)
    }

    /// The collector has the statement on disk, and the logs beside it.
    pub fn accepted(&mut self, digest: &Sha256Digest) -> Result<(), AttestError> {
        self.covered(digest)?;
        self.logs.accepted(digest);
        Ok(())
    }

    /// The collector lacks what these logs go on from: they travel whole with the next statement.
    pub fn send_whole(&mut self, logs: &[String]) {
        self.logs.again(logs);
    }

    /// A verified receipt covers it.
    pub fn receipted(&mut self, item: Item, receipt: &Receipt) -> Result<(), AttestError> {
        block_in_place(|| self.last_receipt.keep(receipt));
        self.chain.last_receipt = receipt::digest(receipt).0;
        self.chain.unchallenged = 0;
        self.write_chain()?;
        self.forget(item)
    }

    /// Lets go of a statement without a receipt.
    pub fn dropped(&mut self, items: &[Item], reason: &str) -> Result<(), AttestError> {
        for item in items {
            self.forget(*item)?;
        }
        self.lost_statements(u64::try_from(items.len()).unwrap_or(u64::MAX), reason);
        self.write_chain()
    }

    /// The same of one whose key is gone, and which the collector had not recorded before.
    pub fn outlived(&mut self, item: Item) -> Result<(), AttestError> {
        self.dropped(&[item], EARLIER)
    }

    /// Entries of the log were lost, or events before they became one; the next statement says so.
    pub fn lost_events(&mut self, count: u64) -> Result<(), AttestError> {
        self.chain.lost_events = self.chain.lost_events.saturating_add(count);
        self.write_chain()
    }

    /// Receipt and running number an unchallenged quote is made under.
    #[must_use]
    pub const fn unchallenged(&self) -> (Sha256Digest, u64) {
        (
            Sha256Digest(self.chain.last_receipt),
            self.chain.unchallenged,
        )
    }

    /// Statements of this boot, and this boot: what a lease has to answer.
    #[must_use]
    pub fn quoted(&self) -> (&VecDeque<QuotedAt>, u32) {
        (&self.quoted, self.reset_count)
    }

    fn statement(&self, facts: &Facts) -> Statement {
        let mut gaps = Vec::new();
        for (what, count, reason) in [
            (
                "statements",
                self.chain.lost_statements,
                self.gap_reason.as_str(),
            ),
            ("events", self.chain.lost_events, "event queue full"),
        ] {
            if count > 0 {
                gaps.push(Gap {
                    what: what.to_owned(),
                    count,
                    reason: reason.to_owned(),
                });
            }
        }
        Statement {
            format: 1,
            deployment: self.deployment.clone(),
            node: self.node.clone(),
            boot_id: self.boot_id.to_vec(),
            epoch: self.chain.epoch,
            sequence: self.chain.sequence,
            previous: self.chain.previous.map(|digest| digest.to_vec()),
            wall_time_ms: clock::now().millis(),
            boot_time_ns: clock::boot_time_ns(),
            approvers_digest: facts.approvers.unwrap_or(self.approvers).0.to_vec(),
            policy: facts.policy.clone(),
            fence: Some(facts.fence.clone()),
            claims: [facts.claims.clone(), self.voice.claims()].concat(),
            logs: self.logs.named(),
            gaps,
            log: Some(self.log.head().to_proto()),
            gpu: facts.gpu.as_ref().map(|gpu| gpu.citation.clone()),
            guest_key: self.voice.guest_key(),
        }
    }

    async fn sign(
        &mut self,
        statement: Vec<u8>,
        freshness: Freshness,
        gpu: Option<Cited>,
    ) -> Result<(Evidence, Vec<Sent>), AttestError> {
        let signed = self.voice.sign(&freshness, &statement).await?;
        self.remember_clock(Sha256Digest::of(&[&statement]), &signed);
        let host = self.host.clone();
        let logs = spawn_blocking(move || read_logs(&host)).await;
        let mut logs = logs.unwrap_or_default();
        logs.extend(gpu.into_iter().flat_map(|gpu| of_gpus(gpu.logs)));
        let (mut logs, mut sent) = self.logs.choose(logs);
        if let Freshness::Unchallenged { .. } = freshness {
            logs::out_of_reach(&mut logs, &mut sent);
        }
        let envelope = Evidence {
            statement,
            freshness: Some(match freshness {
                Freshness::Challenged(nonce) => {
                    evidence::Freshness::Nonce(nonce.as_bytes().to_vec())
                }
                Freshness::Unchallenged {
                    last_receipt,
                    number,
                } => evidence::Freshness::Unchallenged(Unchallenged {
                    last_receipt: last_receipt.as_bytes().to_vec(),
                    number,
                    receipt: self.last_receipt.named(&last_receipt),
                }),
            }),
            signer: Some(signed.signer),
            pcrs: signed.pcrs,
            logs,
            quoted_boot_time_ns: signed.boot_time_ns,
            geotag: signed.geotag.map(Box::new),
            tee: signed.tee.map(Box::new),
            ..Evidence::default()
        };
        Ok((envelope, sent))
    }

    fn remember_clock(&mut self, statement: Sha256Digest, signed: &Signed) {
        if self.reset_count != signed.reset_count {
            // The TPM was reset: no lease for the boot before may be used.
            self.quoted.clear();
            self.reset_count = signed.reset_count;
        }
        if self.quoted.len() >= QUOTED {
            self.quoted.pop_front();
        }
        // A statement signed again is answered by its newer signature.
        self.quoted.retain(|at| at.statement != statement);
        self.quoted.push_back(QuotedAt {
            statement,
            clock_ms: signed.clock_ms,
            boot_time_ns: signed.boot_time_ns,
        });
    }

    fn keep(&mut self, envelope: &Evidence) -> Result<u64, SpoolError> {
        let record = envelope.encode_to_vec();
        let index = block_in_place(|| self.spool.append(&record))?;
        self.spool_was_full = false;
        Ok(index)
    }

    fn forget(&mut self, item: Item) -> Result<(), AttestError> {
        if let Some(index) = item.index {
            block_in_place(|| self.spool.forget(index))?;
        }
        self.earlier.remove(&item.digest);
        Ok(())
    }

    fn lost_statements(&mut self, count: u64, reason: &str) {
        self.chain.lost_statements = self.chain.lost_statements.saturating_add(count);
        self.gap_reason = reason.chars().take(MAX_REASON).collect();
    }

    fn write_chain(&mut self) -> Result<(), AttestError> {
        block_in_place(|| self.chain_file.write(&self.chain)).map_err(AttestError::Chain)
    }
}

/// Reports of GPUs and their chains, as logs: what the collector has is not sent again.
fn of_gpus(logs: [Vec<u8>; 2]) -> impl Iterator<Item = LogFile> {
    gpu::LOGS.into_iter().zip(logs).map(|(name, content)| {
        let digest = Sha256Digest::of(&[&content]);
        LogFile {
            name,
            source: "nvml".into(),
            content: Ok((content, digest)),
        }
    })
}

/// What the spool kept, and which of it names another key than `guest_key`. A crash between spool and
/// chain leaves the chain one statement behind.
fn recover(spool: &Spool, chain: &mut Chain, guest_key: &[u8]) -> Result<Kept, AttestError> {
    let (mut kept, mut newest) = (Kept::default(), None);
    for index in spool.kept() {
        let record = spool.read(index)?.unwrap_or_default();
        let Ok(envelope) = Evidence::decode(record.as_slice()) else {
            return Err(AttestError::Record(index));
        };
        let digest = Sha256Digest::of(&[&envelope.statement]);
        kept.items.push(Item {
            digest,
            index: Some(index),
        });
        if let Ok(statement) = Statement::decode(envelope.statement.as_slice()) {
            if statement.guest_key != guest_key {
                kept.earlier.insert(digest);
            }
            newest = Some((statement, digest));
        }
    }
    let Some((newest, digest)) = newest else {
        return Ok(kept);
    };
    if (newest.epoch, newest.sequence) >= (chain.epoch, chain.sequence) {
        chain.epoch = newest.epoch;
        chain.sequence = newest.sequence.saturating_add(1);
        chain.previous = Some(digest.0);
    }
    let size = newest.log.map_or(0, |log| log.size);
    kept.newest = Some((newest.epoch, size));
    Ok(kept)
}

/// What of the facts is worth a statement by itself: counters move with every packet, the lease
/// with every answer and the clock by itself, so they wait for the timer.
#[must_use]
pub fn change_digest(facts: &Facts) -> Sha256Digest {
    let mut fence = facts.fence.clone();
    fence.counters.clear();
    fence.lease_end_boot_ns = 0;
    let moving = |claim: &&Claim| !claim.name.starts_with(crate::collect::time::NAMES);
    let whole = Statement {
        fence: Some(fence),
        policy: facts.policy.clone(),
        claims: facts.claims.iter().filter(moving).cloned().collect(),
        approvers_digest: facts
            .approvers
            .map_or_else(Vec::new, |digest| digest.0.to_vec()),
        ..Statement::default()
    };
    Sha256Digest::of(&[&whole.encode_to_vec()])
}

/// A claim about what could not be asked.
#[must_use]
pub fn unavailable(name: &str, source: &str, why: &str) -> Claim {
    Claim {
        name: name.to_owned(),
        source: source.to_owned(),
        value: Some(Value::Unavailable(why.to_owned())),
    }
}
