//! A kernel with configfs-tsm, made of pipes: each file is answered when it is opened, in the order in
//! which the agent has to ask.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    thread,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

/// What it has beside question, answer and generation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Play {
    /// `provider`; default `sev_guest`.
    pub(crate) provider: Option<&'static str>,
    /// `privlevel_floor`
    pub(crate) floor: Option<u64>,
    /// `auxblob`
    pub(crate) certificates: Option<Vec<u8>>,
    /// In how many exchanges somebody else writes, before the answer.
    pub(crate) before: usize,
    /// Likewise, behind it.
    pub(crate) behind: usize,
    /// Bytes behind the question in the answer.
    pub(crate) more: usize,
    /// Its reports have AMD's form, with the question in its place; otherwise they are words before it.
    pub(crate) form: bool,
    /// Likewise, but the question is none that was asked.
    pub(crate) another: bool,
    /// It is asked, and gives none.
    pub(crate) refuses: bool,
    /// An SVSM that keeps a TPM with this manifest.
    pub(crate) svsm: Option<Vec<u8>>,
}

/// Its folder; dropping it removes the pipes, and its thread waits for ever.
#[derive(Debug)]
pub(crate) struct Double {
    _dir: TempDir,
    pub(crate) root: PathBuf,
}

impl Double {
    pub(crate) fn start(play: Play) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("report");
        let entry = root.join("bailiwick");
        fs::create_dir_all(&entry).unwrap();
        let mut pipes = vec!["provider", "generation", "inblob"];
        match play.refuses {
            // Reading it is an error that says nothing of permissions or of somebody else.
            true => fs::create_dir(entry.join("outblob")).unwrap(),
            false => pipes.push("outblob"),
        }
        if play.certificates.is_some() {
            pipes.push("auxblob");
        }
        if play.floor.is_some() {
            pipes.extend(["privlevel_floor", "privlevel"]);
        }
        for name in pipes {
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, entry.join(name), FileType::Fifo, mode, 0).unwrap();
        }
        if play.svsm.is_some() {
            fs::write(entry.join("service_provider"), "").unwrap();
            let entry = root.join("bailiwick-vtpm");
            fs::create_dir(&entry).unwrap();
            for name in [
                "generation",
                "service_provider",
                "service_guid",
                "inblob",
                "outblob",
                "manifestblob",
            ] {
                let mode = Mode::RUSR | Mode::WUSR;
                mknodat(CWD, entry.join(name), FileType::Fifo, mode, 0).unwrap();
            }
        }
        thread::spawn(move || play.run(&entry));
        Self { _dir: dir, root }
    }
}

impl Play {
    fn run(mut self, entry: &Path) {
        let give = |name: &str, bytes: &[u8]| {
            let opened = OpenOptions::new().write(true).open(entry.join(name));
            // Who reads no more than it will take closes before the end.
            drop(opened.and_then(|mut pipe| pipe.write_all(bytes)));
        };
        let mut generation = 0_u64;
        let say = |generation: u64| give("generation", format!("{generation}\n").as_bytes());
        while entry.is_dir() {
            let provider = self.provider.unwrap_or("sev_guest");
            give("provider", format!("{provider}\n").as_bytes());
            say(generation);
            if let Some(floor) = self.floor {
                give("privlevel_floor", floor.to_string().as_bytes());
                if floor > 0 {
                    let level = fs::read_to_string(entry.join("privlevel")).unwrap_or_default();
                    generation += u64::from(level == floor.to_string());
                }
            }
            let question = fs::read(entry.join("inblob")).unwrap_or_default();
            generation += 1;
            if self.before > 0 {
                self.before -= 1;
                generation += 1;
                say(generation);
                continue;
            }
            say(generation);
            if self.refuses {
                continue;
            }
            let mut answer = match self.form {
                true => form(self.another, &question),
                false => [b"report of ".to_vec(), question].concat(),
            };
            answer.resize(answer.len() + self.more, 0);
            give("outblob", &answer);
            if let Some(table) = &self.certificates {
                give("auxblob", table);
            }
            if self.behind > 0 {
                self.behind -= 1;
                generation += 1;
            }
            say(generation);
            if let Some(manifest) = &self.svsm {
                serve(&entry.with_file_name("bailiwick-vtpm"), manifest);
            }
        }
    }
}

/// `ATTESTATION_REPORT`, version 3, of a chip that signs nothing.
fn form(another: bool, question: &[u8]) -> Vec<u8> {
    let mut report = vec![0; 1184];
    let mut put = |at: usize, what: &[u8]| report[at..at + what.len()].copy_from_slice(what);
    put(0, &3_u32.to_le_bytes());
    put(0x34, &1_u32.to_le_bytes());
    if !another {
        put(0x50, question);
    }
    report
}

/// One question to an SVSM.
fn serve(entry: &Path, manifest: &[u8]) {
    let give = |name: &str, bytes: &[u8]| {
        let opened = OpenOptions::new().write(true).open(entry.join(name));
        drop(opened.and_then(|mut pipe| pipe.write_all(bytes)));
    };
    let take = |name: &str| fs::read(entry.join(name)).unwrap_or_default();
    give("generation", b"0\n");
    let provider = take("service_provider");
    let service = take("service_guid");
    let question = take("inblob");
    give("generation", b"3\n");
    give(
        "outblob",
        &[provider, b" ".to_vec(), service, b" ".to_vec(), question].concat(),
    );
    give("manifestblob", manifest);
    give("generation", b"3\n");
}
