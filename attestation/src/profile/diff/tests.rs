//! Each key of a profile, wider and narrower.

use super::*;

const BASE: &str = "name = \"r\"\nlease_seconds = 300\nmax_silence_seconds = 180\n[tpm]\n\
    bank = \"sha256\"\nrequire = [0, 7]\n";

fn profile(rest: &str) -> Profile {
    Profile::parse("profile.toml", format!("{BASE}{rest}").as_bytes()).unwrap()
}

fn told(first: &Profile, second: &Profile) -> Vec<String> {
    let one = |one: Difference| format!("{} {}: {}", one.way.as_str(), one.topic, one.text);
    diff(first, second).into_iter().map(one).collect()
}

/// A claim `c` with these alternatives.
fn any(all: &[&str]) -> String {
    let all: Vec<String> = all
        .iter()
        .map(|one| format!("[[require.any]]\n{one}\n"))
        .collect();
    format!(
        "[[require]]\nclaim = \"c\"\nprovenance = \"measured\"\n{}",
        all.concat()
    )
}

/// What is told from the first to the second, and from the second to the first.
#[test]
fn each_key_is_told_in_both_directions() {
    let a = hex::encode([0xaa; 32]);
    let pinned = format!("[tpm.values]\n\"7\" = [\"{a}\"]\n");
    let is = |value: &str| {
        format!("[[require]]\nclaim = \"c\"\nis = {value}\nprovenance = \"measured\"\n")
    };
    let weak = "[[require]]\nclaim = \"c\"\nis = 1\nprovenance = \"self-reported\"\n".to_owned();
    let least =
        |n: u64| format!("[[require]]\nclaim = \"c\"\nat_least = {n}\nprovenance = \"measured\"\n");
    let until = "is = \"old\"\nnot_after = \"2027-01-01T00:00:00Z\"";
    let later = "is = \"old\"\nnot_after = \"2027-02-01T00:00:00Z\"";
    let moved =
        "is = \"old\"\nnot_before = \"2026-12-01T00:00:00Z\"\nnot_after = \"2027-02-01T00:00:00Z\"";
    let revoked = "is = \"old\"\nrevoked = \"2026-12-01T00:00:00Z\"";
    let named = "is = \"new\"\nname = \"6.8.0-45\"";
    type Row<'a> = (&'a str, String, String, Vec<&'a str>, Vec<&'a str>);
    let s = str::to_owned;
    let digest = "1".repeat(64);
    let map = format!("[world]\nsha256 = \"{digest}\"\nmax_age_days = 60\n");
    let pin = format!(
        "refuses tpm.pcr.sha256.7: has to be one of {a:?}, at least hardware-signed; was not judged"
    );
    let unpin = format!("allows tpm.pcr.sha256.7: is not judged any more; had to be one of {a:?}");
    let onlymap = format!("refuses world.sha256: only the world map {digest} will do");
    let rows: Vec<Row<'_>> = vec![
        ("nothing", is("1"), is("1"), vec![], vec![]),
        ("a register pinned", s(""), pinned, vec![&pin], vec![&unpin]),
        (
            "a claim demanded",
            s(""),
            is("true"),
            vec!["refuses c: has to be true, at least measured; was not judged"],
            vec!["allows c: is not judged any more; had to be true"],
        ),
        (
            "a weaker source",
            is("1"),
            weak,
            vec!["allows c: at least self-reported will do; was at least measured"],
            vec!["refuses c: at least measured will do; was at least self-reported"],
        ),
        (
            "another value",
            is("\"a b\""),
            is("\"a c\""),
            vec![
                "allows c: \"a c\"; nearest known: without \"c\", with \"b\"",
                "refuses c: \"a b\"",
            ],
            vec![
                "allows c: \"a b\"; nearest known: without \"b\", with \"c\"",
                "refuses c: \"a c\"",
            ],
        ),
        (
            "one value more, for a time",
            is("\"new\""),
            any(&[until, named]),
            vec![
                "allows c: \"old\" until 2027-01-01T00:00:00Z",
                "differs c: \"new\" \"6.8.0-45\", was at any time",
            ],
            vec![
                "refuses c: \"old\" until 2027-01-01T00:00:00Z",
                "differs c: \"new\" at any time, was \"6.8.0-45\"",
            ],
        ),
        (
            "a longer window",
            any(&[until]),
            any(&[later]),
            vec!["allows c: \"old\" until 2027-02-01T00:00:00Z, was until 2027-01-01T00:00:00Z"],
            vec!["refuses c: \"old\" until 2027-01-01T00:00:00Z, was until 2027-02-01T00:00:00Z"],
        ),
        (
            "another window",
            any(&[until]),
            any(&[moved]),
            vec![
                "differs c: \"old\" from 2026-12-01T00:00:00Z until 2027-02-01T00:00:00Z, was until 2027-01-01T00:00:00Z",
            ],
            vec![
                "differs c: \"old\" until 2027-01-01T00:00:00Z, was from 2026-12-01T00:00:00Z until 2027-02-01T00:00:00Z",
            ],
        ),
        (
            "revoked",
            any(&[until]),
            any(&[revoked]),
            vec![
                "refuses c: \"old\" revoked since 2026-12-01T00:00:00Z, was until 2027-01-01T00:00:00Z",
            ],
            vec![
                "allows c: \"old\" until 2027-01-01T00:00:00Z, was revoked since 2026-12-01T00:00:00Z",
            ],
        ),
        (
            "a lower bound",
            least(3),
            least(2),
            vec!["allows c: has to be at least 2, was 3"],
            vec!["refuses c: has to be at least 3, was 2"],
        ),
        (
            "a bound for a value",
            is("3"),
            least(2),
            vec!["allows c: any number from 2 on"],
            vec!["refuses c: any other number from 2 on"],
        ),
        (
            "a bound that leaves a value out",
            is("1"),
            least(2),
            vec!["allows c: any number from 2 on", "refuses c: 1"],
            vec!["allows c: 1", "refuses c: any other number from 2 on"],
        ),
        (
            "the boot log",
            s(""),
            s("[boot]\nquirks = [\"ovmf-duplicate-separator\"]\nunreplayable = [0]\n"),
            vec![
                "allows boot.quirks: the quirk ovmf-duplicate-separator is excused",
                "allows boot.unreplayable: register 0 need not replay any more",
                "refuses boot: the boot log has to replay",
            ],
            vec![
                "allows boot: the boot log need not replay any more",
                "refuses boot.quirks: the quirk ovmf-duplicate-separator is excused no more",
                "refuses boot.unreplayable: register 0 has to replay",
            ],
        ),
        (
            "the list",
            s(""),
            s("[ima]\n"),
            vec!["refuses ima: the measurement list has to replay"],
            vec!["allows ima: the measurement list need not replay any more"],
        ),
        (
            "violations",
            s("[ima]\n"),
            s("[ima]\nany_violations = true\n"),
            vec![
                "allows ima.max_violations: at most any files may change while they are measured, was 0",
            ],
            vec![
                "refuses ima.max_violations: at most 0 files may change while they are measured, was any",
            ],
        ),
        (
            "the fence's log",
            s(""),
            s("[fence]\npcr = 13\n"),
            vec!["refuses fence.pcr: the fence's log has to replay to register 13"],
            vec!["allows fence.pcr: the fence's log need not replay any more"],
        ),
        (
            "the fence's register",
            s("[fence]\npcr = 12\n"),
            s("[fence]\npcr = 13\n"),
            vec!["differs fence.pcr: the fence's log is in register 13, was 12"],
            vec!["differs fence.pcr: the fence's log is in register 12, was 13"],
        ),
        (
            "clocks",
            s("[time]\nmax_skew_seconds = 3000\n"),
            s("[time]\nmax_skew_seconds = 4000\nwarn_skew_seconds = 200\n"),
            vec![
                "allows time.max_skew_seconds: a clock may be off by 4000 s, was 3000 s",
                "refuses time.warn_skew_seconds: a clock may be off without a warning by 200 s, was 300 s",
            ],
            vec![
                "allows time.warn_skew_seconds: a clock may be off without a warning by 300 s, was 200 s",
                "refuses time.max_skew_seconds: a clock may be off by 3000 s, was 4000 s",
            ],
        ),
        (
            "the map",
            s(""),
            map,
            vec![
                "refuses world.max_age_days: a world map may be 60 days old, was any",
                &onlymap,
            ],
            vec![
                "allows world.max_age_days: a world map may be any days old, was 60",
                "allows world.sha256: any world map will do",
            ],
        ),
        (
            "the brake",
            s(""),
            s("[brake]\nmin_nodes = 9\n"),
            vec![
                "differs brake: a cause is held when it costs more than 5 % and 9 nodes within 600 s; was more than 5 % and 5 nodes within 600 s",
            ],
            vec![
                "differs brake: a cause is held when it costs more than 5 % and 5 nodes within 600 s; was more than 5 % and 9 nodes within 600 s",
            ],
        ),
    ];
    for (name, first, second, there, back) in rows {
        let (first, second) = (profile(&first), profile(&second));
        assert_eq!(told(&first, &second), there, "{name}");
        assert_eq!(told(&second, &first), back, "{name}, the other way round");
    }
}

#[test]
fn what_a_quote_covers_and_how_long_a_lease_lasts_are_told() {
    let edit =
        |from: &str, to: &str| Profile::parse("p", BASE.replace(from, to).as_bytes()).unwrap();
    let base = profile("");
    type Row<'a> = (&'a str, Profile, &'a str);
    let rows: [Row<'_>; 5] = [
        (
            "more",
            edit("[0, 7]", "[0, 4, 7]"),
            "refuses tpm.pcr.sha256.4: has to be quoted",
        ),
        (
            "fewer",
            edit("[0, 7]", "[7]"),
            "allows tpm.pcr.sha256.0: need not be quoted any more",
        ),
        (
            "bank",
            edit("sha256", "sha384"),
            "differs tpm.bank: bank sha384, was sha256",
        ),
        (
            "lease",
            edit("300", "301"),
            "allows lease_seconds: a lease lasts 301 s, was 300 s",
        ),
        (
            "silence",
            edit("180", "179"),
            "refuses max_silence_seconds: a node may be silent for 179 s, was 180 s",
        ),
    ];
    for (name, other, want) in rows {
        assert_eq!(told(&base, &other), [want], "{name}");
    }
}
