use super::*;

const GOOD: &str = r#"name = "demo-1"
lease_seconds = 300
max_silence_seconds = 180

[tpm]
bank = "sha256"
require = [0, 1, 7]
[tpm.values]
"7" = ["1111111111111111111111111111111111111111111111111111111111111111"]

[[require]]
claim = "fence.mode"
one_of = ["enforcing", "default-deny"]
provenance = "self-reported"

[[require]]
claim = "kernel.taint"
is = 0
provenance = "self-reported"

[[require]]
claim = "boot.secure-boot"
is = true
provenance = "measured"

[[require]]
claim = "firmware.svn"
at_least = 3
provenance = "hardware-signed"
"#;

#[test]
fn the_fences_pcr_is_one_that_only_a_reset_clears() {
    for pcr in [0, 13, 15] {
        let text = GOOD.replace("[tpm]\n", &format!("[fence]\npcr = {pcr}\n[tpm]\n"));
        let profile = Profile::parse("profile.toml", text.as_bytes()).unwrap();
        assert_eq!(profile.fence, Some(FenceProfile { pcr }));
    }
}

#[test]
fn a_profile_is_read_whole() {
    let profile = Profile::parse("profile.toml", GOOD.as_bytes()).unwrap();
    assert_eq!(profile.name, "demo-1");
    assert_eq!(
        (profile.lease_seconds, profile.max_silence_seconds),
        (300, 180)
    );
    assert_eq!(profile.tpm.bank, Bank::Sha256);
    assert_eq!(profile.tpm.require, BTreeSet::from([0, 1, 7]));
    assert_eq!(
        profile.tpm.values,
        BTreeMap::from([(
            7,
            vec![Alternative {
                value: Value::Text("11".repeat(32)),
                name: None,
                term: Term::default(),
            }]
        )])
    );
    assert_eq!(profile.fence, None);
    let time = profile.time;
    assert_eq!((time.warn_skew_seconds, time.max_skew_seconds), (300, 3600));
    assert_eq!(profile.digest, Sha256Digest::of(&[GOOD.as_bytes()]));
    let shown: Vec<String> = profile
        .requirements
        .iter()
        .map(|r| format!("{} {} {}", r.claim, r.expected, r.minimum))
        .collect();
    assert_eq!(
        shown,
        [
            "fence.mode one of \"enforcing\", \"default-deny\" self-reported",
            "kernel.taint 0 self-reported",
            "boot.secure-boot true measured",
            "firmware.svn at least 3 hardware-signed",
        ]
    );
}

#[test]
fn what_is_expected_is_compared_without_conversion() {
    let text = |t: &str| Value::Text(t.to_owned());
    let cases = [
        ("same text", Expected::Is(text("a")), text("a"), true),
        ("other text", Expected::Is(text("a")), text("b"), false),
        (
            "number as text",
            Expected::Is(Value::Number(1)),
            text("1"),
            false,
        ),
        (
            "flag as number",
            Expected::Is(Value::Flag(true)),
            Value::Number(1),
            false,
        ),
        (
            "in the list",
            Expected::OneOf(vec![text("a"), text("b")]),
            text("b"),
            true,
        ),
        (
            "beside the list",
            Expected::OneOf(vec![text("a"), text("b")]),
            text("c"),
            false,
        ),
        ("equal", Expected::AtLeast(3), Value::Number(3), true),
        ("above", Expected::AtLeast(3), Value::Number(4), true),
        ("below", Expected::AtLeast(3), Value::Number(2), false),
        ("text is no number", Expected::AtLeast(3), text("4"), false),
    ];
    for (name, expected, found, want) in cases {
        assert_eq!(
            expected.met_by(&found, UnixTime(0)) == Met::Yes,
            want,
            "{name}"
        );
    }
}

#[test]
fn provenance_has_an_order_and_one_spelling() {
    assert!(Provenance::ALL.is_sorted());
    assert!(Provenance::SelfReported < Provenance::OperatorSigned);
    assert!(Provenance::Measured < Provenance::HardwareSigned);
    for provenance in Provenance::ALL {
        assert_eq!(provenance.as_str().parse(), Ok(provenance));
        let json = serde_json::to_string(&provenance).unwrap();
        assert_eq!(json, format!("\"{provenance}\""));
    }
    assert!("Measured".parse::<Provenance>().is_err());
}

