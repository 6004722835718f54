//! The node's own log: that it only grew, and that an entry stands in it.

use bailiwick_attestation::appraisal::Previous;
use bailiwick_attestation::events::verify_entry;
use bailiwick_attestation::evidence::ParsedStatement;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::head_follows;

use super::Report;
use crate::ingest::error_chain;

/// Whether the log the statement names extends the one before it.
pub(super) fn node_log(
    evidence: &v1::Evidence,
    statement: &ParsedStatement,
    previous: Option<&Previous>,
    report: &mut Report,
) {
    let Some(previous) = previous.filter(|previous| previous.epoch == statement.epoch) else {
        return;
    };
    let proof = evidence.log_consistency.as_ref();
    match head_follows(&previous.log, &statement.log, proof) {
        Ok(()) => {
            let (before, now) = (previous.log.size, statement.log.size);
            let detail = format!("{now} entries, and the {before} before stand in them");
            report.ok("node-log", detail);
        }
        Err(why) => report.refuse("node-log", format!("{}: {}", why.code(), error_chain(&why))),
    }
}

/// Whether the entry in the file stands in the log the statement names.
pub(super) fn entry(
    stored: &v1::StoredStatement,
    statement: &ParsedStatement,
    report: &mut Report,
) {
    let Some(proof) = &stored.entry else { return };
    match verify_entry(proof, statement.epoch, &statement.log) {
        Ok(shown) => {
            let (kind, index) = (shown.entry.kind(), shown.entry.index);
            let half = match shown.private {
                Some(_) => ", and commits to the private half beside it",
                None => "",
            };
            let detail = format!("{kind}, number {index}, stands in the node's log{half}");
            report.ok("entry", detail);
        }
        Err(why) => report.refuse("entry", format!("{}: {}", why.code(), error_chain(&why))),
    }
}
