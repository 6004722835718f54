use super::*;
use crate::{
    Sha256Digest,
    crypto::{Digest, HashAlgorithm},
};

fn begin() -> Entry {
    Entry::Begin(Begun {
        agent: "0.1.0".to_owned(),
        root: "/".to_owned(),
        whole_host: true,
    })
}

fn program(hook: &str, fill: u8) -> Entry {
    Entry::Program {
        hook: hook.to_owned(),
        program: Program {
            tag: [fill; 8],
            object: Sha256Digest([fill; 32]),
        },
    }
}

fn policy(version: u64) -> Entry {
    Entry::Policy(LoggedPolicy {
        version,
        manifest: Sha256Digest([4; 32]),
        rules: Sha256Digest([6; 32]),
    })
}

fn ordinary() -> Vec<Entry> {
    vec![
        begin(),
        Entry::Deny,
        program("cgroup_skb/egress", 1),
        program("cgroup_skb/ingress", 2),
        Entry::World(Sha256Digest([5; 32])),
        policy(2),
    ]
}

fn log(entries: &[Entry]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| entry.encode().unwrap())
        .collect()
}

/// The PCR by the definition, and not by the code under test.
fn pcr(bank: HashAlgorithm, entries: &[Entry]) -> Digest {
    let mut value = vec![0; bank.digest_len()];
    for entry in entries {
        let event = bank.digest(&[&entry.encode().unwrap()]).unwrap();
        value = bank
            .digest(&[&value, event.as_slice()])
            .unwrap()
            .as_slice()
            .to_vec();
    }
    Digest::from_slice(&value).unwrap()
}

#[test]
fn an_entry_has_one_spelling() {
    for entry in ordinary() {
        let bytes = entry.encode().unwrap();
        let read: Vec<_> = entries(&bytes).collect::<Result<_, _>>().unwrap();
        assert_eq!(read, [(bytes.as_slice(), entry)]);
    }
    assert_eq!(Entry::Deny.encode().unwrap(), [3, 0, 0]);
    let whole = log(&ordinary());
    let read: Vec<_> = entries(&whole).map(|one| one.unwrap().1).collect();
    assert_eq!(read, ordinary());
}

#[test]
fn what_no_entry_can_hold_is_not_written() {
    let with = |agent: usize, root: usize| {
        Entry::Begin(Begun {
            agent: "a".repeat(agent),
            root: "/".repeat(root),
            whole_host: false,
        })
        .encode()
        .map(|bytes| bytes.len())
    };
    let long = |field, found, limit| {
        Err(EntryTooLong {
            field,
            found,
            limit,
        })
    };
    assert_eq!(with(64, 768), Ok(3 + 65 + 770 + 1));
    assert_eq!(with(65, 1), long("begin.agent", 65, 64));
    assert_eq!(with(1, 769), long("begin.root", 769, 768));
    assert_eq!(with(0, 1), long("begin.agent", 0, 64));
    assert_eq!(with(1, 0), long("begin.root", 0, 768));
}

