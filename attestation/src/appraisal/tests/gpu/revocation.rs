//! What is known of revocation, and how fresh it has to be.

use super::*;
use crate::gpu::parse_crl;
use crate::gpu::tests::lists::list;

#[test]
fn revocation_is_asked_for_each_ca_and_for_its_time() {
    // Responses are of 2026-01-01, an hour before.
    let node = |status: Option<Vec<u8>>| {
        let mut node = Node::new();
        node.case.now = UnixTime(AT.millis() + 3_600_000);
        node.case.statement.wall_time_ms += 3_600_000;
        node.profile("count = 2", "count = 2\nrevocation_seconds = 86400");
        for gpu in &node.gpus {
            for place in 1..4 {
                let chain = &gpu.chain;
                let says = Says {
                    subject: &chain.certificates[place],
                    issuer: &chain.certificates[place + 1],
                    serial: None,
                    status: match (&status, place) {
                        (Some(other), 2) => other.clone(),
                        _ => good(),
                    },
                    next: true,
                    by: &chain.keys[place + 1],
                    responder: None,
                    extension: Vec::new(),
                };
                let response = Response::parse(&says.der()).unwrap();
                node.case.endorsements.add_ocsp(response);
            }
        }
        node
    };
    let mut fresh = node(None);
    assert_eq!(fresh.codes(), []);
    fresh.profile("86400", "3600");
    assert_eq!(fresh.codes(), []);
    let unknown = ("revocation-unknown".to_owned(), Finding::Unchecked);
    fresh.profile("3600", "3599");
    assert_eq!(fresh.codes(), std::slice::from_ref(&unknown));
    let mut gone = node(Some(revoked(Some(1))));
    let bad = ("ocsp-revoked".to_owned(), Finding::Refused);
    assert_eq!(gone.codes(), [unknown, bad.clone()]);
    // What is known to be revoked counts, asked for or not.
    gone.profile("revocation_seconds = 86400", "");
    assert_eq!(gone.codes(), [bad]);
}

/// Whoever can hand in a file could close any node, if what nobody signed revoked anything. It is
/// told, and each of many is not.
#[test]
fn what_nobody_signed_revokes_nothing_and_is_told() {
    let brought = |status: &[u8], by_issuer: bool| {
        let mut node = Node::new();
        let mut add = |by: usize| {
            let chain = &node.gpus[0].chain;
            let says = Says {
                subject: &chain.certificates[1],
                issuer: &chain.certificates[2],
                serial: None,
                status: status.to_vec(),
                next: true,
                by: &chain.keys[by],
                responder: None,
                extension: Vec::new(),
            };
            let response = Response::parse(&says.der()).unwrap();
            node.case.endorsements.add_ocsp(response);
        };
        match by_issuer {
            true => add(2),
            // The key of the leaf, in the name of the issuer.
            false => (0..9).for_each(|_| add(0)),
        }
        node
    };
    let signed = |code: &str, finding| vec![(code.to_owned(), finding)];
    for (name, status, by_issuer, want, standing) in [
        ("good", good(), true, vec![], Status::Affirming),
        (
            "revoked",
            revoked(None),
            true,
            signed("ocsp-revoked", Finding::Refused),
            Status::Contraindicated,
        ),
        (
            "good, by nobody",
            good(),
            false,
            signed("ocsp-signature", Finding::Warning),
            Status::Warning,
        ),
        (
            "revoked, by nobody",
            revoked(None),
            false,
            signed("ocsp-signature", Finding::Warning),
            Status::Warning,
        ),
    ] {
        let mut node = brought(&status, by_issuer);
        let result = node.result();
        assert_eq!((codes(&result), result.status), (want, standing), "{name}");
        let told = result.deviations().filter(|d| d.code == "ocsp-signature");
        let told: Vec<_> = told.map(|d| d.found.clone()).collect();
        assert_eq!(told.len(), if by_issuer { 0 } else { 8 }, "{name}");
        let said = name.split(',').next().unwrap();
        let said = format!("which says {said}: its signature does not verify");
        assert!(told.iter().all(|found| found.ends_with(&said)), "{told:?}");
    }
}

/// The chip by a response, the two above it by lists: NVIDIA says it in these ways.
#[test]
fn lists_are_asked_as_responses_are() {
    let node = |gone: Option<usize>| {
        let mut node = Node::new();
        node.case.now = UnixTime(AT.millis() + 3_600_000);
        node.case.statement.wall_time_ms += 3_600_000;
        node.profile("count = 2", "count = 2\nrevocation_seconds = 86400");
        for gpu in &node.gpus {
            let chain = &gpu.chain;
            let says = Says {
                subject: &chain.certificates[1],
                issuer: &chain.certificates[2],
                serial: None,
                status: good(),
                next: true,
                by: &chain.keys[2],
                responder: None,
                extension: Vec::new(),
            };
            let response = Response::parse(&says.der()).unwrap();
            node.case.endorsements.add_ocsp(response);
            for by in [3, 4] {
                let gone = gone.filter(|gone| gone + 1 == by);
                let gone: Vec<_> = gone
                    .map(|gone| &chain.certificates[gone])
                    .into_iter()
                    .collect();
                let list = parse_crl(&list(chain, by, &gone, |_| ())).unwrap();
                node.case.endorsements.add_crl(list);
            }
        }
        node
    };
    let mut fresh = node(None);
    assert_eq!(fresh.codes(), []);
    // Two responses, four lists, and two files of reference values say so.
    let result = fresh.result();
    assert_eq!(result.endorsements.len(), 8);
    assert_eq!(
        result.to_json()["bailiwick.endorsements"]
            .as_array()
            .unwrap()
            .len(),
        8
    );
    let unknown = ("revocation-unknown".to_owned(), Finding::Unchecked);
    let bad = ("crl-revoked".to_owned(), Finding::Refused);
    fresh.profile("86400", "3599");
    assert_eq!(fresh.codes(), std::slice::from_ref(&unknown));
    for gone in [2, 3] {
        let mut node = node(Some(gone));
        assert_eq!(node.codes(), [unknown.clone(), bad.clone()], "{gone}");
        // What is known to be revoked counts, asked for or not.
        node.profile("revocation_seconds = 86400", "");
        assert_eq!(node.codes(), std::slice::from_ref(&bad), "{gone}");
    }
    // A list that has ended is no news: nobody could check, and nobody is refused for it.
    let mut late = node(None);
    late.case.now = UnixTime(AT.millis() + 32 * 86_400_000);
    late.case.statement.wall_time_ms = late.case.now.millis();
    late.profile("86400", "31536000");
    assert_eq!(late.codes(), [unknown]);
}
