//! A manifest and its files as a folder.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use bailiwick_attestation::proto::v1;
use bailiwick_policy::bundle::Bundle;
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{self, Manifest};

use crate::client::BytesRefused;

pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// A manifest, or why these bytes are none.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Manifest, BytesRefused> {
    Manifest::parse(bytes).map_err(|fault| BytesRefused {
        // A kind that a later version knows is worth another answer than a slip of the pen.
        code: match fault.key.as_str() {
            "kind" => "kind-unknown",
            _ => "policy-malformed",
        },
        detail: format!("{}: {fault}", path.display()),
    })
}

/// The files of a folder that a manifest of this kind may list; others are left alone and named.
pub(crate) fn known_files(folder: &Path, kind: Kind) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for below in ["", "studies"] {
        let dir = folder.join(below);
        if !dir.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let name = path.strip_prefix(folder)?.to_string_lossy().into_owned();
            if kind.holds(&name) {
                files.insert(name, read(&path)?);
            } else if path.is_file() && name != manifest::MANIFEST && !manifest::is_signature(&name)
            {
                eprintln!(
                    "bailiwick: {name} is no file of a manifest of kind {kind} and is left out"
                );
            }
        }
    }
    Ok(files)
}

/// The one kind that all files of a folder can belong to.
pub(super) fn kind_of(folder: &Path) -> anyhow::Result<Kind> {
    let has = |name: &str| folder.join(name).is_file();
    let found = [
        (Kind::Policy, "profile.toml"),
        (Kind::Approvers, "approvers.toml"),
        (Kind::BreakGlass, "break-glass.toml"),
        (Kind::Erasure, "erasure.toml"),
    ];
    let mut found = found.iter().filter(|(_, name)| has(name));
    match (found.next(), found.next()) {
        (Some((kind, _)), None) => Ok(*kind),
        (None, None) if has("world.csv") || has("world.txt") => Ok(Kind::World),
        _ => anyhow::bail!(
            "{}: what is it? Say --kind policy, approvers, world, break-glass or erasure",
            folder.display()
        ),
    }
}

/// Names of the signatures beside a manifest, sorted.
pub(super) fn signatures(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if manifest::is_signature(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A signed folder as it travels: the manifest, every signature beside it, every file it lists.
pub(crate) fn read_bundle(folder: &Path) -> anyhow::Result<Bundle> {
    let path = folder.join(manifest::MANIFEST);
    let bytes = read(&path)?;
    let parsed = parse(&path, &bytes)?;
    let signatures = signatures(folder)?
        .iter()
        .map(|name| read(&folder.join(name)))
        .collect::<anyhow::Result<_>>()?;
    let files = parsed
        .files
        .keys()
        .map(|path| Ok((path.clone(), read(&folder.join(path))?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Bundle::from_files(bytes, signatures, files))
}

/// Writes a bundle into a folder of its own.
pub(super) fn write_bundle(
    folder: &Path,
    kind: Kind,
    bundle: &v1::PolicyBundle,
) -> anyhow::Result<()> {
    std::fs::create_dir(folder).with_context(|| folder.display().to_string())?;
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, content).with_context(|| path.display().to_string())
    };
    write(manifest::MANIFEST, &bundle.manifest)?;
    for (number, signature) in (1..).zip(&bundle.signatures) {
        write(&format!("{}.{number}.sig", manifest::MANIFEST), signature)?;
    }
    for file in &bundle.files {
        // A path of the collector's choosing is no path to write to.
        ensure!(
            kind.holds(&file.path),
            "{:?} is no file of a manifest of kind {kind}",
            file.path
        );
        if file.path.starts_with("studies/") && !folder.join("studies").is_dir() {
            let studies = folder.join("studies");
            std::fs::create_dir(&studies).with_context(|| studies.display().to_string())?;
        }
        write(&file.path, &file.content)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exit;

    #[test]
    fn a_manifest_that_is_none_is_refused_under_a_stable_word() {
        let good = "deployment = \"demo\"\nkind = \"policy\"\nscope = \"fleet\"\nversion = 1\n\
                    not_after = \"2027-01-01T00:00:00Z\"\nreason = \"first\"\nfile = []\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(manifest::MANIFEST);
        std::fs::write(&path, good).unwrap();
        assert!(read_bundle(folder.path()).is_ok());
        for (name, text, code) in [
            (
                "a kind nobody knows",
                good.replace("\"policy\"", "\"gossip\""),
                "kind-unknown",
            ),
            (
                "no kind",
                good.replace("\"policy\"", "\"\""),
                "kind-unknown",
            ),
            (
                "a kind that is no word",
                good.replace("\"policy\"", "7"),
                "kind-unknown",
            ),
            (
                "no version",
                good.replace("version = 1\n", ""),
                "policy-malformed",
            ),
            ("no manifest at all", "\u{0}".to_owned(), "policy-malformed"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = read_bundle(folder.path()).unwrap_err();
            let said = format!("{error:#}");
            assert!(said.starts_with(&format!("{code}: ")), "{name}: {said}");
            assert_eq!(BytesRefused::exit(&error), Exit::Refused, "{name}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = read_bundle(folder.path()).unwrap_err();
        assert_eq!(BytesRefused::exit(&error), Exit::CouldNotTell, "no file");
    }
}
