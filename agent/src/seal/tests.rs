use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use bailiwick_attestation::events::{Entry, hpke};
use bailiwick_attestation::proto::v1::log_entry::What;

use super::{keeper::next_of, *};
use crate::tpm::{Tpm, testing::SoftTpm};

fn event() -> FenceEvent {
    FenceEvent {
        boot_time_ns: 7,
        wall_time_ms: 8,
        study: "cardio".to_owned(),
        cgroup_id: 0x1122_3344_5566,
        cgroup: "/studies/cardio/user-jane".to_owned(),
        direction: "egress".to_owned(),
        source: vec![10, 9, 1, 7],
        destination: vec![203, 0, 113, 9],
        protocol: 6,
        source_port: 54321,
        destination_port: 44443,
        jurisdiction: "US".to_owned(),
        rule: "jurisdiction".to_owned(),
        verdict: "deny".to_owned(),
        hook: "cgroup_skb/egress".to_owned(),
        count: 3,
        bytes: 300,
        until_boot_ns: 9,
        uid: Some(1000),
        pid: Some(4711),
        command: "curl".to_owned(),
        executable: "/usr/bin/curl".to_owned(),
        ..FenceEvent::default()
    }
}

struct Scene {
    soft: SoftTpm,
    private: PrivateKey,
}

impl Scene {
    fn new() -> Self {
        Self {
            soft: SoftTpm::blank(),
            private: PrivateKey::from_private_key(&ECDH_P256, &[3; 32]).unwrap(),
        }
    }

    fn store(&self) -> Option<Store> {
        Some(Store {
            id: "keys-1".to_owned(),
            p256: hpke::point(&self.private).unwrap(),
        })
    }

    fn dir(&self) -> PathBuf {
        self.soft.path("state")
    }

    async fn open(&self) -> Sealer {
        let tpm = Tpm::open(self.soft.settings()).unwrap();
        let deployment = DeploymentId::new("demo").unwrap();
        std::fs::create_dir_all(self.dir()).unwrap();
        Sealer::open(tpm, deployment, &self.dir()).await.unwrap()
    }

    /// What the collector makes of the entries about keys and of a denial.
    fn read(&self, made: &New, denied: &New) -> DenialPrivate {
        let What::KeyMade(key) = &made.what else {
            panic!("{:?}", made.what);
        };
        assert_eq!(
            Sha256Digest::of(&[&made.sealed]).0.to_vec(),
            key.wrapped_digest
        );
        let terms = KeyTerms {
            deployment: "demo",
            id: KeyId::from_slice(&key.key_id).unwrap(),
            study: &key.study,
            bucket: &key.bucket,
            retention: &key.retention,
        };
        let opened = BucketKey::unwrap_with(&terms, &self.private, &made.sealed).unwrap();
        let (_, sealing) = public(denied);
        let private = opened.open(&sealing.unwrap(), &denied.sealed).unwrap();
        DenialPrivate::decode(private.as_slice()).unwrap()
    }
}

fn public(new: &New) -> (Denial, Option<Sealing>) {
    let What::Denial(denial) = &new.what else {
        panic!("{:?}", new.what);
    };
    let bare = Denial {
        sealing: None,
        ..denial.clone()
    };
    (bare, denial.sealing.clone())
}

