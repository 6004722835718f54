//! bpf(2), one function per command.
//!
//! Layouts: `union bpf_attr` and `struct bpf_*_info` of `include/uapi/linux/bpf.h`; every structure
//! here is a prefix of the kernel's, which takes what is missing for zero.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::OnceLock,
};

use super::btf;

mod program;

pub(super) use program::Query;
#[cfg(test)]
pub(crate) use program::detach_link;
pub(crate) use program::{
    Attach, LinkInfo, ProgramInfo, attached, link, link_info, load_constant, load_deny,
    program_info, update_link,
};

const MAP_CREATE: i32 = 0;
pub(super) const MAP_LOOKUP_ELEM: i32 = 1;
pub(super) const MAP_UPDATE_ELEM: i32 = 2;
pub(super) const MAP_DELETE_ELEM: i32 = 3;
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const MAP_FREEZE: i32 = 22;

/// `BPF_MAP_TYPE_ARRAY`
pub(crate) const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_HASH`
pub(crate) const MAP_TYPE_HASH: u32 = 1;
/// `BPF_MAP_TYPE_PERCPU_ARRAY`
pub(crate) const MAP_TYPE_PERCPU_ARRAY: u32 = 6;
/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`
pub(crate) const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
/// `BPF_F_RDONLY_PROG`: programs may read it only.
pub(crate) const RDONLY_PROG: u32 = 1 << 7;

/// `struct bpf_map_info`, as far as it is used.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct MapInfo {
    pub(crate) kind: u32,
    pub(crate) id: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) flags: u32,
    name: [u8; 16],
}

impl MapInfo {
    /// As whoever made it called it.
    pub(crate) fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0);
        let name = self.name.get(..end.unwrap_or(16)).unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }
}

#[derive(Default)]
#[repr(C)]
pub(super) struct MapCreate {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
    pub(super) inner_map_fd: u32,
    pub(super) numa_node: u32,
    pub(super) name: [u8; 16],
    pub(super) ifindex: u32,
    /// 0: no type information.
    pub(super) btf_fd: u32,
    pub(super) btf_key: u32,
    pub(super) btf_value: u32,
}

#[repr(C)]
pub(super) struct Element {
    pub(super) map_fd: u32,
    pub(super) padding: u32,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    length: u32,
    info: u64,
}

/// An array of one value, which programs cannot write.
pub(crate) fn create_value_map(name: &str, value_size: usize) -> io::Result<OwnedFd> {
    let value_size = small(value_size)?;
    let types = btf::load(value_size, 4)?;
    let mut attr = MapCreate {
        kind: MAP_TYPE_ARRAY,
        key_size: 4,
        value_size,
        max_entries: 1,
        flags: RDONLY_PROG,
        inner_map_fd: 0,
        numa_node: 0,
        name: padded(name),
        ifindex: 0,
        btf_fd: raw(types.as_fd()),
        btf_key: btf::KEY,
        btf_value: btf::VALUE,
    };
    create_map(&mut attr)
}

pub(super) fn create_map(attr: &mut MapCreate) -> io::Result<OwnedFd> {
    // SAFETY: the structure is the command's, without pointers.
    let fd = unsafe { call(MAP_CREATE, attr) }?;
    // SAFETY: MAP_CREATE returns a new descriptor.
    Ok(unsafe { owned(fd) })
}

/// A map's name; the last byte stays zero.
pub(super) fn padded(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    for (to, from) in padded.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    padded
}

