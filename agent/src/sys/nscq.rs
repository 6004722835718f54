//! NSCQ, which speaks to NVSwitches: everything it has is asked for by a path and comes by a callback,
//! once for each switch that the path fits.
//!
//! For a process of its own, as every vendor's library. It has to be of the driver's own version.

use std::{
    ffi::{CStr, CString, OsStr, c_char, c_void},
    ptr,
};

use libloading::Library;

/// Most answers to one question that are kept: a machine has four switches, a rack eighteen.
const MOST: usize = 64;
/// Has the session take in every switch there is.
const MOUNT_DEVICES: u32 = 1;

/// `nscq_uuid_t`
type Uuid = [u8; 16];
/// `nscq_label_t`
type Label = [u8; 64];
/// `nscq_rc_t`: 0 good, above a warning, below an error.
type Code = i8;

/// `nscq_session_result_t`
#[repr(C)]
struct SessionResult {
    code: Code,
    session: *mut c_void,
}
const _: () = assert!(size_of::<SessionResult>() == 16);

/// `nscq_attestation_certificate_t`
#[derive(Clone, Copy)]
#[repr(C)]
struct Certificate {
    chain: [u8; 0x1400],
    size: u32,
}
const _: () = assert!(size_of::<Certificate>() == 0x1404);

