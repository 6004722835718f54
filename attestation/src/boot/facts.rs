//! What was booted, as far as digests show it.
//!
//! A digest stands for what was measured; the data beside it is the firmware's and the boot
//! loader's comment. So a fact is either a digest, or data that has been hashed and found to be
//! what was measured. Names of files are neither and make no fact.

use std::collections::BTreeMap;

use super::content::without_nuls;
use super::event::{Event, EventType};
use super::log::EventLog;
use super::variable::UefiVariable;
use crate::crypto::{Digest, HashAlgorithm};

/// Variables of the Secure Boot policy that become facts, and under which name.
const KEYS: [(&str, &str); 4] = [("PK", "pk"), ("KEK", "kek"), ("db", "db"), ("dbx", "dbx")];
/// Lists of keys that shim measures into PCR 14 by name.
const MOK: [(&str, &str); 3] = [
    ("MokList", "mok_list"),
    ("MokListX", "mok_list_x"),
    ("MokListTrusted", "mok_list_trusted"),
];
/// What GRUB puts before the text it hashes: of a kernel, and of every command it runs.
const GRUB_COMMAND_LINE: &str = "kernel_cmdline: ";
const GRUB_COMMAND: &str = "grub_cmd: ";
/// `EV_NO_ACTION` data that names reference measurements: NIST SP 800-155 and PFP 1.06, §10.4.5.2.
const MANIFESTS: [&[u8; 16]; 3] = [
    b"SP800-155 Event\0",
    b"SP800-155 Event2",
    b"SP800-155 Event3",
];
/// `INITRD_EVENT_TAG_ID` and `LOAD_OPTIONS_EVENT_TAG_ID` of the kernel's EFI stub.
const INITRD: u32 = 0x8f3b_22ec;
const LOAD_OPTIONS: u32 = 0x8f3b_22ed;
/// Images, authorities and sections that are told one by one; a boot has some dozens.
const MAX_LISTED: usize = 128;
/// Files of GRUB's: as many digests as fit into a profile's text. One that reads its modules one by
/// one reads more, and others at each boot.
const MAX_FILES: usize = 32;

/// PCRs by what they hold: PFP 1.06, §3.3.4; `systemd-stub`, `systemd-boot`, GRUB and shim for the
/// upper ones.
mod pcr {
    pub(super) const FIRMWARE: u32 = 0;
    pub(super) const BOOT_VARIABLES: u32 = 1;
    pub(super) const DRIVERS: u32 = 2;
    pub(super) const BOOT_LOADERS: u32 = 4;
    pub(super) const POLICY: u32 = 7;
    pub(super) const GRUB: u32 = 8;
    pub(super) const FILES: u32 = 9;
    pub(super) const UNIFIED_IMAGE: u32 = 11;
    pub(super) const COMMAND_LINE: u32 = 12;
    pub(super) const EXTENSIONS: u32 = 13;
    pub(super) const SHIM: u32 = 14;
}

