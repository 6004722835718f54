//! Which security modules the kernel asks, from the kernel itself: since Linux 6.8, and without a
//! mounted securityfs.

use std::io;

/// `LSM_ID_BPF` of `include/uapi/linux/lsm.h`.
pub(crate) const BPF: u64 = 109;

/// `__NR_lsm_list_modules`, the same on every architecture.
const LIST_MODULES: libc::c_long = 461;
/// More than there are.
const LIST: usize = 64;

/// Their ids, `LSM_ID_*`, by `lsm_list_modules(2)`.
pub(crate) fn listed() -> io::Result<Vec<u64>> {
    let mut ids = [0_u64; LIST];
    let mut bytes =
        u32::try_from(size_of_val(&ids)).map_err(|_wide| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel writes as many bytes as `bytes` says at most, which is what `ids` has.
    let count = unsafe { libc::syscall(LIST_MODULES, ids.as_mut_ptr(), &raw mut bytes, 0_u32) };
    let Ok(count) = usize::try_from(count) else {
        return Err(io::Error::last_os_error());
    };
    Ok(ids.into_iter().take(count).collect())
}

#[cfg(test)]
mod tests {
    /// `LSM_ID_CAPABILITY`: every kernel has it.
    const CAPABILITY: u64 = 100;

    #[test]
    fn what_the_kernel_lists_is_what_it_has() {
        match super::listed() {
            Ok(ids) => assert!(ids.contains(&CAPABILITY), "{ids:?}"),
            // Older than the call.
            Err(err) => assert_eq!(err.raw_os_error(), Some(libc::ENOSYS)),
        }
    }
}
