//! `policy explain`: what the kernel would say to a packet, and which line makes it say so.
//!
//! Answers from the same function and the same tables as the kernel. Signatures are not checked:
//! a draft can be asked before anybody signs it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bailiwick_attestation::proto::v1;
use bailiwick_policy::bundle::{Draft, WorldKind, WorldSource};
use bailiwick_policy::explain::{Direction, Query};
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
    #[arg(long)]
    to: IpAddr,
    /// How it is spoken to.
    #[arg(long, value_enum, default_value = "tcp")]
    protocol: Spoken,
    /// Port at the far end, for TCP and UDP.
    #[arg(long, default_value_t = 443)]
    port: u16,
    /// The packet comes from there.
    #[arg(long)]
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

/// Runs it.
pub(crate) fn run(connection: &Connection, args: &Args) -> anyhow::Result<Exit> {
    let files: Vec<(String, Vec<u8>)> = match &args.folder {
        Some(folder) => known_files(folder, Kind::Policy)?.into_iter().collect(),
        None => {
            let bytes = match block_on(fetch(connection, Kind::Policy))? {
                Ok(bytes) => bytes,
                Err(status) => return refused(&status),
            };
            let bundle = v1::PolicyBundle::decode(bytes.as_slice())?;
            let files = bundle.files.into_iter();
            files.map(|file| (file.path, file.content)).collect()
        }
    };
    let mut map = None;
    if !files.iter().any(|(path, _)| Kind::World.holds(path)) {
        // Without a collector the files are refused below for want of a map, by name.
        let bundle = world(connection).ok().flatten();
        let file = bundle.and_then(|bundle| bundle.files.into_iter().next());
        map = file.map(|file| WorldSource {
            kind: match file.path.as_str() {
                "world.txt" => WorldKind::GeoipDb,
                _ => WorldKind::Csv,
            },
            bytes: Arc::new(file.content),
        });
    }
    let draft = match Draft::read(files, map.as_ref()) {
        Ok(draft) => draft,
        Err(fault) => {
            eprintln!("bailiwick: {fault}");
            return Ok(Exit::Refused);
        }
    };
    let world = draft.world_image();
    let answer = draft.explainer(&world).explain(&Query {
        subject: &args.study,
        address: args.to,
        protocol: args.protocol.into(),
        port: args.port,
        direction: if args.ingress {
            Direction::Ingress
        } else {
            Direction::Egress
        },
        attested: !args.unattested,
        peer: !args.peer_lost,
    })?;
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
