//! The rows of the README's "Row by row", as packets and states; what has to come out stands in the
//! README alone.

use bailiwick_ebpf_common::{Action, Line, Loopback, Rule};

use crate::host::State;
use crate::packet::{Packet, icmp, other, tcp, udp};

/// Whose a row's packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum From {
    /// A study or host service of this name.
    Named(&'static str),
    /// A cgroup that no policy names.
    Nobody,
    /// Forwarded, without a mark.
    Unmarked,
    /// The host's kernel.
    Kernel,
}

/// One row: a packet, and the state it meets.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) packet: Packet,
    pub(crate) state: State,
}

/// The world map of the table's policy.
pub(crate) const WORLD: &str = "192.0.2.0/24,DE\n198.51.100.0/24,US\n203.0.113.0/24,FR\n\
                                2001:db8:1::/48,DE\n2001:db8:2::/48,US\n";

/// The site wins over the map: a part of `US` is the operator's own.
pub(crate) const SITES: &str = "[[site]]\nprefix = \"198.51.100.128/25\"\njurisdiction = \"X-LAB\"\n\
                                [[site]]\nprefix = \"10.0.0.0/8\"\njurisdiction = \"X-OWN\"\n";

/// Address of `neuro` that a node in standing has signed for; of its others none has.
pub(crate) const SIGNED_FOR: &str = "10.9.2.9";

const HOST_FENCE: &str = r#"
essentials = ["neighbour-discovery", "dhcp", "icmp-errors"]
ethertypes = ["0x88cc"]
translated = ["10.96.0.0/12"]

[management]
addresses = ["10.250.0.0/24"]

[[service]]
name = "web"
address = "203.0.113.0/26"
protocol = "tcp"
ports = "443-444"
[[service]]
name = "api"
address = "10.8.1.9/32"
protocol = "tcp"
ports = "8443"
[[service]]
name = "dns"
address = "203.0.113.53/32"
protocol = "udp"
ports = "53"
[[service]]
name = "echo"
address = "203.0.113.9/32"
protocol = "icmp"
[[service]]
name = "all"
address = "203.0.113.10/32"
protocol = "any"
[[service]]
name = "stub"
address = "127.0.0.53/32"
protocol = "udp"
ports = "53"

[[host]]
name = "sshd"
cgroups = ["ROOT/sshd"]
allow.prefixes = ["10.0.0.0/8"]
[[host]]
name = "bmc"
cgroups = ["ROOT/bmc"]
management = true
allow.prefixes = ["10.250.0.0/25"]

[[kernel]]
name = "nfs-cardio"
address = "10.8.7.1/32"
protocol = "tcp"
ports = "2049"
study = "cardio"
[[kernel]]
name = "nfs-elsewhere"
address = "203.0.113.77/32"
protocol = "tcp"
ports = "2049"
study = "cardio"
[[kernel]]
name = "wireguard"
address = "203.0.113.99/32"
protocol = "udp"
ports = "51820"
"#;

const CARDIO: &str = r#"
[allow]
jurisdictions = ["DE", "X-LAB", "X-OWN"]
prefixes = ["10.8.0.0/16", "10.8.1.128/25", "10.8.2.0/24", "239.1.1.1/32"]
services = ["web", "api", "dns", "echo", "all", "stub"]
[deny]
prefixes = ["10.8.1.0/24", "10.8.2.0/24", "192.0.2.128/25"]
[peers]
addresses = ["10.9.1.0/24"]
[unattested]
services = ["web"]
"#;

const NEURO: &str = r#"
[allow]
jurisdictions = ["DE"]
[peers]
addresses = ["10.9.2.0/24"]
attested = true
"#;

const TRIAL: &str = r#"
[allow]
jurisdictions = ["DE", "X-OWN"]
[peers]
addresses = ["10.9.3.0/24"]
"#;

