//! Datagrams without end, and datagrams on demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};

use super::socket::bound;
use super::{Shot, say, step, wait};
use crate::actor::Tried;
use crate::sys;
use crate::wire::MARK;

/// Words under which a flood tells what became of what may pass and what may not.
pub(crate) const MAY_SENT: &str = "allowed, sent";
pub(crate) const MAY_REFUSED: &str = "allowed, refused";
pub(crate) const MUST_NOT_SENT: &str = "forbidden, sent";
pub(crate) const MUST_NOT_REFUSED: &str = "forbidden, refused";
pub(crate) const OTHERWISE: &str = "failed otherwise";

/// Looks up from its work this often.
const BATCH: u32 = 512;

/// `to` is what may not be reached, `via` what may.
pub(super) fn flood(shot: &Shot) -> Result<Tried> {
    let may = sys::internet(shot.via.context("what may be reached")?, shot.port);
    let must_not = shot.target();
    let socket = bound(shot, libc::SOCK_DGRAM, 0)?;
    step("ready")?;
    say("begun")?;
    let stop = Arc::<AtomicBool>::default();
    let told = Arc::clone(&stop);
    let listener = thread::spawn(move || {
        let said = wait();
        told.store(true, Ordering::SeqCst);
        said
    });
    // By target: sent, refused, failed otherwise.
    let mut counts = [[0_u64; 3]; 2];
    while !stop.load(Ordering::SeqCst) {
        for _ in 0..BATCH {
            for (target, count) in [&may, &must_not].into_iter().zip(&mut counts) {
                let [sent, refused, otherwise] = count;
                match sys::send(&socket, MARK, 0, Some(target)) {
                    Ok(()) => *sent += 1,
                    Err(error) if error.raw_os_error() == Some(libc::EPERM) => *refused += 1,
                    Err(_) => *otherwise += 1,
                }
            }
        }
    }
    listener
        .join()
        .map_err(|_panicked| anyhow::anyhow!("the listener panicked"))??;
    let [may, must_not] = counts;
    let [[ms, mr, mo], [ns, nr, no]] = [may, must_not];
    let words = [
        (MAY_SENT, ms),
        (MAY_REFUSED, mr),
        (MUST_NOT_SENT, ns),
        (MUST_NOT_REFUSED, nr),
        (OTHERWISE, mo + no),
    ];
    Ok(Tried {
        attempts: ms + mr + mo + ns + nr + no,
        refused: words.map(|(word, n)| (word.to_owned(), n)).into(),
    })
}

/// To Germany, France and the United States, one each; answers with what its kernel said.
pub(super) fn probe(shot: &Shot) -> Result<Tried> {
    let socket = bound(shot, libc::SOCK_DGRAM, 0)?;
    loop {
        let mut said = Vec::new();
        for to in [[192, 0, 2, 7], [203, 0, 113, 77], [198, 51, 100, 7]] {
            let to = sys::internet(std::net::Ipv4Addr::from(to).into(), shot.port);
            let word = match sys::send(&socket, MARK, 0, Some(&to)) {
                Ok(()) => "sent",
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => "refused",
                Err(_) => "failed",
            };
            said.push(word);
        }
        step(&said.join(","))?;
    }
}
