use std::net::IpAddr;
use std::sync::Arc;

use bailiwick_ebpf_common::policy::CGROUP_SLOTS;
use bailiwick_ebpf_common::{Action, Rule as Why, Verdict, WorldImage};
use proptest::prelude::*;

use super::*;
use crate::bundle::{WorldKind, WorldSource};
use crate::explain::{Direction, Explainer, Query};
use crate::model::Files;
use crate::world::World;

const WORLD: &str = "198.51.100.0/24,DE\n2001:db8::/32,FR\n192.0.2.0/24,US\n100.0.0.0/8,EU\n";
const SITES: &str = "[[site]]\nprefix = \"10.9.0.0/16\"\njurisdiction = \"X-OWN\"\n";

/// A policy with its images.
struct Compiled {
    model: Model,
    world: Box<WorldImage>,
    policy: Box<PolicyImage>,
}

pub(super) const MANIFEST: Sha256Digest = Sha256Digest([7; 32]);

pub(super) fn model(studies: &[&str], host_fence: &str) -> Model {
    let studies: Vec<(String, &str)> = studies
        .iter()
        .enumerate()
        .map(|(n, text)| (format!("studies/{n}.toml"), *text))
        .collect();
    let studies: Vec<(&str, &[u8])> = studies
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_bytes()))
        .collect();
    Model::parse(&Files {
        studies: &studies,
        host_fence: host_fence.as_bytes(),
        sites: SITES.as_bytes(),
        inventory: b"",
        collector: b"",
        profile: b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\n\
                   tpm={bank=\"sha256\",require=[0]}\n",
        guest_profile: None,
    })
    .unwrap()
}

pub(super) fn world(model: &Model) -> World {
    let source = WorldSource {
        kind: WorldKind::Csv,
        bytes: Arc::new(WORLD.as_bytes().to_vec()),
    };
    World::compile(&source, &model.sites).unwrap()
}

fn try_policy(studies: &[&str], host_fence: &str) -> Result<Compiled, FileError> {
    let model = model(studies, host_fence);
    let world = world(&model);
    let policy = compile(&model, &world.codes, 1, &MANIFEST)?;
    Ok(Compiled {
        world: world.image(1),
        policy,
        model,
    })
}

fn policy(studies: &[&str], host_fence: &str) -> Compiled {
    try_policy(studies, host_fence).unwrap()
}

impl Compiled {
    fn verdict(&self, query: &Query<'_>) -> Verdict {
        let explainer = Explainer {
            model: &self.model,
            world: &self.world,
            policy: &self.policy,
        };
        let all = subjects(&self.model);
        let at = all.iter().position(|who| who.name() == query.subject);
        explainer.verdict(number(at.unwrap()), query)
    }
}

const CARDIO: &str = r#"name = "cardio"
mode = "enforce"
select.cgroups = ["/studies/cardio"]
[allow]
jurisdictions = ["DE", "FR", "X-OWN"]
prefixes = ["203.0.113.0/24", "2001:db8:5::/48", "203.0.113.192/26"]
services = ["ntp", "web"]
[deny]
prefixes = ["203.0.113.128/25", "198.51.100.64/26", "203.0.113.0/28"]
[peers]
addresses = ["10.9.1.0/24"]
[unattested]
jurisdictions = ["FR"]
prefixes = ["203.0.113.32/27"]
services = ["management"]
"#;

const NEURO: &str = r#"name = "neuro"
mode = "audit"
select.cgroups = ["/studies/neuro"]
allow.jurisdictions = ["US"]
peers.addresses = ["10.9.2.0/24", "2001:db8:9::/64"]
"#;

const HOST_FENCE: &str = r#"[[service]]
name = "management"
address = "10.9.0.1/32"
protocol = "tcp"
ports = "8443"
[[service]]
name = "ntp"
address = "192.0.2.0/28"
protocol = "udp"
ports = "120-123"
[[service]]
name = "web"
address = "198.51.100.64/28"
protocol = "tcp"
[[service]]
name = "ping"
address = "192.0.2.9/32"
protocol = "icmp"
[[service]]
name = "all"
address = "2001:db8:7::/48"
protocol = "any"
[[host]]
name = "sshd"
cgroups = ["/system.slice/ssh.service"]
[host.allow]
prefixes = ["10.0.0.0/8"]
services = ["ping", "all", "ntp"]
"#;

