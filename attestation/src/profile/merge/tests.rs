use super::*;

const UNTIL: UnixTime = UnixTime(1_800_000_000_000);
const DATE: &str = "2027-01-15T08:00:00Z";

fn profile(name: &str, values: &str, rest: &str) -> String {
    format!(
        "name = \"{name}\"\nlease_seconds = 300\nmax_silence_seconds = 180\n[tpm]\nbank = \"sha256\"\n\
         require = [4, 7]\n[tpm.values]\n{values}\n{rest}"
    )
}

fn digest(byte: &str) -> String {
    byte.repeat(32)
}

fn register(index: u8, bytes: &[&str]) -> String {
    let all: Vec<String> = bytes
        .iter()
        .map(|byte| format!("\"{}\"", digest(byte)))
        .collect();
    format!("\"{index}\" = [{}]\n", all.join(", "))
}

fn demand(claim: &str, expected: &str) -> String {
    format!("[[require]]\nclaim = \"{claim}\"\n{expected}\nprovenance = \"measured\"\n")
}

fn merged(old: &str, new: &str) -> (Profile, Vec<String>) {
    let merged = merge(("old", old.as_bytes()), ("new", new.as_bytes()), UNTIL).unwrap();
    let profile = Profile::parse("merged", merged.text.as_bytes()).unwrap();
    let at_once = merged.at_once.into_iter();
    let at_once = at_once.map(|one| format!("{} {}: {}", one.way.as_str(), one.topic, one.text));
    (profile, at_once.collect())
}

/// What may be, each with its end in seconds; 0: none.
fn ends(all: &[Alternative]) -> Vec<(String, u64)> {
    let one = |one: &Alternative| {
        let text = one.value.to_string().trim_matches('"').to_owned();
        (text, one.term.not_after.map_or(0, UnixTime::secs))
    };
    all.iter().map(one).collect()
}

#[test]
fn values_of_the_old_profile_end_and_those_of_both_do_not() {
    let end = UNTIL.secs();
    let old = profile(
        "r17",
        &(register(4, &["aa", "cc"]) + &register(7, &["dd"])),
        &(demand("boot.initrd", "is = \"old\"")
            + &demand("boot.pk", "is = \"same\"")
            + &demand("ima.kernels", "one_of = [1, 2]")
            + &demand("boot.secure_boot", "is = true")),
    );
    let new = profile(
        "r18",
        &(register(4, &["bb", "cc"]) + &register(7, &["dd"])),
        &(demand("boot.initrd", "is = \"new\"")
            + &demand("boot.pk", "is = \"same\"")
            + &demand("ima.kernels", "is = 1")
            + &demand("boot.secure_boot", "is = true")),
    );
    let (merged, at_once) = merged(&old, &new);
    assert_eq!(merged.name, "r18");
    let want = [(digest("bb"), 0), (digest("cc"), 0), (digest("aa"), end)];
    assert_eq!(ends(&merged.tpm.values[&4]), want);
    assert_eq!(ends(&merged.tpm.values[&7]), [(digest("dd"), 0)]);
    let of = |claim: &str| {
        let found = merged.requirements.iter().find(|one| one.claim == claim);
        ends(&alternatives(&found.unwrap().expected).unwrap())
    };
    assert_eq!(
        of("boot.initrd"),
        [("new".to_owned(), 0), ("old".to_owned(), end)]
    );
    assert_eq!(of("boot.pk"), [("same".to_owned(), 0)]);
    assert_eq!(
        of("ima.kernels"),
        [("1".to_owned(), 0), ("2".to_owned(), end)]
    );
    assert_eq!(of("boot.secure_boot"), [("true".to_owned(), 0)]);
    assert_eq!(
        at_once,
        Vec::<String>::new(),
        "all of the old is good until then"
    );
}

#[test]
fn terms_that_were_there_are_kept_and_none_is_made_longer() {
    let value = |byte: &str, rest: &str| format!("{{ is = \"{}\"{rest} }}", digest(byte));
    let of = |values: &[String]| format!("\"4\" = [{}]\n", values.join(", "));
    let old = profile(
        "r17",
        &of(&[
            value(
                "01",
                ", not_after = \"2026-12-01T00:00:00Z\", name = \"sooner\"",
            ),
            value("02", ", not_after = \"2028-01-01T00:00:00Z\""),
            value("03", ", not_before = \"2027-01-15T08:00:00Z\""),
            value("04", ", revoked = \"2026-01-01T00:00:00Z\""),
            value("05", ""),
            value("06", ""),
            value("07", ""),
            value("08", ", not_before = \"2026-12-01T00:00:00Z\""),
        ]),
        "",
    );
    let new = profile(
        "r18",
        &of(&[
            value("05", ", not_before = \"2027-01-15T08:00:00Z\""),
            value("06", ", revoked = \"2026-01-01T00:00:00Z\""),
            value("07", ", not_after = \"2026-06-01T00:00:00Z\""),
        ]),
        "",
    );
    let (merged, _) = merged(&old, &new);
    let (sooner, end) = (1_796_083_200, UNTIL.secs());
    let want = [
        ("05", 0),
        ("06", 0),
        ("07", 1_780_272_000),
        ("01", sooner),
        ("02", end),
        ("04", 0),
        ("05", end),
        ("08", end),
    ];
    let want = want.map(|(byte, end)| (digest(byte), end));
    let found = &merged.tpm.values[&4];
    assert_eq!(ends(found), want);
    assert_eq!(found[3].name.as_deref(), Some("sooner"));
    let revoked: Vec<bool> = found.iter().map(|one| one.term.revoked.is_some()).collect();
    assert_eq!(
        revoked,
        [false, true, false, false, false, true, false, false],
        "taken back stays so"
    );
}

