//! From a cgroup's id to its path.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
};

/// `FILEID_KERNFS` of `include/linux/exportfs.h`: a handle that holds nothing but the id.
const FILEID_KERNFS: i32 = 0xfe;

/// `struct file_handle` with the one kind of content used here.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

/// The folder of the cgroup with this id, through any open folder of the cgroup2 mount.
///
/// Fails with `ESTALE` for a cgroup that is gone.
pub(crate) fn cgroup_folder(mount: &File, id: u64) -> io::Result<PathBuf> {
    let mut handle = Handle {
        bytes: 8,
        kind: FILEID_KERNFS,
        id: id.to_ne_bytes(),
    };
    // SAFETY: the handle has the layout of `struct file_handle`, is as long as it says, and lives
    // through the call; the descriptor is open.
    let opened = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    let Ok(fd) = i32::try_from(opened) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor, and nobody else has it.
    let folder = unsafe { OwnedFd::from_raw_fd(fd) };
    fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}
