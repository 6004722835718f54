//! What outlives this process: `<bpffs>/v<ABI>/{maps,programs,links}/NAME`.
//!
//! A pin is replaced by renaming its successor, `NAME_next`, over it; a successor that is found at
//! start is what a process left that died in between. (Names on a BPF file system have no dots.)

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use bailiwick_ebpf_common::abi::ABI;
use rustix::{
    fs::{FlockOperation, flock, statfs},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::FenceError;
use crate::{clock, sys::bpf};

/// `BPF_FS_MAGIC`
const BPF_FS: i64 = 0xcafe_4a11;

/// Source of a mount made here, by which it is known again.
const OUR_MOUNT: &str = "bailiwick";

/// Kinds of objects, and the folders they are pinned in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Map,
    Program,
    Link,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Map, Self::Program, Self::Link];

    const fn folder(self) -> &'static str {
        match self {
            Self::Map => "maps",
            Self::Program => "programs",
            Self::Link => "links",
        }
    }
}

/// The kernel stamps changes of files by a clock that ticks at least so often.
const TICK_NS: i128 = 100_000_000;

/// The folders of pins at one moment: equal to a later one, and nothing was pinned, unpinned or
/// renamed in between.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Look([Folder; 3]);

/// Device and inode, and when it was last changed (wall clock, ns), which nobody can set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Folder {
    place: (u64, u64),
    changed_ns: i128,
}

impl Look {
    /// Whether whatever happens from now on leaves another mark.
    fn is_settled(&self, now_ns: i128) -> bool {
        let Self(folders) = self;
        let long_ago = |folder: &Folder| folder.changed_ns.saturating_add(TICK_NS) < now_ns;
        folders.iter().all(long_ago)
    }
}

/// The folder, held against other processes as long as this lives.
#[derive(Debug)]
pub(super) struct Pins {
    bpffs: PathBuf,
    _held: File,
}

impl Pins {
    /// Makes the folders, and mounts a BPF file system where there is none.
    pub(super) fn open(bpffs: &Path) -> Result<Self, FenceError> {
        let fault = |source| FenceError::Pins {
            path: bpffs.to_owned(),
            source,
        };
        make_folder(bpffs).map_err(fault)?;
        if !is_bpf_fs(bpffs).map_err(fault)? {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount(OUR_MOUNT, bpffs, "bpf", flags, Some(c"mode=0700"))
                .map_err(|err| fault(err.into()))?;
        }
        let version = version_folder(bpffs);
        for kind in Kind::ALL {
            make_folder(&version.join(kind.folder())).map_err(fault)?;
        }
        let held = File::open(&version).map_err(fault)?;
        flock(&held, FlockOperation::NonBlockingLockExclusive).map_err(|err| match err {
            rustix::io::Errno::WOULDBLOCK => FenceError::Held(version.clone()),
            other => fault(other.into()),
        })?;
        Ok(Self {
            bpffs: bpffs.to_owned(),
            _held: held,
        })
    }

    /// Where an object is pinned.
    pub(super) fn path(&self, kind: Kind, name: &str) -> PathBuf {
        version_folder(&self.bpffs).join(kind.folder()).join(name)
    }

    fn next(&self, kind: Kind, name: &str) -> PathBuf {
        self.path(kind, &format!("{name}_next"))
    }

    /// What is pinned, and what was about to replace it.
    pub(super) fn find(&self, kind: Kind, name: &str) -> Result<[Option<OwnedFd>; 2], FenceError> {
        let open = |path: PathBuf| bpf::open_pin(&path).map_err(|source| fault(path, source));
        Ok([open(self.path(kind, name))?, open(self.next(kind, name))?])
    }

    /// First half of a replacement.
    pub(super) fn stage(&self, kind: Kind, name: &str, fd: impl AsFd) -> Result<(), FenceError> {
        self.unstage(kind, name)?;
        let path = self.next(kind, name);
        bpf::pin(fd.as_fd(), &path).map_err(|source| fault(path, source))
    }

    /// Second half.
    pub(super) fn commit(&self, kind: Kind, name: &str) -> Result<(), FenceError> {
        let path = self.next(kind, name);
        fs::rename(&path, self.path(kind, name)).map_err(|source| fault(path, source))
    }

    /// Both halves.
    pub(super) fn replace(&self, kind: Kind, name: &str, fd: impl AsFd) -> Result<(), FenceError> {
        self.stage(kind, name, fd)?;
        self.commit(kind, name)
    }

    /// Forgets the first half.
    pub(super) fn unstage(&self, kind: Kind, name: &str) -> Result<(), FenceError> {
        remove(self.next(kind, name))
    }

    /// Forgets a pin.
    pub(super) fn remove(&self, kind: Kind, name: &str) -> Result<(), FenceError> {
        remove(self.path(kind, name))
    }

    /// The folders as they are now; none if they changed so lately that the next change may look
    /// the same.
    pub(super) fn look(&self) -> Option<Look> {
        let version = version_folder(&self.bpffs);
        let folder = |kind: Kind| -> Option<Folder> {
            let found = fs::symlink_metadata(version.join(kind.folder())).ok()?;
            let seconds = i128::from(found.ctime()).checked_mul(1_000_000_000)?;
            Some(Folder {
                place: (found.dev(), found.ino()),
                changed_ns: seconds.checked_add(found.ctime_nsec().into())?,
            })
        };
        let [maps, programs, links] = Kind::ALL.map(folder);
        let look = Look([maps?, programs?, links?]);
        let now_ns = i128::from(clock::now().millis()).checked_mul(1_000_000)?;
        look.is_settled(now_ns).then_some(look)
    }

