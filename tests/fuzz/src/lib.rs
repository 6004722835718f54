//! What every fuzz target has in common: an input may take 16 times its length in memory, and no more.

use std::hint::black_box;

use peak_alloc::PeakAlloc;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;

/// Bytes of memory per byte of input.
const TIMES: usize = 16;
/// What may be taken for the shortest input: tables of fixed size, of which a world map's are the
/// largest.
const FIXED: usize = 4 << 20;

/// Runs one input, and panics where it took more than it may.
pub fn bounded(len: usize, run: impl FnOnce()) {
    let before = PEAK.current_usage();
    PEAK.reset_peak_usage();
    run();
    let taken = PEAK.peak_usage().saturating_sub(before);
    let allowed = len.saturating_mul(TIMES).saturating_add(FIXED);
    assert!(
        black_box(taken) <= allowed,
        "{taken} bytes of memory for {len} bytes of input"
    );
}

/// `libfuzzer_sys::fuzz_target!`, bounded.
#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:block) => {
        libfuzzer_sys::fuzz_target!(|$data: &[u8]| { $crate::bounded($data.len(), || $body) });
    };
    (|$data:ident: &str| $body:block) => {
        libfuzzer_sys::fuzz_target!(|$data: &str| { $crate::bounded($data.len(), || $body) });
    };
}
