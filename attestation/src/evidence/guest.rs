//! A guest without a TPM: what names it, and the key its processor vouches for.

use super::binding::{Nonce, padded};
use crate::ids::{DeploymentId, NodeId, Sha256Digest};

const TRANSPORT: &[u8] = b"bailiwick guest transport v1";
const GUEST: &[u8] = b"bailiwick guest v1";
/// How the name of a guest's key begins. Names of TPM keys begin with a `TPM_ALG_ID` and have another
/// length, so that neither can stand in the place of the other.
const NAME: &[u8; 5] = b"guest";

/// What stands for a guest where a TPM's EK digest stands: `SHA-256("bailiwick guest v1" ‖ 0 ‖ name)`.
///
/// Approvers give the name, and say beside it what has to be launched, and on which chips: what is
/// launched may change with their word, and the guest stays the one it was.
#[must_use]
pub fn guest_id(name: &NodeId) -> Sha256Digest {
    Sha256Digest::of(&[GUEST, &[0], name.as_str().as_bytes()])
}

/// Report data of the report a guest enrols with:
/// `SHA-256("bailiwick guest transport v1" ‖ deployment ‖ 0 ‖ nonce ‖ SHA-256(SPKI))`, zero-padded.
/// `key` is SHA-256 of the transport key's `SubjectPublicKeyInfo`.
#[must_use]
pub fn guest_transport_data(
    deployment: &DeploymentId,
    nonce: &Nonce,
    key: &Sha256Digest,
) -> [u8; 64] {
    let deployment = deployment.as_str().as_bytes();
    let parts = [
        TRANSPORT,
        deployment,
        &[0],
        nonce.as_bytes(),
        key.as_bytes(),
    ];
    padded(&Sha256Digest::of(&parts).0)
}

/// What a guest's processor signs for, as enrolment found it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GuestSigner {
    /// SHA-256 of the transport key's `SubjectPublicKeyInfo`. The key lives no longer than a boot.
    pub key: Sha256Digest,
    /// `REPORT_ID`: one running guest of its chip, or `TD_ID`: one launch. `None`: its processor tells
    /// guests apart by nothing.
    pub instance: Option<[u8; 32]>,
}

impl GuestSigner {
    /// What stands for it where the name of an AK stands: `"guest" ‖ SHA-256(SPKI)`, 37 bytes.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        [NAME.as_slice(), self.key.as_bytes()].concat()
    }

    /// The key that such a name is of; `None`: it is the name of another kind of key.
    #[must_use]
    pub fn key_named(name: &[u8]) -> Option<Sha256Digest> {
        name.strip_prefix(NAME.as_slice())
            .and_then(Sha256Digest::from_slice)
    }
}