#[test]
fn malformed_entries_say_where() {
    let cases: &[(&str, &[u8], &str)] = &[
        (
            "unknown kind",
            &[9, 0, 0],
            "FenceLog.kind at offset 0: 0x9 is not a value this field may hold",
        ),
        (
            "no length",
            &[3, 0],
            "FenceLog.length at offset 1: needs 2 bytes, 1 left",
        ),
        (
            "64 KiB",
            &[3, 0xff, 0xff],
            "FenceLog.length at offset 1: 65535 exceeds the limit of 1021",
        ),
        (
            "torn",
            &[4, 0, 32, 5],
            "FenceLog.content at offset 3: needs 32 bytes, 1 left",
        ),
        (
            "as long as an entry can be, and longer than its kind",
            &[&[3, 0x03, 0xfd], [0; 1021].as_slice()].concat(),
            "FenceLog.length at offset 1: found 0x3fd, wanted 0x0",
        ),
        (
            "one byte more",
            &[3, 0x03, 0xfe],
            "FenceLog.length at offset 1: 1022 exceeds the limit of 1021",
        ),
        (
            "longer than its kind",
            &[3, 0, 1, 0],
            "FenceLog.length at offset 1: found 0x1, wanted 0x0",
        ),
        (
            "reads past its length",
            &[4, 0, 1, 5],
            "FenceLog.world.digest at offset 3: needs 32 bytes, 1 left",
        ),
        (
            "flag",
            &[1, 0, 6, 1, b'a', 0, 1, b'/', 2],
            "FenceLog.begin.whole_host at offset 8: 0x2 is not a value this field may hold",
        ),
        (
            "no name",
            &[1, 0, 5, 0, 0, 1, b'/', 0],
            "FenceLog.begin.agent at offset 3: 0x0 is not a value this field may hold",
        ),
        (
            "control character",
            &[1, 0, 6, 1, b'\n', 0, 1, b'/', 0],
            "FenceLog.begin.agent at offset 4: is not UTF-8 without control characters",
        ),
        (
            "long name",
            &[2, 0, 1, 65],
            "FenceLog.program.hook at offset 3: 65 exceeds the limit of 64",
        ),
    ];
    for (name, bytes, want) in cases {
        let error = entries(bytes).next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), *want, "{name}");
        // One entry further on, the offset counts from the start of the log.
        let behind = [Entry::Deny.encode().unwrap().as_slice(), bytes].concat();
        let later = entries(&behind).nth(1).unwrap().unwrap_err();
        assert_eq!(later.offset, error.offset + 3, "{name}");
        assert_eq!(entries(&behind).count(), 2, "{name}: nothing after it");
    }
}

#[test]
fn a_log_replays_in_every_bank_to_what_the_quote_covers() {
    let all = ordinary();
    let bytes = log(&all);
    for bank in [
        HashAlgorithm::Sha1,
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha384,
    ] {
        for covered in 0..=all.len() {
            let replayed = replay(&bytes, bank, &pcr(bank, &all[..covered])).unwrap();
            assert_eq!(replayed.covered, covered, "{bank}");
            assert_eq!(replayed.state.policy.is_some(), covered == 6, "{bank}");
        }
    }
    let end = replay(
        &bytes,
        HashAlgorithm::Sha256,
        &pcr(HashAlgorithm::Sha256, &all),
    );
    let state = end.unwrap().state;
    assert_eq!(state.begun.unwrap().root, "/");
    assert_eq!(state.world, Some(Sha256Digest([5; 32])));
    assert_eq!(state.policy.unwrap().version, 2);
    assert_eq!(state.programs["cgroup_skb/ingress"].tag, [2; 8]);
    let sm3 = HashAlgorithm::Sm3_256;
    let none = replay(&bytes, sm3, &Digest::from_slice(&[0; 32]).unwrap());
    assert_eq!(none, Err(FenceLogRefused::Bank(sm3)));
}

#[test]
fn what_does_not_replay_is_refused_by_name() {
    let bank = HashAlgorithm::Sha256;
    let all = ordinary();
    let quoted = pcr(bank, &all);
    let bytes = log(&all);
    let torn = bytes[..bytes.len() - 1].to_vec();
    let mut swapped = all.clone();
    swapped.swap(4, 5);
    let mut twice = all.clone();
    twice.insert(1, Entry::Deny);
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut unknown = bytes.clone();
    unknown[0] = 77;
    let ahead = [bytes.as_slice(), &[9, 9]].concat();
    let mut longest = ahead.clone();
    longest.resize(MAX_LOG, 9);
    let endless = [longest.as_slice(), &[9]].concat();
    let cases: &[(&str, &[u8], Result<usize, &str>)] = &[
        ("whole", &bytes, Ok(6)),
        ("something behind the quote", &ahead, Ok(6)),
        ("lost", &[], Err("fence-log-does-not-replay")),
        ("torn", &torn, Err("fence-log-does-not-replay")),
        (
            "last entry gone",
            &log(&all[..5]),
            Err("fence-log-does-not-replay"),
        ),
        (
            "first entry gone",
            &log(&all[1..]),
            Err("fence-log-does-not-replay"),
        ),
        (
            "two entries swapped",
            &log(&swapped),
            Err("fence-log-does-not-replay"),
        ),
        (
            "one entry more",
            &log(&twice),
            Err("fence-log-does-not-replay"),
        ),
        ("one bit", &flipped, Err("fence-log-does-not-replay")),
        ("another kind", &unknown, Err("fence-log-malformed")),
        ("as long as it may be", &longest, Ok(6)),
        ("endless", &endless, Err("fence-log-malformed")),
    ];
    for (name, bytes, want) in cases {
        let got = replay(bytes, bank, &quoted);
        let got = got.map(|replayed| replayed.covered).map_err(|e| e.code());
        assert_eq!(got, *want, "{name}");
    }
}

