//! GPUs, through NVIDIA's library, in a short-lived child: `bailiwick-agent probe nvml`.
//!
//! A vendor's library does not share an address space with the TPM's keys. The child prints one
//! JSON object; it gets no environment, no input and little time, and what it prints is bounded.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bailiwick_attestation::proto::v1::{Claim, claim::Value};
use nvml_wrapper::{Device, Nvml};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use super::{Restarts, claim};
use crate::sys::{self, nvml as raw};

/// The name the loader knows.
pub(super) const LIBRARY: &str = "libnvidia-ml.so.1";

/// `nvmlInit` wakes GPUs that sleep: seconds, with eight of them.
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

/// Most output read: 64 GPUs have some 50 KiB.
const MAX_OUTPUT: u64 = 128 << 10;

/// Most GPUs named; more are counted.
const MAX_GPUS: u32 = 64;

/// What NVML says, or what it answered instead.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    driver_version: Said<String>,
    count: Said<u32>,
    confidential: Confidential,
    gpus: Vec<Gpu>,
}

type Said<T> = Result<T, String>;

/// Confidential computing, as the driver has it. None of these questions can tear it down.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Confidential {
    environment: Said<String>,
    enabled: Said<bool>,
    devtools: Said<bool>,
    multi_gpu: Said<String>,
    ready: Said<bool>,
    cpu: Said<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Gpu {
    name: Said<String>,
    uuid: Said<String>,
    serial: Said<String>,
    vbios: Said<String>,
    pci: Said<String>,
    pdi: Said<String>,
    mig: Said<String>,
    ecc: Said<String>,
    protected_kib: Said<u64>,
    remapped_rows: Said<u64>,
    remap_pending: Said<bool>,
    remap_failed: Said<bool>,
    processes: Said<u64>,
    /// Since the driver was loaded, or the GPU reset.
    energy_mj: Said<u64>,
}

/// The child's work: `Err` says why there is no library to ask.
pub fn probe(library: Option<&Path>) -> Result<Summary, String> {
    let library = library.unwrap_or_else(|| Path::new(LIBRARY));
    let nvml = Nvml::builder()
        .lib_path(library.as_os_str())
        .init()
        .map_err(said)?;
    let count = nvml.device_count();
    let mut gpus = Vec::new();
    for index in 0..count.as_ref().map_or(0, |count| (*count).min(MAX_GPUS)) {
        gpus.push(match nvml.device_by_index(index) {
            Ok(device) => gpu(&device),
            Err(err) => Gpu::unasked(&err.to_string()),
        });
    }
    Ok(Summary {
        driver_version: nvml.sys_driver_version().map_err(said),
        count: count.map_err(said),
        confidential: confidential(&nvml),
        gpus,
    })
}

fn confidential(nvml: &Nvml) -> Confidential {
    let state = raw::state(nvml).map_err(said);
    let word = |number: u32, words: &[&str]| {
        let word = usize::try_from(number).ok().and_then(|at| words.get(at));
        word.map_or_else(|| number.to_string(), |word| (*word).to_owned())
    };
    let of_state = |number: u32| word(number, &["unavailable", "simulation", "production"]);
    let multi_gpu = raw::multi_gpu(nvml).map_err(said);
    let cpu = raw::cpu(nvml).map_err(said);
    Confidential {
        environment: state.clone().map(|state| of_state(state.environment)),
        enabled: state.clone().map(|state| state.ccFeature != 0),
        devtools: state.map(|state| state.devToolsMode != 0),
        multi_gpu: multi_gpu.map(|mode| word(mode, &["none", "protected-pcie", "nvle"])),
        ready: raw::ready(nvml).map_err(said),
        cpu: cpu.map(|cpu| word(cpu, &["none", "sev", "tdx", "sev-snp", "sev-snp-vtom"])),
    }
}

fn gpu(device: &Device<'_>) -> Gpu {
    let rows = raw::remapped_rows(device).map_err(said);
    let mode = |now: bool, pending: bool| {
        let word = |on| if on { "on" } else { "off" };
        if now == pending {
            return word(now).to_owned();
        }
        format!("{}, {} after the next reset", word(now), word(pending))
    };
    let mig = device.mig_mode().map_err(said);
    let ecc = device.is_ecc_enabled().map_err(said);
    let processes = device.running_compute_processes_count();
    Gpu {
        name: device.name().map_err(said),
        uuid: device.uuid().map_err(said),
        serial: device.serial().map_err(said),
        vbios: device.vbios_version().map_err(said),
        pci: device.pci_info().map(|pci| pci.bus_id).map_err(said),
        pdi: raw::pdi(device)
            .map(|pdi| format!("{pdi:016x}"))
            .map_err(said),
        mig: mig.map(|mig| mode(mig.current != 0, mig.pending != 0)),
        ecc: ecc.map(|ecc| mode(ecc.currently_enabled, ecc.pending_enabled)),
        protected_kib: raw::protected_kib(device).map_err(said),
        remapped_rows: rows.clone().map(|(rows, ..)| rows),
        remap_pending: rows.clone().map(|(_, pending, _)| pending),
        remap_failed: rows.map(|(.., failed)| failed),
        processes: processes.map(u64::from).map_err(said),
        energy_mj: device.total_energy_consumption().map_err(said),
    }
}

