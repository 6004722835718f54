//! Appraisal with its logs, against the bare signature and the bare hashes of the same bytes.
//!
//! Everything is measured in one process and printed as one JSON object of ratios and rates. The
//! floor of a log is what nobody can leave out: of every entry the hash of its data, and the hash
//! that extends the register by it.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

#[expect(dead_code, reason = "what certifies a geotag serves tests")]
#[path = "../src/fixture.rs"]
mod fixture;

use std::{hint::black_box, io::Write, sync::Arc, time::Instant};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use bailiwick_attestation::{
    DeploymentId, NodeId, Sha256Digest, UnixTime,
    appraisal::{
        AkWord, AttestationResult, GeoWord, LogsRead, Previous, Reference, Subject, TpmKind,
        VerifiedEvidence, appraise,
    },
    boot::{EventLog, EventType, Facts, examine},
    crypto::HashAlgorithm,
    evidence::{Freshness, Nonce, log_name},
    ima::{List, match_pcr},
    profile::{Profile, Value},
    proto::v1,
    tpm::AkPublic,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

const NOW: UnixTime = UnixTime(1_800_000_000_000);
const SAMPLES: usize = 9;
/// Events of a boot log of some 50 KB, and entries of a list of a host that has started.
const EVENTS: usize = 120;
const ENTRIES: usize = 2_000;
const NEW: usize = 10;

/// Median seconds of one call.
fn seconds(rounds: u32, mut call: impl FnMut()) -> f64 {
    let mut samples: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..rounds {
                call();
            }
            start.elapsed().as_secs_f64() / f64::from(rounds)
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[SAMPLES / 2]
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes)
        .as_ref()
        .try_into()
        .expect("32 bytes")
}

fn extended(value: &[u8; 32], digest: &[u8; 32]) -> [u8; 32] {
    hash(&[*value, *digest].concat())
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("a benchmark is small")
}

fn float(count: usize) -> f64 {
    f64::from(number(count))
}

/// Template data of the entries of a list: a digest and a path of the usual length.
fn entries(count: usize, first: &[u8; 32]) -> Vec<Vec<u8>> {
    let entry = |index: usize| {
        let name = match index {
            0 => "boot_aggregate\0".to_owned(),
            _ => format!("/usr/lib/x86_64-linux-gnu/lib{index:06}.so.1\0"),
        };
        let content = if index == 0 {
            *first
        } else {
            hash(name.as_bytes())
        };
        let digest = [&b"sha256:\0"[..], &content].concat();
        [
            &number(digest.len()).to_le_bytes()[..],
            &digest,
            &number(name.len()).to_le_bytes(),
            name.as_bytes(),
        ]
        .concat()
    };
    (0..count).map(entry).collect()
}

fn list(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut list = Vec::new();
    for data in entries {
        let sha1 = HashAlgorithm::Sha1.digest(&[data]).expect("SHA-1");
        list.extend(10_u32.to_le_bytes());
        list.extend(sha1.as_slice());
        list.extend(6_u32.to_le_bytes());
        list.extend(b"ima-ng");
        list.extend(number(data.len()).to_le_bytes());
        list.extend(data);
    }
    list
}

fn pcr10(entries: &[Vec<u8>]) -> [u8; 32] {
    let value = entries.iter();
    value.fold([0; 32], |value, data| extended(&value, &hash(data)))
}

/// A boot log and the registers it explains.
fn boot_log(pcrs: &mut [[u8; 32]]) -> Vec<u8> {
    let header = b"Spec ID Event03\0\0\0\0\0\0\x02\x00\x02\x02\0\0\0\x04\0\x14\0\x0b\0\x20\0\0";
    let mut log = 0_u32.to_le_bytes().to_vec();
    log.extend(EventType::NO_ACTION.0.to_le_bytes());
    log.extend([0; 20]);
    log.extend(number(header.len()).to_le_bytes());
    log.extend(header);
    let mut add = |register: usize, kind: EventType, data: &[u8]| {
        let sha1 = HashAlgorithm::Sha1.digest(&[data]).expect("SHA-1");
        let sha256 = hash(data);
        log.extend(number(register).to_le_bytes());
        log.extend(kind.0.to_le_bytes());
        log.extend(2_u32.to_le_bytes());
        log.extend(4_u16.to_le_bytes());
        log.extend(sha1.as_slice());
        log.extend(11_u16.to_le_bytes());
        log.extend(sha256);
        log.extend(number(data.len()).to_le_bytes());
        log.extend(data);
        pcrs[register] = extended(&pcrs[register], &sha256);
    };
    for register in 0..8 {
        add(register, EventType::SEPARATOR, &[0; 4]);
    }
    for index in 8..EVENTS {
        let text = format!("grub_cmd: load {index} {}", "x".repeat(310));
        add(8, EventType::IPL, text.as_bytes());
    }
    log
}

