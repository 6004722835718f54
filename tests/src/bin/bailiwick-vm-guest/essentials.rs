//! What a host cannot do without, by name: a client of DHCP, neighbours asked for, the management
//! plane reached by whom the host fence lets. Studies have none of it.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::Told;
use crate::fence::SEEN;
use crate::wire::{DATAGRAMS, MANAGEMENT, Way, World};

/// Asks once, by packet sockets, as clients without an address do.
const CLIENT: [&str; 12] = [
    "udhcpc",
    "-i",
    "up0",
    "-n",
    "-q",
    "-f",
    "-t",
    "2",
    "-T",
    "1",
    "-s",
    "/bin/true",
];
const BROADCAST: &str = "255.255.255.255";

/// Who, and whether a client of theirs is heard.
const CLIENTS: [(&str, bool); 3] = [
    ("/system.slice/dhcp.service", true),
    ("/studies/cardio", false),
    ("/other", false),
];
/// Likewise the management plane. `ssh` has it among its prefixes.
const MANAGERS: [(&str, bool); 4] = [
    ("/system.slice/bmc.service", true),
    ("/system.slice/ssh.service", false),
    ("/studies/cardio", false),
    ("/other", false),
];
/// Of whom nobody is told where they are: the kernel has to ask, and to hear the answer. Last: whom
/// it asks for the second, a group of IPv6.
const NEIGHBOURS: [(&str, &str); 2] = [
    ("192.0.2.10", "224.0.0.1"),
    ("2001:db8:49::10", "ff02::1:ff00:10"),
];

/// Without a fence all of it arrives, or it would show nothing.
pub(crate) fn unfenced(told: &mut Told, world: &World) -> Result<()> {
    let everybody = |all: &[(&'static str, bool)]| -> Vec<(&'static str, bool)> {
        all.iter().map(|(cgroup, _)| (*cgroup, true)).collect()
    };
    dhcp(
        told,
        world,
        "unfenced, a client of DHCP is heard",
        &everybody(&CLIENTS),
    )?;
    let name = "unfenced, the management plane is reached";
    management(told, world, name, &everybody(&MANAGERS))?;
    neighbours(
        told,
        world,
        "unfenced, neighbours are asked for, and answer",
    )
}

pub(crate) fn fenced(told: &mut Told, world: &World) -> Result<()> {
    let name = "a client of DHCP is heard from a host service alone";
    dhcp(told, world, name, &CLIENTS)?;
    let name = "the management plane is reached by whom it is named for alone";
    management(told, world, name, &MANAGERS)?;
    neighbours(told, world, "neighbours are asked for, and answer")
}

fn dhcp(told: &mut Told, world: &World, name: &str, clients: &[(&str, bool)]) -> Result<()> {
    let to: IpAddr = BROADCAST.parse().context("an address")?;
    let mut found = Vec::new();
    for (cgroup, heard) in clients {
        found.push((*cgroup, *heard, world.during(cgroup, &CLIENT, to)?));
    }
    let good = found
        .iter()
        .all(|(_, heard, arrived)| (*arrived > 0) == *heard);
    told.check(name, good, json!(found))
}

fn management(told: &mut Told, world: &World, name: &str, who: &[(&str, bool)]) -> Result<()> {
    let mut found = Vec::new();
    for way in [Way::Datagrams, Way::Frames] {
        for (cgroup, may) in who {
            let arrived = world.try_by(way, cgroup, MANAGEMENT)?;
            let want = if *may { way.packets() } else { 0 };
            found.push((*cgroup, want, arrived));
        }
    }
    let good = found.iter().all(|(_, want, arrived)| want == arrived);
    told.check(name, good, json!(found))
}

fn neighbours(told: &mut Told, world: &World, name: &str) -> Result<()> {
    let mut found = Vec::new();
    for (address, group) in NEIGHBOURS {
        let group: IpAddr = group.parse().context("an address")?;
        let before = world.arrived(group);
        world.forget(address)?;
        let mut arrived = world.try_by(Way::Datagrams, "/studies/cardio", address)?;
        let deadline = Instant::now() + SEEN;
        while arrived == 0 && Instant::now() < deadline {
            arrived = world.try_by(Way::Datagrams, "/studies/cardio", address)?;
        }
        found.push((address, arrived, world.arrived(group) - before));
        world.remember(address)?;
    }
    let good = found.iter().all(|(address, arrived, asked)| {
        *arrived == u64::from(DATAGRAMS) && (*asked > 0) == address.contains(':')
    });
    told.check(name, good, json!(found))
}
