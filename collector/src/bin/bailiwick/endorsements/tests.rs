use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use super::*;

/// 2026-01-01; the signer of the seeds is valid in 2025 and 2026.
const AT: u64 = 1_767_225_600;
const ENDS: u64 = 1_798_761_600;

/// RIMs under a root that was made for fuzzing, as is that root.
fn seed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fuzz/seeds/gpu_rim")
        .join(name)
}

fn common(store: &Path, at: u64) -> Common {
    Common {
        store: store.to_owned(),
        roots: vec![seed("root.der")],
        at: Some(UnixTime::from_secs(at)),
        output: Format::Json,
    }
}

fn imported(store: &Path, sources: &[&Path]) -> (Exit, Vec<String>) {
    let (exit, listing) = import(&Import {
        sources: sources.iter().map(|path| path.to_path_buf()).collect(),
        common: common(store, AT),
    })
    .unwrap();
    (exit, words(&listing, "outcome"))
}

fn asked(store: &Path, at: u64) -> Status {
    Status {
        within: 60,
        nodes: false,
        connection: Connection::default(),
        common: common(store, at),
    }
}

fn standings(store: &Path, at: u64) -> (Exit, Vec<String>) {
    let (exit, listing) = status(&asked(store, at), None).unwrap();
    (exit, words(&listing, "standing"))
}

fn words(listing: &Listing, column: &str) -> Vec<String> {
    let rows = listing.rows.iter();
    rows.map(|row| row[column].as_str().unwrap().to_owned())
        .collect()
}

fn count(store: &Path) -> usize {
    fs::read_dir(store).unwrap().count()
}

/// A folder with the driver's RIM in base64 and, one level down, the VBIOS's as XML.
fn brought() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let driver = fs::read(seed("driver.xml")).unwrap();
    fs::write(folder.path().join("driver.b64"), STANDARD.encode(driver)).unwrap();
    fs::create_dir(folder.path().join("vbios")).unwrap();
    fs::copy(seed("vbios.xml"), folder.path().join("vbios/a.xml")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("vbios/round")).unwrap();
    folder
}

#[test]
fn what_is_endorsed_is_taken_once_and_kept_by_its_digest() {
    let (source, home) = (brought(), tempfile::tempdir().unwrap());
    let store = home.path().join("store");
    let (exit, outcome) = imported(&store, &[source.path()]);
    assert_eq!((exit, outcome), (Exit::Good, vec!["taken".to_owned(); 2]));
    assert_eq!(count(&store), 2);
    let driver = fs::read(seed("driver.xml")).unwrap();
    let digest = bailiwick_attestation::Sha256Digest::of(&[&driver]);
    let kept = fs::read(store.join(format!("{digest}.rim.xml"))).unwrap();
    assert_eq!(kept, driver, "the document, not the base64 it came in");
    let (exit, outcome) = imported(&store, &[source.path()]);
    assert_eq!(exit, Exit::Good);
    assert_eq!(outcome, ["there already"; 2]);
    assert_eq!(count(&store), 2);
}

#[test]
fn one_that_is_refused_takes_the_others_along() {
    let good = fs::read_to_string(seed("vbios.xml")).unwrap();
    let changed = good.replacen("0909", "0908", 1);
    for (case, content) in [
        ("changed after it was signed", changed.as_str()),
        ("something else", "read me"),
        ("nothing", ""),
    ] {
        let (source, home) = (brought(), tempfile::tempdir().unwrap());
        fs::write(source.path().join("z"), content).unwrap();
        let (exit, outcome) = imported(home.path(), &[source.path()]);
        assert_eq!(exit, Exit::Refused, "{case}");
        assert_eq!(
            outcome,
            ["good, not taken", "good, not taken", "refused"],
            "{case}"
        );
        assert_eq!(count(home.path()), 0, "{case}");
    }
    // Under the root that is built in, these are nobody's.
    let (source, home) = (brought(), tempfile::tempdir().unwrap());
    let mut args = Import {
        sources: vec![source.path().to_owned()],
        common: common(home.path(), AT),
    };
    args.common.roots.clear();
    let (exit, listing) = import(&args).unwrap();
    assert_eq!(exit, Exit::Refused);
    assert_eq!(words(&listing, "code"), ["rim-chain"; 2]);
    assert_eq!(count(home.path()), 0);
}

