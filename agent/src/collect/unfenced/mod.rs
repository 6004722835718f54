//! Ways past the fence's hooks, as they are found on this host, and who holds each.
//!
//! RDMA, devices passed through, vsock and sockets that map their rings move bytes that no packet
//! hook sees; a container runtime's socket lets its holder start what is in no study. Everything
//! here is read from /proc and /sys, so it is what root lets them say. What is not seen: sockets in
//! a namespace that no process is in, and descriptors in flight inside a unix socket.

mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use bailiwick_ebpf_common::device::Device;

use crate::files::read_bounded;

/// Most ways told; more are counted by the last.
pub(crate) const WAYS: usize = 256;
/// Most entries of one folder.
const MAX_ENTRIES: usize = 4096;

/// One way past the hooks.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Way {
    /// A word for what it is.
    pub(crate) kind: &'static str,
    /// The kernel's name for this one.
    pub(crate) name: String,
    /// Paths of the cgroups of those who hold it; each process once.
    pub(crate) holders: Vec<String>,
}

/// All that one look found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Inventory {
    /// In the order of kind and name.
    pub(crate) ways: Vec<Way>,
    /// Something could not be looked at: what holds a way may be missing.
    pub(crate) partial: bool,
}

/// Something that a process may hold.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Held {
    /// A device, by number.
    Device(Device),
    /// A socket, by its inode.
    Socket(u64),
}

/// Looks at this host.
pub(crate) fn look(proc: &Path, sys: &Path) -> Inventory {
    let mut ways: BTreeMap<(&'static str, String), Option<Held>> = BTreeMap::new();
    let mut add = |kind, name: String, held| {
        ways.insert((kind, name), held);
    };
    for (name, node) in rdma(sys) {
        add("rdma", name, node.map(Held::Device));
    }
    for (name, group) in vfio(sys) {
        add("vfio", name, group.map(Held::Device));
    }
    for name in ["vsock", "vhost-vsock"] {
        let node = sys.join("class/misc").join(name);
        if node.exists() {
            add(
                "vsock",
                format!("/dev/{name}"),
                number(&node).map(Held::Device),
            );
        }
    }
    for transport in [
        "vmw_vsock_virtio_transport",
        "vmw_vsock_vmci_transport",
        "hv_sock",
        "vhost_vsock",
        "vsock_loopback",
    ] {
        if sys.join("module").join(transport).exists() {
            add("vsock", transport.to_owned(), None);
        }
    }
    let tun = sys.join("class/misc/tun");
    if tun.exists() {
        add(
            "tap",
            "/dev/net/tun".to_owned(),
            number(&tun).map(Held::Device),
        );
    }
    let wanted: BTreeSet<Held> = ways.values().flatten().copied().collect();
    let mut seen = walk::walk(proc, &wanted);
    let mut found: Vec<Way> = ways
        .into_iter()
        .map(|((kind, name), held)| Way {
            kind,
            name,
            holders: held
                .and_then(|held| seen.holders.remove(&held))
                .unwrap_or_default(),
        })
        .collect();
    found.append(&mut seen.ways);
    found.sort_unstable();
    let partial = seen.partial || found.len() > WAYS;
    found.truncate(WAYS);
    Inventory {
        ways: found,
        partial,
    }
}

/// RDMA devices, and the number of the node that opens each.
fn rdma(sys: &Path) -> Vec<(String, Option<Device>)> {
    let verbs = sys.join("class/infiniband_verbs");
    let nodes: BTreeMap<String, Option<Device>> = entries(&verbs)
        .into_iter()
        .filter_map(|node| {
            let at = verbs.join(node);
            Some((line(&at.join("ibdev"))?, number(&at)))
        })
        .collect();
    let devices = entries(&sys.join("class/infiniband")).into_iter();
    devices
        .map(|name| {
            let node = nodes.get(&name).copied().flatten();
            (name, node)
        })
        .collect()
}

/// PCI devices bound to VFIO, and the number of the group that opens each.
fn vfio(sys: &Path) -> Vec<(String, Option<Device>)> {
    let driver = sys.join("bus/pci/drivers/vfio-pci");
    let bound = entries(&driver).into_iter();
    bound
        .filter(|name| name.contains(':'))
        .map(|name| {
            let group = fs::read_link(driver.join(&name).join("iommu_group")).ok();
            let group =
                group.and_then(|group| number(&sys.join("class/vfio").join(group.file_name()?)));
            (name, group)
        })
        .collect()
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .take(MAX_ENTRIES)
        .collect()
}

fn line(file: &Path) -> Option<String> {
    let bytes = read_bounded(file, 4096).ok()?;
    Some(String::from_utf8(bytes).ok()?.trim_end().to_owned())
}

/// `NODE/dev`: `231:192`.
fn number(node: &Path) -> Option<Device> {
    let text = line(&node.join("dev"))?;
    let (major, minor) = text.split_once(':')?;
    Some(Device {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
    })
}

#[cfg(test)]
mod tests;
