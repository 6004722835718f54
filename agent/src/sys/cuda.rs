//! CUDA's driver API, as much of it as a small computation takes, from a library that is loaded by
//! its path. No toolkit is needed, and each symbol that the library lacks is named.
//!
//! For a process of its own: a context takes hundreds of megabytes of address space, and a GPU that
//! hangs takes its caller along. Whoever starts it kills it.

use std::{
    ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void},
    ptr,
};

use libloading::Library;

/// `CUdevice`
type Device = c_int;
/// `CUdeviceptr`
type Address = u64;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// There is no such library.
    #[error("{0}")]
    Library(#[source] libloading::Error),
    /// It has no such function.
    #[error("it has no symbol {0}")]
    Missing(&'static str),
    /// It answered with an error.
    #[error("{call} failed with {code}{name}")]
    Code {
        /// The function.
        call: &'static str,
        /// `CUresult`.
        code: c_int,
        /// ` (CUDA_ERROR_…)`, where the library names it.
        name: String,
    },
    /// A buffer of another size than what is moved.
    #[error("{0} bytes do not fit")]
    Size(usize),
}

/// Calls a function of the driver API by its name.
macro_rules! call {
    ($cuda:expr, $name:literal, $($arg:expr => $ty:ty),* $(,)?) => {{
        const SYMBOL: &[u8] = concat!($name, "\0").as_bytes();
        type Function = unsafe extern "C" fn($($ty),*) -> c_int;
        // SAFETY: the type is that of the driver API's header for this symbol.
        match unsafe { $cuda.library.get::<Function>(SYMBOL) } {
            Ok(function) => {
                // SAFETY: pointers are of values that live through the call; handles and addresses
                // came from this library and are given back once, at the end of their owner.
                let code = unsafe { function($($arg),*) };
                $cuda.answered($name, code)
            }
            Err(_missing) => Err(Fault::Missing($name)),
        }
    }};
}

/// The library, initialised.
#[derive(Debug)]
pub(crate) struct Cuda {
    library: Library,
}

impl Cuda {
    /// Loads `library` and initialises it.
    pub(crate) fn open(library: &OsStr) -> Result<Self, Fault> {
        // SAFETY: what runs on loading is the driver's own, as configured, and this process has
        // nothing else to lose.
        let library = unsafe { Library::new(library) }.map_err(Fault::Library)?;
        let cuda = Self { library };
        call!(cuda, "cuInit", 0 => c_uint)?;
        Ok(cuda)
    }

    fn answered(&self, call: &'static str, code: c_int) -> Result<(), Fault> {
        match code {
            0 => Ok(()),
            code => Err(Fault::Code {
                call,
                code,
                name: self.name(code).unwrap_or_default(),
            }),
        }
    }

    /// ` (CUDA_ERROR_OUT_OF_MEMORY)`
    fn name(&self, code: c_int) -> Option<String> {
        type Function = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
        // SAFETY: the type is that of the driver API's header for this symbol.
        let function = unsafe { self.library.get::<Function>(b"cuGetErrorName\0") }.ok()?;
        let mut text = ptr::null();
        // SAFETY: the pointer is written, or left as it is.
        let said = unsafe { function(code, &raw mut text) };
        if said != 0 || text.is_null() {
            return None;
        }
        // SAFETY: a constant of the library, which ends with a NUL.
        let text = unsafe { CStr::from_ptr(text) };
        Some(format!(" ({})", text.to_string_lossy()))
    }

    /// `13000`: 13.0.
    pub(crate) fn version(&self) -> Result<i32, Fault> {
        let mut version = 0;
        call!(self, "cuDriverGetVersion", &raw mut version => *mut c_int)?;
        Ok(version)
    }

    /// Devices, each with its 16 bytes of UUID, as NVML writes it behind `GPU-`.
    pub(crate) fn devices(&self) -> Result<Vec<(Device, [u8; 16])>, Fault> {
        let mut count = 0;
        call!(self, "cuDeviceGetCount", &raw mut count => *mut c_int)?;
        let mut out = Vec::new();
        for ordinal in 0..count {
            let mut device = 0;
            call!(self, "cuDeviceGet", &raw mut device => *mut Device, ordinal => c_int)?;
            let mut uuid = [0_u8; 16];
            call!(self, "cuDeviceGetUuid_v2", &raw mut uuid => *mut [u8; 16], device => Device)?;
            out.push((device, uuid));
        }
        Ok(out)
    }

    /// Takes the device into use, until the context is dropped.
    pub(crate) fn context(&self, device: Device) -> Result<Context<'_>, Fault> {
        let mut handle = ptr::null_mut();
        call!(
            self, "cuCtxCreate_v2",
            &raw mut handle => *mut *mut c_void, 0 => c_uint, device => Device,
        )?;
        Ok(Context { cuda: self, handle })
    }
}

/// A device in use.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    cuda: &'a Cuda,
    handle: *mut c_void,
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // A context that cannot be destroyed goes with the process.
        drop(call!(self.cuda, "cuCtxDestroy_v2", self.handle => *mut c_void));
    }
}

/// A function on the device; it lives as long as its context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function(*mut c_void);

