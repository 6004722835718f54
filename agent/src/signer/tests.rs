use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use bailiwick_attestation::{
    DeploymentId,
    evidence::{Nonce, guest_transport_data},
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustls::SignatureScheme;

use super::{
    testing::{Machine, memory, processor},
    *,
};
use crate::{collect::tee::double::Play, config::TeeSection};

const BOOT: [u8; 16] = [1; 16];

fn section(key: &Path) -> TeeSection {
    TeeSection {
        key: key.to_owned(),
        ..TeeSection::default()
    }
}

fn open(key: &Path, boot: [u8; 16]) -> Result<Guest, KeyError> {
    Guest::open(&section(key), &boot)
}

#[test]
fn a_key_lasts_as_long_as_the_boot() {
    let memory = memory();
    let file = memory.path().join("run/guest-key");
    let first = open(&file, BOOT).unwrap();
    assert!(!first.was_kept(), "drawn");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let again = open(&file, BOOT).unwrap();
    assert!(again.was_kept());
    assert_eq!(again.spki(), first.spki());
    let other = open(&file, [2; 16]).unwrap();
    assert!(!other.was_kept(), "another boot");
    assert_ne!(other.spki(), first.spki());
    let kept = open(&file, [2; 16]).unwrap();
    assert_eq!(kept.spki(), other.spki(), "the new one took its place");
    assert_ne!(open(&file, BOOT).unwrap().spki(), first.spki(), "gone");
}

/// Each of them could have been put there or read by somebody else. None is used, and the next start
/// finds a file of its own.
#[test]
fn a_file_that_is_not_this_guests_own_is_no_key() {
    type Attack = fn(&Path);
    let rows: [(&str, Attack); 14] = [
        ("readable by a group", |file| mode(file, 0o640)),
        ("writable by others", |file| mode(file, 0o602)),
        ("run as another user", |file| mode(file, 0o4600)),
        ("another user's", |file| chown(file, Some(1), None).unwrap()),
        ("a link to the key", |file| {
            let real = file.with_extension("real");
            fs::rename(file, &real).unwrap();
            symlink(&real, file).unwrap();
        }),
        ("a link to nothing", |file| {
            fs::remove_file(file).unwrap();
            symlink("/nowhere", file).unwrap();
        }),
        ("a second name", |file| {
            fs::hard_link(file, file.with_extension("too")).unwrap();
        }),
        ("a pipe that nobody fills", |file| {
            fs::remove_file(file).unwrap();
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, file, FileType::Fifo, mode, 0).unwrap();
        }),
        ("empty", |file| fs::write(file, []).unwrap()),
        ("a byte short", |file| {
            change(file, |bytes| bytes.truncate(117))
        }),
        ("a byte long", |file| change(file, |bytes| bytes.push(0))),
        ("another format", |file| change(file, |bytes| bytes[4] = 2)),
        ("a scalar that is none", |file| {
            change(file, |bytes| bytes[21..53].fill(0xff));
        }),
        ("another key's point", |file| {
            change(file, |bytes| bytes[21..53].fill(7));
        }),
    ];
    for (name, attack) in rows {
        let memory = memory();
        let file = memory.path().join("guest-key");
        let before = open(&file, BOOT).unwrap();
        attack(&file);
        let after = open(&file, BOOT).unwrap();
        assert!(!after.was_kept(), "{name}");
        assert_ne!(after.spki(), before.spki(), "{name}");
        let own = fs::symlink_metadata(&file).unwrap();
        assert!(own.is_file(), "{name}: replaced, not followed");
        let kept = open(&file, BOOT).unwrap();
        assert!(kept.was_kept() && kept.spki() == after.spki(), "{name}");
    }
}

