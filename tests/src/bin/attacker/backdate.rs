//! A thief of the log's key makes receipts under it, of whatever date.

use std::path::PathBuf;

use anyhow::Context as _;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{Checkpoint, LogEntry, NoteSigner, leaf_hash};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_collector::init::StateDir;
use prost::Message as _;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A statement, as `bailiwick node statement` wrote it
    #[arg(long)]
    stored: PathBuf,
    /// The collector's stolen state folder
    #[arg(long)]
    stolen: PathBuf,
    /// The date it is to bear, seconds since 1970; absent: its own
    #[arg(long)]
    at: Option<u64>,
    /// Says nothing of newer keys either
    #[arg(long)]
    silent: bool,
    /// Where the forgery goes
    #[arg(long)]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let bytes = std::fs::read(&args.stored).context("read the statement")?;
    let mut stored = v1::StoredStatement::decode(bytes.as_slice())?;
    let state = StateDir::at(&args.stolen);
    let origin = state.identity()?.log_origin;
    let signer = NoteSigner::from_pkcs8(&origin, &state.log_key()?)?;
    let honest = stored.receipt.as_ref().context("a receipt")?;
    let mut entry = LogEntry::parse(&honest.entry)?;
    if let Some(at) = args.at {
        entry.received = UnixTime::from_secs(at);
        stored.received_ms = entry.received.millis();
    }
    let entry = entry.to_bytes();
    let checkpoint = Checkpoint {
        origin: origin.clone(),
        size: 1,
        root: leaf_hash(&entry),
    };
    let evidence = stored.evidence.as_ref().context("evidence")?;
    stored.receipt = Some(v1::Receipt {
        statement_digest: Sha256Digest::of(&[&evidence.statement]).as_bytes().to_vec(),
        log: origin,
        index: 0,
        entry,
        inclusion_path: Vec::new(),
        checkpoint: checkpoint.sign(&signer)?.into_bytes(),
    });
    if args.silent {
        stored.keys = None;
    }
    std::fs::write(&args.out, stored.encode_to_vec()).context("write the forgery")
}
