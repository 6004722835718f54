use super::*;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

fn tag(number: u8, at: u64) -> Tag {
    Tag {
        digest: Sha256Digest([number; 32]),
        at: UnixTime(at),
        until: UnixTime(at + 360 * DAY),
    }
}

fn around(neighbours: &[(&str, &[&str])], addresses: &[&str]) -> Surroundings {
    let sets = neighbours.iter().map(|(device, each)| {
        let each = each.iter().map(|one| (*one).to_owned()).collect();
        ((*device).to_owned(), each)
    });
    Surroundings {
        neighbours: sets.collect(),
        addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
    }
}

fn home() -> Surroundings {
    around(
        &[("eth0", &["leaf-1 e1"]), ("eth1", &["leaf-2 e1"])],
        &["10.0.0.5"],
    )
}

fn shown(tag: Result<Tag, &str>, around: Surroundings) -> ShownPlace {
    ShownPlace {
        tag: tag.map_err(str::to_owned),
        around,
        affirmed: true,
    }
}

/// A place that has settled.
fn settled() -> Place {
    let first = shown(Ok(tag(1, 0)), home());
    Place::after(None, &first, UnixTime(MINUTE)).unwrap()
}

/// After a statement at that time.
fn then(place: Place, new: &ShownPlace, at: u64) -> Place {
    Place::after(Some(place), new, UnixTime(at)).unwrap()
}

fn codes(place: &Place, at: u64) -> Vec<&'static str> {
    let found = conditions(place, |_| false, None, UnixTime(at));
    found.iter().map(|condition| condition.code).collect()
}

#[test]
fn surroundings_are_read_from_claims() {
    let text = |name: &str, text: &str| (name.to_owned(), ClaimValue::Text(text.to_owned()));
    let silent = ClaimValue::Unavailable("nobody heard yet".to_owned());
    let claims = BTreeMap::from([
        text("uplink.eth0.neighbours", "leaf-1 e1, leaf-1 e2"),
        text("uplink.eth0.systems", "leaf-1"),
        text("uplink.eth1.neighbours", "none"),
        ("uplink.eth2.neighbours".to_owned(), silent),
        text("uplink.addresses", "10.0.0.5, 2001:db8::5, nonsense"),
        text("kernel.release", "6.1"),
    ]);
    let neighbours: &[(&str, &[&str])] = &[("eth0", &["leaf-1 e1", "leaf-1 e2"]), ("eth1", &[])];
    let want = around(neighbours, &["10.0.0.5", "2001:db8::5"]);
    assert_eq!(Surroundings::of(&claims), want);
}

#[test]
fn another_switch_or_address_is_told_until_it_is_back() {
    let moved = around(
        &[("eth0", &["leaf-9 e1"]), ("eth1", &["leaf-2 e1"])],
        &["10.0.0.5"],
    );
    let both = around(
        &[
            ("eth0", &["leaf-1 e1", "rogue e1"]),
            ("eth1", &["leaf-2 e1"]),
        ],
        &["10.0.0.5"],
    );
    let new_port = around(
        &[
            ("eth0", &["leaf-1 e1"]),
            ("eth1", &["leaf-2 e1"]),
            ("eth2", &["leaf-3 e1"]),
        ],
        &["10.0.0.5"],
    );
    let neighbours: &[(&str, &[&str])] = &[("eth0", &["leaf-1 e1"]), ("eth1", &["leaf-2 e1"])];
    let quiet: &[(&str, &[&str])] = &[("eth0", &["leaf-1 e1"]), ("eth1", &[])];
    let untold: &[(&str, &[&str])] = &[("eth0", &["leaf-1 e1"])];
    let rows: &[(&str, Surroundings, &[&str])] = &[
        ("as it was", home(), &[]),
        ("another switch", moved, &["place-changed"]),
        ("one more at the same wire", both, &["place-changed"]),
        ("a wire more", new_port, &["place-changed"]),
        (
            "one fell silent",
            around(quiet, &["10.0.0.5"]),
            &["place-missing"],
        ),
        (
            "one is not told",
            around(untold, &["10.0.0.5"]),
            &["place-missing"],
        ),
        (
            "another address",
            around(neighbours, &["10.0.0.6"]),
            &["place-changed"],
        ),
        (
            "one more address",
            around(neighbours, &["10.0.0.5", "192.0.2.7"]),
            &["place-changed"],
        ),
        ("no address told", around(neighbours, &[]), &[]),
    ];
    for (name, seen, want) in rows {
        let at = 30 * MINUTE;
        let other = then(settled(), &shown(Ok(tag(1, 0)), seen.clone()), at);
        assert_eq!(codes(&other, at), *want, "{name}");
        let since = (!want.is_empty()).then_some(UnixTime(at));
        assert_eq!(other.differs, since, "{name}");
        let (first, same) = (
            other.differs,
            then(other.clone(), &shown(Ok(tag(1, 0)), seen.clone()), at + 1),
        );
        assert_eq!(same.differs, first, "{name}: since it began");
        assert_eq!(
            codes(&same, at + 1),
            *want,
            "{name}: nobody gets used to it"
        );
        let back = then(same, &shown(Ok(tag(1, 0)), home()), at + 2);
        assert_eq!(
            (codes(&back, at + 2), back.differs),
            (vec![], None),
            "{name}: back"
        );
    }
}

