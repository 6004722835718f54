//! Private halves of the collector's key stores: files in the state folder, one per key.

use std::fmt;
use std::path::Path;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::events::hpke::{self, POINT};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

/// Folder of the private keys within the state folder.
pub(crate) const FOLDER: &str = "key-stores";

/// Key stores read: a rotated one is kept beside the new for as long as keys are wrapped for it.
const MOST: usize = 64;

/// A private key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// The folder or a file in it cannot be read.
    #[error("{file}: cannot be read")]
    Read {
        /// Folder or file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a P-256 private key.
    #[error("{file}: is not a P-256 private key in PKCS#8 PEM")]
    Key {
        /// The file.
        file: String,
    },
}

/// The name of a key store in the signed policy: `keys-` and eight digits of its public key.
#[must_use]
pub fn store_id(point: &[u8; POINT]) -> String {
    let digest = Sha256Digest::of(&[point]).to_string();
    format!("keys-{}", digest.get(..8).unwrap_or_default())
}

/// Public half of a private key in PEM, and the name that goes with it.
pub(crate) fn public_of(file: &str, pem: &[u8]) -> Result<(String, [u8; POINT]), KeyStoreError> {
    let private = private_key(file, pem)?;
    let point = hpke::point(&private).map_err(|_invalid| KeyStoreError::Key {
        file: file.to_owned(),
    })?;
    Ok((store_id(&point), point))
}

fn private_key(file: &str, pem: &[u8]) -> Result<PrivateKey, KeyStoreError> {
    let refuse = || KeyStoreError::Key {
        file: file.to_owned(),
    };
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_pem| refuse())?;
    PrivateKey::from_private_key_der(&ECDH_P256, der.secret_pkcs8_der()).map_err(|_key| refuse())
}

/// Every private key this collector holds, by name.
#[derive(Default)]
pub struct KeyStores(Vec<(String, PrivateKey)>);

impl fmt::Debug for KeyStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.0.iter().map(|(id, _)| id.as_str()).collect();
        f.debug_tuple("KeyStores").field(&ids).finish()
    }
}

impl KeyStores {
    /// Reads every `.key` file of the folder. None there: what nodes seal stays sealed here.
    pub fn read(folder: &Path) -> Result<Self, KeyStoreError> {
        let fail = |file: &Path| {
            let file = file.display().to_string();
            move |source| KeyStoreError::Read { file, source }
        };
        let listing = match std::fs::read_dir(folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(fail(folder)(error)),
        };
        let mut keys = Vec::new();
        for entry in listing.take(MOST) {
            let path = entry.map_err(fail(folder))?.path();
            if path.extension().is_none_or(|extension| extension != "key") {
                continue;
            }
            let pem = std::fs::read(&path).map_err(fail(&path))?;
            let name = path.display().to_string();
            let (id, _) = public_of(&name, &pem)?;
            keys.push((id, private_key(&name, &pem)?));
        }
        Ok(Self(keys))
    }

    /// The private key of this name.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&PrivateKey> {
        let found = self.0.iter().find(|(have, _)| have == id);
        found.map(|(_, key)| key)
    }

    /// Names and public halves.
    #[must_use]
    pub fn publics(&self) -> Vec<(String, [u8; POINT])> {
        let held = self.0.iter();
        held.filter_map(|(id, key)| Some((id.clone(), hpke::point(key).ok()?)))
            .collect()
    }

    /// Their names.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(id, _)| id.as_str())
    }
}
