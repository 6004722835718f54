//! What somebody else changed in the kernel and this process put back: kept for statements, and
//! told to the node's log. Who it was stands there as far as the kernel tells: it knows who loaded a
//! program and who holds a map, and forgets who wrote what.

use std::{collections::VecDeque, fs, io, os::fd::AsFd, path::Path};

use bailiwick_attestation::{
    Sha256Digest,
    proto::v1::{FenceEvent, fence_state::LineChange},
};
use bailiwick_ebpf_common::{Plain, PolicyImage};
use tracing::error;

use super::{devices::processes, process};
use crate::{
    clock,
    sys::{bpf, ids, tcx},
};

/// Changes that are remembered for statements.
const KEPT: usize = 16;
/// Most that wait to be told; the log has been away for long then.
const WAITING: usize = 256;
/// Longest text of an entry of the node's log.
const TEXT: usize = 256;
/// Most descriptors looked at for whoever holds a map.
const LOOKS: usize = 1 << 18;
/// Most holders named.
const HOLDERS: usize = 4;

/// Rules of events: not of the fence's verdicts, but of the fence itself.
const LINE: &str = "line-changed";
const TABLE: &str = "table-changed";

/// What was changed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Where<'a> {
    /// A program on the fence root.
    Hook(&'a str),
    /// One on a network device: its hook, and the device's name.
    Line(&'a str, &'a str),
    /// A map, or its pin.
    Table(&'a str),
}

/// Somebody, as far as the kernel tells.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Who {
    /// Whoever loaded a program.
    pub(super) uid: Option<u32>,
    /// Whoever holds a map.
    pub(super) pid: Option<u32>,
}

/// Changes, and whether they were told.
#[derive(Debug, Default)]
pub(super) struct Changed {
    kept: VecDeque<LineChange>,
    untold: VecDeque<FenceEvent>,
    /// Links and programs that were put back.
    pub(super) links: u64,
    /// Maps, and entries in them.
    pub(super) tables: u64,
}

impl Changed {
    /// Remembers what was found; `what` says nothing of who it was.
    pub(super) fn note(&mut self, place: Where<'_>, what: &str, who: &Who) {
        let (hook, device, table) = match place {
            Where::Hook(hook) => (hook, "", ""),
            Where::Line(hook, device) => (hook, device, ""),
            Where::Table(table) => ("", "", table),
        };
        let count = match place {
            Where::Table(_) => &mut self.tables,
            Where::Hook(_) | Where::Line(..) => &mut self.links,
        };
        *count = count.saturating_add(1);
        error!(
            hook,
            device,
            table,
            what,
            uid = who.uid,
            pid = who.pid,
            "the fence was changed; it is put back"
        );
        let boot_time_ns = clock::boot_time_ns();
        let mut said = what.to_owned();
        if let Some(uid) = who.uid {
            said.push_str(&format!(", loaded by uid {uid}"));
        }
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(LineChange {
            boot_time_ns,
            hook: hook.to_owned(),
            device: device.to_owned(),
            what: said,
            table: table.to_owned(),
        });
        if self.untold.len() >= WAITING {
            self.untold.pop_front();
        }
        let executable = |pid| process::executable(pid, boot_time_ns);
        self.untold.push_back(FenceEvent {
            boot_time_ns,
            until_boot_ns: boot_time_ns,
            wall_time_ms: clock::now().millis(),
            rule: match place {
                Where::Table(_) => TABLE,
                Where::Hook(_) | Where::Line(..) => LINE,
            }
            .to_owned(),
            verdict: "deny".to_owned(),
            hook: hook.to_owned(),
            device: cut(&[device, table].concat()),
            change: cut(what),
            count: 1,
            uid: who.uid,
            pid: who.pid,
            executable: who.pid.map_or_else(String::new, executable),
            ..FenceEvent::default()
        });
    }

    /// The last ones, oldest first.
    pub(super) fn kept(&self) -> Vec<LineChange> {
        self.kept.iter().cloned().collect()
    }

    /// What was not told yet.
    pub(super) fn tell(&mut self) -> Vec<FenceEvent> {
        self.untold.drain(..).collect()
    }
}

/// As much of it as an entry holds. Names of programs are their maker's: no control characters.
fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let cut = text.get(..end).unwrap_or_default();
    cut.replace(char::is_control, "?")
}

/// A program in words, and who loaded it.
pub(super) fn program(id: u32) -> (String, Who) {
    let info = tcx::program(id)
        .ok()
        .flatten()
        .and_then(|program| bpf::program_info(program.as_fd()).ok());
    match info {
        Some(info) => (
            format!("{id} ({:?}, tag {})", info.name, hex::encode(info.tag)),
            Who {
                uid: Some(info.uid),
                pid: None,
            },
        ),
        None => (format!("{id} (gone)"), Who::default()),
    }
}

