//! Follows what approvers signed: every erasure takes effect, once.

use std::sync::Arc;
use std::time::Duration;

use bailiwick_attestation::DeploymentId;
use bailiwick_attestation::proto::v1;
use bailiwick_policy::bundle::{Bundle, Verified};
use bailiwick_policy::kind::Kind;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{EraseError, Keys};
use crate::clock;
use crate::direct::Director;
use crate::ingest::error_chain;
use crate::record::Store;

/// What could not be destroyed is tried again after this.
const AGAIN: Duration = Duration::from_secs(30);

/// Compares what was signed with what was destroyed: at the start, whenever a manifest comes, and
/// now and then.
#[derive(Debug)]
pub struct Erasures {
    /// Who knows the approvers.
    pub director: Arc<Director>,
    /// Where manifests are, and certificates go.
    pub store: Store,
    /// What is destroyed.
    pub keys: Keys,
    /// The installation.
    pub deployment: DeploymentId,
}

impl Erasures {
    /// Runs until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut manifests = self.director.watch();
        loop {
            manifests.mark_unchanged();
            if let Err(why) = self.settle().await {
                error!(error = %error_chain(&why), "an erasure did not take effect yet");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = manifests.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Applies what is not applied. A manifest of older approvers counts by the set it was
    /// accepted under; one that verifies under none is passed over.
    pub async fn settle(&self) -> Result<(), EraseError> {
        let chain = self.director.chain().await;
        for row in self.store.manifest_list(Kind::Erasure).await? {
            let Ok(message) = v1::PolicyBundle::decode(row.bundle.as_slice()) else {
                continue;
            };
            let (bundle, now) = (Bundle::from(message), clock::now());
            let settled = chain.settled(Kind::Erasure, &bundle, &self.deployment, None, now);
            let Ok(Verified::Erasure(signed)) = settled else {
                error!(version = row.version, "a stored erasure does not verify");
                continue;
            };
            self.keys
                .erase(&self.store, &signed.content, signed.manifest.digest, now)
                .await?;
        }
        Ok(())
    }
}
