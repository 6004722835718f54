//! What nvml-wrapper has no whole function for: its own drop what matters, or believe the lengths
//! that the library returns.
//!
//! Structures are those of NVML's header, API 13. A symbol that the library lacks is an error like
//! any other answer.

use nvml_wrapper::{
    Device, Nvml,
    error::{NvmlError, nvml_sym, nvml_try},
};
use nvml_wrapper_sys::bindings::{
    nvmlConfComputeGpuAttestationReport_t, nvmlConfComputeGpuCertificate_t,
    nvmlConfComputeMemSizeInfo_t, nvmlConfComputeSystemCaps_t, nvmlConfComputeSystemState_t,
    nvmlDevice_t, nvmlPdi_t, nvmlSystemConfComputeSettings_t,
};

const _: () = assert!(size_of::<nvmlConfComputeGpuAttestationReport_t>() == 12332);
const _: () = assert!(size_of::<nvmlConfComputeGpuCertificate_t>() == 9224);
const _: () = assert!(size_of::<nvmlSystemConfComputeSettings_t>() == 20);
const _: () = assert!(size_of::<nvmlPdi_t>() == 16);

/// `sizeof | 1 << 24`, as NVML has its callers say which structure they mean.
const SETTINGS_VERSION: u32 = 0x0100_0014;
const PDI_VERSION: u32 = 0x0100_0010;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The library's own word, or a symbol that it lacks.
    #[error(transparent)]
    Nvml(#[from] NvmlError),
    /// It says that it wrote more than it was given room for.
    #[error("a {what} of {found} bytes, in a buffer of {room}")]
    Oversized {
        /// Of what.
        what: &'static str,
        /// As the library says.
        found: u32,
        /// As it was told.
        room: usize,
    },
}

fn handle(device: &Device<'_>) -> nvmlDevice_t {
    // SAFETY: the handle is used while `device`, and so the library, is borrowed.
    unsafe { device.handle() }
}

/// Environment, feature and developers' mode.
pub(crate) fn state(nvml: &Nvml) -> Result<nvmlConfComputeSystemState_t, Fault> {
    let ask = nvml_sym(nvml.lib().nvmlSystemGetConfComputeState.as_ref())?;
    let mut state = nvmlConfComputeSystemState_t {
        environment: 0,
        ccFeature: 0,
        devToolsMode: 0,
    };
    // SAFETY: NVML's own function, and the structure it fills in.
    nvml_try(unsafe { ask(&raw mut state) })?;
    Ok(state)
}

/// How several GPUs are used together: 0 not, 1 Protected PCIe, 2 NVLE.
pub(crate) fn multi_gpu(nvml: &Nvml) -> Result<u32, Fault> {
    let ask = nvml_sym(nvml.lib().nvmlSystemGetConfComputeSettings.as_ref())?;
    let mut settings = nvmlSystemConfComputeSettings_t {
        version: SETTINGS_VERSION,
        environment: 0,
        ccFeature: 0,
        devToolsMode: 0,
        multiGpuMode: 0,
    };
    // SAFETY: NVML's own function, and the structure it fills in, its version said.
    nvml_try(unsafe { ask(&raw mut settings) })?;
    Ok(settings.multiGpuMode)
}

/// What the processor offers: 0 none, 1 SEV, 2 TDX, 3 SEV-SNP, 4 SNP with vTOM.
pub(crate) fn cpu(nvml: &Nvml) -> Result<u32, Fault> {
    let ask = nvml_sym(nvml.lib().nvmlSystemGetConfComputeCapabilities.as_ref())?;
    let mut caps = nvmlConfComputeSystemCaps_t {
        cpuCaps: 0,
        gpusCaps: 0,
    };
    // SAFETY: NVML's own function, and the structure it fills in.
    nvml_try(unsafe { ask(&raw mut caps) })?;
    Ok(caps.cpuCaps)
}

/// Whether the GPUs accept work.
pub(crate) fn ready(nvml: &Nvml) -> Result<bool, Fault> {
    let ask = nvml_sym(nvml.lib().nvmlSystemGetConfComputeGpusReadyState.as_ref())?;
    let mut ready = 0;
    // SAFETY: NVML's own function, and the number it fills in.
    nvml_try(unsafe { ask(&raw mut ready) })?;
    Ok(ready != 0)
}

