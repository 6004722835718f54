//! Small files that are either the old ones or the new ones, whatever happens in between.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Replaces `file` (mode 0600), durable when this returns; makes its folder (0700) where missing.
pub(crate) fn write_atomically(file: &Path, bytes: &[u8]) -> io::Result<()> {
    make_private_folder(folder_of(file)?)?;
    replace(file, bytes, 0o600)
}

/// Replaces `file` (mode 0644), durable when this returns; makes its folder (0755) where missing.
/// The process's umask has no say: whoever may enter the folders above may read it.
pub(crate) fn write_public(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(file)?;
    if !folder.is_dir() {
        make_private_folder(folder)?;
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
    }
    replace(file, bytes, 0o644)
}

fn folder_of(file: &Path) -> io::Result<&Path> {
    file.parent()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a file without a folder"))
}

fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = folder_of(file)?;
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = folder.join(name);
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    out.set_permissions(Permissions::from_mode(mode))?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&new, file)?;
    sync_folder(folder)
}

/// Makes a folder and what leads to it, readable by its owner alone.
pub(crate) fn make_private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Reads at most `limit` bytes; a longer file is an error, not a cut one.
pub(crate) fn read_bounded(file: &Path, limit: usize) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let bound = u64::try_from(limit).unwrap_or(u64::MAX);
    // A page at once: what begins with nothing begins with 32 bytes, and doubles.
    let mut out = Vec::with_capacity(limit.min(4096));
    // Files of /proc and /sys say they have no length, so the bound is on what is read.
    File::open(file)?
        .take(bound.saturating_add(1))
        .read_to_end(&mut out)?;
    if out.len() > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes"),
        ));
    }
    Ok(out)
}
