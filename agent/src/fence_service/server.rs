//! The unix socket: only root (or this process's own user) may speak, one answer at a time.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bailiwick_attestation::proto::v1::fence_state::Mode;
use tokio::{
    io::unix::{AsyncFd, AsyncFdReadyGuard},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Core, Enforcer};
use crate::{
    files::make_private_folder,
    ipc::{read_frame, write_frame},
    notify::{Notify, alive_every},
    proto::fence::{Request, Response, request, response},
    sys,
};

/// `run`, a policy on its way, `check`, and a person's tools.
const CONNECTIONS: usize = 8;

/// A frame has to arrive, and an answer be read, within this time once it has begun.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often new cgroups are looked for where they are not told of: until then they are denied.
const PUMP: Duration = Duration::from_millis(500);

/// How often what the kernel has counted is taken, unless `run` asks before: while a process of
/// which it tells may still be asked for its program.
const TAKE: Duration = Duration::from_secs(2);

/// Shortest time between two looks, however many cgroups come and go.
const QUIET: Duration = Duration::from_millis(10);

/// Why there is no service.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error("{socket}")]
    Socket {
        /// Its path.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Serves until told to stop, and then detaches nothing: links stay pinned.
pub async fn serve<E: Enforcer>(
    core: Core<E>,
    socket: &Path,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let listener = listen(socket).map_err(|source| ServeError::Socket {
        socket: socket.to_owned(),
        source,
    })?;
    info!(socket = %socket.display(), "listening");
    let changes = core.changes().and_then(|fd| {
        let readable = sys::readable(fd);
        readable
            .inspect_err(|error| warn!(%error, "cgroups are polled, not watched"))
            .ok()
    });
    let mut look = Instant::now();
    let core = Arc::new(Mutex::new(core));
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    let mut notify = Notify::default();
    let mut pump = interval(PUMP);
    pump.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut take = interval(TAKE);
    take.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alive = interval(alive_every());
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_ended) = tasks.join_next() => {}
            _ = pump.tick() => {
                with_core(&core, Core::reconcile).await;
            }
            _ = take.tick() => {
                with_core(&core, Core::pump_events).await;
            }
            mut ready = changed(changes.as_ref(), look) => {
                with_core(&core, Core::reconcile).await;
                ready.clear_ready();
                look = Instant::now() + QUIET;
            }
            _ = alive.tick() => {
                // Through the core, so that a core that hangs is noticed.
                let (state, unfit) = with_core(&core, |core| {
                    let state = core.handle(Request {
                        request: Some(request::Request::GetState(Default::default())),
                    });
                    (state, core.unfit())
                })
                .await;
                tell(&mut notify, &state, unfit);
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        warn!("too many connections; one turned away");
                        continue;
                    };
                    if !trusted(&stream) {
                        warn!("a peer that is not root was turned away");
                        continue;
                    }
                    let core = Arc::clone(&core);
                    tasks.spawn(async move {
                        if let Err(error) = converse(stream, &core).await {
                            warn!(%error, "connection ended");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    notify.stopping();
    tasks.shutdown().await;
    // A socket that stays is replaced by the next start; the fence itself stays in any case.
    drop(fs::remove_file(socket));
    Ok(())
}

/// Cgroups have come or gone, and it is time to look.
async fn changed(
    changes: Option<&AsyncFd<OwnedFd>>,
    not_before: Instant,
) -> AsyncFdReadyGuard<'_, OwnedFd> {
    sleep_until(not_before).await;
    match changes {
        Some(changes) => match changes.readable().await {
            Ok(ready) => ready,
            Err(error) => {
                warn!(%error, "cgroups are polled, not watched");
                std::future::pending().await
            }
        },
        None => std::future::pending().await,
    }
}

/// Ready is: something judges, and it knows every study's processes as the study's.
fn tell(notify: &mut Notify, response: &Response, unfit: Option<String>) {
    let Some(response::Response::State(state)) = &response.response else {
        return;
    };
    let fence = state.fence.clone().unwrap_or_default();
    let status = match (fence.mode(), &fence.fault) {
        (_, Some(fault)) => format!("fault: {fault}"),
        (Mode::Enforcing, None) => {
            let version = state.policy.as_ref().map_or(0, |policy| policy.version);
            format!("enforcing policy version {version}")
        }
        (Mode::DefaultDeny, None) => "denying by default".to_owned(),
        (Mode::Absent | Mode::Unspecified, None) => "nothing attached".to_owned(),
    };
    if let Some(why) = unfit {
        notify.status(&format!("not ready: {why}"));
    } else if matches!(fence.mode(), Mode::Enforcing | Mode::DefaultDeny) {
        notify.ready(&status);
    } else {
        notify.status(&status);
    }
    notify.alive();
}

async fn with_core<E: Enforcer, T: Default + Send + 'static>(
    core: &Arc<Mutex<Core<E>>>,
    work: impl FnOnce(&mut Core<E>) -> T + Send + 'static,
) -> T {
    let core = Arc::clone(core);
    // The kernel may take its time; the socket answers others meanwhile.
    let done = spawn_blocking(move || {
        let mut core = core.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut core)
    });
    match done.await {
        Ok(answer) => answer,
        Err(error) => {
            warn!(%error, "a request ended badly");
            T::default()
        }
    }
}

async fn converse<E: Enforcer>(
    mut stream: UnixStream,
    core: &Arc<Mutex<Core<E>>>,
) -> io::Result<()> {
    loop {
        // An idle connection is fine; one that stops in the middle of a frame is not.
        stream.readable().await?;
        let Some(request) = timeout(PATIENCE, read_frame::<Request>(&mut stream)).await?? else {
            return Ok(());
        };
        let response = with_core(core, |core| core.handle(request)).await;
        timeout(PATIENCE, write_frame(&mut stream, &response)).await??;
    }
}

/// The folder (0700) keeps others out until the socket has its mode.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        make_private_folder(folder)?;
    }
    match fs::remove_file(socket) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn trusted(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own)
}
