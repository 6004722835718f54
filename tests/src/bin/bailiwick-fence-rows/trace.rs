//! Runs a program and counts its `bpf(2)` calls, to kill it right before one of them or right
//! after. The program itself knows nothing of this. Calls that only ask are not counted: killed
//! around one of them, it leaves what it leaves around the last one that changed something.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow};

use crate::sys::{self, Stop};

/// Commands of `bpf(2)` that change nothing (`enum bpf_cmd`): looking up elements and keys, opening
/// what is pinned or has an id, the next id, what is known of an object, what is attached.
const ASKING: [u64; 15] = [1, 4, 7, 11, 12, 13, 14, 15, 16, 19, 20, 23, 24, 30, 31];

/// Which side of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Edge {
    /// The kernel has not seen it.
    Before,
    /// The kernel is done, the program does not know.
    After,
}

/// When to kill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    /// From 1, since counting began.
    pub(crate) call: u64,
    pub(crate) edge: Edge,
}

#[derive(Debug, Default)]
struct Shared {
    pid: AtomicU64,
    armed: AtomicBool,
    calls: AtomicU64,
    killed: AtomicBool,
    ended: AtomicBool,
}

/// A program under the counter.
#[derive(Debug)]
pub(crate) struct Traced {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Traced {
    /// Starts it; calls are counted once it is [`Traced::arm`]ed.
    ///
    /// `enter` is done first by the thread that starts it.
    pub(crate) fn start_in(
        mut command: Command,
        point: Option<Point>,
        armed: bool,
        enter: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        shared.armed.store(armed, Ordering::SeqCst);
        let seen = Arc::clone(&shared);
        // The thread that starts it is its tracer, and waits for no other child.
        let thread = thread::spawn(move || {
            sys::let_parent_trace(&mut command);
            let done = enter().and_then(|()| follow(&mut command, point, &seen));
            seen.ended.store(true, Ordering::SeqCst);
            done
        });
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Counts from here on.
    pub(crate) fn arm(&self) {
        self.shared.armed.store(true, Ordering::SeqCst);
    }

    /// Calls counted so far.
    pub(crate) fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// The point was reached.
    pub(crate) fn was_killed(&self) -> bool {
        self.shared.killed.load(Ordering::SeqCst)
    }

    /// Nothing of it runs any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::SeqCst)
    }

    /// Sends a signal to it.
    pub(crate) fn signal(&self, signal: i32) -> Result<()> {
        let pid = self.shared.pid.load(Ordering::SeqCst);
        let pid = i32::try_from(pid).context("its process id")?;
        if pid > 0 && !self.has_ended() {
            sys::kill(pid, signal).context("signal the traced program")?;
        }
        Ok(())
    }

    /// Waits for its end.
    pub(crate) fn join(mut self) -> Result<()> {
        let thread = self.thread.take().context("it is joined once")?;
        thread
            .join()
            .map_err(|_panicked| anyhow!("the tracer panicked"))?
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        drop(self.signal(libc::SIGKILL));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn follow(command: &mut Command, point: Option<Point>, shared: &Shared) -> Result<()> {
    let child = command.spawn().context("start it")?;
    let pid = i32::try_from(child.id()).context("its process id")?;
    shared.pid.store(child.id().into(), Ordering::SeqCst);
    let mut begun = false;
    // Threads in a call, and whether it is the one.
    let mut in_bpf = HashMap::new();
    loop {
        let Some((thread, stop)) = sys::wait_for_traced().context("wait for it")? else {
            return Ok(());
        };
        if !begun {
            sys::trace_threads(pid).context("trace its threads")?;
            begun = true;
        }
        let edge = match stop {
            Stop::Ended if thread == pid => return Ok(()),
            Stop::Ended => continue,
            Stop::Call(number, command) => {
                let counts = number == libc::SYS_bpf && !ASKING.contains(&command);
                in_bpf.insert(thread, counts);
                counts.then_some(Edge::Before)
            }
            Stop::Return => in_bpf
                .remove(&thread)
                .unwrap_or(false)
                .then_some(Edge::After),
            _ => None,
        };
        if let Some(edge) = edge
            && shared.armed.load(Ordering::SeqCst)
        {
            if edge == Edge::Before {
                shared.calls.fetch_add(1, Ordering::SeqCst);
            }
            let calls = shared.calls.load(Ordering::SeqCst);
            if point.is_some_and(|point| point.call == calls && point.edge == edge) {
                shared.killed.store(true, Ordering::SeqCst);
                sys::kill(pid, libc::SIGKILL).context("kill it")?;
                continue; // and do not let it take one more step
            }
        }
        let signal = match stop {
            Stop::Signal(signal) => signal,
            _ => 0,
        };
        // Gone meanwhile: the next wait says so.
        drop(sys::go_on(thread, signal));
    }
}
