//! Confidential guests before a real collector: the agent's own code asks a kernel made of pipes,
//! whose processor and chain are the test's. What it says is judged, and is never hardware.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod chip;
mod client;
mod stand;

use std::fs;

use bailiwick_agent::collect::tee::Tee;
use bailiwick_agent::config::TeeSection;
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::crypto::PublicKey;
use bailiwick_attestation::evidence::{Freshness, tee_report_data};
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::Public;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chip::{Chip, Kernel};
use client::client;
use prost::Message as _;
use serde_json::Value;
use stand::{Came, Conversation, Machine, Stand, entry};

/// A node in a guest, whose processor says what the test has it say.
struct Guest {
    machine: Machine,
    stream: Conversation,
    last: v1::Statement,
    tee: Tee,
    _kernel: Kernel,
}

impl Guest {
    async fn new(stand: &Stand, mut machine: Machine, policy: Sha256Digest, chip: Chip) -> Self {
        let (stream, last) = machine.joined(stand, policy).await;
        let kernel = Kernel::start(chip);
        let tee = Tee::new(&TeeSection {
            reports: kernel.root.clone(),
            device: kernel.root.join("none"),
            ..TeeSection::default()
        });
        Self {
            machine,
            stream,
            last,
            tee,
            _kernel: kernel,
        }
    }

    /// Asks for a report as an agent does, and lets the test do something with it on the way.
    async fn say(&mut self, way: impl FnOnce(&mut Option<Box<v1::TeeEvidence>>)) -> v1::Accepted {
        let challenge = self.stream.nonce;
        self.last.wall_time_ms = bailiwick_collector::clock::now().millis();
        let bytes = self.last.encode_to_vec();
        let mut evidence = self.machine.quote(&bytes, challenge).await;
        let ak = &self.machine.tpm.identity().ak_name;
        let data = tee_report_data(&Freshness::Challenged(challenge), &bytes, ak);
        evidence.tee = self.tee.evidence(data).await.map(Box::new);
        way(&mut evidence.tee);
        let came = self.stream.evidence(evidence).await.unwrap();
        let Came::Accepted(accepted, _) = came else {
            panic!("{came:?}");
        };
        self.last.sequence += 1;
        self.last.previous = Some(Sha256Digest::of(&[&bytes]).as_bytes().to_vec());
        accepted
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_judged_by_its_report_and_each_attack_on_it_is_told() {
    let mut stand = Stand::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let store = scratch.path().join("store");
    let chip = Chip::new();
    let root = scratch.path().join("root.der");
    let chain = scratch.path().join("chain.pem");
    fs::write(&root, &chip.root).unwrap();
    fs::write(&chain, &chip.chain).unwrap();
    let store_words = ["--store", store.to_str().unwrap(), "--output", "json"];
    let import = ["endorsements", "import"];
    let files = [root.to_str().unwrap(), chain.to_str().unwrap()];
    let words = [&import[..], &files, &store_words].concat();
    let imported = client(&words, None).await;
    assert_eq!(imported.status.code(), Some(0), "{imported:?}");
    stand.endorse_from(&store);

    let digest = Sha256Digest::of(&[&chip.root]).to_string();
    stand.profile += &format!(
        "[cvm]\nrevocation = false\nlisted = true\nroots = [{digest:?}]\n\
         [[require]]\nclaim = \"cvm.measurement\"\nis = \"{}\"\nprovenance = \"self-reported\"\n",
        "06".repeat(48)
    );
    let machines = ["gpu-01", "gpu-02"].map(|name| stand.machine(name));
    let [first, second] = &machines;
    let named = format!("devices = [\"SNP-{}\"]\n", "07".repeat(64));
    let inventory = entry("gpu-01", first) + &named + &entry("gpu-02", second) + &named;
    let policy = stand.apply(&inventory).await;
    let [first, second] = machines;
    let mut guest = Guest::new(&stand, first, policy, chip.clone()).await;
    let accepted = guest.say(|_| {}).await;
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);

    // Kept, and played again beside the next statement; changed; left out.
    let mut kept = None;
    let accepted = guest.say(|tee| kept = tee.clone()).await;
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);
    let replay = guest.say(|tee| *tee = kept).await;
    let flip = |tee: &mut Option<Box<v1::TeeEvidence>>| {
        let report = tee.as_mut().unwrap().report.as_mut().unwrap();
        report.report[0x90] ^= 1;
    };
    let changed = guest.say(flip).await;
    let left_out = guest.say(|tee| *tee = None).await;
    for (accepted, code) in [
        (replay, "cvm-report-data"),
        (changed, "cvm-signature"),
        (left_out, "cvm-missing"),
    ] {
        assert_eq!(accepted.verdict, "contraindicated", "{code}");
        let reasons = accepted.reasons.join("\n");
        assert!(reasons.contains(code), "{reasons}");
    }
    let accepted = guest.say(|_| {}).await;
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);

    // A second guest, on a chip that somebody made himself: the same names, the same id.
    let forged = Chip::new();
    let hosts = forged.table.clone();
    let mut other = Guest::new(&stand, second, policy, forged).await;
    let accepted = other
        .say(|tee| tee.as_mut().unwrap().certificates = hosts)
        .await;
    assert_eq!(accepted.verdict, "contraindicated");
    let reasons = accepted.reasons.join("\n");
    assert!(reasons.contains("cvm-"), "{reasons}");

    let words = [&["endorsements", "status", "--nodes"][..], &store_words].concat();
    let told = client(&words, Some(&stand.client_config())).await;
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let rows: Vec<Value> = serde_json::from_slice(&told.stdout).unwrap();
    let mut rows: Vec<(Value, Value)> = rows
        .into_iter()
        .map(|row| (row["kind"].clone(), row["relied_on_by"].clone()))
        .collect();
    rows.sort_by_key(|(kind, _)| kind.to_string());
    let first = Value::from(vec!["gpu-01"]);
    assert_eq!(
        rows,
        [
            ("certificates".into(), first.clone()),
            ("root".into(), first)
        ]
    );
}

