//! Files of certificates.

use crate::error::ParseError;

use super::certificate::Certificate;
use super::pem::pem_blocks;

/// Certificates in one file. The curated list of every TPM maker's CAs has 170.
pub const MAX_BUNDLE: usize = 1024;

/// How every certificate begins: a SEQUENCE with two bytes of length.
const DER_SEQUENCE: [u8; 2] = [0x30, 0x82];

/// What a file of certificates holds.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// Those that could be read, in order.
    pub certificates: Vec<Certificate>,
    /// Those that could not, by place in the file from 0: one odd certificate among a hundred
    /// vendors' does not make the others useless.
    pub unreadable: Vec<(usize, ParseError)>,
}

impl Bundle {
    /// Reads PEM with any number of certificates and any text between them, or DER certificates
    /// one after the other, as Intel keeps the chain of its firmware TPM in NV, with padding at
    /// the end. Fails where there is nothing to read.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        // Comments may be in any encoding; the blocks are ASCII.
        let text = String::from_utf8_lossy(bytes);
        if bytes.starts_with(&DER_SEQUENCE) || !text.contains("-----BEGIN CERTIFICATE-----") {
            return Self::parse_der(bytes);
        }
        let mut bundle = Self::default();
        let blocks = pem_blocks(&text, "CERTIFICATE", MAX_BUNDLE)?;
        for (place, block) in blocks.into_iter().enumerate() {
            match Certificate::parse_padded(&block) {
                Ok(certificate) => bundle.certificates.push(certificate),
                Err(error) => bundle.unreadable.push((place, error)),
            }
        }
        Ok(bundle)
    }

    fn parse_der(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut bundle = Self::default();
        let mut rest = bytes;
        while rest.starts_with(&DER_SEQUENCE) && bundle.certificates.len() < MAX_BUNDLE {
            match Certificate::parse_padded(rest) {
                Ok(last) => {
                    bundle.certificates.push(last);
                    return Ok(bundle);
                }
                Err(_) => {
                    let (certificate, more) = Certificate::parse_first(rest)?;
                    bundle.certificates.push(certificate);
                    rest = more;
                }
            }
        }
        // Neither a certificate nor padding: say what is wrong with it.
        Certificate::parse_padded(rest)?;
        Ok(bundle)
    }
}
