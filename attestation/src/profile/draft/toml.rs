//! The draft as TOML, with what a person has to know beside it.

use std::fmt::Write as _;

use super::{Draft, IMA_PCR, Why};
use crate::profile::{Provenance, Value, moment};

/// Lines that tell what was left out; a node can make some thousand claims.
const LEFT_OUT: usize = 200;
/// Most characters of a file's name.
const FILE_NAME: usize = 120;
/// Most characters of a node's own words in a comment.
const WORDS: usize = 80;

impl Why {
    fn words(&self, boots: usize) -> String {
        match self {
            Self::Varies(values) => format!("{values} values in {boots} boots"),
            Self::NotAlways(seen) => format!("shown in {seen} of {boots} boots"),
            Self::OfOneMachine => "tells one machine from another".to_owned(),
            Self::Count => "a count".to_owned(),
            Self::TooLong(bytes) => format!("{bytes} bytes, more than a profile holds"),
            Self::NotStack => "no part of the stack".to_owned(),
        }
    }
}

impl Draft {
    /// A profile that reads back as it was drafted. Whatever a node says of itself stands in it as a
    /// TOML string, or escaped in a comment: it adds no line.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        self.head(&mut out);
        self.tpm(&mut out);
        self.log_tables(&mut out);
        self.terms(&mut out);
        for demand in &self.demands {
            let value = value(&demand.value);
            let (claim, provenance) = (&demand.claim, demand.provenance);
            let word = match provenance {
                Provenance::SelfReported => "# The kernel's word, or root's.\n",
                _ => "",
            };
            let lines = format!(
                "\n{word}[[require]]\nclaim = \"{claim}\"\nis = {value}\nprovenance = \"{provenance}\"\n"
            );
            out.push_str(&lines);
        }
        self.rest(&mut out);
        out
    }

    fn head(&self, out: &mut String) {
        let boots = self.seen.len();
        let mut head = format!("# Drafted from {boots} {}:\n", plural(boots, "boot"));
        for (node, at) in &self.seen {
            let line = format!("#   {}, {}\n", plain(node), moment(*at));
            head.push_str(&line);
        }
        head.push_str("# It says what was, not what is right: read it before you sign it.\n");
        for note in &self.notes {
            let line = format!("# NOTE: {}\n", plain(note));
            head.push_str(&line);
        }
        let terms = &self.terms;
        let lines = format!(
            "\nname = {}\nlease_seconds = {}\nmax_silence_seconds = {}\n",
            value(&Value::Text(self.name.clone())),
            terms.lease_seconds,
            terms.max_silence_seconds
        );
        out.push_str(&head);
        out.push_str(&lines);
    }

    fn tpm(&self, out: &mut String) {
        let list: Vec<String> = self.require.iter().map(u8::to_string).collect();
        let mut text = format!(
            "\n[tpm]\nbank = \"{}\"\nrequire = [{}]\n",
            self.terms.tpm.bank,
            list.join(", ")
        );
        if !self.values.is_empty() {
            text.push_str("\n[tpm.values]\n");
        }
        for (index, value) in &self.values {
            let line = format!("\"{index}\" = [\"{value}\"]\n");
            text.push_str(&line);
        }
        if self.require.is_empty() {
            text.push_str("\n[cvm]\n");
        }
        out.push_str(&text);
    }

    fn log_tables(&self, out: &mut String) {
        if let Some((quirks, unreplayable)) = &self.boot {
            out.push_str("\n[boot]\n");
            let quirks: Vec<String> = quirks
                .iter()
                .map(|one| format!("\"{}\"", one.name()))
                .collect();
            let registers: Vec<String> = unreplayable.iter().map(u8::to_string).collect();
            for (key, list) in [("quirks", quirks), ("unreplayable", registers)] {
                if !list.is_empty() {
                    let line = format!("{key} = [{}]\n", list.join(", "));
                    out.push_str(&line);
                }
            }
        }
        if let Some(most) = self.violations.filter(|_| self.require.contains(&IMA_PCR)) {
            let lines = format!("\n[ima]\nmax_violations = {most}\n");
            out.push_str(&lines);
            if !self.files.is_empty() {
                out.push_str("files = \"\"\"\n");
                for (digest, name) in &self.files {
                    let line = format!("{digest} {}\n", file_name(name));
                    out.push_str(&line);
                }
                out.push_str("\"\"\"\n");
            }
        }
        if let Some(pcr) = self.fence {
            let lines = format!("\n[fence]\npcr = {pcr}\n");
            out.push_str(&lines);
        }
    }

    /// What no evidence shows, as the profile in force has it.
    fn terms(&self, out: &mut String) {
        let (time, world, brake) = (self.terms.time, self.terms.world, self.terms.brake);
        let mut lines = format!(
            "\n[time]\nwarn_skew_seconds = {}\nmax_skew_seconds = {}\n\n[brake]\nshare_percent = {}\n\
             window_seconds = {}\nmin_nodes = {}\n",
            time.warn_skew_seconds,
            time.max_skew_seconds,
            brake.share_percent,
            brake.window_seconds,
            brake.min_nodes
        );
        if world.digest.is_some() || world.max_age_days.is_some() {
            lines.push_str("\n[world]\n");
        }
        if let Some(digest) = world.digest {
            let line = format!("sha256 = \"{digest}\"\n");
            lines.push_str(&line);
        }
        if let Some(days) = world.max_age_days {
            let line = format!("max_age_days = {days}\n");
            lines.push_str(&line);
        }
        out.push_str(&lines);
    }

    fn rest(&self, out: &mut String) {
        if self.left_out.is_empty() {
            return;
        }
        let mut text = "\n# Left out:\n".to_owned();
        for (name, why) in self.left_out.iter().take(LEFT_OUT) {
            let line = format!("#   {}: {}\n", plain(name), why.words(self.seen.len()));
            text.push_str(&line);
        }
        if let Some(more) = self
            .left_out
            .len()
            .checked_sub(LEFT_OUT)
            .filter(|more| *more > 0)
        {
            let line = format!("#   and {more} more\n");
            text.push_str(&line);
        }
        out.push_str(&text);
    }
}