/// A node beside a paravisor of the test's own making, which lays a report for each statement.
struct Beside {
    machine: Machine,
    stream: Conversation,
    last: v1::Statement,
    chip: Chip,
}

impl Beside {
    async fn new(stand: &Stand, mut machine: Machine, policy: Sha256Digest, chip: Chip) -> Self {
        let (stream, last) = machine.joined(stand, policy).await;
        Self {
            machine,
            stream,
            last,
            chip,
        }
    }

    fn ak(&self) -> PublicKey {
        let public = Public::parse(&self.machine.tpm.identity().ak_public).unwrap();
        public.key().unwrap().clone()
    }

    /// A statement beside a report that names `ak`, for this statement unless `question` is another.
    async fn say(&mut self, ak: &PublicKey, question: Option<[u8; 64]>) -> v1::Accepted {
        let challenge = self.stream.nonce;
        self.last.wall_time_ms = bailiwick_collector::clock::now().millis();
        let bytes = self.last.encode_to_vec();
        let mut evidence = self.machine.quote(&bytes, challenge).await;
        let name = &self.machine.tpm.identity().ak_name;
        let data = tee_report_data(&Freshness::Challenged(challenge), &bytes, name);
        let report = laid(&self.chip, ak, &question.unwrap_or(data));
        evidence.tee = Some(Box::new(v1::TeeEvidence {
            report: Some(v1::TeeReport {
                kind: "azure-vtpm".to_owned(),
                report,
            }),
            certificates: self.chip.table.clone(),
            ..v1::TeeEvidence::default()
        }));
        let came = self.stream.evidence(evidence).await.unwrap();
        let Came::Accepted(accepted, _) = came else {
            panic!("{came:?}");
        };
        self.last.sequence += 1;
        self.last.previous = Some(Sha256Digest::of(&[&bytes]).as_bytes().to_vec());
        accepted
    }
}

