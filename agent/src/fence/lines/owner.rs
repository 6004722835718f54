//! Whose workload is on the other side of a port: the study whose processes live in the namespace
//! of its other end, or hold its tap open.
//!
//! One study, or nobody: where two share a namespace, what comes from it is denied.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use bailiwick_ebpf_common::{PolicyImage, policy::kind};

use super::device::Device;
use crate::{
    fence::place::{Hierarchy, Root},
    netlink::{Netlink, attribute, attributes},
};

/// `RTM_NEWNSID`, `RTM_GETNSID`; `NETNSA_NSID`, `NETNSA_FD`.
const NEW_NUMBER: u16 = 88;
const GET_NUMBER: u16 = 90;
const NUMBER: u16 = 1;
const FD: u16 = 3;

/// Subjects met, by where.
#[derive(Debug, Default)]
struct Met {
    /// By the number a namespace has in ours.
    namespaces: BTreeMap<i32, BTreeSet<u32>>,
    /// By the name of a `tun` or tap device.
    taps: BTreeMap<String, BTreeSet<u32>>,
}

/// The subject of each port that has one.
pub(super) fn of_ports<'a>(
    ports: impl Iterator<Item = &'a Device>,
    place: (&Hierarchy, &Root),
    policy: &PolicyImage,
    netlink: &mut Netlink,
) -> BTreeMap<u32, u32> {
    let ports: Vec<&Device> = ports.collect();
    if ports.is_empty() {
        return BTreeMap::new();
    }
    let met = look(
        place,
        policy,
        netlink,
        ports.iter().any(|port| port.is_tap()),
    );
    let is_study = |subject: u32| {
        policy
            .subject(subject)
            .is_some_and(|subject| subject.kind == kind::STUDY)
    };
    let owner = |port: &Device| {
        let met = if port.is_tap() {
            met.taps.get(&port.name)
        } else {
            met.namespaces.get(&port.peer_namespace?)
        };
        choose(met?, is_study)
    };
    ports
        .into_iter()
        .filter_map(|port| Some((port.index, owner(port)?)))
        .collect()
}

/// The only study; where there is none, the only host service.
fn choose(met: &BTreeSet<u32>, is_study: impl Fn(u32) -> bool) -> Option<u32> {
    let (studies, others): (Vec<u32>, Vec<u32>) =
        met.iter().copied().partition(|subject| is_study(*subject));
    match (studies.as_slice(), others.as_slice()) {
        ([study], _) => Some(*study),
        ([], [service]) => Some(*service),
        _ => None,
    }
}

/// Walks the processes of this host once.
fn look(
    (hierarchy, root): (&Hierarchy, &Root),
    policy: &PolicyImage,
    netlink: &mut Netlink,
    taps: bool,
) -> Met {
    let own = namespace(Path::new("/proc/thread-self"));
    let mut met = Met::default();
    let mut by_inode: BTreeMap<u64, Option<i32>> = BTreeMap::new();
    let mut subjects: BTreeMap<String, Option<u32>> = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let name = process.file_name();
        if name
            .to_str()
            .is_none_or(|name| name.parse::<u32>().is_err())
        {
            continue;
        }
        // Gone meanwhile, or a kernel thread.
        let process = process.path();
        let Some(cgroup) = cgroup(&process) else {
            continue;
        };
        let subject = *subjects
            .entry(cgroup)
            .or_insert_with_key(|cgroup| subject(cgroup, hierarchy, root, policy));
        let (Some(subject), Some(inode)) = (subject, namespace(&process)) else {
            continue;
        };
        if Some(inode) != own {
            let number = by_inode
                .entry(inode)
                .or_insert_with(|| numbered(&process, netlink));
            if let Some(number) = number {
                met.namespaces.entry(*number).or_default().insert(subject);
            }
        }
        if taps {
            for tap in held_taps(&process) {
                met.taps.entry(tap).or_default().insert(subject);
            }
        }
    }
    met
}

fn namespace(process: &Path) -> Option<u64> {
    fs::metadata(process.join("ns/net"))
        .ok()
        .map(|found| found.ino())
}

/// Path of its cgroup, from the hierarchy's root.
fn cgroup(process: &Path) -> Option<String> {
    let text = fs::read_to_string(process.join("cgroup")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
}

/// The subject the kernel would find for a socket of this cgroup.
fn subject(cgroup: &str, hierarchy: &Hierarchy, root: &Root, policy: &PolicyImage) -> Option<u32> {
    let below = Path::new(cgroup).strip_prefix(&root.path).ok()?;
    let mut folder: PathBuf = hierarchy.folder(&root.path);
    let mut ids = vec![root.id];
    for part in below.components() {
        folder.push(part);
        ids.push(fs::symlink_metadata(&folder).ok()?.ino());
    }
    policy.resolve(|level| {
        usize::try_from(level)
            .ok()
            .and_then(|level| ids.get(level).copied())
            .unwrap_or(0)
    })
}

/// The number that a process's namespace has in ours, if it has one.
fn numbered(process: &Path, netlink: &mut Netlink) -> Option<i32> {
    let namespace = fs::File::open(process.join("ns/net")).ok()?;
    // `struct rtgenmsg`, padded.
    let mut question = vec![0; 4];
    attribute(&mut question, FD, &namespace.as_raw_fd().to_ne_bytes());
    let answer = netlink.ask(GET_NUMBER, 0, &question).ok()?;
    let (_, body) = answer.iter().find(|(kind, _)| *kind == NEW_NUMBER)?;
    let (_, value) = attributes(body.get(4..)?).find(|(kind, _)| *kind == NUMBER)?;
    let number = value.first_chunk().copied().map(i32::from_ne_bytes)?;
    (number >= 0).then_some(number)
}

/// Names of the `tun` and tap devices a process holds open: `iff:` in their `fdinfo`.
fn held_taps(process: &Path) -> Vec<String> {
    let entries = fs::read_dir(process.join("fdinfo"));
    let infos = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    infos
        .filter_map(|info| {
            let name = info.lines().find_map(|line| line.strip_prefix("iff:"))?;
            Some(name.trim().to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_one_studys_or_nobodys() {
        let is_study = |subject: u32| subject < 10;
        let rows: &[(&str, &[u32], Option<u32>)] = &[
            ("one study", &[3], Some(3)),
            ("a study, and a service that helps it", &[3, 11], Some(3)),
            ("one service", &[11], Some(11)),
            ("two studies", &[3, 4], None),
            ("two studies and a service", &[3, 4, 11], None),
            ("two services", &[11, 12], None),
            ("nobody", &[], None),
        ];
        for (name, met, want) in rows {
            let met = met.iter().copied().collect();
            assert_eq!(choose(&met, is_study), *want, "{name}");
        }
    }
}
