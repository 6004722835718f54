//! What approvers signed, on its way from the collector to the fence, which alone decides.

use std::path::Path;

use bailiwick_attestation::proto::v1::{FetchPolicyRequest, PolicyBundle, PolicyOffer};
use prost::Message;
use tonic::transport::Channel;
use tracing::{error, info, warn};

use super::{Node, UplinkError, link};
use crate::{
    ipc::{FenceClient, IpcError, MAX_FRAME},
    proto::{fence::ApplyPolicy, v1::evidence_service_client::EvidenceServiceClient},
};

/// Why an offered policy is not in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum PolicyFailed {
    /// The fence looked and refused: the same bytes would be refused again.
    #[error("{0}")]
    Refused(String),
    /// It did not arrive.
    #[error("fetch: {0}")]
    Fetch(String),
    /// The fence process could not be asked.
    #[error(transparent)]
    Fence(IpcError),
}

impl Node {
    /// Fetches and hands over in a task of its own: statements go on meanwhile.
    pub(super) fn fetch(&mut self, offer: &PolicyOffer) {
        let in_force = self.facts.policy.as_ref();
        if in_force.is_some_and(|policy| policy.manifest_digest == offer.manifest_digest) {
            return;
        }
        if self.fetching.is_some() {
            // The collector offers again on the next stream, or with the next policy.
            warn!(version = offer.version, "another policy is on its way");
            return;
        }
        let Some(session) = &self.session else {
            return;
        };
        info!(version = offer.version, "policy offered");
        let client = session.client.clone();
        let digest = offer.manifest_digest.clone();
        let socket = self.config.fence.socket.clone();
        self.fetching = Some(tokio::spawn(async move {
            let bundle = fetch(client, digest).await.map_err(PolicyFailed::Fetch)?;
            apply(&socket, bundle).await
        }));
    }

    pub(super) async fn policy_done(
        &mut self,
        outcome: Result<(), PolicyFailed>,
    ) -> Result<(), UplinkError> {
        match outcome {
            Ok(()) => info!("policy in force"),
            Err(PolicyFailed::Refused(why)) => error!(why, "policy refused"),
            Err(why @ (PolicyFailed::Fetch(_) | PolicyFailed::Fence(_))) => {
                warn!(why = %link::chain(&why), "policy not applied; it is offered again");
                self.give_up();
            }
        }
        self.poll_fence().await
    }
}

async fn fetch(
    mut client: EvidenceServiceClient<Channel>,
    manifest_digest: Vec<u8>,
) -> Result<PolicyBundle, String> {
    let request = FetchPolicyRequest { manifest_digest };
    let answer = client.fetch_policy(request).await;
    let mut chunks = answer
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks
        .message()
        .await
        .map_err(|status| status.message().to_owned())?
    {
        if bytes.len().saturating_add(chunk.data.len()) > MAX_FRAME {
            return Err(format!("the bundle exceeds {MAX_FRAME} bytes"));
        }
        bytes.extend_from_slice(&chunk.data);
    }
    PolicyBundle::decode(bytes.as_slice()).map_err(|err| format!("not a bundle: {err}"))
}

async fn apply(socket: &Path, bundle: PolicyBundle) -> Result<(), PolicyFailed> {
    let apply = ApplyPolicy {
        bundle: Some(bundle),
    };
    FenceClient::new(socket)
        .apply_policy(apply)
        .await
        .map_err(|why| match why {
            IpcError::Refused { code, detail } => {
                PolicyFailed::Refused(format!("{code}: {detail}"))
            }
            why => PolicyFailed::Fence(why),
        })
}
