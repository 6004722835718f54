//! The one place that reads the wall clock; everything else takes time as an argument. And the
//! latest time this collector ever saw: a clock that goes back is told, across restarts too, for
//! receipt times are its word.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bailiwick_attestation::UnixTime;
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// How often the clock is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Steps back by less are an ordinary correction.
const SLACK_MS: u64 = 2000;

/// Now, by this machine's clock. Before 1970 reads as 1970: then every deadline has passed.
#[must_use]
pub fn now() -> UnixTime {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The latest time seen, in a file.
#[derive(Debug)]
pub struct Latest {
    file: PathBuf,
    seen: UnixTime,
    /// Said already, until the clock has caught up.
    told: bool,
    /// By how many milliseconds the clock is behind it now.
    behind: watch::Sender<Option<u64>>,
}

impl Latest {
    /// As the last process left it; one that cannot be read is begun anew, and said aloud.
    #[must_use]
    pub fn open(file: &Path) -> Self {
        let seen = match std::fs::read_to_string(file) {
            Ok(text) => text.trim().parse().unwrap_or_else(|why| {
                warn!(file = %file.display(), %why, "the latest time seen is not a number");
                0
            }),
            Err(why) if why.kind() == io::ErrorKind::NotFound => 0,
            Err(why) => {
                warn!(file = %file.display(), %why, "the latest time seen cannot be read");
                0
            }
        };
        Self {
            file: file.to_owned(),
            seen: UnixTime(seen),
            told: false,
            behind: watch::channel(None).0,
        }
    }

    /// By how many milliseconds the clock is behind the latest time seen, now and as it changes;
    /// none where it is not.
    #[must_use]
    pub fn behind(&self) -> watch::Receiver<Option<u64>> {
        self.behind.subscribe()
    }

    /// Takes a look at the clock: by how many milliseconds it went back behind the latest time seen,
    /// once until it has caught up.
    pub fn observe(&mut self, now: UnixTime) -> Option<u64> {
        let back = self.seen.since(now);
        let behind = (back > SLACK_MS).then_some(back);
        self.behind.send_replace(behind);
        if behind.is_some() {
            return (!std::mem::replace(&mut self.told, true)).then_some(back);
        }
        if std::mem::take(&mut self.told) {
            info!("the clock is past the latest time seen again");
        }
        self.seen = self.seen.max(now);
        None
    }

    /// Keeps it for the next process.
    pub fn keep(&self) -> io::Result<()> {
        let next = self.file.with_extension("next");
        let mut out = std::fs::File::create(&next)?;
        writeln!(out, "{}", self.seen.millis())?;
        out.sync_all()?;
        std::fs::rename(&next, &self.file)
    }

    /// Looks until told to stop.
    pub async fn watch(mut self, stop: CancellationToken) -> Result<(), JoinError> {
        let mut tick = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {
                    self = spawn_blocking(move || {
                        self.look(now());
                        self
                    })
                    .await?;
                }
            }
        }
    }

    fn look(&mut self, now: UnixTime) {
        if let Some(back) = self.observe(now) {
            error!(
                back_ms = back,
                latest_ms = self.seen.millis(),
                "this collector's clock went back; times in receipts and verdicts overlap"
            );
        } else if !self.told
            && let Err(why) = self.keep()
        {
            warn!(file = %self.file.display(), %why, "the latest time seen is not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_back_is_told_once_and_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("latest-time");
        let mut latest = Latest::open(&file);
        let hour = 3_600_000;
        let steps = [
            ("the first look", 10 * hour, None),
            ("on", 11 * hour, None),
            ("corrected", 11 * hour - SLACK_MS, None),
            ("back", 11 * hour - SLACK_MS - 1, Some(SLACK_MS + 1)),
            ("still back", 10 * hour, None),
            ("caught up", 11 * hour, None),
            ("an hour back", 10 * hour, Some(hour)),
        ];
        let behind = latest.behind();
        for (name, now, want) in steps {
            assert_eq!(latest.observe(UnixTime(now)), want, "{name}");
            let still = (name == "still back").then_some(hour);
            assert_eq!(*behind.borrow(), want.or(still), "{name}");
            latest.keep().unwrap();
        }
        let mut latest = Latest::open(&file);
        assert_eq!(latest.observe(UnixTime(hour)), Some(10 * hour), "a restart");
        for bad in ["", "x", "-1", "99999999999999999999999"] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(Latest::open(&file).observe(UnixTime(1)), None, "{bad:?}");
        }
    }
}
