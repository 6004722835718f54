//! Which two guests an inventory may not list: those of which one report could be.

use bailiwick_attestation::cvm::{Facts, GuestIdentity, Launch, LaunchKey, LaunchSigner};

use super::read;

/// Every launch that three measurements, signers and host data can name, `None` among them, and of the
/// first measurement those that the second is to follow.
fn launches() -> Vec<Launch> {
    let text = |digit: char, count: usize| digit.to_string().repeat(count);
    let measurements = [None, Some(text('1', 96)), Some(text('2', 96))];
    let signer = |id_key: char, image: char| LaunchKey {
        id_key: text(id_key, 96),
        family: text('3', 32),
        image: text(image, 32),
    };
    let signers = [
        None,
        Some(signer('4', '6')),
        Some(signer('4', '7')),
        Some(signer('5', '6')),
    ];
    let data = [None, Some(text('8', 64)), Some(text('9', 64))];
    let mut all = Vec::new();
    for measurement in &measurements {
        for signer in signers
            .iter()
            .filter(|it| it.is_some() || measurement.is_some())
        {
            for host_data in &data {
                let launch = Launch {
                    measurement: measurement.clone(),
                    next_measurement: None,
                    signer: signer.clone(),
                    host_data: host_data.clone(),
                };
                if *measurement == measurements[1] {
                    all.push(Launch {
                        next_measurement: measurements[2].clone(),
                        ..launch.clone()
                    });
                }
                all.push(launch);
            }
        }
    }
    all
}

/// Every report that these launches can be told apart by, and one that none of them names.
fn reports(chip: &str) -> Vec<Facts> {
    let all = launches();
    let mut measurements: Vec<_> = all.iter().filter_map(|it| it.measurement.clone()).collect();
    measurements.push("0".repeat(96));
    measurements.sort();
    measurements.dedup();
    let mut data: Vec<_> = all.iter().filter_map(|it| it.host_data.clone()).collect();
    data.push("0".repeat(64));
    data.sort();
    data.dedup();
    let mut signers: Vec<Option<LaunchKey>> = Vec::new();
    for launch in &all {
        if !signers.contains(&launch.signer) {
            signers.push(launch.signer.clone());
        }
    }
    let mut reports = Vec::new();
    for measurement in &measurements {
        for host_data in &data {
            for signer in &signers {
                reports.push(Facts {
                    technology: "sev-snp",
                    version: 3,
                    chip: Some(chip.to_owned()),
                    product: None,
                    tcb: Vec::new(),
                    tcb_status: None,
                    vmpl: Some(0),
                    debug: false,
                    measurement: measurement.clone(),
                    host_data: host_data.clone(),
                    policy: String::new(),
                    registers: Vec::new(),
                    signer: signer.as_ref().map(|key| LaunchSigner {
                        id_key: key.id_key.clone(),
                        family: key.family.clone(),
                        image: key.image.clone(),
                        svn: 1,
                    }),
                    instance: None,
                });
            }
        }
    }
    reports
}

fn entry(name: &str, chips: &[&str], launch: &Launch) -> String {
    let mut out =
        format!("[[guest]]\nname = \"{name}\"\nchips = {chips:?}\njurisdiction = \"DE\"\n");
    let mut line = |key: &str, value: Option<&String>| {
        if let Some(value) = value {
            out.push_str(&format!("{key} = \"{value}\"\n"));
        }
    };
    let signer = launch.signer.as_ref();
    line("measurement", launch.measurement.as_ref());
    line("next_measurement", launch.next_measurement.as_ref());
    line("id_key", signer.map(|key| &key.id_key));
    line("family_id", signer.map(|key| &key.family));
    line("image_id", signer.map(|key| &key.image));
    line("host_data", launch.host_data.as_ref());
    out
}

const ONE: &str = "SNP-1111111111111111";
const TWO: &str = "SNP-2222222222222222";
const THREE: &str = "SNP-3333333333333333";

/// Refused are exactly those two of which one report could be, by the rule that judges reports.
#[test]
fn two_guests_are_listed_if_no_report_can_be_of_both() {
    let (launches, reports) = (launches(), reports(ONE));
    let identity = |launch: &Launch| GuestIdentity {
        chips: vec![ONE.to_owned()],
        launch: launch.clone(),
    };
    let mut listed = [0_usize; 2];
    for first in &launches {
        for second in &launches {
            let (a, b) = (identity(first), identity(second));
            let both = |report: &Facts| a.other(report).is_none() && b.other(report).is_none();
            let both = reports.iter().any(both);
            for (chips, shared) in [
                ([&[ONE][..], &[ONE][..]], true),
                ([&[ONE, TWO], &[ONE, THREE]], true),
                ([&[ONE, THREE], &[TWO, THREE]], true),
                ([&[ONE], &[TWO]], false),
            ] {
                let text = entry("vm-01", chips[0], first) + &entry("vm-02", chips[1], second);
                let refused = read(&text).is_err();
                assert_eq!(refused, both && shared, "{first:?} {second:?} {chips:?}");
            }
            listed[usize::from(both)] += 1;
        }
    }
    assert!(listed.iter().all(|count| *count > 100), "{listed:?}");
}

