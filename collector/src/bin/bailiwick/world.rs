//! `world build|diff|lookup`: where addresses lie, from what makers deliver to what a fence says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_policy::bundle::{WorldKind, WorldSource};
use bailiwick_policy::model::Site;
use bailiwick_policy::world::source::{self, Format as Written, Source};
use bailiwick_policy::world::{Atlas, Change, Found, Said, World};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use crate::Exit;
use crate::client::{Connection, refused};
use crate::explain::Source as Policy;
use crate::format::{Format, Listing, parse_time, print, time};

/// Arguments of `world`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a world.csv of one geo database or several; the one named first wins.
    Build(Build),
    /// Says which addresses another map would put elsewhere.
    Diff(Diff),
    /// Says where addresses lie, and whose word it is.
    Lookup(Lookup),
}

#[derive(Debug, clap::Args)]
struct Build {
    /// Databases, as their makers deliver them.
    #[arg(required = true)]
    sources: Vec<PathBuf>,
    /// How all of them are written, where it is not to be guessed.
    #[arg(long, value_enum)]
    format: Option<Given>,
    /// Under what terms they came, where they do not say so themselves.
    #[arg(long)]
    licence: Option<String>,
    /// When they were made, where they do not say so themselves: RFC 3339, or seconds since 1970.
    #[arg(long, value_parser = parse_time)]
    built: Option<UnixTime>,
    /// The file to write; must not exist.
    #[arg(long)]
    to: PathBuf,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// How a source is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Given {
    /// MaxMind's format, of whatever maker.
    Mmdb,
    /// delegated-extended statistics of a registry.
    Rir,
    /// Tor's geoip files.
    Geoip,
    /// START,END,CODE or PREFIX,CODE.
    Csv,
}

