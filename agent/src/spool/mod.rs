//! What the collector has not given a receipt for yet, on disk.
//!
//! Append-only segments `<first index>.seg`. A record is its length (u32), the CRC-32C of length
//! and payload (u32, both big-endian), then the payload. A record counts once it is on the disk.
//! The spool forgets what a receipt covers, oldest first, and deletes whole segments; it never
//! overwrites, and when it is full it says so ([`SpoolError::Full`]): the caller counts what it
//! could not keep and the next statement reports the gap.
//!
//! [`chain`] keeps the node's place in its own sequence of statements.

pub mod chain;
mod crc;
pub(crate) mod slots;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::files::{make_private_folder, read_bounded, sync_folder, write_atomically};
use crc::crc32c;

/// Length and checksum before each payload.
const HEADER: u64 = 8;

/// Longest payload: an envelope (36 MiB) and room for its framing.
pub const MAX_RECORD: usize = 37 << 20;

/// Largest segment; a sixteenth of the bound where that is less, so that forgetting frees room
/// in small steps.
const MAX_SEGMENT: u64 = 16 << 20;

const FORGOTTEN: &str = "forgotten";

/// Why a record was not kept.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The bound is reached, or the disk is full.
    #[error("the spool {dir} is full ({bytes} of {max_bytes} bytes)")]
    Full {
        /// The spool's folder.
        dir: PathBuf,
        /// In use.
        bytes: u64,
        /// The bound.
        max_bytes: u64,
    },
    /// A record longer than [`MAX_RECORD`].
    #[error("a record of {0} bytes; the most is {MAX_RECORD}")]
    TooLong(usize),
    /// The file system failed.
    #[error("spool file {file}")]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record that was there when the spool was opened reads differently now.
    #[error("spool record {0} is damaged")]
    Damaged(u64),
}

/// What was found wrong when the spool was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Recovered {
    /// Bytes of an unfinished last record, cut off. It never counted.
    pub torn_bytes: u64,
    /// Records that had counted and cannot be read any more: a gap to report.
    pub lost_records: u64,
}

#[derive(Debug)]
struct Segment {
    file: File,
    path: PathBuf,
    first: u64,
    /// Offset of each payload and its length.
    records: Vec<(u64, u32)>,
    /// Records that follow the readable ones by number and are lost.
    lost: u64,
    bytes: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        let readable = u64::try_from(self.records.len()).unwrap_or(u64::MAX);
        self.first
            .saturating_add(readable)
            .saturating_add(self.lost)
    }
}

/// A bounded queue of records on disk.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    max_bytes: u64,
    /// Ascending; the last one is written to.
    segments: VecDeque<Segment>,
    /// Every index below is forgotten.
    floor: u64,
    /// Forgotten ones above the floor.
    forgotten: BTreeSet<u64>,
    next: u64,
    bytes: u64,
}

impl Spool {
    /// Opens or makes the spool, cuts off a torn tail and counts what is damaged.
    pub fn open(dir: &Path, max_bytes: u64) -> Result<(Self, Recovered), SpoolError> {
        let at_dir = |source| io_error(dir, source);
        make_private_folder(dir).map_err(at_dir)?;
        let mut firsts = Vec::new();
        for entry in fs::read_dir(dir).map_err(at_dir)? {
            let name = entry.map_err(at_dir)?.file_name();
            let first = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            firsts.extend(first.and_then(|first| first.parse::<u64>().ok()));
        }
        firsts.sort_unstable();
        let mut recovered = Recovered::default();
        let mut segments = VecDeque::new();
        for (position, first) in firsts.iter().enumerate() {
            let following = firsts.get(position + 1).copied();
            segments.push_back(open_segment(dir, *first, following, &mut recovered)?);
        }
        let floor = read_floor(dir)?;
        let next = segments.back().map_or(floor, Segment::end).max(floor);
        let mut spool = Self {
            dir: dir.to_owned(),
            max_bytes,
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            segments,
            floor,
            forgotten: BTreeSet::new(),
            next,
        };
        spool.drop_segments()?;
        Ok((spool, recovered))
    }

