#![no_main]
// Statistics of a registry: read or refused, and the map made of it is one that compiles or is refused.
use std::sync::Arc;

use bailiwick_policy::bundle::{WorldKind, WorldSource};
use bailiwick_policy::world::World;
use bailiwick_policy::world::source::{Format, Source, build};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let source = Source {
        name: "fuzz",
        format: Format::Rir,
        bytes: data,
        licence: None,
        built: None,
    };
    if let Ok(built) = build(&[source]) {
        let map = WorldSource {
            kind: WorldKind::Csv,
            bytes: Arc::new(built.text),
        };
        if let Err(refused) = World::compile(&map, &[]) {
            assert!(refused.fault.contains("too fine"), "{refused}");
        }
    }
});
