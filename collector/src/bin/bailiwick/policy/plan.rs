//! `policy plan`: what another policy would have said to what was recorded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::proto::v1::{self, plan_profile_request::Whom};
use bailiwick_collector::clock;
use bailiwick_policy::explain::{Direction, Explainer};
use bailiwick_policy::kind::Kind;
use bailiwick_policy::model::{Inventory, edit};
use bailiwick_policy::plan::{self, Change, Recorded, plan};
use prost::Message as _;
use serde_json::{Value, json};

use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::explain::Source;
use crate::flows::{address, fetch};
use crate::format::{Format, Listing};
use crate::{profile, why};

const DAY_MS: u64 = 86_400_000;
/// Changes of guests that are told.
const GUESTS: usize = 100;
/// Nodes that are told by name; `profile plan` tells all.
const NODES: usize = 20;

/// Arguments of `policy plan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of the new policy, signed or not.
    #[arg(short = 'f', long = "folder")]
    folder: PathBuf,
    /// Only this study's.
    #[arg(long, default_value = "")]
    study: String,
    /// How many days back.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=3660))]
    days: u16,
    /// What stays as it was, too.
    #[arg(long)]
    all: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs it.
pub(crate) fn run(connection: &Connection, args: &Args) -> anyhow::Result<Exit> {
    let Some(draft) = Source::folder(connection, &args.folder)?.draft() else {
        return Ok(Exit::Refused);
    };
    let back = u64::from(args.days).saturating_mul(DAY_MS);
    let from = UnixTime(clock::now().millis().saturating_sub(back));
    let told = block_on(fetch(
        connection,
        v1::ListDestinationsRequest {
            study: args.study.clone(),
            node: String::new(),
            from_ms: from.millis(),
            to_ms: 0,
        },
    ))?;
    let counted = v1::ListFlowsRequest {
        study: args.study.clone(),
        from_ms: from.millis(),
        ..v1::ListFlowsRequest::default()
    };
    let counted = block_on(async { Ok(connection.open().await?.list_flows(counted).await) })?;
    let (told, counted) = match (told, counted) {
        (Ok(told), Ok(counted)) => (told, counted.into_inner()),
        (Err(status), _) | (_, Err(status)) => return refused(&status),
    };
    if told.more || counted.more {
        eprintln!("bailiwick: more was recorded than is looked at: ask for fewer days");
    }
    guests(connection, &draft.model.inventory);
    nodes(connection, &args.folder);
    let world = draft.world_image();
    let explainer = draft.explainer(&world);
    let rows = rows(&explainer, &told.destinations, &counted.flows, args.all);
    Listing {
        columns: &[
            "change",
            "study",
            "direction",
            "address",
            "protocol",
            "port",
            "jurisdiction",
            "packets",
            "before",
            "rule",
            "because",
        ],
        rows,
    }
    .print(args.output)?;
    Ok(Exit::Good)
}

/// Guests without a TPM that would be listed otherwise than now. As with nodes, what is not known of
/// them hides nothing of what becomes of traffic.
fn guests(connection: &Connection, after: &Inventory) {
    let before = block_on(super::fetch(connection, Kind::Policy));
    for line in changed_guests(before.and_then(listed), after) {
        eprintln!("bailiwick: {}", why::plain(&line));
    }
}

fn changed_guests(before: anyhow::Result<Inventory>, after: &Inventory) -> Vec<String> {
    let mut lines = match before {
        Ok(before) => plan::guests(&before, after),
        Err(error) => vec![format!("guests: {error:#}")],
    };
    let more = lines.len().saturating_sub(GUESTS);
    if more > 0 {
        lines.truncate(GUESTS);
        lines.push(format!("and {more} more changes of guests"));
    }
    lines
}

/// The inventory in force. Where no policy is, nothing is listed.
fn listed(answer: Result<Vec<u8>, tonic::Status>) -> anyhow::Result<Inventory> {
    match answer {
        Ok(bundle) => inventory(&bundle),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(Inventory::default()),
        Err(status) => anyhow::bail!("{}", status.message()),
    }
}

/// Of a serialized policy.
fn inventory(bundle: &[u8]) -> anyhow::Result<Inventory> {
    let bundle = v1::PolicyBundle::decode(bundle)?;
    let mut files = bundle.files.iter();
    match files.find(|file| file.path == edit::INVENTORY) {
        Some(file) => {
            let text = std::str::from_utf8(&file.content).context(edit::INVENTORY)?;
            Ok(edit::read(text)?)
        }
        None => Ok(Inventory::default()),
    }
}

