//! Packets between namespaces: counted where they arrive.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bailiwick_agent::{
    config::FenceSection,
    fence::{Fence, FenceError},
    fence_service::{Enforcer, Peer},
};
use bailiwick_attestation::proto::v1::FenceEvent;
use prost::Message as _;

use crate::{
    bundle::{message, signed},
    net::{Actor, Net},
    scene::{PROGRAM, Scene},
};

const WORLD: &str = "192.0.2.0/24,DE\n198.51.100.0/24,US\n203.0.113.0/24,FR\n\
                     2001:db8:1::/48,DE\n2001:db8:2::/48,US\n";

const HOST_FENCE: &str = "[[service]]\nname = \"management\"\naddress = \"203.0.113.9/32\"\n\
                          protocol = \"udp\"\nports = \"5000\"\n";

const HERE: [&str; 4] = [
    "10.9.1.1/32",
    "10.9.2.1/32",
    "2001:db8:9::1/128",
    "10.9.3.1/32",
];
const THERE: [&str; 9] = [
    "192.0.2.7/32",
    "198.51.100.7/32",
    "203.0.113.9/32",
    "10.9.1.5/32",
    "10.9.2.5/32",
    "10.8.0.1/32",
    "10.8.1.1/32",
    "2001:db8:1::7/128",
    "2001:db8:2::7/128",
];

/// Two studies. Cardio may reach DE, 10.8.0.0/16 but for 10.8.1.0/24, and management.
pub(crate) struct Stage {
    pub(crate) net: Net,
    pub(crate) fence: Fence,
    /// Last: its file system cannot be unmounted while the fence holds it.
    pub(crate) scene: Scene,
}

impl Stage {
    fn new(test: &str) -> Self {
        Self::with(test, |_| {})
    }

    pub(crate) fn with(test: &str, edit: impl FnOnce(&mut FenceSection)) -> Self {
        let mut scene = Scene::new(test);
        edit(&mut scene.section);
        Self::opened(test, scene, Scene::open)
    }

    /// With a fence that is opened in its own way.
    pub(crate) fn opened(test: &str, scene: Scene, open: impl FnOnce(&Scene) -> Fence) -> Self {
        for cgroup in ["studies/neuro", "other"] {
            fs::create_dir_all(scene.cgroup(cgroup)).unwrap();
        }
        let net = Net::new(test, &HERE, &THERE);
        let fence = open(&scene);
        let mut stage = Self { scene, net, fence };
        stage.apply(1, "enforce", "DE");
        stage
    }

    pub(crate) fn apply(&mut self, version: u64, mode: &str, jurisdiction: &str) {
        self.apply_peers(version, mode, jurisdiction, false);
    }

    fn apply_peers(&mut self, version: u64, mode: &str, jurisdiction: &str, attested: bool) {
        let study = |name: &str, peers: &str| {
            format!(
                "name = \"{name}\"\nmode = \"{mode}\"\n[select]\ncgroups = [{:?}]\n\
                 [allow]\njurisdictions = [\"{jurisdiction}\"]\nprefixes = [\"10.8.0.0/16\"]\n\
                 services = [\"management\"]\n[deny]\nprefixes = [\"10.8.1.0/24\"]\n\
                 [peers]\naddresses = [\"{peers}\"]\nattested = {attested}\n[unattested]\nservices = [\"management\"]\n",
                self.scene.path(&format!("studies/{name}"))
            )
        };
        let (cardio, neuro) = (
            study("cardio", "10.9.1.0/24"),
            study("neuro", "10.9.2.0/24"),
        );
        let files = [
            ("studies/cardio.toml", cardio.as_str()),
            ("studies/neuro.toml", neuro.as_str()),
            ("host-fence.toml", HOST_FENCE),
            ("world.csv", WORLD),
        ];
        let bundle = signed(&self.scene.folder(), version, &files);
        self.fence.apply_policy(&bundle).unwrap();
        self.fence.set_lease_end(u64::MAX).unwrap();
    }

    pub(crate) fn inside(&self, cgroup: &str) -> Actor {
        Actor::new(&self.scene.cgroup(cgroup), &self.net.inside)
    }

