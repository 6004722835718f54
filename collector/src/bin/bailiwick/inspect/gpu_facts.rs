//! What `inspect gpu` states as facts: everything a report holds, and what came of each check.

use bailiwick_attestation::gpu::rim::Comparison;
use bailiwick_attestation::gpu::{Answer, Device, Opaque, Revocation};
use serde_json::{Map, Value, json};

use super::report::Report;

pub(super) fn facts(answer: &Answer<'_>, report: &mut Report) {
    let devices = answer.devices.iter().zip(&answer.comparisons);
    let devices = devices.map(|(one, compared)| device(one, compared.as_ref(), &answer.revocation));
    report.fact("devices", devices.collect::<Vec<Value>>());
    if let Some(topology) = answer.topology {
        report.fact("topology", topology.name());
    }
}

fn device(
    device: &Device<'_>,
    compared: Option<&Comparison>,
    revocation: &[Revocation<'_>],
) -> Value {
    let mut facts = Map::new();
    let mut fact = |name: &str, value: Value| facts.insert(name.to_owned(), value);
    fact("arch", json!(device.architecture.map(|one| one.name())));
    fact("signature", json!(device.signature.name()));
    fact("chain", json!(device.chain.name()));
    fact("fwid", json!(device.fwid.name()));
    if let Some(identity) = &device.identity {
        fact("chip", json!(identity.chip));
        fact("chip_serial", json!(hex::encode(&identity.serial)));
        fact("pdi", json!(identity.pdi.map(hex::encode)));
    }
    let certificates = device.certificates.iter().take(16);
    let certificates = certificates.map(|one| {
        let answer = revocation.iter().find(|answer| answer.subject == one);
        json!({
            "subject": one.subject().label(),
            "serial": hex::encode(one.serial()),
            "revocation": answer.map_or("not-checked", |answer| answer.status.name()),
            "revocation_as_of": answer.map(|answer| answer.this_update.secs()),
        })
    });
    fact("certificates", certificates.collect());
    let Some(report) = &device.report else {
        return Value::Object(facts);
    };
    let said = &report.opaque;
    fact("nonce", json!(hex::encode(report.nonce)));
    fact(
        "responder_nonce",
        json!(hex::encode(report.responder_nonce)),
    );
    fact("slot", json!(report.slot));
    fact("driver_version", json!(said.driver_version));
    fact("vbios_version", json!(said.vbios_version));
    fact("mode", json!(said.mode().map(|mode| mode.name())));
    fact("driver_rim_id", json!(device.driver_rim_id()));
    fact("vbios_rim_id", json!(device.vbios_rim_id()));
    fact("opaque", opaque(said));
    let blocks = report.blocks.iter();
    let blocks = blocks.map(|block| (block.index.to_string(), json!(hex::encode(block.value))));
    fact("blocks", Value::Object(blocks.collect()));
    fact("measurements", measurements(compared));
    Value::Object(facts)
}

/// Counts, and what came of each index.
fn measurements(compared: Option<&Comparison>) -> Value {
    let none = Comparison::default();
    let compared = compared.unwrap_or(&none);
    let mut mismatched: Vec<u8> = compared.mismatched.iter().map(|one| one.index).collect();
    mismatched.dedup();
    let mut results = Map::new();
    for (indices, result) in [
        (&compared.matched, "match"),
        (&mismatched, "mismatch"),
        (&compared.skipped, "skipped"),
        (&compared.conflict, "conflict"),
        (&compared.uncovered_nonzero, "uncovered"),
    ] {
        results.extend(
            indices
                .iter()
                .map(|index| (index.to_string(), json!(result))),
        );
    }
    json!({
        "compared": compared.compared(),
        "matched": compared.matched.len(),
        "mismatched": mismatched,
        "skipped": compared.skipped,
        "conflict": compared.conflict,
        "uncovered_nonzero": compared.uncovered_nonzero,
        "results": results,
    })
}

/// Every entry: by name where it was understood, as bytes where not.
fn opaque(said: &Opaque<'_>) -> Value {
    let status = |status: Option<u8>| {
        status.map(|status| {
            if status == 0xaa {
                "enabled"
            } else {
                "disabled"
            }
        })
    };
    let mut facts = json!({
        "version": said.version,
        "gpu_info": said.gpu_info.map(|info| format!("{info:#x}")),
        "nvdec": status(said.nvdec),
        "extend_counts": said.extend_counts,
        "cpr": said.cpr.map(|cpr| format!("{cpr:#x}")),
        "board_id": said.board_id,
        "chip_sku": said.chip_sku,
        "chip_sku_mod": said.chip_sku_mod,
        "project": said.project,
        "project_sku": said.project_sku,
        "project_sku_mod": said.project_sku_mod,
        "fwid": said.fwid.map(hex::encode),
        "protected_pcie": said.protected_pcie,
        "pdis": said.pdis.as_ref().map(|pdis| pdis.iter().map(hex::encode).collect::<Vec<_>>()),
        "disabled_ports": said.disabled_ports,
        "position": said.position,
        "locked": said.lock.map(|lock| lock == 1),
        "chip_info": said.chip_info,
        "features": said.features,
    });
    if let Value::Object(facts) = &mut facts {
        facts.retain(|_, value| !value.is_null());
        if let Some(ports) = &said.ports {
            let gpus: Vec<String> = ports.gpus.iter().map(hex::encode).collect();
            let ports = json!({"gpus": gpus, "map": hex::encode(ports.map)});
            facts.insert("ports".to_owned(), ports);
        }
        let entries = said.entries.iter();
        let raw = entries.map(|one| (one.kind.to_string(), json!(hex::encode(one.value))));
        facts.insert("entries".to_owned(), Value::Object(raw.collect()));
    }
    facts
}
