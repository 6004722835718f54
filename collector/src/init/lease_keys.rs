//! More than one lease key, so that one can be rotated and another thrown away.

use bailiwick_attestation::NodeId;
use bailiwick_attestation::standing::LeaseSigner;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{Identity, InitError, StateDir, ca, make_dir, write_new};

const FOLDER: &str = "lease-keys";

impl StateDir {
    /// Every key that may sign leases, the one `init` made first.
    pub fn lease_signers(&self, identity: &Identity) -> Result<Vec<LeaseSigner>, InitError> {
        let mut signers = vec![self.lease_signer("lease.key", &identity.lease_key_id)?];
        let folder = self.path(FOLDER);
        if !folder.is_dir() {
            return Ok(signers);
        }
        let failed = |source| InitError::File {
            path: folder.clone(),
            what: "read",
            source,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort();
        for name in names {
            if let Some(id) = name.strip_suffix(".key") {
                signers.push(self.lease_signer(&format!("{FOLDER}/{name}"), id)?);
            }
        }
        Ok(signers)
    }

    /// Makes one more lease key, and says what `collector.toml` of the policy has to say for it to
    /// count.
    pub fn add_lease_key(&self, id: &NodeId) -> Result<String, InitError> {
        let name = format!("{FOLDER}/{id}.key");
        make_dir(&self.path(FOLDER))?;
        write_new(&self.path(&name), ca::ed25519_key()?.as_bytes())?;
        let signer = self.lease_signer(&name, id.as_str())?;
        let public = signer.public().map_err(|error| InitError::Content {
            path: self.path(&name),
            fault: error.to_string(),
        })?;
        let key = BASE64_STANDARD.encode(public.ed25519);
        Ok(format!(
            "[[lease_key]]\nid = \"{id}\"\ned25519 = \"{key}\"\n"
        ))
    }

    fn lease_signer(&self, name: &str, id: &str) -> Result<LeaseSigner, InitError> {
        LeaseSigner::from_pkcs8(id, &self.pkcs8(name)?).map_err(|error| InitError::Content {
            path: self.path(name),
            fault: error.to_string(),
        })
    }
}
