//! A node whose place is asked for, and each neighbour of it that does not say.

use super::*;
use crate::{
    appraisal::verify::GeotagShown, evidence::geotag_binding, geotag::Geotag, profile::Provenance,
};

/// Half a year either way.
const WHILE: u64 = 15_552_000_000;

fn tag() -> Geotag {
    Geotag {
        deployment: DeploymentId::new("demo").unwrap(),
        ek: Sha256Digest([0x11; 32]),
        place: "FRA1 / row 3".to_owned(),
        rack: Some("12".to_owned()),
        jurisdiction: JurisdictionCode::new("DE").unwrap(),
        at: UnixTime(NOW.0 - WHILE),
        until: UnixTime(NOW.0 + WHILE),
    }
}

fn signed(tag: Geotag) -> GeoWord {
    GeoWord::Signed {
        tag,
        by: "alice".to_owned(),
    }
}

fn asking() -> Case {
    let mut case = Case::ordinary();
    case.require(
        "geo.jurisdiction",
        "is = \"DE\"\nprovenance = \"operator-signed\"",
    );
    case
}

#[test]
fn a_place_is_claimed_by_a_geotag_in_its_time_alone() {
    let refused = |code| GeoWord::Refused {
        code,
        why: "so it is".to_owned(),
    };
    let moved = |at: u64, until: u64| {
        signed(Geotag {
            at: UnixTime(at),
            until: UnixTime(until),
            ..tag()
        })
    };
    let us = Geotag {
        jurisdiction: JurisdictionCode::new("US").unwrap(),
        ..tag()
    };
    use Status::{Affirming, Contraindicated, None as Undecided};
    let rows: &[(&str, GeoWord, Status, &str)] = &[
        ("good", signed(tag()), Affirming, ""),
        (
            "at its first moment",
            moved(NOW.0, NOW.0 + 1),
            Affirming,
            "",
        ),
        ("at its last", moved(0, NOW.0), Affirming, ""),
        (
            "not yet",
            moved(NOW.0 + 1, NOW.0 + 2),
            Contraindicated,
            "geotag-early",
        ),
        (
            "no more",
            moved(0, NOW.0 - 1),
            Contraindicated,
            "geotag-expired",
        ),
        (
            "another law",
            signed(us),
            Contraindicated,
            "geotag-jurisdiction",
        ),
        ("none", GeoWord::Absent, Contraindicated, "claim-missing"),
        (
            "the TPM did not say",
            GeoWord::Unavailable("busy".to_owned()),
            Undecided,
            "geotag-unavailable",
        ),
        (
            "not locked",
            refused("nv-unlocked"),
            Contraindicated,
            "nv-unlocked",
        ),
        (
            "forged",
            refused("geotag-signature"),
            Contraindicated,
            "geotag-signature",
        ),
    ];
    for (name, word, status, code) in rows {
        let mut case = asking();
        case.geotag = word.clone();
        let result = case.appraise();
        assert_eq!(result.status, *status, "{name}");
        let codes: Vec<&str> = result.deviations().map(|d| d.code.as_str()).collect();
        let want: Vec<&str> = [*code].into_iter().filter(|c| !c.is_empty()).collect();
        assert_eq!(codes, want, "{name}: told once");
        for told in result.deviations().filter(|told| told.claim == "geo.tag") {
            let refused = told.finding == Finding::Refused;
            let word = refused.then_some(Provenance::OperatorSigned);
            assert_eq!(told.provenance, word, "{name}");
        }
        let claims = &result.submods["identity"].claims;
        let place = claims.get("geo.place").map(|claim| claim.provenance);
        let says = status == &Affirming;
        assert_eq!(place, says.then_some(Provenance::OperatorSigned), "{name}");

        // Nobody asks: it is noted where it holds, and judged nowhere.
        let mut unasked = Case::ordinary();
        unasked.geotag = word.clone();
        let result = unasked.appraise();
        assert_eq!(result.status, Affirming, "{name}, unasked");
        let shown = result.submods["identity"].claims.contains_key("geo.place");
        assert_eq!(shown, says, "{name}, unasked");
    }
}