#[test]
fn refusals_name_file_line_and_key() {
    let cases: &[(&str, &str, &str, &str)] = &[
        (
            "name",
            "\"demo-1\"",
            "\"Demo\"",
            "profile.toml:1: name: may hold only a-z, 0-9, '-' and '.'",
        ),
        (
            "no lease",
            "lease_seconds = 300",
            "lease_seconds = 0",
            "profile.toml:2: lease_seconds: 0 is not within 1 and 86400 seconds",
        ),
        (
            "a lease of two days",
            "lease_seconds = 300",
            "lease_seconds = 172800",
            "profile.toml:2: lease_seconds: 172800 is not within 1 and 86400 seconds",
        ),
        (
            "a bank of SHA-1",
            "\"sha256\"",
            "\"sha1\"",
            "profile.toml:6: tpm.bank: \"sha1\" is no bank that is judged: sha256 or sha384",
        ),
        (
            "PCR 24",
            "[0, 1, 7]",
            "[0, 1, 7, 24]",
            "profile.toml:7: tpm.require: a PCR index is 0 to 23",
        ),
        (
            "PCR twice",
            "[0, 1, 7]",
            "[0, 1, 7, 7]",
            "profile.toml:7: tpm.require: PCR is named twice",
        ),
        (
            "a skew of more than a year",
            "[[require]]\nclaim = \"fence.mode\"",
            "[time]\nmax_skew_seconds = 31622401\n[[require]]\nclaim = \"fence.mode\"",
            "profile.toml:12: time.max_skew_seconds: 31622401 is not within 1 and 31622400 seconds",
        ),
        (
            "a warning behind the limit",
            "[[require]]\nclaim = \"fence.mode\"",
            "[time]\nwarn_skew_seconds = 3601\n[[require]]\nclaim = \"fence.mode\"",
            "profile.toml:12: time.warn_skew_seconds: a warning that comes after time.max_skew_seconds never comes",
        ),
        (
            "the fence's PCR can be reset",
            "[[require]]\nclaim = \"fence.mode\"",
            "[fence]\npcr = 16\n[[require]]\nclaim = \"fence.mode\"",
            "profile.toml:12: fence.pcr: the fence's PCR is 0 to 15: only a reset of the TPM clears those",
        ),
        (
            "the fence's PCR is the debug PCR",
            "[[require]]\nclaim = \"fence.mode\"",
            "[fence]\npcr = 23\n[[require]]\nclaim = \"fence.mode\"",
            "profile.toml:12: fence.pcr: the fence's PCR is 0 to 15: only a reset of the TPM clears those",
        ),
        (
            "the fence's PCR has values",
            "[[require]]\nclaim = \"fence.mode\"",
            "[fence]\npcr = 7\n[[require]]\nclaim = \"fence.mode\"",
            "profile.toml:12: fence.pcr: has values in tpm.values; the fence's PCR is judged by its log",
        ),
        (
            "values of a PCR nobody must quote",
            "[0, 1, 7]",
            "[0, 1]",
            "profile.toml:9: tpm.values.\"7\": PCR 7 has values but is not in tpm.require",
        ),
        (
            "no PCR",
            "[0, 1, 7]",
            "[]",
            "profile.toml:7: tpm.require: a quote over no PCR says nothing: name at least one, or ask the processor: [cvm]",
        ),
        (
            "second spelling of an index",
            "\"7\" = ",
            "\"07\" = ",
            "profile.toml:9: tpm.values.\"07\": \"07\" is no PCR index (\"0\" to \"23\")",
        ),
        (
            "digest one digit short",
            "[\"1111",
            "[\"111",
            "profile.toml:9: tpm.values.\"7\": a sha256 value is 64 hexadecimal digits",
        ),
        (
            "two comparisons",
            "is = 0",
            "is = 0\nat_least = 1",
            "profile.toml:16: require: needs exactly one of `is`, `one_of`, `at_least`, `any`",
        ),
        (
            "no comparison",
            "is = 0\n",
            "",
            "profile.toml:16: require: needs exactly one of `is`, `one_of`, `at_least`, `any`",
        ),
        (
            "empty list",
            "[\"enforcing\", \"default-deny\"]",
            "[]",
            "profile.toml:13: require.one_of: an empty list can never be met",
        ),
        (
            "negative",
            "is = 0",
            "is = -1",
            "profile.toml:18: require.is: a number is not negative",
        ),
        (
            "a float",
            "is = 0",
            "is = 0.5",
            "profile.toml:18: require.is: float is not text, number or flag",
        ),
        (
            "claim twice",
            "kernel.taint",
            "fence.mode",
            "profile.toml:17: require.claim: claim \"fence.mode\" is named twice",
        ),
        (
            "claim with a space",
            "kernel.taint",
            "kernel taint",
            "profile.toml:17: require.claim: a claim is 1 to 128 of a-z, 0-9, '.', '_', '-', '/'",
        ),
        (
            "unknown provenance",
            "\"measured\"",
            "\"proven\"",
            "profile.toml:24: require.provenance: \"proven\" is no provenance: self-reported, operator-signed, provider-signed, measured or hardware-signed",
        ),
        (
            "unknown key",
            "max_silence_seconds = 180",
            "max_silence_seconds = 180\nmax_silence = 3",
            "profile.toml:4: max_silence: unknown field `max_silence`, expected one of `name`, `lease_seconds`, `max_silence_seconds`, `tpm`, `boot`, `ima`, `fence`, `gpu`, `cvm`, `time`, `world`, `revoked`, `strict`, `require`, `brake`",
        ),
        (
            "no silence named",
            "max_silence_seconds = 180\n",
            "",
            "profile.toml:1: missing field `max_silence_seconds`",
        ),
    ];
    for (name, from, to, want) in cases {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{name}");
        let got = Profile::parse("profile.toml", text.as_bytes()).unwrap_err();
        assert_eq!(got.to_string(), *want, "{name}");
    }
}

