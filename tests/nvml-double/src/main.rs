//! `bailiwick-nvml-double FOLDER GPUS`: makes a double ready and prints its path, which is what to
//! configure as NVML. A part of tests and of the demo; what it makes is no hardware.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use bailiwick_nvml_double::{Staged, library};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let folder = args
        .next()
        .context("usage: bailiwick-nvml-double FOLDER GPUS")?;
    let gpus = args
        .next()
        .and_then(|text| text.to_str()?.parse::<u8>().ok());
    let gpus = gpus.context("GPUS is a number up to 16")?.min(16);
    let mut double = Staged::new(&library()?, Path::new(&folder))?;
    for number in 1..=gpus {
        double.add_made(number)?;
    }
    double.write()?;
    writeln!(std::io::stdout(), "{}", double.path().display())?;
    Ok(())
}
