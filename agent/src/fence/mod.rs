//! Puts the fence into the kernel and keeps it there.
//!
//! [`Fence::open`] attaches first and asks later: with no policy in the maps the programs deny
//! everything. Links, programs and maps are pinned, so that nothing opens when this process ends,
//! dies or is replaced; the next one takes over what it finds, and brings programs up to date in
//! place. What died in the middle of a start is completed, not begun anew.
//!
//! | module | holds |
//! |---|---|
//! | `place` | the cgroup hierarchy, and what in it must not be fenced |
//! | `pins` | what outlives the process |
//! | `load` | the object carried inside |
//! | `hook` | links, adopted or made |
//! | `lsm` | the kernel's own line, where it asks one |
//! | `lines` | what stands on network devices, and follows them |
//! | `image` | frozen tables and their swap |
//! | `policy` | what is put in force, prepared whole |
//! | `enforce`, `follow` | what the service asks; what is followed on the host |
//! | `tables`, `changed` | what somebody else wrote, put back and told |
//! | `origin` | where the world map comes from, and whether it is old |
//! | `select`, `watch`, `admit` | selectors to cgroups, as they come and go, and which count |
//! | `legacy` | workloads under cgroup v1, which no packet leads back to |
//! | `peers` | addresses of studies on other nodes |
//! | `devices` | governed devices: numbers, owners, holders |
//! | `taken`, `tally` | what programs count, taken away whole, and told within bounds |
//! | `events`, `process`, `state` | what the kernel says, in words |
//! | `probe` | a datagram that must be denied |
//! | `record`, `register` | what takes effect, extended into a PCR before it does |

mod admit;
#[cfg(test)]
#[path = "../../tests/fence/bundle.rs"]
mod bundle;
mod changed;
mod devices;
mod enforce;
mod error;
mod events;
mod follow;
mod hook;
mod image;
mod legacy;
mod lines;
mod load;
mod lsm;
mod origin;
mod peers;
mod pins;
mod place;
mod policy;
pub mod probe;
mod process;
mod record;
mod register;
mod select;
mod state;
mod tables;
mod taken;
mod tally;
#[cfg(test)]
mod tests_changed;
#[cfg(test)]
mod tests_swap;
mod watch;

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use bailiwick_attestation::{
    Sha256Digest,
    fence_log::{Begun, Entry, Program},
};
use tracing::{error, info, warn};

pub(crate) use self::devices::cgroup_of;
use self::{
    changed::Changed,
    devices::Devices,
    events::{Counting, Events},
    hook::Hook,
    lines::Lines,
    load::{Loaded, Maps},
    pins::{Look, Pins},
    place::{Hierarchy, Root},
    policy::Policy,
    select::{Finder, Tree},
    tables::{Inherited, Leased, Pinned},
    watch::Watch,
};
pub use self::{
    error::FenceError,
    place::PlaceError,
    probe::Probe,
    record::{RecordError, Recorder},
    register::{Register, RegisterError, TpmRegister},
};
use crate::{collect::unfenced::Inventory, config::FenceSection, fence_service::Peer, sys::bpf};

