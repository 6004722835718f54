//! What passed the fences, and where to.

use std::collections::BTreeMap;

use bailiwick_attestation::events::Entry;
use bailiwick_attestation::proto::v1::{self, log_entry::What};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use tonic::Status;

use super::Query;
use crate::clock;
use crate::direct::node_name;
use crate::ingest::store_failed;
use crate::record::{EntryFilter, FlowFilter, FlowSpan};

/// A node tells at least so often what passed; until then nothing is missing.
const SLOWEST_MS: u64 = 15 * 60 * 1000;
/// Entries read for one list of destinations.
const ENTRIES: u32 = 50_000;
/// Destinations in one answer.
const DESTINATIONS: usize = 10_000;

impl Query {
    /// Sums, and what they leave out.
    pub(super) async fn flows(
        &self,
        request: &v1::ListFlowsRequest,
    ) -> Result<v1::ListFlowsResponse, Status> {
        let ek = self.ek_of(&request.node).await?;
        let now = clock::now();
        let to = match request.to_ms {
            0 => now,
            to => UnixTime(to),
        };
        let from = UnixTime(request.from_ms);
        let filter = FlowFilter {
            ek: ek.as_ref(),
            study: &request.study,
            jurisdiction: &request.jurisdiction,
            from,
            to,
        };
        let (rows, more) = self.store.flow_list(&filter).await.map_err(store_failed)?;
        let spans = self.store.flow_spans(ek.as_ref(), from, to).await;
        let spans = spans.map_err(store_failed)?;
        let nodes: Vec<Sha256Digest> = match ek {
            Some(ek) => vec![ek],
            None => {
                let nodes = self.store.node_list().await.map_err(store_failed)?;
                nodes.iter().map(|row| row.ek).collect()
            }
        };
        let current = self.director.current();
        let name = |ek: &Sha256Digest| node_name(current.as_deref(), ek);
        let mut not_counted = Vec::new();
        for ek in nodes {
            let own: Vec<FlowSpan> = spans.iter().filter(|span| span.ek == ek).copied().collect();
            not_counted.extend(gaps(&own, from, to, now).into_iter().map(|(from, to)| {
                v1::FlowGap {
                    node: name(&ek),
                    from_ms: from.millis(),
                    to_ms: to.millis(),
                }
            }));
        }
        let flows = rows.into_iter().map(|row| v1::FlowSum {
            node: name(&row.ek),
            study: row.study,
            jurisdiction: row.jurisdiction,
            direction: row.direction,
            from_ms: row.from.millis(),
            to_ms: row.to.millis(),
            packets: row.packets,
            bytes: row.bytes,
        });
        Ok(v1::ListFlowsResponse {
            flows: flows.collect(),
            more,
            not_counted,
        })
    }

    /// Far ends, from denials and samples.
    pub(super) async fn destinations(
        &self,
        request: &v1::ListDestinationsRequest,
    ) -> Result<v1::ListDestinationsResponse, Status> {
        let ek = self.ek_of(&request.node).await?;
        let to = match request.to_ms {
            0 => clock::now(),
            to => UnixTime(to),
        };
        let from = UnixTime(request.from_ms);
        let mut sums = Sums::default();
        let mut more = false;
        for kind in ["event", "sample"] {
            let filter = EntryFilter {
                ek: ek.as_ref(),
                study: &request.study,
                kind,
                // What happened then came then or later.
                from,
                to: UnixTime(u64::MAX),
                limit: ENTRIES,
            };
            let rows = self.store.entry_list(&filter).await.map_err(store_failed)?;
            more |= rows.len() >= usize::try_from(ENTRIES).unwrap_or(usize::MAX);
            for row in rows {
                let Ok(entry) = Entry::parse(&row.entry) else {
                    continue;
                };
                let What::Denial(denial) = &entry.what else {
                    continue;
                };
                if !(from..=to).contains(&entry.wall_time) {
                    continue;
                }
                let mut event = v1::StoredEvent::default();
                self.open_private(&row, &mut event).await?;
                sums.add(entry.wall_time, denial, event.private, event.closed);
            }
        }
        let (destinations, cut) = sums.list(DESTINATIONS);
        Ok(v1::ListDestinationsResponse {
            destinations,
            more: more || cut,
        })
    }

