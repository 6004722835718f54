//! What is fenced, and how.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[fence]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FenceSection {
    /// Cgroup below the cgroup v2 mount; `/` is the whole host.
    pub root: PathBuf,
    /// Has to be said beside `root = "/"`, so that no trial fences a machine by an omission.
    pub whole_host: bool,
    /// Folder for pins, on a BPF file system.
    pub bpffs: PathBuf,
    /// Socket between the `fence` and `run` processes.
    pub socket: PathBuf,
    /// Whether what takes effect is extended into a PCR first. False is for a host without a TPM,
    /// and for trials; statements say so.
    pub measured: bool,
    /// PCR that is extended before anything takes effect, 0 to 15: those that only a reset of the
    /// TPM clears. It is quoted whatever `tpm.pcrs` names.
    pub pcr: u8,
    /// Log of those extensions. It has to live exactly as long as the PCR, so on a tmpfs.
    pub log: PathBuf,
    /// Devices by which packets leave the host: `["auto"]`, names, or none. Not said: found where
    /// the whole host is fenced, none where a part of it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplinks: Option<Devices>,
    /// Devices on whose other side workloads are: `["auto"]`, names, or none; as `uplinks`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Devices>,
    /// Bits of a packet's mark in which a port writes whose it is, for the uplink to read: at
    /// least eight, side by side, that nothing else on the host uses.
    pub mark_mask: u32,
    /// Root of /proc and /sys, as far as they tell of drivers and their numbers.
    pub drivers: PathBuf,
    /// A device that nobody holds and nobody has opened for so long is free for another study.
    /// Not shorter than a driver takes to open one.
    pub device_idle_seconds: u64,
    /// Seconds after which what passed is told: packets and bytes by study and jurisdiction.
    pub count_s: u64,
    /// One in so many packets that pass is told with its addresses; 0: none.
    pub sample: u32,
}

/// Network devices to attach to.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub enum Devices {
    /// Found, and followed as they come and go.
    Auto,
    /// These, as soon as they are there. Empty: none.
    Named(BTreeSet<String>),
}

impl TryFrom<Vec<String>> for Devices {
    type Error = String;
    fn try_from(names: Vec<String>) -> Result<Self, String> {
        if names == ["auto"] {
            return Ok(Self::Auto);
        }
        let fits = |name: &str| {
            // What the kernel takes for a device's name (`dev_valid_name`).
            (1..16).contains(&name.len())
                && !matches!(name, "." | "..")
                && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
        };
        match names.iter().find(|name| !fits(name) || *name == "auto") {
            None => Ok(Self::Named(names.into_iter().collect())),
            Some(name) if name == "auto" => Err("\"auto\" stands alone".to_owned()),
            Some(name) => Err(format!("{name:?} is no device's name")),
        }
    }
}

impl From<Devices> for Vec<String> {
    fn from(devices: Devices) -> Self {
        match devices {
            Devices::Auto => vec!["auto".to_owned()],
            Devices::Named(names) => names.into_iter().collect(),
        }
    }
}

impl FenceSection {
    /// Which uplinks.
    #[must_use]
    pub fn uplinks(&self) -> Devices {
        self.devices(self.uplinks.as_ref())
    }

    /// Which ports of workloads.
    #[must_use]
    pub fn ports(&self) -> Devices {
        self.devices(self.ports.as_ref())
    }

    /// Nothing is found by itself that a trial did not ask for.
    fn devices(&self, said: Option<&Devices>) -> Devices {
        match said {
            Some(devices) => devices.clone(),
            None if self.whole_host => Devices::Auto,
            None => Devices::Named(BTreeSet::new()),
        }
    }
}

impl Default for FenceSection {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            whole_host: true,
            bpffs: PathBuf::from("/sys/fs/bpf/bailiwick"),
            socket: PathBuf::from("/run/bailiwick/fence.sock"),
            measured: true,
            pcr: 13,
            log: PathBuf::from("/run/bailiwick/fence.log"),
            uplinks: None,
            ports: None,
            // Ten bits for the study, two for the policy that numbered it.
            mark_mask: 0xfff0_0000,
            drivers: PathBuf::from("/"),
            device_idle_seconds: 30,
            count_s: 300,
            sample: 0,
        }
    }
}
