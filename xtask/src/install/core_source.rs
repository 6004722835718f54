//! The source of `core`, which the kernel side is compiled with.
//!
//! rustup first; where it cannot download, the distribution's `rust-src` of the very version of
//! the running compiler, unpacked below `target/`. Nothing here writes to the compiler's folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{self, step};
use crate::paths;

/// Debian suites that carry newer compilers than the release, newest last.
const SUITES: &[&str] = &[
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "forky",
    "sid",
];

/// A download that has not moved by then will not.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(90);

/// Makes sure the source is there. `Some`: the `library` folder to pass to cargo, because it is
/// not where the compiler itself would look.
pub(crate) fn core_source() -> Result<Option<PathBuf>> {
    let sysroot =
        PathBuf::from(cmd::output(cmd::command("rustc").args(["--print", "sysroot"]))?.trim());
    let in_sysroot = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if in_sysroot.exists() {
        return Ok(None);
    }
    let version = compiler_version()?;
    let library = paths::target()
        .join("rust-src")
        .join(&version)
        .join("library");
    if library.join("core/src/lib.rs").exists() {
        return Ok(Some(library));
    }
    step(format_args!(
        "fetching the source of core {version}: the kernel side is compiled with it"
    ));
    if cmd::find("rustup").is_some()
        && cmd::run_within(
            cmd::command("rustup")
                .args(["component", "add", "rust-src"])
                .env("RUSTUP_MAX_RETRIES", "1")
                .stderr(Stdio::null()),
            RUSTUP_PATIENCE,
        )?
        && in_sysroot.exists()
    {
        return Ok(None);
    }
    step("rustup could not bring it; asking the distribution for the same version");
    from_distribution(&version, &library)?;
    Ok(Some(library))
}

/// `1.95.0`, from the compiler itself.
fn compiler_version() -> Result<String> {
    let text = cmd::output(cmd::command("rustc").arg("-vV"))?;
    let release = text.lines().find_map(|line| line.strip_prefix("release: "));
    Ok(release
        .context("rustc -vV names no release")?
        .trim()
        .to_owned())
}

/// Asks the machine's own mirror, through a private apt configuration, suite by suite.
fn from_distribution(version: &str, library: &Path) -> Result<()> {
    let home = paths::target().join("apt");
    for dir in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(home.join(dir)).with_context(|| format!("create {}", home.display()))?;
    }
    let mirrors = mirrors();
    if mirrors.is_empty() {
        bail!("no Debian mirror with its keyring stands in this machine's apt sources");
    }
    for suite in SUITES.iter().rev() {
        for mirror in &mirrors {
            let Some(package) = find_package(&home, mirror, suite, version)? else {
                continue;
            };
            step(format_args!("{package} from {suite}"));
            let deb = download(&home, &package)?;
            return unpack(&deb, version, library);
        }
    }
    bail!(
        "no suite of this machine's mirrors has rust-src {version}; `rustup component add rust-src` would do"
    )
}

/// A mirror and the keyring its signatures are checked with.
#[derive(Debug, Eq, PartialEq)]
struct Mirror {
    uri: String,
    keyring: Option<String>,
}

/// The first of them.
pub(crate) fn debian_mirror() -> Result<String> {
    let first = mirrors().into_iter().next();
    Ok(first
        .context("no Debian mirror stands in this machine's apt sources")?
        .uri)
}

/// The Debian mirrors this machine already trusts, in either of apt's two notations.
fn mirrors() -> Vec<Mirror> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.flatten().map(|entry| entry.path()));
    }
    let mut found = Vec::new();
    for text in files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
    {
        found.extend(mirrors_in(&text));
    }
    found.dedup();
    found
}

fn mirrors_in(text: &str) -> Vec<Mirror> {
    let mut found = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
        };
        if let Some(uris) = field("URIs:") {
            found.extend(uris.split_whitespace().map(|uri| Mirror {
                uri: uri.to_owned(),
                keyring: field("Signed-By:").filter(|path| path.starts_with('/')),
            }));
        }
        for line in stanza.lines().filter_map(|line| line.strip_prefix("deb ")) {
            let (options, rest) = match line
                .trim_start()
                .strip_prefix('[')
                .and_then(|l| l.split_once(']'))
            {
                Some((options, rest)) => (options, rest),
                None => ("", line),
            };
            let keyring = options
                .split_whitespace()
                .find_map(|o| o.strip_prefix("signed-by="));
            found.extend(rest.split_whitespace().next().map(|uri| Mirror {
                uri: uri.to_owned(),
                keyring: keyring.map(str::to_owned),
            }));
        }
    }
    // The security archive and third parties have no backports.
    found.retain(|mirror| mirror.uri.trim_end_matches('/').ends_with("/debian"));
    found
}

