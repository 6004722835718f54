//! `[ima]`: which measured files are known, as TOML spells it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::Spanned;

use super::raw::{NAME_LIMIT, moment};
use super::{FilesProfile, ImaProfile};
use crate::crypto::PublicKey;
use crate::ima::{KeyId, KnownDigest, KnownFile, KnownFiles, SigningKey};
use crate::term::Term;
use crate::toml_file::{FileError, TomlFile};
use crate::x509::{Certificate, pem_blocks};

/// Most keys: makers of distributions and drivers, each with the one that follows.
const KEYS_LIMIT: usize = 32;
/// Most digests of one profile: everything a large host runs, several versions of it.
const FILES_LIMIT: usize = 100_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIma {
    max_violations: Option<u64>,
    #[serde(default)]
    any_violations: bool,
    /// Digest and name a line, as `sha256sum` prints them.
    files: Option<Spanned<String>>,
    #[serde(default)]
    file: Vec<RawFile>,
    #[serde(default)]
    key: Vec<RawKey>,
    #[serde(default)]
    unjudged_owners: Vec<Spanned<u32>>,
    unknown: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    digest: Spanned<String>,
    name: Spanned<String>,
    not_before: Option<Spanned<String>>,
    not_after: Option<Spanned<String>>,
    revoked: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    name: Spanned<String>,
    pem: Spanned<String>,
    id: Option<Spanned<String>>,
    not_before: Option<Spanned<String>>,
    not_after: Option<Spanned<String>>,
    revoked: Option<Spanned<String>>,
}

/// Default is strict: a file that changed while it was measured may have been anything, and once
/// something is listed, what is not is refused.
pub(super) fn check(file: &TomlFile<'_>, raw: &RawIma) -> Result<ImaProfile, FileError> {
    let max_violations = (!raw.any_violations).then(|| raw.max_violations.unwrap_or_default());
    let mut known = KnownFiles::default();
    if let Some(lines) = &raw.files {
        lines_of(file, lines, &mut known.files)?;
    }
    for one in &raw.file {
        let digest =
            digest(one.digest.get_ref()).ok_or_else(|| file.error(one.digest.span(), NO_DIGEST))?;
        let listed = KnownFile {
            name: name(file, &one.name)?,
            term: term(file, [&one.not_before, &one.not_after, &one.revoked])?,
        };
        known.files.entry(digest).or_default().push(listed);
    }
    if let Some(extra) = raw.key.get(KEYS_LIMIT) {
        let fault = format!("more than {KEYS_LIMIT} keys");
        return Err(file.error(extra.name.span(), fault));
    }
    for one in &raw.key {
        known.keys.push(key(file, one)?);
    }
    known.unjudged_owners = owners(file, &raw.unjudged_owners)?;
    let refuse_unknown = match raw
        .unknown
        .as_ref()
        .map(|word| (word, word.get_ref().as_str()))
    {
        None | Some((_, "refuse")) => true,
        Some((_, "warn")) => false,
        Some((word, _)) => return Err(file.error(word.span(), "is neither `refuse` nor `warn`")),
    };
    let judged = raw.files.is_some() || !raw.file.is_empty() || !raw.key.is_empty();
    if let Some(word) = &raw.unknown
        && !judged
    {
        let fault = "says what becomes of unknown files, and no file or key is listed";
        return Err(file.error(word.span(), fault));
    }
    Ok(ImaProfile {
        max_violations,
        files: judged.then_some(FilesProfile {
            known,
            refuse_unknown,
        }),
    })
}

const NO_DIGEST: &str =
    "is no digest: 64, 96 or 128 hexadecimal digits, or `verity:sha256:` and 64";

fn digest(text: &str) -> Option<KnownDigest> {
    KnownDigest::from_text(text)
}

