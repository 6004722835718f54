//! Whether devices are kept to the memory they are given.

use std::{collections::BTreeSet, fs};

use bailiwick_attestation::proto::v1::{Claim, claim::Value};

use super::{Host, claim, read_text, why};

/// Most groups: each is at least one PCI function.
const MAX_GROUPS: usize = 8192;

pub(super) fn claims(host: &Host, out: &mut Vec<Claim>) {
    let folder = host.sys.join("kernel/iommu_groups");
    let source = folder.display().to_string();
    let kinds = || {
        let mut kinds = Vec::new();
        for entry in fs::read_dir(&folder).map_err(|err| why(&err))? {
            if kinds.len() >= MAX_GROUPS {
                return Err(format!("more than {MAX_GROUPS} groups"));
            }
            let file = entry.map_err(|err| why(&err))?.path().join("type");
            kinds.push(read_text(&file).map_err(|err| why(&err))?);
        }
        Ok(kinds)
    };
    let kinds: Result<Vec<String>, String> = kinds();
    let count = |of: usize| Value::Number(u64::try_from(of).unwrap_or(u64::MAX));
    let (groups, through, kinds) = match kinds {
        Ok(kinds) => {
            let through = kinds.iter().filter(|kind| *kind == "identity").count();
            let distinct: BTreeSet<&str> = kinds.iter().map(String::as_str).collect();
            let distinct: Vec<&str> = distinct.into_iter().take(16).collect();
            (
                count(kinds.len()),
                count(through),
                Value::Text(distinct.join(", ")),
            )
        }
        Err(why) => {
            let why = Value::Unavailable(why);
            (why.clone(), why.clone(), why)
        }
    };
    // None at all: the IOMMU is off, or there is none.
    out.push(claim("iommu.groups", &source, groups));
    // `identity`: the device reaches all memory.
    out.push(claim("iommu.groups-untranslated", &source, through));
    out.push(claim("iommu.types", &source, kinds));
}
