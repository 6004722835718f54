//! In a network namespace of each test's own.

use std::{fs, path::PathBuf, process::Command};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{
    stand::{Found, judged},
    *,
};
use crate::{
    config::FenceSection,
    fence::{Fence, Recorder},
    fence_service::Enforcer,
};

/// A fence of an empty cgroup, in a namespace of this thread's own.
struct Stage {
    name: String,
    cgroup: PathBuf,
    _folder: tempfile::TempDir,
    section: FenceSection,
    fence: Option<Fence>,
}

impl Stage {
    fn new(test: &str, uplinks: Devices, ports: Devices) -> Self {
        // SAFETY: file descriptors are not shared otherwise by a new network namespace.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        let hierarchy = Hierarchy::find().unwrap();
        let name = format!("bailiwick-test-{}-{test}", std::process::id());
        let cgroup = hierarchy.mount().join(&name);
        fs::create_dir(&cgroup).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let section = FenceSection {
            root: PathBuf::from(format!("/{name}")),
            whole_host: false,
            bpffs: folder.path().join("bpf"),
            socket: folder.path().join("fence.sock"),
            uplinks: Some(uplinks),
            ports: Some(ports),
            ..FenceSection::default()
        };
        Self {
            name,
            cgroup,
            _folder: folder,
            section,
            fence: None,
        }
    }

    fn open(&mut self) -> &mut Fence {
        self.fence = None;
        let fence = Fence::open(&self.section, Recorder::default()).unwrap();
        self.fence.insert(fence)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.fence.take());
        drop(Fence::remove_pins(&self.section));
        drop(fs::remove_dir(&self.cgroup));
        assert!(!self.name.is_empty());
    }
}

fn ip(arguments: &str) {
    let out = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(out.status.success(), "ip {arguments}: {out:?}");
}

/// An uplink, and its other end.
fn wire() {
    ip("link add up0 type veth peer name far0");
    ip("link set up0 up");
    ip("link set far0 up");
}

fn named(names: &[&str]) -> Devices {
    Devices::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

/// Device and hook of what stands.
fn lines(fence: &mut Fence) -> Vec<(String, String)> {
    let lines = fence.state().lines.into_iter();
    lines.map(|line| (line.device, line.hook)).collect()
}

fn words(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter()
        .map(|(device, hook)| ((*device).to_owned(), (*hook).to_owned()))
        .collect()
}

fn index(fence: &mut Fence, device: &str) -> u32 {
    let lines = fence.state().lines;
    lines
        .iter()
        .find(|line| line.device == device)
        .unwrap()
        .ifindex
}

/// `TCX_PASS`: whoever comes later is not asked.
fn foreign() -> OwnedFd {
    bpf::load_constant(3, 0, 0, *b"foreign\0\0\0\0\0\0\0\0\0").unwrap()
}

#[test]
fn devices_are_followed_as_they_come_and_go() {
    let mut stage = Stage::new("follow", Devices::Auto, Devices::Auto);
    ip("link add up0 type vxlan id 5 dstport 4789 remote 10.0.0.1");
    ip("link set up0 up");
    ip("link set lo up");
    let fence = stage.open();
    let uplink = ("up0", "tcx/egress");
    assert_eq!(lines(fence), words(&[uplink]));
    assert!(
        probe(index(fence, "up0")).unwrap(),
        "refused from the start"
    );
    let changes = fence.changes().unwrap();
    ip("link add port0 type veth peer name far0");
    ip("link add br0 type bridge");
    ip("link set port0 master br0");
    let mut ready = [rustix::event::PollFd::new(
        &changes,
        rustix::event::PollFlags::IN,
    )];
    let patience = rustix::event::Timespec {
        tv_sec: 2,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut ready, Some(&patience)).unwrap(), 1);
    fence.reconcile().unwrap();
    let want = words(&[uplink, ("far0", "tcx/ingress"), ("port0", "tcx/ingress")]);
    assert_eq!(lines(fence), want, "a bridge leads nowhere else");
    ip("link delete port0");
    ip("link add up1 type vxlan id 6 dstport 4790 remote 10.0.0.1");
    fence.reconcile().unwrap();
    assert_eq!(lines(fence), words(&[uplink, ("up1", "tcx/egress")]));
    let state = fence.state();
    assert_eq!((state.fault, state.line_changes), (None, vec![]));
    ip("link delete up1");
    fence.reconcile().unwrap();
    assert_eq!(lines(fence), words(&[uplink]));
}

