//! What root writes into the kernel past the agent: tried, put back, told.

use std::{fs, os::fd::OwnedFd};

use bailiwick_ebpf_common::{Plain, peers::PeerKey};

use super::*;
use crate::{
    fence_service::Enforcer,
    sys::{hash, ids},
};

/// `BPF_PROG_TYPE_CGROUP_SKB`
const CGROUP_SKB: u32 = 8;

struct Stage {
    cgroup: PathBuf,
    dir: tempfile::TempDir,
    section: FenceSection,
    fence: Option<Fence>,
}

impl Stage {
    fn new(test: &str) -> Self {
        let hierarchy = Hierarchy::find().unwrap();
        let name = format!("bailiwick-test-{}-{test}", std::process::id());
        let cgroup = hierarchy.mount().join(&name);
        fs::create_dir_all(cgroup.join("cardio")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let section = FenceSection {
            root: PathBuf::from(format!("/{name}")),
            whole_host: false,
            bpffs: dir.path().join("bpf"),
            socket: dir.path().join("fence.sock"),
            ..FenceSection::default()
        };
        Self {
            cgroup,
            dir,
            section,
            fence: None,
        }
    }

    fn open(&mut self) -> &mut Fence {
        self.fence = None;
        let fence = Fence::open(&self.section, Recorder::default()).unwrap();
        self.fence.insert(fence)
    }

    fn apply(&mut self, version: u64, place: &str) {
        let root = self.section.root.display();
        let study = format!(
            "name = \"cardio\"\nmode = \"enforce\"\n[select]\ncgroups = [\"{root}/cardio\"]\n\
             [allow]\njurisdictions = [\"{place}\"]\n"
        );
        let world = format!("192.0.2.0/24,{place}\n");
        let files = [
            ("studies/cardio.toml", study.as_str()),
            ("world.csv", world.as_str()),
        ];
        let policy = bundle::signed(self.dir.path(), version, &files);
        self.fence.as_mut().unwrap().apply_policy(&policy).unwrap();
    }

    /// A map as root opens it: by its pin.
    fn pin(&self, name: &str) -> PathBuf {
        let version = format!("v{}", bailiwick_ebpf_common::abi::ABI);
        self.section.bpffs.join(version).join("maps").join(name)
    }

    fn map(&self, name: &str) -> OwnedFd {
        bpf::open_pin(&self.pin(name)).unwrap().unwrap()
    }

    fn in_force(&self, name: &'static str) -> Option<u32> {
        image::in_force(&self.map(name), name).unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.fence.take());
        drop(Fence::remove_pins(&self.section));
        drop(fs::remove_dir(self.cgroup.join("cardio")));
        drop(fs::remove_dir(&self.cgroup));
    }
}

/// Table or hook, and what was said of it.
fn told(fence: &mut Fence) -> Vec<(String, String)> {
    let (events, _) = fence.drain_events();
    let events = events.into_iter().filter(|event| !event.change.is_empty());
    events
        .map(|event| ([event.hook, event.device].concat(), event.change))
        .collect()
}