    async fn ek_of(&self, node: &str) -> Result<Option<Sha256Digest>, Status> {
        match node {
            "" => Ok(None),
            name => Ok(Some(self.find(name).await?.0.ek)),
        }
    }
}

/// Parts of a time that no span covers. The end of it, where that is now, is not missed yet.
fn gaps(
    spans: &[FlowSpan],
    from: UnixTime,
    to: UnixTime,
    now: UnixTime,
) -> Vec<(UnixTime, UnixTime)> {
    let mut gaps = Vec::new();
    let mut known = from;
    for span in spans {
        if span.from > known && known < to {
            gaps.push((known, span.from.min(to)));
        }
        known = known.max(span.to);
    }
    let fresh = UnixTime(now.millis().saturating_sub(SLOWEST_MS));
    if known < to && known <= fresh {
        gaps.push((known, to));
    }
    gaps
}

/// What makes two denials, or samples, ones of the same.
type Key = (
    String,
    Vec<u8>,
    u32,
    u32,
    String,
    String,
    String,
    String,
    String,
);

/// Denials and samples, by where to.
#[derive(Debug, Default)]
struct Sums(BTreeMap<Key, v1::Destination>);

impl Sums {
    fn add(
        &mut self,
        at: UnixTime,
        denial: &v1::Denial,
        private: Option<v1::DenialPrivate>,
        closed: String,
    ) {
        let closed = match (&private, denial.others) {
            (Some(_), _) => String::new(),
            (None, true) => "told together".to_owned(),
            (None, false) => closed,
        };
        let private = private.unwrap_or_default();
        let (address, port) = if denial.direction == "ingress" {
            (private.source, private.source_port)
        } else {
            (private.destination, private.destination_port)
        };
        let key = (
            denial.study.clone(),
            address,
            port,
            denial.protocol,
            denial.direction.clone(),
            denial.jurisdiction.clone(),
            denial.verdict.clone(),
            denial.rule.clone(),
            closed,
        );
        let (study, address, port, protocol, direction, jurisdiction, verdict, rule, closed) =
            key.clone();
        let sum = self.0.entry(key).or_insert_with(|| v1::Destination {
            study,
            address,
            port,
            protocol,
            direction,
            jurisdiction,
            verdict,
            rule,
            closed,
            first_ms: at.millis(),
            ..v1::Destination::default()
        });
        sum.packets = sum.packets.saturating_add(denial.count);
        sum.bytes = sum.bytes.saturating_add(denial.bytes);
        sum.sampled = sum.sampled.max(denial.sampled);
        sum.first_ms = sum.first_ms.min(at.millis());
        sum.last_ms = sum.last_ms.max(at.millis());
    }

    /// Most packets first; true: there are more.
    fn list(self, most: usize) -> (Vec<v1::Destination>, bool) {
        let mut all: Vec<v1::Destination> = self.0.into_values().collect();
        all.sort_by_key(|to| std::cmp::Reverse(to.packets));
        let cut = all.len() > most;
        all.truncate(most);
        (all, cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from: u64, to: u64) -> FlowSpan {
        FlowSpan {
            ek: Sha256Digest([7; 32]),
            from: UnixTime(from),
            to: UnixTime(to),
        }
    }

    #[test]
    fn what_was_not_counted_is_told() {
        const HOUR: u64 = 3_600_000;
        let long_ago = 100 * HOUR;
        type Row<'a> = (&'a str, &'a [FlowSpan], u64, &'a [(u64, u64)]);
        let cases: &[Row<'_>] = &[
            ("nothing was", &[], long_ago, &[(10, 50)]),
            ("all was", &[span(5, 60)], long_ago, &[]),
            ("exactly", &[span(10, 50)], long_ago, &[]),
            (
                "the beginning was not",
                &[span(20, 60)],
                long_ago,
                &[(10, 20)],
            ),
            ("the end was not", &[span(5, 40)], long_ago, &[(40, 50)]),
            (
                "a break",
                &[span(5, 20), span(30, 60)],
                long_ago,
                &[(20, 30)],
            ),
            (
                "spans that overlap",
                &[span(5, 40), span(20, 30), span(40, 60)],
                long_ago,
                &[],
            ),
            (
                "before and after",
                &[span(1, 9), span(51, 60)],
                long_ago,
                &[(10, 50)],
            ),
            (
                "what follows the end",
                &[span(5, 50), span(60, 70)],
                long_ago,
                &[],
            ),
            ("the end is now", &[span(5, 40)], 50, &[]),
        ];
        for (name, spans, now, want) in cases {
            let found = gaps(spans, UnixTime(10), UnixTime(50), UnixTime(*now));
            let found: Vec<_> = found
                .iter()
                .map(|(a, b)| (a.millis(), b.millis()))
                .collect();
            assert_eq!(found, *want, "{name}");
        }
        let now = UnixTime(10 * HOUR);
        let late = gaps(&[span(0, 10 * HOUR - SLOWEST_MS)], UnixTime(0), now, now);
        assert_eq!(late.len(), 1, "a node that is silent");
        let young = gaps(
            &[span(0, 10 * HOUR - SLOWEST_MS + 1)],
            UnixTime(0),
            now,
            now,
        );
        assert!(young.is_empty(), "a node that has not told yet");
    }