/// The policy's files but for the world, with cgroups below `root`.
pub(crate) fn files(root: &str) -> Vec<(&'static str, String)> {
    let study = |name: &str, mode: &str, rules: &str| {
        format!(
            "name = \"{name}\"\nmode = \"{mode}\"\nselect.cgroups = [\"{root}/{name}\"]\n{rules}"
        )
    };
    vec![
        ("studies/cardio.toml", study("cardio", "enforce", CARDIO)),
        ("studies/neuro.toml", study("neuro", "enforce", NEURO)),
        ("studies/trial.toml", study("trial", "audit", TRIAL)),
        ("host-fence.toml", HOST_FENCE.replace("ROOT", root)),
        ("sites.toml", SITES.to_owned()),
    ]
}

fn row(name: &'static str, from: From, packet: Packet) -> Row {
    Row {
        name,
        packet,
        state: State {
            from,
            ingress: false,
            lease: true,
            signed: false,
            line: Line::FIRST,
            translated: false,
            loopback: Loopback::NO,
        },
    }
}

fn study(name: &'static str, packet: Packet) -> Row {
    row(name, From::Named("cardio"), packet)
}

fn kernel(name: &'static str, packet: Packet) -> Row {
    row(name, From::Kernel, packet)
}

impl Row {
    fn by(mut self, name: &'static str) -> Self {
        self.state.from = From::Named(name);
        self
    }

    fn coming_in(mut self) -> Self {
        self.state.ingress = true;
        self
    }

    fn without_lease(mut self) -> Self {
        self.state.lease = false;
        self
    }

    fn at(mut self, line: Line) -> Self {
        self.state.line = line;
        self
    }

    fn judged_again(mut self) -> Self {
        self.state.translated = true;
        self
    }

    fn meets(mut self, loopback: Loopback) -> Self {
        self.state.loopback = loopback;
        self
    }
}

/// A verdict as the README spells it.
pub(crate) fn spelled(action: Action, rule: Rule) -> String {
    let word = match action {
        Action::Allow => "allowed",
        Action::Deny => "denied",
        Action::Audit => "audited",
    };
    format!("{word}: {}", rule.name())
}

/// Name and verdict of each row under "Row by row", in order.
pub(crate) fn documented() -> Vec<(&'static str, &'static str)> {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("\n## Row by row\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        let verdict = cells.nth(1)?.strip_suffix(" |")?;
        Some((name, verdict))
    });
    rows.collect()
}

/// All rows, in the README's order.
pub(crate) fn rows() -> Vec<Row> {
    let mut all = whose();
    all.extend(addresses());
    all.extend(services());
    all.extend(host());
    all.extend(states());
    all.extend(headers());
    all
}

fn whose() -> Vec<Row> {
    vec![
        study("study", tcp("192.0.2.7", 443)),
        row("nobody", From::Nobody, tcp("192.0.2.7", 443)),
        row("forwarded", From::Unmarked, tcp("192.0.2.7", 443)).at(Line::SECOND),
        study("forwarded-marked", tcp("192.0.2.7", 443)).at(Line::SECOND),
        study("forwarded-marked-elsewhere", tcp("203.0.113.200", 443)).at(Line::SECOND),
    ]
}

fn addresses() -> Vec<Row> {
    let to = |name, far| study(name, tcp(far, 80));
    let peer = |name, far, signed| {
        let mut row = study(name, tcp(far, 80)).by("neuro");
        row.state.signed = signed;
        row
    };
    vec![
        to("place-not-allowed", "203.0.113.200"),
        to("place-unknown", "9.9.9.9"),
        to("place-site-over-map", "198.51.100.200"),
        to("place-beside-site", "198.51.100.100"),
        to("prefix-allowed", "10.8.0.1"),
        to("prefix-denied-longer", "10.8.1.1"),
        to("prefix-allowed-longest", "10.8.1.200"),
        to("prefix-tie", "10.8.2.1"),
        to("prefix-denied-in-allowed-place", "192.0.2.200"),
        to("peer-out", "10.9.1.9"),
        to("peer-in", "10.9.1.9").coming_in(),
        to("other-study-out", "10.9.2.9"),
        to("other-study-in", "10.9.2.9").coming_in(),
        peer("peer-signed-for", SIGNED_FOR, true),
        peer("peer-not-signed-for", "10.9.2.10", false),
        to("multicast", "224.0.0.251"),
        to("multicast-by-prefix", "239.1.1.1"),
        to("broadcast", "255.255.255.255"),
        to("mapped", "::ffff:192.0.2.7"),
        to("mapped-other-study", "::ffff:10.9.2.9"),
        to("6to4", "2002:c000:0207::1"),
        to("6to4-other-study", "2002:0a09:0209::1"),
        to("teredo", "2001:0:1:2:3:4:3fff:fdf8"),
        to("teredo-elsewhere", "2001:0:1:2:3:4:34ff:8e37"),
        to("nat64", "64:ff9b::c000:207"),
        to("nat64-elsewhere", "64:ff9b::cb00:71c8"),
        to("v6-place", "2001:db8:1::7"),
        to("v6-place-not-allowed", "2001:db8:2::7"),
    ]
}

