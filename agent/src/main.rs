//! The agent's one binary; see `README.md` for its processes.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use bailiwick_agent::{
    clock,
    collect::{Host, tee::Tee},
    config::{Config, SignedBy},
    fence::{self, Fence},
    fence_service::{self, Core, Kept},
    geotag,
    ipc::FenceClient,
    probe::Probe,
    proto::fence::UseBreakGlass,
    signer::{self, Signer},
    tls,
    tpm::Tpm,
    uplink,
};
use bailiwick_attestation::{
    Sha256Digest, UnixTime,
    geotag::Record,
    proto::v1::{PolicyBundle, PolicyFile},
};
use bailiwick_policy::approvers::{Approvers, Validity};
use clap::{Parser, Subcommand};
use prost::Message as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Attester and enforcer on one host.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-agent", version, disable_help_subcommand = true)]
struct Cli {
    /// The configuration.
    #[arg(long, global = true, default_value = "/etc/bailiwick/agent.toml")]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Holds the fence: denies by default, enforces what approvers signed; no network
    Fence,
    /// Detaches the fence and removes its pins: what was fenced is open
    Unfence,
    /// Attests: TPM or processor, evidence, the connection to the collector
    Run,
    /// Uses what approvers signed for an emergency: once, for its time, collector or not
    BreakGlass {
        /// The signed folder, or the file it was packed into
        file: PathBuf,
    },
    /// Where this machine stands, by the word of somebody who stands before it
    #[command(subcommand)]
    Geotag(GeotagCommand),
    /// Says what would keep `fence` and `run` from working
    Check,
    /// Configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// What one source says, as JSON; asked by `run` in a process of its own
    #[command(subcommand)]
    Probe(ProbeCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints it as understood, defaults filled in
    Print,
}

#[derive(Debug, Subcommand)]
enum GeotagCommand {
    /// Prints the text to sign: `ssh-keygen -Y sign -n bailiwick/DEPLOYMENT/geotag -f KEY FILE`
    Draft {
        /// Site, room, row
        #[arg(long)]
        place: String,
        /// Rack
        #[arg(long)]
        rack: Option<String>,
        /// ISO 3166-1 code, or an operator's own: DE, X-SITE-1
        #[arg(long)]
        jurisdiction: String,
        /// When it ends: 2027-01-31T00:00:00Z
        #[arg(long, value_parser = moment)]
        until: UnixTime,
    },
    /// Locks a signed text into the TPM; what was there before is gone
    Provision {
        /// What `draft` printed
        text: PathBuf,
        /// The signature over it; default: the text's name and `.sig`
        signature: Option<PathBuf>,
    },
    /// Prints what the TPM holds
    Show,
}

#[derive(Debug, Subcommand)]
enum ProbeCommand {
    /// One datagram that the fence has to refuse, sent when a byte comes in
    Fence,
    /// Of a vendor's library
    #[command(flatten)]
    Library(Probe),
}

fn main() -> ExitCode {
    bailiwick_agent::keep_memory_small();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let code = u8::from(usage.use_stderr());
            // Nobody to tell if even this cannot be printed.
            drop(usage.print());
            return ExitCode::from(code);
        }
    };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_env_filter(
            EnvFilter::try_from_env("BAILIWICK_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .init();
    let outcome = match cli.command {
        Command::Fence => hold_fence(&cli.config),
        Command::Unfence => unfence(&cli.config),
        Command::Run => run(&cli.config),
        Command::BreakGlass { file } => break_glass(&cli.config, &file),
        Command::Geotag(command) => geotag(&cli.config, command),
        Command::Check => check(&cli.config),
        Command::Config(ConfigCommand::Print) => print_config(&cli.config),
        Command::Probe(ProbeCommand::Fence) => probe_fence(),
        Command::Probe(ProbeCommand::Library(probe)) => probe.run().context("stdout"),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("{why:#}");
            ExitCode::FAILURE
        }
    }
}

fn read_approvers(config: &Config) -> anyhow::Result<Approvers> {
    let file = &config.policy.approvers;
    let name = file.display().to_string();
    let bytes = std::fs::read(file).with_context(|| name.clone())?;
    Ok(Approvers::parse(&name, &bytes, config.policy.threshold)?)
}

