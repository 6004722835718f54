//! `brake`: causes for which many nodes lost standing at once, and letting go of one.

use bailiwick_attestation::proto::v1;
use clap::Subcommand;
use serde_json::json;

use crate::Exit;
use crate::client::{Connection, block_on, refused};
use crate::format::{Format, Listing, print, time};

/// Arguments of `brake`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists causes for which nodes lost standing lately, and which of them are held.
    Show {
        /// How the answer is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Lets go of a held cause: nodes that fail for it lose standing before their peers.
    Confirm {
        /// As `brake show` spells it.
        cause: String,
        /// Why; it is recorded with your name.
        #[arg(long)]
        reason: String,
    },
}

/// Runs it.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Show { output } => show(&args.connection, *output),
        Command::Confirm { cause, reason } => {
            let request = v1::ConfirmBrakeRequest {
                cause: cause.clone(),
                reason: reason.clone(),
            };
            let answer = block_on(async {
                let mut client = args.connection.open().await?;
                Ok(client.confirm_brake(request).await)
            })?;
            match answer {
                Ok(_) => {
                    print(&format!("{cause} is let go of\n"))?;
                    Ok(Exit::Good)
                }
                Err(status) => refused(&status),
            }
        }
    }
}

fn show(connection: &Connection, output: Format) -> anyhow::Result<Exit> {
    let answer = block_on(async {
        let mut client = connection.open().await?;
        Ok(client.show_brake(v1::ShowBrakeRequest {}).await)
    })?;
    let brake = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => return refused(&status),
    };
    let rows = brake.causes.iter().map(|cause| {
        json!({
            "cause": cause.cause,
            "phase": cause.phase,
            "since": time(cause.since_ms),
            "nodes": cause.nodes.len(),
            "by": cause.by,
            "reason": cause.reason,
            "names": cause.nodes,
        })
    });
    Listing {
        columns: &["cause", "phase", "since", "nodes", "by", "reason"],
        rows: rows.collect(),
    }
    .print(output)?;
    if output == Format::Table {
        print(&format!(
            "\nheld when more than {} % of the nodes in standing, and no fewer than {}, are lost \
             for one cause within {} s\n",
            brake.share_percent, brake.min_nodes, brake.window_seconds
        ))?;
    }
    Ok(Exit::Good)
}
