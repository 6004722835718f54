//! Devices by study: opened and denied by number, held by one study at a time, given back.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bailiwick_agent::{fence::Fence, fence_service::Enforcer};
use bailiwick_attestation::proto::v1::{
    FenceEvent,
    fence_state::{DeviceHolder, HeldDevice},
};

use crate::{
    bundle,
    scene::{Scene, run_in},
};

#[path = "proven.rs"]
mod proven;

/// Of a driver that nobody has: an open that is allowed says ENXIO.
const UVM: u32 = 511;
const DENIED: &str = "Operation not permitted";
const NOBODY: &str = "No such device or address";

/// A fence on a host with two GPUs, of which `/dev/full` is the first one's display driver: a
/// device that can be held where there is no hardware.
struct Host {
    scene: Scene,
    nodes: PathBuf,
}

impl Host {
    fn new(test: &str) -> Self {
        let mut scene = Scene::new(test);
        fs::create_dir_all(scene.cgroup("studies/neuro")).unwrap();
        let drivers = scene.folder().join("drivers");
        let write = |path: &str, text: &str| {
            let path = drivers.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let list = fs::read_to_string("/proc/devices").unwrap();
        let ours = format!("Character devices:\n195 nvidia\n{UVM} nvidia-uvm\n");
        write("proc/devices", &list.replace("Character devices:\n", &ours));
        write("proc/misc", &fs::read_to_string("/proc/misc").unwrap());
        for gpu in 0..2 {
            let about = format!("Device Minor: {gpu}\n");
            write(
                &format!("proc/driver/nvidia/gpus/0000:0{gpu}:00.0/information"),
                &about,
            );
        }
        write(
            "sys/bus/pci/devices/0000:00:00.0/drm/renderD128/dev",
            "1:7\n",
        );
        scene.section.drivers = drivers;
        scene.section.device_idle_seconds = 0;
        let nodes = scene.folder().join("nodes");
        fs::create_dir_all(&nodes).unwrap();
        Self { scene, nodes }
    }

    fn node(&self, major: u32, minor: u32) -> PathBuf {
        let node = self.nodes.join(format!("{major}-{minor}"));
        if !node.exists() {
            let numbers = [major.to_string(), minor.to_string()];
            let made = Command::new("mknod")
                .arg(&node)
                .arg("c")
                .args(&numbers)
                .status();
            assert!(made.unwrap().success());
        }
        node
    }

    /// What a process of this cgroup is told when it opens a device.
    fn open(&self, below: &str, major: u32, minor: u32) -> String {
        let node = self.node(major, minor);
        let script = "read x; exec 3<\"$1\" && echo opened";
        let out = run_in(
            &self.scene.cgroup(below),
            "sh",
            &["-c", script, "sh", node.to_str().unwrap()],
        );
        let said = if out.stdout.is_empty() {
            out.stderr
        } else {
            out.stdout
        };
        let said = String::from_utf8(said).unwrap();
        said.trim_end().rsplit(": ").next().unwrap().to_owned()
    }

    /// A process of this cgroup that has a device open.
    fn hold(&self, below: &str, major: u32, minor: u32) -> Holding {
        let node = self.node(major, minor);
        let mut child = Command::new("sh")
            .args([
                "-c",
                "echo $$ > \"$1/cgroup.procs\"; exec 3<\"$2\"; echo opened; read x",
            ])
            .arg("sh")
            .arg(self.scene.cgroup(below))
            .arg(node)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "opened\n");
        Holding(child)
    }

    fn study(&self, name: &str, devices: &str) -> (String, String) {
        let text = format!(
            "name = \"{name}\"\nmode = \"enforce\"\nallow.prefixes = [\"192.0.2.0/24\"]\n[select]\ncgroups = [{:?}]\n[devices]\n{devices}",
            self.scene.path(&format!("studies/{name}"))
        );
        (format!("studies/{name}.toml"), text)
    }

    /// Puts a policy in force, with these devices for the two studies.
    fn policy(&self, fence: &mut Fence, version: u64, cardio: &str, neuro: &str) {
        let studies = [self.study("cardio", cardio), self.study("neuro", neuro)];
        let world = ("world.csv", "192.0.2.0/24,DE\n");
        let files: Vec<(&str, &str)> = studies
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .chain([world])
            .collect();
        let bundle = bundle::signed(&self.scene.folder(), version, &files);
        fence.apply_policy(&bundle).unwrap();
    }
}

struct Holding(Child);

impl Holding {
    fn release(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }

