use std::fs;

use super::*;

fn contents(spool: &Spool) -> Vec<(u64, Vec<u8>)> {
    spool
        .kept()
        .map(|index| (index, spool.read(index).unwrap().unwrap()))
        .collect()
}

fn newest_segment(dir: &Path) -> PathBuf {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "seg"))
        .collect();
    names.sort();
    names.pop().unwrap()
}

#[test]
fn records_survive_and_only_forgetting_removes_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(dir.path(), 16 << 20).unwrap();
    for (index, payload) in [&b"zero"[..], b"", b"two"].iter().enumerate() {
        assert_eq!(
            spool.append(payload).unwrap(),
            u64::try_from(index).unwrap()
        );
    }
    spool.forget(1).unwrap();
    drop(spool);

    let (mut spool, recovered) = Spool::open(dir.path(), 16 << 20).unwrap();
    assert_eq!(recovered, Recovered::default());
    let all = [(0, b"zero".to_vec()), (1, Vec::new()), (2, b"two".to_vec())];
    assert_eq!(
        contents(&spool),
        all,
        "out of order: sent again after a restart"
    );
    for index in [0, 2, 1] {
        spool.forget(index).unwrap();
    }
    assert_eq!(contents(&spool), []);
    assert_eq!(spool.bytes(), 0, "an emptied spool gives its room back");
    assert_eq!(spool.append(b"three").unwrap(), 3);
    drop(spool);

    let (spool, _) = Spool::open(dir.path(), 16 << 20).unwrap();
    assert_eq!(contents(&spool), [(3, b"three".to_vec())], "numbers go on");
}

#[test]
fn a_torn_tail_is_cut_off_at_every_length() {
    let whole = {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(dir.path(), 16 << 20).unwrap();
        spool.append(b"first").unwrap();
        spool.append(b"second").unwrap();
        fs::read(newest_segment(dir.path())).unwrap()
    };
    let first = 8 + 5;
    for cut in first..whole.len() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(segment_path(dir.path(), 0), &whole[..cut]).unwrap();
        let (mut spool, recovered) = Spool::open(dir.path(), 16 << 20).unwrap();
        assert_eq!(
            recovered.torn_bytes,
            u64::try_from(cut - first).unwrap(),
            "{cut}"
        );
        assert_eq!(contents(&spool), [(0, b"first".to_vec())], "{cut}");
        assert_eq!(spool.append(b"again").unwrap(), 1, "{cut}");
        drop(spool);
        let (spool, recovered) = Spool::open(dir.path(), 16 << 20).unwrap();
        assert_eq!(recovered.torn_bytes, 0, "{cut}");
        assert_eq!(contents(&spool).len(), 2, "{cut}");
    }
}

#[test]
fn damage_in_the_middle_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(dir.path(), 16 << 20).unwrap();
    for _ in 0..5 {
        spool.append(&vec![1; 400 << 10]).unwrap();
    }
    drop(spool);
    // 1 MiB segments: three records in the first. Flip a bit in its second.
    let path = segment_path(dir.path(), 0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[(400 << 10) + 100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (spool, recovered) = Spool::open(dir.path(), 16 << 20).unwrap();
    assert_eq!(recovered.lost_records, 2);
    assert_eq!(spool.kept().collect::<Vec<_>>(), [0, 3, 4]);
}

#[test]
fn segments_are_a_sixteenth_of_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(dir.path(), 64 << 20).unwrap();
    let record = vec![0; (1 << 20) - 8];
    for (kept, segments) in [(4, 1), (1, 2), (3, 2), (1, 3)] {
        for _ in 0..kept {
            spool.append(&record).unwrap();
        }
        let names = fs::read_dir(dir.path()).unwrap();
        assert_eq!(names.count(), segments);
    }
}

#[test]
fn segments_of_a_small_spool_are_a_mebibyte_and_give_back_what_they_got() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(dir.path(), 4 << 20).unwrap();
    // A sixteenth of the bound would be 256 KiB.
    let records: Vec<Vec<u8>> = (1..=4).map(|n| vec![n; 300 << 10]).collect();
    for record in &records {
        spool.append(record).unwrap();
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    for (index, record) in (0..).zip(&records) {
        assert_eq!(spool.read(index).unwrap().as_ref(), Some(record), "{index}");
    }
}

