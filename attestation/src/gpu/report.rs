//! The report: a signed SPDM exchange, read forward and to its end.
//!
//! What a device returns is the request as it received it and its own response, one after the
//! other; multi-byte integers are little-endian. Layout: DMTF DSP0274 1.1, GET_MEASUREMENTS and
//! MEASUREMENTS; the opaque data are NVIDIA's. The signature is the last field of the response and
//! not the last bytes of what drivers hand out: some put zeros behind it.

use super::opaque::{Opaque, OpaqueRefused};
use crate::crypto::{self, HashAlgorithm, PublicKey, SignatureScheme, VerifyError, ecdsa_der};
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

use super::path::is_p384;

/// Longest report: the buffer NVML and NSCQ have for one.
pub const MAX_REPORT_BYTES: usize = 0x2000;
/// Zero bytes that may follow the signature: real reports have one.
const MAX_TRAILING: usize = 3;
/// SPDM 1.1, the version of every report whose layout is known.
const VERSION: u8 = 0x11;
/// `GET_MEASUREMENTS`
const GET_MEASUREMENTS: u8 = 0xe0;
/// `MEASUREMENTS`
const MEASUREMENTS: u8 = 0x60;
/// `GET_VERSION`, always sent as version 1.0: where a whole SPDM 1.2 transcript begins.
const TRANSCRIPT: [u8; 2] = [0x10, 0x84];
/// Param1 of the request: the response is to be signed.
const SIGNATURE_REQUESTED: u8 = 1;
/// Param2 of the request: all measurements.
const ALL_BLOCKS: u8 = 0xff;
/// The only specification of measurements there is.
const DMTF: u8 = 1;
/// Type and length before a measurement's value.
const DMTF_HEADER: u16 = 3;
/// Bytes of each half of the signature.
const HALF: usize = 48;

const STRUCTURE: &str = "report";

/// One measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Block<'a> {
    /// From 1.
    pub index: u8,
    /// `DMTFSpecMeasurementValueType`: what the device says it measured.
    pub value_type: u8,
    /// SHA-384 in every report seen.
    pub value: &'a [u8],
}

/// A report, borrowed from its bytes. Nothing in it is trusted before [`Report::verify`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report<'a> {
    /// Of the request: what the caller asked with. It alone shows that a report is fresh.
    pub nonce: &'a [u8; 32],
    /// Slot of the certificate chain that was asked for.
    pub slot: u8,
    /// Of the response: drawn by the device, proof of nothing to a caller.
    pub responder_nonce: &'a [u8; 32],
    /// Measurements as they stand; no index stands twice, and there is at least one.
    pub blocks: Vec<Block<'a>>,
    /// What the device says of itself beside the measurements.
    pub opaque: Opaque<'a>,
    /// Zero bytes found after the signature, which covers none of them.
    pub trailing_zeros: usize,
    signed: &'a [u8],
    signature: [&'a [u8; HALF]; 2],
}

/// Why bytes are not a report that can be judged.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReportRefused {
    /// Not the exchange it claims to be.
    #[error("malformed report")]
    Framing(#[source] ParseError),
    /// A version of SPDM that signs in another way.
    #[error("SPDM {}.{}: only reports of SPDM 1.1 can be judged", .0 >> 4, .0 & 0xf)]
    Version(u8),
    /// A whole transcript from GET_VERSION on, as SPDM 1.2 signs it.
    #[error("an SPDM 1.2 transcript: only reports of SPDM 1.1 can be judged")]
    Transcript,
    /// Something in the opaque data.
    #[error(transparent)]
    Opaque(#[from] OpaqueRefused),
}

impl ReportRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Framing(_) => "report-framing",
            Self::Version(_) | Self::Transcript => "unsupported-spdm-version",
            Self::Opaque(refused) => refused.code(),
        }
    }
}

impl From<ParseError> for ReportRefused {
    fn from(error: ParseError) -> Self {
        Self::Framing(error)
    }
}

impl<'a> Report<'a> {
    /// Reads one report to its last byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportRefused> {
        let mut r = Reader::new(STRUCTURE, bytes);
        if bytes.len() > MAX_REPORT_BYTES {
            let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            let fault = Fault::TooMany {
                found: as_u64(bytes.len()),
                limit: as_u64(MAX_REPORT_BYTES),
            };
            return Err(r.fault("report", fault).into());
        }
        if bytes.starts_with(&TRANSCRIPT) {
            return Err(ReportRefused::Transcript);
        }
        let version = r.u8("request.SPDMVersion")?;
        if let [code, ..] = r.rest()
            && (0x12..=0x1f).contains(&version)
            && *code == GET_MEASUREMENTS
        {
            return Err(ReportRefused::Version(version));
        }
        let mut r = Reader::new(STRUCTURE, bytes);
        expect(&mut r, "request.SPDMVersion", VERSION)?;
        expect(&mut r, "request.RequestResponseCode", GET_MEASUREMENTS)?;
        let at = r.offset();
        let param1 = r.u8("request.Param1")?;
        if param1 & SIGNATURE_REQUESTED == 0 {
            let fault = Fault::Rule("asks for no signature");
            return Err(r.fault_at("request.Param1", at, fault).into());
        }
        expect(&mut r, "request.Param2", ALL_BLOCKS)?;
        let nonce = array(&mut r, "request.Nonce")?;
        let slot = r.u8("request.SlotIDParam")? & 0x0f;

