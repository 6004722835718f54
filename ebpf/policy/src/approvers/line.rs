//! One line of `allowed_signers`: `principals [options] keytype base64 [comment]`.

use bailiwick_attestation::{FileError, UnixTime};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::{Date, Month, Time};

use super::{APPROVERS_FILE_LIMIT, APPROVERS_LIMIT, NotAnApprover, Validity};
use crate::ssh::PublicKey;

/// A key, whose it is, and what it may be used for.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) principals: Vec<String>,
    pub(super) key: PublicKey,
    /// Pattern list; `None` for any namespace.
    namespaces: Option<String>,
    /// First second, inclusive.
    valid_after: Option<UnixTime>,
    /// Last second, inclusive.
    valid_before: Option<UnixTime>,
    number: usize,
}

impl Line {
    pub(super) fn permits(&self, namespace: &str, validity: Validity) -> Result<(), NotAnApprover> {
        let principals = self.principals.join(",");
        if let Some(patterns) = &self.namespaces
            && !listed(namespace, patterns)
        {
            return Err(NotAnApprover::Namespace {
                principals,
                namespace: namespace.to_owned(),
                line: self.number,
            });
        }
        let Validity::At(now) = validity else {
            return Ok(());
        };
        let now = now.secs();
        if let Some(from) = self.valid_after
            && now < from.secs()
        {
            let (from, line) = (from.secs(), self.number);
            return Err(NotAnApprover::NotYetValid {
                principals,
                from,
                now,
                line,
            });
        }
        if let Some(until) = self.valid_before
            && now > until.secs()
        {
            let (until, line) = (until.secs(), self.number);
            return Err(NotAnApprover::NoLongerValid {
                principals,
                until,
                now,
                line,
            });
        }
        Ok(())
    }
}

pub(super) fn parse_all(file: &str, bytes: &[u8]) -> Result<Vec<Line>, FileError> {
    let refuse = |line: usize, key: &str, fault: String| FileError {
        file: file.to_owned(),
        line,
        key: key.to_owned(),
        fault,
    };
    if bytes.len() > APPROVERS_FILE_LIMIT {
        let fault = format!(
            "{} bytes exceed the limit of {APPROVERS_FILE_LIMIT}",
            bytes.len()
        );
        return Err(refuse(1, "", fault));
    }
    let text =
        std::str::from_utf8(bytes).map_err(|_err| refuse(1, "", "is not UTF-8".to_owned()))?;
    let mut lines = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let number = index.saturating_add(1);
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if lines.len() == APPROVERS_LIMIT {
            return Err(refuse(
                number,
                "",
                format!("more than {APPROVERS_LIMIT} keys"),
            ));
        }
        let parsed = parse(line, number).map_err(|(key, fault)| refuse(number, key, fault))?;
        lines.push(parsed);
    }
    Ok(lines)
}

const NO_KEY: &str = "is missing: principals [options] keytype base64";

type Refused = (&'static str, String);

fn parse(line: &str, number: usize) -> Result<Line, Refused> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err(("", "holds a control character".to_owned()));
    }
    let (principals, rest) = split(line);
    let principals = names(principals).map_err(|fault| ("principals", fault))?;
    if rest.is_empty() {
        return Err(("key", NO_KEY.to_owned()));
    }
    let (word, _) = split(rest);
    let mut options = Options::default();
    let mut rest = rest;
    // Key types hold no '=', no ',' and no quote, and no option looks like one.
    if !is_key_type(word) {
        rest = options.read(rest)?;
    }
    let (kind, rest) = split(rest);
    let (base64, _comment) = split(rest);
    if kind.is_empty() || base64.is_empty() {
        return Err(("key", NO_KEY.to_owned()));
    }
    let blob = STANDARD
        .decode(base64)
        .map_err(|_err| ("key", "is not base64".to_owned()))?;
    let key = PublicKey::parse(&blob).map_err(|fault| ("key", fault.to_string()))?;
    if key.kind() != kind {
        let fault = format!("is of type {}, and the line says {kind:?}", key.kind());
        return Err(("key", fault));
    }
    if let (Some(after), Some(before)) = (options.valid_after, options.valid_before)
        && before <= after
    {
        return Err(("valid-before", "is not after valid-after".to_owned()));
    }
    Ok(Line {
        principals,
        key,
        namespaces: options.namespaces,
        valid_after: options.valid_after,
        valid_before: options.valid_before,
        number,
    })
}

/// First word and what follows the blanks behind it.
fn split(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start_matches([' ', '\t']))
}

fn is_key_type(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|start| word.starts_with(start))
}