impl Gpu {
    /// Nothing can be asked: said once per field.
    fn unasked(why: &str) -> Self {
        let why = || why.to_owned();
        Self {
            name: Err(why()),
            uuid: Err(why()),
            serial: Err(why()),
            vbios: Err(why()),
            pci: Err(why()),
            pdi: Err(why()),
            mig: Err(why()),
            ecc: Err(why()),
            protected_kib: Err(why()),
            remapped_rows: Err(why()),
            remap_pending: Err(why()),
            remap_failed: Err(why()),
            processes: Err(why()),
            energy_mj: Err(why()),
        }
    }
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it stands where an error is mapped"
)]
fn said(err: impl ToString) -> String {
    err.to_string()
}

/// Asks a child and turns its answer into claims.
pub(super) async fn claims(library: Option<&Path>, restarts: &mut Restarts) -> Vec<Claim> {
    let source = format!(
        "nvml: {}",
        library.unwrap_or_else(|| Path::new(LIBRARY)).display()
    );
    let summary = match ask_child(library).await {
        Ok(summary) => summary,
        Err(why) => return vec![claim("nvml.gpus", &source, Value::Unavailable(why))],
    };
    into_claims(&source, summary, restarts)
}

fn text(answer: Said<String>) -> Value {
    answer.map_or_else(Value::Unavailable, Value::Text)
}

fn flag(answer: Said<bool>) -> Value {
    answer.map_or_else(Value::Unavailable, Value::Flag)
}

fn number(answer: Said<u64>) -> Value {
    answer.map_or_else(Value::Unavailable, Value::Number)
}

fn into_claims(source: &str, summary: Summary, restarts: &mut Restarts) -> Vec<Claim> {
    let cc = summary.confidential;
    let mut out: Vec<Claim> = [
        ("nvml.driver-version", text(summary.driver_version)),
        ("nvml.gpus", number(summary.count.map(u64::from))),
        ("nvml.cc.environment", text(cc.environment)),
        ("nvml.cc.enabled", flag(cc.enabled)),
        ("nvml.cc.devtools", flag(cc.devtools)),
        ("nvml.cc.multi-gpu", text(cc.multi_gpu)),
        ("nvml.cc.ready", flag(cc.ready)),
        ("nvml.cc.cpu", text(cc.cpu)),
    ]
    .into_iter()
    .map(|(name, value)| claim(name, source, value))
    .collect();
    for (index, gpu) in summary.gpus.into_iter().enumerate() {
        // How much it used changes all the time, and is no claim; that it began anew is one.
        let resets = match (&gpu.uuid, gpu.energy_mj) {
            (Ok(uuid), Ok(used)) => Ok(restarts.gpu(uuid, used)),
            (Err(why), _) => Err(why.clone()),
            (_, Err(why)) => Err(why),
        };
        for (field, value) in [
            ("name", text(gpu.name)),
            ("uuid", text(gpu.uuid)),
            ("serial", text(gpu.serial)),
            ("vbios", text(gpu.vbios)),
            ("pci", text(gpu.pci)),
            ("pdi", text(gpu.pdi)),
            ("mig", text(gpu.mig)),
            ("ecc", text(gpu.ecc)),
            ("protected-kib", number(gpu.protected_kib)),
            ("remapped-rows", number(gpu.remapped_rows)),
            ("remap-pending", flag(gpu.remap_pending)),
            ("remap-failed", flag(gpu.remap_failed)),
            ("processes", number(gpu.processes)),
            ("resets", number(resets)),
        ] {
            let name = format!("nvml.gpu.{index}.{field}");
            out.push(claim(&name, source, value));
        }
    }
    out
}

async fn ask_child(library: Option<&Path>) -> Result<Summary, String> {
    let program = std::env::current_exe().map_err(|err| err.to_string())?;
    let mut args = vec![OsString::from("probe"), OsString::from("nvml")];
    if let Some(library) = library {
        args.push(OsString::from("--library"));
        args.push(library.into());
    }
    let output = run_bounded(program, args, TIMEOUT, MAX_OUTPUT).await?;
    match serde_json::from_slice::<Result<Summary, String>>(&output) {
        Ok(answer) => answer,
        Err(err) => Err(format!(
            "the probe's answer is not what it should be: {err}"
        )),
    }
}

/// Standard output of a child without environment, input and anything of ours that is open, killed
/// when it is late or talks too much.
pub(super) async fn run_bounded(
    program: PathBuf,
    args: Vec<OsString>,
    patience: Duration,
    most: u64,
) -> Result<Vec<u8>, String> {
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    sys::hand_nothing_on(command.as_std_mut());
    let mut child = command.spawn().map_err(|err| err.to_string())?;
    let Some(stdout) = child.stdout.take() else {
        return Err("the child has no output".to_owned());
    };
    let work = async {
        let mut output = Vec::new();
        stdout
            .take(most + 1)
            .read_to_end(&mut output)
            .await
            .map_err(|err| err.to_string())?;
        if u64::try_from(output.len()).unwrap_or(u64::MAX) > most {
            return Err(format!("the probe printed more than {most} bytes"));
        }
        let status = child.wait().await.map_err(|err| err.to_string())?;
        if status.success() {
            Ok(output)
        } else {
            Err(format!("the probe ended with {status}"))
        }
    };
    timeout(patience, work)
        .await
        .unwrap_or_else(|_| Err(format!("the probe did not answer in {patience:?}")))
}