/// A map in words, and the first process beside this one that has it open.
pub(super) fn map(id: u32) -> (String, Who) {
    let Ok(Some(map)) = ids::map(id) else {
        return (format!("map {id} (gone)"), Who::default());
    };
    let Ok(info) = bpf::map_info(map.as_fd()) else {
        return (format!("map {id}"), Who::default());
    };
    let mut said = format!("map {id} ({:?}", info.name());
    if usize::try_from(info.value_size) == Ok(size_of::<PolicyImage>()) {
        let mut table = PolicyImage::zeroed();
        if bpf::lookup(map.as_fd(), 0, table.bytes_mut()).is_ok() {
            let digest = Sha256Digest::of(&[table.bytes()]);
            said.push_str(&format!(
                ", policy version {}, sha256 {digest}",
                table.header.generation
            ));
        }
    }
    said.push(')');
    let pid = holders(Path::new("/proc"), id)
        .into_iter()
        .find(|pid| *pid != std::process::id());
    (said, Who { uid: None, pid })
}

/// Processes with a descriptor of a map. One that wrote and ended is in no list.
fn holders(proc: &Path, id: u32) -> Vec<u32> {
    let (mut found, mut left) = (Vec::new(), LOOKS);
    for (pid, folder) in processes(proc).unwrap_or_default() {
        if found.len() >= HOLDERS || left == 0 {
            break;
        }
        if holds(&folder, id, &mut left).unwrap_or(false) {
            found.push(pid);
        }
    }
    found
}

fn holds(process: &Path, id: u32, left: &mut usize) -> io::Result<bool> {
    for entry in fs::read_dir(process.join("fd"))? {
        let entry = entry?;
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Ok(false);
        }
        if fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:bpf-map") {
            let told = process.join("fdinfo").join(entry.file_name());
            if fs::read_to_string(told).is_ok_and(|told| map_id(&told) == Some(id)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What `/proc/PID/fdinfo/FD` says of a map.
fn map_id(told: &str) -> Option<u32> {
    let mut lines = told.lines();
    lines
        .find_map(|line| line.strip_prefix("map_id:"))
        .and_then(|id| id.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_kept_for_statements_and_told_once() {
        let mut changed = Changed::default();
        let root = Who {
            uid: Some(0),
            pid: None,
        };
        changed.note(Where::Line("tcx/egress", "up0"), "was detached", &root);
        changed.note(Where::Table("POLICY"), "held map 7", &Who::default());
        changed.note(
            Where::Hook("cgroup_skb/egress"),
            "ran 9\u{1b}[2J",
            &Who::default(),
        );
        assert_eq!((changed.links, changed.tables), (2, 1));
        let kept: Vec<_> = changed
            .kept()
            .into_iter()
            .map(|change| [change.hook, change.device, change.table, change.what].join("|"))
            .collect();
        let want = [
            "tcx/egress|up0||was detached, loaded by uid 0",
            "||POLICY|held map 7",
            "cgroup_skb/egress|||ran 9\u{1b}[2J",
        ];
        assert_eq!(kept, want);
        let told: Vec<_> = changed
            .tell()
            .into_iter()
            .map(|event| [event.rule, event.hook, event.device, event.change].join("|"))
            .collect();
        let want = [
            "line-changed|tcx/egress|up0|was detached",
            "table-changed||POLICY|held map 7",
            "line-changed|cgroup_skb/egress||ran 9?[2J",
        ];
        assert_eq!(told, want, "who it was is in no public half");
        assert!(changed.tell().is_empty());
        assert_eq!(changed.kept().len(), 3);
    }

    #[test]
    fn neither_list_grows() {
        let mut changed = Changed::default();
        for round in 0..WAITING + 5 {
            let what = format!("{round} {}", "ö".repeat(TEXT));
            changed.note(Where::Table("POLICY"), &what, &Who::default());
        }
        assert_eq!(changed.kept().len(), KEPT);
        let told = changed.tell();
        assert_eq!(told.len(), WAITING);
        assert!(told[0].change.starts_with("5 "), "the oldest are gone");
        assert!(told.iter().all(|event| event.change.len() <= TEXT));
    }

    #[test]
    fn whoever_holds_a_map_is_found() {
        let map = bpf::create_value_map("HELD", 8).unwrap();
        let id = bpf::map_info(map.as_fd()).unwrap().id;
        let own = std::process::id();
        assert_eq!(holders(Path::new("/proc"), id), [own]);
        let (said, who) = super::map(id);
        assert_eq!(said, format!("map {id} (\"HELD\")"));
        assert_eq!(who, Who::default(), "this process is not news");
        drop(map);
        assert!(holders(Path::new("/proc"), id).is_empty());
        let cases = [
            ("pos:\t0\nmap_id:\t12\nfrozen:\t1\n", Some(12)),
            ("map_id:\tx\n", None),
            ("map_ids:\t12\n", None),
            ("", None),
        ];
        for (told, want) in cases {
            assert_eq!(map_id(told), want, "{told:?}");
        }
    }
}
