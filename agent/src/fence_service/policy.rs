//! What approvers signed takes effect: policy, approvers and world map; and what the TPM remembers
//! of them.

use std::{fs, path::Path};

use bailiwick_attestation::proto::v1::{FenceState, PolicyBundle};
use bailiwick_policy::{
    bundle::{Bundle, SettledPolicy, Verified, VerifiedBundle},
    kind::Kind,
    model::LeaseKey,
};
use prost::Message;
use tracing::{error, info, warn};

use super::{Core, CoreError, Enforcer};
use crate::{
    clock,
    files::{sync_folder, write_atomically},
    floor::Floor,
    proto::fence::{self, ApplyPolicy, Done, response::Response as Answer},
};

impl<E: Enforcer> Core<E> {
    /// Enforces a policy that was accepted before; false if there is none.
    pub(super) fn restore(
        &mut self,
        kept: Result<Option<Verified>, CoreError>,
    ) -> Result<bool, CoreError> {
        let Some(Verified::Policy(verified)) = kept? else {
            return Ok(false);
        };
        // Before the policy that numbers their studies, so that none is missing meanwhile.
        self.set_peers(Some(&verified.model))?;
        self.enforce(*verified)?;
        Ok(true)
    }

    pub(super) fn apply(&mut self, apply: ApplyPolicy) -> Result<Answer, CoreError> {
        let kind = Kind::parse(&apply.kind).ok_or(CoreError::Request(
            "ApplyPolicy.kind is none that this agent knows",
        ))?;
        let (message, now) = (apply.bundle.unwrap_or_default(), clock::now());
        if kind == Kind::Approvers {
            self.manifests.take_approvers(message, now)?;
            return Ok(Answer::Done(Done {}));
        }
        // Whoever signed by an older set may have been thrown out since.
        if let Some(why) = self.floor.approvers_fault(self.manifests.approvers()) {
            return Err(CoreError::RolledBack(why));
        }
        if kind == Kind::Policy {
            return self.apply_policy(message);
        }
        let bundle = Bundle::from(message.clone());
        let newest = self.manifests.newest(kind);
        let verified = self.manifests.judge(kind, &bundle, newest, None, now)?;
        if let Verified::World(world) = &verified
            && let Some(message) = self.manifests.read(Kind::Policy)?
        {
            let policy = Bundle::from(message);
            if self.policy.is_some() && !carries_world(&policy) {
                let content = Some(&world.content);
                let again = self
                    .manifests
                    .settled(Kind::Policy, &policy, content, now)?;
                self.restore(Ok(Some(again)))?;
            }
        }
        let used = matches!(verified, Verified::BreakGlass(_)).then(|| message.clone());
        self.manifests.take(message, &verified)?;
        if let Some(bundle) = used {
            self.offered_glass(bundle)?;
        }
        Ok(Answer::Done(Done {}))
    }

    fn apply_policy(&mut self, message: PolicyBundle) -> Result<Answer, CoreError> {
        let bytes = message.encode_to_vec();
        let now = clock::now();
        let current = self.policy.as_ref().map(SettledPolicy::in_force);
        let current = self.floor.policy_after(current);
        let bundle = Bundle::from(message);
        let world = match carries_world(&bundle) {
            true => None,
            false => self.manifests.world(now)?,
        };
        let judged = self
            .manifests
            .judge(Kind::Policy, &bundle, current, world.as_ref(), now)?;
        let Verified::Policy(verified) = judged else {
            return Ok(Answer::Done(Done {}));
        };
        // On disk first, under its final name only once the kernel has it: a policy that cannot
        // be loaded must not greet the next start.
        let file = self.manifests.file(Kind::Policy);
        let next = file.with_extension("next");
        let keep = |file: &Path, source| CoreError::Keep {
            file: file.to_owned(),
            source,
        };
        write_atomically(&next, &bytes).map_err(|err| keep(&next, err))?;
        let first = self.policy.is_none();
        self.enforce(*verified)?;
        fs::rename(&next, &file)
            .and_then(|()| file.parent().map_or(Ok(()), sync_folder))
            .map_err(|err| keep(&file, err))?;
        // What counted under the old inventory may not under the new one.
        self.set_peers(None)?;
        if first
            && let Some(bundle) = self.manifests.read(Kind::BreakGlass)?
            && let Err(why) = self.offered_glass(bundle)
        {
            // The policy is in force all the same.
            warn!(code = why.code(), %why, "break-glass kept, not used");
        }
        Ok(Answer::Done(Done {}))
    }

