//! A bound on how fast one node is read. Beyond it nothing is lost: the messages wait with the
//! node, behind HTTP/2's flow control.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket that holds a minute's worth.
#[derive(Debug)]
pub(super) struct Bucket {
    interval: Duration,
    burst: u32,
    /// When the bucket would be full.
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(per_minute: u32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(60) / per_minute.max(1),
            burst: per_minute.max(1),
            full_at: now,
        }
    }

    /// When the next message may be read.
    pub(super) fn ready_at(&self) -> Instant {
        let span = self.interval * (self.burst - 1);
        self.full_at.checked_sub(span).unwrap_or(self.full_at)
    }

    /// One message was read.
    pub(super) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_worth_at_once_then_the_rate() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut bucket = Bucket::new(60, start);
        for n in 0..60 {
            assert!(bucket.ready_at() <= start, "{n}");
            bucket.take(start);
        }
        assert_eq!(bucket.ready_at(), start + Duration::from_secs(1));
        let later = start + Duration::from_secs(3);
        assert!(bucket.ready_at() <= later);
        for _ in 0..3 {
            bucket.take(later);
        }
        assert_eq!(bucket.ready_at(), start + Duration::from_secs(4));
    }
}
