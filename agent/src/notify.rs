//! What the service manager is told (`sd_notify(3)`): ready, a line of status, alive.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::warn;

/// Tells the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Notify {
    ready: bool,
    status: String,
}

impl Notify {
    /// Once; later calls change the status only.
    pub fn ready(&mut self, status: &str) {
        if !self.ready {
            self.ready = true;
            send(&[NotifyState::Ready]);
        }
        self.status(status);
    }

    /// A line for `systemctl status`, sent when it changes.
    pub fn status(&mut self, status: &str) {
        if self.status != status {
            status.clone_into(&mut self.status);
            send(&[NotifyState::Status(status)]);
        }
    }

    /// Still alive.
    pub fn alive(&self) {
        send(&[NotifyState::Watchdog]);
    }

    /// On the way out.
    pub fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }
}

/// How often [`Notify::alive`] has to be called: twice as often as the watchdog looks.
#[must_use]
pub fn alive_every() -> Duration {
    sd_notify::watchdog_enabled()
        .map_or(Duration::from_secs(10), |watchdog| watchdog / 2)
        .clamp(Duration::from_millis(50), Duration::from_secs(10))
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "the service manager cannot be told");
    }
}
