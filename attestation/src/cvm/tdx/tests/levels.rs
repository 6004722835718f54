//! Firmware held against the levels that are listed.

use serde_json::{Value, json};

use super::super::{Tcb, TcbStatus};
use super::judged;
use super::made::{Made, Plan, level, made, own_level};
use TcbStatus::{
    ConfigurationAndSWHardeningNeeded, ConfigurationNeeded, OutOfDate,
    OutOfDateConfigurationNeeded, SWHardeningNeeded, TDRelaunchAdvised,
    TDRelaunchAdvisedConfigurationNeeded, UpToDate,
};

fn svn(first: [u8; 3]) -> [u8; 16] {
    let mut svn = [0; 16];
    svn[..3].copy_from_slice(&first);
    svn
}

fn judge(plan: &Plan) -> Result<Tcb, Vec<&'static str>> {
    let ours = made(plan);
    judged(&ours, &ours.collateral.publish())
}

/// With what is published changed first.
fn judge_with(plan: &Plan, change: impl Fn(&mut Made)) -> Result<Tcb, Vec<&'static str>> {
    let mut ours = made(plan);
    change(&mut ours);
    judged(&ours, &ours.collateral.publish())
}

fn statuses(values: &[&str]) -> Value {
    values
        .iter()
        .map(|status| level(7, 11, [5, 0, 3], status, &[]))
        .collect()
}

#[test]
fn the_best_level_that_is_reached_counts() {
    let plan = Plan::v4;
    let with = |components: u8, pce_svn: u16, first: [u8; 3]| Plan {
        components: [components; 16],
        pce_svn,
        svn: svn(first),
        ..plan()
    };
    let one_low = |at: usize| {
        let mut low = plan();
        low.components[at] = 6;
        low
    };
    let rows: [(&str, Plan, Result<TcbStatus, &str>); 12] = [
        ("the newest", plan(), Ok(UpToDate)),
        ("newer than listed", with(9, 20, [9, 1, 9]), Ok(UpToDate)),
        (
            "the first component low",
            one_low(0),
            Ok(ConfigurationNeeded),
        ),
        (
            "the last component low",
            one_low(15),
            Ok(ConfigurationNeeded),
        ),
        ("PCE low", with(7, 10, [5, 1, 3]), Ok(OutOfDate)),
        (
            "what loads the module low",
            with(7, 11, [5, 1, 2]),
            Ok(OutOfDate),
        ),
        ("all low", with(5, 10, [5, 1, 2]), Ok(OutOfDate)),
        ("revoked", with(4, 5, [5, 1, 2]), Err("tcb-revoked")),
        (
            "below everything",
            with(3, 5, [5, 1, 2]),
            Err("tcb-not-listed"),
        ),
        (
            "PCE below everything",
            with(7, 4, [5, 1, 3]),
            Err("tcb-not-listed"),
        ),
        (
            "a module with the platform",
            with(7, 11, [5, 0, 3]),
            Ok(UpToDate),
        ),
        ("such a module, old", with(7, 11, [4, 0, 3]), Ok(OutOfDate)),
    ];
    for (name, plan, want) in rows {
        let found = judge(&plan).map(|tcb| tcb.status);
        assert_eq!(found, want.map_err(|code| vec![code]), "{name}");
    }
    // Such a module below everything.
    let low = with(7, 11, [3, 0, 3]);
    assert_eq!(judge(&low).unwrap_err(), ["tcb-not-listed"]);
}

#[test]
fn advisories_are_told_of_all_parts_once() {
    let up_to_date = judge(&Plan::v4()).unwrap();
    assert_eq!(up_to_date.advisories, Vec::<String>::new());
    assert_eq!((up_to_date.evaluation, up_to_date.qe_evaluation), (18, 17));
    let old = judge(&Plan {
        components: [5; 16],
        svn: svn([4, 1, 3]),
        qe_svn: 3,
        ..Plan::v4()
    })
    .unwrap();
    assert_eq!(
        old.advisories,
        ["INTEL-SA-00005", "INTEL-SA-00003", "INTEL-SA-00009"]
    );
    let parts = (old.platform, old.module, old.qe);
    assert_eq!(parts, (OutOfDate, Some(OutOfDate), OutOfDate));
}