fn profile() -> Profile {
    let lines = fixture::PROFILE.lines();
    let lines = lines.filter(|line| !line.starts_with("\"7\"") && *line != "[tpm.values]");
    let mut text: String = lines.map(|line| format!("{line}\n")).collect();
    text.push_str("[boot]\n[ima]\n");
    Profile::parse("profile.toml", text.as_bytes()).expect("a profile")
}

/// One statement with its logs, and everything that is held against it.
struct Node {
    ak: AkPublic,
    previous: Previous,
    freshness: Freshness,
    profile: Profile,
    evidence: v1::Evidence,
    /// What the statement before has shown.
    earlier: Option<Arc<LogsRead>>,
}

impl Node {
    fn new(tpm: &fixture::SoftTpm, named: &[&v1::Log], brought: Vec<v1::Log>) -> Self {
        let freshness = Freshness::Challenged(Nonce::new([6; 32]));
        let mut statement = fixture::statement(5, Some(Sha256Digest([9; 32])));
        let names = named.iter().map(|log| v1::LogDigest {
            name: log.name.clone(),
            sha256: log_name(log).0.to_vec(),
            bytes: 0,
        });
        statement.logs = names.collect();
        let mut evidence = tpm.evidence(&fixture::encode(&statement), &freshness);
        evidence.logs = brought;
        Self {
            ak: tpm.ak(),
            previous: fixture::previous(tpm),
            freshness,
            profile: profile(),
            evidence,
            earlier: None,
        }
    }

    fn verified(&self) -> VerifiedEvidence {
        let verified = VerifiedEvidence::verify(&self.evidence, &self.ak, &self.freshness);
        let mut verified = verified.expect("good evidence");
        let read = verified.read_logs(&self.profile, NOW, self.earlier.as_deref());
        assert!(read, "the benchmark must measure the good path");
        verified
    }

    fn appraise(&self) -> AttestationResult {
        let verified = self.verified();
        let deployment = DeploymentId::new("demo").expect("a name");
        let node = NodeId::new("gpu-01").expect("a name");
        let subject = Subject {
            deployment: &deployment,
            node: Some(&node),
            jurisdiction: None,
            ek: &Sha256Digest([0; 32]),
            signer: (&self.ak).into(),
            guest: None,
            tpm: TpmKind::Chip,
            ak_word: &AkWord::Collector,
            listed_ak: None,
            chassis_serial: None,
            devices: &[],
            foreign_devices: &[],
            epoch: 0,
            endorsed_until: None,
            receipt: None,
            geotag: &GeoWord::Absent,
        };
        let endorsements = bailiwick_attestation::gpu::Endorsements::default();
        let reference = Reference {
            endorsements: &endorsements,
            profile: &self.profile,
            version: 2,
            manifest: Sha256Digest([4; 32]),
            not_after: UnixTime(2_000_000_000_000),
            approvers: Sha256Digest([3; 32]),
            approvers_before: &[],
        };
        appraise(
            &verified,
            &subject,
            Some(&reference),
            Some(&self.previous),
            NOW,
        )
    }

    /// That nothing is wrong, and that all entries were read.
    fn check(&self, entries: usize) {
        let result = self.appraise();
        let wrong: Vec<String> = result.deviations().map(ToString::to_string).collect();
        assert!(
            wrong.is_empty(),
            "the benchmark must measure the good path: {wrong:?}"
        );
        let claims = &result.submods["tpm"].claims;
        let read = claims.get("ima.entries").map(|claim| claim.value.clone());
        assert_eq!(read, Some(Value::Number(u64::from(number(entries)))));
    }
}

/// Seconds of one bare signature verification.
fn bare_signature() -> f64 {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let message = [7; 150];
    let signature = pair
        .sign(&SystemRandom::new(), &message)
        .expect("a signature");
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
    seconds(200, || {
        key.verify(&message, signature.as_ref())
            .expect("a good signature");
    })
}

