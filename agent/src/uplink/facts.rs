//! What the host and the fence process say, kept up to date.

use std::collections::BTreeMap;

use bailiwick_attestation::{
    Sha256Digest, Term,
    proto::v1::{FenceState, Hello, fence_state::Mode},
    tlog::{LogKey, NoteVerifier},
};
use tracing::{error, warn};

use super::{CHANGE, Node, OUT_OF_REACH, UplinkError, events::BATCH, link};
use crate::{
    attest::change_digest,
    clock,
    proto::fence::{NextEvents, State},
    seal::entry,
    tls,
};

impl Node {
    pub(super) async fn read_facts(&mut self) {
        let host = self.host.clone();
        let files = tokio::task::spawn_blocking(move || host.file_claims()).await;
        let mut claims = files.unwrap_or_default();
        claims.extend(self.nvml.borrow_and_update().iter().cloned());
        claims.push(self.memory.claim());
        claims.extend(self.uplinks.look(std::time::Instant::now()));
        let nvml = self.nvml.borrow().clone();
        claims.extend(self.notice_gpus(&nvml));
        self.try_gpus();
        claims.extend_from_slice(self.oq.claims());
        self.facts.claims = claims;
        self.note_changes();
    }

    pub(super) async fn poll_fence(&mut self) -> Result<(), UplinkError> {
        match self.fence.state().await {
            Ok(mut state) => {
                self.fence_reachable = true;
                self.keep_floor(&state).await;
                let stores = std::mem::take(&mut state.key_stores);
                let erasure = state.erasure.take();
                self.fence_state(state);
                self.note_turns()?;
                self.wrap_keys(&stores)?;
                self.pull_events().await?;
                // After the events: what happened before is forgotten, too.
                if let Some(erasure) = erasure {
                    self.erase_keys(&erasure).await?;
                }
            }
            Err(why) => {
                if self.fence_reachable {
                    error!(why = %link::chain(&why), "the fence process is out of reach");
                }
                self.fence_reachable = false;
                self.facts.fence = FenceState {
                    mode: Mode::Unspecified.into(),
                    root: self.config.fence.root.display().to_string(),
                    whole_host: self.config.fence.whole_host,
                    fault: Some(format!(
                        "the fence process is out of reach: {}",
                        link::chain(&why)
                    )),
                    ..FenceState::default()
                };
                self.facts.policy = None;
            }
        }
        self.note_changes();
        self.say();
        Ok(())
    }

    fn fence_state(&mut self, state: State) {
        let mut logs: BTreeMap<String, (Vec<LogKey>, u64)> = BTreeMap::new();
        for log in &state.logs {
            let Ok(verifier) = NoteVerifier::parse(&log.vkey) else {
                continue;
            };
            let term = log.term.map(Term::from).unwrap_or_default();
            let seen = self.logs.get(&log.origin).map_or(0, |(_, seen)| *seen);
            let known = logs.entry(log.origin.clone());
            let (keys, _) = known.or_insert_with(|| (Vec::new(), seen));
            keys.push(LogKey { verifier, term });
        }
        // Another key may cover what waits for a receipt.
        let other = |(origin, (keys, _)): (&String, &(Vec<LogKey>, u64))| {
            self.logs.get(origin).is_none_or(|(had, _)| had != keys)
        };
        let changed = logs.iter().any(other);
        self.logs = logs;
        if changed {
            self.exchange.ask_for_receipts();
        }
        let authorities = tls::listed(&state.cas);
        self.authorities.send_if_modified(|known| {
            let changed = *known != authorities;
            *known = authorities;
            changed
        });
        self.hello.send_if_modified(|hello| {
            let policy = state.policy.clone().unwrap_or_default();
            let new = Hello {
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                policy_version: policy.version,
                manifest_digest: policy.manifest_digest,
                held: state.held.clone(),
            };
            let changed = *hello != new;
            *hello = new;
            changed
        });
        self.facts.fence = state.fence.unwrap_or_default();
        self.facts.policy = state.policy;
        self.facts.approvers = Sha256Digest::from_slice(&state.approvers_digest);
        self.facts_held = state.held;
    }

    fn note_turns(&mut self) -> Result<(), UplinkError> {
        if !self.attester.log_begun() {
            return Ok(());
        }
        for what in self.turned.note(&self.facts, clock::boot_time_ns()) {
            self.attester.note(what)?;
        }
        Ok(())
    }

    async fn pull_events(&mut self) -> Result<(), UplinkError> {
        if !self.attester.log_begun() {
            // Its first entry names what the collector holds. The fence keeps events meanwhile,
            // for as long as it takes to know that the collector is out of reach.
            if self.started.elapsed() < OUT_OF_REACH {
                return Ok(());
            }
            self.attester
                .begin_epoch("lost, and the collector out of reach")?;
        }
        loop {
            let next = NextEvents {
                instance: self.events_kept.0.clone(),
                acknowledged: self.events_kept.1,
                max: BATCH,
            };
            let pulled = match self.fence.next_events(next).await {
                Ok(pulled) => pulled,
                Err(why) => {
                    warn!(why = %link::chain(&why), "fence events not read");
                    return Ok(());
                }
            };
            if pulled.lost > 0 {
                self.attester.lost_events(pulled.lost)?;
            }
            let count = u64::try_from(pulled.events.len()).unwrap_or(u64::MAX);
            self.events_kept = (pulled.instance, pulled.first.saturating_add(count));
            if count == 0 {
                return Ok(());
            }
            let entries = match &mut self.sealer {
                Some(sealer) => sealer.entries(&pulled.events),
                // Without keys the private half is given up, and never written in the clear.
                None => pulled.events.iter().map(|e| entry(e, None)).collect(),
            };
            if !self.attester.record(&entries)?
                && let Some(sealer) = &mut self.sealer
            {
                sealer.not_told(&entries);
            }
            if count < BATCH.into() {
                // Acknowledged with the next question.
                return Ok(());
            }
        }
    }

    fn note_changes(&mut self) {
        let settled = self
            .last_made
            .is_some_and(|at| at.elapsed() >= CHANGE && self.last_change.is_some());
        if settled && self.last_change != Some(change_digest(&self.facts)) {
            self.exchange.want();
        }
    }
}
