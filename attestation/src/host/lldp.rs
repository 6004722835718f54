//! Who is at the other end of a wire, as a switch says once in a while. Whoever holds the wire can
//! say anything.
//!
//! Layout: IEEE 802.1AB-2016, clause 8: TLVs of seven bits of type and nine of length; chassis id,
//! port id and time to live in this order, others behind them, the last of type 0.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::{Fault, ParseError};
use crate::ids::Sha256Digest;
use crate::reader::Reader;

/// `0x88cc`, the ethertype of these frames.
pub const LLDP_ETHERTYPE: u16 = 0x88cc;
/// Longest frame that is looked at: an Ethernet frame without jumbo; no switch sends a longer one.
pub const LLDP_LIMIT: usize = 1500;

/// Longest identifier that is shown as it is; of a longer one the SHA-256 is.
const SHOWN: usize = 64;

const END: u8 = 0;
const CHASSIS: u8 = 1;
const PORT: u8 = 2;
const TIME: u8 = 3;
const SYSTEM_NAME: u8 = 5;

/// Who says it is at the other end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Neighbour {
    /// The switch, by the kind of its identifier: `mac 00:11:22:33:44:55`, `local leaf-12`.
    pub chassis: String,
    /// Its port: `ifname Ethernet1/3`.
    pub port: String,
    /// Seconds for which this counts; 0: it counts no more.
    pub ttl: u16,
    /// What the switch is called.
    pub system: Option<String>,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.chassis, self.port)
    }
}

impl Neighbour {
    /// Reads what follows the ethertype. Bytes behind the end are Ethernet's padding.
    pub fn parse(frame: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("LLDPDU", frame);
        if frame.len() > LLDP_LIMIT {
            let fault = Fault::TooMany {
                found: u64::try_from(frame.len()).unwrap_or(u64::MAX),
                limit: u64::try_from(LLDP_LIMIT).unwrap_or(u64::MAX),
            };
            return Err(r.fault("frame", fault));
        }
        let chassis = mandatory(&mut r, CHASSIS, "chassis id")?;
        let chassis = identifier(&r, "chassis id", &CHASSIS_KINDS, chassis)?;
        let port = mandatory(&mut r, PORT, "port id")?;
        let port = identifier(&r, "port id", &PORT_KINDS, port)?;
        let ttl = mandatory(&mut r, TIME, "time to live")?;
        let Some((ttl, _)) = ttl.split_first_chunk() else {
            let left = ttl.len();
            return Err(r.fault("time to live", Fault::Truncated { want: 2, left }));
        };
        let ttl = u16::from_be_bytes(*ttl);
        let mut system = None;
        // A frame that ends without the mark of its end was cut by nobody: lengths say where it does.
        while !r.rest().is_empty() {
            match tlv(&mut r)? {
                (END, []) => break,
                (END, _) => {
                    let fault = Fault::Rule("an end has no content");
                    return Err(r.fault("end", fault));
                }
                (CHASSIS | PORT | TIME, _) => {
                    let fault = Fault::Rule("what is said once is said again");
                    return Err(r.fault("type", fault));
                }
                (SYSTEM_NAME, name) if system.is_none() => system = Some(shown(name)),
                (SYSTEM_NAME, _) => {
                    let fault = Fault::Rule("one system has one name");
                    return Err(r.fault("system name", fault));
                }
                _ => {}
            }
        }
        Ok(Self {
            chassis,
            port,
            ttl,
            system,
        })
    }
}

/// Type and content of the next one.
fn tlv<'a>(r: &mut Reader<'a>) -> Result<(u8, &'a [u8]), ParseError> {
    let head = r.u16("type, length")?;
    let kind = u8::try_from(head >> 9).unwrap_or(u8::MAX);
    let content = r.take("information string", usize::from(head & 0x1ff))?;
    Ok((kind, content))
}

fn mandatory<'a>(
    r: &mut Reader<'a>,
    kind: u8,
    field: &'static str,
) -> Result<&'a [u8], ParseError> {
    let at = r.offset();
    match tlv(r)? {
        (found, content) if found == kind => Ok(content),
        (found, _) => {
            let fault = Fault::Mismatch {
                found: found.into(),
                want: kind.into(),
            };
            Err(r.fault_at(field, at, fault))
        }
    }
}

/// How the bytes of an identifier are written.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Mac,
    Network,
}

