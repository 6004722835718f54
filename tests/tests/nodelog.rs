//! A node's own log: what becomes of one that is rewritten, cut, or delivered otherwise than told.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use bailiwick_attestation::events::Entry;
use bailiwick_attestation::proto::v1::{self, collector_message, log_entry::What, node_message};
use bailiwick_attestation::tlog::{Head, Tail, leaf_hash};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_collector::record::EntryFilter;
use prost::Message as _;
use stand::{Came, Conversation, Machine, Stand, entry};

/// A log with an entry for every number.
fn entries(numbers: &[u64]) -> Vec<Vec<u8>> {
    (0..)
        .zip(numbers)
        .map(|(index, number)| {
            let what = if index == 0 {
                What::EpochBegan(v1::EpochBegan::default())
            } else {
                What::Denial(v1::Denial {
                    study: "cardio".into(),
                    count: *number,
                    ..v1::Denial::default()
                })
            };
            Entry::compose((0, index), UnixTime(1), 2, what)
        })
        .collect()
}

fn tail(numbers: &[u64]) -> Tail {
    let mut tail = Tail::default();
    for entry in entries(numbers) {
        tail.push(leaf_hash(&entry));
    }
    tail
}

/// A node whose TPM signs whatever root wants: the quote is good, the log is what root says it is.
struct Node {
    stand: Stand,
    machine: Machine,
    stream: Conversation,
    last: Option<v1::Statement>,
}

impl Node {
    async fn new() -> Self {
        let mut stand = Stand::new().await;
        let mut machine = stand.machine("gpu-01");
        stand.apply(&entry("gpu-01", &machine)).await;
        stand.meet(&mut machine);
        let enrolled = machine.enroll(&stand.maker).await;
        let stream = machine.stream(&enrolled).await.unwrap();
        Self {
            stand,
            machine,
            stream,
            last: None,
        }
    }

    /// Sends a statement over this head; it follows the last accepted one.
    async fn say(&mut self, head: Head, proof: Option<v1::LogConsistency>) -> String {
        let mut statement = self.machine.statement(&self.stand, None);
        if let Some(last) = &self.last {
            let digest = Sha256Digest::of(&[&last.encode_to_vec()]);
            statement.sequence = last.sequence + 1;
            statement.previous = Some(digest.as_bytes().to_vec());
        }
        statement.log = Some(head.to_proto());
        let bytes = statement.encode_to_vec();
        let mut evidence = self.machine.quote(&bytes, self.stream.nonce).await;
        evidence.log_consistency = proof;
        let came = self.stream.evidence(evidence).await.unwrap();
        if matches!(came, Came::Accepted(..)) {
            self.last = Some(statement);
        }
        came.code().to_owned()
    }

    async fn deliver(&mut self, first: u64, all: &[Vec<u8>]) {
        let skip = usize::try_from(first).unwrap();
        let batch = v1::LogBatch {
            epoch: 0,
            first_index: first,
            entries: all[skip..]
                .iter()
                .map(|entry| v1::LoggedEntry {
                    entry: entry.clone(),
                    sealed: Vec::new(),
                })
                .collect(),
        };
        self.stream.send(node_message::Message::Log(batch)).await;
        loop {
            if let collector_message::Message::LogAccepted(accepted) =
                self.stream.next().await.unwrap()
            {
                assert_eq!(accepted.up_to_index, u64::try_from(all.len()).unwrap());
                return;
            }
        }
    }

    async fn fault(&self) -> Option<String> {
        let store = self.stand.store().await;
        let row = store.node_get(&self.machine.ek()).await.unwrap().unwrap();
        row.log_fault.map(|(_, what)| what)
    }

    async fn proven(&self) -> usize {
        let store = self.stand.store().await;
        let all = EntryFilter {
            ek: None,
            study: "",
            kind: "",
            from: UnixTime(0),
            to: UnixTime(u64::MAX >> 1),
            limit: 100,
        };
        let all = store.entry_list(&all).await.unwrap();
        all.iter().filter(|entry| entry.proven).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_rewrites_the_log_between_two_quotes() {
    let mut node = Node::new().await;
    let honest = tail(&[0, 11, 12]);
    assert_eq!(node.say(honest.head(), None).await, "accepted");
    let grown = tail(&[0, 11, 12, 13, 14]);
    let proof = grown.consistency(3, 5);
    assert_eq!(node.say(grown.head(), proof.clone()).await, "accepted");
    assert_eq!(node.fault().await, None);

    // A denial made milder, one left out, the end cut off: whatever proof goes with it.
    let milder = tail(&[0, 11, 1, 13, 14, 15]);
    let left_out = tail(&[0, 11, 13, 14, 15, 16]);
    let cut = tail(&[0, 11, 12]);
    let same_size = tail(&[0, 11, 1, 13, 14]);
    type Row<'a> = (&'a str, &'a Tail, Option<v1::LogConsistency>, &'a str);
    let cases: &[Row<'_>] = &[
        ("milder", &milder, milder.consistency(5, 6), "log-rewritten"),
        (
            "left out",
            &left_out,
            left_out.consistency(5, 6),
            "log-rewritten",
        ),
        ("cut off", &cut, None, "log-rewritten"),
        ("same size", &same_size, None, "log-rewritten"),
        ("honest proof, other log", &milder, proof, "log-unproven"),
        ("no proof", &milder, None, "log-unproven"),
    ];
    for (name, log, proof, want) in cases {
        assert_eq!(node.say(log.head(), proof.clone()).await, *want, "{name}");
    }
    assert!(node.fault().await.is_some(), "and on-call is told");

    // The honest log goes on from where it was.
    let honest = tail(&[0, 11, 12, 13, 14, 15]);
    assert_eq!(
        node.say(honest.head(), honest.consistency(5, 6)).await,
        "accepted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_is_what_the_quoted_root_says() {
    let mut node = Node::new().await;
    let told = tail(&[0, 11, 12, 13]);
    assert_eq!(node.say(told.head(), None).await, "accepted");
    // Root keeps the root hash and delivers a milder story.
    node.deliver(0, &entries(&[0, 11, 1, 13])).await;
    assert_eq!(node.proven().await, 0);
    let fault = node.fault().await.unwrap();
    assert!(
        fault.contains("not those its statement was made over"),
        "{fault}"
    );

    let mut node = Node::new().await;
    assert_eq!(node.say(told.head(), None).await, "accepted");
    node.deliver(0, &entries(&[0, 11, 12, 13])).await;
    assert_eq!((node.proven().await, node.fault().await), (4, None));
    // A welcome on the next stream says what is held.
    let row = {
        let store = node.stand.store().await;
        store.node_get(&node.machine.ek()).await.unwrap().unwrap()
    };
    let held = row.newest.and_then(|newest| newest.log).unwrap();
    assert_eq!(Head::of(&held), Some(told.head()));
}
