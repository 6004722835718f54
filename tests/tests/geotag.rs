//! A node whose profile asks where it stands: a geotag in a real software TPM, a collector that
//! appraises it, and an auditor who does so again.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod stand;

use bailiwick_agent::geotag::{Said, check, draft};
use bailiwick_attestation::evidence::{Freshness, Nonce, geotag_binding};
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::x509::Bundle;
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_collector::clock;
use bailiwick_collector::direct::read_approvers;
use bailiwick_collector::verify::{Anchors, Outcome, Report, verify};
use prost::Message as _;
use stand::{Came, Conversation, Machine, Stand, entry};

const ASKED: &str =
    "[[require]]\nclaim = \"geo.jurisdiction\"\nis = \"DE\"\nprovenance = \"operator-signed\"\n";

fn demo() -> DeploymentId {
    DeploymentId::new("demo").unwrap()
}

/// Signs a geotag for the TPM with this EK and locks it into the machine's.
async fn provision(stand: &Stand, machine: &Machine, ek: Sha256Digest, jurisdiction: &str) {
    let now = clock::now();
    let said = Said {
        place: "FRA1 / row 3".to_owned(),
        rack: Some("12".to_owned()),
        jurisdiction: jurisdiction.to_owned(),
        until: UnixTime::from_secs(now.secs() + 3600),
    };
    let text = draft(&said, &demo(), ek, now).unwrap();
    let armored = stand.sign("bailiwick/demo/geotag", text.as_bytes());
    let signed = check(text.as_bytes(), armored.as_bytes(), &demo(), ek, now).unwrap();
    machine.tpm.provision_geotag(signed.record).await.unwrap();
}

/// Statements of one node, one after the other.
struct Node {
    machine: Machine,
    stream: Conversation,
    manifest: Sha256Digest,
    previous: Option<Sha256Digest>,
    sequence: u64,
    /// What it hears at the end of its one wire; nothing said where that is empty.
    neighbours: &'static str,
    /// Its geotag is left out.
    hides: bool,
}

impl Node {
    fn beside(&self) -> Vec<v1::Claim> {
        let claim = |text: &str| v1::Claim {
            name: "uplink.eth0.neighbours".to_owned(),
            source: "LLDP on eth0".to_owned(),
            value: Some(v1::claim::Value::Text(text.to_owned())),
        };
        let told = Some(self.neighbours).filter(|text| !text.is_empty());
        told.map(claim).into_iter().collect()
    }

    /// The next statement, with a geotag certified under `nonce`; what the collector says of it.
    async fn says(&mut self, stand: &Stand, nonce: Option<Nonce>) -> (String, Vec<String>) {
        let statement = v1::Statement {
            sequence: self.sequence,
            previous: self.previous.map(|digest| digest.0.to_vec()),
            claims: self.beside(),
            ..self.machine.statement(stand, Some(self.manifest))
        };
        let statement = statement.encode_to_vec();
        let challenge = self.stream.nonce;
        let mut evidence = self.machine.quote(&statement, challenge).await;
        let freshness = Freshness::Challenged(nonce.unwrap_or(challenge));
        let binding = geotag_binding(&freshness, &statement);
        let area = self.machine.tpm.certify_geotag(binding.0).await.unwrap();
        evidence.geotag = area.filter(|_| !self.hides).map(|area| {
            Box::new(v1::Geotag {
                nv_public: area.public,
                attest: area.signed.attest,
                signature: area.signed.signature,
                unavailable: String::new(),
            })
        });
        self.previous = Some(Sha256Digest::of(&[&statement]));
        self.sequence += 1;
        match self.stream.evidence(evidence).await.unwrap() {
            Came::Accepted(accepted, _) => (accepted.verdict, accepted.reasons),
            Came::Refused(refused) => panic!("{refused:?}"),
        }
    }
}

fn code(said: &(String, Vec<String>)) -> (&str, Vec<&str>) {
    let code = |reason: &'_ String| {
        let at = reason.rfind('[').unwrap();
        (at + 1, reason.len() - 1)
    };
    let codes = said.1.iter().map(|reason| {
        let (from, to) = code(reason);
        &reason[from..to]
    });
    (said.0.as_str(), codes.collect())
}

