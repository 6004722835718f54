//! Datagrams without a pause, to where a study may go and to where it may not, and what came of
//! them: what the sender was told, and what the receiving namespaces' kernels counted.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::scene::Scene;
use super::world::{self, GROUPS, PLACES, Place, World};
use crate::cmd;

/// Nobody reads what comes to this port, and nobody answers.
pub(super) const DISCARD: u16 = 9;

/// Where the first study may go with a lease, and where with none.
const MAY: &str = "host-de";
const MUST_NOT: &str = "host-us";

/// A sender at work; killed when dropped.
#[derive(Debug)]
pub struct Stream {
    child: Child,
    said: BufReader<ChildStdout>,
    before: [Wire; 2],
}

/// What a stream met with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Met {
    pub may: Side,
    pub must_not: Side,
    /// Sends that failed for a reason that is not the fence.
    pub otherwise: u64,
}

/// One of a stream's two directions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Side {
    /// The sender's kernel took them.
    pub sent: u64,
    /// The sender was refused.
    pub refused: u64,
    /// Counted by the receiving namespace.
    pub arrived: u64,
    /// Dropped by the cable's ends, which is nobody's verdict.
    pub lost: u64,
}

/// A cable's counters.
#[derive(Clone, Copy, Debug)]
struct Wire {
    received: u64,
    dropped: u64,
}

impl Stream {
    /// Starts it; datagrams flow when this returns.
    pub fn begin(scene: &Scene, world: &World) -> Result<Self> {
        let group = GROUPS.first().context("there is a study")?;
        let before = [counted(world, MAY)?, counted(world, MUST_NOT)?];
        let [may, must_not] =
            [place(MAY)?, place(MUST_NOT)?].map(|p| format!("{}:{DISCARD}", p.v4));
        let cgroup = scene.cgroup().join(group.cgroup);
        let mut child = world::inside(world.node(), Some(&cgroup), "stream")?
            .args([group.v4, &may, &must_not])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a stream")?;
        let said = BufReader::new(child.stdout.take().context("its stdout is piped")?);
        let mut stream = Self {
            child,
            said,
            before,
        };
        match stream.line()?.as_str() {
            "flows" => Ok(stream),
            other => bail!("a stream does not begin: {other:?}"),
        }
    }

    /// Ends it, and counts.
    pub fn end(mut self, world: &World) -> Result<Met> {
        drop(self.child.stdin.take());
        let line = self.line()?;
        let told: Vec<u64> = line
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("a stream said {line:?}"))?;
        let [may_sent, may_refused, sent, refused, otherwise] = told[..] else {
            bail!("a stream said {line:?}");
        };
        // What is on its way arrives within this machine's microseconds.
        thread::sleep(Duration::from_millis(300));
        let [may, must_not] = &self.before;
        Ok(Met {
            may: Side::of((may_sent, may_refused), *may, counted(world, MAY)?),
            must_not: Side::of((sent, refused), *must_not, counted(world, MUST_NOT)?),
            otherwise,
        })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.said.read_line(&mut line).context("hear a stream")?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It has ended by itself, if it was told to.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Side {
    fn of((sent, refused): (u64, u64), before: Wire, after: Wire) -> Self {
        Self {
            sent,
            refused,
            arrived: after.received.saturating_sub(before.received),
            lost: after.dropped.saturating_sub(before.dropped),
        }
    }

    fn json(self) -> Value {
        json!({
            "sent": self.sent,
            "refused": self.refused,
            "arrived": self.arrived,
            "lost": self.lost,
        })
    }
}

impl Met {
    /// Every datagram was judged as it had to be, and there were some of both.
    pub fn as_expected(&self) -> bool {
        let Self {
            may,
            must_not,
            otherwise,
        } = self;
        may.sent > 0
            && may.refused == 0
            && may.arrived > 0
            && may.arrived + may.lost >= may.sent
            && must_not.refused > 0
            && must_not.sent == 0
            && must_not.arrived == 0
            && *otherwise == 0
    }

    /// Datagrams that were judged otherwise than they had to be.
    pub fn misjudged(&self) -> u64 {
        let got_out = self.must_not.arrived.max(self.must_not.sent);
        self.may.refused + got_out
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "allowed": self.may.json(),
            "denied": self.must_not.json(),
            "misjudged": self.misjudged(),
        })
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            may,
            must_not,
            otherwise,
        } = self;
        write!(
            f,
            "allowed: {} sent, {} arrived, {} refused, {} lost; denied: {} refused, {} sent, {} \
             arrived",
            may.sent,
            may.arrived,
            may.refused,
            may.lost,
            must_not.refused,
            must_not.sent,
            must_not.arrived
        )?;
        match otherwise {
            0 => Ok(()),
            failed => write!(f, "; {failed} sends failed otherwise"),
        }
    }
}

