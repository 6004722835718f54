use super::*;

#[test]
fn a_driver_has_one_version_wherever_it_is_said() {
    let text = |name: &str, value: &str| v1::Claim {
        name: name.to_owned(),
        source: "/proc".to_owned(),
        value: Some(v1::claim::Value::Text(value.to_owned())),
    };
    let proc = |value| text("nvidia.driver-version", value);
    let module = |value| text("module.nvidia.version", value);
    let nvml = |value| text("nvml.driver-version", value);
    let silent = v1::Claim {
        value: Some(v1::claim::Value::Unavailable("no library".to_owned())),
        ..nvml("")
    };
    let rows: &[(&str, Vec<v1::Claim>, bool)] = &[
        ("no driver", vec![], true),
        ("one word", vec![proc("580.1")], true),
        (
            "all agree",
            vec![proc("580.1"), module("580.1"), nvml("580.1")],
            true,
        ),
        ("the library is silent", vec![proc("580.1"), silent], true),
        (
            "a library of another",
            vec![proc("580.1"), nvml("575.2")],
            false,
        ),
        (
            "a module of another",
            vec![proc("580.1"), module("575.2"), nvml("580.1")],
            false,
        ),
        (
            "no word of the driver",
            vec![module("580.1"), nvml("575.2")],
            false,
        ),
    ];
    for (name, claims, good) in rows {
        let mut case = Case::ordinary();
        case.statement.claims.extend(claims.iter().cloned());
        let result = case.appraise();
        let codes: Vec<&str> = result.deviations().map(|d| d.code.as_str()).collect();
        let want: &[&str] = if *good {
            &[]
        } else {
            &["driver-versions-differ"]
        };
        assert_eq!(codes, want, "{name}");
    }
}

#[test]
fn qualification_can_be_demanded_and_what_was_not_run_has_not_passed() {
    let verdict = |value| v1::Claim {
        name: "oq.verdict".to_owned(),
        source: "oq".to_owned(),
        value: Some(value),
    };
    let text = |text: &str| Some(verdict(v1::claim::Value::Text(text.to_owned())));
    let silent = Some(verdict(v1::claim::Value::Unavailable("lost".to_owned())));
    let rows = [
        ("passed", text("passed"), None),
        ("failed", text("failed"), Some("claim-value")),
        ("not run", text("not-run"), Some("claim-value")),
        ("nothing said", None, Some("claim-missing")),
        ("not known", silent, Some("claim-unavailable")),
    ];
    for (name, claim, code) in rows {
        let mut case = Case::ordinary();
        let demand = "is = \"passed\"\nprovenance = \"self-reported\"";
        case.require("oq.verdict", demand);
        case.statement.claims.extend(claim);
        let result = case.appraise();
        let codes: Vec<&str> = result.deviations().map(|d| d.code.as_str()).collect();
        assert_eq!(codes, code.as_slice(), "{name}");
    }
    let mut case = Case::ordinary();
    let demand = "is = \"passed\"\nprovenance = \"measured\"";
    case.require("oq.verdict", demand);
    case.statement.claims.extend(text("passed"));
    let result = case.appraise();
    let codes: Vec<&str> = result.deviations().map(|d| d.code.as_str()).collect();
    assert_eq!(codes, ["claim-provenance"], "it stays the node's own word");
}
