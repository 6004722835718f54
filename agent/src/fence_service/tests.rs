use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use bailiwick_attestation::{
    DeploymentId, NodeId, Sha256Digest, UnixTime,
    proto::v1::{FenceEvent, FenceState, PolicyBundle, PolicyFile, fence_state::Mode},
};
use bailiwick_policy::{
    approvers::Approvers,
    kind::Kind,
    manifest::{Draft, compose},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    ipc::{FenceClient, IpcError},
    proto::fence::{ApplyLease, ApplyPolicy, NextEvents, Request, request, response},
};

/// What the service asked of the enforcer: the kernel has tests of its own.
#[derive(Clone, Default)]
pub(super) struct Recorder(pub(super) Arc<Mutex<Recorded>>);

#[derive(Default)]
pub(super) struct Recorded {
    pub(super) applied: Vec<u64>,
    withdrawn: u32,
    events: Vec<FenceEvent>,
    lost: u64,
    broken: bool,
    pub(super) glass: BTreeMap<String, u64>,
    pub(super) uses: BTreeMap<Sha256Digest, u64>,
    /// No new study starts.
    pub(super) closed: bool,
    pub(super) lease_ends: Vec<u64>,
    pub(super) proven: Vec<bool>,
    /// The fence's PCR cannot be extended.
    pub(super) unmeasured: bool,
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Broken {
    #[error("map full")]
    Full,
    #[error("no answer")]
    Unmeasured,
}

impl Enforcer for Recorder {
    type Error = Broken;

    fn apply_policy(&mut self, bundle: &VerifiedBundle) -> Result<(), Broken> {
        let mut recorded = self.0.lock().unwrap();
        if recorded.unmeasured {
            return Err(Broken::Unmeasured);
        }
        if recorded.broken {
            return Err(Broken::Full);
        }
        recorded.applied.push(bundle.manifest.version);
        Ok(())
    }

    fn held_back(error: &Broken) -> bool {
        *error == Broken::Unmeasured
    }

    fn ready(&self) -> bool {
        !self.0.lock().unwrap().unmeasured
    }

    fn admit(&mut self, new: bool) {
        self.0.lock().unwrap().closed = !new;
    }

    fn deny_everything(&mut self) -> Result<(), Broken> {
        self.0.lock().unwrap().withdrawn += 1;
        Ok(())
    }

    fn reconcile(&mut self) -> Result<(), Broken> {
        Ok(())
    }

    fn set_lease_end(&mut self, boot_ns: u64) -> Result<(), Broken> {
        self.0.lock().unwrap().lease_ends.push(boot_ns);
        Ok(())
    }

    fn set_gpus_proven(&mut self, proven: bool) -> Result<(), Broken> {
        self.0.lock().unwrap().proven.push(proven);
        Ok(())
    }

    fn set_peers(&mut self, _peers: Vec<Peer>) -> Result<(), Broken> {
        Ok(())
    }

    fn set_break_glass(
        &mut self,
        ends: BTreeMap<String, u64>,
        uses: &BTreeMap<Sha256Digest, u64>,
    ) -> Result<(), Broken> {
        let mut recorded = self.0.lock().unwrap();
        if recorded.unmeasured && *uses != recorded.uses {
            return Err(Broken::Unmeasured);
        }
        recorded.glass = ends;
        recorded.uses = uses.clone();
        Ok(())
    }

    fn state(&mut self) -> FenceState {
        FenceState {
            mode: Mode::DefaultDeny.into(),
            ..FenceState::default()
        }
    }

    fn world_digest(&self) -> Option<Sha256Digest> {
        Some(Sha256Digest([7; 32]))
    }

    fn drain_events(&mut self) -> (Vec<FenceEvent>, u64) {
        let mut recorded = self.0.lock().unwrap();
        let events = std::mem::take(&mut recorded.events);
        (events, std::mem::take(&mut recorded.lost))
    }
}

/// Approvers, a state folder, and a service on a socket.
pub(super) struct Scene {
    dir: tempfile::TempDir,
    deployment: DeploymentId,
    pub(super) recorder: Recorder,
}

impl Scene {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scene = Self {
            dir,
            deployment: DeploymentId::new("demo").unwrap(),
            recorder: Recorder::default(),
        };
        scene.key("alice");
        scene
    }

