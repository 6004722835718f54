//! Statements of a guest without a TPM: its processor's report is the signature.

use std::path::Path;

use bailiwick_attestation::{
    appraisal::{EvidenceRefused, VerifiedEvidence},
    evidence::{Binding, GuestSigner, Nonce, StatementSigner, TeeReportSigner, tee_report_data},
};
use tempfile::TempDir;

use super::*;
use crate::{
    collect::tee::double::Play,
    signer::testing::{Machine, processor},
    tpm::{Tpm, testing::SoftTpm},
};

struct Scene {
    dir: TempDir,
    machine: Machine,
    config: Config,
}

impl Scene {
    fn new(play: Play) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new(play);
        let section = machine.section();
        let random = dir.path().join("proc/sys/kernel/random");
        std::fs::create_dir_all(random).unwrap();
        let text = format!(
            "deployment = \"demo\"\nnode = \"guest-01\"\nsigner = \"tee\"\nstate_dir = {:?}\n\
             [collector]\nenroll = \"a:1\"\nevidence = \"a:1\"\n[policy]\napprovers = \"a\"\n\
             threshold = 1\n[host]\nproc = {:?}\nsys = {:?}\n[fence]\nlog = {:?}\n[tee]\n\
             reports = {:?}\ndevice = {:?}\nkey = {:?}\n",
            dir.path().join("state"),
            dir.path().join("proc"),
            dir.path().join("proc"),
            dir.path().join("fence.log"),
            section.reports,
            section.device,
            section.key,
        );
        let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
        let scene = Self {
            dir,
            machine,
            config,
        };
        scene.boot(1);
        scene
    }

    /// Another boot: the kernel drew another id.
    fn boot(&self, number: u8) {
        let id = format!("{number:08x}-0000-4000-8000-000000000000\n");
        let file = self.dir.path().join("proc/sys/kernel/random/boot_id");
        std::fs::write(file, id).unwrap();
    }

    fn open(&self) -> (Attester, Vec<Item>, Signer) {
        let signer = Signer::open(&self.config).unwrap();
        let host = Host::of(&self.config);
        let approvers = Sha256Digest([1; 32]);
        let (attester, kept) = Attester::open(&self.config, &signer, host, approvers).unwrap();
        (attester, kept, signer)
    }
}

fn challenged() -> Freshness {
    Freshness::Challenged(Nonce::new([7; 32]))
}

fn alone(attester: &Attester) -> Freshness {
    let (last_receipt, number) = attester.unchallenged();
    Freshness::Unchallenged {
        last_receipt,
        number,
    }
}

fn statement(envelope: &Evidence) -> Statement {
    Statement::decode(envelope.statement.as_slice()).unwrap()
}

/// As the collector takes it, of a guest that enrolled with this key.
fn verified(
    envelope: &Evidence,
    key: &GuestSigner,
    freshness: &Freshness,
) -> Result<Sha256Digest, EvidenceRefused> {
    let verified = VerifiedEvidence::verify(envelope, key, freshness)?;
    Ok(verified.statement().digest)
}

/// What the report says it was asked for.
fn bound(envelope: &Evidence) -> [u8; 64] {
    let Some(evidence::Signer::TeeReport(report)) = &envelope.signer else {
        panic!("{:?}", envelope.signer);
    };
    assert_eq!(report.kind, "sev-snp");
    *report.report[0x50..0x90].first_chunk().unwrap()
}

