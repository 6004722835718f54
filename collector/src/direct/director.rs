//! Judges what operators bring, keeps it, puts it in force, and says what nodes are offered.

use std::collections::BTreeMap;
use std::sync::Arc;

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_policy::approvers::{Approvers, Chain};
use bailiwick_policy::bundle::{
    Bundle, InForce, Judged, PolicyRefused, Signer, Terms, Verified, VerifiedBundle, WorldSource,
};
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::Manifest;
use prost::Message as _;
use tokio::sync::{Mutex, watch};
use tracing::{info, warn};

use super::{ApplyError, Current, Policy};
use crate::record::{NewPolicy, Store, StoreError};

/// The newest manifest of a kind, as nodes are offered it.
#[derive(Debug)]
pub struct Offered {
    /// What was signed.
    pub manifest: Manifest,
    /// Who approved.
    pub signers: Vec<Signer>,
    /// The serialized `PolicyBundle`, as nodes fetch it.
    pub bundle: Arc<Vec<u8>>,
}

impl Offered {
    /// The message that tells a node of it.
    #[must_use]
    pub fn offer(&self) -> v1::PolicyOffer {
        v1::PolicyOffer {
            version: self.manifest.version,
            manifest_digest: self.manifest.digest.as_bytes().to_vec(),
            kind: self.manifest.kind.as_str().to_owned(),
        }
    }
}

/// The newest of each kind.
pub type Manifests = Arc<BTreeMap<Kind, Arc<Offered>>>;

/// What is in force, and what nodes are offered of it. One value, so that nobody who is woken by an
/// offer asks a policy that is not the one it goes with whether a node is to have it.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    /// The policy in force.
    pub policy: Current,
    /// The newest manifest of each kind.
    pub manifests: Manifests,
}

impl Direction {
    /// What a node is offered; nothing, where the policy does not list it.
    #[must_use]
    pub fn offered_to(&self, ek: &Sha256Digest) -> Option<&Manifests> {
        let policy = self.policy.as_ref()?;
        policy.listed(ek).map(|_node| &self.manifests)
    }

    fn offering(&self, offered: Offered) -> Manifests {
        let mut manifests = BTreeMap::clone(&self.manifests);
        manifests.insert(offered.manifest.kind, Arc::new(offered));
        Arc::new(manifests)
    }
}

/// What was applied.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    /// What it is about.
    pub kind: Kind,
    /// Its version.
    pub version: u64,
    /// SHA-256 of its manifest.
    pub manifest_digest: Sha256Digest,
}

/// What the next manifest is judged by.
#[derive(Debug)]
struct Held {
    chain: Arc<Chain>,
    /// Changes of approvers as they came, oldest first.
    changes: Vec<v1::PolicyBundle>,
    world: Option<WorldSource>,
}

/// Checks manifests and keeps those in force.
#[derive(Debug)]
pub struct Director {
    deployment: DeploymentId,
    store: Store,
    direction: watch::Sender<Direction>,
    /// Two manifests are never judged at once: each must follow the one before.
    held: Mutex<Held>,
}

impl Director {
    /// Starts with what is stored; what does not verify any more is not used.
    pub async fn open(
        approvers: Approvers,
        deployment: DeploymentId,
        store: Store,
        now: UnixTime,
    ) -> Result<Self, ApplyError> {
        let mut changes = Vec::new();
        for row in store.manifest_list(Kind::Approvers).await? {
            changes.push(v1::PolicyBundle::decode(row.bundle.as_slice())?);
        }
        let bundles: Vec<Bundle> = changes.iter().cloned().map(Bundle::from).collect();
        let chain = match Chain::restore(approvers.clone(), &deployment, now, &bundles) {
            Ok(chain) => chain,
            Err(error) => {
                warn!(%error, "the stored approvers do not follow this machine's: they are not in force");
                changes.clear();
                Chain::new(approvers)
            }
        };
        let director = Self {
            deployment,
            store,
            direction: watch::channel(Direction::default()).0,
            held: Mutex::new(Held {
                chain: Arc::new(chain),
                changes,
                world: None,
            }),
        };
        let mut held = director.held.lock().await;
        director.publish_approvers(&held);
        for kind in [Kind::World, Kind::Policy, Kind::BreakGlass, Kind::Erasure] {
            let Some(row) = director.store.manifest_newest(kind).await? else {
                continue;
            };
            let bundle = Bundle::from(v1::PolicyBundle::decode(row.bundle.as_slice())?);
            let chain = Arc::clone(&held.chain);
            let (deployment, world) = (director.deployment.clone(), held.world.clone());
            let settled = tokio::task::spawn_blocking(move || {
                chain.settled(kind, &bundle, &deployment, world.as_ref(), now)
            });
            match settled.await? {
                Ok(verified) => {
                    director.follow_keys(&verified, now).await?;
                    director.put(&mut held, verified, row.bundle);
                }
                Err(error) => warn!(
                    %kind,
                    version = row.version,
                    %error,
                    "what is stored does not verify under this machine's approvers: it is not in force"
                ),
            }
        }
        drop(held);
        Ok(director)
    }

