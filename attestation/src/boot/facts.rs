//! What was booted, as far as digests show it.
//!
//! A digest stands for what was measured; the data beside it is the firmware's and the boot
//! loader's comment, and so is the kind of the event. So a fact is either a digest, or data that has been
//! hashed and found to be what was measured. Names of files are neither and make no fact.
//!
//! Whoever hands the log over can change all the rest, and can extend most registers once more before
//! that. So a list of digests is of all that a register holds, but for what shows by its content that it
//! is something else; where only a comment says which digest is what, the facts say so
//! ([`Facts::boot_files_by_label`], [`Facts::mok_by_label`]).

use std::collections::BTreeMap;

use super::content::{is_text, without_nul, without_nuls};
use super::event::Event;
use super::log::{EventLog, Format};
use super::variable::UefiVariable;
use super::walk::Walk;
use crate::crypto::{Digest, HashAlgorithm};

/// Variables of the Secure Boot policy that become facts, and under which name.
const KEYS: [(&str, &str); 4] = [("PK", "pk"), ("KEK", "kek"), ("db", "db"), ("dbx", "dbx")];
/// Lists of keys that shim measures into PCR 14 by name.
const MOK: [(&str, &str); 3] = [
    ("MokList", "mok_list"),
    ("MokListX", "mok_list_x"),
    ("MokListTrusted", "mok_list_trusted"),
];
/// How a GPT begins: UEFI 2.10, §5.3.2.
const GPT: &[u8] = b"EFI PART";
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
pub(super) const MAX_LISTED: usize = 128;

/// What was booted. Every digest is of the bank the log was read in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// `EV_S_CRTM_VERSION`: the firmware's version in its own words.
    pub firmware_version: Option<String>,
    /// Digests of the firmware's own parts and settings, in order.
    pub firmware_blobs: Vec<Digest>,
    /// `BootOrder`: numbers of boot options in four hexadecimal digits, as they were tried.
    pub boot_order: Option<Vec<String>>,
    /// Boot options by their number, as people read them in a menu.
    pub boot_options: BTreeMap<String, String>,
    /// What of these was measured after its register's separator, where root may have.
    pub late: Late,
    /// What GRUB ran, in order, each proven; none where one is not.
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
    /// Authenticode digests of boot loaders and kernels, in order; of a CCEL those of drivers, too.
    pub applications: Vec<Digest>,
    /// Authenticode digests of drivers from option ROMs and disks, in order, and whatever else firmware
    /// measured of devices.
    pub drivers: Vec<Digest>,
    /// `mok_list`, `mok_list_x`, `mok_list_trusted`, as shim measured them.
    pub mok: BTreeMap<&'static str, Digest>,
    /// The register holds more than these lists, so that only the log says which digest is which.
    pub mok_by_label: bool,
    /// The kernel's command line, by GRUB or systemd-stub.
    pub command_line: Option<CommandLine>,
    /// All digests of the register that GRUB measures files into, in order, where it measured one:
    /// kernel and initial RAM disks among them; what it calls them is in no digest. `None`: more than can be
    /// told one by one.
    pub files: Option<Vec<Digest>>,
    /// Only the log says which digest is one of [`Self::initrd`], and which is [`Self::load_options`]: GRUB
    /// measured there, too, or the register holds anything but load options and one ramdisk behind them.
    pub boot_files_by_label: bool,
    /// Initial RAM disks that the kernel's EFI stub loaded.
    pub initrd: Vec<Digest>,
    /// Load options as the kernel's EFI stub was given them.
    pub load_options: Option<Digest>,
    /// Sections of a unified kernel image by name.
    pub sections: BTreeMap<String, Digest>,
    /// There was more of something than is listed: nothing that is listed is all there was.
    pub cut: bool,
}

/// Which facts stand behind their register's separator.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Late {
    /// [`Facts::firmware_version`].
    pub version: bool,
    /// [`Facts::boot_order`].
    pub order: bool,
}

/// What a kernel was started with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CommandLine {
    /// GRUB measured it; otherwise systemd-stub, or a menu before that.
    pub by_grub: bool,
    /// As it was measured: printable.
    pub text: String,
    /// It stands, itself or as load options, in a register that the kernel's `boot_aggregate` is over, and
    /// where that agrees root has not measured it later. Elsewhere root may have: a stub that is given no
    /// line measures none.
    pub aggregated: bool,
}

