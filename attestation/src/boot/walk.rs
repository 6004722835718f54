//! The events of a log, register by register, on their way to facts.

use std::collections::BTreeSet;

use super::content::{SEPARATORS, without_nul};
use super::event::EventType;
use super::facts::{CommandLine, Facts, MAX_LISTED, Seen, is_wide, push, wide};
use super::grub::{Ran, is_plain};
use super::log::Format;
use crate::crypto::{Digest, HashAlgorithm};

/// Files of GRUB's: as many digests as fit into a profile's text. One that reads its modules one by
/// one reads more, and others at each boot.
const MAX_FILES: usize = 32;
/// How the names of shim's lists begin.
const MOK: &[u8] = b"MokList";

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

/// Registers of a CCEL: UEFI 2.10, §38.4.1.
mod rtmr {
    /// RTMR 0: what PCRs 1 and 7 hold.
    pub(super) const FIRMWARE: u32 = 1;
    /// RTMR 1: what PCRs 2 to 6 hold.
    pub(super) const IMAGES: u32 = 2;
    /// RTMR 2: what PCRs 8 to 15 hold.
    pub(super) const BOOT_LOADERS: u32 = 3;
}

/// Facts so far, and what shows only at the end.
#[derive(Debug)]
pub(super) struct Walk {
    facts: Facts,
    bank: HashAlgorithm,
    /// Digests of separators, by which they are known whatever kind they go by.
    separators: [Option<Digest>; 2],
    /// Registers that firmware has handed over.
    handed_over: BTreeSet<u32>,
    /// The name of a section, whose content comes next.
    section: Option<String>,
    /// Something else came.
    sections_over: bool,
    /// There was a version of the firmware.
    version: bool,
    ran: Ran,
    /// Command lines by systemd-stub as they were measured, without what ends them.
    lines: BTreeSet<Vec<u8>>,
    /// The register of files, one more at most than can be told.
    files: Vec<Digest>,
    /// Not all of that is the kernel's stub's.
    untagged: bool,
}

impl Walk {
    pub(super) fn new(bank: HashAlgorithm, manifests: Vec<String>) -> Self {
        let facts = Facts {
            manifests,
            ..Facts::default()
        };
        Self {
            facts,
            bank,
            separators: SEPARATORS.map(|data| bank.digest(&[&data])),
            handed_over: BTreeSet::new(),
            section: None,
            sections_over: false,
            version: false,
            ran: Ran::default(),
            lines: BTreeSet::new(),
            files: Vec::new(),
            untagged: false,
        }
    }

    /// An event of a TPM's log.
    pub(super) fn event(&mut self, seen: &Seen<'_, '_>) {
        self.measured(seen.event.register, seen);
    }

    /// An event of a CCEL, where fewer registers hold the same. What was measured of boot loaders can be
    /// told apart by comments alone.
    pub(super) fn guest(&mut self, seen: &Seen<'_, '_>) {
        let kind = seen.event.kind;
        let data = seen.event.data;
        let alike = match seen.event.register {
            rtmr::FIRMWARE => match kind {
                EventType::EFI_VARIABLE_DRIVER_CONFIG | EventType::EFI_VARIABLE_AUTHORITY => {
                    pcr::POLICY
                }
                EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2 => pcr::BOOT_VARIABLES,
                _ => pcr::FIRMWARE,
            },
            rtmr::IMAGES if seen.is_partitions() => return,
            rtmr::IMAGES => pcr::BOOT_LOADERS,
            rtmr::BOOT_LOADERS => match kind {
                EventType::IPL if Ran::is_labelled(data) => pcr::GRUB,
                EventType::IPL if data.starts_with(MOK) => pcr::SHIM,
                EventType::IPL if is_wide(data) && seen.proven(data) => pcr::COMMAND_LINE,
                EventType::IPL if data.first() == Some(&b'.') => pcr::UNIFIED_IMAGE,
                _ => pcr::FILES,
            },
            _ => return,
        };
        let policy = alike == pcr::POLICY || self.is_separator(seen);
        if seen.event.register == rtmr::FIRMWARE && !policy && self.is_firmwares(seen) {
            // What the policy is stands in a row: whatever comes between could be one of it, hidden.
            self.facts.keys.clear();
        }
        self.measured(alike, seen);
    }

    fn is_separator(&self, seen: &Seen<'_, '_>) -> bool {
        let mut separators = self.separators.iter().flatten();
        separators.any(|one| *one == seen.digest)
    }

    /// Before its separator a register is firmware's alone.
    fn is_firmwares(&self, seen: &Seen<'_, '_>) -> bool {
        !self.handed_over.contains(&seen.event.register)
    }

