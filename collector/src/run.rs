//! Starts every part, and stops them together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bailiwick_attestation::UnixTime;
use bailiwick_policy::approvers::Approvers;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{error, info, warn};

use crate::alert::Alerts;
use crate::auth::{ReadPeer, accept, listen, read_anonymous, read_node, read_operator};
use crate::clock::{self, Latest};
use crate::config::Config;
use crate::direct::{self, Director, LeaseKeys};
use crate::doors::{Doors, Shown};
use crate::endorsements::Endorsed;
use crate::enroll::{self, EkTrust, Enroll, Retiring};
use crate::ingest::{Evidence, LogsKnown, Nonces, Shared, Streams};
use crate::init::{Identity, Kind, StateDir};
use crate::keys::{Erasures, KeyStores, Keys};
use crate::outward::Outward;
use crate::proto::enroll_service_server::EnrollServiceServer;
use crate::proto::evidence_service_server::EvidenceServiceServer;
use crate::proto::query_service_server::QueryServiceServer;
use crate::query::{KeysHeld, Query};
use crate::record::{Store, StoreError};
use crate::standing::Standing;

/// Longest message of a node: an envelope of 36 MiB and what is around it.
const EVIDENCE_MESSAGE: usize = 40 * 1024 * 1024;
/// Longest message of a TPM that enrols, and of an operator: a slice of policy.
const SMALL_MESSAGE: usize = 1024 * 1024;
/// Streams on one connection.
const STREAMS: u32 = 16;
/// A connection whose peer does not answer a ping is closed after about twice this.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Everything that must be right before anything starts.
#[derive(Debug)]
pub struct Checked {
    config: Config,
    state: StateDir,
    identity: Identity,
    approvers: Approvers,
    ek_trust: EkTrust,
}

/// Addresses it listens on.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Enrolment.
    pub enroll: SocketAddr,
    /// Evidence.
    pub evidence: SocketAddr,
    /// Queries.
    pub query: SocketAddr,
}

impl Checked {
    /// Reads every file the configuration names.
    pub fn new(config: Config) -> anyhow::Result<Self> {
        let state = StateDir::at(&config.state_dir);
        let identity = state
            .identity()
            .context("state_dir: make it with `bailiwick-collector init`")?;
        state.authority(Kind::Operators)?;
        state.cas()?;
        state.log_signers(&identity)?;
        Outward::load(&state)?;
        KeyStores::read(&state.key_stores()).context("key stores")?;
        Ok(Self {
            approvers: direct::approvers(&config.policy).context("policy.approvers")?,
            ek_trust: EkTrust::load(&config.enroll).context("enroll.ek_roots")?,
            identity,
            state,
            config,
        })
    }

    /// The database's file.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state.path("collector.db")
    }
}

/// A collector that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub bound: Bound,
    tasks: JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
    grace: Duration,
}

