//! The symbols of CUDA's driver API that a small computation takes. Types are written down from the
//! API's header; what the kernels do is written down from their text and computed on the host, so
//! "memory of the device" is the host's and how fast bytes move means nothing.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs;
use std::sync::{Mutex, PoisonError};

use crate::abi::own_file;
use crate::script::{CudaScript, Fault, SUFFIX, Wrong};

const SUCCESS: c_int = 0;
const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
const NOT_INITIALIZED: c_int = 3;
const NO_DEVICE: c_int = 100;
const INVALID_PTX: c_int = 218;
const NOT_FOUND: c_int = 500;
const ILLEGAL_ADDRESS: c_int = 700;
const UNKNOWN: c_int = 999;

const K: u64 = 0x9E37_79B9_7F4A_7C15;
const S: u64 = 0xD134_2543_DE82_EF95;
/// Fewer bytes than this are an answer and no load: [`Wrong`] leaves them alone.
const LOAD: usize = 1024;

/// The functions, by number from one.
const FUNCTIONS: [&str; 3] = ["bailiwick_mix", "bailiwick_fill", "bailiwick_check"];

/// What was read when it was initialised, and what was taken since.
struct Told {
    script: CudaScript,
    /// Address and length of everything taken.
    taken: BTreeMap<u64, usize>,
    /// What `bailiwick_mix` made last: it takes its time, and says the same each time.
    mixed: Option<(u64, [u64; 3])>,
}

static TOLD: Mutex<Option<Told>> = Mutex::new(None);

fn answer(symbol: &str, work: impl FnOnce(&mut Told) -> Result<(), c_int>) -> c_int {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(told) = told.as_mut() else {
        return NOT_INITIALIZED;
    };
    match told.script.faults.get(symbol) {
        Some(Fault::Code(code)) => c_int::try_from(*code).unwrap_or(UNKNOWN),
        Some(Fault::Hang) => loop {
            std::thread::park();
        },
        Some(Fault::Crash) => std::process::abort(),
        Some(Fault::Oversized | Fault::Empty) | None => work(told).err().unwrap_or(SUCCESS),
    }
}

fn put<T>(place: *mut T, value: T) -> Result<(), c_int> {
    if place.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the API's contract: the caller owns a value of this type there.
    unsafe { place.write(value) };
    Ok(())
}

impl Told {
    fn take(&mut self, len: usize) -> Result<u64, c_int> {
        let layout = Layout::from_size_align(len.max(8), 256).ok();
        let layout = layout.ok_or(OUT_OF_MEMORY)?;
        // SAFETY: the layout has a size.
        let start = unsafe { alloc_zeroed(layout) };
        let address = u64::try_from(start.expose_provenance()).unwrap_or_default();
        if address == 0 {
            return Err(OUT_OF_MEMORY);
        }
        self.taken.insert(address, len);
        Ok(address)
    }

    fn free(&mut self, address: u64) -> Result<(), c_int> {
        let len = self.taken.remove(&address).ok_or(INVALID_VALUE)?;
        let layout = Layout::from_size_align(len.max(8), 256).ok();
        let layout = layout.ok_or(INVALID_VALUE)?;
        let start = usize::try_from(address).unwrap_or_default();
        // SAFETY: taken with this layout, and nobody's any more.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(start), layout) };
        Ok(())
    }

