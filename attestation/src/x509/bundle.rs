//! Files of certificates.

use crate::error::ParseError;

use super::certificate::Certificate;
use super::pem::pem_blocks;

/// Certificates in one file. The curated list of every TPM maker's CAs has 170.
pub const MAX_BUNDLE: usize = 1024;

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
    /// Reads PEM with any number of certificates and any text between them, or one DER
    /// certificate. Fails where there is nothing to read.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let text = std::str::from_utf8(bytes).ok();
        let Some(text) = text.filter(|text| text.contains("-----BEGIN CERTIFICATE-----")) else {
            return Ok(Self {
                certificates: vec![Certificate::parse_padded(bytes)?],
                unreadable: Vec::new(),
            });
        };
        let mut bundle = Self::default();
        let blocks = pem_blocks(text, "CERTIFICATE", MAX_BUNDLE)?;
        for (place, block) in blocks.into_iter().enumerate() {
            match Certificate::parse_padded(&block) {
                Ok(certificate) => bundle.certificates.push(certificate),
                Err(error) => bundle.unreadable.push((place, error)),
            }
        }
        Ok(bundle)
    }
}
