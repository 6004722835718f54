//! How long the word of a key counts, as approvers say: from, until, and revoked since.

use crate::ids::UnixTime;

/// Bounds of a key's worth; what is absent is open.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Term {
    /// First moment at which it counts.
    pub not_before: Option<UnixTime>,
    /// First moment at which it counts no more, because another one has taken its place.
    pub not_after: Option<UnixTime>,
    /// Since when somebody else may hold it.
    pub revoked: Option<UnixTime>,
}

/// Why a key's word does not count.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Lapsed {
    /// Before its time.
    #[error("the key counts only from {} s after 1970", .0.secs())]
    Early(UnixTime),
    /// After its time.
    #[error("the key counted only until {} s after 1970", .0.secs())]
    Ended(UnixTime),
    /// Taken back.
    #[error("the key is revoked since {} s after 1970", .0.secs())]
    Revoked(UnixTime),
}

impl Lapsed {
    /// Stable word for logs and scripts.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Early(_) => "key-early",
            Self::Ended(_) => "key-ended",
            Self::Revoked(_) => "key-revoked",
        }
    }
}

impl Term {
    /// Whether a word that is given now, or said to be of `at`, counts for whoever has to act on
    /// it. A revoked key never does, whatever date its holder writes, and from the moment the
    /// revocation is known.
    pub fn counts(&self, at: UnixTime) -> Result<(), Lapsed> {
        match self.revoked {
            Some(since) => Err(Lapsed::Revoked(since)),
            None => self.span(at),
        }
    }

    /// Whether the key was good at `at`, for whoever looks back. A date that its holder wrote
    /// proves nothing for a key that is revoked since: something else has to show it.
    pub fn counted(&self, at: UnixTime) -> Result<(), Lapsed> {
        match self.revoked {
            Some(since) if at >= since => Err(Lapsed::Revoked(since)),
            _ => self.span(at),
        }
    }

    fn span(&self, at: UnixTime) -> Result<(), Lapsed> {
        match (self.not_before, self.not_after) {
            (Some(from), _) if at < from => Err(Lapsed::Early(from)),
            (_, Some(until)) if at >= until => Err(Lapsed::Ended(until)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_within_its_term_and_a_revoked_one_never() {
        let at = UnixTime;
        let open = Term::default();
        let term = Term {
            not_before: Some(at(10)),
            not_after: Some(at(20)),
            revoked: None,
        };
        let revoked = Term {
            revoked: Some(at(15)),
            ..term
        };
        let rows = [
            ("open", open, 0, None, None),
            ("before", term, 9, Some("key-early"), Some("key-early")),
            ("first moment", term, 10, None, None),
            ("last moment", term, 19, None, None),
            ("after", term, 20, Some("key-ended"), Some("key-ended")),
            ("revoked later", revoked, 14, Some("key-revoked"), None),
            (
                "revoked now",
                revoked,
                15,
                Some("key-revoked"),
                Some("key-revoked"),
            ),
            (
                "revoked, and before its time",
                revoked,
                9,
                Some("key-revoked"),
                Some("key-early"),
            ),
        ];
        for (name, term, when, now, then) in rows {
            let code = |result: Result<(), Lapsed>| result.err().map(Lapsed::code);
            assert_eq!(code(term.counts(at(when))), now, "{name}, now");
            assert_eq!(code(term.counted(at(when))), then, "{name}, then");
        }
    }
}
