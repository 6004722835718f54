//! What changed on a node between two points of time, and since it was last affirmed.

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::appraisal::{Drift, Shown, drift, shown};
use bailiwick_attestation::profile::{Profile, Value as Claimed};
use bailiwick_attestation::proto::v1;
use bailiwick_collector::clock;
use serde_json::{Value, json};
use tonic::Status;

use crate::Exit;
use crate::client::{Connection, refused};
use crate::format::{Format, Listing, parse_time, print, time};
use crate::profile::{Evidence, Record, TERMS, fetch};

/// Arguments of `node diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its name by the inventory, or `ek-…`.
    node: String,
    /// Its newest statement not later than this: RFC 3339, or seconds since 1970.
    #[arg(long, value_parser = parse_time)]
    from: UnixTime,
    /// And not later than this; now if absent.
    #[arg(long, value_parser = parse_time)]
    to: Option<UnixTime>,
    /// What changes on every machine that runs, too: lists that grow, counters.
    #[arg(long)]
    all: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs it.
pub(crate) fn run(connection: &Connection, args: &Args) -> anyhow::Result<Exit> {
    let to = args.to.unwrap_or_else(clock::now);
    let request = v1::ListEvidenceRequest {
        node: args.node.clone(),
        at_ms: vec![args.from.millis(), to.millis()],
        ..v1::ListEvidenceRequest::default()
    };
    let record = match fetch(connection, request)? {
        Ok(record) => record,
        Err(status) => return refused(&status),
    };
    let [before, after] = record.evidence.as_slice() else {
        eprintln!(
            "bailiwick: {} had said nothing yet at the earlier of the two times",
            args.node
        );
        return Ok(Exit::CouldNotTell);
    };
    let terms = terms(&record)?;
    let (old, new) = (
        shown(&before.verified, before.tpm, &terms),
        shown(&after.verified, after.tpm, &terms),
    );
    let all = drift(&old, &new);
    let rows: Vec<Value> = all
        .iter()
        .filter(|one| args.all || !one.running)
        .map(row)
        .collect();
    if args.output == Format::Table {
        let boots = match same_boot(before, after) {
            true => "the same boot",
            false => "another boot",
        };
        print(&format!(
            "{}: from what it said at {} to {} ({boots})\n\n",
            before.node,
            time(before.at.millis()),
            time(after.at.millis())
        ))?;
    }
    for (at, side) in [(before, &old), (after, &new)] {
        for fault in &side.faults {
            eprintln!("bailiwick: at {}: {fault}", time(at.at.millis()));
        }
    }
    Listing {
        columns: &["subject", "how", "claim", "provenance"],
        rows,
    }
    .print(args.output)?;
    Ok(Exit::Good)
}

fn same_boot(before: &Evidence, after: &Evidence) -> bool {
    before.verified.statement().boot_id == after.verified.statement().boot_id
}

/// How logs are read: as the profile in force says.
fn terms(record: &Record) -> anyhow::Result<Profile> {
    Ok(match &record.profile {
        Some(profile) => profile.clone(),
        None => Profile::parse("terms", TERMS.as_bytes())?,
    })
}

fn row(one: &Drift) -> Value {
    let side = |claim: &Option<bailiwick_attestation::appraisal::AppraisedClaim>| {
        claim.as_ref().map(|claim| match &claim.value {
            Claimed::Text(text) => json!(text),
            Claimed::Number(number) => json!(number),
            Claimed::Flag(flag) => json!(flag),
        })
    };
    let source = one.after.as_ref().or(one.before.as_ref());
    json!({
        "subject": one.subject(),
        "how": one.how(),
        "claim": one.claim,
        "provenance": source.map(|claim| claim.provenance),
        "from": side(&one.before),
        "to": side(&one.after),
        "running": one.running,
    })
}

/// What changed since a node was last affirmed.
pub(crate) struct Since {
    /// When that was.
    pub(crate) affirmed: UnixTime,
    /// Whether it was in the boot that runs now.
    pub(crate) same_boot: bool,
    pub(crate) drift: Vec<Drift>,
}

/// Looks it up; `None`: it never was, or has not said anything since.
pub(crate) fn since_affirmed(
    connection: &Connection,
    node: &str,
) -> anyhow::Result<Result<Option<Since>, Status>> {
    let ask = |affirmed| v1::ListEvidenceRequest {
        node: node.to_owned(),
        at_ms: vec![clock::now().millis()],
        affirmed,
        ..v1::ListEvidenceRequest::default()
    };
    let (good, newest) = (
        fetch(connection, ask(true))?,
        fetch(connection, ask(false))?,
    );
    let (good, newest) = match (good, newest) {
        (Ok(good), Ok(newest)) => (good, newest),
        (Err(status), _) | (_, Err(status)) => return Ok(Err(status)),
    };
    let terms = terms(&newest)?;
    let (Some(before), Some(after)) = (good.evidence.first(), newest.evidence.first()) else {
        return Ok(Ok(None));
    };
    if before.verified.statement().digest == after.verified.statement().digest {
        return Ok(Ok(None));
    }
    let look = |one: &Evidence| -> Shown { shown(&one.verified, one.tpm, &terms) };
    let mut drift = drift(&look(before), &look(after));
    drift.retain(|one| !one.running);
    Ok(Ok(Some(Since {
        affirmed: before.at,
        same_boot: same_boot(before, after),
        drift,
    })))
}

impl Since {
    /// In an operator's words. Registers say little beside what is in them, and come last.
    pub(crate) fn text(&self) -> String {
        let boot = match self.same_boot {
            true => "in this boot",
            false => "in an earlier boot",
        };
        let at = time(self.affirmed.millis());
        let register = |one: &&Drift| one.claim.starts_with("tpm.pcr.");
        let told = self.drift.iter().filter(|one| !register(one));
        let mut told: Vec<String> = told
            .map(|one| format!("{} {}", one.subject(), one.how()))
            .collect();
        let registers: Vec<String> = self
            .drift
            .iter()
            .filter(register)
            .filter_map(|one| Some(one.claim.rsplit('.').next()?.to_owned()))
            .collect();
        if !registers.is_empty() {
            told.push(format!("registers {}", registers.join(", ")));
        }
        match told.is_empty() {
            true => format!(
                "\nnothing that it shows changed since it was last affirmed ({at}, {boot})\n"
            ),
            false => format!(
                "\nchanged since it was last affirmed ({at}, {boot}):\n  {}\n",
                told.join("\n  ")
            ),
        }
    }

    /// A row beside those of deviations.
    pub(crate) fn rows(&self) -> Vec<Value> {
        let row = |one: &Drift| {
            json!({
                "claim": one.claim,
                "code": "changed-since-affirmed",
                "found": format!("{} {}", one.subject(), one.how()),
                "since": time(self.affirmed.millis()),
            })
        };
        self.drift.iter().map(row).collect()
    }
}
