//! Prefixes that nest to intervals that follow one another.

use bailiwick_ebpf_common::Address;
use bailiwick_ebpf_common::policy::decision;
use ipnet::IpNet;

/// What a prefix says about its addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum What {
    Allow,
    Deny,
    /// Protocol, first and last port.
    Service((u16, u16, u16)),
    /// Subject number + 1.
    Owner(u32),
}

/// A prefix among the addresses of both families, IPv4 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    first: u128,
    last: u128,
    /// Length in its own family.
    length: u8,
    what: What,
}

/// From `start` up to the next one's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Piece {
    pub(super) start: Address,
    pub(super) decision: u8,
    pub(super) owner: u32,
    /// Sorted, each once.
    pub(super) services: Vec<(u16, u16, u16)>,
}

const V4_FIRST: u128 = 0xffff_0000_0000;
const V4_LAST: u128 = 0xffff_ffff_ffff;

/// The prefix as items: one, or two where an IPv6 prefix reaches around all of IPv4, which it does
/// not mean.
pub(super) fn items(net: IpNet, what: What) -> Vec<Item> {
    let item = |first, last| Item {
        first,
        last,
        length: net.prefix_len(),
        what,
    };
    match net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            vec![item(
                V4_FIRST | u128::from(first),
                V4_FIRST | u128::from(last),
            )]
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            if first < V4_FIRST && last > V4_LAST {
                vec![item(first, V4_FIRST - 1), item(V4_LAST + 1, last)]
            } else {
                vec![item(first, last)]
            }
        }
    }
}

/// The intervals, in order, neighbours always different. Nothing stands before the first.
pub(super) fn flatten(mut items: Vec<Item>) -> Vec<Piece> {
    items.sort_by_key(|item| (item.first, u128::MAX - item.last));
    let mut points: Vec<u128> = items.iter().map(|item| item.first).collect();
    points.extend(items.iter().filter_map(|item| item.last.checked_add(1)));
    points.sort_unstable();
    points.dedup();

    let mut items = items.into_iter().peekable();
    let mut open: Vec<Item> = Vec::new();
    let mut pieces: Vec<Piece> = Vec::new();
    for point in points {
        // Prefixes nest or are apart: whatever ends lies on top.
        while open.pop_if(|item| item.last < point).is_some() {}
        while let Some(item) = items.next_if(|item| item.first == point) {
            open.push(item);
        }
        let piece = piece(point, &open);
        let same = pieces.last().is_some_and(|before| {
            (before.decision, before.owner, &before.services)
                == (piece.decision, piece.owner, &piece.services)
        });
        if !same {
            pieces.push(piece);
        }
    }
    pieces
}

/// What all prefixes that hold this address say together.
fn piece(start: u128, open: &[Item]) -> Piece {
    let longest = |what: What| {
        let of_kind = open.iter().filter(|item| item.what == what);
        of_kind.map(|item| item.length).max()
    };
    let decision = match (longest(What::Allow), longest(What::Deny)) {
        (None, None) => decision::NONE,
        (Some(allow), Some(deny)) if allow > deny => decision::ALLOW,
        (Some(_), None) => decision::ALLOW,
        (_, Some(_)) => decision::DENY,
    };
    let mut services: Vec<(u16, u16, u16)> = open
        .iter()
        .filter_map(|item| match item.what {
            What::Service(target) => Some(target),
            _ => None,
        })
        .collect();
    services.sort_unstable();
    services.dedup();
    let owner = open.iter().rev().find_map(|item| match item.what {
        What::Owner(owner) => Some(owner),
        _ => None,
    });
    Piece {
        start: Address::from_bytes(start.to_be_bytes()),
        decision,
        owner: owner.unwrap_or(0),
        services,
    }
}