/// Subject, far end, protocol, port, lease → verdict.
type Row<'a> = (&'a str, &'a str, Protocol, u16, bool, Action, Why);

#[test]
fn the_table_of_verdicts() {
    use Action::{Allow, Audit, Deny};
    use Protocol::{Any, Icmp, Tcp, Udp};
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        ("cardio", "198.51.100.1", Tcp, 443, true, Allow, Why::Jurisdiction),
        ("cardio", "198.51.100.1", Tcp, 443, false, Deny, Why::NoLease),
        ("cardio", "2001:db8::1", Tcp, 443, true, Allow, Why::Jurisdiction),
        ("cardio", "2001:db8::1", Tcp, 443, false, Allow, Why::Jurisdiction),
        ("cardio", "192.0.2.99", Tcp, 443, true, Deny, Why::Jurisdiction),
        ("cardio", "192.0.2.99", Tcp, 443, false, Deny, Why::NoLease),
        // Unknown to the map, and codes that are no country.
        ("cardio", "9.9.9.9", Tcp, 443, true, Deny, Why::Jurisdiction),
        ("cardio", "100.1.1.1", Tcp, 443, true, Deny, Why::Jurisdiction),
        ("cardio", "127.0.0.1", Tcp, 443, true, Deny, Why::Jurisdiction),
        ("cardio", "224.0.0.1", Udp, 5353, true, Deny, Why::Jurisdiction),
        // Longest match; deny wins ties (the /25 against the /24; the /26 within it is longer).
        ("cardio", "203.0.113.127", Tcp, 80, true, Allow, Why::Prefix),
        ("cardio", "203.0.113.128", Tcp, 80, true, Deny, Why::Prefix),
        ("cardio", "203.0.113.191", Tcp, 80, true, Deny, Why::Prefix),
        ("cardio", "203.0.113.192", Tcp, 80, true, Allow, Why::Prefix),
        ("cardio", "203.0.113.255", Tcp, 80, true, Allow, Why::Prefix),
        ("cardio", "203.0.113.15", Tcp, 80, true, Deny, Why::Prefix),
        ("cardio", "203.0.113.16", Tcp, 80, true, Allow, Why::Prefix),
        ("cardio", "203.0.114.0", Tcp, 80, true, Deny, Why::Jurisdiction),
        ("cardio", "203.0.113.40", Tcp, 80, false, Allow, Why::Prefix),
        ("cardio", "203.0.113.16", Tcp, 80, false, Deny, Why::NoLease),
        ("cardio", "203.0.113.128", Tcp, 80, false, Deny, Why::Prefix),
        // Denied, though the jurisdiction is allowed; a service reaches in all the same.
        ("cardio", "198.51.100.120", Tcp, 80, true, Deny, Why::Prefix),
        ("cardio", "198.51.100.64", Tcp, 80, true, Allow, Why::Service),
        ("cardio", "198.51.100.64", Udp, 80, true, Deny, Why::Prefix),
        // Services: address, protocol, ports.
        ("cardio", "192.0.2.15", Udp, 123, true, Allow, Why::Service),
        ("cardio", "192.0.2.15", Udp, 124, true, Deny, Why::Jurisdiction),
        ("cardio", "192.0.2.15", Tcp, 123, true, Deny, Why::Jurisdiction),
        ("cardio", "192.0.2.16", Udp, 123, true, Deny, Why::Jurisdiction),
        ("cardio", "192.0.2.15", Udp, 123, false, Deny, Why::NoLease),
        ("cardio", "10.9.0.1", Tcp, 8443, false, Allow, Why::Service),
        ("cardio", "10.9.0.1", Tcp, 8444, false, Deny, Why::NoLease),
        ("cardio", "10.9.0.1", Tcp, 8443, true, Allow, Why::Service),
        // Sites, own addresses, another study's.
        ("cardio", "10.9.3.1", Tcp, 22, true, Allow, Why::Jurisdiction),
        ("cardio", "10.8.3.1", Tcp, 22, true, Deny, Why::Jurisdiction),
        ("cardio", "10.9.1.7", Tcp, 22, true, Allow, Why::Peer),
        ("cardio", "10.9.1.7", Tcp, 22, false, Deny, Why::NoLease),
        ("cardio", "10.9.2.7", Tcp, 22, true, Deny, Why::OtherStudy),
        ("cardio", "2001:db8:9::7", Tcp, 22, true, Deny, Why::OtherStudy),
        ("cardio", "2001:db8:9:1::7", Tcp, 22, true, Allow, Why::Jurisdiction),
        // The IPv4 address inside decides.
        ("cardio", "::ffff:203.0.113.127", Tcp, 80, true, Allow, Why::Prefix),
        ("cardio", "64:ff9b::10.9.2.7", Tcp, 80, true, Deny, Why::OtherStudy),
        // Audit, while there is a lease, and never against another study.
        ("neuro", "192.0.2.1", Tcp, 80, true, Allow, Why::Jurisdiction),
        ("neuro", "198.51.100.1", Tcp, 80, true, Audit, Why::Jurisdiction),
        ("neuro", "198.51.100.1", Tcp, 80, false, Deny, Why::NoLease),
        ("neuro", "10.9.1.7", Tcp, 80, true, Deny, Why::OtherStudy),
        ("neuro", "10.9.2.7", Tcp, 80, true, Allow, Why::Peer),
        // A host service does not ask for a lease, nor for whose an address is.
        ("sshd", "10.200.0.1", Tcp, 22, false, Allow, Why::Prefix),
        ("sshd", "10.9.1.7", Tcp, 22, false, Allow, Why::Prefix),
        ("sshd", "11.0.0.0", Tcp, 22, true, Deny, Why::Jurisdiction),
        ("sshd", "192.0.2.9", Icmp, 0, false, Allow, Why::Service),
        ("sshd", "192.0.2.8", Icmp, 0, true, Deny, Why::Jurisdiction),
        ("sshd", "192.0.2.9", Udp, 123, true, Allow, Why::Service),
        ("sshd", "192.0.2.9", Tcp, 1, true, Deny, Why::Jurisdiction),
        ("sshd", "2001:db8:7::1", Any, 0, true, Allow, Why::Service),
        ("sshd", "2001:db8:7::1", Icmp, 0, true, Allow, Why::Service),
        ("sshd", "2001:db8:8::1", Any, 0, true, Deny, Why::Jurisdiction),
    ];
    let policy = policy(&[NEURO, CARDIO], HOST_FENCE);
    for &(subject, to, protocol, port, attested, action, rule) in rows {
        for direction in [Direction::Egress, Direction::Ingress] {
            let got = policy.verdict(&Query {
                subject,
                address: to.parse().unwrap(),
                protocol,
                port,
                direction,
                attested,
                peer: true,
            });
            let name = format!("{subject} {to} {protocol:?} {port} {attested} {direction:?}");
            assert_eq!((got.action, got.rule), (action, rule), "{name}");
        }
    }
}

