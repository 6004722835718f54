//! What the programs are told of devices: how their frames begin, and whose workload is behind them.

use std::{collections::BTreeMap, os::fd::AsFd};

use super::{Lines, Owners, device::Device};
use crate::{
    fence::{
        FenceError,
        changed::{Changed, Where, Who},
        load::Maps,
        tables::differences,
    },
    sys::hash,
};

/// How its frames begin, for the programs.
pub(super) fn write_link(maps: &Maps, device: &Device) -> Result<(), FenceError> {
    let index = device.index.to_ne_bytes();
    hash::put(maps.links.as_fd(), &index, &device.frames().to_ne_bytes())
        .map_err(FenceError::kernel("write", "LINKS"))
}

pub(super) fn port_key(index: u32, generation: u64) -> [u8; 8] {
    let [.., a, b, c, d] = generation.to_be_bytes();
    let [e, f, g, h] = index.to_ne_bytes();
    let [a, b, c, d] = u32::from_be_bytes([a, b, c, d]).to_ne_bytes();
    [e, f, g, h, a, b, c, d]
}

impl Lines {
    /// Puts back how the frames of standing devices begin. An entry of a device that is none of
    /// them says nothing to anybody.
    pub(super) fn mend_links(&self, maps: &Maps, changed: &mut Changed) -> Result<(), FenceError> {
        let found = hash::entries::<4, 4>(maps.links.as_fd())
            .map_err(FenceError::kernel("read", "LINKS"))?;
        let found: BTreeMap<_, _> = found.into_iter().collect();
        for standing in self.standing.values() {
            let device = &standing.device;
            let frames = found.get(&device.index.to_ne_bytes());
            if frames == Some(&device.frames().to_ne_bytes()) {
                continue;
            }
            write_link(maps, device)?;
            let what = match frames {
                None => format!("had no entry for {}", device.name),
                Some(frames) => format!(
                    "said {} of the frames of {}, not {}",
                    u32::from_ne_bytes(*frames),
                    device.name,
                    device.frames()
                ),
            };
            changed.note(Where::Table("LINKS"), &what, &Who::default());
        }
        Ok(())
    }

    /// Notes what somebody else has written about owners; writing them again puts it right.
    pub(in crate::fence) fn mend_owners(
        &mut self,
        maps: &Maps,
        changed: &mut Changed,
    ) -> Result<(), FenceError> {
        let Some(written) = &self.written else {
            return Ok(());
        };
        let found = owners_in(maps)?;
        if found != *written {
            let what = differences(&found, written);
            changed.note(Where::Table("PORTS"), &what, &Who::default());
            self.written = Some(found);
        }
        Ok(())
    }

    /// Writes the owners, new ones first; keeps what else is there.
    pub(in crate::fence) fn add_owners(
        &mut self,
        maps: &Maps,
        owners: &Owners,
    ) -> Result<(), FenceError> {
        for (key, subject) in owners {
            hash::put(maps.ports.as_fd(), key, &subject.to_ne_bytes())
                .map_err(FenceError::kernel("write", "PORTS"))?;
        }
        if let Some(written) = &mut self.written {
            written.extend(owners);
        }
        Ok(())
    }

    /// Removes whatever is not wanted.
    pub(in crate::fence) fn keep_owners(
        &mut self,
        maps: &Maps,
        owners: Owners,
    ) -> Result<(), FenceError> {
        for key in owners_in(maps)?.keys() {
            if !owners.contains_key(key) {
                hash::delete(maps.ports.as_fd(), key)
                    .map_err(FenceError::kernel("write", "PORTS"))?;
            }
        }
        self.written = Some(owners);
        Ok(())
    }
}

fn owners_in(maps: &Maps) -> Result<Owners, FenceError> {
    let entries =
        hash::entries::<8, 4>(maps.ports.as_fd()).map_err(FenceError::kernel("read", "PORTS"))?;
    Ok(entries
        .into_iter()
        .map(|(key, subject)| (key, u32::from_ne_bytes(subject)))
        .collect())
}
