//! What kernel and user space share: the tables' layout, and the verdict itself.
//!
//! The BPF programs fetch arguments and call in here; the host calls the same functions from
//! `policy explain` and from the tests. Nothing in this crate allocates on the kernel's side.
//!
//! - [`address`]: one number for both families, embedded IPv4 addresses taken out
//! - [`frame`]: from a frame's first byte to its network header
//! - [`mark`]: whose packet it is, carried from a port to an uplink
//! - [`option`]: socket options that nobody may set
//! - [`packet`]: bounded parsing of IP headers, from a slice or from the kernel's buffer
//! - [`world`]: where an address lies (IP → jurisdiction)
//! - [`policy`]: who may go there (subjects, rule sets, owned addresses)
//! - [`peers`]: which addresses of a study on other nodes count, and until when
//! - [`verdict`]: [`judge`], which joins them
//! - [`device`]: which devices may be opened, and by whom
//! - [`kernel`]: what a process asks of the kernel itself
//! - [`tally`]: denials and flows, counted by the kernel and taken away by the agent
//! - [`abi`]: configuration, events and counters that cross between the two sides
//!
//! Whatever is missing, unknown or malformed is denied.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
extern crate alloc;
#[cfg(all(test, not(target_arch = "bpf")))]
extern crate std;

pub mod abi;
pub mod address;
pub mod device;
pub mod frame;
pub mod kernel;
pub mod mark;
pub mod option;
pub mod packet;
pub mod peers;
pub mod policy;
pub mod tally;
pub mod verdict;
mod weigh;
pub mod world;

pub use address::Address;
pub use packet::{Flow, Malformed, Packet};
pub use policy::PolicyImage;
pub use verdict::{Action, Line, Loopback, Question, Rule, Verdict, Whose, judge, judge_with};
pub use world::{Jurisdiction, WorldImage};

/// Plain data: every bit pattern is a value and no byte is padding.
///
/// # Safety
/// `repr(C)`, integers and arrays of them only, no padding.
#[cfg(not(target_arch = "bpf"))]
pub unsafe trait Plain: Sized {
    /// All zero, on the heap without a detour over the stack (the images are megabytes).
    #[must_use]
    fn zeroed() -> alloc::boxed::Box<Self> {
        let memory = alloc::boxed::Box::<Self>::new_zeroed();
        // SAFETY: every bit pattern is a value of a `Plain` type, zeros included.
        unsafe { memory.assume_init() }
    }

    /// The bytes as they stand in memory.
    #[must_use]
    fn bytes(&self) -> &[u8] {
        let start = core::ptr::from_ref(self).cast::<u8>();
        // SAFETY: the value is `size_of::<Self>()` initialised bytes without padding, and the
        // borrow of `self` lasts as long as the slice.
        unsafe { core::slice::from_raw_parts(start, size_of::<Self>()) }
    }

    /// The bytes, to be filled from outside.
    fn bytes_mut(&mut self) -> &mut [u8] {
        let start = core::ptr::from_mut(self).cast::<u8>();
        // SAFETY: as in `bytes`; any bytes written are a value again.
        unsafe { core::slice::from_raw_parts_mut(start, size_of::<Self>()) }
    }
}

/// A table index as the host counts. A number too large for the machine is an index out of range.
#[inline(always)]
pub(crate) fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A number that LLVM knows nothing about, so that it leaves in what the kernel's verifier wants to
/// see. Of 64 bits, for the verifier forgets what it knows of the upper half when the lower is moved.
///
/// Not [`core::hint::black_box`]: for BPF that is a store and a load, which a chain of lookups waits
/// for at each step.
#[inline(always)]
#[must_use]
pub fn opaque(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = number;
        // An instruction that does nothing, for the verifier wants each line of the source to have
        // one.
        // SAFETY: the register keeps what it holds.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack, preserves_flags));
        }
        number
    }
    #[cfg(not(target_arch = "bpf"))]
    core::hint::black_box(number)
}

/// The uppermost bit as a number, in a form the compiler does not turn into a branch: the kernel's
/// verifier follows both sides of each.
#[inline(always)]
pub(crate) fn top_bit(number: u64) -> u64 {
    core::hint::black_box(core::hint::black_box(number) >> 63)
}

/// 1 where the numbers are equal, else 0; without a branch, see [`top_bit`].
#[inline(always)]
pub(crate) fn equal(a: u64, b: u64) -> u64 {
    let difference = a ^ b;
    // Opaque, for LLVM knows this idiom and would write the comparison it stands for.
    let negated = core::hint::black_box(difference.wrapping_neg());
    1 ^ top_bit(difference | negated)
}
