//! Where the fence stands: the cgroup v2 hierarchy and the fence root in it.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            ffi::OsStringExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
};

use crate::{config::FenceSection, sys::handle};

/// Inode of the first cgroup namespace (`PROC_CGROUP_INIT_INO`).
const FIRST_NAMESPACE: u64 = 0xefff_fffb;

/// Why nothing can be fenced there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// A file of /proc, or the cgroup itself.
    #[error("{}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no cgroup v2.
    #[error("the mount table has no cgroup2 file system whose root is the hierarchy's")]
    NoHierarchy,
    /// Levels are counted from the true root.
    #[error("this process lives in a cgroup namespace, where the hierarchy's root is out of sight")]
    Namespace,
    /// Somebody who is not root could move processes in and out.
    #[error("{} belongs to uid {uid}, not to root", path.display())]
    Owner {
        /// The cgroup's folder.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// A fence around the agent is a fence around whoever repairs it.
    #[error(
        "{root:?} holds this process ({own:?}); only a fence of the whole host may \
         (root = \"/\", whole_host = true)"
    )]
    HoldsUs {
        /// The root asked for.
        root: String,
        /// The cgroup of this process.
        own: String,
    },
    /// The whole host, by accident.
    #[error("\"/\" is the whole host, and whole_host is not set")]
    WholeHost,
}

/// The cgroup v2 hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    mount: PathBuf,
    folder: File,
}

impl Hierarchy {
    /// From the mount table: it may stand beside version 1.
    pub(super) fn find() -> Result<Self, PlaceError> {
        let table = read("/proc/self/mountinfo")?;
        let mount = table
            .lines()
            .find_map(cgroup2_mount)
            .ok_or(PlaceError::NoHierarchy)?;
        let namespace = Path::new("/proc/self/ns/cgroup");
        let inode = fs::metadata(namespace).map_err(at(namespace))?.ino();
        if inode != FIRST_NAMESPACE {
            return Err(PlaceError::Namespace);
        }
        let folder = open_folder(&mount)?;
        Ok(Self { mount, folder })
    }

    /// The folder of a cgroup.
    pub(super) fn folder(&self, path: &Path) -> PathBuf {
        self.mount.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where it is mounted.
    pub(super) fn mount(&self) -> &Path {
        &self.mount
    }

    /// Path of the cgroup with this id below the mount, if it still is.
    pub(super) fn path_of(&self, id: u64) -> io::Result<String> {
        let folder = handle::cgroup_folder(&self.folder, id)?;
        let below = folder
            .strip_prefix(&self.mount)
            .map_err(|outside| io::Error::new(io::ErrorKind::InvalidData, outside))?;
        Ok(format!("/{}", below.display()))
    }
}

/// Where hierarchies of version 1 are mounted.
pub(super) fn legacy_mounts() -> Result<Vec<PathBuf>, PlaceError> {
    let table = read("/proc/self/mountinfo")?;
    Ok(table
        .lines()
        .filter_map(|line| mount_of(line, "cgroup"))
        .collect())
}

/// The cgroup that is fenced, with all below it.
#[derive(Debug)]
pub(super) struct Root {
    /// From the mount, `/` first.
    pub(super) path: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) whole_host: bool,
    /// Levels below the hierarchy's root.
    pub(super) level: u32,
    pub(super) id: u64,
    file: File,
}

impl Root {
    /// Refuses what must not be fenced.
    pub(super) fn open(hierarchy: &Hierarchy, section: &FenceSection) -> Result<Self, PlaceError> {
        let path = section.root.clone();
        let whole_host = path == Path::new("/");
        if whole_host && !section.whole_host {
            return Err(PlaceError::WholeHost);
        }
        let own = own_cgroup()?;
        if !whole_host && Path::new(&own).starts_with(&path) {
            return Err(PlaceError::HoldsUs {
                root: path.display().to_string(),
                own,
            });
        }
        let folder = hierarchy.folder(&path);
        let file = open_folder(&folder)?;
        let metadata = file.metadata().map_err(at(&folder))?;
        if metadata.uid() != 0 {
            return Err(PlaceError::Owner {
                path: folder,
                uid: metadata.uid(),
            });
        }
        // The first component is the root itself.
        let level = u32::try_from(path.components().count().saturating_sub(1)).unwrap_or(u32::MAX);
        Ok(Self {
            path,
            folder,
            whole_host,
            level,
            id: metadata.ino(),
            file,
        })
    }
}

