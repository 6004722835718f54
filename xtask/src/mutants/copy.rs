//! The copy of the workspace that is broken, and its build.
//!
//! It is below `target/mutants` and stays: what did not change keeps its time, and cargo builds
//! only what is new.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{cmd, paths};

/// The crate that every broken one asks which mutant is awake.
const SWITCH: &str = include_str!("switch.rs");
const SWITCH_MANIFEST: &str = "[package]\nname = \"mutation-switch\"\nedition = \"2024\"\n\
                               [lib]\npath = \"lib.rs\"\n";

/// The copy, and what was written into it.
#[derive(Debug)]
pub(super) struct Copy {
    root: PathBuf,
    build: PathBuf,
}

/// What rustc says is wrong.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Fault {
    /// As in `E0308`; empty where it has none.
    pub(super) code: String,
    pub(super) rendered: String,
    /// File and bytes; the main ones first.
    pub(super) at: Vec<(String, std::ops::Range<usize>)>,
    /// How many of them are main ones.
    pub(super) main: usize,
}

/// How a build ended.
#[derive(Debug)]
pub(super) enum Built {
    /// With these test programs: package, kind of target, its name, the program.
    Whole(Vec<Program>),
    Faulty(Vec<Fault>),
}

/// A test program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) package: String,
    pub(super) target: String,
    pub(super) kind: String,
    pub(super) file: PathBuf,
}

impl Copy {
    /// Brings the copy up to date with the workspace, but for these files: they are in it as given.
    pub(super) fn of_workspace(
        packages: &BTreeSet<PathBuf>,
        instead: &[(&str, &str)],
    ) -> Result<Self> {
        let base = paths::target().join("mutants");
        let copy = Self {
            root: base.join("copy"),
            build: base.join("build"),
        };
        let mut kept = BTreeSet::new();
        for file in files()? {
            let rewritten = instead.iter().find(|(name, _)| Path::new(name) == file);
            let from = paths::root().join(&file);
            let mut bytes = match rewritten {
                Some((_, text)) => text.as_bytes().to_vec(),
                None => fs::read(&from).with_context(|| format!("read {}", from.display()))?,
            };
            if packages.iter().any(|dir| dir.join("Cargo.toml") == file) {
                bytes = with_switch(&bytes, &file)?;
            }
            copy.write(&file, &bytes)?;
            let mode = from.metadata().map(|meta| meta.permissions());
            if let Ok(permissions) = mode {
                let to = copy.root.join(&file);
                fs::set_permissions(&to, permissions)
                    .with_context(|| format!("set the mode of {}", to.display()))?;
            }
            kept.insert(file);
        }
        for (name, text) in [("Cargo.toml", SWITCH_MANIFEST), ("lib.rs", SWITCH)] {
            let file = Path::new("switch").join(name);
            copy.write(&file, text.as_bytes())?;
            kept.insert(file);
        }
        // What cargo makes of the lock file of the workspace once the switch is in it.
        copy.sweep(&copy.root, &kept)?;
        Ok(copy)
    }

    /// Writes a file unless it says this already.
    pub(super) fn write(&self, file: &Path, bytes: &[u8]) -> Result<()> {
        let to = self.root.join(file);
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        let dir = to.parent().context("a file has a folder")?;
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        fs::write(&to, bytes).with_context(|| format!("write {}", to.display()))
    }

    /// Removes what is no longer in the workspace.
    fn sweep(&self, dir: &Path, kept: &BTreeSet<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            let path = entry.path();
            if path.is_dir() {
                self.sweep(&path, kept)?;
            } else if path
                .strip_prefix(&self.root)
                .is_ok_and(|f| !kept.contains(f))
            {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// A command in the copy, with the copy's build folder.
    pub(super) fn cargo(&self) -> Result<Command> {
        let mut cargo = cmd::cargo();
        cargo
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.build)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // What is broken may be what a lint forbids.
            .env("RUSTFLAGS", "--cap-lints=allow")
            // The copy has no `target/`.
            .env("BAILIWICK_BPF_OBJECT", paths::bpf_object())
            .env("PATH", cmd::path_with_tools()?);
        Ok(cargo)
    }

    /// Where the programs are, for what is loaded at run time.
    pub(super) fn libraries(&self) -> [PathBuf; 2] {
        [self.build.join("debug"), self.build.join("debug/deps")]
    }

    /// Builds these; what rustc refuses is an answer.
    pub(super) fn build(&self, what: &[&str]) -> Result<Built> {
        let mut cargo = self.cargo()?;
        cargo
            .args(["build", "--keep-going", "--quiet"])
            .args(["--message-format", "json"])
            .args(what)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let out = cargo.output().context("start cargo")?;
        let messages: Vec<Value> = String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if out.status.success() {
            return Ok(Built::Whole(messages.iter().filter_map(program).collect()));
        }
        let faults: Vec<Fault> = messages.iter().filter_map(fault).collect();
        if faults.is_empty() {
            bail!(
                "the copy was not built: {}",
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        Ok(Built::Faulty(faults))
    }
}

/// Every file of the workspace that git would not ignore, relative to it.
fn files() -> Result<Vec<PathBuf>> {
    let mut git = cmd::command("git");
    git.args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "-z",
    ])
    .stdout(Stdio::piped());
    let out = git.output().context("start git")?;
    if !out.status.success() {
        bail!("git ls-files ended with {}", out.status);
    }
    let names = out.stdout.split(|byte| *byte == 0);
    let names = names.filter(|name| !name.is_empty());
    let files = names.map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name)));
    // What was removed and not yet committed is still in the index.
    let mut files: Vec<PathBuf> = files
        .filter(|file| paths::root().join(file).is_file())
        .collect();
    files.sort();
    Ok(files)
}

