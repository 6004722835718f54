//! The collector's own keys as an operator sees them: what approvers list, what is held here, and
//! which of them is at work.

use std::sync::Arc;

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::{Lapsed, Term, UnixTime};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::Query;
use crate::cas::Cas;
use crate::clock;
use crate::direct::LeaseKeys;

/// The collector's own keys.
#[derive(Clone, Debug)]
pub struct KeysHeld {
    /// Sign standing.
    pub leases: Arc<LeaseKeys>,
    /// Issue certificates of servers and nodes.
    pub cas: Arc<Cas>,
}

/// One kind of key: those listed with id, public half and term, those held, those at work.
struct Kind {
    name: &'static str,
    listed: Vec<(String, String, Term)>,
    held: Vec<(String, String)>,
    used: Vec<String>,
}

impl Query {
    pub(super) fn collector_keys(&self) -> v1::ListCollectorKeysResponse {
        let now = clock::now();
        let current = self.director.current();
        let listed = current.as_ref().map(|policy| policy.collector_keys());
        let none = bailiwick_policy::model::CollectorKeys::default();
        let keys = listed.unwrap_or(&none);
        let base64 = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        let signers = self.store.signers();
        let lease = Kind {
            name: "lease",
            listed: keys
                .lease_keys
                .iter()
                .map(|key| (key.id.clone(), base64(&key.ed25519), key.term))
                .collect(),
            held: self
                .held
                .leases
                .held()
                .iter()
                .map(|key| (key.id.clone(), base64(&key.ed25519)))
                .collect(),
            used: listed
                .and_then(|listed| self.held.leases.active(listed, now)?.public().ok())
                .map(|key| base64(&key.ed25519))
                .into_iter()
                .collect(),
        };
        let log = Kind {
            name: "log",
            listed: keys
                .logs
                .iter()
                .map(|key| (key_hash(&key.vkey), key.vkey.clone(), key.term))
                .collect(),
            held: signers
                .vkeys()
                .into_iter()
                .map(|vkey| (key_hash(&vkey), vkey))
                .collect(),
            used: signers.signing(),
        };
        let cas = &self.held.cas;
        let ca = Kind {
            name: "ca",
            listed: keys
                .cas
                .iter()
                .map(|ca| (ca.id.clone(), ca.spki.to_string(), ca.term))
                .collect(),
            held: cas
                .held()
                .map(|ca| (ca.id.clone(), ca.spki.to_string()))
                .collect(),
            used: cas
                .issuing(listed, now)
                .map(|ca| ca.spki.to_string())
                .into_iter()
                .collect(),
        };
        let first = keys.key_stores.first().map(|store| base64(&store.p256));
        let store = Kind {
            name: "key-store",
            listed: keys
                .key_stores
                .iter()
                .map(|store| (store.id.clone(), base64(&store.p256), Term::default()))
                .collect(),
            held: self
                .keys
                .publics()
                .into_iter()
                .map(|(id, point)| (id, base64(&point)))
                .collect(),
            used: first.into_iter().collect(),
        };
        let kinds = [lease, log, ca, store];
        v1::ListCollectorKeysResponse {
            keys: kinds.iter().flat_map(|kind| rows(kind, now)).collect(),
            policy_version: current.map_or(0, |policy| policy.version()),
        }
    }
}

fn rows(kind: &Kind, now: UnixTime) -> Vec<v1::CollectorKey> {
    let row = |id: &str, public: &str, term: Term, state: &str| v1::CollectorKey {
        kind: kind.name.to_owned(),
        id: id.to_owned(),
        public: public.to_owned(),
        state: state.to_owned(),
        held: kind.held.iter().any(|(_, held)| held == public),
        used: kind.used.iter().any(|used| used == public),
        not_before_ms: term.not_before.map(UnixTime::millis),
        not_after_ms: term.not_after.map(UnixTime::millis),
        revoked_ms: term.revoked.map(UnixTime::millis),
    };
    let listed = kind.listed.iter().map(|(id, public, term)| {
        let state = match term.counts(now) {
            Ok(()) => "in-force",
            Err(Lapsed::Early(_)) => "early",
            Err(Lapsed::Ended(_)) => "ended",
            Err(Lapsed::Revoked(_)) => "revoked",
        };
        row(id, public, *term, state)
    });
    let known = |public: &String| kind.listed.iter().any(|(_, listed, _)| listed == public);
    let unlisted = kind.held.iter().filter(|(_, public)| !known(public));
    let unlisted = unlisted.map(|(id, public)| row(id, public, Term::default(), "not-listed"));
    listed.chain(unlisted).collect()
}

/// The key hash in `NAME+HASH+KEY`.
fn key_hash(vkey: &str) -> String {
    vkey.split('+').nth(1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_says_whether_it_counts_is_held_and_works() {
        let own = |text: &str| text.to_owned();
        let at = |ms| Some(UnixTime(ms));
        let open = Term::default();
        let revoked = Term {
            revoked: at(7),
            ..open
        };
        let early = Term {
            not_before: at(11),
            ..open
        };
        let ended = Term {
            not_after: at(10),
            ..open
        };
        let kind = Kind {
            name: "lease",
            listed: vec![
                (own("a"), own("A"), open),
                (own("b"), own("B"), revoked),
                (own("c"), own("C"), early),
                (own("d"), own("D"), ended),
            ],
            held: vec![
                (own("a"), own("A")),
                (own("b"), own("B")),
                (own("e"), own("E")),
            ],
            used: vec![own("A")],
        };
        let rows = rows(&kind, UnixTime(10));
        let rows: Vec<(&str, &str, bool, bool)> = rows
            .iter()
            .map(|row| (row.id.as_str(), row.state.as_str(), row.held, row.used))
            .collect();
        let want = [
            ("a", "in-force", true, true),
            ("b", "revoked", true, false),
            ("c", "early", false, false),
            ("d", "ended", false, false),
            ("e", "not-listed", true, false),
        ];
        assert_eq!(rows, want);
        assert_eq!(key_hash("log.example/eu+c74f20a3+ARpc"), "c74f20a3");
    }
}
