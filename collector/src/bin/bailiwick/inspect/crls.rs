//! Lists of revoked certificates, given beside evidence.

use std::path::PathBuf;

use bailiwick_attestation::gpu::{CrlRefused, MAX_CRL_BYTES, parse_crl};
use bailiwick_attestation::x509::RevocationList;

use super::file::read;
use super::report::{Finding, Report};

/// Reads them, and says what to call each; one that is none is refused.
pub(super) fn read_all(
    paths: &[PathBuf],
    report: &mut Report,
) -> anyhow::Result<(Vec<String>, Vec<RevocationList>)> {
    let limit = u64::try_from(MAX_CRL_BYTES).unwrap_or(u64::MAX);
    let (mut names, mut lists) = (Vec::new(), Vec::new());
    for path in paths {
        let Some(bytes) = read(path, limit, report)? else {
            continue;
        };
        let name = path.display().to_string();
        match parse_crl(&bytes) {
            Ok(list) => {
                names.push(name);
                lists.push(list);
            }
            Err(why) => tell(Some(&name), &why, report),
        }
    }
    Ok((names, lists))
}

/// Says what is wrong with one. That it has ended is no refusal: nobody knows.
pub(super) fn tell(name: Option<&String>, why: &CrlRefused, report: &mut Report) {
    let mut finding = Finding::from_error(why.code(), why);
    if let Some(name) = name {
        finding.prefix(name);
    }
    match why {
        CrlRefused::Expired { .. } => report.undecided(finding),
        _ => report.refuse(finding),
    }
}
