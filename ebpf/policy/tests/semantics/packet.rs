//! Packets, written byte by byte: what a row of the table sends.

use std::net::IpAddr;

/// One packet between a near and a far end.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    near: IpAddr,
    far: IpAddr,
    protocol: u8,
    ports: (u16, u16),
    /// The first byte of ICMP.
    kind: Option<u8>,
    flags: u8,
    hops: u8,
    /// Offset in units of eight bytes, and whether more follow.
    fragment: Option<(u16, bool)>,
    /// IPv4 options, padded to four bytes by whoever gives them.
    options: Vec<u8>,
    /// IPv6 extension headers, each of eight bytes.
    extensions: Vec<u8>,
    /// Bytes that are left of it.
    cut: Option<usize>,
}

fn packet(far: &str, protocol: u8) -> Packet {
    let far: IpAddr = far.parse().unwrap();
    let near = if far.is_ipv4() {
        "10.9.1.1"
    } else {
        "2001:db8:ffff::1"
    };
    Packet {
        near: near.parse().unwrap(),
        far,
        protocol,
        ports: (40_000, 0),
        kind: None,
        flags: 0x02,
        hops: 64,
        fragment: None,
        options: Vec::new(),
        extensions: Vec::new(),
        cut: None,
    }
}

pub(crate) fn tcp(far: &str, port: u16) -> Packet {
    packet(far, 6).ports(40_000, port)
}

pub(crate) fn udp(far: &str, port: u16) -> Packet {
    packet(far, 17).ports(40_000, port)
}

/// ICMP of the address's family.
pub(crate) fn icmp(far: &str, kind: u8) -> Packet {
    let protocol = if far.contains(':') { 58 } else { 1 };
    Packet {
        kind: Some(kind),
        ..packet(far, protocol)
    }
}

/// Something that has no ports.
pub(crate) fn other(far: &str, protocol: u8) -> Packet {
    packet(far, protocol).ports(0, 0)
}

impl Packet {
    pub(crate) fn near(mut self, near: &str) -> Self {
        self.near = near.parse().unwrap();
        self
    }

    pub(crate) fn ports(mut self, near: u16, far: u16) -> Self {
        self.ports = (near, far);
        self
    }

    pub(crate) fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self
    }

    pub(crate) fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self
    }

    pub(crate) fn extensions(mut self, kinds: &[u8]) -> Self {
        self.extensions = kinds.to_vec();
        self
    }

    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// As it lies on the wire, to the far end or from it; checksums are zero.
    pub(crate) fn bytes(&self, ingress: bool) -> Vec<u8> {
        let ends = if ingress {
            [self.far, self.near]
        } else {
            [self.near, self.far]
        };
        let ports = if ingress {
            (self.ports.1, self.ports.0)
        } else {
            self.ports
        };
        let mut upper = vec![0; 20];
        upper[..2].copy_from_slice(&ports.0.to_be_bytes());
        upper[2..4].copy_from_slice(&ports.1.to_be_bytes());
        upper[12] = 0x50;
        upper[13] = self.flags;
        if let Some(kind) = self.kind {
            upper[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        let mut bytes = match ends {
            [IpAddr::V4(from), IpAddr::V4(to)] => {
                let words = 5 + u8::try_from(self.options.len() / 4).unwrap();
                let fragment = self
                    .fragment
                    .map_or(0, |(at, more)| at | if more { 0x2000 } else { 0 });
                let mut bytes = vec![0x40 | words, 0, 0, 60, 0, 0];
                bytes.extend(fragment.to_be_bytes());
                bytes.extend([self.hops, self.protocol, 0, 0]);
                bytes.extend(from.octets());
                bytes.extend(to.octets());
                bytes.extend(&self.options);
                bytes
            }
            [IpAddr::V6(from), IpAddr::V6(to)] => self.six(from.octets(), to.octets()),
            _ => panic!("ends of two families"),
        };
        bytes.extend(upper);
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }

    fn six(&self, from: [u8; 16], to: [u8; 16]) -> Vec<u8> {
        let mut kinds = self.extensions.clone();
        if self.fragment.is_some() {
            kinds.push(44);
        }
        kinds.push(self.protocol);
        let mut bytes = vec![0x60, 0, 0, 0, 0, 60, kinds[0], self.hops];
        bytes.extend(from);
        bytes.extend(to);
        for pair in kinds.windows(2) {
            let mut header = [pair[1], 0, 0, 0, 0, 0, 0, 0];
            if pair[0] == 44 {
                let (at, more) = self.fragment.unwrap_or_default();
                header[2..4].copy_from_slice(&((at << 3) | u16::from(more)).to_be_bytes());
            }
            bytes.extend(header);
        }
        bytes
    }
}
