//! `policy sign`: one command for whoever has a key, an agent, or a token to touch.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{self, Draft, Manifest};
use clap::ValueEnum;
use serde_json::json;

use super::folder::{self, known_files, read};
use crate::Exit;
use crate::format::{Format, Listing, parse_time};

/// Arguments of `policy sign`.
#[derive(Debug, clap::Args)]
#[command(disable_version_flag = true)] // here it means the manifest's
pub(super) struct Args {
    /// The folder.
    folder: PathBuf,
    /// As `ssh-keygen -Y sign -f` takes it: a private key, or a public one whose private half an
    /// agent or a token holds.
    #[arg(long)]
    key: PathBuf,
    /// Whose signature it is; names the file. Default: the key's file name.
    #[arg(long)]
    name: Option<String>,
    /// `next`: writes the manifest anew over the files as they are, one version on; signatures
    /// over the old one are removed. Without, the manifest that is there is signed as it is.
    #[arg(long, value_enum)]
    version: Option<Version>,
    /// What it is about. Default: as the manifest or the files say.
    #[arg(long)]
    kind: Option<String>,
    /// The installation; needed for the first manifest alone.
    #[arg(long)]
    deployment: Option<String>,
    /// Why it is made; with --version next.
    #[arg(long)]
    reason: Option<String>,
    /// When it ends: RFC 3339, or seconds since 1970; with --version next.
    #[arg(long, value_parser = parse_time)]
    not_after: Option<UnixTime>,
    /// How the result is printed.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Version {
    /// One more than the manifest that is there.
    Next,
}

/// Runs it.
pub(super) fn run(args: &Args) -> anyhow::Result<Exit> {
    let path = args.folder.join(manifest::MANIFEST);
    let before = match read(&path) {
        Ok(bytes) => Some(folder::parse(&path, &bytes)?),
        Err(_) if !path.exists() => None,
        Err(error) => return Err(error),
    };
    let kind = kind(args, before.as_ref())?;
    if args.version.is_some() {
        write_next(args, kind, before.as_ref())?;
    }
    let bytes = read(&path).context("there is no manifest yet: add --version next")?;
    let parsed = Manifest::parse(&bytes)?;
    if let Some(changed) = changed(&args.folder, &parsed)? {
        eprintln!(
            "bailiwick: {changed} is not as the manifest says: restore it, or make a new version \
             with --version next"
        );
        return Ok(Exit::Refused);
    }
    let file = sign(args, &path, &parsed)?;
    let row = json!({
        "kind": kind.as_str(),
        "version": parsed.version,
        "manifest": parsed.digest.to_string(),
        "namespace": kind.namespace(&parsed.deployment),
        "signature": file.display().to_string(),
        "signatures": folder::signatures(&args.folder)?.len(),
    });
    Listing {
        columns: &["kind", "version", "manifest", "signature", "signatures"],
        rows: vec![row],
    }
    .print(args.output)?;
    Ok(Exit::Good)
}

fn kind(args: &Args, before: Option<&Manifest>) -> anyhow::Result<Kind> {
    let asked = args.kind.as_deref().map(|word| {
        Kind::parse(word).with_context(|| format!("--kind: {word:?} is no kind of manifest"))
    });
    match (asked.transpose()?, before) {
        (Some(kind), Some(before)) if kind != before.kind => {
            bail!(
                "--kind: the manifest that is there is of kind {}",
                before.kind
            )
        }
        (Some(kind), _) => Ok(kind),
        (None, Some(before)) => Ok(before.kind),
        (None, None) => folder::kind_of(&args.folder),
    }
}

fn write_next(args: &Args, kind: Kind, before: Option<&Manifest>) -> anyhow::Result<()> {
    ensure!(
        kind != Kind::Approvers || before.is_some(),
        "the first change of approvers follows those the machines were installed with: \
         `bailiwick policy approvers rotate` writes it"
    );
    let reason = args
        .reason
        .as_deref()
        .context("--version next needs --reason")?;
    let not_after = args.not_after.context("--version next needs --not-after")?;
    let deployment = match (before, &args.deployment) {
        (Some(before), _) => before.deployment.clone(),
        (None, Some(name)) => DeploymentId::new(name)?,
        (None, None) => bail!("the first manifest needs --deployment"),
    };
    let draft = Draft {
        deployment: &deployment,
        kind,
        version: before.map_or(1, |before| before.version.saturating_add(1)),
        previous: before.map(|before| before.digest),
        not_after,
        reason,
    };
    write(&args.folder, &draft)
}

