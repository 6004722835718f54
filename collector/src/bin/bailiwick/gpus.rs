//! GPUs of a node, a line each, out of what appraisal said of them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::format::Listing;

/// Devices of one machine, at most.
const DEVICES: usize = 64;

/// One row per GPU that gave a report; none where the result says nothing of any.
pub(crate) fn listing(result: &Value) -> Listing {
    let part = result.pointer("/submods/gpu");
    let member = |name: &str| part.and_then(|part| part.get(name));
    let claims = member("bailiwick.claims").and_then(Value::as_object);
    let none = Map::new();
    let claims = claims.unwrap_or(&none);
    let deviations = member("bailiwick.deviations").and_then(Value::as_array);
    let found = found(deviations.map_or(&[], Vec::as_slice));
    let of_device = |number: usize| {
        let value = |field: &str| {
            let claim = claims.get(&format!("gpu.{number}.{field}"))?;
            claim.get("value").cloned()
        };
        // Every report says at least whether it is a device's.
        let hardware = value("hardware")?;
        Some(json!({
            "gpu": number,
            "architecture": value("architecture"),
            "mode": value("mode"),
            "driver": value("driver"),
            "vbios": value("vbios"),
            "pdi": value("pdi"),
            "measurements": value("measurements"),
            "hardware": match hardware {
                Value::Bool(true) => "hardware",
                _ => "not hardware",
            },
            "verdict": found.get(&number).map_or("nothing against it", String::as_str),
        }))
    };
    Listing {
        columns: &[
            "gpu",
            "architecture",
            "mode",
            "driver",
            "vbios",
            "pdi",
            "measurements",
            "hardware",
            "verdict",
        ],
        rows: (0..DEVICES).filter_map(of_device).collect(),
    }
}

/// What was found of each device, in stable words: what was refused before what could not be
/// checked.
fn found(deviations: &[Value]) -> BTreeMap<usize, String> {
    let mut all: BTreeMap<usize, Vec<(usize, &str)>> = BTreeMap::new();
    for deviation in deviations {
        let text = |name: &str| deviation.get(name).and_then(Value::as_str);
        let (Some(claim), Some(finding), Some(code)) =
            (text("claim"), text("finding"), text("code"))
        else {
            continue;
        };
        let number = claim
            .strip_prefix("gpu.")
            .and_then(|rest| rest.split_once('.'));
        let Some(number) = number.and_then(|(number, _)| number.parse().ok()) else {
            continue;
        };
        let rank = FINDINGS.iter().position(|(word, _)| *word == finding);
        all.entry(number)
            .or_default()
            .push((rank.unwrap_or(0), code));
    }
    let told = all.into_iter().map(|(number, mut codes)| {
        codes.sort_unstable();
        codes.dedup();
        let words = FINDINGS.iter().enumerate().filter_map(|(rank, (_, said))| {
            let of_rank = codes.iter().filter(|(own, _)| *own == rank);
            let of_rank: Vec<&str> = of_rank.map(|(_, code)| *code).collect();
            (!of_rank.is_empty()).then(|| format!("{said}: {}", of_rank.join(", ")))
        });
        (number, words.collect::<Vec<_>>().join("; "))
    });
    told.collect()
}

/// Words of findings as results have them, worst first, and what is said of each.
const FINDINGS: [(&str, &str); 3] = [
    ("refused", "refused"),
    ("unchecked", "not checked"),
    ("warning", "to look at"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gpu_is_a_line_that_says_whether_it_is_hardware() {
        let claim = |value: Value| json!({"value": value, "provenance": "hardware-signed"});
        let deviation = |claim: &str, finding: &str, code: &str| json!({"claim": claim, "finding": finding, "code": code, "expected": "", "found": ""});
        let result = json!({"submods": {"gpu": {
            "bailiwick.claims": {
                "gpu.hardware": claim(json!(false)),
                "gpu.0.hardware": claim(json!(true)),
                "gpu.0.architecture": claim(json!("HOPPER")),
                "gpu.0.mode": claim(json!("spt")),
                "gpu.0.driver": claim(json!("550.90.07")),
                "gpu.0.measurements": claim(json!("33 of 33 match")),
                "gpu.1.hardware": claim(json!(false)),
            },
            "bailiwick.deviations": [
                deviation("gpu.1.revocation", "unchecked", "revocation-unknown"),
                deviation("gpu.1.revocation", "unchecked", "revocation-unknown"),
                deviation("gpu.1.report", "refused", "chain-root"),
                deviation("gpu.1.hardware", "refused", "not-hardware"),
                deviation("gpu.reports", "refused", "gpu-count"),
            ],
        }}});
        let rows = listing(&result).rows;
        let cells = |row: &Value| {
            ["gpu", "architecture", "driver", "hardware", "verdict"].map(|name| match &row[name] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
        };
        let told: Vec<[String; 5]> = rows.iter().map(cells).collect();
        let want = [
            ["0", "HOPPER", "550.90.07", "hardware", "nothing against it"],
            [
                "1",
                "null",
                "null",
                "not hardware",
                "refused: chain-root, not-hardware; not checked: revocation-unknown",
            ],
        ];
        assert_eq!(told, want.map(|row| row.map(str::to_owned)));
        for nothing in [json!({}), json!({"submods": {"gpu": {}}}), Value::Null] {
            assert_eq!(listing(&nothing).rows.len(), 0);
        }
    }
}
