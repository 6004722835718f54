//! Frames that no cgroup hook sees, from the namespace of the uplink itself.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{DE, DE6, US, US6};
use crate::act::{Shot, Technique};
use crate::ground::Side;
use crate::net::{self, Shape, WIRE};
use crate::play::{CARDIO, Play, number};
use crate::row::{Claim, Place, Row};
use crate::sys;

const fn row(
    number: u8,
    attack: &'static str,
    what: &'static str,
    claim: Claim,
    run: fn(&mut Play<'_>) -> Result<()>,
) -> Row {
    Row {
        number,
        attack,
        what,
        place: Place::Host,
        claim,
        alone: matches!(claim, Claim::Evidenced),
        shape: Shape::Wire,
        run,
    }
}

pub(super) const ROWS: &[Row] = &[
    row(
        31,
        "queue-bypass",
        "frames past the queue, where the second line hangs, by a call and by a ring",
        Claim::Stopped,
        bypass,
    ),
    row(
        1,
        "packet-socket",
        "frames written by hand",
        Claim::Stopped,
        frames,
    ),
    row(
        32,
        "lying-ethertype",
        "a socket that says it sends something else",
        Claim::Stopped,
        lie,
    ),
    row(
        33,
        "wrapped-frames",
        "tags, MPLS, PPPoE and SNAP around IP",
        Claim::Stopped,
        wrapped,
    ),
    row(
        13,
        "vxlan-outer",
        "a tunnel of the workload's own: allowed inside, forbidden outside",
        Claim::Stopped,
        vxlan,
    ),
    row(
        14,
        "macvlan",
        "a device of the workload's own on the uplink",
        Claim::Stopped,
        macvlan,
    ),
    row(
        17,
        "foreign-program-first",
        "root puts a program before ours that lets everything pass",
        Claim::Evidenced,
        foreign,
    ),
    row(
        22,
        "af-xdp",
        "frames from memory that the device reads",
        Claim::Evidenced,
        express,
    ),
];

fn bypass(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Bypass, &Shot::at(US))?;
    // Also where it would harm nobody: what blinds a line is refused, whoever asks.
    play.attack(Technique::Bypass, &Shot::at(DE))?;
    play.passes(Technique::Frame, &Shot::at(DE))
}

fn frames(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Frame, &Shot::at(US))?;
    play.attack(Technique::Frame, &Shot::at(US6))?;
    play.passes(Technique::Frame, &Shot::at(DE))?;
    play.passes(Technique::Frame, &Shot::at(DE6))
}

fn lie(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Lie, &Shot::at(US))?;
    play.attack(Technique::Lie, &Shot::at(US6))?;
    play.passes(Technique::Lie, &Shot::at(DE))
}

fn wrapped(play: &mut Play<'_>) -> Result<()> {
    for to in [US, US6] {
        play.attack(Technique::Tagged, &Shot::at(to))?;
        play.attack(Technique::Wrapped, &Shot::at(to))?;
    }
    play.attack(Technique::Wrapped, &Shot::at(DE))?;
    play.passes(Technique::Tagged, &Shot::at(DE))
}

/// What is sent into the tunnel is for Germany; where the tunnel ends is another matter.
fn vxlan(play: &mut Play<'_>) -> Result<()> {
    for (remote, may) in [(US, false), (DE, true)] {
        for side in [Side::Open, Side::Fenced] {
            let job = play.ground.net(side).job.clone();
            net::within(&job, || {
                net::ip(&format!(
                    "link add tunnel type vxlan id 7 remote {remote} local 10.9.1.1 \
                     dstport 4789 dev {WIRE}"
                ))?;
                net::ip(
                    "link set tunnel addrgenmode none\nlink set tunnel up\n\
                     route add 192.0.2.99/32 dev tunnel src 10.9.1.1\n\
                     neigh replace 192.0.2.99 lladdr 02:00:00:00:00:63 nud permanent dev tunnel\n",
                )
            })?;
            play.ground.hush()?;
            let shot = Shot::at("192.0.2.99");
            let fired = play.ground.fire(side, CARDIO, Technique::Udp, &shot);
            net::within(&job, || net::ip("link delete tunnel"))?;
            let (tried, arrived) = fired?;
            match (side, may) {
                (Side::Open, _) => play.would_leak("a tunnel", arrived.len()),
                (Side::Fenced, false) => play.counted(&tried, arrived.len())?,
                (Side::Fenced, true) if arrived.is_empty() => {
                    play.outcome
                        .wrong("a tunnel to where one may does not pass");
                }
                (Side::Fenced, true) => {}
            }
        }
    }
    Ok(())
}

