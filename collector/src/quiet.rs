//! Lines that a peer can trigger: a bounded number a minute, and then how many were left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
const LINES: u32 = 30;

/// One kind of line.
#[derive(Debug)]
pub(crate) struct Quiet(Mutex<Option<State>>);

#[derive(Debug)]
struct State {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl Quiet {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether to write the line; if so, how many before it were left out.
    pub(crate) fn ask(&self) -> Option<u64> {
        self.ask_at(Instant::now())
    }

    fn ask_at(&self, now: Instant) -> Option<u64> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = State {
            since: now,
            written: 0,
            left_out: 0,
        };
        let state = guard.get_or_insert(fresh);
        if now.duration_since(state.since) >= WINDOW {
            (state.since, state.written) = (now, 0);
        }
        if state.written >= LINES {
            state.left_out += 1;
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_its_lines_and_counts_the_rest() {
        let quiet = Quiet::new();
        let start = Instant::now();
        for _ in 0..LINES {
            assert_eq!(quiet.ask_at(start), Some(0));
        }
        for _ in 0..7 {
            assert_eq!(quiet.ask_at(start), None);
        }
        assert_eq!(quiet.ask_at(start + WINDOW), Some(7));
        assert_eq!(quiet.ask_at(start + WINDOW), Some(0));
    }
}
