use std::{fs, path::PathBuf};

use bailiwick_attestation::{
    proto::v1::{BootBegan, Denial, EpochBegan},
    tlog::head_follows,
};
use tempfile::TempDir;

use super::*;

struct Disk(TempDir);

impl Disk {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn open(&self, named: Option<(u64, u64)>) -> (NodeLog, Found) {
        self.open_bounded(1 << 20, named)
    }

    fn open_bounded(&self, max: u64, named: Option<(u64, u64)>) -> (NodeLog, Found) {
        let (edge, spool) = (self.0.path().join("log"), self.0.path().join("spool"));
        NodeLog::open(&edge, &spool, max, named).unwrap()
    }

    /// With an epoch begun.
    fn begun(&self) -> NodeLog {
        let (mut log, found) = self.open(None);
        assert_eq!(found, Found::Nothing);
        log.begin(3).unwrap();
        append(&mut log, vec![epoch()]);
        log
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut out: Vec<_> = fs::read_dir(self.0.path().join("spool"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ext| ext == "seg"))
            .collect();
        out.sort();
        out
    }
}

fn new(what: What) -> New {
    New {
        what,
        sealed: vec![9; 40],
        wall_time: UnixTime(5),
        boot_time_ns: 6,
    }
}

fn epoch() -> New {
    new(What::EpochBegan(EpochBegan::default()))
}

fn denial(count: u64) -> New {
    new(What::Denial(Denial {
        study: "cardio".to_owned(),
        count,
        ..Denial::default()
    }))
}

fn append(log: &mut NodeLog, entries: Vec<New>) {
    let want = u64::try_from(entries.len()).unwrap();
    let (done, outcome) = log.append(&entries);
    outcome.unwrap();
    assert_eq!(done, want);
}

/// Everything that would be delivered, in order.
fn drain(log: &mut NodeLog) -> Vec<Entry> {
    let mut out = Vec::new();
    while let Some(batch) = log.next_batch().unwrap() {
        assert_eq!(log.next_batch().unwrap(), None, "one at a time");
        for logged in &batch.entries {
            out.push(Entry::parse(&logged.entry).unwrap());
        }
        log.delivered(batch.epoch, end(&batch)).unwrap();
    }
    out
}

#[test]
fn entries_are_numbered_across_restarts_and_prove_their_root() {
    let disk = Disk::new();
    let mut log = disk.begun();
    append(&mut log, vec![denial(1), denial(2)]);
    let first = log.head();
    drop(log);
    let (mut log, found) = disk.open(Some((3, 3)));
    assert_eq!((found, log.head()), (Found::Whole, first));
    append(&mut log, vec![denial(3)]);
    let entries = drain(&mut log);
    let indices: Vec<u64> = entries.iter().map(|entry| entry.index).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    let mut edge = Frontier::empty();
    for entry in &entries {
        edge.push(entry.leaf);
        assert_eq!(entry.epoch, 3);
    }
    assert_eq!(
        edge.head(),
        log.head(),
        "what is delivered is what the root says"
    );
}

#[test]
fn nothing_is_let_go_before_it_is_both_delivered_and_covered() {
    let disk = Disk::new();
    let mut log = disk.begun();
    for count in 0..5 {
        append(&mut log, vec![denial(count)]);
    }
    assert_eq!(drain(&mut log).len(), 6);
    drop(log);
    let (mut log, _) = disk.open(Some((3, 6)));
    assert_eq!(log.undelivered(), 6, "no statement over them was accepted");
    log.covered(3, 4).unwrap();
    drop(log);
    let (mut log, found) = disk.open(Some((3, 6)));
    assert_eq!((found, log.head().size), (Found::Whole, 6));
    assert_eq!(drain(&mut log).len(), 6, "covered, and not delivered");
    log.covered(3, 6).unwrap();
    drop(log);
    let (mut log, found) = disk.open(Some((3, 6)));
    assert_eq!((found, log.head().size), (Found::Whole, 6));
    assert_eq!(drain(&mut log), [], "both");
    append(&mut log, vec![denial(9)]);
    assert_eq!(drain(&mut log)[0].index, 6, "and it goes on");
}

#[test]
fn every_size_since_the_last_accepted_is_proved() {
    let disk = Disk::new();
    let mut log = disk.begun();
    let mut before = log.head();
    for count in 0..20 {
        append(&mut log, vec![denial(count), denial(count)]);
        let head = log.head();
        log.covered(3, before.size).unwrap();
        let proof = log.prove(3, head.size).unwrap();
        head_follows(&before, &head, Some(&proof)).unwrap();
        assert!(log.had(3, &before) && log.had(3, &head));
        before = head;
    }
    assert_eq!(log.prove(2, before.size), None, "another epoch's");
    assert!(!log.had(2, &before));
    let other = Head {
        root: leaf_hash(b"x"),
        ..before
    };
    assert!(!log.had(3, &other), "another log's");
}