#[test]
fn the_module_has_levels_of_its_own() {
    let of = |first: [u8; 3]| Plan {
        svn: svn(first),
        ..Plan::v4()
    };
    let rows: [(&str, Plan, Result<TcbStatus, &str>); 5] = [
        ("the newest", of([5, 1, 3]), Ok(UpToDate)),
        ("one that is old", of([4, 1, 3]), Ok(OutOfDate)),
        ("one that is revoked", of([2, 1, 3]), Err("tcb-revoked")),
        ("below everything", of([1, 1, 3]), Err("tcb-not-listed")),
        (
            "a major version nobody lists",
            of([5, 2, 3]),
            Err("tdx-module"),
        ),
    ];
    for (name, plan, want) in rows {
        let found = judge(&plan).map(|tcb| tcb.status);
        assert_eq!(found, want.map_err(|code| vec![code]), "{name}");
    }
    let signer = Plan {
        body_over: vec![(64, vec![1])],
        ..Plan::v4()
    };
    assert_eq!(judge(&signer).unwrap_err(), ["tdx-module"]);
    let attributes = Plan {
        body_over: vec![(119, vec![0x80])],
        ..Plan::v4()
    };
    assert_eq!(judge(&attributes).unwrap_err(), ["tdx-module"]);
    // The module that is listed with the platform has its own signer.
    let first = Plan {
        body_over: vec![(64, vec![1])],
        ..of([5, 0, 3])
    };
    assert_eq!(judge(&first).unwrap_err(), ["tdx-module"]);
    let masked = judge_with(&attributes, |ours| {
        ours.collateral.tcb_info["tdxModuleIdentities"][0]["attributesMask"] =
            json!("FFFFFFFFFFFFFF7F");
    });
    assert_eq!(masked.map(|tcb| tcb.status), Ok(UpToDate));
}

#[test]
fn the_quoting_enclave_is_intels() {
    let over = |at: usize, what: &[u8]| Plan {
        qe_over: vec![(at, what.to_vec())],
        ..Plan::v4()
    };
    let svn = |qe_svn: u16| Plan {
        qe_svn,
        ..Plan::v4()
    };
    let rows: [(&str, Plan, Result<TcbStatus, &str>); 10] = [
        ("another signer", over(128, &[1]), Err("qe-identity")),
        ("another product", over(256, &[1]), Err("qe-identity")),
        (
            "another product, high byte",
            over(257, &[1]),
            Err("qe-identity"),
        ),
        ("MISCSELECT", over(16, &[1]), Err("qe-identity")),
        ("debug", over(48, &[0x13]), Err("qe-identity")),
        (
            "attributes outside the mask",
            over(56, &[0xff]),
            Ok(UpToDate),
        ),
        ("newer than listed", svn(400), Ok(UpToDate)),
        ("one that is old", svn(3), Ok(OutOfDate)),
        ("one that is revoked", svn(2), Err("tcb-revoked")),
        ("below everything", svn(1), Err("tcb-not-listed")),
    ];
    for (name, plan, want) in rows {
        let found = judge(&plan).map(|tcb| tcb.status);
        assert_eq!(found, want.map_err(|code| vec![code]), "{name}");
    }
}

