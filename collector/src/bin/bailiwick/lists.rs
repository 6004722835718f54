//! `events` and `alerts`.

use std::net::IpAddr;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::events::Entry;
use bailiwick_attestation::proto::v1::{self, log_entry::What};
use serde_json::{Value, json};

use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, parse_time, time};

/// Arguments of `events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    #[command(flatten)]
    connection: Connection,
    /// Only this node's.
    #[arg(long, default_value = "")]
    node: String,
    /// Only this study's.
    #[arg(long, default_value = "")]
    study: String,
    /// Not before: RFC 3339, or seconds since 1970.
    #[arg(long, value_parser = parse_time)]
    from: Option<UnixTime>,
    /// Not after.
    #[arg(long, value_parser = parse_time)]
    to: Option<UnixTime>,
    /// Every entry of the nodes' logs: epochs, boots, policies, leases, keys too.
    #[arg(long)]
    all: bool,
    /// Opens what is sealed beside denials: addresses, ports, paths, users. It is noted who did.
    #[arg(long)]
    private: bool,
    /// At most so many, newest first.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// How the listing is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Arguments of `alerts`.
#[derive(Debug, clap::Args)]
pub(crate) struct Alerts {
    #[command(flatten)]
    connection: Connection,
    /// Resolved ones too.
    #[arg(long)]
    all: bool,
    /// How the listing is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// What an entry of a node's log says, as one row. An entry that cannot be read says so.
fn event_row(stored: &v1::StoredEvent) -> Value {
    let mut row = match Entry::parse(&stored.entry) {
        Ok(entry) => entry_row(&entry),
        Err(why) => json!({ "kind": "unreadable", "detail": why.to_string() }),
    };
    row["node"] = stored.node.as_str().into();
    row["received"] = time(stored.received_ms).into();
    row["proven"] = stored.proven.into();
    if let Some(private) = &stored.private {
        row["from"] = address(&private.source).into();
        row["to"] = address(&private.destination).into();
        row["from_port"] = private.source_port.into();
        row["port"] = private.destination_port.into();
        row["cgroup"] = private.cgroup.as_str().into();
        row["cgroup_id"] = private.cgroup_id.into();
        row["uid"] = private.uid.into();
        row["pid"] = private.pid.into();
        row["command"] = private.command.as_str().into();
        row["executable"] = private.executable.as_str().into();
    }
    if !stored.closed.is_empty() {
        row["to"] = format!("({})", stored.closed).into();
        row["closed"] = stored.closed.as_str().into();
    }
    row
}

/// Four or sixteen bytes as an address; anything else as hex.
fn address(bytes: &[u8]) -> String {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return IpAddr::from(v4).to_string();
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(v6) => IpAddr::from(v6).to_string(),
        Err(_other) => hex::encode(bytes),
    }
}

fn entry_row(entry: &Entry) -> Value {
    let mut row = match &entry.what {
        What::Denial(denial) => json!({
            "study": denial.study,
            "verdict": denial.verdict,
            "direction": denial.direction,
            "protocol": denial.protocol,
            "jurisdiction": denial.jurisdiction,
            "rule": denial.rule,
            "hook": denial.hook,
            "count": denial.count,
            "bytes": denial.bytes,
            "sampled": denial.sampled,
            "others": denial.others,
            "device": denial.device,
            "change": denial.change,
            "key": denial.sealing.as_ref().map(|sealing| hex::encode(&sealing.key_id)),
            "commitment": denial.sealing.as_ref().map(|sealing| hex::encode(&sealing.commitment)),
        }),
        What::EpochBegan(epoch) => json!({
            "detail": format!("epoch begins: {}", epoch.reason),
            "previous_epoch": epoch.previous_epoch,
            "last_receipt": hex::encode(&epoch.last_receipt),
        }),
        What::BootBegan(boot) => json!({
            "detail": format!("boot, agent {}", boot.agent_version),
            "boot_id": hex::encode(&boot.boot_id),
        }),
        What::Policy(policy) => json!({
            "detail": format!("{} {}", policy.kind, policy.version),
            "manifest": hex::encode(&policy.manifest_digest),
        }),
        What::Lease(lease) => json!({
            "detail": if lease.stands { "lease taken" } else { "lease ended" },
        }),
        What::BreakGlass(used) => json!({
            "detail": if used.end_boot_ns > 0 { "break-glass" } else { "break-glass over" },
            "manifest": hex::encode(&used.manifest_digest),
        }),
        What::KeyMade(key) => json!({
            "study": key.study,
            "detail": format!("key of {}, {}, {}", key.study, key.bucket, key.retention),
            "key": hex::encode(&key.key_id),
        }),
        What::Flows(counted) => json!({
            "detail": format!(
                "{} flows counted, {} packets not told apart",
                counted.flows.len(),
                counted.other_packets
            ),
        }),
        What::KeysErased(erased) => json!({
            "detail": format!("{} keys erased", erased.key_ids.len()),
            "manifest": hex::encode(&erased.manifest_digest),
        }),
    };
    row["kind"] = entry.kind().into();
    row["time"] = time(entry.wall_time.millis()).into();
    row["epoch"] = entry.epoch.into();
    row["index"] = entry.index.into();
    row
}

/// Lists denials, or every entry of the nodes' logs.
pub(crate) fn events(args: &Events) -> anyhow::Result<Exit> {
    let request = v1::ListEventsRequest {
        node: args.node.clone(),
        study: args.study.clone(),
        from_ms: args.from.map_or(0, UnixTime::millis),
        to_ms: args.to.map_or(0, UnixTime::millis),
        limit: args.limit,
        all_kinds: args.all,
        private: args.private,
    };
    let answer = block_on(async { Ok(args.connection.open().await?.list_events(request).await) })?;
    let events = match answer {
        Ok(answer) => answer.into_inner().events,
        Err(status) => return refused(&status),
    };
    let columns: &[&str] = if args.private {
        &[
            "time",
            "node",
            "study",
            "verdict",
            "direction",
            "from",
            "to",
            "port",
            "cgroup",
            "rule",
        ]
    } else if args.all {
        &["time", "node", "epoch", "index", "kind", "study", "detail"]
    } else {
        &[
            "time",
            "node",
            "study",
            "verdict",
            "direction",
            "protocol",
            "jurisdiction",
            "rule",
            "count",
            "proven",
        ]
    };
    Listing {
        columns,
        rows: events.iter().map(event_row).collect(),
    }
    .print(args.output)?;
    Ok(Exit::Good)
}

/// Lists alerts.
pub(crate) fn alerts(args: &Alerts) -> anyhow::Result<Exit> {
    let request = v1::ListAlertsRequest { all: args.all };
    let answer = block_on(async { Ok(args.connection.open().await?.list_alerts(request).await) })?;
    let alerts = match answer {
        Ok(answer) => answer.into_inner().alerts,
        Err(status) => return refused(&status),
    };
    Listing {
        columns: &["name", "node", "severity", "since", "resolved", "summary"],
        rows: alerts
            .iter()
            .map(|alert| {
                json!({
                    "name": alert.name,
                    "node": alert.node,
                    "severity": alert.severity,
                    "since": time(alert.since_ms),
                    "resolved": alert.resolved_ms.map(time),
                    "summary": alert.summary,
                })
            })
            .collect(),
    }
    .print(args.output)?;
    Ok(Exit::Good)
}
