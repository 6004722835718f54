//! Commands for a process that needs two of them and no TPM library: extending a PCR, and reading
//! it back.
//!
//! Layout: TPM 2.0 Library r1.59, Part 3, `TPM2_PCR_Event` and `TPM2_PCR_Read`.

use crate::{
    Fault, ParseError, Reader,
    crypto::{Digest, HashAlgorithm},
};

use super::pcr::PcrSelection;

/// `TPM_ST_NO_SESSIONS`
pub(super) const NO_SESSIONS: u16 = 0x8001;
/// `TPM_ST_SESSIONS`
pub(super) const SESSIONS: u16 = 0x8002;
/// `TPM_CC_PCR_Event`
const PCR_EVENT: u32 = 0x0000_013c;
/// `TPM_CC_PCR_Read`
const PCR_READ: u32 = 0x0000_017e;
/// `TPM_RS_PW`: authorization by password, and a PCR's is empty.
pub(super) const PASSWORD_SESSION: u32 = 0x4000_0009;
/// Longest response read: one digest is asked for; TPMs have 4 KiB buffers.
pub const MAX_RESPONSE: usize = 4096;
/// Longest event of `TPM2_PCR_Event`: `TPM2B_EVENT`.
const MAX_EVENT: usize = 1024;

/// `TPM_RC_YIELDED`, `TPM_RC_TESTING` and `TPM_RC_RETRY`: the TPM did nothing and may be asked
/// again.
const AGAIN: [u32; 3] = [0x908, 0x90a, 0x922];

/// What a TPM did not do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ResponseRefused {
    /// Not a response to what was asked.
    #[error("malformed response")]
    Malformed(#[source] ParseError),
    /// `TPM_RC` other than success.
    #[error("the TPM answers with code {0:#x}")]
    Code(u32),
    /// The TPM has no such bank, or not this register in it.
    #[error("the TPM has no PCR {index} in a bank of {bank}")]
    NoRegister {
        /// The bank asked for.
        bank: HashAlgorithm,
        /// The register asked for.
        index: u8,
    },
}

impl ResponseRefused {
    /// Nothing was done, and the same command may be sent again at once.
    #[must_use]
    pub fn try_again(&self) -> bool {
        matches!(self, Self::Code(code) if AGAIN.contains(code))
    }
}

/// `TPM2_PCR_Event`: the TPM hashes `event` for every bank and extends each with its digest.
/// `None` for an event of more than 1024 bytes.
#[must_use]
pub fn pcr_event(index: u8, event: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(event.len())
        .ok()
        .filter(|_| event.len() <= MAX_EVENT)?;
    let mut body = u32::from(index).to_be_bytes().to_vec();
    // An authorization area of nine bytes: handle, no nonce, no attributes, no password.
    body.extend(9_u32.to_be_bytes());
    body.extend(PASSWORD_SESSION.to_be_bytes());
    body.extend([0; 5]);
    body.extend(length.to_be_bytes());
    body.extend(event);
    Some(command(SESSIONS, PCR_EVENT, &body))
}

/// Whether the event was extended. The digests that come with it are left alone: whoever replays
/// the log computes them.
pub fn pcr_event_response(response: &[u8]) -> Result<(), ResponseRefused> {
    head(response, SESSIONS).map(drop)
}

/// `TPM2_PCR_Read` of one register.
#[must_use]
pub fn pcr_read(bank: HashAlgorithm, index: u8) -> Vec<u8> {
    let selection = PcrSelection::of(bank, &[index]).marshal();
    command(NO_SESSIONS, PCR_READ, &selection)
}

/// The register's value.
pub fn pcr_read_response(
    response: &[u8],
    bank: HashAlgorithm,
    index: u8,
) -> Result<Digest, ResponseRefused> {
    let mut r = head(response, NO_SESSIONS)?;
    let mut read = || {
        r.u32("pcrUpdateCounter")?;
        let selection = PcrSelection::read(&mut r, "pcrSelectionOut")?;
        let at = r.offset();
        let count = r.u32("pcrValues.count")?;
        let mut value = None;
        if count > 1 {
            let fault = Fault::TooMany {
                found: count.into(),
                limit: 1,
            };
            return Err(r.fault_at("pcrValues.count", at, fault));
        }
        if count == 1 {
            let limit = u16::try_from(bank.digest_len()).unwrap_or(u16::MAX);
            let digest = r.sized_u16("pcrValues.size", "pcrValues.buffer", limit)?;
            value = Digest::from_slice(digest).filter(|_| digest.len() == bank.digest_len());
        }
        r.clone().finish()?;
        Ok(value.filter(|_| selection.registers().eq([(bank, index)])))
    };
    read()
        .map_err(ResponseRefused::Malformed)?
        .ok_or(ResponseRefused::NoRegister { bank, index })
}

pub(super) fn command(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let mut out = tag.to_be_bytes().to_vec();
    // Bodies have at most some thousands of bytes.
    let length = u32::try_from(body.len().saturating_add(10)).unwrap_or(u32::MAX);
    out.extend(length.to_be_bytes());
    out.extend(code.to_be_bytes());
    out.extend(body);
    out
}

/// Tag, length of the whole, response code.
pub(super) fn head(response: &[u8], want: u16) -> Result<Reader<'_>, ResponseRefused> {
    let mut r = Reader::new("TPM_RESPONSE", response);
    let mut read = || {
        let tag = r.u16("tag")?;
        let at = r.offset();
        let length = r.u32("responseSize")?;
        if usize::try_from(length) != Ok(response.len()) {
            let fault = Fault::Mismatch {
                found: length.into(),
                want: u64::try_from(response.len()).unwrap_or(u64::MAX),
            };
            return Err(r.fault_at("responseSize", at, fault));
        }
        Ok((tag, r.u32("responseCode")?))
    };
    let (tag, code) = read().map_err(ResponseRefused::Malformed)?;
    if code != 0 {
        return Err(ResponseRefused::Code(code));
    }
    if tag != want {
        let fault = Fault::Mismatch {
            found: tag.into(),
            want: want.into(),
        };
        return Err(ResponseRefused::Malformed(r.fault_at("tag", 0, fault)));
    }
    Ok(r)
}