    /// Outside of the fence.
    pub(crate) fn world(&self) -> Actor {
        Actor::new(&self.scene.cgroup(".."), &self.net.world)
    }
}

#[test]
fn the_matrix_of_who_reaches_whom() {
    let stage = Stage::new("matrix");
    let mut world = stage.world();
    world.count_at("0.0.0.0:5000");
    world.count_at("[2001:db8:1::7]:5000");
    world.count_at("[2001:db8:2::7]:5000");
    let rows: &[(&str, &str, &str, &str, u64)] = &[
        (
            "allowed jurisdiction",
            "studies/cardio",
            "10.9.1.1",
            "192.0.2.7:5000",
            3,
        ),
        (
            "another",
            "studies/cardio",
            "10.9.1.1",
            "198.51.100.7:5000",
            0,
        ),
        (
            "allowed, IPv6",
            "studies/cardio",
            "[2001:db8:9::1]",
            "[2001:db8:1::7]:5000",
            3,
        ),
        (
            "another, IPv6",
            "studies/cardio",
            "[2001:db8:9::1]",
            "[2001:db8:2::7]:5000",
            0,
        ),
        (
            "IPv4 in an IPv6 socket",
            "studies/cardio",
            "[::]",
            "[::ffff:192.0.2.7]:5000",
            3,
        ),
        (
            "and where it may not",
            "studies/cardio",
            "[::]",
            "[::ffff:198.51.100.7]:5000",
            0,
        ),
        (
            "a service",
            "studies/cardio",
            "10.9.1.1",
            "203.0.113.9:5000",
            3,
        ),
        (
            "the service's next port",
            "studies/cardio",
            "10.9.1.1",
            "203.0.113.9:5001",
            0,
        ),
        (
            "allowed prefix",
            "studies/cardio",
            "10.9.1.1",
            "10.8.0.1:5000",
            3,
        ),
        (
            "denied prefix in it",
            "studies/cardio",
            "10.9.1.1",
            "10.8.1.1:5000",
            0,
        ),
        (
            "its own address elsewhere",
            "studies/cardio",
            "10.9.1.1",
            "10.9.1.5:5000",
            3,
        ),
        (
            "another study's",
            "studies/cardio",
            "10.9.1.1",
            "10.9.2.5:5000",
            0,
        ),
        (
            "the other study, likewise",
            "studies/neuro",
            "10.9.2.1",
            "10.9.1.5:5000",
            0,
        ),
        ("its own", "studies/neuro", "10.9.2.1", "10.9.2.5:5000", 3),
        (
            "no study's cgroup",
            "other",
            "10.9.3.1",
            "192.0.2.7:5000",
            0,
        ),
        ("the fence root itself", "", "10.9.3.1", "192.0.2.7:5000", 0),
    ];
    for (name, cgroup, from, to, want) in rows {
        let said = stage.inside(cgroup).send(&format!("{from}:0"), to);
        let want_said = if *want == 0 {
            "PermissionDenied"
        } else {
            "sent"
        };
        assert_eq!(
            (said.as_str(), world.counted()),
            (want_said, *want),
            "{name}"
        );
    }
}

#[test]
fn a_child_s_cgroup_and_an_inherited_socket_stay_with_the_study() {
    let stage = Stage::new("child");
    let mut world = stage.world();
    world.count_at("0.0.0.0:5000");
    let deep = stage.scene.cgroup("studies/cardio/task/deeper");
    fs::create_dir_all(&deep).unwrap();
    let mut actor = Actor::new(&deep, &stage.net.inside);
    assert_eq!(actor.send("10.9.1.1:0", "192.0.2.7:5000"), "sent");
    assert_eq!(
        actor.send("10.9.1.1:0", "198.51.100.7:5000"),
        "PermissionDenied"
    );
    assert_eq!(world.counted(), 3, "no process was told of this cgroup");
}

