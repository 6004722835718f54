//! What answers have to look like: no process here, and no clock.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::Verdict;
use super::machine::Machine;

/// Where the request's nonce stands in a report.
const NONCE: std::ops::Range<usize> = 4..36;

/// What a child said.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) took: Duration,
    /// JSON, or how the child failed to give any.
    pub(super) said: Result<Value, String>,
}

/// Everything that was asked.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    /// Of a library that is not there: reports, the driver's word.
    pub(super) absent: [Answer; 2],
    /// The driver's word, several times.
    pub(super) nvml: Vec<Answer>,
    /// Reports, once.
    pub(super) gpu: Answer,
    /// A small computation.
    pub(super) oq: Answer,
    /// The challenge, hex.
    pub(super) nonce: String,
}

/// One thing that has to hold.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) outcome: Outcome,
}

/// What was seen of it, or why not.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Good(String),
    Bad(String),
    NotRun(String),
}

impl From<Result<String, String>> for Outcome {
    fn from(seen: Result<String, String>) -> Self {
        match seen {
            Ok(detail) => Self::Good(detail),
            Err(why) => Self::Bad(why),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// What answered is hardware of this machine, or why not.
    pub(super) hardware: Result<(), String>,
    pub(super) checks: Vec<Check>,
    pub(super) figures: Map<String, Value>,
}

impl Report {
    /// What was tried on no hardware did not pass; what is bad anywhere is bad.
    pub(super) fn verdict(&self) -> Verdict {
        let [_, bad, _] = self.counts();
        match &self.hardware {
            _ if bad > 0 => Verdict::Failed,
            Err(_) => Verdict::NotRun,
            Ok(()) => Verdict::Passed,
        }
    }

    /// Passed, failed, not run.
    pub(super) fn counts(&self) -> [usize; 3] {
        let mut counts = [0; 3];
        let [passed, failed, not_run] = &mut counts;
        for check in &self.checks {
            match (&check.outcome, &self.hardware) {
                (Outcome::Bad(_), _) => *failed += 1,
                (Outcome::NotRun(_), _) | (Outcome::Good(_), Err(_)) => *not_run += 1,
                (Outcome::Good(_), Ok(())) => *passed += 1,
            }
        }
        counts
    }
}

/// `chosen`: the library is not the loader's.
pub(super) fn judge(machine: &Machine, chosen: bool, answers: &Answers) -> Report {
    let last = answers.nvml.last().map(|answer| &answer.said);
    let word = last.and_then(|said| said.as_ref().ok());
    let word = word.unwrap_or(&Value::Null);
    let hardware = machine.not_hardware(word, chosen).map_or(Ok(()), Err);
    let check = |name, seen: Result<String, String>| Check {
        name,
        outcome: seen.into(),
    };
    Report {
        hardware,
        checks: vec![
            check("a library that is not there", absent(&answers.absent)),
            check("the driver's word", driver(&answers.nvml)),
            check("one version of the driver", version(machine, word)),
            check("confidential computing", confidential(word, answers)),
            Check {
                name: "a small computation",
                outcome: computed(&answers.oq),
            },
        ],
        figures: figures(answers),
    }
}

/// It is named, by both.
fn absent(answers: &[Answer; 2]) -> Result<String, String> {
    let [gpu, nvml] = answers;
    let (gpu, nvml) = (gpu.said.as_ref()?, nvml.said.as_ref()?);
    for why in [&gpu["stopped"], &nvml["Err"]] {
        let why = why.as_str().ok_or("not missed")?;
        if !why.contains(super::NOWHERE) {
            return Err(format!("not named: {why}"));
        }
    }
    Ok("named".to_owned())
}

/// The same GPUs every time, as many as are counted.
fn driver(answers: &[Answer]) -> Result<String, String> {
    let mut before: Option<Vec<&str>> = None;
    let mut out = String::new();
    for answer in answers {
        let said = answer.said.as_ref()?;
        if let Some(why) = said["Err"].as_str() {
            return Ok(format!("none: {why}"));
        }
        let said = &said["Ok"];
        let version = told(&said["driver_version"], Value::as_str, "its version")?;
        let count = told(&said["count"], Value::as_u64, "how many GPUs there are")?;
        let gpus = said["gpus"].as_array().ok_or("no list of GPUs")?;
        if u64::try_from(gpus.len()) != Ok(count) {
            return Err(format!("{count} GPUs, {} of them told", gpus.len()));
        }
        let mut uuids = Vec::new();
        let mut names = Vec::new();
        for gpu in gpus {
            uuids.push(told(&gpu["uuid"], Value::as_str, "a GPU's id")?);
            names.push(told(&gpu["name"], Value::as_str, "a GPU's name")?);
        }
        if before.as_ref().is_some_and(|before| *before != uuids) {
            return Err("other GPUs than a moment ago".to_owned());
        }
        before = Some(uuids);
        out = format!("{version}; {count} GPUs: {}", names.join(", "));
        let silent = silent(said);
        if !silent.is_empty() {
            out.push_str(&format!("; not told: {}", silent.join("; ")));
        }
    }
    Ok(out)
}

/// Library and driver are of one version, where the driver says its own.
fn version(machine: &Machine, word: &Value) -> Result<String, String> {
    let library = word["Ok"]["driver_version"]["Ok"].as_str();
    match (library, &machine.driver) {
        (Some(library), Some(driver)) if library != driver => Err(format!(
            "the library is of {library}, the driver of {driver}"
        )),
        (Some(library), Some(_)) => Ok(library.to_owned()),
        (_, None) => Ok("the driver does not say its own in /proc".to_owned()),
        (None, Some(_)) => Ok("the library says none".to_owned()),
    }
}

/// Off is said to be off, and nothing was asked; on, each GPU answers this challenge.
fn confidential(word: &Value, answers: &Answers) -> Result<String, String> {
    let said = answers.gpu.said.as_ref()?;
    let mode = &said["mode"];
    let evidence = said["evidence"].as_array().ok_or("no list of reports")?;
    if let Some(why) = mode["Err"].as_str() {
        return match evidence.as_slice() {
            [] => Ok(format!("no report: the mode is not told: {why}")),
            _ => Err("reports, and the mode is not told".to_owned()),
        };
    }
    let enabled = mode["Ok"]["enabled"].as_bool().ok_or("no mode")?;
    let twice = word["Ok"]["confidential"]["enabled"]["Ok"].as_bool();
    if twice.is_some_and(|twice| twice != enabled) {
        return Err("asked twice, told twice otherwise".to_owned());
    }
    let together = mode["Ok"]["multi_gpu"]["Ok"].as_u64().unwrap_or_default();
    if !enabled && together == 0 {
        return match (evidence.as_slice(), said["stopped"].as_str()) {
            ([], None) => Ok("off, and said to be off; no report was asked for".to_owned()),
            (_, Some(why)) => Err(format!("off, and asked: {why}")),
            _ => Err("off, and reports".to_owned()),
        };
    }
    if let Some(why) = said["stopped"].as_str() {
        return Err(format!("on, and not all answered: {why}"));
    }
    let count = told(&said["count"], Value::as_u64, "how many GPUs there are")?;
    if u64::try_from(evidence.len()) != Ok(count) {
        return Err(format!("{} reports of {count} GPUs", evidence.len()));
    }
    for (index, one) in evidence.iter().enumerate() {
        let report = bytes(&one["evidence"])?;
        let asked: Option<String> = report
            .get(NONCE)
            .map(|nonce| nonce.iter().map(|byte| format!("{byte:02x}")).collect());
        if asked.as_deref() != Some(&answers.nonce) {
            return Err(format!("GPU {index} answers another challenge"));
        }
    }
    Ok(format!("on; {count} GPUs gave a report"))
}

/// No answer was wrong; what was not run says why, and has not passed.
fn computed(answer: &Answer) -> Outcome {
    let said = match &answer.said {
        Ok(said) => said,
        Err(why) => return Outcome::Bad(why.clone()),
    };
    if let Some(why) = said["not_run"].as_str() {
        return Outcome::NotRun(why.to_owned());
    }
    let gpus = said["gpus"].as_array().map_or(&[][..], Vec::as_slice);
    let each = |kind: &str| {
        let mut all = gpus.iter().enumerate();
        all.find_map(|(index, gpu)| {
            let why = gpu["outcome"]["Err"][kind].as_str()?;
            Some(format!("GPU {index}: {why}"))
        })
    };
    if let Some(why) = each("failed") {
        return Outcome::Bad(why);
    }
    if let Some(why) = each("not-run") {
        return Outcome::NotRun(why);
    }
    let ran = gpus.iter().filter(|gpu| gpu["outcome"]["Ok"].is_object());
    match (ran.count(), gpus.len()) {
        (ran, all) if ran == all && all > 0 => Outcome::Good(format!("right on {all} GPUs")),
        _ => Outcome::Bad("its answer is not what it should be".to_owned()),
    }
}

fn figures(answers: &Answers) -> Map<String, Value> {
    let ms = |answer: &Answer| json!(u64::try_from(answer.took.as_millis()).ok());
    let all = |answers: &[Answer]| Value::Array(answers.iter().map(ms).collect());
    let said = answers.gpu.said.as_ref().unwrap_or(&Value::Null);
    let evidence = said["evidence"].as_array().map_or(&[][..], Vec::as_slice);
    let sizes = |field: &str| {
        let sizes = evidence
            .iter()
            .map(|one| bytes(&one[field]).map(|it| it.len()).ok());
        sizes.collect::<Vec<_>>()
    };
    let no_report = match (
        evidence,
        said["stopped"].as_str(),
        said["mode"]["Err"].as_str(),
    ) {
        ([_, ..], ..) => Value::Null,
        (_, Some(why), _) | (_, None, Some(why)) => json!(why),
        _ => json!("confidential computing is off"),
    };
    let figures = json!({
        "no_library_ms": all(&answers.absent),
        "driver_ms": all(&answers.nvml),
        "reports_ms": ms(&answers.gpu),
        "report_bytes": sizes("evidence"),
        "chain_bytes": sizes("certificate"),
        "no_report": no_report,
        "computation_ms": ms(&answers.oq),
        "computation": answers.oq.said.as_ref().map_or(&Value::Null, |said| &said["gpus"]),
    });
    match figures {
        Value::Object(figures) => figures,
        _ => Map::new(),
    }
}

/// A field that has to be told.
fn told<'a, T>(
    field: &'a Value,
    read: impl Fn(&'a Value) -> Option<T>,
    what: &str,
) -> Result<T, String> {
    read(&field["Ok"]).ok_or_else(|| {
        let why = field["Err"].as_str().unwrap_or("no answer");
        format!("{what} is not told: {why}")
    })
}

/// What the driver had no answer to, each with its reason once.
fn silent(said: &Value) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let gpus = said["gpus"].as_array().map_or(&[][..], Vec::as_slice);
    for part in std::iter::once(&said["confidential"]).chain(gpus) {
        for (name, value) in part.as_object().into_iter().flatten() {
            if let Some(why) = value["Err"].as_str() {
                let line = format!("{name} ({why})");
                if !out.contains(&line) {
                    out.push(line);
                }
            }
        }
    }
    out
}

fn bytes(text: &Value) -> Result<Vec<u8>, String> {
    let text = text.as_str().unwrap_or_default();
    STANDARD.decode(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHALLENGE: [u8; 32] = [0x5a; 32];

    fn machine() -> Machine {
        Machine {
            control: true,
            driver: Some("580.1".to_owned()),
            ..Machine::default()
        }
    }

    fn answer(said: Value) -> Answer {
        Answer {
            took: Duration::from_millis(7),
            said: Ok(said),
        }
    }

    fn word(on: bool) -> Value {
        json!({ "Ok": {
            "driver_version": { "Ok": "580.1" },
            "count": { "Ok": 1 },
            "confidential": { "enabled": { "Ok": on }, "ready": { "Err": "old" } },
            "gpus": [{
                "name": { "Ok": "H200" }, "uuid": { "Ok": "GPU-7" },
                "pci": { "Ok": "00000000:18:00.0" },
            }],
        } })
    }

    fn report(nonce: [u8; 32]) -> Value {
        let report = [&[0x11, 0xe0, 1, 0xff][..], &nonce, &[0; 64]].concat();
        json!({ "evidence": STANDARD.encode(report), "certificate": STANDARD.encode("chain") })
    }

    fn asked(on: bool, evidence: Vec<Value>) -> Value {
        json!({
            "mode": { "Ok": { "enabled": on, "multi_gpu": { "Ok": 0 } } },
            "count": { "Ok": 1 },
            "evidence": evidence,
            "stopped": null,
        })
    }

    fn answers(on: bool, evidence: Vec<Value>) -> Answers {
        let missing = format!("{}: no such file", super::super::NOWHERE);
        Answers {
            absent: [json!({ "stopped": missing }), json!({ "Err": missing })].map(answer),
            nvml: vec![answer(word(on)), answer(word(on))],
            gpu: answer(asked(on, evidence)),
            oq: answer(json!({ "gpus": [{ "outcome": { "Ok": {} } }], "not_run": null })),
            nonce: "5a".repeat(32),
        }
    }

    #[test]
    fn hardware_that_answers_as_it_should_passes() {
        let off = judge(&machine(), false, &answers(false, vec![]));
        assert_eq!((off.verdict(), off.counts()), (Verdict::Passed, [5, 0, 0]));
        assert_eq!(off.figures["no_report"], "confidential computing is off");
        assert_eq!(off.figures["driver_ms"], json!([7, 7]));
        let on = judge(&machine(), false, &answers(true, vec![report(CHALLENGE)]));
        assert_eq!((on.verdict(), on.counts()), (Verdict::Passed, [5, 0, 0]));
        assert_eq!(on.figures["report_bytes"], json!([100]));
        assert_eq!(on.figures["no_report"], Value::Null);
    }

    #[test]
    fn what_is_no_hardware_never_passes_and_may_fail() {
        let none = judge(&Machine::default(), false, &answers(false, vec![]));
        assert_eq!(
            (none.verdict(), none.counts()),
            (Verdict::NotRun, [0, 0, 5])
        );
        let mut crashed = answers(false, vec![]);
        crashed.gpu.said = Err("it ended with signal: 6".to_owned());
        let crashed = judge(&Machine::default(), false, &crashed);
        assert_eq!(
            (crashed.verdict(), crashed.counts()),
            (Verdict::Failed, [0, 1, 4])
        );
    }

    /// Row, what is other than it should be, what is said of it.
    type Row = (&'static str, fn(&mut Answers), &'static str);

    #[test]
    fn each_answer_that_is_wrong_fails() {
        let rows: &[Row] = &[
            (
                "a crash",
                |it| it.nvml[0].said = Err("signal: 11".to_owned()),
                "signal: 11",
            ),
            (
                "a hang",
                |it| it.gpu.said = Err("no answer within 60s".to_owned()),
                "no answer",
            ),
            (
                "a library that is not missed",
                |it| it.absent[0].said = Ok(json!({ "stopped": null })),
                "not missed",
            ),
            (
                "a missing library under another name",
                |it| it.absent[1].said = Ok(json!({ "Err": "no" })),
                "not named: no",
            ),
            (
                "other GPUs",
                |it| {
                    it.nvml[1].said.as_mut().unwrap()["Ok"]["gpus"][0]["uuid"] =
                        json!({ "Ok": "GPU-8" })
                },
                "other GPUs",
            ),
            (
                "a GPU that is counted and not told",
                |it| it.nvml[1].said.as_mut().unwrap()["Ok"]["count"] = json!({ "Ok": 2 }),
                "2 GPUs, 1 of them told",
            ),
            (
                "a count that is not told",
                |it| it.nvml[1].said.as_mut().unwrap()["Ok"]["count"] = json!({ "Err": "lost" }),
                "how many GPUs there are is not told: lost",
            ),
            (
                "a library of another version",
                |it| {
                    it.nvml[1].said.as_mut().unwrap()["Ok"]["driver_version"] =
                        json!({ "Ok": "575.2" })
                },
                "the library is of 575.2, the driver of 580.1",
            ),
            (
                "off, and asked",
                |it| it.gpu.said.as_mut().unwrap()["stopped"] = json!("GPU 0: no"),
                "off, and asked: GPU 0: no",
            ),
            (
                "off, and a report",
                |it| it.gpu.said = Ok(asked(false, vec![report(CHALLENGE)])),
                "off, and reports",
            ),
            (
                "a wrong computation",
                |it| {
                    let outcome = json!({ "Err": { "failed": "1, not 2" } });
                    it.oq.said = Ok(json!({ "gpus": [{ "outcome": outcome }] }));
                },
                "GPU 0: 1, not 2",
            ),
            (
                "a computation on nothing",
                |it| it.oq.said = Ok(json!({ "gpus": [] })),
                "not what it should be",
            ),
            (
                "off here, on there",
                |it| it.gpu.said = Ok(asked(true, vec![report(CHALLENGE)])),
                "told twice otherwise",
            ),
            (
                "a report under no mode",
                |it| {
                    it.gpu.said =
                        Ok(json!({ "mode": { "Err": "old" }, "evidence": [report(CHALLENGE)] }));
                },
                "the mode is not told",
            ),
        ];
        for (name, edit, want) in rows {
            let mut answers = answers(false, vec![]);
            edit(&mut answers);
            let report = judge(&machine(), false, &answers);
            assert_eq!(report.verdict(), Verdict::Failed, "{name}");
            let whys = report.checks.iter().filter_map(|it| match &it.outcome {
                Outcome::Bad(why) => Some(why),
                _ => None,
            });
            let whys: Vec<_> = whys.cloned().collect();
            assert!(
                whys.iter().any(|why| why.contains(want)),
                "{name}: {whys:?}"
            );
        }
        for (name, evidence, want) in [
            (
                "another challenge",
                vec![report([0; 32])],
                "another challenge",
            ),
            ("no report", vec![], "0 reports of 1 GPUs"),
        ] {
            let report = judge(&machine(), false, &answers(true, evidence));
            let Outcome::Bad(why) = &report.checks[3].outcome else {
                panic!("{name}: {report:?}");
            };
            assert!(why.contains(want), "{name}: {why}");
        }
    }

    #[test]
    fn what_was_not_run_has_not_passed() {
        let left = json!({ "gpus": [{ "outcome": { "Err": { "not-run": "hot" } } }] });
        for said in [left, json!({ "gpus": [], "not_run": "no libcuda" })] {
            let mut answers = answers(false, vec![]);
            answers.oq.said = Ok(said);
            let report = judge(&machine(), false, &answers);
            assert_eq!(
                (report.verdict(), report.counts()),
                (Verdict::Passed, [4, 0, 1])
            );
        }
    }

    #[test]
    fn a_mode_that_is_not_told_is_a_reason() {
        let mut silent = answers(false, vec![]);
        silent.gpu.said = Ok(json!({ "mode": { "Err": "old" }, "evidence": [], "stopped": null }));
        let report = judge(&machine(), false, &silent);
        assert_eq!(
            (report.verdict(), report.counts()),
            (Verdict::Passed, [5, 0, 0])
        );
        assert_eq!(report.figures["no_report"], "old");
    }
}
