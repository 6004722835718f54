//! `bailiwick-collector`: the daemon.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bailiwick_attestation::{DeploymentId, NodeId};
use bailiwick_collector::clock;
use bailiwick_collector::config::Config;
use bailiwick_collector::init::{self, Plan, StateDir};
use bailiwick_collector::run::{Checked, Running};
use clap::{Parser, Subcommand, ValueEnum};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Verifies, records and alerts on the nodes of one deployment.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-collector", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the state folder: keys, certificates, and the first operator.
    Init(Init),
    /// Makes the outward CA in a state folder of a version without; run it as the daemon's user.
    InitOutward {
        /// The state folder.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Makes one more key store, for whom nodes wrap the keys of what they seal.
    InitKeyStore {
        /// The state folder.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Issues a certificate to one more operator.
    Operator {
        /// The state folder.
        #[arg(long)]
        dir: PathBuf,
        /// The operator's name.
        name: String,
    },
    /// Makes one more lease key, and prints what to put into collector.toml of the policy.
    LeaseKey {
        /// The state folder.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the key.
        id: String,
    },
    /// Makes one more key of the log, and prints what to put into collector.toml of the policy.
    LogKey {
        /// The state folder.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the key's file.
        id: String,
    },
    /// Makes one more CA of servers and nodes, with a server certificate of its own, and prints
    /// what to put into collector.toml of the policy.
    CaKey {
        /// The state folder.
        #[arg(long)]
        dir: PathBuf,
        /// Name of the CA.
        id: String,
        /// A name or address that agents and operators reach this collector by; may be repeated.
        #[arg(long = "name", required = true)]
        names: Vec<String>,
    },
    /// Renews the server's certificate, or an operator's, over the key it has.
    Renew {
        /// The state folder.
        #[arg(long)]
        dir: PathBuf,
        /// The operator's; absent: the server's.
        #[arg(long, conflicts_with = "names")]
        operator: Option<String>,
        /// A name or address that agents and operators reach this collector by; may be repeated.
        #[arg(long = "name", required_unless_present = "operator")]
        names: Vec<String>,
    },
    /// Serves until SIGTERM.
    Run(File),
    /// Reads everything `run` would, and says what is wrong.
    Check(File),
    /// Works on the configuration itself.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints the configuration in force, defaults included.
    Print(File),
}

#[derive(Debug, clap::Args)]
struct File {
    /// The configuration file.
    #[arg(long, default_value = "/etc/bailiwick/collector.toml")]
    config: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Init {
    /// The folder to make; its parent must exist.
    #[arg(long)]
    dir: PathBuf,
    /// The installation: whatever shares approvers and a collector.
    #[arg(long)]
    deployment: String,
    /// A name or address that agents and operators reach this collector by; may be repeated.
    #[arg(long = "name", required = true)]
    names: Vec<String>,
    /// The first operator.
    #[arg(long, default_value = "operator")]
    operator: String,
    /// Origin of the log; default NAME/bailiwick/DEPLOYMENT.
    #[arg(long)]
    log_origin: Option<String>,
    /// Name of the lease key in the signed policy.
    #[arg(long, default_value = "lease-1")]
    lease_key_id: String,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For machines.
    Json,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::from(error.use_stderr());
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_closed) => ExitCode::FAILURE,
            };
        }
    };
    let daemon = matches!(cli.command, Command::Run(_));
    if daemon {
        logging();
    }
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if daemon => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bailiwick-collector: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.with_ansi(false).json().init();
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init(args) => make(args),
        Command::InitOutward { dir } => {
            let certificate = StateDir::at(&dir).init_outward(clock::now())?;
            print(&format!(
                "# others verify nodes' outward certificates with\n#   {}\n",
                certificate.display()
            ))
        }
        Command::InitKeyStore { dir } => {
            let text = StateDir::at(&dir).init_key_store()?;
            print(&format!(
                "# for the policy file collector.toml, before the key stores it replaces\n{text}"
            ))
        }
        Command::Renew {
            dir,
            operator,
            names,
        } => {
            let (state, now) = (StateDir::at(&dir), clock::now());
            let renewed = match operator {
                Some(name) => state.renew_operator(&NodeId::new(&name)?, now)?,
                None => state.renew_server(&names, now)?,
            };
            print(&format!("cert = \"{}\"\n", renewed.display()))
        }
        Command::Operator { dir, name } => {
            let name = NodeId::new(&name)?;
            let (certificate, key) = StateDir::at(&dir).issue_operator(&name, clock::now())?;
            print(&format!(
                "cert = \"{}\"\nkey = \"{}\"\n",
                certificate.display(),
                key.display()
            ))
        }
        Command::LeaseKey { dir, id } => {
            print(&StateDir::at(&dir).add_lease_key(&NodeId::new(&id)?)?)
        }
        Command::LogKey { dir, id } => print(&StateDir::at(&dir).add_log_key(&NodeId::new(&id)?)?),
        Command::CaKey { dir, id, names } => {
            let id = NodeId::new(&id)?;
            let text = StateDir::at(&dir).add_ca(&id, &names, clock::now())?;
            let certificate = dir.join("cas").join(id.as_str()).join("ca.pem");
            print(&format!(
                "# operators add {} to the file their client.toml names as ca\n{text}",
                certificate.display()
            ))
        }
        Command::Run(file) => runtime()?.block_on(serve(load(&file)?)),
        Command::Check(file) => check(&file),
        Command::Config {
            command: ConfigCommand::Print(file),
        } => print(&toml::to_string(&Config::load(&file.config)?)?),
    }
}

