//! The key of a guest, for one boot and in memory alone.
//!
//! A processor that tells guests apart by nothing (TDX) has the key stand for the instance, so that a
//! new key at each start of the agent would be a second instance each time. The key is therefore kept,
//! together with the kernel's boot id, in one file of a file system that is memory. A file that is not
//! what this module writes is not repaired and not believed: another key is drawn and takes its place.
//! Whatever could have been read by others, or put there by them, signs nothing.
//!
//! Layout, 118 bytes: `BWGK` and a format byte 1; boot id, 16; private scalar, 32, big-endian; public
//! point, 65, uncompressed.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    encoding::AsBigEndian as _,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use bailiwick_attestation::crypto::{Curve, PublicKey};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, fstatfs, open, openat, renameat, unlinkat},
    io::Errno,
    process::geteuid,
};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::files::make_private_folder;

const MAGIC: [u8; 5] = *b"BWGK\x01";
const SCALAR: usize = 32;
const POINT: usize = 65;
/// Bytes of the file.
pub(super) const LENGTH: usize = MAGIC.len() + 16 + SCALAR + POINT;

/// `TMPFS_MAGIC`, `RAMFS_MAGIC`: `linux/magic.h`.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// How the folder is opened.
const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// How the key is opened: not followed where it is a link, and not waited for where it is a pipe.
const KEY: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A disk outlives the boot, and who has it reads it.
    #[error(
        "tee.key: {} lies on no tmpfs or ramfs: the key of a guest is kept in memory alone",
        .0.display()
    )]
    NotInMemory(PathBuf),
    /// Somebody else could put another file there, or take this one.
    #[error("tee.key: {} is not this user's alone to write to", .0.display())]
    Folder(PathBuf),
    /// A file or folder.
    #[error("tee.key: {doing} {}", .file.display())]
    File {
        /// What was done.
        doing: &'static str,
        /// With what.
        file: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// No randomness.
    #[error("the cryptographic provider failed")]
    Provider,
}

/// A key, and whether an earlier run of this boot had it.
pub(super) struct Kept {
    pub(super) pair: EcdsaKeyPair,
    pub(super) was_there: bool,
}

/// The key of this boot: the one that is kept, or one that is drawn now and kept from here on.
pub(super) fn key_of_boot(file: &Path, boot_id: &[u8; 16]) -> Result<Kept, KeyError> {
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    if !folder.is_dir() {
        make_private_folder(folder).map_err(|source| KeyError::File {
            doing: "making",
            file: folder.to_owned(),
            source,
        })?;
    }
    let place = Place::open(folder, file.file_name().unwrap_or_default())?;
    match place.read(boot_id) {
        Ok(pair) => {
            return Ok(Kept {
                pair,
                was_there: true,
            });
        }
        Err(Unfit::Absent) => {}
        Err(Unfit::OtherBoot) => info!("another boot: the guest draws another key"),
        Err(Unfit::Strange(why)) => {
            warn!(file = %file.display(), why, "not a key of this guest: another one is drawn");
        }
    }
    let drawn = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING);
    let pair = drawn.map_err(|_unspecified| KeyError::Provider)?;
    place.write(&pair, boot_id)?;
    Ok(Kept {
        pair,
        was_there: false,
    })
}

/// Whether a key could be kept there. Nothing is made or read.
pub fn check(file: &Path) -> Result<(), KeyError> {
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    // What is missing is made below the first folder that is there.
    let there = folder.ancestors().find(|folder| folder.is_dir());
    Place::open(there.unwrap_or(folder), OsStr::new("")).map(drop)
}

/// `SubjectPublicKeyInfo`, DER.
pub(super) fn spki(pair: &EcdsaKeyPair) -> Option<Vec<u8>> {
    let (_, point) = pair.public_key().as_ref().split_first()?;
    let (x, y) = point.split_first_chunk::<32>()?;
    let key = PublicKey::ec_from_coordinates(Curve::P256, x, y)?;
    Some(key.to_spki_der())
}

/// Why a file is not taken for the key.
#[derive(Debug)]
enum Unfit {
    Absent,
    OtherBoot,
    Strange(String),
}

