//! The armored signature and what it covers.

use aws_lc_rs::digest::{self, SHA256, SHA512};
use bailiwick_attestation::{Fault, ParseError, Reader};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{KeyFault, PublicKey, string, text};

/// Most bytes of an armored signature: RSA of 8192 bits needs some three thousand.
pub const SIGNATURE_LIMIT: usize = 16 * 1024;

const MAGIC: &[u8; 6] = b"SSHSIG";
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";

/// A well-formed signature. Nothing in it is trusted yet.
#[derive(Clone, Debug)]
pub struct SshSignature {
    /// Who is said to have signed.
    pub key: PublicKey,
    /// What for.
    pub namespace: String,
    hash: Hash,
    signature: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha512,
}

/// Why a signature does not count.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignatureFault {
    /// The armor is not what `ssh-keygen -Y sign` writes.
    #[error("{0}")]
    Armor(&'static str),
    /// The bytes are no signature.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// The key cannot approve.
    #[error(transparent)]
    Key(#[from] KeyFault),
    /// The message was hashed by something else than SHA-256 or SHA-512.
    #[error("hash {0:?}; sha256 and sha512 are accepted")]
    Hash(String),
    /// The signature is of another kind than the key, or one that is not accepted.
    #[error("signature algorithm {found:?} with a key of type {key}")]
    Algorithm {
        /// What the signature says.
        found: String,
        /// What the key is.
        key: &'static str,
    },
    /// Made for something else.
    #[error("made for namespace {found:?}, not {want:?}")]
    Namespace {
        /// What the signature says.
        found: String,
        /// What it should say.
        want: String,
    },
    /// A hardware key signed with nobody touching it.
    #[error("nobody touched the hardware key: sign again with one made without no-touch-required")]
    NobodyPresent,
    /// The arithmetic says no: other bytes, or another key.
    #[error("does not verify over these bytes")]
    DoesNotVerify,
}

impl SshSignature {
    /// Reads what `ssh-keygen -Y sign` wrote, armor and all.
    pub fn parse(armored: &[u8]) -> Result<Self, SignatureFault> {
        Self::parse_blob(&dearmor(armored)?)
    }

    /// Reads what stands inside the armor, to its last byte.
    pub fn parse_blob(blob: &[u8]) -> Result<Self, SignatureFault> {
        let mut r = Reader::new("SSHSIG", blob);
        if &r.array::<6>("magic")? != MAGIC {
            return Err(r.fault_at("magic", 0, Fault::Rule("is not SSHSIG")).into());
        }
        r.expect_u32("version", 1)?;
        let key = PublicKey::parse(string(&mut r, "publickey")?)?;
        let namespace = text(&mut r, "namespace")?.to_owned();
        let offset = r.offset();
        if !string(&mut r, "reserved")?.is_empty() {
            return Err(r
                .fault_at("reserved", offset, Fault::Rule("is not empty"))
                .into());
        }
        let hash = match text(&mut r, "hash_algorithm")? {
            "sha256" => Hash::Sha256,
            "sha512" => Hash::Sha512,
            other => return Err(SignatureFault::Hash(other.chars().take(80).collect())),
        };
        let signature = string(&mut r, "signature")?.to_vec();
        r.finish()?;
        Ok(Self {
            key,
            namespace,
            hash,
            signature,
        })
    }

    /// Whether the key signed exactly `message`, for exactly `namespace`.
    pub fn verify(&self, namespace: &str, message: &[u8]) -> Result<(), SignatureFault> {
        if self.namespace != namespace {
            return Err(SignatureFault::Namespace {
                found: self.namespace.chars().take(200).collect(),
                want: namespace.to_owned(),
            });
        }
        self.key.verify(&self.signature, &self.covered(message))
    }

    /// PROTOCOL.sshsig §3: what is signed.
    fn covered(&self, message: &[u8]) -> Vec<u8> {
        let (name, algorithm) = match self.hash {
            Hash::Sha256 => ("sha256", &SHA256),
            Hash::Sha512 => ("sha512", &SHA512),
        };
        let digest = digest::digest(algorithm, message);
        let mut out = MAGIC.to_vec();
        for part in [
            self.namespace.as_bytes(),
            b"",
            name.as_bytes(),
            digest.as_ref(),
        ] {
            let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
            out.extend(len.to_be_bytes());
            out.extend(part);
        }
        out
    }
}

/// What stands inside the armor of `ssh-keygen -Y sign`.
pub fn dearmor(armored: &[u8]) -> Result<Vec<u8>, SignatureFault> {
    if armored.len() > SIGNATURE_LIMIT {
        return Err(SignatureFault::Armor("longer than any signature is"));
    }
    let text = std::str::from_utf8(armored)
        .map_err(|_err| SignatureFault::Armor("is not text: give the armored .sig file"))?;
    let body = text
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.trim_end().strip_suffix(END))
        .ok_or(SignatureFault::Armor(
            "is not one block from -----BEGIN SSH SIGNATURE----- to its END",
        ))?;
    let body: String = body.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    STANDARD
        .decode(body)
        .map_err(|_err| SignatureFault::Armor("is not base64 between its BEGIN and END lines"))
}
