//! Which device numbers this host has: /proc and /sys, as far as they tell of drivers.

use std::{fs, path::Path};

use bailiwick_ebpf_common::device::Device;
use bailiwick_policy::image::{HostGpu, HostNumbers, HostPart};

use crate::files::read_bounded;

/// Longest list of drivers; a host has some sixty.
const MAX_LIST: usize = 64 << 10;
/// Longest file about one GPU.
const MAX_FILE: usize = 16 << 10;
/// Most folders looked at in one place: GPUs, instances, nodes of a display driver.
const MAX_FOLDERS: usize = 512;

/// Reads everything anew: drivers come and go. What cannot be read is not there.
pub(super) fn read(drivers: &Path) -> HostNumbers {
    let proc = drivers.join("proc");
    let list = |name: &str| text(&proc.join(name), MAX_LIST);
    let nvidia = proc.join("driver/nvidia");
    let gpus = folders(&nvidia.join("gpus"))
        .into_iter()
        .filter_map(|bus| {
            let (minor, uuid) = gpu(&text(
                &nvidia.join("gpus").join(&bus).join("information"),
                MAX_FILE,
            ))?;
            Some(HostGpu {
                minor,
                uuid,
                display: display(&drivers.join("sys/bus/pci/devices").join(&bus).join("drm")),
            })
        })
        .collect();
    HostNumbers {
        majors: majors(&list("devices")),
        misc: misc(&list("misc")),
        gpus,
        parts: parts(&nvidia.join("capabilities")),
    }
}

fn text(path: &Path, most: usize) -> String {
    let bytes = read_bounded(path, most).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// Names of folders, in order.
fn folders(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .take(MAX_FOLDERS)
        .collect();
    names.sort_unstable();
    names
}

/// `/proc/devices`: the list of character devices, number and name a line, up to an empty line.
fn majors(text: &str) -> Vec<(String, u32)> {
    let lines = text
        .lines()
        .skip_while(|line| *line != "Character devices:");
    lines
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(entry)
        .collect()
}

/// `/proc/misc`: number and name a line.
fn misc(text: &str) -> Vec<(String, u32)> {
    text.lines().filter_map(entry).collect()
}

fn entry(line: &str) -> Option<(String, u32)> {
    let (number, name) = line.trim_start().split_once(' ')?;
    Some((name.to_owned(), number.parse().ok()?))
}

/// `/proc/driver/nvidia/gpus/BUS/information`: `Device Minor: 0` and `GPU UUID: GPU-…`, which has
/// question marks while the GPU sleeps.
fn gpu(text: &str) -> Option<(u32, Option<String>)> {
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            (found.trim() == name).then(|| value.trim())
        })
    };
    let uuid = value("GPU UUID").filter(|uuid| !uuid.contains('?'));
    Some((
        value("Device Minor")?.parse().ok()?,
        uuid.map(str::to_owned),
    ))
}

/// `drm/NODE/dev`: `226:128`.
fn display(folder: &Path) -> Vec<Device> {
    let nodes = folders(folder).into_iter();
    nodes
        .filter_map(|node| {
            let text = text(&folder.join(node).join("dev"), 64);
            let (major, minor) = text.trim_end().split_once(':')?;
            Some(Device {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
            })
        })
        .collect()
}

/// `capabilities/gpu0/mig/gi1/access` and `…/gi1/ci0/access`.
fn parts(folder: &Path) -> Vec<HostPart> {
    let mut parts = Vec::new();
    for gpu_name in folders(folder) {
        let Some(gpu) = numbered(&gpu_name, "gpu") else {
            continue;
        };
        let mig = folder.join(&gpu_name).join("mig");
        for instance_name in folders(&mig) {
            let Some(instance) = numbered(&instance_name, "gi") else {
                continue;
            };
            let at = mig.join(&instance_name);
            let mut add = |compute, folder: &Path| {
                if let Some(capability) = capability(&text(&folder.join("access"), MAX_FILE)) {
                    parts.push(HostPart {
                        gpu,
                        instance,
                        compute,
                        capability,
                    });
                }
            };
            add(None, &at);
            for name in folders(&at) {
                if let Some(compute) = numbered(&name, "ci") {
                    add(Some(compute), &at.join(&name));
                }
            }
        }
    }
    parts
}

