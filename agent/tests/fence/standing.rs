//! It denies from the first moment, outlives its process, and is taken over as it is found.

use std::{fs, path::Path};

use bailiwick_agent::{
    fence::{Fence, FenceError, Recorder},
    fence_service::Enforcer,
};
use bailiwick_attestation::proto::v1::{FenceState, fence_state::Mode};

use crate::scene::{PROGRAM, Scene, run_in};

fn sound(state: &FenceState, mode: Mode) {
    assert_eq!(state.fault, None);
    assert_eq!(state.mode(), mode);
    let hooks: Vec<&str> = state.links.iter().map(|link| link.hook.as_str()).collect();
    assert_eq!(hooks[..2], ["cgroup_skb/egress", "cgroup_skb/ingress"]);
    assert!(hooks.contains(&"cgroup/setsockopt"), "{hooks:?}");
    for link in &state.links {
        assert_eq!(link.program_tag.len(), 8, "{}", link.hook);
        assert_ne!((link.link_id, link.program_id), (0, 0), "{}", link.hook);
    }
}

/// Link ids and program ids of what judges packets.
fn ids(state: &FenceState) -> Vec<(u32, u32)> {
    let ids = state
        .links
        .iter()
        .filter(|link| link.hook.starts_with("cgroup_skb/"))
        .map(|link| (link.link_id, link.program_id));
    ids.collect()
}

#[test]
fn everything_below_the_root_is_denied_at_once_and_stays_so() {
    let scene = Scene::new("deny");
    assert_eq!(scene.send("studies/cardio"), "passed", "before");
    let mut fence = scene.open();
    for cgroup in ["", "studies", "studies/cardio"] {
        assert_eq!(scene.send(cgroup), "denied", "{cgroup:?}");
    }
    assert_eq!(scene.send(".."), "passed", "outside the root");
    fence.probe().run(Path::new(PROGRAM)).unwrap();

    let state = fence.state();
    sound(&state, Mode::DefaultDeny);
    assert!(!state.whole_host);
    assert_eq!(state.root, scene.section.root.display().to_string());
    assert!(state.unfenced_paths[0].starts_with("subtree only"));
    assert!(state.counters["egress.denied"] >= 4);
    assert_eq!(state.counters["egress.allowed"], 0);
    let named = |name: &str| state.maps.iter().find(|map| map.name == name);
    assert_eq!(named("CONFIG").unwrap().digest.len(), 32);
    assert!(named("POLICY").is_none());

    let (events, lost) = fence.drain_events();
    assert_eq!(lost, 0);
    let cgroup = scene.path("studies/cardio");
    let event = events.iter().find(|event| event.cgroup == cgroup).unwrap();
    assert_eq!(event.hook, "cgroup_skb/egress");
    assert_eq!(
        (event.verdict.as_str(), event.rule.as_str()),
        ("deny", "no-policy")
    );
    assert!(event.wall_time_ms > 1_700_000_000_000);

    let second = Fence::open(&scene.section, Recorder::default()).unwrap_err();
    assert!(matches!(second, FenceError::Held(_)));
    let version = scene.section.bpffs.display();
    let version = format!("{version}/v{}", bailiwick_ebpf_common::abi::ABI);
    let says = format!("fence.bpffs: another process holds {version}");
    assert_eq!(second.to_string(), says);
    drop(fence);
    assert_eq!(scene.send("studies/cardio"), "denied", "nobody holds it");
    let mut again = scene.open();
    assert_eq!(ids(&again.state()), ids(&state));
    sound(&again.state(), Mode::DefaultDeny);

    let probe = again.probe();
    let removed = again.remove().unwrap();
    let open = probe.run(Path::new(PROGRAM)).unwrap_err();
    let says = "probe: a datagram that must be denied: passed";
    assert_eq!(open.to_string(), says);
    assert!(removed.iter().any(|pin| pin.ends_with("links/egress")));
    assert_eq!(scene.send("studies/cardio"), "passed", "after");
    assert!(!scene.section.bpffs.exists());
}

#[test]
fn a_start_that_was_cut_off_is_completed() {
    let scene = Scene::new("repair");
    let before = ids(&scene.open().state());
    type Break = fn(&Scene);
    // What is gone, and whether the links and the programs are the same afterwards.
    let cases: &[(&str, Break, bool, bool)] = &[
        ("nothing", |_| {}, true, true),
        (
            "renaming a link",
            |scene| fs::rename(scene.pin("links/egress"), scene.pin("links/egress_next")).unwrap(),
            true,
            true,
        ),
        (
            "renaming a program",
            |scene| {
                let next = scene.pin("programs/ingress_next");
                fs::rename(scene.pin("programs/ingress"), next).unwrap();
            },
            true,
            true,
        ),
        (
            "a map: the programs are replaced in their links",
            |scene| fs::remove_file(scene.pin("maps/LEASE")).unwrap(),
            true,
            false,
        ),
        (
            "pins of the programs: they are replaced, known or not",
            |scene| {
                for program in ["egress", "ingress"] {
                    fs::remove_file(scene.pin("programs").join(program)).unwrap();
                }
            },
            true,
            false,
        ),
        (
            "what is known of the object",
            |scene| fs::remove_file(scene.pin("maps/OBJECT")).unwrap(),
            true,
            false,
        ),
        (
            "the links",
            |scene| {
                for link in ["egress", "ingress"] {
                    fs::remove_file(scene.pin("links").join(link)).unwrap();
                }
            },
            false,
            false,
        ),
    ];
    let mut last = before;
    for (name, cut, same_links, same_programs) in cases {
        cut(&scene);
        let mut fence = scene.open();
        let state = fence.state();
        sound(&state, Mode::DefaultDeny);
        assert_eq!(scene.send("studies"), "denied", "{name}");
        let now = ids(&state);
        for (was, is) in last.iter().zip(&now) {
            assert_eq!(was.0 == is.0, *same_links, "{name}: link");
            assert_eq!(was.1 == is.1, *same_programs, "{name}: program");
        }
        last = now;
    }
}

