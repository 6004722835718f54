//! Challenges under way. In memory only: after a restart every older one is simply unknown.

use std::collections::{HashMap, VecDeque};

use bailiwick_attestation::evidence::Nonce;
use bailiwick_attestation::{Sha256Digest, UnixTime};

/// Challenges a node may have open; the oldest makes way. One per answer, and one on demand.
const OPEN: usize = 4;

/// Why a nonce is not one this node may answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NonceRefused {
    /// Never drawn for this node, answered before, or drawn before a restart.
    #[error("no such challenge is open for this node; answer the one that comes with this refusal")]
    Unknown,
    /// Drawn too long ago.
    #[error("the challenge has expired; answer the one that comes with this refusal")]
    Expired,
}

impl NonceRefused {
    /// Stable word for scripts.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unknown => "nonce-unknown",
            Self::Expired => "nonce-expired",
        }
    }
}

/// Open challenges by TPM.
#[derive(Debug)]
pub struct Nonces {
    life_ms: u64,
    open: HashMap<Sha256Digest, VecDeque<Open>>,
}

/// One challenge.
#[derive(Debug)]
struct Open {
    nonce: Nonce,
    /// When it was drawn.
    now: UnixTime,
    until: UnixTime,
}

impl Nonces {
    /// Challenges live for `life_ms` at most.
    #[must_use]
    pub fn new(life_ms: u64) -> Self {
        Self {
            life_ms,
            open: HashMap::new(),
        }
    }

    /// Opens a challenge; `random` must be fresh. It lives no longer than the lease that an answer
    /// to it would earn (`lease_ms`; absent where none can be earned): a node that holds an answer
    /// back until it is no longer true gains nothing by it.
    pub fn open(
        &mut self,
        ek: Sha256Digest,
        random: [u8; 32],
        lease_ms: Option<u64>,
        now: UnixTime,
    ) -> (Nonce, u64) {
        let nonce = Nonce::new(random);
        let life_ms = lease_ms.map_or(self.life_ms, |lease| lease.min(self.life_ms));
        let open = self.open.entry(ek).or_default();
        if open.len() == OPEN {
            open.pop_front();
        }
        let until = UnixTime(now.millis().saturating_add(life_ms));
        open.push_back(Open { nonce, now, until });
        (nonce, life_ms)
    }

    /// Closes a challenge this node answers, and says when it was opened: the answer was not signed
    /// before. It can be done once.
    pub fn take(
        &mut self,
        ek: &Sha256Digest,
        nonce: &Nonce,
        now: UnixTime,
    ) -> Result<UnixTime, NonceRefused> {
        let open = self.open.get_mut(ek).ok_or(NonceRefused::Unknown)?;
        let at = open
            .iter()
            .position(|open| open.nonce == *nonce)
            .ok_or(NonceRefused::Unknown)?;
        match open.remove(at) {
            // By a clock that went back in between, nobody knows how old the answer is.
            Some(open) if open.now <= now && now < open.until => Ok(open.now),
            _ => Err(NonceRefused::Expired),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Sha256Digest = Sha256Digest([1; 32]);
    const B: Sha256Digest = Sha256Digest([2; 32]);

    #[test]
    fn a_challenge_is_answered_once_by_its_node_in_time() {
        let mut nonces = Nonces::new(1000);
        let now = UnixTime(5000);
        let (nonce, life_ms) = nonces.open(A, [7; 32], None, now);
        assert_eq!(life_ms, 1000);
        let cases = [
            ("another node", B, nonce, now, Err(NonceRefused::Unknown)),
            (
                "another nonce",
                A,
                Nonce::new([8; 32]),
                now,
                Err(NonceRefused::Unknown),
            ),
            ("in time", A, nonce, UnixTime(5999), Ok(now)),
            (
                "replayed",
                A,
                nonce,
                UnixTime(5999),
                Err(NonceRefused::Unknown),
            ),
        ];
        for (name, ek, nonce, now, want) in cases {
            assert_eq!(nonces.take(&ek, &nonce, now), want, "{name}");
        }
        let (late, _) = nonces.open(A, [9; 32], None, now);
        let refused = nonces.take(&A, &late, UnixTime(6000));
        assert_eq!(refused, Err(NonceRefused::Expired));
    }

    #[test]
    fn a_collectors_clock_that_is_set_makes_no_answer_younger() {
        let hour = 3_600_000;
        let year = 365 * 24 * hour;
        let now = UnixTime(2 * year);
        for (name, then, want) in [
            ("an hour forward", now.0 + hour, Err(NonceRefused::Expired)),
            ("a year forward", now.0 + year, Err(NonceRefused::Expired)),
            ("a millisecond back", now.0 - 1, Err(NonceRefused::Expired)),
            ("an hour back", now.0 - hour, Err(NonceRefused::Expired)),
            ("a year back", now.0 - year, Err(NonceRefused::Expired)),
            ("left alone", now.0, Ok(now)),
        ] {
            let mut nonces = Nonces::new(1000);
            let (nonce, _) = nonces.open(A, [7; 32], None, now);
            assert_eq!(nonces.take(&A, &nonce, UnixTime(then)), want, "{name}");
            // The refusal carries another, drawn by the clock as it is now.
            let then = UnixTime(then);
            let (next, _) = nonces.open(A, [8; 32], None, then);
            assert_eq!(nonces.take(&A, &next, then), Ok(then), "{name}");
        }
    }

    #[test]
    fn an_answer_held_back_for_a_lease_is_late() {
        let now = UnixTime(5000);
        let rows = [
            ("a lease shorter than a challenge's life", Some(400), 400),
            ("a longer one", Some(2000), 1000),
            ("none to be earned", None, 1000),
        ];
        for (name, lease, life) in rows {
            let mut nonces = Nonces::new(1000);
            let (late, life_ms) = nonces.open(A, [9; 32], lease, now);
            assert_eq!(life_ms, life, "{name}");
            let refused = nonces.take(&A, &late, UnixTime(5000 + life));
            assert_eq!(refused, Err(NonceRefused::Expired), "{name}");
            let (early, _) = nonces.open(A, [9; 32], lease, now);
            let taken = nonces.take(&A, &early, UnixTime(5000 + life - 1));
            assert_eq!(taken, Ok(now), "{name}");
        }
    }

    #[test]
    fn the_oldest_of_too_many_makes_way() {
        let mut nonces = Nonces::new(1000);
        let now = UnixTime(0);
        let (first, _) = nonces.open(A, [0; 32], None, now);
        let (second, _) = nonces.open(A, [1; 32], None, now);
        for n in 2..5 {
            nonces.open(A, [n; 32], None, now);
        }
        assert_eq!(nonces.take(&A, &first, now), Err(NonceRefused::Unknown));
        assert_eq!(nonces.take(&A, &second, now), Ok(now));
    }
}
