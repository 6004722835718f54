//! One small area of the TPM's memory that outlives the disk.
//!
//! Owner authorisation writes and reads it, as it makes the keys: root on this host can change it,
//! and whoever only exchanged the disk cannot. Dictionary attacks do not lock it, for nothing
//! secret lies in it. Every write replaces the whole.

use tracing::info;
use tss_esapi::{
    Context,
    attributes::NvIndexAttributesBuilder,
    constants::CapabilityType,
    handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle},
    interface_types::{
        algorithm::HashingAlgorithm,
        resource_handles::{NvAuth, Provision},
        session_handles::AuthSession,
    },
    structures::{CapabilityData, MaxNvBuffer, NvPublicBuilder},
};

/// In the range the TCG registry leaves to owners (0x01800000 to 0x01bfffff).
pub(crate) const INDEX: u32 = 0x0180_0b41;

/// Content of the area; `None` where nothing was ever written.
pub(super) fn read(context: &mut Context, size: usize) -> tss_esapi::Result<Option<Vec<u8>>> {
    let Some(handle) = find(context)? else {
        return Ok(None);
    };
    context.clear_sessions();
    let (public, _) = context.nv_read_public(handle)?;
    if public.data_size() != size || !written(&public.attributes()) {
        return Ok(None);
    }
    let size = u16::try_from(size).unwrap_or(u16::MAX);
    context.set_sessions((Some(AuthSession::Password), None, None));
    let read = context.nv_read(NvAuth::Owner, handle, size, 0);
    context.clear_sessions();
    Ok(Some(read?.value().to_vec()))
}

/// Replaces the content; makes the area where there is none, or one of another size.
pub(super) fn write(context: &mut Context, content: &[u8]) -> tss_esapi::Result<()> {
    let handle = match find(context)? {
        None => define(context, content.len())?,
        Some(handle) => {
            context.clear_sessions();
            let (public, _) = context.nv_read_public(handle)?;
            if public.data_size() == content.len() {
                handle
            } else {
                context.set_sessions((Some(AuthSession::Password), None, None));
                let gone = context.nv_undefine_space(Provision::Owner, handle);
                context.clear_sessions();
                gone?;
                define(context, content.len())?
            }
        }
    };
    let content = MaxNvBuffer::try_from(content.to_vec())?;
    context.set_sessions((Some(AuthSession::Password), None, None));
    let written = context.nv_write(NvAuth::Owner, handle, content, 0);
    context.clear_sessions();
    written
}

const fn written(attributes: &tss_esapi::attributes::NvIndexAttributes) -> bool {
    // TPMA_NV_WRITTEN.
    attributes.0 & (1 << 29) != 0
}

/// Asked before it is opened, for the library logs a failure as an error.
fn find(context: &mut Context) -> tss_esapi::Result<Option<NvIndexHandle>> {
    context.clear_sessions();
    let (data, _) = context.get_capability(CapabilityType::Handles, INDEX, 1)?;
    let CapabilityData::Handles(handles) = data else {
        return Ok(None);
    };
    if handles.iter().all(|handle| u32::from(*handle) != INDEX) {
        return Ok(None);
    }
    let index = TpmHandle::NvIndex(NvIndexTpmHandle::new(INDEX)?);
    Ok(Some(context.tr_from_tpm_public(index)?.into()))
}

fn define(context: &mut Context, size: usize) -> tss_esapi::Result<NvIndexHandle> {
    let attributes = NvIndexAttributesBuilder::new()
        .with_owner_write(true)
        .with_owner_read(true)
        .with_write_all(true)
        .with_no_da(true)
        .build()?;
    let public = NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(INDEX)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(size)
        .build()?;
    context.set_sessions((Some(AuthSession::Password), None, None));
    let made = context.nv_define_space(Provision::Owner, None, public);
    context.clear_sessions();
    info!(
        index = format_args!("{INDEX:#010x}"),
        "an NV index for what must not be rolled back"
    );
    made
}
