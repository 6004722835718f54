//! Logs that travel once, and lists of which only what is new travels: the same is concluded as of
//! the whole, or nothing.

use std::sync::Arc;

use super::booted::{Booted, entry, extend, found, ima_pcr, list, log, want};
use super::*;
use crate::evidence::log_name;

/// A node whose list grows, and what is known of it.
struct Growing {
    node: Booted,
    /// Logs as the envelopes brought them, oldest first.
    sent: Vec<v1::Log>,
    read: Arc<LogsRead>,
}

fn named(name: &str, content: Vec<u8>, follows: &[u8]) -> v1::Log {
    v1::Log {
        name: name.to_owned(),
        content,
        follows: follows.to_vec(),
    }
}

/// Claims and codes.
type Codes<'a> = &'a [(&'a str, &'a str)];

/// What a boundary of time is for, too.
const LIMIT: &str = "2027-01-15T09:00:00Z";

impl Growing {
    /// The first statement brings its logs whole.
    fn new() -> Self {
        let mut node = Booted::new();
        let file = |name: &str, byte: u8, rest: &str| {
            let digest = hex::encode([byte; 32]);
            format!("[[ima.file]]\ndigest = \"{digest}\"\nname = \"{name}\"\n{rest}\n")
        };
        let files = [
            "any_violations = true\nunknown = \"warn\"\n".to_owned(),
            file("agent", 2, ""),
            file("tool", 3, &format!("not_after = \"{LIMIT}\"")),
        ];
        let ima = format!("[ima]\n{}\n", files.concat());
        node.case.profile = node.case.profile.replace("[ima]\n", &ima);
        let revoked = hex::encode([5; 32]);
        node.case.profile.push_str(&format!(
            "[[revoked]]\ndigest = \"{revoked}\"\nreason = \"CVE-1\"\n"
        ));
        let sent = vec![
            named("boot", log(&node.events), &[]),
            named("ima", list(&node.entries), &[]),
        ];
        node.case.logs.clone_from(&sent);
        let mut verified = node.case.verify().unwrap();
        let profile = Profile::parse("profile.toml", node.case.profile.as_bytes()).unwrap();
        assert!(verified.read_logs(&profile, NOW, None));
        let read = verified.logs_read().unwrap();
        let mut growing = Self { node, sent, read };
        growing.name();
        growing
    }

    fn profile(&self) -> Profile {
        Profile::parse("profile.toml", self.node.case.profile.as_bytes()).unwrap()
    }

    /// The next statement names what was sent, and brings nothing.
    fn name(&mut self) {
        let last = |name: &str| self.sent.iter().rev().find(|log| log.name == name).unwrap();
        let digest = |log: &v1::Log| v1::LogDigest {
            name: log.name.clone(),
            sha256: log_name(log).0.to_vec(),
            bytes: 0,
        };
        self.node.case.statement.logs = vec![digest(last("boot")), digest(last("ima"))];
        self.node.case.logs.clear();
    }

    /// Brings what the list holds after so many entries.
    fn bring(&mut self, from: usize) {
        let last = self.sent.iter().rev().find(|log| log.name == "ima");
        let follows = log_name(last.unwrap());
        let content = list(&self.node.entries[from..]);
        self.node.case.logs = vec![named("ima", content, follows.as_bytes())];
    }

    /// Reads on from what is known.
    fn read_on(&self) -> (VerifiedEvidence, bool) {
        let mut verified = self.node.case.verify().unwrap();
        let on = verified.read_logs(&self.profile(), self.node.case.now, Some(&self.read));
        assert_eq!(verified.logs_read().is_some(), on);
        (verified, on)
    }

    /// The same from logs that were kept.
    fn whole(&self) -> VerifiedEvidence {
        let mut verified = self.node.case.verify().unwrap();
        verified.keep_all(&self.sent);
        assert_eq!(verified.lacks(), []);
        verified
    }

    /// The statement is accepted: what it brought is known.
    fn accept(&mut self, verified: &mut VerifiedEvidence) {
        self.sent.append(&mut self.node.case.logs);
        self.read = verified.logs_read().unwrap();
        self.name();
    }