    /// What is in force and offered, now and as it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Direction> {
        self.direction.subscribe()
    }

    /// The policy in force.
    #[must_use]
    pub fn current(&self) -> Current {
        self.direction.borrow().policy.clone()
    }

    /// What nodes are offered.
    #[must_use]
    pub fn manifests(&self) -> Manifests {
        Arc::clone(&self.direction.borrow().manifests)
    }

    /// Who may sign now, and who might before.
    pub async fn chain(&self) -> Arc<Chain> {
        Arc::clone(&self.held.lock().await.chain)
    }

    /// Checks a serialized `PolicyBundle` of whatever kind its manifest says, keeps it, and puts it
    /// in force.
    pub async fn apply(
        &self,
        bytes: Vec<u8>,
        by: &str,
        now: UnixTime,
    ) -> Result<Applied, ApplyError> {
        let mut held = self.held.lock().await;
        let mut message = v1::PolicyBundle::decode(bytes.as_slice())?;
        message.before.clear();
        // Not trusted yet: a manifest that lies about its kind fails as that kind.
        let kind = Manifest::parse(&message.manifest)
            .map_err(PolicyRefused::Malformed)?
            .kind;
        let newest = self.newest(kind).await?;
        let (chain, deployment) = (Arc::clone(&held.chain), self.deployment.clone());
        let (world, bundle) = (held.world.clone(), Bundle::from(message.clone()));
        // A world map takes a while to parse, and evidence must not wait for it.
        let judged = tokio::task::spawn_blocking(move || {
            judge(
                kind,
                &bundle,
                &chain,
                &deployment,
                newest,
                world.as_ref(),
                now,
            )
        });
        let judged = judged.await??;
        let manifest = judged.manifest();
        let applied = Applied {
            kind,
            version: manifest.version,
            manifest_digest: manifest.digest,
        };
        let bytes = message.encode_to_vec();
        if newest.is_none_or(|newest| newest.manifest_digest != applied.manifest_digest) {
            self.store
                .policy_insert(NewPolicy {
                    kind,
                    version: applied.version,
                    manifest_digest: applied.manifest_digest,
                    bundle: bytes.clone(),
                    applied_by: by.to_owned(),
                    now,
                })
                .await?;
            info!(
                %kind,
                version = applied.version,
                manifest = %applied.manifest_digest,
                by,
                "applied"
            );
        }
        match judged {
            Outcome::Chain(chain, _) => {
                if chain.changes().len() > held.changes.len() {
                    held.changes.push(message);
                }
                held.chain = Arc::new(*chain);
                self.publish_approvers(&held);
                self.judged_by_others(&held);
            }
            Outcome::Other(verified) => {
                let world = matches!(*verified, Verified::World(_));
                // Before a node hears of it: what it believes is what it is then shown.
                self.follow_keys(&verified, now).await?;
                self.put(&mut held, *verified, bytes);
                if world {
                    self.remap(&mut held, now).await?;
                }
            }
        }
        Ok(applied)
    }

    /// The newest stored one counts even if it does not verify any more: versions only go up.
    async fn newest(&self, kind: Kind) -> Result<Option<InForce>, StoreError> {
        let row = self.store.manifest_newest(kind).await?;
        Ok(row.map(|row| InForce {
            version: row.version,
            manifest_digest: row.manifest_digest,
        }))
    }

    /// Has the log signed by the keys that a policy lists.
    async fn follow_keys(&self, verified: &Verified, now: UnixTime) -> Result<(), StoreError> {
        match verified {
            Verified::Policy(policy) => {
                let listed = &policy.model.collector;
                self.store.follow_keys(listed, now).await
            }
            _ => Ok(()),
        }
    }

    /// Puts what was verified in force.
    fn put(&self, held: &mut Held, verified: Verified, bundle: Vec<u8>) {
        let bundle = Arc::new(bundle);
        let offered = Offered {
            manifest: verified.manifest().clone(),
            signers: verified.signers().to_vec(),
            bundle: Arc::clone(&bundle),
        };
        match verified {
            Verified::Policy(policy) => {
                let policy = Policy::new(*policy, Arc::clone(&held.chain), bundle);
                let policy = Some(Arc::new(policy));
                self.direction.send_modify(|direction| {
                    let manifests = direction.offering(offered);
                    *direction = Direction { policy, manifests };
                });
                return;
            }
            Verified::World(world) => held.world = Some(world.content),
            // Approvers come by their chain; the rest is for nodes alone.
            _ => {}
        }
        self.publish(offered);
    }

    fn put_policy(&self, held: &Held, verified: VerifiedBundle, bundle: Arc<Vec<u8>>) {
        let policy = Policy::new(verified, Arc::clone(&held.chain), bundle);
        self.direction
            .send_modify(|direction| direction.policy = Some(Arc::new(policy)));
    }

    /// Nodes are held against the new approvers from now on, under the same policy.
    fn judged_by_others(&self, held: &Held) {
        if let Some(current) = self.current() {
            self.put_policy(held, current.verified().clone(), current.bundle());
        }
    }

    /// A policy that carries no map takes the new one.
    async fn remap(&self, held: &mut Held, now: UnixTime) -> Result<(), ApplyError> {
        let Some(current) = self.current() else {
            return Ok(());
        };
        let files = &current.verified().manifest.files;
        if files.keys().any(|path| Kind::World.holds(path)) {
            return Ok(());
        }
        let bytes = current.bundle();
        let bundle = Bundle::from(v1::PolicyBundle::decode(bytes.as_slice())?);
        let (chain, world) = (Arc::clone(&held.chain), held.world.clone());
        let deployment = self.deployment.clone();
        let settled = tokio::task::spawn_blocking(move || {
            chain.settled(Kind::Policy, &bundle, &deployment, world.as_ref(), now)
        });
        if let Verified::Policy(policy) = settled.await?? {
            self.put_policy(held, *policy, bytes);
        }
        Ok(())
    }

    fn publish_approvers(&self, held: &Held) {
        let Some(newest) = held.chain.changes().last() else {
            return;
        };
        let Some((last, before)) = held.changes.split_last() else {
            return;
        };
        let mut bundle = last.clone();
        bundle.before = before.to_vec();
        self.publish(Offered {
            manifest: newest.manifest.clone(),
            signers: newest.signers.clone(),
            bundle: Arc::new(bundle.encode_to_vec()),
        });
    }

    fn publish(&self, offered: Offered) {
        self.direction
            .send_modify(|direction| direction.manifests = direction.offering(offered));
    }
}

/// What came of judging.
enum Outcome {
    /// Approvers, with their newest change.
    Chain(Box<Chain>, Manifest),
    Other(Box<Verified>),
}

impl Outcome {
    fn manifest(&self) -> &Manifest {
        match self {
            Self::Chain(_, manifest) => manifest,
            Self::Other(verified) => verified.manifest(),
        }
    }
}

fn judge(
    kind: Kind,
    bundle: &Bundle,
    chain: &Chain,
    deployment: &DeploymentId,
    newest: Option<InForce>,
    world: Option<&WorldSource>,
    now: UnixTime,
) -> Result<Outcome, PolicyRefused> {
    if kind == Kind::Approvers {
        let chain = chain.extended(std::slice::from_ref(bundle), deployment, now)?;
        let manifest = Manifest::parse(&bundle.manifest).map_err(PolicyRefused::Malformed)?;
        return Ok(Outcome::Chain(Box::new(chain), manifest));
    }
    let terms = Terms {
        approvers: chain.current(),
        deployment,
        now,
        judged: Judged::New(newest),
        world,
    };
    let verified = bundle.open(kind, &terms)?;
    Ok(Outcome::Other(Box::new(verified)))
}