#[test]
fn a_connection_is_judged_again_when_the_policy_changes() {
    let mut stage = Stage::new("rejudge");
    let mut world = stage.world();
    world.tell("echo 192.0.2.7:5000");
    world.tell("echo 198.51.100.7:5000");
    let mut cardio = stage.inside("studies/cardio");
    assert_eq!(cardio.tell("connect 198.51.100.7:5000"), "PermissionDenied");
    assert_eq!(cardio.tell("connect 192.0.2.7:5000"), "connected");
    assert_eq!(cardio.tell("ask"), "answered");
    stage.apply(2, "enforce", "FR");
    assert_eq!(
        cardio.tell("ask"),
        "WouldBlock",
        "established means nothing"
    );
    stage.apply(3, "enforce", "DE");
    assert_eq!(cardio.tell("connect 192.0.2.7:5000"), "connected");
    assert_eq!(cardio.tell("ask"), "answered");
}

#[test]
fn the_kernel_ends_a_lease_by_itself() {
    let mut stage = Stage::new("expiry");
    let mut world = stage.world();
    world.count_at("0.0.0.0:5000");
    let mut cardio = stage.inside("studies/cardio");
    let mut reach = |world: &mut Actor, name: &str, want: [u64; 2]| {
        cardio.send("10.9.1.1:0", "192.0.2.7:5000");
        let ours = world.counted();
        cardio.send("10.9.1.1:0", "203.0.113.9:5000");
        assert_eq!([ours, world.counted()], want, "{name}");
    };
    let second = 1_000_000_000;
    stage.fence.set_lease_end(boot_ns() + 2 * second).unwrap();
    reach(&mut world, "attested", [3, 3]);
    while boot_ns() < stage.fence.state().lease_end_boot_ns {
        std::thread::sleep(Duration::from_millis(50));
    }
    reach(&mut world, "management alone", [0, 3]);
    stage.fence.set_lease_end(boot_ns() + 60 * second).unwrap();
    reach(&mut world, "again", [3, 3]);
    stage.fence.set_lease_end(0).unwrap();
    reach(&mut world, "ended early", [0, 3]);
}

#[test]
fn a_peer_counts_while_its_entry_stands_and_is_dropped_afterwards() {
    let mut stage = Stage::new("peers");
    stage.apply_peers(2, "enforce", "DE", true);
    let (mut world, mut cardio) = (stage.world(), stage.inside("studies/cardio"));
    world.count_at("0.0.0.0:5000");
    cardio.count_at("10.9.1.1:5001");
    // What arrives there, and what comes from there.
    let mut reach = |name: &str, want: [u64; 2]| {
        cardio.send("10.9.1.1:0", "10.9.1.5:5000");
        let out = world.counted();
        world.send("10.9.1.5:0", "10.9.1.1:5001");
        assert_eq!([out, cardio.counted()], want, "{name}");
    };
    let peer = |study: &str, address: &str, end_boot_ns| Peer {
        study: study.to_owned(),
        address: address.parse().unwrap(),
        end_boot_ns,
    };
    let second = 1_000_000_000;
    let fence = &mut stage.fence;
    reach("nobody has signed", [0, 0]);
    fence
        .set_peers(vec![peer("cardio", "10.9.1.5", u64::MAX)])
        .unwrap();
    reach("signed", [3, 3]);
    assert_eq!(fence.state().peers_live, 1);
    fence
        .set_peers(vec![peer("neuro", "10.9.1.5", u64::MAX)])
        .unwrap();
    reach("for another study", [0, 0]);
    fence
        .set_peers(vec![peer("cardio", "10.9.1.6", u64::MAX)])
        .unwrap();
    reach("for another address", [0, 0]);

    let end = boot_ns() + 2 * second;
    fence
        .set_peers(vec![peer("cardio", "10.9.1.5", end)])
        .unwrap();
    reach("for two seconds", [3, 3]);
    let many =
        (0..8193).map(|n| peer("cardio", &std::net::Ipv4Addr::from_bits(n).to_string(), end));
    let refused = fence.set_peers(many.collect()).unwrap_err();
    assert!(matches!(
        refused,
        FenceError::Peers {
            found: 8193,
            limit: 8192
        }
    ));
    let fault = fence.state().fault.unwrap();
    assert!(
        fault.contains("8193 addresses of studies on other nodes"),
        "{fault}"
    );
    reach("too many change nothing", [3, 3]);
    while boot_ns() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    reach("the kernel ends it by itself", [0, 0]);
    assert_eq!(fence.state().peers_live, 0);

    fence
        .set_peers(vec![peer("cardio", "10.9.1.5", u64::MAX)])
        .unwrap();
    assert_eq!(fence.state().fault, None);
    stage.apply_peers(3, "enforce", "FR", true);
    reach("under the next policy, too", [3, 3]);
    stage.fence.set_peers(Vec::new()).unwrap();
    reach("left out", [0, 0]);
    stage.apply_peers(4, "enforce", "FR", false);
    reach("a policy that asks for none", [3, 3]);
}

