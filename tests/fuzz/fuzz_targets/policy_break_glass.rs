#![no_main]
use bailiwick_policy::content::BreakGlass;
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Ok(read) = BreakGlass::parse("break-glass.toml", data) {
        assert!(read.duration_seconds <= 24 * 3600 && !read.studies.is_empty());
    }
});
