//! Questions to a vendor's library, each in a process of its own: what `run` starts, what a person
//! may ask, and all that `bailiwick-probe` can do.
//!
//! None of them needs a TPM, a configuration or a network.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::Subcommand;
use serde::Serialize;

use crate::collect::{
    gpu, nvml,
    oq::{self, Bounds},
};

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
    /// NVSwitches, through NSCQ; with a challenge, those in the protected mode give a report. Ask seldom
    Switches {
        /// The challenge, 32 bytes of hex
        #[arg(long, value_parser = nonce)]
        nonce: Option<[u8; 32]>,
        /// The library; default `libnvidia-nscq.so.2`
        #[arg(long)]
        library: Option<PathBuf>,
    },
    /// A small computation on each GPU, if nobody uses any: what it answered and how fast bytes move
    Oq {
        /// NVML; default `libnvidia-ml.so.1`
        #[arg(long)]
        library: Option<PathBuf>,
        /// CUDA's driver API; default `libcuda.so.1`
        #[arg(long)]
        cuda: Option<PathBuf>,
        /// Most of each GPU's memory that is taken; a twentieth of what is free at the most
        #[arg(long, default_value_t = 1 << 30)]
        memory_bytes: u64,
        /// Most time for all GPUs
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
        seconds: u64,
    },
}

impl Probe {
    /// Asks, and prints the answer as one JSON value. That there was nobody to ask is an answer.
    pub fn run(&self) -> io::Result<()> {
        match self {
            Self::Gpu { nonce, library } => print(&gpu::probe(library.as_deref(), *nonce)),
            Self::Nvml { library } => print(&nvml::probe(library.as_deref())),
            Self::Switches { nonce, library } => {
                print(&gpu::switches::probe(library.as_deref(), *nonce))
            }
            Self::Oq {
                library,
                cuda,
                memory_bytes,
                seconds,
            } => print(&oq::probe(&Bounds {
                nvml: library.clone(),
                cuda: cuda.clone(),
                memory: *memory_bytes,
                time: Duration::from_secs(*seconds),
            })),
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