#[test]
fn the_header_says_where_it_came_from() {
    let policy = policy(&[CARDIO, NEURO], HOST_FENCE);
    let header = &policy.policy.header;
    assert_eq!((header.generation, header.subjects), (1, 3));
    assert_eq!(header.manifest_digest, MANIFEST.0);
    assert_eq!(header.own_table, policy.world.header.own_table);
    assert_eq!(header.digest, digest(&policy.policy).0);
    let names = policy.policy.subjects.iter().take(3).map(|subject| {
        let end = subject.name.iter().position(|b| *b == 0).unwrap();
        str::from_utf8(&subject.name[..end]).unwrap().to_owned()
    });
    assert_eq!(names.collect::<Vec<_>>(), ["cardio", "neuro", "sshd"]);
}

#[test]
fn codes_that_nobody_defines_are_refused_by_line() {
    let study = "name = \"a\"\nmode = \"enforce\"\nselect.cgroups = [\"/a\"]\n\
                 [allow]\njurisdictions = [\"DE\", \"X-OWN\",\n \"X-OTHER\"]\n";
    let Err(got) = try_policy(&[study], "") else {
        panic!("X-OTHER is known");
    };
    assert_eq!(
        got.to_string(),
        "studies/0.toml:6: allow.jurisdictions: \"X-OTHER\" is not a jurisdiction known here: no site and no range has it"
    );
}