#[test]
fn every_part_of_a_geotag_can_be_asked_for() {
    let until = (NOW.0 + WHILE) / 1000;
    for (claim, good, bad) in [
        (
            "geo.place",
            "is = \"FRA1 / row 3\"".to_owned(),
            "is = \"FRA1\"".to_owned(),
        ),
        ("geo.rack", "is = \"12\"".to_owned(), "is = 12".to_owned()),
        (
            "geo.signed_by",
            "is = \"alice\"".to_owned(),
            "is = \"bob\"".to_owned(),
        ),
        (
            "geo.until",
            format!("at_least = {until}"),
            format!("at_least = {}", until + 1),
        ),
        (
            "geo.jurisdiction",
            "is = \"DE\"".to_owned(),
            "is = \"US\"".to_owned(),
        ),
    ] {
        for (rest, status) in [(good, Status::Affirming), (bad, Status::Contraindicated)] {
            let mut case = Case::ordinary();
            case.geotag = signed(tag());
            case.require(claim, &format!("{rest}\nprovenance = \"operator-signed\""));
            assert_eq!(case.appraise().status, status, "{claim} {rest}");
        }
    }
    let mut case = Case::ordinary();
    case.geotag = signed(Geotag {
        rack: None,
        ..tag()
    });
    case.require("geo.rack", "is = \"12\"\nprovenance = \"operator-signed\"");
    let result = case.appraise();
    let codes: Vec<&str> = result.deviations().map(|d| d.code.as_str()).collect();
    assert_eq!(codes, ["claim-missing"]);
    // A person's word is no measurement.
    let mut case = Case::ordinary();
    case.geotag = signed(tag());
    case.require("geo.jurisdiction", "is = \"DE\"\nprovenance = \"measured\"");
    let result = case.appraise();
    let codes: Vec<&str> = result.deviations().map(|d| d.code.as_str()).collect();
    assert_eq!(codes, ["claim-provenance"]);
}

#[test]
fn a_geotag_is_certified_for_the_statement_it_comes_with() {
    let case = Case::ordinary();
    let statement = encode(&case.statement);
    let good = case.tpm.evidence(&statement, &CHALLENGE);
    let shown = |evidence: &v1::Evidence| {
        let verified = VerifiedEvidence::verify(evidence, &case.tpm.ak(), &CHALLENGE).unwrap();
        match verified.geotag() {
            GeotagShown::Absent => "absent",
            GeotagShown::Unavailable(why) => {
                assert!(why.chars().count() <= 400);
                "unavailable"
            }
            GeotagShown::Refused(refused) => refused.code(),
            GeotagShown::Certified(certified) => {
                assert_eq!(certified.contents(), b"FRA1");
                "certified"
            }
        }
    };
    assert_eq!(shown(&good), "absent");
    let with = |geotag: v1::Geotag| v1::Evidence {
        geotag: Some(Box::new(geotag)),
        ..good.clone()
    };
    let certified = |binding: Sha256Digest| case.tpm.nv_certify(&binding.0, b"FRA1");
    let right = geotag_binding(&CHALLENGE, &statement);
    assert_eq!(shown(&with(certified(right))), "certified");
    let stale = Freshness::Challenged(Nonce::new([7; 32]));
    let rows: &[(&str, v1::Geotag, &str)] = &[
        (
            "an older challenge",
            certified(geotag_binding(&stale, &statement)),
            "nv-qualifying-data",
        ),
        (
            "another statement",
            certified(geotag_binding(&CHALLENGE, b"another")),
            "nv-qualifying-data",
        ),
        (
            "what the quote signs",
            certified(Sha256Digest(
                *crate::evidence::Binding::new(&CHALLENGE, &statement).as_bytes(),
            )),
            "nv-qualifying-data",
        ),
        (
            "another TPM",
            SoftTpm::new().nv_certify(&right.0, b"FRA1"),
            "nv-signature",
        ),
        ("nothing in it", v1::Geotag::default(), "nv-malformed"),
        (
            "a long excuse",
            v1::Geotag {
                unavailable: "x".repeat(1000),
                ..v1::Geotag::default()
            },
            "unavailable",
        ),
    ];
    for (name, geotag, want) in rows {
        assert_eq!(shown(&with(geotag.clone())), *want, "{name}");
    }
}
