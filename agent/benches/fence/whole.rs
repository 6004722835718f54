//! The whole fence on a wire: nothing, ours, and nftables with the same set of countries, turn and
//! turn about in one run.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    ground::{Actor, Net, THERE},
    lookup::round,
    table::Prefix,
};

/// What the study may reach: the European Union.
pub(crate) const ALLOWED: [&str; 27] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT",
    "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK",
];

/// Turns of each; the median counts.
const TURNS: usize = 7;
const BATCHES: usize = 30;
const MILLIS: u64 = 400;

const NAMES: [&str; 3] = ["none", "ours", "nftables"];

/// What was measured of one way, turn by turn.
#[derive(Default)]
struct Seen {
    rtt: Vec<f64>,
    stream: Vec<f64>,
    udp: Vec<f64>,
}

/// Sender and receiver of one way.
struct Pair {
    sender: Actor,
    receiver: Actor,
}

impl Pair {
    fn new(cgroup: &Path, receiver: &Path, net: &Net) -> Result<Self> {
        let mut pair = Self {
            sender: Actor::new(cgroup, &net.inside)?,
            receiver: Actor::new(receiver, &net.outside)?,
        };
        // Each on a processor of its own.
        pair.sender.tell("cpu 0")?;
        pair.receiver.tell("cpu 1")?;
        pair.receiver.tell(&format!("serve {THERE}"))?;
        Ok(pair)
    }

    fn turn(&mut self, seen: &mut Seen) -> Result<()> {
        let Self { sender, receiver } = self;
        seen.rtt
            .push(sender.ask(&format!("rtt {THERE} {BATCHES}"))?);
        seen.stream
            .push(sender.ask(&format!("stream {THERE} {MILLIS}"))?);
        receiver.ask("received")?;
        let seconds = sender.ask(&format!("udp {THERE} {MILLIS}"))?;
        seen.udp.push(receiver.ask("received")? / seconds);
        Ok(())
    }
}

/// `fenced` is a cgroup of the study, `free` one outside of the fence.
pub(crate) fn measure(fenced: &Path, free: &Path, prefixes: &[Prefix]) -> Result<Value> {
    let nets = [Net::new("none")?, Net::new("ours")?, Net::new("nft")?];
    let [none, ours, nft] = &nets;
    let filtered = filter(&nft.inside, prefixes)
        .inspect_err(|error| eprintln!("   nftables is not measured: {error:#}"))
        .is_ok();
    let mut ways = vec![
        (Pair::new(free, free, none)?, Seen::default()),
        (Pair::new(fenced, free, ours)?, Seen::default()),
    ];
    if filtered {
        ways.push((Pair::new(free, free, nft)?, Seen::default()));
    }
    // One that is not counted, for whatever is slow the first time.
    for ((pair, _), name) in ways.iter_mut().zip(NAMES) {
        pair.turn(&mut Seen::default()).context(name)?;
    }
    for _ in 0..TURNS {
        for (pair, seen) in &mut ways {
            pair.turn(seen)?;
        }
    }
    let seen: Vec<&Seen> = ways.iter().map(|(_, seen)| seen).collect();
    let percent = |way: usize, what: fn(&Seen) -> &Vec<f64>| -> Option<f64> {
        let (base, found) = (seen.first()?, seen.get(way)?);
        // Of neighbours in time, so that what the machine does beside counts in both.
        let mut ratios: Vec<f64> = what(found)
            .iter()
            .zip(what(base))
            .map(|(found, base)| 100.0 * found / base)
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    };
    let rtt = |seen: &Seen| seen.rtt.iter().copied().fold(f64::INFINITY, f64::min);
    for (name, seen) in NAMES.iter().zip(&seen) {
        eprintln!("   {name}: {:.0} ns a round trip at best", rtt(seen));
    }
    Ok(json!({
        "rtt_overhead_pct": percent(1, |s| &s.rtt).map(|p| round(p - 100.0)),
        "throughput_pct": percent(1, |s| &s.stream).map(round),
        "udp64_pps_pct": percent(1, |s| &s.udp).map(round),
        "nft_rtt_overhead_pct": percent(2, |s| &s.rtt).map(|p| round(p - 100.0)),
        "nft_throughput_pct": percent(2, |s| &s.stream).map(round),
    }))
}

/// The same countries as two sets of intervals, asked in both directions.
fn filter(namespace: &str, prefixes: &[Prefix]) -> Result<()> {
    let mut rules = String::from("table inet geo {\n");
    for (set, kind, v4) in [("four", "ipv4_addr", true), ("six", "ipv6_addr", false)] {
        write!(
            rules,
            "set {set} {{ type {kind}; flags interval; elements = {{ "
        )?;
        let mut merged: Vec<(u128, u128)> = Vec::new();
        let mut own: Vec<(u128, u128)> = prefixes
            .iter()
            .filter(|prefix| prefix.is_v4() == v4)
            .filter(|prefix| ALLOWED.iter().any(|code| code.as_bytes() == prefix.code))
            .map(|prefix| (prefix.first, prefix.last))
            .collect();
        own.sort_unstable();
        for (first, last) in own {
            match merged.last_mut() {
                Some(before) if before.1.saturating_add(1) >= first => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        for (first, last) in merged {
            let text = |number: u128| -> Result<String> {
                Ok(if v4 {
                    let low = u32::try_from(number & u128::from(u32::MAX))?;
                    std::net::Ipv4Addr::from_bits(low).to_string()
                } else {
                    std::net::Ipv6Addr::from_bits(number).to_string()
                })
            };
            let (start, end) = (text(first)?, text(last)?);
            if start == end {
                write!(rules, "{start}, ")?;
            } else {
                write!(rules, "{start}-{end}, ")?;
            }
        }
        rules.push_str("} }\n");
    }
    rules.push_str(
        "chain out { type filter hook output priority 0; policy drop;\n\
         ip daddr @four accept\nip6 daddr @six accept\n}\n\
         chain into { type filter hook input priority 0; policy drop;\n\
         ip saddr @four accept\nip6 saddr @six accept\n}\n}\n",
    );
    let mut nft = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut to = nft.stdin.take().context("a pipe")?;
    to.write_all(rules.as_bytes())?;
    drop(to);
    let out = nft.wait_with_output()?;
    if !out.status.success() {
        let fault = String::from_utf8_lossy(&out.stderr);
        bail!("nft: {}", fault.lines().next().unwrap_or("no word of why"));
    }
    Ok(())
}
