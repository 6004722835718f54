//! bpf(2) on hash maps: keys and values are bytes, as long as the map says.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    ptr,
};

use super::bpf::{self, Element, MAP_DELETE_ELEM, MAP_LOOKUP_ELEM, MAP_TYPE_HASH, MAP_UPDATE_ELEM};

const MAP_GET_NEXT_KEY: i32 = 4;

/// Writes an entry, new or not.
pub(crate) fn put(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    fits(map, key.len(), Some(value.len()))?;
    let mut attr = element(map, key, value.as_ptr());
    // SAFETY: key and value are as long as `fits` found the map's to be, and outlive the call.
    unsafe { bpf::call(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Removes an entry; none is as good.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    fits(map, key.len(), None)?;
    let mut attr = element(map, key, ptr::null());
    // SAFETY: the key is as long as `fits` found the map's to be, and outlives the call.
    match unsafe { bpf::call(MAP_DELETE_ELEM, &mut attr) } {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// Every entry there is. Nobody else may write meanwhile, or the walk begins anew at its will.
pub(crate) fn entries<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
) -> io::Result<Vec<([u8; K], [u8; V])>> {
    let most = fits(map, K, Some(V))?;
    let mut found = Vec::new();
    let mut before: Option<[u8; K]> = None;
    while found.len() < most {
        let mut key = [0; K];
        let after = before.as_ref().map_or_else(ptr::null, |key| key.as_ptr());
        let mut attr = Element {
            map_fd: bpf::raw(map),
            padding: 0,
            key: bpf::address(after),
            value: bpf::address(key.as_mut_ptr()),
            flags: 0,
        };
        // SAFETY: both keys have the map's length, as `fits` found, and outlive the call; none is
        // the first one's predecessor.
        match unsafe { bpf::call(MAP_GET_NEXT_KEY, &mut attr) } {
            Err(err) if err.kind() == io::ErrorKind::NotFound => break,
            Err(err) => return Err(err),
            Ok(_) => {}
        }
        let mut value = [0; V];
        let mut attr = element(map, &key, value.as_mut_ptr().cast_const());
        // SAFETY: key and value have the map's lengths, as `fits` found, and outlive the call.
        unsafe { bpf::call(MAP_LOOKUP_ELEM, &mut attr) }?;
        found.push((key, value));
        before = Some(key);
    }
    Ok(found)
}

fn element(map: BorrowedFd<'_>, key: &[u8], value: *const u8) -> Element {
    Element {
        map_fd: bpf::raw(map),
        padding: 0,
        key: bpf::address(key.as_ptr()),
        value: bpf::address(value),
        flags: 0,
    }
}

/// Whether keys and values have these lengths; how many entries there may be.
fn fits(map: BorrowedFd<'_>, key: usize, value: Option<usize>) -> io::Result<usize> {
    let info = bpf::map_info(map.as_fd())?;
    let same = |size: u32, length: usize| usize::try_from(size) == Ok(length);
    let sound = info.kind == MAP_TYPE_HASH
        && same(info.key_size, key)
        && value.is_none_or(|value| same(info.value_size, value));
    if sound {
        return usize::try_from(info.max_entries).map_err(io::Error::other);
    }
    let fault = format!(
        "a map of type {}, with keys of {} and values of {} bytes, is not the one meant",
        info.kind, info.key_size, info.value_size
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, fault))
}
