//! How the machine was booted: EFI, Secure Boot, setup mode.

use bailiwick_attestation::proto::v1::{Claim, claim::Value};

use super::{Host, claim, why};
use crate::files::read_bounded;

/// Variables of `EFI_GLOBAL_VARIABLE` (UEFI 2.10, 3.3): four bytes of attributes, one of value.
const FLAGS: [(&str, &str); 2] = [
    (
        "boot.secure-boot",
        "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    ),
    (
        "boot.setup-mode",
        "firmware/efi/efivars/SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    ),
];

pub(super) fn claims(host: &Host, out: &mut Vec<Claim>) {
    let efi = host.sys.join("firmware/efi");
    let source = efi.display().to_string();
    match efi.try_exists() {
        Ok(true) => out.push(claim("boot.efi", &source, Value::Flag(true))),
        Ok(false) => {
            out.push(claim("boot.efi", &source, Value::Flag(false)));
            return;
        }
        Err(err) => out.push(claim("boot.efi", &source, Value::Unavailable(why(&err)))),
    }
    for (name, file) in FLAGS {
        let file = host.sys.join(file);
        let value = match read_bounded(&file, 64) {
            Ok(bytes) => match bytes.as_slice() {
                [_, _, _, _, 0] => Value::Flag(false),
                [_, _, _, _, 1] => Value::Flag(true),
                // No data says neither on nor off.
                other => Value::Unavailable(format!(
                    "{} bytes are not attributes and one flag",
                    other.len()
                )),
            },
            Err(err) => Value::Unavailable(why(&err)),
        };
        out.push(claim(name, &file.display().to_string(), value));
    }
}