/// What was booted. Every digest is of the bank the log was read in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// `EV_S_CRTM_VERSION`: the firmware's version in its own words.
    pub firmware_version: Option<String>,
    /// Digests of the firmware's own parts, in order.
    pub firmware_blobs: Vec<Digest>,
    /// `BootOrder`: numbers of boot options in four hexadecimal digits, as they were tried.
    pub boot_order: Option<Vec<String>>,
    /// Boot options by their number, as people read them in a menu.
    pub boot_options: BTreeMap<String, String>,
    /// What GRUB ran, in order, each proven.
    pub commands: Vec<String>,
    /// System extensions and their like that systemd-stub took along, in order.
    pub extensions: Vec<Digest>,
    /// GUIDs of reference manifests that the firmware says there are. Nobody measured this.
    pub manifests: Vec<String>,
    /// SHA-256 of the content of `pk`, `kek`, `db`, `dbx`.
    pub keys: BTreeMap<&'static str, Digest>,
    /// What verified each image, in order: entries of db, or shim's own.
    pub authorities: Vec<Digest>,
    /// `SbatLevel`: which generations of boot loaders are revoked.
    pub sbat_level: Option<String>,
    /// Authenticode digests of boot loaders and kernels, in order.
    pub applications: Vec<Digest>,
    /// Authenticode digests of drivers from option ROMs and disks, in order.
    pub drivers: Vec<Digest>,
    /// `mok_list`, `mok_list_x`, `mok_list_trusted`, as shim measured them.
    pub mok: BTreeMap<&'static str, Digest>,
    /// The kernel's command line, by GRUB or systemd-stub, and the register it stands in; the last.
    pub command_line: Option<(u32, String)>,
    /// Files that GRUB read, kernel and initial RAM disks among them, in order; what it calls them is
    /// in no digest. `None`: more than can be told one by one.
    pub files: Option<Vec<Digest>>,
    /// Initial RAM disks that the kernel's EFI stub loaded.
    pub initrd: Vec<Digest>,
    /// Load options as the kernel's EFI stub was given them.
    pub load_options: Option<Digest>,
    /// Sections of a unified kernel image by name.
    pub sections: BTreeMap<String, Digest>,
    /// There was more of something than is listed: nothing that is listed is all there was.
    pub cut: bool,
}

impl Facts {
    /// Gathers what the log shows in that bank. Whether the log replays is for others to see.
    #[must_use]
    pub fn of(log: &EventLog<'_>, bank: HashAlgorithm) -> Self {
        let mut facts = Self {
            files: Some(Vec::new()),
            ..Self::default()
        };
        let mut handed_over = false;
        let mut section: Option<String> = None;
        for event in log.events().iter().filter(|event| !event.extends()) {
            if let Some(guid) = manifest(event.data)
                && facts.manifests.len() < MAX_LISTED
            {
                facts.manifests.push(guid);
            }
        }
        for event in log.events().iter().filter(|event| event.extends()) {
            let Some(digest) = log.digest(event, bank).and_then(Digest::from_slice) else {
                continue;
            };
            let seen = Seen {
                event,
                digest,
                bank,
            };
            match (event.register, event.kind) {
                (_, EventType::S_CRTM_VERSION) if event.register == 0 => {
                    let mut ends = [0, 1, 2].into_iter();
                    let proven = ends.any(|cut| {
                        without_nuls(event.data, cut).is_some_and(|data| seen.proven(data))
                    });
                    facts.firmware_version = proven.then(|| version(event.data));
                }
                (
                    pcr::FIRMWARE,
                    EventType::EFI_PLATFORM_FIRMWARE_BLOB | EventType::EFI_PLATFORM_FIRMWARE_BLOB2,
                ) => facts.cut |= push(&mut facts.firmware_blobs, seen.digest),
                (
                    pcr::BOOT_VARIABLES,
                    EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2,
                ) => facts.boot_variable(&seen),
                (pcr::EXTENSIONS, EventType::IPL) => {
                    facts.cut |= push(&mut facts.extensions, seen.digest);
                }
                (pcr::POLICY, EventType::SEPARATOR) => handed_over = true,
                (pcr::POLICY, EventType::EFI_VARIABLE_DRIVER_CONFIG) if !handed_over => {
                    facts.key(&seen);
                }
                (pcr::POLICY, EventType::EFI_VARIABLE_AUTHORITY) => facts.authority(seen),
                (pcr::BOOT_LOADERS, EventType::EFI_BOOT_SERVICES_APPLICATION) => {
                    facts.cut |= push(&mut facts.applications, seen.digest);
                }
                (
                    pcr::DRIVERS,
                    EventType::EFI_BOOT_SERVICES_DRIVER | EventType::EFI_RUNTIME_SERVICES_DRIVER,
                ) => facts.cut |= push(&mut facts.drivers, seen.digest),
                (pcr::SHIM, EventType::IPL) => facts.shim(seen),
                (pcr::GRUB | pcr::COMMAND_LINE, EventType::IPL) => facts.text(&seen),
                (pcr::FILES, EventType::IPL) => facts.file(seen),
                (pcr::FILES, EventType::EVENT_TAG) => facts.tagged(seen),
                (pcr::UNIFIED_IMAGE, EventType::IPL) => section = facts.section(seen, section),
                _ => {}
            }
        }
        facts
    }

