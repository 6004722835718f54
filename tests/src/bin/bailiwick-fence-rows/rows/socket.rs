//! Ways of sending that an early hook does not see, or sees wrongly.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::thread;

use anyhow::{Context as _, Result};

use super::{DE, DE6, US, US6};
use crate::act::{Shot, Technique};
use crate::ground::{Ground, Side};
use crate::net;
use crate::play::{CARDIO, Play};
use crate::row::Row;
use crate::sys;

pub(super) const ROWS: &[Row] = &[
    Row::new(2, "raw-socket", "IP headers of one's own", raw),
    Row::new(
        2,
        "raw-socket-mismatch",
        "a header that says other than what the socket was told",
        raw_mismatch,
    ),
    Row::new(3, "ping-socket", "echo requests without privileges", ping),
    Row::new(
        4,
        "mapped-address",
        "IPv4 from an IPv6 socket, connected and not",
        mapped,
    ),
    Row::new(
        4,
        "embedded-address",
        "IPv4 inside 6to4, NAT64 and Teredo, and mapped on the wire",
        embedded,
    ),
    Row::new(
        4,
        "special-address",
        "multicast, broadcast, link-local and metadata addresses",
        special,
    ),
    Row::new(
        3,
        "group-membership",
        "names of multicast groups, which the kernel sends by itself",
        join,
    ),
    Row::new(
        5,
        "tcp-fast-open",
        "data in the first segment, without connect",
        fast_open,
    ),
    Row::new(6, "mptcp", "a connection of several paths", mptcp),
    Row::new(
        6,
        "mptcp-later-path",
        "an allowed connection gets a second path from the other end",
        mptcp_path,
    ),
    Row::new(
        15,
        "fragments",
        "what the kernel cuts, and fragments without a beginning",
        fragments,
    ),
    Row::new(30, "io-uring", "send and connect by a ring", ring),
];

/// The same to an address of each family that may not be, and to one that may.
pub(super) fn both_families(play: &mut Play<'_>, technique: Technique) -> Result<()> {
    play.attack(technique, &Shot::at(US))?;
    play.attack(technique, &Shot::at(US6))?;
    play.passes(technique, &Shot::at(DE))?;
    play.passes(technique, &Shot::at(DE6))
}

fn raw(play: &mut Play<'_>) -> Result<()> {
    both_families(play, Technique::Raw)
}

fn raw_mismatch(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Raw, &Shot::at(US).via(DE))?;
    play.attack(Technique::Raw, &Shot::at(US6).via(DE6))?;
    play.passes(Technique::Raw, &Shot::at(DE).via(US))
}

fn ping(play: &mut Play<'_>) -> Result<()> {
    both_families(play, Technique::Ping)
}

fn mapped(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::MappedUdp, &Shot::at(US))?;
    play.attack(Technique::MappedTcp, &Shot::at(US))?;
    play.passes(Technique::MappedUdp, &Shot::at(DE))?;
    play.passes(Technique::MappedTcp, &Shot::at(DE))
}

fn embedded(play: &mut Play<'_>) -> Result<()> {
    // 198.51.100.7 in each of the ways; Teredo has the client's address inverted.
    for to in [
        "2002:c633:6407::1",
        "64:ff9b::c633:6407",
        "2001:0:c000:207::39cc:9bf8",
    ] {
        play.attack(Technique::Udp, &Shot::at(to))?;
    }
    play.attack(Technique::Raw, &Shot::at("::ffff:198.51.100.7").via(DE6))?;
    // And 192.0.2.7.
    for to in ["2002:c000:207::1", "64:ff9b::c000:207"] {
        play.passes(Technique::Udp, &Shot::at(to))?;
    }
    Ok(())
}

fn special(play: &mut Play<'_>) -> Result<()> {
    for to in [
        "169.254.169.254",
        "224.0.0.251",
        "239.98.119.1",
        "255.255.255.255",
        "ff02::1",
        "ff05::2",
        "ff0e::101",
    ] {
        play.attack(Technique::Special, &Shot::at(to))?;
    }
    play.passes(Technique::Special, &Shot::at(DE))
}

fn join(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Join, &Shot::at(DE))?;
    play.passes(Technique::Udp, &Shot::at(DE))
}

fn fast_open(play: &mut Play<'_>) -> Result<()> {
    both_families(play, Technique::FastOpen)
}

fn mptcp(play: &mut Play<'_>) -> Result<()> {
    both_families(play, Technique::Mptcp)
}

fn mptcp_path(play: &mut Play<'_>) -> Result<()> {
    let there = [198, 51, 100, 7];
    let is_there = |frame: &Vec<u8>| frame.get(30..34) == Some(&there);
    for side in [Side::Open, Side::Fenced] {
        for space in [&play.ground.net(side).world, &play.ground.net(side).job] {
            net::within(space, || {
                net::ip("mptcp limits set subflow 4 add_addr_accepted 4")
            })?;
        }
        let world = play.ground.net(side).world.clone();
        net::within(&world, || net::ip("mptcp endpoint add 198.51.100.7 signal"))?;
        listen(play.ground, side, 262)?;
        play.ground.hush()?;
        play.ground.witness(side).forget();
        let shot = Shot::at(DE).port(5100);
        let mut attacker = play
            .ground
            .attacker(side, CARDIO, Technique::MptcpPath, &shot)?;
        attacker.step()?;
        let tried = attacker.finish()?;
        let arrived = play.ground.witness(side).arrived();
        let second = arrived.iter().filter(|frame| is_there(frame)).count();
        net::within(&world, || net::ip("mptcp endpoint flush"))?;
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

/// Accepts at port 5100 in the world, and reads what comes.
pub(super) fn listen(ground: &Ground, side: Side, protocol: i32) -> Result<()> {
    let listener: OwnedFd = net::within(&ground.net(side).world, || {
        let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, protocol)?;
        sys::set_number(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        sys::bind(&socket, &sys::internet([0, 0, 0, 0].into(), 5100)).context("bind")?;
        rustix::net::listen(&socket, 16).context("listen")?;
        Ok(socket)
    })?;
    let listener = TcpListener::from(listener);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    Ok(())
}

fn fragments(play: &mut Play<'_>) -> Result<()> {
    for technique in [Technique::Large, Technique::LateFragment] {
        both_families(play, technique)?;
    }
    // Where a port decides, a fragment that has none is no answer.
    play.attack(Technique::LateFragment, &Shot::at(super::SERVICE))?;
    play.attack(Technique::LateFragment, &Shot::at(super::SERVICE6))
}

fn ring(play: &mut Play<'_>) -> Result<()> {
    both_families(play, Technique::Ring)
}