/// The folder of the package that a file belongs to, relative to the workspace.
pub(super) fn package_of(file: &Path) -> Result<PathBuf> {
    let mut above = file.ancestors().skip(1);
    let found = above.find(|dir| paths::root().join(dir).join("Cargo.toml").is_file());
    let dir = found.with_context(|| format!("{} is in no package", file.display()))?;
    Ok(dir.to_owned())
}

/// A manifest with one dependency more.
fn with_switch(manifest: &[u8], file: &Path) -> Result<Vec<u8>> {
    let text = std::str::from_utf8(manifest).context("a manifest is text")?;
    let head = "\n[dependencies]\n";
    if !text.contains(head) {
        bail!("{} has no dependencies to add one to", file.display());
    }
    let depth = file.components().count().saturating_sub(1);
    let up = "../".repeat(depth);
    let more = format!("{head}mutation-switch = {{ path = \"{up}switch\" }}\n");
    Ok(text.replacen(head, &more, 1).into_bytes())
}

fn program(message: &Value) -> Option<Program> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    // `path+file:///…/agent#bailiwick-agent@0.1.0`, or `…/xtask#0.1.0`.
    let id = text(&message["package_id"])?;
    let (path, name) = id.rsplit_once('#')?;
    let package = match name.split_once('@') {
        Some((package, _)) => package,
        None => path.rsplit('/').next()?,
    };
    Some(Program {
        package: package.to_owned(),
        target: text(&message["target"]["name"])?,
        kind: text(message["target"]["kind"].get(0)?)?,
        file: PathBuf::from(text(&message["executable"])?),
    })
}

fn fault(line: &Value) -> Option<Fault> {
    let message = &line["message"];
    if line["reason"] != "compiler-message" || message["level"] != "error" {
        return None;
    }
    let mut at = Vec::new();
    places(message, true, &mut at);
    let main = at.len();
    places(message, false, &mut at);
    for child in message["children"].as_array().into_iter().flatten() {
        places(child, true, &mut at);
        places(child, false, &mut at);
    }
    // The last word, `aborting due to …`, is about no place.
    (!at.is_empty()).then(|| Fault {
        code: message["code"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        rendered: message["rendered"].as_str().unwrap_or_default().to_owned(),
        at,
        main,
    })
}

/// The main places of a message, or the others; of a macro's text, where it was called.
fn places(message: &Value, main: bool, at: &mut Vec<(String, std::ops::Range<usize>)>) {
    for span in message["spans"].as_array().into_iter().flatten() {
        if span["is_primary"].as_bool() != Some(main) {
            continue;
        }
        let mut span = span;
        loop {
            let number = |key: &str| usize::try_from(span[key].as_u64()?).ok();
            if let (Some(file), Some(start), Some(end)) = (
                span["file_name"].as_str(),
                number("byte_start"),
                number("byte_end"),
            ) {
                at.push((file.to_owned(), start..end));
            }
            let outer = &span["expansion"]["span"];
            if outer.is_null() {
                break;
            }
            span = outer;
        }
    }
}

#[cfg(test)]
mod unit {
    use std::path::Path;

    use serde_json::json;

    use super::{fault, program, with_switch};

    #[test]
    fn a_manifest_gets_one_dependency_more() {
        let manifest = "[package]\nname = \"a\"\n\n[dependencies]\nb = \"1\"\n";
        let changed = with_switch(manifest.as_bytes(), Path::new("ebpf/common/Cargo.toml"));
        let want = "[package]\nname = \"a\"\n\n[dependencies]\n\
                    mutation-switch = { path = \"../../switch\" }\nb = \"1\"\n";
        assert_eq!(String::from_utf8(changed.unwrap()).unwrap(), want);
        assert!(with_switch(b"[package]\n", Path::new("a/Cargo.toml")).is_err());
    }

    #[test]
    fn what_rustc_refuses_has_its_places_the_main_ones_first() {
        let span = |main, from, expansion| {
            json!({"file_name": "a.rs", "byte_start": from, "byte_end": 9, "is_primary": main,
                   "expansion": expansion})
        };
        let message = json!({"reason": "compiler-message", "message": {
            "level": "error", "code": {"code": "E0308"}, "rendered": "no",
            "spans": [span(false, 1, json!(null)),
                      span(true, 2, json!({"span": span(false, 3, json!(null))}))],
            "children": [{"spans": [span(false, 4, json!(null))]}],
        }});
        let fault = fault(&message).unwrap();
        let starts: Vec<usize> = fault.at.iter().map(|(_, range)| range.start).collect();
        assert_eq!((starts, fault.main), (vec![2, 3, 1, 4], 2));
        assert_eq!(fault.code, "E0308");
        let mut warning = message;
        warning["message"]["level"] = json!("warning");
        assert_eq!(super::fault(&warning), None);
    }

    #[test]
    fn test_programs_are_known_by_their_package() {
        let cases = [
            (
                "path+file:///x/agent#bailiwick-agent@0.1.0",
                "bailiwick-agent",
            ),
            ("path+file:///x/xtask#0.1.0", "xtask"),
        ];
        for (id, want) in cases {
            let message = json!({"reason": "compiler-artifact", "profile": {"test": true},
                "package_id": id, "executable": "/x/y", "target": {"name": "t", "kind": ["lib"]}});
            assert_eq!(program(&message).unwrap().package, want);
        }
    }
}
