//! `TPMT_SIGNATURE`.

use crate::crypto::{self, HashAlgorithm, PreparedKey, PublicKey, SignatureScheme, VerifyError};
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

use super::public::hash;

/// RSASSA-PKCS1-v1_5
pub(super) const RSASSA: u16 = 0x0014;
/// RSASSA-PSS
pub(super) const RSAPSS: u16 = 0x0016;
/// ECDSA
pub(super) const ECDSA: u16 = 0x0018;

/// A signature as a TPM gives it, read but not checked.
///
/// Layout: TPM 2.0 Library r1.59, Part 2, `TPMT_SIGNATURE`. HMACs and the schemes nobody makes
/// quotes with (ECDAA, SM2, EC-Schnorr) are refused by number.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature {
    algorithm: u16,
    hash: HashAlgorithm,
    /// For ECDSA already as DER.
    value: Vec<u8>,
}

impl Signature {
    /// Reads one `TPMT_SIGNATURE` to its last byte.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("TPMT_SIGNATURE", bytes);
        let algorithm = r.u16("sigAlg")?;
        let (hash, value) = match algorithm {
            RSASSA | RSAPSS => {
                let hash = hash(&mut r, "signature.hash")?;
                let value = r.sized_u16("signature.sig.size", "signature.sig.buffer", 512)?;
                (hash, value.to_vec())
            }
            ECDSA => {
                let hash = hash(&mut r, "signature.hash")?;
                let offset = r.offset();
                let first = r.sized_u16("signatureR.size", "signatureR.buffer", 66)?;
                let second = r.sized_u16("signatureS.size", "signatureS.buffer", 66)?;
                let Some(value) = crypto::ecdsa_der(first, second) else {
                    let fault = Fault::Rule("is not a number that DER can hold");
                    return Err(r.fault_at("signatureR", offset, fault));
                };
                (hash, value)
            }
            found => {
                let fault = Fault::Unsupported {
                    found: found.into(),
                };
                return Err(r.fault_at("sigAlg", 0, fault));
            }
        };
        r.finish()?;
        Ok(Self {
            algorithm,
            hash,
            value,
        })
    }

    /// `TPM_ALG_ID` of the scheme.
    #[must_use]
    pub const fn algorithm(&self) -> u16 {
        self.algorithm
    }

    /// The hash of the scheme: over the message, and for a quote over the PCR values too.
    #[must_use]
    pub const fn hash(&self) -> HashAlgorithm {
        self.hash
    }

    /// Checks the signature by `key` over `message`, whatever the key may be allowed to sign.
    pub fn verify(&self, key: &PublicKey, message: &[u8]) -> Result<(), VerifyError> {
        crypto::verify(key, scheme(self.algorithm, self.hash), message, &self.value)
    }

    /// The same by a key that was read before.
    pub(super) fn verify_prepared(
        &self,
        key: &PreparedKey,
        message: &[u8],
    ) -> Result<(), VerifyError> {
        key.verify(scheme(self.algorithm, self.hash), message, &self.value)
    }
}

/// As the primitives call it.
pub(super) const fn scheme(algorithm: u16, hash: HashAlgorithm) -> SignatureScheme {
    match algorithm {
        RSASSA => SignatureScheme::RsaPkcs1(hash),
        RSAPSS => SignatureScheme::RsaPss(hash),
        _ => SignatureScheme::Ecdsa(hash),
    }
}
