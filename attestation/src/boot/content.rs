//! What may be believed of what the events say.
//!
//! Only some digests are the hash of the event's data (PFP 1.06, §10.4.1), and no digest covers an
//! event's type. So in the register that holds the Secure Boot policy nothing may stand that this
//! does not understand: an event of another type there is how a genuine policy is hidden and a
//! forged one put behind it.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Event, EventType};
use super::log::{EventLog, Format};
use super::quirk::Quirk;
use super::replay::localities;
use super::variable::UefiVariable;
use crate::crypto::{Digest, HashAlgorithm};

/// Localities a TPM is started from: PFP 1.06, §10.4.5.3.
const LOCALITIES: [u8; 3] = [0, 3, 4];
/// Variables that make up the Secure Boot policy: PFP 1.06, §3.3.4.8.
const POLICY: [&str; 7] = ["SecureBoot", "PK", "KEK", "db", "dbx", "dbt", "dbr"];
/// What a separator holds where all went well: PFP 1.06, §10.4.1.
pub(super) const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xff; 4]];
/// Of those variables, what no image was ever verified by.
const NO_AUTHORITY: [&str; 4] = ["SecureBoot", "PK", "KEK", "dbx"];

/// One thing that is wrong, or worth a look.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// Stable word.
    pub code: &'static str,
    /// Member of the event it is about.
    pub field: &'static str,
    /// Where the event begins, bytes; of the whole log: none.
    pub offset: Option<usize>,
    /// In words.
    pub detail: String,
}

/// What a log says, as far as it can be believed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Content {
    /// Why the log is refused.
    pub refusals: Vec<Finding>,
    /// What someone should look at.
    pub warnings: Vec<Finding>,
    /// Secure Boot on or off when the firmware handed over; `None`: cannot be told.
    pub secure_boot: Option<bool>,
}

/// Judges the events by the digests of `bank`, excusing the quirks named.
#[must_use]
pub fn examine(log: &EventLog<'_>, bank: HashAlgorithm, quirks: &[Quirk]) -> Content {
    let mut examiner = Examiner {
        log,
        bank,
        quirks,
        separators: SEPARATORS.map(|data| bank.digest(&[&data])),
        content: Content::default(),
    };
    examiner.no_actions();
    examiner.startup();
    examiner.separators();
    for event in log.events().iter().filter(|event| event.extends()) {
        examiner.digest_of_data(event);
    }
    examiner.policy();
    if bank == HashAlgorithm::Sha1 {
        let detail = "replayed in SHA-1, for which collisions are cheap".to_owned();
        examiner.warn("sha1-bank", "digests", None, detail);
    }
    examiner.content
}

struct Examiner<'l, 'a> {
    log: &'l EventLog<'a>,
    bank: HashAlgorithm,
    quirks: &'l [Quirk],
    /// Their digests.
    separators: [Option<Digest>; 2],
    content: Content,
}

impl<'l, 'a> Examiner<'l, 'a> {
    fn refuse(&mut self, code: &'static str, field: &'static str, at: usize, detail: String) {
        self.content.refusals.push(Finding {
            code,
            field,
            offset: Some(at),
            detail,
        });
    }

    fn warn(
        &mut self,
        code: &'static str,
        field: &'static str,
        offset: Option<usize>,
        detail: String,
    ) {
        self.content.warnings.push(Finding {
            code,
            field,
            offset,
            detail,
        });
    }

    fn extending(&self) -> impl Iterator<Item = &'l Event<'a>> + use<'l, 'a> {
        self.log.events().iter().filter(|event| event.extends())
    }

    /// True where the digest is the hash of these bytes, and where this bank has none to say.
    fn is_hash_of(&self, event: &Event<'a>, bytes: &[u8]) -> bool {
        let Some(digest) = self.log.digest(event, self.bank) else {
            return true;
        };
        let hash = self.bank.digest(&[bytes]);
        hash.is_some_and(|hash| hash.as_slice() == digest)
    }