    /// Takes what the TPM remembers. A disk that lies behind it costs the lease at once.
    pub(super) fn set_floor(&mut self, message: &fence::Floor) -> Result<Answer, CoreError> {
        let told = Floor::read(message).ok_or(CoreError::Request(
            "Floor.manifest_digest must have 32 bytes",
        ))?;
        let before = self.behind();
        self.floor = self.floor.raised(told);
        if let Some(why) = self.behind() {
            if before.is_none() {
                error!(why, "no lease until that is put right");
            }
            self.lease = None;
            self.enforcer
                .set_lease_end(0)
                .map_err(|err| CoreError::Enforce(Box::new(err)))?;
        }
        Ok(Answer::Done(Done {}))
    }

    /// Why what is in force must not be, by what the TPM remembers.
    pub(super) fn behind(&self) -> Option<String> {
        let policy = self.policy.as_ref();
        let policy = policy.and_then(|policy| self.floor.policy_fault(policy.in_force()));
        policy.or_else(|| self.floor.approvers_fault(self.manifests.approvers()))
    }

    /// Past its `not_after` a policy admits no new study.
    pub(super) fn follow_clock(&mut self) {
        let Some(policy) = &self.policy else {
            return;
        };
        let expired = clock::now() > policy.manifest.not_after;
        if expired != self.expired {
            if expired {
                error!(
                    not_after = policy.manifest.not_after.secs(),
                    "the policy in force has expired: established studies go on, no new one starts"
                );
            } else {
                info!("the policy in force is valid again");
            }
        }
        self.expired = expired;
        self.enforcer.admit(!expired);
    }

    pub(super) fn fence_state(&mut self) -> FenceState {
        let mut fence = self.enforcer.state();
        let behind = self.policy.as_ref();
        let behind = behind.and_then(|policy| self.floor.policy_fault(policy.in_force()));
        let own = fence.fault.take().into_iter();
        let all: Vec<String> = own
            .chain(behind)
            .chain(self.manifests.faults(&self.floor))
            .collect();
        fence.fault = (!all.is_empty()).then(|| all.join("; "));
        fence
            .counters
            .insert("policy.expired".to_owned(), u64::from(self.expired));
        fence
    }

    fn enforce(&mut self, verified: VerifiedBundle) -> Result<(), CoreError> {
        self.enforcer.admit(!verified.expired);
        self.enforcer.apply_policy(&verified).map_err(|err| {
            if E::held_back(&err) {
                CoreError::Unmeasured(Box::new(err))
            } else {
                CoreError::Enforce(Box::new(err))
            }
        })?;
        self.held_back = false;
        info!(
            version = verified.manifest.version,
            manifest = %verified.manifest.digest,
            studies = verified.model.studies.len(),
            signers = verified.signers.len(),
            "policy in force"
        );
        if verified.expired {
            warn!("the policy in force is past its not_after: no new study starts");
        }
        self.expired = verified.expired;
        self.policy = Some(verified.settle());
        self.end_revoked_lease()
    }

    /// A lease by a key that is revoked is nobody's word any more: it ends here and now, not with
    /// its time. The next statement earns one under another key.
    fn end_revoked_lease(&mut self) -> Result<(), CoreError> {
        let keys = self
            .policy
            .as_ref()
            .map(|policy| &policy.model.collector.lease_keys);
        let (Some(held), Some(keys)) = (&self.lease, keys) else {
            return Ok(());
        };
        if !revoked(&held.key, keys) {
            return Ok(());
        }
        warn!(
            key = held.key,
            "the lease in force was signed by a key that is revoked: it ends"
        );
        // A lease signed by another key may answer the same statement.
        self.lease = None;
        self.enforcer
            .set_lease_end(0)
            .map_err(|err| CoreError::Enforce(Box::new(err)))
    }
}

/// Whether approvers took this key back. One that merely left the list was rotated out: what it
/// signed runs to its end.
fn revoked(id: &str, keys: &[LeaseKey]) -> bool {
    keys.iter()
        .any(|key| key.id == id && key.term.revoked.is_some())
}

pub(super) fn carries_world(bundle: &Bundle) -> bool {
    bundle.files.iter().any(|(path, _)| Kind::World.holds(path))
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::{Term, UnixTime};

    use super::*;

    #[test]
    fn a_lease_ends_with_the_revocation_of_its_key_and_not_with_its_rotation() {
        let key = |id: &str, revoked| LeaseKey {
            id: id.to_owned(),
            ed25519: [0; 32],
            term: Term {
                // Past its time it signs no more; what it signed goes on.
                not_after: Some(UnixTime(1)),
                revoked,
                ..Term::default()
            },
        };
        let gone = Some(UnixTime(7));
        let rows = [
            ("listed", vec![key("a", None)], false),
            ("rotated out", vec![key("b", None)], false),
            ("no key is listed", vec![], false),
            (
                "another is revoked",
                vec![key("a", None), key("b", gone)],
                false,
            ),
            ("revoked", vec![key("b", None), key("a", gone)], true),
        ];
        for (name, keys, want) in rows {
            assert_eq!(revoked("a", &keys), want, "{name}");
        }
    }
}
