//! What a node forwards: workloads in namespaces of their own, on a bridge.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{DE, DE6, US, US6};
use crate::act::{Shot, Technique};
use crate::ground::Side;
use crate::net::{self, BRIDGE, NEIGHBOUR, Shape, WIRE};
use crate::play::{CARDIO, Play};
use crate::row::Row;
use crate::witness::Witness;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        14,
        "forwarded",
        "frames by hand from a container, which the node forwards",
        forwarded,
    )
    .on(Shape::Routed),
    Row::new(
        14,
        "forwarded-of-nobody",
        "the same from a namespace where no study lives",
        of_nobody,
    )
    .on(Shape::Routed),
    Row::new(
        35,
        "masquerade",
        "the node puts its own address in place of the workload's",
        masquerade,
    )
    .on(Shape::Routed),
    Row::new(
        35,
        "service-translation",
        "an allowed service address, translated to a foreign endpoint",
        translated,
    )
    .on(Shape::Routed),
    Row::new(
        35,
        "two-studies-on-a-bridge",
        "frames by hand to another study's address on the same bridge",
        bridge,
    )
    .on(Shape::Routed),
    Row::new(35, "vm-tap", "a virtual machine's card on the bridge", tap).on(Shape::Routed),
];

/// Until the fence knows whose port it is.
fn known(play: &mut Play<'_>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let shot = Shot::at(DE).mac(BRIDGE);
        let (tried, arrived) = play
            .ground
            .fire(Side::Fenced, CARDIO, Technique::Frame, &shot)?;
        if !arrived.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < end,
            "a frame to where one may never passed: {tried:?}, {:?}",
            play.ground.denials()?
        );
    }
}

fn forwarded(play: &mut Play<'_>) -> Result<()> {
    known(play)?;
    for to in [US, US6] {
        for how in [Technique::Frame, Technique::Lie, Technique::Udp] {
            play.attack(how, &Shot::at(to).mac(BRIDGE))?;
        }
    }
    play.passes(Technique::Frame, &Shot::at(DE).mac(BRIDGE))?;
    play.passes(Technique::Frame, &Shot::at(DE6).mac(BRIDGE))?;
    play.passes(Technique::Udp, &Shot::at(DE))
}

/// The neighbour's namespace, with the neighbour's study gone from it.
fn of_nobody(play: &mut Play<'_>) -> Result<()> {
    for side in [Side::Open, Side::Fenced] {
        play.ground.evict(side);
    }
    std::thread::sleep(Duration::from_secs(11));
    for side in [Side::Open, Side::Fenced] {
        let space = play.ground.net(side).neighbour().to_owned();
        for to in [US, DE] {
            play.ground.hush()?;
            play.ground.witness(side).forget();
            let shot = Shot::at(to).from("10.9.2.1").mac(BRIDGE);
            let attacker =
                play.ground
                    .attacker_in(&space, side, "other", Technique::Frame, &shot)?;
            let tried = attacker.finish()?;
            let arrived = play.ground.witness(side).arrived().len();
            if side == Side::Open {
                play.would_leak("a frame", arrived);
            } else {
                play.counted(&tried, arrived)?;
            }
        }
    }
    play.ground.settle_in()
}

fn nft(space: &str, script: &str) -> Result<()> {
    net::within(space, || {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start nft, of nftables")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(script.as_bytes()).context("write to nft")?;
        }
        let out = child.wait_with_output().context("wait for nft")?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "nft: {}", said.trim());
        Ok(())
    })
}

fn masquerade(play: &mut Play<'_>) -> Result<()> {
    known(play)?;
    for side in [Side::Open, Side::Fenced] {
        nft(
            play.ground.net(side).node(),
            &format!(
                "table ip rows {{ chain post {{ type nat hook postrouting priority 100; \
                 oifname \"{WIRE}\" masquerade; }}\n}}\n"
            ),
        )?;
    }
    play.attack(Technique::Frame, &Shot::at(US).mac(BRIDGE).port(5300))?;
    play.attack(Technique::Udp, &Shot::at(US).port(5301))?;
    play.passes(Technique::Frame, &Shot::at(DE).mac(BRIDGE).port(5302))?;
    play.passes(Technique::Udp, &Shot::at(DE).port(5303))?;
    for side in [Side::Open, Side::Fenced] {
        nft(play.ground.net(side).node(), "delete table ip rows\n")?;
    }
    Ok(())
}

/// At the source it is for Germany, and so it is at the port; at the uplink it is not.
fn translated(play: &mut Play<'_>) -> Result<()> {
    known(play)?;
    for side in [Side::Open, Side::Fenced] {
        nft(
            play.ground.net(side).node(),
            "table ip rows { chain pre { type nat hook prerouting priority -100; \
             ip daddr 192.0.2.50 dnat to 198.51.100.7; \
             ip daddr 192.0.2.51 dnat to 192.0.2.7; }\n}\n",
        )?;
    }
    play.attack(Technique::Udp, &Shot::at("192.0.2.50"))?;
    play.attack(Technique::Tcp, &Shot::at("192.0.2.50"))?;
    play.attack(Technique::Frame, &Shot::at("192.0.2.50").mac(BRIDGE))?;
    play.passes(Technique::Udp, &Shot::at("192.0.2.51"))?;
    for side in [Side::Open, Side::Fenced] {
        nft(play.ground.net(side).node(), "delete table ip rows\n")?;
    }
    Ok(())
}

fn bridge(play: &mut Play<'_>) -> Result<()> {
    known(play)?;
    for side in [Side::Open, Side::Fenced] {
        let witness = Witness::watch(play.ground.net(side).neighbour())?;
        play.ground.hush()?;
        let shot = Shot::at("10.9.2.1").mac(NEIGHBOUR);
        let attacker = play
            .ground
            .attacker(side, CARDIO, Technique::Frame, &shot)?;
        let tried = attacker.finish()?;
        let arrived = witness.arrived().len();
        if side == Side::Open {
            play.would_leak("a frame on the bridge", arrived);
        } else {
            play.counted(&tried, arrived)?;
        }
    }
    Ok(())
}

fn tap(play: &mut Play<'_>) -> Result<()> {
    known(play)?;
    for side in [Side::Open, Side::Fenced] {
        for (to, may) in [(US, false), (DE, true)] {
            let node = play.ground.net(side).node().to_owned();
            let shot = Shot::at(to).mac(BRIDGE);
            let mut attacker =
                play.ground
                    .attacker_in(&node, side, CARDIO, Technique::Tap, &shot)?;
            attacker.step()?;
            net::within(&node, || {
                net::ip("link set tap0 addrgenmode none master bridge\nlink set tap0 up\n")
            })?;
            // Until the bridge forwards from it, and the fence knows whose it is.
            std::thread::sleep(Duration::from_millis(2500));
            play.ground.hush()?;
            play.ground.witness(side).forget();
            attacker.step()?;
            let arrived = play.ground.witness(side).arrived().len();
            let tried = attacker.finish()?;
            match (side, may) {
                (Side::Open, _) => play.would_leak("a tap", arrived),
                (Side::Fenced, false) => play.counted(&tried, arrived)?,
                (Side::Fenced, true) if arrived == 0 => {
                    play.outcome.wrong("from the tap nothing passes at all");
                }
                (Side::Fenced, true) => {}
            }
        }
    }
    Ok(())
}
