use std::net::IpAddr;
use std::sync::Arc;

use bailiwick_ebpf_common::Address;
use proptest::prelude::*;

use super::ranges::{Layer, Range, flatten};
use super::*;
use crate::bundle::WorldKind;
use crate::model::{Files, Model};

fn source(kind: WorldKind, text: &str) -> WorldSource {
    WorldSource {
        kind,
        bytes: Arc::new(text.as_bytes().to_vec()),
    }
}

fn sites(text: &str) -> Vec<Site> {
    let profile: &[u8] =
        b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\ntpm={bank=\"sha256\",require=[0]}\n";
    let files = Files {
        studies: &[],
        host_fence: b"",
        sites: text.as_bytes(),
        inventory: b"",
        collector: b"",
        profile,
        guest_profile: None,
    };
    Model::parse(&files).unwrap().sites
}

fn site(prefix: &str, code: &str) -> String {
    format!("[[site]]\nprefix = \"{prefix}\"\njurisdiction = \"{code}\"\n")
}

fn csv(text: &str) -> World {
    World::compile(&source(WorldKind::Csv, text), &[]).unwrap()
}

fn address(text: &str) -> Address {
    match text.parse().unwrap() {
        IpAddr::V4(v4) => Address::from_v4(v4.to_bits()),
        IpAddr::V6(v6) => Address::from_bytes(v6.octets()),
    }
}

fn located(world: &World, rows: &[(&str, &str)]) {
    let image = world.image(1);
    for (at, want) in rows {
        assert_eq!(world.codes.name(image.locate(address(at))), *want, "{at}");
    }
}

#[test]
fn the_narrower_range_wins_whatever_the_order() {
    let lines = [
        "192.0.2.0/24,DE",
        "192.0.2.128,192.0.2.191,FR",
        "192.0.2.160/32,X-LAB",
        "192.0.3.0/24,DE",
        "2001:db8::/32,US",
        "2001:db8:0:1::/64,CA",
        "2001:db8::1/128,MX",
    ];
    let rows = [
        ("192.0.1.255", "unknown"),
        ("192.0.2.0", "DE"),
        ("192.0.2.127", "DE"),
        ("192.0.2.128", "FR"),
        ("192.0.2.159", "FR"),
        ("192.0.2.160", "X-LAB"),
        ("192.0.2.161", "FR"),
        ("192.0.2.191", "FR"),
        ("192.0.2.192", "DE"),
        ("192.0.3.255", "DE"),
        ("192.0.4.0", "unknown"),
        ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "unknown"),
        ("2001:db8::", "US"),
        ("2001:db8::1", "MX"),
        ("2001:db8::2", "US"),
        ("2001:db8:0:1::", "CA"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "CA"),
        ("2001:db8:0:2::", "US"),
        ("2001:db9::", "unknown"),
        ("::ffff:192.0.2.160", "X-LAB"),
        ("2002:c000:2a0::1", "X-LAB"),
    ];
    let forth = csv(&lines.join("\n"));
    located(&forth, &rows);
    let mut lines = lines;
    lines.reverse();
    let back = csv(&lines.join("\r\n"));
    assert_eq!((forth.v4, forth.v6), (back.v4, back.v6));
}

#[test]
fn geoipdb_text_is_read_with_its_date() {
    let text = "# Generated: Thu, 25 Jun 2026 04:33:59 GMT\n\
                # Generated: Fri, 26 Jun 2026 04:33:59 GMT\n\
                3221225984,3221226111,DE\n\
                3221226112,3221226239,??\n\
                \n# the other file\n\
                2001:db8::,2001:db8:ffff:ffff:ffff:ffff:ffff:ffff,FR\n\
                198.51.100.0,198.51.100.255,OS\n";
    let world = World::compile(&source(WorldKind::GeoipDb, text), &[]).unwrap();
    assert_eq!((world.ranges, world.built), (4, 1_782_362_039));
    located(
        &world,
        &[
            ("192.0.2.127", "DE"),
            ("192.0.2.128", "unknown"),
            ("2001:db8:7::", "FR"),
            ("198.51.100.1", "unknown"),
        ],
    );
    let warnings: Vec<String> = world.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "world.txt:8: code: OS is no jurisdiction known here; the addresses of its 1 ranges count as unknown"
        ]
    );
}

