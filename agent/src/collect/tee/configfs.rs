//! configfs-tsm: a folder is an open question, its files are question and answer.
//!
//! Format: `Documentation/ABI/testing/configfs-tsm-report` of Linux 6.7 and later. What is written to
//! `inblob` is taken when the file is closed, and nobody hears of an error then; `generation` counts
//! what was taken, from whomever. So it is read before and after: other than our own writes, and the
//! answer may be somebody else's.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use tracing::{debug, warn};

use super::{Given, MAX_CERTIFICATES, MAX_REPORT, TeeError, kernel_says};
use crate::files::read_bounded;

/// The entry of the one agent on this machine. One that is there already was left behind by an agent
/// that was killed; were it somebody's, its generation would say so.
const ENTRY: &str = "bailiwick";
/// The entry of questions about a vTPM: what is set in one stays set.
const SERVICE_ENTRY: &str = "bailiwick-vtpm";
/// The vTPM's, among the services of an SVSM.
const VTPM_SERVICE: &[u8] = b"c476f1eb-0123-45a5-9641-b4e7dde5bfe3";
/// What the kernel has room for.
const MAX_MANIFEST: usize = 4096;
/// Longest of the texts: a number, a name.
const MAX_TEXT: usize = 128;
/// How often an entry that somebody else writes to is tried.
const TRIES: usize = 3;

/// Asks for the guest's own report, whoever keeps a TPM beside it; `None`: the kernel has no such
/// folder, or nobody who fills it.
pub(super) fn ask_own(root: &Path, data: &[u8; 64]) -> Result<Option<Given>, TeeError> {
    Ok(own(root, data)?.map(|(_, given)| given))
}

fn own(root: &Path, data: &[u8; 64]) -> Result<Option<(Entry, Given)>, TeeError> {
    if !root.is_dir() {
        return Ok(None);
    }
    let Some(entry) = Entry::make(root, ENTRY)? else {
        return Ok(None);
    };
    let given = entry.tried(|entry| entry.ask(data))?;
    Ok(Some((entry, given)))
}

/// The same, or the report on the vTPM that an SVSM keeps.
pub(super) fn ask(root: &Path, data: &[u8; 64]) -> Result<Option<Given>, TeeError> {
    let Some((entry, given)) = own(root, data)? else {
        return Ok(None);
    };
    if !entry.0.join("service_provider").exists() {
        return Ok(Some(given));
    }
    let Some(service) = Entry::make(root, SERVICE_ENTRY)? else {
        return Ok(Some(given));
    };
    match service.tried(|entry| entry.ask_svsm(data)) {
        // It hands out no certificates, and its processor is the same.
        Ok(service) => Ok(Some(Given {
            certificates: given.certificates,
            ..service
        })),
        Err(why) if why.refused() => {
            debug!(%why, "the SVSM keeps no vTPM");
            Ok(Some(given))
        }
        Err(why) => Err(why),
    }
}

/// A folder that is removed when it is dropped.
struct Entry(PathBuf);

impl Entry {
    fn make(root: &Path, name: &str) -> Result<Option<Self>, TeeError> {
        let file = root.join(name);
        match fs::create_dir(&file) {
            Ok(()) => Ok(Some(Self(file))),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(Some(Self(file))),
            // No module of a processor is loaded.
            Err(err) if err.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            Err(source) => Err(TeeError::Unavailable {
                what: "making",
                file,
                source,
            }),
        }
    }

    /// A few times, where somebody else writes in between.
    fn tried(&self, ask: impl Fn(&Self) -> Result<Given, TeeError>) -> Result<Given, TeeError> {
        let mut asked = ask(self);
        for _ in 1..TRIES {
            if !matches!(asked, Err(TeeError::Disturbed { .. })) {
                break;
            }
            asked = ask(self);
        }
        asked
    }

