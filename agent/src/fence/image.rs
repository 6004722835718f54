//! A table in the kernel that nobody can change, swapped for another in one step.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bailiwick_attestation::Sha256Digest;

use super::FenceError;
use crate::sys::bpf;

/// An inner map: filled once, then frozen.
#[derive(Debug)]
pub(super) struct Image {
    map: OwnedFd,
    pub(super) id: u32,
    /// SHA-256 of the content.
    pub(super) digest: Sha256Digest,
}

impl Image {
    /// A map with this content, not in force yet.
    pub(super) fn new(name: &'static str, bytes: &[u8]) -> Result<Self, FenceError> {
        let map = bpf::create_value_map(name, bytes.len())
            .map_err(FenceError::kernel("create an inner map of", name))?;
        bpf::update(map.as_fd(), 0, bytes)
            .map_err(FenceError::kernel("fill an inner map of", name))?;
        bpf::freeze(map.as_fd()).map_err(FenceError::kernel("freeze an inner map of", name))?;
        let id = bpf::map_info(map.as_fd())
            .map_err(FenceError::kernel("look at an inner map of", name))?
            .id;
        Ok(Self {
            map,
            id,
            digest: Sha256Digest::of(&[bytes]),
        })
    }

    /// Puts it in force; packets in flight are judged by the old one or the new one.
    pub(super) fn enforce(&self, outer: &OwnedFd, name: &'static str) -> Result<(), FenceError> {
        put(outer, name, self.map.as_fd())
    }

    /// Its id, and the map.
    pub(super) fn held(&self) -> (u32, BorrowedFd<'_>) {
        (self.id, self.map.as_fd())
    }
}

/// Puts a map in force.
pub(super) fn put(
    outer: &OwnedFd,
    name: &'static str,
    map: BorrowedFd<'_>,
) -> Result<(), FenceError> {
    bpf::set_inner(outer.as_fd(), 0, map).map_err(FenceError::kernel("swap the inner map of", name))
}

/// Takes what is in force out of force: with no policy all is denied.
pub(super) fn withdraw(outer: &OwnedFd, name: &'static str) -> Result<(), FenceError> {
    bpf::clear(outer.as_fd(), 0).map_err(FenceError::kernel("empty", name))
}

/// Id of the inner map in force.
pub(super) fn in_force(outer: &OwnedFd, name: &'static str) -> Result<Option<u32>, FenceError> {
    bpf::inner(outer.as_fd(), 0).map_err(FenceError::kernel("read", name))
}
