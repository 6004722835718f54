//! Lists of revoked certificates made here: whose are believed, of whom, and until when.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyUsagePurpose;

use super::lists::list;
use super::made::{AT, Chain, chain};
use crate::gpu::{CrlRefused, MAX_CRL_BYTES, check_crl, parse_crl};
use crate::ids::UnixTime;
use crate::x509::{Certificate, pem_block};

const AT_SECS: u64 = 1_767_225_600;
/// Whom the certificate below the root certifies.
const GOOD: &str = "NVIDIA GH100 Provisioner ICA 1";
/// 2026-02-01, when lists end.
const ENDS: u64 = 1_769_904_000;

/// Every certificate of a chain but the root, with its issuer.
fn pairs(chain: &Chain) -> Vec<(&Certificate, &Certificate)> {
    let all = &chain.certificates;
    all.iter().zip(all.iter().skip(1)).collect()
}

/// Labels of who is good, and codes of what is wrong.
fn checked(bytes: &[u8], chain: &Chain, at: u64) -> (Vec<String>, Vec<&'static str>) {
    let list = match parse_crl(bytes) {
        Ok(list) => list,
        Err(why) => return (Vec::new(), vec![why.code()]),
    };
    let (good, refused) = check_crl(&list, &pairs(chain), UnixTime::from_secs(at));
    assert!(good.iter().all(|one| one.document == list.digest()));
    let good = good.iter().map(|one| one.subject.subject().label());
    let codes = refused.iter().map(CrlRefused::code);
    (good.collect(), codes.collect())
}

#[test]
fn a_list_is_its_issuers_word_and_says_good_things_for_its_time() {
    let (own, other) = (chain(|_, _, _| ()), chain(|_, _, _| ()));
    let may_not = chain(|place, params, _| {
        if place == 3 {
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        }
    });
    let renamed = chain(|place, params, _| {
        if place == 3 {
            params.distinguished_name = rcgen::DistinguishedName::new();
        }
    });
    let [_, chip, provisioner, identity, _] = &own.certificates[..] else {
        panic!("five certificates");
    };
    let none = |chain: &Chain, by| list(chain, by, &[], |_| ());
    type Row<'a> = (
        &'a str,
        Vec<u8>,
        &'a Chain,
        u64,
        &'a [&'a str],
        &'a [&'a str],
    );
    let rows: Vec<Row<'_>> = vec![
        ("names nobody", none(&own, 3), &own, AT_SECS, &[GOOD], &[]),
        (
            "names somebody else",
            list(&own, 3, &[chip], |_| ()),
            &own,
            AT_SECS,
            &[GOOD],
            &[],
        ),
        (
            "the intermediate is revoked",
            list(&own, 3, &[provisioner], |_| ()),
            &own,
            AT_SECS,
            &[],
            &["crl-revoked"],
        ),
        (
            "the chip is revoked",
            list(&own, 2, &[provisioner, chip], |_| ()),
            &own,
            AT_SECS,
            &[],
            &["crl-revoked"],
        ),
        (
            "by the root about the one below it",
            list(&own, 4, &[identity], |_| ()),
            &own,
            AT_SECS,
            &[],
            &["crl-revoked"],
        ),
        (
            "another issuer of that name, which revokes nobody",
            none(&other, 3),
            &own,
            AT_SECS,
            &[],
            &["crl-signature"],
        ),
        (
            "another issuer of that name, which revokes",
            list(&other, 3, &[provisioner], |_| ()),
            &own,
            AT_SECS,
            &[],
            &["crl-signature"],
        ),
        (
            "an issuer that is not in the chain",
            none(&own, 3),
            &renamed,
            AT_SECS,
            &[],
            &["crl-not-for-certificate"],
        ),
        (
            "an issuer that may not",
            none(&may_not, 3),
            &may_not,
            AT_SECS,
            &[],
            &["crl-key-usage"],
        ),
        ("its last second", none(&own, 3), &own, ENDS, &[GOOD], &[]),
        (
            "after it",
            none(&own, 3),
            &own,
            ENDS + 1,
            &[],
            &["crl-expired"],
        ),
        (
            "a clock five minutes behind",
            none(&own, 3),
            &own,
            AT_SECS - 300,
            &[GOOD],
            &[],
        ),
        (
            "before it",
            none(&own, 3),
            &own,
            AT_SECS - 301,
            &[],
            &["crl-expired"],
        ),
        (
            "revoked then, and revoked still",
            list(&own, 3, &[provisioner], |_| ()),
            &own,
            ENDS + 1,
            &[],
            &["crl-revoked", "crl-expired"],
        ),
        (
            "no list",
            own.certificates[0].as_der().to_vec(),
            &own,
            AT_SECS,
            &[],
            &["crl-malformed"],
        ),
    ];
    for (name, bytes, of, at, good, codes) in rows {
        let good = good.iter().map(|one| (*one).to_owned()).collect();
        assert_eq!(checked(&bytes, of, at), (good, codes.to_vec()), "{name}");
    }
    // Devices of one machine share it: it is told once of each.
    let list = parse_crl(&none(&own, 3)).unwrap();
    let twice = [pairs(&own), pairs(&own)].concat();
    let (good, refused) = check_crl(&list, &twice, AT);
    assert_eq!((good.len(), refused), (1, vec![]));
}

