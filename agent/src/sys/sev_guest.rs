//! ioctl(2) of `/dev/sev-guest`, for guests whose kernel has no configfs-tsm (before 6.7).
//!
//! Layout: `include/uapi/linux/sev-guest.h`. The kernel encrypts the message for the processor and
//! decrypts the answer; nothing of that is seen here.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    ptr::{from_mut, from_ref},
};

/// `SNP_GET_REPORT`: `_IOWR('S', 0, struct snp_guest_request_ioctl)`.
const GET_REPORT: libc::Ioctl = 0xc020_5300;
/// `SNP_GET_EXT_REPORT`: `_IOWR('S', 2, struct snp_guest_request_ioctl)`.
const GET_EXT_REPORT: libc::Ioctl = 0xc020_5302;
/// `msg_version`: the only one there is.
const MESSAGE: u8 = 1;
/// `struct snp_report_resp`
pub(crate) const RESPONSE: usize = 4000;
/// `SEV_FW_BLOB_MAX_SIZE`: more the kernel does not hand over.
pub(crate) const CERTIFICATES: usize = 0x4000;

/// `struct snp_report_req`
#[repr(C)]
struct ReportRequest {
    user_data: [u8; 64],
    vmpl: u32,
    reserved: [u8; 28],
}

/// `struct snp_ext_report_req`
#[repr(C)]
struct ExtRequest {
    data: ReportRequest,
    certs_address: u64,
    certs_len: u32,
    padding: u32,
}

/// `struct snp_guest_request_ioctl`
#[repr(C)]
struct GuestRequest {
    msg_version: u8,
    padding: [u8; 7],
    req_data: u64,
    resp_data: u64,
    /// The firmware's error in the low half, the hypervisor's in the high one.
    exitinfo2: u64,
}

const _: () = assert!(size_of::<ReportRequest>() == 96);
const _: () = assert!(size_of::<ExtRequest>() == 112);
const _: () = assert!(size_of::<GuestRequest>() == 32);

/// What the device answered: `MSG_REPORT_RSP` and zeroes, and the table of certificates.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) message: Vec<u8>,
    pub(crate) certificates: Vec<u8>,
}

/// The device's error, and what stood in `exitinfo2` beside it.
#[derive(Debug, thiserror::Error)]
#[error("{source} (firmware error {firmware:#x}, hypervisor error {hypervisor:#x})")]
pub(crate) struct GuestError {
    pub(crate) source: io::Error,
    pub(crate) firmware: u32,
    pub(crate) hypervisor: u32,
}

/// A report with what the host keeps of certificates, or without.
pub(crate) fn report(
    device: &File,
    user_data: [u8; 64],
    with_certificates: bool,
) -> Result<Response, GuestError> {
    let mut message = vec![0_u8; RESPONSE];
    let mut certificates = vec![0_u8; if with_certificates { CERTIFICATES } else { 0 }];
    let data = ReportRequest {
        user_data,
        // Where the kernel itself runs, unless a paravisor stands above it.
        vmpl: 0,
        reserved: [0; 28],
    };
    let request = ExtRequest {
        data,
        certs_address: address(certificates.as_mut_ptr().expose_provenance()),
        certs_len: u32::try_from(certificates.len()).unwrap_or(0),
        padding: 0,
    };
    let mut call = GuestRequest {
        msg_version: MESSAGE,
        padding: [0; 7],
        // The plain request is how the other begins.
        req_data: address(from_ref(&request).expose_provenance()),
        resp_data: address(message.as_mut_ptr().expose_provenance()),
        exitinfo2: 0,
    };
    let command = if with_certificates {
        GET_EXT_REPORT
    } else {
        GET_REPORT
    };
    // SAFETY: all four structures are the command's, as the assertions above have it, each as long as
    // the command takes it to be, and they live through the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), command, from_mut(&mut call)) };
    if done < 0 {
        let source = io::Error::last_os_error();
        let [a, b, c, d, e, f, g, h] = call.exitinfo2.to_le_bytes();
        return Err(GuestError {
            source,
            firmware: u32::from_le_bytes([a, b, c, d]),
            hypervisor: u32::from_le_bytes([e, f, g, h]),
        });
    }
    Ok(Response {
        message,
        certificates,
    })
}

fn address(address: usize) -> u64 {
    u64::try_from(address).unwrap_or(0)
}
