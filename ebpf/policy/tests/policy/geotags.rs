//! Whose word a geotag is.

use bailiwick_attestation::geotag::{Geotag, Record, namespace};
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_policy::approvers::Approvers;
use bailiwick_policy::geotag::verify;
use bailiwick_policy::model::{Node, edit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{Fleet, NOT_AFTER, NOW, demo};

fn tag() -> Geotag {
    Geotag {
        deployment: demo(),
        ek: Sha256Digest([0x11; 32]),
        place: "FRA1 / row 3".to_owned(),
        rack: Some("12".to_owned()),
        jurisdiction: "DE".to_owned().try_into().unwrap(),
        at: NOW,
        until: NOT_AFTER,
    }
}

fn node(more: &str) -> Node {
    let ek = "11".repeat(32);
    let text = format!("[[node]]\nname = \"gpu-01\"\nek = \"{ek}\"\njurisdiction = \"DE\"\n{more}");
    edit::read(&text).unwrap().nodes.remove(0)
}

/// As it stands in the TPM.
fn record(fleet: &Fleet, who: &str, namespace: &str, text: &str) -> Vec<u8> {
    let armored = fleet.keys.sign(who, namespace, text.as_bytes(), &[]);
    let armored = String::from_utf8(armored).unwrap();
    let body: String = armored
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    let signature = STANDARD.decode(body).unwrap();
    let record = Record {
        text: text.as_bytes(),
        signature: &signature,
    };
    record.to_bytes().unwrap()
}

fn code(record: &[u8], node: &Node, approvers: &Approvers, now: UnixTime) -> String {
    match verify(record, &demo(), node, approvers, now) {
        Ok((tag, approval)) => format!("{} by {}", tag.place, approval.principals),
        Err(refused) => refused.code().to_owned(),
    }
}

const GOOD: &str = "FRA1 / row 3 by alice@example.org";

#[test]
fn a_geotag_is_an_approvers_about_this_tpm() {
    let (fleet, stranger) = (Fleet::new(), Fleet::new());
    let approvers = fleet.approvers();
    let space = namespace(&demo());
    let good = record(&fleet, "alice", &space, &tag().text());
    assert_eq!(code(&good, &node(""), &approvers, NOW), GOOD);

    let other = DeploymentId::new("other").unwrap();
    let of_other = Geotag {
        deployment: other.clone(),
        ..tag()
    };
    let of_other_node = Geotag {
        ek: Sha256Digest([0x12; 32]),
        ..tag()
    };
    // Signed for one place, and another written beside the signature.
    let mut moved = good.clone();
    let at = moved.windows(4).position(|word| word == b"FRA1").unwrap();
    moved[at + 3] = b'2';
    let mut unreadable = good.clone();
    let at = unreadable
        .windows(6)
        .position(|word| word == b"SSHSIG")
        .unwrap();
    unreadable[at] = b'X';
    let rows: &[(&str, Vec<u8>, &str)] = &[
        (
            "another deployment's",
            record(&fleet, "alice", &namespace(&other), &of_other.text()),
            "geotag-other-deployment",
        ),
        (
            "another node's",
            record(&fleet, "alice", &space, &of_other_node.text()),
            "geotag-other-node",
        ),
        (
            "a stranger's",
            record(&stranger, "alice", &space, &tag().text()),
            "geotag-not-an-approver",
        ),
        (
            "signed for the inventory",
            record(&fleet, "alice", "bailiwick/demo/inventory", &tag().text()),
            "geotag-not-an-approver",
        ),
        (
            "signed for another deployment",
            record(&fleet, "alice", &namespace(&other), &tag().text()),
            "geotag-not-an-approver",
        ),
        ("another place", moved, "geotag-not-an-approver"),
        ("no signature", unreadable, "geotag-signature"),
        (
            "one byte short",
            good[..good.len() - 1].to_vec(),
            "geotag-malformed",
        ),
        (
            "a text of another spelling",
            record(
                &fleet,
                "alice",
                &space,
                &tag().text().replace("rack", "Rack"),
            ),
            "geotag-malformed",
        ),
    ];
    for (name, record, want) in rows {
        assert_eq!(code(record, &node(""), &approvers, NOW), *want, "{name}");
    }
    // Signed for what stands for a guest where an EK would, and it lies in no TPM.
    let chip = "SNP-0123456789abcdef";
    let text = format!(
        "[[guest]]\nname = \"vm-01\"\nchips = [\"{chip}\"]\nmeasurement = \"{}\"\n\
         jurisdiction = \"DE\"\n",
        "7".repeat(96)
    );
    let guest = edit::read(&text).unwrap().nodes.remove(0);
    let of_guest = Geotag {
        ek: guest.ek,
        ..tag()
    };
    let record = record(&fleet, "alice", &space, &of_guest.text());
    assert_eq!(code(&record, &guest, &approvers, NOW), "geotag-guest");
}

#[test]
fn the_inventory_takes_geotags_back() {
    let fleet = Fleet::new();
    let good = record(&fleet, "alice", &namespace(&demo()), &tag().text());
    let since = |moment: &str| node(&format!("geotags_since = \"{moment}\"\n"));
    for (name, node, want) in [
        ("since before", since("2026-05-31T23:59:59Z"), GOOD),
        ("since that second", since("2026-06-01T00:00:00Z"), GOOD),
        (
            "since after",
            since("2026-06-01T00:00:01Z"),
            "geotag-revoked",
        ),
    ] {
        assert_eq!(code(&good, &node, &fleet.approvers(), NOW), want, "{name}");
    }
}

#[test]
fn who_signs_has_to_be_an_approver_then_and_now() {
    let fleet = Fleet::new();
    let good = record(&fleet, "alice", &namespace(&demo()), &tag().text());
    let day = |days: i64| UnixTime(NOW.0.checked_add_signed(days * 86_400_000).unwrap());
    let refused = "geotag-not-an-approver";
    let rows: &[(&str, &str, UnixTime, &str)] = &[
        (
            "this kind alone",
            "namespaces=\"bailiwick/demo/geotag\"",
            NOW,
            GOOD,
        ),
        (
            "another kind",
            "namespaces=\"bailiwick/demo/policy\"",
            NOW,
            refused,
        ),
        (
            "a key that ended before",
            "namespaces=\"bailiwick/*\",valid-before=\"20260531Z\"",
            NOW,
            refused,
        ),
        (
            "a key that is good still",
            "namespaces=\"bailiwick/*\",valid-before=\"20260603Z\"",
            day(1),
            GOOD,
        ),
        (
            "a key that ended since: it could say any time",
            "namespaces=\"bailiwick/*\",valid-before=\"20260603Z\"",
            day(3),
            refused,
        ),
        (
            "a key that began since",
            "namespaces=\"bailiwick/*\",valid-after=\"20260603Z\"",
            day(3),
            refused,
        ),
    ];
    for (name, options, now, want) in rows {
        let allowed = fleet.allowed.replace("namespaces=\"bailiwick/*\"", options);
        let approvers = Approvers::parse("allowed_signers", allowed.as_bytes(), 1).unwrap();
        assert_eq!(code(&good, &node(""), &approvers, *now), *want, "{name}");
    }
}