#[test]
fn the_state_is_what_was_said_last_and_says_so() {
    let mut state = Logged::default();
    for entry in ordinary() {
        assert!(!state.says(&entry), "{entry:?}");
        state.apply(&entry);
        assert!(state.says(&entry), "{entry:?}");
    }
    for entry in [begin(), program("cgroup_skb/egress", 1), policy(2)] {
        assert!(state.says(&entry), "{entry:?}");
    }
    for entry in [
        program("cgroup_skb/egress", 3),
        program("tcx/egress", 1),
        Entry::World(Sha256Digest([6; 32])),
        policy(3),
        Entry::Deny,
    ] {
        assert!(!state.says(&entry), "{entry:?}");
    }
    state.apply(&Entry::Deny);
    assert_eq!(
        (state.policy, state.world, state.denying),
        (None, None, true)
    );
    assert!(state.says(&Entry::Deny));
    // A world alone is not all denied: what follows it was never taken back.
    state.apply(&Entry::World(Sha256Digest([5; 32])));
    assert!(!state.says(&Entry::Deny));
    state.apply(&policy(3));
    assert!(!state.denying);
}

#[test]
fn what_was_in_force_before_is_told_from_what_is() {
    let bank = HashAlgorithm::Sha256;
    let mut all = ordinary();
    all.push(policy(3));
    let replayed = replay(&log(&all), bank, &pcr(bank, &all)).unwrap();
    let version =
        |want: u64| move |state: &Logged| state.policy.is_some_and(|policy| policy.version == want);
    assert!(replayed.held_before(version(2)));
    assert!(!replayed.held_before(version(3)), "that is what is");
    assert!(!replayed.held_before(version(1)));
}

#[test]
fn break_glass_is_in_force_until_its_end_or_until_it_is_withdrawn() {
    let used = |fill: u8, end_boot_ns: u64| LoggedGlass {
        manifest: Sha256Digest([fill; 32]),
        end_boot_ns,
    };
    let mut state = Logged::default();
    assert_eq!(state.broken_glass(0), None);
    for glass in [used(1, 50), used(2, 70)] {
        let entry = Entry::BreakGlass(glass);
        let bytes = entry.encode().unwrap();
        assert_eq!(bytes.len(), 3 + 32 + 8);
        assert_eq!(
            entries(&bytes).next().unwrap(),
            Ok((&*bytes, entry.clone()))
        );
        assert!(!state.says(&entry));
        state.apply(&entry);
        assert!(state.says(&entry));
    }
    assert_eq!(state.broken_glass(0), Some(used(2, 70)), "the last to end");
    assert_eq!(state.broken_glass(69), Some(used(2, 70)));
    assert_eq!(state.broken_glass(70), None, "over");
    state.apply(&Entry::BreakGlass(used(2, 0)));
    assert!(!state.says(&Entry::BreakGlass(used(2, 70))));
    assert_eq!(state.broken_glass(0), Some(used(1, 50)), "withdrawn");
    // A policy, or none, has nothing to do with it.
    state.apply(&Entry::Deny);
    state.apply(&policy(3));
    assert_eq!(state.broken_glass(49), Some(used(1, 50)));
}
