//! A confidential guest without a TPM: a key of its own, and a processor that vouches for it.

use std::{fmt, sync::Arc};

use aws_lc_rs::{rand::SystemRandom, signature::EcdsaKeyPair};
use bailiwick_attestation::{Sha256Digest, evidence::GuestSigner};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    pki_types::SubjectPublicKeyInfoDer,
    sign::{Signer, SigningKey},
};
use tokio::sync::Mutex;

use super::keep::{self, KeyError};
use crate::{
    collect::tee::{Given, Tee, TeeError},
    config::TeeSection,
};

/// The key and the processor; clones are the same guest.
#[derive(Clone)]
pub struct Guest(Arc<Inner>);

struct Inner {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
    key: Sha256Digest,
    kept: bool,
    /// One question at a time: enrolment and the node's loop have the same entry of the kernel's.
    processor: Mutex<Tee>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Guest");
        shown.field("key", &self.0.key);
        shown.finish_non_exhaustive()
    }
}

impl Guest {
    /// The key of this boot, kept or drawn anew. Asks the processor nothing yet.
    pub fn open(section: &TeeSection, boot_id: &[u8; 16]) -> Result<Self, KeyError> {
        let kept = keep::key_of_boot(&section.key, boot_id)?;
        let spki = keep::spki(&kept.pair).ok_or(KeyError::Provider)?;
        Ok(Self(Arc::new(Inner {
            key: Sha256Digest::of(&[&spki]),
            pair: kept.pair,
            spki,
            kept: kept.was_there,
            processor: Mutex::new(Tee::new(section)),
        })))
    }

    /// What the processor signs for. It tells instances apart in each report; the agent needs none.
    #[must_use]
    pub fn signer(&self) -> GuestSigner {
        GuestSigner {
            key: self.0.key,
            instance: None,
        }
    }

    /// `SubjectPublicKeyInfo` of the key, DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.0.spki
    }

    /// An earlier run in this boot had the same key.
    #[must_use]
    pub fn was_kept(&self) -> bool {
        self.0.kept
    }

    /// Has the processor sign these data: its own report, which binds them and answers nobody else.
    pub async fn report(&self, data: [u8; 64]) -> Result<Given, TeeError> {
        self.0.processor.lock().await.signed(data).await
    }
}

impl SigningKey for Guest {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()).into())
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.0.spki.as_slice()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl From<Box<Guest>> for Box<dyn Signer> {
    fn from(guest: Box<Guest>) -> Self {
        guest
    }
}

impl Signer for Guest {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signed = self.0.pair.sign(&SystemRandom::new(), message);
        let signed = signed.map_err(|_unspecified| {
            rustls::Error::General("the guest's key does not sign".to_owned())
        })?;
        Ok(signed.as_ref().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
