//! What has to be measured before root can lie, and what was taken back.
//!
//! Root on a running host can detach the fence and have the TPM sign any statement. What the kernel
//! says of itself is worth something only if root could change neither the kernel nor what it runs
//! without leaving a trace in a register that only a reset clears: Secure Boot, a kernel locked down,
//! signed modules, no other kernel by kexec, and a list of all that root ran, in which the agent
//! stands and nothing unknown does. All of it is read from logs that replay. The command line shows
//! it because it is measured before the kernel runs: what a running kernel says of itself would be
//! root's word again.

use super::{
    boot::Measured,
    claims::{Found, hash_of},
    result::{AppraisedClaim, AttestationResult, Deviation, Finding},
    verify::VerifiedEvidence,
};
use crate::{
    ids::UnixTime,
    profile::{Profile, Provenance, Revoked, Value},
};

/// The claim that says whose word the fence's claims are.
const WORD: &str = "fence.word";
const COMMAND_LINE: &str = "boot.command_line";

/// A word of the kernel's command line: its key as the kernel compares it, and what it is set to.
type Word = (String, Option<String>);

/// What the command line has to show.
struct Shown {
    code: &'static str,
    want: &'static str,
    holds: fn(&[Word]) -> bool,
}

const SHOWN: [Shown; 4] = [
    Shown {
        code: "strict-lockdown",
        want: "lockdown=integrity or lockdown=confidentiality",
        holds: lockdown,
    },
    Shown {
        code: "strict-modules",
        want: "module.sig_enforce=1",
        holds: signed_modules,
    },
    Shown {
        code: "strict-kexec",
        want: "sysctl.kernel.kexec_load_disabled=1",
        holds: no_kexec,
    },
    Shown {
        code: "strict-ima-policy",
        want: "ima_policy=tcb",
        holds: measures_all,
    },
];

/// Judges the strict part, and says whose word the fence's claims are.
pub(super) fn judge(result: &mut AttestationResult, profile: &Profile, measured: &Measured) {
    let (word, provenance) = match &profile.strict {
        Some(strict) => {
            let mut look = Look {
                result,
                measured,
                set: strict.set.name(),
                holds: true,
            };
            look.judge();
            match look.holds {
                true => (strict.set.name(), Provenance::Measured),
                false => ("root", Provenance::SelfReported),
            }
        }
        None => ("root", Provenance::SelfReported),
    };
    let value = Value::Text(word.to_owned());
    result.note(WORD.to_owned(), AppraisedClaim { value, provenance });
}

struct Look<'a> {
    result: &'a mut AttestationResult,
    measured: &'a Measured,
    set: &'static str,
    holds: bool,
}

impl Look<'_> {
    fn judge(&mut self) {
        self.value("boot.secure_boot", "strict-secure-boot", &Value::Flag(true));
        self.value("ima.unknown", "strict-unknown", &Value::Number(0));
        match self.find(COMMAND_LINE) {
            Some(Found::Is(Value::Text(line), Provenance::Measured)) => {
                let words = words(&line);
                for shown in SHOWN.iter().filter(|shown| !(shown.holds)(&words)) {
                    let want = format!("{}, measured", shown.want);
                    self.refuse(COMMAND_LINE, shown.code, want, format!("{line:?}"));
                }
            }
            other => {
                let want = "a command line, measured".to_owned();
                self.missing(COMMAND_LINE, "strict-command-line", want, other);
            }
        }
        self.agent();
    }

    /// What the logs say, and whose word that is: a vTPM's logs are not measured by anything.
    fn find(&self, claim: &str) -> Option<Found> {
        let found = self.measured.find(claim)?;
        Some(self.result.heard(claim, found, Provenance::Measured))
    }

    fn value(&mut self, claim: &str, code: &'static str, want: &Value) {
        match self.find(claim) {
            Some(Found::Is(value, Provenance::Measured)) if value == *want => {}
            Some(Found::Is(value, Provenance::Measured)) => {
                self.refuse(claim, code, format!("{want}, measured"), value.to_string());
            }
            other => self.missing(claim, code, format!("{want}, measured"), other),
        }
    }

    /// The agent's own program is in the list, as the kernel measured it.
    fn agent(&mut self) {
        const CLAIM: &str = "ima.agent";
        let want = "the agent's program in the measurement list".to_owned();
        let list = &self.measured.0.ima;
        if list.absent {
            let found = Found::Unavailable("no measurement list".to_owned());
            return self.missing(CLAIM, "strict-agent", want, Some(found));
        }
        if !list.agent {
            let found = "no entry with a digest that the profile names".to_owned();
            self.refuse(CLAIM, "strict-agent", want, found);
        }
    }

    fn missing(&mut self, claim: &str, code: &'static str, want: String, found: Option<Found>) {
        match found {
            // Of a log that is missing nobody knows what it would have shown.
            Some(Found::Unavailable(why)) => {
                self.deviate(claim, Finding::Unchecked, code, want, why);
            }
            Some(Found::Is(value, provenance)) => {
                self.refuse(claim, code, want, format!("{value}, {provenance}"));
            }
            Some(Found::Missing) | None => {
                self.refuse(claim, code, want, "not in the logs".to_owned());
            }
        }
    }

    fn refuse(&mut self, claim: &str, code: &'static str, want: String, found: String) {
        self.deviate(claim, Finding::Refused, code, want, found);
    }

    fn deviate(&mut self, claim: &str, finding: Finding, code: &str, want: String, found: String) {
        self.holds = false;
        self.result.deviate(Deviation {
            claim: claim.to_owned(),
            finding,
            code: code.to_owned(),
            expected: format!("{want} ({})", self.set),
            found,
            provenance: None,
        });
    }
}