    /// Adds an entry and extends the register by it.
    fn measure(&mut self, data: Vec<u8>, violation: bool) {
        self.node.entries.push((data, violation));
        self.node.case.tpm.pcrs[10] = ima_pcr(&self.node.entries);
    }
}

/// Numbers that are the same in every run (xorshift, Marsaglia).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn a_list_read_in_parts_is_the_list_read_whole() {
    for seed in 1..24 {
        let mut numbers = Numbers(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut growing = Growing::new();
        let mut sent = growing.node.entries.len();
        for step in 0..8 {
            // Some are known, some are not, some were taken back, some changed meanwhile, and more
            // of them are unknown than are told one by one.
            for _ in 0..numbers.below(7) {
                let byte = u8::try_from(numbers.below(12)).unwrap();
                let name = format!("/usr/bin/{step}-{byte}");
                growing.measure(entry(&name, byte), numbers.below(8) == 0);
            }
            // The list may run ahead of the quote.
            let quoted = growing.node.case.tpm.pcrs[10];
            for number in 0..numbers.below(3) {
                growing.measure(entry(&format!("/tmp/{number}"), 9), false);
            }
            growing.node.case.tpm.pcrs[10] = quoted;
            if sent < growing.node.entries.len() {
                growing.bring(sent);
                sent = growing.node.entries.len();
            }
            let (mut verified, on) = growing.read_on();
            assert!(on, "{seed} {step}");
            let whole = growing.whole();
            let (result, want) = (
                growing.node.case.appraise_verified(&verified),
                growing.node.case.appraise_verified(&whole),
            );
            assert_eq!(result, want, "{seed} {step}");
            assert!(result.submods["tpm"].claims.contains_key("ima.unknown"));
            growing.accept(&mut verified);
            growing.node.case.tpm.pcrs[10] = ima_pcr(&growing.node.entries);
        }
    }
}

#[test]
fn what_is_not_as_it_was_is_not_read_on() {
    type Spoil = fn(&mut Growing);
    let rows: &[(&str, bool, Spoil)] = &[
        ("the same", true, |_| {}),
        ("nothing new", true, |g| {
            g.node.case.logs.clear();
            g.node.entries.truncate(3);
            g.node.case.tpm.pcrs[10] = ima_pcr(&g.node.entries);
        }),
        ("another list is named, and nothing came", false, |g| {
            g.node.case.logs.clear();
            g.node.case.statement.logs[1].sha256 = vec![8; 32];
            g.node.entries.truncate(3);
            g.node.case.tpm.pcrs[10] = ima_pcr(&g.node.entries);
        }),
        ("the boot log again", true, |g| {
            g.node.case.logs.push(g.sent[0].clone());
        }),
        ("an earlier part of time", true, |g| g.node.case.now.0 -= 1),
        ("another boot, by the TPM", false, |g| {
            g.node.case.tpm.clock.reset_count += 1;
        }),
        ("another boot, by the kernel", false, |g| {
            g.node.case.statement.boot_id = vec![2; 16];
        }),
        ("another epoch", false, |g| {
            g.node.case.statement.epoch += 1;
        }),
        ("another TPM", false, |g| {
            let pcrs = g.node.case.tpm.pcrs.clone();
            g.node.case.tpm = SoftTpm::new();
            g.node.case.tpm.pcrs = pcrs;
        }),
        ("another profile", false, |g| {
            g.node.case.profile.push_str("# another\n");
        }),
        ("a file that has ended", false, |g| {
            g.node.case.now = UnixTime(NOW.0 + 3_600_000);
        }),
        ("another register", false, |g| {
            extend(&mut g.node.case.tpm.pcrs[4], &[1; 32]);
        }),
        ("another boot log", false, |g| {
            g.node.case.logs.push(named("boot", b"other".to_vec(), &[]));
        }),
        ("no boot log", false, |g| {
            g.node.case.statement.logs.remove(0);
        }),
        ("what systemd measured", false, |g| {
            let log = named("userspace", b"{}".to_vec(), &[]);
            g.node.case.logs.push(log);
        }),
        ("an entry dropped between the parts", false, |g| g.bring(4)),
        ("an entry that was there already", false, |g| g.bring(2)),
        ("an entry changed", false, |g| {
            g.node.entries[4].0 = entry("/usr/bin/5", 9);
            g.bring(3);
        }),
        ("a part without its last entry", false, |g| {
            g.node.entries.pop();
            g.bring(3);
        }),
        ("a byte short", false, |g| {
            g.node.case.logs[0].content.pop();
        }),
        ("from where nobody was", false, |g| {
            g.node.case.logs[0].follows = vec![8; 32];
        }),
        ("the list whole", false, |g| {
            g.node.case.logs = vec![named("ima", list(&g.node.entries), &[])];
        }),
        ("no list", false, |g| g.node.case.logs.clear()),
    ];
    for (name, want, spoil) in rows {
        let mut growing = Growing::new();
        for number in 4..7 {
            growing.measure(entry(&format!("/usr/bin/{number}"), number), false);
        }
        growing.bring(3);
        spoil(&mut growing);
        assert_eq!(growing.read_on().1, *want, "{name}");
    }
}

