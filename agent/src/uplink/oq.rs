//! Qualification of GPUs in the node's loop: a child of its own, when nobody uses them, and claims that
//! go with the next statement.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bailiwick_attestation::proto::v1::{Claim, FenceState};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::Node;
use crate::{
    clock,
    collect::oq::{self, Answer, Bounds, Judged, Verdict},
    config::Config,
};

/// After a try that nobody could make anything of, for instance because GPUs were in use.
const AGAIN: Duration = Duration::from_secs(600);

/// What the loop knows of it.
#[derive(Debug)]
pub(super) struct Oq {
    enabled: bool,
    bounds: Bounds,
    every: Duration,
    trying: Option<JoinHandle<(Answer, Vec<u8>)>>,
    /// The driver said something else since the child was started: what it finds is of before.
    overtaken: bool,
    /// When it is to be tried next; `None`: at once.
    next: Option<Instant>,
    /// What statements say.
    claims: Vec<Claim>,
}

impl Oq {
    pub(super) fn open(config: &Config) -> Self {
        let section = &config.oq;
        let claims = match section.enabled {
            true => oq::not_run("not tried yet"),
            false => Vec::new(),
        };
        Self {
            enabled: section.enabled,
            bounds: Bounds {
                nvml: config.host.nvml.clone(),
                cuda: section.cuda.clone(),
                memory: section.memory_mib << 20,
                time: Duration::from_secs(section.seconds),
            },
            every: Duration::from_secs(section.interval_s),
            trying: None,
            overtaken: false,
            next: None,
            claims,
        }
    }

    /// A child is at it: nothing else is asked of GPUs meanwhile.
    pub(super) const fn waits(&self) -> bool {
        self.trying.is_some()
    }

    /// For statements.
    pub(super) fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// What GPUs are is no longer what was tried.
    pub(super) fn changed(&mut self) {
        if self.enabled {
            self.overtaken = self.trying.is_some();
            self.next = None;
            self.claims = oq::not_run("the driver has changed since they were tried");
        }
    }

    /// It is to be tried now.
    fn due(&self, now: Instant) -> bool {
        self.enabled && self.trying.is_none() && self.next.is_none_or(|next| now >= next)
    }

    /// Takes what came of it.
    fn tried(&mut self, judged: &Judged, claims: Vec<Claim>, now: Instant) {
        self.trying = None;
        if std::mem::take(&mut self.overtaken) {
            return;
        }
        let pause = match judged.verdict {
            Verdict::Passed | Verdict::Failed => self.every,
            Verdict::NotRun => AGAIN.min(self.every),
        };
        self.next = Some(now + pause);
        self.claims = claims;
    }

    /// Nothing was tried, and it will be as soon as this is over.
    fn hindered(&mut self, why: &str) {
        // A verdict on these very GPUs stands until there is another.
        if self.next.is_none() {
            self.claims = oq::not_run(why);
        }
    }
}

/// Who holds a GPU as the fence sees it, or why that is not known. `reached`: it has said so.
fn held(fence: &FenceState, reached: bool) -> Option<String> {
    if !reached || fence.fault.is_some() {
        return Some("the fence cannot say who holds GPUs".to_owned());
    }
    if fence.devices_unseen {
        return Some("the fence could not see everybody who may hold a GPU".to_owned());
    }
    let gpus = fence.devices.iter();
    let mut gpus = gpus.filter(|device| device.device.starts_with("gpu"));
    gpus.find_map(|device| {
        let holder = device.holders.iter().find(|holder| holder.processes > 0)?;
        let who = match holder.subject.as_str() {
            "" => "somebody",
            subject => subject,
        };
        Some(format!("{who} holds {}", device.device))
    })
}

impl Node {
    /// Tries GPUs, if it is time, nobody holds them, and nothing else is being asked of them.
    pub(super) fn try_gpus(&mut self) {
        let now = Instant::now();
        if !self.oq.due(now) || !self.gpus.there() || self.gpus.waits() {
            return;
        }
        if let Some(why) = held(&self.facts.fence, self.fence_reachable) {
            self.oq.hindered(&why);
            return;
        }
        let Ok(program) = std::env::current_exe() else {
            return;
        };
        info!("trying GPUs");
        self.oq.trying = Some(tokio::spawn(ask(program, self.oq.bounds.clone())));
    }

    /// Takes what came of it.
    pub(super) async fn gpus_tried(&mut self, (answer, bytes): (Answer, Vec<u8>)) {
        let baselines = &self.config.oq.baselines;
        let judged = oq::judge(&answer, baselines);
        let reason = judged.reason.as_deref().unwrap_or_default();
        match judged.verdict {
            Verdict::Failed => warn!(reason, "GPUs failed what they were tried with"),
            verdict => info!(verdict = verdict.name(), reason, "GPUs tried"),
        }
        let claims = oq::claims(&judged, &answer, baselines, &bytes, clock::boot_time_ns());
        self.oq.tried(&judged, claims, Instant::now());
        self.read_facts().await;
    }
}