#[test]
fn what_does_not_fit_is_refused_by_rule() {
    let prefixes: Vec<String> = (0..4000_u32)
        .map(|n| {
            format!(
                "\"{}/32\"",
                std::net::Ipv4Addr::from_bits(0x0a00_0000 + n * 2)
            )
        })
        .collect();
    let study = |name: &str| {
        format!(
            "name = \"{name}\"\nmode = \"enforce\"\nselect.cgroups = [\"/{name}\"]\n\
             allow.prefixes = [{}]\n",
            prefixes.join(", ")
        )
    };
    let (a, b, c) = (study("a"), study("b"), study("c"));
    let fits = policy(&[&a, &b], "");
    assert_eq!(
        fits.policy.subjects[1].rules[ATTESTED].intervals.count,
        8000
    );
    let Err(got) = try_policy(&[&a, &b, &c], "") else {
        panic!("24000 intervals fit into {INTERVALS}");
    };
    assert_eq!(
        got.to_string(),
        "studies/2.toml:1: name: with c the rules of all studies and host services take more than 16384 intervals of addresses; join neighbouring prefixes, or name a jurisdiction"
    );

    let services = |count: u32| {
        let mut text = String::new();
        for n in 0..count {
            text.push_str(&format!(
                "[[service]]\nname = \"s{n}\"\naddress = \"10.0.0.0/8\"\nprotocol = \"tcp\"\nports = \"{}\"\n",
                n + 1
            ));
        }
        let names: Vec<String> = (0..count).map(|n| format!("\"s{n}\"")).collect();
        text.push_str(&format!(
            "[[host]]\nname = \"h\"\ncgroups = [\"/h\"]\nallow.services = [{}]\n",
            names.join(", ")
        ));
        text
    };
    policy(&[], &services(SERVICES_PER_INTERVAL));
    let Err(got) = try_policy(&[], &services(SERVICES_PER_INTERVAL + 1)) else {
        panic!("17 services fit into 16");
    };
    let fault = "h names 17 services that meet at one address; there is room for 16: join their \
                 ports, or allow the prefix";
    assert_eq!((got.key.as_str(), got.fault.as_str()), ("host.name", fault));

    let hosts = |count: usize| {
        (0..count)
            .map(|n| format!("[[host]]\nname = \"h{n}\"\ncgroups = [\"/h{n}\"]\n"))
            .collect::<String>()
    };
    policy(&[CARDIO], &(HOST_FENCE.to_owned() + &hosts(SUBJECTS - 2)));
    let Err(got) = try_policy(&[CARDIO], &(HOST_FENCE.to_owned() + &hosts(SUBJECTS - 1))) else {
        panic!("513 subjects fit into 512");
    };
    assert_eq!(
        got.fault,
        "513 studies and host services; there is room for 512"
    );
}

