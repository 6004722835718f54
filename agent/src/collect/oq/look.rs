//! Whether a GPU may be tried, by what NVML says of it before and after.

use std::path::Path;

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
};

use super::{Figures, Stopped};
use crate::sys::nvml as raw;

/// Percent of its time that a GPU nobody uses may be busy.
const IDLE: u32 = 5;
/// Degrees Celsius above which it is left alone.
const HOT: u32 = 80;

/// What NVML says, or why it does not.
type Said<T> = Result<T, String>;

/// A GPU at one moment.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) uuid: String,
    pub(super) mode: String,
    /// Processes that compute on it, and that draw.
    pub(super) processes: Said<u32>,
    /// It is divided; drivers that know of no such thing say so by an error.
    pub(super) divided: Said<bool>,
    /// Rows of memory wait to be replaced.
    pub(super) remap_pending: Said<bool>,
    /// Under confidential computing: it accepts work.
    pub(super) ready: Said<bool>,
    pub(super) busy: Said<u32>,
    pub(super) degrees: Said<u32>,
    /// Errors in memory that could not be corrected, since the driver was loaded.
    pub(super) errors: Said<u64>,
}

pub(super) fn open(library: &Path) -> Result<Nvml, String> {
    let nvml = Nvml::builder().lib_path(library.as_os_str()).init();
    nvml.map_err(|err| err.to_string())
}

/// As NVML writes it: `GPU-00000000-0000-0000-0000-000000000000`.
pub(super) fn uuid(bytes: &[u8; 16]) -> String {
    let hex = hex::encode(bytes);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| hex.get(range).unwrap_or(""));
    format!("GPU-{}", parts.join("-"))
}

impl Look {
    pub(super) fn at(nvml: &Nvml, index: u32) -> Self {
        match nvml.device_by_index(index) {
            Ok(device) => Self::of(nvml, &device),
            Err(err) => Self::blind(&err.to_string()),
        }
    }

    fn of(nvml: &Nvml, device: &Device<'_>) -> Self {
        let on = raw::state(nvml).map(|state| state.ccFeature != 0 || state.devToolsMode != 0);
        Self {
            uuid: device.uuid().unwrap_or_default(),
            mode: mode(nvml),
            processes: processes(device),
            divided: device.mig_mode().map(|it| it.current != 0).map_err(said),
            remap_pending: raw::remapped_rows(device)
                .map(|(_, pending, _)| pending)
                .map_err(said),
            ready: match on {
                Ok(true) => raw::ready(nvml).map_err(said),
                _ => Ok(true),
            },
            busy: device.utilization_rates().map(|it| it.gpu).map_err(said),
            degrees: device.temperature(TemperatureSensor::Gpu).map_err(said),
            errors: device
                .total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile)
                .map_err(said),
        }
    }

    fn blind(why: &str) -> Self {
        let why = || why.to_owned();
        Self {
            uuid: String::new(),
            mode: "unknown".to_owned(),
            processes: Err(why()),
            divided: Err(why()),
            remap_pending: Err(why()),
            ready: Err(why()),
            busy: Err(why()),
            degrees: Err(why()),
            errors: Err(why()),
        }
    }

    /// Why it may not be tried. Who uses it has to be known; what a driver has no answer to beside
    /// that keeps nobody from trying.
    pub(super) fn refusal(&self) -> Option<String> {
        let why = match self {
            Self {
                processes: Err(why),
                ..
            } => format!("whether anybody uses it is not told: {why}"),
            Self {
                processes: Ok(count @ 1..),
                ..
            } => format!("{count} processes use it"),
            Self {
                divided: Ok(true), ..
            } => "it is divided".to_owned(),
            Self {
                remap_pending: Ok(true),
                ..
            } => "rows of its memory wait for a reset".to_owned(),
            Self {
                ready: Ok(false), ..
            } => "it accepts no work".to_owned(),
            Self {
                ready: Err(why), ..
            } => format!("whether it accepts work is not told: {why}"),
            Self { busy: Ok(busy), .. } if *busy > IDLE => format!("it is busy, {busy} %"),
            Self {
                degrees: Ok(degrees),
                ..
            } if *degrees > HOT => format!("it has {degrees} °C"),
            _ => return None,
        };
        Some(format!("{}: {why}", self.uuid))
    }

    /// What came of it, if nobody else came meanwhile and memory stood it.
    pub(super) fn held_against(
        &self,
        after: &Self,
        outcome: Result<Figures, Stopped>,
    ) -> Result<Figures, Stopped> {
        let figures = outcome?;
        match (&self.errors, &after.errors) {
            (Ok(before), Ok(now)) if now > before => {
                let new = now - before;
                let why = format!("{new} errors in memory that could not be corrected");
                return Err(Stopped::Failed(why));
            }
            _ => {}
        }
        match after.processes {
            Ok(0) if self.mode == after.mode => Ok(figures),
            Ok(0) => Err(Stopped::NotRun("its mode changed meanwhile".to_owned())),
            _ => Err(Stopped::NotRun("somebody else came meanwhile".to_owned())),
        }
    }
}

fn processes(device: &Device<'_>) -> Said<u32> {
    let compute = device.running_compute_processes_count().map_err(said)?;
    let draw = device.running_graphics_processes_count().map_err(said)?;
    Ok(compute.saturating_add(draw))
}

/// Bytes move at another speed in each.
fn mode(nvml: &Nvml) -> String {
    let Ok(state) = raw::state(nvml) else {
        // Drivers that have never heard of it.
        return "off".to_owned();
    };
    let together = raw::multi_gpu(nvml).unwrap_or_default();
    let word = match (state.devToolsMode, state.ccFeature, together) {
        (1.., ..) => "devtools",
        (_, 1.., _) => "on",
        (_, _, 1..) => "protected-pcie",
        _ => "off",
    };
    word.to_owned()
}

fn said(err: impl ToString) -> String {
    err.to_string()
}
