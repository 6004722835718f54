//! Whose word it is that EK and AK of an inventory entry are one TPM's.

use bailiwick_attestation::cvm::GuestIdentity;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_policy::approvers::Approvers;
use bailiwick_policy::model::confirm::{namespace, text, verify};
use bailiwick_policy::model::{Confirmed, Inventory, Node};

use crate::support::{Fleet, NOW, demo};

const AK: [u8; 34] = {
    let mut name = [7; 34];
    name[0] = 0;
    name[1] = 0x0b;
    name
};

fn node() -> Node {
    Node {
        name: "gpu-01".to_owned().try_into().unwrap(),
        ek: Sha256Digest([0x11; 32]),
        ak: Some(AK.to_vec()),
        chassis_serial: Some("ABC123".to_owned()),
        devices: vec!["GPU-2".to_owned(), "GPU-1".to_owned()],
        place: Some("FRA1 / row 3".to_owned()),
        jurisdiction: "DE".to_owned().try_into().unwrap(),
        addresses: vec!["10.9.1.0/24".parse().unwrap()],
        epoch: 0,
        tpm: None,
        guest: None,
        geotags_since: None,
        replaces: Some(Sha256Digest([0x33; 32])),
        confirmed: None,
    }
}

/// The node, confirmed by `who` for `deployment` in `namespace`.
fn signed(fleet: &Fleet, who: &str, namespace: &str, deployment: &DeploymentId) -> Node {
    let mut node = node();
    let text = text(deployment, &node, NOW);
    let signature = fleet.keys.sign(who, namespace, text.as_bytes(), &[]);
    node.confirmed = Some(Confirmed {
        by: who.to_owned(),
        at: NOW,
        signature: String::from_utf8(signature).unwrap(),
    });
    node
}

#[test]
fn the_text_has_one_spelling() {
    let want = "bailiwick inventory v1\ndeployment demo\nnode gpu-01\n\
                ek 1111111111111111111111111111111111111111111111111111111111111111\n\
                ak 000b0707070707070707070707070707070707070707070707070707070707070707\n\
                chassis-serial ABC123\ndevice GPU-1\ndevice GPU-2\nplace FRA1 / row 3\n\
                jurisdiction DE\naddress 10.9.1.0/24\n\
                replaces 3333333333333333333333333333333333333333333333333333333333333333\n\
                at 2026-06-01T00:00:00Z\n";
    assert_eq!(text(&demo(), &node(), NOW), want);
    let bare = Node {
        ak: None,
        chassis_serial: None,
        devices: Vec::new(),
        place: None,
        addresses: Vec::new(),
        replaces: None,
        ..node()
    };
    let want = "bailiwick inventory v1\ndeployment demo\nnode gpu-01\n\
                ek 1111111111111111111111111111111111111111111111111111111111111111\n\
                jurisdiction DE\nat 2026-06-01T00:00:00Z\n";
    assert_eq!(text(&demo(), &bare, NOW), want);
    let acknowledged = Node { epoch: 7, ..node() };
    assert_eq!(
        text(&demo(), &acknowledged, NOW),
        text(&demo(), &node(), NOW),
        "an acknowledgement takes no new challenge"
    );
}

