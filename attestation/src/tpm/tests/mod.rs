//! Hand-made TPM structures, signed by software keys: what a TPM would sign and what it never
//! would.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;
use crate::crypto::HashAlgorithm;

mod ak;
mod certify;
mod command;
mod credential;
mod ek;
mod ek_files;
mod iak;
mod makers;
mod nv;
mod pcr;
mod public;
mod quote;

/// `fixedTPM | fixedParent | sensitiveDataOrigin | userWithAuth | restricted | sign`
const AK: u32 = 0x0005_0072;
/// The same without `restricted`.
const TLS: u32 = 0x0004_0072;
/// `fixedTPM | fixedParent | sensitiveDataOrigin | adminWithPolicy | restricted | decrypt`
const EK: u32 = 0x0003_00b2;

const QUOTE: u16 = 0x8018;
const CERTIFY: u16 = 0x8017;
const TIME: u16 = 0x8019;

fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).unwrap();
    [&len.to_be_bytes(), bytes].concat()
}

/// An ECDSA P-256 key outside any TPM.
struct SoftKey(EcdsaKeyPair);

impl SoftKey {
    fn new() -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        Self(EcdsaKeyPair::generate(algorithm).unwrap())
    }

    /// `TPMT_PUBLIC` with these attributes, ECDSA with SHA-256.
    fn area(&self, attributes: u32) -> Vec<u8> {
        self.area_with(attributes, &[0x00, 0x18, 0x00, 0x0b])
    }

    /// The same with another `TPMT_ECC_SCHEME`.
    fn area_with(&self, attributes: u32, scheme: &[u8]) -> Vec<u8> {
        let point = self.0.public_key().as_ref();
        let mut out = vec![0x00, 0x23, 0x00, 0x0b];
        out.extend(attributes.to_be_bytes());
        out.extend([0, 0, 0x00, 0x10]);
        out.extend(scheme);
        out.extend([0x00, 0x03, 0x00, 0x10]);
        out.extend(sized(&point[1..33]));
        out.extend(sized(&point[33..]));
        out
    }

    fn public(&self, attributes: u32) -> Public {
        Public::parse(&self.area(attributes)).unwrap()
    }

    fn ak(&self) -> AkPublic {
        AkPublic::new(self.public(AK)).unwrap()
    }

    /// `TPMT_SIGNATURE`
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        let (r, s) = signature.as_ref().split_at(32);
        [&[0x00, 0x18, 0x00, 0x0b][..], &sized(r), &sized(s)].concat()
    }
}

/// `TPMS_ATTEST` around a body.
fn attest(kind: u16, extra: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff, b'T', b'C', b'G'];
    out.extend(kind.to_be_bytes());
    out.extend(sized(&[0x00, 0x0b]));
    out.extend(sized(extra));
    out.extend(5000u64.to_be_bytes());
    out.extend(7u32.to_be_bytes());
    out.extend(2u32.to_be_bytes());
    out.push(1);
    out.extend(0x2019_1023_0016_3636u64.to_be_bytes());
    out.extend(body);
    out
}

/// `TPMS_QUOTE_INFO`: banks with bitmaps, and the digest over `values`.
fn quote_info(banks: &[(HashAlgorithm, u32)], values: &[&[u8]]) -> Vec<u8> {
    let mut out = u32::try_from(banks.len()).unwrap().to_be_bytes().to_vec();
    for (bank, bitmap) in banks {
        out.extend(bank.tpm_id().to_be_bytes());
        out.push(3);
        out.extend(&bitmap.to_le_bytes()[..3]);
    }
    let digest = HashAlgorithm::Sha256.digest(values).unwrap();
    out.extend(sized(digest.as_slice()));
    out
}

fn certify_info(name: &[u8]) -> Vec<u8> {
    [sized(name), sized(&[0x00, 0x0b])].concat()
}

fn qualifying(bytes: &[u8]) -> QualifyingData {
    QualifyingData::new(bytes).unwrap()
}

/// An error and all its causes, as whoever logs prints them.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
