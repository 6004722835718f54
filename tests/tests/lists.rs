//! A measurement list that travels in parts: what the collector concludes of it, keeps of it, and can
//! show an auditor.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod booted;
mod stand;

use bailiwick_attestation::appraisal::Status;
use bailiwick_attestation::evidence::log_name;
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::x509::Bundle;
use bailiwick_attestation::{DeploymentId, Sha256Digest};
use bailiwick_collector::direct::read_approvers;
use bailiwick_collector::verify::{Anchors, Outcome, verify};
use booted::{Booted, REGISTERS};
use prost::Message as _;
use stand::{Came, Conversation, Machine, Stand, entry};

/// A node whose list grows while it runs.
struct Node {
    machine: Machine,
    booted: Booted,
    enrolled: v1::Enrolled,
    stream: Conversation,
    last: v1::Statement,
    /// How much of the list the collector has, and what that is called.
    had: Option<(usize, Sha256Digest)>,
}

impl Node {
    async fn new(stand: &mut Stand) -> Self {
        stand.profile.push_str("[boot]\n[ima]\n");
        let booted = Booted::new(1);
        let tools: Vec<String> = booted.extends();
        let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
        let mut machine = stand.machine_quoting("gpu-01", &tools, &REGISTERS);
        let manifest = stand.apply(&entry("gpu-01", &machine)).await;
        stand.meet(&mut machine);
        let enrolled = machine.enroll(&stand.maker).await;
        let stream = machine.stream(&enrolled).await.unwrap();
        let last = machine.statement(stand, Some(manifest));
        Self {
            machine,
            booted,
            enrolled,
            stream,
            last,
            had: None,
        }
    }

    /// The kernel measures files. The stream has a client of the TPM of its own, and the TPM takes one
    /// at a time.
    async fn measures(self, files: &[(&str, u8)]) -> Self {
        let Self {
            mut machine,
            mut booted,
            enrolled,
            stream,
            last,
            had,
        } = self;
        drop(stream);
        for (name, content) in files {
            booted.files.push(((*name).to_owned(), *content));
            let tools = booted.extends();
            machine = machine.extended(tools.last().unwrap(), &REGISTERS);
        }
        let stream = machine.stream(&enrolled).await.unwrap();
        Self {
            machine,
            booted,
            enrolled,
            stream,
            last,
            had,
        }
    }

    /// Another boot of the same machine.
    async fn reboots(self, number: u32) -> Self {
        let booted = Booted::new(number);
        let Self {
            machine,
            enrolled,
            stream,
            mut last,
            had,
            ..
        } = self;
        drop(stream);
        let machine = machine.rebooted(&booted.extends(), &REGISTERS);
        let stream = machine.stream(&enrolled).await.unwrap();
        last.boot_id = vec![last.boot_id[0] + 1; 16];
        Self {
            machine,
            booted,
            enrolled,
            stream,
            last,
            had,
        }
    }

    fn ek(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.machine.tpm.identity().ek_public])
    }

    /// The list as it is now.
    fn list(&self) -> Vec<u8> {
        let logs = self.booted.logs().into_iter();
        let mut lists = logs.filter(|log| log.name == "ima");
        lists.next().unwrap().content
    }

    /// Says what is new, as the agent would.
    async fn say(&mut self) -> v1::Accepted {
        match self.had {
            None => self.say_with(self.booted.logs()).await,
            Some((bytes, name)) => {
                let new = self.list().split_off(bytes);
                self.say_with(vec![part(name, new)]).await
            }
        }
    }

    async fn say_with(&mut self, logs: Vec<v1::Log>) -> v1::Accepted {
        self.last.wall_time_ms = bailiwick_collector::clock::now().millis();
        let bytes = self.last.encode_to_vec();
        let mut evidence = self.machine.quote(&bytes, self.stream.nonce).await;
        evidence.logs.clone_from(&logs);
        let came = self.stream.evidence(evidence).await.unwrap();
        let Came::Accepted(accepted, _) = came else {
            panic!("{came:?}");
        };
        self.last.sequence += 1;
        self.last.previous = Some(Sha256Digest::of(&[&bytes]).as_bytes().to_vec());
        for log in &logs {
            let name = log_name(log);
            self.last.logs.retain(|had| had.name != log.name);
            self.last.logs.push(v1::LogDigest {
                name: log.name.clone(),
                sha256: name.as_bytes().to_vec(),
                bytes: 0,
            });
            if log.name == "ima" {
                self.had = Some((self.list().len(), name));
            }
        }
        accepted
    }

    /// After the collector was away.
    async fn again(&mut self, stand: &Stand) {
        stand.meet(&mut self.machine);
        self.enrolled = self.machine.enroll(&stand.maker).await;
        self.stream = self.machine.stream(&self.enrolled).await.unwrap();
    }
}