/// Writes a manifest over the files of a folder; signatures over another are removed.
pub(super) fn write(folder: &Path, draft: &Draft<'_>) -> anyhow::Result<()> {
    let text = manifest::compose(draft, &known_files(folder, draft.kind)?)?;
    for name in folder::signatures(folder)? {
        let path = folder.join(name);
        std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
    }
    let path = folder.join(manifest::MANIFEST);
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

/// A file that is missing or has another digest than the manifest says.
fn changed(folder: &Path, manifest: &Manifest) -> anyhow::Result<Option<String>> {
    for (path, want) in &manifest.files {
        let found = match std::fs::read(folder.join(path)) {
            Ok(content) => Some(Sha256Digest::of(&[&content])),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| path.clone()),
        };
        if found != Some(*want) {
            return Ok(Some(path.clone()));
        }
    }
    Ok(None)
}

/// `ssh-keygen` asks for passphrase, PIN or touch by itself.
fn sign(args: &Args, path: &Path, manifest: &Manifest) -> anyhow::Result<PathBuf> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            let stem = args.key.file_stem().context("--key names no file")?;
            stem.to_string_lossy().into_owned()
        }
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    ensure!(
        !name.is_empty() && name.chars().all(plain),
        "--name: {name:?} is no file name; letters, digits, '-', '_', '.' and '@'"
    );
    let made = args.folder.join(format!("{}.sig", manifest::MANIFEST));
    ensure!(
        !made.exists(),
        "{}: exists already; rename it first",
        made.display()
    );
    let status = Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n"])
        .arg(manifest.kind.namespace(&manifest.deployment))
        .arg("-f")
        .arg(&args.key)
        .arg(path)
        .status()
        .context("ssh-keygen (package openssh-client)")?;
    ensure!(status.success(), "ssh-keygen did not sign ({status})");
    let file = args
        .folder
        .join(format!("{}.{name}.sig", manifest::MANIFEST));
    std::fs::rename(&made, &file).with_context(|| file.display().to_string())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(folder: &Path, version: Option<Version>) -> Args {
        Args {
            folder: folder.to_owned(),
            key: folder.join("../alice"),
            name: None,
            version,
            kind: None,
            deployment: Some("demo".to_owned()),
            reason: Some("a test".to_owned()),
            not_after: Some(UnixTime::from_secs(4_000_000_000)),
            output: Format::Json,
        }
    }

    #[test]
    fn one_command_makes_the_next_version_and_signs_it() {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
            .arg(dir.path().join("alice"))
            .status()
            .unwrap();
        assert!(made.success());
        let folder = dir.path().join("world");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("world.csv"), "192.0.2.0/24,DE\n").unwrap();
        assert!(run(&args(&folder, None)).is_err(), "no manifest yet");
        assert_eq!(
            run(&args(&folder, Some(Version::Next))).unwrap(),
            Exit::Good
        );
        let manifest = || Manifest::parse(&read(&folder.join("manifest.toml")).unwrap()).unwrap();
        let first = manifest();
        assert_eq!((first.kind, first.version), (Kind::World, 1));
        assert_eq!(
            folder::signatures(&folder).unwrap(),
            ["manifest.toml.alice.sig"]
        );
        let bundle = folder::read_bundle(&folder).unwrap();
        let key = std::fs::read_to_string(dir.path().join("alice.pub")).unwrap();
        let approvers = bailiwick_policy::approvers::Approvers::parse(
            "a",
            format!("alice {key}").as_bytes(),
            1,
        );
        let terms = bailiwick_policy::bundle::Terms {
            approvers: &approvers.unwrap(),
            deployment: &DeploymentId::new("demo").unwrap(),
            now: UnixTime::from_secs(1_900_000_000),
            judged: bailiwick_policy::bundle::Judged::New(None),
            world: None,
        };
        bundle.verify_world(&terms).unwrap();

        std::fs::write(folder.join("world.csv"), "192.0.2.0/24,FR\n").unwrap();
        let refused = run(&args(&folder, None)).unwrap();
        assert_eq!(refused, Exit::Refused, "changed since");
        let mut next = args(&folder, Some(Version::Next));
        next.name = Some("alice@example.org".to_owned());
        assert_eq!(run(&next).unwrap(), Exit::Good);
        let second = manifest();
        assert_eq!((second.version, second.previous), (2, Some(first.digest)));
        assert_eq!(
            folder::signatures(&folder).unwrap(),
            ["manifest.toml.alice@example.org.sig"],
            "the old one is gone"
        );
        let mut other = args(&folder, None);
        other.kind = Some("policy".to_owned());
        assert!(run(&other).is_err(), "of another kind");
        other.kind = None;
        other.name = Some("../alice".to_owned());
        assert!(run(&other).is_err(), "no file name");
    }
}
