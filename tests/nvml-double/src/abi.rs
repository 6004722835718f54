//! The symbols. Layouts are written down from NVML's header (API 13, x86-64), sizes asserted.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};

use crate::script::{CALLS, Device, Fault, SUFFIX, Script, TORN};

pub(crate) const SUCCESS: c_int = 0;
const UNINITIALIZED: c_int = 1;
pub(crate) const INVALID_ARGUMENT: c_int = 2;
pub(crate) const NOT_SUPPORTED: c_int = 3;
pub(crate) const INSUFFICIENT_SIZE: c_int = 7;
const DRIVER_NOT_LOADED: c_int = 9;
const GPU_IS_LOST: c_int = 15;
const ARGUMENT_VERSION_MISMATCH: c_int = 25;
const UNKNOWN: c_int = 999;

/// `sizeof | 1 << 24`
const SETTINGS_VERSION: c_uint = 0x0100_0014;
const PDI_VERSION: c_uint = 0x0100_0010;
/// Where the request's nonce stands in a report.
const NONCE: std::ops::Range<usize> = 4..36;

#[repr(C)]
struct Capabilities {
    cpu: c_uint,
    gpus: c_uint,
}
const _: () = assert!(size_of::<Capabilities>() == 8);

#[repr(C)]
struct State {
    environment: c_uint,
    feature: c_uint,
    devtools: c_uint,
}
const _: () = assert!(size_of::<State>() == 12);

#[repr(C)]
struct Settings {
    version: c_uint,
    environment: c_uint,
    feature: c_uint,
    devtools: c_uint,
    multi_gpu: c_uint,
}
const _: () = assert!(size_of::<Settings>() == 20);

#[repr(C)]
struct Certificate {
    chain_size: c_uint,
    attestation_size: c_uint,
    chain: [u8; 0x1000],
    attestation: [u8; 0x1400],
}
const _: () = assert!(size_of::<Certificate>() == 9224);

#[repr(C)]
struct Report {
    cec_present: c_uint,
    size: c_uint,
    cec_size: c_uint,
    nonce: [u8; 32],
    report: [u8; 0x2000],
    cec: [u8; 0x1000],
}
const _: () = assert!(size_of::<Report>() == 12332);

#[repr(C)]
struct MemSize {
    protected_kib: c_ulonglong,
    unprotected_kib: c_ulonglong,
}
const _: () = assert!(size_of::<MemSize>() == 16);

#[repr(C)]
struct PdiInfo {
    version: c_uint,
    value: c_ulonglong,
}
const _: () = assert!(size_of::<PdiInfo>() == 16);

#[repr(C)]
struct Pci {
    legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    device_id: c_uint,
    subsystem_id: c_uint,
    id: [c_char; 32],
}
const _: () = assert!(size_of::<Pci>() == 68);

/// What was read when it was initialised.
pub(crate) struct Told {
    script: Script,
    /// The library's own file.
    own: PathBuf,
}

static TOLD: Mutex<Option<Told>> = Mutex::new(None);

/// Answers a call as the script says: `work` is done where nothing is to go wrong.
pub(crate) fn answer(symbol: &str, work: impl FnOnce(&Told) -> c_int) -> c_int {
    let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(told) = told.as_ref() else {
        return UNINITIALIZED;
    };
    match told.script.faults.get(symbol) {
        Some(Fault::Code(code)) => c_int::try_from(*code).unwrap_or(UNKNOWN),
        Some(Fault::Hang) => loop {
            std::thread::park();
        },
        Some(Fault::Crash) => std::process::abort(),
        Some(Fault::Oversized | Fault::Empty) | None => work(told),
    }
}

impl Told {
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.own.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn torn(&self) -> bool {
        self.beside(TORN).exists()
    }

    fn fault(&self, symbol: &str) -> Option<Fault> {
        self.script.faults.get(symbol).copied()
    }

    pub(crate) fn device(&self, handle: *mut c_void) -> Option<(usize, &Device)> {
        let index = handle.addr().checked_sub(1)?;
        Some((index, self.script.devices.get(index)?))
    }

    /// Notes a request, which may not be made twice.
    fn note(&self, symbol: &str, index: usize) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.beside(CALLS));
        if let Ok(mut log) = log {
            drop(writeln!(log, "{symbol} {index}"));
        }
    }

    /// What a request that fails does to the whole machine.
    fn tear(&self, code: c_int) -> c_int {
        drop(fs::write(self.beside(TORN), b""));
        code
    }
}

/// Requests for reports and certificates: noted, and fatal where they fail.
fn request(
    symbol: &str,
    handle: *mut c_void,
    work: impl FnOnce(&Told, &Device) -> Option<()>,
) -> c_int {
    {
        let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = told.as_ref() else {
            return UNINITIALIZED;
        };
        let Some((index, _)) = told.device(handle) else {
            return INVALID_ARGUMENT;
        };
        told.note(symbol, index);
        if told.torn() {
            return GPU_IS_LOST;
        }
        if told.script.feature == 0 {
            return told.tear(NOT_SUPPORTED);
        }
        if let Some(Fault::Code(code)) = told.fault(symbol) {
            return told.tear(c_int::try_from(code).unwrap_or(UNKNOWN));
        }
    }
    answer(symbol, |told| {
        let device = told.device(handle);
        match device.and_then(|(_, device)| work(told, device)) {
            Some(()) => SUCCESS,
            None => told.tear(UNKNOWN),
        }
    })
}

