//! `policy explain`: what the kernel would say to a packet, or to whoever opens a device, and which
//! line makes it say so.
//!
//! Answers from the same function and the same tables as the kernel. Signatures are not checked:
//! a draft can be asked before anybody signs it.

mod past;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use bailiwick_attestation::proto::v1;
use bailiwick_policy::bundle::{Draft, WorldKind, WorldSource};
use bailiwick_policy::explain::{DeviceQuery, Direction, Query};
use bailiwick_policy::kind::Kind;
use bailiwick_policy::model::Protocol;
use clap::ValueEnum;
use prost::Message as _;
use serde_json::json;

use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, print};
use crate::policy::{fetch, known_files, world};

/// Arguments of `policy explain`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The study, or the host service.
    #[arg(long)]
    study: String,
    /// The address at the far end.
    #[arg(long, required_unless_present = "device")]
    to: Option<IpAddr>,
    /// A device instead of an address: `/dev/nvidia0`. Which devices a UUID or a part of a GPU
    /// means, and who has it now, only the host can tell.
    #[arg(long, conflicts_with = "to")]
    device: Option<String>,
    /// How it is spoken to.
    #[arg(long, value_enum, default_value = "tcp")]
    protocol: Spoken,
    /// Port at the far end, for TCP and UDP.
    #[arg(long, default_value_t = 443)]
    port: u16,
    /// Which way the packet goes.
    #[arg(long, value_enum, default_value = "egress")]
    direction: Way,
    /// The packet comes from there: `--direction ingress`.
    #[arg(long, conflicts_with = "direction")]
    ingress: bool,
    /// As for a node without a lease.
    #[arg(long)]
    unattested: bool,
    /// As where no node in standing has signed for the address: see `peers.attested`.
    #[arg(long)]
    peer_lost: bool,
    /// A folder, signed or not; without it the policy in force is asked of the collector.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// What `bailiwick node statement` wrote: as the policy, the map and the lease stood then.
    /// Nothing is verified; that is for `bailiwick verify`.
    #[arg(long, conflicts_with = "folder")]
    from_statement: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Spoken {
    Tcp,
    Udp,
    Icmp,
    Any,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    Egress,
    Ingress,
}

impl Args {
    const fn direction(&self) -> Direction {
        match (self.ingress, self.direction) {
            (true, _) | (_, Way::Ingress) => Direction::Ingress,
            (false, Way::Egress) => Direction::Egress,
        }
    }
}

impl From<Spoken> for Protocol {
    fn from(spoken: Spoken) -> Self {
        match spoken {
            Spoken::Tcp => Self::Tcp,
            Spoken::Udp => Self::Udp,
            Spoken::Icmp => Self::Icmp,
            Spoken::Any => Self::Any,
        }
    }
}

/// A policy, as files, and its map where that is another manifest's.
pub(crate) struct Source {
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) world: Option<WorldSource>,
}

impl Source {
    /// Of a folder; a map that it has not is the newest of the collector.
    pub(crate) fn folder(connection: &Connection, folder: &Path) -> anyhow::Result<Self> {
        let files = known_files(folder, Kind::Policy)?.into_iter().collect();
        Ok(Self::with_newest_map(connection, files))
    }

    /// Of the policy in force.
    pub(crate) fn in_force(connection: &Connection) -> anyhow::Result<Result<Self, tonic::Status>> {
        let bytes = match block_on(fetch(connection, Kind::Policy))? {
            Ok(bytes) => bytes,
            Err(status) => return Ok(Err(status)),
        };
        let files = files(v1::PolicyBundle::decode(bytes.as_slice())?);
        Ok(Ok(Self::with_newest_map(connection, files)))
    }

    fn with_newest_map(connection: &Connection, files: Vec<(String, Vec<u8>)>) -> Self {
        let own = files.iter().any(|(path, _)| Kind::World.holds(path));
        // Without a collector the files are refused for want of a map, by name.
        let newest = || world(connection).ok().flatten().and_then(map);
        Self {
            world: if own { None } else { newest() },
            files,
        }
    }

    /// Reads and compiles it; says what is wrong with it.
    pub(crate) fn draft(self) -> Option<Draft> {
        match Draft::read(self.files, self.world.as_ref()) {
            Ok(draft) => Some(draft),
            Err(fault) => {
                eprintln!("bailiwick: {fault}");
                None
            }
        }
    }
}

fn files(bundle: v1::PolicyBundle) -> Vec<(String, Vec<u8>)> {
    let files = bundle.files.into_iter();
    files.map(|file| (file.path, file.content)).collect()
}

fn map(bundle: v1::PolicyBundle) -> Option<WorldSource> {
    let file = bundle.files.into_iter().next()?;
    Some(WorldSource {
        kind: match file.path.as_str() {
            "world.txt" => WorldKind::GeoipDb,
            _ => WorldKind::Csv,
        },
        bytes: Arc::new(file.content),
    })
}

/// Runs it.
pub(crate) fn run(connection: &Connection, args: &Args) -> anyhow::Result<Exit> {
    let mut attested = !args.unattested;
    let source = if let Some(file) = &args.from_statement {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        let then = match past::read(&bytes) {
            Ok(then) => then,
            Err(why) => {
                eprintln!("bailiwick: {}: {}: {why}", file.display(), why.code());
                return Ok(Exit::Refused);
            }
        };
        eprintln!("bailiwick: {}", then.line());
        let Some((policy, world)) = then.policy else {
            return closed(args, &then.node);
        };
        attested &= then.attested;
        Source {
            files: files(policy),
            world: world.and_then(map),
        }
    } else if let Some(folder) = &args.folder {
        Source::folder(connection, folder)?
    } else {
        match Source::in_force(connection)? {
            Ok(source) => source,
            Err(status) => return refused(&status),
        }
    };
    let Some(draft) = source.draft() else {
        return Ok(Exit::Refused);
    };
    let world = draft.world_image();
    let explainer = draft.explainer(&world);
    let answer = match (&args.device, args.to) {
        (Some(path), _) => explainer.explain_device(&DeviceQuery {
            subject: &args.study,
            path,
            attested,
        }),
        (None, Some(address)) => explainer.explain(&Query {
            subject: &args.study,
            address,
            protocol: args.protocol.into(),
            port: args.port,
            direction: args.direction(),
            attested,
            peer: !args.peer_lost,
        }),
        (None, None) => anyhow::bail!("--to or --device is needed"),
    }?;
    if args.output == Format::Table {
        print(&format!("{answer}\n"))?;
    } else {
        let json = json!({
            "verdict": answer.verdict(),
            "rule": answer.rule,
            "jurisdiction": answer.jurisdiction,
            "because": answer.because,
            "place": answer.place.as_ref().map(|place| json!({
                "file": &*place.file,
                "line": place.line,
                "key": place.key,
            })),
            "change": answer.change,
        });
        print(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
    }
    Ok(Exit::Good)
}

/// Where no policy was in force everything is denied.
fn closed(args: &Args, node: &str) -> anyhow::Result<Exit> {
    let because = format!("no policy was in force on {node}: everything is denied");
    let change = "bring a signed policy to the collector: `bailiwick policy apply FOLDER`";
    if args.output == Format::Table {
        print(&format!(
            "denied (no-policy): {because}\n  to change it: {change}\n"
        ))?;
    } else {
        let json = json!({
            "verdict": "denied",
            "rule": "no-policy",
            "jurisdiction": null,
            "because": because,
            "place": null,
            "change": change,
        });
        print(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
    }
    Ok(Exit::Good)
}