    /// The words of what was taken, all of `len` bytes within it.
    fn words(&self, address: u64, len: usize) -> Result<&'static mut [u64], c_int> {
        let (start, room) = self
            .taken
            .range(..=address)
            .next_back()
            .ok_or(ILLEGAL_ADDRESS)?;
        let behind = usize::try_from(address - start).unwrap_or(usize::MAX);
        let inside = behind.checked_add(len).is_some_and(|end| end <= *room);
        if !inside || !address.is_multiple_of(8) {
            return Err(ILLEGAL_ADDRESS);
        }
        let start = usize::try_from(address).unwrap_or_default();
        let start: *mut u64 = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: inside of what was taken and is not freed; one call at a time has it.
        Ok(unsafe { std::slice::from_raw_parts_mut(start, len / 8) })
    }

    fn spoil(&self, wrong: Wrong, words: &mut [u64]) {
        if self.script.wrong == Some(wrong)
            && words.len() * 8 >= LOAD
            && let Some(word) = words.get_mut(7)
        {
            *word ^= 1 << 40;
        }
    }

    fn mix(&mut self, out: u64, count: u64) -> Result<(), c_int> {
        let made = match self.mixed {
            Some((of, made)) if of == count => made,
            _ => mixed(count),
        };
        self.mixed = Some((count, made));
        if let [sum, xor, floats] = self.words(out, 24)? {
            let [a, b, c] = made;
            *sum = sum.wrapping_add(a);
            *xor ^= b;
            *floats = floats.wrapping_add(c);
            if self.script.wrong == Some(Wrong::Computed) {
                *floats = floats.wrapping_add(1);
            }
        }
        Ok(())
    }

    fn fill(&self, words: u64, count: u64, flip: u64) -> Result<(), c_int> {
        let words = self.words(words, bytes(count)?)?;
        for (index, word) in (0_u64..).zip(words.iter_mut()) {
            *word = index.wrapping_mul(K).wrapping_add(S) ^ flip;
        }
        self.spoil(Wrong::Kept, words);
        Ok(())
    }

    fn check(&self, words: u64, count: u64, flip: u64, out: u64) -> Result<(), c_int> {
        let words = self.words(words, bytes(count)?)?;
        let (mut wrong, mut sum) = (0_u64, 0_u64);
        for (index, word) in (0_u64..).zip(words.iter()) {
            let want = index.wrapping_mul(K).wrapping_add(S) ^ flip;
            wrong += u64::from(*word != want);
            sum = sum.wrapping_add(*word);
        }
        if let [all_wrong, all] = self.words(out, 16)? {
            *all_wrong = all_wrong.wrapping_add(wrong);
            *all = all.wrapping_add(sum);
        }
        Ok(())
    }
}

fn bytes(words: u64) -> Result<usize, c_int> {
    let words = usize::try_from(words).ok();
    words
        .and_then(|words| words.checked_mul(8))
        .ok_or(ILLEGAL_ADDRESS)
}

