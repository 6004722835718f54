//! Processor model and microcode. Cores that differ are all named: a half-applied update shows.

use std::{collections::BTreeSet, fs};

use bailiwick_attestation::proto::v1::{Claim, claim::Value};
use procfs::{CpuInfo, prelude::*};

use super::{Host, claim, from_file, text, why};
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
    vulnerabilities(host, out);
}

/// Most known weaknesses of processors; Linux 6.18 has nineteen.
const MAX_WEAKNESSES: usize = 64;

/// What the kernel says of each weakness of processors it knows, and what it does about it.
fn vulnerabilities(host: &Host, out: &mut Vec<Claim>) {
    let folder = host.sys.join("devices/system/cpu/vulnerabilities");
    let source = folder.display().to_string();
    let names = fs::read_dir(&folder).map(|entries| {
        let names = entries.flatten().map(|entry| entry.file_name());
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let names: BTreeSet<String> = names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| name.bytes().all(plain))
            .collect();
        names
    });
    match names {
        Ok(names) => out.extend(names.iter().take(MAX_WEAKNESSES).map(|name| {
            let file = folder.join(name);
            from_file(&format!("cpu.vulnerability.{name}"), &file, text)
        })),
        Err(err) => {
            let why = Value::Unavailable(why(&err));
            out.push(claim("cpu.vulnerabilities", &source, why));
        }
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
