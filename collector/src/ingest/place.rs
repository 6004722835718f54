//! How a statement stands to the one accepted before it.

use bailiwick_attestation::Sha256Digest;

/// The newest statement accepted of a TPM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) digest: Sha256Digest,
    /// The AK enrolled now signed it.
    pub(super) same_ak: bool,
}

/// What a new statement says of its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claimed {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) previous: Option<Sha256Digest>,
}

/// Where it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// It follows, perhaps with something missing between.
    Next {
        /// What.
        gap: Option<String>,
    },
    /// It does not follow what was accepted: another history.
    Forked(String),
    /// Its number was passed: whether another statement stands there decides.
    Passed,
}

/// Decides it. A log that was lost may begin again under a later number, and never goes back; an
/// AK that was lost took the log's honesty with it, and begins a later one too.
pub(super) fn place(last: Option<&Last>, claimed: &Claimed) -> Place {
    let Claimed {
        epoch,
        sequence,
        previous,
    } = *claimed;
    let Some(last) = last else {
        let gap = (sequence > 0).then(|| format!("its first statement here is number {sequence}"));
        return Place::Next { gap };
    };
    if epoch > last.epoch {
        let gap = format!("it began epoch {epoch} after epoch {}", last.epoch);
        return Place::Next { gap: Some(gap) };
    }
    if !last.same_ak {
        return Place::Forked(format!(
            "epoch {} was signed by another AK: with a new AK the node begins a later one",
            last.epoch
        ));
    }
    let next = last.sequence.saturating_add(1);
    if epoch < last.epoch || sequence < next {
        return Place::Passed;
    }
    if sequence > next {
        let missing = sequence.saturating_sub(next);
        let gap = format!("{missing} statements before number {sequence} are missing");
        return Place::Next { gap: Some(gap) };
    }
    if previous == Some(last.digest) {
        return Place::Next { gap: None };
    }
    Place::Forked(format!(
        "statement {sequence} does not follow {}, the last accepted",
        last.digest
    ))
}

/// Whether it goes on where the last one stopped: then the node's log must extend the one it named.
pub(super) fn follows_on(last: &Last, claimed: &Claimed) -> bool {
    last.same_ak && claimed.epoch == last.epoch && claimed.sequence > last.sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: Sha256Digest = Sha256Digest([1; 32]);

    #[test]
    fn a_statement_follows_or_begins_a_later_epoch() {
        let last = Last {
            epoch: 2,
            sequence: 5,
            digest: LAST,
            same_ak: true,
        };
        let other_ak = Last {
            same_ak: false,
            ..last
        };
        let gap = |text: &str| Place::Next {
            gap: Some(text.to_owned()),
        };
        let whole = Place::Next { gap: None };
        let forked = |text: &str| Place::Forked(text.to_owned());
        let new_ak = "epoch 2 was signed by another AK: with a new AK the node begins a later one";
        let other = Some(Sha256Digest([2; 32]));
        type Row<'a> = (&'a str, Option<Last>, u64, u64, Option<Sha256Digest>, Place);
        let cases: &[Row<'_>] = &[
            ("the first ever", None, 0, 0, None, whole.clone()),
            (
                "the first here",
                None,
                0,
                3,
                other,
                gap("its first statement here is number 3"),
            ),
            ("the next", Some(last), 2, 6, Some(LAST), whole.clone()),
            (
                "the next of another history",
                Some(last),
                2,
                6,
                other,
                forked(&format!(
                    "statement 6 does not follow {LAST}, the last accepted"
                )),
            ),
            (
                "two later",
                Some(last),
                2,
                8,
                other,
                gap("2 statements before number 8 are missing"),
            ),
            ("the same again", Some(last), 2, 5, other, Place::Passed),
            ("an older one", Some(last), 2, 0, None, Place::Passed),
            (
                "an older epoch",
                Some(last),
                1,
                6,
                Some(LAST),
                Place::Passed,
            ),
            (
                "an older epoch, far on",
                Some(last),
                1,
                99,
                other,
                Place::Passed,
            ),
            (
                "a later epoch",
                Some(last),
                3,
                0,
                None,
                gap("it began epoch 3 after epoch 2"),
            ),
            (
                "the next, by another AK",
                Some(other_ak),
                2,
                6,
                Some(LAST),
                forked(new_ak),
            ),
            (
                "a clean past, by another AK",
                Some(other_ak),
                0,
                0,
                None,
                forked(new_ak),
            ),
            (
                "a later epoch, by another AK",
                Some(other_ak),
                3,
                0,
                None,
                gap("it began epoch 3 after epoch 2"),
            ),
        ];
        for (epoch, sequence, want) in [
            (2, 6, true),
            (2, 9, true),
            (2, 5, false),
            (3, 6, false),
            (1, 6, false),
        ] {
            let claimed = Claimed {
                epoch,
                sequence,
                previous: None,
            };
            assert_eq!(follows_on(&last, &claimed), want, "{epoch} {sequence}");
            assert!(!follows_on(&other_ak, &claimed), "{epoch} {sequence}");
        }
        for (name, last, epoch, sequence, previous, want) in cases {
            let claimed = Claimed {
                epoch: *epoch,
                sequence: *sequence,
                previous: *previous,
            };
            assert_eq!(place(last.as_ref(), &claimed), *want, "{name}");
        }
    }
}
