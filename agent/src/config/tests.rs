use super::*;

const SMALL: &str = r#"
deployment = "demo"
node = "gpu-01"
[collector]
enroll = "collector.example:7443"
evidence = "[::1]:7444"
[policy]
approvers = "/etc/bailiwick/allowed_signers"
threshold = 2
"#;

#[test]
fn what_is_not_said_has_a_default_and_prints_back() {
    let config = Config::parse(Path::new("a.toml"), SMALL).unwrap();
    assert!(!config.collector.verifiable());
    assert_eq!(config.collector.evidence.host, "::1");
    let printed = toml::to_string(&config).unwrap();
    let again = Config::parse(Path::new("b.toml"), &printed).unwrap();
    assert_eq!(toml::to_string(&again).unwrap(), printed);
}

#[test]
fn devices_are_found_only_where_the_whole_host_is_fenced() {
    let named = |names: &[&str]| Devices::Named(names.iter().map(|n| (*n).into()).collect());
    let trial = "root = \"/trial\"\nwhole_host = false";
    for (lines, want) in [
        (String::new(), Devices::Auto),
        (trial.to_owned(), named(&[])),
        (format!("{trial}\nuplinks = [\"auto\"]"), Devices::Auto),
        (
            format!("{trial}\nuplinks = [\"b\", \"a\"]"),
            named(&["a", "b"]),
        ),
        ("uplinks = []".to_owned(), named(&[])),
        ("uplinks = [\"eth0\"]".to_owned(), named(&["eth0"])),
    ] {
        let text = format!("{SMALL}\n[fence]\n{lines}\n");
        let config = Config::parse(Path::new("a.toml"), &text).unwrap();
        assert_eq!(config.fence.uplinks(), want, "{lines}");
    }
}

#[test]
fn the_fences_pcr_is_quoted() {
    for (lines, want) in [
        ("", (0..=14).collect()),
        ("[tpm]\npcrs = [0, 7]", vec![0, 7, 13]),
        ("[tpm]\npcrs = [0, 7]\n[fence]\npcr = 3", vec![0, 3, 7]),
    ] {
        let text = format!("{SMALL}\n{lines}\n");
        let config = Config::parse(Path::new("a.toml"), &text).unwrap();
        assert_eq!(config.tpm_settings().pcrs, want, "{lines}");
    }
}

#[test]
fn errors_name_file_line_and_key() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "unknown key",
            "[tpm]\nalgorithm = 1",
            "a.toml, line 12 (algorithm = 1): unknown field `algorithm`",
        ),
        (
            "wrong type",
            "[evidence]\ninterval_s = \"x\"",
            "a.toml, line 12 (interval_s = \"x\"): invalid type: string \"x\", expected u64",
        ),
        (
            "tcti",
            "[tpm]\ntcti = \"usb\"",
            "a.toml, line 12 (tcti = \"usb\"): TCTI \"usb\" is not one of",
        ),
        (
            "pcr 24",
            "[tpm]\npcrs = [0, 24]",
            "a.toml: tpm.pcrs: must ascend within 0 to 23",
        ),
        (
            "a baseline for no mode",
            "[[oq.baseline]]\nmode = \"fast\"\nto_device_mb_s = 1\nto_host_mb_s = 1\nwithin_mb_s = 1\n\
             tolerance = 0.1",
            "a.toml: oq.baseline: mode \"fast\" is none of off, on, devtools, protected-pcie",
        ),
        (
            "a band that holds everything",
            "[[oq.baseline]]\nmode = \"on\"\nto_device_mb_s = 1\nto_host_mb_s = 1\nwithin_mb_s = 1\n\
             tolerance = 1.0",
            "a.toml: oq.baseline: tolerance must lie between 0 and 1",
        ),
        (
            "a figure that was not measured",
            "[[oq.baseline]]\nmode = \"on\"\nto_device_mb_s = 0\nto_host_mb_s = 1\nwithin_mb_s = 1\n\
             tolerance = 0.1",
            "a.toml: oq.baseline: no figure can be 0",
        ),
        (
            "more memory than is asked of anybody",
            "[oq]\nmemory_mib = 1025",
            "a.toml: oq.memory_mib: must lie within 16 and 1024",
        ),
        ("pcr twice", "[tpm]\npcrs = [1, 1]", "a.toml: tpm.pcrs: "),
        (
            "a trial that would fence the host",
            "[fence]\nroot = \"/trial\"",
            "a.toml: fence.whole_host: ",
        ),
        (
            "the debug PCR",
            "[fence]\npcr = 16",
            "a.toml: fence.pcr: must lie within 0 to 15",
        ),
        (
            "a device that is both",
            "[fence]\nuplinks = [\"a\", \"b\"]\nports = [\"b\"]",
            "a.toml: fence.ports: \"b\" is an uplink",
        ),
        (
            "no device",
            "[fence]\nuplinks = [\"a/b\"]",
            "a.toml, line 12 (uplinks = [\"a/b\"]): \"a/b\" is no device's name",
        ),
        (
            "found, and named",
            "[fence]\nports = [\"auto\", \"b\"]",
            "a.toml, line 12 (ports = [\"auto\", \"b\"]): \"auto\" stands alone",
        ),
        (
            "seven bits",
            "[fence]\nmark_mask = 0xfe000000",
            "a.toml: fence.mark_mask: must be at least eight bits",
        ),
        (
            "bits with others between",
            "[fence]\nmark_mask = 0x00ff00ff",
            "a.toml: fence.mark_mask: must be at least eight bits side by side",
        ),
        (
            "counted at every moment",
            "[fence]\ncount_s = 0",
            "a.toml: fence.count_s: must lie within",
        ),
        (
            "never counted",
            "[fence]\ncount_s = 86401",
            "a.toml: fence.count_s: must lie within",
        ),
        (
            "no mark",
            "[fence]\nmark_mask = 0",
            "a.toml: fence.mark_mask: ",
        ),
        (
            "a log beside whoever starts the agent",
            "[fence]\nlog = \"fence.log\"",
            "a.toml: fence.log: must be an absolute path",
        ),
        (
            "no jitter",
            "[evidence]\njitter = 0.6",
            "a.toml: evidence.jitter: ",
        ),
        (
            "small spool",
            "[spool]\nmax_bytes = 9",
            "a.toml: spool.max_bytes: ",
        ),
    ];
    for (name, lines, want) in cases {
        let text = format!("{SMALL}\n{lines}\n");
        let err = Config::parse(Path::new("a.toml"), &text).unwrap_err();
        assert!(err.to_string().starts_with(want), "{name}: {err}");
    }
}