impl Running {
    /// Opens the store, binds every port, and serves.
    pub async fn start(checked: Checked) -> anyhow::Result<Self> {
        let Checked {
            config,
            state,
            identity,
            approvers,
            ek_trust,
        } = checked;
        let ek_trust = Arc::new(ek_trust);
        let started = clock::now();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let signers = state.log_signers(&identity)?;
        let cas = Arc::new(state.cas()?);
        let (store, writer) = Store::open(&state.path("collector.db"), signers)
            .await
            .context("collector.db")?;
        let deployment = identity.deployment.clone();
        let opened = Director::open(approvers, deployment.clone(), store.clone(), started).await;
        let director = Arc::new(opened.context("the stored policy")?);
        let leases = LeaseKeys::new(state.lease_signers(&identity)?).context("lease keys")?;
        warn_of_keys(&director, &leases, started);
        let leases = Arc::new(leases);
        let lease_ids = Arc::clone(&leases);
        let streams = Streams::default();
        let standing = Standing::open(&store).await.context("collector.db")?;
        let stores = KeyStores::read(&state.key_stores()).context("key stores")?;
        let keys = Keys::open(&state.path("keys.db"), stores, deployment.clone())
            .await
            .context("keys.db")?;

        let folder = config.endorsements.store.as_deref();
        let endorsed = Endorsed::open(folder, started).context("endorsements.store")?;
        let endorsed = Arc::new(endorsed);
        let (following, until) = (Arc::clone(&endorsed), stop.clone());
        tasks.spawn(async move {
            following.follow(clock::now, until.clone()).await;
            until.cancelled().await;
            Ok(())
        });

        let enroll = Enroll::new(enroll::Parts {
            deployment: deployment.clone(),
            cas: Arc::clone(&cas),
            trust: Arc::clone(&ek_trust),
            endorsements: Arc::clone(&endorsed),
            config: config.enroll.clone(),
            store: store.clone(),
            director: Arc::clone(&director),
            streams: streams.clone(),
            standing: standing.clone(),
        });
        let evidence = Evidence(Arc::new(Shared {
            deployment,
            store: store.clone(),
            director: Arc::clone(&director),
            leases,
            keys: keys.clone(),
            outward: Outward::load(&state)?,
            nonces: Mutex::new(Nonces::new(config.ingest.nonce_seconds * 1000)),
            streams: streams.clone(),
            cas: Arc::clone(&cas),
            trust: Arc::clone(&ek_trust),
            endorsements: Arc::clone(&endorsed),
            standing: standing.clone(),
            logs: LogsKnown::default(),
            config: config.ingest.clone(),
            stop: stop.clone(),
        }));
        let retiring = Retiring {
            policy: director.watch(),
            store: store.clone(),
            streams: streams.clone(),
            standing: standing.clone(),
        };
        let erasures = Erasures {
            director: Arc::clone(&director),
            store: store.clone(),
            keys: keys.clone(),
            deployment: identity.deployment.clone(),
        };
        let erasing = stop.clone();
        tasks.spawn(async move {
            erasures.run(erasing).await;
            Ok(())
        });
        let query = Query {
            store: store.clone(),
            director: Arc::clone(&director),
            streams: streams.clone(),
            held: KeysHeld {
                leases: Arc::clone(&lease_ids),
                cas: Arc::clone(&cas),
            },
            trust: ek_trust,
            endorsements: endorsed,
            standing: standing.clone(),
            keys,
        };
        let (looking, watched, stopping) = (standing.clone(), director.watch(), stop.clone());
        let kept = store.clone();
        tasks.spawn(async move {
            let ran = looking.run(kept, watched, stopping).await;
            ran.context("standing")
        });
        let kept = store.clone();
        let latest = Latest::open(&state.path("latest-time"));
        let alerts = Alerts {
            store,
            clock: latest.behind(),
            policy: director.watch(),
            standing,
            lease_keys: lease_ids,
            cas: Arc::clone(&cas),
            config: config.alert.clone(),
            started,
        };

        let operators = state.authority(Kind::Operators)?.certificate().clone();
        let doors = Doors::open(cas, operators, director.watch(), started)?;
        let [enroll_door, evidence_door, query_door] = doors.shown();
        let doors_stop = stop.clone();
        tasks.spawn(async move {
            let ran = doors.run(streams, kept, doors_stop).await;
            ran.context("doors")
        });
        let (enroll_listener, enroll_at) = listen(config.listen.enroll)
            .await
            .context("listen.enroll")?;
        let (evidence_listener, evidence_at) = listen(config.listen.evidence)
            .await
            .context("listen.evidence")?;
        let (query_listener, query_at) =
            listen(config.listen.query).await.context("listen.query")?;
        let routes =
            Routes::new(EnrollServiceServer::new(enroll).max_decoding_message_size(SMALL_MESSAGE));
        tasks.spawn(serve(
            Port {
                listener: enroll_listener,
                doors: enroll_door,
                read: read_anonymous,
                routes,
            },
            stop.clone(),
        ));
        let routes = Routes::new(
            EvidenceServiceServer::new(evidence).max_decoding_message_size(EVIDENCE_MESSAGE),
        );
        tasks.spawn(serve(
            Port {
                listener: evidence_listener,
                doors: evidence_door,
                read: read_node,
                routes,
            },
            stop.clone(),
        ));
        let routes =
            Routes::new(QueryServiceServer::new(query).max_decoding_message_size(SMALL_MESSAGE));
        tasks.spawn(serve(
            Port {
                listener: query_listener,
                doors: query_door,
                read: read_operator,
                routes,
            },
            stop.clone(),
        ));
        let retiring_stop = stop.clone();
        tasks.spawn(async move {
            retiring.run(retiring_stop).await;
            Ok(())
        });
        let alerts_stop = stop.clone();
        tasks.spawn(async move { alerts.run(alerts_stop).await.context("alerts") });
        tasks.spawn(async move { ended(writer.await) });
        let clock_stop = stop.clone();
        tasks.spawn(async move { latest.watch(clock_stop).await.context("clock") });
        let bound = Bound {
            enroll: enroll_at,
            evidence: evidence_at,
            query: query_at,
        };
        info!(enroll = %enroll_at, evidence = %evidence_at, query = %query_at, "listening");
        Ok(Self {
            bound,
            tasks,
            stop,
            grace: config.grace(),
        })
    }

    /// Waits until some part ends, which none does unasked.
    pub async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Ok(Ok(()))) => anyhow!("a task ended unasked"),
            Some(Err(panic)) => anyhow!(panic).context("a task panicked"),
            None => anyhow!("no task is left"),
        }
    }

    /// Ends streams and listeners, and waits for what is under way to be written.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let drained = tokio::time::timeout(self.grace, async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => warn!(error = %format!("{error:#}"), "while stopping"),
                    Err(error) => warn!(%error, "while stopping"),
                }
            }
        });
        if drained.await.is_err() {
            warn!(grace = ?self.grace, "tasks did not stop in time; aborting them");
        }
    }
}

/// The rest of the record is as good as ever, and a policy that puts it right has to come in.
fn warn_of_keys(director: &Director, leases: &LeaseKeys, now: UnixTime) {
    let Some(policy) = director.current() else {
        return;
    };
    if leases.active(policy.collector_keys(), now).is_none() {
        error!(
            policy = policy.version(),
            held = leases.ids().join(", "),
            "the policy in force lists none of this collector's lease keys: no lease is signed"
        );
    }
}

fn ended(writer: Result<Result<(), StoreError>, tokio::task::JoinError>) -> anyhow::Result<()> {
    writer.context("the writer panicked")?.context("the writer")
}

/// One port and what it serves.
struct Port {
    listener: TcpListener,
    doors: Shown,
    read: ReadPeer,
    routes: Routes,
}

async fn serve(port: Port, stop: CancellationToken) -> anyhow::Result<()> {
    let incoming = accept(port.listener, port.doors, port.read, stop.clone());
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .http2_max_header_list_size(16 * 1024)
        .add_routes(port.routes)
        .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
        .await
        .context("serve")
}