#[test]
fn the_last_byte_of_the_bound_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(dir.path(), 1000).unwrap();
    spool.append(&[1; 500 - 8]).unwrap();
    assert!(matches!(
        spool.append(&[2; 501 - 8]),
        Err(SpoolError::Full { .. })
    ));
    spool.append(&[3; 500 - 8]).unwrap();
    assert_eq!(spool.bytes(), 1000);
}

#[test]
fn the_bound_refuses_and_room_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(dir.path(), 4 << 20).unwrap();
    let record = vec![0; 1 << 20];
    for _ in 0..3 {
        spool.append(&record).unwrap();
    }
    assert!(matches!(
        spool.append(&record),
        Err(SpoolError::Full { .. })
    ));
    assert_eq!(spool.kept().count(), 3, "nothing was overwritten");
    spool.forget(0).unwrap();
    assert_eq!(spool.append(&record).unwrap(), 3);
    assert!(matches!(
        spool.append(&vec![0; MAX_RECORD + 1]),
        Err(SpoolError::TooLong(_))
    ));
}

/// A disk that is full: a tmpfs of one MiB in a mount namespace of its own, in a child process.
#[test]
fn a_full_disk_reads_as_full_and_the_spool_goes_on() {
    const INSIDE: &str = "BAILIWICK_TEST_SMALL_DISK";
    if let Some(dir) = std::env::var_os(INSIDE) {
        let dir = PathBuf::from(dir);
        let (mut chain, _) = chain::ChainFile::open(&dir.join("chain")).unwrap();
        let (mut spool, _) = Spool::open(&dir.join("spool"), 16 << 20).unwrap();
        let record = vec![7; 100 << 10];
        let mut kept = 0;
        while kept < 11 {
            match spool.append(&record) {
                Ok(_) => kept += 1,
                Err(SpoolError::Full { .. }) => break,
                Err(err) => panic!("{err:?}"),
            }
        }
        assert!((5..11).contains(&kept), "{kept}");
        chain
            .write(&chain::Chain {
                lost_statements: 1,
                ..Default::default()
            })
            .unwrap();
        drop(spool);
        let (mut spool, recovered) = Spool::open(&dir.join("spool"), 16 << 20).unwrap();
        assert_eq!(
            recovered,
            Recovered::default(),
            "half a record was taken back"
        );
        assert_eq!(spool.kept().count(), kept);
        let all: Vec<u64> = spool.kept().collect();
        for index in all {
            spool.forget(index).unwrap();
        }
        spool.append(&record).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg("mount -t tmpfs -o size=1m small \"$1\"; exec \"$2\" --exact \"$3\" --nocapture")
        .arg("sh")
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .arg("spool::tests::a_full_disk_reads_as_full_and_the_spool_goes_on")
        .env(INSIDE, dir.path())
        .status()
        .unwrap();
    assert!(
        status.success(),
        "needs root: a mount namespace with a tmpfs of its own"
    );
}

#[test]
fn a_record_as_long_as_the_longest_envelope_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(dir.path(), 256 << 20).unwrap();
    let longest = vec![7; MAX_RECORD];
    assert_eq!(spool.append(&longest).unwrap(), 0);
    assert_eq!(spool.append(b"next").unwrap(), 1);
    let longer = spool.append(&vec![7; MAX_RECORD + 1]);
    assert!(matches!(longer, Err(SpoolError::TooLong(bytes)) if bytes == MAX_RECORD + 1));
    drop(spool);
    let (spool, recovered) = Spool::open(dir.path(), 256 << 20).unwrap();
    assert_eq!(recovered, Recovered::default());
    assert_eq!(spool.read(0).unwrap(), Some(longest));
    assert_eq!(spool.read(1).unwrap(), Some(b"next".to_vec()));
}