#[test]
fn a_store_says_when_what_it_holds_ends() {
    let (source, home) = (brought(), tempfile::tempdir().unwrap());
    imported(home.path(), &[source.path()]);
    for (case, at, want) in [
        ("long before", AT, "valid"),
        ("61 days before", ENDS - 61 * DAY, "valid"),
        ("60 days before", ENDS - 60 * DAY, "ends soon"),
        ("the last second", ENDS, "ends soon"),
        ("after", ENDS + 1, "ended"),
        ("before it began", 1_735_689_599, "not yet valid"),
        ("the first second", 1_735_689_600, "valid"),
        ("the second", 1_735_689_601, "valid"),
    ] {
        let (exit, standing) = standings(home.path(), at);
        assert_eq!(exit, Exit::Good, "{case}");
        assert_eq!(standing, [want; 2], "{case}");
    }
}

#[test]
fn a_store_that_was_changed_says_so() {
    let (source, home) = (brought(), tempfile::tempdir().unwrap());
    imported(home.path(), &[source.path()]);
    let driver = fs::read(seed("driver.xml")).unwrap();
    let other = "00".repeat(32);
    fs::write(home.path().join(format!("{other}.rim.xml")), &driver).unwrap();
    fs::write(home.path().join("notes.txt"), "not a document").unwrap();
    let (exit, standing) = standings(home.path(), AT);
    assert_eq!(exit, Exit::Refused);
    let odd = standing
        .iter()
        .filter(|word| *word == "not what its name says");
    assert_eq!((standing.len(), odd.count()), (3, 1));
    assert!(status(&asked(&home.path().join("none"), AT), None).is_err());
}

/// A response about a device, of a day in November 2026, and a list of a CA's, of two months from
/// January on.
fn revocation(folder: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fuzz/seeds")
        .join(folder)
        .join(name)
}

#[test]
fn what_is_known_of_revocation_is_kept_beside_and_ends_by_its_own_word() {
    let home = tempfile::tempdir().unwrap();
    let response = revocation("gpu_ocsp", "good");
    let in_base64 = revocation("gpu_ocsp", "base64");
    let list = revocation("x509_revocation", "none");
    let rim = seed("driver.xml");
    let (exit, outcome) = imported(home.path(), &[&response, &list, &rim]);
    assert_eq!((exit, outcome), (Exit::Good, vec!["taken".to_owned(); 3]));
    let names: Vec<String> = fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for (path, kind) in [
        (&response, "ocsp.der"),
        (&list, "crl.der"),
        (&rim, "rim.xml"),
    ] {
        let bytes = fs::read(path).unwrap();
        let digest = bailiwick_attestation::Sha256Digest::of(&[&bytes]);
        assert!(
            names.contains(&format!("{digest}.{kind}")),
            "{kind}: {names:?}"
        );
    }
    // One that came as DER and comes again as base64 is there, if it is the same.
    let (_, outcome) = imported(home.path(), &[&in_base64]);
    let packed = fs::read_to_string(&in_base64).unwrap();
    let packed: String = packed.split_whitespace().collect();
    let der = STANDARD.decode(packed).unwrap();
    let same = der == fs::read(&response).unwrap();
    assert_eq!(outcome, [if same { "there already" } else { "taken" }]);

    let ends = |at: u64| {
        let (exit, listing) = status(&asked(home.path(), at), None).unwrap();
        assert_eq!(exit, Exit::Good, "what has ended is no fault of the store");
        let mut all: Vec<String> = words(&listing, "kind")
            .into_iter()
            .zip(words(&listing, "standing"))
            .map(|(kind, standing)| format!("{kind} {standing}"))
            .collect();
        all.sort();
        all.dedup();
        all
    };
    let november = 1_795_305_600;
    for (at, want) in [
        (
            AT - 1,
            ["crl not yet valid", "ocsp not yet valid", "rim valid"],
        ),
        (AT, ["crl ends soon", "ocsp not yet valid", "rim valid"]),
        (november, ["crl ended", "ocsp ends soon", "rim ends soon"]),
        (ENDS, ["crl ended", "ocsp ended", "rim ends soon"]),
    ] {
        assert_eq!(ends(at), want, "{at}");
    }
}

