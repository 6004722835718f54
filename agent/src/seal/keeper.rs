//! Where the keys outlive the process: a file that only the TPM opens, or nowhere.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bailiwick_attestation::Sha256Digest;
use tokio::task::block_in_place;
use tracing::warn;

use super::{Ring, SealerError, random, ring::MAX_ERASED};
use crate::{
    files::{read_bounded, sync_folder, write_atomically},
    tpm::Tpm,
};

/// Longest file of keys: [`super::MAX_KEYS`] of some 200 bytes.
const MAX_FILE: usize = 4 << 20;

/// What keeps the keys.
#[derive(Debug)]
pub(super) enum Keeper {
    /// A file, sealed with a master key that lies in the TPM.
    Tpm {
        tpm: Tpm,
        file: PathBuf,
        master: [u8; 32],
    },
    /// Nothing. What is written down are the erasures that were applied, for keys drawn after one are
    /// not meant by it; manifests have their digests in the record, and these say no more.
    Memory { erased: PathBuf },
}

impl Keeper {
    pub(super) async fn with_tpm(tpm: Tpm, state_dir: &Path) -> Result<(Self, Ring), SealerError> {
        let file = state_dir.join("log-keys");
        let master = match tpm.secret().await? {
            Some(master) => master,
            None => {
                let master = random()?;
                tpm.keep_secret(master).await?;
                master
            }
        };
        let ring = match block_in_place(|| read(&file, &master))? {
            Some(ring) => ring,
            None => Ring::new(random()?),
        };
        Ok((Self::Tpm { tpm, file, master }, ring))
    }

    pub(super) fn without(state_dir: &Path) -> Result<(Self, Ring), SealerError> {
        let erased = state_dir.join("log-erased");
        let known = match block_in_place(|| read_bounded(&erased, MAX_ERASED * 32)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                return Err(SealerError::File {
                    file: erased,
                    source,
                });
            }
        };
        let known = known.chunks_exact(32).filter_map(Sha256Digest::from_slice);
        let ring = Ring::new(random()?).after(known);
        Ok((Self::Memory { erased }, ring))
    }

    /// On disk when this returns, where there is a TPM to open it again.
    pub(super) fn keep(&self, ring: &Ring) -> Result<(), SealerError> {
        match self {
            Self::Tpm { file, master, .. } => write(file, ring, master),
            Self::Memory { .. } => Ok(()),
        }
    }

    /// A ring with fewer keys is on disk, and the one before is opened by nobody any more.
    pub(super) async fn replace(&mut self, ring: &Ring) -> Result<(), SealerError> {
        match self {
            Self::Tpm { tpm, file, master } => {
                let new = random()?;
                let next = next_of(file);
                // In this order: cut off before the TPM has the new master key, the old file stands
                // and the erasure is applied again; cut off after, the new file is found under its
                // other name.
                block_in_place(|| write(&next, ring, &new))?;
                tpm.keep_secret(new).await?;
                *master = new;
                Ok(())
            }
            Self::Memory { erased } => {
                let digests: Vec<[u8; 32]> = ring.erasures().map(|digest| digest.0).collect();
                block_in_place(|| write_atomically(erased, digests.as_flattened())).map_err(
                    |source| SealerError::File {
                        file: erased.clone(),
                        source,
                    },
                )
            }
        }
    }

    /// After [`Keeper::replace`]: under the name that the next start looks at first.
    pub(super) fn settle(&self) -> Result<(), SealerError> {
        match self {
            Self::Tpm { file, .. } => block_in_place(|| settle(&next_of(file), file)),
            Self::Memory { .. } => Ok(()),
        }
    }
}

fn write(file: &Path, ring: &Ring, master: &[u8; 32]) -> Result<(), SealerError> {
    let sealed = ring.seal(master, random()?);
    write_atomically(file, &sealed.ok_or(SealerError::Provider)?).map_err(|source| {
        SealerError::File {
            file: file.to_owned(),
            source,
        }
    })
}

/// The keys, from the file or from the one that was to replace it.
fn read(file: &Path, master: &[u8; 32]) -> Result<Option<Ring>, SealerError> {
    let next = next_of(file);
    for (name, replaces) in [(file, false), (next.as_path(), true)] {
        let bytes = match read_bounded(name, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                return Err(SealerError::File {
                    file: name.to_owned(),
                    source,
                });
            }
        };
        match Ring::open(master, &bytes) {
            Some(ring) => {
                if replaces {
                    settle(name, file)?;
                }
                return Ok(Some(ring));
            }
            None => warn!(file = %name.display(), "keys that this TPM does not open"),
        }
    }
    Ok(None)
}

pub(super) fn next_of(file: &Path) -> PathBuf {
    file.with_extension("next")
}

fn settle(next: &Path, file: &Path) -> Result<(), SealerError> {
    let folder = file.parent().unwrap_or_else(|| Path::new("/"));
    fs::rename(next, file)
        .and_then(|()| sync_folder(folder))
        .map_err(|source| SealerError::File {
            file: file.to_owned(),
            source,
        })
}
