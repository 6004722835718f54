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
//! | `lines` | what stands on network devices, and follows them |
//! | `image` | frozen tables and their swap |
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
mod devices;
mod error;
mod events;
mod hook;
mod image;
mod legacy;
mod lines;
mod load;
mod origin;
mod peers;
mod pins;
mod place;
pub mod probe;
mod process;
mod record;
mod register;
mod select;
mod state;
mod taken;
mod tally;
#[cfg(test)]
mod tests_swap;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bailiwick_attestation::{
    Sha256Digest,
    fence_log::{Begun, Entry, LoggedPolicy, Program},
    proto::v1::{FenceEvent, FenceState},
};
use bailiwick_ebpf_common::{Plain, PolicyImage, peers::PEERS};
use bailiwick_policy::{
    bundle::VerifiedBundle,
    image::{DeviceNames, Unmet, Who, device_names, set_break_glass, set_cgroups, subjects},
    model::Selector,
    world::Codes,
};
use rustix::event::epoll;
use tracing::{error, info, warn};

pub(crate) use self::devices::cgroup_of;
use self::{
    admit::{HeldBack, Met},
    devices::{Devices, Place, Rules},
    events::{Counting, Events, Names},
    hook::Hook,
    image::Image,
    lines::{Lines, Role},
    load::{Loaded, Maps},
    origin::Origin,
    pins::Pins,
    place::{Hierarchy, Root},
    select::{Finder, Tree},
    watch::Watch,
};
pub use self::{
    error::FenceError,
    place::PlaceError,
    probe::Probe,
    record::{RecordError, Recorder},
    register::{Register, RegisterError, TpmRegister},
};
use crate::{
    clock,
    collect::unfenced::{self, Inventory},
    config::FenceSection,
    fence_service::{Enforcer, Peer},
    sys::bpf,
};

/// An inventory of ways past the hooks is good for so long; a look takes one part in so many of the
/// time.
const INVENTORY_NS: u64 = 30_000_000_000;
const INVENTORY_SHARE: u64 = 200;

/// The fence of this host, or of a part of it.
#[derive(Debug)]
pub struct Fence {
    hierarchy: Hierarchy,
    finder: Box<dyn Finder>,
    root: Root,
    pins: Pins,
    maps: Maps,
    hooks: Vec<Hook>,
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
    /// How often a link had to be attached or pinned again.
    mended: u64,
    /// No new study starts.
    closed: bool,
    /// Tells when cgroups come and go; `None` where the kernel would not.
    watch: Option<Watch>,
    took: Took,
}

/// What this process has put in force.
struct Policy {
    /// With the cgroups of the last reconciliation.
    image: Box<PolicyImage>,
    rules: Image,
    world: Image,
    /// Whose traffic is which subject's.
    selectors: Vec<Selected>,
    /// Cgroup and subject, ascending.
    cgroups: Vec<(u64, u32)>,
    /// By subject number; `None` for a host service.
    studies: Vec<Option<String>>,
    /// Cgroups that would be a study's, had its policy not expired before they came.
    held_back: HeldBack,
    /// What each subject may open.
    devices: Vec<DeviceNames>,
    /// Of those, what this host does not have.
    unmet: Vec<String>,
    /// Whose word the map in force is.
    origin: Origin,
}

/// How long the last world map took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Took {
    /// A map made, filled and frozen.
    pub load: Duration,
    /// It put in force in place of the one before.
    pub swap: Duration,
}