    /// Makes a key; gives its line of `allowed_signers`.
    pub(super) fn key(&self, name: &str) -> String {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
            .arg(self.path(name))
            .status()
            .unwrap();
        assert!(made.success());
        let key = std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        format!("{name} {key}")
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn core(&self) -> Core<Recorder> {
        self.core_in([1; 16])
    }

    /// In another boot.
    pub(super) fn core_in(&self, boot_id: [u8; 16]) -> Core<Recorder> {
        let key = std::fs::read_to_string(self.path("alice.pub")).unwrap();
        let approvers = Approvers::parse("a", format!("alice {key}").as_bytes(), 1).unwrap();
        Core::new(
            self.recorder.clone(),
            Settings {
                deployment: self.deployment.clone(),
                approvers,
                state_dir: self.path("state"),
                node: NodeId::new("gpu-01").unwrap(),
                boot_id,
            },
        )
    }

    pub(super) fn bundle(&self, version: u64, previous: Option<Sha256Digest>) -> PolicyBundle {
        self.signed(Kind::Policy, version, previous, &small_policy(), &["alice"])
    }

    /// A manifest of any kind over these files, signed by these.
    pub(super) fn signed(
        &self,
        kind: Kind,
        version: u64,
        previous: Option<Sha256Digest>,
        files: &BTreeMap<String, Vec<u8>>,
        signers: &[&str],
    ) -> PolicyBundle {
        let not_after = UnixTime::from_secs(4_000_000_000);
        self.signed_until((kind, "demo"), version, previous, files, signers, not_after)
    }

    /// For a deployment that may be another, until a time that may be over.
    pub(super) fn signed_until(
        &self,
        (kind, deployment): (Kind, &str),
        version: u64,
        previous: Option<Sha256Digest>,
        files: &BTreeMap<String, Vec<u8>>,
        signers: &[&str],
        not_after: UnixTime,
    ) -> PolicyBundle {
        let deployment = DeploymentId::new(deployment).unwrap();
        let manifest = compose(
            &Draft {
                deployment: &deployment,
                kind,
                version,
                previous,
                not_after,
                reason: "a test",
            },
            files,
        )
        .unwrap();
        let file = self.path("manifest.toml");
        std::fs::write(&file, &manifest).unwrap();
        let signatures = signers.iter().map(|signer| {
            let signed = Command::new("ssh-keygen")
                .args(["-q", "-Y", "sign", "-n"])
                .arg(kind.namespace(&deployment))
                .arg("-f")
                .arg(self.path(signer))
                .arg(&file)
                .status()
                .unwrap();
            assert!(signed.success());
            let signature = std::fs::read(self.path("manifest.toml.sig")).unwrap();
            std::fs::remove_file(self.path("manifest.toml.sig")).unwrap();
            signature
        });
        PolicyBundle {
            signatures: signatures.collect(),
            manifest: manifest.into_bytes(),
            files: files
                .iter()
                .map(|(path, content)| PolicyFile {
                    path: path.clone(),
                    content: content.clone(),
                })
                .collect(),
            before: Vec::new(),
        }
    }

    /// An hour without a lease for cardio.
    pub(super) fn glass(&self, version: u64, deployment: &str, node: &str) -> PolicyBundle {
        let text = format!(
            "nodes = [{node:?}]\nstudies = [\"cardio\"]\nduration_seconds = 3600\n\
             use_before = \"2090-01-01T00:00:00Z\"\nreason = \"the collector burned down\"\n"
        );
        let files = [("break-glass.toml".to_owned(), text.into_bytes())].into();
        let previous = (version > 1).then_some(Sha256Digest([1; 32]));
        let (not_after, kind) = (UnixTime::from_secs(4_000_000_000), Kind::BreakGlass);
        self.signed_until(
            (kind, deployment),
            version,
            previous,
            &files,
            &["alice"],
            not_after,
        )
    }

    fn serve(&self) -> (FenceClient, CancellationToken, tokio::task::JoinHandle<()>) {
        let socket = self.path("run/fence.sock");
        let stop = CancellationToken::new();
        let (core, at, stopping) = (self.core(), socket.clone(), stop.clone());
        let task = tokio::spawn(async move { serve(core, &at, stopping).await.unwrap() });
        (FenceClient::new(&socket), stop, task)
    }
}

/// As little as a policy must have.
pub(super) fn small_policy() -> BTreeMap<String, Vec<u8>> {
    let study = "name = \"cardio\"\nmode = \"enforce\"\n[select]\n\
                 cgroups = [\"/studies/cardio\"]\n[allow]\njurisdictions = [\"DE\"]\n";
    let profile = "name = \"p\"\nlease_seconds = 60\nmax_silence_seconds = 60\n[tpm]\n\
                   bank = \"sha256\"\nrequire = [0]\n";
    [
        ("studies/cardio.toml", study),
        ("host-fence.toml", ""),
        ("sites.toml", ""),
        ("inventory.toml", ""),
        ("collector.toml", ""),
        ("profile.toml", profile),
        ("world.csv", ""),
    ]
    .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))
    .into()
}

