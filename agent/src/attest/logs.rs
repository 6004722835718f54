//! Which logs the collector has, so that none travels twice and of the kernel's list only what is
//! new.
//!
//! It is forgotten with the process: then everything travels whole once more.

use std::collections::VecDeque;

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::evidence::log_name;
use bailiwick_attestation::proto::v1::{Log, LogDigest};
use tracing::warn;

use crate::collect::{FENCE_LOG, LogFile};

/// Statements under way that bring logs.
const PENDING: usize = 64;

/// The log that grows while a kernel runs.
const LIST: &str = "ima";

/// Parts in which a list travels before it travels whole again: whoever needs it whole has to find
/// all of them.
const PARTS: u32 = 48;

/// A list that is too long to lie in the spool many times.
const LONG: usize = 6 << 20;

/// A log that was sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Sent {
    log: &'static str,
    /// What statements call it, with the parts before.
    name: Sha256Digest,
    /// SHA-256 of the whole of it, and its length.
    content: Sha256Digest,
    bytes: usize,
    /// Parts it came in, after the first.
    parts: u32,
}

/// What the collector has, and what is on its way.
#[derive(Debug, Default)]
pub(super) struct SentLogs {
    had: Vec<Sent>,
    /// They count once the statement beside them is accepted.
    pending: VecDeque<(Sha256Digest, Vec<Sent>)>,
}

impl SentLogs {
    /// As the next statement names them.
    pub(super) fn named(&self) -> Vec<LogDigest> {
        let digest = |sent: &Sent| LogDigest {
            name: sent.log.to_owned(),
            sha256: sent.name.as_bytes().to_vec(),
            bytes: u64::try_from(sent.bytes).unwrap_or(u64::MAX),
        };
        self.had.iter().map(digest).collect()
    }

    /// What the collector does not have yet: a list that has grown from where the one it has ends,
    /// anything else whole.
    pub(super) fn choose(&self, read: Vec<LogFile>) -> (Vec<Log>, Vec<Sent>) {
        let (mut logs, mut sent) = (Vec::new(), Vec::new());
        for file in read {
            let (content, digest) = match file.content {
                Ok(read) => read,
                Err(why) => {
                    warn!(log = file.name, source = %file.source.display(), why, "not sent");
                    continue;
                }
            };
            let mut log = Log {
                name: file.name.to_owned(),
                ..Log::default()
            };
            if file.name == FENCE_LOG {
                log.content = content;
                logs.push(log);
                continue;
            }
            let had = self.had.iter().find(|had| had.log == file.name);
            if had.is_some_and(|had| had.content == digest) {
                continue;
            }
            let bytes = content.len();
            let grown = had.and_then(|had| Some((had, had.grown(&content)?)));
            let parts = match grown {
                Some((had, new)) => {
                    log.follows = had.name.as_bytes().to_vec();
                    log.content = new.to_vec();
                    had.parts.saturating_add(1)
                }
                None => {
                    log.content = content;
                    0
                }
            };
            sent.push(Sent {
                log: file.name,
                name: log_name(&log),
                content: digest,
                bytes,
                parts,
            });
            logs.push(log);
        }
        (logs, sent)
    }

    /// They are on their way beside that statement.
    pub(super) fn sending(&mut self, statement: Sha256Digest, sent: Vec<Sent>) {
        if sent.is_empty() {
            return;
        }
        if self.pending.len() >= PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back((statement, sent));
    }

    /// The collector has the statement on disk, and the logs beside it.
    pub(super) fn accepted(&mut self, statement: &Sha256Digest) {
        let position = self.pending.iter().position(|(of, _)| of == statement);
        let Some((_, sent)) = position.and_then(|position| self.pending.remove(position)) else {
            return;
        };
        for log in sent {
            self.had.retain(|had| had.log != log.log);
            self.had.push(log);
        }
    }

    /// The collector does not have them after all: they travel whole.
    pub(super) fn again(&mut self, names: &[String]) {
        let named = |log: &str| names.iter().any(|name| name == log);
        self.had.retain(|had| !named(had.log));
        for (_, sent) in &mut self.pending {
            sent.retain(|one| !named(one.log));
        }
    }
}

/// Leaves a long list out of a statement that nobody hears now. Each would bring it again until one is
/// accepted, and what is made out of reach earns nothing that the list is asked for: the spool holds
/// statements of hours instead.
pub(super) fn out_of_reach(logs: &mut Vec<Log>, sent: &mut Vec<Sent>) {
    let long = |log: &Log| log.name == LIST && log.content.len() > LONG;
    if logs.iter().any(long) {
        logs.retain(|log| !long(log));
        sent.retain(|sent| sent.log != LIST);
    }
}

