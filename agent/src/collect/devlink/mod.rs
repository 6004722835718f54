//! Network cards and what else has firmware of its own, as their drivers tell it through devlink:
//! versions that are fixed, that run, and that lie in flash for the next reset.
//!
//! Layouts: `include/uapi/linux/genetlink.h`, `devlink.h`. Whoever asks needs no capability.

mod info;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bailiwick_attestation::proto::v1::{Claim, claim::Value};
use rustix::io::Errno;

use self::info::Info;
use super::{claim, why};
use crate::netlink::{DUMP, Message, Netlink, attribute, attributes};

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `DEVLINK_CMD_INFO_GET`
const INFO_GET: u8 = 51;
/// Bytes of `struct genlmsghdr`: command, version, two of nothing.
const HEADER: usize = 4;
/// Most devices told.
const MOST: usize = 32;
/// Most claims of all of them together: a card has some ten, and a statement room for thousands.
const CLAIMS: usize = 512;
/// Drivers ask the cards' firmware, so it is not asked each time facts are read.
const AGAIN: Duration = Duration::from_secs(600);

const SOURCE: &str = "devlink";

/// The last answer, for everybody who looks at this host.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<Mutex<Option<Answer>>>);

/// What was said, and when.
type Answer = (Instant, Vec<Claim>);

impl Asked {
    pub(super) fn claims(&self, now: Instant, out: &mut Vec<Claim>) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = last
            .as_ref()
            .filter(|(at, _)| now.saturating_duration_since(*at) < AGAIN);
        if fresh.is_none() {
            *last = Some((now, ask()));
        }
        out.extend(last.iter().flat_map(|(_, claims)| claims.iter().cloned()));
    }
}

fn ask() -> Vec<Claim> {
    match devices() {
        Ok(devices) => {
            let claims = devices.iter().take(MOST).flat_map(told);
            claims.take(CLAIMS).collect()
        }
        Err(err) => vec![claim("nic.devlink", SOURCE, Value::Unavailable(why(&err)))],
    }
}

/// All devices of this thread's network namespace that tell of themselves.
fn devices() -> io::Result<Vec<Info>> {
    let mut netlink = Netlink::generic()?;
    let family = match family(&mut netlink) {
        Ok(family) => family,
        // No driver of this kernel speaks it.
        Err(err) if Errno::from_io_error(&err) == Some(Errno::NOENT) => return Ok(Vec::new()),
        Err(err) => return Err(err),
    };
    let answer = netlink.ask(family, DUMP, &[INFO_GET, 1, 0, 0])?;
    let answer = answer.iter().filter(|(kind, _)| *kind == family);
    Ok(answer.filter_map(|(_, body)| read(body)).collect())
}

fn read(body: &[u8]) -> Option<Info> {
    let (header, rest) = body.split_at_checked(HEADER)?;
    (header.first() == Some(&INFO_GET)).then(|| Info::read(rest))?
}

/// The number that devlink has on this kernel.
fn family(netlink: &mut Netlink) -> io::Result<u16> {
    let mut question = vec![GET_FAMILY, 1, 0, 0];
    attribute(&mut question, FAMILY_NAME, b"devlink\0");
    let answer = netlink.ask(CONTROL, 0, &question)?;
    answer
        .iter()
        .find_map(number_of)
        .ok_or_else(|| io::Error::other("the kernel names no number"))
}

fn number_of((kind, body): &Message) -> Option<u16> {
    let rest = body.get(HEADER..).filter(|_| *kind == CONTROL)?;
    let mut found = attributes(rest).filter(|(kind, _)| *kind == FAMILY_ID);
    let (_, value) = found.next()?;
    value.first_chunk().copied().map(u16::from_ne_bytes)
}

/// Claims about one device.
fn told(info: &Info) -> Vec<Claim> {
    let device = spelt(&info.device.replacen('/', "-", 1));
    let source = format!("{SOURCE} {}", info.device);
    let named = |what: &str, value| claim(&format!("nic.{device}.{what}"), &source, value);
    let mut claims = vec![named("driver", Value::Text(info.driver.clone()))];
    if let Some(serial) = &info.serial {
        claims.push(named("serial", Value::Text(serial.clone())));
    }
    claims.push(named("firmware-pending", Value::Flag(info.pending())));
    for (kind, name, version) in &info.versions {
        let claim = named(
            &format!("{kind}.{}", spelt(name)),
            Value::Text(version.clone()),
        );
        // A claim is made once.
        if claims.iter().all(|other| other.name != claim.name) {
            claims.push(claim);
        }
    }
    claims
}

