#![no_main]
// The same bytes as every other file of a policy.
use bailiwick_attestation::profile::Profile;
use bailiwick_policy::model::{Files, Model};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let profile: &[u8] =
        b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\ntpm={bank=\"sha256\",require=[0]}\n";
    let empty = Files {
        studies: &[],
        host_fence: b"",
        sites: b"",
        inventory: b"",
        collector: b"",
        profile,
    };
    Model::parse(&Files {
        host_fence: data,
        ..empty
    })
    .ok();
    Model::parse(&Files {
        sites: data,
        ..empty
    })
    .ok();
    Model::parse(&Files {
        inventory: data,
        ..empty
    })
    .ok();
    Model::parse(&Files {
        collector: data,
        ..empty
    })
    .ok();
    Profile::parse("profile.toml", data).ok();
});
