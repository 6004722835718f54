//! Kernel modules, in the order in which they can be loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::packages::Stack;
use crate::cmd;

/// What it takes to find the root disk.
pub(super) const FOR_ROOT: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "crc32c_intel",
    "ext4",
];

/// What tests inside speak through.
pub(super) const FOR_TESTS: &[&str] = &[
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "efivarfs",
    // Loaded by `modprobe` elsewhere, when the fence asks for a filter: there is none in here.
    "sch_ingress",
    "cls_bpf",
    // What root puts before it.
    "cls_matchall",
    "cls_u32",
    "act_gact",
];

/// Ways out of a host: tunnels, bonds, other protocols. Loaded where a scenario asks.
pub(super) const WAYS_OUT: &[&str] = &[
    "veth",
    "bridge",
    "tun",
    "dummy",
    "macvlan",
    "ipvlan",
    "bonding",
    "8021q",
    "vxlan",
    "geneve",
    "ip_gre",
    "ip6_gre",
    "sit",
    "ipip",
    "ip6_tunnel",
    "fou",
    "fou6",
    "wireguard",
    "sctp",
    "vsock_loopback",
    "rdma_ucm",
    "ib_uverbs",
    // Asked for by name when a card is added.
    "crc32_generic",
    "rdma_rxe",
    "nf_tables",
    "nft_nat",
    "nft_masq",
    "nft_chain_nat",
    "nft_ct",
];

/// Files of the modules `wanted`, below `stack.modules`, each after those it needs.
pub(super) fn order(stack: &Stack, wanted: &[&str]) -> Result<Vec<String>> {
    let read = |name: &str| {
        let file = stack.modules.join(name);
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    };
    let (dep, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let order = in_order(&dep, &builtin, wanted);
    order.with_context(|| format!("the kernel {}", stack.release))
}

/// Copies a module, unpacked: the signature is at the end of what was packed.
pub(super) fn copy(stack: &Stack, file: &str, folder: &Path) -> Result<String> {
    let name = format!("{}.ko", name_of(file));
    let (from, to) = (stack.modules.join(file), folder.join(&name));
    if file.ends_with(".xz") {
        let mut xz = cmd::command("xz");
        let out = fs::File::create(&to).with_context(|| format!("make {}", to.display()))?;
        cmd::run(xz.args(["-d", "-c"]).arg(&from).stdout(out))?;
    } else {
        fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(name)
}

/// `kernel/net/8021q/8021q.ko.xz`: `8021q`; hyphens are underscores.
fn name_of(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

fn in_order(dep: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let needs: BTreeMap<String, (&str, Vec<&str>)> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, rest)| (name_of(file), (file, rest.split_whitespace().collect())))
        .collect();
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        match needs.get(*name) {
            // The list names everything a module needs, what has to come first last.
            Some((file, before)) => {
                for one in before.iter().rev().chain([file]) {
                    if !order.iter().any(|had| had == one) {
                        order.push((*one).to_owned());
                    }
                }
            }
            None if builtin.lines().any(|file| name_of(file) == *name) => {}
            None => bail!("no module {name}"),
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::{in_order, name_of};

    const DEP: &str = "\
kernel/net/sctp/sctp.ko: kernel/net/ipv6/udp_tunnel6.ko kernel/lib/libcrc32c.ko
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/libcrc32c.ko
kernel/lib/libcrc32c.ko:
kernel/drivers/net/rdma-rxe.ko.xz: kernel/b.ko.xz kernel/a.ko.xz
";
    const BUILTIN: &str = "kernel/drivers/virtio/virtio_pci.ko\n";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("nothing", &[], &[]),
            ("alone", &["libcrc32c"], &["kernel/lib/libcrc32c.ko"]),
            ("built in", &["virtio_pci"], &[]),
            (
                "the last needed is loaded first",
                &["rdma_rxe"],
                &[
                    "kernel/a.ko.xz",
                    "kernel/b.ko.xz",
                    "kernel/drivers/net/rdma-rxe.ko.xz",
                ],
            ),
            (
                "shared",
                &["ext4", "sctp"],
                &[
                    "kernel/lib/libcrc32c.ko",
                    "kernel/fs/jbd2/jbd2.ko",
                    "kernel/fs/ext4/ext4.ko",
                    "kernel/net/ipv6/udp_tunnel6.ko",
                    "kernel/net/sctp/sctp.ko",
                ],
            ),
        ];
        for (name, wanted, want) in cases {
            assert_eq!(in_order(DEP, BUILTIN, wanted).unwrap(), *want, "{name}");
        }
        let missing = in_order(DEP, BUILTIN, &["ext4", "nothing_such"]);
        assert_eq!(missing.unwrap_err().to_string(), "no module nothing_such");
    }

    #[test]
    fn a_module_is_named_after_its_file() {
        for (file, want) in [
            ("kernel/net/8021q/8021q.ko.xz", "8021q"),
            ("kernel/a/rdma-rxe.ko", "rdma_rxe"),
            ("x.ko", "x"),
        ] {
            assert_eq!(name_of(file), want, "{file}");
        }
    }
}