/// The fence of this host, or of a part of it.
#[derive(Debug)]
pub struct Fence {
    hierarchy: Hierarchy,
    finder: Box<dyn Finder>,
    root: Root,
    pins: Pins,
    maps: Maps,
    hooks: Vec<Hook>,
    /// Why the kernel's line does not stand whole: it could not, or the kernel asks none.
    lsm_trouble: Option<String>,
    lsm_absent: Option<String>,
    /// What stands on network devices; `None` where nothing is to.
    lines: Option<Lines>,
    /// Why a program for them could not be loaded.
    lines_trouble: Option<String>,
    events: Events,
    devices: Devices,
    /// Ways past the hooks, as the last look found them.
    inventory: Inventory,
    next_inventory_ns: u64,
    recorder: Recorder,
    /// SHA-256 of the object the programs come from.
    object: Sha256Digest,
    policy: Option<Policy>,
    /// Addresses of studies on other nodes, as they were last told.
    peers: Vec<Peer>,
    /// Why those told last are not in the kernel.
    peers_trouble: Option<String>,
    /// Studies that are judged as if a lease stood: name, and end on the boot clock.
    break_glass: BTreeMap<String, u64>,
    /// Why the last [`Enforcer::reconcile`] changed nothing.
    trouble: Option<String>,
    /// What somebody else changed, and was put back.
    changed: Changed,
    /// What the process before this one left in force.
    inherited: Inherited,
    /// What this process last wrote.
    leased: Leased,
    pinned: Vec<Pinned>,
    /// The folders of pins as they were when all of them were sound.
    pins_sound: Option<Look>,
    /// Looks at them so far.
    pins_rounds: u32,
    /// When the addresses of other nodes were last compared.
    peers_looked: Option<Instant>,
    /// No new study starts.
    closed: bool,
    /// Tells when cgroups come and go; `None` where the kernel would not.
    watch: Option<Watch>,
    took: Took,
}

/// How long the last world map took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// A map made, filled and frozen.
    pub load: Duration,
    /// It put in force in place of the one before.
    pub swap: Duration,
}

/// Without it cgroups are polled.
fn watch() -> Option<Watch> {
    match Watch::new() {
        Ok(watch) => Some(watch),
        Err(error) => {
            warn!(%error, "cgroups are polled, not watched");
            None
        }
    }
}

impl Fence {
    /// Attaches, or takes over what is attached. When this returns, the root is fenced: by the
    /// policy that was in force, or by default deny.
    ///
    /// Each step is recorded before it is taken, and taken even where it cannot be: nothing here
    /// opens anything.
    pub fn open(section: &FenceSection, recorder: Recorder) -> Result<Self, FenceError> {
        Self::close(section, recorder)?.open()
    }

    /// The first half of [`Fence::open`]: what lets nothing pass stands, or what a process before
    /// this one attached. The second half takes longer, and other things can be done beside it.
    pub fn close(section: &FenceSection, mut recorder: Recorder) -> Result<Closed<'_>, FenceError> {
        let hierarchy = Hierarchy::find()?;
        let root = Root::open(&hierarchy, section)?;
        let pins = Pins::open(&section.bpffs)?;
        let judging = || Hook::NAMES.into_iter().filter(|names| names.judges);
        let begin = Entry::Begin(Begun {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            root: root.path.display().to_string(),
            whole_host: root.whole_host,
        });
        let mut stands = true;
        for names in judging() {
            stands &= Hook::stands(names, &pins, &root)?;
        }
        if stands {
            recorder.note(&[begin]);
        } else {
            recorder.note(&[begin, Entry::Deny]);
        }
        for names in judging() {
            Hook::close(names, &pins, &root)?;
        }
        Ok(Closed {
            section,
            hierarchy,
            root,
            pins,
            recorder,
        })
    }

    /// How long the map in force took to get there.
    #[must_use]
    pub const fn took(&self) -> Took {
        self.took
    }

    /// What has to be denied before anybody is told that this fence stands.
    #[must_use]
    pub fn probe(&self) -> Probe {
        let uplinks = self.lines.as_ref().map(Lines::probe);
        Probe::new(&self.root.folder, uplinks.unwrap_or_default())
    }

    /// Detaches everything: what was fenced is open. Says which pins were removed.
    pub fn remove(self) -> Result<Vec<PathBuf>, FenceError> {
        let Self { pins, lines, .. } = self;
        if lines.is_some() {
            lines::remove_filters()?;
        }
        pins.remove_all()
    }

    /// [`Fence::remove`] without loading anything first.
    pub fn remove_pins(section: &FenceSection) -> Result<Vec<PathBuf>, FenceError> {
        if !pins::exist(&section.bpffs) {
            return Ok(Vec::new());
        }
        if lines::wanted(section) {
            lines::remove_filters()?;
        }
        Pins::open(&section.bpffs)?.remove_all()
    }
}

