//! Questions to a vendor's library, each in a process of its own: what `run` starts, what a person
//! may ask, and all that `bailiwick-probe` can do.
//!
//! None of them needs a TPM, a configuration or a network.

use std::{
    io::{self, Write as _},
    path::PathBuf,
};

use clap::Subcommand;
use serde::Serialize;

use crate::collect::{gpu, nvml};

/// What is asked, and of which library.
#[derive(Debug, Subcommand)]
pub enum Probe {
    /// Reports of GPUs under confidential computing, for `bailiwick inspect gpu --evidence`. A
    /// request that fails can tear confidential computing down: ask seldom, never in a loop
    Gpu {
        /// The challenge, 32 bytes of hex
        #[arg(long, value_parser = nonce)]
        nonce: [u8; 32],
        /// The library; default `libnvidia-ml.so.1`
        #[arg(long)]
        library: Option<PathBuf>,
    },
    /// GPUs, through NVIDIA's library
    Nvml {
        /// The library; default `libnvidia-ml.so.1`
        #[arg(long)]
        library: Option<PathBuf>,
    },
}

impl Probe {
    /// Asks, and prints the answer as one JSON value. That there was nobody to ask is an answer.
    pub fn run(&self) -> io::Result<()> {
        match self {
            Self::Gpu { nonce, library } => print(&gpu::probe(library.as_deref(), *nonce)),
            Self::Nvml { library } => print(&nvml::probe(library.as_deref())),
        }
    }
}

fn print(answer: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    out.flush()
}

fn nonce(text: &str) -> Result<[u8; 32], String> {
    let mut nonce = [0; 32];
    match hex::decode_to_slice(text, &mut nonce) {
        Ok(()) => Ok(nonce),
        Err(err) => Err(format!("a challenge is 32 bytes of hex: {err}")),
    }
}
