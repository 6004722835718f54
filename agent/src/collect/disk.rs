//! What lies under the folders that hold studies' data: whether every block device below is
//! encrypted, or verified, by the device mapper.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use bailiwick_attestation::proto::v1::{Claim, claim::Value};

use super::{Host, claim, read_text, why};
use crate::files::read_bounded;

/// Longest table of mounts: a host with thousands of containers.
const MAX_TABLE: usize = 8 << 20;
/// Deepest stack of devices: a file system on LVM on LUKS on RAID on a partition has five.
const MAX_DEPTH: usize = 8;
/// Most devices side by side.
const MAX_SLAVES: usize = 64;

/// What the device mapper calls layers that encrypt.
const ENCRYPTS: [&str; 5] = [
    "CRYPT-LUKS1-",
    "CRYPT-LUKS2-",
    "CRYPT-PLAIN-",
    "CRYPT-BITLK-",
    "CRYPT-TCRYPT-",
];
/// And that check every block against a root hash.
const VERIFIES: [&str; 1] = ["CRYPT-VERITY-"];

pub(super) fn claims(host: &Host, out: &mut Vec<Claim>) {
    if host.mounts.is_empty() {
        return;
    }
    let table = host.proc.join("self/mountinfo");
    let source = table.display().to_string();
    let mounts = read_bounded(&table, MAX_TABLE)
        .map_err(|err| why(&err))
        .and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_err| "the table is not text".to_owned())
        });
    let mut seen = BTreeSet::new();
    for folder in &host.mounts {
        let name = word(folder);
        if !seen.insert(name.clone()) {
            continue;
        }
        let named = |field: &str| format!("mount.{name}.{field}");
        let mount = mounts.as_ref().map_err(Clone::clone).and_then(|table| {
            under(table, folder).ok_or_else(|| "nothing is mounted there".to_owned())
        });
        let device = mount
            .as_ref()
            .map(|mount| Value::Text(mount.source.clone()));
        let layers = |kinds: &[&str]| match &mount {
            Err(why) => Value::Unavailable(why.clone()),
            Ok(mount) if mount.device.starts_with("0:") => {
                Value::Unavailable(format!("{} is not on one block device", mount.kind))
            }
            Ok(mount) => {
                let device = host.sys.join("dev/block").join(&mount.device);
                covered(&device, kinds, 0).map_or_else(Value::Unavailable, Value::Flag)
            }
        };
        let value = device.unwrap_or_else(|why| Value::Unavailable(why.clone()));
        out.push(claim(&named("device"), &source, value));
        out.push(claim(&named("encrypted"), &source, layers(&ENCRYPTS)));
        out.push(claim(&named("verified"), &source, layers(&VERIFIES)));
    }
}

/// A path as a part of a claim's name: `/srv/studies` is `srv.studies`.
fn word(folder: &Path) -> String {
    let text = folder.to_string_lossy();
    let word: String = text
        .trim_matches('/')
        .chars()
        .take(100)
        .map(|c| match c {
            '/' => '.',
            c if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' => c,
            _ => '_',
        })
        .collect();
    if word.is_empty() {
        "root".to_owned()
    } else {
        word
    }
}

/// One line of mountinfo.
#[derive(Debug, Eq, PartialEq)]
struct Mount {
    /// `major:minor`.
    device: String,
    kind: String,
    source: String,
}

/// The mount that a folder lies in: of the longest mount points above it the newest.
///
/// proc(5), `/proc/pid/mountinfo`: `36 35 98:0 /root /mount opts optional… - type source opts`.
fn under(table: &str, folder: &Path) -> Option<Mount> {
    let mut best: Option<(usize, Mount)> = None;
    for line in table.lines() {
        let Some((head, tail)) = line.split_once(" - ") else {
            continue;
        };
        let mut head = head.split(' ').skip(2);
        let (Some(device), Some(point)) = (head.next(), head.nth(1)) else {
            continue;
        };
        let mut tail = tail.split(' ');
        let (Some(kind), Some(source)) = (tail.next(), tail.next()) else {
            continue;
        };
        let point = PathBuf::from(unescaped(point));
        let depth = point.components().count();
        if folder.starts_with(&point) && best.as_ref().is_none_or(|(had, _)| depth >= *had) {
            let mount = Mount {
                device: device.to_owned(),
                kind: kind.chars().take(64).collect(),
                source: unescaped(source).chars().take(256).collect(),
            };
            best = Some((depth, mount));
        }
    }
    best.map(|(_, mount)| mount)
}

/// Spaces and the like stand there as `\040`.
fn unescaped(text: &str) -> String {
    let mut out = text.to_owned();
    for (escape, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(escape, plain);
    }
    out
}

/// Whether every way down from a block device passes a layer of one of these kinds.
fn covered(device: &Path, kinds: &[&str], depth: usize) -> Result<bool, String> {
    if depth >= MAX_DEPTH {
        return Err(format!("more than {MAX_DEPTH} layers of devices"));
    }
    if !device.exists() {
        return Err(format!("no block device at {}", device.display()));
    }
    let mapped = device.join("dm/uuid");
    if mapped.exists() {
        let uuid = read_text(&mapped).map_err(|err| why(&err))?;
        if kinds.iter().any(|kind| uuid.starts_with(kind)) {
            return Ok(true);
        }
    }
    let slaves = match fs::read_dir(device.join("slaves")) {
        Ok(slaves) => slaves,
        // A partition, or a disk.
        Err(_) => return Ok(false),
    };
    let mut any = false;
    for (number, slave) in slaves.enumerate() {
        if number >= MAX_SLAVES {
            return Err(format!("more than {MAX_SLAVES} devices side by side"));
        }
        let slave = slave.map_err(|err| why(&err))?.path();
        if !covered(&slave, kinds, depth.saturating_add(1))? {
            return Ok(false);
        }
        any = true;
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lies_in_the_deepest_and_newest_mount() {
        let table = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     2 1 253:0 / /srv rw,noatime shared:1 - xfs /dev/mapper/srv rw\n\
                     3 2 253:1 / /srv/a\\040b rw - ext4 /dev/mapper/a rw\n\
                     4 2 253:2 / /srv rw - ext4 /dev/mapper/over rw\n\
                     not a line\n5 1 - x\n";
        let rows = [
            ("/home", "8:1"),
            ("/srv/studies", "253:2"),
            ("/srv", "253:2"),
            ("/srvx", "8:1"),
            ("/srv/a b/c", "253:1"),
        ];
        for (folder, want) in rows {
            let found = under(table, Path::new(folder)).unwrap();
            assert_eq!(found.device, want, "{folder}");
        }
        assert_eq!(under("", Path::new("/")), None);
        for (folder, want) in [("/", "root"), ("/srv/A b-1/", "srv.__b-1")] {
            assert_eq!(word(Path::new(folder)), want);
        }
    }
}
