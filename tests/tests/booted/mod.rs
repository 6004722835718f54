//! What firmware, boot loader and kernel would have measured: extends for a software TPM, and the
//! logs that say so.
#![expect(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use bailiwick_attestation::boot::EventType;
use bailiwick_attestation::crypto::HashAlgorithm;
use bailiwick_attestation::proto::v1;

/// What the agent quotes.
pub(crate) const REGISTERS: [u8; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
const SHA256: HashAlgorithm = HashAlgorithm::Sha256;
/// `INITRD_EVENT_TAG_ID` of the kernel's EFI stub, and its name.
const INITRD: &[u8] = &[
    0xec, 0x22, 0x3b, 0x8f, 6, 0, 0, 0, b'L', b'i', b'n', b'u', b'x', 0,
];
/// `EFI_GLOBAL_VARIABLE`.
const GLOBAL: [u8; 16] = [
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c,
];

/// One boot.
#[derive(Clone)]
pub(crate) struct Booted {
    pub(crate) command_line: String,
    pub(crate) initrd: Vec<u8>,
    pub(crate) kernel: Vec<u8>,
    pub(crate) secure_boot: bool,
    /// A register whose last event the log does not show.
    pub(crate) hide: Option<u32>,
    /// Names and contents of files the kernel measured.
    pub(crate) files: Vec<(String, u8)>,
    number: u32,
}

/// Register, kind, what is measured, what stands beside it.
type Event = (u32, EventType, Vec<u8>, Vec<u8>);

fn digest(bytes: &[u8]) -> Vec<u8> {
    SHA256.digest(&[bytes]).unwrap().as_slice().to_vec()
}

fn same(register: u32, kind: EventType, data: &[u8]) -> Event {
    (register, kind, data.to_vec(), data.to_vec())
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn variable(kind: EventType, name: &str, value: &[u8]) -> Event {
    let units = wide(name);
    let data = [
        &GLOBAL[..],
        &u64::try_from(units.len() / 2).unwrap().to_le_bytes(),
        &u64::try_from(value.len()).unwrap().to_le_bytes(),
        &units,
        value,
    ];
    same(7, kind, &data.concat())
}

impl Booted {
    /// A good boot, the `number`th: this firmware counts them in register 5.
    pub(crate) fn new(number: u32) -> Self {
        Self {
            command_line: "root=/dev/vda ro lockdown=integrity".into(),
            initrd: b"initrd".to_vec(),
            kernel: b"kernel".to_vec(),
            secure_boot: true,
            hide: None,
            files: vec![("/usr/bin/agent".into(), 2)],
            number,
        }
    }

    fn events(&self) -> Vec<Event> {
        let policy = EventType::EFI_VARIABLE_DRIVER_CONFIG;
        let image = EventType::EFI_BOOT_SERVICES_APPLICATION;
        let line = format!("kernel_cmdline: {}\0", self.command_line);
        let load = format!("linux {}", self.command_line);
        let mut events = vec![
            same(0, EventType::S_CRTM_VERSION, &wide("2.17\0")),
            variable(policy, "SecureBoot", &[u8::from(self.secure_boot)]),
            variable(policy, "PK", b"platform"),
            variable(policy, "KEK", b"exchange"),
            variable(policy, "db", b"good"),
            variable(policy, "dbx", b"bad"),
        ];
        events.extend((0..8).map(|register| same(register, EventType::SEPARATOR, &[0; 4])));
        let count = format!("boot {}", self.number);
        events.extend([
            same(5, EventType::EFI_ACTION, count.as_bytes()),
            variable(EventType::EFI_VARIABLE_AUTHORITY, "db", b"certificate"),
            (4, image, b"shim".to_vec(), b"path".to_vec()),
            (4, image, self.kernel.clone(), b"path".to_vec()),
            (
                8,
                EventType::IPL,
                load.clone().into_bytes(),
                format!("grub_cmd: {load}\0").into_bytes(),
            ),
            (
                8,
                EventType::IPL,
                self.command_line.clone().into_bytes(),
                line.into_bytes(),
            ),
            (
                9,
                EventType::EVENT_TAG,
                self.initrd.clone(),
                INITRD.to_vec(),
            ),
        ]);
        events
    }

    /// The kernel's list: its first entry is over what registers 0 to 9 held then.
    fn entries(&self) -> Vec<Vec<u8>> {
        let mut registers = [[0_u8; 32]; 10];
        for (register, _, measured, _) in self.events() {
            if let Some(value) = registers.get_mut(usize::try_from(register).unwrap()) {
                let extended = digest(&[value.as_slice(), &digest(&measured)].concat());
                value.copy_from_slice(&extended);
            }
        }
        let aggregate = entry("boot_aggregate", &digest(&registers.concat()));
        let files = self.files.iter();
        let files = files.map(|(name, content)| entry(name, &[*content; 32]));
        std::iter::once(aggregate).chain(files).collect()
    }

    /// `tpm2_pcrextend` for each measurement.
    pub(crate) fn extends(&self) -> Vec<String> {
        let extend = |register: u32, digest: &[u8]| {
            format!("tpm2_pcrextend {register}:sha256={}", hex::encode(digest))
        };
        let events = self.events();
        let booted = events
            .iter()
            .map(|event| extend(event.0, &digest(&event.2)));
        let files = self.entries();
        let files = files.iter().map(|entry| extend(10, &digest(entry)));
        booted.chain(files).collect()
    }

    /// The logs as the kernel would show them.
    pub(crate) fn logs(&self) -> Vec<v1::Log> {
        let header = [
            &b"Spec ID Event03\0\0\0\0\0\0\x02\x00\x02"[..],
            &1_u32.to_le_bytes(),
            &SHA256.tpm_id().to_le_bytes(),
            &32_u16.to_le_bytes(),
            &[0],
        ]
        .concat();
        let mut boot = [
            &0_u32.to_le_bytes()[..],
            &EventType::NO_ACTION.0.to_le_bytes(),
        ]
        .concat();
        boot.extend([0; 20]);
        boot.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
        boot.extend(header);
        let mut events = self.events();
        if let Some(register) = self.hide {
            let last = events.iter().rposition(|event| event.0 == register);
            events.remove(last.unwrap());
        }
        for (register, kind, measured, data) in events {
            boot.extend(register.to_le_bytes());
            boot.extend(kind.0.to_le_bytes());
            boot.extend(1_u32.to_le_bytes());
            boot.extend(SHA256.tpm_id().to_le_bytes());
            boot.extend(digest(&measured));
            boot.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            boot.extend(data);
        }
        let mut ima = Vec::new();
        for data in self.entries() {
            ima.extend(10_u32.to_le_bytes());
            ima.extend(HashAlgorithm::Sha1.digest(&[&data]).unwrap().as_slice());
            ima.extend(6_u32.to_le_bytes());
            ima.extend(b"ima-ng");
            ima.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
            ima.extend(data);
        }
        [("boot", boot), ("ima", ima)]
            .map(|(name, content)| v1::Log {
                name: name.to_owned(),
                content,
                ..v1::Log::default()
            })
            .to_vec()
    }
}

/// An `ima-ng` entry's template data.
fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    let field = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap();
        [&len.to_le_bytes()[..], bytes].concat()
    };
    let hash = [b"sha256:\0".as_slice(), content].concat();
    [field(&hash), field(&[name.as_bytes(), &[0]].concat())].concat()
}
