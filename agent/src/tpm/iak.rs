//! The maker's initial attestation key: it lies at a persistent handle and certifies our AK.

use tss_esapi::{
    handles::{KeyHandle, PersistentTpmHandle, TpmHandle},
    interface_types::session_handles::AuthSession,
    structures::{Data, SignatureScheme},
    traits::Marshall,
};

use super::{
    Signed, TpmError,
    device::{Device, doing, signed},
    endorsement::read_nv,
};

/// The IAK and its word for the AK.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IakWord {
    /// `TPMT_PUBLIC`.
    pub public: Vec<u8>,
    /// `TPM2_Certify` of the AK.
    pub certified: Signed,
}

impl Device {
    /// `TPM2_Certify` of the AK by the key at this handle. Whether that is an IAK, its certificate
    /// says, to whoever has the maker's root.
    pub(super) fn certify_ak(
        &mut self,
        handle: u32,
        qualifying: &[u8; 32],
    ) -> Result<IakWord, TpmError> {
        let qualifying = Data::try_from(qualifying.as_slice()).map_err(doing("qualifying data"))?;
        let (public, attest, signature) = self.with_session("certify the AK", |session| {
            let handle = PersistentTpmHandle::new(handle)?;
            let context = &mut session.context;
            context.clear_sessions();
            let iak = context.tr_from_tpm_public(TpmHandle::Persistent(handle))?;
            let iak = KeyHandle::from(iak);
            let (public, ..) = context.read_public(iak)?;
            context.set_sessions((
                Some(AuthSession::Password),
                Some(AuthSession::Password),
                None,
            ));
            let (attest, signature) = context.certify(
                session.ak.into(),
                iak,
                qualifying.clone(),
                SignatureScheme::Null,
            )?;
            Ok((public, attest, signature))
        })?;
        Ok(IakWord {
            public: public.marshall().map_err(doing("marshal the IAK"))?,
            certified: signed(&attest, &signature)?,
        })
    }

    /// The content of an NV index.
    pub(super) fn nv_certificate(&mut self, index: u32) -> Result<Vec<u8>, TpmError> {
        self.with_session("read an IAK certificate", |session| {
            read_nv(&mut session.context, index)
        })
    }
}
