//! What stands in the vTPM of Azure's confidential VMs: a processor's report, and what it binds.
//!
//! There the guest does not ask its processor. A paravisor does, at the most privileged level, which
//! the guest never runs at, and it keeps the TPM up there as well. It lays the report into the NV index
//! [`NV_INDEX`], beside a text that names the TPM's keys; the report's data are that text's hash. So
//! the processor says: whatever was launched as this measurement says that this AK is its own.
//!
//! Layout: "Confidential VM Guest Attestation Design Detail" (Microsoft), and
//! `openhcl_attestation_protocol::igvm_attest::get` of OpenVMM, where the structures have their names.
//! Header and request data are covered by nothing: they say where things lie, and decide nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use crate::crypto::{HashAlgorithm, PublicKey};
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// Where the report lies.
pub const NV_INDEX: u32 = 0x0140_0001;
/// Where the guest writes 64 bytes that the next report is to name.
pub const QUESTION_INDEX: u32 = 0x0140_0002;
/// Longest content of the index: 2600 bytes where it was seen.
pub const MAX_HCL_BYTES: usize = 16 * 1024;
/// Longest text: two keys and a dozen settings take 1200 bytes.
pub const MAX_RUNTIME_BYTES: usize = 8 * 1024;
/// `HCLA`
const SIGNATURE: u32 = 0x414c_4348;
/// Versions of header and request data whose layout is known.
const VERSIONS: [u32; 2] = [1, 2];
/// Room for the report of any processor.
const HARDWARE: usize = 1184;
/// `TDREPORT_STRUCT`
const TD_REPORT: usize = 1024;
/// `REPORTMACSTRUCT.REPORTDATA`
const TD_REPORT_DATA: usize = 128;
/// `IGVM_ATTEST_REQUEST_DATA`
const REQUEST: u32 = 20;
/// What version 2 may put between request data and text: capabilities.
const EXTENSION: u32 = 4;
/// Name of the key that signs quotes.
const AK: &str = "HCLAkPub";
/// Bits of an RSA modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// Bytes of the longest public exponent that TPMs have.
const MAX_EXPONENT: usize = 4;

/// The report of the processor beneath.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hardware<'a> {
    /// `ATTESTATION_REPORT` of SEV-SNP.
    SevSnp(&'a [u8]),
    /// `TDREPORT_STRUCT`: only the processor that made it can tell whether it did.
    Tdx(TdReport<'a>),
    /// There is none: the VM is no confidential one.
    None,
    /// Of another kind: hypervisor's, or to come.
    Other(u32),
}

/// The content of the index. Nothing in it is trusted yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HclReport<'a> {
    /// What the processor made.
    pub hardware: Hardware<'a>,
    /// How the text is hashed into it.
    pub hash: HashAlgorithm,
    /// The text, as it came: what the hash is of.
    pub runtime: &'a [u8],
    /// Where the text begins.
    offset: usize,
}

/// What the text says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Runtime {
    /// The key that signs quotes.
    pub ak: PublicKey,
    /// The question it was made for; `None`: the text has no place for one.
    pub question: Option<[u8; 64]>,
    /// What the platform calls the VM.
    pub vm: Option<String>,
}

impl<'a> HclReport<'a> {
    /// Reads the content of the index to its last byte; behind the text stand zeros, as many as the
    /// index has room for.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("HCL_ATTESTATION_REPORT", bytes);
        if bytes.len() > MAX_HCL_BYTES {
            return Err(r.fault("report", too_many(bytes.len(), MAX_HCL_BYTES)));
        }
        let found = r.u32_le("header.signature")?;
        if found != SIGNATURE {
            let (found, want) = (found.into(), SIGNATURE.into());
            return Err(r.fault_at("header.signature", 0, Fault::Mismatch { found, want }));
        }
        version(&mut r, "header.version")?;
        // The size of the whole or of the report within: writers differ.
        r.take("header.report_size", 4)?;
        r.take("header.request_type", 4)?;
        r.take("header.status", 4)?;
        r.take("header.reserved", 12)?;
        let hardware = r.array_ref::<HARDWARE>("attestation_report")?;
        let size_at = r.offset();
        let size = r.u32_le("request_data.data_size")?;
        let version = version(&mut r, "request_data.version")?;
        let hardware = match r.u32_le("request_data.report_type")? {
            2 => Hardware::SevSnp(hardware),
            4 => Hardware::Tdx(TdReport::parse(hardware)?),
            3 => Hardware::None,
            other => Hardware::Other(other),
        };
        let at = r.offset();
        let hash = match r.u32_le("request_data.report_data_hash_type")? {
            1 => HashAlgorithm::Sha256,
            2 => HashAlgorithm::Sha384,
            3 => HashAlgorithm::Sha512,
            other => {
                let found = other.into();
                let field = "request_data.report_data_hash_type";
                return Err(r.fault_at(field, at, Fault::Unsupported { found }));
            }
        };
        let at = r.offset();
        let length = r.u32_le("request_data.variable_data_size")?;
        let text = usize::try_from(length).unwrap_or(usize::MAX);
        if text > MAX_RUNTIME_BYTES {
            let fault = too_many(text, MAX_RUNTIME_BYTES);
            return Err(r.fault_at("request_data.variable_data_size", at, fault));
        }
        match size.checked_sub(REQUEST.saturating_add(length)) {
            Some(0) => {}
            Some(EXTENSION) if version > 1 => {
                r.take("request_data_ext.capability_bitmap", 4)?;
            }
            _ => {
                let (found, want) = (size.into(), u64::from(REQUEST) + u64::from(length));
                let fault = Fault::Mismatch { found, want };
                return Err(r.fault_at("request_data.data_size", size_at, fault));
            }
        }
        let offset = r.offset();
        let runtime = r.take("runtime_claims", text)?;
        zeros(&r, "padding", r.offset(), r.rest())?;
        Ok(Self {
            hardware,
            hash,
            runtime,
            offset,
        })
    }

    /// The data a report has that binds this text: its hash, and zeros.
    #[must_use]
    pub fn report_data(&self) -> [u8; 64] {
        let mut data = [0; 64];
        let digest = self.hash.digest(&[self.runtime]).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(digest.as_slice()) {
            *to = *from;
        }
        data
    }

    /// Reads the text: JSON in which nothing is said twice, with one RSA key that signs quotes.
    pub fn runtime(&self) -> Result<Runtime, ParseError> {
        let wrong = |field, within: usize, fault| ParseError {
            structure: "RuntimeClaims",
            field,
            offset: self.offset + within,
            fault,
        };
        let claims: Claims = serde_json::from_slice(self.runtime).map_err(|error| {
            let at = place(self.runtime, error.line(), error.column());
            wrong("text", at, Fault::Json(error.to_string()))
        })?;
        let rule = |field, rule| wrong(field, 0, Fault::Rule(rule));
        let mut named = claims.keys.iter().filter(|key| key.kid == AK);
        let Some(ak) = named.next() else {
            return Err(rule("keys", "hold no HCLAkPub"));
        };
        if named.next().is_some() {
            return Err(rule("keys", "hold HCLAkPub twice"));
        }
        Ok(Runtime {
            ak: ak.key().map_err(|(field, why)| rule(field, why))?,
            question: match claims.user_data.as_str() {
                "" => None,
                text => {
                    let mut data = [0; 64];
                    hex::decode_to_slice(text, &mut data)
                        .map_err(|_other| rule("user-data", "is not 128 hexadecimal digits"))?;
                    Some(data)
                }
            },
            vm: claims.vm.and_then(|vm| vm.id),
        })
    }
}

