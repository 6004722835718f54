//! What no package brings: rights and kernel features. Named before anything starts.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::cmd;

/// Fails with every reason at once why this machine cannot run namespaces, cgroups and BPF.
pub(crate) fn for_demo() -> Result<()> {
    let mut lacks = Vec::new();
    if !rustix::process::geteuid().is_root() {
        lacks.push("not root: cgroups, network namespaces and BPF programs are made (use sudo)");
    }
    match cgroup2_mount() {
        Err(_) => lacks.push("no cgroup v2 hierarchy is mounted (mount -t cgroup2 none DIR)"),
        Ok(mount)
            if rustix::fs::statvfs(&mount)
                .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)) =>
        {
            lacks.push("the cgroup v2 hierarchy is read-only");
        }
        Ok(_) => {}
    }
    if fs::metadata("/proc/self/ns/net").is_err() {
        lacks.push("the kernel has no network namespaces");
    }
    if fs::metadata("/sys/fs/bpf").is_err() {
        lacks.push("the kernel has no BPF (no /sys/fs/bpf)");
    }
    if lacks.is_empty() && may_unshare().is_err() {
        lacks
            .push("this root may not make network namespaces (a container without CAP_SYS_ADMIN?)");
    }
    if lacks.is_empty() {
        return Ok(());
    }
    bail!("this machine cannot run it:\n  - {}", lacks.join("\n  - "))
}

fn may_unshare() -> Result<String> {
    cmd::output(cmd::command("unshare").args(["--net", "--mount", "true"]))
}

/// Where cgroup v2 is mounted, which may be beside v1.
pub(crate) fn cgroup2_mount() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").context("read the mount table")?;
    table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find_map(|fields| match fields.as_slice() {
            [_, place, "cgroup2", ..] => Some(PathBuf::from(place)),
            _ => None,
        })
        .context("no cgroup2 in the mount table")
}