    /// A separator, whatever kind it goes by. What it stands for is in its digest.
    fn is_separator(&self, event: &Event<'a>) -> bool {
        let digest = self.log.digest(event, self.bank);
        let mut separators = self.separators.iter().flatten();
        digest.is_some_and(|digest| separators.any(|one| one.as_slice() == digest))
    }

    /// They extend nothing, so their digests are zeroes and their register is any.
    fn no_actions(&mut self) {
        let log = self.log;
        for event in log.events().iter().filter(|event| !event.extends()) {
            if event.register == u32::MAX {
                let detail = "EV_NO_ACTION of no register".to_owned();
                self.warn("no-action-register", "pcrIndex", Some(event.offset), detail);
            }
            let banks = log.banks().iter().filter_map(|bank| bank.hash());
            let mut digests = banks.filter_map(|bank| log.digest(event, bank));
            if digests.any(|digest| digest.iter().any(|byte| *byte != 0)) {
                let detail = "EV_NO_ACTION with a digest: it is not extended".to_owned();
                self.warn("no-action-digest", "digests", Some(event.offset), detail);
            }
        }
    }

    fn startup(&mut self) {
        for found in localities(self.log) {
            if found.late {
                let detail = format!(
                    "StartupLocality {} after PCR 0 was extended or another was named",
                    found.locality
                );
                self.refuse("startup-locality-late", "event", found.offset, detail);
            } else if !LOCALITIES.contains(&found.locality) {
                let detail = format!("no TPM is started from locality {}", found.locality);
                self.refuse("startup-locality", "event", found.offset, detail);
            }
        }
    }

    /// One per register: what comes before it is firmware, what comes after is not.
    fn separators(&mut self) {
        let policy = self.log.format().secure_boot_register();
        let ccel = self.log.format() == Format::Ccel;
        // Of a CCEL the register holds more, and firmware without Secure Boot ends it with nothing.
        let must = !ccel
            || self
                .extending()
                .any(|event| event.register == policy && is_policy(event));
        let expected = if ccel { 1..=2 } else { 0..=7 };
        let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
        let mut used = BTreeSet::new();
        for event in self.extending() {
            used.insert(event.register);
            if event.kind != EventType::SEPARATOR {
                continue;
            }
            let count = seen.entry(event.register).or_default();
            *count += 1;
            if *count == 2 {
                self.duplicate_separator(event);
            }
            if expected.contains(&event.register) {
                self.separator_data(event);
            }
        }
        for register in used.into_iter().filter(|used| expected.contains(used)) {
            if seen.contains_key(&register) {
                continue;
            }
            let detail = format!("register {register} was extended and has no EV_SEPARATOR");
            if register == policy && must {
                self.refuse("no-separator", "eventType", 0, detail);
            } else {
                self.warn("no-separator", "eventType", None, detail);
            }
        }
    }

    fn duplicate_separator(&mut self, event: &Event<'_>) {
        let quirk = Quirk::OvmfDuplicateSeparator;
        let detail = format!(
            "a second EV_SEPARATOR in register {}; the quirk {quirk} would accept it",
            event.register
        );
        let (code, at) = ("duplicate-separator", event.offset);
        if self.quirks.contains(&quirk) {
            self.warn(code, "eventType", Some(at), detail);
        } else {
            self.refuse(code, "eventType", at, detail);
        }
    }

    fn separator_data(&mut self, event: &Event<'_>) {
        // What is measured of an error is its number; the data beside it may say more.
        let failed = self.log.digest(event, self.bank).is_some()
            && self.is_hash_of(event, &1_u32.to_le_bytes());
        let (code, detail) = match event.data {
            data if failed || data == [1, 0, 0, 0] => {
                let ended = "firmware ended the measurements of register";
                let register = event.register;
                (
                    "separator-error",
                    format!("{ended} {register} with an error"),
                )
            }
            [0, 0, 0, 0] | [0xff, 0xff, 0xff, 0xff] => return,
            _ => {
                let want = "the data of a separator is four bytes 0x00 or 0xff";
                ("separator-data", want.to_owned())
            }
        };
        self.refuse(code, "event", event.offset, detail);
    }

