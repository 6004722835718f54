//! NVML's symbols for what goes on at a GPU: who uses it, how busy and how hot it is, what broke.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::abi::{INSUFFICIENT_SIZE, INVALID_ARGUMENT, NOT_SUPPORTED, SUCCESS, answer, put};

/// How often each of the two lists was asked for.
static ASKED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
/// How often somebody asked for the first link, and for what holds clocks down.
static LINKS: AtomicUsize = AtomicUsize::new(0);
static THROTTLED: AtomicUsize = AtomicUsize::new(0);

/// The next of a list, whose last one stays; nothing in it is zero.
fn next<T: Copy + Default>(list: &[T], asked: &AtomicUsize) -> T {
    let at = asked.fetch_add(1, Ordering::Relaxed);
    let found = list.get(at).or_else(|| list.last());
    found.copied().unwrap_or_default()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    handle: *mut c_void,
    count: *mut c_uint,
    _infos: *mut c_void,
) -> c_int {
    answer("nvmlDeviceGetComputeRunningProcesses_v3", |told| {
        let Some((_, device)) = told.device(handle) else {
            return INVALID_ARGUMENT;
        };
        let [asked, _] = &ASKED;
        let computing = next(&device.computing, asked);
        match put(count, computing) {
            SUCCESS if computing > 0 => INSUFFICIENT_SIZE,
            other => other,
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    handle: *mut c_void,
    count: *mut c_uint,
    _infos: *mut c_void,
) -> c_int {
    answer(
        "nvmlDeviceGetGraphicsRunningProcesses_v3",
        |told| match told.device(handle) {
            Some(_) => put(count, 0),
            None => INVALID_ARGUMENT,
        },
    )
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTotalEccErrors(
    handle: *mut c_void,
    _kind: c_uint,
    _counter: c_uint,
    count: *mut c_ulonglong,
) -> c_int {
    answer("nvmlDeviceGetTotalEccErrors", |told| {
        let [_, asked] = &ASKED;
        match told.device(handle) {
            Some((_, device)) => put(count, next(&device.errors, asked)),
            None => INVALID_ARGUMENT,
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTemperature(
    handle: *mut c_void,
    _sensor: c_uint,
    degrees: *mut c_uint,
) -> c_int {
    answer("nvmlDeviceGetTemperature", |told| {
        match told.device(handle) {
            Some((_, device)) => put(degrees, device.degrees),
            None => INVALID_ARGUMENT,
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    handle: *mut c_void,
    energy: *mut c_ulonglong,
) -> c_int {
    answer("nvmlDeviceGetTotalEnergyConsumption", |told| {
        match told.device(handle) {
            Some((_, device)) => put(energy, device.energy),
            None => INVALID_ARGUMENT,
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUtilizationRates(handle: *mut c_void, rates: *mut [c_uint; 2]) -> c_int {
    answer("nvmlDeviceGetUtilizationRates", |told| {
        match told.device(handle) {
            Some((_, device)) => put(rates, [device.busy, 0]),
            None => INVALID_ARGUMENT,
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkState(
    handle: *mut c_void,
    link: c_uint,
    active: *mut c_uint,
) -> c_int {
    answer("nvmlDeviceGetNvLinkState", |told| {
        let Some((_, device)) = told.device(handle) else {
            return INVALID_ARGUMENT;
        };
        match link {
            _ if device.links == 0 => return NOT_SUPPORTED,
            link if link >= device.links => return INVALID_ARGUMENT,
            0 => {
                LINKS.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        let at = LINKS.load(Ordering::Relaxed).saturating_sub(1);
        let up = device.links_up.get(at).or_else(|| device.links_up.last());
        put(active, c_uint::from(link < up.copied().unwrap_or_default()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCurrentClocksThrottleReasons(
    handle: *mut c_void,
    reasons: *mut c_ulonglong,
) -> c_int {
    answer(
        "nvmlDeviceGetCurrentClocksThrottleReasons",
        |told| match told.device(handle) {
            Some((_, device)) => put(reasons, next(&device.throttled, &THROTTLED)),
            None => INVALID_ARGUMENT,
        },
    )
}
