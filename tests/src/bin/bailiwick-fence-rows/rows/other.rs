//! Ways of sending that take a module of the kernel.

use anyhow::Result;

use super::DE;
use super::socket::{both_families, listen};
use crate::act::{Shot, Technique};
use crate::ground::Side;
use crate::play::{CARDIO, Play};
use crate::row::Row;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        7,
        "sctp",
        "associations by connect, by an option and by sending",
        sctp,
    )
    .in_vm(),
    Row::new(
        7,
        "sctp-later-path",
        "the other end of an allowed association names an address that is not",
        later_path,
    )
    .in_vm(),
];

const IPPROTO_SCTP: i32 = 132;

fn sctp(play: &mut Play<'_>) -> Result<()> {
    both_families(play, Technique::Sctp)
}

fn later_path(play: &mut Play<'_>) -> Result<()> {
    let there = [198, 51, 100, 7];
    for side in [Side::Open, Side::Fenced] {
        listen(play.ground, side, IPPROTO_SCTP)?;
        play.ground.hush()?;
        play.ground.witness(side).forget();
        let shot = Shot::at(DE).port(5100);
        let mut attacker = play
            .ground
            .attacker(side, CARDIO, Technique::SctpPath, &shot)?;
        attacker.step()?;
        let tried = attacker.finish()?;
        let arrived = play.ground.witness(side).arrived();
        let is_there = |frame: &&Vec<u8>| frame.get(30..34) == Some(&there);
        let second = arrived.iter().filter(is_there).count();
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