    #[test]
    fn destinations_add_up_and_closed_ones_say_so() {
        let denial = |verdict: &str, count| v1::Denial {
            study: "cardio".into(),
            direction: "egress".into(),
            protocol: 6,
            jurisdiction: "US".into(),
            rule: "jurisdiction".into(),
            verdict: verdict.into(),
            count,
            bytes: 10 * count,
            ..v1::Denial::default()
        };
        let to = |address: &[u8]| {
            Some(v1::DenialPrivate {
                destination: address.to_vec(),
                destination_port: 443,
                source: vec![10, 9, 1, 7],
                source_port: 50_000,
                ..v1::DenialPrivate::default()
            })
        };
        let mut sums = Sums::default();
        let far = to(&[203, 0, 113, 9]);
        sums.add(UnixTime(5), &denial("deny", 3), far.clone(), String::new());
        sums.add(UnixTime(3), &denial("deny", 4), far.clone(), String::new());
        sums.add(UnixTime(9), &denial("allow", 100), far, String::new());
        sums.add(UnixTime(9), &denial("deny", 1), None, "erased".into());
        let together = v1::Denial {
            others: true,
            ..denial("deny", 50)
        };
        sums.add(UnixTime(9), &together, None, "nothing sealed".into());
        let incoming = v1::Denial {
            direction: "ingress".into(),
            ..denial("deny", 2)
        };
        sums.add(UnixTime(9), &incoming, to(&[10, 9, 1, 8]), String::new());
        let (all, cut) = sums.list(10);
        let said: Vec<_> = all
            .iter()
            .map(|to| {
                (
                    to.packets,
                    to.verdict.as_str(),
                    to.address.len(),
                    to.closed.as_str(),
                )
            })
            .collect();
        let want = [
            (100, "allow", 4, ""),
            (50, "deny", 0, "told together"),
            (7, "deny", 4, ""),
            (2, "deny", 4, ""),
            (1, "deny", 0, "erased"),
        ];
        assert_eq!((said.as_slice(), cut), (want.as_slice(), false));
        assert_eq!((all[2].first_ms, all[2].last_ms, all[2].bytes), (3, 5, 70));
        assert_eq!(all[3].port, 50_000, "the far end of what comes in");
        let kind = |to: &v1::Destination| {
            let words = [&to.study, &to.direction, &to.jurisdiction, &to.rule];
            (words.map(String::clone).join(" "), to.protocol)
        };
        let want = ("cardio egress US jurisdiction".to_owned(), 6);
        assert_eq!(kind(&all[2]), want);
    }

    #[test]
    fn a_list_that_is_cut_says_so() {
        for (most, want) in [(4, (4, true)), (5, (5, false))] {
            let (all, cut) = five().list(most);
            assert_eq!((all.len(), cut), want, "{most}");
        }
    }

    /// Denials to five ports.
    fn five() -> Sums {
        let mut sums = Sums::default();
        for port in 0..5 {
            let private = v1::DenialPrivate {
                destination_port: port,
                ..v1::DenialPrivate::default()
            };
            sums.add(
                UnixTime(1),
                &v1::Denial::default(),
                Some(private),
                String::new(),
            );
        }
        sums
    }
}