pub(crate) fn own_file() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let here: *const Mutex<Option<Told>> = &raw const TOLD;
    // SAFETY: `info` is a whole `Dl_info`, and the address is of this library's own data.
    let found = unsafe { libc::dladdr(here.cast(), &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's name of a library that stays loaded, with a NUL at its end.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(name.to_str().ok()?))
}

/// Puts text and a NUL into a caller's buffer.
fn put_text(text: &str, buffer: *mut c_char, room: c_uint) -> c_int {
    let fits = usize::try_from(room).is_ok_and(|room| text.len() < room);
    if buffer.is_null() {
        return INVALID_ARGUMENT;
    }
    if !fits {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the caller says there is room for more than the text.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), text.len()) };
    let end = buffer.wrapping_add(text.len());
    // SAFETY: likewise, and the NUL is the byte after it.
    unsafe { end.write(0) };
    SUCCESS
}

pub(crate) fn put<T>(place: *mut T, value: T) -> c_int {
    if place.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: NVML's contract: the caller owns a value of this type there.
    unsafe { place.write(value) };
    SUCCESS
}

fn all(done: &[c_int]) -> c_int {
    let failed = done.iter().copied().find(|code| *code != SUCCESS);
    failed.unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> c_int {
    let Some(own) = own_file() else {
        return UNKNOWN;
    };
    let mut script = own.clone().into_os_string();
    script.push(SUFFIX);
    let read = fs::read(script).ok();
    let Some(script) = read.and_then(|bytes| serde_json::from_slice::<Script>(&bytes).ok()) else {
        return DRIVER_NOT_LOADED;
    };
    *TOLD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Told { script, own });
    answer("nvmlInit_v2", |_| SUCCESS)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetDriverVersion(buffer: *mut c_char, room: c_uint) -> c_int {
    answer("nvmlSystemGetDriverVersion", |told| {
        put_text(&told.script.driver, buffer, room)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_int {
    answer("nvmlDeviceGetCount_v2", |told| {
        let all = c_uint::try_from(told.script.devices.len()).unwrap_or(c_uint::MAX);
        put(count, all)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, handle: *mut *mut c_void) -> c_int {
    answer(
        "nvmlDeviceGetHandleByIndex_v2",
        |told| match usize::try_from(index) {
            Ok(index) if index < told.script.devices.len() => {
                put(handle, std::ptr::without_provenance_mut(index + 1))
            }
            _ => INVALID_ARGUMENT,
        },
    )
}

/// One text of a device.
macro_rules! texts {
    ($($symbol:ident => $field:ident),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $symbol(handle: *mut c_void, buffer: *mut c_char, room: c_uint) -> c_int {
            answer(stringify!($symbol), |told| match told.device(handle) {
                Some((_, device)) => put_text(&device.$field, buffer, room),
                None => INVALID_ARGUMENT,
            })
        }
    )*};
}
texts!(
    nvmlDeviceGetName => name,
    nvmlDeviceGetUUID => uuid,
    nvmlDeviceGetSerial => serial,
    nvmlDeviceGetVbiosVersion => vbios,
);

/// Two numbers of a device: now, and after the next reset.
macro_rules! pairs {
    ($($symbol:ident => $field:ident),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $symbol(
            handle: *mut c_void,
            now: *mut c_uint,
            pending: *mut c_uint,
        ) -> c_int {
            answer(stringify!($symbol), |told| match told.device(handle) {
                Some((_, device)) => all(&[put(now, device.$field.0), put(pending, device.$field.1)]),
                None => INVALID_ARGUMENT,
            })
        }
    )*};
}
pairs!(
    nvmlDeviceGetMigMode => mig,
    nvmlDeviceGetEccMode => ecc,
);

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPciInfo_v3(handle: *mut c_void, info: *mut Pci) -> c_int {
    answer("nvmlDeviceGetPciInfo_v3", |told| {
        let Some((_, device)) = told.device(handle) else {
            return INVALID_ARGUMENT;
        };
        let mut pci = Pci {
            legacy: [0; 16],
            domain: 0,
            bus: 0,
            device: 0,
            device_id: 0,
            subsystem_id: 0,
            id: [0; 32],
        };
        for (place, byte) in pci.id.iter_mut().take(31).zip(device.pci.bytes()) {
            *place = c_char::try_from(byte).unwrap_or(0);
        }
        put(info, pci)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPdi(handle: *mut c_void, pdi: *mut PdiInfo) -> c_int {
    answer("nvmlDeviceGetPdi", |told| {
        let Some((_, device)) = told.device(handle) else {
            return INVALID_ARGUMENT;
        };
        // SAFETY: NVML's contract: the caller filled the version in.
        let Some(pdi) = (unsafe { pdi.as_mut() }) else {
            return INVALID_ARGUMENT;
        };
        if pdi.version != PDI_VERSION {
            return ARGUMENT_VERSION_MISMATCH;
        }
        pdi.value = device.pdi;
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetRemappedRows(
    handle: *mut c_void,
    corrected: *mut c_uint,
    uncorrected: *mut c_uint,
    pending: *mut c_uint,
    failed: *mut c_uint,
) -> c_int {
    answer("nvmlDeviceGetRemappedRows", |told| {
        if told.device(handle).is_none() {
            return INVALID_ARGUMENT;
        }
        let waiting = told
            .device(handle)
            .map_or(0, |(_, it)| it.remap_pending.into());
        let none = [corrected, uncorrected, failed].map(|place| put(place, 0));
        all(&[all(&none), put(pending, waiting)])
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetConfComputeCapabilities(place: *mut Capabilities) -> c_int {
    answer("nvmlSystemGetConfComputeCapabilities", |told| {
        let cpu = told.script.cpu;
        put(place, Capabilities { cpu, gpus: 1 })
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetConfComputeState(place: *mut State) -> c_int {
    answer("nvmlSystemGetConfComputeState", |told| {
        let state = State {
            environment: told.script.environment,
            feature: told.script.feature * c_uint::from(!told.torn()),
            devtools: told.script.devtools,
        };
        put(place, state)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetConfComputeSettings(place: *mut Settings) -> c_int {
    answer("nvmlSystemGetConfComputeSettings", |told| {
        // SAFETY: NVML's contract: the caller filled the version in.
        let Some(settings) = (unsafe { place.as_mut() }) else {
            return INVALID_ARGUMENT;
        };
        if settings.version != SETTINGS_VERSION {
            return ARGUMENT_VERSION_MISMATCH;
        }
        settings.environment = told.script.environment;
        settings.feature = told.script.feature * c_uint::from(!told.torn());
        settings.devtools = told.script.devtools;
        settings.multi_gpu = told.script.multi_gpu;
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetConfComputeGpusReadyState(ready: *mut c_uint) -> c_int {
    answer("nvmlSystemGetConfComputeGpusReadyState", |told| {
        put(ready, told.script.ready * c_uint::from(!told.torn()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetConfComputeMemSizeInfo(
    handle: *mut c_void,
    place: *mut MemSize,
) -> c_int {
    answer("nvmlDeviceGetConfComputeMemSizeInfo", |told| {
        if told.device(handle).is_none() {
            return INVALID_ARGUMENT;
        }
        let size = MemSize {
            protected_kib: 80 << 20,
            unprotected_kib: 0,
        };
        put(place, size)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetConfComputeGpuCertificate(
    handle: *mut c_void,
    place: *mut Certificate,
) -> c_int {
    const SYMBOL: &str = "nvmlDeviceGetConfComputeGpuCertificate";
    request(SYMBOL, handle, |told, device| {
        let chain = fs::read(&device.chain).ok()?;
        // SAFETY: NVML's contract: the caller owns a value of this type there.
        let place = unsafe { place.as_mut() }?;
        place
            .attestation
            .get_mut(..chain.len())?
            .copy_from_slice(&chain);
        place.attestation_size = said(told.fault(SYMBOL), chain.len(), 0x1400)?;
        Some(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetConfComputeGpuAttestationReport(
    handle: *mut c_void,
    place: *mut Report,
) -> c_int {
    const SYMBOL: &str = "nvmlDeviceGetConfComputeGpuAttestationReport";
    request(SYMBOL, handle, |told, device| {
        // SAFETY: NVML's contract: the caller filled the nonce in.
        let place = unsafe { place.as_mut() }?;
        let report = report(&device.report, device.key.as_deref(), &place.nonce)?;
        place
            .report
            .get_mut(..report.len())?
            .copy_from_slice(&report);
        place.size = said(told.fault(SYMBOL), report.len(), 0x2000)?;
        Some(())
    })
}

/// The length it tells of what it filled in.
fn said(fault: Option<Fault>, len: usize, room: usize) -> Option<c_uint> {
    let len = match fault {
        Some(Fault::Oversized) => room + 1,
        Some(Fault::Empty) => 0,
        _ => len,
    };
    c_uint::try_from(len).ok()
}

/// Recorded, or made for this nonce and signed.
pub(crate) fn report(file: &Path, key: Option<&Path>, nonce: &[u8; 32]) -> Option<Vec<u8>> {
    let mut report = fs::read(file).ok()?;
    let Some(key) = key else {
        return Some(report);
    };
    report.get_mut(NONCE)?.copy_from_slice(nonce);
    let key = fs::read(key).ok()?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &key).ok()?;
    let signature = key.sign(&SystemRandom::new(), &report).ok()?;
    report.extend(signature.as_ref());
    Some(report)
}
