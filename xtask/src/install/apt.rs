//! System packages, as root or through sudo; otherwise the one command to run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{self, step};

/// A package, how to see that what it brings is there, and what it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    name: &'static str,
    seen: Seen,
    why: &'static str,
}

/// A tool that somebody installed without the package manager is as good as a package.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Program(&'static str),
    PkgConfig(&'static str),
    File(&'static str),
}

const fn program(name: &'static str, seen: &'static str, why: &'static str) -> Package {
    Package {
        name,
        seen: Seen::Program(seen),
        why,
    }
}

/// Compiling. pkg-config comes before what is looked up with it.
pub(crate) const BUILD: &[Package] = &[
    program(
        "build-essential",
        "g++",
        "C parts of the cryptography and of SQLite",
    ),
    program("pkg-config", "pkg-config", "finds the TPM libraries"),
    program("protobuf-compiler", "protoc", "compiles the wire contract"),
    Package {
        name: "libtss2-dev",
        seen: Seen::PkgConfig("tss2-sys tss2-esys tss2-tctildr tss2-mu"),
        why: "the agent speaks to the TPM through it",
    },
    Package {
        name: "ca-certificates",
        seen: Seen::File("/etc/ssl/certs/ca-certificates.crt"),
        why: "cargo fetches crates over TLS",
    },
];

/// Running the spine on real parts.
pub(crate) const RUN: &[Package] = &[
    program("swtpm", "swtpm", "the software TPM"),
    program(
        "swtpm-tools",
        "swtpm_setup",
        "manufactures the software TPM's EK certificate",
    ),
    program(
        "tpm2-tools",
        "tpm2_pcrextend",
        "tampers behind the agent's back",
    ),
    program("iproute2", "ip", "network namespaces and their links"),
    program("openssh-client", "ssh-keygen", "approvers sign with it"),
    program(
        "prometheus-alertmanager",
        "prometheus-alertmanager",
        "receives the alerts",
    ),
];

/// Only the tests ask for these.
pub(crate) const TEST: &[Package] = &[program(
    "systemd",
    "systemd-analyze",
    "checks the units in deploy/systemd",
)];

/// Virtual machines, and what their disks are made with.
pub(crate) const VM: &[Package] = &[
    program(
        "qemu-system-x86",
        "qemu-system-x86_64",
        "runs virtual machines, without help from the processor",
    ),
    Package {
        name: "ovmf",
        seen: Seen::File("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
        why: "their firmware, with Secure Boot",
    },
    program("mtools", "mcopy", "fills a boot disk without mounting it"),
    program("dosfstools", "mkfs.fat", "makes that disk"),
    program("e2fsprogs", "mke2fs", "makes a root disk from a folder"),
    program("cpio", "cpio", "packs an initial ramdisk"),
    program("kmod", "depmod", "says which module needs which"),
    program("xz-utils", "xz", "unpacks modules"),
    program(
        "binutils",
        "strip",
        "takes debug information out of programs",
    ),
    program(
        "wireguard-tools",
        "wg",
        "gives the ends of a tunnel inside their keys",
    ),
    program(
        "ibverbs-utils",
        "ibv_rc_pingpong",
        "sends by RDMA inside, over a card in software",
    ),
    Package {
        name: "ibverbs-providers",
        seen: Seen::File(SOFT_ROCE),
        why: "that card's driver",
    },
];

/// What tells libibverbs of the card in software.
pub(crate) const SOFT_ROCE: &str = "/etc/libibverbs.d/rxe.driver";

/// Only the measurements ask for these.
pub(crate) const BENCH: &[Package] = &[
    Package {
        name: "tor-geoipdb",
        seen: Seen::File("/usr/share/tor/geoip"),
        why: "a whole world of real prefixes",
    },
    program("nftables", "nft", "what the fence is measured against"),
];

/// A fresh Debian in a folder.
pub(crate) const CLEAN_MACHINE: &[Package] = &[
    program(
        "debootstrap",
        "debootstrap",
        "makes a fresh Debian in a folder",
    ),
    program("git", "git", "clones"),
];

/// Installs the packages among `wanted` whose content is not on the machine.
pub(crate) fn ensure(wanted: &[Package]) -> Result<()> {
    let missing: Vec<Package> = wanted
        .iter()
        .copied()
        .filter(|package| !package.is_here())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing
        .iter()
        .map(|package| package.name)
        .collect::<Vec<_>>()
        .join(" ");
    if cmd::find("apt-get").is_none() {
        bail!("no apt-get on this machine; install what these Debian packages hold: {names}");
    }
    let Some(mut root) = as_root() else {
        bail!(
            "neither root nor sudo without a password; run this, then try again:\n  {}",
            by_hand(&names)
        );
    };
    for package in &missing {
        step(format_args!("installing {}: {}", package.name, package.why));
    }
    // The lists are fetched only where they are missing or too old to find the packages by.
    let known = missing.iter().all(Package::has_candidate);
    cmd::run(
        root.args([
            "/bin/sh",
            "-c",
            SCRIPT,
            "xtask",
            if known { "" } else { "update" },
        ])
        .args(names.split(' ')),
    )
    .with_context(|| format!("install {names}"))?;
    if let Some(absent) = missing.iter().find(|package| !package.is_here()) {
        bail!(
            "{} is installed, and {:?} still not found",
            absent.name,
            absent.seen
        );
    }
    Ok(())
}

/// Installs "$@" with every service told not to start: a demo needs the program, and nobody asked
/// for a daemon of the machine. A `policy-rc.d` that is there already is left alone.
const SCRIPT: &str = r#"
set -e
export DEBIAN_FRONTEND=noninteractive
update=$1; shift
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' INT TERM
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
wait_for_lock="-o DPkg::Lock::Timeout=300"
if [ -n "$update" ]; then apt-get $wait_for_lock -qq update; fi
apt-get $wait_for_lock -qq -y --no-install-recommends install "$@" || {
    # Lists that are older than the mirror name files it no longer has.
    apt-get $wait_for_lock -qq update
    apt-get $wait_for_lock -qq -y --no-install-recommends install "$@"
}
"#;

/// The same, as one line a person with the right to can type.
fn by_hand(names: &str) -> String {
    format!(
        "sudo sh -c 'apt-get update && RUNLEVEL=1 apt-get install -y --no-install-recommends {names}'"
    )
}

/// What to put before a command that only root may run.
fn as_root() -> Option<Command> {
    if rustix::process::geteuid().is_root() {
        let mut env = cmd::command("env");
        env.arg("--");
        return Some(env);
    }
    cmd::find("sudo")?;
    cmd::output(cmd::command("sudo").args(["-n", "true"])).ok()?;
    let mut sudo = cmd::command("sudo");
    sudo.args(["-n", "--"]);
    Some(sudo)
}

impl Package {
    fn is_here(&self) -> bool {
        match self.seen {
            Seen::Program(name) => cmd::find(name).is_some(),
            Seen::File(path) => Path::new(path).exists(),
            Seen::PkgConfig(modules) => {
                cmd::find("pkg-config").is_some()
                    && cmd::output(
                        cmd::command("pkg-config")
                            .arg("--exists")
                            .args(modules.split(' ')),
                    )
                    .is_ok()
            }
        }
    }

    fn has_candidate(&self) -> bool {
        cmd::output(
            cmd::command("apt-cache")
                .args(["policy", self.name])
                .env("LC_ALL", "C"),
        )
        .is_ok_and(|text| text.contains("Candidate: ") && !text.contains("Candidate: (none)"))
    }
}
