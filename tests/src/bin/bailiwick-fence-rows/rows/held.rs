//! Sockets that are older than what should judge them, or were somebody else's.

use std::net::TcpListener;
use std::thread;

use anyhow::{Context as _, Result};

use super::{DE, US};
use crate::act::{Shot, Technique};
use crate::actor::Tried;
use crate::ground::{Ground, Side};
use crate::net;
use crate::play::{CARDIO, Play};
use crate::policy::Terms;
use crate::row::Row;
use crate::witness::Witness;

const OTHER: &str = "other";

pub(super) const ROWS: &[Row] = &[
    Row::new(
        8,
        "connected-before-policy",
        "a connection from when the policy allowed it",
        before_policy,
    ),
    Row::new(
        8,
        "connected-before-attach",
        "a connection and a socket from before there was a fence",
        before_attach,
    )
    .alone(),
    Row::new(
        9,
        "socket-before-cgroup",
        "a socket made before its process joined the study",
        before_cgroup,
    ),
    Row::new(
        10,
        "socket-handed-over",
        "a socket that a process outside the study hands over",
        handed_over,
    ),
    Row::new(
        11,
        "process-moved-out",
        "the process leaves the study, and makes a new socket",
        moved_out,
    ),
    Row::new(
        12,
        "new-network-namespace",
        "a network namespace nobody was told of",
        unshared,
    ),
    Row::new(
        28,
        "relay-on-loopback",
        "a process of another study passes on what it is sent",
        relay,
    ),
];

/// A server in the world that accepts and reads.
fn listen(ground: &Ground, side: Side) -> Result<u16> {
    let listener = net::within(&ground.net(side).world, || {
        TcpListener::bind("0.0.0.0:0").context("listen")
    })?;
    let port = listener.local_addr().context("its port")?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    Ok(port)
}

fn before_policy(play: &mut Play<'_>) -> Result<()> {
    for side in [Side::Open, Side::Fenced] {
        let port = listen(play.ground, side)?;
        play.ground.apply(&Terms::to(&["DE", "US"]))?;
        let shot = Shot::at(US).port(port);
        let mut attacker = play
            .ground
            .attacker(side, CARDIO, Technique::Established, &shot)?;
        attacker.step()?;
        play.ground.apply(&Terms::default())?;
        play.ground.hush()?;
        play.ground.witness(side).forget();
        let tried = attacker.finish()?;
        let arrived = play.ground.witness(side).arrived().len();
        if side == Side::Open {
            play.would_leak("a connection made before", arrived);
        } else {
            play.counted(&tried, arrived)?;
        }
    }
    play.passes(Technique::Udp, &Shot::at(DE))
}

fn before_attach(play: &mut Play<'_>) -> Result<()> {
    let mut attackers = Vec::new();
    for side in [Side::Open, Side::Fenced] {
        let shot = Shot::at(US).port(listen(play.ground, side)?);
        for technique in [Technique::Established, Technique::Early] {
            let mut attacker = play.ground.attacker(side, CARDIO, technique, &shot)?;
            attacker.step()?;
            attackers.push((side, attacker));
        }
    }
    play.ground.stand()?;
    play.ground.hush()?;
    for (side, attacker) in attackers {
        play.ground.witness(side).forget();
        let tried = attacker.finish()?;
        let arrived = play.ground.witness(side).arrived().len();
        if side == Side::Open {
            play.would_leak("a socket made before", arrived);
        } else {
            play.counted(&tried, arrived)?;
        }
    }
    play.passes(Technique::Udp, &Shot::at(DE))
}

fn before_cgroup(play: &mut Play<'_>) -> Result<()> {
    moved(play, OTHER, CARDIO, Technique::Early, &Shot::at(US))?;
    // Born in a study with other rights, it keeps those, and no more.
    let shot = Shot::at(US).from("10.9.2.1");
    moved(play, "studies/neuro", CARDIO, Technique::Early, &shot)
}

fn moved_out(play: &mut Play<'_>) -> Result<()> {
    for to in [OTHER, "studies/neuro"] {
        moved(play, CARDIO, to, Technique::EarlyAndNew, &Shot::at(US))?;
    }
    Ok(())
}

/// A process that makes its socket in one cgroup and uses it in another.
fn moved(play: &mut Play<'_>, from: &str, to: &str, how: Technique, shot: &Shot) -> Result<()> {
    for side in [Side::Open, Side::Fenced] {
        let mut attacker = play.ground.attacker(side, from, how, shot)?;
        attacker.step()?;
        attacker.move_to(&play.ground.cgroup(side, to))?;
        play.ground.hush()?;
        play.ground.witness(side).forget();
        let tried = attacker.finish()?;
        let arrived = play.ground.witness(side).arrived().len();
        if side == Side::Open {
            play.would_leak(how.name(), arrived);
        } else {
            play.counted(&tried, arrived)?;
        }
    }
    Ok(())
}

