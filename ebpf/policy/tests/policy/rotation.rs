//! Approvers hand on to approvers, and whoever would slip in between.

use std::collections::BTreeMap;

use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_policy::approvers::{Approvers, Chain};
use bailiwick_policy::bundle::{Bundle, PolicyRefused};
use bailiwick_policy::kind::{Kind, Role};

use crate::support::{Fleet, NOT_AFTER, NOW, demo, manifest_of};

const LATE: UnixTime = UnixTime(NOT_AFTER.0 + 1000);

/// Alice, bob and carol were there first, two needed; erin and frank come.
struct Scene {
    fleet: Fleet,
    lines: BTreeMap<&'static str, String>,
    first: Approvers,
}

impl Scene {
    fn new() -> Self {
        let fleet = Fleet::new();
        let mut lines: BTreeMap<&str, String> = ["alice", "bob", "carol"]
            .into_iter()
            .zip(fleet.allowed.lines().map(str::to_owned))
            .collect();
        for name in ["erin", "frank"] {
            let key = fleet.keys.make(name, "-t ed25519");
            lines.insert(name, format!("{name} {key}"));
        }
        let first = fleet.approvers();
        Self {
            fleet,
            lines,
            first,
        }
    }

    fn files(&self, names: &[&str], thresholds: &str) -> BTreeMap<String, Vec<u8>> {
        let signers: String = names
            .iter()
            .map(|n| format!("{}\n", self.lines[n]))
            .collect();
        [
            ("approvers.toml".to_owned(), thresholds.as_bytes().to_vec()),
            ("allowed_signers".to_owned(), signers.into_bytes()),
        ]
        .into()
    }

    fn change(
        &self,
        version: u64,
        previous: Sha256Digest,
        names: &[&str],
        thresholds: &str,
        signers: &[&str],
    ) -> Bundle {
        let files = self.files(names, thresholds);
        let text = manifest_of(Kind::Approvers, version, Some(previous), &files);
        self.fleet
            .bundle_of(Kind::Approvers, &text, &files, signers)
    }

    /// Carol goes, erin comes, two needed.
    fn honest(&self, signers: &[&str]) -> Bundle {
        let names = ["alice", "bob", "erin"];
        self.change(1, self.first.digest(), &names, "threshold = 2\n", signers)
    }

    fn take(&self, bundles: &[Bundle], now: UnixTime) -> Result<Chain, PolicyRefused> {
        Chain::new(self.first.clone()).extended(bundles, &demo(), now)
    }
}

#[test]
fn both_sets_sign_or_nothing_changes() {
    let scene = Scene::new();
    let whole_new = |signers: &[&str]| {
        let names = ["erin", "frank"];
        let digest = scene.first.digest();
        scene.change(1, digest, &names, "threshold = 2\n", signers)
    };
    let good: &[(&str, Bundle)] = &[
        ("two who stay", scene.honest(&["alice", "bob"])),
        (
            "one who stays, one who goes, one who comes",
            scene.honest(&["alice", "carol", "erin"]),
        ),
        (
            "everybody new",
            whole_new(&["alice", "bob", "erin", "frank"]),
        ),
    ];
    for (name, bundle) in good {
        let chain = scene.take(std::slice::from_ref(bundle), NOW).expect(name);
        assert_eq!(chain.in_force().version, 1, "{name}");
        assert_eq!(chain.in_force().manifest_digest, bundle.manifest_digest());
        assert_ne!(chain.current().digest(), scene.first.digest(), "{name}");
        assert!(chain.knows(&scene.first.digest()) && chain.knows(&chain.current().digest()));
    }
    let bad: &[(&str, Bundle, &str)] = &[
        ("by nobody", scene.honest(&[]), "policy-unsigned"),
        (
            "by one of the old",
            scene.honest(&["alice"]),
            "policy-under-signed",
        ),
        (
            "by the old alone",
            whole_new(&["alice", "bob", "carol"]),
            "approvers-new-under-signed",
        ),
        (
            "by one too few of the new",
            whole_new(&["alice", "bob", "erin"]),
            "approvers-new-under-signed",
        ),
        (
            "by one who goes and one who comes",
            scene.honest(&["carol", "erin"]),
            "policy-under-signed",
        ),
        (
            "by the new alone",
            whole_new(&["erin", "frank"]),
            "policy-under-signed",
        ),
    ];
    for (name, bundle, code) in bad {
        let refused = scene
            .take(std::slice::from_ref(bundle), NOW)
            .expect_err(name);
        assert_eq!(refused.code(), *code, "{name}: {refused}");
    }
}