impl Policy {
    fn peers(&self, peers: &[Peer]) -> Result<BTreeMap<[u8; 24], u64>, FenceError> {
        let generation = self.image.header.generation;
        peers::entries(peers, generation, &self.studies).map_err(|found| FenceError::Peers {
            found,
            limit: PEERS,
        })
    }
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

/// Readable when one of them is.
fn either(one: Option<BorrowedFd<'_>>, other: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let both = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for fd in [one, other].into_iter().flatten() {
        epoll::add(
            &both,
            fd,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
    }
    Ok(both)
}

/// Studies that are judged as if a lease stood, under their numbers.
fn glass(studies: &[Option<String>], ends: &BTreeMap<String, u64>) -> Vec<(u32, u64)> {
    let numbered = (0_u32..).zip(studies);
    numbered
        .filter_map(|(number, study)| Some((number, *ends.get(study.as_ref()?)?)))
        .collect()
}

fn unmet(unmet: &[Unmet]) -> Vec<String> {
    let of = |unmet: &Unmet| format!("{}: {}", unmet.subject, unmet.name);
    unmet.iter().map(of).collect()
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy")
            .field("rules", &self.rules)
            .field("world", &self.world)
            .field("cgroups", &self.cgroups.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Selected {
    subject: u32,
    name: String,
    selector: Selector,
    /// Said once until it changes.
    met: bool,
}

impl Fence {
    /// Attaches, or takes over what is attached. When this returns, the root is fenced: by the
    /// policy that was in force, or by default deny.
    ///
    /// Each step is recorded before it is taken, and taken even where it cannot be: nothing here
    /// opens anything.
    pub fn open(section: &FenceSection, mut recorder: Recorder) -> Result<Self, FenceError> {
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
        let Loaded {
            maps,
            devices,
            device_events,
            programs,
            lines,
            lines_trouble,
            source,
        } = load::load(&pins, &root, section)?;
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
            hooks.push(Hook::adopt(names, &pins, &root, program, &source)?);
        }
        let mut lines = match lines.is_empty() {
            true => None,
            false => Some(Lines::open(section, &pins, lines, &source, &maps)?),
        };
        if let Some(lines) = &mut lines {
            // What cannot be attached now is tried again, and is a fault until then.
            if let Err(err) = lines.reconcile(&pins, &maps) {
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
        Ok(Self {
            finder: Box::new(Tree::new(hierarchy.mount())),
            hierarchy,
            root,
            pins,
            maps,
            hooks,
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
            mended: 0,
            closed: false,
            watch: watch(),
            took: Took::default(),
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

    /// The cgroups there are now, for every selector.
    fn resolve(&mut self, selectors: &mut [Selected]) -> Vec<(u64, u32)> {
        let mut folders = BTreeSet::new();
        let mut cgroups = self.look(selectors, &mut folders);
        if let Some(watch) = &mut self.watch
            && watch.follow(&folders)
        {
            // What appeared between looking and watching would be found by polling alone.
            cgroups = self.look(selectors, &mut folders);
        }
        cgroups
    }

    fn look(&self, selectors: &mut [Selected], folders: &mut BTreeSet<PathBuf>) -> Vec<(u64, u32)> {
        let mut cgroups = Vec::new();
        for selected in selectors {
            let ids = self.finder.find(&selected.selector, folders);
            let met = !ids.is_empty();
            if met != selected.met {
                let Selected { name, selector, .. } = selected;
                if met {
                    info!(%name, %selector, cgroups = ids.len(), "selected");
                } else {
                    warn!(%name, %selector, "no cgroup is selected");
                }
                selected.met = met;
            }
            cgroups.extend(ids.into_iter().map(|id| (id, selected.subject)));
        }
        cgroups.sort_unstable();
        cgroups
    }

    /// Both tables, frozen and not in force yet.
    fn prepare(&mut self, bundle: &VerifiedBundle) -> Result<(Policy, Names), FenceError> {
        let all = subjects(&bundle.model);
        let mut selectors: Vec<Selected> = Vec::new();
        for (who, subject) in all.iter().zip(0_u32..) {
            selectors.extend(who.select().iter().map(|rule| Selected {
                subject,
                name: who.name().to_owned(),
                selector: rule.value.clone(),
                met: true,
            }));
        }
        let studies: Vec<Option<String>> = all
            .iter()
            .map(|who| match who {
                Who::Study(study) => Some(study.name.to_string()),
                Who::Host(_) => None,
            })
            .collect();
        let met = self.resolve(&mut selectors);
        let (cgroups, held_back) = self.admitted(met, &studies, self.policy.as_ref())?;
        let mut image = bundle.policy_image(&cgroups)?;
        let devices = device_names(&bundle.model);
        let unmet = unmet(&self.devices.fill(&mut image, &devices));
        let table = bundle.world_image();
        let names = Names {
            generation: bundle.manifest.version,
            studies: studies.clone(),
            codes: Codes::of(&table.header),
        };
        set_break_glass(&mut image, &glass(&studies, &self.break_glass));
        let begun = Instant::now();
        let world = Image::new("WORLD", table.bytes())?;
        self.took.load = begun.elapsed();
        let origin = Origin::new(&table.header, bundle.model.profile.world);
        drop(table);
        let policy = Policy {
            origin,
            rules: Image::new("POLICY", image.bytes())?,
            world,
            image,
            selectors,
            cgroups,
            studies,
            held_back,
            devices,
            unmet,
        };
        Ok((policy, names))
    }

    /// Puts both tables in force, or neither.
    fn swap(&mut self, policy: &Policy, names: Names) -> Result<(), FenceError> {
        // Until both are swapped, one of them is the old one. Numbers of countries mean the same
        // in both; a table with other codes of the operator's own answers for none of them.
        self.events.learn(names);
        let begun = Instant::now();
        policy.world.enforce(&self.maps.world, "WORLD")?;
        self.took.swap = begun.elapsed();
        if let Err(err) = policy.rules.enforce(&self.maps.policy, "POLICY") {
            if let Some(old) = &self.policy {
                old.world.enforce(&self.maps.world, "WORLD")?;
            }
            return Err(err);
        }
        Ok(())
    }

    /// Of the cgroups that selectors meet, those that count, and those held back.
    fn admitted(
        &self,
        met: Vec<Met>,
        studies: &[Option<String>],
        before: Option<&Policy>,
    ) -> Result<(Vec<Met>, HeldBack), FenceError> {
        if !self.closed {
            return Ok((met, HeldBack::new()));
        }
        let established = match before {
            Some(policy) => policy.cgroups.iter().map(|(cgroup, _)| *cgroup).collect(),
            None => admit::in_kernel(&self.maps.policy)?,
        };
        Ok(admit::choose(met, &established, studies))
    }

    /// What stands on network devices, and whose ports are whose.
    fn follow_devices(&mut self) -> Result<(), FenceError> {
        let Some(lines) = &mut self.lines else {
            return Ok(());
        };
        let outcome = lines.reconcile(&self.pins, &self.maps);
        if let Some(policy) = &self.policy {
            let owners = lines.owners(&policy.image, (&self.hierarchy, &self.root));
            lines::add_owners(&self.maps.ports, &owners)?;
            lines::keep_owners(&self.maps.ports, &owners)?;
        }
        // Where one of the two is missing, a service address is judged as it is written.
        let both = outcome.is_ok() && lines.has(Role::Uplink) && lines.has(Role::Port);
        let (end, translated) = self.lease()?;
        if both != translated {
            self.write_lease(end, both)?;
        }
        outcome
    }

    /// Root can detach; it cannot do so unseen.
    fn mend(&mut self) -> Result<(), FenceError> {
        for hook in &mut self.hooks {
            if let Some(amiss) = hook.mend(&self.pins, &self.root)? {
                self.mended = self.mended.saturating_add(1);
                error!(hook = hook.names.hook, "the link {amiss}; it is back");
            }
        }
        Ok(())
    }

    /// Numbers that the policy's names have on this host have changed.
    fn follow_drivers(&mut self, changed: bool, policy: &mut Policy) -> Result<(), FenceError> {
        if !changed {
            return Ok(());
        }
        policy.unmet = unmet(&self.devices.fill(&mut policy.image, &policy.devices));
        let rules = Image::new("POLICY", policy.image.bytes())?;
        rules.enforce(&self.maps.policy, "POLICY")?;
        policy.rules = rules;
        Ok(())
    }

    /// Looks for ways past the hooks, where the last look is not fresh any more.
    fn look_around(&mut self) {
        let now = clock::boot_time_ns();
        if now < self.next_inventory_ns {
            return;
        }
        self.inventory = unfenced::look(Path::new("/proc"), Path::new("/sys"));
        let took = clock::boot_time_ns().saturating_sub(now);
        let pause = took.saturating_mul(INVENTORY_SHARE).max(INVENTORY_NS);
        self.next_inventory_ns = now.saturating_add(pause);
    }

    fn tend_devices(&mut self, policy: Option<&Policy>) -> Result<(), FenceError> {
        let (lease_end_ns, _) = self.lease()?;
        let rules = policy.map(|policy| Rules {
            image: &policy.image,
            names: &policy.devices,
            cgroups: &policy.cgroups,
            lease_end_ns,
        });
        let place = Place {
            hierarchy: &self.hierarchy,
            root: &self.root,
        };
        self.devices.tend(rules, place)
    }

    fn follow_cgroups(&mut self, policy: &mut Policy) -> Result<(), FenceError> {
        let met = self.resolve(&mut policy.selectors);
        let (cgroups, held_back) = self.admitted(met, &policy.studies, Some(policy))?;
        if held_back != policy.held_back {
            for (cgroup, study) in &held_back {
                if !policy.held_back.contains_key(cgroup) {
                    error!(
                        cgroup,
                        study, "not started: the policy in force has expired"
                    );
                }
            }
            policy.held_back = held_back;
        }
        if cgroups == policy.cgroups {
            return Ok(());
        }
        if let Some(lines) = &mut self.lines {
            lines.look_again();
        }
        set_cgroups(&mut policy.image, &cgroups)?;
        let rules = Image::new("POLICY", policy.image.bytes())?;
        rules.enforce(&self.maps.policy, "POLICY")?;
        info!(cgroups = cgroups.len(), "cgroups have changed");
        policy.rules = rules;
        policy.cgroups = cgroups;
        Ok(())
    }
}

impl Enforcer for Fence {
    type Error = FenceError;

    fn apply_policy(&mut self, bundle: &VerifiedBundle) -> Result<(), FenceError> {
        let (policy, names) = self.prepare(bundle)?;
        // Under the new policy's numbers, which mean nothing to the old one.
        let peers = policy.peers(&self.peers)?;
        let before = self.recorder.wanted();
        let rules = Sha256Digest::of(&[bundle.policy_image(&[])?.bytes()]);
        self.recorder.record(&[
            Entry::World(policy.world.digest),
            Entry::Policy(LoggedPolicy {
                version: bundle.manifest.version,
                manifest: bundle.manifest.digest,
                rules,
            }),
        ])?;
        let owners = self
            .lines
            .as_mut()
            .map(|lines| lines.owners(&policy.image, (&self.hierarchy, &self.root)));
        let owners = owners.unwrap_or_default();
        let swapped = peers::add(&self.maps.peers, &peers)
            .and_then(|()| lines::add_owners(&self.maps.ports, &owners))
            .and_then(|()| self.swap(&policy, names));
        if swapped.is_err() {
            self.recorder.take_back(before);
            return swapped;
        }
        self.policy = Some(policy);
        self.trouble = None;
        // What is left over counts for nobody; the next call tries again.
        self.peers_trouble = peers::keep_only(&self.maps.peers, &peers)
            .err()
            .map(|err| format!("{:#}", anyhow::Error::from(err)));
        Ok(())
    }

    fn held_back(error: &FenceError) -> bool {
        matches!(error, FenceError::Unmeasured(_))
    }

    fn ready(&self) -> bool {
        self.recorder.ready()
    }

    fn admit(&mut self, new: bool) {
        self.closed = !new;
    }

    fn changes(&self) -> Option<OwnedFd> {
        let watch = self.watch.as_ref().map(AsFd::as_fd);
        let devices = self.lines.as_ref().and_then(Lines::changes);
        either(watch, devices).ok()
    }

    fn deny_everything(&mut self) -> Result<(), FenceError> {
        self.recorder.note(&[Entry::Deny]);
        image::withdraw(&self.maps.policy, "POLICY")?;
        image::withdraw(&self.maps.world, "WORLD")?;
        self.policy = None;
        peers::keep_only(&self.maps.peers, &BTreeMap::new())
    }

    fn reconcile(&mut self) -> Result<(), FenceError> {
        self.recorder.reconcile();
        if let Some(watch) = &self.watch {
            watch.drain();
        }
        let outcome = self.mend().and_then(|()| {
            let drivers = self.devices.follow()?;
            let Some(mut policy) = self.policy.take() else {
                return self.tend_devices(None);
            };
            let outcome = self
                .follow_cgroups(&mut policy)
                .and_then(|()| self.follow_drivers(drivers, &mut policy))
                .and_then(|()| self.tend_devices(Some(&policy)));
            self.policy = Some(policy);
            outcome
        });
        let devices = self.follow_devices();
        let outcome = outcome.and(devices);
        self.trouble = outcome
            .as_ref()
            .err()
            .map(|err| format!("the host is not followed: {}", record::in_words(err)));
        outcome
    }

    fn set_lease_end(&mut self, boot_ns: u64) -> Result<(), FenceError> {
        let (_, translated) = self.lease()?;
        self.write_lease(boot_ns, translated)
    }

    fn set_peers(&mut self, peers: Vec<Peer>) -> Result<(), FenceError> {
        let outcome = match &self.policy {
            // They wait for the policy that numbers their studies.
            None => Ok(()),
            Some(policy) => policy.peers(&peers).and_then(|entries| {
                peers::add(&self.maps.peers, &entries)?;
                peers::keep_only(&self.maps.peers, &entries)
            }),
        };
        if outcome.is_ok() {
            self.peers = peers;
        }
        self.peers_trouble = outcome
            .as_ref()
            .err()
            .map(|err| format!("peers are those of before: {err}"));
        outcome
    }

    fn set_break_glass(&mut self, ends: BTreeMap<String, u64>) -> Result<(), FenceError> {
        if let Some(policy) = &mut self.policy {
            set_break_glass(&mut policy.image, &glass(&policy.studies, &ends));
            let rules = Image::new("POLICY", policy.image.bytes())?;
            rules.enforce(&self.maps.policy, "POLICY")?;
            policy.rules = rules;
        }
        self.break_glass = ends;
        Ok(())
    }

    fn state(&mut self) -> FenceState {
        self.look_around();
        self.read_back()
    }

    fn unfit(&self) -> Option<String> {
        let policy = self.policy.as_ref()?;
        let studies = policy.selectors.iter().filter_map(|selected| {
            let at = usize::try_from(selected.subject).ok()?;
            let study = policy.studies.get(at)?.as_deref()?;
            Some((study, &selected.selector))
        });
        match legacy::stray(studies) {
            Ok(stray) => stray.map(|stray| stray.to_string()),
            Err(err) => Some(format!("{:#}", anyhow::Error::from(err))),
        }
    }

    fn world_digest(&self) -> Option<Sha256Digest> {
        self.policy.as_ref().map(|policy| policy.world.digest)
    }

    fn drain_events(&mut self) -> (Vec<FenceEvent>, u64) {
        let (mut events, lost) = self.events.drain(&self.maps, &self.hierarchy);
        let (denied, acts) = self.devices.drain();
        events.extend(self.events.of_devices(&denied, &self.hierarchy));
        events.extend(acts);
        let held_back = self.policy.as_ref().map(|policy| &policy.held_back);
        if let Some(held_back) = held_back {
            events::hold_back(&mut events, held_back);
        }
        (events, lost)
    }
}

#[cfg(test)]
mod tests;