#[test]
fn cgroups_are_found_by_the_kernels_probes() {
    let base = || policy(&[CARDIO, NEURO], HOST_FENCE).policy;
    let mut image = base();
    // Ids as cgroupfs gives them out, with gaps.
    let cgroups: Vec<(u64, u32)> = (0..1200_u32)
        .map(|n| (u64::from(n * 7 + n % 5) + 1, n % 3))
        .collect();
    set_cgroups(&mut image, &cgroups).unwrap();
    for (cgroup, subject) in &cgroups {
        assert_eq!(image.subject_at(*cgroup), Some(*subject), "{cgroup}");
    }
    assert_eq!(image.subject_at(9_999_999), None);
    assert_eq!(image.header.digest, digest(&image).0);
    let mut reversed = base();
    let back: Vec<(u64, u32)> = cgroups.iter().rev().copied().collect();
    set_cgroups(&mut reversed, &back).unwrap();
    assert!(image.bytes() == reversed.bytes());
    // Setting others forgets these.
    set_cgroups(&mut image, &[(3, 1)]).unwrap();
    assert_eq!(image.subject_at(3), Some(1));
    assert_eq!(
        image.cgroups.iter().filter(|slot| slot.cgroup != 0).count(),
        1
    );

    let limit = CGROUP_SLOTS / 2;
    let many: Vec<(u64, u32)> = (1..=limit + 1)
        .map(|n| (u64::try_from(n).unwrap(), 0))
        .collect();
    // Far apart, so that they collide as chance has it.
    let scattered: Vec<(u64, u32)> = many[..limit]
        .iter()
        .map(|(n, subject)| {
            (
                n.wrapping_mul(n.wrapping_mul(0x5851_f42d_4c95_7f2d)) | 1,
                *subject,
            )
        })
        .collect();
    type Refused<'a> = (&'a str, &'a [(u64, u32)], &'a str);
    let rows: &[Refused<'_>] = &[
        ("zero", &[(0, 1)], "cgroup 0 does not exist (subject 1)"),
        (
            "nobody",
            &[(5, 3)],
            "cgroup 5 is for subject 3, and there are 3",
        ),
        (
            "two",
            &[(5, 1), (6, 1), (5, 2)],
            "cgroup 5 is selected by subjects 1 and 2",
        ),
        (
            "many",
            &many,
            "4097 cgroups are selected; there is room for 4096",
        ),
        (
            "crowded",
            &scattered,
            "4096 cgroups do not spread over the table; select parents instead of children",
        ),
    ];
    for (name, cgroups, want) in rows {
        let before = image.header.digest;
        let got = set_cgroups(&mut image, cgroups).unwrap_err();
        assert_eq!(got.to_string(), *want, "{name}");
        assert_eq!(
            (image.subject_at(3), image.header.digest),
            (Some(1), before),
            "{name}"
        );
    }
    set_cgroups(&mut image, &[(5, 1), (5, 1)]).unwrap();
}

/// A prefix near others, of either family.
fn prefix() -> impl Strategy<Value = String> {
    let length = |max: u8| prop_oneof![Just(0), Just(max), max - 6..=max, 0..=max];
    let four = (0..8_u32, length(32)).prop_map(|(low, length)| {
        let bits = 0xc633_6400 + low;
        let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
        format!("{}/{length}", std::net::Ipv4Addr::from_bits(bits & mask))
    });
    let six = (0..8_u128, length(128)).prop_map(|(low, length)| {
        let bits = (0x2a00_u128 << 112) + low;
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        format!("{}/{length}", std::net::Ipv6Addr::from_bits(bits & mask))
    });
    prop_oneof![four, six]
}