fn mixed(count: u64) -> [u64; 3] {
    let mut out = [0_u64; 3];
    let [sum, xor, floats] = &mut out;
    for index in 0..count {
        let mut x = index.wrapping_add(1).wrapping_mul(K);
        let low = u16::try_from(index & 0xffff).unwrap_or_default();
        let mut f = f32::from(low).mul_add(1.0 / 65536.0, 1.0);
        for round in 0..64 {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x = x.wrapping_mul(S).wrapping_add(round);
            f = f.mul_add(f32::from_bits(0x3F7F_BE77), f32::from_bits(0x3A83_126F));
        }
        *sum = sum.wrapping_add(x);
        *xor ^= x;
        *floats = floats.wrapping_add(u64::from(f.to_bits()));
    }
    out
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> c_int {
    let Some(own) = own_file() else {
        return UNKNOWN;
    };
    let mut script = own.into_os_string();
    script.push(SUFFIX);
    let read = fs::read(script).ok();
    let Some(script) = read.and_then(|bytes| serde_json::from_slice::<CudaScript>(&bytes).ok())
    else {
        return NO_DEVICE;
    };
    *TOLD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Told {
        script,
        taken: BTreeMap::new(),
        mixed: None,
    });
    answer("cuInit", |_| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(code: c_int, text: *mut *const c_char) -> c_int {
    let name = match code {
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        _ => return INVALID_VALUE,
    };
    put(text, name.as_ptr()).err().unwrap_or(SUCCESS)
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    answer("cuDriverGetVersion", |_| put(version, 13_000))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    answer("cuDeviceGetCount", |told| {
        let all = c_int::try_from(told.script.devices.len()).unwrap_or(c_int::MAX);
        put(count, all)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    answer("cuDeviceGet", |_| put(device, ordinal))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_int {
    answer("cuDeviceGetUuid_v2", |told| {
        let index = usize::try_from(device).unwrap_or(usize::MAX);
        let device = told.script.devices.get(index).ok_or(INVALID_VALUE)?;
        let digits: Vec<u8> = device
            .trim_start_matches("GPU-")
            .chars()
            .filter_map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            if let [high, low] = pair {
                *byte = high << 4 | low;
            }
        }
        put(uuid, bytes)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v2(context: *mut *mut c_void, _flags: c_uint, _device: c_int) -> c_int {
    answer("cuCtxCreate_v2", |_| {
        put(context, std::ptr::without_provenance_mut(1))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(_context: *mut c_void) -> c_int {
    answer("cuCtxDestroy_v2", |_| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> c_int {
    answer("cuCtxSynchronize", |_| Ok(()))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    answer("cuMemGetInfo_v2", |told| {
        let all = usize::try_from(told.script.free).unwrap_or(usize::MAX);
        put(free, all)?;
        put(total, all)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> c_int {
    answer("cuModuleLoadData", |_| {
        if image.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the API's contract: text of a module ends with a NUL.
        let text = unsafe { CStr::from_ptr(image.cast()) };
        let text = text.to_str().unwrap_or_default();
        let whole = text.contains(".version ")
            && FUNCTIONS
                .iter()
                .all(|name| text.contains(&format!(".visible .entry {name}(")));
        if !whole {
            return Err(INVALID_PTX);
        }
        put(module, std::ptr::without_provenance_mut(1))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    _module: *mut c_void,
    name: *const c_char,
) -> c_int {
    answer("cuModuleGetFunction", |_| {
        if name.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the API's contract: a name ends with a NUL.
        let name = unsafe { CStr::from_ptr(name) };
        let number = FUNCTIONS.iter().position(|it| name.to_str() == Ok(*it));
        let number = number.ok_or(NOT_FOUND)?;
        put(function, std::ptr::without_provenance_mut(number + 1))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(address: *mut u64, len: usize) -> c_int {
    answer("cuMemAlloc_v2", |told| {
        let taken = told.take(len)?;
        put(address, taken)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    answer("cuMemFree_v2", |told| told.free(address))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(start: *mut *mut c_void, len: usize) -> c_int {
    answer("cuMemAllocHost_v2", |told| {
        let taken = usize::try_from(told.take(len)?).unwrap_or_default();
        put(start, std::ptr::with_exposed_provenance_mut(taken))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(start: *mut c_void) -> c_int {
    answer("cuMemFreeHost", |told| {
        told.free(u64::try_from(start.expose_provenance()).unwrap_or_default())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, len: usize) -> c_int {
    answer("cuMemcpyHtoD_v2", |told| {
        let to = told.words(to, len)?;
        if from.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the API's contract: the caller owns that many bytes, aligned as words are here.
        let from = unsafe { std::slice::from_raw_parts(from.cast::<u64>(), len / 8) };
        to.copy_from_slice(from);
        told.spoil(Wrong::Arrived, to);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, len: usize) -> c_int {
    answer("cuMemcpyDtoH_v2", |told| {
        let from = told.words(from, len)?;
        if to.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the API's contract: the caller owns that many bytes, aligned as words are here.
        let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u64>(), len / 8) };
        to.copy_from_slice(from);
        told.spoil(Wrong::Returned, to);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, len: usize) -> c_int {
    answer("cuMemcpyDtoD_v2", |told| {
        let from = told.words(from, len)?.to_vec();
        let to = told.words(to, len)?;
        to.copy_from_slice(&from);
        told.spoil(Wrong::Copied, to);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    blocks: c_uint,
    _blocks_y: c_uint,
    _blocks_z: c_uint,
    threads: c_uint,
    _threads_y: c_uint,
    _threads_z: c_uint,
    _shared: c_uint,
    _stream: *mut c_void,
    arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> c_int {
    let argument = |index: usize| {
        let place = arguments.wrapping_add(index);
        // SAFETY: the API's contract: as many places as the function has arguments.
        let place = unsafe { place.read() };
        // SAFETY: each is of an argument, and all of these functions' are 64 bits.
        unsafe { place.cast::<u64>().read() }
    };
    answer("cuLaunchKernel", |told| {
        if blocks == 0 || threads == 0 || threads > 1024 || arguments.is_null() {
            return Err(INVALID_VALUE);
        }
        match function.addr() {
            1 => told.mix(argument(0), argument(1)),
            2 => told.fill(argument(0), argument(1), argument(2)),
            3 => told.check(argument(0), argument(1), argument(2), argument(3)),
            _ => Err(INVALID_VALUE),
        }
    })
}
