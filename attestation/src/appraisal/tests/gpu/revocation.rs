//! What is known of revocation, and how fresh it has to be.

use super::*;

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