/// Seconds of the hashes that replaying these entries takes.
fn bare_hashes(entries: &[Vec<u8>]) -> f64 {
    seconds(20, || {
        let mut value = [0; 32];
        for data in entries {
            let mut both = [0; 64];
            both[..32].copy_from_slice(&value);
            both[32..].copy_from_slice(digest(&SHA256, data).as_ref());
            value = digest(&SHA256, &both)
                .as_ref()
                .try_into()
                .expect("32 bytes");
        }
        black_box(value);
    })
}

fn replayed(list: &[u8], value: &[u8; 32]) {
    let list = List::parse(list).expect("a list");
    let matched = match_pcr(&list, HashAlgorithm::Sha256, value);
    assert_eq!(matched.map(|matched| matched.at), Some(list.len()));
}

fn main() {
    let mut tpm = fixture::SoftTpm::new();
    let log = boot_log(&mut tpm.pcrs);
    let aggregate = hash(&tpm.pcrs[..10].concat());
    let all = entries(ENTRIES, &aggregate);
    tpm.pcrs[10] = pcr10(&all);
    let sent = [
        v1::Log {
            name: "boot".to_owned(),
            content: log.clone(),
            ..v1::Log::default()
        },
        v1::Log {
            name: "ima".to_owned(),
            content: list(&all),
            ..v1::Log::default()
        },
    ];
    let full = Node::new(&tpm, &[], sent.to_vec());
    full.check(ENTRIES);

    let events = EventLog::parse(&log).expect("a log");
    let measured: Vec<Vec<u8>> = events
        .events()
        .iter()
        .map(|event| event.data.to_vec())
        .collect();
    let signature = bare_signature();
    let (boot_floor, ima_floor) = (bare_hashes(&measured), bare_hashes(&all));
    let full_seconds = seconds(20, || {
        black_box(full.appraise());
    });

    // The next statement names what travelled, and brings what is new.
    let grown = entries(ENTRIES + NEW, &aggregate);
    tpm.pcrs[10] = pcr10(&grown);
    let part = v1::Log {
        name: "ima".to_owned(),
        content: list(&grown[ENTRIES..]),
        follows: log_name(&sent[1]).0.to_vec(),
    };
    let mut steady = Node::new(&tpm, &[&sent[0], &sent[1]], vec![part]);
    steady.earlier = full.verified().logs_read();
    steady.check(ENTRIES + NEW);
    let steady_seconds = seconds(200, || {
        black_box(steady.appraise());
    });
    let new_floor = bare_hashes(&grown[ENTRIES..]);

    // The time of a line as lists double, against that of the shortest; and the rate of the longest.
    let mut per_line = Vec::new();
    for doublings in 0..6 {
        let all = entries(ENTRIES << doublings, &aggregate);
        let (bytes, value) = (list(&all), pcr10(&all));
        let whole = seconds(3, || replayed(&bytes, &value));
        per_line.push(whole / float(all.len()));
    }
    let growth: Vec<f64> = per_line.iter().map(|line| line / per_line[0]).collect();
    let lines_per_s = per_line.last().map_or(0.0, |line| 1.0 / line);

    let log_seconds = seconds(50, || {
        let log = EventLog::parse(&log).expect("a log");
        black_box(examine(&log, HashAlgorithm::Sha256, &[]));
        black_box(log.replay(HashAlgorithm::Sha256));
        black_box(Facts::of(&log, HashAlgorithm::Sha256));
    });

    let input: usize = full.evidence.logs.iter().map(|log| log.content.len()).sum();
    let input = input + full.evidence.statement.len();
    let before = PEAK.current_usage();
    PEAK.reset_peak_usage();
    black_box(full.appraise());
    let peak = PEAK.peak_usage().saturating_sub(before);

    let report = serde_json::json!({
        "appraise": {
            "steady_ratio": steady_seconds / (signature + new_floor),
            "full_ratio": full_seconds / (signature + boot_floor + ima_floor),
            "ima_lines_per_s": lines_per_s,
            "ima_hash_floor_lines_per_s": float(ENTRIES) / ima_floor,
            "eventlog_mb_per_s": float(log.len()) / log_seconds / 1e6,
            "growth": growth,
            "peak_bytes_per_input_byte": float(peak) / float(input),
            "full_us": full_seconds * 1e6,
            "steady_us": steady_seconds * 1e6,
            "p256_verify_us": signature * 1e6,
            "eventlog_bytes": log.len(),
            "ima_lines": ENTRIES,
            "ima_lines_new": NEW,
        }
    });
    writeln!(std::io::stdout(), "{report}").expect("stdout");
}