    /// Kinds whose digest has to be the hash of their data: otherwise the data is not what was
    /// measured.
    fn digest_of_data(&mut self, event: &Event<'a>) {
        let policy = self.log.format().secure_boot_register();
        let same = match event.kind {
            EventType::SEPARATOR | EventType::EFI_GPT_EVENT => self.is_hash_of(event, event.data),
            // Text in one byte or two, which some firmware hashes without what ends it.
            EventType::S_CRTM_VERSION => {
                let mut ends = [0, 1, 2].into_iter();
                ends.any(|cut| {
                    without_nuls(event.data, cut).is_some_and(|data| self.is_hash_of(event, data))
                })
            }
            EventType::EFI_VARIABLE_DRIVER_CONFIG if event.register == policy => {
                self.is_hash_of(event, event.data)
            }
            EventType::EFI_ACTION => {
                let text = without_nul(event.data);
                self.is_hash_of(event, event.data) || self.is_hash_of(event, text)
            }
            EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_BOOT2 => {
                self.variable_elsewhere(event);
                true
            }
            _ => true,
        };
        if !same {
            let detail = format!(
                "{} of register {}: its data is not what was measured",
                event.kind, event.register
            );
            self.refuse("digest-not-of-data", "digests", event.offset, detail);
        }
    }

    /// Firmware hashes the whole event or, of boot variables, the value alone.
    fn variable_elsewhere(&mut self, event: &Event<'a>) {
        let whole = self.is_hash_of(event, event.data);
        let value = UefiVariable::parse(event.data)
            .is_ok_and(|variable| self.is_hash_of(event, variable.value));
        if !whole && !value {
            let detail = format!(
                "{} of register {}: neither its data nor its value is what was measured",
                event.kind, event.register
            );
            self.warn("variable-digest", "digests", Some(event.offset), detail);
        }
    }

    /// The register that holds the Secure Boot policy, event by event.
    fn policy(&mut self) {
        let register = self.log.format().secure_boot_register();
        let ccel = self.log.format() == Format::Ccel;
        let mut measured: BTreeMap<String, Option<bool>> = BTreeMap::new();
        let mut handed_over = false;
        for event in self.extending().filter(|event| event.register == register) {
            match event.kind {
                // Of a CCEL it could go by the kind of what stands beside it.
                _ if ccel && self.is_separator(event) => handed_over = true,
                EventType::SEPARATOR => handed_over = true,
                EventType::EFI_VARIABLE_DRIVER_CONFIG => {
                    self.policy_variable(event, handed_over, &mut measured);
                }
                EventType::EFI_ACTION if is_text(event.data) => {}
                EventType::EFI_VARIABLE_AUTHORITY
                | EventType::EFI_SPDM_DEVICE_POLICY
                | EventType::EFI_SPDM_DEVICE_AUTHORITY => self.authority(event, handed_over),
                // Of a CCEL the same register holds what PCR 1 does, and a variable of the policy could
                // hide among that: they stand in a row before the separator.
                kind if ccel && beside_policy(kind) => {
                    if !handed_over {
                        measured.clear();
                    }
                }
                kind => {
                    let detail = format!("{kind} cannot stand in register {register}");
                    self.refuse("unexpected-event", "eventType", event.offset, detail);
                }
            }
        }
        let refused = self.content.refusals.iter();
        let believed = refused
            .filter(|finding| finding.code != "duplicate-separator")
            .count()
            == 0;
        let said = measured.get("SecureBoot").copied().flatten();
        self.content.secure_boot = said.filter(|_| believed);
    }