/// `rust-src=VERSION` if the suite has it.
fn find_package(
    home: &Path,
    mirror: &Mirror,
    suite: &str,
    version: &str,
) -> Result<Option<String>> {
    let default = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let keyring = mirror.keyring.as_deref().unwrap_or(default);
    let line = format!("deb [signed-by={keyring}] {} {suite} main\n", mirror.uri);
    fs::write(home.join("sources.list"), line).context("write the private apt source")?;
    if !cmd::run_within(
        apt(home, "apt-get").args(["-qq", "update"]),
        Duration::from_secs(120),
    )? {
        return Ok(None);
    }
    let listed = cmd::output(apt(home, "apt-cache").args(["madison", "rust-src"]))?;
    let wanted = listed
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|found| found.split(['+', '-', '~']).next() == Some(version));
    Ok(wanted.map(|found| format!("rust-src={found}")))
}

fn download(home: &Path, package: &str) -> Result<PathBuf> {
    // `download` writes to the current folder, and runs as `_apt` only where that user may write.
    cmd::run(
        apt(home, "apt-get")
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(home.join("cache")),
    )?;
    let dir = fs::read_dir(home.join("cache")).context("list the downloaded package")?;
    dir.flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ext| ext == "deb"))
        .context("apt-get download left no package")
}

/// Unpacks into a folder beside, and renames: a half-unpacked tree is never taken for a whole one.
fn unpack(deb: &Path, version: &str, library: &Path) -> Result<()> {
    let dir = paths::target().join("rust-src");
    let scratch = dir.join(format!("unpacking-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    cmd::run(cmd::command("dpkg").arg("-x").arg(deb).arg(&scratch))?;
    let unpacked = scratch.join("usr/src").join(format!("rustc-{version}"));
    if !unpacked.join("library/core/src/lib.rs").exists() {
        bail!("{} holds no library of {version}", deb.display());
    }
    let home = library
        .parent()
        .context("the library folder has a parent")?;
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| format!("clear {}", home.display()))?;
    }
    fs::create_dir_all(home).with_context(|| format!("create {}", home.display()))?;
    fs::rename(unpacked.join("library"), library).context("put the source in place")?;
    fs::remove_dir_all(&scratch).context("clear the unpacking folder")?;
    fs::remove_file(deb).context("remove the downloaded package")
}

/// apt with a configuration, lists and cache of its own: the machine's stay as they are.
fn apt(home: &Path, program: &str) -> Command {
    let mut apt = cmd::command(program);
    let place = |key: &str, value: &Path| format!("{key}={}", value.display());
    for option in [
        place("Dir::Etc::SourceList", &home.join("sources.list")),
        place("Dir::Etc::SourceParts", Path::new("/dev/null")),
        place("Dir::State::Lists", &home.join("lists")),
        place("Dir::State::Status", Path::new("/dev/null")),
        place("Dir::Cache", &home.join("cache")),
    ] {
        apt.args(["-o", &option]);
    }
    apt.env("LC_ALL", "C");
    apt
}

#[cfg(test)]
mod tests {
    use super::{Mirror, mirrors_in};

    #[test]
    fn mirrors_are_read_from_both_notations() {
        let own = |keyring: Option<&str>| Mirror {
            uri: "http://mirror.example/debian".into(),
            keyring: keyring.map(Into::into),
        };
        let cases = [
            (
                "deb822",
                "Types: deb\nURIs: http://mirror.example/debian\nSigned-By: /k.gpg\n",
                vec![own(Some("/k.gpg"))],
            ),
            (
                "one line",
                "deb http://mirror.example/debian bookworm main\n",
                vec![own(None)],
            ),
            (
                "one line with options",
                "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main\n",
                vec![own(Some("/k.gpg"))],
            ),
            (
                "source packages",
                "deb-src http://mirror.example/debian bookworm main\n",
                vec![],
            ),
            (
                "commented out",
                "# deb http://mirror.example/debian bookworm main\n",
                vec![],
            ),
            (
                "security archive",
                "deb http://mirror.example/debian-security x main\n",
                vec![],
            ),
        ];
        for (name, text, want) in cases {
            assert_eq!(mirrors_in(text), want, "{name}");
        }
    }
}