impl Facts {
    /// Gathers what the log shows in that bank. Whether the log replays is for others to see.
    #[must_use]
    pub fn of(log: &EventLog<'_>, bank: HashAlgorithm) -> Self {
        let quiet = log.events().iter().filter(|event| !event.extends());
        let manifests = quiet.filter_map(|event| manifest(event.data));
        let mut walk = Walk::new(bank, manifests.take(MAX_LISTED).collect());
        for event in log.events().iter().filter(|event| event.extends()) {
            let Some(digest) = log.digest(event, bank).and_then(Digest::from_slice) else {
                continue;
            };
            let seen = Seen {
                event,
                digest,
                bank,
            };
            match log.format() {
                Format::Ccel => walk.guest(&seen),
                Format::CryptoAgile | Format::Sha1 => walk.event(&seen),
            }
        }
        walk.done(log.format())
    }

    /// Text, hashed with what ends it or without. Of two nobody can tell which one is no version.
    pub(super) fn version(&mut self, seen: &Seen<'_, '_>, again: bool) {
        let mut ends = [0, 1, 2].into_iter();
        let data = seen.event.data;
        let proven = ends.any(|cut| without_nuls(data, cut).is_some_and(|data| seen.proven(data)));
        self.firmware_version = (proven && !again).then(|| version(data));
    }

    /// Firmware hashes the event whole or the value alone, and either proves the value.
    pub(super) fn boot_variable(&mut self, seen: &Seen<'_, '_>) {
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

    pub(super) fn key(&mut self, seen: &Seen<'_, '_>) {
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

    pub(super) fn authority(&mut self, seen: &Seen<'_, '_>) {
        if let Ok(variable) = UefiVariable::parse(seen.event.data)
            && variable.name.trim_end_matches('\0') == "SbatLevel"
            && (seen.proven(seen.event.data) || seen.proven(variable.value))
        {
            let level = String::from_utf8_lossy(variable.value);
            self.sbat_level = Some(level.trim_end_matches('\0').to_owned());
        }
        self.cut |= push(&mut self.authorities, &seen.digest);
    }

    /// Names are comments. Where they come in shim's order and nothing else is there, none can have been
    /// given to another list.
    pub(super) fn shim(&mut self, seen: &Seen<'_, '_>) {
        let name = without_nul(seen.event.data);
        let known = MOK.iter().position(|(list, _)| list.as_bytes() == name);
        let held = |(_, fact): &(&str, &'static str)| self.mok.contains_key(fact);
        let last = MOK.iter().rposition(held);
        self.mok_by_label |= known.is_none_or(|own| last.is_some_and(|last| own <= last));
        if let Some((_, fact)) = known.and_then(|own| MOK.get(own)) {
            self.mok.entry(fact).or_insert_with(|| seen.digest.clone());
        }
    }

    /// Whether it is an event of the kernel's stub, where that has one: its load options come first, and
    /// then one ramdisk.
    pub(super) fn tagged(&mut self, seen: &Seen<'_, '_>, first: bool) -> bool {
        let tag = seen.event.data.first_chunk().copied();
        match tag.map(u32::from_le_bytes) {
            Some(INITRD) => {
                let alone = self.initrd.is_empty();
                self.cut |= push(&mut self.initrd, &seen.digest);
                alone
            }
            Some(LOAD_OPTIONS) => {
                self.load_options = Some(seen.digest.clone());
                first
            }
            _ => false,
        }
    }
}

/// An event with its digest.
pub(super) struct Seen<'l, 'a> {
    pub(super) event: &'l Event<'a>,
    pub(super) digest: Digest,
    pub(super) bank: HashAlgorithm,
}

impl Seen<'_, '_> {
    /// These bytes are what was measured.
    pub(super) fn proven(&self, bytes: &[u8]) -> bool {
        self.bank.digest(&[bytes]).as_ref() == Some(&self.digest)
    }

    /// Printable text, as firmware measures what it does: no image, and no driver.
    pub(super) fn is_text(&self) -> bool {
        let data = self.event.data;
        is_text(data) && (self.proven(data) || self.proven(without_nul(data)))
    }

    /// A table of partitions.
    pub(super) fn is_partitions(&self) -> bool {
        self.event.data.starts_with(GPT) && self.proven(self.event.data)
    }
}

/// Whether there was no room.
pub(super) fn push<T: Clone>(list: &mut Vec<T>, one: &T) -> bool {
    let full = list.len() >= MAX_LISTED;
    if !full {
        list.push(one.clone());
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
pub(super) fn is_wide(data: &[u8]) -> bool {
    data.len() >= 2 && matches!(data, [first, 0, ..] if *first != 0)
}

/// UTF-16, little-endian, without what ends it.
pub(super) fn wide(data: &[u8]) -> String {
    let units = data.chunks_exact(2).map(|unit| match unit {
        [low, high] => u16::from_le_bytes([*low, *high]),
        _ => 0,
    });
    let text: String = char::decode_utf16(units)
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    text.trim_end_matches('\0').to_owned()
}
