//! Templates of the keys, and the blobs they are kept as.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tss_esapi::{
    attributes::{ObjectAttributes, ObjectAttributesBuilder},
    interface_types::{
        algorithm::{HashingAlgorithm, PublicAlgorithm},
        ecc::EccCurve,
        key_bits::RsaKeyBits,
    },
    structures::{
        EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Private, Public,
        PublicBuilder, PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder,
        RsaExponent, RsaScheme, SymmetricDefinitionObject,
    },
    traits::{Marshall, UnMarshall},
};

use super::{AkKind, TpmError};
use crate::files::write_atomically;

/// Parent of AK and transport key: P-256 storage key under the owner hierarchy, empty auth, as
/// TCG's provisioning guidance has it. A primary key: made anew from its template when needed.
pub(super) fn storage_template() -> tss_esapi::Result<Public> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_decrypt(true)
        .with_restricted(true)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new_restricted_decryption_key(
                SymmetricDefinitionObject::AES_128_CFB,
                EccCurve::NistP256,
            )
            .build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// The AK: restricted, so that it signs nothing the TPM did not make itself.
pub(super) fn ak_template(kind: AkKind) -> tss_esapi::Result<Public> {
    let attributes = signing_attributes(true)?;
    match kind {
        AkKind::EcdsaP256 => ecdsa_p256(attributes, true),
        AkKind::Rsassa2048 => PublicBuilder::new()
            .with_public_algorithm(PublicAlgorithm::Rsa)
            .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
            .with_object_attributes(attributes)
            .with_rsa_parameters(
                PublicRsaParametersBuilder::new()
                    .with_scheme(RsaScheme::RsaSsa(HashScheme::new(HashingAlgorithm::Sha256)))
                    .with_key_bits(RsaKeyBits::Rsa2048)
                    .with_exponent(RsaExponent::default())
                    .with_is_signing_key(true)
                    .with_is_decryption_key(false)
                    .with_restricted(true)
                    .build()?,
            )
            .with_rsa_unique_identifier(PublicKeyRsa::default())
            .build(),
    }
}

/// The TLS key: unrestricted (it signs handshakes), and as fixed to this TPM as the AK.
pub(super) fn transport_template() -> tss_esapi::Result<Public> {
    ecdsa_p256(signing_attributes(false)?, false)
}

fn signing_attributes(restricted: bool) -> tss_esapi::Result<ObjectAttributes> {
    ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        // Without a password there is nothing to guess, and a lockout of others must not stop us.
        .with_no_da(true)
        .with_sign_encrypt(true)
        .with_restricted(restricted)
        .build()
}

fn ecdsa_p256(attributes: ObjectAttributes, restricted: bool) -> tss_esapi::Result<Public> {
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(
            PublicEccParametersBuilder::new()
                .with_symmetric(SymmetricDefinitionObject::Null)
                .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
                .with_curve(EccCurve::NistP256)
                .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
                .with_is_signing_key(true)
                .with_is_decryption_key(false)
                .with_restricted(restricted)
                .build()?,
        )
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// A key as it lies in the state folder: `NAME.pub` (`TPMT_PUBLIC`) and `NAME.priv` (the content
/// of a `TPM2B_PRIVATE`, wrapped by the storage key).
#[derive(Clone)]
pub(super) struct Blob {
    pub(super) public: Public,
    pub(super) private: Private,
}

impl Blob {
    /// `None` where no such key was made yet.
    pub(super) fn read(folder: &Path, name: &str) -> Result<Option<Self>, TpmError> {
        let (public_file, private_file) = files(folder, name);
        let (Some(public), Some(private)) = (read(&public_file)?, read(&private_file)?) else {
            return Ok(None);
        };
        let refuse = |file: &Path, err: tss_esapi::Error| TpmError::Blob {
            file: file.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, err),
        };
        Ok(Some(Self {
            public: Public::unmarshall(&public).map_err(|err| refuse(&public_file, err))?,
            private: Private::try_from(private).map_err(|err| refuse(&private_file, err))?,
        }))
    }

    pub(super) fn write(&self, folder: &Path, name: &str) -> Result<(), TpmError> {
        let (public_file, private_file) = files(folder, name);
        let public = self.public.marshall().map_err(|source| TpmError::Command {
            doing: "marshal a public area",
            source,
        })?;
        // The private half first: a pair is complete once its public half is there.
        for (file, bytes) in [(private_file, self.private.to_vec()), (public_file, public)] {
            write_atomically(&file, &bytes).map_err(|source| TpmError::Blob { file, source })?;
        }
        Ok(())
    }
}

fn files(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    (
        folder.join(format!("{name}.pub")),
        folder.join(format!("{name}.priv")),
    )
}

fn read(file: &Path) -> Result<Option<Vec<u8>>, TpmError> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TpmError::Blob {
            file: file.to_owned(),
            source,
        }),
    }
}