#[test]
fn a_confirmation_is_an_approvers_over_this_entry() {
    let fleet = Fleet::new();
    let stranger = Fleet::new();
    let demo = demo();
    let inventory = namespace(&demo);
    let good = signed(&fleet, "alice", &inventory, &demo);
    let approval = verify(&good, &demo, &AK, &fleet.approvers()).unwrap();
    assert_eq!(approval.principals, "alice@example.org");

    type Edit = fn(&mut Node);
    let edits: &[(&str, Edit, &str)] = &[
        ("nobody", |n| n.confirmed = None, "ak-unconfirmed"),
        ("no AK", |n| n.ak = None, "ak-unconfirmed"),
        (
            "a guest's",
            |n| n.guest = Some(GuestIdentity::default()),
            "ak-of-a-guest",
        ),
        (
            "another AK listed",
            |n| n.ak = Some([&AK[..33], &[8]].concat()),
            "ak-confirmed-other",
        ),
        (
            "another EK",
            |n| n.ek = Sha256Digest([0x12; 32]),
            "confirmation-refused",
        ),
        (
            "another name",
            |n| n.name = "gpu-02".to_owned().try_into().unwrap(),
            "confirmation-refused",
        ),
        (
            "another chassis",
            |n| n.chassis_serial = Some("ABC124".to_owned()),
            "confirmation-refused",
        ),
        (
            "a chassis unsaid",
            |n| n.chassis_serial = None,
            "confirmation-refused",
        ),
        (
            "one device more",
            |n| n.devices.push("GPU-3".to_owned()),
            "confirmation-refused",
        ),
        (
            "another place",
            |n| n.place = Some("moon".to_owned()),
            "confirmation-refused",
        ),
        (
            "another jurisdiction",
            |n| n.jurisdiction = "US".to_owned().try_into().unwrap(),
            "confirmation-refused",
        ),
        (
            "another range",
            |n| n.addresses = vec!["10.9.0.0/16".parse().unwrap()],
            "confirmation-refused",
        ),
        (
            "replaces nothing",
            |n| n.replaces = None,
            "confirmation-refused",
        ),
        (
            "another time",
            |n| n.confirmed.as_mut().unwrap().at = UnixTime(NOW.0 + 1000),
            "confirmation-refused",
        ),
        (
            "no armor",
            |n| n.confirmed.as_mut().unwrap().signature = "alice".to_owned(),
            "confirmation-malformed",
        ),
    ];
    for (name, edit, want) in edits {
        let mut bad = good.clone();
        edit(&mut bad);
        let refused = verify(&bad, &demo, &AK, &fleet.approvers()).unwrap_err();
        assert_eq!(refused.code(), *want, "{name}: {refused}");
    }

    let other = DeploymentId::new("other").unwrap();
    let policy = "bailiwick/demo/policy";
    let signers: &[(&str, Node)] = &[
        ("a stranger", signed(&stranger, "alice", &inventory, &demo)),
        (
            "signed for another kind",
            signed(&fleet, "alice", policy, &demo),
        ),
        (
            "signed for another deployment",
            signed(&fleet, "alice", &namespace(&other), &other),
        ),
    ];
    for (name, bad) in signers {
        let refused = verify(bad, &demo, &AK, &fleet.approvers()).unwrap_err();
        assert_eq!(refused.code(), "confirmation-refused", "{name}");
    }
    let another_ak = [&AK[..33], &[8]].concat();
    let refused = verify(&good, &demo, &another_ak, &fleet.approvers()).unwrap_err();
    assert_eq!(refused.code(), "ak-confirmed-other", "the node's own AK");
}

#[test]
fn who_confirms_has_to_be_an_approver_when_signing() {
    let fleet = Fleet::new();
    let demo = demo();
    let good = signed(&fleet, "alice", &namespace(&demo), &demo);
    let cases: &[(&str, &str, bool)] = &[
        ("any time", "namespaces=\"bailiwick/*\"", true),
        (
            "this kind alone",
            "namespaces=\"bailiwick/demo/inventory\"",
            true,
        ),
        (
            "another kind",
            "namespaces=\"bailiwick/demo/policy\"",
            false,
        ),
        (
            "until the day before",
            "namespaces=\"bailiwick/*\",valid-before=\"20260531Z\"",
            false,
        ),
        (
            "until the day after",
            "namespaces=\"bailiwick/*\",valid-before=\"20260602Z\"",
            true,
        ),
    ];
    for (name, options, want) in cases {
        let allowed = fleet.allowed.replace("namespaces=\"bailiwick/*\"", options);
        let approvers = Approvers::parse("allowed_signers", allowed.as_bytes(), 1).unwrap();
        let got = verify(&good, &demo, &AK, &approvers);
        assert_eq!(got.is_ok(), *want, "{name}: {got:?}");
    }
    let empty = Inventory::default();
    assert_eq!(empty.retired(&good.ek), None);
}
