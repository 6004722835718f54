//! Logs of a guest: they replay to nobody's register, so they are the node's word and no more.

use super::super::booted::Booted;
use super::*;
use crate::{
    crypto::HashAlgorithm,
    profile::{Provenance, Seen, Value, draft},
};

/// The logs of a node that booted in order, of a guest whose profile says this of them.
fn logging(profile: &str) -> Guest {
    let mut booted = Booted::new();
    booted.result();
    let mut guest = Guest::ordinary();
    guest.case.logs = booted.case.logs;
    guest.case.profile.push_str(profile);
    guest
}

fn required(claim: &str, rest: &str, minimum: &str) -> String {
    format!("[[require]]\nclaim = \"{claim}\"\n{rest}\nprovenance = \"{minimum}\"\n")
}

#[test]
fn what_the_logs_of_a_guest_show_is_its_own_word() {
    use Status::{Affirming, Contraindicated, None as Undecided};
    let secure = |minimum| required("boot.secure_boot", "is = true", minimum);
    let kernels = |minimum| required("ima.kernels", "at_least = 1", minimum);
    type Row<'a> = (&'a str, String, Status, &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("nobody asks", String::new(), Affirming, &[]),
        ("boot, as its word", secure("self-reported"), Affirming, &[]),
        (
            "a list, as its word",
            kernels("self-reported"),
            Affirming,
            &[],
        ),
        (
            "boot, measured",
            secure("measured"),
            Contraindicated,
            &["claim-provenance"],
        ),
        (
            "a list, measured",
            kernels("measured"),
            Contraindicated,
            &["claim-provenance"],
        ),
        (
            "boot, as good as a provider's word",
            secure("provider-signed"),
            Contraindicated,
            &["claim-provenance"],
        ),
        (
            "other than it says itself",
            required("boot.secure_boot", "is = false", "self-reported"),
            Contraindicated,
            &["claim-value"],
        ),
        (
            "an aggregate of registers there are none of",
            required("ima.boot_aggregate", "is = true", "self-reported"),
            Contraindicated,
            &["claim-missing"],
        ),
        (
            "a boot log that replays",
            "[boot]\n".to_owned(),
            Undecided,
            &["registers-unsigned"],
        ),
        (
            "a list that replays",
            "[ima]\n".to_owned(),
            Undecided,
            &["registers-unsigned"],
        ),
        (
            "a fence's log that replays",
            "[fence]\npcr = 12\n".to_owned(),
            Undecided,
            &["registers-unsigned"],
        ),
    ];
    for (name, profile, status, want) in rows {
        let result = logging(profile).appraise();
        let found = (result.status, codes(&result));
        assert_eq!(found, (*status, want.to_vec()), "{name}");
    }
    let result = logging("[boot]\n[ima]\n").appraise();
    let all = result.submods.values().flat_map(|submod| &submod.claims);
    let logs = all.filter(|(name, _)| name.starts_with("boot.") || name.starts_with("ima."));
    let by: Vec<Provenance> = logs.map(|(_, claim)| claim.provenance).collect();
    assert!(by.len() > 10, "{by:?}");
    assert!(by.iter().all(|by| *by == Provenance::SelfReported));
}

/// What holds before root can lie has to be measured, and here nothing is.
#[test]
fn the_strict_part_is_not_met_by_a_guests_word() {
    let kernel = HashAlgorithm::Sha256.digest(&[b"kernel"]).unwrap();
    let strict = format!(
        "{}[strict]\nset = \"root-cannot-lie-1\"\nagent = [\"{}\"]\n",
        required(
            "boot.applications",
            &format!("is = \"{kernel}\""),
            "self-reported"
        ),
        "02".repeat(32),
    );
    let result = logging(&strict).appraise();
    assert_eq!(result.status, Status::Contraindicated);
    let refused: Vec<_> = {
        let all = result
            .deviations()
            .filter(|it| it.code == "strict-secure-boot");
        all.map(|it| it.found.as_str()).collect()
    };
    assert_eq!(refused, ["true, self-reported"]);
    let word = &result.submods["fence"].claims["fence.word"];
    assert_eq!(word.value, Value::Text("root".to_owned()));
    assert_eq!(word.provenance, Provenance::SelfReported);
}

/// What a log says against its node is believed of it all the same.
#[test]
fn what_was_taken_back_is_refused_in_a_guests_logs_too() {
    // Of a separator no claim is made: it stands in the log alone.
    for (what, claim) in [
        (&b"shim"[..], "boot.applications"),
        (&[0; 4], "boot.log.pcr.0"),
    ] {
        let digest = HashAlgorithm::Sha256.digest(&[what]).unwrap();
        let revoked = format!("[[revoked]]\ndigest = \"{digest}\"\nreason = \"CVE-1\"\n");
        let result = logging(&revoked).appraise();
        assert_eq!(codes(&result), ["revoked"]);
        let told = result.deviations().next().unwrap();
        assert_eq!(told.claim, claim);
        assert_eq!(told.provenance, Some(Provenance::SelfReported), "{claim}");
    }
}

/// Kept and put together again they show what they showed when they came.
#[test]
fn logs_that_were_kept_say_what_they_said() {
    let asks = format!(
        "{}{}",
        required("boot.secure_boot", "is = true", "self-reported"),
        required("ima.kernels", "at_least = 1", "self-reported"),
    );
    let mut guest = logging(&asks);
    let profile = Profile::parse("profile.toml", guest.case.profile.as_bytes()).unwrap();
    let mut first = guest.verify().unwrap();
    assert!(first.read_logs(&profile, NOW, None));
    let read = first.logs_read().unwrap();
    for (name, claim) in read.boot.claims.iter().chain(&read.ima.claims) {
        assert_eq!(claim.provenance, Provenance::SelfReported, "{name}");
    }
    assert_eq!(codes(&guest.appraise_verified(&first)), [""; 0]);
    let named = |log: &v1::Log| v1::LogDigest {
        name: log.name.clone(),
        sha256: Sha256Digest::of(&[&log.content]).0.to_vec(),
        bytes: 0,
    };
    guest.next();
    let kept = std::mem::take(&mut guest.case.logs);
    guest.case.statement.logs = kept.iter().map(named).collect();
    let mut second = guest.verify().unwrap();
    // A list that meets no register cannot be read on.
    assert!(!second.read_logs(&profile, NOW, Some(&read)));
    second.keep_all(&kept);
    assert!(second.read_logs(&profile, NOW, None));
    assert_eq!(codes(&guest.appraise_verified(&second)), [""; 0]);
}

/// What is drafted from a guest is what it can meet: its processor asked, and no register.
#[test]
fn a_profile_drafted_from_a_guest_asks_its_processor() {
    let mut guest = logging("");
    let verified = guest.verify().unwrap();
    let profile = Profile::parse("p", guest.case.profile.as_bytes()).unwrap();
    let seen = Seen {
        node: "gpu-01".to_owned(),
        at: NOW,
        shown: shown(&verified, TpmKind::Virtual, &profile),
    };
    let text = draft("r17", &profile, &[seen]).to_toml();
    let drafted = Profile::parse("r17", text.as_bytes()).unwrap();
    assert!(drafted.tpm.require.is_empty() && drafted.cvm.is_some());
    assert!(drafted.boot.is_none() && drafted.ima.is_none() && drafted.fence.is_none());
    guest.case.profile = text.replace("[cvm]\n", "[cvm]\nrevocation = false\n");
    let result = guest.appraise();
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
}
