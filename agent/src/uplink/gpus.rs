//! GPUs in the node's loop: asked by a child while the statement that brings their answers waits.
//!
//! The nonce is made from the challenge that the statement answers, so that whoever has the one
//! knows that the other is no older. Later statements cite it.

use std::{path::PathBuf, time::Instant};

use bailiwick_attestation::{
    evidence::{Nonce, gpu_nonce},
    proto::v1::Claim,
};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::{Node, UplinkError, exchange::Source};
use crate::{
    attest::unavailable,
    clock,
    collect::gpu::{self, Collected, Schedule},
    config::Config,
    files::read_bounded,
};

/// What the claim about missing reports is called.
const MISSING: &str = "nvml.reports";

/// A question under way.
#[derive(Debug)]
struct Asking {
    child: JoinHandle<Collected>,
    challenge: Nonce,
    asked_boot_ns: u64,
    /// The stream that the challenge came by is gone.
    unheard: bool,
}

/// What the loop knows of GPUs.
#[derive(Debug)]
pub(super) struct Gpus {
    schedule: Schedule,
    asking: Option<Asking>,
    /// When they were asked last: another process of this boot keeps the pause.
    file: PathBuf,
    boot_id: [u8; 16],
    /// Why there are no reports, where there are none.
    why: &'static str,
    /// A statement that cites what they said last was accepted.
    heard: bool,
}

impl Gpus {
    pub(super) fn open(config: &Config, boot_id: [u8; 16]) -> Self {
        let file = config.state_dir.join("gpus-asked");
        let asked = asked(&file, boot_id).and_then(|ago| Instant::now().checked_sub(ago));
        Self {
            schedule: Schedule::new(config.evidence.gpu_interval(), asked),
            asking: None,
            file,
            boot_id,
            why: "not asked yet",
            heard: true,
        }
    }

    /// A statement waits for an answer.
    pub(super) const fn waits(&self) -> bool {
        self.asking.is_some()
    }

    /// The driver has GPUs.
    pub(super) const fn there(&self) -> bool {
        self.schedule.there()
    }

    /// The stream is gone, and with it the challenge.
    pub(super) fn lost_stream(&mut self) {
        if let Some(asking) = &mut self.asking {
            asking.unheard = true;
        }
    }

    fn remember(&self, boot_ns: u64) {
        let text = format!("{} {boot_ns}\n", hex::encode(self.boot_id));
        if let Err(error) = std::fs::write(&self.file, text) {
            warn!(file = %self.file.display(), %error, "not remembered: a restart asks GPUs again");
        }
    }
}

/// How long ago GPUs were asked in this boot.
fn asked(file: &std::path::Path, boot_id: [u8; 16]) -> Option<std::time::Duration> {
    let text = String::from_utf8(read_bounded(file, 128).ok()?).ok()?;
    let (boot, at) = text.trim_end().split_once(' ')?;
    if boot != hex::encode(boot_id) {
        return None;
    }
    let ago = clock::boot_time_ns().checked_sub(at.parse().ok()?)?;
    Some(std::time::Duration::from_nanos(ago))
}

impl Node {
    /// Takes what the driver says; answers the claim that reports are missing, where they are.
    pub(super) fn notice_gpus(&mut self, claims: &[Claim]) -> Option<Claim> {
        if self.gpus.schedule.notice(claims) {
            self.oq.changed();
            if self.facts.gpu.take().is_some() {
                info!("the driver says something else: what GPUs said before counts no more");
                self.gpus.why = "the driver has changed since they were asked";
            }
        }
        let missing = self.gpus.schedule.there() && self.facts.gpu.is_none();
        missing.then(|| unavailable(MISSING, "nvml", self.gpus.why))
    }

    /// Asks GPUs with a nonce of this challenge, if it is time. True: the statement waits.
    pub(super) fn ask_gpus(&mut self, source: Source) -> bool {
        let now = Instant::now();
        let (Source::Challenge(challenge), true) = (source, self.gpus.schedule.due(now)) else {
            return false;
        };
        if self.oq.waits() {
            // Not beside other work: the next statement brings them.
            return false;
        }
        let Ok(program) = std::env::current_exe() else {
            return false;
        };
        self.gpus.schedule.asking(now);
        let asked_boot_ns = clock::boot_time_ns();
        self.gpus.remember(asked_boot_ns);
        let nonce = gpu_nonce(&challenge, &self.signer.name());
        let host = self.config.host.clone();
        info!("asking GPUs for reports");
        let child = tokio::spawn(async move {
            let (nvml, nscq) = (host.nvml.as_deref(), host.nscq.as_deref());
            gpu::ask_all(program, nvml, nscq, nonce, gpu::PATIENCE).await
        });
        self.gpus.asking = Some(Asking {
            child,
            challenge,
            asked_boot_ns,
            unheard: false,
        });
        true
    }

    /// Takes what came of it; the statement that waited is made.
    pub(super) async fn gpus_answered(&mut self, collected: Collected) -> Result<(), UplinkError> {
        let Some(asking) = self.gpus.asking.take() else {
            return Ok(());
        };
        match &collected.stopped {
            Some(why) => warn!(
                why,
                reports = collected.evidence.len(),
                "not all GPUs gave a report; they are not asked again for it"
            ),
            None => info!(reports = collected.evidence.len(), "GPUs asked"),
        }
        let cited = gpu::cited(&collected, &asking.challenge, asking.asked_boot_ns);
        self.facts.gpu = Some(cited);
        self.gpus.heard = false;
        self.facts.claims.retain(|claim| claim.name != MISSING);
        if asking.unheard || self.session.is_none() {
            // Nobody takes an answer to that challenge any more.
            self.gpus.schedule.unheard();
            return Ok(());
        }
        self.make(Source::Challenge(asking.challenge)).await
    }

    /// A statement was accepted.
    pub(super) fn gpus_heard(&mut self) {
        self.gpus.heard = true;
    }

    /// A statement was not taken. If it was the one that brought the reports, nobody knows what
    /// challenge they answer: they are asked once more, in its time.
    pub(super) fn gpus_unheard(&mut self) {
        if !self.gpus.heard {
            self.gpus.heard = true;
            self.gpus.schedule.unheard();
        }
    }
}

/// What the child said; never, where none was asked.
pub(super) async fn answered(gpus: &mut Gpus) -> Collected {
    match &mut gpus.asking {
        Some(asking) => match (&mut asking.child).await {
            Ok(collected) => collected,
            Err(error) => Collected::nothing(&error.to_string()),
        },
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_remembers_when_gpus_were_asked_in_this_boot() {
        let dir = tempfile::tempdir().unwrap();
        let gpus = |boot_id| Gpus {
            schedule: Schedule::new(std::time::Duration::from_secs(3600), None),
            asking: None,
            file: dir.path().join("gpus-asked"),
            boot_id,
            why: "",
            heard: true,
        };
        let file = dir.path().join("gpus-asked");
        assert_eq!(asked(&file, [1; 16]), None, "never");
        gpus([1; 16]).remember(clock::boot_time_ns().saturating_sub(5_000_000_000));
        let ago = asked(&file, [1; 16]).unwrap().as_secs();
        assert!((5..60).contains(&ago), "{ago}");
        assert_eq!(asked(&file, [2; 16]), None, "another boot");
        for text in [
            "",
            "01",
            "not a boot",
            &format!("{} x", hex::encode([1; 16])),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(asked(&file, [1; 16]), None, "{text:?}");
        }
    }
}