/// Fenced first; what could fail comes after that. What was kept is read and compiled while the
/// kernel verifies the programs.
fn hold_fence(file: &Path) -> anyhow::Result<()> {
    let config = Config::read(file)?;
    let closed = Fence::close(&config.fence, config.fence_recorder())?;
    let settings = fence_settings(&config);
    let (fence, kept) = std::thread::scope(|scope| {
        let begun = settings.as_ref().ok().map(|settings| {
            let read = || Kept::read(settings);
            std::thread::Builder::new().spawn_scoped(scope, read)
        });
        let fence = closed.open();
        let kept = begun.and_then(|thread| thread.ok()?.join().ok());
        (fence, kept)
    });
    let (fence, settings) = (fence?, settings?);
    let probe = fence.probe();
    let core = match kept {
        Some(kept) => Core::with(fence, settings, kept),
        // There was no thread for it.
        None => Core::new(fence, settings),
    };
    let program = std::env::current_exe().context("this program's file")?;
    probe.run(&program)?;
    info!("a probe was denied");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("runtime")?;
    runtime.block_on(async {
        let stop = stop_on_signal()?;
        fence_service::serve(core, &config.fence.socket, stop).await?;
        Ok(())
    })
}

fn fence_settings(config: &Config) -> anyhow::Result<fence_service::Settings> {
    let host = Host::of(config);
    Ok(fence_service::Settings {
        deployment: config.deployment.clone(),
        approvers: read_approvers(config)?,
        state_dir: config.state_dir.clone(),
        node: config.node.clone(),
        boot_id: host.boot_id().context("boot_id")?,
    })
}

fn unfence(file: &Path) -> anyhow::Result<()> {
    let config = Config::read(file)?;
    let removed = Fence::remove_pins(&config.fence)?;
    let mut out = io::stdout().lock();
    for pin in &removed {
        writeln!(out, "removed {}", pin.display())?;
    }
    if removed.is_empty() {
        let bpffs = config.fence.bpffs.display();
        writeln!(out, "nothing is pinned below {bpffs}")?;
    }
    Ok(())
}

/// The fence judges it: this process only carries bytes.
fn break_glass(config: &Path, file: &Path) -> anyhow::Result<()> {
    let config = Config::read(config)?;
    let bundle = signed_bundle(file)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("runtime")?;
    let used = runtime.block_on(FenceClient::new(&config.fence.socket).break_glass(
        UseBreakGlass {
            bundle: Some(bundle),
        },
    ))?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "in force: {} judged as if a lease stood, until {} ms UTC or the next boot; it cannot be \
         used again here",
        used.studies.join(", "),
        used.until_ms
    )?;
    Ok(())
}

/// A folder with `manifest.toml`, its signatures and `break-glass.toml`, or all of that in one file
/// as the wire has it.
fn signed_bundle(file: &Path) -> anyhow::Result<PolicyBundle> {
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    if !file.is_dir() {
        return PolicyBundle::decode(read(file)?.as_slice())
            .with_context(|| format!("{}: not a signed bundle", file.display()));
    }
    const CONTENT: &str = "break-glass.toml";
    let mut bundle = PolicyBundle {
        manifest: read(&file.join("manifest.toml"))?,
        files: vec![PolicyFile {
            path: CONTENT.to_owned(),
            content: read(&file.join(CONTENT))?,
        }],
        ..PolicyBundle::default()
    };
    for entry in std::fs::read_dir(file).with_context(|| file.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sig") {
            bundle.signatures.push(read(&path)?);
        }
    }
    Ok(bundle)
}

fn probe_fence() -> anyhow::Result<()> {
    let said = fence::probe::send();
    io::stdout().write_all(said.as_bytes()).context("stdout")
}

fn run(file: &Path) -> anyhow::Result<()> {
    let config = Arc::new(Config::read(file)?);
    let approvers = read_approvers(&config)?;
    let signer = Signer::open(&config)?;
    match &signer {
        Signer::Tpm(tpm) => info!(
            ek = %Sha256Digest::of(&[&tpm.identity().ek_public]),
            ak = hex::encode(&tpm.identity().ak_name),
            certificates = tpm.identity().ek_certificates.len(),
            "this TPM"
        ),
        Signer::Guest(guest) => info!(
            key = %guest.signer().key,
            of_this_boot = guest.was_kept(),
            "this guest's key; its processor signs"
        ),
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .context("runtime")?;
    runtime.block_on(async {
        let stop = stop_on_signal()?;
        uplink::run(config, signer, approvers.digest(), stop).await?;
        Ok(())
    })
}

/// Ends with SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });
    Ok(stop)
}