fn lines_of(
    file: &TomlFile<'_>,
    text: &Spanned<String>,
    files: &mut BTreeMap<KnownDigest, Vec<KnownFile>>,
) -> Result<(), FileError> {
    let lines = text.get_ref().lines().map(str::trim);
    let lines = (1..).zip(lines);
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    for (count, (number, line)) in lines.enumerate() {
        let fault = |fault: &str| file.error(text.span(), format!("line {number} of it {fault}"));
        if count >= FILES_LIMIT {
            return Err(fault("is one too many"));
        }
        let (digits, name) = line
            .split_once([' ', '\t'])
            .ok_or_else(|| fault("has no name behind the digest"))?;
        // `sha256sum` marks what it read as binary with an asterisk.
        let name = name.trim_start().trim_start_matches('*');
        if name.is_empty() || name.len() > NAME_LIMIT {
            return Err(fault("has a name that is not 1 to 128 bytes"));
        }
        let digest = digest(digits).ok_or_else(|| fault(NO_DIGEST))?;
        let listed = KnownFile {
            name: name.to_owned(),
            term: Term::default(),
        };
        files.entry(digest).or_default().push(listed);
    }
    Ok(())
}

fn name(file: &TomlFile<'_>, name: &Spanned<String>) -> Result<String, FileError> {
    match name.get_ref().len() {
        1..=NAME_LIMIT => Ok(name.get_ref().clone()),
        _ => Err(file.error(name.span(), "a name has 1 to 128 bytes")),
    }
}

fn term(
    file: &TomlFile<'_>,
    [from, until, revoked]: [&Option<Spanned<String>>; 3],
) -> Result<Term, FileError> {
    let term = Term {
        not_before: moment(file, from.as_ref())?,
        not_after: moment(file, until.as_ref())?,
        revoked: moment(file, revoked.as_ref())?,
    };
    match (term.not_before, term.not_after, until) {
        (Some(from), Some(until), Some(at)) if until <= from => {
            Err(file.error(at.span(), "ends before it begins"))
        }
        _ => Ok(term),
    }
}

fn key(file: &TomlFile<'_>, raw: &RawKey) -> Result<SigningKey, FileError> {
    let fault = |why: String| file.error(raw.pem.span(), why);
    let blocks =
        |label| pem_blocks(raw.pem.get_ref(), label, 1).map_err(|error| fault(error.to_string()));
    let key = match (&*blocks("PUBLIC KEY")?, &*blocks("CERTIFICATE")?) {
        ([spki], []) => PublicKey::from_spki_der(spki).map_err(|error| fault(error.to_string()))?,
        ([], [certificate]) => {
            let certificate =
                Certificate::parse(certificate).map_err(|error| fault(error.to_string()))?;
            let key = certificate
                .key()
                .map_err(|error| fault(error.to_string()))?;
            key.clone()
        }
        _ => return Err(fault("is not one PEM public key or certificate".to_owned())),
    };
    if !matches!(key, PublicKey::Rsa { .. } | PublicKey::Ec { .. }) {
        return Err(fault(format!(
            "no file is signed by a key of kind {}",
            key.kind()
        )));
    }
    let id = match &raw.id {
        None => KeyId::of(&key),
        Some(text) => {
            let mut id = [0; 4];
            hex::decode_to_slice(text.get_ref(), &mut id)
                .ok()
                .ok_or_else(|| file.error(text.span(), "an id is 8 hexadecimal digits"))?;
            KeyId(id)
        }
    };
    Ok(SigningKey {
        name: name(file, &raw.name)?,
        key,
        id,
        term: term(file, [&raw.not_before, &raw.not_after, &raw.revoked])?,
    })
}

