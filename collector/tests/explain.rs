//! `bailiwick policy explain` on the example policy: no collector, no network, no signature.

use std::process::{Command, Output};

fn explain(arguments: &[&str]) -> Output {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/policy");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bailiwick"));
    command.args(["policy", "explain", "--folder", folder]);
    command
        .args(arguments)
        .output()
        .expect("the client of this build runs")
}

#[test]
fn an_answer_names_its_line() {
    let rows: &[(&str, &[&str], &str)] = &[
        (
            "allowed by a site",
            &["--study", "cardio", "--to", "198.51.100.7"],
            "allowed (jurisdiction): 198.51.100.7 lies in DE, which is allowed\n  \
             decided by studies/cardio.toml:9: allow.jurisdictions\n",
        ),
        (
            "denied without a lease",
            &["--study", "cardio", "--to", "203.0.113.200", "--unattested"],
            "denied (prefix): 203.0.113.200 is in 203.0.113.128/25, which is denied\n  \
             decided by studies/cardio.toml:15: deny.prefixes\n  \
             to change it: allow a longer prefix in studies/cardio.toml, such as 203.0.113.200/32\n",
        ),
        (
            "another study's, on the way in",
            &["--study", "cardio", "--to", "2001:db8:9:2::1", "--ingress"],
            "denied (other-study): 2001:db8:9:2::1 is in 2001:db8:9:2::/64, of study neuro\n  \
             decided by studies/neuro.toml:12: peers.addresses\n  \
             to change it: an address is one study's or nobody's, and studies do not reach each \
             other; take it out of that study's peers.addresses\n",
        ),
    ];
    for (name, arguments, want) in rows {
        let output = explain(arguments);
        assert_eq!(String::from_utf8_lossy(&output.stdout), *want, "{name}");
        assert_eq!(output.status.code(), Some(0), "{name}");
    }
}

#[test]
fn scripts_get_the_same_as_json() {
    let output = explain(&[
        "--study",
        "cardio",
        "--to",
        "192.0.2.200",
        "--output",
        "json",
    ]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (member, want) in [
        ("/verdict", "allowed"),
        ("/rule", "jurisdiction"),
        ("/jurisdiction", "FR"),
        ("/place/file", "studies/cardio.toml"),
        ("/place/key", "allow.jurisdictions"),
    ] {
        assert_eq!(answer.pointer(member).unwrap(), want, "{member}");
    }
}

#[test]
fn a_question_that_cannot_be_asked_is_no_answer() {
    let output = explain(&["--study", "oncology", "--to", "192.0.2.1"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("\"oncology\" is no study"), "{said}");
    let output = explain(&["--study", "cardio", "--to", "example.org"]);
    assert_eq!(output.status.code(), Some(1));
}