#[test]
fn what_root_writes_is_put_back_and_told() {
    let mut stage = Stage::new("written");
    let (_, allowed) = bundle::message(stage.dir.path(), 9, &[]);
    assert!(allowed.starts_with("alice "));
    stage.open();
    stage.apply(1, "FR");
    let old = |stage: &Stage, name| ids::map(stage.in_force(name).unwrap()).unwrap().unwrap();
    let (rules, world) = (old(&stage, "POLICY"), old(&stage, "WORLD"));
    stage.apply(2, "DE");
    let fence = stage.fence.as_mut().unwrap();
    fence.set_lease_end(5).unwrap();
    fence.reconcile().unwrap();
    assert_eq!(told(fence), [], "nothing of its own");
    let sound = fence.state();
    assert_eq!((&sound.fault, sound.counters["tables.mended"]), (&None, 0));

    type Attack<'a> = &'a dyn Fn(&Stage);
    let rows: &[(&str, &str, &str, Attack<'_>)] = &[
        (
            "an older policy",
            "POLICY",
            "held map N (\"POLICY\", policy version 1, sha256 ",
            &|stage| bpf::set_inner(stage.map("POLICY").as_fd(), 0, rules.as_fd()).unwrap(),
        ),
        (
            "an older map of the world",
            "WORLD",
            "held map N (\"WORLD\")",
            &|stage| bpf::set_inner(stage.map("WORLD").as_fd(), 0, world.as_fd()).unwrap(),
        ),
        ("no policy", "POLICY", "was emptied", &|stage| {
            bpf::clear(stage.map("POLICY").as_fd(), 0).unwrap();
        }),
        ("no device numbers", "DEVICES", "was emptied", &|stage| {
            bpf::clear(stage.map("DEVICES").as_fd(), 0).unwrap();
        }),
        (
            "a lease without end",
            "LEASE",
            "held a lease until 18446744073709551615 ns after boot, not 5",
            &|stage| {
                let lease = [u64::MAX.to_ne_bytes(), [0; 8]].concat();
                bpf::update(stage.map("LEASE").as_fd(), 0, &lease).unwrap();
            },
        ),
        (
            "translated addresses that nothing judges again",
            "LEASE",
            "said otherwise whether translated addresses are judged again",
            &|stage| {
                let lease = [5_u64.to_ne_bytes(), 1_u64.to_ne_bytes()].concat();
                bpf::update(stage.map("LEASE").as_fd(), 0, &lease).unwrap();
            },
        ),
        ("no pin", "WORLD", "was unpinned", &|stage| {
            fs::remove_file(stage.pin("WORLD")).unwrap();
        }),
        (
            "another map under the name",
            "LEASE",
            "its pin led to map N (\"OTHER\")",
            &|stage| {
                let other = bpf::create_value_map("OTHER", 16).unwrap();
                fs::remove_file(stage.pin("LEASE")).unwrap();
                bpf::pin(other.as_fd(), &stage.pin("LEASE")).unwrap();
            },
        ),
        (
            "a program that lets everything pass",
            "cgroup_skb/egress",
            "ran program N (\"open\", tag ",
            &|stage| {
                let link = stage.fence.as_ref().unwrap().hooks[0].link.as_fd();
                let name = *b"open\0\0\0\0\0\0\0\0\0\0\0\0";
                let open = bpf::load_constant(CGROUP_SKB, 1, 1, name).unwrap();
                bpf::update_link(link, open.as_fd(), None).unwrap();
            },
        ),
        (
            "another link under the name",
            "cgroup_skb/egress",
            "its pin led to another link",
            &|stage| {
                let [egress, ingress] = [0, 1].map(|at| &stage.fence.as_ref().unwrap().hooks[at]);
                let pins = &stage.fence.as_ref().unwrap().pins;
                pins.replace(pins::Kind::Link, egress.names.pin, &ingress.link)
                    .unwrap();
            },
        ),
    ];
    for (name, place, said, attack) in rows {
        attack(&stage);
        let fence = stage.fence.as_mut().unwrap();
        fence.reconcile().unwrap();
        let what = told(fence);
        let [(at, what)] = what.as_slice() else {
            panic!("{name}: {what:?}");
        };
        let digits = |c: char| c.is_ascii_digit();
        let plain = match said.contains(" N ") {
            true => {
                let (before, after) = said.split_once('N').unwrap();
                let rest = what
                    .strip_prefix(before)
                    .unwrap_or_else(|| panic!("{what}"));
                [before, "N", rest.trim_start_matches(digits)]
                    .concat()
                    .starts_with(&[before, "N", after].concat())
            }
            false => what == said,
        };
        assert!(at == place && plain, "{name}: {at}: {what}");
        let after = fence.state();
        assert_eq!(after.fault, None, "{name}");
        assert_eq!(after.maps, sound.maps, "{name}");
        assert_eq!(after.lease_end_boot_ns, 5, "{name}");
        assert_eq!(after.links, sound.links, "{name}");
        fence.reconcile().unwrap();
        assert_eq!(told(fence), [], "{name}: once");
    }
    let fence = stage.fence.as_mut().unwrap();
    let state = fence.state();
    assert_eq!(state.counters["tables.mended"], 8);
    assert_eq!(state.counters["links.mended"], 2);
    assert_eq!(state.line_changes.len(), rows.len());
    assert_eq!(state.line_changes[0].table, "POLICY");

    // Another node's address, which nobody in standing has signed for.
    let key = PeerKey::default();
    let peers = fence.maps.peers.as_fd().try_clone_to_owned().unwrap();
    hash::put(peers.as_fd(), key.bytes(), &u64::MAX.to_ne_bytes()).unwrap();
    fence.peers_looked = None;
    fence.reconcile().unwrap();
    let want = "1 entries were added, 0 removed, 0 changed".to_owned();
    assert_eq!(told(fence), [("PEERS".to_owned(), want)]);
    assert!(peers::read(&peers).unwrap().is_empty());

    // What is frozen nobody writes, root or not.
    let config = stage.map("CONFIG");
    let refused = bpf::update(config.as_fd(), 0, &[0; 16]).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    let table = ids::map(stage.in_force("POLICY").unwrap())
        .unwrap()
        .unwrap();
    let mut bytes = vec![0; size_of::<bailiwick_ebpf_common::PolicyImage>()];
    bpf::lookup(table.as_fd(), 0, &mut bytes).unwrap();
    let refused = bpf::update(table.as_fd(), 0, &bytes).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
}

fn until(name: &str, mut settled: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !settled() {
        assert!(Instant::now() < end, "{name}: never settled");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn found_sound(stage: &mut Stage) -> bool {
    let fence = stage.fence.as_mut().unwrap();
    fence.reconcile().unwrap();
    assert_eq!(told(fence), [], "nothing happened");
    fence.pins_sound.is_some()
}

#[test]
fn pins_are_left_alone_only_as_long_as_nobody_touches_them() {
    let mut stage = Stage::new("touched");
    stage.open();
    type Attack = fn(&Stage);
    let rows: [(&str, Attack, (&str, &str)); 3] = [
        (
            "a link unpinned",
            |stage| fs::remove_file(stage.pin("../links/egress")).unwrap(),
            ("cgroup_skb/egress", "was unpinned"),
        ),
        (
            "a map unpinned",
            |stage| fs::remove_file(stage.pin("LEASE")).unwrap(),
            ("LEASE", "was unpinned"),
        ),
        (
            "another map under its name",
            |stage| {
                let (one, other) = (stage.pin("LEASE"), stage.pin("LINKS"));
                fs::remove_file(&one).unwrap();
                bpf::pin(bpf::open_pin(&other).unwrap().unwrap().as_fd(), &one).unwrap();
            },
            ("LEASE", "its pin led to map "),
        ),
    ];
    for (name, attack, (table, what)) in rows {
        until(name, || found_sound(&mut stage));
        // No round that looks all the same.
        let fence = stage.fence.as_mut().unwrap();
        fence.pins_rounds = 1;
        assert_eq!(fence.pins_touched(), None, "{name}: nobody touched them");
        attack(&stage);
        let fence = stage.fence.as_mut().unwrap();
        until(name, || fence.pins.look().is_some());
        fence.pins_rounds = 1;
        let found = fence.pins.look();
        assert_eq!(fence.pins_touched(), Some(found), "{name}: long after");
        fence.reconcile().unwrap();
        let told = told(fence);
        let [(place, said)] = told.as_slice() else {
            panic!("{name}: {told:?}");
        };
        assert!(place == table && said.starts_with(what), "{name}: {told:?}");
    }
    until("last", || found_sound(&mut stage));
    let fence = stage.fence.as_mut().unwrap();
    fence.pins_rounds = 14;
    assert_eq!(fence.pins_touched(), None, "one round before it is time");
    assert_eq!(fence.pins_touched(), Some(fence.pins_sound), "it is time");
    assert_eq!(fence.pins_touched(), None, "one round after");
    // Neither what is there now nor what there was can be told from another change.
    let link = stage.pin("../links/egress");
    let fence = stage.fence.as_mut().unwrap();
    let aside = link.with_file_name("aside");
    fs::rename(&link, &aside).unwrap();
    fs::rename(&aside, &link).unwrap();
    fence.pins_sound = None;
    fence.pins_rounds = 1;
    assert!(fence.pins_touched().is_some(), "changed just now");
}

#[test]
fn nothing_is_let_in_before_a_policy_or_after_one() {
    let mut stage = Stage::new("before");
    stage.open();
    stage.apply(1, "FR");
    let rules = ids::map(stage.in_force("POLICY").unwrap())
        .unwrap()
        .unwrap();
    stage.apply(2, "DE");
    let inherited = stage.in_force("POLICY");
    // The next process has no policy yet: what it found stands.
    let fence = stage.open();
    fence.reconcile().unwrap();
    assert_eq!(told(fence), []);
    let attack = |stage: &Stage| {
        bpf::set_inner(stage.map("POLICY").as_fd(), 0, rules.as_fd()).unwrap();
    };
    attack(&stage);
    let fence = stage.fence.as_mut().unwrap();
    fence.reconcile().unwrap();
    assert_eq!(told(fence).len(), 1);
    assert_eq!(stage.in_force("POLICY"), inherited);
    // And where none is wanted, none stays.
    stage.fence.as_mut().unwrap().deny_everything().unwrap();
    attack(&stage);
    let fence = stage.fence.as_mut().unwrap();
    fence.reconcile().unwrap();
    assert_eq!(told(fence).len(), 1);
    assert_eq!(stage.in_force("POLICY"), None);
    assert_eq!(stage.fence.as_mut().unwrap().state().fault, None);
}

#[test]
fn a_table_that_nobody_can_write_any_more_is_a_fault_and_the_next_start_heals_it() {
    let mut stage = Stage::new("frozen");
    stage.open();
    stage.apply(1, "FR");
    let rules = ids::map(stage.in_force("POLICY").unwrap())
        .unwrap()
        .unwrap();
    stage.apply(2, "DE");
    let outer = stage.map("POLICY");
    bpf::set_inner(outer.as_fd(), 0, rules.as_fd()).unwrap();
    bpf::freeze(outer.as_fd()).unwrap();
    drop(outer);
    let fence = stage.fence.as_mut().unwrap();
    assert!(fence.reconcile().is_err());
    let fault = fence.state().fault.unwrap();
    assert!(fault.contains("POLICY holds map"), "{fault}");
    assert!(fault.contains("swap the inner map of POLICY"), "{fault}");
    let fence = stage.open();
    fence.reconcile().unwrap();
    assert_eq!(stage.in_force("POLICY"), None, "a table of its own, empty");
    stage.apply(3, "DE");
    assert_eq!(stage.fence.as_mut().unwrap().state().fault, None);
}