/// `TDREPORT_STRUCT`, as far as it is of use to somebody who cannot check it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TdReport<'a> {
    /// `REPORTMACSTRUCT.REPORTDATA`
    pub report_data: &'a [u8; 64],
}

impl<'a> TdReport<'a> {
    fn parse(room: &'a [u8; HARDWARE]) -> Result<Self, ParseError> {
        let mut r = Reader::new("TDREPORT_STRUCT", room);
        r.take("REPORTMACSTRUCT", TD_REPORT_DATA)?;
        let report_data = r.array_ref("REPORTDATA")?;
        r.take("rest", TD_REPORT - TD_REPORT_DATA - 64)?;
        zeros(&r, "padding", r.offset(), r.rest())?;
        Ok(Self { report_data })
    }
}

/// `RuntimeClaims`, as far as it is of use. What is said of the VM is its host's word.
#[derive(Deserialize)]
struct Claims {
    keys: Vec<Jwk>,
    #[serde(default, rename = "vm-configuration")]
    vm: Option<Vm>,
    #[serde(default, rename = "user-data")]
    user_data: String,
}

#[derive(Deserialize)]
struct Vm {
    #[serde(default, rename = "vmUniqueId")]
    id: Option<String>,
}

/// A key of RFC 7517 and 7518.
#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    #[serde(default)]
    key_ops: Vec<String>,
    #[serde(default)]
    e: String,
    #[serde(default)]
    n: String,
}

impl Jwk {
    /// The key, if it is what signs quotes: RSA, for signatures, each number written in one way.
    fn key(&self) -> Result<PublicKey, (&'static str, &'static str)> {
        if self.kty != "RSA" {
            return Err(("keys.kty", "is not RSA"));
        }
        if self.key_ops != ["sign"] {
            return Err(("keys.key_ops", "is not sign alone"));
        }
        let number = |field, text: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(text);
            let bytes = bytes.map_err(|_other| (field, "is not base64url without padding"))?;
            match bytes.first() {
                None => Err((field, "is absent")),
                Some(0) => Err((field, "begins with a zero")),
                Some(_) => Ok(bytes),
            }
        };
        let exponent = number("keys.e", &self.e)?;
        if exponent.len() > MAX_EXPONENT {
            return Err(("keys.e", "is longer than the exponent of any TPM"));
        }
        let key = PublicKey::rsa(&number("keys.n", &self.n)?, &exponent);
        if !key.rsa_bits().is_some_and(|bits| RSA_BITS.contains(&bits)) {
            return Err(("keys.n", "has not 2048 to 4096 bits"));
        }
        Ok(key)
    }
}

fn version(r: &mut Reader<'_>, field: &'static str) -> Result<u32, ParseError> {
    let at = r.offset();
    let found = r.u32_le(field)?;
    if VERSIONS.contains(&found) {
        return Ok(found);
    }
    let found = found.into();
    Err(r.fault_at(field, at, Fault::Unsupported { found }))
}

/// Padding hides nothing.
fn zeros(r: &Reader<'_>, field: &'static str, at: usize, bytes: &[u8]) -> Result<(), ParseError> {
    match bytes.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(within) => {
            let fault = Fault::Rule("is not zero");
            Err(r.fault_at(field, at.saturating_add(within), fault))
        }
    }
}

fn too_many(found: usize, limit: usize) -> Fault {
    let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Fault::TooMany {
        found: as_u64(found),
        limit: as_u64(limit),
    }
}

/// Where in the text a line and a column are, both counted from one.
fn place(text: &[u8], line: usize, column: usize) -> usize {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    before.saturating_add(column.saturating_sub(1))
}

#[cfg(test)]
pub(crate) mod tests;