/// Nothing passes that was not let pass before; the programs that judge are not loaded yet.
#[derive(Debug)]
pub struct Closed<'a> {
    section: &'a FenceSection,
    hierarchy: Hierarchy,
    root: Root,
    pins: Pins,
    recorder: Recorder,
}

impl Closed<'_> {
    /// The second half of [`Fence::open`].
    pub fn open(self) -> Result<Fence, FenceError> {
        let Self {
            section,
            hierarchy,
            root,
            pins,
            mut recorder,
        } = self;
        let Loaded {
            maps,
            devices,
            device_events,
            programs,
            mut lsm_trouble,
            lsm_absent,
            lines,
            lines_trouble,
            source,
            pinned,
        } = load::load(&pins, &root, section)?;
        let inherited = Inherited::find(&maps)?;
        let leased = Leased::read(&maps)?;
        let mut changed = Changed::default();
        // Before anything is attached that counts.
        taken::provide(&maps)?;
        let object = load::object_digest();
        let mut judges = Vec::new();
        let cgroup = programs.iter().map(|(names, code)| (names.hook, code));
        let device = lines.iter().map(|(role, code)| (lines::hook(*role), code));
        for (hook, code) in cgroup.chain(device) {
            let info =
                bpf::program_info(code.as_fd()).map_err(FenceError::kernel("look at", hook))?;
            judges.push(Entry::Program {
                hook: hook.to_owned(),
                program: Program {
                    tag: info.tag,
                    object,
                },
            });
        }
        recorder.note(&judges);
        let idle = std::time::Duration::from_secs(section.device_idle_seconds);
        let devices = Devices::open(devices, device_events, &section.drivers, idle)?;
        let mut hooks = Vec::new();
        for (names, program) in programs {
            match Hook::adopt(names, &pins, &root, program, &source) {
                Ok(hook) => hooks.push(hook),
                Err(err) if lsm::kernel_name(names.hook).is_some() => {
                    let why = format!("{:#}", anyhow::Error::from(err));
                    error!(why, "the kernel's line cannot stand");
                    lsm_trouble = Some(why);
                }
                Err(err) => return Err(err),
            }
        }
        let mut lines = match lines.is_empty() {
            true => None,
            false => Some(Lines::open(section, &pins, lines, &source, &maps)?),
        };
        if let Some(lines) = &mut lines {
            // What cannot be attached now is tried again, and is a fault until then.
            if let Err(err) = lines.reconcile(&pins, &maps, &mut changed) {
                error!(
                    error = format!("{:#}", anyhow::Error::from(err)),
                    "a line does not stand"
                );
            }
        }
        if !source.known {
            load::remember(&pins)?;
        }
        for pin in pins.remove_other_versions()? {
            info!(pin = %pin.display(), "a pin of another version is removed");
        }
        let counting = Counting {
            every: Duration::from_secs(section.count_s),
            sample: section.sample,
        };
        let events = Events::new(&maps, counting);
        info!(root = %root.path.display(), cgroup = root.id, "fenced");
        Ok(Fence {
            finder: Box::new(Tree::new(hierarchy.mount())),
            hierarchy,
            root,
            pins,
            maps,
            hooks,
            lsm_trouble,
            lsm_absent,
            lines,
            lines_trouble,
            events,
            devices,
            inventory: Inventory::default(),
            next_inventory_ns: 0,
            recorder,
            object,
            policy: None,
            peers: Vec::new(),
            peers_trouble: None,
            break_glass: BTreeMap::new(),
            trouble: None,
            changed,
            inherited,
            leased,
            pinned,
            pins_sound: None,
            pins_rounds: 0,
            peers_looked: None,
            closed: false,
            watch: watch(),
            took: Took::default(),
        })
    }
}

#[cfg(test)]
mod tests;
