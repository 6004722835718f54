//! NVML's symbols for events: Xid errors, of one GPU at a time.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::abi::{INVALID_ARGUMENT, NOT_SUPPORTED, SUCCESS, answer, put};

const TIMEOUT: c_int = 10;
/// `nvmlEventTypeXidCriticalError`
const XID: c_ulonglong = 8;
/// The one set there is.
const SET: usize = 0x5e7;

#[repr(C)]
struct EventData {
    device: *mut c_void,
    kind: c_ulonglong,
    data: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}
const _: () = assert!(size_of::<EventData>() == 32);

/// The handle somebody listens to, and how many events came.
static HEARD: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetCreate(set: *mut *mut c_void) -> c_int {
    answer("nvmlEventSetCreate", |_| {
        put(set, std::ptr::without_provenance_mut(SET))
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceRegisterEvents(
    handle: *mut c_void,
    kinds: c_ulonglong,
    set: *mut c_void,
) -> c_int {
    answer("nvmlDeviceRegisterEvents", |told| {
        if told.device(handle).is_none() || set.addr() != SET {
            return INVALID_ARGUMENT;
        }
        if kinds != XID {
            return NOT_SUPPORTED;
        }
        let [device, heard] = &HEARD;
        device.store(handle.addr(), Ordering::Relaxed);
        heard.store(0, Ordering::Relaxed);
        SUCCESS
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetWait_v2(
    set: *mut c_void,
    event: *mut EventData,
    _timeout_ms: c_uint,
) -> c_int {
    answer("nvmlEventSetWait_v2", |told| {
        let [listening, heard] = &HEARD;
        let handle = std::ptr::without_provenance_mut(listening.load(Ordering::Relaxed));
        let Some((_, device)) = told.device(handle).filter(|_| set.addr() == SET) else {
            return INVALID_ARGUMENT;
        };
        let Some(xid) = device.xids.get(heard.fetch_add(1, Ordering::Relaxed)) else {
            return TIMEOUT;
        };
        let came = EventData {
            device: handle,
            kind: XID,
            data: *xid,
            gpu_instance: c_uint::MAX,
            compute_instance: c_uint::MAX,
        };
        put(event, came)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlEventSetFree(set: *mut c_void) -> c_int {
    answer("nvmlEventSetFree", |_| match set.addr() == SET {
        true => SUCCESS,
        false => INVALID_ARGUMENT,
    })
}
