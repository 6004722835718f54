//! `/dev/sev-guest`, where the kernel has no configfs-tsm.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

use super::{Given, TeeError, kernel_says};
use crate::sys::sev_guest::{GuestError, Response, report};

/// `MSG_REPORT_RSP` before the report: status, size, 24 bytes that are reserved.
const HEAD: usize = 32;
/// `ATTESTATION_REPORT`: SEV-SNP Firmware ABI, Table 23.
const REPORT: u32 = 1184;

/// Asks for a report; `None`: there is no such device.
pub(super) fn ask(device: &Path, data: &[u8; 64]) -> Result<Option<Given>, TeeError> {
    let opened = match OpenOptions::new().read(true).write(true).open(device) {
        Ok(opened) => opened,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(TeeError::Unavailable {
                what: "opening",
                file: device.to_owned(),
                source,
            });
        }
    };
    // Some hosts know no request with certificates; then the report alone has to do.
    let asked = report(&opened, *data, true).or_else(|_none| report(&opened, *data, false));
    match asked {
        Ok(response) => given(device, &response).map(Some),
        Err(GuestError {
            source,
            firmware,
            hypervisor,
        }) => Err(match kernel_says("asking", device, source) {
            TeeError::Refused { file, why } => TeeError::Refused {
                file,
                why: format!(
                    "{why} (firmware error {firmware:#x}, hypervisor error {hypervisor:#x})"
                ),
            },
            other => other,
        }),
    }
}

/// The report in `MSG_REPORT_RSP`: SEV-SNP Firmware ABI, Table 26.
fn given(device: &Path, response: &Response) -> Result<Given, TeeError> {
    let file: PathBuf = device.to_owned();
    let number = |at: usize| {
        let bytes = response.message.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let (Some(status), Some(size)) = (number(0), number(4)) else {
        let fault = "an answer that is cut short".to_owned();
        return Err(TeeError::Malformed { file, fault });
    };
    if status != 0 {
        let why = format!("status {status:#x}");
        return Err(TeeError::Refused { file, why });
    }
    let behind = response.message.get(HEAD..).unwrap_or_default();
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    let (Some(report), REPORT) = (behind.get(..len), size) else {
        let fault = format!("a report of {size} bytes");
        return Err(TeeError::Malformed { file, fault });
    };
    let table = &response.certificates;
    Ok(Given {
        kind: "sev-snp",
        report: report.to_vec(),
        // A host without certificates leaves the table as it was.
        certificates: match table.iter().rposition(|byte| *byte != 0) {
            Some(last) => table.iter().take(last + 1).copied().collect(),
            None => Vec::new(),
        },
        manifest: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u32, size: u32, len: usize) -> Response {
        let mut message = vec![0; len];
        for (at, number) in [(0, status), (4, size)] {
            if let Some(place) = message.get_mut(at..at + 4) {
                place.copy_from_slice(&number.to_le_bytes());
            }
        }
        if let Some(first) = message.get_mut(HEAD) {
            *first = 3;
        }
        let mut certificates = vec![0; 64];
        certificates[40] = 9;
        Response {
            message,
            certificates,
        }
    }

    #[test]
    fn an_answer_holds_one_report_or_says_why_not() {
        let path = Path::new("/dev/sev-guest");
        let good = given(path, &response(0, REPORT, 4000)).unwrap();
        assert_eq!((good.kind, good.report.len()), ("sev-snp", 1184));
        assert_eq!(good.report[0], 3);
        assert_eq!(
            good.certificates.len(),
            41,
            "the table without what nobody wrote"
        );
        let rows = [
            ("invalid parameters", 0x16, REPORT, 4000, "tee-refused"),
            ("invalid key", 0x27, 0, 4000, "tee-refused"),
            ("no report", 0, 0, 4000, "tee-malformed"),
            ("a longer one", 0, 1185, 4000, "tee-malformed"),
            ("more than there is", 0, u32::MAX, 4000, "tee-malformed"),
            ("cut short", 0, REPORT, HEAD + 1183, "tee-malformed"),
            ("no head", 0, REPORT, 7, "tee-malformed"),
        ];
        for (name, status, size, len, code) in rows {
            let why = given(path, &response(status, size, len)).unwrap_err();
            assert_eq!(why.code(), code, "{name}: {why}");
        }
        let mut bare = response(0, REPORT, 4000);
        bare.certificates.fill(0);
        assert_eq!(given(path, &bare).unwrap().certificates, [0; 0]);
    }

    /// A file takes no such command, so nobody was asked; no file, and there is nobody.
    #[test]
    fn what_is_no_such_device_was_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sev-guest");
        assert_eq!(ask(&file, &[0; 64]).unwrap(), None);
        std::fs::write(&file, "").unwrap();
        let why = ask(&file, &[0; 64]).unwrap_err();
        assert_eq!((why.code(), why.refused()), ("tee-unavailable", false));
    }
}
