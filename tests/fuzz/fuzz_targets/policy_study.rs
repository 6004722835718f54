#![no_main]
// One study beside a sound rest: what passes is checked against the other files too.
use bailiwick_policy::model::{Files, Model};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let files = Files {
        studies: &[("studies/a.toml", data)],
        host_fence: b"[[service]]\nname=\"s\"\naddress=\"10.0.0.1/32\"\nprotocol=\"tcp\"\nports=\"1-9\"\n",
        sites: b"",
        inventory: b"",
        collector: b"",
        profile: b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\ntpm={bank=\"sha256\",require=[0]}\n",
        guest_profile: None,
    };
    Model::parse(&files).ok();
});
