//! The endorsement key: made from the TCG's template, certified in NV, used for one thing.

use tracing::{debug, info, warn};
use tss_esapi::{
    Context,
    abstraction::{AsymmetricAlgorithmSelection, DefaultKey, ek, nv},
    constants::{CapabilityType, SessionType},
    handles::{AuthHandle, KeyHandle, NvIndexTpmHandle, SessionHandle, TpmHandle},
    interface_types::{
        algorithm::HashingAlgorithm,
        ecc::EccCurve,
        key_bits::RsaKeyBits,
        resource_handles::NvAuth,
        session_handles::{AuthSession, PolicySession},
    },
    structures::{
        CapabilityData, Digest, DigestList, EncryptedSecret, IdObject, Public, SymmetricDefinition,
    },
};

use super::{
    EkKind, TpmError,
    device::{doing, with_slots},
};

/// First and last NV index of on-die CA chains (TCG EK profile: Intel PTT and others).
const CHAIN_INDICES: std::ops::RangeInclusive<u32> = 0x01c0_0100..=0x01c0_01ff;

/// Most chain indices read; the longest chains seen have four certificates in two indices.
const MAX_CHAIN_INDICES: u32 = 8;

/// `PolicyOR` branches of the high-range EK templates (TCG EK profile v2.5, B.6): user auth by
/// `PolicySecret(RH_ENDORSEMENT)`, and the index owners may change.
const POLICY_A_SHA384: &str = "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53";
const POLICY_C_SHA384: &str = "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165";

/// Its public area, and what NV holds of certificates.
pub(super) fn endorsement(
    context: &mut Context,
    kind: EkKind,
) -> Result<(Public, Vec<Vec<u8>>), TpmError> {
    let public = with_slots(context, |context| {
        let handle = ek::create_ek_object_2(context, ek_selection(kind), DefaultKey)?;
        context.clear_sessions();
        let public = context.read_public(handle).map(|(public, _, _)| public);
        context.flush_context(handle.into())?;
        public
    })
    .map_err(doing("make the endorsement key"))?;
    let leaf = certificate_index(kind);
    let mut certificates = Vec::new();
    let mut indices = defined_indices(context, leaf..=leaf)?;
    if indices.is_empty() {
        info!("the TPM holds no certificate for this EK");
    } else {
        indices.extend(defined_indices(context, CHAIN_INDICES)?);
    }
    for index in indices {
        match read_nv(context, index) {
            Ok(content) => certificates.push(content),
            Err(error) if index == leaf => {
                warn!(%error, "the TPM's EK certificate is not readable");
                break;
            }
            Err(error) => debug!(index, %error, "EK chain index not readable"),
        }
    }
    Ok((public, certificates))
}

/// Where the TCG EK profile (v2.5, 2.2.1.4 and 2.2.1.5) puts the certificate.
const fn certificate_index(kind: EkKind) -> u32 {
    match kind {
        EkKind::Rsa2048 => 0x01c0_0002,
        EkKind::EccP256 => 0x01c0_000a,
        EkKind::EccP384 => 0x01c0_0016,
    }
}

/// Asked before reading, for the library logs a failed read as an error.
fn defined_indices(
    context: &mut Context,
    range: std::ops::RangeInclusive<u32>,
) -> Result<Vec<u32>, TpmError> {
    let (data, _) = context
        .get_capability(CapabilityType::Handles, *range.start(), MAX_CHAIN_INDICES)
        .map_err(doing("list NV indices"))?;
    let CapabilityData::Handles(handles) = data else {
        return Ok(Vec::new());
    };
    Ok(handles
        .iter()
        .map(|handle| u32::from(*handle))
        .filter(|index| range.contains(index))
        .collect())
}

pub(super) fn read_nv(context: &mut Context, index: u32) -> tss_esapi::Result<Vec<u8>> {
    let index = NvIndexTpmHandle::new(index)?;
    context.clear_sessions();
    let handle = context.tr_from_tpm_public(TpmHandle::NvIndex(index))?;
    context.execute_with_nullauth_session(|context| {
        nv::read_full(context, NvAuth::NvIndex(handle.into()), index)
    })
}

/// One session only may encrypt, so the AK answers with its (empty) password and the EK with a
/// policy session; the high-range template wants `PolicyOR` on top of `PolicySecret`.
pub(super) fn activate_with(
    context: &mut Context,
    ak: KeyHandle,
    ek: KeyHandle,
    kind: EkKind,
    blob: &IdObject,
    secret: &EncryptedSecret,
) -> tss_esapi::Result<Digest> {
    let hash = match kind {
        EkKind::EccP384 => HashingAlgorithm::Sha384,
        EkKind::Rsa2048 | EkKind::EccP256 => HashingAlgorithm::Sha256,
    };
    let Some(session) = context.start_auth_session(
        None,
        None,
        None,
        SessionType::Policy,
        SymmetricDefinition::AES_128_CFB,
        hash,
    )?
    else {
        return Err(tss_esapi::Error::WrapperError(
            tss_esapi::WrapperErrorKind::WrongValueFromTpm,
        ));
    };
    let outcome = (|| {
        let policy = PolicySession::try_from(session)?;
        context.set_sessions((Some(AuthSession::Password), None, None));
        context.policy_secret(
            policy,
            AuthHandle::Endorsement,
            Default::default(),
            Default::default(),
            Default::default(),
            None,
        )?;
        context.clear_sessions();
        if kind == EkKind::EccP384 {
            let mut branches = DigestList::new();
            for branch in [POLICY_A_SHA384, POLICY_C_SHA384] {
                let digest = hex::decode(branch).unwrap_or_default();
                branches.add(Digest::try_from(digest)?)?;
            }
            context.policy_or(policy, branches)?;
        }
        context.set_sessions((Some(AuthSession::Password), Some(session), None));
        context.activate_credential(ak, ek, blob.clone(), secret.clone())
    })();
    context.clear_sessions();
    // A policy session that was used ends by itself only where the attribute says so; ours stays.
    let flushed = context.flush_context(SessionHandle::from(session).into());
    let outcome = outcome?;
    flushed.map(|()| outcome)
}

pub(super) const fn ek_selection(kind: EkKind) -> AsymmetricAlgorithmSelection {
    match kind {
        EkKind::Rsa2048 => AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
        EkKind::EccP256 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
        EkKind::EccP384 => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP384),
    }
}
