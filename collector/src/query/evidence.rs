//! Recorded evidence of one node, boot by boot or at points of time.

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::proto::v1;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Query;
use crate::direct::{Policy, node_name};
use crate::ingest::store_failed;
use crate::record::{NodeRow, Verdict};

/// Boots or points of time in one answer: each brings its logs along, 7 MiB at most.
const ASKED: u32 = 32;
/// The file of a policy that is its profile.
const PROFILE: &str = "profile.toml";

/// A span of time of which the newest statement is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Span {
    from: UnixTime,
    /// First moment after it.
    to: UnixTime,
    /// When the boot that fills it was first heard of.
    boot_first: Option<UnixTime>,
    asked: Option<UnixTime>,
}

const OPEN: UnixTime = UnixTime(u64::MAX);

impl Query {
    pub(super) async fn evidence(
        &self,
        request: v1::ListEvidenceRequest,
    ) -> Result<ReceiverStream<Result<v1::RecordedEvidence, Status>>, Status> {
        let asked = u32::try_from(request.at_ms.len()).unwrap_or(u32::MAX);
        if request.boots.max(asked) > ASKED || (request.boots == 0) == (asked == 0) {
            return Err(Status::invalid_argument(format!(
                "evidence-asked: ask for 1 to {ASKED} boots, or for 1 to {ASKED} points of time"
            )));
        }
        let (row, current) = self.find(&request.node).await?;
        let firsts = self.store.boot_list(&row.ek, u32::MAX).await;
        let firsts = firsts.map_err(store_failed)?;
        let spans = match request.boots {
            0 => points(&firsts, &request.at_ms),
            boots => boots_of(&firsts, boots),
        };
        let verdict = request.affirmed.then_some(Verdict::Affirming);
        let mut profile = current.as_deref().map(profile_of).unwrap_or_default();
        let node = node_name(current.as_deref(), &row.ek);
        let (sender, messages) = mpsc::channel(1);
        let query = self.clone();
        tokio::spawn(async move {
            for span in spans {
                let found = query.newest(&row, span, verdict).await;
                let message = match found {
                    Ok(None) => continue,
                    Ok(Some(recorded)) => Ok(v1::RecordedEvidence {
                        node: node.clone(),
                        profile: std::mem::take(&mut profile),
                        ..recorded
                    }),
                    Err(status) => Err(status),
                };
                let failed = message.is_err();
                if sender.send(message).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(messages))
    }

    async fn newest(
        &self,
        row: &NodeRow,
        span: Span,
        verdict: Option<Verdict>,
    ) -> Result<Option<v1::RecordedEvidence>, Status> {
        let found = self
            .store
            .statement_before(&row.ek, span.from, span.to, verdict);
        let Some(statement) = found.await.map_err(store_failed)? else {
            return Ok(None);
        };
        let mut stored = statement.stored;
        stored.logs = self.kept_logs(&row.ek, &stored).await?;
        Ok(Some(v1::RecordedEvidence {
            verdict: statement.verdict,
            statement: Some(stored),
            boot_first_ms: span.boot_first.map_or(0, UnixTime::millis),
            asked_ms: span.asked.map(UnixTime::millis),
            ..v1::RecordedEvidence::default()
        }))
    }
}

/// Each boot lasts until the next one is heard of. Before the first that is known, there may have
/// been others: they count as one.
fn boots_of(firsts: &[UnixTime], boots: u32) -> Vec<Span> {
    let mut to = OPEN;
    let mut spans: Vec<Span> = Vec::new();
    for first in firsts {
        spans.push(Span {
            from: *first,
            to,
            boot_first: Some(*first),
            asked: None,
        });
        to = *first;
    }
    spans.push(Span {
        from: UnixTime(0),
        to,
        boot_first: None,
        asked: None,
    });
    spans.truncate(usize::try_from(boots).unwrap_or(usize::MAX));
    spans
}

fn points(firsts: &[UnixTime], at_ms: &[u64]) -> Vec<Span> {
    let span = |at: &u64| {
        let at = UnixTime(*at);
        Span {
            from: UnixTime(0),
            to: UnixTime(at.millis().saturating_add(1)),
            boot_first: firsts.iter().copied().find(|first| *first <= at),
            asked: Some(at),
        }
    };
    at_ms.iter().map(span).collect()
}

/// The profile of a policy, as approvers signed it.
pub(super) fn profile_of(policy: &Policy) -> Vec<u8> {
    let bundle = v1::PolicyBundle::decode(policy.bundle().as_slice());
    let files = bundle.map(|bundle| bundle.files).unwrap_or_default();
    let mut files = files.into_iter();
    let file = files.find(|file| file.path == PROFILE);
    file.map_or_else(Vec::new, |file| file.content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_lasts_until_the_next_and_a_point_of_time_lies_in_one() {
        let span = |from, to, boot_first: Option<u64>, asked: Option<u64>| Span {
            from: UnixTime(from),
            to: UnixTime(to),
            boot_first: boot_first.map(UnixTime),
            asked: asked.map(UnixTime),
        };
        let open = OPEN.millis();
        let firsts = [UnixTime(30), UnixTime(20)];
        let all = [
            span(30, open, Some(30), None),
            span(20, 30, Some(20), None),
            span(0, 20, None, None),
        ];
        assert_eq!(boots_of(&firsts, 32), all);
        assert_eq!(boots_of(&firsts, 2), all[..2]);
        assert_eq!(boots_of(&[], 2), [span(0, open, None, None)]);
        let asked = [19, 20, 29, 30];
        let want = [
            span(0, 20, None, Some(19)),
            span(0, 21, Some(20), Some(20)),
            span(0, 30, Some(20), Some(29)),
            span(0, 31, Some(30), Some(30)),
        ];
        assert_eq!(points(&firsts, &asked), want);
    }
}