    /// Bytes on disk.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Indices of the records still kept, oldest first.
    pub fn kept(&self) -> impl Iterator<Item = u64> + '_ {
        self.segments.iter().flat_map(move |segment| {
            (segment.first..)
                .take(segment.records.len())
                .filter(move |index| *index >= self.floor && !self.forgotten.contains(index))
        })
    }

    /// Keeps a record: on disk when this returns its index.
    pub fn append(&mut self, payload: &[u8]) -> Result<u64, SpoolError> {
        let too_long = SpoolError::TooLong(payload.len());
        let len = match u32::try_from(payload.len()) {
            Ok(len) if payload.len() <= MAX_RECORD => len,
            _ => return Err(too_long),
        };
        let whole = HEADER + u64::from(len);
        if self.bytes.saturating_add(whole) > self.max_bytes {
            return Err(self.full());
        }
        let roll = (self.max_bytes / 16).clamp(1 << 20, MAX_SEGMENT);
        if self.segments.back().is_none_or(|last| last.bytes >= roll) {
            self.begin_segment()?;
        }
        let full = self.full();
        let Some(segment) = self.segments.back_mut() else {
            return Err(full);
        };
        let mut record = Vec::with_capacity(payload.len() + 8);
        record.extend_from_slice(&len.to_be_bytes());
        record.extend_from_slice(&crc32c(&[&len.to_be_bytes(), payload]).to_be_bytes());
        record.extend_from_slice(payload);
        let written = segment
            .file
            .write_all_at(&record, segment.bytes)
            .and_then(|()| segment.file.sync_data());
        if let Err(source) = written {
            // Half a record must not stand before the next one; where even that fails, the next
            // open cuts it off as a torn tail.
            let cut = segment.file.set_len(segment.bytes);
            cut.map_err(|err| io_error(&segment.path, err))?;
            return Err(match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => full,
                _ => io_error(&segment.path, source),
            });
        }
        segment.records.push((segment.bytes + HEADER, len));
        segment.bytes += whole;
        self.bytes += whole;
        let index = self.next;
        self.next += 1;
        Ok(index)
    }

    /// A kept record; `None` for an index that is forgotten or was never given.
    pub fn read(&self, index: u64) -> Result<Option<Vec<u8>>, SpoolError> {
        if index < self.floor || self.forgotten.contains(&index) {
            return Ok(None);
        }
        let found = self
            .segments
            .iter()
            .rev()
            .find(|segment| segment.first <= index);
        let Some((segment, (offset, len))) = found.and_then(|segment| {
            let position = usize::try_from(index - segment.first).ok()?;
            Some((segment, segment.records.get(position).copied()?))
        }) else {
            return Ok(None);
        };
        let mut header = [0; 8];
        let mut payload = vec![0; usize::try_from(len).unwrap_or(0)];
        segment
            .file
            .read_exact_at(&mut header, offset - HEADER)
            .and_then(|()| segment.file.read_exact_at(&mut payload, offset))
            .map_err(|source| io_error(&segment.path, source))?;
        if check(&header, &payload) {
            Ok(Some(payload))
        } else {
            Err(SpoolError::Damaged(index))
        }
    }

    /// Lets go of a record, for good. Segments with nothing left in them are deleted.
    pub fn forget(&mut self, index: u64) -> Result<(), SpoolError> {
        if index < self.floor || index >= self.next {
            return Ok(());
        }
        self.forgotten.insert(index);
        let before = self.floor;
        self.raise_floor();
        if self.floor == before {
            return Ok(());
        }
        self.drop_segments()?;
        // A floor that could not be written (the disk is full) means sending twice after a
        // restart, which the collector recognises.
        let file = self.dir.join(FORGOTTEN);
        match write_atomically(&file, self.floor.to_string().as_bytes()) {
            Err(err) if err.kind() != ErrorKind::StorageFull => Err(io_error(&file, err)),
            _ => Ok(()),
        }
    }

    fn full(&self) -> SpoolError {
        SpoolError::Full {
            dir: self.dir.clone(),
            bytes: self.bytes,
            max_bytes: self.max_bytes,
        }
    }

    fn raise_floor(&mut self) {
        loop {
            if self.forgotten.remove(&self.floor) {
                self.floor += 1;
                continue;
            }
            // Numbers that no readable record bears: lost ones, and those of deleted segments.
            let following = self
                .segments
                .iter()
                .flat_map(|segment| (segment.first..).take(segment.records.len()))
                .find(|index| *index >= self.floor)
                .unwrap_or(self.next);
            if following == self.floor {
                return;
            }
            self.floor = following;
        }
    }

    fn drop_segments(&mut self) -> Result<(), SpoolError> {
        self.raise_floor();
        // The last one stays: it carries the numbering.
        while self.segments.len() > 1
            && self
                .segments
                .front()
                .is_some_and(|first| first.end() <= self.floor)
        {
            if let Some(segment) = self.segments.pop_front() {
                self.bytes -= segment.bytes;
                fs::remove_file(&segment.path).map_err(|e| io_error(&segment.path, e))?;
            }
        }
        // An emptied last segment gives its room back, but keeps its name's number.
        if self.floor == self.next
            && let Some(last) = self.segments.back()
            && last.bytes > 0
            // Where there is no room for one more name, the next record makes the segment.
            && self.begin_segment().is_ok()
        {
            while self.segments.len() > 1 {
                if let Some(segment) = self.segments.pop_front() {
                    self.bytes -= segment.bytes;
                    fs::remove_file(&segment.path).map_err(|e| io_error(&segment.path, e))?;
                }
            }
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), SpoolError> {
        let path = segment_path(&self.dir, self.next);
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| sync_folder(&self.dir).map(|()| file));
        let file = made.map_err(|source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => self.full(),
            _ => io_error(&path, source),
        })?;
        // A segment without a record, left by a crash or an emptied spool, has the same name.
        if self.segments.back().is_some_and(|last| last.path == path) {
            self.segments.pop_back();
        }
        self.segments.push_back(Segment {
            file,
            path,
            first: self.next,
            records: Vec::new(),
            lost: 0,
            bytes: 0,
        });
        Ok(())
    }
}

