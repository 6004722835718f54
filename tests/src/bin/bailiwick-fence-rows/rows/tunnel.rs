//! Tunnels of the workload's own: what goes in may go where it says, and where the tunnel ends is
//! another matter. The outer packet belongs to no socket of its own, so that no cgroup hook sees it.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{DE, DE6, US, US6};
use crate::act::{Shot, Technique};
use crate::ground::Side;
use crate::net::{self, WIRE};
use crate::play::{CARDIO, Play};
use crate::policy::{HOST_FENCE, Terms};
use crate::row::Row;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        13,
        "vxlan-outer",
        "a tunnel of the workload's own: allowed inside, forbidden outside",
        vxlan,
    ),
    Row::new(
        13,
        "vxlan6-outer",
        "the same with IPv6 outside, and Geneve in both families",
        ethernet,
    )
    .in_vm(),
    Row::new(
        13,
        "gre-outer",
        "GRE, of packets and of frames, in both families",
        gre,
    )
    .in_vm(),
    Row::new(
        13,
        "sit-outer",
        "IP in IP without another header: IPv6 in IPv4, and the three others",
        bare,
    )
    .in_vm(),
    Row::new(
        13,
        "fou-outer",
        "IP in IP and GRE behind UDP, with a header of its own (GUE) and without",
        behind_udp,
    )
    .in_vm(),
    Row::new(
        13,
        "wireguard-outer",
        "what the kernel encrypts: the handshake, and a session that moves to another end",
        wireguard,
    )
    .in_vm(),
];

/// The device; one at a time.
const TUNNEL: &str = "tunnel";
/// Both ends, in what `ip link add` is told.
const ENDS: &str = "remote {remote} local {local}";
/// Where what goes into a tunnel says that it goes, by family.
const INNER: &str = "192.0.2.99";
const INNER6: &str = "2001:db8:1::99";

/// What is inside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Inside {
    /// Frames with IPv4.
    Frames,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Inside {
    fn target(self) -> &'static str {
        match self {
            Self::Frames | Self::V4 => INNER,
            Self::V6 => INNER6,
        }
    }

    /// What leads there by the tunnel.
    fn route(self) -> String {
        match self {
            // Who that is need not be asked.
            Self::Frames => format!(
                "route add {INNER}/32 dev {TUNNEL} src 10.9.1.1\n\
                 neigh replace {INNER} lladdr 02:00:00:00:00:63 nud permanent dev {TUNNEL}\n"
            ),
            Self::V4 => format!("route add {INNER}/32 dev {TUNNEL} src 10.9.1.1\n"),
            Self::V6 => format!("route add {INNER6}/128 dev {TUNNEL} src 2001:db8:9::1\n"),
        }
    }
}

/// A tunnel to where one may not be, and to where one may. `options` is what `ip link add` is told,
/// with `{remote}` and `{local}` for its ends.
fn tunnel(play: &mut Play<'_>, six: bool, inside: Inside, options: &str) -> Result<()> {
    let (ends, local) = if six {
        ([(US6, false), (DE6, true)], "2001:db8:9::1")
    } else {
        ([(US, false), (DE, true)], "10.9.1.1")
    };
    for (remote, may) in ends {
        let options = options
            .replace("{remote}", remote)
            .replace("{local}", local);
        let add = format!("link add {TUNNEL} type {options}");
        for side in [Side::Open, Side::Fenced] {
            let job = play.ground.net(side).job.clone();
            net::within(&job, || {
                net::ip(&add)?;
                net::ip(&format!(
                    "link set {TUNNEL} addrgenmode none\nlink set {TUNNEL} up\n{}",
                    inside.route()
                ))
            })?;
            play.ground.hush()?;
            let shot = Shot::at(inside.target());
            let fired = play.ground.fire(side, CARDIO, Technique::Udp, &shot);
            net::within(&job, || net::ip(&format!("link delete {TUNNEL}")))?;
            let (tried, arrived) = fired?;
            match (side, may) {
                (Side::Open, _) => play.would_leak(&options, arrived.len()),
                (Side::Fenced, false) => play.counted(&tried, arrived.len())?,
                (Side::Fenced, true) if arrived.is_empty() => {
                    let line = format!("{options}: does not pass, and may");
                    play.outcome.wrong(line);
                }
                (Side::Fenced, true) => play.outcome.saw(format!("{options}: passes")),
            }
        }
    }
    Ok(())
}

