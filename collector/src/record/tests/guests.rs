//! Two running guests under one name.

use prost::Message as _;

use super::*;

/// One of a guest on a chip that calls it `id`, with a key of its own.
fn guest_enrolment(id: u8, key: &KeyPair, now: u64) -> NewEnrolment {
    let mut report = vec![0; 1184];
    report[0] = 3;
    report[0x34] = 1;
    report[0x188..0x18a].copy_from_slice(&[0x19, 0x01]);
    report[0x140..0x160].copy_from_slice(&[id; 32]);
    let spki = rcgen::PublicKeyData::subject_public_key_info(key);
    NewEnrolment {
        enrolment: v1::Enrolment {
            node: "gpu-01".to_owned(),
            guest: Some(v1::GuestEnrolment {
                request: Some(v1::GuestRequest {
                    transport_spki: spki,
                    ..v1::GuestRequest::default()
                }),
                nonce: vec![0; 32],
                evidence: Some(v1::TeeEvidence {
                    report: Some(v1::TeeReport {
                        kind: "sev-snp".to_owned(),
                        report,
                    }),
                    ..v1::TeeEvidence::default()
                }),
            }),
            ..v1::Enrolment::default()
        },
        ..enrolment(now)
    }
}

#[tokio::test]
async fn a_guest_that_cannot_be_told_from_others_is_not_recorded() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    let mut unread = guest_enrolment(1, &KeyPair::generate().unwrap(), 1);
    let guest = unread.enrolment.guest.as_mut().unwrap();
    let report = guest.evidence.as_mut().unwrap().report.as_mut().unwrap();
    report.report.pop();
    let refused = store.enrolment_insert(unread).await.unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused}");
    assert!(store.node_get(&EK).await.unwrap().is_none());
}

#[tokio::test]
async fn a_guest_that_was_followed_does_not_come_back() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    let keys = [(); 4].map(|()| KeyPair::generate().unwrap());
    let [a, again, b, late] = &keys;
    let insert = |enrolment| store.enrolment_insert(enrolment);
    let first = insert(guest_enrolment(1, a, 1)).await.unwrap();
    let own = insert(guest_enrolment(1, again, 2)).await.unwrap();
    assert_eq!((first, own), (Admitted::Enrolled, Admitted::Enrolled));
    let mut granted = statement(0, Verdict::Affirming, 3);
    granted.lease_until = Some(UnixTime(1_000));
    store.statement_insert(granted).await.unwrap();
    let other = insert(guest_enrolment(2, b, 4)).await.unwrap();
    assert_eq!(other, Admitted::TookOver);
    let row = store.node_get(&EK).await.unwrap().unwrap();
    assert_eq!(
        (row.lease_until, &*row.lease_ended),
        (None, "guest-taken-over")
    );
    assert_eq!(row.twice, None);

    // With another key, too: it is the chip that says which guest it is.
    for (at, key) in [(5, a), (6, late), (7, a)] {
        let back = insert(guest_enrolment(1, key, at)).await.unwrap();
        assert_eq!(back, Admitted::Superseded, "{at}");
        let row = store.node_get(&EK).await.unwrap().unwrap();
        assert_eq!(row.enrolled, UnixTime(4), "nothing of it counts");
        let listed = &store.node_list().await.unwrap()[0].twice;
        let which = format!("instance {} came back", "01".repeat(32));
        assert_eq!(listed, &Some((UnixTime(at), which)));
    }
    let acts = store
        .act_list(Some(&EK), Some(ActKind::Duplicate), 10)
        .await;
    let acts = acts.unwrap();
    assert_eq!(acts.len(), 1, "one leaf, however often it tries");
    let kept = v1::Enrolment::decode(acts[0].body.as_slice()).unwrap();
    assert!(kept.guest.is_some(), "the report is the proof");
    let own = insert(guest_enrolment(2, late, 8)).await.unwrap();
    let third = insert(guest_enrolment(3, a, 9)).await.unwrap();
    assert_eq!((own, third), (Admitted::Enrolled, Admitted::TookOver));
    let back = insert(guest_enrolment(2, b, 10)).await.unwrap();
    assert_eq!(back, Admitted::Superseded);
}

#[tokio::test]
async fn what_was_on_its_way_when_another_enrolled_counts_no_more() {
    let fixture = Fixture::new();
    let (store, _writer) = fixture.open().await;
    let keys = [(); 2].map(|()| KeyPair::generate().unwrap());
    let named = |id: u8, now| NewEnrolment {
        ak_name: vec![0, 11, id],
        ..guest_enrolment(id, &keys[usize::from(id) - 1], now)
    };
    let leased = |number, at, id: u8| {
        let mut said = statement(number, Verdict::Affirming, at);
        said.lease_until = Some(UnixTime(1_000));
        said.ak_name = vec![0, 11, id];
        said
    };
    store.enrolment_insert(named(1, 1)).await.unwrap();
    store.statement_insert(leased(0, 2, 1)).await.unwrap();
    store.enrolment_insert(named(2, 3)).await.unwrap();
    // Judged before, written after: neither lease nor row.
    let late = store.statement_insert(leased(1, 4, 1)).await.unwrap_err();
    assert!(matches!(late, StoreError::Superseded), "{late}");
    let row = store.node_get(&EK).await.unwrap().unwrap();
    assert_eq!((row.lease_until, row.statements), (None, 1));
    store.statement_insert(leased(1, 5, 2)).await.unwrap();
    let row = store.node_get(&EK).await.unwrap().unwrap();
    assert_eq!(
        (row.lease_until, row.statements),
        (Some(UnixTime(1_000)), 2)
    );
}
