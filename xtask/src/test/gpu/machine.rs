//! Whether what answers is hardware, by what the kernel lists and no library can make up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use serde_json::Value;

/// Of `/dev/nvidiactl`, by the kernel's list of assigned numbers.
const MAJOR: u32 = 195;
/// NVIDIA, as PCI knows it.
const VENDOR: &str = "0x10de";
/// What devices of a double are called.
const DOUBLE: &str = "no hardware";

/// What the kernel says of GPUs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Machine {
    /// The driver's control device is there.
    pub(super) control: bool,
    /// Addresses of NVIDIA's PCI devices, `0000:01:00.0`; `None`: no PCI device at all is listed.
    pub(super) bus: Option<BTreeSet<String>>,
    /// What the driver names in procfs, address to `GPU-…`; sandboxes have no such folder.
    pub(super) named: BTreeMap<String, String>,
    /// The driver's version, as it says itself.
    pub(super) driver: Option<String>,
}

impl Machine {
    /// Reads it below `root`.
    pub(super) fn look(root: &Path) -> Self {
        let control = fs::metadata(root.join("dev/nvidiactl"));
        let control = control.is_ok_and(|it| {
            it.file_type().is_char_device() && rustix::fs::major(it.st_rdev()) == MAJOR
        });
        let devices = root.join("sys/bus/pci/devices");
        let listed = folders(&devices);
        let ours = |address: &String| {
            let vendor = fs::read_to_string(devices.join(address).join("vendor"));
            vendor.is_ok_and(|vendor| vendor.trim() == VENDOR)
        };
        let bus = (!listed.is_empty()).then(|| listed.into_iter().filter(ours).collect());
        let nvidia = root.join("proc/driver/nvidia");
        let gpus = nvidia.join("gpus");
        let named = folders(&gpus).into_iter().filter_map(|address| {
            let text = fs::read_to_string(gpus.join(&address).join("information")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("GPU UUID:"));
            Some((address, line?.trim().to_owned()))
        });
        Self {
            control,
            bus,
            named: named.collect(),
            driver: fs::read_to_string(nvidia.join("version"))
                .ok()
                .and_then(|text| version(&text)),
        }
    }

    /// Why the GPUs of this answer are no hardware of this machine. `chosen`: the library is not the
    /// loader's.
    pub(super) fn not_hardware(&self, answer: &Value, chosen: bool) -> Option<String> {
        let gpus = match answer["Ok"]["gpus"].as_array() {
            Some(gpus) if !gpus.is_empty() => gpus,
            _ => return Some("no GPU is at hand: the library names none".to_owned()),
        };
        if !self.control {
            let why = "not hardware: GPUs are named, and /dev/nvidiactl is not there";
            return Some(why.to_owned());
        }
        for (index, gpu) in gpus.iter().enumerate() {
            let said = |field: &str| gpu[field]["Ok"].as_str().unwrap_or_default();
            let address = address(said("pci"));
            let foreign =
                |what: &str| Some(format!("not hardware: GPU {index} ({address}) {what}"));
            if said("name").contains(DOUBLE) {
                return foreign("says so itself");
            }
            match self.named.get(&address) {
                Some(uuid) if uuid == said("uuid") => {}
                Some(_) => return foreign("has another name in /proc"),
                None if !self.named.is_empty() => return foreign("is not in /proc"),
                None if chosen => {
                    return foreign("is named by no kernel, and the library was chosen");
                }
                None => {}
            }
            if self.bus.as_ref().is_some_and(|bus| !bus.contains(&address)) {
                return foreign("is not on the bus");
            }
        }
        None
    }
}

fn folders(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.collect()
}

/// NVML writes the domain with eight digits, the kernel with four where they suffice:
/// `00000000:18:00.0`.
fn address(nvml: &str) -> String {
    let lower = nvml.to_ascii_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) => {
            let digits = domain.trim_start_matches('0');
            format!("{digits:0>4}:{rest}")
        }
        None => lower,
    }
}

