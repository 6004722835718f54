//! `[cvm]`: what the processor has to say of the confidential guest a node runs in.

use std::collections::BTreeSet;

use serde::Deserialize;
use toml::Spanned;

use super::gpu::{digests, number, words};
use crate::Sha256Digest;
use crate::cvm::tdx::TcbStatus;
use crate::toml_file::{FileError, TomlFile};

/// Kinds of reports, as envelopes name them.
const TECHNOLOGIES: [&str; 2] = ["sev-snp", "tdx"];
/// VMPL 0 to 3.
const VMPL_LIMIT: u32 = 3;
/// A digest by SHA-384.
const DIGEST_DIGITS: usize = 96;

/// What a guest has to show.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CvmProfile {
    /// Kinds of reports that will do, never empty; `None`: every one that can be judged.
    pub technologies: Option<Vec<&'static str>>,
    /// Highest (least privileged) VMPL from which a report may be asked; `None`: any of a guest.
    pub max_vmpl: Option<u32>,
    /// A guest that its host may read will do.
    pub debug: bool,
    /// What Intel may say of the firmware, never empty; default: that it is up to date.
    pub tcb: Vec<TcbStatus>,
    /// A list of its maker's, in its time, has to say that no key on the path was taken back. What is
    /// known to be taken back is refused in any case.
    pub revocation: bool,
    /// The chip has to be one that the inventory gives the node. Where the inventory names some, no
    /// other will do in any case.
    pub listed: bool,
    /// Roots beside the makers', by digest, that keys may have, if they are among the endorsements.
    /// What is under one can be looked at, and is never hardware.
    pub roots: Option<BTreeSet<Sha256Digest>>,
    /// What may keep the guest's TPM out of its reach; `None`: nothing, and what that TPM says is its
    /// provider's word.
    pub vtpm: Option<VtpmProfile>,
}

/// What is believed to keep a TPM beside a guest: a paravisor, by what was launched.
///
/// Any guest can have its processor bind what looks like a paravisor's word, so a launch that nobody
/// named here lends its TPM nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct VtpmProfile {
    /// Measurements of the launch, hex.
    pub measurements: BTreeSet<String>,
    /// Keys of whoever signs launches, by `ID_KEY_DIGEST`, hex: all that they sign is believed.
    pub id_keys: BTreeSet<String>,
    /// A report that was made for an earlier question will do, too.
    pub stale: bool,
}

