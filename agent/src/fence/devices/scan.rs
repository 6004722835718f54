//! Who holds which device: every descriptor and shared mapping of every process.
//!
//! Denying an open closes nothing, and a descriptor may be inherited or passed on, so who opened a
//! device says little about who has it. What a look cannot see is said by whoever cites it: a
//! descriptor in flight inside a unix socket, or registered with io_uring.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bailiwick_ebpf_common::device::Device;
use rustix::fs::{major, minor};

use crate::files::read_bounded;

/// Most descriptors and mappings looked at; a look that meets more is not complete.
const LOOKS: usize = 1 << 20;
/// Longest table of mappings read; a process with a longer one is not seen through.
const MAX_MAPS: usize = 16 << 20;

/// What one look found.
#[derive(Clone, Debug, Default)]
pub(super) struct Scan {
    /// Processes that hold a device, by device.
    pub(super) holdings: BTreeMap<Device, Vec<Holder>>,
    /// Cgroups of processes that were not seen through.
    pub(super) unseen: BTreeSet<String>,
    /// There was more to look at than one look may cost, or no list of processes.
    pub(super) cut: bool,
    /// When it began, CLOCK_BOOTTIME.
    pub(super) began_ns: u64,
    pub(super) took: Duration,
}

/// A process with a descriptor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    /// Its cgroup's path below the mount.
    pub(super) cgroup: String,
}

/// Looks at every process below `proc`, for devices that `wanted` names.
pub(super) fn scan(proc: &Path, began_ns: u64, wanted: impl Fn(Device) -> bool) -> Scan {
    let began = Instant::now();
    let mut look = Look {
        wanted: &wanted,
        left: LOOKS,
        missed: false,
    };
    let mut holdings: BTreeMap<Device, Vec<Holder>> = BTreeMap::new();
    let mut unseen = BTreeSet::new();
    let mut cut = false;
    match processes(proc) {
        Ok(processes) => {
            for (pid, folder) in processes {
                let mut found = look.process(&folder);
                found.sort_unstable();
                found.dedup();
                let missed = std::mem::take(&mut look.missed);
                if found.is_empty() && !missed {
                    continue;
                }
                let cgroup = cgroup(&folder).unwrap_or_default();
                if missed {
                    unseen.insert(cgroup.clone());
                }
                for device in found {
                    let holder = Holder {
                        pid,
                        cgroup: cgroup.clone(),
                    };
                    holdings.entry(device).or_default().push(holder);
                }
            }
        }
        Err(_) => cut = true,
    }
    Scan {
        holdings,
        unseen,
        cut: cut || look.left == 0,
        began_ns,
        took: began.elapsed(),
    }
}

/// The processes there are.
pub(crate) fn processes(proc: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        if let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        {
            found.push((pid, entry.path()));
        }
    }
    Ok(found)
}

/// Path of a process's cgroup below the cgroup v2 mount.
pub(crate) fn cgroup(process: &Path) -> Option<String> {
    let bytes = read_bounded(&process.join("cgroup"), 64 << 10).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(line.strip_suffix(" (deleted)").unwrap_or(line).to_owned())
}

struct Look<'a> {
    wanted: &'a dyn Fn(Device) -> bool,
    left: usize,
    /// Something of this process could not be looked at.
    missed: bool,
}

impl Look<'_> {
    /// Threads may have tables of their own, and one may outlive the leader: all are looked at,
    /// unless there is one only.
    fn process(&mut self, process: &Path) -> Vec<Device> {
        let mut found = Vec::new();
        let tasks = match processes(&process.join("task")) {
            Ok(tasks) => tasks,
            Err(err) => {
                self.missed(&err);
                return found;
            }
        };
        for (_, task) in tasks {
            self.descriptors(&task, &mut found);
        }
        self.mappings(process, &mut found);
        found
    }

    fn descriptors(&mut self, task: &Path, found: &mut Vec<Device>) {
        let entries = match fs::read_dir(task.join("fd")) {
            Ok(entries) => entries,
            Err(err) => return self.missed(&err),
        };
        for entry in entries {
            if self.left == 0 {
                return;
            }
            self.left = self.left.saturating_sub(1);
            match entry {
                Ok(entry) => self.look_at(&entry.path(), found),
                Err(err) => self.missed(&err),
            }
        }
    }

    /// A mapping keeps its file open when the descriptor is closed. The table names no device
    /// numbers; the links beside it do.
    fn mappings(&mut self, process: &Path, found: &mut Vec<Device>) {
        let text = match read_bounded(&process.join("maps"), MAX_MAPS) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(err) => return self.missed(&err),
        };
        for line in text.lines() {
            let Some(range) = shared_file(line) else {
                continue;
            };
            if self.left == 0 {
                return;
            }
            self.left = self.left.saturating_sub(1);
            self.look_at(&process.join("map_files").join(range), found);
        }
    }

    fn look_at(&mut self, link: &Path, found: &mut Vec<Device>) {
        match fs::metadata(link) {
            Ok(metadata) if metadata.file_type().is_char_device() => {
                let device = Device {
                    major: major(metadata.rdev()),
                    minor: minor(metadata.rdev()),
                };
                if (self.wanted)(device) {
                    found.push(device);
                }
            }
            Ok(_) => {}
            Err(err) => self.missed(&err),
        }
    }

    /// What went away in between holds nothing any more; what may not be looked at may.
    fn missed(&mut self, err: &io::Error) {
        let gone = err.kind() == io::ErrorKind::NotFound
            || matches!(err.raw_os_error(), Some(libc::ESRCH));
        self.missed |= !gone;
    }
}