        expect(&mut r, "response.SPDMVersion", VERSION)?;
        expect(&mut r, "response.RequestResponseCode", MEASUREMENTS)?;
        r.take("response.Param1", 1)?;
        r.take("response.Param2", 1)?;
        let blocks = blocks(&mut r)?;
        let responder_nonce = array(&mut r, "response.Nonce")?;
        let len = r.u16_le("response.OpaqueDataLength")?;
        let opaque_at = r.offset();
        let opaque = r.take("response.OpaqueData", len.into())?;
        let opaque = Opaque::parse(opaque, opaque_at)?;
        let signed = bytes.get(..r.offset()).unwrap_or_default();
        let signature = [
            array(&mut r, "response.Signature.r")?,
            array(&mut r, "response.Signature.s")?,
        ];
        let trailing = r.rest();
        if trailing.len() > MAX_TRAILING || trailing.iter().any(|byte| *byte != 0) {
            return Err(r.fault("end", Fault::Trailing(trailing.len())).into());
        }
        Ok(Self {
            nonce,
            slot,
            responder_nonce,
            blocks,
            opaque,
            trailing_zeros: trailing.len(),
            signed,
            signature,
        })
    }

    /// Checks the signature by `key`, which has to be P-384.
    pub fn verify(&self, key: &PublicKey) -> Result<(), VerifyError> {
        if !is_p384(key) {
            return Err(VerifyError::KeyKind);
        }
        let [r, s] = self.signature;
        let scheme = SignatureScheme::Ecdsa(HashAlgorithm::Sha384);
        match ecdsa_der(r, s) {
            Some(der) => crypto::verify(key, scheme, self.signed, &der),
            None => Err(VerifyError::Mismatch),
        }
    }

    /// The value of the measurement with that SPDM index, from 1.
    #[must_use]
    pub fn block(&self, index: u8) -> Option<&'a [u8]> {
        let found = self.blocks.iter().find(|block| block.index == index);
        found.map(|block| block.value)
    }
}

/// The record, which holds exactly as many blocks, in exactly as many bytes, as it says.
fn blocks<'a>(r: &mut Reader<'a>) -> Result<Vec<Block<'a>>, ParseError> {
    let count_at = r.offset();
    let count = r.u8("response.NumberOfBlocks")?;
    if count == 0 {
        let fault = Fault::Rule("is zero: nothing was measured");
        return Err(r.fault_at("response.NumberOfBlocks", count_at, fault));
    }
    let [a, b, c] = r.array("response.MeasurementRecordLength")?;
    let len = u32::from_le_bytes([a, b, c, 0]);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let end = r.offset().saturating_add(len);
    if r.rest().len() < len {
        r.take("response.MeasurementRecord", len)?;
    }
    let mut blocks: Vec<Block<'a>> = Vec::with_capacity(count.into());
    for _ in 0..count {
        let at = r.offset();
        let index = r.u8("block.Index")?;
        if index == 0 || blocks.iter().any(|earlier| earlier.index == index) {
            let fault = Fault::Rule("is zero or stands twice");
            return Err(r.fault_at("block.Index", at, fault));
        }
        expect(r, "block.MeasurementSpecification", DMTF)?;
        let at = r.offset();
        let size = r.u16_le("block.MeasurementSize")?;
        let value_type = r.u8("block.ValueType")?;
        let value_len = r.u16_le("block.ValueSize")?;
        if size.checked_sub(DMTF_HEADER) != Some(value_len) {
            let fault = Fault::Rule("is not that of the value and its header");
            return Err(r.fault_at("block.MeasurementSize", at, fault));
        }
        let value = r.take("block.Value", value_len.into())?;
        blocks.push(Block {
            index,
            value_type,
            value,
        });
    }
    if r.offset() != end {
        let fault = Fault::Rule("is not that of its blocks");
        return Err(r.fault_at("response.MeasurementRecordLength", count_at + 1, fault));
    }
    Ok(blocks)
}

fn expect(r: &mut Reader<'_>, field: &'static str, want: u8) -> Result<(), ParseError> {
    let offset = r.offset();
    let found = r.u8(field)?;
    if found == want {
        return Ok(());
    }
    let fault = Fault::Mismatch {
        found: found.into(),
        want: want.into(),
    };
    Err(r.fault_at(field, offset, fault))
}

fn array<'a, const N: usize>(
    r: &mut Reader<'a>,
    field: &'static str,
) -> Result<&'a [u8; N], ParseError> {
    let left = r.rest().len();
    match r.take(field, N)?.first_chunk() {
        Some(array) => Ok(array),
        None => Err(r.fault(field, Fault::Truncated { want: N, left })),
    }
}
