use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::bundle::WorldSource;
use crate::world::{Atlas, World};

/// A file in MaxMind's format, as small as it can be: a tree of 24-bit records over prefixes of
/// IPv6, and one record each.
struct Database {
    /// Two children each: `Some(Ok(node))`, `Some(Err(record))`.
    nodes: Vec<[Option<Result<usize, usize>>; 2]>,
    records: Vec<Vec<u8>>,
    built: u32,
}

fn string(text: &str) -> Vec<u8> {
    let mut out = vec![2 << 5 | u8::try_from(text.len()).unwrap()];
    out.extend(text.bytes());
    out
}

fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![7 << 5 | u8::try_from(entries.len()).unwrap()];
    for (key, value) in entries {
        out.extend(string(key));
        out.extend(value);
    }
    out
}

fn number(kind: u8, value: u32) -> Vec<u8> {
    let mut out = vec![kind << 5 | 4];
    out.extend(value.to_be_bytes());
    out
}

fn country(code: &str) -> Vec<u8> {
    map(&[("country", map(&[("iso_code", string(code))]))])
}

impl Database {
    fn new(built: u32) -> Self {
        Self {
            nodes: vec![[None; 2]],
            records: Vec::new(),
            built,
        }
    }

    fn with(mut self, net: &str, record: Vec<u8>) -> Self {
        let net: ipnet::IpNet = net.parse().unwrap();
        let (bits, length) = match net {
            ipnet::IpNet::V4(v4) => (u128::from(v4.network().to_bits()), v4.prefix_len() + 96),
            ipnet::IpNet::V6(v6) => (v6.network().to_bits(), v6.prefix_len()),
        };
        self.records.push(record);
        let mut node = 0;
        for depth in 0..length {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == length {
                self.nodes[node][side] = Some(Err(self.records.len() - 1));
            } else if let Some(Ok(next)) = self.nodes[node][side] {
                node = next;
            } else {
                self.nodes.push([None; 2]);
                let next = self.nodes.len() - 1;
                self.nodes[node][side] = Some(Ok(next));
                node = next;
            }
        }
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let count = self.nodes.len();
        let mut data: Vec<u8> = Vec::new();
        let mut offsets = Vec::new();
        for record in &self.records {
            offsets.push(data.len());
            data.extend(record);
        }
        let mut out = Vec::new();
        for child in self.nodes.iter().flatten() {
            let value = match child {
                None => count,
                Some(Ok(node)) => *node,
                Some(Err(record)) => count + 16 + offsets[*record],
            };
            out.extend(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
        }
        out.extend([0; 16]);
        out.extend(data);
        out.extend(b"\xab\xcd\xefMaxMind.com");
        let mut epoch = vec![8, 2];
        epoch.extend(u64::from(self.built).to_be_bytes());
        let short = |value: u16| {
            let [high, low] = value.to_be_bytes();
            vec![5 << 5 | 2, high, low]
        };
        out.extend(map(&[
            ("binary_format_major_version", short(2)),
            ("binary_format_minor_version", short(0)),
            ("build_epoch", epoch),
            ("database_type", string("Test-Country")),
            ("description", map(&[])),
            ("ip_version", short(6)),
            ("languages", vec![0, 4]),
            ("node_count", number(6, u32::try_from(count).unwrap())),
            ("record_size", short(24)),
        ]));
        out
    }
}

fn source<'a>(name: &'a str, bytes: &'a [u8]) -> Source<'a> {
    Source {
        name,
        format: Format::guess(bytes),
        bytes,
        licence: None,
        built: None,
    }
}

fn text(built: &Built) -> String {
    String::from_utf8(built.text.clone()).unwrap()
}

fn lines(built: &Built) -> Vec<String> {
    let text = text(built);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

const RIR: &str = "2|ripencc|1782428399|6|19830705|20260625|+0200\n\
    ripencc|*|ipv4|*|3|summary\n\
    # a comment\n\
    ripencc|DE|ipv4|192.0.2.0|768|20200101|allocated|abc\n\
    ripencc|FR|ipv4|198.51.100.0|256|20200101|assigned|abc\n\
    ripencc||ipv4|203.0.113.0|256||available|\n\
    ripencc|EU|ipv6|2001:db8::|32|20200101|allocated|abc\n\
    ripencc|NL|asn|64496|1|20200101|allocated|abc\n\
    ripencc|NL|ipv6|2001:db9::|48|20200101|reserved\n";

#[test]
fn a_registry_counts_addresses_of_ipv4_and_bits_of_ipv6() {
    let built = build(&[source("delegated-ripencc-extended-latest", RIR.as_bytes())]).unwrap();
    assert_eq!(
        lines(&built),
        [
            "192.0.2.0,192.0.4.255,DE",
            "198.51.100.0/24,FR",
            "2001:db8::/32,EU"
        ]
    );
    let origin = &built.origins[0];
    assert_eq!(
        (origin.format, origin.built, origin.ranges),
        (Format::Rir, Some(1_782_345_600), 3)
    );
    assert!(text(&built).contains("# Generated: Thu, 25 Jun 2026 00:00:00 +0000\n"));
}

#[test]
fn a_database_is_read_by_whatever_name_its_maker_gave_the_country() {
    let database = Database::new(1_782_362_039)
        .with("192.0.2.0/24", country("DE"))
        .with("198.51.100.0/25", map(&[("country_code", string("FR"))]))
        .with("198.51.100.128/25", map(&[("country", string("NL"))]))
        .with("203.0.113.0/24", map(&[("continent", string("EU"))]))
        .with(
            "9.9.9.0/24",
            map(&[
                ("country", map(&[("iso_code", string("US"))])),
                ("traits", map(&[("is_anycast", vec![1, 7])])),
            ]),
        )
        .with("2001:db8::/32", country("CH"))
        // IPv4 once more, as databases repeat it.
        .with("2002:c000:200::/40", country("US"))
        .with("::ffff:10.0.0.0/104", country("US"));
    let bytes = database.bytes();
    let built = build(&[source("country.mmdb", &bytes)]).unwrap();
    assert_eq!(
        lines(&built),
        [
            "9.9.9.0/24,A3",
            "192.0.2.0/24,DE",
            "198.51.100.0/25,FR",
            "198.51.100.128/25,NL",
            "2001:db8::/32,CH",
        ]
    );
    assert_eq!(built.origins[0].format, Format::Mmdb);
    assert_eq!(built.origins[0].built, Some(1_782_362_039));
    let warnings: Vec<String> = built.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["country.mmdb:1: licence: does not say its licence, and nobody else did"]
    );
}

#[test]
fn a_graph_with_more_paths_than_any_database_is_refused() {
    // Every node's children are both the next one: 2 to the power of 127 networks.
    let mut database = Database::new(1).with("8000::/1", country("DE"));
    database.nodes = (0..128)
        .map(|at| {
            let next = if at == 127 { Err(0) } else { Ok(at + 1) };
            [Some(next); 2]
        })
        .collect();
    for (name, leaves) in [("with a record", Some(Err(0))), ("without one", None)] {
        database.nodes[127] = [leaves; 2];
        let refused = mmdb::parse("bomb", &database.bytes(), 10_000).expect_err(name);
        assert_eq!(refused.code(), "world-database");
        let want = "bomb: has more than 10000 paths: no geo database has";
        assert_eq!(refused.to_string(), want, "{name}");
    }
}

#[test]
fn sources_are_told_apart_by_their_look() {
    let database = Database::new(1).with("192.0.2.0/24", country("DE")).bytes();
    let cases: &[(&str, &[u8], Format)] = &[
        ("mmdb", &database, Format::Mmdb),
        ("registry", RIR.as_bytes(), Format::Rir),
        ("geoip", b"# x\n16777216,16777471,AU\n", Format::Geoip),
        ("ranges", b"1.0.0.0,1.0.0.255,AU\n", Format::Csv),
        ("prefixes", b"\n2001:db8::/32,AU\n", Format::Csv),
        ("nothing", b"", Format::Csv),
    ];
    for (name, bytes, want) in cases {
        assert_eq!(Format::guess(bytes), *want, "{name}");
    }
}

#[test]
fn the_source_named_first_wins_and_the_next_fills_what_is_left() {
    let first = b"192.0.2.0/25,DE\n198.51.100.0/24,ZZ\n2001:db8::/48,X-LAB\n";
    let second = b"192.0.2.0/24,FR\n198.51.100.0/24,US\n2001:db8::/32,CH\n";
    let built = build(&[source("a.csv", first), source("b.csv", second)]).unwrap();
    assert_eq!(
        lines(&built),
        [
            "192.0.2.0/25,DE",
            "192.0.2.128/25,FR",
            "198.51.100.0/24,US",
            "2001:db8::/48,X-LAB",
            "2001:db8:1::,2001:db8:ffff:ffff:ffff:ffff:ffff:ffff,CH",
        ]
    );
}

#[test]
fn where_a_map_comes_from_stands_in_it_and_goes_into_the_kernels_header() {
    let sources = [
        Source {
            licence: Some("CC BY 4.0"),
            ..source("delegated\nextended", RIR.as_bytes())
        },
        Source {
            licence: Some("CC0"),
            built: Some(1_700_000_000),
            ..source("own.csv", b"203.0.113.0/24,CH\n")
        },
    ];
    let built = build(&sources).unwrap();
    assert_eq!(built.warnings, []);
    assert_eq!(
        built,
        build(&sources).unwrap(),
        "the same input, the same bytes"
    );
    let map = WorldSource {
        kind: WorldKind::Csv,
        bytes: Arc::new(built.text.clone()),
    };
    let world = World::compile(&map, &[]).unwrap();
    assert_eq!(world.source, "delegated_extended; own.csv");
    assert_eq!(world.licence, "CC BY 4.0; CC0");
    assert_eq!(world.built, 1_700_000_000, "the oldest counts");
    let header = world.image(1).header;
    assert!(header.source.starts_with(b"delegated_extended; own.csv\0"));
    assert!(header.licence.starts_with(b"CC BY 4.0; CC0\0"));
    let digest = built.origins[0].digest;
    assert!(text(&built).contains(&format!("SHA-256 {digest}\n")));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let head = "2|ripencc|1|1|19830705|20260625|+0200\n";
    let record = |line: &str| format!("{head}{line}\n");
    let cases: &[(&str, String, &str)] = &[
        (
            "no version",
            "ripencc|DE|ipv4|192.0.2.0|256|20200101|allocated|x\n".into(),
            "r:1: version: the first line is not VERSION|REGISTRY|SERIAL|RECORDS|START|END|OFFSET",
        ),
        (
            "another version",
            "3|ripencc|1|0|19830705|20260625|+0200".into(),
            "r:1: version: \"3\" is not 2",
        ),
        (
            "cut short",
            head.into(),
            "r:1: records: says 1 records, and 0 follow: is the file whole?",
        ),
        (
            "no addresses",
            record("ripencc|DE|ipv4|192.0.2.0|0|20200101|allocated|x"),
            "r:2: value: 0 addresses from 192.0.2.0 on: there is no such range",
        ),
        (
            "beyond the last address",
            record("ripencc|DE|ipv4|255.255.255.0|257|20200101|allocated|x"),
            "r:2: value: 257 addresses from 255.255.255.0 on: there is no such range",
        ),
        (
            "a length beyond the last bit",
            record("ripencc|DE|ipv6|2001:db8::|129|20200101|allocated|x"),
            "r:2: value: 129 is no prefix length of IPv6",
        ),
        (
            "bits behind the length",
            record("ripencc|DE|ipv6|2001:db8::1|64|20200101|allocated|x"),
            "r:2: start: 2001:db8::1/64 has bits set behind its length",
        ),
        (
            "a status nobody knows",
            record("ripencc|DE|ipv4|192.0.2.0|256|20200101|lent|x"),
            "r:2: status: \"lent\" is none of allocated, assigned, available, reserved",
        ),
        (
            "a type nobody knows",
            record("ripencc|DE|ipv9|192.0.2.0|256|20200101|allocated|x"),
            "r:2: type: \"ipv9\" is none of asn, ipv4, ipv6",
        ),
        (
            "a field too many",
            record("ripencc|DE|ipv4|192.0.2.0|256|20200101|allocated|x|y"),
            "r:2: is not REGISTRY|CC|TYPE|START|VALUE|DATE|STATUS[|ID]",
        ),
        (
            "no country",
            record("ripencc|de|ipv4|192.0.2.0|256|20200101|allocated|x"),
            "r:2: code: \"de\" is no code: two upper-case letters, or X- and up to 29 of A-Z, 0-9, '-'",
        ),
    ];
    for (name, text, want) in cases {
        let source = Source {
            format: Format::Rir,
            ..source("r", text.as_bytes())
        };
        let refused = build(&[source]).expect_err(name);
        assert_eq!(refused.to_string(), *want, "{name}");
        assert_eq!(refused.code(), "world-malformed", "{name}");
    }
    let whole = record("ripencc|DE|ipv4|255.255.255.0|256|20200101|allocated|x");
    build(&[source("r", whole.as_bytes())]).unwrap();

    let database = Database::new(1).with("192.0.2.0/24", country("DE")).bytes();
    let empty = Database::new(1).with("192.0.2.0/24", map(&[])).bytes();
    for (name, format, bytes, want) in [
        (
            "cut short",
            Format::Mmdb,
            &database[..database.len() - 1],
            "world-database",
        ),
        (
            "no such format",
            Format::Mmdb,
            RIR.as_bytes(),
            "world-database",
        ),
        ("nothing said", Format::Mmdb, &empty, "world-empty"),
        ("comments alone", Format::Csv, b"# DE\n", "world-empty"),
    ] {
        let source = Source {
            format,
            ..source("m", bytes)
        };
        assert_eq!(build(&[source]).expect_err(name).code(), want, "{name}");
    }
    let licensed = |licence| Source {
        licence: Some(licence),
        ..source("a.csv", b"192.0.2.0/24,DE\n")
    };
    let long = "x".repeat(65);
    for licence in ["", " ", "a; b", "a\nb", &long] {
        let refused = build(&[licensed(licence)]).expect_err(licence);
        assert_eq!(refused.code(), "world-licence", "{licence:?}");
    }
    build(&[licensed(&long[1..])]).unwrap();
    let many = vec![licensed("x"); SOURCES_LIMIT + 1];
    assert_eq!(build(&many).unwrap_err().code(), "world-too-large");
    build(&many[1..]).unwrap();
}

#[test]
fn a_difference_names_ranges_and_both_answers() {
    let atlas = |text: &str| {
        let map = WorldSource {
            kind: WorldKind::Csv,
            bytes: Arc::new(text.as_bytes().to_vec()),
        };
        Atlas::read(&map, &[]).unwrap()
    };
    let before = atlas("192.0.2.0/24,DE\n198.51.100.0/24,X-A\n2001:db8::/32,FR\n");
    // The own code has another number and the same name.
    let after =
        atlas("192.0.2.0/25,DE\n192.0.2.128/25,NL\n198.51.100.0/24,X-A\n203.0.113.0/24,X-0\n");
    let changes: Vec<(String, String, String, String)> = before
        .changes(&after)
        .into_iter()
        .map(|c| (c.first.to_string(), c.last.to_string(), c.before, c.after))
        .collect();
    let row = |a: &str, b: &str, c: &str, d: &str| (a.into(), b.into(), c.into(), d.into());
    assert_eq!(
        changes,
        [
            row("192.0.2.128", "192.0.2.255", "DE", "NL"),
            row("203.0.113.0", "203.0.113.255", "unknown", "X-0"),
            row(
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                "FR",
                "unknown"
            ),
        ]
    );
    assert_eq!(before.changes(&before), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// What is written is read back: every address has the answer it had.
    #[test]
    fn a_map_says_what_its_source_says(nets in proptest::collection::btree_map(
        (any::<u32>(), prop_oneof![Just(0_u8), Just(32), Just(31), 8..=32_u8]), 0..4_usize, 1..40
    )) {
        let codes = ["DE", "FR", "A3", "X-LAB"];
        let mut text = String::new();
        let mut seen = std::collections::BTreeSet::new();
        for ((address, length), code) in nets {
            let net = ipnet::Ipv4Net::new(address.into(), length).unwrap().trunc();
            if seen.insert(net) {
                text += &format!("{net},{}\n", codes[code]);
            }
        }
        let built = build(&[source("a.csv", text.as_bytes())]).unwrap();
        let atlas = |bytes: &[u8]| Atlas::read(&WorldSource {
            kind: WorldKind::Csv,
            bytes: Arc::new(bytes.to_vec()),
        }, &[]).unwrap();
        prop_assert_eq!(atlas(text.as_bytes()).changes(&atlas(&built.text)), []);
        let (one, two) = (atlas(text.as_bytes()), World::of(&atlas(&built.text), &[]).unwrap());
        let image = two.image(1);
        for net in seen {
            let address = IpAddr::from(net.addr());
            let v4 = u32::from(net.addr());
            prop_assert_eq!(one.locate(address).jurisdiction, image.locate(
                bailiwick_ebpf_common::Address::from_v4(v4)), "{}", address);
        }
    }
}
