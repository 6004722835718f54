//! Responses about revocation made here: whose are believed, about what, and until when.

use rcgen::{ExtendedKeyUsagePurpose, KeyPair};

use super::made::{AT, chain, chain_of, five_keys, oid, p384, tlv};
use super::responses::{Says, good, responder, revoked};
use crate::gpu::{OcspRefused, Response, Status};
use crate::ids::UnixTime;

const AT_SECS: u64 = 1_767_225_600;
const DAY: u64 = 24 * 60 * 60;

fn codes(refused: &[OcspRefused]) -> Vec<&'static str> {
    refused.iter().map(OcspRefused::code).collect()
}

#[test]
fn an_answer_is_the_issuers_or_its_responders_and_counts_for_its_time() {
    let (made, other) = (chain(|_, _, _| ()), chain(|_, _, _| ()));
    let key = p384();
    let own = responder(&made, 2, &key, |_| ());
    let no_purpose = responder(&made, 2, &key, |params| params.extended_key_usages.clear());
    let other_purpose = responder(&made, 2, &key, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let by_another = responder(&other, 2, &key, |_| ());
    let by_ca_above = responder(&made, 3, &key, |_| ());
    let expired = responder(&made, 2, &key, |params| {
        params.not_after = rcgen::date_time_ymd(2025, 12, 31);
    });
    // Responses are made in the first second of 2026.
    let dates = |from: i64, until: i64| {
        let day = rcgen::date_time_ymd(2026, 1, 1).unix_timestamp();
        let at = |seconds| {
            let moved = u64::try_from(day + seconds).unwrap();
            rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(moved)
        };
        responder(&made, 2, &key, |params| {
            params.not_before = at(from);
            params.not_after = at(until);
        })
    };
    let (that_second, too_late) = (dates(0, 0), dates(1, 60));
    let too_early = dates(-60, -1);
    let p256 = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let other_curve = p256();
    let on_p256 = responder(&made, 2, &other_curve, |_| ());
    let says = |responder| Says {
        subject: &made.certificates[1],
        issuer: &made.certificates[2],
        serial: None,
        status: good(),
        next: true,
        by: &key,
        responder,
        extension: Vec::new(),
    };
    let noncritical = tlv(
        0xa1,
        &[&tlv(0x30, &[&tlv(0x30, &[&oid(&[0x2a, 3]), &[4, 0]])])],
    );
    let critical = tlv(
        0xa1,
        &[&tlv(
            0x30,
            &[&tlv(0x30, &[&oid(&[0x2a, 3]), &[1, 1, 0xff], &[4, 0]])],
        )],
    );
    let plain = || says(Some(&own));
    let rows = [
        ("good", plain().der(), &[][..]),
        (
            "by the issuer itself",
            Says {
                by: &made.keys[2],
                ..says(None)
            }
            .der(),
            &[],
        ),
        (
            "by another key in the issuer's name",
            Says {
                by: &key,
                ..says(None)
            }
            .der(),
            &["ocsp-signature"],
        ),
        (
            "by another key than the responder's",
            Says {
                by: &other.keys[2],
                ..plain()
            }
            .der(),
            &["ocsp-signature"],
        ),
        (
            "responder without purpose",
            says(Some(&no_purpose)).der(),
            &["ocsp-signature"],
        ),
        (
            "responder for something else",
            says(Some(&other_purpose)).der(),
            &["ocsp-signature"],
        ),
        (
            "responder of another issuer",
            says(Some(&by_another)).der(),
            &["ocsp-signature"],
        ),
        (
            "responder of the CA above",
            says(Some(&by_ca_above)).der(),
            &["ocsp-signature"],
        ),
        (
            "responder that had expired",
            says(Some(&expired)).der(),
            &["ocsp-signature"],
        ),
        (
            "responder that was valid just then",
            says(Some(&that_second)).der(),
            &[],
        ),
        (
            "responder that was not valid any more",
            says(Some(&too_early)).der(),
            &["ocsp-signature"],
        ),
        (
            "responder that was not valid yet",
            says(Some(&too_late)).der(),
            &["ocsp-signature"],
        ),
        (
            "responder on another curve",
            Says {
                by: &other_curve,
                ..says(Some(&on_p256))
            }
            .der(),
            &["ocsp-signature"],
        ),
        (
            "leaf as responder",
            Says {
                by: &made.keys[0],
                ..says(Some(&made.certificates[0]))
            }
            .der(),
            &["ocsp-signature"],
        ),
        (
            "revoked",
            Says {
                status: revoked(Some(1)),
                ..plain()
            }
            .der(),
            &["ocsp-revoked"],
        ),
        (
            "revoked for no reason",
            Says {
                status: revoked(None),
                ..plain()
            }
            .der(),
            &["ocsp-revoked"],
        ),
        (
            "on hold",
            Says {
                status: revoked(Some(6)),
                ..plain()
            }
            .der(),
            &["ocsp-revoked"],
        ),
        (
            "unknown",
            Says {
                status: vec![0x82, 0],
                ..plain()
            }
            .der(),
            &["ocsp-unknown"],
        ),
        (
            "another number",
            Says {
                serial: Some(vec![9]),
                ..plain()
            }
            .der(),
            &["ocsp-not-for-certificate"],
        ),
        (
            "another issuer",
            Says {
                issuer: &other.certificates[2],
                ..plain()
            }
            .der(),
            &["ocsp-not-for-certificate"],
        ),
        (
            "with an extension",
            Says {
                extension: noncritical,
                ..plain()
            }
            .der(),
            &[],
        ),
        (
            "with a critical one",
            Says {
                extension: critical,
                ..plain()
            }
            .der(),
            &["ocsp-malformed"],
        ),
        (
            "revoked, by nobody",
            Says {
                status: revoked(Some(1)),
                by: &other.keys[0],
                ..plain()
            }
            .der(),
            &["ocsp-signature"],
        ),
        (
            "revoked, by the key of a responder that was not valid any more",
            Says {
                status: revoked(Some(1)),
                ..says(Some(&too_early))
            }
            .der(),
            &["ocsp-signature"],
        ),
        (
            "unknown, by a responder of another issuer",
            Says {
                status: vec![0x82, 0],
                ..says(Some(&by_another))
            }
            .der(),
            &["ocsp-signature"],
        ),
    ];
    let pairs: Vec<_> = made
        .certificates
        .iter()
        .zip(&made.certificates[1..])
        .collect();
    for (name, der, want) in &rows {
        let found = match Response::parse(der) {
            Ok(response) => {
                let (believed, refused) = response.check(&pairs, AT);
                assert_eq!(believed.is_empty(), !refused.is_empty(), "{name}");
                codes(&refused)
            }
            Err(error) => vec![error.code()],
        };
        assert_eq!(found, *want, "{name}");
    }
    let mut keys = five_keys();
    keys[2] = p256();
    let weak = chain_of(keys, |_, _, _| ());
    let by_weak = Says {
        subject: &weak.certificates[1],
        issuer: &weak.certificates[2],
        by: &weak.keys[2],
        ..says(None)
    };
    let by_weak = Response::parse(&by_weak.der()).unwrap();
    let pair = (&weak.certificates[1], &weak.certificates[2]);
    let (_, refused) = by_weak.check(&[pair], AT);
    assert_eq!(
        codes(&refused),
        ["ocsp-signature"],
        "issuer on another curve"
    );
    let response = Response::parse(&plain().der()).unwrap();
    let (believed, _) = response.check(&pairs, AT);
    assert_eq!(believed[0].subject, &made.certificates[1]);
    assert_eq!(believed[0].status, Status::Good);
    let endless = Says {
        next: false,
        ..plain()
    };
    let endless = Response::parse(&endless.der()).unwrap();
    let by_nobody = Says {
        status: revoked(Some(1)),
        by: &other.keys[0],
        ..plain()
    };
    let by_nobody = Response::parse(&by_nobody.der()).unwrap();
    let (_, refused) = by_nobody.check(&pairs, AT);
    assert_eq!(
        refused[0].to_string(),
        "the response about \"GH100 A01 GSP BROM\", which says revoked: its signature does not verify"
    );
    let taken_back = Says {
        status: revoked(Some(1)),
        ..plain()
    };
    let taken_back = Response::parse(&taken_back.der()).unwrap();
    let late = AT_SECS + DAY + 1;
    for (name, response, at, want) in [
        (
            "what nobody signed has no end",
            &by_nobody,
            late,
            &["ocsp-signature"][..],
        ),
        (
            "what was taken back stays so",
            &taken_back,
            late,
            &["ocsp-expired", "ocsp-revoked"],
        ),
        ("five minutes early", &response, AT_SECS - 300, &[]),
        ("earlier", &response, AT_SECS - 301, &["ocsp-expired"]),
        ("last second", &response, AT_SECS + DAY, &[]),
        ("later", &response, AT_SECS + DAY + 1, &["ocsp-expired"]),
        (
            "an hour, where it does not say",
            &endless,
            AT_SECS + 3600,
            &[],
        ),
        (
            "more than that",
            &endless,
            AT_SECS + 3601,
            &["ocsp-expired"],
        ),
    ] {
        let (_, refused) = response.check(&pairs, UnixTime::from_secs(at));
        assert_eq!(codes(&refused), want, "{name}");
    }
}

#[test]
fn a_response_is_read_to_its_last_byte() {
    use base64::Engine as _;
    let made = chain(|_, _, _| ());
    let key = p384();
    let own = responder(&made, 2, &key, |_| ());
    let der = Says {
        subject: &made.certificates[1],
        issuer: &made.certificates[2],
        serial: None,
        status: good(),
        next: true,
        by: &key,
        responder: Some(&own),
        extension: Vec::new(),
    }
    .der();
    let response = Response::parse(&der).unwrap();
    let mut packed = base64::engine::general_purpose::STANDARD.encode(&der);
    packed.insert(64, '\n');
    assert_eq!(Response::parse(packed.as_bytes()).unwrap(), response);
    for len in 0..der.len() {
        let error = Response::parse(&der[..len]).unwrap_err();
        assert_eq!(error.code(), "ocsp-malformed", "cut after {len}");
    }
    let longer = [&der[..], &[0]].concat();
    assert_eq!(
        Response::parse(&longer).unwrap_err().code(),
        "ocsp-malformed"
    );
    let error = Response::parse(&[0x30, 3, 0x0a, 1, 6]).unwrap_err();
    assert_eq!(error.code(), "ocsp-status");
    let pairs: Vec<_> = made
        .certificates
        .iter()
        .zip(&made.certificates[1..])
        .collect();
    for at in 0..der.len() {
        let mut changed = der.clone();
        changed[at] ^= 1;
        let Ok(response) = Response::parse(&changed) else {
            continue;
        };
        let (believed, _) = response.check(&pairs, AT);
        assert!(believed.is_empty(), "byte {at}");
    }
}