#[test]
fn a_part_that_does_not_follow_is_refused_by_the_whole_list() {
    type Row<'a> = (&'a str, fn(&mut Growing), Codes<'a>);
    let lost: Codes<'_> = &[("ima.list", "ima-replay")];
    let rows: &[Row<'_>] = &[
        ("as it was", |_| {}, &[]),
        ("an entry dropped between the parts", |g| g.bring(4), lost),
        ("an entry that was there already", |g| g.bring(2), lost),
        (
            "a byte short",
            |g| {
                g.node.case.logs[0].content.pop();
            },
            &[("ima.list", "ima-list-malformed")],
        ),
        (
            "from where nobody was",
            |g| g.node.case.logs[0].follows = vec![8; 32],
            &[("ima.list", "ima-list-missing")],
        ),
        (
            "after the list of another boot",
            |g| {
                let other = named("ima", list(&g.node.entries[..1]), &[]);
                g.node.case.logs[0].follows = log_name(&other).0.to_vec();
                g.sent.push(other);
            },
            lost,
        ),
        (
            "an earlier entry was written anew where it is kept",
            |g| g.sent[1].content[40] ^= 1,
            &[("ima.list", "ima-list-missing")],
        ),
    ];
    for (name, spoil, want_codes) in rows {
        let mut growing = Growing::new();
        growing.node.case.profile = growing
            .node
            .case
            .profile
            .replace("unknown = \"warn\"\n", "");
        for number in 2..4 {
            growing.measure(entry(&format!("/usr/bin/{number}"), number), false);
        }
        growing.bring(3);
        spoil(&mut growing);
        let mut verified = growing.node.case.verify().unwrap();
        verified.keep_all(&growing.sent);
        let result = growing.node.case.appraise_verified(&verified);
        assert_eq!(found(&result), want(want_codes), "{name}");
    }
}

#[test]
fn what_changed_in_the_profile_is_judged_of_every_entry_there_ever_was() {
    let mut growing = Growing::new();
    growing.measure(entry("/usr/bin/more", 2), false);
    growing.bring(3);
    let (verified, on) = growing.read_on();
    assert!(on);
    assert_eq!(found(&growing.node.case.appraise_verified(&verified)), []);
    // The tool stands in the part that came first.
    let tool = hex::encode([3; 32]);
    let revoked = format!("[[revoked]]\ndigest = \"{tool}\"\nreason = \"CVE-2\"\n");
    growing.node.case.profile.push_str(&revoked);
    let (_, on) = growing.read_on();
    assert!(!on);
    let result = growing.node.case.appraise_verified(&growing.whole());
    assert_eq!(found(&result), want(&[("ima.file", "revoked")]));
    // What was read under the old profile does not answer under the new one.
    let result = growing.node.case.appraise_verified(&verified);
    assert_eq!(
        found(&result),
        want(&[
            ("boot.log", "boot-log-missing"),
            ("ima.list", "ima-list-missing"),
        ])
    );
}

