//! Bytes that no honest node sends, from a node that has a certificate.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod common;

use std::time::{Duration, Instant};

use bailiwick_attestation::proto::v1::{Hello, NodeMessage, node_message};
use bailiwick_collector::ingest::Closed;
use common::{Fixture, call};
use prost::Message as _;

const ATTEST: &str = "/bailiwick.v1.EvidenceService/Attest";
const BEGIN: &str = "/bailiwick.v1.EnrollService/Begin";
const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const NOT_FOUND: u32 = 5;
const OUT_OF_RANGE: u32 = 11;
const INTERNAL: u32 = 13;
const UNAUTHENTICATED: u32 = 16;

/// A gRPC frame that says it has `len` bytes.
fn frame(len: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    out.extend(len.to_be_bytes());
    out.extend(payload);
    out
}

fn hello() -> Vec<u8> {
    let message = NodeMessage {
        message: Some(node_message::Message::Hello(Hello::default())),
    };
    let bytes = message.encode_to_vec();
    frame(u32::try_from(bytes.len()).unwrap(), &bytes)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[tokio::test]
async fn a_message_of_4_gib_less_one_is_refused_before_it_is_read() {
    let fixture = Fixture::new();
    let node = fixture.node("gpu-01", 600_000).await;
    let running = fixture.start().await;
    let before = resident_kib();
    let huge = frame(u32::MAX, &[0; 4096]);
    let tls = fixture.connect(running.bound.evidence, Some(node)).await;
    let status = call(tls.unwrap(), ATTEST, &[&huge], false).await.unwrap();
    assert_eq!(status, OUT_OF_RANGE);
    let tls = fixture.connect(running.bound.enroll, None).await.unwrap();
    let status = call(tls, BEGIN, &[&huge], false).await.unwrap();
    assert_eq!(status, OUT_OF_RANGE);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB");
    running.stop().await;
}

#[tokio::test]
async fn a_message_one_byte_short_ends_its_stream_and_no_other() {
    let fixture = Fixture::new();
    let node = fixture.node("gpu-01", 600_000).await;
    let other = fixture.node("gpu-02", 600_000).await;
    let running = fixture.start().await;
    let whole = hello();
    let len = u32::try_from(whole.len() - 5).unwrap();
    let short = frame(len + 1, &whole[5..]);
    let tls = fixture.connect(running.bound.evidence, Some(node)).await;
    let status = call(tls.unwrap(), ATTEST, &[&short], true).await.unwrap();
    assert_eq!(status, INTERNAL);
    // Cut inside the message itself: the frame is whole, the protocol buffer is not.
    let cut = frame(3, &[0x12, 0x05, 0x00]);
    let tls = fixture.connect(running.bound.evidence, Some(other)).await;
    let status = call(tls.unwrap(), ATTEST, &[&cut], true).await.unwrap();
    assert_eq!(status, INTERNAL);
    running.stop().await;
}

#[tokio::test]
async fn a_message_without_content_is_refused() {
    let fixture = Fixture::new();
    let node = fixture.node("gpu-01", 600_000).await;
    let running = fixture.start().await;
    let tls = fixture.connect(running.bound.evidence, Some(node)).await;
    let empty = frame(0, &[]);
    let status = call(tls.unwrap(), ATTEST, &[&empty], false).await.unwrap();
    assert_eq!(status, INVALID_ARGUMENT);
    running.stop().await;
}

/// Sends greetings for ever, none of them evidence.
#[tokio::test]
async fn a_stream_that_never_ends_is_ended() {
    let mut fixture = Fixture::new();
    fixture.config.ingest.idle_seconds = 1;
    let node = fixture.node("gpu-01", 600_000).await;
    let running = fixture.start().await;
    let greeting = hello();
    let frames: Vec<&[u8]> = (0..200).map(|_| greeting.as_slice()).collect();
    let tls = fixture.connect(running.bound.evidence, Some(node)).await;
    let begun = Instant::now();
    let ended = tokio::time::timeout(
        Duration::from_secs(10),
        call(tls.unwrap(), ATTEST, &frames, false),
    );
    assert_eq!(ended.await.unwrap().unwrap(), DEADLINE_EXCEEDED);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    running.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate() {
    let fixture = Fixture::new();
    let node = fixture.node("gpu-01", 2_000).await;
    let running = fixture.start().await;
    let tls = fixture.connect(running.bound.evidence, Some(node)).await;
    let greeting = hello();
    let frames = [greeting.as_slice()];
    let ended = tokio::time::timeout(
        Duration::from_secs(10),
        call(tls.unwrap(), ATTEST, &frames, false),
    );
    assert_eq!(ended.await.unwrap().unwrap(), UNAUTHENTICATED);
    running.stop().await;
}

#[tokio::test]
async fn an_older_certificate_of_the_same_tpm_is_superseded() {
    let fixture = Fixture::new();
    let older = fixture.node("gpu-01", 600_000).await;
    let newer = fixture.node("gpu-01", 600_000).await;
    let running = fixture.start().await;
    let tls = fixture.connect(running.bound.evidence, Some(older)).await;
    let status = call(tls.unwrap(), ATTEST, &[&hello()], false).await;
    assert_eq!(status.unwrap(), UNAUTHENTICATED);
    let tls = fixture.connect(running.bound.evidence, Some(newer)).await;
    let fetch = "/bailiwick.v1.EvidenceService/FetchPolicy";
    let status = call(tls.unwrap(), fetch, &[&[0; 5]], true).await;
    assert_eq!(status.unwrap(), NOT_FOUND);
    running.stop().await;
}

#[test]
fn every_reason_to_close_a_stream_has_a_word() {
    let words = [Closed::Replaced, Closed::ReEnrolled, Closed::Revoked].map(Closed::code);
    assert_eq!(
        words,
        ["stream-replaced", "node-re-enrolled", "certificate-revoked"]
    );
}