fn carried(freshness: &Freshness, envelope: &Evidence) -> [u8; 64] {
    TeeReportSigner::carrier(&Binding::new(freshness, &envelope.statement))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_signs_a_guests_statement_and_no_tpm_is_in_it() {
    let scene = Scene::new(Play {
        certificates: Some(b"a table".to_vec()),
        ..processor()
    });
    let (mut attester, kept, signer) = scene.open();
    assert_eq!(kept, []);
    let facts = Facts::default();
    let first = attester.make(&facts, challenged(), true).await.unwrap();
    let second = attester.make(&facts, challenged(), true).await.unwrap();
    let key = signer.guest().unwrap().signer();
    for made in [&first, &second] {
        let envelope = &made.envelope;
        let digest = verified(envelope, &key, &challenged()).unwrap();
        assert_eq!(digest, made.item.digest);
        assert_eq!(bound(envelope), carried(&challenged(), envelope));
        // Neither can stand in the place of the other.
        let beside = tee_report_data(&challenged(), &envelope.statement, &signer.name());
        assert_ne!(bound(envelope), beside);
        assert_eq!((&envelope.pcrs[..], &envelope.geotag), (&[][..], &None));
        let tee = envelope.tee.as_deref().unwrap();
        assert_eq!(
            (&tee.report, tee.certificates.as_slice()),
            (&None, &b"a table"[..])
        );
        assert_eq!(statement(envelope).guest_key, signer.guest_key());
        let claims = statement(envelope).claims;
        let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
        assert_eq!(names, ["events.keys"]);
    }
    let previous = statement(&second.envelope).previous;
    assert_eq!(previous, Some(first.item.digest.0.to_vec()));
    // A lease counts on the kernel's clock, and is for this boot because the key is.
    let (quoted, reset_count) = attester.quoted();
    assert_eq!((quoted.len(), reset_count), (2, 0));
    let at = quoted.back().unwrap();
    assert_eq!(at.statement, second.item.digest);
    assert_eq!(at.boot_time_ns, second.envelope.quoted_boot_time_ns);
    assert_eq!(at.clock_ms, at.boot_time_ns / 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn within_a_boot_statements_are_kept_and_signed_again() {
    let scene = Scene::new(processor());
    let (mut attester, _, before) = scene.open();
    let facts = Facts::default();
    let made = attester.make(&facts, challenged(), true).await.unwrap();
    assert_eq!(made.envelope.tee, None, "the host gives no certificates");
    drop(attester);

    let (mut attester, kept, signer) = scene.open();
    assert_eq!(signer.name(), before.name());
    assert_eq!(
        (kept, attester.of_earlier_keys().len()),
        (vec![made.item], 0)
    );
    let freshness = alone(&attester);
    let again = attester.requote(made.item, freshness).await.unwrap();
    assert_eq!(again.statement, made.envelope.statement);
    assert_eq!(bound(&again), carried(&freshness, &again));
    let key = signer.guest().unwrap().signer();
    assert_eq!(verified(&again, &key, &freshness), Ok(made.item.digest));
    assert!(verified(&again, &key, &challenged()).is_err());
    assert_eq!(attester.quoted().0.len(), 1, "signed again after a restart");
    let next = attester.make(&facts, challenged(), true).await.unwrap();
    let next = statement(&next.envelope);
    assert_eq!((next.epoch, next.sequence), (0, 1));
    assert_eq!(next.previous, Some(made.item.digest.0.to_vec()));
}

/// The key is gone with the boot. What the collector had recorded gets its receipt; what it had not is
/// a gap that says why, and nothing of it is signed with another key.
#[tokio::test(flavor = "multi_thread")]
async fn statements_of_an_earlier_boot_are_a_gap_unless_a_receipt_covers_them() {
    let scene = Scene::new(processor());
    let (mut attester, _, before) = scene.open();
    let facts = Facts::default();
    let mut items = Vec::new();
    for _ in 0..3 {
        let freshness = alone(&attester);
        let made = attester.make(&facts, freshness, false).await.unwrap();
        items.push(made.item);
    }
    drop(attester);

    scene.boot(2);
    let (mut attester, kept, signer) = scene.open();
    assert_ne!(signer.name(), before.name());
    assert_eq!(kept, items, "sent as they are");
    let digests: BTreeSet<Sha256Digest> = items.iter().map(|item| item.digest).collect();
    assert_eq!(*attester.of_earlier_keys(), digests);
    for item in &items {
        let envelope = attester.kept(item.index.unwrap()).unwrap();
        assert_eq!(statement(&envelope).guest_key, before.guest_key());
        // Nor does the collector take it of whoever enrolled with the new one.
        let freshness = match &envelope.freshness {
            Some(evidence::Freshness::Unchallenged(said)) => Freshness::Unchallenged {
                last_receipt: Sha256Digest::from_slice(&said.last_receipt).unwrap(),
                number: said.number,
            },
            other => panic!("{other:?}"),
        };
        let of = |signer: &Signer| signer.guest().unwrap().signer();
        assert_eq!(
            verified(&envelope, &of(&before), &freshness),
            Ok(item.digest)
        );
        verified(&envelope, &of(&signer), &freshness).unwrap_err();
        let freshness = alone(&attester);
        let refused = attester.requote(*item, freshness).await.unwrap_err();
        assert!(matches!(refused, AttestError::EarlierKey), "{refused:?}");
    }
    let receipt = Receipt {
        statement_digest: items[0].digest.0.to_vec(),
        ..Receipt::default()
    };
    attester.receipted(items[0], &receipt).unwrap();
    attester.outlived(items[1]).unwrap();
    attester.outlived(items[2]).unwrap();
    assert!(attester.of_earlier_keys().is_empty());
    let made = attester.make(&facts, challenged(), true).await.unwrap();
    let told = statement(&made.envelope);
    let gaps: Vec<_> = told
        .gaps
        .iter()
        .map(|gap| (gap.count, gap.reason.as_str()))
        .collect();
    assert_eq!(gaps, [(2, "signed for the key of an earlier boot")]);
    assert_eq!((told.epoch, told.sequence), (0, 3));
    assert_eq!(told.guest_key, signer.guest_key());
}

/// A machine that gets a TPM, or loses it: neither signs what names the other.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_tpm_quoted_no_processor_signs_again() {
    let scene = Scene::new(processor());
    let soft = SoftTpm::blank();
    let host = Host::of(&scene.config);
    let facts = Facts::default();
    let open = |signer: &Signer| {
        let approvers = Sha256Digest([1; 32]);
        Attester::open(&scene.config, signer, host.clone(), approvers).unwrap()
    };
    let tpm = Signer::from(Tpm::open(soft.settings()).unwrap());
    let (mut attester, _) = open(&tpm);
    let quoted = attester.make(&facts, challenged(), true).await.unwrap();
    assert_eq!(statement(&quoted.envelope).guest_key, [0; 0]);
    drop(attester);
    let guest = Signer::from(scene.machine.guest([1; 16]));
    let (mut attester, _) = open(&guest);
    assert!(attester.of_earlier_keys().contains(&quoted.item.digest));
    let refused = attester.requote(quoted.item, challenged()).await;
    assert!(
        matches!(refused, Err(AttestError::EarlierKey)),
        "{refused:?}"
    );
    let signed = attester.make(&facts, challenged(), true).await.unwrap();
    drop(attester);
    let (attester, kept) = open(&tpm);
    assert_eq!(kept, [quoted.item, signed.item]);
    let earlier: Vec<_> = attester.of_earlier_keys().iter().copied().collect();
    assert_eq!(earlier, [signed.item.digest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_report_there_is_no_statement_and_no_number_is_used() {
    let rows = [
        (
            "refused",
            Play {
                refuses: true,
                ..processor()
            },
            true,
        ),
        (
            "an answer to somebody else",
            Play {
                another: true,
                ..processor()
            },
            false,
        ),
    ];
    for (name, play, refused) in rows {
        let mut scene = Scene::new(play);
        let (mut attester, _, _) = scene.open();
        let facts = Facts::default();
        let why = attester.make(&facts, challenged(), true).await.unwrap_err();
        let AttestError::Processor(why) = why else {
            panic!("{name}: {why:?}");
        };
        assert_eq!(why.refused(), refused, "{name}: {why}");
        drop(attester);
        let good = Machine::new(processor());
        scene.config.tee.reports = good.section().reports;
        let (mut attester, kept, _) = scene.open();
        assert_eq!(kept, [], "{name}");
        let made = attester.make(&facts, challenged(), true).await.unwrap();
        let made = statement(&made.envelope);
        assert_eq!((made.sequence, made.gaps.len()), (0, 0), "{name}");
    }
}
