//! What another policy would have said to what was recorded.
//!
//! Every far end goes through [`Explainer`], the verdict function of the kernel; what is known by
//! jurisdiction alone is held against the bitmap that function reads, and where that does not
//! answer the plan says so instead of guessing.

mod guests;

use std::net::IpAddr;

use bailiwick_ebpf_common::Action;
use bailiwick_ebpf_common::policy::ATTESTED;

use crate::explain::{Direction, Explainer, Query};
use crate::image::{Who, subjects};
use crate::model::Protocol;
use crate::world::Codes;

pub use guests::guests;

/// Something that was denied, or passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Recorded<'a> {
    /// Whose it was.
    pub study: &'a str,
    /// The far end; `None` where only its jurisdiction is known.
    pub address: Option<IpAddr>,
    /// Layer 4 protocol number.
    pub protocol: u8,
    /// Port of the far end.
    pub port: u16,
    /// Which way it went.
    pub direction: Direction,
    /// Where the far end lay, by the map of then.
    pub jurisdiction: &'a str,
    /// It passed, in audit mode or because it might.
    pub passed: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// It passed, and would be denied.
    Denied,
    /// It was denied, and would pass.
    Allowed,
    /// It passes as before.
    StillAllowed,
    /// It is denied as before.
    StillDenied,
    /// What was recorded does not decide it.
    Unknown,
}

impl Change {
    /// As listings spell it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Denied => "now-denied",
            Self::Allowed => "now-allowed",
            Self::StillAllowed => "still-allowed",
            Self::StillDenied => "still-denied",
            Self::Unknown => "unknown",
        }
    }

    const fn of(passed: bool, passes: bool) -> Self {
        match (passed, passes) {
            (true, false) => Self::Denied,
            (false, true) => Self::Allowed,
            (true, true) => Self::StillAllowed,
            (false, false) => Self::StillDenied,
        }
    }
}

/// What becomes of it, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Planned {
    /// What becomes of it.
    pub change: Change,
    /// The rule that decides, as events name it; empty where nothing does.
    pub rule: &'static str,
    /// In a sentence.
    pub because: String,
    /// It passes only because the study is in audit mode.
    pub audited: bool,
}

/// Asks the policy about one thing that was recorded, as on a node with a lease whose peers stand.
#[must_use]
pub fn plan(explainer: &Explainer<'_>, recorded: &Recorded<'_>) -> Planned {
    let all = subjects(explainer.model);
    let mut studies = all.iter().zip(0_usize..);
    let study =
        studies.find(|(who, _)| matches!(who, Who::Study(_)) && who.name() == recorded.study);
    let Some((_, number)) = study else {
        return Planned {
            change: Change::of(recorded.passed, false),
            rule: "no-subject",
            because: format!("the policy has no study {:?}", recorded.study),
            audited: false,
        };
    };
    match recorded.address {
        Some(address) => by_address(explainer, recorded, address),
        None => by_place(explainer, recorded, number),
    }
}

fn by_address(explainer: &Explainer<'_>, recorded: &Recorded<'_>, address: IpAddr) -> Planned {
    let query = Query {
        subject: recorded.study,
        address,
        protocol: match recorded.protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            1 | 58 => Protocol::Icmp,
            _ => Protocol::Any,
        },
        port: recorded.port,
        direction: recorded.direction,
        attested: true,
        peer: true,
    };
    match explainer.explain(&query) {
        Ok(answer) => Planned {
            change: Change::of(recorded.passed, answer.action != Action::Deny),
            rule: answer.rule,
            audited: answer.action == Action::Audit,
            because: match answer.place {
                Some(place) => format!("{} ({place})", answer.because),
                None => answer.because,
            },
        },
        Err(unknown) => Planned {
            change: Change::Unknown,
            rule: "",
            because: unknown.to_string(),
            audited: false,
        },
    }
}

