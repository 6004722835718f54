//! One entry: kind (`u8`), length of what follows (`u16`, big-endian), content.

use crate::{Fault, ParseError, Reader, Sha256Digest};

/// Longest entry: what `TPM2B_EVENT` holds.
pub const MAX_ENTRY: usize = 1024;

/// Kind and length.
const HEAD: usize = 3;
/// Longest agent version or hook name.
const MAX_NAME: usize = 64;
/// Longest fence root; what is left of an entry beside the agent's version.
const MAX_ROOT: usize = 768;

const BEGIN: u8 = 1;
const PROGRAM: u8 = 2;
const DENY: u8 = 3;
const WORLD: u8 = 4;
const POLICY: u8 = 5;
const BREAK_GLASS: u8 = 6;

const STRUCTURE: &str = "FenceLog";

/// Something that is about to take effect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Entry {
    /// A fence process takes charge.
    Begin(Begun),
    /// This program judges packets at this hook from now on.
    Program {
        /// As in statements: `cgroup_skb/egress`.
        hook: String,
        /// What is attached there.
        program: Program,
    },
    /// No policy is in force: everything is denied.
    Deny,
    /// SHA-256 of the world image.
    World(Sha256Digest),
    /// A policy is in force.
    Policy(LoggedPolicy),
    /// Studies are judged as if a lease stood.
    BreakGlass(LoggedGlass),
}

/// One use of a manifest of kind `break-glass`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LoggedGlass {
    /// SHA-256 of the manifest, which names the studies.
    pub manifest: Sha256Digest,
    /// `CLOCK_BOOTTIME` at which it is over, ns; 0: it was not put in force after all.
    pub end_boot_ns: u64,
}

/// Who fences what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Begun {
    /// Version of the agent, 1 to 64 bytes.
    pub agent: String,
    /// The fence root: a cgroup path below the v2 mount, 1 to 768 bytes.
    pub root: String,
    /// The root is the root of the hierarchy.
    pub whole_host: bool,
}

/// A program as the kernel has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Program {
    /// The kernel's tag, which covers the instructions.
    pub tag: [u8; 8],
    /// SHA-256 of the object it was loaded from.
    pub object: Sha256Digest,
}

/// A policy as approvers signed it and the agent compiled it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LoggedPolicy {
    /// Version of the manifest.
    pub version: u64,
    /// SHA-256 of the manifest.
    pub manifest: Sha256Digest,
    /// SHA-256 of the compiled rules, before any cgroup of the host is in them.
    pub rules: Sha256Digest,
}

/// A field that no entry can hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("FenceLog.{field}: {found} bytes, where an entry holds 1 to {limit}")]
pub struct EntryTooLong {
    /// Which.
    pub field: &'static str,
    /// Its length.
    pub found: usize,
    /// The most.
    pub limit: usize,
}

impl Entry {
    /// The bytes that are hashed into the PCR and stand in the log.
    pub fn encode(&self) -> Result<Vec<u8>, EntryTooLong> {
        let mut content = Vec::new();
        let kind = match self {
            Self::Begin(begun) => {
                short(&mut content, "begin.agent", &begun.agent, MAX_NAME)?;
                let root = begun.root.as_bytes();
                content.extend(sized("begin.root", root, MAX_ROOT)?.to_be_bytes());
                content.extend(root);
                content.push(begun.whole_host.into());
                BEGIN
            }
            Self::Program { hook, program } => {
                short(&mut content, "program.hook", hook, MAX_NAME)?;
                content.extend(program.tag);
                content.extend(program.object.0);
                PROGRAM
            }
            Self::Deny => DENY,
            Self::World(digest) => {
                content.extend(digest.0);
                WORLD
            }
            Self::Policy(policy) => {
                content.extend(policy.version.to_be_bytes());
                content.extend(policy.manifest.0);
                content.extend(policy.rules.0);
                POLICY
            }
            Self::BreakGlass(glass) => {
                content.extend(glass.manifest.0);
                content.extend(glass.end_boot_ns.to_be_bytes());
                BREAK_GLASS
            }
        };
        let mut out = vec![kind];
        out.extend(sized_any("length", content.len(), MAX_ENTRY - HEAD)?.to_be_bytes());
        out.append(&mut content);
        Ok(out)
    }

