//! Ways of sending that take a module of the kernel.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::socket::{both_families, listen};
use super::{DE, US};
use crate::act::{Shot, Technique};
use crate::ground::Side;
use crate::pace::paced;
use crate::play::{CARDIO, Play};
use crate::row::Row;
use crate::sys;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        7,
        "sctp",
        "associations by connect, by an option and by sending",
        sctp,
    )
    .in_vm(),
    Row::new(
        7,
        "sctp-later-path",
        "the other end of an allowed association names an address that is not",
        later_path,
    )
    .in_vm(),
    Row::new(
        23,
        "vsock",
        "a socket that has no address, to whoever listens on this machine",
        vsock,
    )
    .evidenced()
    .in_vm(),
];

const IPPROTO_SCTP: i32 = 132;

fn sctp(play: &mut Play<'_>) -> Result<()> {
    both_families(play, Technique::Sctp)
}

fn later_path(play: &mut Play<'_>) -> Result<()> {
    let there = [198, 51, 100, 7];
    for side in [Side::Open, Side::Fenced] {
        listen(play.ground, side, IPPROTO_SCTP)?;
        play.ground.hush()?;
        play.ground.witness(side).forget();
        let shot = Shot::at(DE).port(5100);
        let mut attacker = play
            .ground
            .attacker(side, CARDIO, Technique::SctpPath, &shot)?;
        attacker.step()?;
        let tried = attacker.finish()?;
        let arrived = play.ground.witness(side).arrived();
        let is_there = |frame: &&Vec<u8>| frame.get(30..34) == Some(&there);
        let second = arrived.iter().filter(is_there).count();
        if side == Side::Open {
            play.would_leak("a second path", second);
        } else {
            play.outcome.saw(format!(
                "{} packets of the first path",
                arrived.len() - second
            ));
            play.counted(&tried, second)?;
        }
    }
    Ok(())
}

/// Where vsock's listener listens; each side has one of its own.
const VSOCK_PORTS: [u16; 2] = [6100, 6101];

/// It passes no hook, and what is heard is counted by whoever hears it.
fn vsock(play: &mut Play<'_>) -> Result<()> {
    for (side, port) in [Side::Open, Side::Fenced].into_iter().zip(VSOCK_PORTS) {
        let heard = hear(port)?;
        let shot = Shot::at(US).port(port);
        let attacker = play
            .ground
            .attacker(side, CARDIO, Technique::Vsock, &shot)?;
        let tried = attacker.finish()?;
        let end = Instant::now() + paced(Duration::from_millis(500));
        while heard.load(Ordering::SeqCst) < tried.attempts && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        let heard = heard.load(Ordering::SeqCst);
        if side == Side::Open {
            play.would_leak("vsock", usize::try_from(heard).unwrap_or(usize::MAX));
        } else {
            play.outcome.attempts += tried.attempts;
            play.outcome.leaked += heard;
        }
    }
    play.says_unfenced("vsock")
}

/// Counts messages to a port of this machine's own context.
fn hear(port: u16) -> Result<Arc<AtomicU64>> {
    const VMADDR_CID_ANY: u32 = u32::MAX;
    let listener: OwnedFd = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    sys::bind(&listener, &sys::context(VMADDR_CID_ANY, port.into())).context("bind")?;
    rustix::net::listen(&listener, 16).context("listen")?;
    let heard = Arc::<AtomicU64>::default();
    let count = Arc::clone(&heard);
    thread::spawn(move || {
        while let Ok(stream) = rustix::net::accept(&listener) {
            let mut bytes = Vec::new();
            let read = File::from(stream).read_to_end(&mut bytes);
            if read.is_ok_and(|length| length > 0) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    Ok(heard)
}