/// Without `--roots`: NVIDIA's root is the one that is built in.
fn under_nvidias(store: &Path, sources: &[&Path]) -> (Exit, Listing) {
    let mut args = Import {
        sources: sources.iter().map(|path| path.to_path_buf()).collect(),
        common: common(store, AT),
    };
    args.common.roots.clear();
    import(&args).unwrap()
}

#[test]
fn a_root_is_kept_and_what_it_vouches_for_with_it() {
    let (rim, root) = (seed("driver.xml"), seed("root.der"));
    let at = UnixTime::from_secs(AT);
    let home = tempfile::tempdir().unwrap();
    let (exit, listing) = under_nvidias(home.path(), &[&rim, &root]);
    assert_eq!(
        (exit, words(&listing, "outcome")),
        (Exit::Good, vec!["taken".to_owned(); 2])
    );
    let about = words(&listing, "about");
    assert!(
        about[0].ends_with(", under a root that was brought"),
        "{about:?}"
    );
    assert!(about[1].ends_with(": counts where a profile names it, never for hardware"));
    let der = fs::read(&root).unwrap();
    let digest = bailiwick_attestation::Sha256Digest::of(&[&der]);
    let kept = home.path().join(format!("{digest}.root.der"));
    assert_eq!(fs::read(&kept).unwrap(), der);
    let read = bailiwick_collector::endorsements::read(home.path(), at).unwrap();
    assert_eq!(
        (read.endorsements.held(), read.refused),
        ((1, 0, 0, 1), vec![])
    );
    // Every form of it is the same, and one that is there vouches for what comes later.
    let forms = tempfile::tempdir().unwrap();
    let text = STANDARD.encode(&der);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    fs::write(forms.path().join("a.pem"), pem).unwrap();
    fs::write(forms.path().join("b.b64"), text).unwrap();
    fs::copy(seed("vbios.xml"), forms.path().join("c.xml")).unwrap();
    let (exit, listing) = under_nvidias(home.path(), &[forms.path()]);
    assert_eq!(exit, Exit::Good);
    assert_eq!(
        words(&listing, "outcome"),
        ["there already", "there already", "taken"]
    );
    let mut asked = asked(home.path(), AT);
    asked.common.roots.clear();
    let (exit, listing) = status(&asked, None).unwrap();
    assert_eq!((exit, listing.rows.len()), (Exit::Good, 3));
    // Without it, or with a file that only goes by its name, nobody vouches for the others.
    fs::write(&kept, b"another").unwrap();
    let (exit, listing) = status(&asked, None).unwrap();
    assert_eq!(exit, Exit::Refused);
    let mut standing = words(&listing, "standing");
    standing.sort();
    assert_eq!(standing, ["not what its name says", "refused", "refused"]);
    fs::remove_file(&kept).unwrap();
    let (exit, listing) = under_nvidias(home.path(), &[&rim]);
    assert_eq!(
        (exit, words(&listing, "code")),
        (Exit::Refused, vec!["rim-chain".to_owned()])
    );
}

#[test]
fn what_is_no_root_is_refused_by_name_and_takes_the_others_along() {
    let good = fs::read(seed("root.der")).unwrap();
    let mut unsigned = good.clone();
    *unsigned.last_mut().unwrap() ^= 1;
    let longer = [&good[..], &[0]].concat();
    let rim = fs::read_to_string(seed("driver.xml")).unwrap();
    let (_, after) = rim.split_once("X509Certificate>").unwrap();
    let (leaf, _) = after.split_once('<').unwrap();
    let leaf: String = leaf.split_whitespace().collect();
    let leaf = STANDARD.decode(leaf).unwrap();
    let pem = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec();
    for (code, bytes) in [
        ("root-malformed", longer),
        ("root-malformed", pem),
        ("root-signature", unsigned),
        ("root-issued", leaf),
    ] {
        let (source, home) = (brought(), tempfile::tempdir().unwrap());
        fs::write(source.path().join("z"), &bytes).unwrap();
        let (exit, listing) = under_nvidias(home.path(), &[source.path(), &seed("root.der")]);
        assert_eq!((exit, count(home.path())), (Exit::Refused, 0), "{code}");
        assert_eq!(listing.rows[2]["code"], code);
        let outcome = words(&listing, "outcome");
        assert_eq!(outcome[2], "refused", "{code}");
        assert!(
            outcome[..2].iter().all(|it| it == "good, not taken"),
            "{code}"
        );
    }
}