impl Default for CvmProfile {
    fn default() -> Self {
        Self {
            technologies: None,
            max_vmpl: None,
            debug: false,
            tcb: vec![TcbStatus::UpToDate],
            revocation: true,
            listed: false,
            roots: None,
            vtpm: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCvm {
    technologies: Option<Spanned<Vec<Spanned<String>>>>,
    max_vmpl: Option<Spanned<u32>>,
    debug: Option<bool>,
    tcb: Option<Spanned<Vec<Spanned<String>>>>,
    revocation: Option<bool>,
    listed: Option<bool>,
    roots: Option<Spanned<Vec<Spanned<String>>>>,
    vtpm: Option<Spanned<RawVtpm>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVtpm {
    measurements: Option<Spanned<Vec<Spanned<String>>>>,
    id_keys: Option<Spanned<Vec<Spanned<String>>>>,
    stale: Option<bool>,
}

pub(super) fn check(file: &TomlFile<'_>, raw: &RawCvm) -> Result<CvmProfile, FileError> {
    let strict = CvmProfile::default();
    let technologies = words(file, raw.technologies.as_ref(), |word| {
        TECHNOLOGIES.into_iter().find(|known| *known == word)
    })?;
    let tcb = words(file, raw.tcb.as_ref(), |word| {
        let mut all = TcbStatus::TOLERABLE.into_iter();
        all.find(|status| status.name() == word)
    })?;
    Ok(CvmProfile {
        technologies,
        max_vmpl: number(file, raw.max_vmpl.as_ref(), 0, VMPL_LIMIT)?,
        debug: raw.debug.unwrap_or(strict.debug),
        tcb: tcb.unwrap_or(strict.tcb),
        revocation: raw.revocation.unwrap_or(strict.revocation),
        listed: raw.listed.unwrap_or(strict.listed),
        roots: digests(file, raw.roots.as_ref())?,
        vtpm: raw.vtpm.as_ref().map(|raw| vtpm(file, raw)).transpose()?,
    })
}

fn vtpm(file: &TomlFile<'_>, spanned: &Spanned<RawVtpm>) -> Result<VtpmProfile, FileError> {
    let raw = spanned.get_ref();
    // SHA-384, in the one spelling that claims have.
    let digest = |word: &str| {
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (word.len() == DIGEST_DIGITS && word.bytes().all(lower)).then(|| word.to_owned())
    };
    let all = |raw: &Option<Spanned<Vec<Spanned<String>>>>| {
        let found = words(file, raw.as_ref(), digest)?;
        Ok::<BTreeSet<String>, FileError>(found.into_iter().flatten().collect())
    };
    let found = VtpmProfile {
        measurements: all(&raw.measurements)?,
        id_keys: all(&raw.id_keys)?,
        stale: raw.stale.unwrap_or_default(),
    };
    if found.measurements.is_empty() && found.id_keys.is_empty() {
        let fault = "names neither measurements nor id_keys: nothing would keep a TPM";
        return Err(file.error(spanned.span(), fault));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    const BEFORE: &str = "name = \"p\"\nlease_seconds = 60\nmax_silence_seconds = 60\n\
                          [tpm]\nbank = \"sha256\"\nrequire = [7]\n[cvm]\n";

    fn parse(text: &str) -> Result<CvmProfile, FileError> {
        let text = format!("{BEFORE}{text}");
        let profile = Profile::parse("profile.toml", text.as_bytes())?;
        Ok(profile.cvm.expect("[cvm] is there"))
    }

    #[test]
    fn a_section_is_strict_about_what_it_does_not_name() {
        let least = parse("").unwrap();
        assert_eq!(least, CvmProfile::default());
        assert!(!least.debug && least.revocation);
        assert_eq!(least.tcb, [TcbStatus::UpToDate]);
        let root = "ab".repeat(32);
        let (launch, signer) = ("cd".repeat(48), "ef".repeat(48));
        let whole = parse(&format!(
            "technologies = [\"tdx\"]\nmax_vmpl = 0\ndebug = true\n\
             tcb = [\"UpToDate\", \"SWHardeningNeeded\"]\nrevocation = false\nlisted = true\n\
             roots = [\"{root}\"]\n[cvm.vtpm]\nmeasurements = [\"{launch}\"]\n\
             id_keys = [\"{signer}\"]\nstale = true\n"
        ));
        let want = CvmProfile {
            technologies: Some(vec!["tdx"]),
            max_vmpl: Some(0),
            debug: true,
            tcb: vec![TcbStatus::UpToDate, TcbStatus::SWHardeningNeeded],
            revocation: false,
            listed: true,
            roots: Some([Sha256Digest([0xab; 32])].into()),
            vtpm: Some(VtpmProfile {
                measurements: [launch].into(),
                id_keys: [signer].into(),
                stale: true,
            }),
        };
        assert_eq!(whole.unwrap(), want);
    }

    /// A guest without a TPM has no register to quote, and its profile has to be one that can be written.
    #[test]
    fn where_the_processor_is_asked_no_register_need_be() {
        let bare = BEFORE.replace("require = [7]", "require = []");
        let profile = Profile::parse("profile.toml", bare.as_bytes()).unwrap();
        assert!(profile.tpm.require.is_empty() && profile.cvm.is_some());
        let nobody = bare.replace("[cvm]\n", "");
        let refused = Profile::parse("profile.toml", nobody.as_bytes()).unwrap_err();
        assert!(refused.to_string().contains("over no PCR"), "{refused}");
    }

    #[test]
    fn what_could_never_be_met_is_refused() {
        let upper = format!("[cvm.vtpm]\nmeasurements = [\"{}\"]", "AB".repeat(48));
        let fault = parse(&upper).unwrap_err().to_string();
        assert!(fault.contains("is none that is known"), "{fault}");
        let rows = [
            ("technologies = []", "1 to 1024 of them"),
            ("technologies = [\"sev\"]", "\"sev\" is none that is known"),
            ("max_vmpl = 4", "4 is not within 0 and 3"),
            ("tcb = [\"Revoked\"]", "\"Revoked\" is none that is known"),
            ("tcb = []", "1 to 1024 of them"),
            ("roots = [\"amd\"]", "\"amd\" is none that is known"),
            ("vmpl = 0", "unknown field"),
            ("[cvm.vtpm]", "nothing would keep a TPM"),
            ("[cvm.vtpm]\nstale = true", "nothing would keep a TPM"),
            ("[cvm.vtpm]\nid_keys = []", "1 to 1024 of them"),
            (
                "[cvm.vtpm]\nid_keys = [\"ab\"]",
                "\"ab\" is none that is known",
            ),
            ("[cvm.vtpm]\nlevel = 0", "unknown field"),
        ];
        for (text, want) in rows {
            let fault = parse(text).unwrap_err().to_string();
            assert!(fault.contains(want), "{text}: {fault}");
        }
    }
}