fn vxlan(play: &mut Play<'_>) -> Result<()> {
    let options = format!("vxlan id 7 {ENDS} dstport 4789 dev {WIRE}");
    tunnel(play, false, Inside::Frames, &options)
}

fn ethernet(play: &mut Play<'_>) -> Result<()> {
    let vxlan = format!("vxlan id 7 {ENDS} dstport 4789 dev {WIRE}");
    tunnel(play, true, Inside::Frames, &vxlan)?;
    for six in [false, true] {
        // It has no end of its own: the route says where from.
        tunnel(play, six, Inside::Frames, "geneve id 7 remote {remote}")?;
    }
    Ok(())
}

fn gre(play: &mut Play<'_>) -> Result<()> {
    tunnel(play, false, Inside::V4, &format!("gre {ENDS} key 7"))?;
    tunnel(play, false, Inside::Frames, &format!("gretap {ENDS}"))?;
    tunnel(play, true, Inside::V4, &format!("ip6gre {ENDS}"))?;
    tunnel(play, true, Inside::Frames, &format!("ip6gretap {ENDS}"))
}

fn bare(play: &mut Play<'_>) -> Result<()> {
    tunnel(play, false, Inside::V6, &format!("sit {ENDS}"))?;
    tunnel(play, false, Inside::V4, &format!("ipip {ENDS}"))?;
    tunnel(play, true, Inside::V6, &format!("ip6tnl {ENDS} mode any"))?;
    tunnel(play, true, Inside::V4, &format!("ip6tnl {ENDS} mode any"))
}

fn behind_udp(play: &mut Play<'_>) -> Result<()> {
    for way in ["fou", "gue"] {
        let encap = format!("encap {way} encap-sport 5555 encap-dport 5556");
        tunnel(play, false, Inside::V4, &format!("ipip {ENDS} {encap}"))?;
        tunnel(play, false, Inside::V4, &format!("gre {ENDS} {encap}"))?;
    }
    let encap = "encap fou encap-sport 5555 encap-dport 5556";
    tunnel(
        play,
        true,
        Inside::V4,
        &format!("ip6tnl {ENDS} mode any {encap}"),
    )
}

const WG_PORT: u16 = 51820;

/// Its packets are the kernel's own, and the host fence names whose they are.
fn wireguard(play: &mut Play<'_>) -> Result<()> {
    // Of nobody that is named: not even to where the study may.
    wg_device(play, None)?;
    let mut host = HOST_FENCE.to_owned();
    for (name, address) in [("wg-de", DE), ("wg-us", US)] {
        host += &format!(
            "[[kernel]]\nname = \"{name}\"\naddress = \"{address}/32\"\nprotocol = \"udp\"\n\
             ports = \"{WG_PORT}\"\nstudy = \"cardio\"\n"
        );
    }
    let terms = Terms::default().with("host-fence.toml", host);
    play.ground.apply(&terms)?;
    let done = wg_device(play, Some(US)).and_then(|()| wg_device(play, Some(DE)));
    play.ground.apply(&Terms::default())?;
    done
}