/// Nodes that would turn under the new policy's profile, beside what it does to traffic. What is
/// not known of them hides nothing of that.
fn nodes(connection: &Connection, folder: &Path) {
    let guests = folder.join("guest-profile.toml");
    let asks = match guests.exists() {
        true => vec![
            (folder.join("profile.toml"), Whom::Hosts),
            (guests, Whom::Guests),
        ],
        false => vec![(folder.join("profile.toml"), Whom::Everybody)],
    };
    for (file, whom) in asks {
        let asked = std::fs::read(&file)
            .with_context(|| file.display().to_string())
            .and_then(|profile| profile::plan::ask(connection, profile, None, whom));
        let lines = match asked {
            Ok(Ok(nodes)) => profile::plan::in_words(&nodes, NODES),
            Ok(Err(status)) => vec![format!("nodes: {}", status.message())],
            Err(error) => vec![format!("nodes: {error:#}")],
        };
        for line in lines {
            eprintln!("bailiwick: {}", why::plain(&line));
        }
    }
}

/// What changes first; within that, most packets first.
fn rows(
    explainer: &Explainer<'_>,
    told: &[v1::Destination],
    counted: &[v1::FlowSum],
    all: bool,
) -> Vec<Value> {
    let mut rows = Vec::new();
    for to in told {
        let far = address(&to.address);
        let recorded = Recorded {
            study: &to.study,
            address: far,
            protocol: u8::try_from(to.protocol).unwrap_or(u8::MAX),
            port: u16::try_from(to.port).unwrap_or(0),
            direction: direction(&to.direction),
            jurisdiction: &to.jurisdiction,
            passed: to.verdict != "deny",
        };
        rows.push(row(explainer, &recorded, &to.verdict, to.packets));
    }
    // By study, place and direction over all nodes: packets that passed, sampled or not.
    let mut sums: BTreeMap<[&str; 3], u64> = BTreeMap::new();
    for flow in counted.iter().filter(|flow| !flow.study.is_empty()) {
        let key = [&flow.study, &flow.jurisdiction, &flow.direction].map(String::as_str);
        let sum = sums.entry(key).or_default();
        *sum = sum.saturating_add(flow.packets);
    }
    for ([study, jurisdiction, way], packets) in sums {
        let recorded = Recorded {
            study,
            address: None,
            protocol: 0,
            port: 0,
            direction: direction(way),
            jurisdiction,
            passed: true,
        };
        rows.push(row(explainer, &recorded, "counted", packets));
    }
    rows.retain(|(change, ..)| {
        all || !matches!(change, Change::StillAllowed | Change::StillDenied)
    });
    rows.sort_by_key(|(change, packets, _)| (order(*change), std::cmp::Reverse(*packets)));
    rows.into_iter().map(|(_, _, row)| row).collect()
}

const fn order(change: Change) -> u8 {
    match change {
        Change::Denied => 0,
        Change::Allowed => 1,
        Change::Unknown => 2,
        Change::StillAllowed => 3,
        Change::StillDenied => 4,
    }
}

fn direction(word: &str) -> Direction {
    match word {
        "ingress" => Direction::Ingress,
        _ => Direction::Egress,
    }
}

fn row(
    explainer: &Explainer<'_>,
    recorded: &Recorded<'_>,
    before: &str,
    packets: u64,
) -> (Change, u64, Value) {
    let planned = plan(explainer, recorded);
    let row = json!({
        "change": planned.change.word(),
        "study": recorded.study,
        "direction": match recorded.direction {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        },
        "address": recorded.address.map(|address| address.to_string()),
        "protocol": recorded.protocol,
        "port": recorded.port,
        "jurisdiction": recorded.jurisdiction,
        "packets": packets,
        "before": before,
        "rule": planned.rule,
        "because": planned.because,
        "audited": planned.audited,
    });
    (planned.change, packets, row)
}

#[cfg(test)]
mod tests {

    use bailiwick_policy::bundle::Draft;
    use bailiwick_policy::kind::Kind;

    use super::*;
    use crate::policy::known_files;

    fn guests(count: usize, digit: char) -> String {
        (0..count)
            .map(|n| {
                format!(
                    "[[guest]]\nname = \"vm-{n}\"\nchips = [\"SNP-{n:016x}\"]\n\
                     jurisdiction = \"DE\"\nmeasurement = \"{}\"\n",
                    digit.to_string().repeat(96)
                )
            })
            .collect()
    }

