//! One walk over all processes: namespaces, sockets, mappings, mounts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use bailiwick_ebpf_common::device::Device;
use rustix::fs::{major, minor};

use super::{Held, Way};
use crate::files::read_bounded;

/// Most descriptors looked at.
const LOOKS: usize = 1 << 20;
/// Longest table of sockets, mappings or mounts.
const MAX_TABLE: usize = 16 << 20;

/// Sockets of container runtimes: whoever reaches one starts processes wherever it likes.
const RUNTIMES: [&str; 6] = [
    "docker.sock",
    "containerd.sock",
    "crio.sock",
    "podman.sock",
    "cri-dockerd.sock",
    "buildkitd.sock",
];

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Cgroups of the processes that hold something.
    pub(super) holders: BTreeMap<Held, Vec<String>>,
    /// Ways found on the walk.
    pub(super) ways: Vec<Way>,
    pub(super) partial: bool,
}

/// Looks for whoever holds what is `wanted`, for `AF_PACKET` sockets in every network namespace,
/// for sockets with mapped rings, and for container runtimes' sockets mounted elsewhere.
pub(super) fn walk(proc: &Path, wanted: &BTreeSet<Held>) -> Seen {
    let mut seen = Seen::default();
    let processes = processes(proc, &mut seen);
    let first = namespace(&proc.join("1"), "net");
    let mut packets: BTreeMap<u64, bool> = BTreeMap::new();
    let mut networks = BTreeSet::new();
    let mut mounts: BTreeMap<Option<u64>, BTreeSet<&'static str>> = BTreeMap::new();
    for pid in &processes {
        let process = proc.join(pid.to_string());
        let network = namespace(&process, "net");
        if networks.insert(network) {
            for inode in packet_sockets(&table(&process, "net/packet", &mut seen.partial)) {
                packets.insert(inode, network == first);
            }
        }
        mounts
            .entry(namespace(&process, "mnt"))
            .or_insert_with(|| runtimes(&table(&process, "mountinfo", &mut seen.partial)));
    }
    let mut wanted = wanted.clone();
    wanted.extend(packets.keys().map(|inode| Held::Socket(*inode)));
    let mut left = LOOKS;
    let mut mapped: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut shared: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for pid in &processes {
        let process = proc.join(pid.to_string());
        let mut held = BTreeSet::new();
        descriptors(&process, &wanted, &mut left, &mut held, &mut seen.partial);
        let rings = mapped_sockets(&table(&process, "maps", &mut seen.partial));
        let runtimes = mounts.get(&namespace(&process, "mnt"));
        let runtimes =
            runtimes.filter(|_| namespace(&process, "mnt") != namespace(&proc.join("1"), "mnt"));
        if held.is_empty() && rings.is_empty() && runtimes.is_none_or(BTreeSet::is_empty) {
            continue;
        }
        let cgroup = crate::fence::cgroup_of(&process).unwrap_or_default();
        for held in held {
            seen.holders.entry(held).or_default().push(cgroup.clone());
        }
        for inode in rings
            .into_iter()
            .filter(|inode| !packets.contains_key(inode))
        {
            mapped.entry(inode).or_default().push(cgroup.clone());
        }
        for runtime in runtimes.into_iter().flatten() {
            shared.entry(runtime).or_default().push(cgroup.clone());
        }
    }
    seen.partial |= left == 0;
    for (inode, in_first) in packets {
        let place = if in_first {
            ""
        } else {
            " in another namespace"
        };
        seen.ways.push(Way {
            kind: "packet-socket",
            name: format!("socket {inode}{place}"),
            holders: seen
                .holders
                .remove(&Held::Socket(inode))
                .unwrap_or_default(),
        });
    }
    // AF_XDP sockets cannot be used without mapped rings; AF_PACKET's were told above.
    let mapped = mapped.into_iter();
    seen.ways.extend(mapped.map(|(inode, holders)| Way {
        kind: "mapped-socket",
        name: format!("socket {inode}"),
        holders,
    }));
    let shared = shared.into_iter();
    seen.ways.extend(shared.map(|(runtime, holders)| Way {
        kind: "container-socket",
        name: runtime.to_owned(),
        holders,
    }));
    seen
}

fn processes(proc: &Path, seen: &mut Seen) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(proc) else {
        seen.partial = true;
        return Vec::new();
    };
    let entries = entries.flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// A namespace's number.
fn namespace(process: &Path, kind: &str) -> Option<u64> {
    let link = fs::metadata(process.join("ns").join(kind)).ok()?;
    Some(link.ino())
}

/// A file of a process; a process that is gone has none.
fn table(process: &Path, name: &str, partial: &mut bool) -> String {
    match read_bounded(&process.join(name), MAX_TABLE) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(err) => {
            *partial |= !gone(&err);
            String::new()
        }
    }
}

fn gone(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::NotFound || err.raw_os_error() == Some(libc::ESRCH)
}

/// `/proc/net/packet`: a header, then a line per socket, the inode last.
fn packet_sockets(text: &str) -> Vec<u64> {
    let lines = text.lines().skip(1);
    lines
        .filter_map(|line| line.split_ascii_whitespace().nth(8)?.parse().ok())
        .collect()
}

/// Inodes of the sockets of which a process has mapped something: `… socket:[123]`.
fn mapped_sockets(text: &str) -> BTreeSet<u64> {
    let lines = text.lines();
    lines
        .filter_map(|line| {
            let (_, rest) = line.split_once("socket:[")?;
            rest.strip_suffix(']')?.parse().ok()
        })
        .collect()
}

/// Container runtimes' sockets in a mount table: a file mounted by itself is the root of its mount.
fn runtimes(text: &str) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        let named = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or("");
            RUNTIMES.into_iter().find(|runtime| *runtime == name)
        };
        found.extend(named(root).or_else(|| named(point)));
    }
    found
}

fn descriptors(
    process: &Path,
    wanted: &BTreeSet<Held>,
    left: &mut usize,
    held: &mut BTreeSet<Held>,
    partial: &mut bool,
) {
    if wanted.is_empty() {
        return;
    }
    let entries = match fs::read_dir(process.join("fd")) {
        Ok(entries) => entries,
        Err(err) => {
            *partial |= !gone(&err);
            return;
        }
    };
    for entry in entries.flatten() {
        if *left == 0 {
            return;
        }
        *left = left.saturating_sub(1);
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        let kind = metadata.file_type();
        let found = if kind.is_char_device() {
            Held::Device(Device {
                major: major(metadata.rdev()),
                minor: minor(metadata.rdev()),
            })
        } else if kind.is_socket() {
            Held::Socket(metadata.ino())
        } else {
            continue;
        };
        if wanted.contains(&found) {
            held.insert(found);
        }
    }
}