fn check(file: &Path) -> anyhow::Result<()> {
    let config = Config::read(file)?;
    let mut bad = 0_u32;
    let mut say = |what: &str, outcome: anyhow::Result<String>| {
        let line = match outcome {
            Ok(detail) => format!("ok    {what}: {detail}"),
            Err(why) => {
                bad += 1;
                format!("BAD   {what}: {why:#}")
            }
        };
        writeln!(io::stdout(), "{line}")
    };
    say("configuration", Ok(file.display().to_string()))?;
    say(
        "approvers",
        read_approvers(&config).map(|approvers| {
            format!(
                "threshold {}, {}",
                approvers.threshold(),
                approvers.digest()
            )
        }),
    )?;
    say(
        "collector",
        tls::enrolment_config(&config.collector, &[])
            .map(|_| config.collector.enroll.to_string())
            .map_err(Into::into),
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("runtime")?;
    match config.signer {
        SignedBy::Tpm => say("tpm", tpm_line(&config))?,
        SignedBy::Tee => say("processor", runtime.block_on(processor_line(&config)))?,
    }
    let state = runtime.block_on(async {
        let mut client = FenceClient::new(&config.fence.socket);
        tokio::time::timeout(Duration::from_secs(5), client.state()).await
    });
    say(
        "fence",
        match state {
            Ok(Ok(state)) => {
                let fence = state.fence.unwrap_or_default();
                Ok(fence.mode().as_str_name().to_owned())
            }
            Ok(Err(why)) => Err(why.into()),
            Err(elapsed) => Err(elapsed.into()),
        },
    )?;
    anyhow::ensure!(bad == 0, "{bad} of 5 are not as they should be");
    Ok(())
}

fn tpm_line(config: &Config) -> anyhow::Result<String> {
    let tpm = Tpm::open(config.tpm_settings())?;
    let ek = Sha256Digest::of(&[&tpm.identity().ek_public]);
    let ak = hex::encode(&tpm.identity().ak_name);
    Ok(format!("ek {ek}, ak {ak}"))
}

/// Asks for a report that binds nothing, and draws no key.
async fn processor_line(config: &Config) -> anyhow::Result<String> {
    signer::check(&config.tee.key)?;
    let given = Tee::new(&config.tee).signed([0; 64]).await?;
    Ok(format!(
        "{}; certificates of the host: {} bytes; the key of a boot can be kept in {}",
        given.launch()?,
        given.certificates.len(),
        config.tee.key.display()
    ))
}

fn geotag(file: &Path, command: GeotagCommand) -> anyhow::Result<()> {
    let config = Config::read(file)?;
    anyhow::ensure!(
        config.signer == SignedBy::Tpm,
        "signer = \"tee\": a geotag lies in a TPM, and this node has none; the inventory says where \
         it stands"
    );
    let tpm = Tpm::open(config.tpm_settings())?;
    let ek = Sha256Digest::of(&[&tpm.identity().ek_public]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("runtime")?;
    let mut out = io::stdout().lock();
    match command {
        GeotagCommand::Draft {
            place,
            rack,
            jurisdiction,
            until,
        } => {
            let said = geotag::Said {
                place,
                rack,
                jurisdiction,
                until,
            };
            let text = geotag::draft(&said, &config.deployment, ek, clock::now())?;
            out.write_all(text.as_bytes())?;
        }
        GeotagCommand::Provision { text, signature } => {
            let signature = signature.unwrap_or_else(|| {
                let mut name = text.clone().into_os_string();
                name.push(".sig");
                name.into()
            });
            let read =
                |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
            let (text, armored) = (read(&text)?, read(&signature)?);
            let now = clock::now();
            let signed = geotag::check(&text, &armored, &config.deployment, ek, now)?;
            let namespace = bailiwick_attestation::geotag::namespace(&config.deployment);
            let approvers = read_approvers(&config)?;
            let at = Validity::At(now);
            match approvers.approve(&signed.signature, &namespace, &text, at) {
                Ok(approval) => writeln!(out, "signed by {}", approval.principals)?,
                // Approvers may have been handed on since; the collector knows.
                Err(why) => writeln!(out, "not by this machine's first approvers: {why}")?,
            }
            runtime.block_on(tpm.provision_geotag(signed.record))?;
            let area = runtime.block_on(tpm.certify_geotag([0; 32]))?;
            let held = area.context("the TPM holds none")?.contents?;
            let held = Record::parse(&held)?;
            anyhow::ensure!(held.text == text, "the TPM holds another text");
            writeln!(out, "locked in the TPM; it goes with the next statement")?;
        }
        GeotagCommand::Show => match runtime.block_on(tpm.certify_geotag([0; 32]))? {
            None => anyhow::bail!("the TPM holds no geotag"),
            Some(area) => {
                let held = area.contents?;
                out.write_all(Record::parse(&held)?.text)?;
            }
        },
    }
    Ok(())
}

fn print_config(file: &Path) -> anyhow::Result<()> {
    let config = Config::read(file)?;
    let text = config.print().context("print the configuration")?;
    io::stdout().write_all(text.as_bytes()).context("stdout")
}

fn moment(text: &str) -> Result<UnixTime, String> {
    bailiwick_attestation::geotag::moment(text)
        .ok_or_else(|| format!("{text:?} is no moment as in 2027-01-31T00:00:00Z"))
}
