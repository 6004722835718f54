use bailiwick_attestation::events::hpke::point;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use tempfile::TempDir;

use super::*;

const EK: Sha256Digest = Sha256Digest([7; 32]);
const OTHER_EK: Sha256Digest = Sha256Digest([8; 32]);
const MANIFEST: Sha256Digest = Sha256Digest([9; 32]);

struct Fixture {
    dir: TempDir,
    id: String,
    public: [u8; 65],
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(FOLDER)).unwrap();
        let (id, public) = new_store(&dir);
        Self { dir, id, public }
    }

    async fn open(&self) -> Keys {
        let stores = KeyStores::read(&self.dir.path().join(FOLDER)).unwrap();
        let deployment = DeploymentId::new("demo").unwrap();
        let keys = Keys::open(&self.dir.path().join("keys.db"), stores, deployment).await;
        keys.unwrap()
    }

    /// A key of this number, as a node wraps it; and a denial sealed with it.
    fn key(&self, number: u8, study: &str) -> Sealed {
        let key = BucketKey::new([number; 32]);
        let id = KeyId([number; 16]);
        let terms = KeyTerms {
            deployment: "demo",
            id,
            study,
            bucket: "b-03",
            retention: "default",
        };
        let wrapped = key.wrap(&terms, &self.public, &[number; 32]).unwrap();
        let made = v1::KeyMade {
            key_id: id.0.to_vec(),
            study: study.to_owned(),
            bucket: "b-03".to_owned(),
            retention: "default".to_owned(),
            key_store: self.id.clone(),
            wrapped_digest: Sha256Digest::of(&[&wrapped]).0.to_vec(),
        };
        let private = v1::DenialPrivate {
            cgroup: "/studies/cardio/jane".to_owned(),
            ..v1::DenialPrivate::default()
        };
        let (sealing, sealed) = key.seal(id, [1; 16], &private.encode_to_vec()).unwrap();
        Sealed {
            made,
            wrapped,
            denial: v1::Denial {
                sealing: Some(sealing),
                ..v1::Denial::default()
            },
            sealed,
            private,
        }
    }

    /// Everything the database's files hold.
    fn files(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                out.extend(std::fs::read(path).unwrap());
            }
        }
        out
    }
}

fn new_store(dir: &TempDir) -> (String, [u8; 65]) {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let pem = pair.serialize_pem();
    let (id, public) = public_of("new", pem.as_bytes()).unwrap();
    std::fs::write(dir.path().join(FOLDER).join(format!("{id}.key")), pem).unwrap();
    (id, public)
}

struct Sealed {
    made: v1::KeyMade,
    wrapped: Vec<u8>,
    denial: v1::Denial,
    sealed: Vec<u8>,
    private: v1::DenialPrivate,
}

impl Sealed {
    async fn keep(&self, keys: &Keys) {
        assert!(wrapped_as_said(&self.made, &self.wrapped));
        let kept = keys.insert(&EK, &self.made, &self.wrapped, UnixTime(5));
        kept.await.unwrap();
    }