fn plural(count: usize, word: &str) -> String {
    match count {
        1 => word.to_owned(),
        _ => format!("{word}s"),
    }
}

/// A comment's own line, whatever is in it.
fn plain(text: &str) -> String {
    let long = text.chars().count() > WORDS * 10;
    let text: String = text.chars().take(WORDS * 10).collect();
    let mut text: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if long {
        text.push('…');
    }
    text
}

/// A name within a basic string of several lines, on its own line: what is no plain character of a
/// path is a question mark, and its end tells most.
fn file_name(name: &str) -> String {
    let cut = name.chars().count().saturating_sub(FILE_NAME);
    let name = name.chars().skip(cut);
    let name: String = name
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || "/._-+@:,=~%".contains(c) => c,
            _ => '?',
        })
        .collect();
    match name.is_empty() {
        true => "?".to_owned(),
        false => name,
    }
}

/// A TOML value: a basic string with everything escaped that must be.
fn value(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::Text(text) => {
            let mut out = String::from("\"");
            for c in text.chars() {
                match c {
                    '"' | '\\' => out.extend(['\\', c]),
                    c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
                    c => out.push(c),
                }
            }
            out.push('"');
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{WORDS, plain};

    #[test]
    fn a_comment_stays_on_its_line_and_says_when_it_is_cut() {
        let long = "é".repeat(WORDS * 10);
        let rows = [
            ("as it is", "a word", "a word".to_owned()),
            ("an end of line", "a\nb\u{7f}c", "a b c".to_owned()),
            ("as long as may be", long.as_str(), long.clone()),
            ("longer", &format!("{long}é"), format!("{long}…")),
        ];
        for (name, text, want) in rows {
            assert_eq!(plain(text), want, "{name}");
        }
    }
}