#[test]
fn another_program_does_not_stay_first() {
    let mut stage = Stage::new("first", named(&["up0"]), named(&[]));
    wire();
    let fence = stage.open();
    let device = index(fence, "up0");
    let _other = tcx::link_first(foreign().as_fd(), device, tcx::Side::Egress).unwrap();
    assert!(!probe(device).unwrap(), "it passes what we would refuse");
    let told = fence.probe().try_uplinks().unwrap_err();
    let says = "probe: a frame that up0 must refuse: passed";
    assert_eq!(told.to_string(), says);
    let state = fence.state();
    assert_eq!(state.lines[0].position, 1);
    assert_eq!(
        state.fault.as_deref(),
        Some("tcx/egress of up0 is not first")
    );
    fence.reconcile().unwrap();
    assert!(probe(device).unwrap(), "refused again");
    let state = fence.state();
    assert_eq!((state.lines[0].position, &state.fault), (0, &None));
    assert_eq!(state.counters["links.mended"], 1);
    let what = &state.line_changes[0].what;
    assert!(what.starts_with("was not first: program "), "{what}");
    assert!(
        what.contains("\"foreign\"") && what.contains("uid 0"),
        "{what}"
    );
    // And once more, by the same pins.
    let fence = stage.open();
    let again = fence.state();
    assert_eq!(again.lines[0].link_id, state.lines[0].link_id, "taken over");
    assert_eq!(again.lines[0].program_id, state.lines[0].program_id);
}

#[test]
fn what_root_takes_away_is_put_back() {
    let mut stage = Stage::new("away", named(&["up0"]), named(&[]));
    wire();
    let fence = stage.open();
    let device = index(fence, "up0");
    let pin = stage.section.bpffs.join(format!(
        "v{}/links/uplink_{device}",
        bailiwick_ebpf_common::abi::ABI
    ));
    let fence = stage.fence.as_mut().unwrap();
    let before = fence.state().lines[0].link_id;
    let link = tcx::link(before).unwrap().unwrap();
    tcx::detach(link.as_fd()).unwrap();
    drop(link);
    assert!(!probe(device).unwrap(), "open");
    assert_eq!(
        fence.state().fault.as_deref(),
        Some("tcx/egress of up0 is detached")
    );
    fence.reconcile().unwrap();
    assert!(probe(device).unwrap(), "closed");
    let after = fence.state();
    assert_ne!(after.lines[0].link_id, before);
    assert_eq!(after.line_changes[0].what, "was detached");
    // The program in its link.
    let link = tcx::link(after.lines[0].link_id).unwrap().unwrap();
    bpf::update_link(link.as_fd(), foreign().as_fd(), None).unwrap();
    assert!(!probe(device).unwrap(), "open");
    fence.reconcile().unwrap();
    assert!(probe(device).unwrap(), "closed");
    let what = fence.state().line_changes[1].what.clone();
    assert!(
        what.starts_with("ran program ") && what.contains("\"foreign\""),
        "{what}"
    );
    // The pin; and a start that finds neither pin nor link of its own.
    fs::remove_file(&pin).unwrap();
    fence.reconcile().unwrap();
    assert!(pin.exists());
    fs::remove_file(&pin).unwrap();
    let fence = stage.open();
    assert!(pin.exists());
    assert_eq!(fence.state().lines.len(), 1);
    assert_eq!(fence.state().lines[0].position, 0);
    assert!(probe(device).unwrap());
}