fn owners(file: &TomlFile<'_>, raw: &[Spanned<u32>]) -> Result<BTreeSet<u32>, FileError> {
    let root = raw.iter().find(|owner| *owner.get_ref() == 0);
    match root {
        Some(root) => Err(file.error(root.span(), "root's files are always judged")),
        None => Ok(raw.iter().map(|owner| *owner.get_ref()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use crate::crypto::PublicKey;
    use crate::profile::{ImaProfile, Profile};
    use crate::x509::pem_block;

    const REST: &str = "name = \"a\"\nlease_seconds = 300\nmax_silence_seconds = 180\n\
                        [tpm]\nbank = \"sha256\"\nrequire = [10]\n[ima]\n";

    fn read(ima: &str) -> Result<ImaProfile, String> {
        let text = format!("{REST}{ima}");
        let profile = Profile::parse("profile.toml", text.as_bytes());
        profile
            .map(|profile| profile.ima.unwrap())
            .map_err(|error| error.to_string())
    }

    fn key(rest: &str) -> String {
        let key = PublicKey::rsa(&[0xc5; 256], &[1, 0, 1]);
        let pem = pem_block("PUBLIC KEY", &key.to_spki_der());
        format!("[[ima.key]]\nname = \"vendor\"\npem = '''\n{pem}'''\n{rest}")
    }

    #[test]
    fn what_is_listed_is_read_whole_or_refused() {
        let digest = "ab".repeat(32);
        let good = read(&format!(
            "files = '''\n# all of it\n\n{digest}  /bin/a b\n{digest} /bin/c\n'''\n\
             unjudged_owners = [1000]\n{}",
            key("id = \"01020304\"")
        ));
        let files = good.unwrap().files.unwrap();
        assert!(files.refuse_unknown);
        let names: Vec<&str> = files
            .known
            .files
            .values()
            .flatten()
            .map(|file| &*file.name)
            .collect();
        assert_eq!(names, ["/bin/a b", "/bin/c"]);
        assert_eq!(files.known.keys[0].id.0, [1, 2, 3, 4]);
        assert!(files.known.unjudged_owners.contains(&1000));
        let warns = read(&format!("unknown = \"warn\"\n{}", key("")));
        assert!(!warns.unwrap().files.unwrap().refuse_unknown);
        assert_eq!(read("").unwrap().files, None);

        let file = |rest: &str| format!("[[ima.file]]\nname = \"x\"\n{rest}");
        let dated = |rest: &str| file(&format!("digest = \"{digest}\"\n{rest}"));
        let rows: &[(&str, String, &str)] = &[
            (
                "no name",
                format!("files = \"{digest}\""),
                "line 1 of it has no name",
            ),
            (
                "SHA-1",
                format!("files = \"\\n{} a\"", "ab".repeat(20)),
                "line 2 of it is no digest",
            ),
            ("a digest of nothing", file("digest = \"\""), "is no digest"),
            (
                "no file's name",
                dated("").replace("\"x\"", "\"\""),
                "a name has 1 to 128 bytes",
            ),
            (
                "ends before it begins",
                dated(
                    "not_before = \"2027-01-02T00:00:00Z\"\nnot_after = \"2027-01-01T00:00:00Z\"",
                ),
                "ends before it begins",
            ),
            ("no moment", dated("revoked = \"yes\""), "is not a moment"),
            (
                "a path as a rule",
                dated("path = \"/tmp/*\""),
                "unknown field",
            ),
            (
                "root",
                format!("unjudged_owners = [0]\n{}", key("")),
                "always judged",
            ),
            (
                "no third word",
                format!("unknown = \"pass\"\n{}", key("")),
                "neither",
            ),
            (
                "nothing to be unknown to",
                "unknown = \"warn\"".to_owned(),
                "no file or key is listed",
            ),
            (
                "no key",
                key("").replace("PUBLIC", "PRIVATE"),
                "is not one PEM public key",
            ),
            (
                "a key of other bytes",
                key("").replacen("MII", "AAA", 1),
                "malformed",
            ),
            (
                "an id too short",
                key("id = \"0102\""),
                "8 hexadecimal digits",
            ),
            ("too many keys", key("").repeat(33), "more than 32 keys"),
        ];
        for (name, text, want) in rows {
            let error = read(text).unwrap_err();
            assert!(error.contains(want), "{name}: {error}");
        }
    }
}
