//! A whole geo database to the kernel's table: `cargo bench -p bailiwick-policy [FILE…]`.
//!
//! Reads Debian's `tor-geoipdb` unless told otherwise, times each step, and then asks the image for
//! both ends of every range of the text. Prints one object; times are medians.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bailiwick_ebpf_common::{Address, Jurisdiction};
use bailiwick_policy::bundle::{WorldKind, WorldSource};
use bailiwick_policy::world::{Codes, World};

const RUNS: usize = 9;

fn main() {
    let mut paths: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    if paths.is_empty() {
        paths = ["/usr/share/tor/geoip", "/usr/share/tor/geoip6"]
            .map(str::to_owned)
            .to_vec();
    }
    let mut text = Vec::new();
    for path in &paths {
        let read = std::fs::read(path);
        text.extend(read.unwrap_or_else(|err| panic!("{path} (package tor-geoipdb): {err}")));
    }
    let source = WorldSource {
        kind: WorldKind::GeoipDb,
        bytes: Arc::new(text),
    };
    let mut compiles = Vec::new();
    let mut images = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        let world = World::compile(&source, &[]).unwrap();
        compiles.push(start.elapsed());
        let start = Instant::now();
        drop(world.image(1));
        images.push(start.elapsed());
    }
    compiles.sort();
    images.sort();
    let world = World::compile(&source, &[]).unwrap();
    let image = world.image(1);
    let header = &image.header;

    let codes = Codes::of(header);
    let (mut asked, mut special) = (0_u64, 0_u64);
    let start = Instant::now();
    for line in str::from_utf8(&source.bytes).unwrap().lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let fields: Vec<&str> = line.split(',').collect();
        let want = codes.number(fields[2]).unwrap_or(Jurisdiction::UNKNOWN);
        for end in &fields[..2] {
            let address = match end.parse::<u32>() {
                Ok(number) => IpAddr::from(Ipv4Addr::from_bits(number)),
                Err(_) => end.parse().unwrap(),
            };
            let found = match address {
                IpAddr::V4(v4) => image.locate_v4(v4.to_bits()),
                IpAddr::V6(v6) => image.locate_v6(Address::from_bytes(v6.octets())),
            };
            asked += 1;
            // Special-purpose ranges win over the text.
            if (1..=5).contains(&found.0) {
                special += 1;
            } else {
                assert_eq!(found, want, "{line}");
            }
        }
    }
    eprintln!(
        "{asked} ends of ranges agree ({special} are special), {:?}",
        start.elapsed()
    );
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{{\"world\": {{\"ranges\": {}, \"bytes\": {}, \"v4_nodes\": {}, \"v6_nodes\": {}, \
         \"compile_ms\": {:.1}, \"image_ms\": {:.1}}}}}",
        header.ranges,
        source.bytes.len(),
        header.v4_nodes,
        header.v6_nodes,
        ms(compiles[RUNS / 2]),
        ms(images[RUNS / 2]),
    );
}
