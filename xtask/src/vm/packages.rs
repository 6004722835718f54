//! What virtual machines are made of: Debian's own signed boot chain and kernels, unpacked.
//!
//! Packages come through apt from the mirror of the machine's own sources and are unpacked with
//! `dpkg -x` below `target/vm`: nothing is installed, no hook runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::cmd::{self, step};
use crate::{install, paths};

/// Kernels that are tried: the distribution's own, and the one from its backports.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backports
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// Its series.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    const fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "bookworm-backports",
        }
    }
}

/// One kernel with its modules, and what boots it.
#[derive(Clone, Debug)]
pub(super) struct Stack {
    /// `6.1.0-50-amd64`
    pub(super) release: String,
    /// The signed image.
    pub(super) kernel: PathBuf,
    /// `lib/modules/RELEASE`, with `modules.dep`.
    pub(super) modules: PathBuf,
    pub(super) shim: PathBuf,
    pub(super) grub: PathBuf,
    pub(super) busybox: PathBuf,
}

/// Fetches and unpacks what is not there yet.
pub(super) fn stack(kernel: Kernel) -> Result<Stack> {
    let home = paths::target().join("vm/debian");
    let tools = home.join("tools");
    fetch("bookworm", &tools, || {
        Ok(["shim-signed", "grub-efi-amd64-signed", "busybox-static"]
            .map(str::to_owned)
            .to_vec())
    })?;
    let unpacked = home.join(kernel.name());
    let apt = apt_home();
    fetch(kernel.suite(), &unpacked, || {
        kernel_package(&apt).map(|name| vec![name])
    })?;
    let modules = only_folder(&unpacked.join("lib/modules"))?;
    let release = modules
        .file_name()
        .and_then(|name| name.to_str())
        .context("a kernel release is text")?
        .to_owned();
    if !modules.join("modules.dep").exists() {
        cmd::run(
            cmd::command("depmod")
                .arg("-b")
                .arg(&unpacked)
                .arg(&release),
        )?;
    }
    Ok(Stack {
        kernel: unpacked.join("boot").join(format!("vmlinuz-{release}")),
        release,
        modules,
        shim: tools.join("usr/lib/shim/shimx64.efi.signed"),
        grub: tools.join("usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"),
        busybox: tools.join("bin/busybox"),
    })
}

/// The shim of the release before: signed, and it boots.
pub(super) fn older_shim() -> Result<PathBuf> {
    let unpacked = paths::target().join("vm/debian/older");
    fetch("bullseye", &unpacked, || Ok(vec!["shim-signed".to_owned()]))?;
    Ok(unpacked.join("usr/lib/shim/shimx64.efi.signed"))
}

fn apt_home() -> PathBuf {
    paths::target().join("vm/apt")
}

/// Unpacks packages of a suite into `into`, once: `made` names them, and is written last.
fn fetch(suite: &str, into: &Path, packages: impl Fn() -> Result<Vec<String>>) -> Result<()> {
    // Both lanes may want the same, and apt has one user at a time.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if into.join("made").exists() {
        return Ok(());
    }
    let home = apt_home();
    for dir in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(home.join(dir)).with_context(|| format!("make {}", home.display()))?;
    }
    let mirrors = install::mirrors();
    let mut trouble = anyhow::anyhow!("no Debian mirror stands in this machine's apt sources");
    for mirror in &mirrors {
        fs::write(home.join("sources.list"), mirror.source(suite)).context("write a source")?;
        let tried = cmd::run(install::apt(&home, "apt-get").args(["-qq", "update"]))
            .and_then(|()| packages())
            .and_then(|packages| unpack(&home, suite, &packages, into));
        match tried {
            Ok(()) => return Ok(()),
            Err(error) => trouble = error,
        }
    }
    Err(trouble).with_context(|| format!("fetch packages of {suite}"))
}

fn unpack(home: &Path, suite: &str, packages: &[String], into: &Path) -> Result<()> {
    step(format_args!("fetching {} of {suite}", packages.join(", ")));
    let scratch = into.with_extension(format!("new-{}", std::process::id()));
    let debs = scratch.join("debs");
    fs::create_dir_all(&debs).with_context(|| format!("make {}", debs.display()))?;
    // `download` writes to the current folder, and runs as `_apt` only where that user may write.
    cmd::run(
        install::apt(home, "apt-get")
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
            .args(packages)
            .current_dir(&debs),
    )?;
    let mut made = String::new();
    for deb in fs::read_dir(&debs).context("list the packages")?.flatten() {
        made += &format!("{}\n", deb.file_name().to_string_lossy());
        cmd::run(cmd::command("dpkg").arg("-x").arg(deb.path()).arg(&scratch))?;
    }
    fs::remove_dir_all(&debs).context("remove the packages")?;
    if into.exists() {
        fs::remove_dir_all(into).with_context(|| format!("clear {}", into.display()))?;
    }
    fs::write(scratch.join("made"), made).context("note what was unpacked")?;
    fs::rename(&scratch, into).with_context(|| format!("make {}", into.display()))
}

/// The metapackage depends on the newest kernel of its suite, and on nothing else.
fn kernel_package(home: &Path) -> Result<String> {
    let text = cmd::output(install::apt(home, "apt-cache").args([
        "show",
        "--no-all-versions",
        "linux-image-amd64",
    ]))?;
    kernel_in(&text).context("linux-image-amd64 names no kernel")
}

fn kernel_in(text: &str) -> Option<String> {
    let depends = text
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))?;
    let mut names = depends
        .split(',')
        .filter_map(|one| one.split_whitespace().next());
    names
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
}

fn only_folder(home: &Path) -> Result<PathBuf> {
    let mut all = fs::read_dir(home)
        .with_context(|| format!("list {}", home.display()))?
        .flatten();
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one.path()),
        _ => bail!("{} should hold one kernel's modules", home.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::kernel_in;

    #[test]
    fn the_metapackage_names_its_kernel() {
        let cases = [
            (
                "Package: linux-image-amd64\nDepends: linux-image-6.1.0-50-amd64 (= 6.1.176-1)\n",
                Some("linux-image-6.1.0-50-amd64"),
            ),
            (
                "Depends: initramfs-tools, linux-image-6.12.95+deb12-amd64 (= 6.12.95-1)\n",
                Some("linux-image-6.12.95+deb12-amd64"),
            ),
            ("Depends: linux-base\n", None),
            ("Recommends: linux-image-x\n", None),
            ("", None),
        ];
        for (text, want) in cases {
            assert_eq!(kernel_in(text).as_deref(), want, "{text}");
        }
    }
}
