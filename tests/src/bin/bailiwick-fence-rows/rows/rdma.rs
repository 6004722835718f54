//! RDMA: what a card sends by itself. The one in software sends by the kernel.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{DE, US};
use crate::act::{Shot, Technique};
use crate::ground::Side;
use crate::net::{Shape, WIRE};
use crate::play::{CARDIO, Play};
use crate::policy::{Terms, study};
use crate::rdma::CARD;
use crate::row::Row;

pub(super) const ROWS: &[Row] = &[Row::new(
    21,
    "soft-roce",
    "RDMA over a card in software: its device denied, and allowed",
    soft_roce,
)
.on(Shape::First)
.alone()
.in_vm()];

fn soft_roce(play: &mut Play<'_>) -> Result<()> {
    // It knows of no namespace but the first, and takes the addresses that are there.
    let out = Command::new("rdma")
        .args(["link", "add", CARD, "type", "rxe", "netdev", WIRE])
        .stdin(Stdio::null())
        .output()
        .context("start rdma, of iproute2")?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "rdma: {}", said.trim());
    // The same wire, before there is a fence.
    let shot = Shot::at(US).count(1);
    let (_, arrived) = fire(play, Side::Open, &shot)?;
    play.would_leak("RDMA", arrived);
    play.ground.stand()?;
    play.ground.hush()?;
    let (tried, arrived) = fire(play, Side::Fenced, &shot)?;
    play.counted(&tried, arrived)?;
    ensure!(tried.refused.contains_key("EPERM"), "the device was opened");
    // A study that may have the device, and not go there.
    let root = play.ground.root();
    let own = "\"10.9.1.1/32\"";
    let device = "raw_sockets = true\nnodes = [\"uverbs0\"]\nunattested = true\n";
    let may = study(&root, "cardio", own, "jurisdictions = [\"DE\"]\n")
        .replace("raw_sockets = true\n", device);
    play.ground
        .apply(&Terms::default().with("studies/cardio.toml", may))?;
    play.ground.hush()?;
    let (tried, arrived) = fire(play, Side::Fenced, &shot)?;
    ensure!(tried.refused.is_empty(), "the device, which it may have");
    play.counted(&tried, arrived)?;
    let (_, arrived) = fire(play, Side::Fenced, &Shot::at(DE).count(1))?;
    if arrived == 0 {
        play.outcome.wrong("to where it may, RDMA does not pass");
    } else {
        play.outcome
            .saw(format!("RDMA to where it may: {arrived} packets"));
    }
    play.says_unfenced("rdma")
}

/// Both from the fenced net's wire, for there is one first namespace.
fn fire(play: &mut Play<'_>, who: Side, shot: &Shot) -> Result<(crate::actor::Tried, usize)> {
    let space = play.ground.net(Side::Fenced).job.clone();
    play.ground.witness(Side::Fenced).forget();
    let attacker = play
        .ground
        .attacker_in(&space, who, CARDIO, Technique::Roce, shot)?;
    let tried = attacker.finish()?;
    Ok((tried, play.ground.witness(Side::Fenced).arrived().len()))
}
