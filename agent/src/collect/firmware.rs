//! Firmware that the host keeps for its devices: what NVIDIA's driver loads into GPUs, the
//! baseboard controller's and network cards' versions as their drivers tell them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use bailiwick_attestation::proto::v1::{Claim, claim::Value};

use super::{Host, claim, from_file, nvidia, text, why};

/// Longest firmware hashed; NVIDIA's have 30 to 80 MB.
const MAX_FIRMWARE: u64 = 512 << 20;
/// Most files of one folder, and most cards.
const MAX_FILES: usize = 32;

/// Device, inode, length and last change of a file: what is hashed again when it differs.
type Stamp = (u64, u64, u64, i64, i64);

/// What a file's digest was, and when.
type Known = BTreeMap<PathBuf, (Stamp, Vec<u8>)>;

/// Digests of files that are read once and looked at every time.
#[derive(Clone, Debug, Default)]
pub(super) struct Hashed(Arc<Mutex<Known>>);

impl Hashed {
    pub(super) fn digest(&self, file: &Path) -> std::io::Result<Vec<u8>> {
        let found = fs::metadata(file)?;
        let stamp = (
            found.dev(),
            found.ino(),
            found.len(),
            found.ctime(),
            found.ctime_nsec(),
        );
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((had, digest)) = known.get(file)
            && *had == stamp
        {
            return Ok(digest.clone());
        }
        let digest = hash(file)?;
        known.insert(file.to_owned(), (stamp, digest.clone()));
        Ok(digest)
    }
}

fn hash(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(file)?.take(MAX_FIRMWARE.saturating_add(1));
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 << 10];
    let mut left = MAX_FIRMWARE;
    loop {
        let read = file.read(&mut buffer)?;
        let Some(part) = buffer.get(..read).filter(|part| !part.is_empty()) else {
            return Ok(context.finish().as_ref().to_vec());
        };
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        left = left
            .checked_sub(read)
            .ok_or_else(|| std::io::Error::other("longer than any firmware"))?;
        context.update(part);
    }
}

pub(super) fn claims(host: &Host, out: &mut Vec<Claim>) {
    gsp(host, out);
    bmc(host, out);
    cards(host, out);
}

/// Names in a folder that may stand in a claim, sorted; `Err` where it cannot be read.
fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if !name.is_empty() && name.len() <= 64 && name.bytes().all(plain) {
            names.push(name);
        }
    }
    names.sort();
    names.truncate(MAX_FILES);
    Ok(names)
}

/// What the driver of this version loads into the GPUs' own processor.
fn gsp(host: &Host, out: &mut Vec<Claim>) {
    let Some(version) = nvidia::loaded(host) else {
        return;
    };
    let folder = host.lib.join("firmware/nvidia").join(version);
    let source = folder.display().to_string();
    let names = match names(&folder) {
        Ok(names) => names,
        Err(err) => {
            out.push(claim("nvidia.gsp", &source, Value::Unavailable(why(&err))));
            return;
        }
    };
    for name in names {
        let Some(stem) = name.strip_suffix(".bin") else {
            continue;
        };
        let file = folder.join(&name);
        let value = match host.hashed.digest(&file) {
            Ok(digest) => Value::Data(digest),
            Err(err) => Value::Unavailable(why(&err)),
        };
        let name = format!("nvidia.firmware.{stem}");
        out.push(claim(&name, &file.display().to_string(), value));
    }
}

/// As the IPMI driver read it when it found the controller.
fn bmc(host: &Host, out: &mut Vec<Claim>) {
    let folder = host.sys.join("class/ipmi/ipmi0/device/bmc");
    let source = folder.display().to_string();
    let present = folder.exists();
    out.push(claim("bmc.present", &source, Value::Flag(present)));
    if !present {
        return;
    }
    for (name, file) in [
        ("bmc.firmware", "firmware_revision"),
        ("bmc.manufacturer", "manufacturer_id"),
        ("bmc.product", "product_id"),
        ("bmc.ipmi", "ipmi_version"),
    ] {
        out.push(from_file(name, &folder.join(file), text));
    }
}

/// Of cards that do RDMA the driver tells; others are not asked.
fn cards(host: &Host, out: &mut Vec<Claim>) {
    let folder = host.sys.join("class/infiniband");
    for name in names(&folder).unwrap_or_default() {
        for (field, file) in [("firmware", "fw_ver"), ("board", "board_id")] {
            let file = folder.join(&name).join(file);
            // Not every driver knows a board.
            if file.exists() {
                out.push(from_file(&format!("nic.{name}.{field}"), &file, text));
            }
        }
    }
}
