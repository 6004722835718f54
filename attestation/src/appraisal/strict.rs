//! What has to be measured before root can lie, and what was taken back.
//!
//! Root on a running host can detach the fence and have the TPM sign any statement. What the kernel
//! says of itself is worth something only if root could change neither the kernel nor what it runs
//! without leaving a trace in a register that only a reset clears: Secure Boot, a kernel locked down,
//! signed modules, no other kernel by kexec, and a list of all that root ran, in which the agent
//! stands and nothing unknown does. All of it is read from logs that replay. The command line shows
//! it because it is measured before the kernel runs: what a running kernel says of itself would be
//! root's word again. That it was measured then, and not by root who had booted another, shows in the
//! first entry of the kernel's list, which is over the registers as the kernel found them.

use super::{
    boot::Measured,
    claims::{Found, hash_of},
    result::{AppraisedClaim, AttestationResult, Deviation, Finding},
    verify::VerifiedEvidence,
};
use crate::{
    ids::UnixTime,
    ima::Aggregate,
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

const SHOWN: [Shown; 5] = [
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
    Shown {
        code: "strict-overrides",
        want: "neither bootconfig nor initcall_blacklist",
        holds: nothing_over,
    },
];

/// Longest line whose last word the kernel reads: `COMMAND_LINE_SIZE` of x86 and arm64 with its zero byte,
/// less what GRUB puts before it (`BOOT_IMAGE=`).
const LONGEST_LINE: usize = 2048 - 1 - 11;

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
        self.aggregate();
        match self.find(COMMAND_LINE) {
            Some(Found::Is(Value::Text(line), Provenance::Measured))
                if line.len() > LONGEST_LINE =>
            {
                let want = format!("a command line of at most {LONGEST_LINE} bytes");
                let found = format!("{} bytes, the last of which no kernel reads", line.len());
                self.refuse(COMMAND_LINE, "strict-command-line", want, found);
            }
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

    /// Nothing has been extended into the registers of firmware and boot loaders since the kernel began.
    fn aggregate(&mut self) {
        const CLAIM: &str = "ima.boot_aggregate";
        const CODE: &str = "strict-boot-aggregate";
        let want = "a boot_aggregate over the quoted PCRs 0 to 9, measured".to_owned();
        let aggregate = self.measured.0.ima.aggregate;
        let found = self.find(CLAIM);
        if let Some(Found::Missing) = found
            && aggregate == Some(Aggregate::Unchecked)
        {
            let found = "one of another bank, or PCRs 8 and 9 are not quoted".to_owned();
            return self.deviate(CLAIM, Finding::Unchecked, CODE, want, found);
        }
        match (found, aggregate) {
            (Some(Found::Is(Value::Flag(true), Provenance::Measured)), Some(Aggregate::Same)) => {}
            (Some(Found::Is(_, Provenance::Measured)), Some(Aggregate::SameFirmware)) => {
                let found = "one over PCRs 0 to 7: what boot loaders measured could be root's";
                self.refuse(CLAIM, CODE, want, found.to_owned());
            }
            (Some(Found::Is(value, Provenance::Measured)), _) => {
                self.refuse(CLAIM, CODE, want, value.to_string());
            }
            (other, _) => self.missing(CLAIM, CODE, want, other),
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

/// The line as the kernel takes it apart (`lib/cmdline.c`, `next_arg`, `kernel/params.c`, `parse_args`): white
/// space outside double quotes parts words, quotes around a word or a value are left out and all others
/// stay, `-` and `_` are one in a key, and what follows `--` is for init.
fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = line.trim_start_matches(' ');
    while !rest.is_empty() {
        let (word, after) = next_word(rest);
        if word == ("--".to_owned(), None) {
            break;
        }
        let (key, value) = word;
        words.push((key.replace('-', "_"), value));
        rest = after.trim_start_matches(' ');
    }
    words
}

/// The first word, and what follows it.
fn next_word(line: &str) -> (Word, &str) {
    let inner = line.strip_prefix('"');
    let quoted = inner.is_some();
    let line = inner.unwrap_or(line);
    let mut in_quote = quoted;
    let end = line.find(|c| {
        in_quote ^= c == '"';
        c == ' ' && !in_quote
    });
    let (word, rest) = line.split_at(end.unwrap_or(line.len()));
    // A word that begins with the sign has no key, and is one.
    let at = word.char_indices().skip(1).find(|(_, c)| *c == '=');
    let parts = at.and_then(|(at, _)| Some((word.get(..at)?, word.get(at + 1..)?)));
    let unquoted = |text: &str| text.strip_suffix('"').unwrap_or(text).to_owned();
    let word = match parts {
        None if quoted => (unquoted(word), None),
        None => (word.to_owned(), None),
        Some((key, value)) => {
            let inner = value.strip_prefix('"');
            let value = match inner {
                Some(inner) => unquoted(inner),
                None if quoted => unquoted(value),
                None => value.to_owned(),
            };
            (key.to_owned(), Some(value))
        }
    };
    (word, rest)
}

/// Nothing that the line names is undone: by words that a ramdisk carries, or by leaving out what would
/// see to it.
fn nothing_over(words: &[Word]) -> bool {
    let over = ["bootconfig", "initcall_blacklist"];
    !words.iter().any(|(key, _)| over.contains(&key.as_str()))
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
        // Of a guest no register stands behind them, or those that are a report's.
        let by = match evidence.alone() && evidence.rtmrs().is_none() {
            true => Provenance::SelfReported,
            false => Provenance::Measured,
        };
        found.extend(named.map(|(name, digest)| (name, digest, by)));
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
