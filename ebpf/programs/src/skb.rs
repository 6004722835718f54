//! A packet at the cgroup hook, as the rest of the program sees it.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id, bpf_skb_load_bytes,
};
use aya_ebpf::programs::SkBuffContext;
use bailiwick_ebpf_common::Packet;

/// The loopback device has this index in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK_IFINDEX: u32 = 1;

pub(crate) struct Skb(*mut __sk_buff);

impl Skb {
    #[inline(always)]
    pub(crate) fn new(ctx: &SkBuffContext) -> Self {
        Self(ctx.as_ptr().cast())
    }

    #[inline(always)]
    pub(crate) fn from_ptr(skb: *mut __sk_buff) -> Self {
        Self(skb)
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut __sk_buff {
        self.0
    }

    /// The device it leaves by or came in by is the loopback device. Packets to the machine's own
    /// addresses travel that way too.
    #[inline(always)]
    pub(crate) fn on_loopback(&self) -> bool {
        // SAFETY: the context outlives the program's run; the verifier checks the access.
        unsafe { (*self.0).ifindex == LOOPBACK_IFINDEX }
    }

    /// Index of the device at hand.
    #[inline(always)]
    pub(crate) fn device(&self) -> u32 {
        // SAFETY: the context outlives the program's run; the verifier checks the access.
        unsafe { (*self.0).ifindex }
    }

    /// It came in by a device before it leaves by one.
    #[inline(always)]
    pub(crate) fn is_forwarded(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.0).ingress_ifindex != 0 }
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub(crate) fn length(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).len }
    }

    /// VLAN tags that the kernel keeps beside the frame.
    #[inline(always)]
    pub(crate) fn tags_outside(&self) -> u32 {
        // SAFETY: as above.
        u32::from(unsafe { (*self.0).vlan_present } != 0)
    }

    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.0).mark }
    }

    /// At hooks of devices only: others may not.
    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        // SAFETY: as above, and these programs may write the field.
        unsafe { (*self.0).mark = mark };
    }

    /// The cgroup of the packet's socket, 0 if there is none.
    #[inline(always)]
    pub(crate) fn cgroup(&self) -> u64 {
        // SAFETY: the context is valid for the run.
        unsafe { bpf_skb_cgroup_id(self.0) }
    }

    /// That cgroup's ancestor at a level of the hierarchy, 0 where it stands above that level.
    #[inline(always)]
    pub(crate) fn ancestor(&self, level: u32) -> u64 {
        // SAFETY: the context is valid for the run.
        unsafe { bpf_skb_ancestor_cgroup_id(self.0, level.cast_signed()) }
    }
}

impl Skb {
    /// Whether the bytes were there; the helper fills with zeros where they were not.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> (bool, [u8; N]) {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        let length = u32::try_from(N).unwrap_or(0);
        // SAFETY: the helper writes `length` bytes to a buffer of that size, data or zeros.
        let failed =
            unsafe { bpf_skb_load_bytes(self.0.cast(), offset, bytes.as_mut_ptr().cast(), length) };
        // SAFETY: written by the helper in either case.
        (failed == 0, unsafe { bytes.assume_init() })
    }
}

/// The packet from an offset on.
pub(crate) struct After<'a>(pub(crate) &'a Skb, pub(crate) u32);

impl Packet for After<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(self.1.wrapping_add(offset))
    }

    #[inline(always)]
    fn load_or_zero<const N: usize>(&self, offset: u32) -> [u8; N] {
        self.0.load_or_zero(self.1.wrapping_add(offset))
    }
}

impl Packet for Skb {
    /// At the cgroup hooks offset 0 is the network header, on a device what its frames begin with.
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let (there, bytes) = self.read(offset);
        there.then_some(bytes)
    }

    #[inline(always)]
    fn load_or_zero<const N: usize>(&self, offset: u32) -> [u8; N] {
        self.read(offset).1
    }
}
