//! A processor of the test's own making, and a kernel that asks it: configfs-tsm made of pipes.
#![expect(
    dead_code,
    clippy::unwrap_used,
    reason = "every test binary uses a part of it; a fixture that fails is a failed test"
)]

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

/// `CPUID` of a Milan, its firmware, and whatever is its identifier.
const CPUID: [u8; 2] = [0x19, 0x01];
const TCB: [u8; 8] = [4, 0, 0, 0, 0, 0, 22, 115];
const CHIP_ID: [u8; 64] = [7; 64];

/// A running guest, as its chip sees it.
#[derive(Clone, Debug)]
pub(crate) struct Launched {
    /// `REPORT_ID`.
    pub(crate) id: [u8; 32],
    /// `MEASUREMENT`.
    pub(crate) measurement: [u8; 48],
    /// `HOST_DATA`.
    pub(crate) host_data: [u8; 32],
    /// `POLICY`; bit 19: its host may read it.
    pub(crate) policy: u64,
    /// `VMPL` that asks.
    pub(crate) vmpl: u32,
}

impl Launched {
    /// An ordinary launch; `id` tells it from others.
    pub(crate) const fn new(id: u8) -> Self {
        Self {
            id: [id; 32],
            measurement: [6; 48],
            host_data: [0; 32],
            policy: 0,
            vmpl: 0,
        }
    }
}

/// What a chip has, and what is handed out of it.
#[derive(Clone)]
pub(crate) struct Chip {
    key: Arc<EcdsaKeyPair>,
    id: [u8; 64],
    /// DER.
    pub(crate) root: Vec<u8>,
    /// The key's certificate and the one above it, PEM.
    pub(crate) chain: String,
    /// All three, as a host hands them over.
    pub(crate) table: Vec<u8>,
}

fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    }
    params
}

/// `ID.last`, as the key distribution service writes it into a certificate.
fn extension(last: &[u64], content: Vec<u8>) -> CustomExtension {
    let id = [&[1, 3, 6, 1, 4, 1, 3704, 1], last].concat();
    CustomExtension::from_oid_content(&id, content)
}

impl Chip {
    pub(crate) fn new() -> Self {
        Self::with_id(CHIP_ID)
    }

    /// One under a root of its own, by another identifier.
    pub(crate) fn with_id(id: [u8; 64]) -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let (root_key, ask_key, chip_key) = (key(), key(), key());
        let (root_params, ask_params) = (params("ARK", true), params("ASK", true));
        let root = root_params.self_signed(&root_key).unwrap();
        let by_root = Issuer::new(root_params, root_key);
        let ask = ask_params.signed_by(&ask_key, &by_root).unwrap();
        let by_ask = Issuer::new(ask_params, ask_key);
        let mut leaf = params("VCEK", false);
        let [bl, tee, .., snp, ucode] = TCB;
        leaf.custom_extensions = vec![
            extension(&[3, 1], vec![2, 1, bl]),
            extension(&[3, 2], vec![2, 1, tee]),
            extension(&[3, 3], vec![2, 1, snp]),
            extension(&[3, 8], vec![2, 1, ucode]),
            extension(&[4], id.to_vec()),
        ];
        let leaf = leaf.signed_by(&chip_key, &by_ask).unwrap();
        let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, &chip_key.serialize_der()).unwrap();
        Self {
            key: Arc::new(pair),
            id,
            chain: leaf.pem() + &ask.pem(),
            table: table(&[leaf.der(), ask.der(), root.der()]),
            root: root.der().to_vec(),
        }
    }

    /// The name an inventory has for it.
    pub(crate) fn name(&self) -> String {
        format!("SNP-{}", hex::encode(self.id))
    }

    /// `ATTESTATION_REPORT`, version 3, signed.
    pub(crate) fn report(&self, data: &[u8]) -> Vec<u8> {
        self.report_on(&Launched::new(0), data)
    }

    /// The same, on this guest.
    pub(crate) fn report_on(&self, guest: &Launched, data: &[u8]) -> Vec<u8> {
        let mut report = vec![0; 1184];
        let mut put = |at: usize, what: &[u8]| report[at..at + what.len()].copy_from_slice(what);
        put(0, &3_u32.to_le_bytes());
        put(0x08, &guest.policy.to_le_bytes());
        put(0x30, &guest.vmpl.to_le_bytes());
        put(0x34, &1_u32.to_le_bytes());
        put(0x50, data);
        put(0x90, &guest.measurement);
        put(0xc0, &guest.host_data);
        put(0x140, &guest.id);
        put(0x180, &TCB);
        put(0x188, &CPUID);
        put(0x1a0, &self.id);
        let signed = self.key.sign(&SystemRandom::new(), &report[..0x2a0]);
        let signed = signed.unwrap();
        for (half, at) in signed.as_ref().chunks_exact(48).zip([0x2a0, 0x2a0 + 72]) {
            let half: Vec<u8> = half.iter().rev().copied().collect();
            report[at..at + 48].copy_from_slice(&half);
        }
        report
    }
}

/// The table of the Guest-Hypervisor Communication Block.
fn table(contents: &[&[u8]]) -> Vec<u8> {
    let mut offset = 24 * (contents.len() + 1);
    let (mut entries, mut behind) = (Vec::new(), Vec::new());
    for (content, number) in contents.iter().zip(1..) {
        entries.extend([number; 16]);
        entries.extend(u32::try_from(offset).unwrap().to_le_bytes());
        entries.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        behind.extend(*content);
        offset += content.len();
    }
    entries.extend([0; 24]);
    [entries, behind].concat()
}

/// Each file is answered when it is opened, in the order in which the agent has to ask.
pub(crate) struct Kernel {
    _dir: TempDir,
    pub(crate) root: PathBuf,
}

impl Kernel {
    pub(crate) fn start(chip: Chip) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("report");
        let entry = root.join("bailiwick");
        fs::create_dir_all(&entry).unwrap();
        for name in ["provider", "generation", "inblob", "outblob"] {
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, entry.join(name), FileType::Fifo, mode, 0).unwrap();
        }
        thread::spawn(move || {
            let give = |name: &str, bytes: &[u8]| {
                let opened = OpenOptions::new().write(true).open(entry.join(name));
                drop(opened.and_then(|mut pipe| pipe.write_all(bytes)));
            };
            let mut generation = 0_u64;
            while entry.is_dir() {
                give("provider", b"sev_guest\n");
                give("generation", generation.to_string().as_bytes());
                let Ok(data) = fs::read(entry.join("inblob")) else {
                    return;
                };
                generation += 1;
                give("generation", generation.to_string().as_bytes());
                give("outblob", &chip.report(&data));
                give("generation", generation.to_string().as_bytes());
            }
        });
        Self { _dir: dir, root }
    }
}
