//! Network devices of the workload's own on the uplink. What they write leaves by it, and belongs to
//! whoever wrote it.

use anyhow::Result;

use super::{DE, DE6, US, US6};
use crate::act::{Shot, Technique};
use crate::ground::Side;
use crate::net::{self, WIRE};
use crate::play::{CARDIO, Play};
use crate::row::Row;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        14,
        "macvlan",
        "a device of the workload's own on the uplink",
        macvlan,
    ),
    Row::new(
        14,
        "ipvlan",
        "the same with the uplink's own address, bridging and routing",
        ipvlan,
    )
    .in_vm(),
    Row::new(
        33,
        "vlan-device",
        "devices that put one tag before a frame, and two",
        vlan,
    )
    .in_vm(),
    Row::new(
        33,
        "bond",
        "an uplink that became part of a bond: by the bond, and past it",
        bond,
    )
    .alone()
    .in_vm(),
];

/// The name of the device.
const OWN: &str = "own";

fn macvlan(play: &mut Play<'_>) -> Result<()> {
    in_a_namespace(play, "address 02:00:00:00:00:09 type macvlan mode bridge")
}

fn ipvlan(play: &mut Play<'_>) -> Result<()> {
    for mode in ["l2", "l3", "l3s"] {
        in_a_namespace(play, &format!("type ipvlan mode {mode}"))?;
    }
    Ok(())
}

/// Made by the kernel of the node, moved into a namespace that only the workload has.
fn in_a_namespace(play: &mut Play<'_>, kind: &str) -> Result<()> {
    for side in [Side::Open, Side::Fenced] {
        for (to, may) in [(US, false), (DE, true)] {
            let mut attacker =
                play.ground
                    .attacker(side, CARDIO, Technique::Unshare, &Shot::at(to))?;
            attacker.step()?;
            let (job, pid) = (play.ground.net(side).job.clone(), attacker.pid());
            net::within(&job, || {
                net::ip(&format!(
                    "link add link {WIRE} name {OWN} netns {pid} {kind}"
                ))
            })?;
            net::beside(pid, || {
                net::ip(&format!(
                    "link set {OWN} up\naddress add 10.9.1.1/32 dev {OWN}\n\
                     route add 192.0.2.7/32 dev {OWN}\n\
                     neigh replace 192.0.2.7 lladdr 02:00:00:00:00:02 nud permanent dev {OWN}\n\
                     route add default via 192.0.2.7 dev {OWN}\n"
                ))
            })?;
            play.ground.hush()?;
            play.ground.witness(side).forget();
            let tried = attacker.finish()?;
            let arrived = play.ground.witness(side).arrived().len();
            match (side, may) {
                (Side::Open, false) => play.would_leak(kind, arrived),
                (Side::Fenced, false) => play.counted(&tried, arrived)?,
                (Side::Fenced, true) if arrived == 0 => {
                    let line = format!("what may be reached by {kind} is not");
                    play.outcome.wrong(line);
                }
                (_, true) => {}
            }
        }
    }
    Ok(())
}

fn vlan(play: &mut Play<'_>) -> Result<()> {
    // The tag goes beside the frame, not into it, where the device below can do that.
    let one = format!("link add link {WIRE} name {OWN} type vlan id 7");
    let two = format!(
        "link add link {WIRE} name outer type vlan proto 802.1ad id 8\nlink set outer up\n\
         link add link outer name {OWN} type vlan id 7"
    );
    for add in [one, two] {
        for side in [Side::Open, Side::Fenced] {
            let job = play.ground.net(side).job.clone();
            net::within(&job, || {
                net::ip(&format!(
                    "{add}\nlink set {OWN} addrgenmode none\nlink set {OWN} up\n"
                ))
            })?;
        }
        let done = by(play, OWN);
        for side in [Side::Open, Side::Fenced] {
            let job = play.ground.net(side).job.clone();
            let below = if add.contains("outer") { "outer" } else { OWN };
            net::within(&job, || net::ip(&format!("link delete {below}")))?;
        }
        done?;
    }
    Ok(())
}

/// Frames written to a device.
fn by(play: &mut Play<'_>, device: &str) -> Result<()> {
    for to in [US, US6] {
        play.attack(Technique::Frame, &Shot::at(to).on(device))?;
    }
    for to in [DE, DE6] {
        play.passes(Technique::Frame, &Shot::at(to).on(device))?;
    }
    Ok(())
}

/// The fence knows the uplink as it was.
fn bond(play: &mut Play<'_>) -> Result<()> {
    play.ground.stand()?;
    by(play, WIRE)?;
    for side in [Side::Open, Side::Fenced] {
        let job = play.ground.net(side).job.clone();
        net::within(&job, || {
            net::ip(&format!(
                "link add bond0 type bond mode active-backup\nlink set {WIRE} down\n\
                 link set {WIRE} master bond0\nlink set bond0 addrgenmode none\n\
                 link set bond0 up\n"
            ))
        })?;
    }
    by(play, "bond0")?;
    by(play, WIRE)
}
