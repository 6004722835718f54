//! Enrolments under way: between the sealed secret and its return.

use std::collections::HashMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bailiwick_attestation::UnixTime;

/// Enrolments under way at once. Anybody may begin one; beyond this the oldest makes way, so that
/// somebody who begins many delays others and cannot shut them out for longer than a session.
const OPEN: usize = 4096;

/// Why a proof is not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SessionRefused {
    /// Never begun, answered before, or made way for others.
    #[error("no such enrolment is under way; begin again")]
    Unknown,
    /// The answer came too late.
    #[error("the enrolment took too long; begin again")]
    Expired,
    /// The secret is not the one sealed: another TPM opened it, or none.
    #[error("the secret is not the one sealed to this EK and AK")]
    Secret,
}

impl SessionRefused {
    /// Stable word for scripts.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unknown => "session-unknown",
            Self::Expired => "session-expired",
            Self::Secret => "credential-mismatch",
        }
    }
}

/// Sealed secrets, and what waits for their return.
#[derive(Debug)]
pub struct Sessions<T> {
    life_ms: u64,
    open: HashMap<[u8; 16], Session<T>>,
}

struct Session<T> {
    secret: [u8; 32],
    begun: UnixTime,
    waiting: T,
}

impl<T> std::fmt::Debug for Session<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("begun", &self.begun)
            .finish_non_exhaustive()
    }
}

impl<T> Sessions<T> {
    /// Sessions live for `life_ms`.
    #[must_use]
    pub fn new(life_ms: u64) -> Self {
        Self {
            life_ms,
            open: HashMap::new(),
        }
    }

    /// Begins a session; number and secret must be fresh.
    pub fn begin(&mut self, number: [u8; 16], secret: [u8; 32], waiting: T, now: UnixTime) {
        let life = self.life_ms;
        self.open
            .retain(|_, session| now.since(session.begun) < life);
        if self.open.len() >= OPEN
            && let Some(oldest) = self
                .open
                .iter()
                .min_by_key(|(_, session)| session.begun)
                .map(|(number, _)| *number)
        {
            self.open.remove(&oldest);
        }
        let session = Session {
            secret,
            begun: now,
            waiting,
        };
        self.open.insert(number, session);
    }

    /// Ends a session, whatever comes of it: there is one attempt at its secret.
    pub fn finish(
        &mut self,
        number: &[u8],
        secret: &[u8],
        now: UnixTime,
    ) -> Result<T, SessionRefused> {
        let (sealed, waiting) = self.take(number, now)?;
        verify_slices_are_equal(&sealed, secret).map_err(|_different| SessionRefused::Secret)?;
        Ok(waiting)
    }

    /// Ends a session whose secret is none, but a nonce: whoever takes it looks for it in the answer. There
    /// is one attempt at that, too.
    pub fn take(&mut self, number: &[u8], now: UnixTime) -> Result<([u8; 32], T), SessionRefused> {
        let number = <&[u8; 16]>::try_from(number).map_err(|_length| SessionRefused::Unknown)?;
        let session = self.open.remove(number).ok_or(SessionRefused::Unknown)?;
        if now.since(session.begun) >= self.life_ms {
            return Err(SessionRefused::Expired);
        }
        Ok((session.secret, session.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_one_attempt_in_time() {
        let now = UnixTime(1000);
        type Row = (
            &'static str,
            &'static [u8],
            &'static [u8],
            u64,
            Result<(), SessionRefused>,
        );
        let cases: &[Row] = &[
            ("right", &[1; 16], &[2; 32], 0, Ok(())),
            (
                "another session",
                &[9; 16],
                &[2; 32],
                0,
                Err(SessionRefused::Unknown),
            ),
            (
                "short session",
                &[1; 15],
                &[2; 32],
                0,
                Err(SessionRefused::Unknown),
            ),
            (
                "another secret",
                &[1; 16],
                &[3; 32],
                0,
                Err(SessionRefused::Secret),
            ),
            (
                "short secret",
                &[1; 16],
                &[2; 31],
                0,
                Err(SessionRefused::Secret),
            ),
            ("no secret", &[1; 16], &[], 0, Err(SessionRefused::Secret)),
            (
                "late",
                &[1; 16],
                &[2; 32],
                60_000,
                Err(SessionRefused::Expired),
            ),
        ];
        for (name, number, secret, after, want) in cases {
            let mut sessions = Sessions::new(60_000);
            sessions.begin([1; 16], [2; 32], (), now);
            let at = UnixTime(now.millis() + after);
            assert_eq!(sessions.finish(number, secret, at), *want, "{name}");
            if number.len() == 16 && number[0] == 1 {
                let again = sessions.finish(&[1; 16], &[2; 32], now);
                assert_eq!(again, Err(SessionRefused::Unknown), "{name}, again");
            }
        }
    }

    #[test]
    fn whoever_begins_many_is_bounded() {
        let mut sessions = Sessions::new(60_000);
        for n in 0..=u32::try_from(OPEN).unwrap() {
            let mut number = [0; 16];
            number[..4].copy_from_slice(&n.to_be_bytes());
            sessions.begin(number, [2; 32], (), UnixTime(u64::from(n)));
        }
        assert_eq!(sessions.open.len(), OPEN);
        let first = sessions.finish(&[0; 16], &[2; 32], UnixTime(5000));
        assert_eq!(first, Err(SessionRefused::Unknown));
    }
}
