//! Tells at once when a cgroup appears where a selector looks.
//!
//! Watched are the folders on the way of the selectors, which belong to root: what a study does
//! inside its own cgroup is not followed. Where a folder cannot be watched, polling finds what
//! changed there, some hundred milliseconds later.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use tracing::warn;

/// Most folders: each costs the kernel about a kilobyte.
const WATCHES_LIMIT: usize = 1024;

/// Folders and their watches.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: OwnedFd,
    watched: BTreeMap<PathBuf, i32>,
    /// Folders that are polled alone, as last said.
    polled: usize,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            inotify,
            watched: BTreeMap::new(),
            polled: 0,
        })
    }

    /// How many folders are polled alone.
    pub(super) const fn polled(&self) -> usize {
        self.polled
    }

    /// Takes note of all that changed; what it was is found out by looking.
    pub(super) fn drain(&self) {
        let mut room = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut room);
        loop {
            match reader.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Watches these folders and no others. True if one is watched that was not before: what
    /// appeared in it meanwhile has to be looked for once more.
    pub(super) fn follow(&mut self, folders: &BTreeSet<PathBuf>) -> bool {
        let flags = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        let mut before = std::mem::take(&mut self.watched);
        let (mut new, mut polled, mut why) = (false, 0_usize, None);
        for folder in folders {
            if self.watched.len() >= WATCHES_LIMIT {
                polled = polled.saturating_add(1);
                why.get_or_insert_with(|| format!("more than {WATCHES_LIMIT} folders"));
                continue;
            }
            // The same folder again gives the same number, one made anew another.
            match inotify::add_watch(self.inotify.as_fd(), folder.as_path(), flags) {
                Ok(watch) => {
                    new |= before.remove(folder) != Some(watch);
                    self.watched.insert(folder.clone(), watch);
                }
                // It went away since; its parent tells when it comes back.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => {
                    polled = polled.saturating_add(1);
                    why.get_or_insert_with(|| format!("{}: {errno}", folder.display()));
                }
            }
        }
        for watch in before.into_values() {
            if !self.watched.values().any(|kept| *kept == watch) {
                // Gone with its folder, perhaps.
                inotify::remove_watch(self.inotify.as_fd(), watch).ok();
            }
        }
        if polled != self.polled {
            if let Some(why) = why {
                warn!(
                    folders = polled,
                    why, "cgroups there are polled, not watched"
                );
            }
            self.polled = polled;
        }
        new
    }
}

/// Readable when something changed; [`Watch::drain`] reads it.
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn changed(watch: &Watch) -> bool {
        let mut fds = [PollFd::new(watch, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).unwrap() > 0
    }

    #[test]
    fn what_appears_in_a_watched_folder_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        let mut watch = Watch::new().unwrap();
        let both: BTreeSet<PathBuf> = [a.clone(), b.clone()].into();
        assert!(watch.follow(&both), "a is new, and b is not there");
        assert!(!watch.follow(&both), "nothing is new");
        assert!(!changed(&watch));
        fs::create_dir(a.join("x")).unwrap();
        assert!(changed(&watch));
        watch.drain();
        assert!(!changed(&watch), "told once");
        fs::create_dir(a.join("x/inside")).unwrap();
        assert!(!changed(&watch), "a study's own affair");
        fs::remove_dir_all(&a).unwrap();
        watch.drain();
        fs::create_dir(&a).unwrap();
        assert!(watch.follow(&both), "made anew");
        watch.drain();
        fs::create_dir(a.join("y")).unwrap();
        assert!(changed(&watch));
        watch.drain();
        assert!(!watch.follow(&BTreeSet::new()));
        watch.drain();
        fs::create_dir(a.join("z")).unwrap();
        assert!(!changed(&watch), "not watched any more");
        assert_eq!(watch.polled(), 0);
    }

    #[test]
    fn beyond_the_bound_folders_are_polled_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let folders: BTreeSet<PathBuf> = (0..WATCHES_LIMIT + 2)
            .map(|number| dir.path().join(number.to_string()))
            .collect();
        for folder in &folders {
            fs::create_dir(folder).unwrap();
        }
        let mut watch = Watch::new().unwrap();
        assert!(watch.follow(&folders));
        assert_eq!(watch.polled(), 2);
        let fewer: BTreeSet<PathBuf> = folders.into_iter().take(3).collect();
        watch.follow(&fewer);
        assert_eq!(watch.polled(), 0);
    }
}