/// By subtype, from 1: tables 8-2 and 8-3.
const CHASSIS_KINDS: [(&str, Form); 7] = [
    ("component", Form::Text),
    ("alias", Form::Text),
    ("component", Form::Text),
    ("mac", Form::Mac),
    ("ip", Form::Network),
    ("ifname", Form::Text),
    ("local", Form::Text),
];
const PORT_KINDS: [(&str, Form); 7] = [
    ("alias", Form::Text),
    ("component", Form::Text),
    ("mac", Form::Mac),
    ("ip", Form::Network),
    ("ifname", Form::Text),
    ("circuit", Form::Text),
    ("local", Form::Text),
];

fn identifier(
    r: &Reader<'_>,
    field: &'static str,
    kinds: &[(&str, Form)],
    content: &[u8],
) -> Result<String, ParseError> {
    let (subtype, id) = match content.split_first() {
        Some((subtype, id)) if (1..=255).contains(&id.len()) => (*subtype, id),
        _ => return Err(r.fault(field, Fault::Rule("an identifier has 1 to 255 bytes"))),
    };
    let known = usize::from(subtype).checked_sub(1);
    let Some((kind, form)) = known.and_then(|at| kinds.get(at)) else {
        let found = subtype.into();
        return Err(r.fault(field, Fault::Unsupported { found }));
    };
    let written = match (form, id) {
        (Form::Mac, [a, b, c, d, e, f]) => {
            format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
        }
        // The family's number as IANA has it, then the address.
        (Form::Network, [1, a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        (Form::Network, [2, address @ ..]) => match <[u8; 16]>::try_from(address) {
            Ok(address) => Ipv6Addr::from(address).to_string(),
            Err(_) => other(id),
        },
        (Form::Text, id) => shown(id),
        (Form::Mac | Form::Network, id) => other(id),
    };
    Ok(format!("{kind} {written}"))
}

/// Text as it is, if it is text that nothing else can be mistaken for where several stand in a row.
fn shown(id: &[u8]) -> String {
    let plain = |byte: &u8| (byte.is_ascii_graphic() || *byte == b' ') && *byte != b',';
    match std::str::from_utf8(id) {
        Ok(text) if id.len() <= SHOWN && id.iter().all(plain) => text.to_owned(),
        _ => other(id),
    }
}

fn other(id: &[u8]) -> String {
    match id.len() {
        ..=SHOWN => format!("0x{}", hex::encode(id)),
        _ => format!("sha256:{}", Sha256Digest::of(&[id])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(kind: u16, content: &[u8]) -> Vec<u8> {
        let head = kind << 9 | u16::try_from(content.len()).unwrap();
        [head.to_be_bytes().as_slice(), content].concat()
    }

    fn frame(parts: &[(u16, &[u8])]) -> Vec<u8> {
        parts
            .iter()
            .flat_map(|(kind, part)| one(*kind, part))
            .collect()
    }

    const MAC: (u16, &[u8]) = (1, &[4, 0, 0x11, 0x22, 0x33, 0x44, 0x55]);
    const IFNAME: (u16, &[u8]) = (2, b"\x05Ethernet1/3");
    const TTL: (u16, &[u8]) = (3, &[0, 120]);
    const NAME: (u16, &[u8]) = (5, b"leaf-12");
    const STOP: (u16, &[u8]) = (0, &[]);

    #[test]
    fn a_neighbour_is_read_and_padding_is_not() {
        let mut bytes = frame(&[
            MAC,
            IFNAME,
            TTL,
            (4, b"a port"),
            NAME,
            (127, b"\0\0\0x"),
            STOP,
        ]);
        let want = Neighbour {
            chassis: "mac 00:11:22:33:44:55".to_owned(),
            port: "ifname Ethernet1/3".to_owned(),
            ttl: 120,
            system: Some("leaf-12".to_owned()),
        };
        assert_eq!(Neighbour::parse(&bytes), Ok(want.clone()));
        assert_eq!(want.to_string(), "mac 00:11:22:33:44:55 ifname Ethernet1/3");
        bytes.extend([0xff; 20]);
        assert_eq!(Neighbour::parse(&bytes), Ok(want.clone()), "padded");
        bytes.resize(LLDP_LIMIT, 0xff);
        assert_eq!(Neighbour::parse(&bytes), Ok(want), "as long as may be");
        let bare = Neighbour::parse(&frame(&[MAC, IFNAME, (3, &[0, 0])])).unwrap();
        assert_eq!(
            (bare.ttl, bare.system),
            (0, None),
            "no end, no name, and gone"
        );
    }

    #[test]
    fn identifiers_are_written_by_their_kind() {
        let long = [&[7][..], &[b'x'; 65]].concat();
        let digest = format!("local sha256:{}", Sha256Digest::of(&[&[b'x'; 65]]));
        let six = [&[5, 2][..], &[0x20, 1, 0xd, 0xb8], &[0; 11], &[5]].concat();
        let rows: &[(&str, &[u8], &str)] = &[
            ("text", b"\x07leaf 12", "local leaf 12"),
            (
                "a comma, which parts neighbours",
                b"\x07a,b",
                "local 0x612c62",
            ),
            ("a control character", b"\x07a\x1b[2J", "local 0x611b5b324a"),
            ("no UTF-8", &[7, 0xff], "local 0xff"),
            (
                "the longest",
                &long[..65],
                &format!("local {}", "x".repeat(64)),
            ),
            ("longer", &long, &digest),
            ("an address", &[5, 1, 10, 9, 1, 5], "ip 10.9.1.5"),
            ("a long address", &six, "ip 2001:db8::5"),
            ("a short address", &[5, 1, 10, 9], "ip 0x010a09"),
            ("a family nobody knows", &[5, 9, 9], "ip 0x0909"),
            ("a short MAC", &[4, 1, 2, 3], "mac 0x010203"),
        ];
        for (name, content, want) in rows {
            let read = Neighbour::parse(&frame(&[(1, content), IFNAME, TTL, STOP])).unwrap();
            assert_eq!(read.chassis, *want, "{name}");
        }
        let port = Neighbour::parse(&frame(&[MAC, (2, &[3, 2, 0, 0, 0, 0, 1]), TTL])).unwrap();
        assert_eq!(port.port, "mac 02:00:00:00:00:01");
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let id = "an identifier has 1 to 255 bytes";
        let wide = [7; 257];
        let rows: &[(&str, Vec<u8>, &str)] = &[
            (
                "empty",
                vec![],
                "type, length at offset 0: needs 2 bytes, 0 left",
            ),
            (
                "a port first",
                frame(&[IFNAME, MAC, TTL]),
                "chassis id at offset 0: found 0x2, wanted 0x1",
            ),
            (
                "no time",
                frame(&[MAC, IFNAME, STOP]),
                "time to live at offset 23: found 0x0, wanted 0x3",
            ),
            (
                "half a time",
                frame(&[MAC, IFNAME, (3, &[1])]),
                "time to live at offset 26: needs 2 bytes, 1 left",
            ),
            (
                "no identifier",
                frame(&[(1, &[4]), IFNAME, TTL]),
                &format!("chassis id at offset 3: {id}"),
            ),
            (
                "one too long",
                frame(&[(1, &wide), IFNAME, TTL]),
                &format!("chassis id at offset 259: {id}"),
            ),
            (
                "no kind",
                frame(&[(1, b"\x00x"), IFNAME, TTL]),
                "chassis id at offset 4: 0x0 is not a value this field may hold",
            ),
            (
                "a kind to come",
                frame(&[MAC, (2, b"\x08x"), TTL]),
                "port id at offset 13: 0x8 is not a value this field may hold",
            ),
            (
                "a chassis again",
                frame(&[MAC, IFNAME, TTL, MAC, STOP]),
                "type at offset 36: what is said once is said again",
            ),
            (
                "a second name",
                frame(&[MAC, IFNAME, TTL, NAME, NAME]),
                "system name at offset 45: one system has one name",
            ),
            (
                "an end with content",
                frame(&[MAC, IFNAME, TTL, (0, b"x")]),
                "end at offset 30: an end has no content",
            ),
            (
                "no frame of Ethernet",
                [frame(&[MAC, IFNAME, TTL, STOP]), vec![0; 1500]].concat(),
                "frame at offset 0: 1529 exceeds the limit of 1500",
            ),
        ];
        for (name, bytes, want) in rows {
            let refused = Neighbour::parse(bytes).unwrap_err().to_string();
            assert_eq!(refused, format!("LLDPDU.{want}"), "{name}");
        }
        let whole = frame(&[MAC, IFNAME, TTL, NAME]);
        let ends = [27, whole.len()];
        for cut in 0..=whole.len() {
            let read = Neighbour::parse(&whole[..cut]);
            assert_eq!(read.is_ok(), ends.contains(&cut), "cut at {cut}");
        }
    }
}
