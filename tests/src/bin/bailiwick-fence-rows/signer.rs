//! The approver of the rows' policies: an Ed25519 key drawn for each run, and its SSH signatures.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_attestation::proto::v1::{PolicyBundle, PolicyFile};
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{Draft, compose};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Name of the installation.
pub(crate) const DEPLOYMENT: &str = "rows";
const KEY_TYPE: &[u8] = b"ssh-ed25519";

/// Signs one version after another.
pub(crate) struct Signer {
    key: Ed25519KeyPair,
    deployment: DeploymentId,
    /// Version and digest of the newest manifest, by kind.
    newest: BTreeMap<&'static str, (u64, Sha256Digest)>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            key: Ed25519KeyPair::generate().context("draw a key")?,
            deployment: DeploymentId::new(DEPLOYMENT).context("the deployment's name")?,
            newest: BTreeMap::new(),
        })
    }

    /// The `allowed_signers` by which a machine knows it.
    pub(crate) fn allowed_signers(&self) -> String {
        format!("alice ssh-ed25519 {}\n", STANDARD.encode(self.public()))
    }

    /// The next version of a kind, signed.
    pub(crate) fn sign(
        &mut self,
        kind: Kind,
        files: BTreeMap<String, Vec<u8>>,
    ) -> Result<PolicyBundle> {
        let newest = self.newest.get(kind.as_str());
        let draft = Draft {
            deployment: &self.deployment,
            kind,
            version: newest.map_or(1, |(version, _)| version + 1),
            previous: newest.map(|(_, digest)| *digest),
            not_after: UnixTime::from_secs(4_000_000_000),
            reason: "the next row",
        };
        let manifest = compose(&draft, &files).context("compose a manifest")?;
        let signature = self.signature(kind.as_str(), manifest.as_bytes());
        let digest = Sha256Digest::of(&[manifest.as_bytes()]);
        self.newest.insert(kind.as_str(), (draft.version, digest));
        Ok(PolicyBundle {
            manifest: manifest.into_bytes(),
            signatures: vec![signature.into_bytes()],
            files: files
                .into_iter()
                .map(|(path, content)| PolicyFile { path, content })
                .collect(),
            before: Vec::new(),
        })
    }

    /// What was signed last was refused, and its number is free again.
    pub(crate) fn forget(&mut self, kind: Kind, before: Option<(u64, Sha256Digest)>) {
        match before {
            Some(before) => self.newest.insert(kind.as_str(), before),
            None => self.newest.remove(kind.as_str()),
        };
    }

    pub(crate) fn newest(&self, kind: Kind) -> Option<(u64, Sha256Digest)> {
        self.newest.get(kind.as_str()).copied()
    }

    fn public(&self) -> Vec<u8> {
        [string(KEY_TYPE), string(self.key.public_key().as_ref())].concat()
    }

    /// OpenSSH, PROTOCOL.sshsig.
    fn signature(&self, kind: &str, message: &[u8]) -> String {
        let namespace = format!("bailiwick/{DEPLOYMENT}/{kind}");
        let context = [string(namespace.as_bytes()), string(b""), string(b"sha512")].concat();
        let hash = digest::digest(&digest::SHA512, message);
        let signed = [b"SSHSIG", context.as_slice(), &string(hash.as_ref())].concat();
        let signature = [string(KEY_TYPE), string(self.key.sign(&signed).as_ref())].concat();
        let blob = [
            b"SSHSIG",
            1_u32.to_be_bytes().as_slice(),
            &string(&self.public()),
            &context,
            &string(&signature),
        ]
        .concat();
        let text = STANDARD.encode(blob);
        let mut armored = "-----BEGIN SSH SIGNATURE-----\n".to_owned();
        for (number, letter) in text.chars().enumerate() {
            if number > 0 && number % 70 == 0 {
                armored.push('\n');
            }
            armored.push(letter);
        }
        armored + "\n-----END SSH SIGNATURE-----\n"
    }
}

/// RFC 4251: length, then bytes.
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [length.to_be_bytes().as_slice(), bytes].concat()
}
