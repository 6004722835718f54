//! A policy of which the kernel takes one half.

use std::{fs, os::fd::AsFd, path::PathBuf};

use bailiwick_attestation::{Sha256Digest, proto::v1::FenceState};

use super::*;
use crate::fence_service::Enforcer as _;

fn digest(state: &FenceState, name: &str) -> Vec<u8> {
    let map = state.maps.iter().find(|map| map.name == name);
    map.unwrap().digest.clone()
}

#[test]
fn a_policy_that_the_kernel_takes_half_of_is_taken_back_whole() {
    let hierarchy = Hierarchy::find().unwrap();
    let name = format!("bailiwick-test-{}-swap", std::process::id());
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
    let study = format!(
        "name = \"cardio\"\nmode = \"enforce\"\n[select]\ncgroups = [\"/{name}/cardio\"]\n\
         [allow]\njurisdictions = [\"DE\"]\n"
    );
    let policy = |version, world| {
        let files = [
            ("studies/cardio.toml", study.as_str()),
            ("world.csv", world),
        ];
        bundle::signed(dir.path(), version, &files)
    };
    let (one, two) = (
        policy(1, "192.0.2.0/24,DE\n"),
        policy(2, "192.0.2.0/24,FR\n"),
    );
    let (_, allowed) = bundle::message(dir.path(), 3, &[]);
    assert!(allowed.starts_with("alice "));
    let mut fence = Fence::open(&section, Recorder::default()).unwrap();
    fence.apply_policy(&one).unwrap();
    let before = fence.state();
    assert_eq!(before.fault, None);

    // More addresses of other nodes than there is room for: none of them counts.
    let peer = |n: u32| Peer {
        study: "cardio".to_owned(),
        address: std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into(),
        end_boot_ns: u64::MAX,
    };
    let says = "8193 addresses of studies on other nodes; there is room for 8192";
    fence.set_peers((0..8192).map(peer).collect()).unwrap();
    let many = fence.set_peers((0..8193).map(peer).collect()).unwrap_err();
    assert_eq!(many.to_string(), says);
    assert!(fence.state().fault.unwrap().contains(says));
    fence.set_peers(Vec::new()).unwrap();
    assert_eq!(fence.state().fault, None);

    // From now on nobody changes what POLICY holds: WORLD is swapped first, and has to go back.
    bpf::freeze(fence.maps.policy.as_fd()).unwrap();
    let refused = fence.apply_policy(&two).unwrap_err();
    let after = fence.state();
    let world = fence.world_digest().unwrap();
    fence.remove().unwrap();
    fs::remove_dir(cgroup.join("cardio")).unwrap();
    fs::remove_dir(&cgroup).unwrap();

    assert_eq!(refused.to_string(), "swap the inner map of POLICY");
    assert_eq!(after.fault, None, "what is in the kernel is what was");
    assert_eq!(after.maps, before.maps);
    assert_eq!(
        Sha256Digest(digest(&before, "WORLD").try_into().unwrap()),
        world
    );
}
