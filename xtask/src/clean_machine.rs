//! Proves that nothing has to be installed by hand: a fresh Debian 12 in a folder, with Rust and
//! nothing else, clones the repository and runs one command. "With Rust" includes what Rust itself
//! cannot do without: a C linker, and the certificates by which cargo knows its registry.
//!
//! The folder is made once by debootstrap and kept; each run writes to a layer above it that is
//! thrown away. Mounts are made in a mount namespace of the run's own, so that none is left.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{self, step};
use crate::{install, paths};

const SUITE: &str = "bookworm";
const WITH_RUST: &str = "--include=gcc,libc6-dev,ca-certificates";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to run there, as the only command
    #[arg(trailing_var_arg = true, default_values = ["cargo", "xtask", "build"])]
    command: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("not root: debootstrap and chroot need it");
    }
    install::for_clean_machine()?;
    let home = paths::target().join("clean-machine");
    let base = base(&home)?;
    let layer = home.join(format!("run-{}", std::process::id()));
    for dir in ["upper", "work", "root"] {
        fs::create_dir_all(layer.join(dir)).with_context(|| format!("make {}", layer.display()))?;
    }
    let rust = cmd::output(cmd::command("rustc").args(["--print", "sysroot"]))?;
    step(format_args!(
        "on a fresh {SUITE}: {}",
        args.command.join(" ")
    ));
    let outcome = cmd::run(
        cmd::command("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "/bin/sh",
                "-euc",
                SCRIPT,
                "sh",
            ])
            .args([
                base.as_path(),
                &layer,
                Path::new(rust.trim()),
                paths::root(),
            ])
            .args(&args.command),
    );
    fs::remove_dir_all(&layer).with_context(|| format!("remove {}", layer.display()))?;
    outcome?;
    cmd::result(format_args!(
        "{}: passed on a fresh {SUITE}",
        args.command.join(" ")
    ))
}

/// base, layer, Rust, repository, then the command. Only what is committed is cloned.
const SCRIPT: &str = r#"
base=$1 layer=$2 rust=$3 repository=$4
shift 4
root=$layer/root
mount -t overlay overlay -o "lowerdir=$base,upperdir=$layer/upper,workdir=$layer/work" "$root"
git clone --quiet --no-hardlinks "$repository" "$root/root/bailiwick"
mkdir -p "$root/opt/rust"
mount --bind "$rust" "$root/opt/rust"
mount -o remount,bind,ro "$root/opt/rust"
for dir in proc sys dev; do mount --rbind /$dir "$root/$dir"; done
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
# How this machine reaches the network, and whom it trusts there.
for file in /etc/resolv.conf /etc/ssl/certs/ca-certificates.crt; do
    cp --dereference $file "$root$file"
done
exec env -i HOME=/root LANG=C.UTF-8 PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    chroot "$root" /bin/sh -c 'cd /root/bailiwick && exec "$@"' sh "$@"
"#;

/// Debian as debootstrap leaves it, from the machine's own mirror, with the updates a fresh
/// installation would have in its sources.
fn base(home: &Path) -> Result<std::path::PathBuf> {
    let base = home.join("base");
    if base.join("made").exists() {
        return Ok(base);
    }
    let mirror = install::debian_mirror()?;
    step(format_args!("making a fresh {SUITE} (a minute or two)"));
    if base.exists() {
        fs::remove_dir_all(&base).with_context(|| format!("clear {}", base.display()))?;
    }
    fs::create_dir_all(home).with_context(|| format!("make {}", home.display()))?;
    cmd::run(
        cmd::command("debootstrap")
            .args(["--variant=minbase", WITH_RUST, SUITE])
            .arg(&base)
            .arg(&mirror),
    )?;
    let sources = format!("deb {mirror} {SUITE} main\ndeb {mirror} {SUITE}-updates main\n");
    fs::write(base.join("etc/apt/sources.list"), sources).context("write the apt sources")?;
    fs::write(base.join("made"), "").context("mark the base as whole")?;
    Ok(base)
}