impl Root {
    /// Whether the cgroup still is where it was.
    pub(super) fn stands(&self) -> bool {
        fs::symlink_metadata(&self.folder).is_ok_and(|found| found.ino() == self.id)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn read(path: &'static str) -> Result<String, PlaceError> {
    fs::read_to_string(path).map_err(at(path))
}

fn at(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.into();
    move |source| PlaceError::Read { path, source }
}

fn open_folder(path: &Path) -> Result<File, PlaceError> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
        .map_err(at(path))
}

/// Path of this process's own cgroup.
fn own_cgroup() -> Result<String, PlaceError> {
    let text = read("/proc/self/cgroup")?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
        .ok_or(PlaceError::NoHierarchy)
}

/// `36 35 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw`: root and mount point are
/// the fourth and fifth field, the type is the first after the dash.
fn cgroup2_mount(line: &str) -> Option<PathBuf> {
    mount_of(line, "cgroup2")
}

fn mount_of(line: &str, kind: &str) -> Option<PathBuf> {
    let (left, right) = line.split_once(" - ")?;
    if right.split(' ').next()? != kind {
        return None;
    }
    let mut fields = left.split(' ').skip(3);
    if fields.next()? != "/" {
        return None;
    }
    unescape(fields.next()?)
}

/// Blanks, tabs, newlines and backslashes stand in the table as `\` and three octal digits.
fn unescape(field: &str) -> Option<PathBuf> {
    let mut parts = field.split('\\');
    let mut path = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(3)?;
        path.push(u8::from_str_radix(code, 8).ok()?);
        path.extend_from_slice(rest.as_bytes());
    }
    Some(PathBuf::from(OsString::from_vec(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_field_by_field() {
        let cases: &[(&str, &str, Option<&str>)] = &[
            (
                "unified",
                "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate",
                Some("/sys/fs/cgroup"),
            ),
            (
                "optional fields and a blank in the name",
                "1 2 0:3 / /a\\040b rw shared:4 master:5 - cgroup2 none rw",
                Some("/a b"),
            ),
            (
                "version 1",
                "36 24 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
                None,
            ),
            (
                "a part of the hierarchy",
                "36 24 0:31 /system.slice /mnt rw - cgroup2 none rw",
                None,
            ),
            (
                "another type",
                "1 2 8:1 / /cgroup2 rw - ext4 cgroup2 rw",
                None,
            ),
            ("bad escape", "1 2 0:3 / /a\\0 rw - cgroup2 none rw", None),
            ("cut", "1 2 0:3 / /a", None),
            ("empty", "", None),
        ];
        for (name, line, want) in cases {
            assert_eq!(cgroup2_mount(line), want.map(PathBuf::from), "{name}");
        }
    }

    #[test]
    fn what_holds_this_process_is_not_fenced_by_a_slip() {
        let hierarchy = Hierarchy::find().unwrap();
        let section = |root: &str, whole_host| FenceSection {
            root: PathBuf::from(root),
            whole_host,
            ..FenceSection::default()
        };
        let refused = |section| Root::open(&hierarchy, &section).unwrap_err();
        let whole = refused(section("/", false));
        assert!(matches!(whole, PlaceError::WholeHost));
        let says = "\"/\" is the whole host, and whole_host is not set";
        assert_eq!(whole.to_string(), says);
        let own = own_cgroup().unwrap();
        if own != "/" {
            assert!(matches!(
                refused(section(&own, false)),
                PlaceError::HoldsUs { .. }
            ));
        }
        assert!(matches!(
            refused(section("/bailiwick-no-such-cgroup", false)),
            PlaceError::Read { .. }
        ));
    }
}