fn services() -> Vec<Row> {
    vec![
        study("service", tcp("203.0.113.7", 443)),
        study("service-last-port", tcp("203.0.113.7", 444)),
        study("service-port-beside", tcp("203.0.113.7", 445)),
        study("service-other-protocol", udp("203.0.113.7", 443)),
        study("service-answer", tcp("203.0.113.7", 443).flags(0x12)).coming_in(),
        study("service-in-denied-prefix", tcp("10.8.1.9", 8443)),
        study("service-any-protocol", other("203.0.113.10", 47)),
        study(
            "service-first-fragment",
            tcp("203.0.113.7", 443).fragment(0, true),
        ),
        study(
            "service-later-fragment",
            tcp("203.0.113.7", 443).fragment(3, false),
        ),
        study("service-unknown-protocol", other("203.0.113.7", 50)),
        study(
            "place-later-fragment",
            tcp("192.0.2.7", 443).fragment(3, false),
        ),
        study("place-unknown-protocol", other("192.0.2.7", 50)),
        study("icmp-service", icmp("203.0.113.9", 8)),
        study("icmp-beside", icmp("203.0.113.8", 8)),
        study("icmp-in-allowed-place", icmp("192.0.2.7", 8)),
        study("resolver", udp("203.0.113.53", 53)),
        study("resolver-in-allowed-place", udp("192.0.2.53", 53)),
        study("resolver-in-allowed-prefix", udp("10.8.0.53", 53)),
        study("resolver-by-tcp", tcp("192.0.2.53", 53)),
        study("resolver-by-tls", tcp("192.0.2.53", 853)),
        study("resolver-of-any-protocol", udp("203.0.113.10", 53)),
        study("resolver-of-own", udp("10.9.1.53", 53)),
        study("resolver-of-host", udp("10.8.0.53", 53)).by("sshd"),
        study("loopback-same", tcp("127.0.0.1", 80)).meets(Loopback::SAME),
        study("loopback-other-study", tcp("127.0.0.1", 80)).meets(Loopback::OTHER_STUDY),
        study("loopback-host", tcp("127.0.0.1", 80)).meets(Loopback::HOST),
        study("loopback-host-service", udp("127.0.0.53", 53)).meets(Loopback::HOST),
        study("loopback-nobody", tcp("127.0.0.1", 80)).meets(Loopback::NOBODY),
        study("loopback-unclear", tcp("127.0.0.1", 80)).meets(Loopback::UNCLEAR),
        study("loopback-early", tcp("127.0.0.1", 80)).at(Line::EARLY),
    ]
}

