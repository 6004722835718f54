use std::{
    io::Read as _,
    process::{Command, Stdio},
};

use super::*;

/// Files and links as a kernel shows them.
fn host(files: &[(&str, &str)], links: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    };
    for (path, text) in files {
        fs::write(at(path), text).unwrap();
    }
    for (path, to) in links {
        std::os::unix::fs::symlink(to, at(path)).unwrap();
    }
    dir
}

fn seen(dir: &tempfile::TempDir) -> Inventory {
    look(&dir.path().join("proc"), &dir.path().join("sys"))
}

fn way(kind: &'static str, name: &str, holders: &[&str]) -> Way {
    Way {
        kind,
        name: name.to_owned(),
        holders: holders.iter().map(|holder| (*holder).to_owned()).collect(),
    }
}

#[test]
fn each_way_is_told_with_whoever_holds_it() {
    // `/dev/full` (1:7) stands for the node of an RDMA device, `/dev/zero` (1:5) for a group.
    let packet = "sk RefCnt Type Proto Iface R Rmem User Inode\n\
                  0000 3 3 0003 2 1 0 0 4711\n";
    let dir = host(
        &[
            ("sys/class/infiniband_verbs/uverbs0/ibdev", "mlx5_0\n"),
            ("sys/class/infiniband_verbs/uverbs0/dev", "1:7\n"),
            ("sys/class/infiniband/mlx5_0/node_type", "1: CA\n"),
            ("sys/class/infiniband/mlx5_9/node_type", "1: CA\n"),
            ("sys/bus/pci/drivers/vfio-pci/bind", ""),
            (
                "sys/bus/pci/drivers/vfio-pci/0000:18:00.0/vendor",
                "0x10de\n",
            ),
            ("sys/class/vfio/12/dev", "1:5\n"),
            ("sys/class/misc/vsock/dev", "10:258\n"),
            ("sys/module/vhost_vsock/refcnt", "0\n"),
            ("proc/1/ns/net", ""),
            ("proc/1/ns/mnt", ""),
            (
                "proc/1/net/packet",
                "sk RefCnt Type Proto Iface R Rmem User Inode\n",
            ),
            (
                "proc/1/mountinfo",
                "1 2 0:3 /run/docker.sock /run/docker.sock rw - tmpfs t rw\n",
            ),
            ("proc/7/cgroup", "0::/studies/cardio\n"),
            ("proc/7/ns/net", ""),
            ("proc/7/ns/mnt", ""),
            ("proc/7/net/packet", packet),
            (
                "proc/7/maps",
                "7f-80 rw-s 0 00:08 99 socket:[99]\n81-82 rw-s 0 00:08 4711 socket:[4711]\n",
            ),
            (
                "proc/7/mountinfo",
                "1 2 0:3 /docker.sock /var/run/docker.sock rw - tmpfs t rw\n\
                 1 2 0:3 / /run/containerd/containerd.sock.d rw - tmpfs t rw\n",
            ),
            ("proc/8/cgroup", "0::/studies/neuro\n"),
            ("proc/self", ""),
        ],
        &[
            (
                "sys/bus/pci/drivers/vfio-pci/0000:18:00.0/iommu_group",
                "../../../iommu/12",
            ),
            ("proc/7/fd/3", "/dev/full"),
            ("proc/7/fd/4", "/dev/full"),
            ("proc/8/fd/3", "/dev/zero"),
            ("proc/8/fd/4", "/dev/null"),
            ("proc/8/fd/5", "/nowhere"),
        ],
    );
    let want = [
        way("container-socket", "docker.sock", &["/studies/cardio"]),
        way("mapped-socket", "socket 99", &["/studies/cardio"]),
        way("packet-socket", "socket 4711 in another namespace", &[]),
        way("rdma", "mlx5_0", &["/studies/cardio"]),
        way("rdma", "mlx5_9", &[]),
        way("vfio", "0000:18:00.0", &["/studies/neuro"]),
        way("vsock", "/dev/vsock", &[]),
        way("vsock", "vhost_vsock", &[]),
    ];
    assert_eq!(
        seen(&dir),
        Inventory {
            ways: want.into(),
            partial: false
        }
    );
}

#[test]
fn a_host_without_any_has_none_and_one_that_cannot_be_seen_says_so() {
    let dir = host(&[("proc/1/ns/net", ""), ("sys/class/x", "")], &[]);
    assert_eq!(seen(&dir), Inventory::default());
    let dir = host(&[("sys/class/x", "")], &[]);
    assert!(seen(&dir).partial, "no list of processes");
    let dir = host(&[("proc/7/maps/not-a-file", "")], &[]);
    assert!(seen(&dir).partial, "a table that cannot be read");
    for (there, want) in [
        (WAYS - 1, (WAYS - 1, false)),
        (WAYS, (WAYS, false)),
        (WAYS + 1, (WAYS, true)),
    ] {
        let many: Vec<String> = (0..there)
            .map(|number| format!("sys/class/infiniband/mlx5_{number}/node_type"))
            .collect();
        let mut files: Vec<(&str, &str)> = many.iter().map(|path| (path.as_str(), "")).collect();
        files.push(("proc/1/ns/net", ""));
        let found = seen(&host(&files, &[]));
        assert_eq!((found.ways.len(), found.partial), want, "{there} ways");
    }
}

#[test]
fn a_packet_socket_of_this_host_is_found_in_its_own_namespace() {
    // AF_PACKET and SOCK_RAW; perl is part of every Debian.
    let script = "$| = 1; socket(S, 17, 3, 0) or die $!; print((stat S)[1], qq(\\n)); <STDIN>;";
    let mut child = Command::new("unshare")
        .args(["-n", "perl", "-e", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 32];
    let length = child.stdout.as_mut().unwrap().read(&mut said).unwrap();
    let inode = String::from_utf8(said[..length].to_vec()).unwrap();
    let name = format!("socket {} in another namespace", inode.trim_end());
    let find = || {
        let found = look(Path::new("/proc"), Path::new("/sys"));
        found.ways.into_iter().find(|way| way.name == name)
    };
    let way = find().unwrap();
    assert_eq!((way.kind, way.holders.len()), ("packet-socket", 1));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(find(), None);
}
