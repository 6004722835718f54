//! What approvers signed, on its way from the collector to the fence, which alone decides.

use std::path::Path;

use bailiwick_attestation::proto::v1::{FetchPolicyRequest, Held, PolicyBundle, PolicyOffer};
use bailiwick_policy::kind::Kind;
use prost::Message;
use tonic::transport::Channel;
use tracing::{error, info, warn};

use super::{Node, UplinkError, link};
use crate::{
    ipc::{FenceClient, IpcError, MAX_FRAME},
    proto::{
        fence::{ApplyPolicy, Floor},
        v1::evidence_service_client::EvidenceServiceClient,
    },
};

/// Why an offered manifest is not in force.
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

/// What was offered and not fetched yet: the newest of each kind, so it is bounded. In the order of
/// [`Kind::ALL`], for each may need what comes before it.
#[derive(Debug, Default)]
pub(super) struct Offers(Vec<(Kind, PolicyOffer)>);

impl Offers {
    /// Notes an offer, unless it is held already; a later one of a kind takes the place.
    fn note(&mut self, offer: PolicyOffer, held: &[Held]) {
        let Some(kind) = Kind::parse(&offer.kind) else {
            return warn!(kind = offer.kind, "offered a kind newer than this agent");
        };
        self.0.retain(|(noted, _)| *noted != kind);
        let known = |held: &Held| {
            Kind::parse(&held.kind) == Some(kind) && held.manifest_digest == offer.manifest_digest
        };
        if !held.iter().any(known) {
            self.0.push((kind, offer));
        }
    }

    /// The one to fetch first.
    fn take(&mut self) -> Option<(Kind, PolicyOffer)> {
        let rank = |kind: Kind| Kind::ALL.iter().position(|other| *other == kind);
        let first = self.0.iter().enumerate();
        let (at, _) = first.min_by_key(|(_, (kind, _))| rank(*kind))?;
        Some(self.0.remove(at))
    }

    /// On a new stream everything is offered again.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

impl Node {
    /// Takes note of an offer.
    pub(super) fn offered(&mut self, offer: PolicyOffer) {
        let mut held = self.facts_held.clone();
        held.extend(self.facts.policy.as_ref().map(|policy| Held {
            kind: String::new(),
            version: policy.version,
            manifest_digest: policy.manifest_digest.clone(),
        }));
        self.offers.note(offer, &held);
        self.fetch_next();
    }

    /// Fetches and hands over in a task of its own: statements go on meanwhile.
    fn fetch_next(&mut self) {
        if self.fetching.is_some() {
            return;
        }
        let Some(session) = &self.session else {
            return;
        };
        let Some((kind, offer)) = self.offers.take() else {
            return;
        };
        info!(%kind, version = offer.version, "offered");
        let client = session.client.clone();
        let digest = offer.manifest_digest;
        let socket = self.config.fence.socket.clone();
        let floor = self.memory.told();
        self.fetching = Some(tokio::spawn(async move {
            let bundle = fetch(client, digest).await.map_err(PolicyFailed::Fetch)?;
            apply(&socket, floor, kind, bundle).await?;
            Ok(kind)
        }));
    }

    pub(super) async fn policy_done(
        &mut self,
        outcome: Result<Kind, PolicyFailed>,
    ) -> Result<(), UplinkError> {
        match outcome {
            Ok(kind) => info!(%kind, "in force"),
            Err(PolicyFailed::Refused(why)) => error!(why, "what was offered is refused"),
            Err(why @ (PolicyFailed::Fetch(_) | PolicyFailed::Fence(_))) => {
                warn!(why = %link::chain(&why), "not applied; it is offered again");
                self.give_up();
            }
        }
        self.poll_fence().await?;
        self.fetch_next();
        Ok(())
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

async fn apply(
    socket: &Path,
    floor: Floor,
    kind: Kind,
    bundle: PolicyBundle,
) -> Result<(), PolicyFailed> {
    let apply = ApplyPolicy {
        bundle: Some(bundle),
        kind: kind.as_str().to_owned(),
    };
    let failed = |why| match why {
        IpcError::Refused { code, detail } => PolicyFailed::Refused(format!("{code}: {detail}")),
        why => PolicyFailed::Fence(why),
    };
    let mut client = FenceClient::new(socket);
    // A fence that has just started does not know it yet.
    client.set_floor(floor).await.map_err(failed)?;
    client.apply_policy(apply).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(kind: &str, version: u64) -> PolicyOffer {
        PolicyOffer {
            version,
            manifest_digest: vec![u8::try_from(version).unwrap(); 32],
            kind: kind.to_owned(),
        }
    }

    #[test]
    fn offers_are_fetched_in_the_order_they_need_one_another() {
        let mut offers = Offers::default();
        let held = [Held {
            kind: "world".to_owned(),
            version: 1,
            manifest_digest: vec![1; 32],
        }];
        for (kind, version) in [
            ("erasure", 1),
            ("", 2),
            ("world", 1),
            ("later", 1),
            ("policy", 3),
            ("approvers", 4),
        ] {
            offers.note(offer(kind, version), &held);
        }
        let taken = std::iter::from_fn(|| offers.take());
        let taken: Vec<(Kind, u64)> = taken.map(|(kind, offer)| (kind, offer.version)).collect();
        let want = [(Kind::Approvers, 4), (Kind::Policy, 3), (Kind::Erasure, 1)];
        assert_eq!(taken, want, "the newest of each, what is held left out");
        offers.note(offer("world", 2), &held);
        offers.forget();
        assert!(offers.take().is_none());
    }
}
