//! What a process asks of the kernel itself.

use std::fs::File;
use std::io::Read as _;

use anyhow::{Context as _, Result};

use super::Shot;
use crate::actor::Tried;
use crate::sys;
use crate::wire::MARK;

/// This machine, as its own peer.
const VMADDR_CID_LOCAL: u32 = 1;

/// Messages to whoever listens in another study, or in none.
pub(super) fn vsock(shot: &Shot) -> Result<Tried> {
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        let to = sys::context(VMADDR_CID_LOCAL, shot.port.into());
        let sent = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0).and_then(|socket| {
            sys::connect(&socket, &to)?;
            sys::send(&socket, MARK, 0, None)
        });
        tried.once(sent);
    }
    Ok(tried)
}

/// A program that could stand before the fence's own, were it attached.
pub(super) fn bpf(shot: &Shot) -> Result<Tried> {
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::pass_all());
    }
    Ok(tried)
}

/// A module, by its file and from memory.
pub(super) fn module(shot: &Shot) -> Result<Tried> {
    let path = shot.meet.as_ref().context("which module")?;
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).context("read a module")?;
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::load_module(&file));
        tried.once(sys::load_module_from(&bytes));
    }
    Ok(tried)
}

/// A link, by its pin.
pub(super) fn detach(shot: &Shot) -> Result<Tried> {
    let path = shot.meet.as_ref().context("which link")?;
    let link = sys::open_pin(path).with_context(|| path.display().to_string())?;
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::detach_link(&link));
    }
    Ok(tried)
}
