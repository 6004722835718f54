//! One record of the log and the kinds of record there are.

use std::fmt;

/// `TCG_EVENTTYPE`: PFP 1.06, §10.4.1, and those of Intel TXT (MLE developer's guide, appendix F),
/// which a launch after boot adds. A kind that is not named here keeps its number.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EventType(pub u32);

macro_rules! kinds {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl EventType {
            $(#[doc = concat!("`", $text, "`")] pub const $name: Self = Self($value);)*

            /// The name in the specification; `None` for a kind it does not define.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    PREBOOT_CERT = 0x0000_0000, "EV_PREBOOT_CERT";
    POST_CODE = 0x0000_0001, "EV_POST_CODE";
    UNUSED = 0x0000_0002, "EV_UNUSED";
    NO_ACTION = 0x0000_0003, "EV_NO_ACTION";
    SEPARATOR = 0x0000_0004, "EV_SEPARATOR";
    ACTION = 0x0000_0005, "EV_ACTION";
    EVENT_TAG = 0x0000_0006, "EV_EVENT_TAG";
    S_CRTM_CONTENTS = 0x0000_0007, "EV_S_CRTM_CONTENTS";
    S_CRTM_VERSION = 0x0000_0008, "EV_S_CRTM_VERSION";
    CPU_MICROCODE = 0x0000_0009, "EV_CPU_MICROCODE";
    PLATFORM_CONFIG_FLAGS = 0x0000_000a, "EV_PLATFORM_CONFIG_FLAGS";
    TABLE_OF_DEVICES = 0x0000_000b, "EV_TABLE_OF_DEVICES";
    COMPACT_HASH = 0x0000_000c, "EV_COMPACT_HASH";
    IPL = 0x0000_000d, "EV_IPL";
    IPL_PARTITION_DATA = 0x0000_000e, "EV_IPL_PARTITION_DATA";
    NONHOST_CODE = 0x0000_000f, "EV_NONHOST_CODE";
    NONHOST_CONFIG = 0x0000_0010, "EV_NONHOST_CONFIG";
    NONHOST_INFO = 0x0000_0011, "EV_NONHOST_INFO";
    OMIT_BOOT_DEVICE_EVENTS = 0x0000_0012, "EV_OMIT_BOOT_DEVICE_EVENTS";
    POST_CODE2 = 0x0000_0013, "EV_POST_CODE2";
    TXT_PCR_MAPPING = 0x0000_0401, "EVTYPE_PCRMAPPING";
    TXT_HASH_START = 0x0000_0402, "EVTYPE_HASH_START";
    TXT_COMBINED_HASH = 0x0000_0403, "EVTYPE_COMBINED_HASH";
    TXT_MLE_HASH = 0x0000_0404, "EVTYPE_MLE_HASH";
    TXT_BIOSAC_REG_DATA = 0x0000_040a, "EVTYPE_BIOSAC_REG_DATA";
    TXT_CPU_SCRTM_STAT = 0x0000_040b, "EVTYPE_CPU_SCRTM_STAT";
    TXT_LCP_CONTROL_HASH = 0x0000_040c, "EVTYPE_LCP_CONTROL_HASH";
    TXT_ELEMENTS_HASH = 0x0000_040d, "EVTYPE_ELEMENTS_HASH";
    TXT_STM_HASH = 0x0000_040e, "EVTYPE_STM_HASH";
    TXT_OSSINITDATA_CAP_HASH = 0x0000_040f, "EVTYPE_OSSINITDATA_CAP_HASH";
    TXT_SINIT_PUBKEY_HASH = 0x0000_0410, "EVTYPE_SINIT_PUBKEY_HASH";
    TXT_LCP_HASH = 0x0000_0411, "EVTYPE_LCP_HASH";
    TXT_LCP_DETAILS_HASH = 0x0000_0412, "EVTYPE_LCP_DETAILS_HASH";
    TXT_LCP_AUTHORITIES_HASH = 0x0000_0413, "EVTYPE_LCP_AUTHORITIES_HASH";
    TXT_NV_INFO_HASH = 0x0000_0414, "EVTYPE_NV_INFO_HASH";
    TXT_COLD_BOOT_BIOS_HASH = 0x0000_0415, "EVTYPE_COLD_BOOT_BIOS_HASH";
    TXT_KM_HASH = 0x0000_0416, "EVTYPE_KM_HASH";
    TXT_BPM_HASH = 0x0000_0417, "EVTYPE_BPM_HASH";
    TXT_KM_INFO_HASH = 0x0000_0418, "EVTYPE_KM_INFO_HASH";
    TXT_BPM_INFO_HASH = 0x0000_0419, "EVTYPE_BPM_INFO_HASH";
    TXT_BOOT_POL_HASH = 0x0000_041a, "EVTYPE_BOOT_POL_HASH";
    TXT_RANDOM = 0x0000_04fe, "EVTYPE_RANDOM_VALUE";
    TXT_CAP_VALUE = 0x0000_04ff, "EVTYPE_CAP_VALUE";
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG";
    EFI_VARIABLE_BOOT = 0x8000_0002, "EV_EFI_VARIABLE_BOOT";
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION";
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER";
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER";
    EFI_GPT_EVENT = 0x8000_0006, "EV_EFI_GPT_EVENT";
    EFI_ACTION = 0x8000_0007, "EV_EFI_ACTION";
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB";
    EFI_HANDOFF_TABLES = 0x8000_0009, "EV_EFI_HANDOFF_TABLES";
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2";
    EFI_HANDOFF_TABLES2 = 0x8000_000b, "EV_EFI_HANDOFF_TABLES2";
    EFI_VARIABLE_BOOT2 = 0x8000_000c, "EV_EFI_VARIABLE_BOOT2";
    EFI_GPT_EVENT2 = 0x8000_000d, "EV_EFI_GPT_EVENT2";
    EFI_HCRTM_EVENT = 0x8000_0010, "EV_EFI_HCRTM_EVENT";
    EFI_VARIABLE_AUTHORITY = 0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY";
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1, "EV_EFI_SPDM_FIRMWARE_BLOB";
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2, "EV_EFI_SPDM_FIRMWARE_CONFIG";
    EFI_SPDM_DEVICE_POLICY = 0x8000_00e3, "EV_EFI_SPDM_DEVICE_POLICY";
    EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00e4, "EV_EFI_SPDM_DEVICE_AUTHORITY";
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event type {:#x}", self.0),
        }
    }
}

/// One record, borrowed from the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event<'a> {
    /// `pcrIndex`, or the measurement register of a CCEL.
    pub register: u32,
    /// `eventType`.
    pub kind: EventType,
    /// Digests as they stand in the log; [`super::EventLog::digest`] reads one.
    pub(super) digests: &'a [u8],
    /// `event`: what the firmware says it measured.
    pub data: &'a [u8],
    /// Where the record begins, bytes from the start of the log.
    pub offset: usize,
}

impl Event<'_> {
    /// Whether the register was extended with it: `EV_NO_ACTION` never is.
    #[must_use]
    pub fn extends(&self) -> bool {
        self.kind != EventType::NO_ACTION
    }
}
