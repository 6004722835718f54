//! When a unit changes hands: a decision over what was seen, without looking itself.
//!
//! The kernel takes a unit for a study when it is opened, and notes when. Giving it back takes three
//! looks, for between the kernel's "yes" and the descriptor that can be seen lies the driver's own
//! open, which may take seconds:
//!
//! 1. nobody holds it, and nobody has opened it for `idle`: it is closed, also to its owner;
//! 2. once every program that may have seen it open has ended, one more look: if it was opened
//!    meanwhile, or somebody holds it, it is its owner's again;
//! 3. else it is free.

use std::collections::BTreeSet;

use bailiwick_ebpf_common::device::{Owner, state};

/// Longer than any program runs that read the owner before it was closed.
pub(super) const SETTLED_NS: u64 = 200_000_000;

/// Who has a descriptor of one unit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Holders {
    /// Ids under which studies hold it: their own, or that of all who have parts.
    pub(super) studies: BTreeSet<u64>,
    /// Somebody does who is neither a study that may, nor a host service.
    pub(super) others: bool,
}

impl Holders {
    fn any(&self) -> bool {
        self.others || !self.studies.is_empty()
    }
}

/// All that is known of one unit.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// As the kernel has it.
    pub(super) owner: Option<Owner>,
    /// When it was last opened, CLOCK_BOOTTIME; 0: never.
    pub(super) opened_ns: u64,
    /// When this process closed it, or first saw it closed.
    pub(super) closed_ns: u64,
    /// What the look found.
    pub(super) holders: Holders,
}

/// What is to be done with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Act {
    Keep,
    /// Nobody may open it for a moment.
    Close(u64),
    /// It is its owner's again.
    Reopen(u64),
    /// It is nobody's.
    Free,
    /// Somebody holds it who opened it before the kernel took note.
    Take(u64),
}

/// Decides by a look that began at `began_ns`. `complete`: it saw every descriptor of every
/// study.
pub(super) fn decide(unit: &Unit, began_ns: u64, complete: bool, idle_ns: u64) -> Act {
    let idle =
        complete && !unit.holders.any() && unit.opened_ns.saturating_add(idle_ns) <= began_ns;
    match unit.owner {
        None => match unit.holders.studies.first() {
            Some(study) => Act::Take(*study),
            None => Act::Keep,
        },
        Some(owner) if owner.state == state::HELD => {
            if idle {
                Act::Close(owner.id)
            } else {
                Act::Keep
            }
        }
        Some(_) if began_ns < unit.closed_ns.saturating_add(SETTLED_NS) => Act::Keep,
        Some(owner) => {
            if idle {
                Act::Free
            } else {
                Act::Reopen(owner.id)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const IDLE: u64 = 30 * S;
    const CARDIO: u64 = 77;
    const NEURO: u64 = 78;

    fn held_by(studies: &[u64]) -> Holders {
        Holders {
            studies: studies.iter().copied().collect(),
            others: false,
        }
    }

    #[test]
    fn a_unit_changes_hands_only_when_nobody_can_have_it() {
        let held = Some(Owner {
            id: CARDIO,
            state: state::HELD,
        });
        let closed = Some(Owner {
            id: CARDIO,
            state: state::CLOSED,
        });
        let nobody = Holders::default();
        let stranger = Holders {
            others: true,
            ..Holders::default()
        };
        // Name; owner, last open, closed since, holders; the look, whether complete; what to do.
        type Row<'a> = (
            &'a str,
            Option<Owner>,
            u64,
            u64,
            &'a Holders,
            u64,
            bool,
            Act,
        );
        let (own, other) = (held_by(&[CARDIO]), held_by(&[NEURO]));
        let both = held_by(&[CARDIO, NEURO]);
        let rows: &[Row<'_>] = &[
            ("free", None, 0, 0, &nobody, 100 * S, true, Act::Keep),
            (
                "opened before the fence stood",
                None,
                0,
                0,
                &own,
                100 * S,
                true,
                Act::Take(CARDIO),
            ),
            (
                "by two",
                None,
                0,
                0,
                &both,
                100 * S,
                true,
                Act::Take(CARDIO),
            ),
            (
                "by a stranger",
                None,
                0,
                0,
                &stranger,
                100 * S,
                true,
                Act::Keep,
            ),
            ("in use", held, 10 * S, 0, &own, 100 * S, true, Act::Keep),
            (
                "passed on to a stranger",
                held,
                10 * S,
                0,
                &stranger,
                100 * S,
                true,
                Act::Keep,
            ),
            (
                "passed on to another study",
                held,
                10 * S,
                0,
                &other,
                100 * S,
                true,
                Act::Keep,
            ),
            (
                "left",
                held,
                70 * S,
                0,
                &nobody,
                100 * S,
                true,
                Act::Close(CARDIO),
            ),
            (
                "left, as far as was seen",
                held,
                70 * S,
                0,
                &nobody,
                100 * S,
                false,
                Act::Keep,
            ),
            (
                "perhaps being opened",
                held,
                70 * S + 1,
                0,
                &nobody,
                100 * S,
                true,
                Act::Keep,
            ),
            (
                "opened after the look",
                held,
                101 * S,
                0,
                &nobody,
                100 * S,
                true,
                Act::Keep,
            ),
            (
                "just closed",
                closed,
                0,
                100 * S,
                &nobody,
                100 * S + SETTLED_NS - 1,
                true,
                Act::Keep,
            ),
            (
                "closed",
                closed,
                0,
                100 * S,
                &nobody,
                100 * S + SETTLED_NS,
                true,
                Act::Free,
            ),
            (
                "closed, not all seen",
                closed,
                0,
                100 * S,
                &nobody,
                101 * S,
                false,
                Act::Reopen(CARDIO),
            ),
            (
                "closed, and in use",
                closed,
                0,
                100 * S,
                &own,
                101 * S,
                true,
                Act::Reopen(CARDIO),
            ),
            (
                "closed, opened just before",
                closed,
                100 * S,
                100 * S,
                &nobody,
                101 * S,
                true,
                Act::Reopen(CARDIO),
            ),
            (
                "closed, with a stranger",
                closed,
                0,
                100 * S,
                &stranger,
                101 * S,
                true,
                Act::Reopen(CARDIO),
            ),
        ];
        for (name, owner, opened_ns, closed_ns, holders, began, complete, want) in rows {
            let unit = Unit {
                owner: *owner,
                opened_ns: *opened_ns,
                closed_ns: *closed_ns,
                holders: (*holders).clone(),
            };
            assert_eq!(decide(&unit, *began, *complete, IDLE), *want, "{name}");
        }
    }
}
