#![no_main]
// A peer's entry as the collector passes it on. What is accepted was signed under the one AK that
// this inventory names, and lies in the range it gives that node.
use std::sync::LazyLock;

use bailiwick_attestation::DeploymentId;
use bailiwick_attestation::proto::v1::PeerEntry;
use bailiwick_policy::model::{Files, Model};
use bailiwick_policy::peers::{ADDRESSES_LIMIT, verify};
use prost::Message as _;

// The AK of seeds/peer_entry, whose private half is gone.
const INVENTORY: &str = r#"
[[node]]
name = "gpu-01"
ek = "0101010101010101010101010101010101010101010101010101010101010101"
ak = "000b38e9bb22c99c9671ff2b0900480a8945708e624d9e2a2da51ec5f8669fd041d5"
jurisdiction = "DE"
addresses = ["10.9.1.0/24", "2001:db8::/64"]
[[guest]]
name = "vm-01"
chips = ["SNP-0123456789abcdef"]
measurement = "777777777777777777777777777777777777777777777777777777777777777777777777777777777777777777777777"
jurisdiction = "DE"
addresses = ["10.9.2.0/24"]
"#;
const STUDY: &str = r#"
name = "cardio"
mode = "enforce"
select.cgroups = ["/cardio"]
peers = { addresses = ["10.9.0.0/16", "2001:db8::/32"], attested = true }
"#;
const PROFILE: &str =
    "name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\ntpm={bank=\"sha256\",require=[0]}\n";

static MODEL: LazyLock<(Model, DeploymentId)> = LazyLock::new(|| {
    let files = Files {
        studies: &[("studies/cardio.toml", STUDY.as_bytes())],
        host_fence: b"",
        sites: b"",
        inventory: INVENTORY.as_bytes(),
        collector: b"",
        profile: PROFILE.as_bytes(),
        guest_profile: None,
    };
    (
        Model::parse(&files).unwrap(),
        DeploymentId::new("demo").unwrap(),
    )
});

bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Ok(entry) = PeerEntry::decode(data) else {
        return;
    };
    let (model, deployment) = &*MODEL;
    match verify(&entry, model, deployment) {
        Ok(peer) => {
            assert_eq!(peer.node().as_str(), "gpu-01");
            assert!(peer.addresses().len() <= ADDRESSES_LIMIT);
        }
        Err(refused) => assert!(refused.code().starts_with("peer-")),
    }
});
