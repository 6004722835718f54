//! A node that booted: its registers, the logs that say so, and whoever is to judge them.

use super::*;
use crate::boot::EventType;
use crate::crypto::{Digest, HashAlgorithm};

const SHA256: HashAlgorithm = HashAlgorithm::Sha256;
pub(super) const LINE: &str = "root=/dev/vda ro quiet lockdown=integrity";

/// One event: register, kind, what is measured, what stands beside it.
pub(super) type Event = (u32, EventType, Vec<u8>, Vec<u8>);

pub(super) fn event(register: u32, kind: EventType, data: &[u8]) -> Event {
    (register, kind, data.to_vec(), data.to_vec())
}

pub(super) fn variable(kind: EventType, name: &str, value: &[u8]) -> Event {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let data = [
        &crate::boot::UefiVariable::GLOBAL[..],
        &u64::try_from(units.len() / 2).unwrap().to_le_bytes(),
        &u64::try_from(value.len()).unwrap().to_le_bytes(),
        &units,
        value,
    ];
    event(7, kind, &data.concat())
}

pub(super) fn measured_of(register: u32, kind: EventType, measured: &[u8], data: &[u8]) -> Event {
    (register, kind, measured.to_vec(), data.to_vec())
}

/// Firmware, shim, GRUB, a kernel and its EFI stub, a unified image: one of everything.
pub(super) fn booted() -> Vec<Event> {
    let policy = EventType::EFI_VARIABLE_DRIVER_CONFIG;
    let wide = |text: &str| -> Vec<u8> {
        text.encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect()
    };
    let mut events = vec![
        event(0, EventType::S_CRTM_VERSION, &wide("2.17")),
        variable(policy, "SecureBoot", &[1]),
        variable(policy, "PK", b"platform"),
        variable(policy, "KEK", b"exchange"),
        variable(policy, "db", b"good"),
        variable(policy, "dbx", b"bad"),
    ];
    events.extend((0..8).map(|register| event(register, EventType::SEPARATOR, &[0; 4])));
    events.extend([
        variable(EventType::EFI_VARIABLE_AUTHORITY, "db", b"certificate"),
        variable(
            EventType::EFI_VARIABLE_AUTHORITY,
            "SbatLevel",
            b"sbat,1,2024",
        ),
        measured_of(
            4,
            EventType::EFI_BOOT_SERVICES_APPLICATION,
            b"shim",
            b"path",
        ),
        measured_of(
            4,
            EventType::EFI_BOOT_SERVICES_APPLICATION,
            b"kernel",
            b"path",
        ),
        measured_of(14, EventType::IPL, b"keys", b"MokList\0"),
        measured_of(0, EventType::EFI_PLATFORM_FIRMWARE_BLOB2, b"dxe", b"FV1"),
        measured_of(
            8,
            EventType::IPL,
            b"insmod ext2",
            b"grub_cmd: insmod ext2\0",
        ),
        measured_of(
            8,
            EventType::IPL,
            format!("linux {LINE}").as_bytes(),
            format!("grub_cmd: linux {LINE}\0").as_bytes(),
        ),
        measured_of(
            8,
            EventType::IPL,
            LINE.as_bytes(),
            format!("kernel_cmdline: {LINE}\0").as_bytes(),
        ),
        measured_of(9, EventType::IPL, b"kernel", b"(hd0)/vmlinuz\0"),
        measured_of(9, EventType::IPL, b"ramdisk", b"(hd0)/initrd\0"),
        measured_of(
            9,
            EventType::EVENT_TAG,
            b"initrd",
            &[&0x8f3b_22ec_u32.to_le_bytes()[..], b"\x06\0\0\0Linux\0"].concat(),
        ),
        measured_of(11, EventType::IPL, b".linux\0", b".linux\0"),
        measured_of(11, EventType::IPL, b"image", b".linux\0"),
    ]);
    events
}

fn old(register: u32, kind: EventType, digest: &[u8], data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [
        &register.to_le_bytes()[..],
        &kind.0.to_le_bytes(),
        digest,
        &len.to_le_bytes(),
        data,
    ]
    .concat()
}

pub(super) fn log(events: &[Event]) -> Vec<u8> {
    let header = [
        &b"Spec ID Event03\0\0\0\0\0\0\x02\x00\x02"[..],
        &1_u32.to_le_bytes(),
        &SHA256.tpm_id().to_le_bytes(),
        &32_u16.to_le_bytes(),
        &[0],
    ];
    let mut log = old(0, EventType::NO_ACTION, &[0; 20], &header.concat());
    for (register, kind, measured, data) in events {
        let digest = SHA256.digest(&[measured]).unwrap();
        log.extend(register.to_le_bytes());
        log.extend(kind.0.to_le_bytes());
        log.extend(1_u32.to_le_bytes());
        log.extend(SHA256.tpm_id().to_le_bytes());
        log.extend(digest.as_slice());
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(data);
    }
    log
}

