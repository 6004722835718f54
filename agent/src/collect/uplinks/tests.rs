//! In a network namespace of the test's own: a pair of `veth`, at whose other end a switch speaks.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;

fn ip(arguments: &str) {
    let out = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(out.status.success(), "ip {arguments}: {out:?}");
}

/// A frame from the switch, as it goes over the wire.
fn frame(to: [u8; 6], ethertype: u16, port: &str, ttl: u16) -> Vec<u8> {
    let tlv = |kind: u16, content: &[u8]| {
        let head = kind << 9 | u16::try_from(content.len()).unwrap();
        [head.to_be_bytes().as_slice(), content].concat()
    };
    [
        &to[..],
        &[2, 0, 0, 0, 0, 9],
        &ethertype.to_be_bytes(),
        &tlv(1, &[4, 2, 0, 0, 0, 0, 9]),
        &tlv(2, &[b"\x05", port.as_bytes()].concat()),
        &tlv(3, &ttl.to_be_bytes()),
        &tlv(5, b"leaf-12"),
        &[0; 32],
    ]
    .concat()
}

fn value(claims: &[Claim], name: &str) -> Option<Value> {
    let found = claims.iter().find(|claim| claim.name == name);
    found.and_then(|claim| claim.value.clone())
}

fn text(text: &str) -> Option<Value> {
    Some(Value::Text(text.to_owned()))
}

/// Looks until the claim is so; frames cross a `veth` at once, or a moment later.
fn until(uplinks: &mut Uplinks, now: Instant, name: &str, want: &Option<Value>) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let found = value(&uplinks.look(now), name);
        if found == *want {
            return;
        }
        assert!(Instant::now() < deadline, "{name}: {found:?}, not {want:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_switch_at_the_other_end_is_told_and_missed() {
    // SAFETY: file descriptors are not shared otherwise by a new network namespace.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    // So that longer frames than Ethernet has get through.
    ip("link add up0 mtu 3000 type veth peer name far0 mtu 3000");
    ip("address add 10.9.1.5/24 dev up0");
    ip("address add 2001:db8::5/64 dev up0 nodad");
    ip("address add 10.8.0.1/24 dev far0");
    ip("link set up0 up");
    ip("link set far0 up");
    let start = Instant::now();
    let mut uplinks = Uplinks::new(Devices::Named(["up0".to_owned()].into()));
    let claims = uplinks.look(start);
    assert_eq!(
        value(&claims, "uplink.up0.neighbours"),
        Some(Value::Unavailable("nobody heard yet".to_owned()))
    );
    let addresses = value(&claims, "uplink.addresses");
    assert_eq!(
        addresses,
        text("10.9.1.5, 2001:db8::5"),
        "and not the other end's"
    );

    let far = links::list(&mut Netlink::new().unwrap()).unwrap();
    let far = far.iter().find(|link| link.name == "far0").unwrap().index;
    let say = |bytes: &[u8]| packet::send(far, bytes).unwrap();
    // Not this protocol, cut short, too long: none of it is a neighbour.
    let [group, _, other_group] = GROUPS;
    say(&frame(group, 0x88cd, "other", 120));
    say(&frame(group, LLDP_ETHERTYPE, "cut", 120)[..30]);
    say(&[&frame(group, LLDP_ETHERTYPE, "long", 120)[..], &[0; 1500]].concat());
    say(&frame(group, LLDP_ETHERTYPE, "Ethernet1/3", 120));
    let name = "uplink.up0.neighbours";
    let one = text("mac 02:00:00:00:00:09 ifname Ethernet1/3");
    until(&mut uplinks, start, name, &one);
    assert_eq!(
        value(&uplinks.look(start), "uplink.up0.systems"),
        text("leaf-12")
    );

    // Moved to another port: for a while both count, then the old one is gone.
    let later = start + Duration::from_secs(60);
    say(&frame(other_group, LLDP_ETHERTYPE, "Ethernet1/4", 120));
    let both = "mac 02:00:00:00:00:09 ifname Ethernet1/3, mac 02:00:00:00:00:09 ifname Ethernet1/4";
    until(&mut uplinks, later, name, &text(both));
    let later = start + Duration::from_secs(121);
    let moved = text("mac 02:00:00:00:00:09 ifname Ethernet1/4");
    assert_eq!(value(&uplinks.look(later), name), moved);
    say(&frame(group, LLDP_ETHERTYPE, "Ethernet1/4", 0));
    until(
        &mut uplinks,
        later + Duration::from_secs(4),
        name,
        &text("none"),
    );

    // Another device of that name is another wire.
    ip("link delete up0");
    assert_eq!(value(&uplinks.look(later), name), None);
    assert!(uplinks.ears.is_empty());
    ip("link add up0 type veth peer name far0");
    let unknown = value(&uplinks.look(later), name);
    assert!(
        matches!(unknown, Some(Value::Unavailable(_))),
        "{unknown:?}"
    );

    assert_eq!(Uplinks::new(Devices::Named([].into())).look(start), []);
}
