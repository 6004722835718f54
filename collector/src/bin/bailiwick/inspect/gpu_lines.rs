//! What `inspect gpu` shows a person: some lines for each device.

use bailiwick_attestation::gpu::rim::Comparison;
use bailiwick_attestation::gpu::{Answer, Device, Revocation};

use crate::format::time;

/// All of it; `names`: what to call each device.
pub(super) fn lines(answer: &Answer<'_>, names: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    let devices = answer.devices.iter().zip(&answer.comparisons).zip(names);
    for ((device, comparison), name) in devices {
        lines.push(format!("{name}: {}", who(device)));
        lines.push(format!(
            "  signature {}, chain {}, firmware {}",
            device.signature.name(),
            device.chain.name(),
            device.fwid.name()
        ));
        if let Some(report) = &device.report {
            lines.push(format!("  answers {}", hex::encode(report.nonce)));
        }
        let ids = [device.driver_rim_id(), device.vbios_rim_id()];
        let ids: Vec<String> = ids.into_iter().flatten().collect();
        if !ids.is_empty() {
            lines.push(format!("  reference values: {}", ids.join(", ")));
        }
        lines.extend(comparison.as_ref().map(measured));
        let certificates = device.certificates.iter().take(16);
        lines.extend(certificates.map(|certificate| {
            let mut known = answer.revocation.iter();
            let known = known.find(|one| one.subject == certificate);
            format!(
                "  certificate {}: {}",
                certificate.subject().label(),
                revocation(known)
            )
        }));
    }
    if let Some(topology) = answer.topology {
        lines.push(format!("set: {}", topology.name()));
    }
    lines
}

/// `GH100 (HOPPER), PDI 48b0…, driver 550.90.07, VBIOS 96.00.9F.00.01, mode spt`
fn who(device: &Device<'_>) -> String {
    let chip = device
        .identity
        .as_ref()
        .map(|identity| identity.chip.as_str());
    let family = device.architecture.map(|family| family.name());
    let mut words = vec![match (chip, family) {
        (Some(chip), Some(family)) => format!("{chip} ({family})"),
        (Some(word), None) | (None, Some(word)) => word.to_owned(),
        (None, None) => "no device that is known".to_owned(),
    }];
    let pdi = device.identity.as_ref().and_then(|identity| identity.pdi);
    words.extend(pdi.map(|pdi| format!("PDI {}", hex::encode(pdi))));
    if let Some(report) = &device.report {
        let said = &report.opaque;
        let versions = [
            ("driver", &said.driver_version),
            ("VBIOS", &said.vbios_version),
        ];
        let versions = versions.into_iter();
        words.extend(versions.filter_map(|(what, it)| Some(format!("{what} {}", it.as_ref()?))));
        words.extend(said.mode().map(|mode| format!("mode {}", mode.name())));
    }
    words.join(", ")
}

fn measured(comparison: &Comparison) -> String {
    let mut words = match comparison.compared() {
        0 => vec!["compared with nothing".to_owned()],
        all => vec![format!("{} of {all} match", comparison.matched.len())],
    };
    let mut mismatched: Vec<u8> = comparison.mismatched.iter().map(|one| one.index).collect();
    mismatched.dedup();
    for (what, indices) in [
        ("do not match", &mismatched),
        ("claimed twice", &comparison.conflict),
        ("skipped", &comparison.skipped),
        ("not zero and not covered", &comparison.uncovered_nonzero),
    ] {
        if !indices.is_empty() {
            let indices: Vec<String> = indices.iter().map(u8::to_string).collect();
            words.push(format!("{what}: {}", indices.join(" ")));
        }
    }
    format!("  measurements: {}", words.join("; "))
}

fn revocation(known: Option<&Revocation<'_>>) -> String {
    match known {
        None => "revocation not checked".to_owned(),
        Some(known) => {
            let since = known.this_update.secs().saturating_mul(1000);
            format!("{} as of {}", known.status.name(), time(since))
        }
    }
}