async fn until_up(client: &mut FenceClient) {
    for _ in 0..200 {
        if client.state().await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the service does not answer");
}

async fn refusal(client: &mut FenceClient, bundle: PolicyBundle) -> String {
    let apply = ApplyPolicy {
        bundle: Some(bundle),
        ..ApplyPolicy::default()
    };
    match client.apply_policy(apply).await {
        Err(IpcError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_policy_survives_a_restart_and_only_moves_forward() {
    let scene = Scene::new();
    let (mut client, stop, task) = scene.serve();
    until_up(&mut client).await;
    let first = scene.bundle(1, None);
    let digest = Sha256Digest::of(&[&first.manifest]);
    let apply = ApplyPolicy {
        bundle: Some(first.clone()),
        ..ApplyPolicy::default()
    };
    client.apply_policy(apply).await.unwrap();

    let mut unsigned = scene.bundle(2, Some(digest));
    unsigned.signatures.clear();
    assert_eq!(refusal(&mut client, unsigned).await, "policy-unsigned");
    let mut edited = scene.bundle(2, Some(digest));
    edited.files[0].content.push(b'\n');
    assert_eq!(refusal(&mut client, edited).await, "policy-file-digest");

    scene.recorder.0.lock().unwrap().broken = true;
    let second = scene.bundle(2, Some(digest));
    assert_eq!(refusal(&mut client, second.clone()).await, "fence-failed");
    scene.recorder.0.lock().unwrap().broken = false;
    assert_eq!(client.state().await.unwrap().policy.unwrap().version, 1);
    stop.cancel();
    task.await.unwrap();

    let (_, _stop, _task) = scene.serve();
    until_up(&mut FenceClient::new(&scene.path("run/fence.sock"))).await;
    assert_eq!(
        client.state().await.unwrap().policy.unwrap().version,
        1,
        "the one that failed does not greet the next start"
    );
    let apply = ApplyPolicy {
        bundle: Some(second),
        ..ApplyPolicy::default()
    };
    client.apply_policy(apply).await.unwrap();
    assert_eq!(refusal(&mut client, first).await, "policy-rolled-back");
    assert_eq!(scene.recorder.0.lock().unwrap().applied, [1, 1, 2]);
}

#[test]
fn a_policy_waits_until_the_fences_pcr_can_be_extended() {
    let scene = Scene::new();
    let applied = || scene.recorder.0.lock().unwrap().applied.clone();
    let unmeasured = |so| scene.recorder.0.lock().unwrap().unmeasured = so;
    let apply = |core: &mut Core<Recorder>, bundle: PolicyBundle| {
        let apply = ApplyPolicy {
            bundle: Some(bundle),
            ..ApplyPolicy::default()
        };
        let request = Request {
            request: Some(request::Request::ApplyPolicy(apply)),
        };
        match core.handle(request).response {
            Some(response::Response::Done(_)) => "done".to_owned(),
            Some(response::Response::Refusal(refusal)) => refusal.code,
            other => panic!("{other:?}"),
        }
    };
    let mut core = scene.core();
    let first = scene.bundle(1, None);
    let second = scene.bundle(2, Some(Sha256Digest::of(&[&first.manifest])));
    assert_eq!(apply(&mut core, first), "done");
    unmeasured(true);
    assert_eq!(apply(&mut core, second.clone()), "fence-pcr-unavailable");
    core.reconcile();
    assert_eq!(
        applied(),
        [1],
        "the old one stays, and the new one is not kept"
    );
    unmeasured(false);
    core.reconcile();
    assert_eq!(applied(), [1], "whoever offered it offers it again");
    drop(core);

    // A start without the TPM: closed, until it answers.
    unmeasured(true);
    let withdrawn = || scene.recorder.0.lock().unwrap().withdrawn;
    let before = withdrawn();
    let mut core = scene.core();
    assert_eq!((applied(), withdrawn()), (vec![1], before + 1));
    core.reconcile();
    assert_eq!((applied(), withdrawn()), (vec![1], before + 1), "not tried");
    unmeasured(false);
    core.reconcile();
    core.reconcile();
    assert_eq!(applied(), [1, 1], "once");
    assert_eq!(apply(&mut core, second), "done");
}

#[tokio::test]
async fn a_kept_policy_that_is_no_good_is_not_in_force() {
    let scene = Scene::new();
    std::fs::create_dir_all(scene.path("state/fence")).unwrap();
    std::fs::write(scene.path("state/fence/policy"), b"\xff").unwrap();
    let (mut client, _stop, _task) = scene.serve();
    until_up(&mut client).await;
    assert_eq!(client.state().await.unwrap().policy, None);
    let recorded = scene.recorder.0.lock().unwrap();
    assert!(recorded.applied.is_empty());
    // What an earlier process left in the kernel is taken out.
    assert_eq!(recorded.withdrawn, 1);
}

#[tokio::test]
async fn a_lease_without_a_policy_is_refused() {
    let scene = Scene::new();
    let (mut client, _stop, _task) = scene.serve();
    until_up(&mut client).await;
    let lease = ApplyLease {
        lease: Some(Default::default()),
        ek_digest: vec![0; 32],
        ..ApplyLease::default()
    };
    for (name, lease, want) in [
        ("no policy", lease.clone(), "lease-no-policy"),
        (
            "no lease",
            ApplyLease {
                lease: None,
                ..lease
            },
            "request-malformed",
        ),
    ] {
        match client.apply_lease(lease).await {
            Err(IpcError::Refused { code, .. }) => assert_eq!(code, want, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn events_wait_until_acknowledged_and_losses_are_told() {
    let scene = Scene::new();
    let (mut client, _stop, _task) = scene.serve();
    until_up(&mut client).await;
    {
        let mut recorded = scene.recorder.0.lock().unwrap();
        recorded.events = (0..5)
            .map(|port| FenceEvent {
                destination_port: port,
                ..FenceEvent::default()
            })
            .collect();
        recorded.lost = 7;
    }
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    let ports = |events: &[FenceEvent]| -> Vec<u32> {
        events.iter().map(|event| event.destination_port).collect()
    };
    let next = |instance: &[u8], acknowledged, max| NextEvents {
        instance: instance.to_vec(),
        acknowledged,
        max,
    };
    let got = client.next_events(next(&[], 0, 2)).await.unwrap();
    let instance = got.instance;
    assert_eq!((got.first, got.lost), (0, 7));
    assert_eq!(ports(&got.events), [0, 1]);
    let again = client.next_events(next(&instance, 0, 2)).await.unwrap();
    assert_eq!(
        (ports(&again.events), again.lost),
        (vec![0, 1], 0),
        "not acknowledged"
    );
    let other = client.next_events(next(&[1; 16], 4, 2)).await.unwrap();
    assert_eq!(ports(&other.events), [0, 1], "numbers of another instance");
    let rest = client.next_events(next(&instance, 2, 100)).await.unwrap();
    assert_eq!((rest.first, ports(&rest.events)), (2, vec![2, 3, 4]));
    let none = client.next_events(next(&instance, 5, 100)).await.unwrap();
    assert_eq!((none.first, none.events.len()), (5, 0));
}

#[test]
fn a_full_queue_tells_packets_together_and_changes_nothing_that_was_seen() {
    let scene = Scene::new();
    let mut core = scene.core();
    let whose = |rule: &str| FenceEvent {
        boot_time_ns: 7,
        wall_time_ms: 8,
        study: "cardio".to_owned(),
        direction: "egress".to_owned(),
        rule: rule.to_owned(),
        verdict: "deny".to_owned(),
        hook: "cgroup_skb/egress".to_owned(),
        count: 3,
        device: "gpu 195:0".to_owned(),
        bytes: 100,
        until_boot_ns: 9,
        sampled: 2,
        change: "was emptied".to_owned(),
        ..FenceEvent::default()
    };
    let denial = |rule: &str| FenceEvent {
        cgroup_id: 11,
        cgroup: "/studies/cardio".to_owned(),
        source: vec![192, 0, 2, 1],
        destination: vec![203, 0, 113, 9],
        protocol: 6,
        source_port: 50_000,
        destination_port: 443,
        jurisdiction: "DE".to_owned(),
        uid: Some(1000),
        pid: Some(4711),
        command: "curl".to_owned(),
        executable: "/usr/bin/curl".to_owned(),
        ..whose(rule)
    };
    let mut pump = |events: Vec<FenceEvent>| {
        scene.recorder.0.lock().unwrap().events = events;
        core.pump_events();
    };
    pump(vec![denial("prefix"); 16_384]);
    pump(vec![denial("prefix"); 1000]);
    pump(vec![denial("jurisdiction"); 10]);
    let mut ask = |acknowledged| {
        let next = NextEvents {
            instance: core.next_events(&NextEvents::default()).instance,
            acknowledged,
            max: 100_000,
        };
        core.next_events(&next)
    };
    assert_eq!(ask(0).events.len(), 4096);
    for step in 1..=4 {
        ask(4096 * step);
    }
    let told = ask(16_384).events;
    let together = |rule, packets: u64| FenceEvent {
        count: 3 * packets,
        bytes: 100 * packets,
        others: true,
        ..whose(rule)
    };
    assert_eq!(
        told,
        [together("prefix", 1000), together("jurisdiction", 10)]
    );
    assert_eq!(ask(16_384).lost, 0);
}

#[test]
fn what_cannot_be_told_even_together_is_counted() {
    let rows = [
        (1023, 0, 0),
        (1024, 0, 0),
        (1025, 3, 3),
        (1026, 3, 6),
        (1025, 0, 1),
    ];
    for (rules, packets, lost) in rows {
        let scene = Scene::new();
        let mut core = scene.core();
        let denial = |rule: usize| FenceEvent {
            rule: rule.to_string(),
            count: packets,
            ..FenceEvent::default()
        };
        let full = (0..16_384).map(|_| denial(0));
        let beyond = (0..rules).map(denial);
        scene.recorder.0.lock().unwrap().events = full.chain(beyond).collect();
        core.pump_events();
        let told = core.next_events(&NextEvents::default());
        assert_eq!(told.lost, lost, "{rules} rules, {packets} packets each");
    }
}

#[tokio::test]
async fn frames_are_bounded_and_strangers_have_no_way_in() {
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let scene = Scene::new();
    let (mut client, _stop, _task) = scene.serve();
    until_up(&mut client).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&scene.path("run")), 0o700);
    assert_eq!(mode(&scene.path("run/fence.sock")), 0o600);
    for (name, bytes) in [
        ("4 GiB - 1", [0xff_u8, 0xff, 0xff, 0xff].as_slice()),
        ("not a message", &[0, 0, 0, 2, 0xff, 0xff]),
    ] {
        let mut raw = tokio::net::UnixStream::connect(scene.path("run/fence.sock"))
            .await
            .unwrap();
        raw.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        raw.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty(), "{name}: turned away");
    }
    client.state().await.unwrap();
}
