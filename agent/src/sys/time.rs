//! What the kernel knows of its clock's discipline.

use std::io;

/// adjtimex(2), read and nothing set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Discipline {
    /// Somebody keeps the clock to a reference (`STA_UNSYNC` is clear).
    pub(crate) synchronized: bool,
    /// Distance to the reference, microseconds, either way.
    pub(crate) offset_us: u64,
    /// Most the clock may be off, microseconds.
    pub(crate) max_error_us: u64,
}

pub(crate) fn discipline() -> io::Result<Discipline> {
    // SAFETY: integers only; all zero is a valid value, and with `modes` 0 nothing is set.
    let mut found: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is the kernel's to write and lives through the call.
    if unsafe { libc::adjtimex(&raw mut found) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let offset = found.offset.unsigned_abs();
    Ok(Discipline {
        synchronized: found.status & libc::STA_UNSYNC == 0,
        offset_us: match found.status & libc::STA_NANO {
            0 => offset,
            _ => offset / 1000,
        },
        max_error_us: u64::try_from(found.maxerror).unwrap_or(0),
    })
}
