use bailiwick_attestation::proto::v1::fence_state;

use super::*;
use crate::fence_service::Enforcer as _;

#[test]
fn a_link_that_root_detaches_is_attached_again_and_counted() {
    let hierarchy = Hierarchy::find().unwrap();
    let name = format!("bailiwick-test-{}-detach", std::process::id());
    let cgroup = hierarchy.mount().join(&name);
    std::fs::create_dir(&cgroup).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let section = FenceSection {
        root: PathBuf::from(format!("/{name}")),
        whole_host: false,
        bpffs: dir.path().join("bpf"),
        socket: dir.path().join("fence.sock"),
        ..FenceSection::default()
    };
    let mut fence = Fence::open(&section, Recorder::default()).unwrap();
    let sound = fence.state();
    bpf::detach_link(fence.hooks[0].link.as_fd()).unwrap();
    let state = fence.state();
    fence.reconcile().unwrap();
    let mended = fence.state();
    fence.reconcile().unwrap();
    let later = fence.state();
    fence.remove().unwrap();
    std::fs::remove_dir(&cgroup).unwrap();

    assert_eq!(
        (sound.fault.clone(), sound.counters["links.mended"]),
        (None, 0)
    );
    assert_eq!(state.mode(), fence_state::Mode::Absent);
    assert_eq!(state.fault.unwrap(), "cgroup_skb/egress is detached");
    assert_eq!(
        (mended.fault.clone(), mended.counters["links.mended"]),
        (None, 1)
    );
    assert_eq!(mended.mode(), fence_state::Mode::DefaultDeny);
    assert_ne!(mended.links[0].link_id, sound.links[0].link_id);
    assert_eq!(mended.links[0].program_id, sound.links[0].program_id);
    assert_eq!(later.links, mended.links);
}
