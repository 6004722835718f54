//! `events` and `alerts`.

use std::net::IpAddr;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::proto::v1;
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

fn event_row(stored: &v1::StoredEvent) -> Value {
    let event = stored.event.clone().unwrap_or_default();
    let to = address(&event.destination);
    json!({
        "time": time(event.wall_time_ms),
        "node": stored.node,
        "study": event.study,
        "verdict": event.verdict,
        "direction": event.direction,
        "to": to,
        "port": event.destination_port,
        "jurisdiction": event.jurisdiction,
        "rule": event.rule,
        "count": event.count,
        "from": address(&event.source),
        "protocol": event.protocol,
        "cgroup": event.cgroup,
        "hook": event.hook,
        "index": event.index,
        "received": time(stored.received_ms),
    })
}

/// Lists denials.
pub(crate) fn events(args: &Events) -> anyhow::Result<Exit> {
    let request = v1::ListEventsRequest {
        node: args.node.clone(),
        study: args.study.clone(),
        from_ms: args.from.map_or(0, UnixTime::millis),
        to_ms: args.to.map_or(0, UnixTime::millis),
        limit: args.limit,
    };
    let answer = block_on(async { Ok(args.connection.open().await?.list_events(request).await) })?;
    let events = match answer {
        Ok(answer) => answer.into_inner().events,
        Err(status) => return refused(&status),
    };
    Listing {
        columns: &[
            "time",
            "node",
            "study",
            "verdict",
            "direction",
            "to",
            "port",
            "jurisdiction",
            "rule",
            "count",
        ],
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
