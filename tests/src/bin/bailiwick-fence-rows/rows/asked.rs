//! What a process asks of the kernel itself, where the kernel asks the BPF LSM.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::US;
use crate::act::{Shot, Technique};
use crate::actor::Tried;
use crate::ground::Side;
use crate::pace::paced;
use crate::play::{CARDIO, Play};
use crate::policy::{Terms, study};
use crate::row::Row;
use crate::sys;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        23,
        "vsock",
        "a socket that has no address, to whoever listens on this machine",
        vsock,
    )
    .in_vm(),
    Row::new(
        18,
        "bpf-of-a-study",
        "a study's code calls bpf(2), where it may and where it may not",
        bpf,
    )
    .in_vm(),
    Row::new(
        18,
        "link-detached",
        "root, in a cgroup that nobody named, detaches the fence's links",
        detached,
    )
    .in_vm()
    .alone(),
    Row::new(
        18,
        "module-of-a-study",
        "a study's code loads a module, by its file and from memory",
        module,
    )
    .in_vm(),
];

/// A module that is there already: who comes so far as to be told that was not refused.
const MODULE: &str = "/modules/dummy.ko";
const REFUSED: &str = "EPERM";

/// Where vsock's listener listens: each try has one of its own.
const VSOCK_PORTS: [u16; 3] = [6100, 6101, 6102];

/// It passes no hook of packets, and what is heard is counted by whoever hears it.
fn vsock(play: &mut Play<'_>) -> Result<()> {
    let [open, fenced, granted] = VSOCK_PORTS;
    let (_, heard) = say(play, Side::Open, open)?;
    play.would_leak("vsock", heard);
    play.ground.hush()?;
    let (tried, heard) = say(play, Side::Fenced, fenced)?;
    play.counted(&tried, heard)?;
    grant(play, "vsock = true\n")?;
    let (_, heard) = say(play, Side::Fenced, granted)?;
    if heard == 0 {
        play.outcome.wrong("a study that may is not heard");
    }
    play.says_unfenced("vsock")?;
    play.ground.apply(&Terms::default())
}

/// What was tried, and how much of it was heard.
fn say(play: &mut Play<'_>, side: Side, port: u16) -> Result<(Tried, usize)> {
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
    Ok((tried, usize::try_from(heard).unwrap_or(usize::MAX)))
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

fn bpf(play: &mut Play<'_>) -> Result<()> {
    let shot = Shot::at(US);
    asked(play, Technique::Bpf, &shot)?;
    grant(play, "bpf = true\n")?;
    let (tried, _) = play
        .ground
        .fire(Side::Fenced, CARDIO, Technique::Bpf, &shot)?;
    if !tried.refused.is_empty() {
        play.outcome.wrong("a study that may is refused");
    }
    play.ground.apply(&Terms::default())
}

fn module(play: &mut Play<'_>) -> Result<()> {
    asked(
        play,
        Technique::Module,
        &Shot::at(US).meet(PathBuf::from(MODULE)),
    )
}

/// Each link is tried from within. Then those of the kernel's line, and one more, from outside the
/// fence: there they are detached, and stand again.
fn detached(play: &mut Play<'_>) -> Result<()> {
    play.ground.stand()?;
    let links = play.ground.folder().join("bpf");
    let mut pins = Vec::new();
    super::kernel::find_links(&links, &mut pins)?;
    for pin in &pins {
        let shot = Shot::at(US).count(1).meet(pin.clone());
        play.ground.hush()?;
        let (tried, _) = play
            .ground
            .fire(Side::Fenced, "other", Technique::Detach, &shot)?;
        play.counted(&tried, through(&tried))?;
    }
    play.attack(Technique::Udp, &Shot::at(US))?;
    // From outside it goes. No packet passes for want of these.
    let harmless = |pin: &&PathBuf| {
        let name = pin.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name == "setsockopt" || name.starts_with("lsm-"))
    };
    let mut gone = 0_usize;
    for pin in pins.iter().filter(harmless) {
        let shot = Shot::at(US).count(1).meet(pin.clone());
        let (tried, _) = play.ground.fire(Side::Open, "", Technique::Detach, &shot)?;
        gone += through(&tried);
    }
    play.would_leak("a link detached from outside", gone);
    let begun = Instant::now();
    let gone = u64::try_from(gone).unwrap_or(u64::MAX);
    let mended = |play: &mut Play<'_>| -> Result<bool> {
        let counters = play.ground.counters()?;
        Ok(counters.get("links.mended").copied().unwrap_or(0) >= gone)
    };
    while !mended(play)? && begun.elapsed() < paced(Duration::from_secs(20)) {
        thread::sleep(Duration::from_millis(50));
    }
    play.outcome.saw(format!(
        "{gone} links were detached from outside: attached again within {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    play.says_mended("was detached", "links.mended")?;
    asked(play, Technique::Bpf, &Shot::at(US))
}

/// The same calls where nothing stops them, and where the fence stands.
fn asked(play: &mut Play<'_>, how: Technique, shot: &Shot) -> Result<()> {
    let (tried, _) = play.ground.fire(Side::Open, CARDIO, how, shot)?;
    play.would_leak(how.name(), through(&tried));
    play.ground.hush()?;
    let (tried, _) = play.ground.fire(Side::Fenced, CARDIO, how, shot)?;
    play.counted(&tried, through(&tried))
}

/// How many of them were not refused.
fn through(tried: &Tried) -> usize {
    let refused = tried.refused.get(REFUSED).copied().unwrap_or(0);
    usize::try_from(tried.attempts.saturating_sub(refused)).unwrap_or(usize::MAX)
}

/// The study may do that from now on.
fn grant(play: &mut Play<'_>, line: &str) -> Result<()> {
    let root = play.ground.root();
    let may = study(
        &root,
        "cardio",
        "\"10.9.1.1/32\"",
        "jurisdictions = [\"DE\"]\n",
    );
    let lines = format!("raw_sockets = true\nunattested = true\n{line}");
    play.ground.apply(&Terms::default().with(
        "studies/cardio.toml",
        may.replace("raw_sockets = true\n", &lines),
    ))
}
