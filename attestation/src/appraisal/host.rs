//! What a host's own words show by not agreeing with each other.

use super::{
    boot::Measured,
    ima::MODULE,
    result::{AttestationResult, Deviation, Finding},
    verify::VerifiedEvidence,
};
use crate::{
    evidence::ClaimValue,
    profile::{Provenance, Value},
};

/// Where the version of NVIDIA's driver is said: by the driver, by the module's own description,
/// by the library that speaks to it.
const VERSIONS: [&str; 3] = [
    "nvidia.driver-version",
    "module.nvidia.version",
    "nvml.driver-version",
];

/// One driver has one version. What is not there says nothing.
pub(super) fn judge(result: &mut AttestationResult, evidence: &VerifiedEvidence) {
    let claims = &evidence.statement.claims;
    let mut said = VERSIONS.iter().filter_map(|name| match claims.get(*name) {
        Some(ClaimValue::Text(version)) => Some((name, version)),
        _ => None,
    });
    let Some((first, expected)) = said.next() else {
        return;
    };
    if let Some((other, found)) = said.find(|(_, version)| *version != expected) {
        let short = |text: &str| text.chars().take(64).collect::<String>();
        result.deviate(Deviation {
            claim: "nvidia.driver-version".to_owned(),
            finding: Finding::Refused,
            code: "driver-versions-differ".to_owned(),
            expected: format!("{}, as {first} has it", short(expected)),
            found: format!("{} by {other}", short(found)),
            provenance: Some(Provenance::SelfReported),
        });
    }
}

/// What lies on disk is what was loaded, where both are told: a module loaded from elsewhere under the
/// name of NVIDIA's, or one that was exchanged since, shows.
pub(super) fn modules(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    measured: &Measured,
) {
    let claims = &evidence.statement.claims;
    for (name, loaded) in &measured.0.ima.claims {
        let (Some(module), Value::Text(loaded)) = (name.strip_prefix(MODULE), &loaded.value) else {
            continue;
        };
        let claim = format!("module.{module}.sha256");
        let Some(ClaimValue::Data(digest)) = claims.get(&claim) else {
            continue;
        };
        let file = format!("sha256:{}", hex::encode(digest));
        // Of a list of other digests nothing can be told.
        if loaded.starts_with("sha256:") && *loaded != file {
            result.deviate(Deviation {
                claim,
                finding: Finding::Refused,
                code: "module-not-as-loaded".to_owned(),
                expected: format!("{loaded}, as it was loaded by {name}"),
                found: format!("{file} in its file"),
                provenance: Some(Provenance::SelfReported),
            });
        }
    }
}
