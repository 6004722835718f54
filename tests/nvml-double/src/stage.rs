//! A double made ready in a folder of its own: library, script, evidence.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use bailiwick_attestation::gpu::Anchors;
use bailiwick_attestation::x509::Certificate;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::made::{Made, Said, device_of, five_keys};
use crate::script::{CALLS, CudaScript, Device, NscqScript, SUFFIX, Script, Switch, TORN};

/// The library as cargo leaves it.
const FILE: &str = "libbailiwick_nvml_double.so";
/// What the loader calls NVML.
const NVML: &str = "libnvidia-ml.so.1";

/// What the loader calls CUDA's driver API.
const CUDA: &str = "libcuda.so.1";
/// What the loader calls NSCQ.
const NSCQ: &str = "libnvidia-nscq.so.2";

/// The built library, found from a program of the same build: in its folder or the one above,
/// `target/<profile>` and `target/<profile>/deps`.
pub fn library() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("this program's file")?;
    let mut folders = here.ancestors().skip(1).take(2);
    folders
        .find_map(|folder| {
            let direct = folder.join(FILE);
            let below = folder.join("deps").join(FILE);
            [direct, below].into_iter().find(|path| path.is_file())
        })
        .with_context(|| format!("{FILE} is not beside {}: build it", here.display()))
}

/// Evidence somebody recorded: read at run time, and of no repository.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// A report.
    pub report: &'a [u8],
    /// Its chain, PEM.
    pub chain: &'a [u8],
}

/// A double in a folder.
#[derive(Debug)]
pub struct Staged {
    folder: PathBuf,
    /// What it answers; [`Staged::write`] makes it so.
    pub script: Script,
    /// What CUDA's half answers, likewise.
    pub cuda: CudaScript,
    /// What NSCQ's half answers, likewise.
    pub nscq: NscqScript,
    roots: Vec<Certificate>,
}

impl Staged {
    /// Puts `library` into `folder`, with a script that names no device.
    pub fn new(library: &Path, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let staged = Self {
            folder: folder.to_owned(),
            script: Script::default(),
            cuda: CudaScript::default(),
            nscq: NscqScript::default(),
            roots: Vec::new(),
        };
        for copy in staged.copies() {
            fs::copy(library, copy).with_context(|| library.display().to_string())?;
        }
        staged.write()?;
        Ok(staged)
    }