/// `nscq_attestation_report_t`
#[derive(Clone, Copy)]
#[repr(C)]
struct Report {
    size: u32,
    report: [u8; 0x2000],
}
const _: () = assert!(size_of::<Report>() == 0x2004);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// There is no such library.
    #[error("{0}")]
    Library(#[source] libloading::Error),
    /// It has no such function.
    #[error("it has no symbol {0}")]
    Missing(&'static str),
    /// An error of its own.
    #[error("{what} failed with {code}")]
    Code {
        /// A function, or the path that was asked.
        what: String,
        /// `nscq_rc_t`, below zero.
        code: Code,
    },
    /// It says that it wrote more than it was given room for.
    #[error("a {what} of {found} bytes, in a buffer of {room}")]
    Oversized {
        /// Of what.
        what: &'static str,
        /// As the library says.
        found: u32,
        /// As its header has it.
        room: usize,
    },
    /// A number of answers where one is due.
    #[error("{what} has {found} answers")]
    Answers {
        /// The path.
        what: String,
        /// How many came.
        found: usize,
    },
    /// What cannot be a switch's name.
    #[error("a switch whose name is none")]
    Name,
}

/// What callbacks are lent: one entry for each call.
type List<T> = Vec<Result<T, Code>>;

/// What a path answers with, and the callback that takes it into a [`List`] of its own kind.
trait Answer: Sized {
    /// As the header has it for such paths.
    type Callback: Copy;
    /// Puts one into the list.
    const CALLBACK: Self::Callback;
}

impl Answer for Uuid {
    type Callback = extern "C" fn(*const Uuid, Code, *const Uuid, *mut c_void);
    const CALLBACK: Self::Callback = on_uuid;
}

impl Answer for i8 {
    type Callback = extern "C" fn(*const Uuid, Code, i8, *mut c_void);
    const CALLBACK: Self::Callback = on_small;
}

impl Answer for Certificate {
    type Callback = extern "C" fn(*const Uuid, Code, Self, *mut c_void);
    const CALLBACK: Self::Callback = on_chain;
}

impl Answer for Report {
    type Callback = extern "C" fn(*const Uuid, Code, Self, *mut c_void);
    const CALLBACK: Self::Callback = on_report;
}

/// Takes an answer into the list that `user` points to.
fn keep<T: Answer>(user: *mut c_void, code: Code, value: Option<T>) {
    // SAFETY: `user` is the list that `observe` lends for the time of its call, to the callback of the
    // same kind, and nobody else has it meanwhile.
    let Some(list) = (unsafe { user.cast::<List<T>>().as_mut() }) else {
        return;
    };
    if list.len() < MOST {
        list.push(match (code, value) {
            (0.., Some(value)) => Ok(value),
            (code, _) => Err(code),
        });
    }
}

extern "C" fn on_uuid(_of: *const Uuid, code: Code, uuid: *const Uuid, user: *mut c_void) {
    // SAFETY: null, or a name that stands through the call.
    let uuid = unsafe { uuid.as_ref() }.copied();
    keep(user, code, uuid);
}

extern "C" fn on_small(_of: *const Uuid, code: Code, value: i8, user: *mut c_void) {
    keep(user, code, Some(value));
}

extern "C" fn on_chain(_of: *const Uuid, code: Code, value: Certificate, user: *mut c_void) {
    keep(user, code, Some(value));
}

extern "C" fn on_report(_of: *const Uuid, code: Code, value: Report, user: *mut c_void) {
    keep(user, code, Some(value));
}

/// A session that has every switch.
#[derive(Debug)]
pub(crate) struct Nscq {
    library: Library,
    session: *mut c_void,
}

impl Drop for Nscq {
    fn drop(&mut self) {
        type Function = unsafe extern "C" fn(*mut c_void);
        // SAFETY: the type is that of NSCQ's header for this symbol.
        if let Ok(destroy) = unsafe { self.library.get::<Function>(b"nscq_session_destroy\0") } {
            // SAFETY: the session is this library's, and is used no more.
            unsafe { destroy(self.session) };
        }
    }
}

impl Nscq {
    /// Loads `library` and has it find the switches.
    pub(crate) fn open(library: &OsStr) -> Result<Self, Fault> {
        const CREATE: &str = "nscq_session_create";
        type Function = unsafe extern "C" fn(u32) -> SessionResult;
        // SAFETY: what runs on loading is the vendor's own, as configured, and this process has
        // nothing else to lose.
        let library = unsafe { Library::new(library) }.map_err(Fault::Library)?;
        // SAFETY: the type is that of NSCQ's header for this symbol.
        let create = unsafe { library.get::<Function>(b"nscq_session_create\0") };
        let Ok(create) = create else {
            return Err(Fault::Missing(CREATE));
        };
        // SAFETY: takes a number and gives a value.
        let made = unsafe { create(MOUNT_DEVICES) };
        let session = made.session;
        answered(CREATE, made.code)?;
        if session.is_null() {
            return Err(Fault::Code {
                what: CREATE.to_owned(),
                code: made.code,
            });
        }
        Ok(Self { library, session })
    }

    /// Names of the switches, as in paths.
    pub(crate) fn switches(&self) -> Result<Vec<String>, Fault> {
        let path = "/drv/nvswitch/{device}/uuid";
        let found = self.observe::<Uuid>(path)?;
        let found = found.into_iter().map(|uuid| match uuid {
            Ok(uuid) => self.label(&uuid),
            Err(code) => Err(fault(path, code)),
        });
        found.collect()
    }

    fn label(&self, uuid: &Uuid) -> Result<String, Fault> {
        const LABEL: &str = "nscq_uuid_to_label";
        type Function = unsafe extern "C" fn(*const Uuid, *mut Label, u32) -> Code;
        // SAFETY: the type is that of NSCQ's header for this symbol.
        let function = unsafe { self.library.get::<Function>(b"nscq_uuid_to_label\0") };
        let Ok(function) = function else {
            return Err(Fault::Missing(LABEL));
        };
        let mut label = [0; 64];
        // SAFETY: a name, and room for a label as long as the header has it.
        let code = unsafe { function(uuid, &raw mut label, 0) };
        answered(LABEL, code)?;
        let text = CStr::from_bytes_until_nul(&label).ok();
        let text = text.and_then(|text| text.to_str().ok());
        // It becomes a part of a path.
        let plain = |text: &&str| {
            let fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !text.is_empty() && text.bytes().all(fit)
        };
        let text = text.filter(plain).ok_or(Fault::Name)?;
        Ok(text.to_owned())
    }

    /// 0: SV10, 1: LR10, 2: LS10.
    pub(crate) fn architecture(&self, switch: &str) -> Result<i8, Fault> {
        self.one(&format!("/{switch}/id/arch"))
    }

    /// -1 unknown, 0 off, 1 on, 2 failure, 3 on and locked.
    pub(crate) fn mode(&self, switch: &str) -> Result<i8, Fault> {
        self.one(&format!("/{switch}/config/pcie_mode"))
    }

    /// The chain of the key that signs its reports, PEM.
    pub(crate) fn chain(&self, switch: &str) -> Result<Vec<u8>, Fault> {
        let path = format!("/{switch}/config/certificate");
        let answer: Certificate = self.one(&path)?;
        front("chain", &answer.chain, answer.size)
    }

    /// A report in answer to `nonce`.
    pub(crate) fn report(&self, switch: &str, mut nonce: [u8; 32]) -> Result<Vec<u8>, Fault> {
        const INPUT: &str = "nscq_session_set_input";
        type Function = unsafe extern "C" fn(*mut c_void, u32, *mut c_void, u32) -> Code;
        // SAFETY: the type is that of NSCQ's header for this symbol.
        let function = unsafe { self.library.get::<Function>(b"nscq_session_set_input\0") };
        let Ok(function) = function else {
            return Err(Fault::Missing(INPUT));
        };
        let input: *mut [u8; 32] = &raw mut nonce;
        // SAFETY: this library's session, and 32 bytes that outlive what is asked with them.
        let code = unsafe { function(self.session, 0, input.cast(), 32) };
        answered(INPUT, code)?;
        let path = format!("/{switch}/config/attestation_report");
        let answer: Report = self.one(&path)?;
        front("report", &answer.report, answer.size)
    }

    fn one<T: Answer>(&self, path: &str) -> Result<T, Fault> {
        let mut found = self.observe::<T>(path)?;
        match (found.pop(), found.len()) {
            (Some(Ok(one)), 0) => Ok(one),
            (Some(Err(code)), 0) => Err(fault(path, code)),
            (last, before) => Err(Fault::Answers {
                what: path.to_owned(),
                found: before + usize::from(last.is_some()),
            }),
        }
    }

    /// Asks for `path`, which has to answer with a `T`.
    fn observe<T: Answer>(&self, path: &str) -> Result<List<T>, Fault> {
        const OBSERVE: &str = "nscq_session_path_observe";
        type Function<C> =
            unsafe extern "C" fn(*mut c_void, *const c_char, C, *mut c_void, u32) -> Code;
        const SYMBOL: &[u8] = b"nscq_session_path_observe\0";
        // SAFETY: the type is that of NSCQ's header for this symbol, the callback's being what the
        // header has for this path.
        let function = unsafe { self.library.get::<Function<T::Callback>>(SYMBOL) };
        let Ok(function) = function else {
            return Err(Fault::Missing(OBSERVE));
        };
        let Ok(asked) = CString::new(path) else {
            return Err(Fault::Name);
        };
        let mut list: List<T> = Vec::new();
        let user: *mut c_void = ptr::from_mut(&mut list).cast();
        // SAFETY: this library's session; path, callback and list stand through the call, and no
        // callback comes after it.
        let code = unsafe { function(self.session, asked.as_ptr(), T::CALLBACK, user, 0) };
        answered(path, code)?;
        Ok(list)
    }
}

fn answered(what: &str, code: Code) -> Result<(), Fault> {
    match code {
        0.. => Ok(()),
        code => Err(fault(what, code)),
    }
}

fn fault(what: &str, code: Code) -> Fault {
    Fault::Code {
        what: what.to_owned(),
        code,
    }
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
