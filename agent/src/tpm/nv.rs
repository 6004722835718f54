//! Small areas of the TPM's memory that outlive the disk.
//!
//! Owner authorisation writes and reads them, as it makes the keys: root on this host can, and
//! whoever only has the disk cannot. Dictionary attacks do not lock them: there is no password to
//! guess. Every write replaces the whole, and nothing of what stood there before can be read again.

use tracing::info;
use tss_esapi::{
    Context,
    attributes::NvIndexAttributesBuilder,
    constants::{CapabilityType, PropertyTag},
    handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle},
    interface_types::{
        algorithm::HashingAlgorithm,
        resource_handles::{NvAuth, Provision},
        session_handles::AuthSession,
    },
    structures::{CapabilityData, MaxNvBuffer, NvPublicBuilder},
};

/// What must not be rolled back; in the range the TCG registry leaves to owners (0x01800000 to
/// 0x01bfffff).
pub(crate) const INDEX: u32 = 0x0180_0b41;

/// The master key of what this node sealed.
pub(crate) const SECRET: u32 = 0x0180_0b42;

/// Where the node stands, by an approver's word.
pub(crate) const GEOTAG: u32 = bailiwick_attestation::geotag::GEOTAG_INDEX;

/// Content of the area; `None` where nothing was ever written.
pub(super) fn read(
    context: &mut Context,
    index: u32,
    size: usize,
) -> tss_esapi::Result<Option<Vec<u8>>> {
    let Some(handle) = find(context, index)? else {
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

/// All of an area that somebody else wrote, in as many commands as it takes; `None` where there is none
/// yet, or one of more than `most` bytes.
pub(super) fn read_whole(
    context: &mut Context,
    index: u32,
    most: usize,
) -> tss_esapi::Result<Option<Vec<u8>>> {
    let Some(handle) = find(context, index)? else {
        return Ok(None);
    };
    // A TPM may say that it gives more than the library takes at once, which is 2048 bytes: half of that.
    let at_once = buffer(context)?.min(1024);
    let (public, _) = context.nv_read_public(handle)?;
    let size = public.data_size();
    if size > most || !written(&public.attributes()) {
        return Ok(None);
    }
    let mut content = Vec::with_capacity(size);
    while content.len() < size {
        let part = at_once.min(size.saturating_sub(content.len()));
        let (part, offset) = (u16::try_from(part), u16::try_from(content.len()));
        let (part, offset) = (part.unwrap_or(u16::MAX), offset.unwrap_or(u16::MAX));
        context.set_sessions((Some(AuthSession::Password), None, None));
        let read = context.nv_read(NvAuth::Owner, handle, part, offset);
        context.clear_sessions();
        let read = read?;
        if read.value().is_empty() {
            return Ok(None);
        }
        content.extend_from_slice(read.value());
    }
    Ok(Some(content))
}

/// Replaces the content; makes the area where there is none, or one of another size.
pub(super) fn write(context: &mut Context, index: u32, content: &[u8]) -> tss_esapi::Result<()> {
    let handle = match find(context, index)? {
        None => define(context, index, content.len())?,
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
                define(context, index, content.len())?
            }
        }
    };
    let content = MaxNvBuffer::try_from(content.to_vec())?;
    context.set_sessions((Some(AuthSession::Password), None, None));
    let written = context.nv_write(NvAuth::Owner, handle, content, 0);
    context.clear_sessions();
    written
}

