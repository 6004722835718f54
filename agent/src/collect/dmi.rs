//! Firmware and chassis, as DMI (SMBIOS) names them.

use bailiwick_attestation::proto::v1::Claim;

use super::{Host, from_file, text};

/// Below the root of sysfs.
pub(super) const CHASSIS_SERIAL: &str = "class/dmi/id/chassis_serial";

const FIELDS: [(&str, &str); 6] = [
    ("system.vendor", "class/dmi/id/sys_vendor"),
    ("system.product", "class/dmi/id/product_name"),
    ("firmware.vendor", "class/dmi/id/bios_vendor"),
    ("firmware.version", "class/dmi/id/bios_version"),
    ("firmware.date", "class/dmi/id/bios_date"),
    ("chassis.serial", CHASSIS_SERIAL),
];

pub(super) fn claims(host: &Host, out: &mut Vec<Claim>) {
    out.extend(FIELDS.map(|(name, file)| from_file(name, &host.sys.join(file), text)));
}