#[test]
fn break_glass_stands_in_for_a_lease_for_the_study_named_until_its_end() {
    let mut stage = Stage::new("glass");
    let mut world = stage.world();
    world.count_at("0.0.0.0:5000");
    let mut cardio = stage.inside("studies/cardio");
    let mut neuro = stage.inside("studies/neuro");
    let mut reach = |name: &str, want: [u64; 2]| {
        cardio.send("10.9.1.1:0", "192.0.2.7:5000");
        let first = world.counted();
        neuro.send("10.9.2.1:0", "192.0.2.7:5000");
        assert_eq!([first, world.counted()], want, "{name}");
    };
    stage.fence.set_lease_end(0).unwrap();
    reach("no lease", [0, 0]);
    let glass = |end| [("cardio".to_owned(), end), ("gone".to_owned(), end)].into();
    let end = boot_ns() + 3_000_000_000;
    stage.fence.set_break_glass(glass(end), &[].into()).unwrap();
    reach("one study", [3, 0]);
    stage.apply(2, "enforce", "DE");
    stage.fence.set_lease_end(0).unwrap();
    reach("under the next policy, too", [3, 0]);
    while boot_ns() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    reach("the kernel ends it by itself", [0, 0]);
    stage
        .fence
        .set_break_glass(glass(u64::MAX), &[].into())
        .unwrap();
    stage.fence.set_break_glass([].into(), &[].into()).unwrap();
    reach("ended early", [0, 0]);
}

#[test]
fn nothing_opens_when_the_process_is_gone() {
    let stage = Stage::new("gone");
    let mut world = stage.world();
    world.count_at("0.0.0.0:5000");
    let mut cardio = stage.inside("studies/cardio");
    let mut check = |world: &mut Actor, name: &str| {
        assert_eq!(
            cardio.send("10.9.1.1:0", "198.51.100.7:5000"),
            "PermissionDenied",
            "{name}"
        );
        assert_eq!(world.counted(), 0, "{name}");
        assert_eq!(
            cardio.send("10.9.1.1:0", "192.0.2.7:5000"),
            "sent",
            "{name}"
        );
        assert_eq!(world.counted(), 3, "{name}");
    };
    check(&mut world, "before");
    let Stage {
        scene,
        fence,
        net: _net,
    } = stage;
    drop(fence);
    check(&mut world, "with nobody there");
    let again = scene.open();
    check(&mut world, "taken over");
    drop((again, cardio, world));
}