/// Its frames leave by the uplink, and belong to whoever wrote them.
fn macvlan(play: &mut Play<'_>) -> Result<()> {
    for side in [Side::Open, Side::Fenced] {
        for (to, may) in [(US, false), (DE, true)] {
            let mut attacker =
                play.ground
                    .attacker(side, CARDIO, Technique::Unshare, &Shot::at(to))?;
            attacker.step()?;
            let (job, pid) = (play.ground.net(side).job.clone(), attacker.pid());
            net::within(&job, || {
                net::ip(&format!(
                    "link add link {WIRE} name own netns {pid} address 02:00:00:00:00:09 \
                     type macvlan mode bridge"
                ))
            })?;
            net::beside(pid, || {
                net::ip(
                    "link set own up\naddress add 10.9.1.1/32 dev own\n\
                     route add 192.0.2.7/32 dev own\n\
                     neigh replace 192.0.2.7 lladdr 02:00:00:00:00:02 nud permanent dev own\n\
                     route add default via 192.0.2.7 dev own\n",
                )
            })?;
            play.ground.hush()?;
            play.ground.witness(side).forget();
            let tried = attacker.finish()?;
            let arrived = play.ground.witness(side).arrived().len();
            match (side, may) {
                (Side::Open, false) => play.would_leak("a device of one's own", arrived),
                (Side::Fenced, false) => play.counted(&tried, arrived)?,
                (Side::Fenced, true) if arrived == 0 => {
                    play.outcome.wrong("what may be reached by it is not");
                }
                (_, true) => {}
            }
        }
    }
    Ok(())
}

fn foreign(play: &mut Play<'_>) -> Result<()> {
    play.ground.stand()?;
    play.attack(Technique::Frame, &Shot::at(US))?;
    let job = play.ground.net(Side::Fenced).job.clone();
    let pass = sys::answer_always(0).context("load a program")?;
    let link = net::within(&job, || {
        sys::attach_first(&pass, WIRE).context("attach it first")
    })?;
    let begun = Instant::now();
    let shot = Shot::at(US).count(1);
    loop {
        let (tried, arrived) = play
            .ground
            .fire(Side::Fenced, CARDIO, Technique::Frame, &shot)?;
        play.outcome.attempts += tried.attempts;
        play.outcome.leaked += number(arrived.len());
        if arrived.is_empty() {
            break;
        }
        if begun.elapsed() > Duration::from_secs(20) {
            play.outcome.wrong("ours never was the first again");
            return Ok(());
        }
    }
    play.outcome.saw(format!(
        "ours was the first again within {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    told(play)?;
    drop(link);
    Ok(())
}

/// What the agent says of lines that were changed.
fn told(play: &mut Play<'_>) -> Result<()> {
    let changes = play.ground.log_lines("was not first");
    if changes.is_empty() {
        play.outcome.wrong("the agent does not say it");
    }
    for change in changes {
        play.outcome.saw(format!("the agent says: {change}"));
    }
    Ok(())
}

fn express(play: &mut Play<'_>) -> Result<()> {
    play.ground.stand()?;
    let shot = Shot::at(US);
    let (_, arrived) = play
        .ground
        .fire(Side::Open, CARDIO, Technique::Express, &shot)?;
    play.would_leak("AF_XDP", arrived.len());
    let (tried, arrived) = play
        .ground
        .fire(Side::Fenced, CARDIO, Technique::Express, &shot)?;
    play.outcome.attempts += tried.attempts;
    play.outcome.leaked += number(arrived.len());
    thread::sleep(Duration::from_millis(600));
    let fence = play.ground.state()?.fence.context("the fence's state")?;
    let said: Vec<&String> = fence
        .unfenced_paths
        .iter()
        .filter(|path| path.to_lowercase().contains("xdp"))
        .collect();
    if said.is_empty() {
        let line = format!("unfenced paths do not say it: {:?}", fence.unfenced_paths);
        play.outcome.wrong(line);
    }
    for path in said {
        play.outcome.saw(format!("unfenced path: {path}"));
    }
    Ok(())
}
