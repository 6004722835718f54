//! What a demo makes on the machine, and how all of it goes away again.
//!
//! Everything lies below one folder, `/run/bailiwick-demo/PID-N`, and its file `made` names what
//! lies elsewhere before it is made. Whoever starts next clears what a crashed run left. Children
//! die with the thread that started them.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cmd::{self, step};
use crate::install::capability;

/// Only root writes here, so nobody else can tell us what to remove.
const HOME: &str = "/run/bailiwick-demo";

static OPENED: AtomicU32 = AtomicU32::new(0);

/// One run's folder and list. Dropping it removes everything.
#[derive(Debug)]
pub struct Scene {
    dir: PathBuf,
    name: String,
    cgroup: PathBuf,
    made: File,
    interrupted: Arc<AtomicBool>,
}

impl Scene {
    /// Clears what dead runs left, then makes a folder, a cgroup and a BPF file system of our own.
    pub fn open() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The second signal finds a broken cleanup, and ends us the hard way.
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
                .context("watch for Ctrl-C")?;
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .context("watch for Ctrl-C")?;
        }
        clear_dead_runs()?;
        let pid = std::process::id();
        // A test program may hold several scenes.
        let id = format!("{pid}-{}", OPENED.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(HOME).join(&id);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("make {}", dir.display()))?;
        fs::write(dir.join("started"), started(pid)?).context("note when this run began")?;
        let made = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(dir.join("made"))
            .context("open the list of what is made")?;
        let name = format!("bailiwick-demo-{id}");
        let cgroup = capability::cgroup2_mount()?.join(&name);
        let mut scene = Self {
            dir,
            name,
            cgroup,
            made,
            interrupted,
        };
        scene.note("cgroup", &scene.cgroup.display().to_string())?;
        fs::create_dir(&scene.cgroup)
            .with_context(|| format!("make the cgroup {}", scene.cgroup.display()))?;
        let bpffs = scene.path("bpf");
        scene.note("mount", &bpffs.display().to_string())?;
        fs::create_dir(&bpffs).context("make a folder for pins")?;
        cmd::run(cmd::command("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs))?;
        Ok(scene)
    }

    /// A place in the run's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The fence root, as a path from the cgroup v2 mount.
    pub fn fence_root(&self) -> String {
        format!("/{}", self.name)
    }

    /// The fence root in the file system.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A network namespace of ours; `ip` and `nsenter` find it below `/run/netns`.
    pub fn namespace(&mut self, short: &str) -> Result<String> {
        let run = self.name.trim_start_matches("bailiwick-demo-");
        let name = format!("bwd{run}-{short}");
        self.note("netns", &name)?;
        cmd::run(cmd::command("ip").args(["netns", "add", &name]))?;
        // Nobody else is on these links: no second is spent on asking whether an address is free.
        cmd::run(
            cmd::command("nsenter")
                .arg(format!("--net=/run/netns/{name}"))
                .args([
                    "sh",
                    "-c",
                    "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad",
                ]),
        )?;
        Ok(name)
    }

    /// Ends every process of the fence root, as a power cut would.
    pub fn kill_workloads(&self) -> Result<()> {
        kill_cgroup(&self.cgroup)
    }

    /// Drops the pins, which no reboot survives.
    pub fn drop_pins(&self) -> Result<()> {
        let bpffs = self.path("bpf");
        cmd::run(cmd::command("umount").arg(&bpffs))?;
        cmd::run(cmd::command("mount").args(["-t", "bpf", "bpf"]).arg(&bpffs))
    }

    /// Fails after Ctrl-C; every wait and every act passes through here.
    pub fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits for a value, asking again until `limit`; the last answer's words are in the error.
    pub fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            self.go_on()?;
            match look() {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
                }
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn note(&mut self, kind: &str, what: &str) -> Result<()> {
        writeln!(self.made, "{kind} {what}").context("note what is made")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.dir) {
            step(format_args!(
                "could not clean up {}: {error:#}",
                self.dir.display()
            ));
        }
    }
}

/// Removes what runs left whose process is gone.
fn clear_dead_runs() -> Result<()> {
    let Ok(runs) = fs::read_dir(HOME) else {
        return Ok(());
    };
    for run in runs.flatten() {
        let name = run.file_name().to_string_lossy().into_owned();
        let pid = name
            .split_once('-')
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        let then = fs::read_to_string(run.path().join("started")).unwrap_or_default();
        // A number may have been given again: the same process began at the same time.
        if started(pid).is_ok_and(|now| then.is_empty() || now == then) {
            continue;
        }
        step(format_args!("clearing what the crashed run {pid} left"));
        clear(&run.path())?;
    }
    Ok(())
}

/// When a process began, in the kernel's ticks; fails if there is no such process.
fn started(pid: u32) -> Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("no such process")?;
    // The name, in parentheses, may hold anything; the 22nd field is the 20th after it.
    let after = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest)
        .context("read a process's stat")?;
    let ticks = after.split_whitespace().nth(19).context("no start time")?;
    Ok(ticks.to_owned())
}

/// Takes back what the list names, newest first, then the folder.
fn clear(dir: &Path) -> Result<()> {
    let list = fs::read_to_string(dir.join("made")).unwrap_or_default();
    for line in list.lines().rev() {
        let (kind, what) = line
            .split_once(' ')
            .with_context(|| format!("read {line:?}"))?;
        match kind {
            "cgroup" => remove_cgroup(Path::new(what))?,
            "netns" => {
                if Path::new("/run/netns").join(what).exists() {
                    cmd::run(Command::new("ip").args(["netns", "delete", what]))?;
                }
            }
            "mount" => {
                // Nothing is mounted there if the run died in between.
                drop(cmd::output(cmd::command("umount").args(["--lazy", what])));
            }
            _ => bail!("{}: unknown kind {kind:?}", dir.display()),
        }
    }
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

fn kill_cgroup(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    fs::write(cgroup.join("cgroup.kill"), "1").context("kill a cgroup")?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::read_to_string(cgroup.join("cgroup.events"))
        .is_ok_and(|text| text.contains("populated 1"))
    {
        if Instant::now() >= deadline {
            bail!("processes in {} do not end", cgroup.display());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn remove_cgroup(cgroup: &Path) -> Result<()> {
    kill_cgroup(cgroup)?;
    remove_tree(cgroup)
}

/// A cgroup's files cannot be removed, its folders can, from the leaves up.
fn remove_tree(cgroup: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(cgroup) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup).with_context(|| format!("remove the cgroup {}", cgroup.display()))
}
