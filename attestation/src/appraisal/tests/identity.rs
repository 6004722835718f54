//! Chassis, devices, epoch and the AK's word, each with its neighbours.

use super::*;
use crate::appraisal::{Device, Finding, devices};
use crate::evidence::ParsedStatement;
use crate::profile::Provenance;

const SERIAL: &str = "chassis.serial";

fn claim(name: &str, value: v1::claim::Value) -> v1::Claim {
    v1::Claim {
        name: name.to_owned(),
        source: "test".to_owned(),
        value: Some(value),
    }
}

fn text(name: &str, value: &str) -> v1::Claim {
    claim(name, v1::claim::Value::Text(value.to_owned()))
}

fn unavailable(name: &str) -> v1::Claim {
    claim(name, v1::claim::Value::Unavailable("EACCES".to_owned()))
}

/// Two GPUs, the second known by its serial alone.
fn gpus() -> Vec<v1::Claim> {
    vec![
        claim("nvml.gpus", v1::claim::Value::Number(2)),
        text("nvml.gpu.0.uuid", "GPU-a"),
        text("nvml.gpu.0.serial", "1001"),
        unavailable("nvml.gpu.1.uuid"),
        text("nvml.gpu.1.serial", "1002"),
    ]
}

/// The same, by a driver that tells who the chips are.
fn chips() -> Vec<v1::Claim> {
    let mut said = gpus();
    said.push(text("nvml.gpu.0.pdi", "7f"));
    said
}

type Found = Vec<(String, Finding, Option<Provenance>)>;

fn codes(case: &Case) -> Found {
    let result = case.appraise();
    result
        .deviations()
        .map(|d| (d.code.clone(), d.finding, d.provenance))
        .collect()
}

fn want(rows: &[(&str, Finding)]) -> Found {
    rows.iter()
        .map(|(code, finding)| {
            let provenance = (*finding != Finding::Unchecked).then_some(Provenance::SelfReported);
            ((*code).to_owned(), *finding, provenance)
        })
        .collect()
}

#[test]
fn the_chassis_is_the_inventorys_by_dmis_word() {
    use Finding::{Refused, Unchecked};
    type Row<'a> = (
        &'a str,
        Option<&'a str>,
        Option<v1::Claim>,
        &'a [(&'a str, Finding)],
    );
    let cases: &[Row<'_>] = &[
        ("nobody wrote one down", None, Some(text(SERIAL, "X")), &[]),
        ("the same", Some("ABC"), Some(text(SERIAL, "ABC")), &[]),
        (
            "another",
            Some("ABC"),
            Some(text(SERIAL, "ABD")),
            &[("chassis-serial", Refused)],
        ),
        (
            "one that begins alike",
            Some("ABC"),
            Some(text(SERIAL, "ABC1")),
            &[("chassis-serial", Refused)],
        ),
        (
            "empty",
            Some("ABC"),
            Some(text(SERIAL, "")),
            &[("chassis-serial", Refused)],
        ),
        (
            "could not be read",
            Some("ABC"),
            Some(unavailable(SERIAL)),
            &[("chassis-unavailable", Unchecked)],
        ),
        (
            "no text",
            Some("ABC"),
            Some(claim(SERIAL, v1::claim::Value::Number(7))),
            &[("chassis-unavailable", Unchecked)],
        ),
        (
            "left out",
            Some("ABC"),
            None,
            &[("chassis-unavailable", Unchecked)],
        ),
    ];
    for (name, listed, said, expected) in cases {
        let mut case = Case::ordinary();
        case.chassis_serial = listed.map(str::to_owned);
        case.statement.claims.extend(said.clone());
        assert_eq!(codes(&case), want(expected), "{name}");
    }
}