#[test]
fn a_guest_that_could_be_another_one_is_refused_under_both_names() {
    let m = |digit: char| Some(digit.to_string().repeat(96));
    let data = |digit: char| Some(digit.to_string().repeat(64));
    let key = |image: char| {
        Some(LaunchKey {
            id_key: "4".repeat(96),
            family: "3".repeat(32),
            image: image.to_string().repeat(32),
        })
    };
    let launch = |measurement, signer, host_data| Launch {
        measurement,
        next_measurement: None,
        signer,
        host_data,
    };
    // Without host data, it may be any; measured by one and signed by the other, it may be both.
    let rows: &[(&str, Launch, Launch, bool)] = &[
        (
            "the same launch",
            launch(m('1'), None, None),
            launch(m('1'), None, None),
            false,
        ),
        (
            "other measurements",
            launch(m('1'), None, None),
            launch(m('2'), None, None),
            true,
        ),
        (
            "one of them with host data",
            launch(m('1'), None, None),
            launch(m('1'), None, data('8')),
            false,
        ),
        (
            "the same host data",
            launch(m('1'), None, data('8')),
            launch(m('1'), None, data('8')),
            false,
        ),
        (
            "other host data",
            launch(m('1'), None, data('8')),
            launch(m('1'), None, data('9')),
            true,
        ),
        (
            "one by measurement, one by signer",
            launch(m('1'), None, None),
            launch(None, key('6'), None),
            false,
        ),
        (
            "one by measurement, one by signer, other host data",
            launch(m('1'), None, data('8')),
            launch(None, key('6'), data('9')),
            true,
        ),
        (
            "one by measurement, one by both, of another measurement",
            launch(m('1'), None, None),
            launch(m('2'), key('6'), None),
            true,
        ),
        (
            "one by measurement, one by both",
            launch(m('1'), None, None),
            launch(m('1'), key('6'), None),
            false,
        ),
        (
            "other images of one signer",
            launch(None, key('6'), None),
            launch(None, key('7'), None),
            true,
        ),
        (
            "other images of one signer, one measurement",
            launch(m('1'), key('6'), None),
            launch(m('1'), key('7'), None),
            true,
        ),
    ];
    for (name, first, second, apart) in rows {
        let text = entry("vm-01", &[TWO, ONE], first) + &entry("vm-02", &[ONE], second);
        let line = text
            .lines()
            .position(|line| line.contains("vm-02"))
            .unwrap()
            + 1;
        let want = (!apart).then(|| {
            format!(
                "inventory.toml:{line}: guest.name: \"vm-02\" is told from \"vm-01\" by nothing on \
                 {ONE}: one report would be of both; give each host_data of its own, or other chips"
            )
        });
        assert_eq!(read(&text).err(), want, "{name}");
        let turned = entry("vm-02", &[ONE], second) + &entry("vm-01", &[TWO, ONE], first);
        assert_eq!(read(&turned).is_ok(), *apart, "{name}, turned");
    }
    // A third between two that are apart: neither of them is refused, and it is.
    let apart = entry("vm-01", &[ONE], &launch(m('1'), None, data('8')))
        + &entry("vm-02", &[ONE], &launch(m('1'), None, data('9')));
    assert!(read(&apart).is_ok());
    let between = apart + &entry("vm-03", &[ONE], &launch(m('1'), None, None));
    let said = read(&between).unwrap_err();
    assert!(said.contains("\"vm-03\" is told from \"vm-0"), "{said}");
}

/// As many as approvers may list, on as many chips as they may have: no two are compared in vain.
#[test]
fn many_guests_of_one_chip_are_told_apart_in_a_moment() {
    let chips: Vec<String> = (0..8).map(|n| format!("SNP-{n:016x}")).collect();
    let chips: Vec<&str> = chips.iter().map(String::as_str).collect();
    let all: String = (0..20_000)
        .map(|n| {
            let launch = Launch {
                measurement: Some(format!("{n:096x}")),
                next_measurement: None,
                ..Launch::default()
            };
            entry(&format!("vm{n}"), &chips, &launch)
        })
        .collect();
    let started = std::time::Instant::now();
    assert_eq!(read(&all).unwrap().nodes.len(), 20_000);
    let taken = started.elapsed();
    assert!(taken.as_secs() < 60, "{taken:?}");
}
