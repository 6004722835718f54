//! Who signs for this node: its TPM, or the processor that runs it as a confidential guest.
//!
//! Of either the rest of the agent needs the same: a name (an AK's, or [`GuestSigner::name`]), what
//! the collector keeps it under (the EK's digest, or [`guest_id`]), and a key for TLS. What only one of
//! them has is asked of that one ([`Signer::tpm`], [`Signer::guest`]).
//!
//! [`GuestSigner::name`]: bailiwick_attestation::evidence::GuestSigner::name

mod guest;
mod keep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bailiwick_attestation::{NodeId, Sha256Digest, evidence::guest_id};
use rustls::sign::SigningKey;

pub use guest::Guest;
pub use keep::{KeyError, check};

use crate::{
    collect::Host,
    config::{Config, SignedBy},
    tls,
    tpm::{Tpm, TpmError},
};

/// Who signs for this node. Clones are the same one.
#[derive(Clone, Debug)]
pub enum Signer {
    /// Quotes by the AK; the TLS key lives beside it.
    Tpm(Tpm),
    /// Reports of the processor, for a key that this guest drew in this boot.
    Guest(Guest),
}

/// Why nobody signs.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The guest's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The kernel's boot id, which a guest's key hangs on.
    #[error("boot id")]
    BootId(#[source] std::io::Error),
}

impl Signer {
    /// Opens the TPM, or draws the guest's key, as the configuration says. Blocks: some TPMs take
    /// seconds.
    pub fn open(config: &Config) -> Result<Self, SignerError> {
        match config.signer {
            SignedBy::Tpm => Ok(Tpm::open(config.tpm_settings())?.into()),
            SignedBy::Tee => {
                let host = Host::of(config);
                let boot_id = host.boot_id().map_err(SignerError::BootId)?;
                Ok(Guest::open(&config.tee, &boot_id)?.into())
            }
        }
    }

    /// Name of the AK, or what stands for it.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        match self {
            Self::Tpm(tpm) => tpm.identity().ak_name.clone(),
            Self::Guest(guest) => guest.signer().name(),
        }
    }

    /// What the collector keeps this node under: the EK's digest, or what stands for it. `node` is the
    /// name of its configuration, and a guest enrols under no other.
    #[must_use]
    pub fn id(&self, node: &NodeId) -> Sha256Digest {
        match self {
            Self::Tpm(tpm) => Sha256Digest::of(&[&tpm.identity().ek_public]),
            Self::Guest(_) => guest_id(node),
        }
    }

    /// `SubjectPublicKeyInfo` of the TLS key, DER: what certificates for this node certify.
    #[must_use]
    pub fn transport_spki(&self) -> Vec<u8> {
        match self {
            Self::Tpm(tpm) => tls::transport_spki(tpm),
            Self::Guest(guest) => guest.spki().to_vec(),
        }
    }

    /// The TLS key, as rustls wants one.
    #[must_use]
    pub fn tls_key(&self) -> Arc<dyn SigningKey> {
        match self {
            Self::Tpm(tpm) => tls::tpm_key(tpm),
            Self::Guest(guest) => Arc::new(guest.clone()),
        }
    }

    /// The key was there already when this process began: then this node had a log, too.
    #[must_use]
    pub fn key_was_kept(&self) -> bool {
        match self {
            Self::Tpm(tpm) => tpm.keys_were_kept(),
            Self::Guest(guest) => guest.was_kept(),
        }
    }

    /// What statements name of a guest's key; empty beside a quote.
    #[must_use]
    pub fn guest_key(&self) -> Vec<u8> {
        self.guest()
            .map_or_else(Vec::new, |guest| guest.signer().key.0.to_vec())
    }

    /// The TPM, where there is one.
    #[must_use]
    pub const fn tpm(&self) -> Option<&Tpm> {
        match self {
            Self::Tpm(tpm) => Some(tpm),
            Self::Guest(_) => None,
        }
    }

    /// The guest, where its processor signs.
    #[must_use]
    pub const fn guest(&self) -> Option<&Guest> {
        match self {
            Self::Tpm(_) => None,
            Self::Guest(guest) => Some(guest),
        }
    }
}

impl From<Tpm> for Signer {
    fn from(tpm: Tpm) -> Self {
        Self::Tpm(tpm)
    }
}

impl From<&Tpm> for Signer {
    fn from(tpm: &Tpm) -> Self {
        Self::Tpm(tpm.clone())
    }
}

impl From<&Self> for Signer {
    fn from(signer: &Self) -> Self {
        signer.clone()
    }
}

impl From<Guest> for Signer {
    fn from(guest: Guest) -> Self {
        Self::Guest(guest)
    }
}
