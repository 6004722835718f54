//! Whose a cgroup is: where runtimes put their workloads, and where somebody would like to be.

use std::{
    fs,
    io::Write,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bailiwick_agent::fence_service::Enforcer;

use crate::{bundle::signed, scene::Scene};

/// A study whose cgroups may be in all these places.
fn cardio(scene: &Scene) -> String {
    let selectors = [
        "studies/cardio",
        "cardio.slice",
        "kubepods.slice/*/kubepods-*-pod*cardio*.slice",
        "system.slice/slurmstepd.scope/job_12",
        "lxc.payload.cardio*",
        "user.slice/user-1000.slice/user@1000.service/cardio.slice",
    ];
    let selectors = selectors.map(|below| format!("{:?}", scene.path(below)));
    format!(
        "name = \"cardio\"\nmode = \"enforce\"\nselect.cgroups = [{}]\n\
         allow.jurisdictions = [\"DE\"]\n",
        selectors.join(", ")
    )
}

#[test]
fn a_cgroup_is_the_studys_by_where_it_is_and_who_owns_the_way() {
    let scene = Scene::new("identity");
    let mut fence = scene.open();
    let make = |below: &str| fs::create_dir_all(scene.cgroup(below)).unwrap();
    // Name, cgroup, whether it is the study's. To a port where nobody listens a study's datagram
    // passes; nobody's is denied.
    let rows: &[(&str, &str, bool)] = &[
        ("its own", "studies/cardio", true),
        ("below it", "studies/cardio/task/step", true),
        (
            "a container that was given its parent",
            "cardio.slice/docker-0123.scope",
            true,
        ),
        (
            "a pod",
            "kubepods.slice/burst.slice/kubepods-burst-pod7cardio7.slice/cri-1.scope",
            true,
        ),
        (
            "a slurm job",
            "system.slice/slurmstepd.scope/job_12/step_0/user/task_0",
            true,
        ),
        ("an LXC container", "lxc.payload.cardio1/init.scope", true),
        ("a longer name", "studies/cardiology", false),
        ("the folder above", "studies", false),
        ("a nested look-alike", "system.slice/studies/cardio", false),
        (
            "a look-alike in another container",
            "docker/0123/cardio.slice/docker-1.scope",
            false,
        ),
        (
            "a container that was given another parent",
            "system.slice/docker-0123.scope",
            false,
        ),
        (
            "a pod of somebody else",
            "kubepods.slice/burst.slice/kubepods-burst-pod7neuro7.slice",
            false,
        ),
        (
            "another slurm job",
            "system.slice/slurmstepd.scope/job_123/step_0",
            false,
        ),
        (
            "a job in a container",
            "lxc.payload.other/system.slice/slurmstepd.scope/job_12",
            false,
        ),
        ("LXC's monitor", "lxc.monitor.cardio1", false),
        (
            "rootless podman, which owns the way",
            "user.slice/user-1000.slice/user@1000.service/cardio.slice/libpod-1.scope",
            false,
        ),
    ];
    for (_, below, _) in rows {
        make(below);
    }
    let users = scene.cgroup("user.slice/user-1000.slice/user@1000.service");
    chown(&users, Some(1000), Some(1000)).unwrap();
    let files = [
        ("studies/cardio.toml", cardio(&scene)),
        ("world.csv", "192.0.2.0/24,DE\n".to_owned()),
    ];
    let files = files.each_ref().map(|(path, text)| (*path, text.as_str()));
    fence
        .apply_policy(&signed(&scene.folder(), 1, &files))
        .unwrap();
    fence.set_lease_end(u64::MAX).unwrap();
    for (name, below, own) in rows {
        let want = if *own { "passed" } else { "denied" };
        assert_eq!(scene.send(below), want, "{name}");
    }

    // What appears while the fence stands.
    for (name, below, own) in [
        ("a second container", "cardio.slice/docker-4567.scope", true),
        (
            "a second pod",
            "kubepods.slice/burst.slice/kubepods-burst-pod8cardio8.slice",
            true,
        ),
        ("a second LXC container", "lxc.payload.cardio2", true),
        (
            "a second look-alike",
            "docker/4567/lxc.payload.cardio2",
            false,
        ),
    ] {
        make(below);
        fence.reconcile().unwrap();
        let want = if own { "passed" } else { "denied" };
        assert_eq!(scene.send(below), want, "{name}");
    }
    let unmatched = fence.state().counters["selectors.unmatched"];
    assert_eq!(unmatched, 1, "the one that root does not own the way to");
}

/// A folder in a hierarchy of version 1, and a process in it; both go when this does.
struct Legacy {
    folders: Vec<PathBuf>,
    child: Child,
}

impl Legacy {
    fn start(mount: &Path, scene: &Scene, below: &str) -> Self {
        let whole = mount.join(scene.path(below).trim_start_matches('/'));
        fs::create_dir_all(&whole).unwrap();
        let folders = whole.ancestors().take_while(|folder| *folder != mount);
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let moved = fs::File::options()
            .write(true)
            .open(whole.join("cgroup.procs"))
            .and_then(|mut procs| procs.write_all(child.id().to_string().as_bytes()));
        if moved.is_err() {
            child.kill().unwrap();
        }
        moved.unwrap();
        Self {
            folders: folders.map(Path::to_owned).collect(),
            child,
        }
    }
}

impl Drop for Legacy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        for folder in &self.folders {
            drop(fs::remove_dir(folder));
        }
    }
}

#[test]
fn a_workload_on_version_1_makes_the_host_unfit_and_says_why() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        // A controller that asks for nothing before it takes a process.
        .find(|fields| fields[2] == "cgroup" && fields[3].split(',').any(|option| option == "pids"))
        .map(|fields| PathBuf::from(fields[1]))
        .expect("this test needs a hierarchy of cgroup v1 with the pids controller");
    let scene = Scene::new("legacy");
    let mut fence = scene.open();
    let study = format!(
        "name = \"cardio\"\nmode = \"enforce\"\nselect.cgroups = [{:?}]\n\
         allow.jurisdictions = [\"DE\"]\n",
        scene.path("studies/cardio")
    );
    let files = [
        ("studies/cardio.toml", study.as_str()),
        ("world.csv", "192.0.2.0/24,DE\n"),
    ];
    fence
        .apply_policy(&signed(&scene.folder(), 1, &files))
        .unwrap();
    assert_eq!(fence.unfit(), None);

    let other = Legacy::start(&mount, &scene, "studies/cardiology");
    assert_eq!(fence.unfit(), None, "nobody's workload");
    drop(other);

    let own = Legacy::start(&mount, &scene, "studies/cardio/job");
    let why = fence.unfit().expect("a stray process");
    for part in [
        "cardio: process ".to_owned(),
        own.child.id().to_string(),
        mount.display().to_string(),
        "its packets are nobody's; run the workload under cgroup v2".to_owned(),
    ] {
        assert!(why.contains(&part), "{part}: {why}");
    }
    assert!(fence.state().fault.unwrap().contains(&why));

    // In both trees alike, as systemd keeps them: nothing is amiss.
    let unified = scene.cgroup("studies/cardio").join("cgroup.procs");
    fs::write(unified, own.child.id().to_string()).unwrap();
    assert_eq!(fence.unfit(), None);
    drop(own);
}
