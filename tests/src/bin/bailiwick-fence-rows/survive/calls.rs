//! The agent is killed right before and right after every `bpf(2)` call of a story: what judges
//! afterwards is what judged before the story, or what would after it, and never a mixture.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bailiwick_attestation::proto::v1::PolicyBundle;
use bailiwick_policy::kind::Kind;

use super::{Args, Part, flood};
use crate::act::{Shot, Technique};
use crate::actor::Actor;
use crate::ground::{Ground, Side};
use crate::net;
use crate::play::CARDIO;
use crate::policy::Terms;
use crate::trace::{Edge, Point, Traced};
use crate::witness::Counter;

/// A traced program takes its time.
const SOON: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(10);

/// Germany, France and the United States: what reaches them.
type Reach = [bool; 3];
/// Nobody is fenced.
const OPEN: Reach = [true, true, true];
/// Attached, without a policy.
const CLOSED: Reach = [false, false, false];
/// The study's policy.
const POLICY: Reach = [true, false, false];
/// The one that replaces it.
const NEXT: Reach = [false, true, false];

/// One datagram to each of the three, counted outside.
struct Probe {
    attacker: Actor,
    counters: [Counter; 3],
}

impl Probe {
    fn new(ground: &Ground) -> Result<Self> {
        let world = &ground.net(Side::Fenced).world;
        let at = |address: [u8; 4]| Counter::at(world, Ipv4Addr::from(address));
        let counters = [
            at([192, 0, 2, 7])?,
            at([203, 0, 113, 77])?,
            at([198, 51, 100, 7])?,
        ];
        let shot = Shot::at("192.0.2.7");
        let attacker = ground.attacker(Side::Fenced, CARDIO, Technique::Probe, &shot)?;
        Ok(Self { attacker, counters })
    }

    /// What arrives; what the sender is told has to say the same.
    fn reach(&mut self, part: &mut Part) -> Result<Reach> {
        let said = self.attacker.step()?;
        part.packets += 3;
        let mut reach = [false; 3];
        for (counter, reached) in self.counters.iter().zip(&mut reach) {
            *reached = counter.settled()? > 0;
        }
        let told: Vec<bool> = said.split(',').map(|word| word == "sent").collect();
        if told != reach {
            part.wrong
                .push(format!("{reach:?} arrived and the sender was told {said}"));
        }
        Ok(reach)
    }
}

/// What may judge when a story is cut off.
struct Story<'a> {
    /// States that may follow, in words and as reached. They come in this order.
    may: &'a [(&'static str, Reach)],
}

/// Kills at every point, as long as there are points.
fn everywhere(
    ground: &mut Ground,
    args: &Args,
    part: &mut Part,
    story: &Story<'_>,
    mut play: impl FnMut(&mut Ground, &mut Part, Option<Point>) -> Result<Played>,
) -> Result<()> {
    let whole = play(ground, part, None)?;
    let calls = whole.calls;
    part.said.push(format!("{calls} calls"));
    if calls == 0 {
        bail!("no call was counted");
    }
    let every = args.calls.map_or(1, |most| calls.div_ceil(most.max(1)));
    let mut seen = vec![0_u64; story.may.len()];
    let mut call = 1;
    while call <= calls {
        for edge in [Edge::Before, Edge::After] {
            let point = Point { call, edge };
            let played = play(ground, part, Some(point))?;
            if !played.killed {
                // The clock had it make fewer calls this time.
                continue;
            }
            part.times += 1;
            let state = story.may.iter().position(|(_, may)| *may == played.reach);
            match state.and_then(|state| seen.get_mut(state)) {
                Some(seen) => *seen += 1,
                None => {
                    part.misjudged += 1;
                    part.wrong.push(format!(
                        "killed {edge:?} call {call} of {calls}: {:?} reached",
                        played.reach
                    ));
                }
            }
        }
        call += every;
    }
    for ((name, _), times) in story.may.iter().zip(seen) {
        part.said.push(format!("{name} judged {times} times"));
    }
    Ok(())
}