#[test]
fn pins_that_are_not_of_this_fence_are_not_taken_over() {
    let scene = Scene::new("other");
    drop(scene.open());
    let mut inner = scene.section.clone();
    inner.root.push("studies");
    let refused = Fence::open(&inner, Recorder::default()).unwrap_err();
    let FenceError::OtherRoot { name: "egress", id } = refused else {
        panic!("{refused}");
    };
    assert_eq!(
        refused.to_string(),
        format!(
            "fence.bpffs: the pinned link egress fences cgroup {id}, which is not fence.root; \
             `bailiwick-agent unfence` removes it"
        )
    );
    // The right root, and each link under the name of the other.
    let [egress, ingress] = ["links/egress", "links/ingress"].map(|pin| scene.pin(pin));
    let aside = scene.pin("links/aside");
    for (from, to) in [(&egress, &aside), (&ingress, &egress), (&aside, &ingress)] {
        fs::rename(from, to).unwrap();
    }
    let refused = Fence::open(&scene.section, Recorder::default()).unwrap_err();
    assert!(matches!(
        refused,
        FenceError::OtherRoot { name: "egress", .. }
    ));
    assert_eq!(scene.send("studies/cardio"), "denied", "meanwhile");
}

#[test]
fn what_changes_behind_its_back_is_a_fault() {
    let scene = Scene::new("fault");
    let mut fence = scene.open();
    fs::remove_file(scene.pin("links/egress")).unwrap();
    let fault = fence.state().fault.unwrap();
    assert_eq!(fault, "cgroup_skb/egress is not pinned any more");
    fence.reconcile().unwrap();
    sound(&fence.state(), Mode::DefaultDeny);
    assert_eq!(fence.state().counters["links.mended"], 1);
    drop(fence);

    let mut fence = scene.open();
    sound(&fence.state(), Mode::DefaultDeny);
    for cgroup in ["studies/cardio", "studies", ""] {
        fs::remove_dir(scene.cgroup(cgroup)).unwrap();
    }
    let state = fence.state();
    assert_eq!(state.mode(), Mode::Absent);
    let root = scene.section.root.display();
    assert!(
        state
            .fault
            .unwrap()
            .contains(&format!("cgroup {root} is gone"))
    );
}

#[test]
fn a_lease_ends_when_it_was_told() {
    let scene = Scene::new("lease");
    let mut fence = scene.open();
    for end in [0, 12_345_678_901, 0] {
        fence.set_lease_end(end).unwrap();
        assert_eq!(fence.state().lease_end_boot_ns, end);
    }
}

#[test]
fn a_fence_around_the_agent_itself_is_refused() {
    let scene = Scene::new("self");
    let config = write_config(&scene);
    let arguments = ["--config", config.to_str().unwrap(), "fence"];
    let out = run_in(&scene.cgroup("studies/cardio"), PROGRAM, &arguments);
    assert!(!out.status.success());
    let said = String::from_utf8(out.stderr).unwrap();
    let says = "only a fence of the whole host may (root = \"/\", whole_host = true)";
    assert!(said.contains("holds this process"), "{said}");
    assert!(said.replace("\\\"", "\"").contains(says), "{said}");
    assert!(!scene.section.bpffs.exists());
}

#[test]
fn unfence_says_what_it_removed() {
    let scene = Scene::new("unfence");
    let config = write_config(&scene);
    let unfence = || {
        let out = std::process::Command::new(PROGRAM)
            .args(["--config", config.to_str().unwrap(), "unfence"])
            .output()
            .unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stdout).unwrap()
    };
    drop(scene.open());
    assert!(unfence().contains("/links/egress\n"));
    assert!(unfence().starts_with("nothing is pinned below "));
    assert_eq!(scene.send("studies"), "passed");
}

fn write_config(scene: &Scene) -> std::path::PathBuf {
    fs::create_dir_all(scene.folder()).unwrap();
    let file = scene.folder().join("agent.toml");
    let section = &scene.section;
    let text = format!(
        "deployment = \"demo\"\nnode = \"n\"\n\
         [collector]\nenroll = \"localhost:1\"\nevidence = \"localhost:1\"\n\
         [policy]\napprovers = \"/nowhere\"\nthreshold = 1\n\
         [fence]\nroot = {:?}\nwhole_host = false\nbpffs = {:?}\nsocket = {:?}\n\
         measured = false\n",
        section.root, section.bpffs, section.socket
    );
    fs::write(&file, text).unwrap();
    file
}