/// A name in a folder that is memory and nobody else's.
struct Place<'a> {
    folder: OwnedFd,
    path: PathBuf,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    fn open(folder: &Path, name: &'a OsStr) -> Result<Self, KeyError> {
        let failed = |errno: Errno| KeyError::File {
            doing: "opening",
            file: folder.to_owned(),
            source: errno.into(),
        };
        let fd = open(folder, FOLDER, Mode::empty()).map_err(failed)?;
        // Of what was opened, whatever the path means a moment later.
        let system = fstatfs(&fd).map_err(failed)?;
        if !IN_MEMORY.contains(&system.f_type) {
            return Err(KeyError::NotInMemory(folder.to_owned()));
        }
        let stat = fstat(&fd).map_err(failed)?;
        let owner = [0, geteuid().as_raw()].contains(&stat.st_uid);
        // In a sticky folder (`/dev/shm`, `/tmp`) nobody takes another's file away, but anybody may be
        // there first with its name.
        if !owner || stat.st_mode & 0o022 != 0 {
            return Err(KeyError::Folder(folder.to_owned()));
        }
        Ok(Self {
            folder: fd,
            path: folder.join(name),
            name,
        })
    }

    fn read(&self, boot_id: &[u8; 16]) -> Result<EcdsaKeyPair, Unfit> {
        let strange = |why: &str| Unfit::Strange(why.to_owned());
        let fd = match openat(&self.folder, self.name, KEY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Err(Unfit::Absent),
            Err(errno) => return Err(Unfit::Strange(errno.to_string())),
        };
        let stat = fstat(&fd).map_err(|errno| Unfit::Strange(errno.to_string()))?;
        if let Some(why) = fault(&stat) {
            return Err(strange(why));
        }
        let mut bytes = Zeroizing::new([0; LENGTH]);
        let mut file = File::from(fd);
        let read = file.read_exact(bytes.as_mut_slice());
        read.map_err(|error| Unfit::Strange(error.to_string()))?;
        let Some((magic, rest)) = bytes.split_first_chunk::<5>() else {
            return Err(strange("no format"));
        };
        let Some((boot, rest)) = rest.split_first_chunk::<16>() else {
            return Err(strange("no boot id"));
        };
        let Some((scalar, point)) = rest.split_first_chunk::<SCALAR>() else {
            return Err(strange("no key"));
        };
        if *magic != MAGIC {
            return Err(strange("another format"));
        }
        if boot != boot_id {
            return Err(Unfit::OtherBoot);
        }
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        EcdsaKeyPair::from_private_key_and_public_key(algorithm, scalar, point)
            .map_err(|rejected| Unfit::Strange(rejected.to_string()))
    }

    /// Written under another name and moved: there is the old file or the new one, and a link that
    /// somebody laid there is replaced, not followed.
    fn write(&self, pair: &EcdsaKeyPair, boot_id: &[u8; 16]) -> Result<(), KeyError> {
        let scalar = pair.private_key().as_be_bytes();
        let scalar = scalar.map_err(|_unspecified| KeyError::Provider)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH));
        for part in [
            MAGIC.as_slice(),
            boot_id,
            scalar.as_ref(),
            pair.public_key().as_ref(),
        ] {
            bytes.extend_from_slice(part);
        }
        let mut new = self.name.to_owned();
        new.push(".new");
        let failed = |doing: &'static str| {
            let file = self.path.clone();
            move |source: io::Error| KeyError::File {
                doing,
                file,
                source,
            }
        };
        match unlinkat(&self.folder, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed("clearing the way for")(errno.into())),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.folder, &new, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("making")(errno.into()))?;
        let written = File::from(fd).write_all(&bytes);
        written.map_err(failed("writing"))?;
        renameat(&self.folder, &new, &self.folder, self.name).map_err(|errno| {
            // No key lies about under a name that nobody reads.
            if let Err(left) = unlinkat(&self.folder, &new, AtFlags::empty()) {
                warn!(%left, file = %self.path.display(), "its new content is left beside it");
            }
            failed("replacing")(errno.into())
        })
    }
}

/// What keeps a file from being the one this module wrote.
fn fault(stat: &Stat) -> Option<&'static str> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Some("no regular file");
    }
    if stat.st_uid != geteuid().as_raw() {
        return Some("another user's");
    }
    if stat.st_mode & 0o7777 != 0o600 {
        return Some("others could have read or written it");
    }
    if stat.st_nlink != 1 {
        return Some("it has a second name");
    }
    if stat.st_size != i64::try_from(LENGTH).unwrap_or(i64::MAX) {
        return Some("of another length");
    }
    None
}