#[test]
fn a_set_that_could_never_act_is_refused() {
    let mut scene = Scene::new();
    let bob = scene.lines["bob"].replace("bailiwick/*", "bailiwick/demo/world");
    scene.lines.insert("bob-world", bob);
    let carol = scene.lines["carol"].replace("namespaces", "valid-before=\"20260101Z\",namespaces");
    scene.lines.insert("carol-over", carol);
    let digest = scene.first.digest();
    let rows: &[(&str, &[&str], &str, &str)] = &[
        (
            "more than there are",
            &["alice", "bob"],
            "threshold = 3\n",
            "cannot be met",
        ),
        (
            "a role more than there are",
            &["alice", "bob"],
            "threshold = 2\n[role.world]\nthreshold = 3\n",
            "bailiwick/demo/world",
        ),
        (
            "two, one of whom may sign world maps alone",
            &["alice", "bob-world"],
            "threshold = 2\n",
            "for bailiwick/demo/approvers,",
        ),
        (
            "two, one of whose keys is over",
            &["alice", "carol-over"],
            "threshold = 2\n",
            "for bailiwick/demo/approvers,",
        ),
    ];
    for (name, names, thresholds, says) in rows {
        let bundle = scene.change(1, digest, names, thresholds, &["alice", "bob"]);
        let refused = scene.take(&[bundle], NOW).expect_err(name);
        assert_eq!(refused.code(), "approvers-unreachable", "{name}: {refused}");
        assert!(refused.to_string().contains(says), "{name}: {refused}");
    }
    let bundle = scene.change(
        1,
        digest,
        &["alice", "bob", "carol-over"],
        "threshold = 2\n[role.inventory]\nthreshold = 1\n",
        &["alice", "bob"],
    );
    let chain = scene.take(&[bundle], NOW).unwrap();
    assert_eq!(chain.current().threshold_of_role(Role::Inventory), 1);
    assert_eq!(chain.current().threshold_of(Kind::World), 2);
}

