//! GPUs before a real collector: what a plan says of a profile that asks for them, and which nodes
//! hang on which endorsement. The GPUs are the ABI double's, asked by the agent's own code.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod client;
mod stand;

use std::fs;
use std::path::Path;

use bailiwick_agent::collect::gpu::{LOGS, PATIENCE, ask, cited};
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::evidence::gpu_nonce;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::x509::Bundle;
use bailiwick_nvml_double::{Staged, library};
use client::{built, client};
use prost::Message as _;
use serde_json::Value;
use stand::{Came, Conversation, Machine, Stand, entry};

/// A node that says how its GPU answered, where it has one.
struct Node {
    machine: Machine,
    stream: Conversation,
    last: v1::Statement,
    double: Option<Staged>,
}

impl Node {
    async fn new(
        stand: &Stand,
        mut machine: Machine,
        policy: Sha256Digest,
        double: Option<Staged>,
    ) -> Self {
        let (stream, last) = machine.joined(stand, policy).await;
        Self {
            machine,
            stream,
            last,
            double,
        }
    }

    async fn say(&mut self) -> v1::Accepted {
        let challenge = self.stream.nonce;
        let mut logs = Vec::new();
        if let Some(double) = &self.double {
            let nonce = gpu_nonce(&challenge, &self.machine.tpm.identity().ak_name);
            let agent = built("bailiwick-agent");
            let collected = ask(agent, Some(&double.path()), nonce, PATIENCE).await;
            assert_eq!(collected.stopped, None);
            let cited = cited(&collected, &challenge, 1);
            self.last.gpu = Some(cited.citation);
            let named = LOGS.into_iter().zip(cited.logs);
            logs = named
                .map(|(name, content)| v1::Log {
                    name: name.to_owned(),
                    content,
                    ..v1::Log::default()
                })
                .collect();
        }
        self.last.wall_time_ms = bailiwick_collector::clock::now().millis();
        let bytes = self.last.encode_to_vec();
        let mut evidence = self.machine.quote(&bytes, challenge).await;
        evidence.logs = logs;
        let came = self.stream.evidence(evidence).await.unwrap();
        let Came::Accepted(accepted, _) = came else {
            panic!("{came:?}");
        };
        self.last.sequence += 1;
        self.last.previous = Some(Sha256Digest::of(&[&bytes]).as_bytes().to_vec());
        accepted
    }
}

fn doubled(folder: &Path) -> Staged {
    let mut double = Staged::new(&library().unwrap(), folder).unwrap();
    double.add_made(1).unwrap();
    double.write().unwrap();
    double
}

/// One node whose GPU is a double, and one that has none, under a profile that does not ask.
async fn two_nodes(stand: &mut Stand, folder: &Path) -> [Node; 2] {
    let machines = ["gpu-01", "gpu-02"].map(|name| stand.machine(name));
    let [first, second] = &machines;
    let inventory = entry("gpu-01", first) + &entry("gpu-02", second);
    let policy = stand.apply(&inventory).await;
    let [first, second] = machines;
    let first = Node::new(stand, first, policy, Some(doubled(folder))).await;
    [first, Node::new(stand, second, policy, None).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_whose_gpus_would_not_do() {
    let mut stand = Stand::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let mut nodes = two_nodes(&mut stand, &scratch.path().join("double")).await;
    for node in &mut nodes {
        let accepted = node.say().await;
        assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);
    }
    let folder = scratch.path().join("policy");
    let policy = nodes[0].last.policy.clone().unwrap().manifest_digest;
    let policy = Sha256Digest::from_slice(&policy).unwrap();
    stand.check_out(&policy, &folder).await;
    let config = stand.client_config();
    let profile = folder.join("profile.toml");
    let plain = fs::read_to_string(&profile).unwrap();
    let not_hardware = "gpu-01 would turn from affirming to contraindicated: gpu.0.hardware";
    let none = "gpu-02 would turn from affirming to contraindicated: gpu.reports";
    for (name, asked, want) in [
        ("the profile in force", "", &[][..]),
        (
            "one that asks for GPUs",
            "[gpu]\nmeasurements = false\n",
            &[not_hardware, none],
        ),
    ] {
        fs::write(&profile, format!("{plain}{asked}")).unwrap();
        let words = ["policy", "plan", "-f", folder.to_str().unwrap()];
        let told = client(&words, Some(&config)).await;
        let said = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.status.code(), Some(0), "{name}: {said}");
        let turn = said.lines().filter(|line| line.contains("would turn"));
        assert_eq!(turn.count(), want.len(), "{name}: {said}");
        for line in want {
            assert!(said.contains(line), "{name}: {line}: {said}");
        }
        assert_eq!(said.contains("not-hardware"), !want.is_empty(), "{said}");
        assert_eq!(said.contains("gpu-missing"), !want.is_empty(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_says_which_nodes_hang_on_a_document() {
    let mut stand = Stand::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let store = scratch.path().join("store");
    let double = scratch.path().join("double");
    // The root of the double's GPU, and one that nothing leads to.
    let staged = doubled(&double);
    let chain = fs::read(double.join("gpu1.chain.pem")).unwrap();
    let chain = Bundle::parse(&chain).unwrap().certificates;
    let root = chain.last().unwrap().as_der();
    let own = scratch.path().join("root.der");
    fs::write(&own, root).unwrap();
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/gpu_rim/root.der");
    let store_words = ["--store", store.to_str().unwrap(), "--output", "json"];
    let import = ["endorsements", "import", own.to_str().unwrap()];
    let words = [&import[..], &[seeds.to_str().unwrap()], &store_words].concat();
    let imported = client(&words, None).await;
    assert_eq!(imported.status.code(), Some(0), "{imported:?}");
    stand.endorse_from(&store);

    let digest = Sha256Digest::of(&[root]).to_string();
    let other = Sha256Digest::of(&[&fs::read(&seeds).unwrap()]).to_string();
    stand.profile += &format!("[gpu]\nmeasurements = false\ndevice_roots = [{digest:?}]\n");
    let [mut first, mut second] = two_nodes(&mut stand, &scratch.path().join("unused")).await;
    first.double = Some(staged);
    for (node, why) in [(&mut first, "not-hardware"), (&mut second, "gpu-missing")] {
        let accepted = node.say().await;
        assert_eq!(accepted.verdict, "contraindicated");
        let reasons = accepted.reasons.join("\n");
        assert!(reasons.contains(why), "{reasons}");
        assert!(!reasons.contains("chain-root"), "{reasons}");
    }
    let words = [&["endorsements", "status", "--nodes"][..], &store_words].concat();
    let told = client(&words, Some(&stand.client_config())).await;
    assert_eq!(told.status.code(), Some(0), "{told:?}");
    let rows: Vec<Value> = serde_json::from_slice(&told.stdout).unwrap();
    let of = |digest: &str| {
        let row = rows.iter().find(|row| row["sha256"] == digest).unwrap();
        (row["kind"].clone(), row["relied_on_by"].clone())
    };
    let root = Value::from("root");
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(of(&digest), (root.clone(), Value::from(vec!["gpu-01"])));
    assert_eq!(of(&other), (root, Value::Array(Vec::new())));
}