/// With letters that a claim's name may have.
fn spelt(name: &str) -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c) => c,
        _ => '_',
    };
    name.chars().take(48).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(to: &mut Vec<u8>, kind: u16, name: &[u8], value: &[u8]) {
        let mut inside = Vec::new();
        attribute(&mut inside, 103, name);
        attribute(&mut inside, 104, value);
        attribute(to, kind | 0x8000, &inside);
    }

    /// What the kernel answers for a card of Mellanox's.
    fn card(stored: &[u8]) -> Vec<u8> {
        let mut body = vec![INFO_GET, 1, 0, 0];
        attribute(&mut body, 1, b"pci\0");
        attribute(&mut body, 2, b"0000:3b:00.0\0");
        attribute(&mut body, 98, b"mlx5_core\0");
        attribute(&mut body, 99, b"MT2146X00001\0");
        version(&mut body, 100, b"fw.psid\0", b"MT_0000000359\0");
        version(&mut body, 101, b"fw.version\0", b"22.36.1010\0");
        version(&mut body, 102, b"fw.version\0", stored);
        attribute(&mut body, 180, &[1; 4]);
        body
    }

    fn rows(body: &[u8]) -> Vec<(String, Value)> {
        let told = told(&read(body).unwrap()).into_iter();
        told.map(|claim| (claim.name, claim.value.unwrap()))
            .collect()
    }

    #[test]
    fn a_card_is_told_with_what_it_would_run_next() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (stored, pending) in [(&b"22.36.1010\0"[..], false), (b"22.41.1000\0", true)] {
            let shown = String::from_utf8_lossy(&stored[..stored.len() - 1]).into_owned();
            let want = [
                ("driver", text("mlx5_core")),
                ("serial", text("MT2146X00001")),
                ("firmware-pending", Value::Flag(pending)),
                ("fixed.fw.psid", text("MT_0000000359")),
                ("running.fw.version", text("22.36.1010")),
                ("stored.fw.version", text(&shown)),
            ];
            let want = want.map(|(name, value)| (format!("nic.pci-0000_3b_00.0.{name}"), value));
            assert_eq!(rows(&card(stored)), want, "{shown}");
        }
    }

    #[test]
    fn what_is_cut_or_strange_makes_no_claim_it_should_not() {
        let whole = card(b"22.36.1010\0");
        for length in 0..whole.len() {
            // Some of it may be missing; nothing of it is another's.
            let found = read(&whole[..length]).map(|info| told(&info));
            let names = found.iter().flatten().map(|claim| claim.name.as_str());
            assert!(
                names
                    .into_iter()
                    .all(|name| name.starts_with("nic.pci-0000_3b_00.0."))
            );
        }
        assert_eq!(read(&[INFO_GET, 1, 0, 0]), None, "no device");
        let mut other = whole.clone();
        other[0] = 52;
        assert_eq!(read(&other), None, "another answer");
        let mut twice = whole;
        version(&mut twice, 101, b"FW version\0", b"1\0");
        version(&mut twice, 101, b"fw_version\0", b"2\0");
        version(&mut twice, 101, b"no value", b"");
        for number in 0..100 {
            version(
                &mut twice,
                100,
                format!("n{number}").as_bytes(),
                &[b'x'; 600],
            );
        }
        let told = rows(&twice);
        let mut names: Vec<&String> = told.iter().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!((names.len(), count <= 3 + 64), (count, true), "each once");
        let long = |value: &Value| matches!(value, Value::Text(text) if text.len() > 128);
        assert!(!told.iter().any(|(_, value)| long(value)));
    }

    #[test]
    fn the_kernel_is_asked_and_what_it_says_is_kept_for_a_while() {
        let number = |kind: u16, id: &[u8]| {
            let mut body = vec![1, 2, 0, 0];
            attribute(&mut body, FAMILY_ID, id);
            number_of(&(kind, body))
        };
        assert_eq!(number(CONTROL, &23_u16.to_ne_bytes()), Some(23));
        assert_eq!(number(CONTROL, &[1]), None, "half a number");
        assert_eq!(
            number(17, &23_u16.to_ne_bytes()),
            None,
            "no answer of the control's"
        );
        // This machine's own kernel: whatever it has, the question is one it understands.
        assert!(devices().is_ok(), "{:?}", devices());
        let asked = Asked::default();
        let start = Instant::now();
        let kept = vec![claim("nic.devlink", SOURCE, Value::Flag(true))];
        *asked.0.lock().unwrap() = Some((start, kept.clone()));
        let says = |now| {
            let mut out = Vec::new();
            asked.claims(now, &mut out);
            out
        };
        assert_eq!(says(start + AGAIN - Duration::from_secs(1)), kept);
        assert_ne!(says(start + AGAIN), kept);
    }
}
