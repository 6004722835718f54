//! `manifest.toml`: what approvers sign. Everything else in a bundle stands in it by digest.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bailiwick_attestation::{DeploymentId, FileError, Sha256Digest, TomlFile, UnixTime};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use toml::Spanned;

use crate::kind::Kind;

/// The manifest's name in a bundle.
pub const MANIFEST: &str = "manifest.toml";
/// Most bytes of a manifest: 1,030 files of some 150 bytes each, with room for comments.
pub const MANIFEST_LIMIT: usize = 512 * 1024;
/// Most files of a bundle: every study, and the rest.
pub const FILES_LIMIT: usize = 1032;
/// The one scope there is: all nodes of the deployment.
pub const SCOPE: &str = "fleet";

/// A well-formed manifest. Nothing in it is trusted yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// Whose it is.
    pub deployment: DeploymentId,
    /// What it is about.
    pub kind: Kind,
    /// Whom it is for; [`SCOPE`] is all that is accepted here.
    pub scope: String,
    /// Only moves forward, in a line of its own for each kind; from 1.
    pub version: u64,
    /// SHA-256 of the manifest before; absent for version 1 alone, except that the first change of
    /// approvers names the digest of the approvers the machines were installed with.
    pub previous: Option<Sha256Digest>,
    /// After this nobody takes it as new, and nodes that have it start no new study.
    pub not_after: UnixTime,
    /// Why it was made, for people.
    pub reason: String,
    /// Path and digest of every file.
    pub files: BTreeMap<String, Sha256Digest>,
    /// SHA-256 of the manifest's own bytes: its name.
    pub digest: Sha256Digest,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    deployment: Spanned<String>,
    kind: Spanned<String>,
    scope: Spanned<String>,
    version: Spanned<u64>,
    previous: Option<Spanned<String>>,
    not_after: Spanned<String>,
    reason: Spanned<String>,
    file: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: Spanned<String>,
    sha256: Spanned<String>,
}

impl Manifest {
    /// Reads a manifest whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, FileError> {
        let file = TomlFile::new(MANIFEST, bytes, MANIFEST_LIMIT)?;
        let raw: RawManifest = file.parse()?;
        let at = |text: &Spanned<String>, fault: String| file.error(text.span(), fault);
        let deployment = DeploymentId::new(raw.deployment.get_ref())
            .map_err(|err| at(&raw.deployment, format!("{:?} {}", err.name, err.fault)))?;
        let kind = match Kind::parse(raw.kind.get_ref()) {
            Some(kind) if !raw.kind.get_ref().is_empty() => kind,
            _ => {
                let fault = format!("{:?} is no kind: {}", raw.kind.get_ref(), kinds());
                return Err(at(&raw.kind, fault));
            }
        };
        let version = *raw.version.get_ref();
        if version == 0 {
            return Err(file.error(raw.version.span(), "versions count from 1"));
        }
        let previous = match &raw.previous {
            Some(text) => Some(digest(&file, text)?),
            None => None,
        };
        let first = version == 1 && kind != Kind::Approvers;
        if first != previous.is_none() {
            let fault = match kind {
                Kind::Approvers => "`previous` is missing: version 1 names the first approvers",
                _ => "version 1 has no `previous`, and every later version has one",
            };
            return Err(file.error(raw.version.span(), fault));
        }
        let not_after = instant(raw.not_after.get_ref()).ok_or_else(|| {
            at(
                &raw.not_after,
                "is no time: 2027-01-01T00:00:00Z".to_owned(),
            )
        })?;
        let reason = raw.reason.get_ref();
        if !sound_reason(reason) {
            return Err(at(&raw.reason, REASON_RULE.to_owned()));
        }
        let mut files = BTreeMap::new();
        for entry in &raw.file {
            let path = entry.path.get_ref();
            if files.len() == FILES_LIMIT {
                return Err(at(&entry.path, format!("more than {FILES_LIMIT} files")));
            }
            if !kind.holds(path) {
                let fault = format!("{path:?} is no file of a manifest of kind {kind}");
                return Err(at(&entry.path, fault));
            }
            if files
                .insert(path.clone(), digest(&file, &entry.sha256)?)
                .is_some()
            {
                return Err(at(&entry.path, format!("{path:?} is named twice")));
            }
        }
        Ok(Self {
            deployment,
            kind,
            scope: raw.scope.into_inner(),
            version,
            previous,
            not_after,
            reason: reason.clone(),
            files,
            digest: Sha256Digest::of(&[bytes]),
        })
    }
}