#[test]
fn without_tcx_a_filter_stands_first() {
    let mut stage = Stage::new("clsact", named(&["up0"]), named(&["port0"]));
    wire();
    let mut netlink = Netlink::new().unwrap();
    let devices = device::list(&mut netlink).unwrap();
    let up0 = devices.iter().find(|device| device.name == "up0").unwrap();
    let fence = stage.open();
    let Fence {
        lines,
        pins,
        maps,
        changed,
        ..
    } = fence;
    let lines = lines.as_mut().unwrap();
    // As on a kernel that has no tcx.
    let judges = std::mem::take(&mut lines.judges);
    lines.leave(&judges[0], up0.index, pins, maps).unwrap();
    lines.judges = judges;
    lines.tcx = false;
    assert!(!probe(up0.index).unwrap(), "open");
    lines.reconcile(pins, maps, changed).unwrap();
    assert!(probe(up0.index).unwrap(), "closed");
    let state = fence.state();
    let line = &state.lines[0];
    assert_eq!(
        (line.way.as_str(), line.position, line.link_id),
        ("clsact", 0, 0)
    );
    assert_eq!(line.program_tag.len(), 8);
    assert_eq!(state.fault, None);
    // Another filter of our priority, made later, runs first.
    let other = foreign();
    let side = tcx::Side::Egress;
    clsact::add(&mut netlink, up0.index, side, (other.as_fd(), "other"), 7).unwrap();
    assert!(!probe(up0.index).unwrap(), "it passes what we would refuse");
    assert_eq!(fence.state().lines[0].position, 1);
    fence.reconcile().unwrap();
    assert!(probe(up0.index).unwrap(), "refused again");
    let state = fence.state();
    assert_eq!((state.lines[0].position, state.fault), (0, None));
    // Ours replaced under our own handle.
    clsact::attach(
        &mut netlink,
        up0.index,
        side,
        other.as_fd(),
        Role::Uplink.filter(),
    )
    .unwrap();
    fence.reconcile().unwrap();
    assert!(probe(up0.index).unwrap(), "refused again");
    // Gone altogether.
    clsact::detach(&mut netlink, up0.index, side).unwrap();
    fence.reconcile().unwrap();
    assert!(probe(up0.index).unwrap(), "refused again");
    assert_eq!(fence.state().counters["links.mended"], 3);
    remove_filters().unwrap();
    let left = clsact::chain(&mut netlink, up0.index, side, Role::Uplink.filter()).unwrap();
    assert!(left.iter().all(|filter| !filter.ours));
}

#[test]
fn without_tcx_whoever_holds_the_first_priority_makes_room() {
    let mut stage = Stage::new("held", named(&["up0"]), named(&[]));
    wire();
    let mut netlink = Netlink::new().unwrap();
    let devices = device::list(&mut netlink).unwrap();
    let up0 = devices.iter().find(|device| device.name == "up0").unwrap();
    let fence = stage.open();
    let Fence {
        lines,
        pins,
        maps,
        changed,
        ..
    } = fence;
    let lines = lines.as_mut().unwrap();
    let chain = |netlink: &mut Netlink| {
        clsact::chain(netlink, up0.index, tcx::Side::Egress, Role::Uplink.filter()).unwrap()
    };
    // What lets every packet pass, and ends the chain.
    let pass = "bpf bytecode 1,6\u{a0}0\u{a0}0\u{a0}4294967295, flowid 1:1";
    let rows = [
        ("our handle", "all prio 1 handle 1", pass, "bpf", 0),
        ("another handle", "all prio 1 handle 9", pass, "", 1),
        ("one protocol", "ip prio 1 handle 1", pass, "bpf", 0),
        ("another kind", "all prio 1", "u32 match u32 0 0", "u32", 0),
        ("a later priority", "all prio 2 handle 1", pass, "", 1),
    ];
    for (name, place, filter, gone, left) in rows {
        // As on a kernel that has no tcx, where somebody was before us.
        let judges = std::mem::take(&mut lines.judges);
        lines.leave(&judges[0], up0.index, pins, maps).unwrap();
        lines.judges = judges;
        lines.tcx = false;
        drop(
            Command::new("tc")
                .args(["qdisc", "del", "dev", "up0", "clsact"])
                .output(),
        );
        let ran = |arguments: String| {
            let words = arguments.split(' ').map(|word| word.replace('\u{a0}', " "));
            let out = Command::new("tc").args(words).output().unwrap();
            assert!(out.status.success(), "{name}: tc {arguments}: {out:?}");
        };
        ran("qdisc add dev up0 clsact".to_owned());
        ran(format!(
            "filter add dev up0 egress protocol {place} {filter}"
        ));
        assert!(!probe(up0.index).unwrap(), "{name}: open");
        let before = changed.links;
        lines.reconcile(pins, maps, changed).unwrap();
        assert!(probe(up0.index).unwrap(), "{name}: refused");
        let chain = chain(&mut netlink);
        assert!(chain[0].ours, "{name}: {chain:?}");
        let others = chain.iter().filter(|filter| !filter.ours).count();
        assert_eq!(others, left, "{name}: {chain:?}");
        let said: Vec<String> = changed.kept().into_iter().map(|one| one.what).collect();
        if gone.is_empty() {
            assert_eq!(changed.links, before, "{name}: {said:?}");
        } else {
            let what = said.last().unwrap();
            let want = "found its place taken by a filter, which is removed: ";
            assert!(
                what.starts_with(want) && what.contains(gone),
                "{name}: {what}"
            );
        }
    }
    // A program that the kernel refuses takes nobody's place.
    let judges = std::mem::take(&mut lines.judges);
    lines.leave(&judges[0], up0.index, pins, maps).unwrap();
    lines.judges = judges;
    let other = foreign();
    clsact::attach(
        &mut netlink,
        up0.index,
        tcx::Side::Egress,
        other.as_fd(),
        "other",
    )
    .unwrap();
    let map = bpf::create_value_map("no_program", 8).unwrap();
    clsact::attach(
        &mut netlink,
        up0.index,
        tcx::Side::Egress,
        map.as_fd(),
        "none",
    )
    .unwrap_err();
}