    /// Whether the folder still has this pin.
    pub(super) fn holds(&self, kind: Kind, name: &str) -> bool {
        fs::symlink_metadata(self.path(kind, name)).is_ok()
    }

    /// Names of the pins of one kind that begin like this, `_next` at their end or not.
    pub(super) fn names(&self, kind: Kind, prefix: &str) -> Result<Vec<String>, FenceError> {
        let folder = version_folder(&self.bpffs).join(kind.folder());
        let list = || -> io::Result<Vec<String>> {
            let mut found = Vec::new();
            for entry in fs::read_dir(&folder)? {
                if let Ok(name) = entry?.file_name().into_string()
                    && name.starts_with(prefix)
                {
                    found.push(name);
                }
            }
            Ok(found)
        };
        list().map_err(|source| fault(folder.clone(), source))
    }

    /// Removes what programs of other versions have pinned. The caller's own are attached by now,
    /// so that nothing is open in between.
    pub(super) fn remove_other_versions(&self) -> Result<Vec<PathBuf>, FenceError> {
        let mut removed = Vec::new();
        for version in versions(&self.bpffs)? {
            if version != version_folder(&self.bpffs) {
                remove_version(&version, &mut removed)?;
            }
        }
        Ok(removed)
    }

    /// Removes every version's pins: what was fenced is open. Links go last to first, so that the
    /// way out is closed longest. A BPF file system mounted by [`Pins::open`] goes too.
    pub(super) fn remove_all(self) -> Result<Vec<PathBuf>, FenceError> {
        let mut removed = Vec::new();
        for version in versions(&self.bpffs)? {
            remove_version(&version, &mut removed)?;
        }
        let Self { bpffs, _held } = self;
        drop(_held);
        if is_our_mount(&bpffs) {
            unmount(&bpffs, UnmountFlags::empty())
                .map_err(|err| fault(bpffs.clone(), err.into()))?;
        }
        match fs::remove_dir(&bpffs) {
            Ok(()) => removed.push(bpffs),
            // Something of somebody else's is in it, or it is a mount point: it stays.
            Err(_not_empty) => {}
        }
        Ok(removed)
    }
}

/// Whether there is anything to remove.
pub(super) fn exist(bpffs: &Path) -> bool {
    is_bpf_fs(bpffs).unwrap_or(false) && versions(bpffs).is_ok_and(|found| !found.is_empty())
}

fn fault(path: PathBuf, source: io::Error) -> FenceError {
    FenceError::Pins { path, source }
}

fn version_folder(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{ABI}"))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

fn is_bpf_fs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.f_type == BPF_FS)
}

/// Mount points stand in the fifth field, the type and source after the dash; a path with blanks is
/// escaped there, does not match, and stays mounted.
fn is_our_mount(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| {
        line.split(' ').nth(4).map(Path::new) == Some(path)
            && line.contains(&format!(" - bpf {OUR_MOUNT} "))
    })
}

fn remove(path: PathBuf) -> Result<(), FenceError> {
    match fs::remove_file(&path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(fault(path, err)),
        _ => Ok(()),
    }
}

/// `v` and a number.
fn versions(bpffs: &Path) -> Result<Vec<PathBuf>, FenceError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(bpffs)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix('v'));
            if number.is_some_and(|number| number.parse::<u32>().is_ok()) {
                found.push(entry.path());
            }
        }
        Ok(found)
    };
    list().map_err(|source| fault(bpffs.to_owned(), source))
}

fn remove_version(version: &Path, removed: &mut Vec<PathBuf>) -> Result<(), FenceError> {
    for kind in [Kind::Link, Kind::Program, Kind::Map] {
        let folder = version.join(kind.folder());
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let mut pins: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        pins.sort_unstable_by(|a, b| b.cmp(a));
        for pin in pins {
            remove(pin.clone())?;
            removed.push(pin);
        }
        fs::remove_dir(&folder).map_err(|source| fault(folder, source))?;
    }
    fs::remove_dir(version).map_err(|source| fault(version.to_owned(), source))
}

#[cfg(test)]
mod tests {
    use super::{Folder, Look, TICK_NS};

    #[test]
    fn what_changed_just_now_may_change_again_unseen() {
        let at = |changed_ns| Folder {
            place: (1, 2),
            changed_ns,
        };
        let rows = [
            ("long ago", [-TICK_NS; 3], true),
            ("a tick ago", [-TICK_NS, -TICK_NS, 1000 - TICK_NS], false),
            ("more than a tick ago", [999 - TICK_NS; 3], true),
            ("now", [1000, -TICK_NS, -TICK_NS], false),
            (
                "by a clock that went back",
                [-TICK_NS, 5000, -TICK_NS],
                false,
            ),
        ];
        for (name, changed, want) in rows {
            let look = Look(changed.map(at));
            assert_eq!(look.is_settled(1000), want, "{name}");
        }
    }
}
