//! Address prefixes with one spelling each.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

/// IPv6 forms that carry an IPv4 address, which is what the fence judges: a rule that names the
/// outer form would never match. RFC 4291 §2.5.5.2, RFC 3056, RFC 4380, RFC 6052.
const CARRIERS: [(&str, Ipv6Addr, u8); 4] = [
    (
        "IPv4-mapped",
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0),
        96,
    ),
    ("6to4", Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    ("Teredo", Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
    ("NAT64", Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
];

/// `ADDRESS/LENGTH`, with no bit set behind the length.
pub(super) fn parse(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_err: ipnet::AddrParseError| {
        format!("{text:?} is no prefix: ADDRESS/LENGTH, for example 203.0.113.0/24")
    })?;
    if net.addr() != net.network() {
        return Err(format!(
            "{text} has bits set behind its length: {}/{} or {}/{}",
            net.network(),
            net.prefix_len(),
            net.addr(),
            net.max_prefix_len(),
        ));
    }
    if let IpNet::V6(v6) = net {
        for (name, address, length) in CARRIERS {
            let carrier = Ipv6Net::new(address, length).map_err(|err| err.to_string())?;
            if carrier.contains(&v6) {
                return Err(format!(
                    "{text} is {name}: such addresses are judged by the IPv4 address inside, \
                     write that one's prefix"
                ));
            }
        }
    }
    Ok(net)
}

/// Whether some address lies in both.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
