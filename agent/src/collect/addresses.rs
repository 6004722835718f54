//! Addresses of this host, from procfs.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// `/proc/net/fib_trie`: below each address its routes are listed; `host LOCAL` is the host's own.
pub(super) fn v4(text: &str) -> BTreeSet<IpAddr> {
    let mut own = BTreeSet::new();
    let mut last: Option<Ipv4Addr> = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(leaf) = line.strip_prefix("|-- ") {
            last = leaf.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = last
        {
            own.insert(address.into());
        }
    }
    own
}

/// `/proc/net/if_inet6`: 32 hexadecimal digits begin each line.
pub(super) fn v6(text: &str) -> BTreeSet<IpAddr> {
    let addresses = text.lines().filter_map(|line| {
        let digits = line.split_ascii_whitespace().next()?;
        let bytes: [u8; 16] = hex::decode(digits).ok()?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_addresses_are_read_and_no_others() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    +-- 10.9.1.0/24 2 0 2\n        |-- 10.9.1.0\n           /24 link UNICAST\n        \
                    |-- 10.9.1.5\n           /32 host LOCAL\n        |-- 10.9.1.255\n           \
                    /32 link BROADCAST\nLocal:\n     |-- 10.9.1.5\n        /32 host LOCAL\n     \
                    |-- nonsense\n        /32 host LOCAL\n";
        let want: BTreeSet<IpAddr> = ["10.9.1.5".parse().unwrap()].into();
        assert_eq!(v4(trie), want);
        assert!(v4("").is_empty());
        let table = "20010db8000000000000000000000005 02 40 00 80     wire\n\
                     00000000000000000000000000000001 01 80 10 80       lo\nshort 1\n\n";
        let want: BTreeSet<IpAddr> = ["2001:db8::5", "::1"].map(|at| at.parse().unwrap()).into();
        assert_eq!(v6(table), want);
    }
}
