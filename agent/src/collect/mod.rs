//! Facts about the host, one file per source, each a claim with the place it was read at.
//!
//! Everything here is self-reported: the kernel, DMI or NVML said so. Three outcomes are kept
//! apart. *Read*: the claim has a value. *Could not be read*: the claim is there and says why
//! (`unavailable`). *There is no such thing*: a flag says so (`boot.efi`, `nvidia.present` are
//! false) and claims about the thing are left out.

mod addresses;
mod boot;
mod cpu;
mod devlink;
mod disk;
mod dmi;
mod firmware;
pub mod gpu;
mod iommu;
mod kernel;
mod logs;
mod modules;
mod nvidia;
pub mod nvml;
pub mod oq;
mod restarts;
pub mod tee;
#[cfg(test)]
mod tests;
pub(crate) mod time;
pub(crate) mod unfenced;
mod uplinks;

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use bailiwick_attestation::proto::v1::{Claim, claim::Value};

pub use restarts::Restarts;
pub use uplinks::Uplinks;

pub use logs::{BOOT_LOG_LIMIT, FENCE_LOG, IMA_LOG_LIMIT, LogFile, read_logs};

use crate::{
    config::{Config, SignedBy},
    files::read_bounded,
};

/// Longest table of addresses: a host with thousands of containers.
const MAX_TABLE: usize = 4 << 20;

/// Longest text of a claim; the kernel's command line has at most 4 KiB on x86.
const MAX_TEXT: usize = 4096;

/// Where the host's facts are read.
#[derive(Clone, Debug)]
pub struct Host {
    proc: PathBuf,
    sys: PathBuf,
    nvml: Option<PathBuf>,
    nscq: Option<PathBuf>,
    fence_log: PathBuf,
    /// What firmware measured, below `/sys`: into the registers of whoever signs.
    boot_log: &'static str,
    /// Firmware and modules.
    lib: PathBuf,
    /// Folders that hold studies' data.
    mounts: Vec<PathBuf>,
    hashed: firmware::Hashed,
    cards: devlink::Asked,
}

impl Host {
    /// Roots as configured, and the log that the `fence` process keeps.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let section = &config.host;
        Self {
            fence_log: config.fence.log.clone(),
            boot_log: match config.signer {
                SignedBy::Tpm => logs::OF_TPM,
                SignedBy::Tee => logs::OF_GUEST,
            },
            proc: section.proc.clone(),
            sys: section.sys.clone(),
            nvml: section.nvml.clone(),
            nscq: section.nscq.clone(),
            lib: section.lib.clone(),
            mounts: section.mounts.clone(),
            hashed: firmware::Hashed::default(),
            cards: devlink::Asked::default(),
        }
    }

    /// Every claim that a file answers. Reads small files, some hundreds
    /// on a host with as many modules; firmware once.
    #[must_use]
    pub fn file_claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        dmi::claims(self, &mut claims);
        boot::claims(self, &mut claims);
        cpu::claims(self, &mut claims);
        kernel::claims(self, &mut claims);
        nvidia::claims(self, &mut claims);
        modules::claims(self, &mut claims);
        firmware::claims(self, &mut claims);
        self.cards.claims(Instant::now(), &mut claims);
        iommu::claims(self, &mut claims);
        disk::claims(self, &mut claims);
        time::claims(&mut claims);
        claims
    }

    /// What NVML says, and NSCQ where there are switches; each asked by a child of its own.
    pub async fn nvml_claims(&self, restarts: &mut Restarts) -> Vec<Claim> {
        let mut claims = nvml::claims(self.nvml.as_deref(), restarts).await;
        if claims.len() > 1 {
            let loads = Value::Number(restarts.driver(&self.sys));
            let source = self.sys.join("module/nvidia");
            claims.push(claim(
                "nvml.driver-loads",
                &source.display().to_string(),
                loads,
            ));
        }
        if self.proc.join("driver/nvidia-nvswitch").is_dir() {
            let library = self.nscq.as_deref();
            let asked = match std::env::current_exe() {
                Ok(program) => gpu::switches::ask(program, library, None, nvml::TIMEOUT).await,
                Err(err) => gpu::Switches::nothing(&err.to_string()),
            };
            claims.extend(gpu::switches::claims(library, &asked));
        }
        claims
    }

    /// The kernel's random id of this boot.
    pub fn boot_id(&self) -> io::Result<[u8; 16]> {
        let text = read_text(&self.proc.join("sys/kernel/random/boot_id"))?;
        let mut out = [0; 16];
        hex::decode_to_slice(text.replace('-', ""), &mut out)
            .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
        Ok(out)
    }

    /// Addresses of this process's network namespace; none where procfs does not tell.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let table = |name: &str| {
            let bytes = read_bounded(&self.proc.join("net").join(name), MAX_TABLE);
            String::from_utf8(bytes.unwrap_or_default()).unwrap_or_default()
        };
        let mut own = addresses::v4(&table("fib_trie"));
        own.extend(addresses::v6(&table("if_inet6")));
        own
    }

    /// The serial number DMI has for the chassis; empty where it has none.
    #[must_use]
    pub fn chassis_serial(&self) -> String {
        read_text(&self.sys.join(dmi::CHASSIS_SERIAL)).unwrap_or_default()
    }
}

/// A claim from the content of one file.
fn from_file(
    name: &str,
    file: &Path,
    value: impl FnOnce(String) -> Result<Value, String>,
) -> Claim {
    let value = match read_text(file) {
        Ok(text) => value(text).unwrap_or_else(Value::Unavailable),
        Err(err) => Value::Unavailable(why(&err)),
    };
    claim(name, &file.display().to_string(), value)
}

fn text(text: String) -> Result<Value, String> {
    Ok(Value::Text(text))
}

pub(crate) fn claim(name: &str, source: &str, value: Value) -> Claim {
    Claim {
        name: name.to_owned(),
        source: source.to_owned(),
        value: Some(value),
    }
}

fn read_text(file: &Path) -> io::Result<String> {
    let bytes = read_bounded(file, MAX_TEXT)?;
    let text = String::from_utf8(bytes)
        .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err.utf8_error()))?;
    Ok(text.trim_end_matches(['\n', '\0', ' ']).to_owned())
}

/// Why a file could not be read, in words that are the same on every machine.
fn why(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => err.to_string(),
    }
}