#[test]
fn sizes_are_bounded() {
    let mut many = GOOD.to_owned();
    for i in 0..300 {
        many.push_str(&format!(
            "[[require]]\nclaim = \"c.{i}\"\nis = 1\nprovenance = \"measured\"\n"
        ));
    }
    let got = Profile::parse("p", many.as_bytes()).unwrap_err();
    assert_eq!(got.fault, "more than 256 requirements");
    let huge = format!("{GOOD}#{}", " ".repeat(PROFILE_LIMIT));
    let got = Profile::parse("p", huge.as_bytes()).unwrap_err();
    assert!(got.fault.contains("exceed the limit"), "{got}");
}

#[test]
fn the_brake_has_numbers_that_make_sense() {
    let of = |lines: &str| {
        let text = format!("{GOOD}\n[brake]\n{lines}\n");
        Profile::parse("p", text.as_bytes()).map(|profile| {
            let Brake {
                share_percent,
                window_seconds,
                min_nodes,
            } = profile.brake;
            (share_percent, window_seconds, min_nodes)
        })
    };
    assert_eq!(
        Profile::parse("p", GOOD.as_bytes()).unwrap().brake,
        Brake::default()
    );
    assert_eq!(of("").unwrap(), (5, 600, 5));
    assert_eq!(
        of("share_percent = 100\nmin_nodes = 1").unwrap(),
        (100, 600, 1)
    );
    assert_eq!(
        of("window_seconds = 86400\nmin_nodes = 100000").unwrap(),
        (5, 86_400, 100_000)
    );
    for lines in [
        "share_percent = 0",
        "share_percent = 101",
        "window_seconds = 0",
        "window_seconds = 86401",
        "min_nodes = 0",
        "min_nodes = 100001",
        "share = 5",
    ] {
        assert!(of(lines).is_err(), "{lines}");
    }
}

#[test]
fn a_map_is_named_and_grows_old() {
    let of = |lines: &str| {
        let text = format!("{GOOD}\n[world]\n{lines}\n");
        Profile::parse("p", text.as_bytes()).map(|profile| profile.world)
    };
    let none = Profile::parse("p", GOOD.as_bytes()).unwrap().world;
    assert_eq!(none, WorldProfile::default());
    let hex = "ab".repeat(32);
    let named = of(&format!("sha256 = \"{hex}\"\nmax_age_days = 30")).unwrap();
    assert_eq!(named.digest, Some(Sha256Digest([0xab; 32])));
    for (name, lines, want) in [
        (
            "a digit short",
            format!("sha256 = \"{}\"", &hex[1..]),
            "64 hexadecimal",
        ),
        (
            "no digits",
            format!("sha256 = \"{}\"", "x".repeat(64)),
            "64 hexadecimal",
        ),
        (
            "no day",
            "max_age_days = 0".to_owned(),
            "not within 1 and 3650 days",
        ),
        (
            "a day too many",
            "max_age_days = 3651".to_owned(),
            "not within 1 and 3650 days",
        ),
        ("another key", "max_age = 3".to_owned(), "max_age"),
    ] {
        let got = of(&lines).expect_err(name).to_string();
        assert!(got.contains(want), "{name}: {got}");
    }
    let day = 86_400_i64;
    let built = 1_800_000_000;
    for (name, world, age, want) in [
        ("never old", none, 9999 * day, None),
        ("of today", named, 0, None),
        ("of tomorrow", named, -day, None),
        ("the last second", named, 31 * day - 1, None),
        ("too old", named, 31 * day, Some(31)),
    ] {
        let now = UnixTime::from_secs(u64::try_from(1_800_000_000 + age).unwrap());
        assert_eq!(world.overdue(built, now), want, "{name}");
    }
}