    /// What to configure as NVML.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(NVML)
    }

    /// What to configure as CUDA's driver API: a copy of its own, with a script of its own.
    #[must_use]
    pub fn cuda_path(&self) -> PathBuf {
        self.folder.join(CUDA)
    }

    /// What to configure as NSCQ: likewise.
    #[must_use]
    pub fn nscq_path(&self) -> PathBuf {
        self.folder.join(NSCQ)
    }

    fn copies(&self) -> [PathBuf; 3] {
        [self.path(), self.cuda_path(), self.nscq_path()]
    }

    /// Adds a GH100 with keys of its own, which answers every challenge.
    pub fn add_made(&mut self, number: u8) -> anyhow::Result<&mut Device> {
        self.add(number, &Said::hopper())
    }

    /// Adds eight GPUs and four switches that name each other, under Protected PCIe.
    pub fn add_set(&mut self) -> anyhow::Result<()> {
        let gpus: Vec<[u8; 8]> = (1..=8).map(of_gpu).collect();
        let switches: Vec<[u8; 8]> = (1..=4).map(of_switch).collect();
        let mut links: Vec<u8> = vec![0; 8];
        for pdi in switches.iter().chain(&switches) {
            links.extend(pdi.iter().rev());
        }
        let says = Said::hopper().with(21, &[0xaa]).with(22, &links);
        for number in 1..=8 {
            self.add(number, &says)?;
        }
        for (number, pdi) in (1..=4).zip(switches) {
            self.add_switch(number, pdi, &gpus)?;
        }
        self.script.multi_gpu = 1;
        Ok(())
    }

    fn add_switch(&mut self, number: u8, pdi: [u8; 8], gpus: &[[u8; 8]]) -> anyhow::Result<()> {
        let says = Said::switch(pdi, gpus);
        let made = device_of(five_keys(), "LS_10", pdi, &says);
        let kept = self.keep_made(&format!("switch{number}"), &made, &says)?;
        self.nscq.switches.push(Switch {
            label: format!("SWX-00000000-0000-4000-8000-0000000000{number:02x}"),
            arch: 2,
            mode: 3,
            chain: kept.chain,
            report: kept.report,
            key: kept.key,
        });
        Ok(())
    }

    fn add(&mut self, number: u8, says: &Said) -> anyhow::Result<&mut Device> {
        let pdi = of_gpu(number);
        let made = device_of(five_keys(), "GH100", pdi, says);
        let kept = self.keep_made(&format!("gpu{number}"), &made, says)?;
        let known = named(number, u64::from_be_bytes(pdi));
        self.push(Device {
            chain: kept.chain,
            report: kept.report,
            key: kept.key,
            ..known
        })
    }

    /// Files of a device that signs for itself.
    fn keep_made(&mut self, of: &str, made: &Made, says: &Said) -> anyhow::Result<Device> {
        let unsigned = says.unsigned();
        let key = made.chain.keys.first().context("a leaf's key")?;
        let key = self.keep(of, "key", &key.serialize_der())?;
        let pem: String = made.chain.certificates.iter().map(pem).collect();
        self.roots.extend(made.chain.certificates.last().cloned());
        Ok(Device {
            chain: self.keep(of, "chain.pem", pem.as_bytes())?,
            report: self.keep(of, "report", &unsigned)?,
            key: Some(key),
            ..Device::default()
        })
    }

    /// Adds a GPU that answers every challenge with one recorded report.
    pub fn add_recorded(
        &mut self,
        number: u8,
        recorded: Recorded<'_>,
    ) -> anyhow::Result<&mut Device> {
        let of = format!("gpu{number}");
        let device = Device {
            chain: self.keep(&of, "chain.pem", recorded.chain)?,
            report: self.keep(&of, "report", recorded.report)?,
            ..named(number, 0)
        };
        self.push(device)
    }

    fn push(&mut self, device: Device) -> anyhow::Result<&mut Device> {
        self.cuda.devices.push(device.uuid.clone());
        self.script.devices.push(device);
        self.script.devices.last_mut().context("a device")
    }

    fn keep(&self, of: &str, what: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.folder.join(format!("{of}.{what}"));
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// The roots of the made devices, which only a test trusts.
    #[must_use]
    pub fn anchors(&self) -> Anchors {
        Anchors::of(&self.roots)
    }

    /// Writes the script: the next process that loads the library answers by it. At once or not
    /// at all, for somebody may be reading.
    pub fn write(&self) -> anyhow::Result<()> {
        self.put(NVML, &serde_json::to_vec_pretty(&self.script)?)?;
        self.put(CUDA, &serde_json::to_vec_pretty(&self.cuda)?)?;
        self.put(NSCQ, &serde_json::to_vec_pretty(&self.nscq)?)
    }

    fn put(&self, library: &str, script: &[u8]) -> anyhow::Result<()> {
        let path = self.folder.join(format!("{library}{SUFFIX}"));
        let part = self.folder.join(format!("{library}.part"));
        fs::write(&part, script).with_context(|| part.display().to_string())?;
        fs::rename(&part, &path).with_context(|| path.display().to_string())
    }

    /// Takes a symbol out of these copies of the library: nothing finds it by its name any more.
    pub fn without(&self, symbol: &str) -> anyhow::Result<()> {
        let mut bytes = fs::read(self.path())?;
        let wanted: Vec<u8> = [&[0], symbol.as_bytes(), &[0]].concat();
        let mut found = 0;
        let mut at = 0;
        while let Some(rest) = bytes.get_mut(at..) {
            let Some(place) = rest.windows(wanted.len()).position(|w| w == wanted) else {
                break;
            };
            if let Some(first) = rest.get_mut(place + 1) {
                *first = b'_';
            }
            found += 1;
            at += place + 1;
        }
        ensure!(found > 0, "no symbol {symbol}");
        // Another file: the old one may be mapped somewhere.
        for copy in self.copies() {
            fs::remove_file(&copy)?;
            fs::write(&copy, &bytes)?;
        }
        Ok(())
    }

    /// What was asked about confidential computing, in order: `symbol` and the GPU's number.
    pub fn calls(&self) -> anyhow::Result<Vec<String>> {
        Self::read_calls(&self.beside(CALLS))
    }

    /// What switches were asked, in order: what, and the switch's name.
    pub fn switch_calls(&self) -> anyhow::Result<Vec<String>> {
        Self::read_calls(&self.folder.join(format!("{NSCQ}{CALLS}")))
    }

    fn read_calls(file: &Path) -> anyhow::Result<Vec<String>> {
        match fs::read_to_string(file) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// A request failed, and confidential computing with it.
    #[must_use]
    pub fn torn_down(&self) -> bool {
        self.beside(TORN).exists()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{NVML}{suffix}"))
    }
}

const fn of_gpu(number: u8) -> [u8; 8] {
    [0x48, 0xb0, 0x2d, 0, 0, 0, 0, number]
}

const fn of_switch(number: u8) -> [u8; 8] {
    [0x48, 0xb0, 0x2d, 1, 0, 0, 0, number]
}

fn named(number: u8, pdi: u64) -> Device {
    Device {
        uuid: format!("GPU-00000000-0000-4000-8000-0000000000{number:02x}"),
        serial: format!("double-{number}"),
        name: "ABI double, no hardware".to_owned(),
        vbios: "96.00.9F.00.01".to_owned(),
        pci: format!("00000000:{number:02X}:00.0"),
        pdi,
        ecc: (1, 1),
        ..Device::default()
    }
}

fn pem(certificate: &Certificate) -> String {
    let body = STANDARD.encode(certificate.as_der());
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