fn part(follows: Sha256Digest, content: Vec<u8>) -> v1::Log {
    v1::Log {
        name: "ima".to_owned(),
        content,
        follows: follows.as_bytes().to_vec(),
    }
}

/// The newest statement as the collector hands it out, verified by an auditor of one's own.
async fn audited(stand: &Stand) -> (v1::StoredStatement, Option<Status>) {
    let request = v1::GetStatementRequest {
        node: "gpu-01".into(),
        digest: Vec::new(),
    };
    let answer = stand.operator().await.get_statement(request).await;
    let stored = answer.unwrap().into_inner().statement.unwrap();
    let deployment = DeploymentId::new("demo").unwrap();
    let approvers = read_approvers(&stand.dir.path().join("allowed"), 1).unwrap();
    let roots = Bundle::parse(stand.maker.root.as_bytes()).unwrap();
    let anchors = Anchors {
        keys: None,
        endorsements: &Endorsements::default(),
        deployment: &deployment,
        approvers: &approvers,
        roots: &roots.certificates,
        intermediates: &[],
        iak_roots: &[],
        iak_intermediates: &[],
    };
    let report = verify(&stored, &anchors);
    // The result is the collector's own, to the last claim.
    assert_eq!(report.outcome(), Outcome::Ok, "{:#?}", report.checks);
    (stored, report.verdict)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_list_only_what_is_new_travels_and_an_auditor_has_it_whole() {
    let mut stand = Stand::new().await;
    let mut node = Node::new(&mut stand).await;
    let affirmed = |accepted: v1::Accepted, name: &str| {
        assert_eq!(
            accepted.verdict, "affirming",
            "{name}: {:?}",
            accepted.reasons
        );
        assert_eq!(accepted.whole_logs, [""; 0], "{name}");
    };
    affirmed(node.say().await, "whole");
    let mut node = node.measures(&[("/usr/bin/one", 3)]).await;
    affirmed(node.say().await, "a part");
    let more = [("/usr/bin/two", 4), ("/usr/bin/three", 5)];
    let mut node = node.measures(&more).await;
    affirmed(node.say().await, "another");
    affirmed(node.say_with(Vec::new()).await, "nothing new");
    let (stored, verdict) = audited(&stand).await;
    assert_eq!(verdict, Some(Status::Affirming));
    let lists = stored.logs.iter().filter(|log| log.name == "ima");
    assert_eq!(lists.count(), 3);

    // What is not remembered is read from what was stored.
    stand.stop().await;
    stand.start().await;
    node.again(&stand).await;
    let mut node = node.measures(&[("/usr/bin/four", 6)]).await;
    affirmed(node.say().await, "after a restart");
    let (stored, _) = audited(&stand).await;
    let lists = stored.logs.iter().filter(|log| log.name == "ima");
    assert_eq!(lists.count(), 3, "and the fourth came along");

    // A file of the first part is taken back: each entry there ever was is judged anew.
    let revoked = format!(
        "[[revoked]]\ndigest = \"{}\"\nreason = \"CVE-1\"\n",
        hex::encode([2; 32])
    );
    let good = stand.profile.clone();
    stand.profile.push_str(&revoked);
    let manifest = stand.bring(&entry("gpu-01", &node.machine)).await;
    node.last.policy = node.machine.statement(&stand, Some(manifest)).policy;
    let accepted = node.say_with(Vec::new()).await;
    assert_eq!(accepted.verdict, "contraindicated");
    let reasons = accepted.reasons.join("\n");
    assert!(reasons.contains("[revoked]"), "{reasons}");
    assert_eq!(audited(&stand).await.1, Some(Status::Contraindicated));
    stand.profile = good;
    let manifest = stand.bring(&entry("gpu-01", &node.machine)).await;
    node.last.policy = node.machine.statement(&stand, Some(manifest)).policy;
    affirmed(node.say_with(Vec::new()).await, "given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_does_not_follow_earns_nothing() {
    let mut stand = Stand::new().await;
    let mut node = Node::new(&mut stand).await;
    assert_eq!(node.say().await.verdict, "affirming");
    let (bytes, name) = node.had.unwrap();
    let node = node.measures(&[("/usr/bin/implant", 66)]).await;
    let hidden = node.list().len();
    let mut node = node.measures(&[("/usr/bin/one", 3)]).await;

    // The entry between is left out.
    let cut = part(name, node.list().split_off(hidden));
    let accepted = node.say_with(vec![cut]).await;
    let reasons = accepted.reasons.join("\n");
    assert_eq!(accepted.verdict, "contraindicated", "{reasons}");
    assert!(reasons.contains("[ima-replay]"), "{reasons}");
    assert_eq!(audited(&stand).await.1, Some(Status::Contraindicated));

    // It goes on from what nobody has: nothing is known, and it is asked for.
    let ahead = part(Sha256Digest([9; 32]), node.list().split_off(bytes));
    let accepted = node.say_with(vec![ahead]).await;
    let reasons = accepted.reasons.join("\n");
    assert_eq!(accepted.verdict, "none", "{reasons}");
    assert!(reasons.contains("[ima-list-missing]"), "{reasons}");
    assert_eq!(accepted.whole_logs, ["ima"]);
    node.had = None;
    let accepted = node.say().await;
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);
    assert_eq!(accepted.whole_logs, [""; 0]);

    // The list of the boot before does not lead to this boot's register.
    let (_, before) = node.had.unwrap();
    let mut node = node.reboots(2).await;
    let boot = node.booted.logs().remove(0);
    let old = part(before, node.list());
    let accepted = node.say_with(vec![boot, old]).await;
    let reasons = accepted.reasons.join("\n");
    assert_eq!(accepted.verdict, "contraindicated", "{reasons}");
    assert!(reasons.contains("[ima-replay]"), "{reasons}");
    node.had = None;
    let accepted = node.say().await;
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_taken_of_a_listed_node_and_less_of_anybody_else() {
    const MIB: usize = 1024 * 1024;
    let mut stand = Stand::new().await;
    let mut node = Node::new(&mut stand).await;
    // It replays to nothing; here it is about the room for it.
    let list = |bytes: usize| v1::Log {
        name: "ima".to_owned(),
        content: vec![0; bytes],
        follows: Vec::new(),
    };
    let accepted = node.say_with(vec![list(32 * MIB)]).await;
    let reasons = accepted.reasons.join("\n");
    assert_eq!(accepted.verdict, "contraindicated", "{reasons}");
    let (stored, _) = audited(&stand).await;
    let kept = stored.evidence.unwrap().logs;
    assert_eq!(kept[0].content.len(), 32 * MIB);
    // As what the next statement names, it is read from what was stored.
    node.say_with(Vec::new()).await;
    let (stored, _) = audited(&stand).await;
    assert_eq!(stored.logs[0].content.len(), 32 * MIB);
    assert_eq!(
        sent(&mut node, list(32 * MIB + 1)).await,
        "evidence-too-large"
    );

    // Nobody lists it any more: it is heard, and what is too long of it is left out.
    stand.bring("").await;
    for (bytes, kept) in [(6 * MIB + 1, 0), (6 * MIB, 1)] {
        node.say_with(vec![list(bytes)]).await;
        let request = v1::GetStatementRequest {
            node: bailiwick_collector::direct::pending_name(&node.ek()),
            digest: Vec::new(),
        };
        let answer = stand.operator().await.get_statement(request).await;
        let stored = answer.unwrap().into_inner().statement.unwrap();
        assert_eq!(stored.evidence.unwrap().logs.len(), kept, "{bytes}");
    }
}

/// Sends a list; what comes of it.
async fn sent(node: &mut Node, list: v1::Log) -> String {
    node.last.wall_time_ms = bailiwick_collector::clock::now().millis();
    let bytes = node.last.encode_to_vec();
    let mut evidence = node.machine.quote(&bytes, node.stream.nonce).await;
    evidence.logs.push(list);
    node.stream
        .evidence(evidence)
        .await
        .unwrap()
        .code()
        .to_owned()
}