fn handed_over(play: &mut Play<'_>) -> Result<()> {
    for side in [Side::Open, Side::Fenced] {
        let meet = play.ground.folder().join(format!("meet-{side:?}"));
        let shot = Shot::at(US).meet(meet);
        let mut lender = play.ground.attacker(side, OTHER, Technique::Lend, &shot)?;
        lender.step()?;
        play.ground.hush()?;
        play.ground.witness(side).forget();
        let borrower = play
            .ground
            .attacker(side, CARDIO, Technique::Borrow, &shot)?;
        // Both at once: one gives, one takes.
        let (lent, tried) = thread::scope(|scope| {
            let lent = scope.spawn(move || lender.finish());
            let tried = borrower.finish();
            (lent.join(), tried)
        });
        lent.map_err(|_panicked| anyhow::anyhow!("the lender's thread panicked"))??;
        let tried = tried?;
        let arrived = play.ground.witness(side).arrived().len();
        if side == Side::Open {
            play.would_leak("a socket handed over", arrived);
        } else {
            play.counted(&tried, arrived)?;
        }
    }
    Ok(())
}

fn unshared(play: &mut Play<'_>) -> Result<()> {
    for side in [Side::Open, Side::Fenced] {
        for (to, may) in [(US, false), (DE, true)] {
            let (tried, arrived) = from_nowhere(play.ground, side, to)?;
            match (side, may) {
                (Side::Open, false) => play.would_leak("a namespace of one's own", arrived),
                (Side::Fenced, false) => play.counted(&tried, arrived)?,
                (Side::Fenced, true) if arrived == 0 => {
                    play.outcome.wrong("what may be reached from there is not");
                }
                (_, true) => {}
            }
        }
    }
    Ok(())
}

/// From a namespace that its process made, over a wire that root laid afterwards.
fn from_nowhere(ground: &mut Ground, side: Side, to: &str) -> Result<(Tried, usize)> {
    let mut attacker = ground.attacker(side, CARDIO, Technique::Unshare, &Shot::at(to))?;
    attacker.step()?;
    let (world, pid) = (ground.net(side).world.clone(), attacker.pid());
    net::within(&world, || {
        net::ip(&format!(
            "link add way address 02:00:00:00:00:02 type veth peer name way \
             address 02:00:00:00:00:01 netns {pid}\n"
        ))?;
        net::ip("link set way up")
    })?;
    net::beside(pid, || {
        net::ip(
            "link set way up\naddress add 10.9.1.1/32 dev way\nroute add 192.0.2.7/32 dev way\n\
             neigh replace 192.0.2.7 lladdr 02:00:00:00:00:02 nud permanent dev way\n\
             route add default via 192.0.2.7 dev way\n",
        )
    })?;
    let witness = Witness::watch_device(&world, "way")?;
    ground.hush()?;
    let tried = attacker.finish()?;
    let arrived = witness.arrived().len();
    // With the process its namespace goes, and with that both ends of the wire.
    while net::within(&world, || net::ip("link show way")).is_ok() {
        thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok((tried, arrived))
}

fn relay(play: &mut Play<'_>) -> Result<()> {
    for side in [Side::Open, Side::Fenced] {
        // The relay may go there, the one who asks it may not.
        let out = Shot::at(super::SERVICE)
            .from("10.9.2.1")
            .via("127.0.0.1")
            .port(5200);
        let mut relay = play
            .ground
            .attacker(side, "studies/neuro", Technique::Relay, &out)?;
        relay.step()?;
        play.ground.hush()?;
        let shot = Shot::at("127.0.0.1").from("127.0.0.1").port(6000);
        let (tried, arrived) = play.ground.fire(side, CARDIO, Technique::Udp, &shot)?;
        if side == Side::Open {
            play.would_leak("a relay", arrived.len());
        } else {
            play.counted(&tried, arrived.len())?;
        }
        relay.finish()?;
    }
    let (_, arrived) = play.ground.fire(
        Side::Fenced,
        "studies/neuro",
        Technique::Udp,
        &Shot::at(super::SERVICE).from("10.9.2.1").port(5200),
    )?;
    if arrived.is_empty() {
        play.outcome.wrong("the relay itself does not get there");
    }
    Ok(())
}
