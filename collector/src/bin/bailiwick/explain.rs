//! `policy explain`: what the kernel would say to a packet, and which line makes it say so.
//!
//! Answers from the same function and the same tables as the kernel. Signatures are not checked:
//! a draft can be asked before anybody signs it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bailiwick_attestation::proto::v1;
use bailiwick_policy::bundle::{WorldKind, WorldSource};
use bailiwick_policy::explain::{Direction, Explainer, Query};
use bailiwick_policy::image;
use bailiwick_policy::manifest::Manifest;
use bailiwick_policy::model::{Files, Model, Protocol};
use bailiwick_policy::world::World;
use clap::ValueEnum;
use prost::Message as _;
use serde_json::json;

use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, print};
use crate::policy::{fetch, read_bundle};

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
    /// A folder with a manifest; without it the policy in force is asked of the collector.
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
    let bundle = match &args.folder {
        Some(folder) => v1::PolicyBundle::from(read_bundle(folder)?),
        None => match block_on(fetch(connection))? {
            Ok(bytes) => v1::PolicyBundle::decode(bytes.as_slice())?,
            Err(status) => return refused(&status),
        },
    };
    let manifest = Manifest::parse(&bundle.manifest)?;
    let model = model(&bundle)?;
    let world = World::compile(&world(&bundle)?, &model.sites)?;
    let policy = image::compile(&model, &world.codes, &manifest)?;
    let image = world.image(manifest.version);
    let explainer = Explainer {
        model: &model,
        world: &image,
        policy: &policy,
    };
    let answer = explainer.explain(&Query {
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
    })?;
    if args.output == Format::Table {
        print(&format!("{answer}\n"))?;
    } else {
        let json = json!({
            "verdict": answer.verdict(),
            "rule": answer.rule,
            "jurisdiction": answer.jurisdiction,
            "because": answer.because,
            "place": answer.place.as_ref().map(ToString::to_string),
            "change": answer.change,
            "version": manifest.version,
        });
        print(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
    }
    Ok(Exit::Good)
}

fn file<'a>(bundle: &'a v1::PolicyBundle, path: &str) -> anyhow::Result<&'a [u8]> {
    let mut files = bundle.files.iter();
    let file = files.find(|file| file.path == path);
    let file = file.with_context(|| format!("the policy has no {path}"))?;
    Ok(&file.content)
}

fn model(bundle: &v1::PolicyBundle) -> anyhow::Result<Model> {
    let studies: Vec<(&str, &[u8])> = bundle
        .files
        .iter()
        .filter(|file| file.path.starts_with("studies/"))
        .map(|file| (file.path.as_str(), file.content.as_slice()))
        .collect();
    Ok(Model::parse(&Files {
        studies: &studies,
        host_fence: file(bundle, "host-fence.toml")?,
        sites: file(bundle, "sites.toml")?,
        inventory: file(bundle, "inventory.toml")?,
        collector: file(bundle, "collector.toml")?,
        profile: file(bundle, "profile.toml")?,
    })?)
}

fn world(bundle: &v1::PolicyBundle) -> anyhow::Result<WorldSource> {
    for (path, kind) in [
        ("world.csv", WorldKind::Csv),
        ("world.txt", WorldKind::GeoipDb),
    ] {
        if let Ok(content) = file(bundle, path) {
            return Ok(WorldSource {
                kind,
                bytes: Arc::new(content.to_vec()),
            });
        }
    }
    bail!("the policy has neither world.csv nor world.txt")
}