fn open_segment(
    dir: &Path,
    first: u64,
    following: Option<u64>,
    recovered: &mut Recovered,
) -> Result<Segment, SpoolError> {
    let path = segment_path(dir, first);
    let fail = |source| io_error(&path, source);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    let (records, good) = scan(&file).map_err(fail)?;
    let mut lost = 0;
    if let Some(following) = following {
        let readable = u64::try_from(records.len()).unwrap_or(u64::MAX);
        lost = following.saturating_sub(first.saturating_add(readable));
        recovered.lost_records += lost;
    }
    let mut bytes = size;
    if good < size && following.is_none() {
        recovered.torn_bytes += size - good;
        file.set_len(good)
            .and_then(|()| file.sync_all())
            .map_err(fail)?;
        bytes = good;
    }
    Ok(Segment {
        file,
        path,
        first,
        records,
        lost,
        bytes,
    })
}

/// Records from the start to the first that is not whole, and where that one begins.
fn scan(file: &File) -> io::Result<(Vec<(u64, u32)>, u64)> {
    let mut from = io::BufReader::with_capacity(1 << 16, file);
    let (mut records, mut offset) = (Vec::new(), 0_u64);
    loop {
        let mut header = [0; 8];
        if !whole(from.read_exact(&mut header))? {
            return Ok((records, offset));
        }
        let len = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        if size > MAX_RECORD {
            return Ok((records, offset));
        }
        let mut payload = vec![0; size];
        if !whole(from.read_exact(&mut payload))? || !check(&header, &payload) {
            return Ok((records, offset));
        }
        records.push((offset + HEADER, len));
        offset += HEADER + u64::from(len);
    }
}

fn whole(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(err) => Err(err),
    }
}

fn check(header: &[u8; 8], payload: &[u8]) -> bool {
    let (len, crc) = header.split_at(4);
    crc == crc32c(&[len, payload]).to_be_bytes()
        && u32::try_from(payload.len()).is_ok_and(|have| len == have.to_be_bytes())
}

fn read_floor(dir: &Path) -> Result<u64, SpoolError> {
    let file = dir.join(FORGOTTEN);
    let damaged = || io::Error::new(ErrorKind::InvalidData, "not a number");
    match read_bounded(&file, 32) {
        Ok(text) => std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| io_error(&file, damaged())),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(0),
        Err(err) => Err(io_error(&file, err)),
    }
}

fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.seg"))
}

fn io_error(file: &Path, source: io::Error) -> SpoolError {
    SpoolError::Io {
        file: file.to_owned(),
        source,
    }
}