pub(super) fn extend(value: &mut [u8; 32], digest: &[u8]) {
    let extended = SHA256.digest(&[&value[..], digest]).unwrap();
    value.copy_from_slice(extended.as_slice());
}

/// An ima-ng entry: template hash in the list, template data.
pub(super) fn entry(name: &str, content: u8) -> Vec<u8> {
    entry_of(name, &[content; 32])
}

pub(super) fn entry_of(name: &str, content: &[u8]) -> Vec<u8> {
    let digest = [b"sha256:\0".as_slice(), content].concat();
    let field = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap();
        [&len.to_le_bytes()[..], bytes].concat()
    };
    [field(&digest), field(&[name.as_bytes(), &[0]].concat())].concat()
}

pub(super) fn list(entries: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (data, violation) in entries {
        let hash = HashAlgorithm::Sha1.digest(&[data]).unwrap();
        list.extend(10_u32.to_le_bytes());
        match violation {
            true => list.extend([0; 20]),
            false => list.extend(hash.as_slice()),
        }
        let template = template(data);
        list.extend(u32::try_from(template.len()).unwrap().to_le_bytes());
        list.extend(template);
        list.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        list.extend(data);
    }
    list
}

/// The kernel's template of as many fields.
fn template(data: &[u8]) -> &'static [u8] {
    let (mut fields, mut rest) = (0, data);
    while let Some((len, tail)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap();
        rest = tail.get(len..).unwrap_or_default();
        fields += 1;
    }
    match fields {
        3 => b"ima-sig",
        _ => b"ima-ng",
    }
}

/// What the kernel makes of the registers it finds, and what ran since.
pub(super) fn entries(registers: &[[u8; 32]]) -> Vec<(Vec<u8>, bool)> {
    let found: Vec<&[u8]> = registers
        .iter()
        .take(10)
        .map(<[u8; 32]>::as_slice)
        .collect();
    let aggregate = SHA256.digest(&found).unwrap();
    vec![
        (entry_of("boot_aggregate", aggregate.as_slice()), false),
        (entry("/usr/bin/agent", 2), false),
        (entry("/usr/bin/tool", 3), false),
    ]
}

pub(super) fn ima_pcr(entries: &[(Vec<u8>, bool)]) -> [u8; 32] {
    let mut value = [0; 32];
    for (data, violation) in entries {
        match violation {
            true => extend(&mut value, &[0xff; 32]),
            false => extend(&mut value, SHA256.digest(&[data]).unwrap().as_slice()),
        }
    }
    value
}

pub(super) fn hex_of(bytes: &[u8]) -> String {
    SHA256
        .digest(&[bytes])
        .as_ref()
        .map(Digest::to_string)
        .unwrap()
}

/// A node whose registers hold what was booted, whose log says so, and whose profile asks.
pub(super) struct Booted {
    pub(super) case: Case,
    pub(super) events: Vec<Event>,
    pub(super) entries: Vec<(Vec<u8>, bool)>,
}

impl Booted {
    pub(super) fn new() -> Self {
        let mut case = Case::ordinary();
        // What stands in PCR 7 is for the log to explain.
        case.profile = case
            .profile
            .lines()
            .filter(|line| !line.starts_with("\"7\"") && *line != "[tpm.values]")
            .map(|line| format!("{line}\n"))
            .collect();
        case.profile.push_str("[boot]\n[ima]\n");
        let events = booted();
        for (register, _, measured, _) in &events {
            let digest = SHA256.digest(&[measured]).unwrap();
            let register = usize::try_from(*register).unwrap();
            extend(&mut case.tpm.pcrs[register], digest.as_slice());
        }
        let entries = entries(&case.tpm.pcrs);
        case.tpm.pcrs[10] = ima_pcr(&entries);
        Self {
            case,
            events,
            entries,
        }
    }

    /// The kernel begins with the registers as they are.
    pub(super) fn kernel_starts(&mut self) {
        self.entries = entries(&self.case.tpm.pcrs);
        self.case.tpm.pcrs[10] = ima_pcr(&self.entries);
    }

    /// One measurement that no log has, before the kernel starts.
    pub(super) fn unexplained(&mut self, register: usize) {
        extend(&mut self.case.tpm.pcrs[register], &[1; 32]);
        self.kernel_starts();
    }

    pub(super) fn result(&mut self) -> AttestationResult {
        let logs = [("boot", log(&self.events)), ("ima", list(&self.entries))];
        let logs = logs.map(|(name, content)| v1::Log {
            name: name.to_owned(),
            content,
            ..v1::Log::default()
        });
        self.case.logs = logs.to_vec();
        self.case.appraise()
    }

    pub(super) fn codes(&mut self) -> Vec<(String, String)> {
        found(&self.result())
    }
}

pub(super) fn found(result: &AttestationResult) -> Vec<(String, String)> {
    let one = |deviation: &Deviation| (deviation.claim.clone(), deviation.code.clone());
    result.deviations().map(one).collect()
}

pub(super) fn want(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    let one = |(claim, code): &(&str, &str)| ((*claim).to_owned(), (*code).to_owned());
    rows.iter().map(one).collect()
}