#[test]
fn words_name_what_is_there_and_what_was() {
    let moved = around(
        &[("eth0", &["leaf-9 e4"]), ("eth1", &["leaf-2 e1"])],
        &["10.0.0.9"],
    );
    let place = then(settled(), &shown(Ok(tag(1, 0)), moved), 30 * MINUTE);
    let found = conditions(&place, |_| false, None, UnixTime(31 * MINUTE));
    let want = "beside it is leaf-9 e4 at eth0, address 10.0.0.9, in place of leaf-1 e1 at eth0, \
                which was not there when its geotag was first shown";
    assert_eq!(found[0].what, want);
    assert_eq!(found[0].since, UnixTime(30 * MINUTE));
    let own = |address: &IpAddr| address.to_string() == "10.0.0.9";
    let found = conditions(&place, own, None, UnixTime(31 * MINUTE));
    assert!(
        !found[0].what.contains("10.0.0.9"),
        "the inventory's: {}",
        found[0].what
    );
}

#[test]
fn what_belongs_to_a_place_is_what_its_first_minutes_showed() {
    let first = around(&[("eth0", &[])], &[]);
    let place = Place::after(None, &shown(Ok(tag(1, 0)), first), UnixTime(0)).unwrap();
    let place = then(place, &shown(Ok(tag(1, 0)), home()), 9 * MINUTE);
    assert_eq!(
        (place.expected.clone(), codes(&place, 9 * MINUTE)),
        (home(), vec![])
    );

    let late = around(&[("eth0", &[])], &[]);
    let mut place = Place::after(None, &shown(Ok(tag(1, 0)), late), UnixTime(0)).unwrap();
    place = then(place, &shown(Ok(tag(1, 0)), home()), 10 * MINUTE);
    assert_eq!(codes(&place, 10 * MINUTE), ["place-changed"], "too late");

    // An agent that could not tell before.
    let nothing = shown(Ok(tag(1, 0)), Surroundings::default());
    let place = Place::after(None, &nothing, UnixTime(0)).unwrap();
    let place = then(place, &shown(Ok(tag(1, 0)), home()), DAY);
    assert_eq!(place.expected, home());

    // Nothing is learned from a statement that nobody affirmed.
    let doubtful = ShownPlace {
        affirmed: false,
        ..shown(Ok(tag(1, 0)), home())
    };
    assert_eq!(Place::after(None, &doubtful, UnixTime(0)), None);
    let place = Place::after(None, &nothing, UnixTime(0)).unwrap();
    let place = then(place, &doubtful, MINUTE);
    assert_eq!(
        (place.expected, place.shown),
        (Surroundings::default(), home())
    );
    assert_eq!(
        Place::after(None, &shown(Err("geotag-absent"), home()), UnixTime(0)),
        None
    );
}

#[test]
fn a_later_geotag_begins_anew_and_an_earlier_one_does_not() {
    let moved = around(&[("eth0", &["leaf-9 e1"])], &["192.0.2.7"]);
    let at = 30 * MINUTE;
    let renewed = then(
        settled(),
        &shown(Ok(tag(2, 20 * MINUTE)), moved.clone()),
        at,
    );
    assert_eq!(
        (renewed.expected.clone(), codes(&renewed, at)),
        (moved.clone(), vec![])
    );
    // Root locks the old one in again, which has not ended.
    let older = then(renewed, &shown(Ok(tag(1, 0)), home()), at + 1);
    assert_eq!(older.expected, moved);
    assert_eq!(codes(&older, at + 1), ["geotag-gone", "place-changed"]);
    let doubtful = ShownPlace {
        affirmed: false,
        ..shown(Ok(tag(2, 20 * MINUTE)), moved)
    };
    let kept = then(settled(), &doubtful, at);
    assert_eq!(kept.tag, tag(1, 0), "nobody affirmed it");
    let gone = then(settled(), &shown(Err("geotag-absent"), home()), at);
    assert_eq!(codes(&gone, at), ["geotag-gone"]);
    let found = conditions(&gone, |_| false, Some(UnixTime(1)), UnixTime(at));
    assert_eq!(found, [], "approvers took it back themselves");
    let found = conditions(&gone, |_| false, Some(UnixTime(0)), UnixTime(at));
    assert_eq!(found.len(), 1, "they took back what was before it");
}

#[test]
fn an_end_is_told_before_it_comes() {
    let short = Tag {
        until: UnixTime(60 * MINUTE),
        ..tag(1, 0)
    };
    let rows = [
        (
            "a year: thirty days before",
            tag(1, 0),
            330 * DAY,
            &["geotag-ending"][..],
        ),
        ("a moment earlier", tag(1, 0), 330 * DAY - 1, &[]),
        ("at its end", tag(1, 0), 360 * DAY, &["geotag-ending"]),
        ("past it", tag(1, 0), 360 * DAY + 1, &["geotag-ended"]),
        (
            "an hour: ten minutes before",
            short,
            50 * MINUTE,
            &["geotag-ending"],
        ),
        ("of an hour, a moment earlier", short, 50 * MINUTE - 1, &[]),
    ];
    for (name, tag, at, want) in rows {
        let place = Place::after(None, &shown(Ok(tag), home()), UnixTime(0)).unwrap();
        assert_eq!(codes(&place, at), want, "{name}");
    }
    let place = Place::after(None, &shown(Ok(tag(1, 0)), home()), UnixTime(0)).unwrap();
    let mut found = conditions(&place, |_| false, None, UnixTime(345 * DAY));
    let told = line(found.pop().unwrap());
    assert_eq!(told.what, "its geotag ends in 15 days");
    assert_eq!(
        (told.code.as_str(), told.until_ms),
        ("geotag-ending", Some(360 * DAY))
    );
}
