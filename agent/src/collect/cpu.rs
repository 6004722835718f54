//! Processor model and microcode. Cores that differ are all named: a half-applied update shows.

use std::collections::BTreeSet;

use bailiwick_attestation::proto::v1::{Claim, claim::Value};
use procfs::{CpuInfo, prelude::*};

use super::{Host, claim, why};
use crate::files::read_bounded;

/// A line per flag and core: 4 MiB is some 1,000 cores.
const LIMIT: usize = 8 << 20;

pub(super) fn claims(host: &Host, out: &mut Vec<Claim>) {
    let file = host.proc.join("cpuinfo");
    let source = file.display().to_string();
    let parsed = read_bounded(&file, LIMIT)
        .map_err(|err| why(&err))
        .and_then(|bytes| CpuInfo::from_read(bytes.as_slice()).map_err(|err| err.to_string()));
    for (name, field) in [("cpu.model", "model name"), ("cpu.microcode", "microcode")] {
        let value = match &parsed {
            Ok(info) => distinct(info, field),
            Err(why) => Value::Unavailable(why.clone()),
        };
        out.push(claim(name, &source, value));
    }
}

fn distinct(info: &CpuInfo, field: &str) -> Value {
    let values: BTreeSet<&str> = (0..info.num_cores())
        .filter_map(|core| info.get_field(core, field))
        .collect();
    if values.is_empty() {
        return Value::Unavailable(format!("no field {field:?}"));
    }
    Value::Text(values.into_iter().collect::<Vec<_>>().join(", "))
}
