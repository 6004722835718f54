//! The logs that replay to PCRs, raw: the verifier parses them, the node only carries them.

use std::{io, path::PathBuf};

use bailiwick_attestation::{Sha256Digest, fence_log::MAX_LOG};

use super::{Host, why};
use crate::files::read_bounded;

/// Longest boot event log sent. Real ones have 15 to 60 KiB.
pub const BOOT_LOG_LIMIT: usize = 1 << 20;

/// Longest IMA list sent: a quarter of a million entries. A collector takes that much of a node which
/// approvers listed, and 6 MiB of any other.
pub const IMA_LOG_LIMIT: usize = 32 << 20;

/// Name of the fence's own log. It is short, and travels with every statement: whoever has the
/// statement can replay it.
pub const FENCE_LOG: &str = "fence";

/// Longest log of systemd's own measurements sent.
const USERSPACE_LOG_LIMIT: usize = 1 << 20;

/// What systemd measured after the boot event log ended, below `/run`.
const USERSPACE: &str = "log/systemd/tpm2-measure.log";

/// What firmware measured into a TPM, below `/sys`.
pub(super) const OF_TPM: &str = "kernel/security/tpm0/binary_bios_measurements";
/// What it measured into a TDX guest's own registers: the area that the ACPI table `CCEL` points to.
pub(super) const OF_GUEST: &str = "firmware/acpi/tables/data/CCEL";
/// The kernel's list.
const IMA: &str = "kernel/security/ima/binary_runtime_measurements";

/// One log of this kernel.
#[derive(Debug)]
pub struct LogFile {
    /// As in the envelope: `boot`, `ima`, `userspace`, `fence`.
    pub name: &'static str,
    /// Where it was read.
    pub source: PathBuf,
    /// Its bytes and their digest, or why there are none.
    pub content: Result<(Vec<u8>, Sha256Digest), String>,
}

/// Reads every log the kernel has, and the fence's. One it does not have is left out; one that cannot be read,
/// or is too long, says why.
#[must_use]
pub fn read_logs(host: &Host) -> Vec<LogFile> {
    let mut logs = Vec::new();
    let kernel = [
        ("boot", host.sys.join(host.boot_log), BOOT_LOG_LIMIT),
        ("ima", host.sys.join(IMA), IMA_LOG_LIMIT),
    ];
    let fence = (FENCE_LOG, host.fence_log.clone(), MAX_LOG);
    // `/run` stands beside `/sys`, here and below the root of a test.
    let userspace = host.sys.with_file_name("run").join(USERSPACE);
    let userspace = ("userspace", userspace, USERSPACE_LOG_LIMIT);
    for (name, source, limit) in kernel.into_iter().chain([userspace, fence]) {
        let content = match read_bounded(&source, limit) {
            Ok(bytes) => {
                let digest = Sha256Digest::of(&[&bytes]);
                Ok((bytes, digest))
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => Err(why(&err)),
        };
        logs.push(LogFile {
            name,
            source,
            content,
        });
    }
    logs
}