/// In as many commands as it takes.
#[cfg(test)]
pub(super) fn write_parts(
    context: &mut Context,
    index: u32,
    content: &[u8],
) -> tss_esapi::Result<()> {
    let handle = match find(context, index)? {
        None => {
            let public = NvPublicBuilder::new()
                .with_nv_index(NvIndexTpmHandle::new(index)?)
                .with_index_name_algorithm(HashingAlgorithm::Sha256)
                .with_index_attributes(
                    NvIndexAttributesBuilder::new()
                        .with_owner_write(true)
                        .with_owner_read(true)
                        .with_no_da(true)
                        .build()?,
                )
                .with_data_area_size(content.len())
                .build()?;
            context.set_sessions((Some(AuthSession::Password), None, None));
            context.nv_define_space(Provision::Owner, None, public)?
        }
        Some(handle) => handle,
    };
    for (part, number) in content.chunks(512).zip(0_u16..) {
        let part = MaxNvBuffer::try_from(part.to_vec())?;
        context.set_sessions((Some(AuthSession::Password), None, None));
        context.nv_write(NvAuth::Owner, handle, part, number * 512)?;
        context.clear_sessions();
    }
    Ok(())
}

/// Most bytes that one command writes, reads or certifies; what no TPM says is the least that the
/// PC Client profile asks for.
pub(super) fn buffer(context: &mut Context) -> tss_esapi::Result<usize> {
    const LEAST: u32 = 512;
    context.clear_sessions();
    let most = context.get_tpm_property(PropertyTag::NvBufferMax)?;
    Ok(usize::try_from(most.unwrap_or(LEAST)).unwrap_or(usize::MAX))
}

/// Makes the area anew and writes it: whatever stood there before is deleted with its index. Locking
/// it is for the raw commands, which the library lacks.
pub(super) fn write_lockable(
    context: &mut Context,
    index: u32,
    content: &[u8],
) -> tss_esapi::Result<()> {
    if let Some(handle) = find(context, index)? {
        context.set_sessions((Some(AuthSession::Password), None, None));
        let gone = context.nv_undefine_space(Provision::Owner, handle);
        context.clear_sessions();
        gone?;
    }
    let attributes = NvIndexAttributesBuilder::new().with_write_define(true);
    let handle = define_as(context, index, content.len(), attributes)?;
    let content = MaxNvBuffer::try_from(content.to_vec())?;
    context.set_sessions((Some(AuthSession::Password), None, None));
    let written = context.nv_write(NvAuth::Owner, handle, content, 0);
    context.clear_sessions();
    written
}

/// Whether there is such an area.
pub(super) fn exists(context: &mut Context, index: u32) -> tss_esapi::Result<bool> {
    context.clear_sessions();
    let (data, _) = context.get_capability(CapabilityType::Handles, index, 1)?;
    let CapabilityData::Handles(handles) = data else {
        return Ok(false);
    };
    Ok(handles.iter().any(|handle| u32::from(*handle) == index))
}

const fn written(attributes: &tss_esapi::attributes::NvIndexAttributes) -> bool {
    // TPMA_NV_WRITTEN.
    attributes.0 & (1 << 29) != 0
}

/// Asked before it is opened, for the library logs a failure as an error.
fn find(context: &mut Context, index: u32) -> tss_esapi::Result<Option<NvIndexHandle>> {
    if !exists(context, index)? {
        return Ok(None);
    }
    let handle = TpmHandle::NvIndex(NvIndexTpmHandle::new(index)?);
    Ok(Some(context.tr_from_tpm_public(handle)?.into()))
}

fn define(context: &mut Context, index: u32, size: usize) -> tss_esapi::Result<NvIndexHandle> {
    define_as(context, index, size, NvIndexAttributesBuilder::new())
}

fn define_as(
    context: &mut Context,
    index: u32,
    size: usize,
    attributes: NvIndexAttributesBuilder,
) -> tss_esapi::Result<NvIndexHandle> {
    let attributes = attributes
        .with_owner_write(true)
        .with_owner_read(true)
        .with_write_all(true)
        .with_no_da(true)
        .build()?;
    let public = NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(index)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(size)
        .build()?;
    context.set_sessions((Some(AuthSession::Password), None, None));
    let made = context.nv_define_space(Provision::Owner, None, public);
    context.clear_sessions();
    info!(
        index = format_args!("{index:#010x}"),
        "made an NV index for what must outlive the disk"
    );
    made
}
