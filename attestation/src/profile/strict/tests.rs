//! What is taken back, the strict part and values in their time, as TOML spells them.

use crate::profile::{Profile, Value};
use crate::{Term, UnixTime};

const BASE: &str = "name = \"r\"\nlease_seconds = 300\nmax_silence_seconds = 180\n[tpm]\n\
    bank = \"sha256\"\nrequire = [4, 7]\n";

fn parse(rest: &str) -> Result<Profile, String> {
    let text = format!("{BASE}{rest}");
    Profile::parse("p", text.as_bytes()).map_err(|error| error.to_string())
}

fn digest(byte: u8, len: usize) -> String {
    hex::encode(vec![byte; len])
}

#[test]
fn a_digest_is_taken_back_once_with_a_reason() {
    let entry = |digest: &str, rest: &str| format!("[[revoked]]\ndigest = \"{digest}\"\n{rest}");
    let good = [20, 32, 48, 64].map(|len| entry(&digest(7, len), "reason = \"CVE\"\n"));
    let profile = parse(&good.concat()).unwrap();
    assert_eq!(profile.revoked.len(), 4);
    let since = entry(
        &digest(7, 32),
        "reason = \"CVE\"\nsince = \"2027-01-01T00:00:00Z\"\n",
    );
    let profile = parse(&since).unwrap();
    let revoked = &profile.revoked[&vec![7; 32]];
    assert_eq!(revoked.reason, "CVE");
    assert_eq!(revoked.since, Some(UnixTime::from_secs(1_798_761_600)));
    let longest = format!("reason = \"{}\"\n", "x".repeat(512));
    parse(&entry(&digest(7, 32), &longest)).unwrap();
    let long = "x".repeat(513);
    let twice = [
        entry(&digest(7, 32), "reason = \"a\"\n"),
        entry(&digest(7, 32), "reason = \"b\"\n"),
    ];
    let many: String = (0..1025_u32)
        .map(|n| entry(&format!("{n:064x}"), "reason = \"a\"\n"))
        .collect();
    let rows = [
        (
            "no reason",
            entry(&digest(7, 32), ""),
            "missing field `reason`",
        ),
        (
            "an empty reason",
            entry(&digest(7, 32), "reason = \"\"\n"),
            "a reason has 1 to 512 bytes",
        ),
        (
            "a long one",
            entry(&digest(7, 32), &format!("reason = \"{long}\"\n")),
            "a reason has 1 to 512 bytes",
        ),
        (
            "31 bytes",
            entry(&digest(7, 31), "reason = \"a\"\n"),
            "a digest is 40, 64, 96 or 128",
        ),
        (
            "33 bytes",
            entry(&digest(7, 33), "reason = \"a\"\n"),
            "a digest is 40, 64, 96 or 128",
        ),
        (
            "no digits",
            entry("zz", "reason = \"a\"\n"),
            "a digest is 40, 64, 96 or 128",
        ),
        (
            "none",
            entry("", "reason = \"a\"\n"),
            "a digest is 40, 64, 96 or 128",
        ),
        ("twice", twice.concat(), "is taken back twice"),
        ("too many", many, "more than 1024 digests are taken back"),
        (
            "no date",
            entry(&digest(7, 32), "reason = \"a\"\nsince = \"yesterday\"\n"),
            "is not a moment",
        ),
        (
            "another key",
            entry(&digest(7, 32), "reason = \"a\"\nwhy = \"b\"\n"),
            "unknown field",
        ),
    ];
    for (name, text, want) in rows {
        let said = parse(&text).unwrap_err();
        assert!(said.contains(want), "{name}: {said}");
    }
}

