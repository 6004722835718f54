//! Headers that hide what decides.

use anyhow::Result;

use super::{DE, DE6, SERVICE6, US, US6};
use crate::act::{Shot, Technique};
use crate::net::Shape;
use crate::play::Play;
use crate::row::{Claim, Place, Row};

pub(super) const ROWS: &[Row] = &[
    Row {
        number: 16,
        attack: "extension-headers",
        what: "options in front of the ports, which say other ports",
        place: Place::Host,
        claim: Claim::Stopped,
        alone: false,
        shape: Shape::Wire,
        run: extensions,
    },
    Row {
        number: 3,
        attack: "neighbour-payload",
        what: "neighbour discovery of one's own making, with a payload for the whole link",
        place: Place::Host,
        claim: Claim::Stopped,
        alone: false,
        shape: Shape::Wire,
        run: neighbour,
    },
    Row {
        number: 34,
        attack: "source-route",
        what: "IPv4 source routes: the header's destination is the first hop",
        place: Place::Host,
        claim: Claim::Stopped,
        alone: false,
        shape: Shape::Wire,
        run: source_route,
    },
    Row {
        number: 34,
        attack: "routing-header",
        what: "IPv6 routing headers of four types",
        place: Place::Host,
        claim: Claim::Stopped,
        alone: false,
        shape: Shape::Wire,
        run: routing,
    },
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