async fn stored(stand: &Stand) -> v1::StoredStatement {
    let request = v1::GetStatementRequest {
        node: "gpu-01".into(),
        digest: Vec::new(),
    };
    let answer = stand.operator().await.get_statement(request).await;
    answer.unwrap().into_inner().statement.unwrap()
}

fn audit(stand: &Stand, stored: &v1::StoredStatement) -> Report {
    let roots = Bundle::parse(stand.maker.root.as_bytes()).unwrap();
    verify(
        stored,
        &Anchors {
            endorsements: &bailiwick_attestation::gpu::Endorsements::default(),
            keys: None,
            deployment: &demo(),
            approvers: &read_approvers(&stand.dir.path().join("allowed"), 1).unwrap(),
            roots: &roots.certificates,
            intermediates: &[],
            iak_roots: &[],
            iak_intermediates: &[],
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_shown_by_the_tpm_and_taken_back_by_the_inventory() {
    let mut stand = Stand::new().await;
    stand.profile.push_str(ASKED);
    let mut machine = stand.machine("gpu-01");
    let other = stand.machine("gpu-02");
    let inventory = format!("{}{}", entry("gpu-01", &machine), entry("gpu-02", &other));
    let manifest = stand.apply(&inventory).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll(&stand.maker).await;
    let stream = machine.stream(&enrolled).await.unwrap();
    let mut node = Node {
        machine,
        stream,
        manifest,
        previous: None,
        sequence: 0,
        neighbours: "",
        hides: false,
    };
    let said = node.says(&stand, None).await;
    assert_eq!(
        code(&said),
        ("contraindicated", vec!["claim-missing"]),
        "none yet"
    );

    let ek = node.machine.ek();
    provision(&stand, &node.machine, ek, "DE").await;
    let said = node.says(&stand, None).await;
    assert_eq!(code(&said), ("affirming", vec![]), "{said:?}");
    let good = stored(&stand).await;
    let report = audit(&stand, &good);
    assert_eq!(report.outcome(), Outcome::Ok, "{:#?}", report.checks);

    // The same statement with the geotag's certification gone, or another: not what was concluded.
    for spoil in [
        |evidence: &mut v1::Evidence| evidence.geotag = None,
        |evidence: &mut v1::Evidence| {
            let tag = evidence.geotag.as_mut().unwrap();
            *tag.signature.last_mut().unwrap() ^= 1;
        },
    ] {
        let mut spoilt = good.clone();
        spoil(spoilt.evidence.as_mut().unwrap());
        assert_eq!(audit(&stand, &spoilt).outcome(), Outcome::Refused);
    }

    let stale = node.says(&stand, Some(Nonce::new([9; 32]))).await;
    let want = ("contraindicated", vec!["nv-qualifying-data"]);
    assert_eq!(code(&stale), want, "an older answer");
    provision(&stand, &node.machine, ek, "US").await;
    let moved = node.says(&stand, None).await;
    let want = ("contraindicated", vec!["geotag-jurisdiction"]);
    assert_eq!(code(&moved), want, "another law than the inventory's");

    // The other node's, as root could read it there and lock it in here.
    provision(&stand, &other, other.ek(), "DE").await;
    let theirs = other.tpm.certify_geotag([0; 32]).await.unwrap().unwrap();
    let record = theirs.contents.unwrap();
    node.machine.tpm.provision_geotag(record).await.unwrap();
    let said = node.says(&stand, None).await;
    let want = ("contraindicated", vec!["geotag-other-node"]);
    assert_eq!(code(&said), want, "the other node's");

    provision(&stand, &node.machine, ek, "DE").await;
    assert_eq!(code(&node.says(&stand, None).await).0, "affirming");
    let since =
        bailiwick_policy::model::confirm::rfc3339(UnixTime::from_secs(clock::now().secs() + 60));
    let taken_back = inventory.replacen(
        "jurisdiction = \"DE\"\n",
        &format!("jurisdiction = \"DE\"\ngeotags_since = \"{since}\"\n"),
        1,
    );
    node.manifest = stand.bring(&taken_back).await;
    let said = node.says(&stand, None).await;
    let want = ("contraindicated", vec!["geotag-revoked"]);
    assert_eq!(code(&said), want, "taken back");
    let report = audit(&stand, &stored(&stand).await);
    assert_eq!(report.outcome(), Outcome::Ok, "{:#?}", report.checks);
}

/// What the collector says of the node's place, and what fires about it.
async fn place(stand: &Stand) -> (Vec<String>, Vec<String>) {
    let mut operator = stand.operator().await;
    let request = v1::GetNodeRequest {
        node: "gpu-01".into(),
        ..v1::GetNodeRequest::default()
    };
    let node = operator.get_node(request).await.unwrap().into_inner();
    let lines = node.standing.into_iter().map(|line| line.code);
    let lines = lines.filter(|code| code.starts_with("place-") || code.starts_with("geotag-"));
    let alerts = operator.list_alerts(v1::ListAlertsRequest { all: false });
    let alerts = alerts.await.unwrap().into_inner().alerts.into_iter();
    let alerts = alerts.filter(|alert| alert.node == "gpu-01");
    let alerts = alerts.map(|alert| format!("{} {}", alert.name, alert.severity));
    (lines.collect(), alerts.collect())
}

/// Waits until that is what fires.
async fn fires(stand: &Stand, want: &[&str]) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let (_, alerts) = place(stand).await;
        if alerts == want {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "{alerts:?}, not {want:?}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_beside_another_switch_alerts_until_it_is_back_or_signed_for() {
    let mut stand = Stand::new().await;
    let mut machine = stand.machine("gpu-01");
    let manifest = stand.apply(&entry("gpu-01", &machine)).await;
    stand.meet(&mut machine);
    let enrolled = machine.enroll(&stand.maker).await;
    let stream = machine.stream(&enrolled).await.unwrap();
    let mut node = Node {
        machine,
        stream,
        manifest,
        previous: None,
        sequence: 0,
        neighbours: "mac 02:00:00:00:00:01 ifname e1",
        hides: false,
    };
    // Without a geotag nobody said where it belongs.
    assert_eq!(node.says(&stand, None).await.0, "affirming");
    node.neighbours = "mac 02:00:00:00:00:09 ifname e9";
    assert_eq!(node.says(&stand, None).await.0, "affirming");
    assert_eq!(place(&stand).await, (vec![], vec![]));

    let ek = node.machine.ek();
    provision(&stand, &node.machine, ek, "DE").await;
    node.neighbours = "mac 02:00:00:00:00:01 ifname e1";
    assert_eq!(node.says(&stand, None).await.0, "affirming");
    assert_eq!(place(&stand).await, (vec![], vec![]));
    // Nothing of it is settled yet: what comes up belongs to it. What is gone is missed.
    node.neighbours = "none";
    assert_eq!(node.says(&stand, None).await.0, "affirming");
    assert_eq!(place(&stand).await.0, ["place-missing"]);
    node.neighbours = "mac 02:00:00:00:00:01 ifname e1";
    node.says(&stand, None).await;
    assert_eq!(place(&stand).await.0, Vec::<String>::new());

    // The geotag is gone, however well everything else is.
    node.hides = true;
    assert_eq!(node.says(&stand, None).await.0, "affirming");
    assert_eq!(place(&stand).await.0, ["geotag-gone"]);
    fires(&stand, &["BailiwickGeotagEnding critical"]).await;
    // A later one, signed by somebody who stood there.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    provision(&stand, &node.machine, ek, "DE").await;
    node.hides = false;
    node.neighbours = "mac 02:00:00:00:00:09 ifname e9";
    assert_eq!(node.says(&stand, None).await.0, "affirming");
    assert_eq!(place(&stand).await.0, Vec::<String>::new());
    fires(&stand, &[]).await;
}