fn place(name: &str) -> Result<&'static Place> {
    let mut places = PLACES.iter();
    places
        .find(|place| place.name == name)
        .with_context(|| format!("there is no {name}"))
}

/// As the kernel of the receiving namespace counts: IP packets that came in, before anything looks
/// at them; and what either end of the cable could not hand over.
fn counted(world: &World, place: &str) -> Result<Wire> {
    let far = world.namespace(place)?;
    let ask = |namespace: &str, file: &str| {
        let table = format!("/proc/thread-self/net/{file}");
        let nsenter = format!("--net=/run/netns/{namespace}");
        cmd::output(cmd::command("nsenter").args([&nsenter, "--", "cat", &table]))
    };
    let received = received(&ask(far, "snmp")?).context("how many packets came in")?;
    let node = dropped(&ask(world.node(), "dev")?, place).context("the node's end of a cable")?;
    let there = dropped(&ask(far, "dev")?, "up0").context("a host's end of a cable")?;
    Ok(Wire {
        received,
        dropped: node + there,
    })
}

/// `InReceives` of the two `Ip:` lines of `net/snmp`: names, then numbers.
fn received(table: &str) -> Option<u64> {
    let mut lines = table.lines().filter(|line| line.starts_with("Ip: "));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let mut columns = names.split(' ').zip(numbers.split(' '));
    let (_, number) = columns.find(|(name, _)| *name == "InReceives")?;
    number.parse().ok()
}

/// What a device could not hand over, in and out, by `net/dev`.
pub fn dropped(table: &str, device: &str) -> Option<u64> {
    let numbers = table.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix(device)?;
        rest.strip_prefix(':')
    })?;
    let fields: Vec<u64> = numbers
        .split_whitespace()
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    // Received: bytes, packets, errors, dropped; sent: from the ninth on.
    Some(fields.get(3)? + fields.get(11)?)
}

#[cfg(test)]
mod tests {
    use super::{Met, Side, dropped, received};

    #[test]
    fn one_datagram_judged_otherwise_is_noticed() {
        let met = Met {
            may: Side {
                sent: 10,
                arrived: 9,
                lost: 1,
                ..Side::default()
            },
            must_not: Side {
                refused: 10,
                ..Side::default()
            },
            otherwise: 0,
        };
        type Change = fn(&mut Met);
        let rows: [(&str, Change, bool, u64); 9] = [
            ("as it must be", |_| {}, true, 0),
            ("one allowed was refused", |m| m.may.refused = 1, false, 1),
            ("one allowed is missing", |m| m.may.arrived = 8, false, 0),
            ("nothing was sent", |m| m.may = Side::default(), false, 0),
            ("one denied arrived", |m| m.must_not.arrived = 1, false, 1),
            ("one denied was sent", |m| m.must_not.sent = 1, false, 1),
            (
                "and arrived",
                |m| (m.must_not.sent, m.must_not.arrived) = (1, 1),
                false,
                1,
            ),
            ("none was denied", |m| m.must_not.refused = 0, false, 0),
            ("the socket broke", |m| m.otherwise = 1, false, 0),
        ];
        for (name, change, good, misjudged) in rows {
            let mut met = met;
            change(&mut met);
            assert_eq!(met.as_expected(), good, "{name}");
            assert_eq!(met.misjudged(), misjudged, "{name}");
        }
    }

    #[test]
    fn counters_are_read_by_name() {
        let snmp =
            "Ip: Forwarding DefaultTTL InReceives InHdrErrors\nIp: 1 64 77 0\nIcmp: InMsgs\n";
        assert_eq!(received(snmp), Some(77));
        assert_eq!(received("Ip: Forwarding\nIp: 1\n"), None);
        assert_eq!(received("Ip: InReceives\n"), None);
        let dev = "Inter-|   Receive\n face |bytes\n  up0: 1 2 3 40 5 6 7 8 9 10 11 2 13 14 15 16\n \
                   up01: 0 0 0 9 0 0 0 0 0 0 0 9 0 0 0 0\n";
        assert_eq!(dropped(dev, "up0"), Some(42));
        assert_eq!(dropped(dev, "up01"), Some(18));
        assert_eq!(dropped(dev, "up"), None);
        assert_eq!(dropped("up0: 1 2 3\n", "up0"), None);
    }
}