/// Whoever says which certificate issued which is not believed.
#[test]
fn a_list_is_for_those_its_issuer_issued() {
    let own = chain(|_, _, _| ());
    let all = &own.certificates;
    let list = parse_crl(&list(&own, 3, &[], |_| ())).unwrap();
    let rows = [
        ("issued by it", (&all[2], &all[3]), true),
        ("issued by it, as another's", (&all[2], &all[4]), false),
        ("another's, as its own", (&all[1], &all[3]), false),
    ];
    for (name, pair, good) in rows {
        let (believed, refused) = check_crl(&list, &[pair], AT);
        assert_eq!(believed.len(), usize::from(good), "{name}");
        let codes: Vec<_> = refused.iter().map(CrlRefused::code).collect();
        let other = CrlRefused::NotForCertificate(String::new()).code();
        assert_eq!(codes, [other][usize::from(good)..], "{name}");
    }
}

/// Certificates are the sender's to make up, and each of another key costs a verification.
#[test]
fn a_list_is_tried_with_few_issuers_of_one_name() {
    let own = chain(|_, _, _| ());
    let list = parse_crl(&list(&own, 3, &[], |_| ())).unwrap();
    let others: Vec<Chain> = (0..20).map(|_| chain(|_, _, _| ())).collect();
    for (before, good, bad) in [(0, 1, 0), (15, 1, 15), (16, 0, 16), (20, 0, 16)] {
        let chains = others.iter().take(before).chain([&own]);
        let all: Vec<_> = chains.flat_map(pairs).collect();
        let (believed, refused) = check_crl(&list, &all, AT);
        assert_eq!((believed.len(), refused.len()), (good, bad), "{before}");
    }
}

#[test]
fn no_byte_of_a_list_can_be_changed() {
    let own = chain(|_, _, _| ());
    let bytes = list(&own, 3, &[&own.certificates[1]], |_| ());
    assert_eq!(checked(&bytes, &own, AT_SECS).0.len(), 1);
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        let (good, codes) = checked(&changed, &own, AT_SECS);
        assert!(good.is_empty() && codes.len() == 1, "{place}: {codes:?}");
        assert!(!codes.contains(&"crl-revoked"), "{place}");
    }
}

#[test]
fn a_list_is_read_from_der_base64_and_pem_within_its_limit() {
    let own = chain(|_, _, _| ());
    let der = list(&own, 3, &[], |_| ());
    let digest = parse_crl(&der).unwrap().digest();
    let packed = STANDARD.encode(&der);
    let (head, tail) = packed.split_at(64);
    let pem = pem_block("X509 CRL", &der);
    for (name, file) in [
        ("base64", packed.clone()),
        ("base64 in lines", format!("{head}\n{tail}\n")),
        ("PEM", pem.clone()),
    ] {
        assert_eq!(
            parse_crl(file.as_bytes()).unwrap().digest(),
            digest,
            "{name}"
        );
    }
    for (name, file, want) in [
        (
            "another block",
            pem_block("CERTIFICATE", &der),
            "has no block",
        ),
        ("two blocks", format!("{pem}{pem}"), "limit"),
        (
            "half of base64",
            head[..63].to_owned(),
            "neither DER nor base64",
        ),
        ("nothing", String::new(), "incomplete"),
        ("too much", "A".repeat(MAX_CRL_BYTES + 1), "limit"),
    ] {
        let CrlRefused::Malformed(why) = parse_crl(file.as_bytes()).unwrap_err() else {
            panic!("{name} is malformed");
        };
        let why = why.to_string();
        assert!(why.contains(want), "{name}: {why}");
    }
}
