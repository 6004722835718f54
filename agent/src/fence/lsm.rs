//! Whether the kernel asks the BPF LSM: a program attached where it does not would stand there and
//! never be run.

use std::{io, path::Path};

use super::hook::Names;
use crate::sys::{bpf::Attach, lsm};
use bailiwick_ebpf_common::abi::hook;

/// The kernel's line, in the order its programs are attached.
pub(super) const HOOKS: [Names; 4] = [
    names("lsm-socket", "fence_lsm_socket", hook::LSM_SOCKET),
    names("lsm-bpf", "fence_lsm_bpf", hook::LSM_BPF),
    names("lsm-read-file", "fence_lsm_read_file", hook::LSM_READ_FILE),
    names("lsm-load-data", "fence_lsm_load_data", hook::LSM_LOAD_DATA),
];

/// What hooks of the kind are called, before the kernel's own name.
const PREFIX: &str = "lsm/";

/// Where securityfs tells the modules in force, by name.
const TOLD: &str = "/sys/kernel/security/lsm";

const fn names(pin: &'static str, program: &'static str, number: u8) -> Names {
    Names {
        pin,
        program,
        hook: hook::name(number),
        attach: Attach::Lsm,
        judges: false,
    }
}

/// The kernel's own name of a hook of this line.
pub(super) fn kernel_name(hook: &str) -> Option<&str> {
    hook.strip_prefix(PREFIX)
}

/// Why the line does not stand here; `None` where it can.
pub(super) fn absent() -> Option<String> {
    why(std::fs::read_to_string(Path::new(TOLD)), lsm::listed)
}

fn why(told: io::Result<String>, listed: impl FnOnce() -> io::Result<Vec<u64>>) -> Option<String> {
    let not = || Some("the kernel asks no BPF LSM (`lsm=` on its command line)".to_owned());
    match told {
        Ok(names) if names.trim().split(',').any(|name| name == "bpf") => None,
        Ok(_) => not(),
        Err(fault) => match listed() {
            Ok(ids) if ids.contains(&lsm::BPF) => None,
            Ok(_) => not(),
            Err(_) => Some(format!(
                "whether the kernel asks the BPF LSM cannot be told: {TOLD}: {fault}"
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{lsm, why};

    #[test]
    fn it_stands_where_the_kernel_asks_it() {
        let gone = || Err(io::ErrorKind::NotFound.into());
        let old = || Err(io::Error::from_raw_os_error(libc::ENOSYS));
        let told = |text: &str| Ok(text.to_owned());
        let not = Some("the kernel asks no BPF LSM");
        let rows = [
            ("told", told("lockdown,yama,bpf\n"), old(), None),
            (
                "told otherwise",
                told("lockdown,bpfish"),
                Ok(vec![lsm::BPF]),
                not,
            ),
            ("told of none", told(""), Ok(vec![lsm::BPF]), not),
            ("not told, listed", gone(), Ok(vec![100, lsm::BPF]), None),
            ("not told, not listed", gone(), Ok(vec![100]), not),
            ("neither", gone(), old(), Some("cannot be told")),
        ];
        for (name, told, listed, want) in rows {
            let said = why(told, || listed);
            match (&said, want) {
                (None, None) => {}
                (Some(said), Some(want)) => assert!(said.contains(want), "{name}: {said}"),
                _ => panic!("{name}: {said:?}"),
            }
        }
    }
}