/// A device with one peer, who answers. Named as the study's, `first` is where the peer is at
/// first: from where one may, the session moves to where one may not.
fn wg_device(play: &mut Play<'_>, first: Option<&str>) -> Result<()> {
    let may = first == Some(DE);
    let end = first.unwrap_or(DE);
    for side in [Side::Open, Side::Fenced] {
        let (job, world) = {
            let net = play.ground.net(side);
            (net.job.clone(), net.world.clone())
        };
        let keys = Keys::draw(&play.ground.folder())?;
        net::within(&world, || {
            net::ip("link add wg type wireguard\nlink set wg up\n")?;
            wg(&format!(
                "set wg listen-port {WG_PORT} private-key {} peer {} allowed-ips 10.9.1.1/32",
                keys.theirs, keys.our_public
            ))
        })?;
        net::within(&job, || {
            net::ip(&format!(
                "link add {TUNNEL} type wireguard\nlink set {TUNNEL} addrgenmode none\n\
                 link set {TUNNEL} up\n{}",
                Inside::V4.route()
            ))?;
            wg(&format!(
                "set {TUNNEL} private-key {} peer {} allowed-ips {INNER}/32 endpoint {end}:{WG_PORT}",
                keys.ours, keys.their_public
            ))
        })?;
        let played = wg_play(play, side, may, &keys);
        for (space, device) in [(&job, TUNNEL), (&world, "wg")] {
            net::within(space, || net::ip(&format!("link delete {device}")))?;
        }
        played?;
    }
    Ok(())
}

fn wg_play(play: &mut Play<'_>, side: Side, may: bool, keys: &Keys) -> Result<()> {
    let shot = Shot::at(INNER);
    play.ground.hush()?;
    let (tried, arrived) = play.ground.fire(side, CARDIO, Technique::Udp, &shot)?;
    match (side, may) {
        (Side::Open, _) => play.would_leak("a handshake", arrived.len()),
        (Side::Fenced, false) => return play.counted(&tried, arrived.len()),
        (Side::Fenced, true) if arrived.is_empty() => {
            play.outcome
                .wrong("a handshake to where one may does not pass");
        }
        (Side::Fenced, true) => play.outcome.saw(format!(
            "WireGuard to where one may: {} packets",
            arrived.len()
        )),
    }
    if !may {
        return Ok(());
    }
    // The session stands. Data to another end takes no further handshake.
    let job = play.ground.net(side).job.clone();
    net::within(&job, || {
        wg(&format!(
            "set {TUNNEL} peer {} endpoint {US}:{WG_PORT}",
            keys.their_public
        ))
    })?;
    play.ground.hush()?;
    let (tried, arrived) = play.ground.fire(side, CARDIO, Technique::Udp, &shot)?;
    // A word from the old end, in the meantime, would move it back.
    let there = [198, 51, 100, 7];
    let moved = arrived
        .iter()
        .filter(|frame| frame.get(30..34) == Some(&there));
    match side {
        Side::Open => play.would_leak("a session that moved", moved.count()),
        Side::Fenced => play.counted(&tried, moved.count())?,
    }
    Ok(())
}

/// Of both ends: files with the private halves, and the public halves.
struct Keys {
    ours: String,
    theirs: String,
    our_public: String,
    their_public: String,
}

impl Keys {
    fn draw(folder: &std::path::Path) -> Result<Self> {
        let draw = |name: &str| -> Result<(String, String)> {
            let file = folder.join(name);
            let private = wg_says("genkey", "")?;
            fs::write(&file, &private).context("keep a key")?;
            Ok((file.display().to_string(), wg_says("pubkey", &private)?))
        };
        let (ours, our_public) = draw("wg-ours")?;
        let (theirs, their_public) = draw("wg-theirs")?;
        Ok(Self {
            ours,
            theirs,
            our_public,
            their_public,
        })
    }
}

fn wg(words: &str) -> Result<()> {
    wg_says(words, "").map(drop)
}

/// Runs `wg` of wireguard-tools in this thread's namespace.
fn wg_says(words: &str, input: &str) -> Result<String> {
    let mut child = Command::new("wg")
        .args(words.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start wg, of wireguard-tools")?;
    if let Some(mut to) = child.stdin.take() {
        to.write_all(input.as_bytes()).context("write to wg")?;
    }
    let out = child.wait_with_output().context("wait for wg")?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "wg: {}: in {words:?}", said.trim());
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
