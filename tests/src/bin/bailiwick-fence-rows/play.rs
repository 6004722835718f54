//! How a row is played: the same attack where nothing stops it, where the fence stands, and
//! where it may.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::act::{Shot, Technique};
use crate::actor::Tried;
use crate::ground::{Ground, Side};
use crate::row::Outcome;

/// The cgroup of the study that attacks.
pub(crate) const CARDIO: &str = "studies/cardio";

/// A row in progress.
#[derive(Debug)]
pub(crate) struct Play<'a> {
    pub(crate) ground: &'a mut Ground,
    pub(crate) outcome: &'a mut Outcome,
}

impl Play<'_> {
    /// A whole attack on what may not be reached. Everything that arrives behind the fence got out;
    /// nothing that arrives beside it means that the attack is none.
    pub(crate) fn attack(&mut self, technique: Technique, shot: &Shot) -> Result<()> {
        self.attack_as(CARDIO, technique, shot)
    }

    /// The same, by a process in another cgroup.
    pub(crate) fn attack_as(&mut self, who: &str, how: Technique, shot: &Shot) -> Result<()> {
        let (_, arrived) = self.ground.fire(Side::Open, who, how, shot)?;
        self.would_leak(how.name(), arrived.len());
        self.ground.hush()?;
        let (tried, arrived) = self.ground.fire(Side::Fenced, who, how, shot)?;
        self.counted(&tried, arrived.len())
    }

    /// What arrived beside the fence.
    pub(crate) fn would_leak(&mut self, what: &str, arrived: usize) {
        self.outcome.could_leak += number(arrived);
        if arrived == 0 {
            let line = format!("{what} does not work where nothing stops it");
            self.outcome.wrong(line);
        }
    }

    /// What was tried behind it, what arrived, and who says that it stopped it.
    pub(crate) fn counted(&mut self, tried: &Tried, arrived: usize) -> Result<()> {
        self.outcome.attempts += tried.attempts;
        self.outcome.leaked += number(arrived);
        let denials = self.ground.denials()?;
        if denials.is_empty() {
            let said = tried
                .refused
                .keys()
                .map(|said| format!("{said}, unreported"));
            self.outcome.stopped_by.extend(said);
            self.outcome.wrong("what stopped it told nobody");
        }
        self.outcome.stopped_by.extend(denials);
        Ok(())
    }

    /// What cannot be stopped is named: the fence's statements have a way past it of this kind.
    pub(crate) fn says_unfenced(&mut self, kind: &str) -> Result<()> {
        let fence = self.ground.state()?.fence.context("the fence's state")?;
        let mut ways = fence.unfenced.iter().filter(|way| way.kind == kind);
        let Some(first) = ways.next() else {
            let line = format!("statements do not name {kind}: {:?}", fence.unfenced);
            self.outcome.wrong(line);
            return Ok(());
        };
        for way in std::iter::once(first).chain(ways) {
            self.outcome.saw(format!(
                "statements name a way past the hooks: {} {}, held by {:?}",
                way.kind, way.name, way.held_by
            ));
        }
        Ok(())
    }

    /// Root has opened the fence: single packets go out until it is whole again. False, and why,
    /// if that takes too long.
    pub(crate) fn until_mended(&mut self, technique: Technique, what: &str) -> Result<bool> {
        const AT_MOST: Duration = Duration::from_secs(20);
        let begun = Instant::now();
        let shot = Shot::at("198.51.100.7").count(1);
        loop {
            let (tried, arrived) = self.ground.fire(Side::Fenced, CARDIO, technique, &shot)?;
            self.outcome.attempts += tried.attempts;
            self.outcome.leaked += number(arrived.len());
            let took = begun.elapsed().as_secs_f64();
            if arrived.is_empty() {
                self.outcome.saw(format!("{what} within {took:.1} s"));
                return Ok(true);
            }
            if begun.elapsed() > AT_MOST {
                self.outcome.wrong(format!("not {what} within {took:.1} s"));
                return Ok(false);
            }
        }
    }

    /// The agent's log and what statements count have to say that something was put back.
    pub(crate) fn says_mended(&mut self, words: &str, counter: &str) -> Result<()> {
        let told = self.ground.log_lines(words);
        if told.is_empty() {
            self.outcome.wrong("the agent's log does not say it");
        }
        for line in told {
            self.outcome.saw(format!("the agent says: {line}"));
        }
        match self.ground.counters()?.get(counter) {
            Some(count) if *count > 0 => {
                let line = format!("statements say {counter} = {count}");
                self.outcome.saw(line);
            }
            _ => self.outcome.wrong("no statement would say it"),
        }
        Ok(())
    }

    /// What may be reached is reached, so that it is a fence and no broken wire.
    pub(crate) fn passes(&mut self, technique: Technique, shot: &Shot) -> Result<()> {
        let (tried, arrived) = self.ground.fire(Side::Fenced, CARDIO, technique, shot)?;
        let what = format!("{} to {}, which may be", technique.name(), shot.to);
        if arrived.is_empty() {
            let line = format!("{what}, does not arrive: {:?}", tried.refused);
            self.outcome.wrong(line);
        } else {
            let line = format!("{what}, arrives: {} packets", arrived.len());
            self.outcome.saw(line);
        }
        Ok(())
    }
}

pub(crate) fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
