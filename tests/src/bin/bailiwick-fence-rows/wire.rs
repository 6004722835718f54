//! Packets, written byte by byte: what no socket would make.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Stands in the payload of everything an attack sends.
pub(crate) const MARK: &[u8] = b"bailiwick-row";

/// UDP with its checksum.
pub(crate) fn udp(from: IpAddr, to: IpAddr, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::new();
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let mut covered = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(v4) => covered.extend(v4.octets()),
            IpAddr::V6(v6) => covered.extend(v6.octets()),
        }
    }
    covered.extend([0, 17]);
    covered.extend(length.to_be_bytes());
    covered.extend(&bytes);
    let sum = match checksum(&covered) {
        0 => 0xffff,
        sum => sum,
    };
    bytes.splice(6..8, sum.to_be_bytes());
    bytes
}

/// What is not the same in every IPv4 header.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct V4<'a> {
    /// A multiple of four bytes, at most 40.
    pub(crate) options: &'a [u8],
    /// Flags and offset, as they stand there.
    pub(crate) fragment: u16,
    /// Layer 4 protocol number.
    pub(crate) protocol: u8,
}

/// An IPv4 packet.
pub(crate) fn ipv4(from: Ipv4Addr, to: Ipv4Addr, header: V4<'_>, payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + header.options.len() / 4).unwrap_or(15);
    let total = usize::from(words) * 4 + payload.len();
    let mut bytes = vec![0x40 | words, 0];
    bytes.extend(u16::try_from(total).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(0x1234_u16.to_be_bytes());
    bytes.extend(header.fragment.to_be_bytes());
    bytes.extend([64, header.protocol, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(header.options);
    let sum = checksum(&bytes);
    bytes.splice(10..12, sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An IPv6 packet; `next` is the kind of its first extension, or of the payload.
pub(crate) fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(payload);
    bytes
}

/// A UDP datagram in an IP packet.
pub(crate) fn datagram(from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
    let udp = udp(from, to, (5001, port), MARK);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let header = V4 {
                protocol: 17,
                ..V4::default()
            };
            ipv4(from, to, header, &udp)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, 17, &udp),
        _ => Vec::new(),
    }
}

/// RFC 1071, not yet in network order.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(u16::from_be_bytes([high, low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_sum_to_nothing() {
        let header = V4 {
            options: &[131, 7, 4, 198, 51, 100, 7, 0],
            protocol: 17,
            fragment: 0,
        };
        let (from, to) = ([10, 9, 1, 1].into(), [192, 0, 2, 7].into());
        let packet = ipv4(from, to, header, b"x");
        assert_eq!(checksum(&packet[..28]), 0);
        assert_eq!(packet.len(), 29);
        let datagram = udp(from.into(), to.into(), (1, 2), b"odd");
        let mut covered = [from.octets(), to.octets()].concat();
        covered.extend([0, 17, 0, 11]);
        covered.extend(&datagram);
        assert_eq!(checksum(&covered), 0);
    }
}
