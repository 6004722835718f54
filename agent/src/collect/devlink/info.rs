//! One device, as `DEVLINK_CMD_INFO_GET` describes it: no length in it is trusted. In a file of its
//! own, which the fuzz target takes in.
//!
//! Layout: `DEVLINK_ATTR_*` of `include/uapi/linux/devlink.h`.

use crate::netlink::{attributes, text};

/// `DEVLINK_ATTR_BUS_NAME`, `_DEV_NAME`.
const BUS: u16 = 1;
const DEVICE: u16 = 2;
/// `DEVLINK_ATTR_INFO_DRIVER_NAME`, `_SERIAL_NUMBER`.
const DRIVER: u16 = 98;
const SERIAL: u16 = 99;
/// `DEVLINK_ATTR_INFO_VERSION_FIXED`, `_RUNNING`, `_STORED`; each has a name and a value.
const KINDS: [(u16, &str); 3] = [(100, "fixed"), (101, "running"), (102, "stored")];
const NAME: u16 = 103;
const VALUE: u16 = 104;

/// Most versions of one device: cards have a dozen.
const VERSIONS: usize = 64;
/// Most characters of a name or value.
const WORDS: usize = 128;

/// What a device says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Info {
    /// `pci/0000:3b:00.0`
    pub(crate) device: String,
    /// Its driver.
    pub(crate) driver: String,
    /// Its serial number, where it has one.
    pub(crate) serial: Option<String>,
    /// `fixed`, `running` or `stored`; what it is a version of; the version.
    pub(crate) versions: Vec<(&'static str, String, String)>,
}

impl Info {
    /// What follows `struct genlmsghdr`; `None` where it names no device.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let (mut bus, mut device) = (None, None);
        let mut info = Self::default();
        for (kind, value) in attributes(body) {
            match kind {
                BUS => bus = Some(words(value)),
                DEVICE => device = Some(words(value)),
                DRIVER => info.driver = words(value),
                SERIAL => info.serial = Some(words(value)),
                _ => {
                    let known = KINDS.iter().find(|(number, _)| *number == kind);
                    if let Some((_, word)) = known
                        && info.versions.len() < VERSIONS
                        && let Some((name, version)) = named(value)
                    {
                        info.versions.push((word, name, version));
                    }
                }
            }
        }
        info.device = format!("{}/{}", bus?, device?);
        Some(info)
    }

    /// What the device would run after it was reset, and does not run now.
    pub(crate) fn pending(&self) -> bool {
        let of = |kind: &'static str| self.versions.iter().filter(move |(it, ..)| *it == kind);
        of("stored").any(|(_, name, stored)| {
            of("running").any(|(_, other, running)| other == name && running != stored)
        })
    }
}

fn named(value: &[u8]) -> Option<(String, String)> {
    let (mut name, mut version) = (None, None);
    for (kind, value) in attributes(value) {
        match kind {
            NAME => name = Some(words(value)),
            VALUE => version = Some(words(value)),
            _ => {}
        }
    }
    Some((name?, version?))
}

fn words(value: &[u8]) -> String {
    // Of what is longer no more is looked at.
    let value = value.get(..WORDS * 4).unwrap_or(value);
    text(value).chars().take(WORDS).collect()
}