#[test]
fn the_strict_part_names_its_set_and_its_agent_and_a_kernel() {
    let agent = digest(9, 32);
    let set = |agents: &str| format!("[strict]\nset = \"root-cannot-lie-1\"\nagent = [{agents}]\n");
    let kernel =
        "[[require]]\nclaim = \"boot.applications\"\nis = \"x\"\nprovenance = \"measured\"\n";
    let image = kernel.replace("applications", "section.linux");
    let register = format!("[tpm.values]\n\"4\" = [\"{}\"]\n", digest(4, 32));
    let one = format!("\"{agent}\"");
    for named in [kernel, &register] {
        let profile = parse(&format!("{named}{}", set(&one))).unwrap();
        let strict = profile.strict.unwrap();
        assert_eq!(strict.set.name(), "root-cannot-lie-1");
        assert_eq!(strict.agent.into_iter().collect::<Vec<_>>(), [vec![9; 32]]);
    }
    let most: Vec<String> = (0..64).map(|n| format!("\"{}\"", digest(n, 32))).collect();
    let profile = parse(&format!("{kernel}{}", set(&most.join(", ")))).unwrap();
    assert_eq!(profile.strict.unwrap().agent.len(), 64);
    let many = vec![one.as_str(); 65].join(", ");
    let rows = [
        ("no kernel", set(&one), "nothing says which kernel may boot"),
        (
            "a section of an image, which root can write later",
            format!("{image}{}", set(&one)),
            "nothing says which kernel may boot",
        ),
        (
            "a register that need not replay",
            format!("{kernel}[boot]\nunreplayable = [7]\n{}", set(&one)),
            "a register that need not replay shows nothing",
        ),
        (
            "no agent",
            format!("{kernel}{}", set("")),
            "name 1 to 64 digests of the agent's program",
        ),
        (
            "too many",
            format!("{kernel}{}", set(&many)),
            "name 1 to 64 digests of the agent's program",
        ),
        (
            "no digest",
            format!("{kernel}{}", set("\"9\"")),
            "a digest is 40, 64, 96 or 128",
        ),
        (
            "another set",
            format!("{kernel}{}", set(&one).replace("lie-1", "lie-2")),
            "\"root-cannot-lie-2\" is no strict set: root-cannot-lie-1",
        ),
    ];
    for (name, text, want) in rows {
        let said = parse(&text).unwrap_err();
        assert!(said.contains(want), "{name}: {said}");
    }
}

#[test]
fn a_register_has_values_each_in_its_time() {
    let old = digest(1, 32);
    let values = |list: &str| format!("[tpm.values]\n\"7\" = [{list}]\n");
    let windowed = format!(
        "\"{}\", {{ is = \"{old}\", name = \"6.8.0-44\", not_before = \"1970-01-01T00:00:10Z\", \
         not_after = \"1970-01-01T00:00:20Z\", revoked = \"1970-01-01T00:00:15Z\" }}",
        digest(2, 32)
    );
    let profile = parse(&values(&windowed)).unwrap();
    let [plain, timed] = profile.tpm.values[&7].as_slice() else {
        panic!("{:?}", profile.tpm.values);
    };
    assert_eq!(
        (&plain.value, plain.term),
        (&Value::Text(digest(2, 32)), Term::default())
    );
    assert_eq!(timed.value, Value::Text(old.clone()));
    assert_eq!(timed.name.as_deref(), Some("6.8.0-44"));
    let at = |secs| Some(UnixTime::from_secs(secs));
    let term = Term {
        not_before: at(10),
        not_after: at(20),
        revoked: at(15),
    };
    assert_eq!(timed.term, term);
    let upper = parse(&values(&format!("\"{}\"", digest(0xab, 32).to_uppercase()))).unwrap();
    assert_eq!(upper.tpm.values[&7][0].value, Value::Text(digest(0xab, 32)));
    let rows = [
        (
            "nothing",
            "{ name = \"x\" }".to_owned(),
            "a sha256 value is 64 hexadecimal digits",
        ),
        (
            "short",
            format!("{{ is = \"{}\" }}", digest(1, 31)),
            "a sha256 value is 64 hexadecimal digits",
        ),
        ("a number", "7".to_owned(), "is: integer is not text"),
        (
            "a date that is none",
            format!("{{ is = \"{old}\", not_after = \"soon\" }}"),
            "is not a moment",
        ),
        (
            "a date that is no text",
            format!("{{ is = \"{old}\", not_after = 7 }}"),
            "not_after: integer is not text",
        ),
        (
            "ends before it begins",
            format!(
                "{{ is = \"{old}\", not_before = \"2027-01-01T00:00:00Z\", not_after = \"2027-01-01T00:00:00Z\" }}"
            ),
            "ends before it begins",
        ),
        (
            "another key",
            format!("{{ is = \"{old}\", until = \"x\" }}"),
            "\"until\" is none of is, name",
        ),
        (
            "an empty name",
            format!("{{ is = \"{old}\", name = \"\" }}"),
            "a name has 1 to 128 bytes",
        ),
    ];
    for (name, list, want) in rows {
        let said = parse(&values(&list)).unwrap_err();
        assert!(said.contains(want), "{name}: {said}");
    }
}
