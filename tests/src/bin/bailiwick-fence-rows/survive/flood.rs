//! Under a flood: half of it to where the study may go, half to where it may not, all the time.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bailiwick_policy::kind::Kind;
use xtask::demo::{stream, upgrade};

use super::{Args, Part};
use crate::act::{MAY_REFUSED, MAY_SENT, MUST_NOT_REFUSED, MUST_NOT_SENT, OTHERWISE};
use crate::act::{Shot, Technique};
use crate::actor::Actor;
use crate::ground::{Ground, Side};
use crate::net::{self, WIRE};
use crate::play::CARDIO;
use crate::policy::{Terms, WORLD};
use crate::witness::Counter;

/// Where cardio may go under each of these policies and maps, and where under none.
const MAY: [u8; 4] = [192, 0, 2, 7];
const MUST_NOT: [u8; 4] = [198, 51, 100, 7];
/// A part has this share of the packets.
const PARTS: u64 = 4;

/// A flood in progress.
struct Flood {
    attacker: Actor,
    may: Counter,
    must_not: Counter,
    arrived: [u64; 2],
    lost_before: u64,
}

impl Flood {
    fn begin(ground: &Ground) -> Result<Self> {
        let world = &ground.net(Side::Fenced).world;
        let shot = Shot::at("198.51.100.7").via("192.0.2.7");
        let mut attacker = ground.attacker(Side::Fenced, CARDIO, Technique::Flood, &shot)?;
        attacker.step()?;
        let flood = Self {
            may: Counter::at(world, MAY.into())?,
            must_not: Counter::at(world, MUST_NOT.into())?,
            lost_before: lost(ground)?,
            attacker,
            arrived: [0; 2],
        };
        Ok(flood)
    }

    /// Packets that arrived so far.
    fn so_far(&mut self) -> Result<u64> {
        let [may, must_not] = &mut self.arrived;
        *may += self.may.take()?;
        *must_not += self.must_not.take()?;
        Ok(*may + *must_not)
    }

    fn end(self, ground: &Ground, part: &mut Part) -> Result<()> {
        let tried = self.attacker.finish()?;
        let [may, must_not] = self.arrived;
        let may = may + self.may.settled()?;
        let must_not = must_not + self.must_not.settled()?;
        let told = |word: &str| tried.refused.get(word).copied().unwrap_or(0);
        let lost = lost(ground)? - self.lost_before;
        part.packets += tried.attempts;
        part.misjudged += must_not + told(MAY_REFUSED);
        part.said.push(format!(
            "allowed: {} sent, {may} arrived, {} refused; forbidden: {} sent, {must_not} arrived, \
             {} refused; {lost} lost on the wire",
            told(MAY_SENT),
            told(MAY_REFUSED),
            told(MUST_NOT_SENT),
            told(MUST_NOT_REFUSED),
        ));
        if told(OTHERWISE) > 0 {
            let line = format!("{} sends failed otherwise", told(OTHERWISE));
            part.wrong.push(line);
        }
        // What was let go and did not arrive was dropped by a full queue, or by somebody else.
        let missing = told(MAY_SENT).saturating_sub(may + lost);
        if missing > 0 {
            part.wrong.push(format!("{missing} packets are missing"));
        }
        if may == 0 {
            part.wrong.push("nothing that may pass arrived".to_owned());
        }
        Ok(())
    }
}

/// Packets that the device itself could not hand over.
fn lost(ground: &Ground) -> Result<u64> {
    let dropped = |space: &str| -> Result<u64> {
        net::within(space, || {
            // Read by name: /sys shows the namespace it was mounted in.
            let table = fs::read_to_string("/proc/thread-self/net/dev").context("net/dev")?;
            stream::dropped(&table, WIRE).context("the wire")
        })
    };
    let net = ground.net(Side::Fenced);
    Ok(dropped(&net.job)? + dropped(&net.world)?)
}

/// Does something again and again while the flood lasts, and lets the flood last for long enough.
fn under_flood(
    ground: &mut Ground,
    args: &Args,
    part: &mut Part,
    times: u32,
    mut what: impl FnMut(&mut Ground, u32) -> Result<()>,
) -> Result<()> {
    let mut flood = Flood::begin(ground)?;
    flood.attacker.step()?;
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    for number in 0..times {
        let since = Instant::now();
        what(ground, number).with_context(|| format!("time {}", number + 1))?;
        longest = longest.max(since.elapsed());
        part.times += 1;
        flood.so_far()?;
    }
    part.said.push(format!(
        "{:.1} s, the longest {:.2} s",
        begun.elapsed().as_secs_f64(),
        longest.as_secs_f64()
    ));
    // About half of it arrives.
    while flood.so_far()? < args.packets / PARTS / 2 {
        thread::sleep(Duration::from_millis(50));
    }
    flood.end(ground, part)
}

pub(super) fn kills(ground: &mut Ground, args: &Args, part: &mut Part) -> Result<()> {
    ground.stand()?;
    under_flood(ground, args, part, args.kills, |ground, _| {
        ground.kill_fence()?;
        ground.start_fence()
    })
}

pub(super) fn upgrades(ground: &mut Ground, args: &Args, part: &mut Part) -> Result<()> {
    let other = another_build(ground)?;
    ground.stand()?;
    let before = programs(ground)?;
    under_flood(ground, args, part, args.upgrades, |ground, number| {
        ground.stop_fence()?;
        let program = if number % 2 == 0 {
            other.clone()
        } else {
            ground.agent().to_owned()
        };
        let old = ground.log_lines("updated").len();
        ground.start_fence_of(&program)?;
        anyhow::ensure!(
            ground.log_lines("updated").len() > old,
            "the other build's programs were not put in place: {}",
            ground.last_words()
        );
        Ok(())
    })?;
    let after = programs(ground)?;
    part.said.push(format!(
        "programs {before:?} became {after:?}, links stayed"
    ));
    Ok(())
}

/// Ids of the programs that the links run.
fn programs(ground: &mut Ground) -> Result<Vec<u32>> {
    let fence = ground.state()?.fence.context("the state of the fence")?;
    Ok(fence.links.iter().map(|link| link.program_id).collect())
}

/// The agent, to be taken for another build of it.
pub(super) fn another_build(ground: &Ground) -> Result<PathBuf> {
    let file = ground.folder().join("bailiwick-agent-other");
    upgrade::another_build(ground.agent(), &file)?;
    Ok(file)
}

pub(super) fn policies(ground: &mut Ground, args: &Args, part: &mut Part) -> Result<()> {
    ground.stand()?;
    under_flood(ground, args, part, args.policies, |ground, number| {
        let also = if number % 2 == 0 { "FR" } else { "IT" };
        ground.apply(&Terms::to(&["DE", also]))
    })
}

pub(super) fn worlds(ground: &mut Ground, args: &Args, part: &mut Part) -> Result<()> {
    ground.start_fence()?;
    let first = ground.sign_world(WORLD)?;
    ground.hand_over(first, Kind::World)?;
    ground.apply(&Terms::default().without_world())?;
    under_flood(ground, args, part, args.worlds, |ground, number| {
        // Others move, these do not.
        let code = if number % 2 == 0 { "ES" } else { "IT" };
        let world = ground.sign_world(&format!("{WORLD}233.252.0.0/24,{code}\n"))?;
        ground.hand_over(world, Kind::World)?;
        Ok(())
    })
}