pub(crate) const REASON_RULE: &str = "a reason has 1 to 1000 bytes on one line";

fn kinds() -> String {
    Kind::ALL.map(Kind::as_str).join(", ")
}

pub(crate) fn sound_reason(reason: &str) -> bool {
    !reason.trim().is_empty() && reason.len() <= 1000 && !reason.chars().any(char::is_control)
}

fn digest(file: &TomlFile<'_>, text: &Spanned<String>) -> Result<Sha256Digest, FileError> {
    Sha256Digest::try_from(text.get_ref().clone())
        .map_err(|err| file.error(text.span(), format!("{:?} {}", err.name, err.fault)))
}

pub(crate) fn instant(text: &str) -> Option<UnixTime> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(at.unix_timestamp())
        .ok()
        .map(UnixTime::from_secs)
}

/// Whether a file beside the manifest is a signature over it: `manifest.toml.sig`, as
/// `ssh-keygen -Y sign` names it, or `manifest.toml.ANYTHING.sig`.
#[must_use]
pub fn is_signature(name: &str) -> bool {
    name.strip_prefix(MANIFEST)
        .and_then(|rest| rest.strip_suffix(".sig"))
        .is_some_and(|middle| middle.is_empty() || middle.starts_with('.'))
}

/// What goes into a new manifest.
#[derive(Clone, Debug)]
pub struct Draft<'a> {
    /// Whose it is.
    pub deployment: &'a DeploymentId,
    /// What it is about.
    pub kind: Kind,
    /// One more than the newest version of the kind.
    pub version: u64,
    /// Digest of the newest manifest of the kind; `None` for version 1, where approvers name the
    /// digest of the first approvers.
    pub previous: Option<Sha256Digest>,
    /// When it ends; whole seconds.
    pub not_after: UnixTime,
    /// Why it is made.
    pub reason: &'a str,
}

/// Writes the manifest over `files` (path and content), ready to be signed with
/// `ssh-keygen -Y sign -n bailiwick/DEPLOYMENT/KIND manifest.toml`.
///
/// What comes out has been read back: a draft that nobody could accept is refused here.
pub fn compose(draft: &Draft<'_>, files: &BTreeMap<String, Vec<u8>>) -> Result<String, FileError> {
    let refuse = |key: &str, fault: &str| FileError {
        file: MANIFEST.to_owned(),
        line: 1,
        key: key.to_owned(),
        fault: fault.to_owned(),
    };
    if !sound_reason(draft.reason) {
        return Err(refuse("reason", REASON_RULE));
    }
    let not_after = i64::try_from(draft.not_after.secs())
        .ok()
        .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
        .and_then(|at| at.format(&Rfc3339).ok())
        .ok_or_else(|| refuse("not_after", "is further away than the calendar goes"))?;
    let mut text = format!(
        "deployment = \"{}\"\nkind = \"{}\"\nscope = \"{SCOPE}\"\nversion = {}\n",
        draft.deployment, draft.kind, draft.version
    );
    if let Some(previous) = &draft.previous {
        text.push_str(&format!("previous = \"{previous}\"\n"));
    }
    let reason = toml::Value::String(draft.reason.to_owned());
    text.push_str(&format!("not_after = \"{not_after}\"\nreason = {reason}\n"));
    for (path, content) in files {
        let digest = Sha256Digest::of(&[content]);
        let path = toml::Value::String(path.clone());
        let written = write!(text, "\n[[file]]\npath = {path}\nsha256 = \"{digest}\"\n");
        written.expect("a String takes whatever is written");
    }
    Manifest::parse(text.as_bytes())?;
    Ok(text)
}