struct Study(&'static str, u8);

impl Erasure for Study {
    fn manifest(&self) -> Sha256Digest {
        Sha256Digest([self.1; 32])
    }

    fn names(&self, study: &str, _bucket: &str, _retention: &str) -> bool {
        study == self.0
    }
}

#[test]
fn nothing_personal_stands_in_the_log() {
    let new = entry(&event(), None);
    let bytes = Entry::compose((0, 1), new.wall_time, new.boot_time_ns, new.what.clone());
    let read = Entry::parse(&bytes).unwrap();
    assert_eq!((read.wall_time, read.boot_time_ns), (UnixTime(8), 7));
    let (told, _) = public(&new);
    assert_eq!((told.study.as_str(), told.count), ("cardio", 3));
    let other = FenceEvent {
        cgroup_id: 1,
        cgroup: "/studies/cardio/user-john".to_owned(),
        source: vec![10, 9, 1, 8],
        destination: vec![203, 0, 113, 10],
        source_port: 1,
        destination_port: 2,
        uid: None,
        pid: None,
        command: String::new(),
        executable: "/usr/bin/wget".to_owned(),
        ..event()
    };
    assert_eq!(
        entry(&other, None).what,
        new.what,
        "who and where change nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn private_halves_open_for_the_key_store_and_stay_closed_to_others() {
    let scene = Scene::new();
    let mut sealer = scene.open().await;
    assert_eq!(sealer.wrap_for(scene.store()), [], "no key yet");
    let out = sealer.entries(&[event(), event()]);
    let [made, first, second] = out.try_into().unwrap();
    assert_eq!(
        scene.read(&made, &first).cgroup,
        "/studies/cardio/user-jane"
    );
    let private = scene.read(&made, &second);
    assert_eq!(private.destination, [203, 0, 113, 9]);
    assert_eq!(private.destination_port, 44443);
    assert_eq!((private.uid, private.pid), (Some(1000), Some(4711)));
    let program = (private.command.as_str(), private.executable.as_str());
    assert_eq!(program, ("curl", "/usr/bin/curl"));
    assert_ne!(
        public(&first).1,
        public(&second).1,
        "twice the same looks like two"
    );
    assert!(!first.sealed.windows(4).any(|w| w == b"jane"));

    // The same bucket: the same key, also after a restart. Another subject: perhaps another.
    drop(sealer);
    let mut sealer = scene.open().await;
    assert_eq!(sealer.wrap_for(scene.store()), [], "wrapped already");
    let [third] = sealer.entries(&[event()]).try_into().unwrap();
    scene.read(&made, &third);
    let nobody = FenceEvent {
        study: String::new(),
        ..event()
    };
    let [key, _] = sealer.entries(&[nobody]).try_into().unwrap();
    let What::KeyMade(key) = key.what else {
        panic!("{:?}", key.what);
    };
    assert_eq!(key.study, NO_STUDY);
}

#[test]
fn the_user_is_whose_key_it_is_wherever_one_is_known() {
    let jane = subject(&event());
    let elsewhere = FenceEvent {
        cgroup: "/studies/cardio/another".to_owned(),
        executable: "/bin/sh".to_owned(),
        ..event()
    };
    assert_eq!(subject(&elsewhere), jane);
    let john = FenceEvent {
        uid: Some(1001),
        ..event()
    };
    assert_ne!(subject(&john), jane);
    let unknown = FenceEvent {
        uid: None,
        ..event()
    };
    assert_eq!(subject(&unknown), event().cgroup.into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_for_many_and_what_is_counted_have_no_private_half() {
    let scene = Scene::new();
    let mut sealer = scene.open().await;
    let others = FenceEvent {
        others: true,
        ..event()
    };
    let flows = bailiwick_attestation::proto::v1::FlowsCounted {
        to_ms: 7,
        ..Default::default()
    };
    let counted = FenceEvent {
        boot_time_ns: 5,
        flows: Some(flows.clone()),
        ..FenceEvent::default()
    };
    let [others, counted] = sealer.entries(&[others, counted]).try_into().unwrap();
    let (told, sealing) = public(&others);
    assert_eq!((told.others, told.count, sealing), (true, 3, None));
    assert!(others.sealed.is_empty());
    assert_eq!(
        (counted.what, counted.boot_time_ns),
        (What::Flows(flows), 5)
    );
    assert_eq!(sealer.ring().unwrapped("").count(), 0, "no key was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_made_without_a_key_store_are_wrapped_once_there_is_one() {
    let scene = Scene::new();
    let mut sealer = scene.open().await;
    let [unwrapped, denied] = sealer.entries(&[event()]).try_into().unwrap();
    assert!(unwrapped.sealed.is_empty());
    let [made] = sealer.wrap_for(scene.store()).try_into().unwrap();
    scene.read(&made, &denied);
    assert_eq!(
        sealer.wrap_for(scene.store()).len(),
        1,
        "not in the log yet"
    );
    sealer.wrapped();
    assert_eq!(sealer.wrap_for(scene.store()), []);
    drop(sealer);
    assert_eq!(scene.open().await.wrap_for(scene.store()), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tpm_opens_no_key() {
    let (scene, thief) = (Scene::new(), Scene::new());
    let mut sealer = scene.open().await;
    sealer.entries(&[event()]);
    let ring = sealer.ring().clone();
    drop(sealer);
    std::fs::create_dir_all(thief.dir()).unwrap();
    std::fs::copy(scene.dir().join("log-keys"), thief.dir().join("log-keys")).unwrap();
    let stolen = thief.open().await;
    assert!(
        stolen
            .ring()
            .find("cardio", &ring.bucket("cardio", b"uid 1000"), "default")
            .is_none()
    );
    assert_eq!(scene.open().await.ring(), &ring, "its own does");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_key_is_gone_and_every_copy_of_the_file_is_silent() {
    let scene = Scene::new();
    let mut sealer = scene.open().await;
    sealer.wrap_for(scene.store());
    let neuro = FenceEvent {
        study: "neuro".to_owned(),
        ..event()
    };
    let out = sealer.entries(&[event(), neuro]);
    let bucket = |ring: &Ring, study: &str| ring.bucket(study, b"uid 1000");
    let file = scene.dir().join("log-keys");
    let backup = std::fs::read(&file).unwrap();
    let id = |new: &New| match &new.what {
        What::KeyMade(key) => key.key_id.clone(),
        other => panic!("{other:?}"),
    };

    let erased = sealer.erase(&Study("cardio", 4)).await.unwrap().unwrap();
    let What::KeysErased(told) = erased.what else {
        panic!("{:?}", erased.what);
    };
    assert_eq!(told.manifest_digest, vec![4; 32]);
    assert_eq!(told.key_ids, [id(&out[0])]);
    assert_eq!(
        sealer.erase(&Study("cardio", 4)).await.unwrap(),
        None,
        "applied once"
    );
    let ring = sealer.ring().clone();
    assert!(
        ring.find("cardio", &bucket(&ring, "cardio"), "default")
            .is_none()
    );
    assert!(
        ring.find("neuro", &bucket(&ring, "neuro"), "default")
            .is_some()
    );
    drop(sealer);
    assert_eq!(scene.open().await.ring(), &ring);

    // Somebody kept the file, and puts it back.
    std::fs::write(&file, &backup).unwrap();
    let mut restored = scene.open().await;
    let found = restored.ring();
    assert!(
        found
            .find("cardio", &bucket(found, "cardio"), "default")
            .is_none()
    );
    // What is sealed from now on has another key.
    restored.wrap_for(scene.store());
    let [made, denied] = restored.entries(&[event()]).try_into().unwrap();
    assert_ne!(id(&made), id(&out[0]));
    scene.read(&made, &denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_cut_off_anywhere_is_done_or_not_begun() {
    let scene = Scene::new();
    let mut sealer = scene.open().await;
    sealer.entries(&[event()]);
    let before = sealer.ring().clone();
    let file = scene.dir().join("log-keys");
    let old = std::fs::read(&file).unwrap();
    sealer.erase(&Study("cardio", 4)).await.unwrap().unwrap();
    let after = sealer.ring().clone();
    let new = std::fs::read(&file).unwrap();
    drop(sealer);

    // After the TPM has the new master key, before the file has its name.
    std::fs::write(&file, &old).unwrap();
    std::fs::write(next_of(&file), &new).unwrap();
    let sealer = scene.open().await;
    assert_eq!(sealer.ring(), &after, "done");
    assert_eq!(std::fs::read(&file).unwrap(), new);
    drop(sealer);

    // Before the TPM has it: a next file that nothing opens beside one that stands.
    let other = Scene::new();
    let mut sealer = other.open().await;
    sealer.entries(&[event()]);
    let standing = sealer.ring().clone();
    drop(sealer);
    std::fs::write(next_of(&other.dir().join("log-keys")), &new).unwrap();
    let mut sealer = other.open().await;
    assert_eq!(sealer.ring(), &standing, "not begun");
    sealer.erase(&Study("cardio", 4)).await.unwrap().unwrap();
    assert_ne!(standing, before);
}

/// Keys that nothing opens are worth nothing, and a file that anything opens would be worth too much.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_tpm_keys_are_this_starts_and_on_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let private = PrivateKey::from_private_key(&ECDH_P256, &[3; 32]).unwrap();
    let store = Some(Store {
        id: "keys-1".to_owned(),
        p256: hpke::point(&private).unwrap(),
    });
    let open = || async {
        let deployment = DeploymentId::new("demo").unwrap();
        Sealer::open(None, deployment, dir.path()).await.unwrap()
    };
    let files = || std::fs::read_dir(dir.path()).unwrap().count();
    let mut sealer = open().await;
    assert!(sealer.wrap_for(store.clone()).is_empty());
    let entries = sealer.entries(&[event()]);
    let [made, denied] = entries.as_slice() else {
        panic!("{entries:?}");
    };
    let What::KeyMade(key) = &made.what else {
        panic!("{made:?}");
    };
    // Wrapped for the collector's key store, as ever.
    assert_eq!(
        (key.key_store.as_str(), made.sealed.is_empty()),
        ("keys-1", false)
    );
    assert!(public(denied).1.is_some() && !denied.sealed.is_empty());
    sealer.wrapped();
    assert_eq!(files(), 0, "neither sealed nor in the clear");

    let mut next = open().await;
    assert!(
        next.wrap_for(store.clone()).is_empty(),
        "the old ones are gone"
    );
    let again = next.entries(&[event()]);
    let What::KeyMade(other) = &again[0].what else {
        panic!("{again:?}");
    };
    assert_ne!(other.key_id, key.key_id);
    let erased = next.erase(&Study("cardio", 4)).await.unwrap().unwrap();
    let What::KeysErased(gone) = erased.what else {
        panic!("{erased:?}");
    };
    assert_eq!(gone.key_ids, std::slice::from_ref(&other.key_id));
    assert_eq!(
        next.erase(&Study("cardio", 4)).await.unwrap().map(drop),
        None
    );
    // An erasure means the keys of before it: the next start draws others and keeps them.
    let mut last = open().await;
    drop(last.entries(&[event()]));
    assert_eq!(
        last.erase(&Study("cardio", 4)).await.unwrap().map(drop),
        None
    );
    assert_eq!(last.ring().unwrapped("none").count(), 1);
    let left = std::fs::read(dir.path().join("log-erased")).unwrap();
    assert_eq!(
        (files(), left),
        (1, vec![4; 32]),
        "its manifest's digest and no more"
    );
}