#[test]
fn endpoints_are_host_and_port() {
    for bad in [
        "a",
        "a:",
        ":1",
        "a:0",
        "http://a:1",
        "::1:5",
        "[::1:5",
        "a:70000",
    ] {
        assert!(Endpoint::try_from(bad.to_owned()).is_err(), "{bad}");
    }
    for good in ["a:1", "10.0.0.1:65535", "[::1]:5"] {
        let endpoint = Endpoint::try_from(good.to_owned()).unwrap();
        assert_eq!(endpoint.to_string(), good);
    }
}

#[test]
fn gpus_are_tried_only_where_that_is_asked_for() {
    let config = Config::parse(Path::new("a.toml"), SMALL).unwrap();
    assert!(!config.oq.enabled);
    let one = "[[oq.baseline]]\nmode = \"on\"\nto_device_mb_s = 1\nto_host_mb_s = 1\n\
               within_mb_s = 1\ntolerance = 0.1\n";
    let text = format!("{SMALL}\n[oq]\nenabled = true\n{one}");
    let config = Config::parse(Path::new("a.toml"), &text).unwrap();
    assert!(config.oq.enabled && config.oq.baselines.len() == 1);
    let twice = Config::parse(Path::new("a.toml"), &format!("{text}{one}")).unwrap_err();
    let want = "a.toml: oq.baseline: mode \"on\" is there twice";
    assert_eq!(twice.to_string(), want);
}

/// `SMALL` with this in front: keys of the file itself stand before its sections.
fn guest(lines: &str) -> Result<Config, ConfigError> {
    let text = format!("signer = \"tee\"\n{SMALL}\n{lines}\n");
    Config::parse(Path::new("a.toml"), &text)
}

#[test]
fn a_guest_without_a_tpm_opens_none_and_prints_back() {
    let tpm = Config::parse(Path::new("a.toml"), SMALL).unwrap();
    assert_eq!((tpm.signer, tpm.fence.measured), (SignedBy::Tpm, true));
    assert_eq!(tpm.print().unwrap(), toml::to_string(&tpm).unwrap());
    for lines in ["", "[tpm]", "[fence]\nmeasured = false", "[fence]\npcr = 3"] {
        let config = guest(lines).unwrap();
        let found = (config.signer, config.fence.measured);
        assert_eq!(found, (SignedBy::Tee, false), "{lines}");
        let printed = config.print().unwrap();
        let again = Config::parse(Path::new("b.toml"), &printed).unwrap();
        assert_eq!(again.print().unwrap(), printed, "{lines}");
    }
    let key = guest("[tee]\nkey = \"/run/x/key\"").unwrap().tee.key;
    assert_eq!(key, Path::new("/run/x/key"));
}

/// What `deploy` shows is what this reads, and says nothing but its defaults of `[tee]`.
#[test]
fn the_example_of_a_guest_is_one() {
    let file = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/examples/guest/agent.toml"
    ));
    let config = Config::read(file).unwrap();
    assert_eq!(config.signer, SignedBy::Tee);
    assert_eq!(config.tee, TeeSection::default());
}

#[test]
fn what_needs_a_tpm_is_no_guests_to_ask_for() {
    let rows = [
        (
            "the default, said",
            "[tpm]\ntcti = \"device:/dev/tpmrm0\"",
            "a.toml: tpm.tcti: stands beside signer = \"tee\"",
        ),
        (
            "registers",
            "[tpm]\npcrs = [0]",
            "a.toml: tpm.pcrs: stands beside signer = \"tee\"",
        ),
        (
            "the fence's register",
            "[fence]\nmeasured = true",
            "a.toml: fence.measured: cannot be true with signer = \"tee\"",
        ),
        (
            "a key somewhere",
            "[tee]\nkey = \"guest-key\"",
            "a.toml: tee.key: must be the absolute path of a file",
        ),
        ("no file", "[tee]\nkey = \"/\"", "a.toml: tee.key: "),
    ];
    for (name, lines, want) in rows {
        let refused = guest(lines).unwrap_err().to_string();
        assert!(refused.starts_with(want), "{name}: {refused}");
    }
    let text = format!("signer = \"vtpm\"\n{SMALL}");
    let refused = Config::parse(Path::new("a.toml"), &text).unwrap_err();
    let want = "a.toml, line 1 (signer = \"vtpm\"): unknown variant `vtpm`";
    assert!(refused.to_string().starts_with(want), "{refused}");
}
