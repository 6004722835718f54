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
use nvml_wrapper::{Nvml, error::NvmlError};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use super::claim;

/// The name the loader knows.
pub(super) const LIBRARY: &str = "libnvidia-ml.so.1";

/// `nvmlInit` wakes GPUs that sleep: seconds, with eight of them.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Most output read: 64 GPUs have some 16 KiB.
const MAX_OUTPUT: u64 = 64 << 10;

/// Most GPUs named; more are counted.
const MAX_GPUS: u32 = 64;

/// What NVML says, or what it answered instead.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    driver_version: Result<String, String>,
    count: Result<u32, String>,
    gpus: Vec<Gpu>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Gpu {
    name: Result<String, String>,
    uuid: Result<String, String>,
    serial: Result<String, String>,
    vbios: Result<String, String>,
    pci: Result<String, String>,
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
        let device = nvml.device_by_index(index);
        // An error that cannot be cloned is said once per field.
        let ask = |question: &dyn Fn(&nvml_wrapper::Device<'_>) -> Result<String, NvmlError>| {
            match &device {
                Ok(device) => question(device).map_err(said),
                Err(err) => Err(err.to_string()),
            }
        };
        gpus.push(Gpu {
            name: ask(&|device| device.name()),
            uuid: ask(&|device| device.uuid()),
            serial: ask(&|device| device.serial()),
            vbios: ask(&|device| device.vbios_version()),
            pci: ask(&|device| device.pci_info().map(|pci| pci.bus_id)),
        });
    }
    Ok(Summary {
        driver_version: nvml.sys_driver_version().map_err(said),
        count: count.map_err(said),
        gpus,
    })
}

fn said(err: NvmlError) -> String {
    err.to_string()
}

/// Asks a child and turns its answer into claims.
pub(super) async fn claims(library: Option<&Path>) -> Vec<Claim> {
    let source = format!(
        "nvml: {}",
        library.unwrap_or_else(|| Path::new(LIBRARY)).display()
    );
    let summary = match ask_child(library).await {
        Ok(summary) => summary,
        Err(why) => return vec![claim("nvml.gpus", &source, Value::Unavailable(why))],
    };
    into_claims(&source, summary)
}

fn into_claims(source: &str, summary: Summary) -> Vec<Claim> {
    let text = |answer: Result<String, String>| match answer {
        Ok(text) => Value::Text(text),
        Err(why) => Value::Unavailable(why),
    };
    let mut out = vec![
        claim("nvml.driver-version", source, text(summary.driver_version)),
        claim(
            "nvml.gpus",
            source,
            summary
                .count
                .map_or_else(Value::Unavailable, |count| Value::Number(count.into())),
        ),
    ];
    for (index, gpu) in summary.gpus.into_iter().enumerate() {
        for (field, answer) in [
            ("name", gpu.name),
            ("uuid", gpu.uuid),
            ("serial", gpu.serial),
            ("vbios", gpu.vbios),
            ("pci", gpu.pci),
        ] {
            out.push(claim(
                &format!("nvml.gpu.{index}.{field}"),
                source,
                text(answer),
            ));
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
    let output = run_bounded(program, args, TIMEOUT).await?;
    match serde_json::from_slice::<Result<Summary, String>>(&output) {
        Ok(answer) => answer,
        Err(err) => Err(format!(
            "the probe's answer is not what it should be: {err}"
        )),
    }
}

/// Standard output of a child without environment and input, killed when it is late or talks
/// too much.
pub(super) async fn run_bounded(
    program: PathBuf,
    args: Vec<OsString>,
    patience: Duration,
) -> Result<Vec<u8>, String> {
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|err| err.to_string())?;
    let Some(stdout) = child.stdout.take() else {
        return Err("the child has no output".to_owned());
    };
    let work = async {
        let mut output = Vec::new();
        stdout
            .take(MAX_OUTPUT + 1)
            .read_to_end(&mut output)
            .await
            .map_err(|err| err.to_string())?;
        if u64::try_from(output.len()).unwrap_or(u64::MAX) > MAX_OUTPUT {
            return Err(format!("the probe printed more than {MAX_OUTPUT} bytes"));
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
