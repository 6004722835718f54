#![no_main]
use bailiwick_attestation::host::Neighbour;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(neighbour) = Neighbour::parse(data) {
        // What a claim holds of it, whatever the wire says.
        assert!(neighbour.chassis.len() <= 160 && neighbour.port.len() <= 160);
        assert!(neighbour.system.is_none_or(|name| name.len() <= 160));
    }
});
