//! Our reading of `allowed_signers` and of signatures, beside OpenSSH's. Where we are stricter,
//! the row says what we say; we are never more lenient.

use bailiwick_attestation::UnixTime;
use bailiwick_policy::approvers::{Approvers, Validity};
use bailiwick_policy::ssh::SshSignature;

use crate::support::{Keys, NAMESPACE, NOW, Token, armor, dearmor};

const MESSAGE: &[u8] = b"deployment = \"demo\"\n";
const AT: &str = "20260601000000Z";

/// What both should say.
enum Want {
    /// Both accept.
    Both,
    /// Both refuse; ours says this.
    Neither(&'static str),
    /// OpenSSH accepts; ours says this.
    Stricter(&'static str),
}
use Want::{Both, Neither, Stricter};

/// Ours: does the file let `principal` sign this, and if not, why not?
fn ours(
    allowed: &str,
    principal: &str,
    namespace: &str,
    at: UnixTime,
    armored: &[u8],
    message: &[u8],
) -> Result<(), String> {
    let approvers = Approvers::parse("allowed_signers", allowed.as_bytes(), 1)
        .map_err(|err| err.to_string())?;
    let signature = SshSignature::parse(armored).map_err(|err| err.to_string())?;
    let approval = approvers
        .approve(&signature, namespace, message, Validity::At(at))
        .map_err(|err| err.to_string())?;
    if approval.principals.split(',').any(|name| name == principal) {
        return Ok(());
    }
    Err(format!("key belongs to {}", approval.principals))
}

fn compare(
    name: &str,
    keys: &Keys,
    allowed: &str,
    principal: &str,
    namespace: &str,
    armored: &[u8],
    want: &Want,
) {
    let theirs = keys.openssh_accepts(allowed, principal, namespace, AT, armored, MESSAGE);
    let ours = ours(allowed, principal, namespace, NOW, armored, MESSAGE);
    let (accepts, why) = match want {
        Both => (true, None),
        Neither(why) => (false, Some(why)),
        Stricter(why) => (true, Some(why)),
    };
    let as_said = match (&ours, why) {
        (Ok(()), None) => true,
        (Err(said), Some(why)) => said.contains(why),
        _ => false,
    };
    assert!(
        as_said && theirs == accepts,
        "{name}: OpenSSH accepts: {theirs}; ours: {ours:?}"
    );
}

#[test]
fn lines_are_read_as_openssh_reads_them() {
    let keys = Keys::new();
    let a = keys.make("a", "-t ed25519");
    let b = keys.make("b", "-t ed25519");
    let armored = keys.sign("a", NAMESPACE, MESSAGE, &[]);
    // {A} and {B} stand for `keytype base64`; A signed.
    let rows: &[(&str, &str, &str, Want)] = &[
        ("plain", "alice {A}", "alice", Both),
        (
            "with a comment",
            "alice {A} alice's laptop, 2026",
            "alice",
            Both,
        ),
        ("tabs and blanks", " \talice \t {A}", "alice", Both),
        (
            "comments and empty lines",
            "# who\n\n   # may\nalice {A}\n",
            "alice",
            Both,
        ),
        (
            "carriage returns",
            "alice {A}\r\nbob {B}\r\n",
            "alice",
            Both,
        ),
        (
            "another key",
            "alice {B}",
            "alice",
            Neither("is not among the approvers"),
        ),
        (
            "another principal",
            "bob {A}",
            "alice",
            Neither("key belongs to bob"),
        ),
        (
            "no such principal, near miss",
            "alice2 {A}",
            "alice",
            Neither("key belongs to alice2"),
        ),
        ("several principals", "bob,alice {A}", "alice", Both),
        (
            "second line has the key",
            "alice {B}\nalice {A}",
            "alice",
            Both,
        ),
        (
            "nobody",
            "# nobody\n",
            "alice",
            Neither("names 0 person(s)"),
        ),
        // namespaces
        (
            "namespace",
            "alice namespaces=\"bailiwick/demo/policy\" {A}",
            "alice",
            Both,
        ),
        (
            "other namespace",
            "alice namespaces=\"file\" {A}",
            "alice",
            Neither("may not sign for namespace"),
        ),
        (
            "namespace pattern",
            "alice namespaces=\"bailiwick/*\" {A}",
            "alice",
            Both,
        ),
        ("stars", "alice namespaces=\"*/d*o/*y\" {A}", "alice", Both),
        (
            "stars that miss",
            "alice namespaces=\"*/d*x/*y\" {A}",
            "alice",
            Neither("may not sign"),
        ),
        (
            "question mark",
            "alice namespaces=\"bailiwick/dem?/policy\" {A}",
            "alice",
            Both,
        ),
        (
            "question mark too many",
            "alice namespaces=\"bailiwick/demo?/policy\" {A}",
            "alice",
            Neither("may not sign"),
        ),
        (
            "list",
            "alice namespaces=\"file,bailiwick/demo/policy\" {A}",
            "alice",
            Both,
        ),
        (
            "negated",
            "alice namespaces=\"!bailiwick/demo/policy,*\" {A}",
            "alice",
            Neither("may not sign"),
        ),
        (
            "negated last",
            "alice namespaces=\"*,!bailiwick/demo/*\" {A}",
            "alice",
            Neither("may not sign"),
        ),
        (
            "negated another",
            "alice namespaces=\"!file,*\" {A}",
            "alice",
            Both,
        ),
        (
            "only negations",
            "alice namespaces=\"!file\" {A}",
            "alice",
            Neither("may not sign"),
        ),
        (
            "namespaces differ in case",
            "alice namespaces=\"Bailiwick/demo/policy\" {A}",
            "alice",
            Neither("may not sign"),
        ),
        (
            "option in capitals",
            "alice NAMESPACES=\"bailiwick/*\" {A}",
            "alice",
            Both,
        ),
        (
            "namespaces twice",
            "alice namespaces=\"a\",namespaces=\"bailiwick/*\" {A}",
            "alice",
            Neither("twice"),
        ),
        (
            "namespace without quotes",
            "alice namespaces=bailiwick/* {A}",
            "alice",
            Neither("in quotes"),
        ),
        (
            "first line another namespace",
            "alice namespaces=\"file\" {A}\nalice {A}",
            "alice",
            Both,
        ),
        // times; it is 2026-06-01T00:00:00Z
        (
            "valid",
            "alice valid-after=\"20260101Z\",valid-before=\"20270101Z\" {A}",
            "alice",
            Both,
        ),
        (
            "valid from this second",
            "alice valid-after=\"20260601000000Z\" {A}",
            "alice",
            Both,
        ),
        (
            "valid from the next",
            "alice valid-after=\"20260601000001Z\" {A}",
            "alice",
            Neither("is valid from"),
        ),
        (
            "valid to this second",
            "alice valid-before=\"20260601000000Z\" {A}",
            "alice",
            Both,
        ),
        (
            "valid to the last",
            "alice valid-before=\"20260531235959Z\" {A}",
            "alice",
            Neither("was valid until"),
        ),
        (
            "to the minute",
            "alice valid-before=\"202606010000Z\" {A}",
            "alice",
            Both,
        ),
        (
            "ends before it begins",
            "alice valid-after=\"20270101Z\",valid-before=\"20260101Z\" {A}",
            "alice",
            Neither("is not after"),
        ),
        (
            "thirteenth month",
            "alice valid-before=\"20261301Z\" {A}",
            "alice",
            Neither("is no time"),
        ),
        (
            "nine digits",
            "alice valid-before=\"202612011Z\" {A}",
            "alice",
            Neither("is no time"),
        ),
        (
            "with namespaces",
            "alice namespaces=\"bailiwick/*\",valid-after=\"20260101Z\" {A}",
            "alice",
            Both,
        ),
        // malformed
        ("no key", "alice", "alice", Neither("is missing")),
        (
            "unknown option",
            "alice no-touch-required {A}",
            "alice",
            Neither("neither an option nor a key type"),
        ),
        (
            "comma at the end",
            "alice namespaces=\"bailiwick/*\", {A}",
            "alice",
            Neither("neither an option"),
        ),
        (
            "key cut short",
            "alice ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==",
            "alice",
            Neither("pk at offset"),
        ),
        (
            "type and key differ",
            "alice ecdsa-sha2-nistp256 {a}",
            "alice",
            Neither("is of type ssh-ed25519"),
        ),
        // where we are stricter
        (
            "certificate authority",
            "alice cert-authority {A}\nalice {A}",
            "alice",
            Stricter("certificate authorities cannot approve"),
        ),
        (
            "certificate authority alone",
            "alice cert-authority {A}",
            "alice",
            Neither("certificate authorities cannot approve"),
        ),
        (
            "pattern principal",
            "al* {A}",
            "alice",
            Stricter("is a pattern, and nobody in particular"),
        ),
        ("everybody", "* {A}", "alice", Stricter("is a pattern")),
        (
            "negated principal",
            "!bob,alice {A}",
            "alice",
            Stricter("is a pattern"),
        ),
        (
            "quoted principal",
            "\"alice\" {A}",
            "alice",
            Stricter("holds a quote"),
        ),
        (
            "local time",
            "alice valid-before=\"20270101\" {A}",
            "alice",
            Stricter("is local time"),
        ),
        (
            "a bad line before the good one",
            "alice\nalice {A}",
            "alice",
            Stricter("is missing"),
        ),
        (
            "a bad line after the good one",
            "alice {A}\nalice nonsense {A}",
            "alice",
            Stricter("neither an option nor a key type"),
        ),
    ];
    let only_base64 = a.split(' ').nth(1).unwrap();
    for (name, lines, principal, want) in rows {
        let allowed = lines
            .replace("{A}", &a)
            .replace("{B}", &b)
            .replace("{a}", only_base64);
        compare(name, &keys, &allowed, principal, NAMESPACE, &armored, want);
    }
}

#[test]
fn every_kind_of_key_is_judged_as_openssh_judges_it() {
    let keys = Keys::new();
    let rows: &[(&str, &str, &[&str], Want)] = &[
        ("Ed25519", "-t ed25519", &[], Both),
        (
            "Ed25519, SHA-256",
            "-t ed25519",
            &["-Ohashalg=sha256"],
            Both,
        ),
        ("P-256", "-t ecdsa -b 256", &[], Both),
        ("P-384", "-t ecdsa -b 384", &[], Both),
        (
            "P-384, SHA-256",
            "-t ecdsa -b 384",
            &["-Ohashalg=sha256"],
            Both,
        ),
        (
            "P-521",
            "-t ecdsa -b 521",
            &[],
            Stricter("\"ecdsa-sha2-nistp521\" keys cannot approve"),
        ),
        ("RSA 2048", "-t rsa -b 2048", &[], Both),
        ("RSA 3072", "-t rsa -b 3072", &["-Ohashalg=sha256"], Both),
        (
            "RSA 2047",
            "-t rsa -b 2047",
            &[],
            Stricter("an RSA key of 2047 bits"),
        ),
    ];
    for (index, (name, arguments, more, want)) in rows.iter().enumerate() {
        let key = format!("k{index}");
        let line = keys.make(&key, arguments);
        let armored = keys.sign(&key, NAMESPACE, MESSAGE, more);
        compare(
            name,
            &keys,
            &format!("alice {line}"),
            "alice",
            NAMESPACE,
            &armored,
            want,
        );
    }
}

#[test]
fn hardware_keys_must_have_been_touched() {
    let keys = Keys::new();
    for (name, token) in [("Ed25519", Token::ed25519()), ("P-256", Token::p256())] {
        let allowed = format!("alice {}", token.line());
        let rows = [
            (1, Both),
            (5, Both),
            (0, Stricter("nobody touched the hardware key")),
            (4, Stricter("nobody touched the hardware key")),
        ];
        for (flags, want) in rows {
            let armored = token.sign(NAMESPACE, MESSAGE, flags);
            let name = format!("{name}, flags {flags}");
            compare(&name, &keys, &allowed, "alice", NAMESPACE, &armored, &want);
        }
        // The flags are covered: a signature without touch cannot be lifted to one with.
        let armored = token.sign(NAMESPACE, MESSAGE, 0);
        let mut blob = dearmor(&armored);
        let flags = blob.len() - 5;
        assert_eq!(blob[flags], 0);
        blob[flags] = 1;
        let want = Neither("does not verify");
        compare(
            "lifted",
            &keys,
            &allowed,
            "alice",
            NAMESPACE,
            &armor(&blob),
            &want,
        );
    }
}

#[test]
fn signatures_are_judged_as_openssh_judges_them() {
    let keys = Keys::new();
    let line = keys.make("a", "-t ed25519");
    let allowed = format!("alice {line}");
    let armored = keys.sign("a", NAMESPACE, MESSAGE, &[]);
    let blob = dearmor(&armored);
    let text = String::from_utf8(armored.clone()).unwrap();
    let flip = |at: usize, bit: u8| {
        let mut blob = blob.clone();
        blob[at] ^= bit;
        armor(&blob)
    };
    let long = [blob.as_slice(), &[0]].concat();
    let last = blob.len() - 1;
    let rows: Vec<(&str, Vec<u8>, Want)> = vec![
        ("as it came", armored.clone(), Both),
        (
            "one bit of the signature",
            flip(last, 1),
            Neither("does not verify"),
        ),
        (
            "one bit of the public key",
            flip(40, 1),
            Neither("does not verify"),
        ),
        (
            "another magic",
            flip(0, 1),
            Neither("SSHSIG.magic at offset 0: is not SSHSIG"),
        ),
        (
            "version 3",
            flip(9, 2),
            Neither("SSHSIG.version at offset 6: found 0x3, wanted 0x1"),
        ),
        (
            "version 0",
            flip(9, 1),
            Stricter("SSHSIG.version at offset 6: found 0x0, wanted 0x1"),
        ),
        (
            "one byte short",
            armor(&blob[..last]),
            Neither("SSHSIG.signature at offset"),
        ),
        (
            "one byte long",
            armor(&long),
            Neither("SSHSIG.end at offset"),
        ),
        (
            "for another namespace",
            keys.sign("a", "file", MESSAGE, &[]),
            Neither("made for namespace \"file\""),
        ),
        (
            "over another message",
            keys.sign("a", NAMESPACE, b"other", &[]),
            Neither("does not verify"),
        ),
        ("no armor", blob.clone(), Neither("is not ")),
        ("empty", Vec::new(), Neither("is not one block")),
        (
            "cut",
            text[..text.len() - 10].into(),
            Neither("is not one block"),
        ),
        (
            "two blocks",
            text.repeat(2).into(),
            Stricter("is not base64"),
        ),
        (
            "words before",
            format!("hello\n{text}").into(),
            Neither("is not one block"),
        ),
        (
            "words after",
            format!("{text}hello\n").into(),
            Stricter("is not one block"),
        ),
        (
            "no base64",
            text.replace("U1NI", "U1N!").into(),
            Neither("is not base64"),
        ),
    ];
    for (name, armored, want) in rows {
        compare(name, &keys, &allowed, "alice", NAMESPACE, &armored, &want);
    }
    let want = Neither("made for namespace");
    compare(
        "asked for another namespace",
        &keys,
        &allowed,
        "alice",
        "bailiwick/demo/world",
        &armored,
        &want,
    );
}
