//! The NVIDIA kernel driver, as it says in procfs; GPUs themselves are NVML's to name.

use bailiwick_attestation::proto::v1::{Claim, claim::Value};

use super::{Host, claim, from_file, read_text, why};

pub(super) fn claims(host: &Host, out: &mut Vec<Claim>) {
    let folder = host.proc.join("driver/nvidia");
    let source = folder.display().to_string();
    let present = match folder.try_exists() {
        Ok(present) => Value::Flag(present),
        Err(err) => Value::Unavailable(why(&err)),
    };
    let absent = present == Value::Flag(false);
    out.push(claim("nvidia.present", &source, present));
    if !absent {
        out.push(from_file(
            "nvidia.driver-version",
            &folder.join("version"),
            version,
        ));
    }
}

/// The version of the driver that is loaded, if it can be a folder's name.
pub(super) fn loaded(host: &Host) -> Option<String> {
    let said = read_text(&host.proc.join("driver/nvidia/version")).ok()?;
    match version(said) {
        Ok(Value::Text(version)) if !version.starts_with('.') => Some(version),
        _ => None,
    }
}

/// `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build …`: the
/// first word that is numbers and dots.
fn version(text: String) -> Result<Value, String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version:"));
    line.and_then(|line| {
        line.split_whitespace().find(|word| {
            word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        })
    })
    .map(|word| Value::Text(word.to_owned()))
    .ok_or_else(|| "no line \"NVRM version:\" with a version".to_owned())
}
