//! The least type information a map can have.
//!
//! Linux 6.1 takes an inner map only where its type information says the same of timers and locks as
//! that of the map the outer one was made with; a map without any says less than one that has none
//! of them. So an inner map gets a type: one structure of bytes.

use std::{io, os::fd::OwnedFd};

use super::bpf::{address, call, owned};

const BTF_LOAD: i32 = 18;

/// Of the types below, in their order, from 1.
pub(super) const KEY: u32 = 1;
pub(super) const VALUE: u32 = 4;
pub(super) const HASH_KEY: u32 = 6;

const INT: u32 = 1 << 24;
const ARRAY: u32 = 3 << 24;
const STRUCT_OF_ONE: u32 = (4 << 24) | 1;

/// Names, each after a zero.
const STRINGS: &[u8; 16] = b"\0u32\0u8\0Image\0b\0";
const NAME_U32: u32 = 1;
const NAME_U8: u32 = 5;
const NAME_IMAGE: u32 = 8;
const NAME_MEMBER: u32 = 14;

#[repr(C)]
struct BtfLoad {
    btf: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    padding: u32,
}

/// `u32`, and structures of so many bytes, under the numbers [`KEY`], [`VALUE`] and [`HASH_KEY`].
pub(super) fn load(value: u32, hash_key: u32) -> io::Result<OwnedFd> {
    let bytes = types(value, hash_key);
    let mut attr = BtfLoad {
        btf: address(bytes.as_ptr()),
        log: 0,
        size: u32::try_from(bytes.len()).map_err(|_wide| io::ErrorKind::InvalidInput)?,
        log_size: 0,
        log_level: 0,
        padding: 0,
    };
    // SAFETY: `btf` and `size` are those of `bytes`, which outlives the call.
    let fd = unsafe { call(BTF_LOAD, &mut attr) }?;
    // SAFETY: BTF_LOAD returns a new descriptor.
    Ok(unsafe { owned(fd) })
}

/// Layout: `struct btf_header`, `struct btf_type` (`Documentation/bpf/btf.rst`).
fn types(value: u32, hash_key: u32) -> Vec<u8> {
    let types = [
        [NAME_U32, INT, 4, 32].as_slice(), // bits, at offset 0, unsigned
        &[NAME_U8, INT, 1, 8],
        &[0, ARRAY, 0, 2, 1, value], // of the second, counted by the first
        &[NAME_IMAGE, STRUCT_OF_ONE, value, NAME_MEMBER, 3, 0],
        &[0, ARRAY, 0, 2, 1, hash_key],
        &[NAME_IMAGE, STRUCT_OF_ONE, hash_key, NAME_MEMBER, 5, 0],
    ]
    .concat();
    let type_bytes = u32::try_from(types.len() * 4).unwrap_or(u32::MAX);
    let string_bytes = u32::try_from(STRINGS.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    bytes.extend(0xeb9f_u16.to_ne_bytes());
    bytes.extend([1, 0]); // version, flags
    for word in [24, 0, type_bytes, type_bytes, string_bytes] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(types.into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend(STRINGS);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_where_their_names_say() {
        for (at, want) in [
            (NAME_U32, "u32"),
            (NAME_U8, "u8"),
            (NAME_IMAGE, "Image"),
            (NAME_MEMBER, "b"),
        ] {
            let from = &STRINGS[usize::try_from(at).unwrap()..];
            let end = from.iter().position(|byte| *byte == 0).unwrap();
            assert_eq!(&from[..end], want.as_bytes());
        }
        assert_eq!(types(7, 3).len(), 24 + 32 * 4 + STRINGS.len());
    }
}
