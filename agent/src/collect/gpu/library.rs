//! NVML itself.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use super::{Gpus, Mode};
use crate::collect::nvml::LIBRARY;

/// The library, loaded and initialised.
#[derive(Debug)]
pub struct Loaded(Nvml);

impl Loaded {
    /// Loads `library`, else the one the loader knows.
    pub fn open(library: Option<&Path>) -> Result<Self, String> {
        let library = library.unwrap_or_else(|| Path::new(LIBRARY));
        Nvml::builder()
            .lib_path(library.as_os_str())
            .init()
            .map(Self)
            .map_err(said)
    }

    fn ask<T>(
        &self,
        index: u32,
        question: impl FnOnce(&Device<'_>) -> Result<T, NvmlError>,
    ) -> Result<T, String> {
        let device = self.0.device_by_index(index).map_err(said)?;
        // The wrapper believes the sizes the library returns and panics where they are beyond
        // its buffers.
        match catch_unwind(AssertUnwindSafe(|| question(&device))) {
            Ok(answer) => answer.map_err(said),
            Err(_panic) => Err("the library's answer is longer than its buffer".to_owned()),
        }
    }
}

impl Gpus for Loaded {
    fn count(&self) -> Result<u32, String> {
        self.0.device_count().map_err(said)
    }

    // These are of the whole system, and the wrapper has them on a device.
    fn mode(&self) -> Result<Mode, String> {
        Ok(Mode {
            enabled: self.ask(0, |device| device.is_cc_enabled())?,
            devtools: self.ask(0, |device| device.is_cc_dev_mode_enabled()),
            protected_pcie: self.ask(0, |device| device.is_multi_gpu_protected_pcie_enabled()),
            // Named after the state, and reads whether work is accepted.
            ready: self.ask(0, |device| device.get_confidential_compute_state()),
        })
    }

    fn uuid(&self, index: u32) -> Result<String, String> {
        self.ask(index, |device| device.uuid())
    }

    fn chain(&self, index: u32) -> Result<Vec<u8>, String> {
        let answer = self.ask(index, |device| {
            device.confidential_compute_gpu_certificate()
        })?;
        Ok(answer.attestation_cert_chain)
    }

    fn report(&self, index: u32, nonce: [u8; 32]) -> Result<Vec<u8>, String> {
        let answer = self.ask(index, |device| {
            device.confidential_compute_gpu_attestation_report(nonce)
        })?;
        Ok(answer.attestation_report)
    }
}

fn said(err: NvmlError) -> String {
    err.to_string()
}