/// Only a part that is out of date makes the whole worse.
#[test]
fn parts_and_the_platform_make_one_status() {
    let old_module = Plan {
        svn: svn([4, 1, 3]),
        ..Plan::v4()
    };
    let old_enclave = Plan {
        qe_svn: 3,
        ..Plan::v4()
    };
    let rows = [
        ("UpToDate", OutOfDate),
        ("SWHardeningNeeded", OutOfDate),
        ("ConfigurationNeeded", OutOfDateConfigurationNeeded),
        (
            "ConfigurationAndSWHardeningNeeded",
            OutOfDateConfigurationNeeded,
        ),
        ("OutOfDate", OutOfDate),
        ("OutOfDateConfigurationNeeded", OutOfDateConfigurationNeeded),
    ];
    for (platform, want) in rows {
        for (part, plan) in [("module", &old_module), ("enclave", &old_enclave)] {
            let found = judge_with(plan, |ours| {
                ours.collateral.tcb_info["tcbLevels"] = statuses(&[platform]);
            });
            let found = found.unwrap();
            assert_eq!(found.status, want, "{platform}, old {part}");
            assert_eq!(found.platform.name(), platform);
        }
        let found = judge_with(&Plan::v4(), |ours| {
            ours.collateral.tcb_info["tcbLevels"] = statuses(&[platform]);
        });
        assert_eq!(found.unwrap().status.name(), platform);
    }
    let settings = judge_with(&Plan::v4(), |ours| {
        ours.collateral.qe_identity["tcbLevels"] = json!([own_level(4, "SWHardeningNeeded", &[])]);
    });
    let settings = settings.unwrap();
    assert_eq!(
        (settings.status, settings.qe),
        (UpToDate, SWHardeningNeeded)
    );
}

/// The TDX module can be replaced below a running guest.
#[test]
fn a_guest_launched_under_old_firmware_is_better_launched_anew() {
    let of = |then: [u8; 3], now: [u8; 3]| Plan {
        svn: svn(then),
        svn2: svn(now),
        ..Plan::v5()
    };
    let rows: [(&str, Plan, Result<TcbStatus, &str>); 7] = [
        ("new and new", of([5, 1, 3], [5, 1, 3]), Ok(UpToDate)),
        (
            "old, now new",
            of([4, 1, 3], [5, 1, 3]),
            Ok(TDRelaunchAdvised),
        ),
        ("old, now old", of([4, 1, 3], [4, 1, 3]), Ok(OutOfDate)),
        ("new, now old", of([5, 1, 3], [4, 1, 3]), Ok(UpToDate)),
        (
            "now not listed",
            of([5, 1, 3], [1, 1, 3]),
            Err("tcb-not-listed"),
        ),
        ("now unknown", of([5, 1, 3], [5, 9, 3]), Err("tdx-module")),
        ("now revoked", of([5, 1, 3], [2, 1, 3]), Err("tcb-revoked")),
    ];
    for (name, plan, want) in rows {
        let found = judge(&plan).map(|tcb| tcb.status);
        assert_eq!(found, want.map_err(|code| vec![code]), "{name}");
    }
    // TDX 1.0 does not say what runs now.
    let first = Plan {
        kind: 2,
        ..of([4, 1, 3], [5, 1, 3])
    };
    assert_eq!(judge(&first).unwrap().status, OutOfDate);
    for (platform, want) in [
        (SWHardeningNeeded, TDRelaunchAdvised),
        (ConfigurationNeeded, TDRelaunchAdvisedConfigurationNeeded),
        (
            ConfigurationAndSWHardeningNeeded,
            TDRelaunchAdvisedConfigurationNeeded,
        ),
        (OutOfDate, OutOfDate),
        (OutOfDateConfigurationNeeded, OutOfDateConfigurationNeeded),
    ] {
        let found = judge_with(&of([4, 1, 3], [5, 1, 3]), |ours| {
            ours.collateral.tcb_info["tcbLevels"] = statuses(&[platform.name()]);
        });
        assert_eq!(found.unwrap().status, want, "{platform:?}");
    }
    // Both differ in what they need: what it was launched under is all that a launch mends.
    let found = judge_with(&of([5, 0, 2], [5, 0, 3]), |ours| {
        ours.collateral.tcb_info["tcbLevels"] = json!([
            level(7, 11, [5, 0, 3], "UpToDate", &[]),
            level(7, 11, [5, 0, 2], "OutOfDateConfigurationNeeded", &[]),
        ]);
    });
    assert_eq!(found.unwrap().status, TDRelaunchAdvisedConfigurationNeeded);
}
