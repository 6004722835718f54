//! What is asked, how often, and what happens when an answer fails.

use std::cell::RefCell;

use super::{Collected, Gpus, Mode, collect};

const NONCE: [u8; 32] = [7; 32];

/// Answers as told, and remembers what was asked.
struct Told {
    count: Result<u32, String>,
    mode: Result<Mode, String>,
    chain: fn(u32) -> Result<Vec<u8>, String>,
    report: fn(u32) -> Result<Vec<u8>, String>,
    asked: RefCell<Vec<(&'static str, u32)>>,
}

impl Told {
    fn on(count: u32) -> Self {
        Self {
            count: Ok(count),
            mode: Ok(Mode {
                enabled: true,
                devtools: false,
                environment: 2,
                multi_gpu: Ok(0),
                ready: Ok(true),
            }),
            chain: |_| Ok(b"chain".to_vec()),
            report: |_| Ok(b"report".to_vec()),
            asked: RefCell::default(),
        }
    }

    fn collected(&self) -> (Collected, Vec<(&'static str, u32)>) {
        let collected = collect(self, NONCE);
        (collected, self.asked.take())
    }
}

impl Gpus for Told {
    fn count(&self) -> Result<u32, String> {
        self.count.clone()
    }

    fn mode(&self) -> Result<Mode, String> {
        self.mode.clone()
    }

    fn uuid(&self, index: u32) -> Result<String, String> {
        Ok(format!("GPU-{index}"))
    }

    fn chain(&self, index: u32) -> Result<Vec<u8>, String> {
        self.asked.borrow_mut().push(("chain", index));
        (self.chain)(index)
    }

    fn report(&self, index: u32, nonce: [u8; 32]) -> Result<Vec<u8>, String> {
        assert_eq!(nonce, NONCE);
        self.asked.borrow_mut().push(("report", index));
        (self.report)(index)
    }
}

#[test]
fn each_gpu_is_asked_once_and_one_after_the_other() {
    let (collected, asked) = Told::on(2).collected();
    assert_eq!(
        asked,
        [("chain", 0), ("report", 0), ("chain", 1), ("report", 1)]
    );
    assert_eq!((collected.evidence.len(), &collected.stopped), (2, &None));
    let json = serde_json::to_string(&collected).unwrap();
    assert_eq!(serde_json::from_str::<Collected>(&json).unwrap(), collected);
    assert_eq!(collected.evidence[1].uuid, "GPU-1");
    assert_eq!(collected.evidence[0].evidence, "cmVwb3J0");
    assert_eq!(collected.evidence[0].nonce, "07".repeat(32));
}

#[test]
fn nothing_is_asked_where_it_is_off_or_nobody_knows() {
    let mut off = Told::on(2);
    off.mode = off.mode.map(|mode| Mode {
        enabled: false,
        ..mode
    });
    let mut unknown = Told::on(2);
    unknown.mode = Err("not supported".to_owned());
    let mut uncounted = Told::on(2);
    uncounted.count = Err("lost".to_owned());
    for (name, told) in [
        ("off", off),
        ("unknown", unknown),
        ("uncounted", uncounted),
        ("none", Told::on(0)),
    ] {
        let (collected, asked) = told.collected();
        assert_eq!((asked.len(), collected.evidence.len()), (0, 0), "{name}");
    }
    let mut protected = Told::on(1);
    protected.mode = protected.mode.map(|mode| Mode {
        enabled: false,
        multi_gpu: Ok(1),
        ..mode
    });
    assert_eq!(protected.collected().1, [("chain", 0), ("report", 0)]);
    let too_many = "17 GPUs: at most 16 are asked";
    for (count, requests, stopped) in [(15, 30, None), (16, 32, None), (17, 0, Some(too_many))] {
        let (many, asked) = Told::on(count).collected();
        let found = (asked.len(), many.stopped.as_deref());
        assert_eq!(found, (requests, stopped), "{count}");
    }
}

#[test]
fn whatever_fails_ends_the_asking() {
    let fails = |index: u32| match index {
        1 => Err("torn down".to_owned()),
        _ => Ok(b"x".to_vec()),
    };
    let mut report = Told::on(3);
    report.report = fails;
    let mut chain = Told::on(3);
    chain.chain = fails;
    let mut empty = Told::on(3);
    empty.report = |index| Ok(vec![0; usize::from(index != 1)]);
    let mut long = Told::on(3);
    long.report = |index| Ok(vec![0; if index == 1 { 0x2001 } else { 0x2000 }]);
    let mut long_chain = Told::on(3);
    long_chain.chain = |index| Ok(vec![0; if index == 1 { 0x1401 } else { 0x1400 }]);
    for (name, told, last) in [
        ("report", report, ("report", 1)),
        ("chain", chain, ("chain", 1)),
        ("empty report", empty, ("report", 1)),
        ("long report", long, ("report", 1)),
        ("long chain", long_chain, ("chain", 1)),
    ] {
        let (collected, asked) = told.collected();
        assert_eq!(asked.last(), Some(&last), "{name}");
        assert_eq!(collected.evidence.len(), 1, "{name}");
        let why = collected.stopped.unwrap();
        assert!(why.starts_with("GPU 1: "), "{name}: {why}");
    }
}