#[test]
fn a_response_or_a_list_that_is_none_takes_the_others_along() {
    for (folder, name, code) in [
        ("gpu_ocsp", "good", "ocsp-malformed"),
        ("x509_revocation", "none", "crl-malformed"),
    ] {
        let (source, home) = (brought(), tempfile::tempdir().unwrap());
        let mut bytes = fs::read(revocation(folder, name)).unwrap();
        bytes.push(0);
        fs::write(source.path().join("z"), &bytes).unwrap();
        let args = Import {
            sources: vec![source.path().to_owned()],
            common: common(home.path(), AT),
        };
        let (exit, listing) = import(&args).unwrap();
        assert_eq!((exit, count(home.path())), (Exit::Refused, 0), "{code}");
        assert_eq!(listing.rows.last().unwrap()["code"], code);
    }
}

#[test]
fn a_document_names_the_nodes_that_hang_on_it() {
    let (source, home) = (brought(), tempfile::tempdir().unwrap());
    imported(home.path(), &[source.path()]);
    let driver = fs::read(seed("driver.xml")).unwrap();
    let digest = bailiwick_attestation::Sha256Digest::of(&[&driver]).to_string();
    let mut relying = Relying::new();
    for (node, result) in [
        (
            "gpu-01",
            format!("{{\"bailiwick.endorsements\": [\"{digest}\"]}}"),
        ),
        ("gpu-02", "{}".to_owned()),
        ("gpu-03", String::new()),
    ] {
        relying::add(&mut relying, node, result.as_bytes());
    }
    let (_, listing) = status(&asked(home.path(), AT), Some(&relying)).unwrap();
    let of = |digest: &str| {
        let row = listing.rows.iter().find(|row| row["sha256"] == digest);
        row.unwrap()["relied_on_by"].clone()
    };
    assert_eq!(of(&digest), serde_json::json!(["gpu-01"]));
    let others = listing
        .rows
        .iter()
        .filter(|row| row["sha256"] != digest.as_str());
    assert!(others.into_iter().all(|row| row["nodes"] == 0));
}

/// A chip's certificate, as AMD writes one: it names the chip in an extension.
fn of_a_chip() -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    let id = [1, 3, 6, 1, 4, 1, 3704, 1, 4];
    let chip = rcgen::CustomExtension::from_oid_content(&id, vec![7; 64]);
    params.custom_extensions = vec![chip];
    params.self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn what_vouches_for_processors_is_kept_and_its_end_is_told() {
    let (source, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let key = source.path().join("vcek.der");
    fs::write(&key, of_a_chip()).unwrap();
    let (exit, outcome) = imported(home.path(), &[&key]);
    assert_eq!((exit, outcome), (Exit::Good, vec!["taken".to_owned()]));
    for (case, at, want) in [
        ("long before", AT, "valid"),
        ("60 days before", ENDS - 60 * DAY, "ends soon"),
        ("after", ENDS + 1, "ended"),
    ] {
        let (_, listing) = status(&asked(home.path(), at), None).unwrap();
        assert_eq!(words(&listing, "standing"), [want], "{case}");
        assert_eq!(words(&listing, "kind"), ["certificates"], "{case}");
    }
    let at = UnixTime::from_secs(AT);
    let read = bailiwick_collector::endorsements::read(home.path(), at).unwrap();
    assert_eq!(read.endorsements.processors.held(), (1, 0));

    // Collateral that Intel did not sign takes the others along.
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/tdx_collateral");
    for seed in fs::read_dir(seeds).unwrap() {
        let seed = seed.unwrap().path();
        let home = tempfile::tempdir().unwrap();
        let (exit, listing) = under_nvidias(home.path(), &[&key, &seed]);
        assert_eq!(exit, Exit::Refused, "{}", seed.display());
        assert_eq!(words(&listing, "outcome")[0], "good, not taken");
        assert_eq!(count(home.path()), 0);
    }
    let (_, listing) = under_nvidias(home.path(), &[&source.path().join("vcek.der")]);
    assert_eq!(words(&listing, "outcome"), ["there already"]);
}
