//! bpf(2) on hash maps: keys and values are bytes, as long as the map says.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr,
};

use super::bpf::{self, Element, MAP_DELETE_ELEM, MAP_LOOKUP_ELEM, MAP_TYPE_HASH, MAP_UPDATE_ELEM};
use super::btf;

const MAP_GET_NEXT_KEY: i32 = 4;
/// `BPF_MAP_TYPE_PERCPU_HASH`
const MAP_TYPE_PERCPU_HASH: u32 = 5;
/// `BPF_F_NO_PREALLOC`: memory only for what is there.
const NO_PREALLOC: u32 = 1;

/// A hash map of entries that are made as they come, with one value or one for each CPU.
pub(crate) fn create(
    name: &str,
    per_cpu: bool,
    (key, value): (usize, usize),
    entries: usize,
) -> io::Result<OwnedFd> {
    let (key, value) = (bpf::small(key)?, bpf::small(value)?);
    let types = btf::load(value, key)?;
    bpf::create_map(&mut bpf::MapCreate {
        kind: if per_cpu {
            MAP_TYPE_PERCPU_HASH
        } else {
            MAP_TYPE_HASH
        },
        key_size: key,
        value_size: value,
        max_entries: bpf::small(entries)?,
        flags: NO_PREALLOC,
        inner_map_fd: 0,
        numa_node: 0,
        name: bpf::padded(name),
        btf_fd: bpf::raw(types.as_fd()),
        btf_key: btf::HASH_KEY,
        btf_value: btf::VALUE,
        ..bpf::MapCreate::default()
    })
}

/// Writes an entry, new or not.
pub(crate) fn put(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    fits(map, MAP_TYPE_HASH, key.len(), Some(value.len()))?;
    let mut attr = element(map, key, value.as_ptr());
    // SAFETY: key and value are as long as `fits` found the map's to be, and outlive the call.
    unsafe { bpf::call(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Writes an entry of a map with a value for each CPU: every CPU's is this.
pub(crate) fn put_per_cpu(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    fits(map, MAP_TYPE_PERCPU_HASH, key.len(), Some(value.len()))?;
    let values = value.repeat(bpf::possible_cpus()?);
    let mut attr = element(map, key, values.as_ptr());
    // SAFETY: the key is as long as `fits` found the map's to be, there is a value of such a length
    // for every possible CPU, and both outlive the call.
    unsafe { bpf::call(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Removes an entry; none is as good.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<()> {
    fits(map, MAP_TYPE_HASH, key.len(), None)?;
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
    let most = fits(map, MAP_TYPE_HASH, K, Some(V))?;
    let mut found = Vec::new();
    for key in keys(map, most) {
        let key = key?;
        let mut value = [0; V];
        let mut attr = element(map, &key, value.as_mut_ptr().cast_const());
        // SAFETY: key and value have the map's lengths, as `fits` found, and outlive the call.
        unsafe { bpf::call(MAP_LOOKUP_ELEM, &mut attr) }?;
        found.push((key, value));
    }
    Ok(found)
}

/// A key, and the values of all CPUs under it.
pub(crate) type PerCpu<const K: usize, const V: usize> = ([u8; K], Vec<[u8; V]>);

/// Every entry there is, with the values of all CPUs one after the other. As [`entries`].
pub(crate) fn entries_per_cpu<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
) -> io::Result<Vec<PerCpu<K, V>>> {
    let most = fits(map, MAP_TYPE_PERCPU_HASH, K, Some(V))?;
    let mut found = Vec::new();
    for key in keys(map, most) {
        let key: [u8; K] = key?;
        found.push((key, get_per_cpu(map, &key)?));
    }
    Ok(found)
}

/// The values of all CPUs under a key.
pub(crate) fn get_per_cpu<const V: usize>(
    map: BorrowedFd<'_>,
    key: &[u8],
) -> io::Result<Vec<[u8; V]>> {
    const {
        // The kernel rounds a value's length up to eight bytes.
        assert!(V.is_multiple_of(8));
    }
    fits(map, MAP_TYPE_PERCPU_HASH, key.len(), Some(V))?;
    let mut values = vec![[0; V]; bpf::possible_cpus()?];
    let mut attr = element(map, key, values.as_mut_ptr().cast_const().cast());
    // SAFETY: the key has the map's length, as `fits` found; the kernel writes a value for every
    // possible CPU, which is what was counted. Both outlive the call.
    unsafe { bpf::call(MAP_LOOKUP_ELEM, &mut attr) }?;
    Ok(values)
}

/// Whether there are more entries than so many, whatever kind of hash map it is.
pub(crate) fn has_more_than<const K: usize>(map: BorrowedFd<'_>, count: usize) -> io::Result<bool> {
    let kind = match bpf::map_info(map.as_fd())?.kind {
        MAP_TYPE_PERCPU_HASH => MAP_TYPE_PERCPU_HASH,
        _ => MAP_TYPE_HASH,
    };
    fits(map, kind, K, None)?;
    match keys::<K>(map, usize::MAX).nth(count) {
        None => Ok(false),
        Some(key) => key.map(|_there| true),
    }
}

/// The keys, one after the other; whoever asks has looked at their length.
fn keys<const K: usize>(
    map: BorrowedFd<'_>,
    most: usize,
) -> impl Iterator<Item = io::Result<[u8; K]>> {
    let mut before: Option<[u8; K]> = None;
    let next = move || {
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
            Err(err) if err.kind() == io::ErrorKind::NotFound => None,
            Err(err) => Some(Err(err)),
            Ok(_) => {
                before = Some(key);
                Some(Ok(key))
            }
        }
    };
    std::iter::from_fn(next).take(most)
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
fn fits(map: BorrowedFd<'_>, kind: u32, key: usize, value: Option<usize>) -> io::Result<usize> {
    let info = bpf::map_info(map.as_fd())?;
    let same = |size: u32, length: usize| usize::try_from(size) == Ok(length);
    let sound = info.kind == kind
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