#[test]
fn files_keys_and_agents_of_the_old_profile_end_too() {
    let pem = |at: usize| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        (at, key.public_key_pem())
    };
    let (first, both) = (pem(1).1, pem(2).1);
    let key = |name: &str, pem: &str| {
        format!("[[ima.key]]\nname = \"{name}\"\nid = \"01020304\"\npem = '''\n{pem}'''\n")
    };
    let ima = |files: &[&str], rest: &str| {
        let lines: Vec<String> = files
            .iter()
            .map(|one| format!("{}  /bin/{one}\n", digest(one)))
            .collect();
        format!("[ima]\nfiles = '''\n{}'''\n{rest}", lines.concat())
    };
    let strict = |agent: &str| {
        format!(
            "[strict]\nset = \"root-cannot-lie-1\"\nagent = [\"{}\"]\n",
            digest(agent)
        )
    };
    let old = ima(&["aa", "cc"], &(key("old", &first) + &key("both", &both))) + &strict("aa");
    let new = ima(&["bb", "cc"], &key("both", &both)) + &strict("bb");
    let (old, new) = (
        profile("r17", &register(4, &["01"]), &old),
        profile("r18", &register(4, &["01"]), &new),
    );
    let (merged, at_once) = merged(&old, &new);
    let files = files(&merged).unwrap();
    let listed: Vec<(String, u64)> = files
        .known
        .files
        .iter()
        .flat_map(|(digest, all)| all.iter().map(move |one| (digest.to_string(), one)))
        .map(|(digest, one)| (digest, one.term.not_after.map_or(0, UnixTime::secs)))
        .collect();
    let of = |byte: &str, end| (format!("sha256:{}", digest(byte)), end);
    assert_eq!(listed, [of("aa", UNTIL.secs()), of("bb", 0), of("cc", 0)]);
    let keys: Vec<(&str, Option<UnixTime>)> = files
        .known
        .keys
        .iter()
        .map(|key| (key.name.as_str(), key.term.not_after))
        .collect();
    assert_eq!(keys, [("both", None), ("old", Some(UNTIL))]);
    assert_eq!(merged.strict.unwrap().agent.len(), 2);
    assert_eq!(at_once, Vec::<String>::new());
}

#[test]
fn what_has_no_time_is_told() {
    let old = profile(
        "r17",
        &register(4, &["aa"]),
        &("[boot]\nunreplayable = [4]\n".to_owned()
            + &demand("tpm.firmware_version", "at_least = 1")
            + &demand("boot.order", "is = \"x\"")),
    );
    let new = profile(
        "r18",
        &(register(4, &["aa"]) + &register(7, &["dd"])),
        &("[boot]\n".to_owned()
            + &demand("tpm.firmware_version", "at_least = 2")
            + &demand("boot.pk", "is = \"y\"")),
    );
    let (_, at_once) = merged(&old, &new);
    let topics: Vec<&str> = at_once
        .iter()
        .map(|line| line.split(':').next().unwrap())
        .collect();
    let want = [
        "refuses boot.pk",
        "refuses boot.unreplayable",
        "refuses tpm.firmware_version",
        "refuses tpm.pcr.sha256.7",
    ];
    assert_eq!(topics, want, "{at_once:?}");
}

#[test]
fn what_cannot_be_one_profile_is_refused() {
    let good = profile("r17", &register(4, &["aa"]), "");
    let other = good
        .replace("sha256", "sha384")
        .replace(&digest("aa"), &"aa".repeat(48));
    let many = |from: u32| {
        let all: Vec<String> = (from..from + 200)
            .map(|n| format!("\"{n:064x}\""))
            .collect();
        profile("r17", &format!("\"4\" = [{}]\n", all.join(", ")), "")
    };
    let rows = [
        (
            "no profile",
            "name = 1".to_owned(),
            good.clone(),
            "profile-refused",
        ),
        ("another bank", other, good.clone(), "merge-banks"),
        ("too many values", many(0), many(1000), "merge-too-much"),
    ];
    for (name, old, new, code) in rows {
        let refused = merge(("old", old.as_bytes()), ("new", new.as_bytes()), UNTIL).unwrap_err();
        assert_eq!(refused.code(), code, "{name}: {refused}");
    }
    let merged = merge(("old", good.as_bytes()), ("new", good.as_bytes()), UNTIL).unwrap();
    let head = format!("# r17, and until {DATE} what r17 allows besides.\n");
    assert!(merged.text.starts_with(&head), "{}", merged.text);
}

#[test]
fn what_the_old_profile_took_back_stays_so() {
    let taken = |byte: &str, reason: &str| {
        let digest = digest(byte);
        format!("[[revoked]]\ndigest = \"{digest}\"\nreason = \"{reason}\"\n")
    };
    let old = profile(
        "r17",
        &register(4, &["aa", "cc"]),
        &(taken("aa", "signed by mistake") + &taken("cc", "of old")),
    );
    let new = profile("r18", &register(4, &["bb"]), &taken("cc", "of late"));
    let (merged, _) = merged(&old, &new);
    let reasons: Vec<(String, &str)> = merged
        .revoked
        .iter()
        .map(|(digest, revoked)| (hex::encode(digest), revoked.reason.as_str()))
        .collect();
    let want = [
        (digest("aa"), "signed by mistake"),
        (digest("cc"), "of late"),
    ];
    assert_eq!(reasons, want);
    // Nothing of it makes a table of its own where there is none to make.
    let plain = profile("r17", &register(4, &["aa"]), "");
    let (merged, _) = super::tests::merged(&plain, &profile("r18", &register(4, &["bb"]), ""));
    assert!(merged.revoked.is_empty());
}
