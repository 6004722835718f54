//! `enroll acts`: what was done and what turned, each with its place in the log.

use anyhow::{Context as _, bail};
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tlog::{ActKind, NoteVerifier, Turn, verify_act};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use serde_json::json;

use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, time};

/// `enroll acts`.
pub(crate) fn list(
    connection: &Connection,
    request: v1::ListActsRequest,
    vkey: Option<&str>,
    output: Format,
) -> anyhow::Result<Exit> {
    let verifier = vkey
        .map(NoteVerifier::parse)
        .transpose()
        .context("--vkey")?;
    if !request.kind.is_empty() && ActKind::from_word(&request.kind).is_none() {
        bail!("--kind {:?} is no kind of act", request.kind);
    }
    let answer = block_on(async { Ok(connection.open().await?.list_acts(request).await) })?;
    let acts = match answer {
        Ok(answer) => answer.into_inner().acts,
        Err(status) => return refused(&status),
    };
    let mut exit = Exit::Good;
    let mut rows = Vec::with_capacity(acts.len());
    for act in &acts {
        let digest = Sha256Digest::of(&[&act.body]);
        let receipt = act.receipt.clone().unwrap_or_default();
        let proof = match &verifier {
            None => "not checked".to_owned(),
            Some(verifier) => match verify_act(&receipt, &digest, verifier, None) {
                Ok(proved)
                    if (
                        proved.entry.kind.as_str(),
                        &proved.entry.subject,
                        proved.entry.at,
                    ) == (act.kind.as_str(), &act.subject, UnixTime(act.at_ms)) =>
                {
                    "in the log".to_owned()
                }
                Ok(_) => {
                    exit = Exit::Refused;
                    "refused: the log says otherwise".to_owned()
                }
                Err(why) => {
                    exit = Exit::Refused;
                    format!("refused: {}", why.code())
                }
            },
        };
        rows.push(json!({
            "at": time(act.at_ms),
            "kind": act.kind,
            "subject": act.subject,
            "by": act.by,
            "what": what(act),
            "index": receipt.index,
            "proof": proof,
            "digest": digest.to_string(),
            "body": hex::encode(&act.body),
            "receipt": {
                "log": receipt.log,
                "entry": hex::encode(&receipt.entry),
                "inclusion_path": receipt.inclusion_path.iter().map(hex::encode).collect::<Vec<_>>(),
                "checkpoint": String::from_utf8_lossy(&receipt.checkpoint),
            },
        }));
    }
    Listing {
        columns: &["at", "kind", "subject", "by", "what", "index", "proof"],
        rows,
    }
    .print(output)?;
    Ok(exit)
}

/// What an act is about, where its body is lines for people.
fn what(act: &v1::Act) -> String {
    let kind = ActKind::from_word(&act.kind);
    let text = str::from_utf8(&act.body).unwrap_or_default();
    match kind {
        Some(ActKind::Verdict) => Turn::parse(&act.body)
            .map(|turn| format!("{} -> {}", turn.from, turn.to))
            .unwrap_or_default(),
        Some(ActKind::Retirement | ActKind::Revocation | ActKind::Brake | ActKind::Erasure) => {
            let lines = text.lines().filter(|line| !line.starts_with("bailiwick "));
            lines.collect::<Vec<_>>().join("; ")
        }
        Some(ActKind::Enrolment | ActKind::Policy | ActKind::Duplicate) | None => String::new(),
    }
}