    fn measured(&mut self, register: u32, seen: &Seen<'_, '_>) {
        let kind = seen.event.kind;
        let separator = self.is_separator(seen);
        if separator {
            self.handed_over.insert(seen.event.register);
        }
        let firmware = self.is_firmwares(seen);
        let facts = &mut self.facts;
        match register {
            pcr::FIRMWARE => {
                if kind == EventType::S_CRTM_VERSION {
                    facts.late.version |= !firmware;
                    facts.version(seen, self.version);
                    self.version = true;
                }
                if !separator && !seen.is_text() {
                    facts.cut |= push(&mut facts.firmware_blobs, &seen.digest);
                }
            }
            pcr::BOOT_VARIABLES => {
                if let EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2 = kind {
                    facts.late.order |= !firmware;
                    facts.boot_variable(seen);
                }
            }
            pcr::DRIVERS | pcr::BOOT_LOADERS if separator || seen.is_text() => {}
            pcr::DRIVERS => facts.cut |= push(&mut facts.drivers, &seen.digest),
            pcr::BOOT_LOADERS => facts.cut |= push(&mut facts.applications, &seen.digest),
            pcr::POLICY if kind == EventType::EFI_VARIABLE_DRIVER_CONFIG && firmware => {
                facts.key(seen);
            }
            // Whatever comes later is of boot loaders, by whatever kind it goes.
            pcr::POLICY if separator || seen.is_text() => {}
            pcr::POLICY => facts.authority(seen),
            pcr::GRUB => self.ran.measured(seen.event.data, |data| seen.proven(data)),
            pcr::FILES => self.file(seen),
            pcr::UNIFIED_IMAGE => self.section(seen),
            pcr::COMMAND_LINE => self.line(seen),
            pcr::EXTENSIONS => facts.cut |= push(&mut facts.extensions, &seen.digest),
            pcr::SHIM => facts.shim(seen),
            _ => {}
        }
    }

    fn file(&mut self, seen: &Seen<'_, '_>) {
        let first = self.files.is_empty();
        if self.files.len() <= MAX_FILES {
            self.files.push(seen.digest.clone());
        }
        let tagged = seen.event.kind == EventType::EVENT_TAG && self.facts.tagged(seen, first);
        self.untagged |= !tagged;
    }

    fn line(&mut self, seen: &Seen<'_, '_>) {
        let data = seen.event.data;
        if is_wide(data) && seen.proven(data) {
            let mut line = data;
            while let Some(shorter) = line.strip_suffix(&[0, 0]) {
                line = shorter;
            }
            self.lines.insert(line.to_vec());
        }
    }

    /// systemd-stub measures the name of a section, then its content under the same name, and nothing
    /// else. Once anything else comes, anybody in user space may have measured it.
    fn section(&mut self, seen: &Seen<'_, '_>) {
        if self.sections_over {
            return;
        }
        let data = seen.event.data;
        let name = match is_wide(data) {
            true => wide(data),
            false => String::from_utf8_lossy(without_nul(data)).into_owned(),
        };
        if self.section.as_ref() == Some(&name) {
            self.section = None;
            let name = name.trim_start_matches('.').to_owned();
            let sections = &mut self.facts.sections;
            if sections.len() < MAX_LISTED {
                sections.entry(name).or_insert_with(|| seen.digest.clone());
            } else {
                self.facts.cut = true;
            }
            return;
        }
        let ended = [name.as_bytes(), &[0]].concat();
        let named = name.starts_with('.') && (seen.proven(&ended) || seen.proven(name.as_bytes()));
        self.sections_over |= !named;
        self.section = named.then_some(name);
    }

    pub(super) fn done(self, format: Format) -> Facts {
        let line = self.command_line(format);
        let mut facts = self.facts;
        facts.command_line = line;
        for command in self.ran.commands().into_iter().flatten() {
            facts.cut |= push(&mut facts.commands, &command.to_owned());
        }
        facts.boot_files_by_label = self.untagged || !self.ran.is_none();
        facts.files = match self.untagged {
            false => Some(Vec::new()),
            true => (self.files.len() <= MAX_FILES).then_some(self.files),
        };
        facts
    }

    /// GRUB's, or systemd-stub's; of both nobody can tell which one started the other.
    fn command_line(&self, format: Format) -> Option<CommandLine> {
        let ccel = format == Format::Ccel;
        let mut lines = self.lines.iter();
        match (self.ran.is_none(), lines.next(), lines.next()) {
            (false, None, _) => self.ran.kernel_line().map(|text| CommandLine {
                by_grub: true,
                text: text.to_owned(),
                aggregated: !ccel,
            }),
            (true, Some(line), None) => {
                Some(wide(line))
                    .filter(|text| is_plain(text))
                    .map(|text| CommandLine {
                        by_grub: false,
                        text,
                        aggregated: !ccel && self.is_first_load(line),
                    })
            }
            _ => None,
        }
    }

    /// The kernel's stub measures its load options before it looks for anything else, with what ends
    /// them.
    fn is_first_load(&self, line: &[u8]) -> bool {
        let first = self.files.first();
        first.is_some_and(|first| {
            let ended = [line, &[0, 0]].concat();
            [&ended, line]
                .iter()
                .any(|bytes| self.bank.digest(&[bytes]).as_ref() == Some(first))
        })
    }
}