/// Sets the value at `index` of an array whose values are as long as `value`.
pub(crate) fn update(map: BorrowedFd<'_>, index: u32, value: &[u8]) -> io::Result<()> {
    fits(map, value.len())?;
    let mut attr = Element {
        map_fd: raw(map),
        padding: 0,
        key: address(&raw const index),
        value: address(value.as_ptr()),
        flags: 0,
    };
    // SAFETY: key and value are as long as `fits` found the map's to be, and outlive the call.
    unsafe { call(MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Reads the value at `index` of an array whose values are as long as `value`.
pub(crate) fn lookup(map: BorrowedFd<'_>, index: u32, value: &mut [u8]) -> io::Result<()> {
    fits(map, value.len())?;
    let mut attr = Element {
        map_fd: raw(map),
        padding: 0,
        key: address(&raw const index),
        value: address(value.as_mut_ptr()),
        flags: 0,
    };
    // SAFETY: key and value are as long as `fits` found the map's to be, and outlive the call.
    unsafe { call(MAP_LOOKUP_ELEM, &mut attr) }.map(drop)
}

/// Sum over all CPUs of the counter at `index` of a per-CPU array of `u64`.
pub(crate) fn sum_per_cpu(map: BorrowedFd<'_>, index: u32) -> io::Result<u64> {
    let info = map_info(map)?;
    if (info.kind, info.key_size, info.value_size) != (MAP_TYPE_PERCPU_ARRAY, 4, 8) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a per-CPU array of 64-bit counters",
        ));
    }
    let cpus = possible_cpus()?;
    let mut values = vec![0_u64; cpus];
    let mut attr = Element {
        map_fd: raw(map),
        padding: 0,
        key: address(&raw const index),
        value: address(values.as_mut_ptr()),
        flags: 0,
    };
    // SAFETY: the kernel writes eight bytes for every possible CPU, which is what was counted.
    unsafe { call(MAP_LOOKUP_ELEM, &mut attr) }?;
    Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
}

/// Puts an inner map into a map of maps, or reads back its id with [`inner`].
pub(crate) fn set_inner(outer: BorrowedFd<'_>, index: u32, map: BorrowedFd<'_>) -> io::Result<()> {
    update(outer, index, &raw(map).to_ne_bytes())
}