    /// Held against the policy in force; what that is not known to be is said, and nothing is new.
    #[test]
    fn guests_that_change_are_told() {
        let bundle = |path: &str, content: Vec<u8>| {
            let bundle = v1::PolicyBundle {
                files: vec![v1::PolicyFile {
                    path: path.to_owned(),
                    content,
                }],
                ..v1::PolicyBundle::default()
            };
            bundle.encode_to_vec()
        };
        let after = edit::read(&guests(1, 'b')).unwrap();
        let (was, is) = ("a".repeat(96), "b".repeat(96));
        let new = format!("guest vm-0 is new: measurement {is} on SNP-0000000000000000");
        let before = |text: String| Ok(bundle("inventory.toml", text.into_bytes()));
        let rows = [
            ("the same", before(guests(1, 'b')), vec![]),
            (
                "another launch",
                before(guests(1, 'a')),
                vec![format!("guest vm-0: measurement was {was}, is {is}")],
            ),
            (
                "no inventory",
                Ok(bundle("sites.toml", Vec::new())),
                vec![new.clone()],
            ),
            (
                "no policy",
                Err(tonic::Status::not_found("no-policy: none")),
                vec![new],
            ),
            (
                "no answer",
                Err(tonic::Status::permission_denied("not-an-operator: who?")),
                vec!["guests: not-an-operator: who?".to_owned()],
            ),
            (
                "no text",
                Ok(bundle("inventory.toml", vec![0xff])),
                vec![
                    "guests: inventory.toml: invalid utf-8 sequence of 1 bytes from index 0"
                        .to_owned(),
                ],
            ),
        ];
        for (name, before, want) in rows {
            assert_eq!(changed_guests(listed(before), &after), want, "{name}");
        }
        let many = edit::read(&guests(GUESTS + 2, 'b')).unwrap();
        let lines = changed_guests(Ok(Inventory::default()), &many);
        assert_eq!(lines.len(), GUESTS + 1);
        assert_eq!(lines[GUESTS], "and 2 more changes of guests");
    }

    /// A set as it was recorded, against the example policy.
    #[test]
    fn a_recorded_set_is_planned() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/policy");
        let draft = Draft::read(known_files(&folder, Kind::Policy).unwrap(), None).unwrap();
        let world = draft.world_image();
        let explainer = draft.explainer(&world);
        let to = |address: &[u8], verdict: &str, packets| v1::Destination {
            study: "cardio".into(),
            address: address.to_vec(),
            protocol: 6,
            port: 443,
            direction: "egress".into(),
            verdict: verdict.into(),
            packets,
            ..v1::Destination::default()
        };
        let flow = |study: &str, jurisdiction: &str, packets| v1::FlowSum {
            study: study.into(),
            jurisdiction: jurisdiction.into(),
            direction: "egress".into(),
            packets,
            ..v1::FlowSum::default()
        };
        let told = [
            to(&[198, 51, 100, 7], "deny", 3),
            to(&[198, 51, 100, 8], "deny", 30),
            to(&[203, 0, 113, 200], "allow", 5),
            to(&[203, 0, 113, 201], "deny", 50),
            to(&[198, 51, 100, 9], "allow", 500),
            to(&[], "deny", 1),
        ];
        let counted = [
            flow("cardio", "BR", 4),
            flow("cardio", "BR", 5),
            flow("", "DE", 1000),
        ];
        let shape = |all| -> Vec<(String, String, u64)> {
            let rows = rows(&explainer, &told, &counted, all);
            let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
            let rows = rows.iter().map(|row| {
                let packets = row["packets"].as_u64().unwrap();
                (text(row, "change"), text(row, "address"), packets)
            });
            rows.collect()
        };
        let row =
            |change: &str, address: &str, packets| (change.to_owned(), address.to_owned(), packets);
        let changes = [
            row("now-denied", "203.0.113.200", 5),
            row("now-allowed", "198.51.100.8", 30),
            row("now-allowed", "198.51.100.7", 3),
            row("unknown", "-", 9),
            row("unknown", "-", 1),
        ];
        assert_eq!(shape(false), changes);
        let rest = [
            row("still-allowed", "198.51.100.9", 500),
            row("still-denied", "203.0.113.201", 50),
        ];
        assert_eq!(shape(true).split_at(5).1, rest);
    }
}