/// The bitmap may allow all that lies there; what it does not, a prefix or a service still may.
fn by_place(explainer: &Explainer<'_>, recorded: &Recorded<'_>, study: usize) -> Planned {
    let code = recorded.jurisdiction;
    let rules = explainer.policy.subjects.get(study);
    let rules = rules.and_then(|subject| subject.rules.get(ATTESTED));
    let codes = Codes::of(&explainer.world.header);
    let number = codes.number(code);
    let allowed = rules
        .zip(number)
        .is_some_and(|(rules, number)| rules.allows(number.0));
    let denies = explainer
        .model
        .studies
        .get(study)
        .is_some_and(|study| !study.deny.is_empty());
    if allowed && !denies {
        return Planned {
            change: Change::of(recorded.passed, true),
            rule: "jurisdiction",
            because: format!("{code} is allowed, and no prefix of the study is denied"),
            audited: false,
        };
    }
    Planned {
        change: Change::Unknown,
        rule: "",
        because: if allowed {
            format!("{code} is allowed, but for prefixes; addresses were not recorded")
        } else {
            format!(
                "{code} is not allowed as a jurisdiction; a prefix, a service or a peer may be, \
                 and addresses were not recorded"
            )
        },
        audited: false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::bundle::{Draft, WorldKind, WorldSource};

    use super::*;

    const CARDIO: &str = "name = \"cardio\"\nmode = \"enforce\"\n\
        select.cgroups = [\"/studies/cardio\"]\n[allow]\njurisdictions = [\"DE\"]\n\
        prefixes = [\"203.0.113.0/24\"]\nservices = [\"ntp\", \"web\", \"ping\"]\n\
        [deny]\nprefixes = [\"198.51.100.128/25\"]\n";
    const NEURO: &str = "name = \"neuro\"\nmode = \"audit\"\n\
        select.cgroups = [\"/studies/neuro\"]\nallow.jurisdictions = [\"DE\"]\n";
    const HOST: &str = "[[service]]\nname = \"ntp\"\naddress = \"192.0.2.3/32\"\n\
        protocol = \"udp\"\nports = \"123\"\n\
        [[service]]\nname = \"web\"\naddress = \"192.0.2.4/32\"\n\
        protocol = \"tcp\"\nports = \"443\"\n\
        [[service]]\nname = \"ping\"\naddress = \"192.0.2.5/32\"\nprotocol = \"icmp\"\n";

    fn draft() -> Draft {
        let file = |path: &str, text: &str| (path.to_owned(), text.as_bytes().to_vec());
        let profile = "name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\n\
                       tpm={bank=\"sha256\",require=[0]}\n";
        let world = WorldSource {
            kind: WorldKind::Csv,
            bytes: Arc::new(b"198.51.100.0/24,DE\n192.0.2.0/24,US\n".to_vec()),
        };
        let files = [
            file("studies/cardio.toml", CARDIO),
            file("studies/neuro.toml", NEURO),
            file("host-fence.toml", HOST),
            file("sites.toml", ""),
            file("inventory.toml", ""),
            file("collector.toml", ""),
            file("profile.toml", profile),
        ];
        Draft::read(files, Some(&world)).unwrap()
    }

    fn recorded(address: &str, passed: bool) -> Recorded<'_> {
        Recorded {
            study: "cardio",
            address: Some(address.parse().unwrap()),
            protocol: 6,
            port: 443,
            direction: Direction::Egress,
            jurisdiction: "DE",
            passed,
        }
    }

    #[test]
    fn what_was_recorded_goes_through_the_verdict_function() {
        let draft = draft();
        let world = draft.world_image();
        let explainer = draft.explainer(&world);
        let de = recorded("198.51.100.7", true);
        let us = recorded("192.0.2.7", true);
        let ntp = Recorded {
            protocol: 17,
            port: 123,
            ..recorded("192.0.2.3", true)
        };
        let rows: &[(&str, Recorded<'_>, &str, &str)] = &[
            ("as before", de, "still-allowed", "jurisdiction"),
            (
                "a place that is open now",
                Recorded {
                    passed: false,
                    ..de
                },
                "now-allowed",
                "jurisdiction",
            ),
            (
                "a place that is closed now",
                us,
                "now-denied",
                "jurisdiction",
            ),
            (
                "closed before, too",
                Recorded {
                    passed: false,
                    ..us
                },
                "still-denied",
                "jurisdiction",
            ),
            (
                "a prefix",
                recorded("203.0.113.9", true),
                "still-allowed",
                "prefix",
            ),
            (
                "a denied prefix",
                recorded("198.51.100.200", true),
                "now-denied",
                "prefix",
            ),
            ("a service", ntp, "still-allowed", "service"),
            (
                "a service by TCP",
                recorded("192.0.2.4", true),
                "still-allowed",
                "service",
            ),
            (
                "a service by ICMP",
                Recorded {
                    protocol: 1,
                    port: 0,
                    ..recorded("192.0.2.5", true)
                },
                "still-allowed",
                "service",
            ),
            (
                "the service's port",
                Recorded { port: 124, ..ntp },
                "now-denied",
                "jurisdiction",
            ),
            (
                "the service's protocol",
                Recorded { protocol: 6, ..ntp },
                "now-denied",
                "jurisdiction",
            ),
            (
                "an unknown protocol",
                Recorded {
                    protocol: 132,
                    ..de
                },
                "still-allowed",
                "jurisdiction",
            ),
            (
                "a study that is gone",
                Recorded {
                    study: "oncology",
                    ..de
                },
                "now-denied",
                "no-subject",
            ),
            (
                "no study's",
                Recorded {
                    study: "",
                    passed: false,
                    ..de
                },
                "still-denied",
                "no-subject",
            ),
        ];
        for (name, recorded, change, rule) in rows {
            let planned = plan(&explainer, recorded);
            assert_eq!(
                (planned.change.word(), planned.rule),
                (*change, *rule),
                "{name}"
            );
            assert!(!planned.audited, "{name}");
        }
        let audited = plan(
            &explainer,
            &Recorded {
                study: "neuro",
                ..us
            },
        );
        assert_eq!(
            (audited.change, audited.audited),
            (Change::StillAllowed, true)
        );
        let line = plan(&explainer, &de).because;
        assert!(line.contains("studies/cardio.toml:5"), "{line}");
    }

    #[test]
    fn what_is_known_by_place_alone_is_not_guessed() {
        let draft = draft();
        let world = draft.world_image();
        let explainer = draft.explainer(&world);
        let counted = |study, jurisdiction| Recorded {
            study,
            address: None,
            protocol: 0,
            port: 0,
            direction: Direction::Egress,
            jurisdiction,
            passed: true,
        };
        let rows = [
            (
                "allowed, nothing denied",
                counted("neuro", "DE"),
                "still-allowed",
            ),
            (
                "allowed but for a prefix",
                counted("cardio", "DE"),
                "unknown",
            ),
            ("not allowed", counted("neuro", "US"), "unknown"),
            ("no code", counted("neuro", "nowhere"), "unknown"),
            (
                "a word for what is no country",
                counted("neuro", "unknown"),
                "unknown",
            ),
            ("not told apart", counted("neuro", ""), "unknown"),
            (
                "a study that is gone",
                counted("oncology", "DE"),
                "now-denied",
            ),
        ];
        for (name, recorded, change) in rows {
            assert_eq!(plan(&explainer, &recorded).change.word(), change, "{name}");
        }
    }
}
