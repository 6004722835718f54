//! Headers that hide what decides.

use anyhow::Result;

use super::{DE, DE6, SERVICE6, US, US6};
use crate::act::{Shot, Technique};
use crate::play::Play;
use crate::row::Row;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        16,
        "extension-headers",
        "options in front of the ports, which say other ports",
        extensions,
    ),
    Row::new(
        3,
        "neighbour-payload",
        "neighbour discovery of one's own making, with a payload for the whole link",
        neighbour,
    ),
    Row::new(
        34,
        "source-route",
        "IPv4 source routes: the header's destination is the first hop",
        source_route,
    ),
    Row::new(
        34,
        "routing-header",
        "IPv6 routing headers of four types",
        routing,
    ),
];

fn extensions(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Extended, &Shot::at(US6))?;
    play.attack(Technique::ManyExtensions, &Shot::at(US6))?;
    play.attack(Technique::ManyExtensions, &Shot::at(DE6))?;
    // One port of that address may be reached, and the options name it.
    play.attack(Technique::Extended, &Shot::at(SERVICE6).port(5001))?;
    play.passes(Technique::Extended, &Shot::at(SERVICE6).port(5000))?;
    play.passes(Technique::Extended, &Shot::at(DE6))
}

fn neighbour(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Neighbour, &Shot::at("ff02::1"))?;
    play.attack(Technique::Neighbour, &Shot::at("ff02::2"))
}

fn source_route(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::SourceRoute, &Shot::at(US).via(DE))?;
    play.passes(Technique::Raw, &Shot::at(DE))
}

fn routing(play: &mut Play<'_>) -> Result<()> {
    play.attack(Technique::Routing, &Shot::at(US6).via(DE6))?;
    play.passes(Technique::Raw, &Shot::at(DE6))
}
