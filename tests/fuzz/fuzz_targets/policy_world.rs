#![no_main]
// A world map in both formats: read or refused by line, and what is read compiles.
use std::sync::Arc;

use bailiwick_policy::bundle::{WorldKind, WorldSource};
use bailiwick_policy::world::World;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let bytes = Arc::new(data.to_vec());
    for kind in [WorldKind::Csv, WorldKind::GeoipDb] {
        if let Err(refused) = World::compile(
            &WorldSource {
                kind,
                bytes: Arc::clone(&bytes),
            },
            &[],
        ) {
            assert!(refused.line >= 1);
        }
    }
});