#[test]
fn devices_are_the_inventorys_by_nvmls_word() {
    use Finding::{Refused, Unchecked, Warning};
    let node = |name: &str| NodeId::new(name).unwrap();
    type Row<'a> = (
        &'a str,
        &'a [&'a str],
        &'a [(&'a str, &'a str)],
        Vec<v1::Claim>,
        &'a [(&'a str, Finding)],
    );
    let cases: Vec<Row<'_>> = vec![
        ("nobody wrote any down", &[], &[], gpus(), &[]),
        (
            "by uuid and by serial",
            &["GPU-a", "1002"],
            &[],
            gpus(),
            &[],
        ),
        ("by serial both", &["1001", "1002"], &[], gpus(), &[]),
        (
            "one more than listed",
            &["GPU-a"],
            &[],
            gpus(),
            &[("device-unlisted", Warning)],
        ),
        (
            "one less than listed",
            &["GPU-a", "1002", "GPU-c"],
            &[],
            gpus(),
            &[("device-missing", Refused)],
        ),
        (
            "another node's",
            &["GPU-a"],
            &[("1002", "gpu-02")],
            gpus(),
            &[("device-of-another-node", Refused)],
        ),
        (
            "another node's, and none of its own written down",
            &[],
            &[("1002", "gpu-02")],
            gpus(),
            &[("device-of-another-node", Refused)],
        ),
        (
            "NVML could not be asked",
            &["GPU-a"],
            &[],
            vec![unavailable("nvml.gpus")],
            &[("devices-unavailable", Unchecked)],
        ),
        (
            "nothing said",
            &["GPU-a"],
            &[],
            vec![],
            &[("devices-unavailable", Unchecked)],
        ),
        ("nothing said, nothing listed", &[], &[], vec![], &[]),
        (
            "by the chip's identifier",
            &["PDI-7f", "1002"],
            &[],
            chips(),
            &[],
        ),
        (
            "another chip's identifier",
            &["PDI-80", "1001", "1002"],
            &[],
            chips(),
            &[("device-missing", Refused)],
        ),
        (
            "a driver that tells no chip's identifier",
            &["PDI-7f", "1001", "1002"],
            &[],
            gpus(),
            &[("devices-unavailable", Unchecked)],
        ),
        (
            "one by its chip, which this driver does not tell, one by name",
            &["PDI-7f", "1002"],
            &[],
            gpus(),
            &[("devices-unavailable", Unchecked)],
        ),
        (
            "one by its chip, and one not at all",
            &["PDI-7f"],
            &[],
            chips(),
            &[("device-unlisted", Warning)],
        ),
        (
            "another node's chip",
            &["1001", "1002"],
            &[("PDI-7f", "gpu-02")],
            chips(),
            &[("device-of-another-node", Refused)],
        ),
    ];
    for (name, own, foreign, said, expected) in cases {
        let mut case = Case::ordinary();
        case.devices = own.iter().map(|id| (*id).to_owned()).collect();
        case.foreign_devices = foreign
            .iter()
            .map(|(id, owner)| ((*id).to_owned(), node(owner)))
            .collect();
        case.statement.claims.extend(said);
        assert_eq!(codes(&case), want(expected), "{name}");
    }
    let mut case = Case::ordinary();
    case.statement.claims.extend(gpus());
    let parsed = ParsedStatement::parse(&encode(&case.statement)).unwrap();
    let device = |uuid: Option<&str>, serial: &str| Device {
        uuid: uuid.map(str::to_owned),
        serial: Some(serial.to_owned()),
        pdi: None,
    };
    let expected = vec![device(Some("GPU-a"), "1001"), device(None, "1002")];
    assert_eq!(devices(&parsed), Ok(expected));
}

