//! The one place that reads the wall clock; everything else takes time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use bailiwick_attestation::UnixTime;

/// Now, by this machine's clock. Before 1970 reads as 1970: then every deadline has passed.
#[must_use]
pub fn now() -> UnixTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