    /// Killed by somebody, and reaped.
    fn gone(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Reconciles until what is wanted is so.
fn until(fence: &mut Fence, what: &str, mut wanted: impl FnMut(&mut Fence) -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        fence.reconcile().unwrap();
        if wanted(fence) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {:?}", fence.state().devices);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn full(fence: &mut Fence) -> Option<HeldDevice> {
    let devices = fence.state().devices;
    devices.into_iter().find(|held| held.device == "gpu 1:7")
}

fn events(fence: &mut Fence) -> Vec<(String, String, String, String)> {
    let told = |event: FenceEvent| (event.study, event.device, event.rule, event.hook);
    fence.drain_events().0.into_iter().map(told).collect()
}

fn told(study: &str, device: &str, rule: &str, hook: &str) -> (String, String, String, String) {
    (
        study.to_owned(),
        device.to_owned(),
        rule.to_owned(),
        hook.to_owned(),
    )
}

#[test]
fn governed_devices_are_opened_where_the_policy_says_and_nowhere_else() {
    let host = Host::new("devices");
    assert_eq!(host.open("studies/cardio", 195, 0), NOBODY, "before");
    let mut fence = host.scene.open();
    for (major, minor, want) in [
        (195, 0, DENIED),
        (195, 255, DENIED),
        (231, 192, DENIED),
        (10, 196, DENIED),
        (UVM, 0, DENIED),
        (1, 7, DENIED),
        (1, 3, "opened"),
        (240, 0, NOBODY),
    ] {
        let said = host.open("studies/cardio", major, minor);
        assert_eq!(said, want, "{major}:{minor}, no policy");
    }
    host.policy(
        &mut fence,
        1,
        "gpus = [\"1\"]\nnodes = [\"nvidia-uvm\"]\n",
        "gpus = [\"1\"]\nunattested = true\n",
    );
    // Cgroup, device; without a lease, and with one.
    let rows: &[(&str, u32, u32, &str, &str)] = &[
        ("studies/cardio", 195, 1, DENIED, NOBODY),
        ("studies/cardio", 195, 255, DENIED, NOBODY),
        ("studies/cardio", UVM, 0, DENIED, NOBODY),
        ("studies/cardio", UVM, 1, DENIED, DENIED),
        ("studies/cardio", 195, 0, DENIED, DENIED),
        ("studies/cardio", 195, 254, DENIED, DENIED),
        ("studies/cardio", 1, 7, DENIED, DENIED),
        ("studies/cardio", 231, 192, DENIED, DENIED),
        // A driver that came a moment ago; neither is /dev/null.
        ("studies/cardio", 240, 0, DENIED, DENIED),
        ("studies/cardio", 1, 3, "opened", "opened"),
        ("studies/neuro", 195, 255, NOBODY, NOBODY),
        ("studies/neuro", UVM, 0, DENIED, DENIED),
        ("studies", 195, 1, DENIED, DENIED),
        ("studies", 240, 0, NOBODY, NOBODY),
        ("..", 195, 1, NOBODY, NOBODY),
    ];
    for (cgroup, major, minor, without, _) in rows {
        let said = host.open(cgroup, *major, *minor);
        assert_eq!(said, *without, "{cgroup} {major}:{minor}, no lease");
    }
    fence.set_lease_end(u64::MAX).unwrap();
    for (cgroup, major, minor, _, with) in rows {
        let said = host.open(cgroup, *major, *minor);
        assert_eq!(said, *with, "{cgroup} {major}:{minor}");
    }
    // A child of the study's, made by whomever; and a node by any name.
    fs::create_dir(host.scene.cgroup("studies/cardio/task")).unwrap();
    assert_eq!(host.open("studies/cardio/task", 195, 1), NOBODY);
    assert_eq!(host.open("studies/cardio/task", 195, 0), DENIED);
    let renamed = host.nodes.join("harmless");
    fs::rename(host.node(195, 0), &renamed).unwrap();
    let script = "read x; exec 3<\"$1\" && echo opened";
    let cgroup = host.scene.cgroup("studies/cardio");
    let out = run_in(
        &cgroup,
        "sh",
        &["-c", script, "sh", renamed.to_str().unwrap()],
    );
    assert!(String::from_utf8(out.stderr).unwrap().contains(DENIED));

    let seen = events(&mut fence);
    for want in [
        told("", "gpu 195:0", "no-policy", "cgroup/dev"),
        told("", "gpu 195:1", "no-subject", "cgroup/dev"),
        told("cardio", "gpu 195:1", "no-lease", "cgroup/dev"),
        told("cardio", "gpu 195:0", "device-not-granted", "cgroup/dev"),
        told(
            "cardio",
            "unknown 240:0",
            "device-unknown-driver",
            "cgroup/dev",
        ),
        told(
            "neuro",
            "gpu-memory 511:0",
            "device-not-granted",
            "cgroup/dev",
        ),
    ] {
        assert!(seen.contains(&want), "{want:?} is not in {seen:?}");
    }
    let state = fence.state();
    assert_eq!(state.fault, None);
    assert!(state.counters["devices.denied"] > 20);
    assert!(
        state
            .maps
            .iter()
            .any(|map| map.name == "DEVICES" && map.digest.len() == 32)
    );
    assert_eq!(state.devices_unmet, Vec::<String>::new());
}

#[test]
fn a_driver_that_comes_is_governed_and_granted() {
    let host = Host::new("drivers");
    let mut fence = host.scene.open();
    host.policy(
        &mut fence,
        1,
        "nodes = [\"nvidia-cap7\"]\nunattested = true\n",
        "",
    );
    assert_eq!(fence.state().devices_unmet, ["cardio: nvidia-cap7"]);
    assert_eq!(host.open("studies/cardio", 400, 7), DENIED, "not known yet");
    assert_eq!(host.open("studies", 400, 7), NOBODY, "not governed yet");
    let list = host.scene.section.drivers.join("proc/devices");
    let text = fs::read_to_string(&list).unwrap();
    let more = text.replace("195 nvidia\n", "195 nvidia\n400 nvidia-caps\n");
    fs::write(&list, &more).unwrap();
    fence.reconcile().unwrap();
    assert_eq!(fence.state().devices_unmet, Vec::<String>::new());
    assert_eq!(host.open("studies/cardio", 400, 7), NOBODY);
    assert_eq!(host.open("studies/cardio", 400, 8), DENIED);
    assert_eq!(host.open("studies", 400, 7), DENIED);
    assert_eq!(fence.state().fault, None);
}

#[test]
fn a_gpu_is_one_studys_until_nobody_holds_it() {
    let host = Host::new("owner");
    let mut fence = host.scene.open();
    let gpu = "gpus = [\"0\"]\nunattested = true\n";
    host.policy(&mut fence, 1, gpu, gpu);
    let first = host.hold("studies/cardio", 1, 7);
    assert_eq!(host.open("studies/neuro", 1, 7), "Operation not permitted");
    assert_eq!(
        host.open("studies/neuro", 195, 0),
        DENIED,
        "the same GPU by its own node"
    );
    assert_eq!(
        host.open("studies/neuro", 195, 255),
        NOBODY,
        "what all share"
    );
    let second = host.hold("studies/cardio", 1, 7);
    let seen = events(&mut fence);
    assert!(
        seen.contains(&told("neuro", "gpu 1:7", "device-held", "cgroup/dev")),
        "{seen:?}"
    );

    until(&mut fence, "two processes hold it", |fence| {
        full(fence).is_some_and(|held| held.holders.iter().any(|it| it.processes == 2))
    });
    let held = full(&mut fence).unwrap();
    assert_eq!(
        (held.owner.as_str(), held.changing_hands),
        ("cardio", false)
    );
    let holder = DeviceHolder {
        subject: "cardio".to_owned(),
        processes: 2,
        standing: "device-granted".to_owned(),
    };
    assert_eq!(held.holders, [holder]);

    // Holders count, not openers: one of two goes, and a policy numbers the studies anew.
    first.release();
    host.policy(&mut fence, 2, gpu, gpu);
    for _ in 0..8 {
        fence.reconcile().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(host.open("studies/neuro", 1, 7), DENIED);
    }
    // So does the process that has it, and its agent.
    drop(fence);
    assert_eq!(host.open("studies/neuro", 1, 7), DENIED, "nobody tends it");
    let mut fence = host.scene.open();
    host.policy(&mut fence, 3, gpu, gpu);
    assert_eq!(host.open("studies/neuro", 1, 7), DENIED);
    second.release();
    until(&mut fence, "it is free", |fence| {
        full(fence).is_none() && fence.state().devices.is_empty()
    });
    let third = host.hold("studies/neuro", 1, 7);
    assert_eq!(host.open("studies/cardio", 1, 7), DENIED);
    until(&mut fence, "the other has it", |fence| {
        full(fence).is_some_and(|held| held.owner == "neuro" && !held.holders.is_empty())
    });
    third.release();
}

#[test]
fn a_gpu_opened_before_the_fence_stood_belongs_to_whoever_holds_it() {
    let host = Host::new("before");
    let holding = host.hold("studies/cardio", 1, 7);
    let mut fence = host.scene.open();
    let gpu = "gpus = [\"0\"]\nunattested = true\n";
    host.policy(&mut fence, 1, gpu, gpu);
    until(&mut fence, "it is found", |fence| {
        full(fence).is_some_and(|held| held.owner == "cardio")
    });
    assert_eq!(host.open("studies/neuro", 1, 7), DENIED);
    holding.release();
}

#[test]
fn an_allowance_that_ends_closes_nothing_unless_the_policy_says_stop() {
    let host = Host::new("stop");
    let mut fence = host.scene.open();
    let gpu = |rest: &str| format!("gpus = [\"0\"]\n{rest}");
    host.policy(&mut fence, 1, &gpu("on_failure = \"stop\"\n"), "");
    fence.set_lease_end(u64::MAX).unwrap();
    let mut holding = host.hold("studies/cardio", 1, 7);
    let standing = |fence: &mut Fence| {
        let held = full(fence)?;
        held.holders.first().map(|holder| holder.standing.clone())
    };
    until(&mut fence, "held", |fence| {
        standing(fence).as_deref() == Some("device-granted")
    });
    assert!(!holding.gone());

    // The lease ends, and the policy says stop.
    fence.set_lease_end(0).unwrap();
    until(&mut fence, "stopped", |_| holding.gone());
    let seen = events(&mut fence);
    let want = told("cardio", "gpu 1:7", "device-holder-stopped", "cgroup/dev");
    assert!(seen.contains(&want), "{seen:?}");
    // The cgroup can be used again, and other studies were left alone.
    until(&mut fence, "thawed", |_| {
        let frozen = host.scene.cgroup("studies/cardio").join("cgroup.freeze");
        fs::read_to_string(frozen).unwrap() == "0\n"
    });
    assert_eq!(host.open("studies/cardio", 1, 3), "opened");
    assert_eq!(host.open("studies/cardio", 1, 7), DENIED);

    // The same, where it says deny: what is open stays open, and is told.
    host.policy(
        &mut fence,
        2,
        "",
        &gpu("on_failure = \"deny\"\nunattested = true\n"),
    );
    until(&mut fence, "free", |fence| fence.state().devices.is_empty());
    let mut holding = host.hold("studies/neuro", 1, 7);
    host.policy(&mut fence, 3, "", "on_failure = \"deny\"\n");
    until(&mut fence, "told", |fence| {
        standing(fence).as_deref() == Some("device-not-granted")
    });
    for _ in 0..5 {
        fence.reconcile().unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!holding.gone(), "denying closes nothing");
    assert_eq!(host.open("studies/neuro", 1, 7), DENIED);
    holding.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
}

#[test]
fn raw_sockets_are_made_where_the_policy_says() {
    let host = Host::new("raw");
    let raw = |below: &str| {
        // Family, type and protocol of each; perl is part of every Debian.
        let script = "<STDIN>; for (['raw', 2, 3, 1], ['raw6', 10, 3, 58], ['ping', 2, 2, 1], \
                      ['tcp', 2, 1, 0]) { my ($name, @of) = @$_; \
                      my $made = socket(my $socket, $of[0], $of[1], $of[2]); \
                      print $name, $made ? '' : ' ' . ($! + 0), qq(\\n) }";
        let out = run_in(&host.scene.cgroup(below), "perl", &["-e", script]);
        String::from_utf8(out.stdout).unwrap().replace('\n', ";")
    };
    let before = raw("studies/cardio");
    assert!(before.starts_with("raw;raw6;"), "{before}");
    let denied = before.replace("raw;raw6;", "raw 1;raw6 1;");
    let mut fence = host.scene.open();
    assert_eq!(raw("studies/cardio"), denied, "no policy");
    host.policy(&mut fence, 1, "raw_sockets = true\n", "");
    for (cgroup, want) in [
        ("studies/cardio", &before),
        ("studies/neuro", &denied),
        ("studies", &denied),
        ("..", &before),
    ] {
        assert_eq!(raw(cgroup), *want, "{cgroup}");
    }
    let seen = events(&mut fence);
    let want = told(
        "neuro",
        "raw-socket 2:1",
        "device-not-granted",
        "cgroup/sock_create",
    );
    assert!(seen.contains(&want), "{seen:?}");
    assert!(fence.state().counters["sockets.denied"] >= 6);
}
