//! NSCQ's symbols. Types are written down from its header: everything is asked for by a path, and comes
//! by a callback.

use std::ffi::{CStr, c_char, c_void};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::abi::{own_file, report};
use crate::script::{CALLS, Fault, NscqScript, SUFFIX, Switch};

type Uuid = [u8; 16];
type Callback = unsafe extern "C" fn();

const SUCCESS: i8 = 0;
const NOT_IMPLEMENTED: i8 = -1;
const INVALID_UUID: i8 = -2;
const DRIVER: i8 = -7;
const EXTERNAL: i8 = -127;

#[repr(C)]
struct SessionResult {
    code: i8,
    session: *mut c_void,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Certificate {
    chain: [u8; 0x1400],
    size: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Report {
    size: u32,
    report: [u8; 0x2000],
}

/// What was read when the session was made, and what was put in since.
struct Told {
    script: NscqScript,
    own: PathBuf,
    nonce: [u8; 32],
}

static TOLD: Mutex<Option<Told>> = Mutex::new(None);

fn answer(symbol: &str, work: impl FnOnce(&mut Told) -> i8) -> i8 {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(told) = told.as_mut() else {
        return EXTERNAL;
    };
    match told.script.faults.get(symbol) {
        Some(Fault::Code(code)) => error(*code),
        Some(Fault::Hang) => loop {
            std::thread::park();
        },
        Some(Fault::Crash) => std::process::abort(),
        Some(Fault::Oversized | Fault::Empty) | None => work(told),
    }
}

/// A script has codes as they are written without their sign.
fn error(code: u32) -> i8 {
    i8::try_from(code).map_or(i8::MIN, |code| -code)
}

#[unsafe(no_mangle)]
extern "C" fn nscq_session_create(_flags: u32) -> SessionResult {
    let failed = |code| SessionResult {
        code,
        session: std::ptr::null_mut(),
    };
    let Some(own) = own_file() else {
        return failed(EXTERNAL);
    };
    let mut script = own.clone().into_os_string();
    script.push(SUFFIX);
    let read = fs::read(script).ok();
    let Some(script) = read.and_then(|bytes| serde_json::from_slice::<NscqScript>(&bytes).ok())
    else {
        return failed(DRIVER);
    };
    *TOLD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Told {
        script,
        own,
        nonce: [0; 32],
    });
    match answer("nscq_session_create", |_| SUCCESS) {
        SUCCESS => SessionResult {
            code: SUCCESS,
            session: std::ptr::without_provenance_mut(1),
        },
        code => failed(code),
    }
}

#[unsafe(no_mangle)]
extern "C" fn nscq_session_destroy(_session: *mut c_void) {}

#[unsafe(no_mangle)]
extern "C" fn nscq_session_set_input(
    _session: *mut c_void,
    _flags: u32,
    input: *mut c_void,
    len: u32,
) -> i8 {
    answer("nscq_session_set_input", |told| {
        // SAFETY: the header's contract: the caller owns that many bytes, and a nonce has 32.
        match unsafe { input.cast::<[u8; 32]>().as_ref() } {
            Some(nonce) if len == 32 => {
                told.nonce = *nonce;
                SUCCESS
            }
            _ => EXTERNAL,
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn nscq_uuid_to_label(uuid: *const Uuid, label: *mut [u8; 64], _flags: u32) -> i8 {
    answer("nscq_uuid_to_label", |told| {
        // SAFETY: the header's contract: a name of the caller's.
        let uuid = unsafe { uuid.as_ref() };
        let index = uuid.and_then(|uuid| uuid.first()).copied();
        let switch = index.and_then(|index| told.script.switches.get(usize::from(index)));
        // SAFETY: the header's contract: room for a label.
        let (Some(switch), Some(label)) = (switch, unsafe { label.as_mut() }) else {
            return INVALID_UUID;
        };
        *label = [0; 64];
        for (place, byte) in label.iter_mut().take(63).zip(switch.label.bytes()) {
            *place = byte;
        }
        SUCCESS
    })
}

fn uuid(index: usize) -> Uuid {
    let mut uuid = [0; 16];
    if let Some(first) = uuid.first_mut() {
        *first = u8::try_from(index).unwrap_or(u8::MAX);
    }
    uuid
}

#[unsafe(no_mangle)]
extern "C" fn nscq_session_path_observe(
    _session: *mut c_void,
    path: *const c_char,
    callback: Option<Callback>,
    user: *mut c_void,
    _flags: u32,
) -> i8 {
    let Some(callback) = callback.filter(|_| !path.is_null()) else {
        return EXTERNAL;
    };
    // SAFETY: the header's contract: a path ends with a NUL.
    let path = unsafe { CStr::from_ptr(path) };
    let path = path.to_str().unwrap_or_default();
    let calls = {
        let mut calls = Vec::new();
        let code = answer("nscq_session_path_observe", |told| {
            match told.calls(path, callback, user) {
                Some(made) => calls = made,
                None => return NOT_IMPLEMENTED,
            }
            SUCCESS
        });
        if code != SUCCESS {
            return code;
        }
        calls
    };
    // Callbacks may ask something themselves, so nothing is locked any more.
    for call in calls {
        call();
    }
    SUCCESS
}

type Call = Box<dyn FnOnce()>;

impl Told {
    /// What is to be called for a path; `None`: there is no such path.
    fn calls(&self, path: &str, callback: Callback, user: *mut c_void) -> Option<Vec<Call>> {
        if path == "/drv/nvswitch/{device}/uuid" {
            let all = 0..self.script.switches.len();
            return Some(all.map(|index| name(index, callback, user)).collect());
        }
        let (label, asked) = path.strip_prefix('/')?.split_once('/')?;
        let switches = &self.script.switches;
        let index = switches.iter().position(|it| it.label == label)?;
        let switch = switches.get(index)?;
        if ["config/certificate", "config/attestation_report"].contains(&asked) {
            self.note(asked, label);
        }
        let fault = self.script.faults.get(asked).copied();
        let code = match fault {
            Some(Fault::Code(code)) => error(code),
            Some(Fault::Hang) => loop {
                std::thread::park();
            },
            Some(Fault::Crash) => std::process::abort(),
            _ => SUCCESS,
        };
        Some(vec![match asked {
            "id/arch" => small(index, code, switch.arch, callback, user),
            "config/pcie_mode" => small(index, code, switch.mode, callback, user),
            "config/certificate" => chain(index, code, switch, fault, callback, user),
            "config/attestation_report" => {
                let made = report(&switch.report, switch.key.as_deref(), &self.nonce);
                signed(index, code, made.as_deref(), fault, callback, user)
            }
            _ => return None,
        }])
    }

    fn note(&self, asked: &str, label: &str) {
        let mut name = self.own.clone().into_os_string();
        name.push(CALLS);
        let log = fs::OpenOptions::new().create(true).append(true).open(name);
        if let Ok(mut log) = log {
            drop(writeln!(log, "{asked} {label}"));
        }
    }
}

fn name(index: usize, callback: Callback, user: *mut c_void) -> Call {
    type Function = unsafe extern "C" fn(*const Uuid, i8, *const Uuid, *mut c_void);
    // SAFETY: the header's contract: this path is asked with a callback of this type.
    let function = unsafe { std::mem::transmute::<Callback, Function>(callback) };
    Box::new(move || {
        let uuid = uuid(index);
        // SAFETY: names that stand through the call, and what the caller lent for it.
        unsafe { function(&raw const uuid, SUCCESS, &raw const uuid, user) };
    })
}

fn small(index: usize, code: i8, value: i8, callback: Callback, user: *mut c_void) -> Call {
    type Function = unsafe extern "C" fn(*const Uuid, i8, i8, *mut c_void);
    // SAFETY: the header's contract: such paths are asked with a callback of this type.
    let function = unsafe { std::mem::transmute::<Callback, Function>(callback) };
    Box::new(move || {
        let uuid = uuid(index);
        // SAFETY: a name that stands through the call, and what the caller lent for it.
        unsafe { function(&raw const uuid, code, value, user) };
    })
}

fn chain(
    index: usize,
    code: i8,
    switch: &Switch,
    fault: Option<Fault>,
    callback: Callback,
    user: *mut c_void,
) -> Call {
    type Function = unsafe extern "C" fn(*const Uuid, i8, Certificate, *mut c_void);
    // SAFETY: the header's contract: this path is asked with a callback of this type.
    let function = unsafe { std::mem::transmute::<Callback, Function>(callback) };
    let pem = fs::read(&switch.chain).unwrap_or_default();
    let mut value = Certificate {
        chain: [0; 0x1400],
        size: said(fault, pem.len(), 0x1400),
    };
    for (place, byte) in value.chain.iter_mut().zip(pem) {
        *place = byte;
    }
    Box::new(move || {
        let uuid = uuid(index);
        // SAFETY: a name that stands through the call, and what the caller lent for it.
        unsafe { function(&raw const uuid, code, value, user) };
    })
}

fn signed(
    index: usize,
    code: i8,
    report: Option<&[u8]>,
    fault: Option<Fault>,
    callback: Callback,
    user: *mut c_void,
) -> Call {
    type Function = unsafe extern "C" fn(*const Uuid, i8, Report, *mut c_void);
    // SAFETY: the header's contract: this path is asked with a callback of this type.
    let function = unsafe { std::mem::transmute::<Callback, Function>(callback) };
    let report = report.unwrap_or_default();
    let mut value = Report {
        size: said(fault, report.len(), 0x2000),
        report: [0; 0x2000],
    };
    for (place, byte) in value.report.iter_mut().zip(report) {
        *place = *byte;
    }
    Box::new(move || {
        let uuid = uuid(index);
        // SAFETY: a name that stands through the call, and what the caller lent for it.
        unsafe { function(&raw const uuid, code, value, user) };
    })
}

fn said(fault: Option<Fault>, len: usize, room: usize) -> u32 {
    let len = match fault {
        Some(Fault::Oversized) => room + 1,
        Some(Fault::Empty) => 0,
        _ => len,
    };
    u32::try_from(len).unwrap_or(u32::MAX)
}