/// The line as the kernel takes it apart (`lib/cmdline.c`, `next_arg`): white space outside double
/// quotes parts words, `-` and `_` are one in a key, and what follows `--` is for init.
fn words(line: &str) -> Vec<Word> {
    let mut quoted = false;
    let parts = line.split(|c: char| {
        quoted ^= c == '"';
        !quoted && c.is_ascii_whitespace()
    });
    let words = parts.map(|word| word.replace('"', ""));
    let words = words.filter(|word| !word.is_empty());
    let own = words.take_while(|word| word != "--");
    own.map(|word| match word.split_once('=') {
        Some((key, value)) => (key.replace('-', "_"), Some(value.to_owned())),
        None => (word.replace('-', "_"), None),
    })
    .collect()
}

fn set_to<'w>(words: &'w [Word], key: &str) -> impl Iterator<Item = Option<&'w str>> {
    let own = words.iter().filter(move |(own, _)| own == key);
    own.map(|(_, value)| value.as_deref())
}

/// A level can be raised and never lowered. A list of security modules that leaves it out turns it
/// off.
fn lockdown(words: &[Word]) -> bool {
    let level = |value: Option<&str>| matches!(value, Some("integrity" | "confidentiality"));
    let named = |value: Option<&str>| {
        value.is_some_and(|list| list.split(',').any(|module| module == "lockdown"))
    };
    set_to(words, "lockdown").any(level) && set_to(words, "lsm").last().is_none_or(named)
}

fn signed_modules(words: &[Word]) -> bool {
    let on = |value: Option<&str>| matches!(value, None | Some("1" | "y" | "Y" | "on"));
    let mut set = set_to(words, "module.sig_enforce").peekable();
    set.peek().is_some() && set.all(on)
}

/// Dots and slashes are one in a sysctl's name. It cannot be taken back while the kernel runs.
fn no_kexec(words: &[Word]) -> bool {
    let own = words.iter().filter(|(key, _)| {
        let key = key.replace('/', ".");
        key == "sysctl.kernel.kexec_load_disabled"
    });
    let mut set = own.map(|(_, value)| value.as_deref()).peekable();
    set.peek().is_some() && set.all(|value| value == Some("1"))
}

/// The built-in policy that measures programs, libraries, modules, firmware, and what root reads.
fn measures_all(words: &[Word]) -> bool {
    let tcb = |value: Option<&str>| {
        value.is_some_and(|rules| rules.split(['|', ' ']).any(|rule| rule == "tcb"))
    };
    set_to(words, "ima_policy").any(tcb) && set_to(words, "ima").all(|value| value != Some("off"))
}

/// Refuses whatever is there although it was taken back: values of claims and registers, and every
/// digest of the boot log, whether or not anything was demanded of it.
pub(super) fn revoked(
    result: &mut AttestationResult,
    evidence: &VerifiedEvidence,
    profile: &Profile,
    measured: &Measured,
    at: UnixTime,
) {
    let taken_back = |digest: &[u8]| -> Option<&Revoked> {
        let revoked = profile.revoked.get(digest)?;
        revoked
            .since
            .is_none_or(|since| since <= at)
            .then_some(revoked)
    };
    if profile.revoked.is_empty() {
        return;
    }
    let mut found: Vec<(String, Vec<u8>, Provenance)> = Vec::new();
    let claims = result.submods.values().flat_map(|submod| &submod.claims);
    for (name, claim) in claims {
        let Value::Text(text) = &claim.value else {
            continue;
        };
        let digests = text
            .split([',', ' '])
            .filter_map(|word| hex::decode(word).ok());
        found.extend(digests.map(|digest| (name.clone(), digest, claim.provenance)));
    }
    let bank = hash_of(profile.tpm.bank);
    let registers = evidence.registers().filter(|(found, ..)| *found == bank);
    found.extend(registers.map(|(bank, index, digest)| {
        let name = format!("tpm.pcr.{bank}.{index}");
        (name, digest.as_slice().to_vec(), Provenance::HardwareSigned)
    }));
    for part in [&*measured.0.boot, &measured.0.ima] {
        let named = part.revoked.iter().cloned();
        found.extend(named.map(|(name, digest)| (name, digest, Provenance::Measured)));
    }
    let mut told: Vec<Vec<u8>> = Vec::new();
    for (claim, digest, provenance) in found {
        let Some(revoked) = taken_back(&digest).filter(|_| !told.contains(&digest)) else {
            continue;
        };
        result.deviate(Deviation {
            claim,
            finding: Finding::Refused,
            code: "revoked".to_owned(),
            expected: "nothing that was taken back".to_owned(),
            found: format!("{}: {}", hex::encode(&digest), revoked.reason),
            provenance: Some(provenance),
        });
        told.push(digest);
    }
}