#[test]
fn a_write_torn_anywhere_never_counted() {
    let disk = Disk::new();
    let mut log = disk.begun();
    append(&mut log, vec![denial(1)]);
    let before = log.head();
    append(&mut log, vec![denial(2), denial(3)]);
    let after = log.head();
    drop(log);
    let [segment] = disk.segments().try_into().unwrap();
    let whole = fs::read(&segment).unwrap();
    let mut found_before = 0;
    for cut in (0..whole.len()).rev() {
        fs::write(&segment, &whole[..cut]).unwrap();
        let (log, found) = disk.open(Some((3, 2)));
        match found {
            Found::Whole => {
                assert_eq!(log.head(), before, "cut at {cut}");
                found_before += 1;
            }
            other => assert!(matches!(other, Found::Lost(_)), "cut at {cut}: {other:?}"),
        }
    }
    assert!(found_before > 100, "the whole of the last record");
    fs::write(&segment, &whole).unwrap();
    let (log, found) = disk.open(Some((3, 4)));
    assert_eq!((found, log.head()), (Found::Whole, after));
}

#[test]
fn an_entry_changed_on_disk_gives_another_root() {
    let disk = Disk::new();
    let mut log = disk.begun();
    append(&mut log, vec![denial(1), denial(2)]);
    let told = log.head();
    drop(log);
    // Root writes the history anew: one denial less severe, everything else as it was.
    fs::remove_dir_all(disk.0.path().join("spool")).unwrap();
    fs::remove_file(disk.0.path().join("log")).unwrap();
    let mut log = disk.begun();
    append(&mut log, vec![denial(0), denial(2), denial(3)]);
    let proof = log.prove(3, 4).unwrap();
    let refused = head_follows(&told, &log.head(), Some(&proof)).unwrap_err();
    assert_eq!(refused.code(), "log-unproven");
    let proof = log.tail.consistency(3, 4).unwrap();
    let refused = head_follows(&told, &log.head(), Some(&proof)).unwrap_err();
    assert_eq!(refused.code(), "log-rewritten");
}

#[test]
fn a_full_disk_is_told_and_the_log_goes_on() {
    let disk = Disk::new();
    let (mut log, _) = disk.open_bounded(4096, None);
    log.begin(3).unwrap();
    append(&mut log, vec![epoch()]);
    let why = loop {
        let (done, outcome) = log.append(&[denial(1)]);
        match outcome {
            Ok(()) => assert_eq!(done, 1),
            Err(why) => break why,
        }
    };
    assert!(why.is_full(), "{why:?}");
    let head = log.head();
    drain(&mut log);
    log.covered(3, head.size).unwrap();
    append(&mut log, vec![denial(2)]);
    assert_eq!(log.head().size, head.size + 1, "no number was skipped");
}

#[test]
fn leaves_nobody_accepts_are_bounded() {
    let disk = Disk::new();
    let (mut log, _) = disk.open_bounded(64 << 20, None);
    log.begin(3).unwrap();
    append(&mut log, vec![epoch()]);
    let many = vec![denial(1); MAX_LEAVES];
    let (done, outcome) = log.append(&many);
    assert_eq!(done, u64::try_from(MAX_LEAVES).unwrap() - 1);
    assert!(matches!(outcome, Err(LogError::Leaves)));
    log.covered(3, 10).unwrap();
    let (done, outcome) = log.append(&many);
    assert_eq!(done, 10);
    assert!(outcome.unwrap_err().is_full());
}

#[test]
fn an_epoch_begins_with_its_own_entry_and_forgets_the_one_before() {
    let disk = Disk::new();
    let (mut log, _) = disk.open(None);
    assert!(matches!(
        log.append(&[denial(1)]).1,
        Err(LogError::NotBegun)
    ));
    let mut log = disk.begun();
    assert!(matches!(log.append(&[epoch()]).1, Err(LogError::NotBegun)));
    let boot = new(What::BootBegan(BootBegan {
        boot_id: vec![7; 16],
        ..BootBegan::default()
    }));
    append(&mut log, vec![boot]);
    log.booted([7; 16]).unwrap();
    drop(log);
    let (mut log, _) = disk.open(None);
    assert_eq!(log.boot(), &[7; 16]);

    log.begin(8).unwrap();
    drop(log);
    let (mut log, found) = disk.open(None);
    assert_eq!(found, Found::Nothing, "cut off before the first entry");
    log.begin(8).unwrap();
    append(&mut log, vec![epoch(), denial(1)]);
    drop(log);
    let (mut log, found) = disk.open(Some((8, 2)));
    assert_eq!((found, log.epoch()), (Found::Whole, 8));
    let entries = drain(&mut log);
    assert_eq!(entries.len(), 2, "nothing of epoch 3");
    assert!(entries.iter().all(|entry| entry.epoch == 8));
    log.delivered(3, 99).unwrap();
    log.covered(3, 99).unwrap();
    assert_eq!(
        log.head().size,
        2,
        "answers about another epoch change nothing"
    );
}
