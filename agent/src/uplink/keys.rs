//! Keys of what is sealed: for whom they are wrapped, and when they have to go.

use bailiwick_attestation::Sha256Digest;
use tracing::{error, info};

use super::{Node, UplinkError, link};
use crate::{
    proto::fence::state,
    seal::{Erasure, Sealer, Store},
};

impl Node {
    /// Gets at the keys, where that failed before.
    pub(super) async fn open_sealer(&mut self) {
        if self.sealer.is_some() {
            return;
        }
        let deployment = self.config.deployment.clone();
        let tpm = self.signer.tpm().cloned();
        match Sealer::open(tpm, deployment, &self.config.state_dir).await {
            Ok(sealer) => self.sealer = Some(sealer),
            Err(why) => {
                error!(why = %link::chain(&why), "private halves of events cannot be sealed");
            }
        }
    }

    /// Wraps for the key store of the policy in force what is not wrapped for it yet.
    pub(super) fn wrap_keys(&mut self, stores: &[state::KeyStore]) -> Result<(), UplinkError> {
        let Some(sealer) = &mut self.sealer else {
            return Ok(());
        };
        if !self.attester.log_begun() {
            return Ok(());
        }
        let entries = sealer.wrap_for(store(stores));
        if self.attester.record(&entries)? {
            sealer.wrapped();
        }
        Ok(())
    }

    /// Destroys the keys that approvers want gone, once.
    pub(super) async fn erase_keys(&mut self, erasure: &state::Erasure) -> Result<(), UplinkError> {
        let Some(sealer) = &mut self.sealer else {
            return Ok(());
        };
        if !self.attester.log_begun() {
            return Ok(());
        }
        match sealer.erase(erasure).await {
            Ok(Some(entry)) => {
                info!("an erasure took effect");
                self.attester.record(&[entry])?;
            }
            Ok(None) => {}
            // Tried again with the next look at the fence.
            Err(why) => error!(why = %link::chain(&why), "keys could not be destroyed"),
        }
        Ok(())
    }
}

/// The first one; a policy lists the newest first.
fn store(stores: &[state::KeyStore]) -> Option<Store> {
    let first = stores.first()?;
    Some(Store {
        id: first.id.clone(),
        p256: first.p256.as_slice().try_into().ok()?,
    })
}

impl Erasure for state::Erasure {
    fn manifest(&self) -> Sha256Digest {
        // Of another length it is no manifest's; the fence sends none such.
        Sha256Digest::from_slice(&self.manifest_digest).unwrap_or(Sha256Digest([0; 32]))
    }

    fn names(&self, study: &str, bucket: &str, retention: &str) -> bool {
        self.study == study
            && (self.buckets.is_empty() || self.buckets.iter().any(|b| b == bucket))
            && self.retention.as_ref().is_none_or(|r| r == retention)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_store_is_used() {
        let of = |id: &str, length: usize| state::KeyStore {
            id: id.to_owned(),
            p256: vec![4; length],
        };
        let found = store(&[of("new", 65), of("old", 65)]).unwrap();
        assert_eq!((found.id.as_str(), found.p256), ("new", [4; 65]));
        assert_eq!(store(&[]), None);
        assert_eq!(store(&[of("short", 64)]), None);
    }

    #[test]
    fn what_an_erasure_leaves_out_means_all() {
        let all = state::Erasure {
            manifest_digest: vec![7; 32],
            study: "cardio".to_owned(),
            buckets: Vec::new(),
            retention: None,
        };
        assert_eq!(all.manifest(), Sha256Digest([7; 32]));
        let some = state::Erasure {
            buckets: vec!["b-01".to_owned(), "b-02".to_owned()],
            retention: Some("default".to_owned()),
            ..all.clone()
        };
        let rows = [
            ("cardio", "b-01", "default", true, true),
            ("cardio", "b-02", "default", true, true),
            ("cardio", "b-03", "default", true, false),
            ("cardio", "b-01", "trial", true, false),
            ("neuro", "b-01", "default", false, false),
        ];
        for (study, bucket, retention, by_all, by_some) in rows {
            let row = format!("{study} {bucket} {retention}");
            assert_eq!(all.names(study, bucket, retention), by_all, "{row}");
            assert_eq!(some.names(study, bucket, retention), by_some, "{row}");
        }
    }
}
