//! The clocks this process reads.

use std::time::SystemTime;

use bailiwick_attestation::UnixTime;
use rustix::time::{ClockId, clock_gettime};

/// The node's word about UTC.
#[must_use]
pub fn now() -> UnixTime {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// `CLOCK_BOOTTIME`, nanoseconds: the clock the kernel ends leases by.
#[must_use]
pub fn boot_time_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