/// Id of the inner map at `index`; `None` for an empty slot.
pub(crate) fn inner(outer: BorrowedFd<'_>, index: u32) -> io::Result<Option<u32>> {
    let mut id = [0; 4];
    match lookup(outer, index, &mut id) {
        Ok(()) => Ok(Some(u32::from_ne_bytes(id))),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Empties a slot of a map of maps.
pub(crate) fn clear(outer: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    fits(outer, 4)?;
    let mut attr = Element {
        map_fd: raw(outer),
        padding: 0,
        key: address(&raw const index),
        value: 0,
        flags: 0,
    };
    // SAFETY: the key is four bytes, as in every array, and outlives the call.
    match unsafe { call(MAP_DELETE_ELEM, &mut attr) } {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

/// No user of bpf(2) can write the map again, this process included.
pub(crate) fn freeze(map: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = raw(map);
    // SAFETY: the structure is one descriptor.
    unsafe { call(MAP_FREEZE, &mut attr) }.map(drop)
}

/// Keeps a map, program or link under a path on a BPF file system.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: address(path.as_ptr()),
        fd: raw(object),
        flags: 0,
    };
    // SAFETY: the path ends with a zero byte and outlives the call.
    unsafe { call(OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens what is pinned there; `None` if nothing is.
pub(crate) fn open_pin(path: &Path) -> io::Result<Option<OwnedFd>> {
    let path = c_path(path)?;
    let mut attr = Object {
        path: address(path.as_ptr()),
        fd: 0,
        flags: 0,
    };
    // SAFETY: the path ends with a zero byte and outlives the call.
    match unsafe { call(OBJ_GET, &mut attr) } {
        // SAFETY: OBJ_GET returns a new descriptor.
        Ok(fd) => Ok(Some(unsafe { owned(fd) })),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// What the kernel says about a map.
pub(crate) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let mut info = MapInfo::default();
    // SAFETY: integers only, a prefix of `struct bpf_map_info`.
    unsafe { info_by_fd(map, &mut info) }?;
    Ok(info)
}

/// # Safety
/// `T` is integers only and a prefix of the information the kernel has about this kind of object;
/// pointers in it are to memory as long as it says.
pub(super) unsafe fn info_by_fd<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = InfoByFd {
        fd: raw(object),
        length: small(size_of::<T>())?,
        info: address(std::ptr::from_mut(info)),
    };
    // SAFETY: the kernel writes `length` bytes at most, and the caller answers for what `T` is.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut attr) }.map(drop)
}

/// # Safety
/// `attr` is a prefix of `union bpf_attr` for this command, as long as what the kernel writes back;
/// pointers in it are to memory as long as the command takes it to be.
pub(super) unsafe fn call<T>(command: i32, attr: &mut T) -> io::Result<i64> {
    // SAFETY: the caller's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// # Safety
/// The kernel has just returned this descriptor, and nobody else has it.
pub(super) unsafe fn owned(fd: i64) -> OwnedFd {
    let fd = i32::try_from(fd).expect("the kernel numbers descriptors with an int");
    // SAFETY: the caller's.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// CPUs the kernel keeps a value for; the number does not change while it runs.
pub(super) fn possible_cpus() -> io::Result<usize> {
    static CPUS: OnceLock<usize> = OnceLock::new();
    if let Some(cpus) = CPUS.get() {
        return Ok(*cpus);
    }
    let cpus = aya::util::nr_cpus().map_err(|(_file, err)| err)?;
    Ok(*CPUS.get_or_init(|| cpus))
}

/// Whether keys have four bytes and values `length`; what lies beyond a shorter buffer is not ours.
fn fits(map: BorrowedFd<'_>, length: usize) -> io::Result<()> {
    let info = map_info(map)?;
    let fault = match info.kind {
        MAP_TYPE_ARRAY | MAP_TYPE_ARRAY_OF_MAPS if info.key_size == 4 => {
            if usize::try_from(info.value_size) == Ok(length) {
                return Ok(());
            }
            format!("values have {} bytes, not {length}", info.value_size)
        }
        kind => format!("a map of type {kind} is no plain array"),
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, fault))
}

pub(super) fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_fd().as_raw_fd()).expect("an open descriptor is not negative")
}

pub(super) fn address<T>(pointer: *const T) -> u64 {
    u64::try_from(pointer.expose_provenance()).expect("addresses have 64 bits at most")
}

pub(super) fn small(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_wide| io::ErrorKind::InvalidInput.into())
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_written_read_and_frozen() {
        let map = create_value_map("bailiwick_test", 20).unwrap();
        let map = map.as_fd();
        let info = map_info(map).unwrap();
        assert_eq!(
            (info.kind, info.value_size, info.max_entries, info.flags),
            (MAP_TYPE_ARRAY, 20, 1, RDONLY_PROG)
        );
        update(map, 0, &[7; 20]).unwrap();
        let mut value = [0; 20];
        lookup(map, 0, &mut value).unwrap();
        assert_eq!(value, [7; 20]);
        for length in [0, 19, 21] {
            assert!(update(map, 0, &vec![1; length]).is_err(), "{length} bytes");
        }
        assert!(update(map, 1, &[1; 20]).is_err(), "beyond the last index");
        freeze(map).unwrap();
        let refused = update(map, 0, &[8; 20]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        lookup(map, 0, &mut value).unwrap();
        assert_eq!(value, [7; 20]);
    }

    #[test]
    fn what_is_not_what_it_should_be_is_an_error() {
        let map = create_value_map("bailiwick_test", 8).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(map_info(null.as_fd()).is_err());
        assert!(link(map.as_fd(), null.as_fd(), Attach::Egress).is_err());
        assert!(update_link(map.as_fd(), map.as_fd(), None).is_err());
        assert!(attached(null.as_fd(), Attach::Ingress).is_err());
        assert!(open_pin(Path::new("/nowhere/at/all")).unwrap().is_none());
        assert!(pin(map.as_fd(), Path::new("/dev/shm/no-bpffs")).is_err());
        assert!(open_pin(Path::new("/dev/null")).is_err());
    }
}