    /// Asks the SVSM about its vTPM: it asks the processor in its own name, over this question and the
    /// EK.
    fn ask_svsm(&self, data: &[u8; 64]) -> Result<Given, TeeError> {
        let mut expected = self.number("generation")?;
        for (name, value) in [
            ("service_provider", b"svsm".as_slice()),
            ("service_guid", VTPM_SERVICE),
            ("inblob", data),
        ] {
            self.write(name, value)?;
            expected = expected.saturating_add(1);
        }
        self.undisturbed(expected)?;
        let report = self.answer("outblob", MAX_REPORT)?;
        let manifest = self.answer("manifestblob", MAX_MANIFEST)?;
        self.undisturbed(expected)?;
        Ok(Given {
            kind: "svsm-vtpm",
            report,
            certificates: Vec::new(),
            manifest,
        })
    }

    fn ask(&self, data: &[u8; 64]) -> Result<Given, TeeError> {
        let kind = match self.text("provider")?.as_str() {
            "sev_guest" => "sev-snp",
            "tdx_guest" => "tdx",
            other => return Err(TeeError::Provider(other.to_owned())),
        };
        let mut expected = self.number("generation")?;
        // Under a paravisor the guest is not at the most privileged level, and may not ask as if.
        let floor = match self.number("privlevel_floor") {
            Ok(floor) => Some(floor).filter(|floor| *floor > 0),
            Err(TeeError::Unavailable { source, .. })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                None
            }
            Err(why) => return Err(why),
        };
        if let Some(floor) = floor {
            self.write("privlevel", floor.to_string().as_bytes())?;
            expected = expected.saturating_add(1);
        }
        self.write("inblob", data)?;
        expected = expected.saturating_add(1);
        self.undisturbed(expected)?;
        let report = self.answer("outblob", MAX_REPORT)?;
        if report.is_empty() {
            let fault = "an empty report".to_owned();
            let file = self.0.join("outblob");
            return Err(TeeError::Malformed { file, fault });
        }
        // Not all processors have one.
        let certificates = match self.0.join("auxblob").exists() {
            true => self.answer("auxblob", MAX_CERTIFICATES)?,
            false => Vec::new(),
        };
        self.undisturbed(expected)?;
        Ok(Given {
            kind,
            report,
            certificates,
            manifest: Vec::new(),
        })
    }

    fn undisturbed(&self, expected: u64) -> Result<(), TeeError> {
        let found = self.number("generation")?;
        let file = self.0.clone();
        match found == expected {
            true => Ok(()),
            false => Err(TeeError::Disturbed {
                file,
                found,
                expected,
            }),
        }
    }

    fn text(&self, name: &str) -> Result<String, TeeError> {
        let file = self.0.join(name);
        match read_bounded(&file, MAX_TEXT) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
            Err(source) => Err(TeeError::Unavailable {
                what: "reading",
                file,
                source,
            }),
        }
    }

    fn number(&self, name: &str) -> Result<u64, TeeError> {
        let text = self.text(name)?;
        text.parse().map_err(|_not_one| TeeError::Malformed {
            file: self.0.join(name),
            fault: format!("{text:?} is no number"),
        })
    }

    /// Written at once and closed: half a question would be one, too.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), TeeError> {
        let file = self.0.join(name);
        let opened = OpenOptions::new().write(true).open(&file);
        opened
            .and_then(|mut out| out.write_all(bytes))
            .map_err(|source| TeeError::Unavailable {
                what: "writing",
                file,
                source,
            })
    }

    /// Reading is what asks the processor.
    fn answer(&self, name: &str, most: usize) -> Result<Vec<u8>, TeeError> {
        let file = self.0.join(name);
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        let mut out = Vec::new();
        let opened = fs::File::open(&file).map_err(|source| TeeError::Unavailable {
            what: "opening",
            file: file.clone(),
            source,
        })?;
        if let Err(source) = opened.take(limit).read_to_end(&mut out) {
            return Err(kernel_says("reading", &file, source));
        }
        if out.len() > most {
            let fault = format!("more than {most} bytes");
            return Err(TeeError::Malformed { file, fault });
        }
        Ok(out)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            warn!(entry = %self.0.display(), %error, "left behind");
        }
    }
}
