//! NVML itself.

use std::path::Path;

use nvml_wrapper::{Device, Nvml};

use super::{Gpus, Mode};
use crate::{collect::nvml::LIBRARY, sys::nvml as raw};

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
            .map_err(|err| err.to_string())
    }

    fn device(&self, index: u32) -> Result<Device<'_>, String> {
        self.0.device_by_index(index).map_err(|err| err.to_string())
    }
}

impl Gpus for Loaded {
    fn count(&self) -> Result<u32, String> {
        self.0.device_count().map_err(|err| err.to_string())
    }

    fn mode(&self) -> Result<Mode, String> {
        let state = raw::state(&self.0).map_err(|err| err.to_string())?;
        Ok(Mode {
            enabled: state.ccFeature != 0,
            devtools: state.devToolsMode != 0,
            environment: state.environment,
            multi_gpu: raw::multi_gpu(&self.0).map_err(|err| err.to_string()),
            ready: raw::ready(&self.0).map_err(|err| err.to_string()),
        })
    }

    fn uuid(&self, index: u32) -> Result<String, String> {
        self.device(index)?.uuid().map_err(|err| err.to_string())
    }

    fn chain(&self, index: u32) -> Result<Vec<u8>, String> {
        raw::certificate(&self.device(index)?).map_err(|err| err.to_string())
    }

    fn report(&self, index: u32, nonce: [u8; 32]) -> Result<Vec<u8>, String> {
        raw::report(&self.device(index)?, nonce).map_err(|err| err.to_string())
    }
}