    /// Once before the separator; again after it only if it changed before the OS took over.
    fn policy_variable(
        &mut self,
        event: &Event<'a>,
        handed_over: bool,
        measured: &mut BTreeMap<String, Option<bool>>,
    ) {
        let variable = match UefiVariable::parse(event.data) {
            Ok(variable) => variable,
            Err(error) => {
                self.refuse("malformed", error.field, event.offset, error.to_string());
                return;
            }
        };
        let name = variable.name.trim_end_matches('\0').to_owned();
        if name == "SecureBoot" && variable.guid != UefiVariable::GLOBAL {
            let detail = "a variable SecureBoot that is not the platform's".to_owned();
            self.refuse("unexpected-event", "VariableName", event.offset, detail);
            return;
        }
        let value = match variable.value {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        };
        if !POLICY.contains(&&*name) {
            return;
        }
        let Some(before) = measured.get_mut(&name) else {
            // Nobody but firmware measures before the separator.
            measured.insert(name, value.filter(|_| !handed_over));
            return;
        };
        let changed = *before != value;
        if handed_over {
            if changed {
                *before = None;
            }
            let detail = format!("{name} was measured again after the separator");
            self.warn("policy-changed", "event", Some(event.offset), detail);
        } else {
            let detail = format!("{name} was measured twice before the separator");
            self.refuse("policy-twice", "event", event.offset, detail);
        }
    }

    /// What verified an image. After the separator boot loaders measure theirs, and some hash less
    /// than the event; before it there is firmware alone.
    fn authority(&mut self, event: &Event<'a>, handed_over: bool) {
        let variable = UefiVariable::parse(event.data);
        let name = variable.as_ref().map(|variable| &*variable.name);
        let hides = name.is_ok_and(|name| NO_AUTHORITY.contains(&name.trim_end_matches('\0')));
        let unproved = variable.is_err() || !self.is_hash_of(event, event.data);
        if hides {
            let detail = format!("{} of a variable that verifies no image", event.kind);
            self.refuse("unexpected-event", "eventType", event.offset, detail);
        } else if !handed_over && unproved {
            let detail = format!(
                "{} before the separator whose data is not what was measured",
                event.kind
            );
            self.refuse("digest-not-of-data", "digests", event.offset, detail);
        }
    }
}

/// Kinds that PCR 1 may hold: PFP 1.06, §3.3.4.2.
const fn beside_policy(kind: EventType) -> bool {
    matches!(
        kind,
        EventType::CPU_MICROCODE
            | EventType::PLATFORM_CONFIG_FLAGS
            | EventType::TABLE_OF_DEVICES
            | EventType::NONHOST_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_BOOT2
            | EventType::EFI_HANDOFF_TABLES
            | EventType::EFI_HANDOFF_TABLES2
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB2
            | EventType::ACTION
            | EventType::EVENT_TAG
            | EventType::IPL
    )
}

/// A variable of the Secure Boot policy.
fn is_policy(event: &Event<'_>) -> bool {
    event.kind == EventType::EFI_VARIABLE_DRIVER_CONFIG
        && UefiVariable::parse(event.data)
            .is_ok_and(|variable| POLICY.contains(&variable.name.trim_end_matches('\0')))
}

/// The data without that many zero bytes at its end; `None` where it ends otherwise.
pub(super) fn without_nuls(data: &[u8], count: usize) -> Option<&[u8]> {
    let (data, end) = data.split_at_checked(data.len().checked_sub(count)?)?;
    end.iter().all(|byte| *byte == 0).then_some(data)
}

pub(super) fn without_nul(data: &[u8]) -> &[u8] {
    data.strip_suffix(&[0]).unwrap_or(data)
}

/// Printable ASCII: no variable, whose first bytes are a GUID, passes for an action.
pub(super) fn is_text(data: &[u8]) -> bool {
    let text = without_nul(data);
    !text.is_empty() && text.iter().all(|byte| (b' '..=b'~').contains(byte))
}