#[test]
fn on_the_loopback_device_studies_do_not_meet() {
    let stage = Stage::new("loopback");
    let mut server = stage.inside("studies/cardio");
    server.count_at("127.0.0.1:6000");
    server.count_at("[::1]:6000");
    server.count_at("10.9.1.1:6000");
    server.tell("echo 127.0.0.1:6001");
    let mut stranger = stage.inside("other");
    let mut same = stage.inside("studies/cardio");
    let mut neuro = stage.inside("studies/neuro");
    let mut outside = Actor::new(&stage.scene.cgroup(".."), &stage.net.inside);
    for (from, to) in [
        ("127.0.0.1:0", "127.0.0.1:6000"),
        ("[::1]:0", "[::1]:6000"),
        ("10.9.1.1:0", "10.9.1.1:6000"),
    ] {
        assert_eq!(same.send(from, to), "sent", "{to}");
        assert_eq!(server.counted(), 3, "{to}");
        assert_eq!(neuro.send(from, to), "PermissionDenied", "{to}");
        assert_eq!(stranger.send(from, to), "PermissionDenied", "{to}");
        // Not fenced itself, so it sends; what it sends is denied on the way in.
        assert_eq!(outside.send(from, to), "sent", "{to}");
        assert_eq!(server.counted(), 0, "{to}");
    }
    assert_eq!(same.tell("connect 127.0.0.1:6001"), "connected");
    assert_eq!(same.tell("ask"), "answered");
    assert_eq!(neuro.tell("connect 127.0.0.1:6001"), "TimedOut");
    assert_eq!(outside.tell("connect 127.0.0.1:6001"), "TimedOut");
    assert_eq!(
        same.tell("connect 127.0.0.1:6002"),
        "ConnectionRefused",
        "nobody listens"
    );
}

#[test]
fn what_comes_in_is_judged_by_its_source() {
    let stage = Stage::new("ingress");
    let mut cardio = stage.inside("studies/cardio");
    cardio.count_at("10.9.1.1:7000");
    let mut world = stage.world();
    for (from, want) in [
        ("192.0.2.7:0", 3),
        ("198.51.100.7:0", 0),
        ("10.9.1.5:0", 3),
        ("10.9.2.5:0", 0),
        ("203.0.113.9:5000", 3),
        ("203.0.113.9:5001", 0),
    ] {
        assert_eq!(world.send(from, "10.9.1.1:7000"), "sent", "{from}");
        assert_eq!(cardio.counted(), want, "{from}");
    }
}

/// The real process this time, killed while a study tries what it may not.
#[test]
fn no_packet_gets_out_while_the_process_is_killed_and_started() {
    let scene = Scene::new("sigkill");
    let net = Net::new("sigkill", &HERE, &THERE);
    let mut world = Actor::new(&scene.cgroup(".."), &net.world);
    world.count_at("0.0.0.0:5000");
    let config = keep_policy(&scene);
    let start = || {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(&config).arg("fence");
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    // Without a lease, so management passes as soon as the policy is in force.
    let mut cardio = Actor::new(&scene.cgroup("studies/cardio"), &net.inside);
    let mut in_force = |world: &mut Actor| {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if cardio.send("10.9.1.1:0", "203.0.113.9:5000") == "sent" {
                return assert_eq!(world.counted(), 3);
            }
            assert!(Instant::now() < end, "the policy is not in force");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut process = start();
    while cardio_passes_unfenced(&scene, &net) {
        std::thread::sleep(Duration::from_millis(20));
    }
    in_force(&mut world);

    let mut flooding = Actor::new(&scene.cgroup("studies/cardio"), &net.inside);
    flooding.begin("flood 10.9.1.1:0 198.51.100.7:5000 4000");
    for _ in 0..2 {
        process.kill().unwrap();
        process.wait().unwrap();
        in_force(&mut world);
        process = start();
        std::thread::sleep(Duration::from_millis(700));
    }
    let tries: u64 = flooding.answer().parse().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(tries > 1000, "{tries} tries");
    in_force(&mut world);
    assert_eq!(world.counted(), 0, "of {tries} tries");
    drop((flooding, cardio, world));
}

/// Whether a socket in the study's cgroup may still send anywhere.
fn cardio_passes_unfenced(scene: &Scene, net: &Net) -> bool {
    let mut actor = Actor::new(&scene.cgroup("studies/cardio"), &net.inside);
    // To nobody: the address is on the wire, the port is not counted.
    actor.send("10.9.1.1:0", "198.51.100.7:9") == "sent"
}

/// What a process that was here before has kept: the policy, and a configuration beside it.
fn keep_policy(scene: &Scene) -> PathBuf {
    let study = format!(
        "name = \"cardio\"\nmode = \"enforce\"\n[select]\ncgroups = [{:?}]\n\
         [unattested]\nservices = [\"management\"]\n",
        scene.path("studies/cardio")
    );
    let files = [
        ("studies/cardio.toml", study.as_str()),
        ("host-fence.toml", HOST_FENCE),
        ("world.csv", WORLD),
    ];
    let folder = scene.folder();
    let (message, signers) = message(&folder, 1, &files);
    let state = folder.join("state");
    fs::create_dir_all(state.join("fence")).unwrap();
    fs::write(state.join("fence/policy"), message.encode_to_vec()).unwrap();
    fs::write(folder.join("allowed_signers"), signers).unwrap();
    let section = &scene.section;
    let text = format!(
        "deployment = \"demo\"\nnode = \"n\"\nstate_dir = {state:?}\n\
         [collector]\nenroll = \"localhost:1\"\nevidence = \"localhost:1\"\n\
         [policy]\napprovers = {:?}\nthreshold = 1\n\
         [fence]\nroot = {:?}\nwhole_host = false\nbpffs = {:?}\nsocket = {:?}\n\
         measured = false\n",
        folder.join("allowed_signers"),
        section.root,
        section.bpffs,
        section.socket
    );
    let file = folder.join("agent.toml");
    fs::write(&file, text).unwrap();
    file
}

fn event<'a>(events: &'a [FenceEvent], rule: &str) -> &'a FenceEvent {
    let found = events.iter().find(|event| event.rule == rule);
    found.unwrap_or_else(|| panic!("no event says {rule}: {events:?}"))
}