/// Not for its first statement alone: until an approver has looked.
#[test]
fn an_epoch_nobody_acknowledged_has_no_standing() {
    for (name, epoch, acknowledged, code) in [
        ("the first", 0, 0, None),
        ("acknowledged", 3, 3, None),
        ("acknowledged before", 3, 4, None),
        ("one later", 4, 3, Some("epoch-unacknowledged")),
        ("never acknowledged", 1, 0, Some("epoch-unacknowledged")),
        (
            "named by the clock",
            1_800_000_000,
            0,
            Some("epoch-unacknowledged"),
        ),
    ] {
        let mut case = Case::ordinary();
        case.statement.epoch = epoch;
        case.previous().epoch = epoch;
        case.epoch = acknowledged;
        let got = codes(&case);
        let rows: Vec<(&str, Finding)> =
            code.map(|c| (c, Finding::Unchecked)).into_iter().collect();
        assert_eq!(got, want(&rows), "{name}");
        let status = case.appraise().status;
        assert_eq!(status == Status::Affirming, code.is_none(), "{name}");
        // A node that nobody listed has other worries.
        case.listed = false;
        let got = codes(&case);
        assert!(
            got.iter().all(|(code, ..)| code == "pending"),
            "{name}: {got:?}"
        );
    }
}

/// The chip that was cleared is refused, whatever AK and epoch it comes back with: its counters
/// look different to each AK, its clock does not.
#[test]
fn a_cleared_tpm_has_no_clean_past() {
    let before = 900;
    type Row<'a> = (&'a str, bool, u64, u32, bool, &'a [&'a str]);
    let cases: &[Row<'_>] = &[
        (
            "the same AK, counter back",
            true,
            10,
            1,
            true,
            &["tpm-cleared"],
        ),
        (
            "another AK, clock back",
            false,
            10,
            90,
            true,
            &["tpm-cleared"],
        ),
        (
            "another AK, one millisecond back",
            false,
            before - 1,
            7,
            true,
            &["tpm-cleared"],
        ),
        (
            "another AK, power lost",
            false,
            10,
            90,
            false,
            &["clock-unsafe"],
        ),
        (
            "another AK, clock where it was",
            false,
            before,
            1,
            true,
            &[],
        ),
        ("another AK, clock gone on", false, 5000, 1, true, &[]),
    ];
    for (name, same_ak, clock, reset_count, safe, want) in cases {
        let mut case = Case::ordinary();
        case.statement = statement(0, None);
        case.statement.epoch = 1;
        case.epoch = 1;
        case.statement.boot_id = vec![2; 16];
        case.tpm.clock = ClockInfo {
            clock: *clock,
            reset_count: *reset_count,
            restart_count: 0,
            safe: *safe,
        };
        if !same_ak {
            case.previous().ak = Sha256Digest([1; 32]);
        }
        let got = codes(&case);
        let got: Vec<&str> = got
            .iter()
            .map(|(code, ..)| code.as_str())
            .filter(|code| *code != "epoch-changed")
            .collect();
        assert_eq!(got, *want, "{name}");
    }
}

#[test]
fn where_approvers_named_an_ak_no_other_speaks() {
    let mut case = Case::ordinary();
    case.listed_ak = Some(case.tpm.ak().name().as_bytes().to_vec());
    assert_eq!(case.appraise().status, Status::Affirming);
    case.listed_ak = Some(SoftTpm::new().ak().name().as_bytes().to_vec());
    let result = case.appraise();
    let found = result.deviations().next().unwrap();
    assert_eq!(
        (found.code.as_str(), found.provenance),
        ("ak-not-of-node", Some(Provenance::OperatorSigned))
    );
    assert_eq!(result.status, Status::Contraindicated);
}

#[test]
fn whose_word_the_ak_is_can_be_asked_for_and_read() {
    let cases = [
        (
            AkWord::Confirmed("alice".to_owned()),
            "confirmed by alice",
            true,
        ),
        (AkWord::Iak, "iak", true),
        (AkWord::Collector, "collector's word", false),
    ];
    for (word, says, vouched) in cases {
        let mut case = Case::ordinary();
        case.ak_word = word;
        case.require(
            "node.ak_confirmed",
            "is = true\nprovenance = \"operator-signed\"",
        );
        let result = case.appraise();
        assert_eq!(result.to_json()["bailiwick.ak"], says);
        assert_eq!(result.status == Status::Affirming, vouched, "{says}");
    }
}
