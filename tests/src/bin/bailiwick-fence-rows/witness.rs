//! Counts what arrives, in the namespace where it arrives: nobody's own counters are asked.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::net::{self, WIRE};
use crate::pace::paced;
use crate::sys;
use crate::wire::MARK;

/// Nothing more has come for this long: nothing more comes.
const SETTLED: Duration = Duration::from_millis(150);
/// How often the reader looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(50);
/// More than any row sends; what floods is counted elsewhere.
const KEPT: usize = 65_536;

const ETH_P_ALL: u16 = 3;
const SOL_PACKET: i32 = 263;
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// Every frame that comes in by the wire, as it came.
#[derive(Debug)]
pub(crate) struct Witness {
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Witness {
    /// Watches the wire's end in a namespace.
    pub(crate) fn watch(space: &str) -> Result<Self> {
        Self::watch_device(space, WIRE)
    }

    /// The same for a device of another name.
    pub(crate) fn watch_device(space: &str, device: &str) -> Result<Self> {
        let socket = net::within(space, || tap(device).context("open a packet socket"))?;
        let frames = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (kept, end) = (Arc::clone(&frames), Arc::clone(&stop));
        let reader = thread::spawn(move || read(socket, &kept, &end));
        Ok(Self {
            frames,
            stop,
            reader: Some(reader),
        })
    }

    /// Forgets what has come so far.
    pub(crate) fn forget(&self) {
        drop(self.take());
    }

    /// What has come since the last question, once no more comes; what hosts send by themselves
    /// (ARP, neighbour discovery, group membership) is left out, unless an attack has marked it.
    pub(crate) fn arrived(&self) -> Vec<Vec<u8>> {
        let mut seen = self.count();
        let mut since = Instant::now();
        while since.elapsed() < paced(SETTLED) {
            thread::sleep(Duration::from_millis(10));
            let now = self.count();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        let mut frames = self.take();
        frames.retain(|frame| contains(frame, MARK) || !is_housekeeping(frame));
        frames
    }

    fn count(&self) -> usize {
        self.frames
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    fn take(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.frames.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

/// Counts packets to one address, however many: the kernel counts them, and nothing is kept.
#[derive(Debug)]
pub(crate) struct Counter(OwnedFd);

impl Counter {
    /// At the wire's end in a namespace.
    pub(crate) fn at(space: &str, to: Ipv4Addr) -> Result<Self> {
        let socket = net::within(space, || {
            let socket = tap(WIRE).context("open a packet socket")?;
            sys::count_only(&socket, to).context("attach a filter")?;
            Ok(socket)
        })?;
        let counter = Self(socket);
        // What came before there was a filter.
        counter.take()?;
        Ok(counter)
    }

    /// Since the last call.
    pub(crate) fn take(&self) -> Result<u64> {
        let seen = sys::packets_seen(&self.0).context("ask a packet socket")?;
        Ok(seen.into())
    }

    /// The same, once no more comes.
    pub(crate) fn settled(&self) -> Result<u64> {
        let mut total = self.take()?;
        let mut since = Instant::now();
        while since.elapsed() < paced(SETTLED) {
            thread::sleep(Duration::from_millis(10));
            let more = self.take()?;
            if more > 0 {
                total += more;
                since = Instant::now();
            }
        }
        Ok(total)
    }
}

fn tap(device: &str) -> io::Result<OwnedFd> {
    let every = libc::c_int::from(ETH_P_ALL.to_be());
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, every)?;
    sys::set_number(&socket, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    sys::set_number(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20)?;
    let glance = i64::try_from(GLANCE.as_micros()).unwrap_or(0);
    let time = [0_i64.to_ne_bytes(), glance.to_ne_bytes()].concat();
    sys::set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)?;
    sys::bind(&socket, &sys::link(sys::ifindex(device)?, ETH_P_ALL))?;
    Ok(socket)
}

fn read(socket: OwnedFd, frames: &Mutex<Vec<Vec<u8>>>, stop: &AtomicBool) {
    let mut socket = File::from(socket);
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::SeqCst) {
        let Ok(length) = socket.read(&mut buffer) else {
            continue; // nothing came for a while
        };
        let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() < KEPT {
            frames.push(buffer.get(..length).unwrap_or_default().to_vec());
        }
    }
}

pub(crate) fn contains(frame: &[u8], needle: &[u8]) -> bool {
    frame.windows(needle.len()).any(|window| window == needle)
}

fn is_housekeeping(frame: &[u8]) -> bool {
    let ethertype = frame.get(12..14).unwrap_or_default();
    if ethertype == [0x08, 0x06] {
        return true;
    }
    if ethertype != [0x86, 0xdd] {
        return false;
    }
    let next = frame.get(20).copied();
    let (kind, following) = match next {
        Some(58) => (frame.get(54).copied(), true),
        // Membership reports stand behind a router alert.
        Some(0) => (frame.get(62).copied(), frame.get(54) == Some(&58)),
        _ => (None, false),
    };
    following && kind.is_some_and(|kind| (130..=137).contains(&kind) || kind == 143)
}

#[cfg(test)]
mod tests {
    use super::is_housekeeping;

    #[test]
    fn only_what_hosts_send_by_themselves_is_left_out() {
        let mut frame = vec![0; 80];
        assert!(!is_housekeeping(&frame), "no ethertype");
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        assert!(is_housekeeping(&frame), "ARP");
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        assert!(!is_housekeeping(&frame), "IPv4");
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        for (name, next, behind, kind, want) in [
            ("solicitation", 58, 0, 135, true),
            ("echo request", 58, 0, 128, false),
            ("membership report", 0, 58, 143, true),
            ("echo request behind an option", 0, 58, 128, false),
            ("UDP behind an option", 0, 17, 143, false),
            ("UDP", 17, 0, 135, false),
        ] {
            frame[20] = next;
            if next == 0 {
                (frame[54], frame[62]) = (behind, kind);
            } else {
                frame[54] = kind;
            }
            assert_eq!(is_housekeeping(&frame), want, "{name}");
        }
    }
}