fn make(args: Init) -> anyhow::Result<()> {
    let deployment = DeploymentId::new(&args.deployment)?;
    let first = args.names.first().context("--name")?;
    let log_origin = args
        .log_origin
        .unwrap_or_else(|| format!("{first}/bailiwick/{deployment}"));
    let made = init::init(
        &Plan {
            dir: args.dir,
            deployment,
            names: args.names,
            operator: NodeId::new(&args.operator)?,
            log_origin,
            lease_key_id: args.lease_key_id,
        },
        clock::now(),
    )?;
    if matches!(args.output, Output::Json) {
        return print(&format!("{}\n", serde_json::to_string(&made)?));
    }
    print(&format!(
        "# made in {}\n# agents and operators verify this collector with\n#   {}\n# others verify nodes' outward certificates with\n#   {}\n# the first operator's client.toml\nca = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n\n# collector.toml of the policy, for the approvers to sign\n{}",
        made.state_dir.display(),
        made.ca.display(),
        made.outward_ca.display(),
        made.ca.display(),
        made.operator_certificate.display(),
        made.operator_key.display(),
        made.collector_toml,
    ))
}

fn load(file: &File) -> anyhow::Result<Checked> {
    let config = Config::load(&file.config)?;
    Checked::new(config).with_context(|| file.config.display().to_string())
}

fn check(file: &File) -> anyhow::Result<()> {
    let checked = load(file)?;
    let exists = checked.database().exists();
    print(&format!(
        "{}: good{}\n",
        file.config.display(),
        if exists {
            ""
        } else {
            "; the database will be made"
        }
    ))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("runtime")
}

async fn serve(checked: Checked) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut running = Running::start(checked).await?;
    notify(&[NotifyState::Ready])?;
    // Half the time systemd allows: one late beat is no failure.
    let beat = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let mut watchdog = tokio::time::interval(beat.unwrap_or(Duration::from_secs(3600)));
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            error = running.failed() => break Err(error),
            _ = watchdog.tick() => if beat.is_some() {
                notify(&[NotifyState::Watchdog])?;
            },
        }
    };
    info!("stopping");
    notify(&[NotifyState::Stopping])?;
    tokio::select! {
        () = running.stop() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    outcome
}

fn notify(state: &[NotifyState<'_>]) -> anyhow::Result<()> {
    sd_notify::notify(state).context("NOTIFY_SOCKET")
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("stdout")
}
