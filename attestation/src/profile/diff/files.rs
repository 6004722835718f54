//! Which files two profiles know.

use std::collections::BTreeMap;

use super::{Diff, Way};
use crate::ima::{KnownDigest, KnownFile};
use crate::profile::FilesProfile;
use crate::term::Term;

/// Files that are named one by one; of more only their number is told.
const NAMED: usize = 8;

impl Diff {
    pub(super) fn files(&mut self, first: Option<&FilesProfile>, second: Option<&FilesProfile>) {
        let (before, after) = match (first, second) {
            (None, None) => return,
            (None, Some(_)) => {
                let text = "files that are neither listed nor signed by a listed key";
                return self.say(Way::Refuses, "ima.files", text);
            }
            (Some(_), None) => return self.say(Way::Allows, "ima.files", "any file at all"),
            (Some(before), Some(after)) => (before, after),
        };
        match (before.refuse_unknown, after.refuse_unknown) {
            (true, false) => self.say(Way::Allows, "ima.unknown", "unknown files, with a warning"),
            (false, true) => self.say(Way::Refuses, "ima.unknown", "unknown files"),
            _ => {}
        }
        let (old, new) = (&before.known, &after.known);
        let only = |these: &BTreeMap<KnownDigest, Vec<KnownFile>>, those: &BTreeMap<_, _>| {
            let these = these
                .iter()
                .filter(|(digest, _)| !those.contains_key(*digest));
            let names = these.map(|(digest, files)| told(digest, files));
            names.collect::<Vec<_>>()
        };
        self.listed(Way::Allows, "", &only(&new.files, &old.files));
        self.listed(Way::Refuses, "", &only(&old.files, &new.files));
        let (mut revoked, mut other) = (Vec::new(), Vec::new());
        let of = |files: &[KnownFile]| files.iter().map(|file| file.term).collect::<Vec<Term>>();
        for (digest, files) in &new.files {
            let Some(was) = old.files.get(digest).filter(|was| of(was) != of(files)) else {
                continue;
            };
            let taken = |files: &[KnownFile]| files.iter().any(|file| file.term.revoked.is_some());
            match taken(files) && !taken(was) {
                true => revoked.push(told(digest, files)),
                false => other.push(told(digest, files)),
            }
        }
        self.listed(Way::Refuses, "revoked: ", &revoked);
        self.listed(Way::Differs, "other times: ", &other);
        for key in new.keys.iter().filter(|key| !old.keys.contains(key)) {
            let text = format!("files signed by {}, key {}", key.name, key.id);
            self.say(Way::Allows, "ima.key", text);
        }
        for key in old.keys.iter().filter(|key| !new.keys.contains(key)) {
            let text = format!("files signed by {}, key {}, as they were", key.name, key.id);
            self.say(Way::Refuses, "ima.key", text);
        }
        for owner in new.unjudged_owners.difference(&old.unjudged_owners) {
            let text = format!("any file of user {owner}, where its owner is measured");
            self.say(Way::Allows, "ima.unjudged_owners", text);
        }
        for owner in old.unjudged_owners.difference(&new.unjudged_owners) {
            let text = format!("unknown files of user {owner}");
            self.say(Way::Refuses, "ima.unjudged_owners", text);
        }
    }

    fn listed(&mut self, way: Way, what: &str, names: &[String]) {
        for name in names.iter().take(NAMED) {
            self.say(way, "ima.file", format!("{what}{name}"));
        }
        if let Some(more @ 1..) = names.len().checked_sub(NAMED) {
            self.say(way, "ima.file", format!("{what}{more} more files"));
        }
    }
}

fn told(digest: &KnownDigest, files: &[KnownFile]) -> String {
    let name = files.first().map_or("", |file| &*file.name);
    format!("{name}, {digest}")
}

#[cfg(test)]
mod tests {
    use crate::profile::{Profile, diff};

    fn told(first: &str, second: &str) -> Vec<String> {
        let [first, second] = [first, second].map(|ima| {
            let text = format!(
                "name = \"r\"\nlease_seconds = 300\nmax_silence_seconds = 180\n[tpm]\n\
                 bank = \"sha256\"\nrequire = [10]\n[ima]\n{ima}"
            );
            Profile::parse("profile.toml", text.as_bytes()).unwrap()
        });
        let all = diff(&first, &second).into_iter();
        all.map(|one| format!("{} {}: {}", one.way.as_str(), one.topic, one.text))
            .collect()
    }

    #[test]
    fn files_are_told_by_name_and_many_by_number() {
        let (a, b) = ("aa".repeat(32), "bb".repeat(32));
        let files = |lines: &[String]| format!("files = '''\n{}\n'''\n", lines.join("\n"));
        let one = |digest: &str| format!("{digest} /bin/{}", &digest[..2]);
        let dated = |rest: &str| format!("[[ima.file]]\ndigest = \"{a}\"\nname = \"a\"\n{rest}\n");
        let only = files(&[one(&a)]);
        let rows: &[(&str, String, String, &[&str])] = &[
            ("the same", only.clone(), only.clone(), &[]),
            (
                "judged at all",
                String::new(),
                only.clone(),
                &["refuses ima.files: files that"],
            ),
            (
                "no more",
                only.clone(),
                String::new(),
                &["allows ima.files: any file at all"],
            ),
            (
                "one more",
                only.clone(),
                files(&[one(&a), one(&b)]),
                &["allows ima.file: /bin/bb, sha256:bb"],
            ),
            (
                "another",
                only.clone(),
                files(&[one(&b)]),
                &["allows ima.file: /bin/bb", "refuses ima.file: /bin/aa"],
            ),
            (
                "told",
                only.clone(),
                format!("unknown = \"warn\"\n{only}"),
                &["allows ima.unknown"],
            ),
            (
                "refused",
                format!("unknown = \"warn\"\n{only}"),
                only.clone(),
                &["refuses ima.unknown"],
            ),
            (
                "taken back",
                dated(""),
                dated("revoked = \"2027-01-01T00:00:00Z\""),
                &["refuses ima.file: revoked: a,"],
            ),
            (
                "ended",
                dated(""),
                dated("not_after = \"2027-01-01T00:00:00Z\""),
                &["differs ima.file: other times: a,"],
            ),
            (
                "a user's",
                only.clone(),
                format!("unjudged_owners = [7]\n{only}"),
                &["allows ima.unjudged_owners: any file of user 7"],
            ),
            (
                "not a user's",
                format!("unjudged_owners = [7]\n{only}"),
                only.clone(),
                &["refuses ima.unjudged_owners"],
            ),
        ];
        for (name, first, second, want) in rows {
            let found = told(first, second);
            assert_eq!(found.len(), want.len(), "{name}: {found:?}");
            for (found, want) in found.iter().zip(*want) {
                assert!(found.starts_with(want), "{name}: {found}");
            }
        }
        let many: Vec<String> = (0..20)
            .map(|n| format!("{} f", hex::encode([n; 32])))
            .collect();
        let found = told(&only, &files(&[&[one(&a)], &many[..]].concat()));
        assert_eq!(found.len(), 9);
        assert!(
            found.contains(&"allows ima.file: 12 more files".to_owned()),
            "{found:?}"
        );
    }
}
