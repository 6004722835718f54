//! Commands about one area of the TPM's memory, for a process whose library lacks them: what
//! defines it, locking it, and the AK's word on it.
//!
//! The AK is loaded by another connection; its saved context brings it into this one.
//!
//! Layout: TPM 2.0 Library r1.59, Part 3, `TPM2_NV_ReadPublic`, `TPM2_NV_WriteLock`,
//! `TPM2_NV_Certify`, `TPM2_ContextLoad` and `TPM2_FlushContext`.

use crate::{Fault, ParseError, Reader};

use super::attest::QualifyingData;
use super::command::{NO_SESSIONS, PASSWORD_SESSION, ResponseRefused, SESSIONS, command, head};

/// `TPM_CC_NV_WriteLock`
const NV_WRITE_LOCK: u32 = 0x0000_0138;
/// `TPM_CC_ContextLoad`
const CONTEXT_LOAD: u32 = 0x0000_0161;
/// `TPM_CC_FlushContext`
const FLUSH_CONTEXT: u32 = 0x0000_0165;
/// `TPM_CC_NV_ReadPublic`
const NV_READ_PUBLIC: u32 = 0x0000_0169;
/// `TPM_CC_NV_Certify`
const NV_CERTIFY: u32 = 0x0000_0184;
/// `TPM_RH_OWNER`, whose authorization is empty.
const OWNER: u32 = 0x4000_0001;
/// `TPMT_SIG_SCHEME` that leaves the scheme to the key.
const KEYS_OWN_SCHEME: [u8; 2] = [0x00, 0x10];
/// Most bytes of a `TPM2B_NV_PUBLIC`: 14 fixed ones and a digest.
const MAX_NV_PUBLIC: u16 = 14 + 64;
/// Most bytes of a `TPM2B_ATTEST`: the longest area, and what is said about it.
const MAX_ATTEST: u16 = 2048 + 512;
/// `hmac` and `nonceTPM` of an answer to a password are empty: two lengths and the attributes.
const PASSWORD_ANSWER: usize = 5;

/// `count` authorizations by an empty password.
fn passwords(count: u32) -> Vec<u8> {
    let mut out = count.saturating_mul(9).to_be_bytes().to_vec();
    for _ in 0..count {
        out.extend(PASSWORD_SESSION.to_be_bytes());
        out.extend([0; 5]);
    }
    out
}

fn handles(handles: &[u32]) -> Vec<u8> {
    handles.iter().flat_map(|h| h.to_be_bytes()).collect()
}

/// `TPM2_NV_ReadPublic`.
#[must_use]
pub fn nv_read_public(index: u32) -> Vec<u8> {
    command(NO_SESSIONS, NV_READ_PUBLIC, &handles(&[index]))
}

/// `TPMS_NV_PUBLIC`, byte for byte: what the index's name is a hash over.
pub fn nv_read_public_response(response: &[u8]) -> Result<Vec<u8>, ResponseRefused> {
    let mut r = head(response, NO_SESSIONS)?;
    let mut read = || {
        let public = r.sized_u16("nvPublic.size", "nvPublic", MAX_NV_PUBLIC)?;
        r.sized_u16("nvName.size", "nvName", 2 + 64)?;
        r.clone().finish()?;
        Ok(public.to_vec())
    };
    read().map_err(ResponseRefused::Malformed)
}

/// `TPM2_NV_WriteLock` by the owner.
#[must_use]
pub fn nv_write_lock(index: u32) -> Vec<u8> {
    let body = [handles(&[OWNER, index]), passwords(1)].concat();
    command(SESSIONS, NV_WRITE_LOCK, &body)
}

/// Whether it is locked.
pub fn nv_write_lock_response(response: &[u8]) -> Result<(), ResponseRefused> {
    head(response, SESSIONS).map(drop)
}

/// `TPM2_NV_Certify` of the first `size` bytes, read by the owner, under the key's own scheme.
#[must_use]
pub fn nv_certify(key: u32, index: u32, qualifying: &QualifyingData, size: u16) -> Vec<u8> {
    let mut body = [handles(&[key, OWNER, index]), passwords(2)].concat();
    let data = qualifying.as_slice();
    // At most 64 bytes, by its type.
    body.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend(data);
    body.extend(KEYS_OWN_SCHEME);
    body.extend(size.to_be_bytes());
    body.extend([0, 0]);
    command(SESSIONS, NV_CERTIFY, &body)
}

/// `TPMS_ATTEST` and `TPMT_SIGNATURE`. Nothing in them is checked yet.
pub fn nv_certify_response(response: &[u8]) -> Result<(Vec<u8>, Vec<u8>), ResponseRefused> {
    let mut r = head(response, SESSIONS)?;
    let mut read = || -> Result<_, ParseError> {
        let at = r.offset();
        let size = r.u32("parameterSize")?;
        let left = r.rest().len().checked_sub(2 * PASSWORD_ANSWER);
        let Some(size) = left.filter(|left| usize::try_from(size) == Ok(*left)) else {
            let fault = Fault::Rule("leaves no room for two authorizations");
            return Err(r.fault_at("parameterSize", at, fault));
        };
        let parameters = r.take("parameters", size)?;
        let mut r = Reader::new("TPM2_NV_Certify", parameters);
        let attest = r.sized_u16("certifyInfo.size", "certifyInfo", MAX_ATTEST)?;
        Ok((attest.to_vec(), r.rest().to_vec()))
    };
    read().map_err(ResponseRefused::Malformed)
}

/// `TPM2_ContextLoad` of a marshalled `TPMS_CONTEXT`.
#[must_use]
pub fn context_load(context: &[u8]) -> Vec<u8> {
    command(NO_SESSIONS, CONTEXT_LOAD, context)
}

/// The handle it has now.
pub fn context_load_response(response: &[u8]) -> Result<u32, ResponseRefused> {
    let mut r = head(response, NO_SESSIONS)?;
    let mut read = || {
        let handle = r.u32("loadedHandle")?;
        r.clone().finish()?;
        Ok(handle)
    };
    read().map_err(ResponseRefused::Malformed)
}

/// `TPM2_FlushContext`.
#[must_use]
pub fn flush_context(handle: u32) -> Vec<u8> {
    command(NO_SESSIONS, FLUSH_CONTEXT, &handles(&[handle]))
}

/// Whether it is gone.
pub fn flush_context_response(response: &[u8]) -> Result<(), ResponseRefused> {
    head(response, NO_SESSIONS).map(drop)
}
