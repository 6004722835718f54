//! `break-glass`: standing for a while without appraisal, signed beforehand.

use std::path::PathBuf;

use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::Manifest;
use clap::Subcommand;

use crate::Exit;
use crate::client::Connection;
use crate::format::Format;
use crate::policy::{apply, read_bundle};

/// Arguments of `break-glass`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings a signed break-glass manifest to every node it names, which use it at once and once.
    /// Where no collector can be reached: `bailiwick-agent break-glass FOLDER` on the host.
    Use {
        /// The signed folder.
        folder: PathBuf,
        /// How the answer is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    let Command::Use { folder, output } = &args.command;
    let manifest = Manifest::parse(&read_bundle(folder)?.manifest)?;
    if manifest.kind != Kind::BreakGlass {
        let shown = folder.display();
        eprintln!(
            "bailiwick: {shown}: a manifest of kind {}, not break-glass",
            manifest.kind
        );
        return Ok(Exit::Refused);
    }
    apply(&args.connection, folder, *output)
}
