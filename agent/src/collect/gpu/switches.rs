//! NVSwitches, in a short-lived child of their own: `bailiwick-agent probe switches`.
//!
//! A set of GPUs under Protected PCIe is whole only with the reports of its switches. They are asked
//! after the GPUs, one after the other, none twice, and only those that say they are in that mode.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use bailiwick_attestation::proto::v1::{Claim, claim::Value};
use serde::{Deserialize, Serialize};

use super::{Evidence, MAX_CHAIN, MAX_OUTPUT, MAX_REPORT, bounded, packed};
use crate::{
    collect::{claim, nvml::run_bounded},
    sys::nscq::{Fault, Nscq},
};

/// The name the loader knows.
const LIBRARY: &str = "libnvidia-nscq.so.2";
/// Most switches asked: a machine has four.
const MAX_SWITCHES: usize = 8;

/// One switch, by its driver's word.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// The driver's name for it.
    pub uuid: String,
    /// `SV10`, `LR10`, `LS10`.
    pub architecture: Result<String, String>,
    /// Of the links that study data takes: `off`, `on`, `locked`, `failure`, `unknown`.
    pub mode: Result<String, String>,
}

/// What came of asking.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Switches {
    /// All there are, or why nobody knows.
    pub switches: Result<Vec<Switch>, String>,
    /// Of those asked for a report, in order.
    pub evidence: Vec<Evidence>,
    /// Why not all were asked that should have been.
    pub stopped: Option<String>,
}

/// What a driver of switches is asked.
pub trait Fabric {
    /// Names.
    fn switches(&self) -> Result<Vec<String>, String>;
    /// 0: SV10, 1: LR10, 2: LS10.
    fn architecture(&self, switch: &str) -> Result<i8, String>;
    /// -1 unknown, 0 off, 1 on, 2 failure, 3 on and locked.
    fn mode(&self, switch: &str) -> Result<i8, String>;
    /// The chain of the key that signs its reports, PEM.
    fn chain(&self, switch: &str) -> Result<Vec<u8>, String>;
    /// A report in answer to `nonce`.
    fn report(&self, switch: &str, nonce: [u8; 32]) -> Result<Vec<u8>, String>;
}

impl Fabric for Nscq {
    fn switches(&self) -> Result<Vec<String>, String> {
        self.switches().map_err(said)
    }

    fn architecture(&self, switch: &str) -> Result<i8, String> {
        self.architecture(switch).map_err(said)
    }

    fn mode(&self, switch: &str) -> Result<i8, String> {
        self.mode(switch).map_err(said)
    }

    fn chain(&self, switch: &str) -> Result<Vec<u8>, String> {
        self.chain(switch).map_err(said)
    }

    fn report(&self, switch: &str, nonce: [u8; 32]) -> Result<Vec<u8>, String> {
        self.report(switch, nonce).map_err(said)
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it stands where an error is mapped"
)]
fn said(fault: Fault) -> String {
    fault.to_string()
}

impl Switches {
    pub(crate) fn nothing(why: &str) -> Self {
        Self {
            switches: Err(why.to_owned()),
            evidence: Vec::new(),
            stopped: Some(why.to_owned()),
        }
    }
}

/// The child's work; without a challenge no report is asked for.
#[must_use]
pub fn probe(library: Option<&Path>, nonce: Option<[u8; 32]>) -> Switches {
    let library = library.unwrap_or_else(|| Path::new(LIBRARY));
    match Nscq::open(library.as_os_str()) {
        Ok(nscq) => collect(&nscq, nonce),
        Err(fault) => Switches::nothing(&format!("{}: {fault}", library.display())),
    }
}