/// What a paravisor lays into NV index 0x01400001.
fn laid(chip: &Chip, ak: &PublicKey, question: &[u8; 64]) -> Vec<u8> {
    let PublicKey::Rsa { modulus, exponent } = ak else {
        panic!("not RSA");
    };
    let [n, e] = [modulus, exponent].map(|number| URL_SAFE_NO_PAD.encode(number));
    let key = format!(r#"{{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"{e}","n":"{n}"}}"#);
    let question = hex::encode(question);
    let text = format!(r#"{{"keys":[{key}],"user-data":"{question}"}}"#);
    let mut data = [0; 64];
    data[..32].copy_from_slice(Sha256Digest::of(&[text.as_bytes()]).as_bytes());
    let length = u32::try_from(text.len()).unwrap();
    let words =
        |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let head = words(&[0x414c_4348, 1, 0, 2, 0, 0, 0, 0]);
    let request = words(&[20 + length, 1, 2, 1, length]);
    [&head, &chip.report(&data), &request, text.as_bytes()].concat()
}

/// The processor is a double, so what the TPM says stays its provider's word, whatever it names.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_beside_a_paravisor_is_judged_by_the_ak_it_names() {
    let mut stand = Stand::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let store = scratch.path().join("store");
    let chip = Chip::new();
    let root = scratch.path().join("root.der");
    fs::write(&root, &chip.root).unwrap();
    let store_words = ["--store", store.to_str().unwrap(), "--output", "json"];
    let import = ["endorsements", "import", root.to_str().unwrap()];
    let imported = client(&[&import[..], &store_words].concat(), None).await;
    assert_eq!(imported.status.code(), Some(0), "{imported:?}");
    stand.endorse_from(&store);

    let digest = Sha256Digest::of(&[&chip.root]).to_string();
    let ordinary = stand.profile.clone();
    stand.profile += &format!(
        "[cvm]\nrevocation = false\nroots = [{digest:?}]\n[cvm.vtpm]\nmeasurements = [\"{}\"]\n",
        "06".repeat(48)
    );
    let machines = ["gpu-01", "gpu-02"].map(|name| stand.machine_beside_paravisor(name));
    let [first, second] = &machines;
    let inventory = entry("gpu-01", first) + &entry("gpu-02", second);
    let policy = stand.apply(&inventory).await;
    let [first, second] = machines;
    let mut guest = Beside::new(&stand, first, policy, chip.clone()).await;
    let other = Beside::new(&stand, second, policy, chip).await;
    let own = guest.ak();
    let accepted = guest.say(&own, None).await;
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);

    let relayed = guest.say(&other.ak(), None).await;
    let old = guest.say(&own, Some([1; 64])).await;
    for (accepted, verdict, code) in [
        (relayed, "contraindicated", "cvm-vtpm-ak"),
        (old, "none", "cvm-not-fresh"),
    ] {
        let reasons = accepted.reasons.join("\n");
        assert_eq!(accepted.verdict, verdict, "{reasons}");
        assert!(reasons.contains(code), "{reasons}");
    }
    // What asks for more than a provider's word gets none.
    stand.profile = format!(
        "{ordinary}[[require]]\nclaim = \"tpm.clock_safe\"\nis = true\nprovenance = \"measured\"\n"
    );
    let policy = stand.bring(&inventory).await;
    guest.last.policy = guest.machine.statement(&stand, Some(policy)).policy;
    let accepted = guest.say(&own, None).await;
    assert_eq!(accepted.verdict, "contraindicated");
    let reasons = accepted.reasons.join("\n");
    assert!(
        reasons.contains("provider-signed [claim-provenance]"),
        "{reasons}"
    );
}
