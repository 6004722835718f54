//! What NVML says of a GPU while it is tried, beside whether it may be: links, clocks, Xid errors.
//!
//! Each is looked at by itself, and where NVML has no answer that is the answer.

use nvml_wrapper::{
    Device, EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError,
    error::nvml_sym,
};
use serde::{Deserialize, Serialize};

use super::{Baseline, Stopped, Tried};

/// Most links of a GPU: `NVML_NVLINK_MAX_LINKS`.
const MAX_LINKS: u32 = 18;
/// Most Xid errors that are told: more say nothing more.
const MAX_XIDS: usize = 8;
/// How long an error that came is waited for, ms.
const PATIENCE_MS: u32 = 100;
/// Reasons for which clocks are held down that are none of an idle or a configured GPU: its software
/// or its hardware says that it is hot, or its power supply that it draws too much. The bit of any
/// slowdown by hardware (0x8) is not among them: it is up while power states change, too, and whatever
/// else it means has a bit of its own here. NVML's header, `nvmlClocksThrottleReason`.
const HELD: [(u64, &str); 3] = [
    (0x20, "heat, by software"),
    (0x40, "heat, by hardware"),
    (0x80, "the power brake"),
];

/// What NVML says around one run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Around {
    /// NVLinks that were up, before and after.
    pub links: Result<[u32; 2], String>,
    /// Why clocks were held down before or after, in NVML's bits.
    pub clocks: Result<u64, String>,
    /// Xid errors that came meanwhile.
    pub xids: Result<Vec<u64>, String>,
}

/// A GPU that is looked at from before it is tried.
#[derive(Debug)]
pub(super) struct Watch<'n> {
    links: Result<u32, String>,
    clocks: Result<u64, String>,
    errors: Result<EventSet<'n>, String>,
}

impl<'n> Watch<'n> {
    pub(super) fn on(nvml: &'n Nvml, index: u32) -> Self {
        match nvml.device_by_index(index) {
            Ok(device) => Self {
                links: links(&device),
                clocks: clocks(&device),
                errors: listen(nvml, &device).map_err(said),
            },
            Err(err) => Self {
                links: Err(said(&err)),
                clocks: Err(said(&err)),
                errors: Err(said(&err)),
            },
        }
    }

    /// What it came to.
    pub(super) fn end(self, nvml: &Nvml, index: u32) -> Around {
        let device = nvml.device_by_index(index).map_err(said);
        let after = |look: &dyn Fn(&Device<'_>) -> Result<u64, String>| {
            device.as_ref().map_err(Clone::clone).and_then(look)
        };
        let now = match &device {
            Ok(device) => links(device),
            Err(why) => Err(why.clone()),
        };
        Around {
            links: self.links.and_then(|before| Ok([before, now?])),
            clocks: self.clocks.and_then(|before| Ok(before | after(&clocks)?)),
            xids: self.errors.and_then(|set| heard(&set)),
        }
    }
}

/// NVLinks that are up. A GPU has them from the first on, without a gap.
fn links(device: &Device<'_>) -> Result<u32, String> {
    let mut up = 0;
    for link in 0..MAX_LINKS {
        match device.link_wrapper_for(link).is_active() {
            Ok(active) => up += u32::from(active),
            // Behind the last one.
            Err(NvmlError::InvalidArg | NvmlError::NotSupported) if link > 0 => break,
            Err(err) => return Err(said(err)),
        }
    }
    Ok(up)
}

fn clocks(device: &Device<'_>) -> Result<u64, String> {
    let reasons = device.current_throttle_reasons().map_err(said)?;
    Ok(reasons.bits())
}

/// From now on, errors of this GPU are kept for whoever asks.
fn listen<'n>(nvml: &'n Nvml, device: &Device<'n>) -> Result<EventSet<'n>, NvmlError> {
    // The wrapper gives a set back whatever happens, and panics where the library cannot take it.
    nvml_sym(nvml.lib().nvmlEventSetFree.as_ref())?;
    let set = nvml.create_event_set()?;
    let set = device.register_events(EventTypes::CRITICAL_XID_ERROR, set);
    set.map_err(|err| err.error)
}

fn heard(set: &EventSet<'_>) -> Result<Vec<u64>, String> {
    let mut xids = Vec::new();
    while xids.len() < MAX_XIDS {
        match set.wait(PATIENCE_MS) {
            Ok(event) => match event.event_data {
                Some(XidError::Value(xid)) => xids.push(xid),
                // NVML's own word for an error it has no number for.
                Some(XidError::Unknown) => xids.push(999),
                None => return Err("an event of another kind".to_owned()),
            },
            Err(NvmlError::Timeout) => break,
            Err(err) => return Err(said(err)),
        }
    }
    Ok(xids)
}

fn said(err: impl ToString) -> String {
    err.to_string()
}

/// What is to be thought of each, by name. What was not asked, or asked of a GPU that was not tried,
/// has not passed.
pub(super) fn checks(
    tried: &Tried,
    baseline: Option<&Baseline>,
) -> [(&'static str, Result<(), Stopped>); 3] {
    let around = &tried.around;
    let not_run = |why: &str| Err(Stopped::NotRun(why.to_owned()));
    let links = match (&around.links, baseline.and_then(|it| it.nvlinks)) {
        (Err(why), _) => not_run(why),
        (Ok([before, after]), _) if before != after => Err(Stopped::Failed(format!(
            "{before} NVLinks were up before, {after} after"
        ))),
        (Ok(_), None) => not_run("no baseline says how many NVLinks are up"),
        (Ok([_, up]), Some(wanted)) if *up != wanted => Err(Stopped::Failed(format!(
            "{up} NVLinks are up, {wanted} expected"
        ))),
        (Ok(_), Some(_)) => Ok(()),
    };
    let clocks = match &around.clocks {
        Err(why) => not_run(why),
        Ok(reasons) => match held(*reasons) {
            None => Ok(()),
            Some(why) => Err(Stopped::Failed(format!("clocks are held down: {why}"))),
        },
    };
    let xids = match around.xids.as_deref() {
        Err(why) => not_run(why),
        Ok([]) => Ok(()),
        Ok(xids) => {
            let xids: Vec<String> = xids.iter().map(ToString::to_string).collect();
            let why = format!("Xid {} came meanwhile", xids.join(", "));
            Err(Stopped::Failed(why))
        }
    };
    let ran = |check: Result<(), Stopped>| match (&tried.outcome, check) {
        (Err(Stopped::NotRun(why)), Ok(())) => Err(Stopped::NotRun(why.clone())),
        (_, check) => check,
    };
    [("links", links), ("clocks", clocks), ("xids", xids)].map(|(name, it)| (name, ran(it)))
}

/// Why clocks are held down by what should not be.
fn held(reasons: u64) -> Option<String> {
    let named = HELD.iter().filter(|(bit, _)| reasons & bit != 0);
    let named: Vec<&str> = named.map(|(_, name)| *name).collect();
    (!named.is_empty()).then(|| named.join(", "))
}