fn mode(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

fn change(file: &Path, change: fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_folder_that_is_a_disk_or_anybodys_keeps_no_key() {
    let refused = |file: &Path| {
        let refused = open(file, BOOT).unwrap_err().to_string();
        assert_eq!(check(file).unwrap_err().to_string(), refused);
        assert!(!file.exists());
        refused
    };
    // Neither is a disk, and neither is memory of this guest's; a disk is the same to the check.
    for file in ["/proc/guest-key", "/sys/guest-key"] {
        assert!(refused(Path::new(file)).contains("lies on no tmpfs or ramfs"));
    }
    for bits in [0o770, 0o707, 0o1777] {
        let memory = memory();
        mode(memory.path(), bits);
        let why = refused(&memory.path().join("guest-key"));
        assert!(why.contains("not this user's alone to write to"), "{why}");
    }
    let memory = memory();
    chown(memory.path(), Some(1), None).unwrap();
    let why = refused(&memory.path().join("guest-key"));
    assert!(why.contains("not this user's alone to write to"), "{why}");
    chown(memory.path(), Some(0), None).unwrap();

    // A folder in the key's place is nothing that could be replaced.
    let file = memory.path().join("guest-key");
    fs::create_dir(&file).unwrap();
    let why = open(&file, BOOT).unwrap_err().to_string();
    assert!(why.starts_with("tee.key: replacing "), "{why}");
    let left = fs::read_dir(memory.path()).unwrap().count();
    assert_eq!(left, 1, "and no key under another name");
    // What a run that was cut off left behind is in nobody's way, wherever it leads.
    fs::remove_dir(&file).unwrap();
    symlink("/nowhere", memory.path().join("guest-key.new")).unwrap();
    open(&file, BOOT).unwrap();
    // What is missing can be made below what is there.
    check(&memory.path().join("a/b/guest-key")).unwrap();
    assert!(!memory.path().join("a").exists());
}

#[test]
fn what_is_shown_of_a_key_is_public() {
    let memory = memory();
    let file = memory.path().join("guest-key");
    let guest = open(&file, BOOT).unwrap();
    let bytes = fs::read(&file).unwrap();
    let shown = format!("{guest:?} {:?}", Signer::from(guest.clone()));
    assert!(!shown.contains(&hex::encode(&bytes[21..53])), "{shown}");
    assert!(shown.contains(&guest.signer().key.to_string()), "{shown}");
}

#[test]
fn a_guest_is_named_by_its_key_and_kept_under_its_name() {
    let memory = memory();
    let guest = open(&memory.path().join("guest-key"), BOOT).unwrap();
    let key = Sha256Digest::of(&[guest.spki()]);
    let signer = Signer::from(guest.clone());
    assert_eq!(signer.name(), [&b"guest"[..], &key.0].concat());
    assert_eq!(signer.guest_key(), key.0);
    let node = NodeId::new("guest-01").unwrap();
    assert_eq!(signer.id(&node), guest_id(&node));
    assert!(signer.tpm().is_none());

    // The key that TLS uses is the one that is named.
    let tls = signer.tls_key();
    assert_eq!(tls.public_key().unwrap().as_ref(), guest.spki());
    let scheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    assert!(tls.choose_scheme(&[SignatureScheme::ED25519]).is_none());
    let signed = tls
        .choose_scheme(&[scheme])
        .unwrap()
        .sign(b"hello")
        .unwrap();
    let point = &guest.spki()[guest.spki().len() - 65..];
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
    public.verify(b"hello", &signed).unwrap();
    public.verify(b"hellp", &signed).unwrap_err();
}

/// Nothing but the guest's own report, over what was asked, signs.
#[tokio::test]
async fn a_report_signs_what_it_was_asked_for_and_nothing_else() {
    let deployment = DeploymentId::new("demo").unwrap();
    let key = Sha256Digest([3; 32]);
    let data = guest_transport_data(&deployment, &Nonce::new([4; 32]), &key);
    let given = Machine::new(processor()).guest(BOOT).report(data).await;
    let given = given.unwrap();
    assert_eq!(
        (given.kind, &given.report[0x50..0x90]),
        ("sev-snp", &data[..])
    );

    let svsm = Machine::new(Play {
        svsm: Some(b"an EK".to_vec()),
        ..processor()
    });
    let given = svsm.guest(BOOT).report(data).await.unwrap();
    assert_eq!(
        (given.kind, given.manifest),
        ("sev-snp", Vec::new()),
        "its own"
    );

    let rows = [
        (
            "another question",
            Play {
                another: true,
                ..processor()
            },
            ("tee-answer", false),
        ),
        ("no report", Play::default(), ("tee-answer", false)),
        (
            "Intel's in AMD's form",
            Play {
                provider: Some("tdx_guest"),
                ..processor()
            },
            ("tee-answer", false),
        ),
        (
            "a refusal",
            Play {
                refuses: true,
                ..processor()
            },
            ("tee-refused", true),
        ),
        (
            "a processor nobody knows",
            Play {
                provider: Some("arm_cca_guest"),
                ..processor()
            },
            ("tee-provider", false),
        ),
    ];
    for (name, play, want) in rows {
        let machine = Machine::new(play);
        let why = machine.guest(BOOT).report(data).await.unwrap_err();
        assert_eq!((why.code(), why.refused()), want, "{name}: {why}");
    }
    let memory = memory();
    let nobody = TeeSection {
        reports: memory.path().join("none"),
        device: memory.path().join("none"),
        key: memory.path().join("guest-key"),
    };
    let guest = Guest::open(&nobody, &BOOT).unwrap();
    let why = guest.report(data).await.unwrap_err();
    assert_eq!((why.code(), why.refused()), ("tee-absent", false), "{why}");
}