/// The first word of the driver's line that is numbers and dots.
fn version(text: &str) -> Option<String> {
    let line = text
        .lines()
        .find(|line| line.starts_with("NVRM version:"))?;
    let version = line
        .split_whitespace()
        .find(|word| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.'))?;
    Some(version.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const UUID: &str = "GPU-7";

    fn machine() -> Machine {
        Machine {
            control: true,
            bus: Some(["0000:18:00.0".to_owned()].into()),
            named: [("0000:18:00.0".to_owned(), UUID.to_owned())].into(),
            driver: Some("580.1".to_owned()),
        }
    }

    fn answer(pci: &str, uuid: &str) -> Value {
        json!({ "Ok": { "gpus": [{ "pci": { "Ok": pci }, "uuid": { "Ok": uuid } }] } })
    }

    /// Row, machine, what the library names, whether it was chosen, what is said.
    type Row = (&'static str, Machine, Value, bool, Option<&'static str>);

    #[test]
    fn hardware_is_what_the_kernel_lists() {
        let here = answer("00000000:18:00.0", UUID);
        let without = |edit: fn(&mut Machine)| {
            let mut machine = machine();
            edit(&mut machine);
            machine
        };
        let sandbox = || {
            without(|it| {
                it.bus = None;
                it.named.clear();
            })
        };
        let rows: [Row; 11] = [
            (
                "a GPU of this machine",
                machine(),
                here.clone(),
                false,
                None,
            ),
            ("by a chosen library", machine(), here.clone(), true, None),
            (
                "a sandbox, by the loader's",
                sandbox(),
                here.clone(),
                false,
                None,
            ),
            (
                "a sandbox, by a chosen one",
                sandbox(),
                here.clone(),
                true,
                Some("not hardware"),
            ),
            (
                "no driver",
                without(|it| it.control = false),
                here.clone(),
                false,
                Some("not hardware: GPUs are named, and /dev/nvidiactl"),
            ),
            (
                "no library",
                machine(),
                json!({ "Err": "no such file" }),
                false,
                Some("names none"),
            ),
            (
                "a library that names nothing",
                machine(),
                json!({ "Ok": { "gpus": [] } }),
                false,
                Some("names none"),
            ),
            (
                "a double in a real GPU's place",
                machine(),
                answer("00000000:18:00.0", "GPU-8"),
                true,
                Some("another name"),
            ),
            (
                "a double found by the loader, in a sandbox",
                sandbox(),
                json!({ "Ok": { "gpus": [{ "name": { "Ok": "ABI double, no hardware" } }] } }),
                false,
                Some("says so itself"),
            ),
            (
                "a double in a place of its own",
                machine(),
                answer("00000000:01:00.0", UUID),
                true,
                Some("not in /proc"),
            ),
            (
                "a place that no bus has",
                without(|it| {
                    it.named.clear();
                    it.bus = Some(BTreeSet::new());
                }),
                here,
                false,
                Some("not on the bus"),
            ),
        ];
        for (name, machine, answer, chosen, want) in rows {
            let said = machine.not_hardware(&answer, chosen);
            match want {
                None => assert_eq!(said, None, "{name}"),
                Some(want) => assert!(
                    said.clone().unwrap_or_default().contains(want),
                    "{name}: {said:?}"
                ),
            }
        }
    }

    #[test]
    fn addresses_are_the_kernels() {
        for (nvml, want) in [
            ("00000000:18:00.0", "0000:18:00.0"),
            ("0000:18:00.0", "0000:18:00.0"),
            ("00000001:AF:00.0", "0001:af:00.0"),
            ("00010000:18:00.0", "10000:18:00.0"),
            ("", ""),
        ] {
            assert_eq!(address(nvml), want, "{nvml}");
        }
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let root = std::env::temp_dir().join(format!("bailiwick-machine-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Machine::look(&root), Machine::default());
        put("sys/bus/pci/devices/0000:00:1f.0/vendor", "0x8086\n");
        put("sys/bus/pci/devices/0000:18:00.0/vendor", "0x10de\n");
        put(
            "proc/driver/nvidia/gpus/0000:18:00.0/information",
            "Model: \t\t H200\nGPU UUID: \t GPU-7\n",
        );
        put(
            "proc/driver/nvidia/version",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.1  Release Build\n",
        );
        // A file by that name is no device.
        put("dev/nvidiactl", "");
        let want = Machine {
            control: false,
            ..machine()
        };
        assert_eq!(Machine::look(&root), want);
        fs::remove_dir_all(&root).unwrap();
    }
}