/// Memory under protection, KiB.
pub(crate) fn protected_kib(device: &Device<'_>) -> Result<u64, Fault> {
    let lib = device.nvml().lib();
    let ask = nvml_sym(lib.nvmlDeviceGetConfComputeMemSizeInfo.as_ref())?;
    let mut size = nvmlConfComputeMemSizeInfo_t {
        protectedMemSizeKib: 0,
        unprotectedMemSizeKib: 0,
    };
    // SAFETY: NVML's own function, a handle it gave, and the structure it fills in.
    nvml_try(unsafe { ask(handle(device), &raw mut size) })?;
    Ok(size.protectedMemSizeKib)
}

/// The per-device identifier, which the chip's certificate has too.
pub(crate) fn pdi(device: &Device<'_>) -> Result<u64, Fault> {
    let ask = nvml_sym(device.nvml().lib().nvmlDeviceGetPdi.as_ref())?;
    let mut pdi = nvmlPdi_t {
        version: PDI_VERSION,
        value: 0,
    };
    // SAFETY: NVML's own function, a handle it gave, and the structure it fills in.
    nvml_try(unsafe { ask(handle(device), &raw mut pdi) })?;
    Ok(pdi.value)
}

/// Rows of memory that were replaced, whether more will be after a reset, and whether that failed.
pub(crate) fn remapped_rows(device: &Device<'_>) -> Result<(u64, bool, bool), Fault> {
    let ask = nvml_sym(device.nvml().lib().nvmlDeviceGetRemappedRows.as_ref())?;
    let (mut corrected, mut uncorrected, mut pending, mut failed) = (0, 0, 0, 0);
    // SAFETY: NVML's own function, a handle it gave, and the four numbers it fills in.
    nvml_try(unsafe {
        ask(
            handle(device),
            &raw mut corrected,
            &raw mut uncorrected,
            &raw mut pending,
            &raw mut failed,
        )
    })?;
    let rows = u64::from(corrected).saturating_add(uncorrected.into());
    Ok((rows, pending != 0, failed != 0))
}

/// The chain of the key that signs reports, PEM. A request that fails tears confidential computing
/// down on the whole machine.
pub(crate) fn certificate(device: &Device<'_>) -> Result<Vec<u8>, Fault> {
    let lib = device.nvml().lib();
    let ask = nvml_sym(lib.nvmlDeviceGetConfComputeGpuCertificate.as_ref())?;
    let mut answer = nvmlConfComputeGpuCertificate_t {
        certChainSize: 0,
        attestationCertChainSize: 0,
        certChain: [0; 0x1000],
        attestationCertChain: [0; 0x1400],
    };
    // SAFETY: NVML's own function, a handle it gave, and the structure it fills in.
    nvml_try(unsafe { ask(handle(device), &raw mut answer) })?;
    let (size, chain) = (
        answer.attestationCertChainSize,
        &answer.attestationCertChain,
    );
    front("chain", chain, size)
}

/// A report in answer to `nonce`. A request that fails tears confidential computing down on the
/// whole machine.
pub(crate) fn report(device: &Device<'_>, nonce: [u8; 32]) -> Result<Vec<u8>, Fault> {
    let lib = device.nvml().lib();
    let ask = nvml_sym(lib.nvmlDeviceGetConfComputeGpuAttestationReport.as_ref())?;
    let mut answer = nvmlConfComputeGpuAttestationReport_t {
        isCecAttestationReportPresent: 0,
        attestationReportSize: 0,
        cecAttestationReportSize: 0,
        nonce,
        attestationReport: [0; 0x2000],
        cecAttestationReport: [0; 0x1000],
    };
    // SAFETY: NVML's own function, a handle it gave, and the structure it fills in.
    nvml_try(unsafe { ask(handle(device), &raw mut answer) })?;
    front(
        "report",
        &answer.attestationReport,
        answer.attestationReportSize,
    )
}

/// As much of a buffer as the library says that it filled.
fn front(what: &'static str, buffer: &[u8], size: u32) -> Result<Vec<u8>, Fault> {
    let filled = usize::try_from(size)
        .ok()
        .and_then(|size| buffer.get(..size));
    filled.map(<[u8]>::to_vec).ok_or(Fault::Oversized {
        what,
        found: size,
        room: buffer.len(),
    })
}