/// What came of one run.
struct Played {
    calls: u64,
    killed: bool,
    reach: Reach,
}

/// Starts the agent under the counter.
fn traced(
    ground: &Ground,
    program: &std::path::Path,
    point: Option<Point>,
    armed: bool,
) -> Result<Traced> {
    let command = ground.fence_command(program)?;
    let job = ground.net(Side::Fenced).node().to_owned();
    Traced::start_in(command, point, armed, move || net::enter_named(&job))
}

/// Until the agent answers, or is dead.
fn until_it_answers(ground: &mut Ground, traced: &Traced) -> Result<()> {
    let end = Instant::now() + SOON;
    while !traced.has_ended() {
        if ground.state().is_ok() {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("the agent does not answer: {}", ground.last_words());
        }
        thread::sleep(GLANCE);
    }
    if traced.was_killed() {
        return Ok(());
    }
    bail!("the agent ended by itself: {}", ground.last_words())
}

/// Ends it, and counts.
fn ended(traced: Traced, part: &mut Part, probe: &mut Probe) -> Result<Played> {
    let (calls, killed) = (traced.calls(), traced.was_killed());
    if !killed {
        traced.signal(libc::SIGKILL)?;
    }
    traced.join()?;
    Ok(Played {
        calls,
        killed,
        reach: probe.reach(part)?,
    })
}

/// Whatever was cut off, the next start ends it well.
fn mended(ground: &mut Ground, part: &mut Part, probe: &mut Probe, want: &[Reach]) -> Result<()> {
    ground.start_fence()?;
    let reach = probe.reach(part)?;
    if !want.contains(&reach) {
        part.misjudged += 1;
        part.wrong
            .push(format!("after the next start {reach:?} is reached"));
    }
    let fault = ground.state()?.fence.and_then(|fence| fence.fault);
    part.wrong.extend(fault);
    ground.kill_fence()
}

/// Waits until nothing judges any more: the kernel detaches what is unpinned when it gets to it
/// (`bpf_link_put`).
fn opened(part: &mut Part, probe: &mut Probe) -> Result<()> {
    let end = Instant::now() + SOON;
    while probe.reach(part)? != OPEN {
        if Instant::now() > end {
            bail!("what was unfenced is not open");
        }
        thread::sleep(GLANCE);
    }
    Ok(())
}

/// A first start, with a policy on disk from before.
pub(super) fn start(ground: &mut Ground, args: &Args, part: &mut Part) -> Result<()> {
    ground.stand()?;
    ground.stop_fence()?;
    let mut probe = Probe::new(ground)?;
    let story = Story {
        may: &[
            ("nothing", OPEN),
            ("denial", CLOSED),
            ("the policy", POLICY),
        ],
    };
    everywhere(ground, args, part, &story, |ground, part, point| {
        ground.unfence()?;
        opened(part, &mut probe)?;
        let agent = ground.agent().to_owned();
        let traced = traced(ground, &agent, point, true)?;
        until_it_answers(ground, &traced)?;
        let played = ended(traced, part, &mut probe)?;
        mended(ground, part, &mut probe, &[POLICY])?;
        Ok(played)
    })
}

/// Another build takes over.
pub(super) fn upgrade(ground: &mut Ground, args: &Args, part: &mut Part) -> Result<()> {
    let other = flood::another_build(ground)?;
    ground.stand()?;
    ground.stop_fence()?;
    let mut probe = Probe::new(ground)?;
    let story = Story {
        may: &[("the policy", POLICY)],
    };
    everywhere(ground, args, part, &story, |ground, part, point| {
        let traced = traced(ground, &other, point, true)?;
        until_it_answers(ground, &traced)?;
        let played = ended(traced, part, &mut probe)?;
        // Back to the build it came from.
        mended(ground, part, &mut probe, &[POLICY])?;
        Ok(played)
    })
}