    /// Firmware hashes the event whole or the value alone, and either proves the value.
    fn boot_variable(&mut self, seen: &Seen<'_, '_>) {
        let Ok(variable) = UefiVariable::parse(seen.event.data) else {
            return;
        };
        if !seen.proven(seen.event.data) && !seen.proven(variable.value) {
            return;
        }
        let name = variable.name.trim_end_matches('\0');
        if name == "BootOrder" {
            let numbers = variable.value.chunks_exact(2).take(MAX_LISTED);
            let order = numbers.map(|number| match number {
                [low, high] => format!("{:04X}", u16::from_le_bytes([*low, *high])),
                _ => String::new(),
            });
            self.boot_order = Some(order.collect());
        } else if let Some(number) = name.strip_prefix("Boot")
            && number.len() == 4
            && self.boot_options.len() < MAX_LISTED
        {
            // `EFI_LOAD_OPTION`: attributes, length of the path, then the description.
            let text = variable.value.get(6..).unwrap_or_default();
            let units = text.chunks_exact(2).take_while(|unit| *unit != [0, 0]);
            let text: Vec<u8> = units.flatten().copied().collect();
            self.boot_options.insert(number.to_owned(), wide(&text));
        }
    }

    fn key(&mut self, seen: &Seen<'_, '_>) {
        let Ok(variable) = UefiVariable::parse(seen.event.data) else {
            return;
        };
        let name = variable.name.trim_end_matches('\0');
        let known = KEYS.into_iter().find(|(key, _)| *key == name);
        if let Some((_, fact)) = known
            && seen.proven(seen.event.data)
            && let Some(digest) = HashAlgorithm::Sha256.digest(&[variable.value])
        {
            self.keys.insert(fact, digest);
        }
    }

    fn authority(&mut self, seen: Seen<'_, '_>) {
        if let Ok(variable) = UefiVariable::parse(seen.event.data)
            && variable.name.trim_end_matches('\0') == "SbatLevel"
            && (seen.proven(seen.event.data) || seen.proven(variable.value))
        {
            let level = String::from_utf8_lossy(variable.value);
            self.sbat_level = Some(level.trim_end_matches('\0').to_owned());
        }
        self.cut |= push(&mut self.authorities, seen.digest);
    }

    fn shim(&mut self, seen: Seen<'_, '_>) {
        let name = without_nul(seen.event.data);
        let known = MOK.into_iter().find(|(list, _)| list.as_bytes() == name);
        if let Some((_, fact)) = known {
            self.mok.entry(fact).or_insert(seen.digest);
        }
    }

    /// A command line, where it is what was measured: GRUB hashes it without the words before it,
    /// with or without the zero byte; systemd hashes it as it stands, in UTF-16.
    fn text(&mut self, seen: &Seen<'_, '_>) {
        let data = seen.event.data;
        let narrow = without_nul(data);
        if let Some(line) = narrow.strip_prefix(GRUB_COMMAND_LINE.as_bytes()) {
            let ended = [line, &[0]].concat();
            if seen.proven(line) || seen.proven(&ended) || seen.proven(data) {
                let line = String::from_utf8_lossy(line).into_owned();
                self.command_line = Some((seen.event.register, line));
            }
        } else if let Some(command) = narrow.strip_prefix(GRUB_COMMAND.as_bytes()) {
            let ended = [command, &[0]].concat();
            if seen.proven(command) || seen.proven(&ended) || seen.proven(data) {
                let command = String::from_utf8_lossy(command).into_owned();
                self.cut |= push(&mut self.commands, command);
            }
        } else if seen.event.register == pcr::COMMAND_LINE && is_wide(data) && seen.proven(data) {
            self.command_line = Some((seen.event.register, wide(data)));
        }
    }