#[test]
fn what_is_written_about_devices_is_put_back() {
    let mut stage = Stage::new("written", named(&["up0"]), named(&["port0"]));
    wire();
    ip("link add port0 type veth peer name far1");
    let fence = stage.open();
    fence.reconcile().unwrap();
    let device = index(fence, "up0");
    let links = fence.maps.links.as_fd();
    // Frames of an uplink said to begin with IP: the fence would look for it in the wrong place.
    hash::put(links, &device.to_ne_bytes(), &7_u32.to_ne_bytes()).unwrap();
    let links = fence.maps.links.as_fd().try_clone_to_owned().unwrap();
    fence.reconcile().unwrap();
    let found: BTreeMap<[u8; 4], [u8; 4]> =
        hash::entries(links.as_fd()).unwrap().into_iter().collect();
    assert_ne!(found[&device.to_ne_bytes()], 7_u32.to_ne_bytes());
    hash::delete(links.as_fd(), &device.to_ne_bytes()).unwrap();
    fence.reconcile().unwrap();
    let found: BTreeMap<[u8; 4], [u8; 4]> =
        hash::entries(links.as_fd()).unwrap().into_iter().collect();
    assert!(found.contains_key(&device.to_ne_bytes()));
    let said: Vec<String> = fence
        .state()
        .line_changes
        .into_iter()
        .map(|c| c.what)
        .collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].starts_with("said 7 of the frames of up0, not "),
        "{said:?}"
    );
    assert_eq!(said[1], "had no entry for up0");
    assert_eq!(fence.state().counters["tables.mended"], 2);
    // Whose port it is: without a policy it is nobody's, whoever says otherwise.
    let Fence {
        lines,
        maps,
        changed,
        ..
    } = fence;
    let lines = lines.as_mut().unwrap();
    let wanted = Owners::from([(port_key(device, 1), 4)]);
    lines.add_owners(maps, &wanted).unwrap();
    lines.keep_owners(maps, wanted.clone()).unwrap();
    lines.mend_owners(maps, changed).unwrap();
    assert_eq!(changed.tables, 2, "as it was written");
    hash::put(
        maps.ports.as_fd(),
        &port_key(device, 1),
        &5_u32.to_ne_bytes(),
    )
    .unwrap();
    hash::put(maps.ports.as_fd(), &port_key(99, 1), &5_u32.to_ne_bytes()).unwrap();
    lines.mend_owners(maps, changed).unwrap();
    let what = changed.kept().pop().unwrap().what;
    assert_eq!(what, "1 entries were added, 0 removed, 1 changed");
    lines.add_owners(maps, &wanted).unwrap();
    lines.keep_owners(maps, wanted.clone()).unwrap();
    lines.mend_owners(maps, changed).unwrap();
    assert_eq!(changed.tables, 3, "right again, and said once");
}

#[test]
fn the_first_thing_amiss_is_put_right_first() {
    let sound = Found {
        program: 5,
        link: 9,
        ahead: Vec::new(),
        revision: 1,
    };
    let with = |change: fn(&mut Found)| {
        let mut found = sound.clone();
        change(&mut found);
        found
    };
    let rows = [
        ("sound", sound.clone(), true, None),
        ("unpinned", sound.clone(), false, Some(Repair::Pin)),
        (
            "not first",
            with(|f| f.ahead = vec![3]),
            true,
            Some(Repair::Head),
        ),
        (
            "not first, unpinned",
            with(|f| f.ahead = vec![3]),
            false,
            Some(Repair::Head),
        ),
        (
            "another program",
            with(|f| f.program = 6),
            true,
            Some(Repair::Program),
        ),
        (
            "detached",
            with(|f| f.program = 0),
            true,
            Some(Repair::Attach),
        ),
        ("nothing", Found::default(), false, Some(Repair::Attach)),
    ];
    for (name, found, pinned, want) in rows {
        let repair = judged(&found, 5, pinned).map(|(_, repair)| repair);
        assert_eq!(repair, want, "{name}");
    }
}
