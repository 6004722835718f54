//! `enroll list|approve|retire|acts`: who is let in, and who says so.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::rand;
use bailiwick_attestation::appraisal::TpmKind;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::make_credential;
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, UnixTime};
use bailiwick_collector::approve::{
    Applicant, ApproveRefused, Expect, Observed, answered, device_ids, examine, observe,
};
use bailiwick_collector::clock;
use bailiwick_collector::enroll::guest::to_sign;
use bailiwick_collector::enroll::read_all;
use bailiwick_policy::model::{Confirmed, Node, confirm, edit};
use bailiwick_policy::ssh::SshSignature;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::Exit;
use crate::acts;
use crate::client::{Client, Connection, block_on, refused};
use crate::format::{Format, Listing, print, time};

/// Arguments of `enroll`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who waits, who is in, who never came, who is out.
    List {
        /// How the listing is printed.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Challenges a node's EK and AK and writes its signed entry into a policy folder.
    Approve(Box<Approve>),
    /// Moves a node's entry to the retired ones in a policy folder.
    Retire {
        /// Its name in the inventory.
        node: String,
        /// The policy folder.
        #[arg(long)]
        policy: PathBuf,
        /// Why, for people.
        #[arg(long)]
        reason: String,
    },
    /// Enrolments, policies, retirements and revocations, with their receipts.
    Acts {
        /// Only this node's.
        #[arg(long, default_value = "")]
        node: String,
        /// Only of this kind: enrolment, policy, retirement, revocation, brake, erasure, verdict,
        /// duplicate.
        #[arg(long, default_value = "")]
        kind: String,
        /// At most so many, newest first.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        /// Checks each receipt against this verifier key of the log (`vkey` in collector.toml).
        #[arg(long)]
        vkey: Option<String>,
        /// How the listing is printed; json holds body and receipt, for whoever keeps them.
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

/// What an approver says of a TPM.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Tpm {
    /// A part of the machine.
    Chip,
    /// A program of its provider's.
    Virtual,
}

impl From<Tpm> for TpmKind {
    fn from(tpm: Tpm) -> Self {
        match tpm {
            Tpm::Chip => Self::Chip,
            Tpm::Virtual => Self::Virtual,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Approve {
    /// The node: what it calls itself, or `ek-…`.
    node: String,
    /// The policy folder whose inventory.toml gets the entry.
    #[arg(long)]
    policy: PathBuf,
    /// The approver's SSH key: a private key, or a public one that an agent or hardware key holds.
    #[arg(long)]
    key: PathBuf,
    /// Whose node it is to be.
    #[arg(long)]
    deployment: String,
    /// PEM files with the roots of TPM makers.
    #[arg(long, num_args = 1..)]
    roots: Vec<PathBuf>,
    /// PEM files with intermediates.
    #[arg(long, num_args = 1..)]
    intermediates: Vec<PathBuf>,
    /// Digest of the EK as read at the machine; needed where the TPM has no certificate.
    #[arg(long)]
    ek: Option<String>,
    /// Serial number of the chassis as read at the machine.
    #[arg(long)]
    chassis_serial: Option<String>,
    /// What its TPM is, where its certificate does not say so, or says it wrongly.
    #[arg(long, value_enum)]
    tpm: Option<Tpm>,
    /// Name in the inventory; default what it calls itself.
    #[arg(long)]
    name: Option<String>,
    /// Where it stands, for people.
    #[arg(long)]
    place: Option<String>,
    /// Where it stands, for the law; needed for a new entry.
    #[arg(long)]
    jurisdiction: Option<String>,
    /// Addresses of its workloads; may be repeated.
    #[arg(long = "address")]
    addresses: Vec<String>,
    /// Devices it has, in place of those NVML names; may be repeated.
    #[arg(long = "device")]
    devices: Vec<String>,
    /// Digest of the EK the node had before, where its board was replaced.
    #[arg(long)]
    replaces: Option<String>,
    /// Who approves, for people; default the key's fingerprint.
    #[arg(long)]
    by: Option<String>,
    /// Asks no question.
    #[arg(long)]
    yes: bool,
    /// How what was seen is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs `enroll …`.
pub(crate) fn run(args: &Args) -> anyhow::Result<Exit> {
    match &args.command {
        Command::List { output } => list(&args.connection, *output),
        Command::Approve(arguments) => approve(&args.connection, arguments),
        Command::Retire {
            node,
            policy,
            reason,
        } => retire(node, policy, reason),
        Command::Acts {
            node,
            kind,
            limit,
            vkey,
            output,
        } => {
            let request = v1::ListActsRequest {
                node: node.clone(),
                kind: kind.clone(),
                limit: *limit,
            };
            acts::list(&args.connection, request, vkey.as_deref(), *output)
        }
    }
}

fn list(connection: &Connection, output: Format) -> anyhow::Result<Exit> {
    let request = v1::ListEnrolmentsRequest {};
    let answer = block_on(async { Ok(connection.open().await?.list_enrolments(request).await) })?;
    let enrolments = match answer {
        Ok(answer) => answer.into_inner().enrolments,
        Err(status) => return refused(&status),
    };
    let row = |enrolment: &v1::EnrolmentSummary| {
        json!({
            "node": enrolment.node,
            "state": enrolment.state,
            "ak": enrolment.ak,
            "enrolled": time(enrolment.enrolled_ms),
            "connected": enrolment.connected,
            "epoch": enrolment.epoch,
            "acknowledged_epoch": enrolment.acknowledged_epoch,
            "claimed": enrolment.claimed,
            "chassis_serial": enrolment.chassis_serial,
            "devices": enrolment.devices,
            "ek": hex::encode(&enrolment.ek_digest),
            "ak_name": hex::encode(&enrolment.ak_name),
            "guest": enrolment.guest,
            "reason": enrolment.reason,
        })
    };
    Listing {
        columns: &[
            "node",
            "state",
            "guest",
            "ak",
            "enrolled",
            "connected",
            "chassis_serial",
            "epoch",
            "reason",
        ],
        rows: enrolments.iter().map(row).collect(),
    }
    .print(output)?;
    Ok(Exit::Good)
}

fn read_inventory(policy: &Path) -> anyhow::Result<(PathBuf, String)> {
    let file = policy.join(edit::INVENTORY);
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok((file, text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((file, String::new())),
        Err(error) => Err(error).context(file.display().to_string()),
    }
}

/// All or nothing: a policy folder is under somebody's version control.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().context("a file without a folder")?;
    let mut new = tempfile_in(folder)?;
    new.1.write_all(text.as_bytes()).context("inventory.toml")?;
    new.1.sync_all().context("inventory.toml")?;
    std::fs::rename(&new.0, file).with_context(|| file.display().to_string())
}

fn tempfile_in(folder: &Path) -> anyhow::Result<(PathBuf, std::fs::File)> {
    let path = folder.join(format!(".inventory.{}", std::process::id()));
    let file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    Ok((path, file))
}

fn retire(node: &str, policy: &Path, reason: &str) -> anyhow::Result<Exit> {
    let name = NodeId::new(node)?;
    let (file, text) = read_inventory(policy)?;
    let at = UnixTime::from_secs(clock::now().secs());
    let text = edit::retire(&text, &name, at, reason)?;
    write(&file, &text)?;
    print(&format!(
        "{node} is retired in {}: sign and apply the policy\n",
        file.display()
    ))?;
    Ok(Exit::Good)
}

fn digest(flag: &str, text: &str) -> anyhow::Result<Sha256Digest> {
    Sha256Digest::try_from(text.to_owned()).with_context(|| flag.to_owned())
}

/// What the collector shows of an applicant, and how the node's TPM answers.
struct Seen {
    applicant: Applicant,
    observed: Option<Observed>,
}

fn approve(connection: &Connection, args: &Approve) -> anyhow::Result<Exit> {
    let deployment = DeploymentId::new(&args.deployment)?;
    let (roots, intermediates) = (read_all(&args.roots)?, read_all(&args.intermediates)?);
    let expect = Expect {
        deployment: &deployment,
        roots: &roots,
        intermediates: &intermediates,
        ek: args
            .ek
            .as_deref()
            .map(|ek| digest("--ek", ek))
            .transpose()?,
        chassis_serial: args.chassis_serial.as_deref(),
        now: clock::now(),
    };
    let (file, text) = read_inventory(&args.policy)?;
    let seen = block_on(async {
        let mut client = connection.open().await?;
        look(&mut client, &args.node, &expect).await
    })?;
    let seen = match seen {
        Ok(seen) => seen,
        Err(NotSeen::Status(status)) => return refused(&status),
        Err(NotSeen::Refused(why)) => {
            eprintln!("bailiwick: {}: {}", why.code(), chain(&why));
            return Ok(Exit::Refused);
        }
        Err(NotSeen::Guest(entry)) => {
            eprintln!(
                "bailiwick: guest-no-tpm: {} is a guest without a TPM: there is nothing to challenge, its \
                 processor speaks for it. Approvers sign what its report says of it, in inventory.toml:\n\
                 {entry}",
                args.node
            );
            return Ok(Exit::CouldNotTell);
        }
    };
    let mut node = entry(args, &seen, &edit::read(&text)?)?;
    show(&seen, &node, args.output)?;
    if !args.yes {
        ask()?;
    }
    let at = UnixTime::from_secs(clock::now().secs());
    let message = confirm::text(&deployment, &node, at);
    let signature = sign(&args.key, &confirm::namespace(&deployment), &message)?;
    let parsed = SshSignature::parse(signature.as_bytes()).context("what ssh-keygen wrote")?;
    parsed
        .verify(&confirm::namespace(&deployment), message.as_bytes())
        .context("what ssh-keygen wrote")?;
    node.confirmed = Some(Confirmed {
        by: args.by.clone().unwrap_or_else(|| parsed.key.fingerprint()),
        at,
        signature,
    });
    write(&file, &edit::put(&text, &node)?)?;
    eprintln!(
        "bailiwick: {} is approved in {}: sign and apply the policy",
        node.name,
        file.display()
    );
    Ok(Exit::Good)
}

/// Why there is nothing to approve.
enum NotSeen {
    Status(tonic::Status),
    Refused(ApproveRefused),
    /// It has no TPM; what to sign instead.
    Guest(String),
}

/// Fetches, checks, draws a secret, has it relayed, compares.
async fn look(
    client: &mut Client,
    node: &str,
    expect: &Expect<'_>,
) -> anyhow::Result<Result<Seen, NotSeen>> {
    let request = v1::GetNodeRequest {
        node: node.to_owned(),
        at_ms: None,
    };
    let shown = match client.get_node(request).await {
        Ok(shown) => shown.into_inner(),
        Err(status) => return Ok(Err(NotSeen::Status(status))),
    };
    let enrolled = shown.enrolment.as_ref();
    if let Some((enrolled, guest)) = enrolled.and_then(|it| Some((it, it.guest.as_ref()?))) {
        let at = UnixTime(enrolled.activated_ms);
        return Ok(Err(NotSeen::Guest(to_sign(guest, at))));
    }
    let applicant = match examine(shown.enrolment.as_ref(), expect) {
        Ok(applicant) => applicant,
        Err(why) => return Ok(Err(NotSeen::Refused(why))),
    };
    let mut secret = [0; 32];
    rand::fill(&mut secret).context("no randomness")?;
    let credential = make_credential(&applicant.ek, applicant.ak.name(), &secret)?;
    let request = v1::RelayActivationRequest {
        node: node.to_owned(),
        credential_blob: credential.id_object,
        encrypted_secret: credential.encrypted_secret,
    };
    let answer = match client.relay_activation(request).await {
        Ok(answer) => answer.into_inner().answer,
        Err(status) => return Ok(Err(NotSeen::Status(status))),
    };
    if let Err(why) = answered(&secret, answer.as_ref()) {
        return Ok(Err(NotSeen::Refused(why)));
    }
    let request = v1::GetStatementRequest {
        node: node.to_owned(),
        digest: Vec::new(),
    };
    // A node that has not spoken yet can be approved; there is less to look at.
    let stored = client.get_statement(request).await.ok();
    let evidence = stored
        .and_then(|stored| stored.into_inner().statement)
        .and_then(|stored| stored.evidence);
    let observed = evidence.and_then(|evidence| observe(&evidence, &applicant.ak));
    Ok(Ok(Seen {
        applicant,
        observed,
    }))
}

/// The entry to sign: what was seen, what the flags say, and what stood there before.
fn entry(
    args: &Approve,
    seen: &Seen,
    inventory: &bailiwick_policy::model::Inventory,
) -> anyhow::Result<Node> {
    let applicant = &seen.applicant;
    let name = match &args.name {
        Some(name) => NodeId::new(name)?,
        None => applicant
            .claimed
            .clone()
            .context("what it calls itself is no name; give one with --name")?,
    };
    let before = inventory.by_name(&name);
    ensure!(
        before.is_none_or(|before| before.guest.is_none()),
        "{name} is a guest without a TPM: retire it first, or choose another name with --name"
    );
    let replaces = args.replaces.as_deref();
    let replaces = replaces.map(|ek| digest("--replaces", ek)).transpose()?;
    if let Some(before) = before
        && before.ek != applicant.ek_digest
    {
        ensure!(
            replaces == Some(before.ek),
            "{name} has the TPM with EK {}: say --replaces {} if this one takes its place",
            before.ek,
            before.ek
        );
    }
    let same = before.filter(|before| before.ek == applicant.ek_digest);
    let jurisdiction = match (&args.jurisdiction, before) {
        (Some(code), _) => code.clone().try_into().context("--jurisdiction")?,
        (None, Some(before)) => before.jurisdiction.clone(),
        (None, None) => bail!("{name} has no entry yet: say --jurisdiction"),
    };
    let addresses = args.addresses.iter().map(|text| {
        text.parse()
            .with_context(|| format!("--address {text:?} is no ADDRESS/LENGTH"))
    });
    let mut addresses = addresses.collect::<anyhow::Result<Vec<_>>>()?;
    if addresses.is_empty() {
        addresses = before.map(|b| b.addresses.clone()).unwrap_or_default();
    }
    let mut devices = match (args.devices.as_slice(), &seen.observed) {
        ([], Some(observed)) => device_ids(&observed.devices),
        ([], None) => device_ids(&applicant.devices),
        (said, _) => said.to_vec(),
    };
    devices.sort();
    devices.dedup();
    addresses.sort();
    let serial = args.chassis_serial.clone();
    let serial = serial.or_else(|| Some(applicant.chassis_serial.clone()));
    let seen_epoch = seen.observed.as_ref().map_or(0, |observed| observed.epoch);
    Ok(Node {
        ek: applicant.ek_digest,
        guest: None,
        ak: Some(applicant.ak.name().as_bytes().to_vec()),
        chassis_serial: serial.filter(|serial| !serial.is_empty()),
        devices,
        place: args
            .place
            .clone()
            .or_else(|| before.and_then(|before| before.place.clone())),
        jurisdiction,
        addresses,
        // Whoever approves has looked: the epoch the node is in is acknowledged with it.
        epoch: seen_epoch.max(same.map_or(0, |same| same.epoch)),
        tpm: args
            .tpm
            .map(TpmKind::from)
            .or_else(|| same.and_then(|same| same.tpm)),
        geotags_since: same.and_then(|same| same.geotags_since),
        replaces: replaces.or_else(|| same.and_then(|same| same.replaces)),
        confirmed: None,
        name,
    })
}

fn show(seen: &Seen, node: &Node, output: Format) -> anyhow::Result<()> {
    let applicant = &seen.applicant;
    let observed = seen.observed.clone().unwrap_or_default();
    let facts: Vec<(&str, Value, &str)> = vec![
        ("node", json!(node.name.as_str()), "the entry's name"),
        (
            "ek",
            json!(applicant.ek_digest.to_string()),
            if applicant.chain.is_empty() {
                "no certificate: as you read it at the machine"
            } else {
                "checked: chains to your roots"
            },
        ),
        ("ek_chain", json!(applicant.chain), "EK certificate first"),
        (
            "tpm_maker",
            json!(applicant.tpm.manufacturer),
            "by the EK certificate",
        ),
        (
            "tpm_model",
            json!(applicant.tpm.model),
            "by the EK certificate",
        ),
        (
            "ak",
            json!(hex::encode(applicant.ak.name().as_bytes())),
            "checked: opened your secret beside this EK",
        ),
        (
            "tpm_firmware",
            json!(observed.tpm_firmware),
            "signed by the AK",
        ),
        ("firmware", json!(observed.firmware), "DMI's word"),
        (
            "chassis_serial",
            json!(node.chassis_serial),
            "DMI's word: compare it with the machine",
        ),
        (
            "devices",
            json!(node.devices),
            "NVML's word: compare them with the machine",
        ),
        ("epoch", json!(node.epoch), "acknowledged by signing"),
        ("place", json!(node.place), "yours"),
        ("jurisdiction", json!(node.jurisdiction.as_str()), "yours"),
        (
            "addresses",
            json!(
                node.addresses
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            ),
            "yours",
        ),
        (
            "replaces",
            json!(node.replaces.map(|ek| ek.to_string())),
            "yours",
        ),
    ];
    if output == Format::Json {
        let object: serde_json::Map<String, Value> = facts
            .into_iter()
            .map(|(name, value, _)| (name.to_owned(), value))
            .collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&object)?));
    }
    Listing {
        columns: &["what", "is", "whose word"],
        rows: facts
            .into_iter()
            .map(|(what, is, word)| json!({"what": what, "is": is, "whose word": word}))
            .collect(),
    }
    .print(output)
}

fn ask() -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    ensure!(
        stdin.is_terminal(),
        "nobody to ask whether this is the machine you mean; say --yes"
    );
    eprint!("Is this the machine you mean? Type yes: ");
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("stdin")?;
    ensure!(line.trim() == "yes", "not approved");
    Ok(())
}

/// `ssh-keygen -Y sign`: a private key, an agent or a hardware key, as it finds them.
fn sign(key: &Path, namespace: &str, message: &str) -> anyhow::Result<String> {
    let mut child = Process::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("ssh-keygen (package openssh-client)")?;
    let mut stdin = child.stdin.take().context("ssh-keygen takes no input")?;
    stdin.write_all(message.as_bytes()).context("ssh-keygen")?;
    drop(stdin);
    let output = child.wait_with_output().context("ssh-keygen")?;
    ensure!(output.status.success(), "ssh-keygen did not sign");
    String::from_utf8(output.stdout).context("ssh-keygen's signature")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