    /// Reads the entry at the front. Its bytes, and the entry.
    fn take<'a>(r: &mut Reader<'a>) -> Result<(&'a [u8], Self), ParseError> {
        let (all, start) = (r.rest(), r.offset());
        let kind = r.u8("kind")?;
        let at = r.offset();
        let length = usize::from(r.u16("length")?);
        if length > MAX_ENTRY - HEAD {
            let fault = Fault::TooMany {
                found: wide(length),
                limit: wide(MAX_ENTRY - HEAD),
            };
            return Err(r.fault_at("length", at, fault));
        }
        let end = r.offset().saturating_add(length);
        if r.rest().len() < length {
            let fault = Fault::Truncated {
                want: length,
                left: r.rest().len(),
            };
            return Err(r.fault("content", fault));
        }
        let entry = match kind {
            BEGIN => {
                let agent = text(r, "begin.agent", |r, field| r.u8(field).map(u16::from), 64)?;
                let root = text(r, "begin.root", Reader::u16, 768)?;
                let at = r.offset();
                let whole_host = match r.u8("begin.whole_host")? {
                    0 => false,
                    1 => true,
                    found => {
                        let found = found.into();
                        let fault = Fault::Unsupported { found };
                        return Err(r.fault_at("begin.whole_host", at, fault));
                    }
                };
                Self::Begin(Begun {
                    agent,
                    root,
                    whole_host,
                })
            }
            PROGRAM => Self::Program {
                hook: text(r, "program.hook", |r, field| r.u8(field).map(u16::from), 64)?,
                program: Program {
                    tag: r.array("program.tag")?,
                    object: Sha256Digest(r.array("program.object")?),
                },
            },
            DENY => Self::Deny,
            WORLD => Self::World(Sha256Digest(r.array("world.digest")?)),
            POLICY => Self::Policy(LoggedPolicy {
                version: r.u64("policy.version")?,
                manifest: Sha256Digest(r.array("policy.manifest")?),
                rules: Sha256Digest(r.array("policy.rules")?),
            }),
            BREAK_GLASS => Self::BreakGlass(LoggedGlass {
                manifest: Sha256Digest(r.array("break_glass.manifest")?),
                end_boot_ns: r.u64("break_glass.end_boot_ns")?,
            }),
            other => {
                let fault = Fault::Unsupported {
                    found: other.into(),
                };
                return Err(r.fault_at("kind", start, fault));
            }
        };
        if r.offset() != end {
            let fault = Fault::Mismatch {
                found: wide(length),
                want: wide(r.offset().saturating_sub(start).saturating_sub(HEAD)),
            };
            return Err(r.fault_at("length", at, fault));
        }
        let (bytes, _) = all
            .split_at_checked(end.saturating_sub(start))
            .unwrap_or((all, &[]));
        Ok((bytes, entry))
    }
}

/// The entries of a log with their bytes, in order; ends after the first that is not one.
pub fn entries(log: &[u8]) -> impl Iterator<Item = Result<(&[u8], Entry), ParseError>> {
    let mut reader = Some(Reader::new(STRUCTURE, log));
    std::iter::from_fn(move || {
        let mut r = reader.take()?;
        if r.rest().is_empty() {
            return None;
        }
        let taken = Entry::take(&mut r);
        if taken.is_ok() {
            reader = Some(r);
        }
        Some(taken)
    })
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn sized(field: &'static str, bytes: &[u8], limit: usize) -> Result<u16, EntryTooLong> {
    if bytes.is_empty() {
        let found = 0;
        return Err(EntryTooLong {
            field,
            found,
            limit,
        });
    }
    sized_any(field, bytes.len(), limit)
}

fn sized_any(field: &'static str, found: usize, limit: usize) -> Result<u16, EntryTooLong> {
    let length = u16::try_from(found).ok();
    length.filter(|_| found <= limit).ok_or(EntryTooLong {
        field,
        found,
        limit,
    })
}

/// One byte of length, then the text.
fn short(
    out: &mut Vec<u8>,
    field: &'static str,
    text: &str,
    limit: usize,
) -> Result<(), EntryTooLong> {
    let length = sized(field, text.as_bytes(), limit)?;
    out.extend(u8::try_from(length));
    out.extend(text.as_bytes());
    Ok(())
}

/// A length, 1 to `limit`, and as many bytes of printable ASCII or UTF-8.
fn text<'a>(
    r: &mut Reader<'a>,
    field: &'static str,
    length: impl FnOnce(&mut Reader<'a>, &'static str) -> Result<u16, ParseError>,
    limit: u16,
) -> Result<String, ParseError> {
    let at = r.offset();
    let length = length(r, field)?;
    if length == 0 || length > limit {
        let fault = match length {
            0 => Fault::Unsupported { found: 0 },
            _ => Fault::TooMany {
                found: length.into(),
                limit: limit.into(),
            },
        };
        return Err(r.fault_at(field, at, fault));
    }
    let at = r.offset();
    let bytes = r.take(field, length.into())?;
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(r.fault_at(
            field,
            at,
            Fault::Rule("is not UTF-8 without control characters"),
        )),
    }
}