/// `7f00-7f01 rw-s 00000000 00:05 7 /dev/x`: the range of a shared mapping of a file, as
/// `map_files` spells it. Memory shared without a file has one of tmpfs, which is no device.
fn shared_file(line: &str) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let (range, flags) = (fields.next()?, fields.next()?);
    let inode = fields.nth(2)?;
    (flags.ends_with('s') && inode != "0").then(|| range.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        process::{Child, Command, Stdio},
    };

    use super::*;

    const FULL: Device = Device { major: 1, minor: 7 };

    fn holders(scan: &Scan, pid: u32) -> usize {
        let of_full = scan.holdings.get(&FULL).into_iter().flatten();
        of_full.filter(|holder| holder.pid == pid).count()
    }

    fn look() -> Scan {
        scan(Path::new("/proc"), 7, |device| device == FULL)
    }

    fn child(stdin: Stdio) -> Child {
        Command::new("sleep")
            .arg("60")
            .stdin(stdin)
            .spawn()
            .unwrap()
    }

    #[test]
    fn whoever_has_a_descriptor_is_found_whatever_the_node_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("innocent");
        let made = Command::new("mknod")
            .arg(&node)
            .args(["c", "1", "7"])
            .status()
            .unwrap();
        assert!(made.success());
        let mut holding = child(File::open(&node).unwrap().into());
        fs::remove_file(&node).unwrap();
        let mut other = child(File::open("/dev/null").unwrap().into());
        let found = look();
        assert_eq!((found.began_ns, found.cut), (7, false));
        assert_eq!(holders(&found, holding.id()), 1);
        assert_eq!(holders(&found, other.id()), 0);
        let own = found.holdings[&FULL]
            .iter()
            .find(|holder| holder.pid == holding.id());
        assert_eq!(
            own.map(|holder| holder.cgroup.clone()),
            cgroup(Path::new("/proc/self"))
        );
        for child in [&mut holding, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(holders(&look(), holding.id()), 0);
    }

    #[test]
    fn a_mapping_and_a_thread_of_its_own_count_too() {
        let dir = tempfile::tempdir().unwrap();
        let process = dir.path().join("7");
        for folder in ["task/7/fd", "task/8/fd", "map_files"] {
            fs::create_dir_all(process.join(folder)).unwrap();
        }
        let link = |to: &str, at: &str| {
            std::os::unix::fs::symlink(to, process.join(at)).unwrap();
        };
        fs::write(process.join("cgroup"), "1:cpu:/x\n0::/a/b (deleted)\n").unwrap();
        fs::write(process.join("maps"), "").unwrap();
        let want = |name: &str, count: usize| {
            let found = scan(dir.path(), 0, |device| device == FULL);
            assert_eq!(holders(&found, 7), count, "{name}");
            assert_eq!((found.cut, found.unseen.len()), (false, 0), "{name}");
            let paths = found
                .holdings
                .values()
                .flatten()
                .map(|it| it.cgroup.clone());
            assert_eq!(paths.collect::<Vec<_>>(), vec!["/a/b"; count], "{name}");
        };
        want("nothing", 0);
        link("/dev/null", "task/7/fd/0");
        link("/dev/full", "map_files/7f00-7f01");
        want("a private mapping", 0);
        fs::write(process.join("maps"), "7f00-7f01 rw-s 0 00:05 7 /dev/full\n").unwrap();
        want("a shared mapping", 1);
        fs::write(process.join("maps"), "").unwrap();
        link("/dev/full", "task/8/fd/3");
        want("a thread's own table", 1);
        link("/dev/full", "task/7/fd/3");
        want("twice is once", 1);
    }

    #[test]
    fn shared_mappings_of_files_are_told_from_others() {
        let rows = [
            (
                "7f00-7f01 rw-s 00000000 00:05 7    /dev/x",
                Some("7f00-7f01"),
            ),
            (
                "7f00-7f01 r--s 00000000 00:05 7 /dev/x (deleted)",
                Some("7f00-7f01"),
            ),
            ("7f00-7f01 rw-p 00000000 00:05 7 /dev/x", None),
            ("7f00-7f01 rw-s 00000000 00:00 0", None),
            ("7f00-7f01 rw-s", None),
            ("", None),
        ];
        for (line, want) in rows {
            assert_eq!(shared_file(line).as_deref(), want, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let seen = |at: &Path| {
            let found = scan(at, 0, |_| true);
            (found.cut, found.unseen.into_iter().collect::<Vec<_>>())
        };
        assert!(seen(Path::new("/nowhere/at/all")).0);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(seen(dir.path()), (false, vec![]), "nobody is there");
        let process = dir.path().join("7");
        fs::create_dir(&process).unwrap();
        fs::write(process.join("cgroup"), "0::/a\n").unwrap();
        assert_eq!(seen(dir.path()), (false, vec![]), "it vanished meanwhile");
        fs::create_dir_all(process.join("task/7")).unwrap();
        fs::write(process.join("task/7/fd"), "").unwrap();
        assert_eq!(seen(dir.path()), (false, vec!["/a".to_owned()]));
    }
}