fn numbered(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// `DeviceFileMinor: 12`
fn capability(text: &str) -> Option<u32> {
    let minor = text
        .lines()
        .find_map(|line| line.strip_prefix("DeviceFileMinor:"));
    minor?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "GPU-5a3c1b2d-0f4e-4c6d-8b7a-001122334455";

    /// Files as a kernel and NVIDIA's driver write them.
    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn what_drivers_say_is_read() {
        let gpu = format!(
            "Model: \t\t NVIDIA H200\nGPU UUID: \t {UUID}\nBus Location: \t 0000:18:00.0\n\
             Device Minor: \t 1\n"
        );
        let dir = host(&[
            (
                "proc/devices",
                "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n511 nvidia-uvm\n 10 misc\n\n\
                 Block devices:\n  7 loop\n",
            ),
            ("proc/misc", "196 vfio\n121 rdma_cm\n259 cpu_dma_latency\n"),
            ("proc/driver/nvidia/gpus/0000:18:00.0/information", &gpu),
            (
                "proc/driver/nvidia/gpus/0000:2a:00.0/information",
                "GPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: \t 0\n",
            ),
            (
                "proc/driver/nvidia/gpus/0000:3a:00.0/information",
                "GPU UUID: nothing\n",
            ),
            (
                "sys/bus/pci/devices/0000:18:00.0/drm/renderD129/dev",
                "226:129\n",
            ),
            ("sys/bus/pci/devices/0000:18:00.0/drm/card1/dev", "226:1\n"),
            ("sys/bus/pci/devices/0000:18:00.0/drm/card1/other", "x"),
            (
                "proc/driver/nvidia/capabilities/gpu1/mig/gi2/access",
                "DeviceFileMinor: 21\nDeviceFileMode: 292\n",
            ),
            (
                "proc/driver/nvidia/capabilities/gpu1/mig/gi2/ci0/access",
                "DeviceFileMinor: 22\n",
            ),
            (
                "proc/driver/nvidia/capabilities/mig/config",
                "DeviceFileMinor: 1\n",
            ),
        ]);
        let found = read(dir.path());
        let names = |list: &[(&str, u32)]| -> Vec<(String, u32)> {
            list.iter()
                .map(|(name, number)| ((*name).to_owned(), *number))
                .collect()
        };
        assert_eq!(
            found.majors,
            names(&[
                ("mem", 1),
                ("nvidia", 195),
                ("nvidiactl", 195),
                ("nvidia-uvm", 511),
                ("misc", 10)
            ])
        );
        assert_eq!(
            found.misc,
            names(&[("vfio", 196), ("rdma_cm", 121), ("cpu_dma_latency", 259)])
        );
        let node = |minor| Device { major: 226, minor };
        assert_eq!(
            found.gpus,
            [
                HostGpu {
                    minor: 1,
                    uuid: Some(UUID.to_owned()),
                    display: vec![node(1), node(129)],
                },
                HostGpu::default(),
            ]
        );
        let part = |compute, capability| HostPart {
            gpu: 1,
            instance: 2,
            compute,
            capability,
        };
        assert_eq!(found.parts, [part(None, 21), part(Some(0), 22)]);
    }

    #[test]
    fn what_is_not_there_or_torn_is_no_device() {
        assert_eq!(read(Path::new("/nowhere/at/all")), HostNumbers::default());
        let dir = host(&[
            ("proc/devices", "Block devices:\n  7 loop\n195 nvidia\n"),
            ("proc/misc", "x vfio\n196\n\n"),
            (
                "proc/driver/nvidia/capabilities/gpu1/mig/gix/access",
                "DeviceFileMinor: 21\n",
            ),
            (
                "proc/driver/nvidia/capabilities/gpu1/mig/gi1/access",
                "DeviceFileMinor: -1\n",
            ),
        ]);
        assert_eq!(read(dir.path()), HostNumbers::default());
    }
}
