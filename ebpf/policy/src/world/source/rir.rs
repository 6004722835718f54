//! `delegated-extended` statistics, as every regional internet registry publishes them.
//!
//! `registry|cc|type|start|value|date|status|opaque-id`. Of IPv4 the value is how many addresses,
//! which need not be a power of two; of IPv6 it is the prefix length. The first line is the
//! version: `2|registry|serial|records|startdate|enddate|UTCoffset`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bailiwick_attestation::FileError;
use time::{Date, Month};

use crate::world::text::{self, Fault, Text, short};

pub(super) fn parse(file: &str, bytes: &[u8]) -> Result<Text, FileError> {
    let mut text = Text::default();
    let mut header: Option<(usize, usize)> = None;
    let (mut records, mut summaries) = (0_usize, 0_usize);
    text::lines(file, bytes, |number, line| {
        if line.starts_with('#') {
            return Ok(());
        }
        let fields: Vec<&str> = line.splitn(9, '|').collect();
        if header.is_none() {
            let (registry, count, made) = version(&fields)?;
            header = Some((number, count));
            text.source.add(registry);
            if let Some(made) = made {
                text.made_at(made);
            }
            return Ok(());
        }
        if fields.get(5) == Some(&"summary") {
            summaries = summaries.saturating_add(1);
            return Ok(());
        }
        records = records.saturating_add(1);
        record(&mut text, number, &fields)
    })?;
    let Some((line, told)) = header else {
        return Err(text::error(file, 1, "version", "there is no line at all"));
    };
    // Cut short, it would pass for a map that knows less. Some count the summaries too.
    if told > records.saturating_add(summaries) {
        let fault = format!("says {told} records, and {records} follow: is the file whole?");
        return Err(text::error(file, line, "records", fault));
    }
    Ok(text)
}

/// Registry, records, and when it was made.
fn version<'a>(fields: &[&'a str]) -> Result<(&'a str, usize, Option<u64>), Fault> {
    let &[version, registry, _serial, records, _from, until, _offset] = fields else {
        return Err((
            "version",
            "the first line is not VERSION|REGISTRY|SERIAL|RECORDS|START|END|OFFSET".to_owned(),
        ));
    };
    if version != "2" && !version.starts_with("2.") {
        return Err(("version", format!("{:?} is not 2", short(version))));
    }
    let records = records
        .parse()
        .map_err(|_err: std::num::ParseIntError| ("records", not_a_number(records)))?;
    Ok((registry, records, day(until)))
}

/// `20260625`, midnight UTC.
fn day(text: &str) -> Option<u64> {
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    if text.len() != 8 {
        return None;
    }
    let month = Month::try_from(u8::try_from(part(4, 6)?).ok()?).ok()?;
    let day = u8::try_from(part(6, 8)?).ok()?;
    let date = Date::from_calendar_date(part(0, 4)?.into(), month, day).ok()?;
    u64::try_from(date.midnight().assume_utc().unix_timestamp()).ok()
}

fn record(text: &mut Text, number: usize, fields: &[&str]) -> Result<(), Fault> {
    let (&[_registry, code, kind, start, value, _date, status]
    | &[_registry, code, kind, start, value, _date, status, _]) = fields
    else {
        return Err((
            "",
            "is not REGISTRY|CC|TYPE|START|VALUE|DATE|STATUS[|ID]".to_owned(),
        ));
    };
    let held = match status {
        "allocated" | "assigned" => true,
        "available" | "reserved" => false,
        other => {
            let fault = format!(
                "{:?} is none of allocated, assigned, available, reserved",
                short(other)
            );
            return Err(("status", fault));
        }
    };
    let ends = match kind {
        "asn" => return Ok(()),
        "ipv4" => v4(start, value)?,
        "ipv6" => v6(start, value)?,
        other => {
            let fault = format!("{:?} is none of asn, ipv4, ipv6", short(other));
            return Err(("type", fault));
        }
    };
    // Nobody holds it, or nobody says who.
    if !held || code.is_empty() {
        return Ok(());
    }
    text.push(number, ends, code)
}

fn v4(start: &str, count: &str) -> Result<(IpAddr, IpAddr), Fault> {
    let first: Ipv4Addr = start
        .parse()
        .map_err(|_err: std::net::AddrParseError| ("start", not_an_address(start)))?;
    let count: u64 = count
        .parse()
        .map_err(|_err: std::num::ParseIntError| ("value", not_a_number(count)))?;
    let last = count
        .checked_sub(1)
        .and_then(|beyond| u64::from(first.to_bits()).checked_add(beyond))
        .and_then(|last| u32::try_from(last).ok())
        .ok_or_else(|| {
            let fault = format!("{count} addresses from {first} on: there is no such range");
            ("value", fault)
        })?;
    Ok((first.into(), Ipv4Addr::from_bits(last).into()))
}

fn v6(start: &str, length: &str) -> Result<(IpAddr, IpAddr), Fault> {
    let first: Ipv6Addr = start
        .parse()
        .map_err(|_err: std::net::AddrParseError| ("start", not_an_address(start)))?;
    let length: u32 = length
        .parse()
        .map_err(|_err: std::num::ParseIntError| ("value", not_a_number(length)))?;
    if length > 128 {
        return Err(("value", format!("{length} is no prefix length of IPv6")));
    }
    let hosts = u128::MAX.checked_shr(length).unwrap_or(0);
    if first.to_bits() & hosts != 0 {
        let fault = format!("{first}/{length} has bits set behind its length");
        return Err(("start", fault));
    }
    let last = Ipv6Addr::from_bits(first.to_bits() | hosts);
    Ok((first.into(), last.into()))
}

fn not_a_number(text: &str) -> String {
    format!("{:?} is no number", short(text))
}

fn not_an_address(text: &str) -> String {
    format!("{:?} is no address", short(text))
}