/// A policy takes the place of another.
pub(super) fn swap(ground: &mut Ground, args: &Args, part: &mut Part) -> Result<()> {
    ground.stand()?;
    ground.stop_fence()?;
    replaced(ground, args, part, Kind::Policy, |ground, back| {
        ground.sign(&Terms::to(&[if back { "DE" } else { "FR" }]))
    })
}

/// A world map does: what was in Germany is in France.
pub(super) fn world(ground: &mut Ground, args: &Args, part: &mut Part) -> Result<()> {
    ground.start_fence()?;
    let first = ground.sign_world(WORLD)?;
    ground.hand_over(first, Kind::World)?;
    ground.apply(&Terms::default().without_world())?;
    ground.stop_fence()?;
    replaced(ground, args, part, Kind::World, |ground, back| {
        ground.sign_world(if back { WORLD } else { MOVED })
    })
}

const WORLD: &str = "192.0.2.0/24,DE\n203.0.113.0/24,FR\n198.51.100.0/24,US\n";
const MOVED: &str = "192.0.2.0/24,FR\n203.0.113.0/24,DE\n198.51.100.0/24,US\n";

fn replaced(
    ground: &mut Ground,
    args: &Args,
    part: &mut Part,
    kind: Kind,
    mut sign: impl FnMut(&mut Ground, bool) -> Result<PolicyBundle>,
) -> Result<()> {
    let mut probe = Probe::new(ground)?;
    let story = Story {
        may: &[("the old", POLICY), ("the new", NEXT)],
    };
    everywhere(ground, args, part, &story, |ground, part, point| {
        let agent = ground.agent().to_owned();
        let traced = traced(ground, &agent, point, false)?;
        until_it_answers(ground, &traced)?;
        let before = ground.signer.newest(kind);
        let next = sign(ground, false)?;
        let newest = ground.signer.newest(kind);
        traced.arm();
        let taken = ground.hand_over(next, kind);
        if taken.is_err() && !traced.was_killed() {
            taken.context("a good one was refused")?;
        }
        let played = ended(traced, part, &mut probe)?;
        // The old again, whichever of the two it kept.
        ground.start_fence()?;
        let again = probe.reach(part)?;
        if ![POLICY, NEXT].contains(&again) {
            part.misjudged += 1;
            part.wrong
                .push(format!("after the next start {again:?} is reached"));
        }
        if again == POLICY {
            ground.signer.forget(kind, before);
        } else {
            ground.signer.forget(kind, newest);
            let back = sign(ground, true)?;
            ground.hand_over(back, kind).context("the old one again")?;
            if probe.reach(part)? != POLICY {
                bail!("the old one is not in force again");
            }
        }
        ground.stop_fence()?;
        Ok(played)
    })
}

/// It is told to stop.
pub(super) fn stop(ground: &mut Ground, _args: &Args, part: &mut Part) -> Result<()> {
    ground.stand()?;
    ground.stop_fence()?;
    let mut probe = Probe::new(ground)?;
    let story = Story {
        may: &[("the policy", POLICY)],
    };
    let mut done = 0_u64;
    // It may make no call at all: then there is nothing to be killed at, and that is counted too.
    let agent = ground.agent().to_owned();
    for point in [None, Some(1), Some(2), Some(3), Some(4)] {
        let point = point.map(|call| Point {
            call,
            edge: Edge::After,
        });
        let traced = traced(ground, &agent, point, false)?;
        until_it_answers(ground, &traced)?;
        traced.arm();
        traced.signal(libc::SIGTERM)?;
        let end = Instant::now() + SOON;
        while !traced.has_ended() && Instant::now() < end {
            thread::sleep(GLANCE);
        }
        let played = ended(traced, part, &mut probe)?;
        if point.is_none() {
            part.said.push(format!("{} calls", played.calls));
        }
        done += 1;
        if !story.may.iter().any(|(_, may)| *may == played.reach) {
            part.misjudged += 1;
            part.wrong
                .push(format!("stopped: {:?} is reached", played.reach));
        }
    }
    part.times = done;
    mended(ground, part, &mut probe, &[POLICY])
}