/// Asks every switch what it is, and those in the protected mode for a report, until one fails.
pub fn collect(fabric: &dyn Fabric, nonce: Option<[u8; 32]>) -> Switches {
    let names = match fabric.switches() {
        Ok(names) if names.len() > MAX_SWITCHES => {
            let why = format!("{} switches: at most {MAX_SWITCHES} are asked", names.len());
            return Switches::nothing(&why);
        }
        Ok(names) => names,
        Err(why) => return Switches::nothing(&why),
    };
    let mut out = Switches {
        switches: Ok(Vec::new()),
        evidence: Vec::new(),
        stopped: None,
    };
    let mut all = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let mode = fabric.mode(&name);
        if let (Ok(1 | 3), Some(nonce), None) = (&mode, nonce, &out.stopped) {
            match one(fabric, &name, nonce) {
                Ok(evidence) => out.evidence.push(evidence),
                Err(why) => out.stopped = Some(format!("switch {index}: {why}")),
            }
        }
        all.push(Switch {
            architecture: fabric.architecture(&name).map(architecture),
            mode: mode.map(words),
            uuid: name,
        });
    }
    out.switches = Ok(all);
    out
}

fn one(fabric: &dyn Fabric, name: &str, nonce: [u8; 32]) -> Result<Evidence, String> {
    let chain = bounded("chain", fabric.chain(name)?, MAX_CHAIN)?;
    let report = bounded("report", fabric.report(name, nonce)?, MAX_REPORT)?;
    Ok(packed(name.to_owned(), nonce, &report, &chain))
}

fn architecture(number: i8) -> String {
    match number {
        0 => "SV10".to_owned(),
        1 => "LR10".to_owned(),
        2 => "LS10".to_owned(),
        other => other.to_string(),
    }
}

fn words(number: i8) -> String {
    match number {
        -1 => "unknown".to_owned(),
        0 => "off".to_owned(),
        1 => "on".to_owned(),
        2 => "failure".to_owned(),
        3 => "locked".to_owned(),
        other => other.to_string(),
    }
}

/// Asks a child of this program, which is killed when it is late.
pub async fn ask(
    program: PathBuf,
    library: Option<&Path>,
    nonce: Option<[u8; 32]>,
    patience: Duration,
) -> Switches {
    let mut args: Vec<OsString> = ["probe", "switches"].map(OsString::from).into();
    if let Some(nonce) = nonce {
        args.push("--nonce".into());
        args.push(hex::encode(nonce).into());
    }
    if let Some(library) = library {
        args.push("--library".into());
        args.push(library.into());
    }
    let answer = run_bounded(program, args, patience, MAX_OUTPUT).await;
    let answer = answer.and_then(|output| {
        serde_json::from_slice(&output)
            .map_err(|err| format!("the probe's answer is not what it should be: {err}"))
    });
    answer.unwrap_or_else(|why| Switches::nothing(&why))
}

