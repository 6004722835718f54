#![no_main]
// The same bytes as every other file of a policy. What an inventory lists of guests is written as it was
// read, and no two of them could show the same report.
use bailiwick_attestation::cvm::{GuestIdentity, Launch};
use bailiwick_attestation::evidence::guest_id;
use bailiwick_attestation::profile::Profile;
use bailiwick_policy::model::{Files, Inventory, Model, edit};

fn guests(inventory: &Inventory) {
    let guests = inventory.nodes.iter();
    let guests: Vec<_> = guests
        .filter_map(|node| Some((node, node.guest.as_ref()?)))
        .collect();
    for (at, (node, own)) in guests.iter().enumerate() {
        assert_eq!(node.ek, guest_id(&node.name));
        assert!(inventory.retired(&node.ek).is_none());
        assert!(!own.chips.is_empty() && own.chips.is_sorted());
        assert!(own.chips.iter().all(|chip| node.devices.contains(chip)));
        let read = edit::read(&edit::render(node)).expect("what was read can be written");
        assert_eq!(read.nodes, [(*node).clone()]);
        for (_, other) in guests.iter().take(at) {
            assert!(apart(own, other), "{own:?} {other:?}");
        }
    }
}

fn apart(a: &GuestIdentity, b: &GuestIdentity) -> bool {
    fn differ<T: PartialEq>(a: &Option<T>, b: &Option<T>) -> bool {
        a.is_some() && b.is_some() && a != b
    }
    let (one, two) = (&a.launch, &b.launch);
    let measured = |launch: &Launch| {
        let own = launch.measurement.iter().chain(&launch.next_measurement);
        own.cloned().collect::<Vec<_>>()
    };
    let (first, second) = (measured(one), measured(two));
    let measured_apart =
        !first.is_empty() && !second.is_empty() && !first.iter().any(|one| second.contains(one));
    !a.chips.iter().any(|chip| b.chips.contains(chip))
        || measured_apart
        || differ(&one.signer, &two.signer)
        || differ(&one.host_data, &two.host_data)
}

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
        guest_profile: None,
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
    let listed = Model::parse(&Files {
        inventory: data,
        ..empty
    });
    if let Ok(model) = listed {
        guests(&model.inventory);
    }
    Model::parse(&Files {
        collector: data,
        ..empty
    })
    .ok();
    Model::parse(&Files {
        guest_profile: Some(data),
        ..empty
    })
    .ok();
    Profile::parse("profile.toml", data).ok();
});
