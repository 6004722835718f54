//! A profile for the time of an update, held against nodes of both sides of it.

use super::booted::Booted;
use super::*;
use crate::profile::{Seen, draft, merge};

const DAY: u64 = 86_400_000;

/// A node, and the profile drafted from it.
fn of(change: impl FnOnce(&mut Booted)) -> (VerifiedEvidence, String) {
    let mut node = Booted::new();
    change(&mut node);
    node.result();
    let evidence = node.case.verify().unwrap();
    let terms = Profile::parse("p", node.case.profile.as_bytes()).unwrap();
    let seen = Seen {
        node: "gpu-01".to_owned(),
        at: NOW,
        shown: shown(&evidence, TpmKind::Chip, &terms),
    };
    (evidence, draft("drafted", &terms, &[seen]).to_toml())
}

#[test]
fn old_and_new_are_good_until_the_date_and_new_alone_after_it() {
    let (before, old) = of(|_| {});
    // Another kernel, and another tool that runs on it.
    let (after, new) = of(|node| {
        for event in node.events.iter_mut().filter(|event| event.2 == b"initrd") {
            event.2 = b"another".to_vec();
        }
        let mut register = [0; 32];
        for event in node.events.iter().filter(|event| event.0 == 9) {
            let digest = crate::crypto::HashAlgorithm::Sha256.digest(&[&event.2]);
            super::booted::extend(&mut register, digest.unwrap().as_slice());
        }
        node.case.tpm.pcrs[9] = register;
        node.entries = super::booted::entries(&node.case.tpm.pcrs);
        node.entries
            .push((super::booted::entry("/usr/bin/tool", 7), false));
        node.case.tpm.pcrs[10] = super::booted::ima_pcr(&node.entries);
    });
    let until = UnixTime(NOW.millis() + DAY);
    let merged = merge(("old", old.as_bytes()), ("new", new.as_bytes()), until).unwrap();
    assert_eq!(merged.at_once, []);
    let parse = |text: &str| Profile::parse("p", text.as_bytes()).unwrap();
    let (old, new, both) = (parse(&old), parse(&new), parse(&merged.text));
    let status = |evidence: &VerifiedEvidence, profile: &Profile, at: UnixTime| {
        held_against(evidence, TpmKind::Chip, profile, at).status
    };
    let (good, bad) = (Status::Affirming, Status::Contraindicated);
    assert_eq!(
        (status(&before, &old, NOW), status(&after, &old, NOW)),
        (good, bad)
    );
    assert_eq!(
        (status(&before, &new, NOW), status(&after, &new, NOW)),
        (bad, good)
    );
    let later = UnixTime(until.millis() + 1000);
    for (name, at, want) in [("now", NOW, (good, good)), ("later", later, (bad, good))] {
        let found = (status(&before, &both, at), status(&after, &both, at));
        assert_eq!(found, want, "{name}");
    }
    // What neither knows stays refused.
    let (other, _) = of(|node| node.measured_late("/usr/bin/rootkit", 9));
    assert_eq!(status(&other, &both, NOW), bad);
}

impl Booted {
    fn measured_late(&mut self, name: &str, content: u8) {
        self.entries
            .push((super::booted::entry(name, content), false));
        self.case.tpm.pcrs[10] = super::booted::ima_pcr(&self.entries);
    }
}