/// What a statement says of switches.
pub(crate) fn claims(library: Option<&Path>, asked: &Switches) -> Vec<Claim> {
    let library = library.unwrap_or_else(|| Path::new(LIBRARY));
    let source = format!("nscq: {}", library.display());
    let all = match &asked.switches {
        Ok(all) => all,
        Err(why) => {
            let why = Value::Unavailable(why.clone());
            return vec![claim("nscq.switches", &source, why)];
        }
    };
    let text = |said: &Result<String, String>| match said {
        Ok(text) => Value::Text(text.clone()),
        Err(why) => Value::Unavailable(why.clone()),
    };
    let count = u64::try_from(all.len()).unwrap_or(u64::MAX);
    let mut out = vec![claim("nscq.switches", &source, Value::Number(count))];
    for (index, switch) in all.iter().enumerate() {
        for (field, value) in [
            ("uuid", Value::Text(switch.uuid.clone())),
            ("architecture", text(&switch.architecture)),
            ("mode", text(&switch.mode)),
        ] {
            out.push(claim(
                &format!("nscq.switch.{index}.{field}"),
                &source,
                value,
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Answers by these modes, and remembers what was asked.
    struct Told {
        modes: Vec<Result<i8, String>>,
        report: fn(&str) -> Result<Vec<u8>, String>,
        asked: RefCell<Vec<String>>,
    }

    impl Told {
        fn new(modes: &[i8]) -> Self {
            Self {
                modes: modes.iter().map(|mode| Ok(*mode)).collect(),
                report: |_| Ok(b"report".to_vec()),
                asked: RefCell::default(),
            }
        }

        fn collected(&self, nonce: Option<[u8; 32]>) -> (Switches, Vec<String>) {
            (collect(self, nonce), self.asked.take())
        }
    }

    impl Fabric for Told {
        fn switches(&self) -> Result<Vec<String>, String> {
            Ok((0..self.modes.len()).map(|n| format!("SWX-{n}")).collect())
        }

        fn architecture(&self, _switch: &str) -> Result<i8, String> {
            Ok(2)
        }

        fn mode(&self, switch: &str) -> Result<i8, String> {
            let index = switch.strip_prefix("SWX-").unwrap();
            self.modes[index.parse::<usize>().unwrap()].clone()
        }

        fn chain(&self, switch: &str) -> Result<Vec<u8>, String> {
            self.asked.borrow_mut().push(format!("chain {switch}"));
            Ok(b"chain".to_vec())
        }

        fn report(&self, switch: &str, _nonce: [u8; 32]) -> Result<Vec<u8>, String> {
            self.asked.borrow_mut().push(format!("report {switch}"));
            (self.report)(switch)
        }
    }

    const NONCE: Option<[u8; 32]> = Some([7; 32]);

    #[test]
    fn switches_in_the_protected_mode_are_asked_once_each() {
        let told = Told::new(&[3, 0, 1, 2, -1]);
        let (all, asked) = told.collected(NONCE);
        let want = ["chain SWX-0", "report SWX-0", "chain SWX-2", "report SWX-2"];
        assert_eq!(asked, want);
        assert_eq!((all.evidence.len(), &all.stopped), (2, &None));
        let modes: Vec<_> = all
            .switches
            .unwrap()
            .into_iter()
            .map(|it| it.mode)
            .collect();
        let words = ["locked", "off", "on", "failure", "unknown"];
        assert_eq!(modes, words.map(|word| Ok(word.to_owned())));
        let (_, asked) = told.collected(None);
        assert_eq!(asked, [""; 0], "without a challenge none is");
    }

    #[test]
    fn whatever_fails_ends_the_asking_and_all_are_named() {
        let mut told = Told::new(&[3, 3, 3]);
        told.report = |switch| match switch {
            "SWX-1" => Err("timeout".to_owned()),
            _ => Ok(b"report".to_vec()),
        };
        let (all, asked) = told.collected(NONCE);
        assert_eq!(asked.len(), 4, "{asked:?}");
        assert_eq!(all.stopped.as_deref(), Some("switch 1: timeout"));
        assert_eq!((all.evidence.len(), all.switches.unwrap().len()), (1, 3));
        told.report = |_| Ok(Vec::new());
        let (all, _) = told.collected(NONCE);
        assert_eq!(all.stopped.as_deref(), Some("switch 0: an empty report"));
        let too_many = "9 switches: at most 8 are asked";
        for (count, requests, stopped) in [(7, 14, None), (8, 16, None), (9, 0, Some(too_many))] {
            let (many, asked) = Told::new(&vec![3; count]).collected(NONCE);
            let found = (asked.len(), many.stopped.as_deref());
            assert_eq!(found, (requests, stopped), "{count}");
        }
        let mut silent = Told::new(&[3]);
        silent.modes = vec![Err("driver".to_owned())];
        let (all, asked) = silent.collected(NONCE);
        assert_eq!(
            (asked.len(), all.evidence.len()),
            (0, 0),
            "nobody knows its mode"
        );
    }

    #[test]
    fn claims_name_each_switch_or_say_why_not() {
        let (all, _) = Told::new(&[3, 0]).collected(None);
        let made = claims(None, &all);
        let said = |name: &str| {
            let claim = made.iter().find(|claim| claim.name == name);
            claim.and_then(|claim| claim.value.clone())
        };
        assert_eq!(said("nscq.switches"), Some(Value::Number(2)));
        let text = |text: &str| Some(Value::Text(text.to_owned()));
        assert_eq!(said("nscq.switch.0.mode"), text("locked"));
        assert_eq!(said("nscq.switch.1.mode"), text("off"));
        assert_eq!(said("nscq.switch.1.architecture"), text("LS10"));
        let none = claims(None, &Switches::nothing("no library"));
        let why = Some(Value::Unavailable("no library".to_owned()));
        assert_eq!((none.len(), &none[0].value), (1, &why));
    }
}