impl Context<'_> {
    /// Bytes of the device's memory that are free.
    pub(crate) fn free(&self) -> Result<usize, Fault> {
        let (mut free, mut total) = (0, 0);
        call!(
            self.cuda, "cuMemGetInfo_v2",
            &raw mut free => *mut usize, &raw mut total => *mut usize,
        )?;
        Ok(free)
    }

    /// Compiles `text` and finds each of `names` in it.
    pub(crate) fn functions<const N: usize>(
        &self,
        text: &CStr,
        names: [&CStr; N],
    ) -> Result<[Function; N], Fault> {
        let mut module = ptr::null_mut();
        call!(
            self.cuda, "cuModuleLoadData",
            &raw mut module => *mut *mut c_void, text.as_ptr().cast() => *const c_void,
        )?;
        let mut out = [Function(ptr::null_mut()); N];
        for (Function(function), name) in out.iter_mut().zip(names) {
            call!(
                self.cuda, "cuModuleGetFunction",
                ptr::from_mut(function) => *mut *mut c_void,
                module => *mut c_void, name.as_ptr() => *const c_char,
            )?;
        }
        Ok(out)
    }

    /// Takes `len` bytes of the device's memory.
    pub(crate) fn memory(&self, len: usize) -> Result<Memory<'_>, Fault> {
        let mut address = 0;
        call!(
            self.cuda, "cuMemAlloc_v2",
            &raw mut address => *mut Address, len => usize,
        )?;
        let cuda = self.cuda;
        Ok(Memory { cuda, address, len })
    }

    /// Takes room for `words` of the host's memory that the device can reach by itself.
    pub(crate) fn pinned(&self, words: usize) -> Result<Pinned<'_>, Fault> {
        let len = words.checked_mul(8).ok_or(Fault::Size(words))?;
        let mut start = ptr::null_mut();
        call!(
            self.cuda, "cuMemAllocHost_v2",
            &raw mut start => *mut *mut c_void, len => usize,
        )?;
        let start: *mut u64 = start.cast();
        if start.is_null() || !start.is_aligned() {
            return Err(Fault::Size(len));
        }
        // SAFETY: the driver just gave that many bytes, and nobody else has them.
        unsafe { ptr::write_bytes(start, 0, words) };
        let cuda = self.cuda;
        Ok(Pinned { cuda, start, words })
    }

    /// Runs `function` in `blocks` of `threads` and waits for its end.
    pub(crate) fn launch(
        &self,
        Function(function): Function,
        [blocks, threads]: [u32; 2],
        arguments: &mut [u64],
    ) -> Result<(), Fault> {
        let mut places: Vec<*mut c_void> = arguments
            .iter_mut()
            .map(|argument| ptr::from_mut(argument).cast())
            .collect();
        call!(
            self.cuda, "cuLaunchKernel",
            function => *mut c_void,
            blocks => c_uint, 1 => c_uint, 1 => c_uint,
            threads => c_uint, 1 => c_uint, 1 => c_uint,
            0 => c_uint, ptr::null_mut() => *mut c_void,
            places.as_mut_ptr() => *mut *mut c_void, ptr::null_mut() => *mut *mut c_void,
        )?;
        self.wait()
    }

    /// Waits until the device has done everything.
    pub(crate) fn wait(&self) -> Result<(), Fault> {
        call!(self.cuda, "cuCtxSynchronize",)
    }
}

/// Memory of the device.
#[derive(Debug)]
pub(crate) struct Memory<'a> {
    cuda: &'a Cuda,
    address: Address,
    len: usize,
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // What cannot be freed goes with the context.
        drop(call!(self.cuda, "cuMemFree_v2", self.address => Address));
    }
}

impl Memory<'_> {
    /// As a kernel's argument.
    pub(crate) const fn address(&self) -> u64 {
        self.address
    }

    fn fits(&self, words: usize) -> Result<usize, Fault> {
        let len = words.checked_mul(8);
        len.filter(|len| *len <= self.len).ok_or(Fault::Size(words))
    }

    /// Copies `words` to its start.
    pub(crate) fn put(&self, words: &[u64]) -> Result<(), Fault> {
        let len = self.fits(words.len())?;
        call!(
            self.cuda, "cuMemcpyHtoD_v2",
            self.address => Address, words.as_ptr().cast() => *const c_void, len => usize,
        )
    }

    /// Copies its start to `words`.
    pub(crate) fn get(&self, words: &mut [u64]) -> Result<(), Fault> {
        let len = self.fits(words.len())?;
        call!(
            self.cuda, "cuMemcpyDtoH_v2",
            words.as_mut_ptr().cast() => *mut c_void, self.address => Address, len => usize,
        )
    }

    /// Copies the whole of `from` to its start.
    pub(crate) fn copy(&self, from: &Self) -> Result<(), Fault> {
        if from.len > self.len {
            return Err(Fault::Size(from.len));
        }
        call!(
            self.cuda, "cuMemcpyDtoD_v2",
            self.address => Address, from.address => Address, from.len => usize,
        )
    }
}

/// Memory of the host that the device reaches by itself.
#[derive(Debug)]
pub(crate) struct Pinned<'a> {
    cuda: &'a Cuda,
    start: *mut u64,
    words: usize,
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        // What cannot be freed goes with the process.
        drop(call!(self.cuda, "cuMemFreeHost", self.start.cast() => *mut c_void));
    }
}

impl Pinned<'_> {
    /// Its words.
    pub(crate) fn words(&mut self) -> &mut [u64] {
        // SAFETY: aligned, initialised and of this size since it was taken, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.words) }
    }
}