async fn ask(program: PathBuf, bounds: Bounds) -> (Answer, Vec<u8>) {
    oq::ask(program, &bounds, bounds.time + oq::WAKING).await
}

/// What the child said; never, where there is none.
pub(super) async fn tried(oq: &mut Oq) -> (Answer, Vec<u8>) {
    match &mut oq.trying {
        Some(child) => match child.await {
            Ok(said) => said,
            Err(error) => (Answer::nothing(&error.to_string()), Vec::new()),
        },
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::proto::v1::{
        claim::Value,
        fence_state::{DeviceHolder, HeldDevice},
    };

    use super::*;

    fn oq() -> Oq {
        Oq {
            enabled: true,
            bounds: Bounds {
                nvml: None,
                cuda: None,
                memory: 0,
                time: Duration::ZERO,
            },
            every: AGAIN * 10,
            trying: None,
            overtaken: false,
            next: None,
            claims: oq::not_run("not tried yet"),
        }
    }

    fn verdict(oq: &Oq) -> String {
        let claim = oq.claims().iter().find(|claim| claim.name == "oq.verdict");
        match claim.and_then(|claim| claim.value.clone()) {
            Some(Value::Text(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn judged(verdict: Verdict) -> (Judged, Vec<Claim>) {
        let judged = Judged {
            verdict,
            reason: None,
            gpus: vec![verdict],
        };
        let claims = oq::claims(&judged, &Answer::nothing(""), &[], b"{}", 0);
        (judged, claims)
    }

    #[test]
    fn they_are_tried_at_first_after_a_change_and_in_their_time() {
        let start = Instant::now();
        let mut oq = oq();
        assert!(oq.due(start));
        let (all, claims) = judged(Verdict::Passed);
        oq.tried(&all, claims, start);
        assert_eq!(verdict(&oq), "passed");
        assert!(!oq.due(start + AGAIN));
        assert!(oq.due(start + AGAIN * 10));
        oq.hindered("a study holds it");
        assert_eq!(verdict(&oq), "passed", "of these very GPUs, a while ago");
        oq.changed();
        assert_eq!(verdict(&oq), "not-run", "what passed is no more");
        assert!(oq.due(start));
        oq.hindered("a study holds it");
        let (none, claims) = judged(Verdict::NotRun);
        oq.tried(&none, claims, start);
        assert!(oq.due(start + AGAIN), "sooner, where nothing came of it");
    }

    #[tokio::test]
    async fn what_a_change_overtook_is_not_taken() {
        let mut oq = oq();
        oq.trying = Some(tokio::spawn(async { (Answer::nothing(""), Vec::new()) }));
        oq.changed();
        let (all, claims) = judged(Verdict::Passed);
        let now = Instant::now();
        oq.tried(&all, claims, now);
        assert_eq!(verdict(&oq), "not-run");
        assert!(oq.due(now), "and they are tried again");
        oq.enabled = false;
        assert!(!oq.due(now), "unless nobody asks for it");
    }

    #[test]
    fn whoever_holds_a_gpu_is_left_alone() {
        let device = |device: &str, holders: &[(&str, u32)]| HeldDevice {
            device: device.to_owned(),
            holders: holders
                .iter()
                .map(|(subject, processes)| DeviceHolder {
                    subject: (*subject).to_owned(),
                    processes: *processes,
                    ..DeviceHolder::default()
                })
                .collect(),
            ..HeldDevice::default()
        };
        let state = |devices| FenceState {
            devices,
            ..FenceState::default()
        };
        let unseen = FenceState {
            devices_unseen: true,
            ..FenceState::default()
        };
        let mute = FenceState {
            fault: Some("out of reach".to_owned()),
            ..FenceState::default()
        };
        let rows = [
            ("nobody", state(vec![device("gpu 195:0", &[])]), None),
            (
                "a network card",
                state(vec![device("uverbs 231:192", &[("a", 1)])]),
                None,
            ),
            (
                "a study",
                state(vec![device("gpu 195:1", &[("trial-7", 2)])]),
                Some("trial-7 holds gpu 195:1"),
            ),
            (
                "a study that ended",
                state(vec![device("gpu 195:1", &[("trial-7", 0)])]),
                None,
            ),
            (
                "a study after one that ended",
                state(vec![device("gpu 195:1", &[("trial-7", 0), ("neuro", 1)])]),
                Some("neuro holds gpu 195:1"),
            ),
            (
                "a stranger",
                state(vec![device("gpu 195:1", &[("", 1)])]),
                Some("somebody holds gpu 195:1"),
            ),
            ("who is not seen", unseen, Some("could not see everybody")),
            ("nobody to ask", mute, Some("cannot say")),
        ];
        let unheard = held(&FenceState::default(), false);
        assert!(
            unheard.is_some_and(|why| why.contains("cannot say")),
            "not heard yet"
        );
        for (name, state, want) in rows {
            let found = held(&state, true);
            match want {
                None => assert_eq!(found, None, "{name}"),
                Some(want) => assert!(
                    found.clone().unwrap_or_default().contains(want),
                    "{name}: {found:?}"
                ),
            }
        }
    }
}