fn list(texts: &[String]) -> String {
    let mut texts = texts.to_vec();
    texts.sort();
    texts.dedup();
    let quoted: Vec<String> = texts.iter().map(|text| format!("\"{text}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// What the README's table says, asked of the model line by line.
fn naive(model: &Model, who: &Who<'_>, at: IpAddr, port: u16, attested: bool) -> (Action, Why) {
    let longest = |rules: &mut dyn Iterator<Item = &Rule<IpNet>>| {
        let lengths = rules
            .filter(|rule| rule.value.contains(&at))
            .map(|rule| rule.value.prefix_len());
        lengths.max()
    };
    let grants = who.grants(attested);
    let allow = longest(&mut grants.iter().flat_map(|grant| &grant.prefixes));
    let deny = longest(&mut who.deny().iter());
    if allow > deny {
        return (Action::Allow, Why::Prefix);
    }
    let mut services = grants.iter().flat_map(|grant| &grant.services);
    if services.any(|rule| {
        let service = &model.services[&rule.value];
        service.address.contains(&at) && service.ports.as_ref().unwrap().contains(&port)
    }) {
        return (Action::Allow, Why::Service);
    }
    match deny {
        Some(_) => (Action::Deny, Why::Prefix),
        None if attested => (Action::Deny, Why::Jurisdiction),
        None => (Action::Deny, Why::NoLease),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The image answers as the model would, read line by line.
    #[test]
    fn intervals_answer_as_the_lines_do(
        allow in proptest::collection::vec(prefix(), 0..6),
        deny in proptest::collection::vec(prefix(), 0..6),
        unattested in proptest::collection::vec(prefix(), 0..3),
        services in proptest::collection::vec((prefix(), 1..4_u16), 0..4),
    ) {
        let mut host_fence = String::new();
        for (n, (address, port)) in services.iter().enumerate() {
            host_fence.push_str(&format!(
                "[[service]]\nname = \"s{n}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\nports = \"{port}\"\n"
            ));
        }
        let names: Vec<String> = (0..services.len()).map(|n| format!("s{n}")).collect();
        let study = format!(
            "name = \"a\"\nmode = \"enforce\"\nselect.cgroups = [\"/a\"]\n\
             allow.prefixes = {}\nallow.services = {}\ndeny.prefixes = {}\nunattested.prefixes = {}\n\
             devices.raw_sockets = true\n",
            list(&allow), list(&names), list(&deny), list(&unattested),
        );
        let policy = policy(&[&study], &host_fence);
        let who = subjects(&policy.model)[0];
        let near = (0..10_u32).map(|n| IpAddr::from(std::net::Ipv4Addr::from_bits(0xc633_63ff + n)));
        let six = (0..10_u128).map(|n| {
            IpAddr::from(std::net::Ipv6Addr::from_bits((0x2a00_u128 << 112) - 1 + n))
        });
        let far = ["0.0.0.0", "255.255.255.255", "::2", "ffff::", "fe::1"].map(|at| at.parse().unwrap());
        for address in near.chain(six).chain(far) {
            for (port, attested) in [(1, true), (2, false), (3, true)] {
                let query = Query {
                    subject: "a", address, protocol: Protocol::Tcp, port, attested, peer: true,
                    direction: Direction::Egress,
                };
                let got = policy.verdict(&query);
                let want = naive(&policy.model, &who, address, port, attested);
                prop_assert_eq!((got.action, got.rule), want, "{} {} {}", address, port, attested);
            }
        }
    }
}

#[test]
fn a_study_says_whether_its_own_addresses_are_declared_or_attested() {
    let signed_for = CARDIO.replace("[peers]\n", "[peers]\nattested = true\n");
    let policy = policy(&[&signed_for, NEURO], HOST_FENCE);
    let peers = policy.policy.subjects.iter().take(3);
    let found: Vec<u8> = peers.map(|subject| subject.peers).collect();
    // In the order of their names; a host service has no own addresses.
    let want = [peering::ATTESTED, peering::DECLARED, peering::DECLARED];
    assert_eq!(found, want);
    let query = |peer| Query {
        subject: "cardio",
        address: "10.9.1.7".parse().unwrap(),
        protocol: Protocol::Tcp,
        port: 22,
        direction: Direction::Egress,
        attested: true,
        peer,
    };
    let lost = policy.verdict(&query(false));
    assert_eq!((lost.action, lost.rule), (Action::Deny, Why::PeerLost));
    let stands = policy.verdict(&query(true));
    assert_eq!((stands.action, stands.rule), (Action::Allow, Why::Peer));
}

#[test]
fn break_glass_is_written_for_the_studies_named_and_for_none_else() {
    let mut compiled = policy(&[CARDIO, NEURO], HOST_FENCE);
    let image = &mut compiled.policy;
    let before = image.header.digest;
    set_break_glass(image, &[(1, 77), (900, 5)]);
    let ends: Vec<u64> = image
        .subjects
        .iter()
        .map(|subject| subject.break_glass_boot_ns)
        .take(3)
        .collect();
    // Subject 2 is a host service, which asks for no lease.
    assert_eq!(ends, [0, 77, 0]);
    assert_ne!(image.header.digest, before);
    assert_eq!(image.header.digest, digest(image).0);
    set_break_glass(image, &[(2, 77)]);
    assert_eq!(
        image.header.digest, before,
        "none but a study's, and the last are gone"
    );
}
