//! The node's geotag in the TPM: locked in once, certified with every statement.
//!
//! The library lacks three commands this needs, so they go beside it over a connection of their
//! own (`raw.rs`). The AK comes along as a saved context: the library's connection keeps its own.

use bailiwick_attestation::tpm::{
    CertifiedNv, NvPublic, QualifyingData, context_load, context_load_response, flush_context,
    flush_context_response, nv_certify, nv_certify_response, nv_read_public,
    nv_read_public_response, nv_write_lock, nv_write_lock_response,
};
use tracing::warn;
use tss_esapi::{handles::ObjectHandle, utils::TpmsContext};
use tss_esapi_sys::TPMS_CONTEXT;

use super::{
    CertifiedArea, Signed, TpmError,
    device::Device,
    nv,
    raw::{Address, RawError, Talk},
};

/// What `Esys_ContextSave` puts before the TPM's own bytes: a word that is zero.
const LIBRARY_HEAD: usize = 4;

impl Device {
    /// Writes the record and locks it; what stood there before is gone.
    pub(super) fn provision_geotag(&mut self, record: &[u8]) -> Result<(), TpmError> {
        let address = self.address()?;
        let most = self.with_session("ask for the size of NV buffers", |session| {
            nv::buffer(&mut session.context)
        })?;
        if record.len() > most {
            // One command could not certify the whole of it.
            let found = record.len();
            return Err(TpmError::Geotag { found, most });
        }
        self.with_session("write the geotag", |session| {
            nv::write_lockable(&mut session.context, nv::GEOTAG, record)
        })?;
        Talk::begin(&address)
            .and_then(|mut talk| talk.ask(&nv_write_lock(nv::GEOTAG), nv_write_lock_response))
            .map_err(doing("lock the geotag"))
    }

    /// The area as it is, under the AK; `None` where there is none.
    pub(super) fn certify_geotag(
        &mut self,
        qualifying: &[u8; 32],
    ) -> Result<Option<CertifiedArea>, TpmError> {
        let want = QualifyingData::new(qualifying).ok_or(TpmError::Answer("qualifying data"))?;
        let saved = self.with_session("look for the geotag", |session| {
            if !nv::exists(&mut session.context, nv::GEOTAG)? {
                return Ok(None);
            }
            let ak = ObjectHandle::from(session.ak);
            session.context.context_save(ak).map(Some)
        })?;
        let Some(saved) = saved else {
            return Ok(None);
        };
        let saved = marshalled(saved).ok_or(TpmError::Answer("a saved context of the AK"))?;
        let address = self.address()?;
        let certified = Talk::begin(&address)
            .and_then(|mut talk| certify(&mut talk, &saved, &want))
            .map_err(doing("certify the geotag"))?;
        let (public, signed) = certified;
        let shown = CertifiedNv::verify(
            nv::GEOTAG,
            &public,
            &signed.attest,
            &signed.signature,
            &self.ak_public,
            &want,
        );
        // What the collector will say of it: it is sent all the same, and it says why.
        let contents = shown.map(|shown| shown.contents().to_vec());
        Ok(Some(CertifiedArea {
            public,
            signed,
            contents,
        }))
    }

    fn address(&self) -> Result<Address, TpmError> {
        let tcti = self.settings.tcti.to_string();
        let address = Address::parse(&tcti).ok_or(RawError::Address(tcti));
        address.map_err(doing("reach it without its library"))
    }
}

fn doing(doing: &'static str) -> impl Fn(RawError) -> TpmError {
    move |source| TpmError::Raw { doing, source }
}

fn certify(
    talk: &mut Talk<'_>,
    ak: &[u8],
    want: &QualifyingData,
) -> Result<(Vec<u8>, Signed), RawError> {
    let public = talk.ask(&nv_read_public(nv::GEOTAG), nv_read_public_response)?;
    // What cannot be read has no size; the certification is refused by whoever reads it.
    let size = NvPublic::parse(&public).map_or(0, |public| public.data_size);
    let ak = talk.ask(&context_load(ak), context_load_response)?;
    let command = nv_certify(ak, nv::GEOTAG, want, size);
    let certified = talk.ask(&command, nv_certify_response);
    if let Err(error) = talk.ask(&flush_context(ak), flush_context_response) {
        warn!(%error, "a key stays loaded");
    }
    let (attest, signature) = certified?;
    Ok((public, Signed { attest, signature }))
}

/// `TPMS_CONTEXT` as the TPM made it. The library keeps it wrapped, with what it knows of the object
/// behind the TPM's own bytes.
fn marshalled(saved: TpmsContext) -> Option<Vec<u8>> {
    let saved = TPMS_CONTEXT::try_from(saved).ok()?;
    let wrapped = &saved.contextBlob;
    let wrapped = wrapped.buffer.get(..usize::from(wrapped.size))?;
    let (head, rest) = wrapped.split_at_checked(LIBRARY_HEAD)?;
    let (size, rest) = rest.split_first_chunk::<2>()?;
    let blob = rest.get(..usize::from(u16::from_be_bytes(*size)))?;
    if head.iter().any(|byte| *byte != 0) {
        return None;
    }
    let mut out = saved.sequence.to_be_bytes().to_vec();
    out.extend(saved.savedHandle.to_be_bytes());
    out.extend(saved.hierarchy.to_be_bytes());
    out.extend(size);
    out.extend(blob);
    Some(out)
}