impl Sent {
    /// What stands behind it in a list that begins with it.
    fn grown<'c>(&self, content: &'c [u8]) -> Option<&'c [u8]> {
        if self.log != LIST || self.parts >= PARTS {
            return None;
        }
        let (before, new) = content.split_at_checked(self.bytes)?;
        (Sha256Digest::of(&[before]) == self.content).then_some(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &'static str, content: &[u8]) -> LogFile {
        LogFile {
            name,
            source: "sys".into(),
            content: Ok((content.to_vec(), Sha256Digest::of(&[content]))),
        }
    }

    /// Sends it beside a statement; what travelled, and whether as a part.
    fn send(
        logs: &mut SentLogs,
        number: u8,
        name: &'static str,
        content: &[u8],
    ) -> Vec<(Vec<u8>, bool)> {
        let (chosen, sent) = logs.choose(vec![file(name, content)]);
        logs.sending(Sha256Digest([number; 32]), sent);
        assert!(chosen.iter().all(|log| log.name == name));
        let chosen = chosen.into_iter();
        chosen
            .map(|log| (log.content, !log.follows.is_empty()))
            .collect()
    }

    fn whole(content: &[u8]) -> Vec<(Vec<u8>, bool)> {
        vec![(content.to_vec(), false)]
    }

    fn part(content: &[u8]) -> Vec<(Vec<u8>, bool)> {
        vec![(content.to_vec(), true)]
    }

    #[test]
    fn of_a_list_only_what_is_new_travels_once_the_rest_was_accepted() {
        let mut logs = SentLogs::default();
        let at = |number| Sha256Digest([number; 32]);
        assert_eq!(send(&mut logs, 1, "ima", b"one"), whole(b"one"));
        // Nobody said yet that it arrived.
        assert_eq!(send(&mut logs, 2, "ima", b"one two"), whole(b"one two"));
        logs.accepted(&at(1));
        assert_eq!(send(&mut logs, 3, "ima", b"one"), []);
        assert_eq!(send(&mut logs, 4, "ima", b"one two"), part(b" two"));
        // Another statement's answer says nothing of it.
        logs.accepted(&at(3));
        assert_eq!(send(&mut logs, 5, "ima", b"one two"), part(b" two"));
        logs.accepted(&at(5));
        assert_eq!(send(&mut logs, 6, "ima", b"one two"), []);
        let named = logs.named();
        assert_eq!((named.len(), named[0].bytes), (1, 7));
        assert_eq!(send(&mut logs, 7, "ima", b"one two 3"), part(b" 3"));

        // Shorter, or another beginning: it is not the list the collector has.
        assert_eq!(send(&mut logs, 8, "ima", b"one tw"), whole(b"one tw"));
        assert_eq!(send(&mut logs, 9, "ima", b"One two 3"), whole(b"One two 3"));
        // Asked for, it travels whole, and what was on its way counts no more.
        logs.again(&["boot".to_owned(), "ima".to_owned()]);
        logs.accepted(&at(7));
        assert_eq!(logs.named(), []);
        assert_eq!(
            send(&mut logs, 10, "ima", b"one two 3"),
            whole(b"one two 3")
        );
    }

    #[test]
    fn a_name_stands_for_all_parts() {
        let mut logs = SentLogs::default();
        let mut names = Vec::new();
        for (number, content) in [(1, &b"one"[..]), (2, b"one two"), (3, b"one two 3")] {
            send(&mut logs, number, "ima", content);
            logs.accepted(&Sha256Digest([number; 32]));
            names.push(logs.named()[0].sha256.clone());
        }
        let log = |content: &[u8], follows: &[u8]| Log {
            name: "ima".to_owned(),
            content: content.to_vec(),
            follows: follows.to_vec(),
        };
        let name = |log: &Log| log_name(log).as_bytes().to_vec();
        assert_eq!(names[0], name(&log(b"one", &[])));
        assert_eq!(names[1], name(&log(b" two", &names[0])));
        assert_eq!(names[2], name(&log(b" 3", &names[1])));
    }

    #[test]
    fn a_list_of_many_parts_travels_whole_again_and_other_logs_always() {
        let mut logs = SentLogs::default();
        let mut list = b"one".to_vec();
        let mut travelled = Vec::new();
        for number in 0..u8::try_from(PARTS).unwrap() + 3 {
            let sent = send(&mut logs, number, "ima", &list);
            travelled.push(sent[0].1);
            logs.accepted(&Sha256Digest([number; 32]));
            list.push(number);
        }
        let parts = usize::try_from(PARTS).unwrap();
        assert!(!travelled[0] && travelled[1..=parts].iter().all(|part| *part));
        assert_eq!(travelled[parts + 1..], [false, true]);

        let mut logs = SentLogs::default();
        send(&mut logs, 1, "boot", b"one");
        logs.accepted(&Sha256Digest([1; 32]));
        assert_eq!(send(&mut logs, 2, "boot", b"one two"), whole(b"one two"));
    }

    #[test]
    fn out_of_reach_a_long_list_waits_for_somebody_to_hear_it() {
        for (bytes, travels) in [(LONG, true), (LONG + 1, false)] {
            let mut logs = SentLogs::default();
            let list = vec![7; bytes];
            let (mut chosen, mut sent) =
                logs.choose(vec![file("boot", b"one"), file("ima", &list)]);
            out_of_reach(&mut chosen, &mut sent);
            let names = |log: &Log| log.name.clone();
            let want: &[&str] = if travels { &["boot", "ima"] } else { &["boot"] };
            assert_eq!(chosen.iter().map(names).collect::<Vec<_>>(), want);
            // What did not travel is not had once the statement is accepted.
            logs.sending(Sha256Digest([1; 32]), sent);
            logs.accepted(&Sha256Digest([1; 32]));
            assert_eq!(logs.named().len(), want.len());
        }
    }

    #[test]
    fn what_is_asked_for_again_is_that_log_and_no_other() {
        let mut logs = SentLogs::default();
        for (number, name) in [(1, "ima"), (2, "boot")] {
            send(&mut logs, number, name, b"one");
            logs.accepted(&Sha256Digest([number; 32]));
        }
        send(&mut logs, 3, "boot", b"two");
        logs.again(&["ima".to_owned()]);
        assert_eq!(send(&mut logs, 4, "boot", b"one"), []);
        assert_eq!(send(&mut logs, 5, "ima", b"one"), whole(b"one"));
        // What is on its way, and was not asked for, counts once it is there.
        logs.accepted(&Sha256Digest([3; 32]));
        assert_eq!(send(&mut logs, 6, "boot", b"two"), []);
    }
}