    fn file(&mut self, seen: Seen<'_, '_>) {
        if let Some(files) = &mut self.files {
            files.push(seen.digest);
            if files.len() > MAX_FILES {
                self.files = None;
            }
        }
    }

    fn tagged(&mut self, seen: Seen<'_, '_>) {
        let tag = seen.event.data.first_chunk().copied();
        match tag.map(u32::from_le_bytes) {
            Some(INITRD) => self.cut |= push(&mut self.initrd, seen.digest),
            Some(LOAD_OPTIONS) => self.load_options = Some(seen.digest),
            _ => {}
        }
    }

    /// systemd-stub measures the name of a section, then its content under the same name.
    fn section(&mut self, seen: Seen<'_, '_>, before: Option<String>) -> Option<String> {
        let data = seen.event.data;
        let name = if is_wide(data) {
            wide(data)
        } else {
            String::from_utf8_lossy(without_nul(data)).into_owned()
        };
        if before.as_ref() == Some(&name) {
            let name = name.trim_start_matches('.').to_owned();
            if self.sections.len() < MAX_LISTED {
                self.sections.entry(name).or_insert(seen.digest);
            } else {
                self.cut = true;
            }
            return None;
        }
        let ended = [name.as_bytes(), &[0]].concat();
        let named = name.starts_with('.') && (seen.proven(&ended) || seen.proven(name.as_bytes()));
        named.then_some(name)
    }
}

/// An event with its digest.
struct Seen<'l, 'a> {
    event: &'l Event<'a>,
    digest: Digest,
    bank: HashAlgorithm,
}

impl Seen<'_, '_> {
    /// These bytes are what was measured.
    fn proven(&self, bytes: &[u8]) -> bool {
        self.bank.digest(&[bytes]).as_ref() == Some(&self.digest)
    }
}

/// Whether there was no room.
fn push<T>(list: &mut Vec<T>, one: T) -> bool {
    let full = list.len() >= MAX_LISTED;
    if !full {
        list.push(one);
    }
    full
}

/// The GUID of a reference manifest, as text.
fn manifest(data: &[u8]) -> Option<String> {
    let (signature, rest) = data.split_first_chunk::<16>()?;
    if !MANIFESTS.contains(&signature) {
        return None;
    }
    rest.get(4..)?.first_chunk().map(guid)
}

/// `EFI_GUID` as people write it: the first three parts are numbers, little-endian in memory.
fn guid(bytes: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, i, j, rest @ ..] = *bytes;
    let first = u32::from_le_bytes([a, b, c, d]);
    let (second, third) = (u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
    let (fourth, fifth) = (hex::encode([i, j]), hex::encode(rest));
    format!("{first:08x}-{second:04x}-{third:04x}-{fourth}-{fifth}")
}

fn without_nul(data: &[u8]) -> &[u8] {
    data.strip_suffix(&[0]).unwrap_or(data)
}

/// A version as firmware writes it: text in one byte or two, or a GUID.
fn version(data: &[u8]) -> String {
    let end = data.iter().rposition(|byte| *byte != 0);
    let text = data.get(..end.map_or(0, |end| end + 1)).unwrap_or_default();
    let is_wide = data.iter().skip(1).step_by(2).all(|high| *high == 0);
    match data.first_chunk::<16>() {
        _ if text.iter().all(|byte| (b' '..=b'~').contains(byte)) => {
            text.iter().copied().map(char::from).collect()
        }
        Some(bytes) if data.len() == bytes.len() && !is_wide => guid(bytes),
        _ => wide(data),
    }
}

/// UTF-16 of mostly ASCII: every other byte is zero.
fn is_wide(data: &[u8]) -> bool {
    data.len() >= 2 && matches!(data, [first, 0, ..] if *first != 0)
}

/// UTF-16, little-endian, without what ends it.
fn wide(data: &[u8]) -> String {
    let units = data.chunks_exact(2).map(|unit| match unit {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    let text: String = char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    text.trim_end_matches('\0').to_owned()
}