#[test]
fn a_denial_tells_who_where_and_why() {
    let mut stage = Stage::new("event");
    drop(stage.fence.drain_events());
    let before = stage.fence.state().counters;
    let mut cardio = stage.inside("studies/cardio");
    for _ in 0..5 {
        cardio.send("10.9.1.1:1234", "198.51.100.7:5000");
    }
    cardio.send("10.9.1.1:0", "10.9.2.5:5000");
    let (events, lost) = stage.fence.drain_events();
    assert_eq!(lost, 0);
    let denied = event(&events, "jurisdiction");
    assert_eq!(
        (denied.study.as_str(), denied.verdict.as_str()),
        ("cardio", "deny")
    );
    assert_eq!(
        (denied.direction.as_str(), denied.jurisdiction.as_str()),
        ("egress", "US")
    );
    assert_eq!(denied.source, [10, 9, 1, 1]);
    assert_eq!(denied.destination, [198, 51, 100, 7]);
    assert_eq!(
        (denied.protocol, denied.source_port, denied.destination_port),
        (17, 1234, 5000)
    );
    assert_eq!(denied.cgroup, stage.scene.path("studies/cardio"));
    assert_eq!(event(&events, "other-study").destination, [10, 9, 2, 5]);
    // One flow, one event within a second; the counters have every packet.
    let of_flow = events
        .iter()
        .filter(|event| event.rule == "jurisdiction")
        .count();
    assert!(of_flow <= 2, "{events:?}");
    let counted = stage.fence.state().counters["egress.denied"] - before["egress.denied"];
    assert_eq!(counted, 6);
}

#[test]
fn audit_reports_what_it_lets_pass() {
    let mut stage = Stage::new("audit");
    stage.apply(2, "audit", "DE");
    drop(stage.fence.drain_events());
    let mut world = stage.world();
    world.count_at("0.0.0.0:5000");
    let mut cardio = stage.inside("studies/cardio");
    assert_eq!(cardio.send("10.9.1.1:0", "198.51.100.7:5000"), "sent");
    assert_eq!(world.counted(), 3);
    let (events, _) = stage.fence.drain_events();
    assert_eq!(event(&events, "jurisdiction").verdict, "audit");
    assert_eq!(
        cardio.send("10.9.1.1:0", "10.9.2.5:5000"),
        "PermissionDenied",
        "another study"
    );
    stage.fence.set_lease_end(0).unwrap();
    assert_eq!(
        cardio.send("10.9.1.1:0", "198.51.100.7:5000"),
        "PermissionDenied",
        "no lease"
    );
    assert_eq!(world.counted(), 0);
}

fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}