#[test]
fn sites_win_over_registries_and_registries_over_the_map() {
    let map = "0.0.0.0,255.255.255.255,US\n::/0,US\n";
    let own =
        site("10.9.0.0/16", "X-OWN") + &site("10.9.4.0/24", "DE") + &site("fd00:9::/32", "FR");
    let world = World::compile(&source(WorldKind::Csv, map), &sites(&own)).unwrap();
    located(
        &world,
        &[
            ("9.255.255.255", "US"),
            ("10.0.0.0", "reserved"),
            ("10.9.0.1", "X-OWN"),
            ("10.9.4.1", "DE"),
            ("10.9.5.1", "X-OWN"),
            ("10.10.0.0", "reserved"),
            ("127.0.0.1", "loopback"),
            ("169.254.169.254", "link-local"),
            ("192.0.2.1", "US"),
            ("192.31.196.1", "anycast"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.0", "reserved"),
            ("255.255.255.255", "multicast"),
            ("::1", "loopback"),
            ("::2", "reserved"),
            ("64:ff9b:1::1", "reserved"),
            ("1fff::", "reserved"),
            ("2000::", "US"),
            ("2001:4:112::1", "anycast"),
            ("2001:db8::1", "US"),
            ("2620:4f:8000::1", "anycast"),
            ("3fff:ffff::1", "US"),
            ("4000::", "reserved"),
            ("fd00:9::1", "FR"),
            ("fd00:a::1", "reserved"),
            ("fe80::1", "link-local"),
            ("ff02::1", "multicast"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
        ],
    );
    assert_eq!(world.codes.own(), ["X-OWN"]);
}

#[test]
fn own_codes_of_map_and_sites_share_one_order() {
    let map = source(WorldKind::Csv, "192.0.2.0/24,X-C\n198.51.100.0/24,X-A\n");
    let world = World::compile(&map, &sites(&site("203.0.113.0/24", "X-B"))).unwrap();
    assert_eq!(world.codes.own(), ["X-A", "X-B", "X-C"]);
    located(
        &world,
        &[
            ("192.0.2.1", "X-C"),
            ("198.51.100.1", "X-A"),
            ("203.0.113.1", "X-B"),
        ],
    );
    let image = world.image(1);
    assert_eq!(Codes::of(&image.header), world.codes);
    assert_eq!(image.header.own_table, world.codes.own_table());
}

#[test]
fn lines_that_cannot_be_meant_are_refused_where_they_stand() {
    let (list, txt) = (WorldKind::Csv, WorldKind::GeoipDb);
    let rows = [
        (
            list,
            "\n1.2.3.4,DE",
            "world.csv:2: prefix: \"1.2.3.4\" is no prefix: ADDRESS/LENGTH",
        ),
        (
            list,
            "1.2.3.4/24,DE",
            "world.csv:1: prefix: 1.2.3.4/24 has bits set behind its length",
        ),
        (
            list,
            "1.2.3.0/33,DE",
            "world.csv:1: prefix: \"1.2.3.0/33\" is no prefix: ADDRESS/LENGTH",
        ),
        (
            list,
            "DE",
            "world.csv:1: is neither PREFIX,CODE nor START,END,CODE",
        ),
        (
            list,
            "1.0.0.0,1.0.0.1,DE,",
            "world.csv:1: is neither PREFIX,CODE nor START,END,CODE",
        ),
        (
            list,
            "16777216,16777471,AU",
            "world.csv:1: start: \"16777216\" is no address",
        ),
        (txt, "1.2.3.0/24,DE", "world.txt:1: is not START,END,CODE"),
        (
            txt,
            "0,4294967296,DE",
            "world.txt:1: end: \"4294967296\" is more than 4294967295",
        ),
        (txt, "1,0,DE", "world.txt:1: end: lies before the start"),
        (
            txt,
            "0,::1,DE",
            "world.txt:1: end: start and end are of two families",
        ),
        (txt, "0,,DE", "world.txt:1: end: \"\" is no address"),
        (
            txt,
            "0,1,de",
            "world.txt:1: code: \"de\" is no code: two upper-case letters, or X- and up to 29 of A-Z, 0-9, '-'",
        ),
        (
            txt,
            "0,1,",
            "world.txt:1: code: \"\" is no code: two upper-case letters, or X- and up to 29 of A-Z, 0-9, '-'",
        ),
        (
            txt,
            "0,1,X-a",
            "world.txt:1: code: \"X-a\" must be two upper-case letters, or X- and up to 29 of A-Z, 0-9, '-'",
        ),
        (
            list,
            "1.0.0.0/8,DE\n1.0.0.0,1.255.255.255,FR",
            "world.csv:2: is the range of line 1 again, with another code; keep one of them",
        ),
        (
            list,
            "1.0.0.5,1.0.0.9,DE\n1.0.0.0,1.0.0.5,DE",
            "world.csv:2: crosses the range of line 1, neither lies inside the other; cut one of them",
        ),
        (
            list,
            "::,::5,DE\n::5,::9,DE",
            "world.csv:2: crosses the range of line 1, neither lies inside the other; cut one of them",
        ),
    ];
    for (kind, text, want) in rows {
        let got = World::compile(&source(kind, text), &[]).expect_err(want);
        assert_eq!(got.to_string(), want);
    }
    let bad = WorldSource {
        kind: list,
        bytes: Arc::new(b"#\n1.2.3.0/24,D\xff".to_vec()),
    };
    let got = World::compile(&bad, &[]).unwrap_err().to_string();
    assert_eq!(got, "world.csv:2: byte 13 of the line is no UTF-8");
    let twice = csv("1.0.0.0/8,DE\n1.0.0.0/8,DE\n1.0.0.0,1.0.0.255,FR\n1.0.0.0,1.0.0.255,FR");
    located(&twice, &[("1.0.0.255", "FR"), ("1.0.1.0", "DE")]);
}

#[test]
fn a_map_too_fine_for_the_kernel_is_refused_by_line() {
    // Each line makes blocks that no other has: one address, in a place of its own in its /24.
    let mut text = String::new();
    for at in 0_u32..41_000 {
        let (net, host) = (0x0100_0000 + (at << 8), at % 250);
        let codes = ["DE", "FR", "US", "CA", "MX"];
        let code = |n: u32| codes[usize::try_from((at / 250 / n) % 5).unwrap()];
        for (offset, n) in [(0, 1), (1, 5), (2, 25), (3, 125)] {
            let address = std::net::Ipv4Addr::from_bits(net + host + offset);
            text.push_str(&format!("{address},{address},{}\n", code(n)));
        }
    }
    let got = World::compile(&source(WorldKind::Csv, &text), &[]).unwrap_err();
    assert!(got.line > 100_000, "{got}");
    let want = "the map is too fine: from here on there are more than 40960 different blocks of \
                IPv4; merge neighbouring ranges of one code, or use a coarser map";
    assert_eq!(got.fault, want);
}

#[test]
fn too_many_own_codes_are_refused() {
    let text: String = (0..113).map(|n| format!("10.0.{n}.0/24,X-{n}\n")).collect();
    let got = World::compile(&source(WorldKind::Csv, &text), &[]).unwrap_err();
    assert_eq!(
        got.to_string(),
        "world.csv:113: code: more than 112 codes of your own"
    );
    let text: String = (0..112).map(|n| format!("10.0.{n}.0/24,X-{n}\n")).collect();
    let own = sites(&site("192.0.2.0/24", "X-MORE"));
    let got = World::compile(&source(WorldKind::Csv, &text), &own).unwrap_err();
    assert_eq!(
        got.to_string(),
        "world.csv:1: code: 113 codes of your own in world.csv and sites.toml; there is room for 112"
    );
}

#[test]
fn the_digest_covers_what_is_used() {
    let text = "192.0.2.0/24,DE\n2001:db8::/48,FR\n";
    let image = csv(text).image(7);
    assert_eq!(image.header.digest, digest(&image).0);
    assert_eq!(image.header.generation, 7);
    let again = csv(text).image(7);
    assert!(image.bytes() == again.bytes());
    let mut bent = csv(text).image(7);
    bent.v4_root[9] ^= 1;
    assert_ne!(digest(&bent).0, image.header.digest);
    let mut bent = csv(text).image(7);
    bent.v6_nodes[0][9] ^= 1;
    assert_ne!(digest(&bent).0, image.header.digest);
    assert_ne!(csv(text).image(8).header.digest, image.header.digest);
}

/// Prefixes close together, so that they nest, touch, and end at both ends of the space.
fn prefixes(bits: u8) -> impl Strategy<Value = Vec<(u128, u8, usize)>> {
    let lengths = prop_oneof![Just(0), Just(bits), Just(bits - 1), 0..=bits];
    let address = prop_oneof![
        Just(0),
        Just(u128::MAX),
        any::<u8>().prop_map(|low| 0x2001_0db8_u128 << 96 | u128::from(low)),
        any::<u128>(),
    ];
    proptest::collection::vec((address, lengths, 0..6_usize), 0..40)
}

fn net(address: u128, length: u8, bits: u8) -> (u128, u128) {
    let hosts = (u128::MAX >> (128 - bits))
        .checked_shr(length.into())
        .unwrap_or(0);
    let all = u128::MAX >> (128 - bits);
    let start = (address >> (128 - bits)) & all & !hosts;
    (start, start | hosts)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The table answers as a search through all prefixes for the longest would.
    #[test]
    fn lookups_are_the_longest_match(six in any::<bool>(), all in prefixes(128), more in any::<[u128; 8]>()) {
        let bits: u8 = if six { 128 } else { 32 };
        let mut nets: Vec<(u128, u128, u16)> = Vec::new();
        for (address, length, code) in all {
            let (start, end) = net(address, length.min(bits), bits);
            if !nets.iter().any(|(a, b, _)| (*a, *b) == (start, end)) {
                nets.push((start, end, u16::try_from(code).unwrap() + 1));
            }
        }
        let last = net(0, 0, bits).1;
        let ranges = nets.iter().map(|&(start, end, code)| Range {
            start, end, code, layer: Layer::World, line: 1,
        });
        let segments = flatten(ranges.collect(), last).unwrap();
        prop_assert_eq!(segments.last().unwrap().end, last);
        let trie = Trie::build(&segments, bits.into(), NODES).unwrap();
        let mut image = WorldImage::zeroed();
        image.header.magic = WORLD_MAGIC;
        if six {
            image.v6_root.copy_from_slice(&trie.root);
            copy(&mut image.v6_nodes, &trie.nodes);
        } else {
            image.v4_root.copy_from_slice(&trie.root);
            copy(&mut image.v4_nodes, &trie.nodes);
        }
        let mut asked = vec![0, last];
        asked.extend(more.map(|address| net(address, bits, bits).0));
        for (start, end, _) in &nets {
            asked.extend([*start, *end, start.saturating_sub(1), end.saturating_add(1).min(last)]);
        }
        for at in asked {
            let holding = nets.iter().filter(|(start, end, _)| *start <= at && at <= *end);
            let want = holding.min_by_key(|(start, end, _)| end - start).map_or(0, |net| net.2);
            let found = if six {
                image.locate_v6(Address::from_bytes(at.to_be_bytes()))
            } else {
                image.locate_v4(u32::try_from(at).unwrap())
            };
            prop_assert_eq!(found.0, want, "{:x}", at);
        }
    }

    /// Any text is read or refused; what is read compiles.
    #[test]
    fn any_text_is_answered(text in "([0-9a-f:./,DEX#\n-]{0,24}\n){0,6}") {
        for kind in [WorldKind::Csv, WorldKind::GeoipDb] {
            if let Err(refused) = World::compile(&source(kind, &text), &[]) {
                prop_assert!(refused.line >= 1);
            }
        }
    }
}

#[test]
fn what_a_policy_allows_and_nothing_lies_in_is_told() {
    let study = "name = \"a\"\nmode = \"enforce\"\nselect.cgroups = [\"/a\"]\n\
                 allow.jurisdictions = [\"DE\", \"FR\", \"X-LAB\"]\n";
    let sites = "[[site]]\nprefix = \"10.0.0.0/8\"\njurisdiction = \"X-LAB\"\n";
    let rows: &[(&str, &str, &[&str])] = &[
        (
            "all of them have addresses",
            "192.0.2.0/24,DE\n198.51.100.0/24,FR\n2001:db8::/32,DE\n",
            &[],
        ),
        (
            "one has none",
            "192.0.2.0/24,DE\n2001:db8::/32,DE\n",
            &[
                "studies/a.toml:4: allow.jurisdictions: no address of the world map or of \
               sites.toml lies in FR: this allows nothing",
            ],
        ),
        (
            "a family has none",
            "192.0.2.0/24,DE\n198.51.100.0/24,FR\n",
            &[
                "world.csv:1: has no range of IPv6, and neither has sites.toml: every IPv6 \
               address that no prefix and no service names is denied",
            ],
        ),
    ];
    for (name, text, want) in rows {
        let model = crate::model::Model::parse(&crate::model::Files {
            studies: &[("studies/a.toml", study.as_bytes())],
            host_fence: b"",
            sites: sites.as_bytes(),
            inventory: b"",
            collector: b"",
            profile: b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\n\
                       tpm={bank=\"sha256\",require=[0]}\n",
            guest_profile: None,
        })
        .unwrap();
        let source = WorldSource {
            kind: WorldKind::Csv,
            bytes: std::sync::Arc::new(text.as_bytes().to_vec()),
        };
        let world = World::compile(&source, &model.sites).unwrap();
        let told: Vec<String> = world
            .misses(&model)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(told, *want, "{name}");
    }
}
