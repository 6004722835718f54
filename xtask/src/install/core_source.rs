//! The source of `core`, which the kernel side is compiled with.
//!
//! rustup first; where it cannot download, the distribution's `rust-src` of the very version of
//! the running compiler, unpacked below `target/`. Nothing here writes to the compiler's folders.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::mirror::{Mirror, apt, mirrors};
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

/// `rust-src=VERSION` if the suite has it.
fn find_package(
    home: &Path,
    mirror: &Mirror,
    suite: &str,
    version: &str,
) -> Result<Option<String>> {
    fs::write(home.join("sources.list"), mirror.source(suite))
        .context("write the private apt source")?;
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