impl From<Given> for Written {
    fn from(given: Given) -> Self {
        match given {
            Given::Mmdb => Self::Mmdb,
            Given::Rir => Self::Rir,
            Given::Geoip => Self::Geoip,
            Given::Csv => Self::Csv,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Diff {
    /// The one map: world.csv or world.txt.
    before: PathBuf,
    /// The other.
    after: PathBuf,
    /// The operator's sites, which win over both.
    #[arg(long)]
    sites: Option<PathBuf>,
    /// Every range, not their sums.
    #[arg(long)]
    ranges: bool,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct Lookup {
    /// Addresses.
    #[arg(required = true)]
    addresses: Vec<IpAddr>,
    /// A map: world.csv or world.txt. Without it, that of --folder, or the one in force.
    #[arg(long, conflicts_with = "folder")]
    map: Option<PathBuf>,
    /// The operator's sites, which win over the map.
    #[arg(long, requires = "map")]
    sites: Option<PathBuf>,
    /// A folder of a policy, signed or not.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Build(args) => build(args),
        Command::Diff(args) => diff(args),
        Command::Lookup(args) => lookup(args),
    }
}

/// Bytes of a file no larger than any source is.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = || path.display().to_string();
    let size = std::fs::metadata(path).with_context(name)?.len();
    let limit = u64::try_from(source::SOURCE_LIMIT)?;
    anyhow::ensure!(
        size <= limit,
        "{}: {size} bytes exceed the limit of {limit}",
        path.display()
    );
    std::fs::read(path).with_context(name)
}

fn refuse(fault: impl std::fmt::Display) -> anyhow::Result<Exit> {
    eprintln!("bailiwick: {fault}");
    Ok(Exit::Refused)
}

fn build(args: &Build) -> anyhow::Result<Exit> {
    let mut files = Vec::new();
    for path in &args.sources {
        let name = path.file_name().map_or_else(
            || path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        files.push((name, read(path)?));
    }
    let sources: Vec<Source<'_>> = files
        .iter()
        .map(|(name, bytes)| Source {
            name,
            format: args
                .format
                .map_or_else(|| Written::guess(bytes), Into::into),
            bytes,
            licence: args.licence.as_deref(),
            built: args.built.map(UnixTime::secs),
        })
        .collect();
    let built = match source::build(&sources) {
        Ok(built) => built,
        Err(fault) => return refuse(fault),
    };
    for warning in &built.warnings {
        eprintln!("bailiwick: {warning}");
    }
    let digest = Sha256Digest::of(&[&built.text]);
    let map = WorldSource {
        kind: WorldKind::Csv,
        bytes: std::sync::Arc::new(built.text),
    };
    // What a node would refuse is refused here.
    let world = match World::compile(&map, &[]) {
        Ok(world) => world,
        Err(fault) => return refuse(fault),
    };
    let mut to = std::fs::File::create_new(&args.to).with_context(|| name(&args.to))?;
    std::io::Write::write_all(&mut to, &map.bytes).with_context(|| name(&args.to))?;

    let (v4, v6) = world.nodes();
    let rows = built.origins.iter().map(|origin| {
        json!({
            "source": origin.name,
            "format": origin.format.as_str(),
            "ranges": origin.ranges,
            "built": origin.built.map(|at| time(at.saturating_mul(1000))),
            "licence": origin.licence,
            "sha256": origin.digest.to_string(),
        })
    });
    let sources = Listing {
        columns: &["source", "format", "ranges", "built", "licence", "sha256"],
        rows: rows.collect(),
    };
    match args.output {
        Format::Json => {
            let warnings = built.warnings.iter().map(ToString::to_string);
            let json = json!({
                "map": name(&args.to),
                "sha256": digest.to_string(),
                "bytes": map.bytes.len(),
                "ranges": built.ranges,
                "blocks": {"v4": v4, "v6": v6},
                "built": time(world.built.saturating_mul(1000)),
                "sources": sources.rows,
                "warnings": warnings.collect::<Vec<_>>(),
            });
            print(&format!("{}\n", serde_json::to_string_pretty(&json)?))?;
        }
        Format::Csv => sources.print(Format::Csv)?,
        Format::Table => {
            sources.print(Format::Table)?;
            print(&format!(
                "\n{}: {} ranges, {} bytes\nsha256 {digest}\n",
                name(&args.to),
                built.ranges,
                map.bytes.len(),
            ))?;
        }
    }
    Ok(Exit::Good)
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// A map from a file: `world.txt` by its name or its look, else `world.csv`.
fn map(path: &Path) -> anyhow::Result<WorldSource> {
    let bytes = read(path)?;
    let kind = if Written::guess(&bytes) == Written::Geoip {
        WorldKind::GeoipDb
    } else {
        WorldKind::Csv
    };
    Ok(WorldSource {
        kind,
        bytes: std::sync::Arc::new(bytes),
    })
}

/// The atlas of a map and of sites, or what the bytes are refused for.
fn atlas(map: &WorldSource, sites: Option<&Path>) -> anyhow::Result<Result<Atlas, String>> {
    let sites: Vec<Site> = match sites {
        None => Vec::new(),
        Some(path) => match Atlas::sites(&read(path)?) {
            Ok(sites) => sites,
            Err(fault) => return Ok(Err(fault.to_string())),
        },
    };
    Ok(Atlas::read(map, &sites).map_err(|fault| fault.to_string()))
}

fn diff(args: &Diff) -> anyhow::Result<Exit> {
    let mut read = Vec::new();
    for path in [&args.before, &args.after] {
        match atlas(&map(path)?, args.sites.as_deref())? {
            Ok(atlas) => read.push(atlas),
            Err(fault) => return refuse(format_args!("{}: {fault}", path.display())),
        }
    }
    let [before, after] = read.as_slice() else {
        anyhow::bail!("two maps make a difference");
    };
    let changes = before.changes(after);
    let listing = if args.ranges {
        let rows = changes.iter().map(|change| {
            json!({
                "first": change.first,
                "last": change.last,
                "before": change.before,
                "after": change.after,
            })
        });
        Listing {
            columns: &["first", "last", "before", "after"],
            rows: rows.collect(),
        }
    } else {
        sums(&changes)
    };
    listing.print(args.output)?;
    Ok(Exit::Good)
}

/// One row per way to change, the most addresses first.
fn sums(changes: &[Change]) -> Listing {
    let mut sums: BTreeMap<(bool, &str, &str), (usize, u128, IpAddr)> = BTreeMap::new();
    for change in changes {
        let key = (
            change.first.is_ipv6(),
            change.before.as_str(),
            change.after.as_str(),
        );
        let (ranges, addresses, _) = sums.entry(key).or_insert((0, 0, change.first));
        *ranges = ranges.saturating_add(1);
        *addresses = addresses.saturating_add(change.addresses());
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|((six, ..), (_, addresses, _))| (*six, u128::MAX - addresses));
    let rows = sums
        .iter()
        .map(|((six, before, after), (ranges, addresses, first))| {
            json!({
                "family": if *six { "IPv6" } else { "IPv4" },
                "before": before,
                "after": after,
                "ranges": ranges,
                // A number of IPv6 is beyond what JSON readers take.
                "addresses": addresses.to_string(),
                "first": first,
            })
        });
    Listing {
        columns: &["family", "before", "after", "ranges", "addresses", "first"],
        rows: rows.collect(),
    }
}

fn lookup(args: &Lookup) -> anyhow::Result<Exit> {
    let atlas = match &args.map {
        Some(path) => atlas(&map(path)?, args.sites.as_deref())?,
        None => {
            let policy = match args.folder.as_deref() {
                Some(folder) => Policy::folder(&args.connection, folder)?,
                None => match Policy::in_force(&args.connection)? {
                    Ok(policy) => policy,
                    Err(status) => return refused(&status),
                },
            };
            let (files, newest) = (policy.files, policy.world);
            let file = |wanted: &[&str]| {
                let mut files = files.iter();
                files.find(|(path, _)| wanted.contains(&path.as_str()))
            };
            let own = file(&["world.csv", "world.txt"])
                .map(|(path, bytes)| WorldSource::of(path, bytes.clone()));
            let map = own.or(newest).context("the policy has no world map")?;
            let sites = file(&["sites.toml"]).map_or(&[][..], |(_, bytes)| bytes);
            Atlas::sites(sites)
                .and_then(|sites| Atlas::read(&map, &sites))
                .map_err(|fault| fault.to_string())
        }
    };
    let atlas = match atlas {
        Ok(atlas) => atlas,
        Err(fault) => return refuse(fault),
    };
    let rows = args.addresses.iter().map(|address| {
        let Found {
            address: judged,
            jurisdiction,
            range: (first, last),
            by,
        } = atlas.locate(*address);
        let line = match by {
            Said::Site(line) | Said::Map(line) => Some(line),
            Said::BuiltIn | Said::Nobody => None,
        };
        json!({
            "address": address,
            "jurisdiction": atlas.codes.name(jurisdiction),
            "by": by.as_str(),
            "line": line,
            "first": first,
            "last": last,
            "judged_as": judged,
        })
    });
    Listing {
        columns: &["address", "jurisdiction", "by", "line", "first", "last"],
        rows: rows.collect(),
    }
    .print(args.output)?;
    Ok(Exit::Good)
}
