//! Debian's `tor-geoipdb`: the whole world, as text and as prefixes.

use std::{fs, net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result};
use bailiwick_policy::bundle::{WorldKind, WorldSource};

const FILES: [&str; 2] = ["/usr/share/tor/geoip", "/usr/share/tor/geoip6"];
const V4: u128 = 0xffff_0000_0000;

/// First address, last address (IPv4 as `::ffff:a.b.c.d`), length counted in 128 bits, and code.
#[derive(Clone, Copy)]
pub(crate) struct Prefix {
    pub(crate) first: u128,
    pub(crate) last: u128,
    pub(crate) length: u32,
    pub(crate) code: [u8; 2],
}

impl Prefix {
    pub(crate) fn is_v4(&self) -> bool {
        self.first >> 32 == V4 >> 32
    }

    /// `ADDRESS/LENGTH`.
    pub(crate) fn text(&self) -> Result<String> {
        Ok(if self.is_v4() {
            let low = u32::try_from(self.first & u128::from(u32::MAX))?;
            format!(
                "{}/{}",
                std::net::Ipv4Addr::from_bits(low),
                self.length - 96
            )
        } else {
            format!(
                "{}/{}",
                std::net::Ipv6Addr::from_bits(self.first),
                self.length
            )
        })
    }
}

/// The text of both families as one file.
pub(crate) fn text() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for file in FILES {
        text.extend(fs::read(file).with_context(|| format!("{file}: install tor-geoipdb"))?);
    }
    Ok(text)
}

/// As a bundle would carry it.
pub(crate) fn source(kind: WorldKind, text: Vec<u8>) -> WorldSource {
    WorldSource {
        kind,
        bytes: Arc::new(text),
    }
}

/// The exact prefixes of the text's ranges.
pub(crate) fn prefixes(text: &[u8]) -> Result<Vec<Prefix>> {
    let mut all = Vec::new();
    for line in std::str::from_utf8(text)?.lines() {
        if line.starts_with('#') {
            continue;
        }
        let mut fields = line.split(',');
        let mut address = || -> Result<u128> {
            let field = fields.next().context("a range has two ends")?;
            Ok(match field.parse::<u32>() {
                Ok(number) => V4 | u128::from(number),
                Err(_) => match field.parse::<IpAddr>()? {
                    IpAddr::V4(v4) => V4 | u128::from(v4.to_bits()),
                    IpAddr::V6(v6) => v6.to_bits(),
                },
            })
        };
        let (mut first, last) = (address()?, address()?);
        let code = fields.next().unwrap_or_default().as_bytes();
        let code = *code.first_chunk().context("a range has a code")?;
        loop {
            // The largest aligned block that begins here and does not end behind the range.
            let room = (last - first).saturating_add(1);
            let fits = room.ilog2().min(first.trailing_zeros().min(127));
            let end = first + ((1_u128 << fits) - 1);
            all.push(Prefix {
                first,
                last: end,
                length: 128 - fits,
                code,
            });
            if end == last {
                break;
            }
            first = end + 1;
        }
    }
    Ok(all)
}
