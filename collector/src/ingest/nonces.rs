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
    open: HashMap<Sha256Digest, VecDeque<(Nonce, UnixTime)>>,
}

impl Nonces {
    /// Challenges live for `life_ms`.
    #[must_use]
    pub fn new(life_ms: u64) -> Self {
        Self {
            life_ms,
            open: HashMap::new(),
        }
    }

    /// Opens a challenge; `random` must be fresh.
    pub fn open(&mut self, ek: Sha256Digest, random: [u8; 32], now: UnixTime) -> Nonce {
        let nonce = Nonce::new(random);
        let open = self.open.entry(ek).or_default();
        if open.len() == OPEN {
            open.pop_front();
        }
        open.push_back((nonce, UnixTime(now.millis().saturating_add(self.life_ms))));
        nonce
    }

    /// Closes a challenge this node answers. It can be done once.
    pub fn take(
        &mut self,
        ek: &Sha256Digest,
        nonce: &Nonce,
        now: UnixTime,
    ) -> Result<(), NonceRefused> {
        let open = self.open.get_mut(ek).ok_or(NonceRefused::Unknown)?;
        let at = open
            .iter()
            .position(|(known, _)| known == nonce)
            .ok_or(NonceRefused::Unknown)?;
        match open.remove(at) {
            Some((_, until)) if now < until => Ok(()),
            _ => Err(NonceRefused::Expired),
        }
    }

    /// How long a challenge lives.
    #[must_use]
    pub const fn life_ms(&self) -> u64 {
        self.life_ms
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
        let nonce = nonces.open(A, [7; 32], now);
        let cases = [
            ("another node", B, nonce, now, Err(NonceRefused::Unknown)),
            (
                "another nonce",
                A,
                Nonce::new([8; 32]),
                now,
                Err(NonceRefused::Unknown),
            ),
            ("in time", A, nonce, UnixTime(5999), Ok(())),
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
        let late = nonces.open(A, [9; 32], now);
        let refused = nonces.take(&A, &late, UnixTime(6000));
        assert_eq!(refused, Err(NonceRefused::Expired));
    }

    #[test]
    fn the_oldest_of_too_many_makes_way() {
        let mut nonces = Nonces::new(1000);
        let now = UnixTime(0);
        let first = nonces.open(A, [0; 32], now);
        let second = nonces.open(A, [1; 32], now);
        for n in 2..5 {
            nonces.open(A, [n; 32], now);
        }
        assert_eq!(nonces.take(&A, &first, now), Err(NonceRefused::Unknown));
        assert_eq!(nonces.take(&A, &second, now), Ok(()));
    }
}
