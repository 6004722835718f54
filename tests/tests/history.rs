//! Statements made out of reach, and clocks that are wrong, with a real collector and a software
//! TPM: worth history, never standing.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use std::time::Duration;

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::proto::v1::{self, collector_message, node_message};
use bailiwick_collector::clock;
use prost::Message as _;
use stand::{Conversation, Machine, Stand, entry};

const HOUR_NS: u64 = 3_600_000_000_000;
const HOUR_MS: u64 = 3_600_000;

/// The statement that follows one, `boot_ns` later by the kernel's clock and the wall's.
fn after(before: &v1::Statement, boot_ns: u64) -> v1::Statement {
    let digest = Sha256Digest::of(&[&before.encode_to_vec()]);
    v1::Statement {
        sequence: before.sequence + 1,
        previous: Some(digest.as_bytes().to_vec()),
        boot_time_ns: before.boot_time_ns + boot_ns,
        wall_time_ms: before.wall_time_ms + boot_ns / 1_000_000,
        ..before.clone()
    }
}

/// Everything that comes of a piece of evidence: answer, receipt, and a lease if there is one.
struct Outcome {
    verdict: String,
    codes: Vec<String>,
    receipt: Option<v1::Receipt>,
    lease: bool,
}

async fn tell(stream: &mut Conversation, evidence: v1::Evidence) -> Outcome {
    let before = stream.nonce;
    stream.send(node_message::Message::Evidence(evidence)).await;
    let mut outcome = Outcome {
        verdict: "refused".to_owned(),
        codes: Vec::new(),
        receipt: None,
        lease: false,
    };
    loop {
        match stream.next().await.unwrap() {
            collector_message::Message::Accepted(accepted) => {
                outcome.verdict = accepted.verdict;
                let code = |reason: &String| {
                    let code = reason.rsplit_once('[')?.1.strip_suffix(']')?;
                    Some(code.to_owned())
                };
                outcome.codes = accepted.reasons.iter().filter_map(code).collect();
                assert!(accepted.next.is_some());
            }
            collector_message::Message::Refused(refused) => {
                assert!(refused.next.is_some());
                assert_ne!(
                    stream.nonce, before,
                    "the answer carries the next challenge"
                );
                outcome.codes = vec![refused.code];
                return outcome;
            }
            collector_message::Message::Receipt(receipt) => {
                assert_ne!(
                    stream.nonce, before,
                    "the answer carries the next challenge"
                );
                outcome.receipt = Some(receipt);
                break;
            }
            _ => {}
        }
    }
    // A lease follows at once, or none does.
    let soon = Duration::from_millis(300);
    while let Ok(message) = tokio::time::timeout(soon, stream.next()).await {
        outcome.lease |= matches!(message.unwrap(), collector_message::Message::Lease(_));
    }
    outcome
}

async fn challenged(stream: &mut Conversation, node: &Machine, said: &v1::Statement) -> Outcome {
    let evidence = node.quote(&said.encode_to_vec(), stream.nonce).await;
    tell(stream, evidence).await
}

async fn ready() -> (Stand, Machine, Conversation, v1::Statement) {
    let mut stand = Stand::new().await;
    let mut node = stand.machine("gpu-01");
    let manifest = stand.apply(&entry("gpu-01", &node)).await;
    stand.meet(&mut node);
    let enrolled = node.enroll(&stand.maker).await;
    let mut stream = node.stream(&enrolled).await.unwrap();
    let first = node.statement(&stand, Some(manifest));
    let outcome = challenged(&mut stream, &node, &first).await;
    assert_eq!(
        (outcome.verdict.as_str(), outcome.lease),
        ("affirming", true)
    );
    (stand, node, stream, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_checked_and_earns_nothing() {
    let (_stand, node, mut stream, first) = ready().await;
    let mut said = after(&first, 1_000_000);
    let came = challenged(&mut stream, &node, &said).await;
    let receipt = came.receipt.unwrap();

    // An honest run.
    for number in 0..2 {
        said = after(&said, 1_000_000);
        let bytes = said.encode_to_vec();
        let evidence = node.quote_alone(&bytes, Some(&receipt), number).await;
        let came = tell(&mut stream, evidence).await;
        assert_eq!(came.codes, ["unchallenged"], "number {number}");
        assert_eq!((came.verdict.as_str(), came.lease), ("none", false));
    }
    // The same number once more, and a receipt that nobody issued.
    let mut forged = receipt.clone();
    forged.index += 1;
    for (code, receipt, number) in [
        ("history-number", &receipt, 1),
        ("receipt-unknown", &forged, 2),
    ] {
        said = after(&said, 1_000_000);
        let bytes = said.encode_to_vec();
        let evidence = node.quote_alone(&bytes, Some(receipt), number).await;
        let came = tell(&mut stream, evidence).await;
        assert!(came.codes.contains(&code.to_owned()), "{:?}", came.codes);
        assert_eq!((came.verdict.as_str(), came.lease), ("none", false));
    }
    // A stock for the hours to come, signed within a second.
    for number in 3..5 {
        said = after(&said, HOUR_NS);
        let bytes = said.encode_to_vec();
        let evidence = node.quote_alone(&bytes, Some(&receipt), number).await;
        let came = tell(&mut stream, evidence).await;
        let told = came.codes.contains(&"signed-in-advance".to_owned());
        assert!(told, "{:?}", came.codes);
        assert_eq!(
            (came.verdict.as_str(), came.lease),
            ("contraindicated", false)
        );
    }
    // And the way back: an answer to a challenge.
    let now = v1::Statement {
        boot_time_ns: first.boot_time_ns + 10_000_000,
        wall_time_ms: clock::now().millis(),
        ..after(&said, 0)
    };
    let came = challenged(&mut stream, &node, &now).await;
    assert_eq!((came.verdict.as_str(), came.lease), ("affirming", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_opens_nothing_and_ends_nothing() {
    let (_stand, node, mut stream, first) = ready().await;
    let mut said = first;
    for (name, off_ms, ahead, verdict, lease) in [
        ("six minutes behind", 360_000, false, "warning", true),
        ("two hours behind", 2 * HOUR_MS, false, "none", false),
        ("two hours ahead", 2 * HOUR_MS, true, "none", false),
        ("a year ahead", 365 * 24 * HOUR_MS, true, "none", false),
        ("right again", 0, true, "affirming", true),
    ] {
        let now = clock::now().millis();
        said = v1::Statement {
            wall_time_ms: if ahead { now + off_ms } else { now - off_ms },
            ..after(&said, 1_000_000)
        };
        let came = challenged(&mut stream, &node, &said).await;
        let skewed = came.codes.contains(&"clock-skew".to_owned());
        assert_eq!(
            (came.verdict.as_str(), came.lease),
            (verdict, lease),
            "{name}"
        );
        assert_eq!(skewed, off_ms > 0, "{name}: {:?}", came.codes);
    }
    // A challenge is answered once, whatever the clocks say; the refusal carries another.
    let again = node.quote(&said.encode_to_vec(), stream.nonce).await;
    let spent = stream.nonce;
    let next = after(&said, 1_000_000);
    challenged(&mut stream, &node, &next).await;
    let late = v1::Evidence {
        statement: after(&next, 1).encode_to_vec(),
        ..again
    };
    let came = tell(&mut stream, late).await;
    assert_eq!(came.codes, ["nonce-unknown"]);
    assert_ne!(stream.nonce, spent);
}
