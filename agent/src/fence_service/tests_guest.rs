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

/// `gpu-01` has a TPM, and nobody named its AK; `gpu-02` one whose AK is named; `vm-01` has none. The
/// first and the last have an address of cardio's.
fn listed(scene: &Scene, signer: &LeaseSigner) -> Core<Recorder> {
    let inventory = format!(
        "[[node]]\nname = \"gpu-01\"\nek = \"{}\"\njurisdiction = \"DE\"\n\
         addresses = [\"10.9.1.0/24\"]\n\
         [[node]]\nname = \"gpu-02\"\nek = \"{}\"\nak = \"{}\"\njurisdiction = \"DE\"\n\
         [[guest]]\nname = \"vm-01\"\nchips = [\"SNP-0123456789abcdef\"]\nmeasurement = \"{}\"\n\
         jurisdiction = \"DE\"\naddresses = [\"10.9.2.0/24\"]\n",
        "11".repeat(32),
        "22".repeat(32),
        hex::encode(ak(7)),
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

/// The name of an AK.
fn ak(byte: u8) -> Vec<u8> {
    [&[0, 0x0b][..], &[byte; 32]].concat()
}

/// Of this node's lease, what a row says otherwise.
fn lease(node: &str, ak_name: Vec<u8>) -> LeaseBody {
    LeaseBody {
        deployment: "demo".to_owned(),
        node: node.to_owned(),
        ak_name,
        until_clock_ms: 61_000,
        statement_digest: vec![9; 32],
        quoted_clock_ms: 1_000,
        quoted_boot_time_ns: 1_000_000_000,
        ..LeaseBody::default()
    }
}

/// As the agent passes on a lease that answers the statement it quoted.
fn apply(signer: &LeaseSigner, body: &LeaseBody, ek: &Sha256Digest, told: Vec<u8>) -> ApplyLease {
    ApplyLease {
        lease: Some(signer.sign(body).unwrap()),
        ek_digest: ek.as_bytes().to_vec(),
        ak_name: told,
        reset_count: body.reset_count,
        quoted: vec![Quoted {
            statement_digest: body.statement_digest.clone(),
            clock_ms: body.quoted_clock_ms,
            boot_time_ns: body.quoted_boot_time_ns,
        }],
    }
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
    let named = ("gpu-02", Sha256Digest([0x22; 32]));
    let rows = [
        ("a guest under its key", vm, key(1), key(1), "done"),
        (
            "a guest under the key of another boot",
            vm,
            key(1),
            key(2),
            "lease-not-ours",
        ),
        ("a guest under an AK", vm, ak(7), ak(7), "lease-other-ak"),
        (
            "a node under a guest's key",
            gpu,
            key(1),
            key(1),
            "lease-other-ak",
        ),
        ("a node under its AK", gpu, ak(7), ak(7), "done"),
        ("under the one that is named", named, ak(7), ak(7), "done"),
        (
            "under another than that",
            named,
            ak(8),
            ak(8),
            "lease-other-ak",
        ),
    ];
    for (name, (node, ek), told, signed, want) in rows {
        let apply = apply(&signer, &lease(node, signed), &ek, told);
        assert_eq!(code(&mut core, Ask::ApplyLease(apply)), want, "{name}");
    }
    let ends = &scene.recorder.0.lock().unwrap().lease_ends;
    assert_eq!(ends.iter().filter(|end| **end > 0).count(), 3, "{ends:?}");
}

/// What is played again in the same boot is not taken, and a reboot begins anew.
#[test]
fn a_lease_moves_forward_in_its_boot_and_proves_gpus_while_it_lasts() {
    let scene = Scene::new();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let signer = LeaseSigner::from_pkcs8("one", pkcs8.as_ref()).unwrap();
    let mut core = listed(&scene, &signer);
    let ek = Sha256Digest([0x11; 32]);
    let proven = || scene.recorder.0.lock().unwrap().proven.last().copied();
    // Boot, clock of the quote, end, whether GPUs are proven; what comes of it, and of the GPUs.
    let rows = [
        ("the first", 3, 5_000, 61_000, true, "done", true),
        (
            "it says nothing of GPUs",
            3,
            6_000,
            61_000,
            false,
            "done",
            false,
        ),
        ("it does again", 3, 7_000, 61_000, true, "done", true),
        ("an older one", 3, 5_000, 61_000, false, "lease-older", true),
        ("an end of all", 3, 8_000, 0, true, "done", false),
        ("in another boot", 4, 1_000, 61_000, true, "done", true),
    ];
    for (name, reset_count, clock_ms, until_clock_ms, gpus_proven, want, gpus) in rows {
        let body = LeaseBody {
            reset_count,
            quoted_clock_ms: clock_ms,
            until_clock_ms,
            gpus_proven,
            ..lease("gpu-01", ak(7))
        };
        let apply = apply(&signer, &body, &ek, ak(7));
        assert_eq!(code(&mut core, Ask::ApplyLease(apply)), want, "{name}");
        assert_eq!(proven(), Some(gpus), "{name}");
    }
}

#[test]
fn statements_that_a_lease_may_answer_are_bounded() {
    let scene = Scene::new();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let signer = LeaseSigner::from_pkcs8("one", pkcs8.as_ref()).unwrap();
    let mut core = listed(&scene, &signer);
    for (count, want) in [(256, "done"), (257, "request-malformed")] {
        let mut apply = apply(
            &signer,
            &lease("gpu-01", ak(7)),
            &Sha256Digest([0x11; 32]),
            ak(7),
        );
        let quoted = apply.quoted[0].clone();
        apply.quoted = vec![quoted; count];
        let got = code(&mut core, Ask::ApplyLease(apply));
        assert_eq!(got, want, "{count}");
    }
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
