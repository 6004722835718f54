//! The TPM remembers how new policy and approvers have been; the fence is told, and the TPM is told
//! what is newer.

use bailiwick_attestation::{
    Sha256Digest,
    proto::v1::{Claim, Held, claim::Value},
};
use bailiwick_policy::{bundle::InForce, kind::Kind};
use tracing::{error, warn};

use super::{Node, link};
use crate::{
    attest::unavailable,
    floor::{Floor, RECORD},
    proto::fence::State,
    tpm::{Tpm, nv},
};

const CLAIM: &str = "manifest.floor";

const NO_TPM: &str =
    "there is no TPM to remember it: a disk restored from a backup is not noticed here";

/// What is known of the TPM's memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// As last read or written.
    floor: Floor,
    /// Why it is not, said once.
    trouble: Option<String>,
}

impl Memory {
    /// Reads what the TPM remembers of this deployment.
    /// Without a TPM nothing is remembered beside the fence's own files, and the claim says so.
    pub(super) async fn read(
        tpm: Option<&Tpm>,
        deployment: &bailiwick_attestation::DeploymentId,
    ) -> Self {
        let Some(tpm) = tpm else {
            return Self {
                floor: Floor::default(),
                trouble: Some(NO_TPM.to_owned()),
            };
        };
        match tpm.remembered(RECORD).await {
            Ok(None) => Self::default(),
            Ok(Some(record)) => match Floor::of_record(&record, deployment) {
                Some(floor) => Self {
                    floor,
                    trouble: None,
                },
                None => Self::troubled("the NV index holds something else"),
            },
            Err(why) => Self::troubled(&link::chain(&why)),
        }
    }

    fn troubled(why: &str) -> Self {
        error!(
            why,
            "the TPM does not say how new the policy has been: a disk restored from a backup \
             would not be noticed"
        );
        Self {
            floor: Floor::default(),
            trouble: Some(why.to_owned()),
        }
    }

    /// For the fence.
    pub(super) fn told(&self) -> crate::proto::fence::Floor {
        self.floor.message()
    }

    /// For statements.
    pub(super) fn claim(&self) -> Claim {
        let source = format!("TPM NV index {:#010x}", nv::INDEX);
        if let Some(why) = &self.trouble {
            return unavailable(CLAIM, &source, why);
        }
        let version = |newest: Option<InForce>| newest.map_or(0, |newest| newest.version);
        let text = format!(
            "policy {}, approvers {}",
            version(self.floor.policy),
            version(self.floor.approvers)
        );
        Claim {
            name: CLAIM.to_owned(),
            source,
            value: Some(Value::Text(text)),
        }
    }
}

impl Node {
    /// Raises the TPM's memory to what is in force, and tells the fence what it holds.
    pub(super) async fn keep_floor(&mut self, state: &State) {
        let Some(tpm) = self.signer.tpm() else {
            return;
        };
        let raised = self.memory.floor.raised(in_force(state));
        if raised != self.memory.floor {
            let record = raised.record(&self.config.deployment);
            match tpm.remember(record).await {
                Ok(()) => {
                    self.memory = Memory {
                        floor: raised,
                        trouble: None,
                    };
                }
                Err(why) => {
                    let why = link::chain(&why);
                    if self.memory.trouble.as_ref() != Some(&why) {
                        error!(why, "the TPM does not remember how new the policy is");
                    }
                    self.memory.trouble = Some(why);
                }
            }
        }
        let told = self.memory.told();
        if self.memory.floor != Floor::default()
            && state.floor.as_ref() != Some(&told)
            && let Err(why) = self.fence.set_floor(told).await
        {
            warn!(why = %link::chain(&why), "the fence does not know what the TPM remembers");
        }
    }
}

/// What the fence has in force. Approvers of the machine's configuration are version 0, and need no
/// memory.
fn in_force(state: &State) -> Floor {
    let approvers = state.held.iter().find(|held| is_approvers(held));
    let newest = |version, digest: &[u8]| {
        Some(InForce {
            version,
            manifest_digest: Sha256Digest::from_slice(digest)?,
        })
    };
    Floor {
        policy: state
            .policy
            .as_ref()
            .and_then(|policy| newest(policy.version, &policy.manifest_digest)),
        approvers: approvers.and_then(|held| newest(held.version, &held.manifest_digest)),
    }
}

fn is_approvers(held: &Held) -> bool {
    held.kind == Kind::Approvers.as_str()
}