#[test]
fn the_chain_has_no_gap_and_no_second_line() {
    let scene = Scene::new();
    let one = scene.honest(&["alice", "bob"]);
    let next = |version, previous: &Bundle, signers: &[&str]| {
        let names = ["bob", "erin", "frank"];
        let digest = previous.manifest_digest();
        scene.change(version, digest, &names, "threshold = 2\n", signers)
    };
    let two = next(2, &one, &["alice", "bob", "erin"]);
    let three = next(3, &two, &["bob", "erin"]);
    let all = [one.clone(), two.clone(), three.clone()];
    let chain = scene.take(&all, NOW).unwrap();
    assert_eq!((chain.in_force().version, chain.changes().len()), (3, 3));
    assert_eq!(chain.sets().count(), 4);
    let again = chain.extended(&all, &demo(), NOW).unwrap();
    assert_eq!(
        again.in_force(),
        chain.in_force(),
        "what it has is passed over"
    );

    let other = scene.change(
        1,
        scene.first.digest(),
        &["alice", "bob"],
        "threshold = 2\n",
        &["alice", "bob", "erin"],
    );
    let from_nowhere = scene.change(
        1,
        Sha256Digest([7; 32]),
        &["alice", "bob"],
        "threshold = 2\n",
        &["alice", "bob"],
    );
    // Carol left with version 1.
    let by_who_left = next(2, &one, &["alice", "carol"]);
    let rows: &[(&str, &[&Bundle], &str)] = &[
        ("one left out", &[&one, &three], "approvers-gap"),
        ("the first left out", &[&two], "approvers-gap"),
        ("out of order", &[&two, &one], "approvers-gap"),
        ("a second line", &[&one, &other], "policy-version-taken"),
        (
            "the second line's next",
            &[&other, &two],
            "policy-wrong-previous",
        ),
        (
            "not from these first approvers",
            &[&from_nowhere],
            "policy-wrong-previous",
        ),
        (
            "by someone who left",
            &[&one, &by_who_left],
            "policy-under-signed",
        ),
    ];
    for (name, bundles, code) in rows {
        let bundles: Vec<Bundle> = bundles.iter().map(|b| (*b).clone()).collect();
        let refused = scene.take(&bundles, NOW).expect_err(name);
        assert_eq!(refused.code(), *code, "{name}: {refused}");
        let refused = Chain::restore(scene.first.clone(), &demo(), NOW, &bundles).expect_err(name);
        assert_eq!(refused.code(), *code, "kept, {name}: {refused}");
    }
    let back = chain.extended(&[other], &demo(), NOW).unwrap_err();
    assert_eq!(back.code(), "policy-rolled-back");
}

#[test]
fn a_machine_that_was_away_catches_up_and_only_the_newest_change_must_be_in_time() {
    let scene = Scene::new();
    let one = scene.honest(&["alice", "bob"]);
    let files = scene.files(&["alice", "bob", "frank"], "threshold = 2\n");
    let text = manifest_of(Kind::Approvers, 2, Some(one.manifest_digest()), &files);
    let text = text.replace("2027-01-01", "2028-01-01");
    let two = scene
        .fleet
        .bundle_of(Kind::Approvers, &text, &files, &["alice", "bob"]);
    let refused = scene.take(std::slice::from_ref(&one), LATE).unwrap_err();
    assert_eq!(refused.code(), "policy-expired", "nobody followed it");
    let chain = scene.take(&[one.clone(), two.clone()], LATE).unwrap();
    assert_eq!(chain.in_force().version, 2);
    let much_later = UnixTime(LATE.0 + 400 * 86_400_000);
    let refused = scene.take(&[one.clone(), two.clone()], much_later);
    assert_eq!(refused.unwrap_err().code(), "policy-expired");
    let kept = Chain::restore(scene.first.clone(), &demo(), much_later, &[one, two]).unwrap();
    assert_eq!(
        kept.in_force().version,
        2,
        "what was accepted in time stays"
    );
}

#[test]
fn keys_that_ran_out_hand_nothing_on() {
    let mut scene = Scene::new();
    // Stolen years later from drawers: keys of the first approvers that ended in 2026.
    let ended: Vec<String> = scene
        .fleet
        .allowed
        .lines()
        .map(|line| line.replace("namespaces", "valid-before=\"20261231Z\",namespaces"))
        .collect();
    scene.first = Approvers::parse("a", ended.join("\n").as_bytes(), 2).unwrap();
    let one = scene.honest(&["alice", "bob"]);
    assert!(scene.take(std::slice::from_ref(&one), NOW).is_ok());
    let files = scene.files(&["alice", "bob", "frank"], "threshold = 2\n");
    let text = manifest_of(Kind::Approvers, 2, Some(one.manifest_digest()), &files);
    let text = text.replace("2027-01-01", "2028-01-01");
    let two = scene
        .fleet
        .bundle_of(Kind::Approvers, &text, &files, &["alice", "bob"]);
    let refused = scene.take(&[one.clone(), two], LATE).unwrap_err();
    assert_eq!(refused.code(), "policy-under-signed", "{refused}");
    assert!(Chain::restore(scene.first.clone(), &demo(), LATE, &[one]).is_ok());
}
