//! Requests in, answers out, without a socket.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::PathBuf,
};

use bailiwick_attestation::{
    DeploymentId, NodeId, Sha256Digest,
    evidence::GuestSigner,
    proto::v1::{FenceEvent, PolicyState, fence_state},
    standing::{LeaseRefused, LeaseTerms, QuotedAt, verify_lease},
};
use bailiwick_policy::{
    approvers::Approvers,
    bundle::{PolicyRefused, SettledPolicy, Verified},
};
use tracing::{error, info, warn};

use super::{
    Enforcer,
    glass::{self, Glass, GlassRefused},
    manifests::Manifests,
    peers::Peers,
    proven,
};
use crate::{
    clock,
    floor::Floor,
    proto::fence::{
        ApplyLease, Done, Events, NextEvents, Refusal, Request, Response, State,
        request::Request as Ask,
        response::Response as Answer,
        state::{Ca, KeyStore, Log},
    },
    sys,
};

/// Events that wait for `run`. Full: the newest are told together, without their addresses.
const QUEUE: usize = 16_384;

/// Those that stand for many have room beyond [`QUEUE`]. Full too: packets are counted, no more.
const TOGETHER: usize = 1024;

/// Most events in one answer.
const BATCH: u32 = 4096;

/// Most statements a lease is compared with.
const QUOTED: usize = 256;

