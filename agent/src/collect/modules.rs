//! Kernel modules: how many there are, which of them taint the kernel, and of those and NVIDIA's
//! what they say they are.
//!
//! The rest come with the kernel: its release, its lockdown and IMA's list speak for them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bailiwick_attestation::{
    host::{ModuleSignature, SIGNATURE_TAIL},
    proto::v1::{Claim, claim::Value},
};

use super::{Host, MAX_TEXT, claim, firmware::Hashed, from_file, read_text, text, why};
use crate::files::read_bounded;

/// Most folders looked at; a large host has some 300 modules, and as many parts built in.
const MAX_MODULES: usize = 4096;
/// Most modules described one by one.
const MAX_DESCRIBED: usize = 32;
/// Longest table of where modules lie; Debian's has some 700 KiB.
const MAX_TABLE: usize = 8 << 20;

pub(super) fn claims(host: &Host, out: &mut Vec<Claim>) {
    let folder = host.sys.join("module");
    let source = folder.display().to_string();
    let loaded = match loaded(&folder) {
        Ok(loaded) => loaded,
        Err(why) => {
            out.push(claim("kernel.modules", &source, Value::Unavailable(why)));
            return;
        }
    };
    let count = Value::Number(u64::try_from(loaded.len()).unwrap_or(u64::MAX));
    out.push(claim("kernel.modules", &source, count));
    let tainting = loaded.iter().filter(|(_, taint)| !taint.is_empty());
    let tainting: Vec<String> = tainting
        .map(|(name, taint)| format!("{name}:{taint}"))
        .collect();
    let value = match tainting.join(", ") {
        long if long.len() > MAX_TEXT => {
            Value::Unavailable(format!("{} modules taint the kernel", tainting.len()))
        }
        text => Value::Text(text),
    };
    out.push(claim("kernel.modules-tainting", &source, value));
    let described = loaded
        .iter()
        .filter(|(name, taint)| !taint.is_empty() || name.starts_with("nvidia"))
        .filter(|(name, _)| plain(name))
        .take(MAX_DESCRIBED);
    let files = Files::read(host);
    for (name, taint) in described {
        describe(&folder.join(name), name, taint, out);
        let (source, value) = files.signer(name);
        out.push(claim(&format!("module.{name}.signer"), &source, value));
        if name.starts_with("nvidia")
            && let Some((source, value)) = files.digest(name, &host.hashed)
        {
            out.push(claim(&format!("module.{name}.sha256"), &source, value));
        }
    }
}

/// Loadable modules and their taint letters, by name. What is built in has no `initstate`.
fn loaded(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    let entries = fs::read_dir(folder).map_err(|err| why(&err))?;
    for (number, entry) in entries.enumerate() {
        if number >= MAX_MODULES {
            return Err(format!("more than {MAX_MODULES} modules"));
        }
        let entry = entry.map_err(|err| why(&err))?;
        let Ok(name) = entry.file_name().into_string() else {
            return Err("a module without a readable name".to_owned());
        };
        if entry.path().join("initstate").exists() {
            let taint = read_text(&entry.path().join("taint"));
            // Kernels that do not tell say so by a letter they do not use.
            out.insert(name, taint.unwrap_or_else(|_err| "?".to_owned()));
        }
    }
    Ok(out)
}

/// Letters a claim's name may hold.
fn plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    name.len() <= 64 && name.bytes().all(plain)
}

fn describe(folder: &Path, name: &str, taint: &str, out: &mut Vec<Claim>) {
    let named = |field: &str| format!("module.{name}.{field}");
    let source = folder.join("taint").display().to_string();
    out.push(claim(
        &named("taint"),
        &source,
        Value::Text(taint.to_owned()),
    ));
    for field in ["srcversion", "version"] {
        let file = folder.join(field);
        // A module without `MODULE_VERSION` has none.
        if file.exists() {
            out.push(from_file(&named(field), &file, text));
        }
    }
}

/// Where the files of modules lie.
struct Files {
    folder: PathBuf,
    table: Result<String, String>,
}

impl Files {
    fn read(host: &Host) -> Self {
        let release = read_text(&host.proc.join("sys/kernel/osrelease"));
        let release = release.map_err(|err| why(&err));
        let folder = host.lib.join("modules");
        let folder = release.map(|release| folder.join(release));
        let table = folder.clone().and_then(|folder| {
            let table = read_bounded(&folder.join("modules.dep"), MAX_TABLE);
            let table = table.map_err(|err| why(&err))?;
            String::from_utf8(table).map_err(|_err| "modules.dep is not text".to_owned())
        });
        Self {
            folder: folder.unwrap_or_default(),
            table,
        }
    }

    /// What lies where the module was loaded from, by now; the kernel's measurement list says what
    /// was loaded.
    fn digest(&self, module: &str, hashed: &Hashed) -> Option<(String, Value)> {
        let path = listed_at(self.table.as_ref().ok()?, module)?;
        let file = self.folder.join(path);
        let value = match hashed.digest(&file) {
            Ok(digest) => Value::Data(digest),
            Err(err) => Value::Unavailable(why(&err)),
        };
        Some((file.display().to_string(), value))
    }

    /// Who signed the module's file, as its end says: the kernel checked that when it was loaded,
    /// if it was this file.
    fn signer(&self, module: &str) -> (String, Value) {
        let table = self.folder.join("modules.dep").display().to_string();
        let listed = match &self.table {
            Ok(listed) => listed,
            Err(why) => return (table, Value::Unavailable(why.clone())),
        };
        let Some(path) = listed_at(listed, module) else {
            return (table, Value::Unavailable("not listed".to_owned()));
        };
        let file = self.folder.join(path);
        let value = match path.rsplit_once(".ko") {
            Some((_, "")) => match signature(&file) {
                Ok(Some(signature)) => Value::Text(signature.signer.to_string()),
                Ok(None) => Value::Text("unsigned".to_owned()),
                Err(why) => Value::Unavailable(why),
            },
            _ => Value::Unavailable("compressed: its end is not the module's".to_owned()),
        };
        (file.display().to_string(), value)
    }
}

/// The path of a module in `modules.dep`: `kernel/a/b-c.ko.xz: what it needs`. File names have
/// dashes where modules have underscores.
fn listed_at<'t>(table: &'t str, module: &str) -> Option<&'t str> {
    table.lines().find_map(|line| {
        let (path, _) = line.split_once(':')?;
        let (_, file) = path.rsplit_once('/').unwrap_or(("", path));
        let (name, _) = file.split_once(".ko")?;
        let inside = !path.starts_with('/') && path.split('/').all(|part| part != "..");
        (inside && name.replace('-', "_") == module.replace('-', "_")).then_some(path)
    })
}

fn signature(file: &Path) -> Result<Option<ModuleSignature>, String> {
    let read = || {
        let mut file = File::open(file)?;
        let length = file.metadata()?.len();
        let tail = u64::try_from(SIGNATURE_TAIL).unwrap_or(u64::MAX);
        file.seek(SeekFrom::Start(length.saturating_sub(tail)))?;
        let mut bytes = Vec::new();
        file.take(tail).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let tail = read().map_err(|err: std::io::Error| why(&err))?;
    ModuleSignature::parse(&tail).map_err(|err| err.to_string())
}
