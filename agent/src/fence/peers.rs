//! Addresses of studies on other nodes, in the map the kernel asks.
//!
//! What is written is the whole of what counts now. A set that is too large changes nothing, and
//! is a fault of the fence until a smaller one comes.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
};

use bailiwick_ebpf_common::{
    Address, Plain,
    peers::{PEERS, PeerKey},
    policy::tag,
};

use super::FenceError;
use crate::{fence_service::Peer, sys::hash};

/// Bytes of a key.
const KEY: usize = size_of::<PeerKey>();

/// As the map has it: key, and end on the boot clock in ns.
type Entries = BTreeMap<[u8; KEY], u64>;

/// The entries of one policy: of two for one address the later end holds. Peers of studies that
/// the policy does not have are passed over. Fails if there are more than there may be.
pub(super) fn entries(
    peers: &[Peer],
    generation: u64,
    studies: &[Option<String>],
) -> Result<Entries, usize> {
    let mut entries = Entries::new();
    for peer in peers {
        let number = (0_u32..)
            .zip(studies)
            .find(|(_, study)| study.as_deref() == Some(peer.study.as_str()));
        let Some((number, _)) = number else { continue };
        let address = match peer.address {
            IpAddr::V4(v4) => Address::from_v4(v4.to_bits()),
            IpAddr::V6(v6) => Address::from_bytes(v6.octets()).canonical(),
        };
        let mut key = [0; KEY];
        key.copy_from_slice(PeerKey::new(tag(generation, number), address).bytes());
        let end = entries.entry(key).or_insert(0);
        *end = peer.end_boot_ns.max(*end);
    }
    if entries.len() > PEERS {
        return Err(entries.len());
    }
    Ok(entries)
}

/// Writes the entries, new ones first; keeps what else is there.
pub(super) fn add(map: &OwnedFd, wanted: &Entries) -> Result<(), FenceError> {
    for (key, end) in wanted {
        hash::put(map.as_fd(), key, &end.to_ne_bytes())
            .map_err(FenceError::kernel("write", "PEERS"))?;
    }
    Ok(())
}

/// Removes whatever is not wanted.
pub(super) fn keep_only(map: &OwnedFd, wanted: &Entries) -> Result<(), FenceError> {
    for (key, _) in read(map)? {
        if !wanted.contains_key(&key) {
            hash::delete(map.as_fd(), &key).map_err(FenceError::kernel("write", "PEERS"))?;
        }
    }
    Ok(())
}

/// Entries that count at `now` (boot time, ns) under a policy.
pub(super) fn live(map: &OwnedFd, generation: u64, now: u64) -> Result<u64, FenceError> {
    let mask = u64::from(u32::MAX);
    let of_policy = |key: &[u8; KEY]| {
        let (_, study) = key.split_at(KEY - 8);
        let study = study.try_into().map_or(0, u64::from_ne_bytes);
        study >> 32 == generation & mask
    };
    let live = read(map)?
        .into_iter()
        .filter(|(key, end)| of_policy(key) && now < *end)
        .count();
    Ok(u64::try_from(live).unwrap_or(u64::MAX))
}

/// Every entry there is.
pub(super) fn read(map: &OwnedFd) -> Result<Vec<([u8; KEY], u64)>, FenceError> {
    let entries =
        hash::entries::<KEY, 8>(map.as_fd()).map_err(FenceError::kernel("read", "PEERS"))?;
    let entries = entries
        .into_iter()
        .map(|(key, end)| (key, u64::from_ne_bytes(end)));
    Ok(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(study: &str, address: &str, end_boot_ns: u64) -> Peer {
        Peer {
            study: study.to_owned(),
            address: address.parse().unwrap(),
            end_boot_ns,
        }
    }

    #[test]
    fn an_entry_is_of_one_policy_one_study_and_one_address() {
        let studies = [Some("cardio".to_owned()), None, Some("neuro".to_owned())];
        /// Name, study, address; tag and lower half of the key.
        type Row = (&'static str, &'static str, &'static str, Option<(u64, u64)>);
        let rows: &[Row] = &[
            (
                "a study",
                "cardio",
                "10.9.1.5",
                Some((7 << 32, 0xffff_0a09_0105)),
            ),
            (
                "another",
                "neuro",
                "10.9.1.5",
                Some(((7 << 32) | 2, 0xffff_0a09_0105)),
            ),
            (
                "IPv4 in IPv6",
                "cardio",
                "::ffff:10.9.1.5",
                Some((7 << 32, 0xffff_0a09_0105)),
            ),
            ("IPv6", "cardio", "2001:db8::5", Some((7 << 32, 5))),
            ("a study that is not", "onco", "10.9.1.5", None),
        ];
        for (name, study, address, want) in rows {
            let found = entries(&[peer(study, address, 9)], 7, &studies).unwrap();
            let want: Vec<PeerKey> = want
                .iter()
                .map(|(study, lo)| PeerKey {
                    hi: if *lo == 5 { 0x2001_0db8 << 32 } else { 0 },
                    lo: *lo,
                    study: *study,
                })
                .collect();
            let keys: Vec<&[u8]> = found.keys().map(<[u8; KEY]>::as_slice).collect();
            assert_eq!(
                keys,
                want.iter().map(Plain::bytes).collect::<Vec<_>>(),
                "{name}"
            );
        }
        let twice = [peer("cardio", "10.9.1.5", 9), peer("cardio", "10.9.1.5", 3)];
        let found = entries(&twice, 7, &studies).unwrap();
        assert_eq!(found.into_values().collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn a_set_as_large_as_the_table_is_taken_and_one_more_is_not() {
        let studies = [Some("cardio".to_owned())];
        let many = |count: u32| -> Vec<Peer> {
            let address = |n: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string();
            (0..count).map(|n| peer("cardio", &address(n), 1)).collect()
        };
        let most = u32::try_from(PEERS).unwrap();
        assert_eq!(entries(&many(most), 1, &studies).unwrap().len(), PEERS);
        assert_eq!(entries(&many(most + 1), 1, &studies), Err(PEERS + 1));
    }
}