/// What the process is configured with.
#[derive(Debug)]
pub struct Settings {
    /// Installation this node belongs to.
    pub deployment: DeploymentId,
    /// Who signed policy here first; whoever they handed on to lies in the state folder.
    pub approvers: Approvers,
    /// Folder for the policy in force.
    pub state_dir: PathBuf,
    /// What the node calls itself, until `run` has told its TPM.
    pub node: NodeId,
    /// The kernel's random id of this boot.
    pub boot_id: [u8; 16],
}

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// Not what approvers signed, or not for now.
    #[error("policy refused")]
    Policy(#[source] Box<PolicyRefused>),
    /// Older than what this machine has had.
    #[error("{0}")]
    RolledBack(String),
    /// Good, and the kernel did not take it.
    #[error("the kernel did not take it")]
    Enforce(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Good, and it takes effect only once the fence's PCR says so.
    #[error("the fence's PCR cannot be extended")]
    Unmeasured(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Good, and it could not be kept for the next start.
    #[error("{file}")]
    Keep {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a lease for this node, this AK, this boot.
    #[error("lease refused")]
    Lease(#[source] Box<LeaseRefused>),
    /// Not for this node, not now, or not again.
    #[error("break-glass refused")]
    Glass(#[source] GlassRefused),
    /// There is no policy that names lease keys and nodes.
    #[error("no policy is in force, so no lease key is known")]
    NoPolicy,
    /// The policy does not name this TPM.
    #[error("the inventory in force has no node with ek = \"{0}\"")]
    NotListed(Sha256Digest),
    /// The inventory names another AK, or the key is of another kind than the node's.
    #[error("the inventory in force names another AK, or another kind of key, for {0}")]
    OtherAk(String),
    /// A request that breaks the contract.
    #[error("{0}")]
    Request(&'static str),
}

impl CoreError {
    pub(super) fn policy(refused: PolicyRefused) -> Self {
        Self::Policy(Box::new(refused))
    }

    /// Stable word.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Policy(refused) => refused.code(),
            Self::RolledBack(_) => "policy-rolled-back",
            Self::Enforce(_) => "fence-failed",
            Self::Unmeasured(_) => "fence-pcr-unavailable",
            Self::Keep { .. } => "policy-not-kept",
            Self::Lease(refused) => refused.code(),
            Self::Glass(refused) => refused.code(),
            Self::NoPolicy => "lease-no-policy",
            Self::NotListed(_) => "lease-node-not-listed",
            Self::OtherAk(_) => "lease-other-ak",
            Self::Request(_) => "request-malformed",
        }
    }
}

/// What is remembered of the lease in force.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Held {
    /// Which boot it is for.
    pub(super) reset_count: u32,
    /// TPM clock of the statement it answers.
    pub(super) clock_ms: u64,
    /// Name of the key that signed it.
    pub(super) key: String,
}

/// The state of the process.
#[derive(Debug)]
pub struct Core<E> {
    pub(super) enforcer: E,
    pub(super) settings: Settings,
    pub(super) manifests: Manifests,
    /// What the TPM remembers, as far as `run` has told.
    pub(super) floor: Floor,
    pub(super) policy: Option<SettledPolicy>,
    /// This node's TPM, once `run` has told.
    pub(super) ek: Option<Sha256Digest>,
    pub(super) peers: Peers,
    /// None: what was used before is not known, so nothing can be used.
    pub(super) glass: Option<Glass>,
    /// The lease in force.
    pub(super) lease: Option<Held>,
    /// Tells this process from the one before it, whose events had the same numbers.
    instance: [u8; 16],
    queue: VecDeque<FenceEvent>,
    /// Number of the first event in the queue.
    first: u64,
    /// Number after the last event that `run` has seen: those before change no more.
    shown: u64,
    lost: u64,
    /// Why the last reconciliation failed.
    trouble: Option<String>,
    /// The kept policy waits for the fence's PCR.
    pub(super) held_back: bool,
    /// The policy in force is past its `not_after`.
    pub(super) expired: bool,
}

/// What was kept on disk, read back, its signatures verified again and the policy's tables
/// compiled: nothing of it is in force, so that it can be made while an enforcer is.
#[derive(Debug)]
pub struct Kept {
    manifests: Manifests,
    policy: Result<Option<Verified>, CoreError>,
}

impl Kept {
    /// Reads the state folder.
    #[must_use]
    pub fn read(settings: &Settings) -> Self {
        let manifests = Manifests::open(
            &settings.state_dir.join("fence"),
            &settings.deployment,
            settings.approvers.clone(),
            clock::now(),
        );
        let policy = manifests.policy(clock::now());
        Self { manifests, policy }
    }
}

impl<E: Enforcer> Core<E> {
    /// Takes an enforcer that denies by default and puts the kept policy back in force. One that
    /// is not good any more is left alone, said aloud, and taken out of force.
    pub fn new(enforcer: E, settings: Settings) -> Self {
        let kept = Kept::read(&settings);
        Self::with(enforcer, settings, kept)
    }

    /// The same, of what was read from these settings' folder already.
    pub fn with(enforcer: E, settings: Settings, kept: Kept) -> Self {
        let Kept { manifests, policy } = kept;
        let glass = Glass::open(&settings.state_dir).map_err(|why| {
            error!(%why, "what was used of break-glass cannot be read: none can be used");
        });
        let mut core = Self {
            enforcer,
            peers: Peers::open(&settings.state_dir, settings.boot_id),
            manifests,
            floor: Floor::default(),
            settings,
            policy: None,
            ek: None,
            glass: glass.ok(),
            lease: None,
            instance: random_instance(),
            queue: VecDeque::new(),
            first: 0,
            shown: 0,
            lost: 0,
            trouble: None,
            held_back: false,
            expired: false,
        };
        if proven::kept(&core.settings)
            && let Err(why) = core.enforcer.set_gpus_proven(true)
        {
            let why = format!("{:#}", anyhow::Error::from(why));
            warn!(why, "confidential GPUs wait for the next lease");
        }
        core.put_back(policy);
        core
    }

    /// Puts the kept policy back in force, or denies everything.
    fn put_back(&mut self, kept: Result<Option<Verified>, CoreError>) {
        self.held_back = false;
        self.restore_glass();
        match self.restore(kept) {
            Ok(true) => {}
            Ok(false) => {
                info!("no policy yet: everything is denied");
                self.deny_everything();
            }
            Err(why) => {
                self.held_back = matches!(why, CoreError::Unmeasured(_));
                let why = anyhow::Error::from(why);
                error!(
                    why = format!("{why:#}"),
                    "the kept policy is not in force: everything is denied"
                );
                self.deny_everything();
            }
        }
        sys::give_back_memory();
    }

    /// The process before this one may have left a policy in the kernel that this one cannot
    /// answer for.
    fn deny_everything(&mut self) {
        if let Err(why) = self.enforcer.deny_everything() {
            error!(
                why = format!("{:#}", anyhow::Error::from(why)),
                "an older policy may still be in force"
            );
        }
    }

    /// Lets the enforcer follow what changed on the host; says once what keeps it from that.
    pub fn reconcile(&mut self) {
        self.follow_clock();
        let trouble = self
            .enforcer
            .reconcile()
            .err()
            .map(|why| format!("{:#}", anyhow::Error::from(why)));
        if trouble != self.trouble {
            match &trouble {
                Some(why) => error!(why, "the fence does not follow the host"),
                None => info!("the fence follows the host again"),
            }
            self.trouble = trouble;
        }
        self.try_held_back();
    }

    fn try_held_back(&mut self) {
        if self.held_back && self.enforcer.ready() {
            self.put_back(self.manifests.policy(clock::now()));
        }
    }

    /// Why nobody may be told that this host is fenced: [`Enforcer::unfit`].
    pub(super) fn unfit(&self) -> Option<String> {
        self.enforcer.unfit()
    }

    /// Readable when [`Core::reconcile`] is worth a call before its time.
    pub(super) fn changes(&self) -> Option<OwnedFd> {
        self.enforcer.changes()
    }

    /// Answers one request.
    pub fn handle(&mut self, request: Request) -> Response {
        let answer = match request.request {
            Some(Ask::GetState(_)) => Ok(Answer::State(self.state())),
            Some(Ask::ApplyPolicy(apply)) => {
                let answer = self.apply(apply);
                sys::give_back_memory();
                answer
            }
            Some(Ask::SetFloor(floor)) => self.set_floor(&floor),
            Some(Ask::ApplyLease(apply)) => self.apply_lease(&apply),
            Some(Ask::NextEvents(next)) => Ok(Answer::Events(self.next_events(&next))),
            Some(Ask::GetOwnPeers(ask)) => self.own_peers(&ask).map(Answer::OwnPeers),
            Some(Ask::ApplyPeers(apply)) => self.apply_peers(apply),
            Some(Ask::UseBreakGlass(apply)) => self.break_glass(apply),
            None => Err(CoreError::Request(
                "Request.request is absent or newer than this agent",
            )),
        };
        let response = answer.unwrap_or_else(|why| {
            let code = why.code().to_owned();
            let detail = format!("{:#}", anyhow::Error::from(why));
            warn!(code, detail, "refused");
            Answer::Refusal(Refusal { code, detail })
        });
        Response {
            response: Some(response),
        }
    }

    /// Takes what the kernel has counted into the queue.
    pub fn pump_events(&mut self) {
        let (events, lost) = self.enforcer.drain_events();
        self.lost = self.lost.saturating_add(lost);
        for event in events {
            if self.queue.len() < QUEUE {
                self.queue.push_back(event);
            } else {
                self.together(event);
            }
        }
    }

    /// Adds an event to one that stands for many like it, whose packets are counted on.
    fn together(&mut self, event: FenceEvent) {
        let told = self.shown.saturating_sub(self.first);
        let fresh = self
            .queue
            .iter_mut()
            .skip(usize::try_from(told).unwrap_or(usize::MAX));
        let alike = |other: &&mut FenceEvent| {
            other.others
                && other.study == event.study
                && other.rule == event.rule
                && other.hook == event.hook
                && other.device == event.device
                && other.change == event.change
                && other.verdict == event.verdict
                && other.sampled == event.sampled
        };
        if event.flows.is_none()
            && let Some(sum) = fresh.rev().find(alike)
        {
            sum.count = sum.count.saturating_add(event.count);
            sum.bytes = sum.bytes.saturating_add(event.bytes);
            sum.until_boot_ns = sum.until_boot_ns.max(event.until_boot_ns);
        } else if self.queue.len() < QUEUE.saturating_add(TOGETHER) {
            self.queue.push_back(match event.flows {
                Some(_) => event,
                None => nobodys(event),
            });
        } else {
            self.lost = self.lost.saturating_add(event.count.max(1));
        }
    }

    pub(super) fn kept(&self, name: &str) -> PathBuf {
        self.settings.state_dir.join("fence").join(name)
    }

    fn apply_lease(&mut self, apply: &ApplyLease) -> Result<Answer, CoreError> {
        let lease = apply
            .lease
            .as_ref()
            .ok_or(CoreError::Request("ApplyLease.lease is absent"))?;
        let ek = Sha256Digest::from_slice(&apply.ek_digest).ok_or(CoreError::Request(
            "ApplyLease.ek_digest must have 32 bytes",
        ))?;
        if apply.quoted.len() > QUOTED {
            return Err(CoreError::Request(
                "ApplyLease.quoted has more than 256 elements",
            ));
        }
        let statements = apply
            .quoted
            .iter()
            .map(|quoted| {
                Some(QuotedAt {
                    statement: Sha256Digest::from_slice(&quoted.statement_digest)?,
                    clock_ms: quoted.clock_ms,
                    boot_time_ns: quoted.boot_time_ns,
                })
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(CoreError::Request(
                "ApplyLease.quoted.statement_digest must have 32 bytes",
            ))?;
        self.ek = Some(ek);
        if let Some(why) = self.behind() {
            return Err(CoreError::RolledBack(why));
        }
        let policy = self.policy.as_ref().ok_or(CoreError::NoPolicy)?;
        let node = policy
            .model
            .inventory
            .by_ek(&ek)
            .ok_or(CoreError::NotListed(ek))?;
        // A guest without a TPM has a key that is no AK, and nobody else has such a one.
        let of_guest = GuestSigner::key_named(&apply.ak_name).is_some();
        let other = node.ak.as_ref().is_some_and(|ak| *ak != apply.ak_name);
        if other || of_guest != node.guest.is_some() {
            return Err(CoreError::OtherAk(node.name.to_string()));
        }
        let keys = policy.model.collector.standing_keys();
        let terms = LeaseTerms {
            deployment: &self.settings.deployment,
            node: &node.name,
            ak_name: &apply.ak_name,
            reset_count: apply.reset_count,
            statements: &statements,
            in_force: self
                .lease
                .as_ref()
                .filter(|held| held.reset_count == apply.reset_count)
                .map(|held| held.clock_ms),
            now: clock::now(),
        };
        let verified = verify_lease(lease, &keys, &terms)
            .map_err(|refused| CoreError::Lease(Box::new(refused)))?;
        // Nothing that needs proof opens before it, nor stays open after it.
        let proven = verified.body().gpus_proven && verified.end_boot_ns() > 0;
        self.enforcer
            .set_gpus_proven(proven)
            .map_err(|err| CoreError::Enforce(Box::new(err)))?;
        proven::keep(&self.settings, proven);
        self.enforcer
            .set_lease_end(verified.end_boot_ns())
            .map_err(|err| CoreError::Enforce(Box::new(err)))?;
        self.lease = Some(Held {
            reset_count: apply.reset_count,
            clock_ms: verified.quoted_clock_ms(),
            key: lease.key_id.clone(),
        });
        Ok(Answer::Done(Done {}))
    }

    fn state(&mut self) -> State {
        let mut fence = self.fence_state();
        let (boot, now) = (self.settings.boot_id, clock::boot_time_ns());
        let glass = self.glass.as_ref();
        fence.break_glass = glass
            .and_then(|glass| glass::in_force(&glass.uses, boot, now))
            .map(|used| fence_state::BreakGlass {
                manifest_digest: used.manifest.0.to_vec(),
                end_boot_ns: used.end_boot_ns,
            });
        // A policy without its world map in the kernel is not in force, whatever was asked.
        let in_force = self.policy.as_ref().zip(self.enforcer.world_digest());
        State {
            fence: Some(fence),
            policy: in_force.map(|(policy, world)| PolicyState {
                version: policy.manifest.version,
                manifest_digest: policy.manifest.digest.0.to_vec(),
                world_digest: world.0.to_vec(),
                not_after_ms: policy.manifest.not_after.millis(),
            }),
            logs: self
                .policy
                .iter()
                .flat_map(|policy| &policy.model.collector.logs)
                .map(|log| Log {
                    origin: log.origin.clone(),
                    vkey: log.vkey.clone(),
                    term: Some(log.term.into()),
                })
                .collect(),
            cas: self
                .policy
                .iter()
                .flat_map(|policy| &policy.model.collector.cas)
                .map(|ca| Ca {
                    spki: ca.spki.0.to_vec(),
                    term: Some(ca.term.into()),
                })
                .collect(),
            approvers_digest: self.manifests.approvers_digest().0.to_vec(),
            held: self.manifests.held(),
            floor: Some(self.floor.message()),
            key_stores: self
                .policy
                .iter()
                .flat_map(|policy| &policy.model.collector.key_stores)
                .map(|store| KeyStore {
                    id: store.id.clone(),
                    p256: store.p256.to_vec(),
                })
                .collect(),
            erasure: self.manifests.erasure().cloned(),
        }
    }

    pub(super) fn next_events(&mut self, next: &NextEvents) -> Events {
        self.pump_events();
        let ours = next.instance == self.instance;
        while ours && self.first < next.acknowledged && self.queue.pop_front().is_some() {
            self.first = self.first.saturating_add(1);
        }
        let max = usize::try_from(next.max.min(BATCH)).unwrap_or(0);
        let shown = u64::try_from(self.queue.len().min(max)).unwrap_or(u64::MAX);
        self.shown = self.shown.max(self.first.saturating_add(shown));
        Events {
            instance: self.instance.to_vec(),
            first: self.first,
            events: self.queue.iter().take(max).cloned().collect(),
            lost: std::mem::take(&mut self.lost),
        }
    }
}

/// What of an event can stand for others like it, too.
fn nobodys(event: FenceEvent) -> FenceEvent {
    FenceEvent {
        others: true,
        cgroup_id: 0,
        cgroup: String::new(),
        source: Vec::new(),
        destination: Vec::new(),
        protocol: 0,
        source_port: 0,
        destination_port: 0,
        jurisdiction: String::new(),
        uid: None,
        pid: None,
        command: String::new(),
        executable: String::new(),
        ..event
    }
}

fn random_instance() -> [u8; 16] {
    let mut instance = [0; 16];
    // The kernel's, for two starts only have to differ: the library that signs would first collect
    // a tenth of a second's entropy. Without any the start time has to do.
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut instance));
    if read.is_err() {
        let (_, end) = instance.split_at_mut(8);
        end.copy_from_slice(&clock::boot_time_ns().to_be_bytes());
    }
    instance
}
