//! The Debian mirrors that this machine already trusts, asked by an apt of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cmd;

/// A mirror and the keyring its signatures are checked with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mirror {
    uri: String,
    keyring: Option<String>,
}

impl Mirror {
    /// What apt is told of one suite of it.
    pub(crate) fn source(&self, suite: &str) -> String {
        let default = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let keyring = self.keyring.as_deref().unwrap_or(default);
        format!("deb [signed-by={keyring}] {} {suite} main\n", self.uri)
    }
}

/// The first of them.
pub(crate) fn debian_mirror() -> Result<String> {
    let first = mirrors().into_iter().next();
    Ok(first
        .context("no Debian mirror stands in this machine's apt sources")?
        .uri)
}

/// The Debian mirrors this machine already trusts, in either of apt's two notations.
pub(crate) fn mirrors() -> Vec<Mirror> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.flatten().map(|entry| entry.path()));
    }
    let mut found = Vec::new();
    for text in files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
    {
        found.extend(mirrors_in(&text));
    }
    found.dedup();
    found
}

fn mirrors_in(text: &str) -> Vec<Mirror> {
    let mut found = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
        };
        if let Some(uris) = field("URIs:") {
            found.extend(uris.split_whitespace().map(|uri| Mirror {
                uri: uri.to_owned(),
                keyring: field("Signed-By:").filter(|path| path.starts_with('/')),
            }));
        }
        for line in stanza.lines().filter_map(|line| line.strip_prefix("deb ")) {
            let (options, rest) = match line
                .trim_start()
                .strip_prefix('[')
                .and_then(|l| l.split_once(']'))
            {
                Some((options, rest)) => (options, rest),
                None => ("", line),
            };
            let keyring = options
                .split_whitespace()
                .find_map(|o| o.strip_prefix("signed-by="));
            found.extend(rest.split_whitespace().next().map(|uri| Mirror {
                uri: uri.to_owned(),
                keyring: keyring.map(str::to_owned),
            }));
        }
    }
    // The security archive and third parties have no backports.
    found.retain(|mirror| mirror.uri.trim_end_matches('/').ends_with("/debian"));
    found
}

/// apt with a configuration, lists and cache of its own: the machine's stay as they are.
pub(crate) fn apt(home: &Path, program: &str) -> Command {
    let mut apt = cmd::command(program);
    let place = |key: &str, value: &Path| format!("{key}={}", value.display());
    for option in [
        place("Dir::Etc::SourceList", &home.join("sources.list")),
        place("Dir::Etc::SourceParts", Path::new("/dev/null")),
        place("Dir::State::Lists", &home.join("lists")),
        place("Dir::State::Status", Path::new("/dev/null")),
        place("Dir::Cache", &home.join("cache")),
    ] {
        apt.args(["-o", &option]);
    }
    apt.env("LC_ALL", "C");
    apt
}

#[cfg(test)]
mod tests {
    use super::{Mirror, mirrors_in};

    #[test]
    fn mirrors_are_read_from_both_notations() {
        let own = |keyring: Option<&str>| Mirror {
            uri: "http://mirror.example/debian".into(),
            keyring: keyring.map(Into::into),
        };
        let cases = [
            (
                "deb822",
                "Types: deb\nURIs: http://mirror.example/debian\nSigned-By: /k.gpg\n",
                vec![own(Some("/k.gpg"))],
            ),
            (
                "one line",
                "deb http://mirror.example/debian bookworm main\n",
                vec![own(None)],
            ),
            (
                "one line with options",
                "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main\n",
                vec![own(Some("/k.gpg"))],
            ),
            (
                "source packages",
                "deb-src http://mirror.example/debian bookworm main\n",
                vec![],
            ),
            (
                "commented out",
                "# deb http://mirror.example/debian bookworm main\n",
                vec![],
            ),
            (
                "security archive",
                "deb http://mirror.example/debian-security x main\n",
                vec![],
            ),
        ];
        for (name, text, want) in cases {
            assert_eq!(mirrors_in(text), want, "{name}");
        }
    }
}
