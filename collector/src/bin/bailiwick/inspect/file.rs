//! Files of bounded size.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::x509::{Bundle, Certificate};

use super::report::{Finding, Report};

/// Reads a file of at most `limit` bytes.
///
/// A file that cannot be read is an error (could not tell); one that is too large is a refusal,
/// since nothing of that kind is ever so large, and gives `None`.
pub(super) fn read(
    path: &Path,
    limit: u64,
    report: &mut Report,
) -> anyhow::Result<Option<Vec<u8>>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {}", path.display()))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= limit) {
        return Ok(Some(bytes));
    }
    report.refuse(Finding::new(
        "file-too-large",
        format!("{} is longer than {limit} bytes", path.display()),
    ));
    Ok(None)
}

/// Certificates of one file, PEM or DER; refused where one of them, or none, can be read.
pub(super) fn certificates(
    path: &Path,
    limit: u64,
    report: &mut Report,
) -> anyhow::Result<Vec<Certificate>> {
    let Some(bytes) = read(path, limit, report)? else {
        return Ok(Vec::new());
    };
    let mut refuse = |mut finding: Finding| {
        finding.prefix(&path.display().to_string());
        report.refuse(finding);
    };
    match Bundle::parse(&bytes) {
        Ok(bundle) => {
            for (_, error) in &bundle.unreadable {
                refuse(Finding::from_error("certificate-unreadable", error));
            }
            Ok(bundle.certificates)
        }
        Err(error) => {
            refuse(Finding::from_error("malformed", &error));
            Ok(Vec::new())
        }
    }
}

/// The time given, seconds since 1970, or the present.
pub(super) fn time(given: Option<u64>) -> anyhow::Result<UnixTime> {
    let secs = match given {
        Some(secs) => secs,
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.context("the clock is before 1970")?.as_secs()
        }
    };
    Ok(UnixTime::from_secs(secs))
}
