//! `flows`: what passed the fences, and where to.

use std::net::IpAddr;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::proto::v1;
use serde_json::{Value, json};

use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, parse_time, time};

/// Arguments of `flows`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    /// Only this study's.
    #[arg(long, default_value = "")]
    study: String,
    /// Only this node's.
    #[arg(long, default_value = "")]
    node: String,
    /// Only to and from this jurisdiction.
    #[arg(long, default_value = "", conflicts_with = "outside")]
    jurisdiction: String,
    /// Only to and from other jurisdictions than these; exit code 3 if there are any, 1 if part of
    /// the time was not counted.
    #[arg(long, value_delimiter = ',', conflicts_with = "destinations")]
    outside: Vec<String>,
    /// Not before: RFC 3339, or seconds since 1970. Counts are kept by the hour.
    #[arg(long, value_parser = parse_time)]
    from: Option<UnixTime>,
    /// Not after.
    #[arg(long, value_parser = parse_time)]
    to: Option<UnixTime>,
    /// The far ends, as denials and samples tell them. It is noted who asked.
    #[arg(long)]
    destinations: bool,
    /// How the listing is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.destinations {
        return destinations(args);
    }
    let request = v1::ListFlowsRequest {
        study: args.study.clone(),
        node: args.node.clone(),
        jurisdiction: args.jurisdiction.clone(),
        from_ms: args.from.map_or(0, UnixTime::millis),
        to_ms: args.to.map_or(0, UnixTime::millis),
    };
    let answer = block_on(async { Ok(args.connection.open().await?.list_flows(request).await) })?;
    let answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return refused(&status),
    };
    if answer.more {
        eprintln!("bailiwick: there are more rows than are listed: ask for less");
    }
    let found = outside(&answer.flows, &args.outside);
    let rows = found.iter().map(flow_row);
    let rows = rows.chain(answer.not_counted.iter().map(gap_row)).collect();
    Listing {
        columns: &[
            "what",
            "node",
            "study",
            "jurisdiction",
            "direction",
            "packets",
            "bytes",
            "from",
            "to",
        ],
        rows,
    }
    .print(args.output)?;
    Ok(exit(
        !args.outside.is_empty(),
        !found.is_empty(),
        answer.more || !answer.not_counted.is_empty(),
    ))
}

/// What lies elsewhere, and what nobody can say to lie within.
fn outside<'a>(flows: &'a [v1::FlowSum], within: &[String]) -> Vec<&'a v1::FlowSum> {
    let out = |flow: &&v1::FlowSum| within.is_empty() || !within.contains(&flow.jurisdiction);
    flows.iter().filter(out).collect()
}

/// Whoever asks whether something left wants an answer that does not hide what is not known.
const fn exit(asked: bool, left: bool, unknown: bool) -> Exit {
    match (asked, left, unknown) {
        (true, true, _) => Exit::NotTrusted,
        (true, false, true) => Exit::CouldNotTell,
        _ => Exit::Good,
    }
}

fn flow_row(flow: &&v1::FlowSum) -> Value {
    let apart = !flow.jurisdiction.is_empty();
    json!({
        "what": if apart { "passed" } else { "not-told-apart" },
        "node": flow.node,
        "study": flow.study,
        "jurisdiction": flow.jurisdiction,
        "direction": flow.direction,
        "packets": flow.packets,
        "bytes": flow.bytes,
        "from": time(flow.from_ms),
        "to": time(flow.to_ms),
    })
}

fn gap_row(gap: &v1::FlowGap) -> Value {
    json!({
        "what": "not-counted",
        "node": gap.node,
        "from": time(gap.from_ms),
        "to": time(gap.to_ms),
    })
}

fn destinations(args: &Args) -> anyhow::Result<Exit> {
    let answer = block_on(fetch(
        &args.connection,
        v1::ListDestinationsRequest {
            study: args.study.clone(),
            node: args.node.clone(),
            from_ms: args.from.map_or(0, UnixTime::millis),
            to_ms: args.to.map_or(0, UnixTime::millis),
        },
    ))?;
    let answer = match answer {
        Ok(answer) => answer,
        Err(status) => return refused(&status),
    };
    if answer.more {
        eprintln!("bailiwick: there is more than is listed: ask for less time");
    }
    let wanted = |to: &&v1::Destination| {
        args.jurisdiction.is_empty() || to.jurisdiction == args.jurisdiction
    };
    Listing {
        columns: &[
            "study",
            "direction",
            "address",
            "protocol",
            "port",
            "jurisdiction",
            "verdict",
            "rule",
            "packets",
            "bytes",
            "last",
        ],
        rows: answer
            .destinations
            .iter()
            .filter(wanted)
            .map(destination_row)
            .collect(),
    }
    .print(args.output)?;
    Ok(Exit::Good)
}

/// Asks for far ends.
pub(crate) async fn fetch(
    connection: &Connection,
    request: v1::ListDestinationsRequest,
) -> anyhow::Result<Result<v1::ListDestinationsResponse, tonic::Status>> {
    let answer = connection.open().await?.list_destinations(request).await;
    Ok(answer.map(tonic::Response::into_inner))
}

fn destination_row(to: &v1::Destination) -> Value {
    json!({
        "study": to.study,
        "direction": to.direction,
        "address": match address(&to.address) {
            Some(address) => address.to_string(),
            None => format!("({})", to.closed),
        },
        "closed": to.closed,
        "protocol": to.protocol,
        "port": to.port,
        "jurisdiction": to.jurisdiction,
        "verdict": to.verdict,
        "rule": to.rule,
        "packets": to.packets,
        "bytes": to.bytes,
        "sampled": to.sampled,
        "first": time(to.first_ms),
        "last": time(to.last_ms),
    })
}

/// Four or sixteen bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_something_left_is_said_only_where_all_was_counted() {
        let flow = |jurisdiction: &str| v1::FlowSum {
            jurisdiction: jurisdiction.into(),
            ..v1::FlowSum::default()
        };
        let flows = [flow("DE"), flow("US"), flow("FR"), flow("")];
        let found = |within: &[&str]| -> Vec<String> {
            let within: Vec<String> = within.iter().map(|code| (*code).to_owned()).collect();
            let found = outside(&flows, &within);
            found.iter().map(|flow| flow.jurisdiction.clone()).collect()
        };
        assert_eq!(
            found(&["DE", "FR"]),
            ["US", ""],
            "what is not told apart may have left"
        );
        assert_eq!(found(&[]).len(), 4);
        let cases = [
            ("not asked", (false, true, true), Exit::Good),
            ("it left", (true, true, false), Exit::NotTrusted),
            (
                "it left, and more is not known",
                (true, true, true),
                Exit::NotTrusted,
            ),
            ("not known", (true, false, true), Exit::CouldNotTell),
            ("nothing left", (true, false, false), Exit::Good),
        ];
        for (name, (asked, left, unknown), want) in cases {
            assert_eq!(exit(asked, left, unknown), want, "{name}");
        }
    }
}
