//! `ptrace(2)`: a program stopped at each of its system calls.

use std::ffi::c_int;
use std::io;

/// Why a traced thread stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stop {
    /// It is gone.
    Ended,
    /// About to make the system call of that number, with that first argument.
    Call(i64, u64),
    /// Back from one; its number was told when it was made.
    Return,
    /// About to be given a signal.
    Signal(c_int),
    /// Something else: a new thread, a new program.
    Other,
}

/// The child asks to be traced by the thread that starts it.
pub(crate) fn let_parent_trace(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let ask = || {
        // SAFETY: takes no pointer; async-signal-safe.
        let done = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// System calls are told from signals, new threads are traced too, and all die with the tracer.
pub(crate) fn trace_threads(pid: c_int) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    let options = usize::try_from(options).unwrap_or(0);
    // SAFETY: the child is stopped and traced by this thread; no pointer is passed.
    let done = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0_usize, options) };
    traced(done)
}

/// Until the next system call, its return, or a signal.
pub(crate) fn go_on(thread: c_int, signal: c_int) -> io::Result<()> {
    let signal = usize::try_from(signal).unwrap_or(0);
    // SAFETY: as above.
    let done = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, thread, 0_usize, signal) };
    traced(done)
}

/// The next stop of a thread that this thread traces; `None` once there is none left.
pub(crate) fn wait_for_traced() -> io::Result<Option<(c_int, Stop)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer there.
    let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    if thread < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) => Ok(None),
            Some(libc::EINTR) => Ok(Some((0, Stop::Other))),
            _ => Err(error),
        };
    }
    if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
        return Ok(Some((thread, Stop::Ended)));
    }
    let stop = match libc::WSTOPSIG(status) {
        signal if signal == libc::SIGTRAP | 0x80 => at_call(thread),
        // An event of the tracing, and the stop a new thread begins with.
        libc::SIGTRAP | libc::SIGSTOP => Stop::Other,
        signal => Stop::Signal(signal),
    };
    Ok(Some((thread, stop)))
}

/// Which system call it stopped at.
fn at_call(thread: c_int) -> Stop {
    // `struct ptrace_syscall_info`: op, then at 24 what depends on it.
    let mut info = [0_u64; 11];
    // SAFETY: the kernel writes at most the given number of bytes there.
    let written = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            thread,
            size_of_val(&info),
            info.as_mut_ptr(),
        )
    };
    if written < 0 {
        return Stop::Other;
    }
    let [op, ..] = info.map(|word| word.to_ne_bytes().first().copied().unwrap_or(0));
    match op {
        1 => {
            let word = |at: usize| info.get(at).copied();
            let number = word(3).and_then(|number| i64::try_from(number).ok());
            Stop::Call(number.unwrap_or(-1), word(4).unwrap_or(u64::MAX))
        }
        2 => Stop::Return,
        _ => Stop::Other,
    }
}

fn traced(done: libc::c_long) -> io::Result<()> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
