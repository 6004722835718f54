//! Waits between attempts, longer each time, and not in step with other nodes.

use std::time::Duration;

/// Doubles from one second to a minute; each wait is drawn from its upper half.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

impl Backoff {
    /// After a failure.
    pub fn next_wait(&mut self) -> Duration {
        let whole = FIRST
            .saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1).min(16);
        spread(whole.mul_f64(0.75), 1.0 / 3.0)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `middle`, earlier or later by up to `part` of it.
#[must_use]
pub fn spread(middle: Duration, part: f64) -> Duration {
    let mut random = [0; 4];
    // Without randomness all nodes come at once, which is worse than late and better than never.
    let drawn = aws_lc_rs::rand::fill(&mut random).map_or(0.5, |()| {
        f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX)
    });
    middle.mul_f64((1.0 + part * (2.0 * drawn - 1.0)).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let mut backoff = Backoff::default();
        let mut longest = FIRST;
        for _ in 0..40 {
            let wait = backoff.next_wait();
            assert!(
                wait <= longest && wait * 2 >= longest.mul_f64(0.99),
                "{wait:?}"
            );
            longest = (longest * 2).min(LONGEST);
        }
        backoff.reset();
        assert!(backoff.next_wait() <= FIRST);
    }

    #[test]
    fn spread_stays_within_its_part() {
        let middle = Duration::from_secs(60);
        for _ in 0..100 {
            let drawn = spread(middle, 0.2);
            assert!((48.0..=72.0).contains(&drawn.as_secs_f64()), "{drawn:?}");
        }
        assert_eq!(spread(middle, 0.0), middle);
    }
}