#[test]
fn a_part_says_what_it_goes_on_from_and_other_logs_have_none() {
    let rows: &[(&str, v1::Log, bool)] = &[
        ("a part", named("ima", b"x".to_vec(), &[1; 32]), true),
        ("short", named("ima", b"x".to_vec(), &[1; 31]), false),
        ("long", named("ima", b"x".to_vec(), &[1; 33]), false),
        ("boot", named("boot", b"x".to_vec(), &[1; 32]), false),
        ("fence", named("fence", b"x".to_vec(), &[1; 32]), false),
        ("user", named("userspace", b"x".to_vec(), &[1; 32]), false),
    ];
    for (name, log, good) in rows {
        let mut case = Case::ordinary();
        case.logs = vec![log.clone()];
        let refused = case.verify().err().map(|refused| refused.code());
        assert_eq!(refused, (!good).then_some("evidence-malformed"), "{name}");
    }
}

#[test]
fn a_list_that_nobody_has_is_missed_where_something_hangs_on_it() {
    for (asked, goes_on) in [(false, true), (true, false)] {
        let mut node = Booted::new();
        if !asked {
            node.case.profile = node.case.profile.replace("[ima]\n", "");
        }
        let profile = Profile::parse("profile.toml", node.case.profile.as_bytes()).unwrap();
        node.case.logs = vec![named("boot", log(&node.events), &[])];
        let mut first = node.case.verify().unwrap();
        assert!(first.read_logs(&profile, NOW, None));
        let read = first.logs_read().unwrap();
        let mut next = node.case.verify().unwrap();
        let went_on = next.read_logs(&profile, NOW, Some(&read));
        assert_eq!(went_on, goes_on, "[ima] asked for: {asked}");
    }
}

/// What follows the quote is kept for the next one, if it is short and of the kernel's own form.
#[test]
fn what_follows_the_quote_is_kept_within_bounds() {
    let long = entry(&"x".repeat(8 * 1024), 9);
    let short = entry("/tmp/x", 9);
    let first = |ahead: &[&Vec<u8>], text: bool| {
        let mut node = Booted::new();
        let all = node.entries.iter().map(|(data, _)| data);
        let all: Vec<Vec<u8>> = all.chain(ahead.iter().copied()).cloned().collect();
        let content = match text {
            true => in_text(&node.entries),
            false => list(
                &all.into_iter()
                    .map(|data| (data, false))
                    .collect::<Vec<_>>(),
            ),
        };
        let sent = vec![
            named("boot", log(&node.events), &[]),
            named("ima", content, &[]),
        ];
        node.case.logs.clone_from(&sent);
        let profile = Profile::parse("profile.toml", node.case.profile.as_bytes()).unwrap();
        let mut verified = node.case.verify().unwrap();
        assert!(verified.read_logs(&profile, NOW, None));
        assert_eq!(found(&node.case.appraise_verified(&verified)), []);
        let read = verified.logs_read().unwrap();
        let mut growing = Growing { node, sent, read };
        growing.name();
        growing.read_on().1
    };
    let rows: &[(&str, &[&Vec<u8>], bool, bool)] = &[
        ("nothing follows", &[], false, true),
        ("a little", &[&short], false, true),
        ("more than is kept", &[&long], false, false),
        ("text, which is read whole each time", &[], true, false),
    ];
    for (name, ahead, text, want) in rows {
        assert_eq!(first(ahead, *text), *want, "{name}");
    }
}

/// As the kernel prints it.
fn in_text(entries: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let line = |data: &[u8]| {
        let hash = crate::crypto::HashAlgorithm::Sha1.digest(&[data]).unwrap();
        let digest = hex::encode(&data[12..44]);
        let name = std::str::from_utf8(&data[48..data.len() - 1]).unwrap();
        format!(
            "10 {} ima-ng sha256:{digest} {name}\n",
            hex::encode(hash.as_slice())
        )
    };
    let lines: String = entries.iter().map(|(data, _)| line(data)).collect();
    lines.into_bytes()
}
