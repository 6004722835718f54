//! Files as an operator brings them, and the folder in which they are kept.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::document::{Document, Kind, MAX_FILE};
use super::tar;
use anyhow::{Context as _, ensure};

/// Files in one import, and in one store. NVIDIA has some hundred RIMs out.
const MAX_FILES: usize = 4096;
/// The largest archive: all of these with 64 KiB each.
const MAX_ARCHIVE: u64 = 256 * 1024 * 1024;
/// Folders inside one another.
const MAX_DEPTH: usize = 8;

/// A file, and what it is called where it comes from.
pub(super) struct Brought {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// Everything in these folders, archives and files, in order of their names.
pub(super) fn brought(sources: &[PathBuf]) -> anyhow::Result<Vec<Brought>> {
    let mut all = Vec::new();
    for source in sources {
        let context = || source.display().to_string();
        add(source, 0, &mut all).with_context(context)?;
    }
    Ok(all)
}

fn add(path: &Path, depth: usize, all: &mut Vec<Brought>) -> anyhow::Result<()> {
    if fs::metadata(path)?.is_dir() {
        ensure!(depth < MAX_DEPTH, "folders are nested too deep");
        for path in sorted(path)? {
            // A link inside a folder could lead anywhere, round in a circle too.
            if !fs::symlink_metadata(&path)?.is_symlink() {
                add(&path, depth + 1, all)?;
            }
        }
        return Ok(());
    }
    let name = path.display().to_string();
    let bytes = read_up_to(path, MAX_ARCHIVE)?;
    if tar::is_archive(&bytes) {
        for (inside, content) in tar::files(&bytes, MAX_FILES)? {
            let name = format!("{name}:{inside}");
            push(name, content.to_vec(), all)?;
        }
        return Ok(());
    }
    push(name, bytes, all)
}

fn push(name: String, bytes: Vec<u8>, all: &mut Vec<Brought>) -> anyhow::Result<()> {
    ensure!(all.len() < MAX_FILES, "more than {MAX_FILES} files");
    ensure!(
        bytes.len() <= MAX_FILE,
        "{name} is longer than {MAX_FILE} bytes"
    );
    all.push(Brought { name, bytes });
    Ok(())
}

fn sorted(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

/// A file as large as a document may be.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    read_up_to(path, u64::try_from(MAX_FILE)?)
}

fn read_up_to(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let context = || path.display().to_string();
    fs::File::open(path)
        .with_context(context)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|len| len <= limit);
    ensure!(fits, "{} is longer than {limit} bytes", path.display());
    Ok(bytes)
}

/// A folder of documents, each named by its digest.
pub(super) struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store in that folder, which is made if it is not there.
    pub(super) fn create(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        Self::open(folder)
    }

    /// The store in that folder.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        ensure!(folder.is_dir(), "{} is no folder", folder.display());
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    fn path(&self, document: &Document) -> PathBuf {
        let suffix = document.kind.suffix();
        self.folder.join(format!("{}{suffix}", document.digest))
    }

    /// It holds that document.
    pub(super) fn has(&self, document: &Document) -> bool {
        self.path(document).is_file()
    }

    /// Keeps a document: whole, or not at all.
    pub(super) fn put(&self, document: &Document) -> anyhow::Result<()> {
        let path = self.path(document);
        let part = path.with_extension(format!("part-{}", std::process::id()));
        let write = || {
            let mut file = fs::File::create(&part)?;
            file.write_all(&document.bytes)?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            fs::File::open(&self.folder)?.sync_all()
        };
        write().with_context(|| path.display().to_string())
    }

    /// All documents of these kinds, by the digest and the kind their names claim.
    pub(super) fn all(&self, kinds: &[Kind]) -> anyhow::Result<Vec<(String, Kind, Vec<u8>)>> {
        let mut all = Vec::new();
        for path in sorted(&self.folder)? {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.unwrap_or_default();
            let mut kinds = kinds.iter();
            let found = kinds.find_map(|kind| Some((*kind, name.strip_suffix(kind.suffix())?)));
            let Some((kind, digest)) = found else {
                continue;
            };
            ensure!(all.len() < MAX_FILES, "more than {MAX_FILES} documents");
            all.push((digest.to_owned(), kind, read(&path)?));
        }
        Ok(all)
    }
}