    async fn open(&self, keys: &Keys) -> Result<v1::DenialPrivate, Closed> {
        let opened = keys.open_private(&EK, &self.denial, &self.sealed);
        opened.await.unwrap()
    }
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[tokio::test]
async fn what_a_node_sealed_opens_for_its_own_key_alone() {
    let fixture = Fixture::new();
    let keys = fixture.open().await;
    let ours = fixture.key(1, "cardio");
    assert_eq!(ours.open(&keys).await, Err(Closed::NoKey));
    ours.keep(&keys).await;
    assert_eq!(ours.open(&keys).await.unwrap(), ours.private);
    let other = keys.open_private(&OTHER_EK, &ours.denial, &ours.sealed);
    assert_eq!(
        other.await.unwrap(),
        Err(Closed::NoKey),
        "another node's key"
    );
    let mut changed = ours.sealed.clone();
    changed[0] ^= 1;
    let opened = keys.open_private(&EK, &ours.denial, &changed);
    assert_eq!(opened.await.unwrap(), Err(Closed::Seal(SealError::Seal)));
    let bare = v1::Denial::default();
    let opened = keys.open_private(&EK, &bare, &[]).await.unwrap();
    assert_eq!(opened, Err(Closed::Nothing));

    // Under another's name, for another store, or not what was said.
    let mut lent = fixture.key(2, "cardio");
    lent.made.study = "neuro".to_owned();
    lent.keep(&keys).await;
    assert_eq!(lent.open(&keys).await, Err(Closed::Unwrap));
    let mut elsewhere = fixture.key(3, "cardio");
    elsewhere.made.key_store = "keys-00000000".to_owned();
    elsewhere.keep(&keys).await;
    assert_eq!(elsewhere.open(&keys).await, Err(Closed::OtherStore));
    let mut said = fixture.key(4, "cardio");
    said.wrapped[70] ^= 1;
    assert!(!wrapped_as_said(&said.made, &said.wrapped));
    assert!(!wrapped_as_said(&ours.made, &ours.wrapped[1..]));
}

#[tokio::test]
async fn a_key_is_wrapped_anew_for_the_next_store() {
    let fixture = Fixture::new();
    let mut next = Fixture::new();
    next.dir = fixture.dir;
    (next.id, next.public) = new_store(&next.dir);
    let fixture = Fixture {
        dir: next.dir,
        ..fixture
    };
    let keys = fixture.open().await;
    assert_eq!(keys.stores().count(), 2);
    let first = fixture.key(1, "cardio");
    first.keep(&keys).await;
    let rotated = Fixture {
        id: next.id,
        public: next.public,
        ..fixture
    };
    let second = rotated.key(1, "cardio");
    second.keep(&keys).await;
    assert_eq!(first.open(&keys).await.unwrap(), first.private);
    let [row] = keys.list().await.unwrap().try_into().unwrap();
    assert_eq!(row.key_store, rotated.id);
}

#[tokio::test]
async fn a_destroyed_key_is_in_no_file_and_does_not_come_back() {
    let fixture = Fixture::new();
    let keys = fixture.open().await;
    let (one, two, three) = (
        fixture.key(1, "cardio"),
        fixture.key(2, "cardio"),
        fixture.key(3, "neuro"),
    );
    for key in [&one, &two, &three] {
        key.keep(&keys).await;
    }
    assert!(holds(&fixture.files(), &one.wrapped), "it was there");
    let gone = keys.destroy(|key| key.study == "cardio", &MANIFEST, UnixTime(50));
    let gone: Vec<KeyId> = gone.await.unwrap().iter().map(|key| key.id).collect();
    assert_eq!(gone, [KeyId([1; 16]), KeyId([2; 16])]);
    let files = fixture.files();
    for key in [&one, &two] {
        assert_eq!(key.open(&keys).await, Err(Closed::Erased));
        for stretch in key.wrapped.chunks_exact(16) {
            assert!(!holds(&files, stretch), "no stretch of it");
        }
    }
    assert!(holds(&files, &three.wrapped), "and no other's");
    assert_eq!(three.open(&keys).await.unwrap(), three.private);

    // Delivered once more, late: the row says it is destroyed.
    one.keep(&keys).await;
    assert_eq!(one.open(&keys).await, Err(Closed::Erased));
    assert!(!holds(&fixture.files(), &one.wrapped[..16]));
    let again = keys.destroy(|key| key.study == "cardio", &MANIFEST, UnixTime(60));
    assert_eq!(again.await.unwrap(), [], "once");
    let rows = keys.list().await.unwrap();
    let when: Vec<_> = rows
        .iter()
        .map(|row| row.destroyed.map(|(at, _)| at.0))
        .collect();
    assert_eq!(when, [Some(50), Some(50), None]);
    drop(keys);
    assert_eq!(
        one.open(&fixture.open().await).await,
        Err(Closed::Erased),
        "for good"
    );
}

#[tokio::test]
async fn a_key_the_node_destroyed_goes_here_too() {
    let fixture = Fixture::new();
    let keys = fixture.open().await;
    let (one, two) = (fixture.key(1, "cardio"), fixture.key(2, "cardio"));
    one.keep(&keys).await;
    two.keep(&keys).await;
    let erased = v1::KeysErased {
        manifest_digest: MANIFEST.0.to_vec(),
        key_ids: vec![one.made.key_id.clone()],
    };
    let others = keys
        .destroy_with_node(&OTHER_EK, &erased, UnixTime(9))
        .await;
    assert_eq!(
        others.unwrap(),
        [],
        "another node's word is about its own keys"
    );
    let gone = keys
        .destroy_with_node(&EK, &erased, UnixTime(9))
        .await
        .unwrap();
    assert_eq!(gone.len(), 1);
    assert_eq!(one.open(&keys).await, Err(Closed::Erased));
    assert!(two.open(&keys).await.is_ok());
}

#[test]
fn a_key_that_is_still_there_is_found() {
    let needle = (KeyId([1; 16]), (0..113).collect::<Vec<u8>>());
    let cases: &[(&str, Vec<u8>, bool)] = &[
        ("nothing", Vec::new(), false),
        ("something else", vec![7; 500], false),
        ("whole", needle.1.clone(), true),
        (
            "a stretch, unaligned",
            [&[0; 3], &needle.1[16..32]].concat(),
            true,
        ),
        (
            "at the very end",
            [&[0; 90], &needle.1[96..112]].concat(),
            true,
        ),
        ("less than a stretch", needle.1[16..31].to_vec(), false),
    ];
    for (name, bytes, want) in cases {
        let got = found(bytes, std::slice::from_ref(&needle));
        assert_eq!(got.is_some(), *want, "{name}");
    }
}

#[test]
fn private_keys_are_read_or_refused_by_file() {
    let fixture = Fixture::new();
    let folder = fixture.dir.path().join(FOLDER);
    let stores = KeyStores::read(&folder).unwrap();
    let private = stores.get(&fixture.id).unwrap();
    assert_eq!(point(private).unwrap(), fixture.public);
    assert!(stores.get("keys-00000000").is_none());
    assert!(!format!("{stores:?}").contains("PRIVATE"));
    std::fs::write(folder.join("notes.txt"), "not a key").unwrap();
    assert_eq!(KeyStores::read(&folder).unwrap().ids().count(), 1);
    std::fs::write(folder.join("bad.key"), "not a key").unwrap();
    let refused = KeyStores::read(&folder).unwrap_err().to_string();
    assert!(refused.contains("bad.key"), "{refused}");
    let none = KeyStores::read(&fixture.dir.path().join("nowhere")).unwrap();
    assert_eq!(none.ids().count(), 0);
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(public_of("p384", p384.serialize_pem().as_bytes()).is_err());
}