fn names(field: &str) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for name in field.split(',') {
        if name.is_empty() || name.len() > 255 {
            return Err("a principal has 1 to 255 bytes".to_owned());
        }
        if name.contains(['*', '?', '!']) {
            return Err(format!(
                "{name:?} is a pattern, and nobody in particular: write one line per person"
            ));
        }
        if name.contains(['"', '\\']) {
            return Err(format!("{name:?} holds a quote; write the bare name"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

#[derive(Default)]
struct Options {
    namespaces: Option<String>,
    valid_after: Option<UnixTime>,
    valid_before: Option<UnixTime>,
}

impl Options {
    /// Reads options up to the first blank outside quotes; gives what follows.
    fn read<'a>(&mut self, text: &'a str) -> Result<&'a str, Refused> {
        let mut rest = text;
        loop {
            let end = rest.find(['=', ',', ' ', '\t']).unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            let name = name.to_ascii_lowercase();
            rest = match name.as_str() {
                "cert-authority" => {
                    let fault = "certificate authorities cannot approve: whoever they certify \
                                 cannot be counted; list each person's own key";
                    return Err(("cert-authority", fault.to_owned()));
                }
                "namespaces" => {
                    let (value, after) = quoted(after).map_err(|fault| ("namespaces", fault))?;
                    once(&mut self.namespaces, value.to_owned()).map_err(|f| ("namespaces", f))?;
                    after
                }
                "valid-after" => {
                    let (value, after) = time(after).map_err(|fault| ("valid-after", fault))?;
                    once(&mut self.valid_after, value).map_err(|f| ("valid-after", f))?;
                    after
                }
                "valid-before" => {
                    let (value, after) = time(after).map_err(|fault| ("valid-before", fault))?;
                    once(&mut self.valid_before, value).map_err(|f| ("valid-before", f))?;
                    after
                }
                _ => {
                    let name: String = name.chars().take(80).collect();
                    let fault = format!("{name:?} is neither an option nor a key type");
                    return Err(("options", fault));
                }
            };
            match rest.chars().next() {
                Some(',') => rest = rest.get(1..).unwrap_or_default(),
                Some(' ' | '\t') => return Ok(rest.trim_start_matches([' ', '\t'])),
                None => return Ok(rest),
                Some(_) => return Err(("options", "a comma is missing".to_owned())),
            }
        }
    }
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err("stands here twice".to_owned()),
    }
}

/// `="value"`, and what follows.
fn quoted(text: &str) -> Result<(&str, &str), String> {
    let (value, rest) = text
        .strip_prefix("=\"")
        .and_then(|rest| rest.split_once('"'))
        .ok_or("needs a value in quotes")?;
    if value.is_empty() || value.contains('\\') {
        return Err("is empty or holds a backslash".to_owned());
    }
    Ok((value, rest))
}

/// `="YYYYMMDD[HHMM[SS]]Z"`, and what follows.
fn time(text: &str) -> Result<(UnixTime, &str), String> {
    let (value, rest) = quoted(text)?;
    let Some(digits) = value.strip_suffix('Z') else {
        return Err(format!(
            "{value:?} is local time, which differs from machine to machine: end it with Z"
        ));
    };
    match instant(digits) {
        Some(at) => Ok((at, rest)),
        None => Err(format!(
            "{value:?} is no time: YYYYMMDD[HHMM[SS]]Z, after 1970"
        )),
    }
}

fn instant(digits: &str) -> Option<UnixTime> {
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| match digits.get(from..to) {
        Some(text) => text.parse::<u8>().ok(),
        None => Some(0),
    };
    let year: i32 = digits.get(..4)?.parse().ok()?;
    let month = Month::try_from(part(4, 6)?).ok()?;
    let date = Date::from_calendar_date(year, month, part(6, 8)?).ok()?;
    let time = Time::from_hms(part(8, 10)?, part(10, 12)?, part(12, 14)?).ok()?;
    let secs = u64::try_from(date.with_time(time).assume_utc().unix_timestamp()).ok()?;
    (secs > 0).then(|| UnixTime::from_secs(secs))
}

/// ssh_config(5), "PATTERNS": a comma-separated list, `!` in front denies, and denying wins.
fn listed(text: &str, patterns: &str) -> bool {
    let mut found = false;
    for pattern in patterns.split(',') {
        match pattern.strip_prefix('!') {
            Some(pattern) if matches(text.as_bytes(), pattern.as_bytes()) => return false,
            Some(_) => {}
            None => found |= matches(text.as_bytes(), pattern.as_bytes()),
        }
    }
    found
}

/// `*` for any run of bytes, `?` for one. Linear: only the last star is ever tried again.
fn matches(mut text: &[u8], mut pattern: &[u8]) -> bool {
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => return true,
            (Some((b'*', rest)), _) => {
                again = Some((rest, text));
                pattern = rest;
            }
            (Some((p, rest)), Some((t, tail))) if *p == b'?' || p == t => {
                (pattern, text) = (rest, tail);
            }
            _ => {
                let Some((rest, from)) = again else {
                    return false;
                };
                let Some((_, from)) = from.split_first() else {
                    return false;
                };
                again = Some((rest, from));
                (pattern, text) = (rest, from);
            }
        }
    }
}