#[test]
fn alternatives_are_checked_like_everything_else() {
    let with = |rest: &str| {
        let text = format!(
            "{GOOD}\n[[require]]\nclaim = \"boot.command_line\"\nprovenance = \"measured\"\n{rest}"
        );
        Profile::parse("profile.toml", text.as_bytes())
    };
    let read = with(
        "[[require.any]]\nis = \"a\"\nname = \"R16\"\nnot_after = \"2027-01-31T00:00:00Z\"\n\
         [[require.any]]\nis = \"b\"\nnot_before = \"2027-01-01T00:00:00Z\"\n",
    );
    let read = read.unwrap();
    let expected = &read.requirements.last().unwrap().expected;
    let text = |text: &str| Value::Text(text.to_owned());
    let at = UnixTime::from_secs;
    for (name, value, now, want) in [
        ("old, before both", "a", 1_700_000_000, "yes"),
        ("old, in the overlap", "a", 1_799_000_000, "yes"),
        ("old, after it", "a", 1_801_353_600, "not now"),
        ("new, before it", "b", 1_700_000_000, "not now"),
        ("new, in the overlap", "b", 1_799_000_000, "yes"),
        ("another", "c", 1_799_000_000, "no"),
    ] {
        let found = match expected.met_by(&text(value), at(now)) {
            Met::Yes => "yes",
            Met::NotNow(_) => "not now",
            Met::No => "no",
        };
        assert_eq!(found, want, "{name}");
    }
    for (name, rest) in [
        ("none", "any = []"),
        ("two ways", "is = \"a\"\n[[require.any]]\nis = \"a\""),
        ("no value", "[[require.any]]\nname = \"R1\""),
        (
            "no moment",
            "[[require.any]]\nis = \"a\"\nnot_after = \"2027-01-31\"",
        ),
        (
            "ends before it begins",
            "[[require.any]]\nis = \"a\"\nnot_before = \"2027-02-01T00:00:00Z\"\n\
             not_after = \"2027-01-31T00:00:00Z\"",
        ),
        ("no name", "[[require.any]]\nis = \"a\"\nname = \"\""),
        ("unknown", "[[require.any]]\nis = \"a\"\nuntil = 5"),
    ] {
        assert!(with(rest).is_err(), "{name}");
    }
}

#[test]
fn quirks_and_exceptions_are_named_one_by_one() {
    let with = |rest: &str| {
        let text = GOOD.replace("[tpm]\n", &format!("{rest}\n[tpm]\n"));
        Profile::parse("profile.toml", text.as_bytes())
    };
    let boot = with("[boot]").unwrap().boot.unwrap();
    assert_eq!(boot, BootProfile::default());
    let read = with("[boot]\nquirks = [\"ovmf-duplicate-separator\"]\nunreplayable = [0]").unwrap();
    let boot = read.boot.unwrap();
    assert_eq!(boot.quirks, [Quirk::OvmfDuplicateSeparator]);
    assert_eq!(boot.unreplayable, BTreeSet::from([0]));
    assert!(with("[boot]\nquirks = [\"whatever\"]").is_err());
    assert!(with("[boot]\nunreplayable = [9]").is_err());
    for (rest, want) in [
        ("[ima]", Some(0)),
        ("[ima]\nmax_violations = 7", Some(7)),
        ("[ima]\nany_violations = true", None),
    ] {
        let read = with(rest).unwrap().ima.unwrap();
        assert_eq!(read.max_violations, want, "{rest}");
    }
}