fn host() -> Vec<Row> {
    let answer = || icmp("2001:db8:9::1", 136).near("2001:db8:9::2").hops(255);
    let solicitation = || icmp("ff02::1:ff00:1", 135).near("fe80::1").hops(255);
    let dhcp = || udp("255.255.255.255", 67).near("0.0.0.0").ports(68, 67);
    vec![
        study("host-prefix", tcp("10.8.1.1", 22)).by("sshd"),
        study("host-elsewhere", tcp("192.0.2.7", 22)).by("sshd"),
        study("host-to-study", tcp("10.9.1.9", 22)).by("sshd"),
        study("management-study", tcp("10.250.0.1", 443)),
        study("management-study-in-audit", tcp("10.250.0.1", 443)).by("trial"),
        study("management-host", tcp("10.250.0.1", 443)).by("sshd"),
        study("management-host-named", tcp("10.250.0.1", 443)).by("bmc"),
        study("management-host-named-elsewhere", tcp("10.250.0.200", 443)).by("bmc"),
        kernel("kernel-for-study", tcp("10.8.7.1", 2049)),
        kernel("kernel-for-study-without-lease", tcp("10.8.7.1", 2049)).without_lease(),
        kernel("kernel-for-study-elsewhere", tcp("203.0.113.77", 2049)),
        kernel("kernel-for-host", udp("203.0.113.99", 51_820)),
        kernel("kernel-port-beside", udp("203.0.113.99", 51_821)),
        kernel("kernel-answer", tcp("10.8.7.1", 2049).flags(0x12)).coming_in(),
        study("kernel-target-of-a-service", udp("203.0.113.99", 51_820)).by("sshd"),
        kernel("neighbour-discovery", solicitation()),
        kernel("neighbour-discovery-answer", answer()),
        study("neighbour-discovery-study", solicitation()),
        study("neighbour-discovery-study-answer", answer()),
        study("neighbour-discovery-routed", solicitation().hops(254)),
        study("dhcp", dhcp()).by("sshd"),
        study("dhcp-to-one-server", udp("203.0.113.67", 67).ports(68, 67)).by("sshd"),
        study("dhcp-study", dhcp()),
        kernel("icmp-error", icmp("9.9.9.9", 3)),
        kernel("icmp-echo", icmp("9.9.9.9", 8)),
        kernel("essential-not-named", tcp("9.9.9.9", 80).flags(0x14)),
        study("translated", tcp("10.96.0.10", 443)).judged_again(),
        study("translated-answer", tcp("10.96.0.10", 443))
            .judged_again()
            .coming_in(),
        study("translated-at-threshold", tcp("10.96.0.10", 443))
            .judged_again()
            .at(Line::THRESHOLD),
        study("translated-not-judged-again", tcp("10.96.0.10", 443)).by("neuro"),
        study("translated-leaves-as-it-is", tcp("10.96.0.10", 443))
            .by("neuro")
            .judged_again()
            .at(Line::SECOND),
        study("translated-to-elsewhere", tcp("203.0.113.200", 443))
            .judged_again()
            .at(Line::SECOND),
    ]
}

fn states() -> Vec<Row> {
    let audit = |name, far| study(name, tcp(far, 443)).by("trial");
    vec![
        audit("audit", "203.0.113.200"),
        audit("audit-allowed", "192.0.2.7"),
        audit("audit-other-study", "10.9.1.9"),
        audit("audit-without-lease", "203.0.113.200").without_lease(),
        study("lease-none", tcp("192.0.2.7", 443)).without_lease(),
        study("lease-none-unattested", tcp("203.0.113.7", 443)).without_lease(),
        study("lease-none-peer", tcp("10.9.1.9", 443)).without_lease(),
        study("lease-none-host", tcp("10.8.0.1", 22))
            .by("sshd")
            .without_lease(),
    ]
}

fn headers() -> Vec<Row> {
    vec![
        study(
            "source-route-loose",
            tcp("192.0.2.7", 443).options(&[131, 3, 4, 0]),
        ),
        study(
            "source-route-strict",
            tcp("192.0.2.7", 443).options(&[1, 137, 3, 4]),
        ),
        study(
            "other-option",
            tcp("192.0.2.7", 443).options(&[148, 4, 0, 0]),
        ),
        study(
            "routing-header",
            tcp("2001:db8:1::7", 443).extensions(&[43]),
        ),
        study(
            "extensions",
            tcp("2001:db8:1::7", 443).extensions(&[0, 60, 60]),
        ),
        study(
            "extensions-eight",
            tcp("2001:db8:1::7", 443).extensions(&[60; 8]),
        ),
        study(
            "extensions-nine",
            tcp("2001:db8:1::7", 443).extensions(&[60; 9]),
        ),
        study(
            "extensions-fragment",
            tcp("2001:db8:1::7", 443).fragment(3, false),
        ),
        study("cut-in-header", tcp("192.0.2.7", 443).cut(19)),
        study("cut-behind-header", tcp("192.0.2.7", 443).cut(20)),
        study(
            "cut-in-extension",
            tcp("2001:db8:1::7", 443).extensions(&[60]).cut(43),
        ),
    ]
}
