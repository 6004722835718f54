//! A guest without a TPM: whose lease counts for it, and that it hosts no peers.

use aws_lc_rs::signature::Ed25519KeyPair;
use bailiwick_attestation::{
    NodeId, Sha256Digest,
    evidence::{GuestSigner, guest_id},
    proto::v1::LeaseBody,
    standing::LeaseSigner,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    Core,
    tests::{Recorder, Scene, small_policy},
};
use crate::proto::fence::{
    ApplyLease, ApplyPolicy, GetOwnPeers, Request, apply_lease::Quoted, request::Request as Ask,
    response::Response as Answer,
};

fn answer(core: &mut Core<Recorder>, ask: Ask) -> Answer {
    let request = Request { request: Some(ask) };
    core.handle(request).response.unwrap()
}

fn code(core: &mut Core<Recorder>, ask: Ask) -> String {
    match answer(core, ask) {
        Answer::Done(_) => "done".to_owned(),
        Answer::Refusal(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

/// `gpu-01` has a TPM, and nobody named its AK; `vm-01` has none. Both have an address of cardio's.
fn listed(scene: &Scene, signer: &LeaseSigner) -> Core<Recorder> {
    let inventory = format!(
        "[[node]]\nname = \"gpu-01\"\nek = \"{}\"\njurisdiction = \"DE\"\n\
         addresses = [\"10.9.1.0/24\"]\n\
         [[guest]]\nname = \"vm-01\"\nchips = [\"SNP-0123456789abcdef\"]\nmeasurement = \"{}\"\n\
         jurisdiction = \"DE\"\naddresses = [\"10.9.2.0/24\"]\n",
        "11".repeat(32),
        "7".repeat(96)
    );
    let key = STANDARD.encode(signer.public().unwrap().ed25519);
    let keys = format!("[[lease_key]]\nid = \"one\"\ned25519 = \"{key}\"\n");
    let mut files = small_policy();
    let study = files.get_mut("studies/cardio.toml").unwrap();
    study.extend(b"[peers]\naddresses = [\"10.9.0.0/16\"]\nattested = true\n");
    files.insert("inventory.toml".to_owned(), inventory.into_bytes());
    files.insert("collector.toml".to_owned(), keys.into_bytes());
    let mut core = scene.core();
    let bundle = scene.signed(
        bailiwick_policy::kind::Kind::Policy,
        1,
        None,
        &files,
        &["alice"],
    );
    let apply = ApplyPolicy {
        bundle: Some(bundle),
        kind: "policy".to_owned(),
    };
    assert_eq!(code(&mut core, Ask::ApplyPolicy(apply)), "done");
    core
}

#[test]
fn a_guests_lease_is_for_its_key_and_a_nodes_for_its_ak() {
    let scene = Scene::new();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let signer = LeaseSigner::from_pkcs8("one", pkcs8.as_ref()).unwrap();
    let mut core = listed(&scene, &signer);
    let vm = ("vm-01", guest_id(&NodeId::new("vm-01").unwrap()));
    let gpu = ("gpu-01", Sha256Digest([0x11; 32]));
    let key = |byte| {
        let key = Sha256Digest([byte; 32]);
        GuestSigner {
            key,
            instance: None,
        }
        .name()
    };
    let ak = [&[0, 0x0b][..], &[7; 32]].concat();
    let rows = [
        ("a guest under its key", vm, key(1), key(1), "done"),
        (
            "a guest under the key of another boot",
            vm,
            key(1),
            key(2),
            "lease-not-ours",
        ),
        (
            "a guest under an AK",
            vm,
            ak.clone(),
            ak.clone(),
            "lease-other-ak",
        ),
        (
            "a node under a guest's key",
            gpu,
            key(1),
            key(1),
            "lease-other-ak",
        ),
        ("a node under its AK", gpu, ak.clone(), ak.clone(), "done"),
    ];
    for (name, (node, ek), told, signed, want) in rows {
        let statement = Sha256Digest([9; 32]);
        let lease = signer.sign(&LeaseBody {
            deployment: "demo".to_owned(),
            node: node.to_owned(),
            ak_name: signed,
            until_clock_ms: 61_000,
            statement_digest: statement.as_bytes().to_vec(),
            quoted_clock_ms: 1_000,
            quoted_boot_time_ns: 1_000_000_000,
            ..LeaseBody::default()
        });
        let apply = ApplyLease {
            lease: Some(lease.unwrap()),
            ek_digest: ek.as_bytes().to_vec(),
            ak_name: told,
            reset_count: 0,
            quoted: vec![Quoted {
                statement_digest: statement.as_bytes().to_vec(),
                clock_ms: 1_000,
                boot_time_ns: 1_000_000_000,
            }],
        };
        assert_eq!(code(&mut core, Ask::ApplyLease(apply)), want, "{name}");
    }
    let ends = &scene.recorder.0.lock().unwrap().lease_ends;
    assert_eq!(ends.iter().filter(|end| **end > 0).count(), 2, "{ends:?}");
}

#[test]
fn a_guest_is_known_and_hosts_no_peers() {
    let scene = Scene::new();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let signer = LeaseSigner::from_pkcs8("one", pkcs8.as_ref()).unwrap();
    let mut core = listed(&scene, &signer);
    let vm = guest_id(&NodeId::new("vm-01").unwrap());
    for (node, ek, address, studies) in [
        ("gpu-01", Sha256Digest([0x11; 32]), [10, 9, 1, 5], 1),
        ("vm-01", vm, [10, 9, 2, 5], 0),
    ] {
        let ask = GetOwnPeers {
            ek_digest: ek.as_bytes().to_vec(),
            addresses: vec![address.to_vec()],
        };
        let Answer::OwnPeers(own) = answer(&mut core, Ask::GetOwnPeers(ask)) else {
            panic!("{node}");
        };
        assert_eq!((own.node.as_str(), own.studies.len()), (node, studies));
    }
}
