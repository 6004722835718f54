//! The object carried inside: maps found by their pins or made, programs through the verifier.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    thread,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::Program,
};
use bailiwick_attestation::Sha256Digest;
use bailiwick_ebpf_common::{
    abi::{Config, counter},
    mark::Marking,
};

use tracing::error;

use super::{
    FenceError,
    devices::DeviceMaps,
    hook::{Hook, Names, Source},
    lines::{self, Role},
    lsm,
    pins::{Kind, Pins},
    place::Root,
    tables::Pinned,
};
use crate::{config::FenceSection, sys::bpf};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BAILIWICK_BPF_OBJECT"));

/// A map of ours that no program uses: SHA-256 of the object.
const OBJECT_PIN: &str = "OBJECT";

/// Name, type, key size and value size of every map: a pin of another shape is not used again.
const MAPS: [(&str, u32, u32, u32); 15] = [
    ("CONFIG", bpf::MAP_TYPE_ARRAY, 4, 16),
    ("COUNTERS", bpf::MAP_TYPE_PERCPU_ARRAY, 4, 8),
    ("DENIED_DEVICES", 9, 24, 16),
    ("DEVICES", bpf::MAP_TYPE_ARRAY_OF_MAPS, 4, 4),
    ("DEVICE_EVENTS", 27, 0, 0),
    ("DEVICE_OPENED", bpf::MAP_TYPE_HASH, 4, 8),
    ("DEVICE_OWNERS", bpf::MAP_TYPE_HASH, 4, 16),
    ("LEASE", bpf::MAP_TYPE_ARRAY, 4, 16),
    ("LINKS", bpf::MAP_TYPE_HASH, 4, 4),
    ("PASSED", bpf::MAP_TYPE_ARRAY_OF_MAPS, 4, 4),
    ("PEERS", bpf::MAP_TYPE_HASH, 24, 8),
    ("POLICY", bpf::MAP_TYPE_ARRAY_OF_MAPS, 4, 4),
    ("PORTS", bpf::MAP_TYPE_HASH, 8, 4),
    ("TALLY", bpf::MAP_TYPE_ARRAY_OF_MAPS, 4, 4),
    ("WORLD", bpf::MAP_TYPE_ARRAY_OF_MAPS, 4, 4),
];

/// The maps that stay open.
#[derive(Debug)]
pub(super) struct Maps {
    pub(super) config: OwnedFd,
    pub(super) counters: OwnedFd,
    pub(super) lease: OwnedFd,
    pub(super) links: OwnedFd,
    pub(super) passed: OwnedFd,
    pub(super) peers: OwnedFd,
    pub(super) policy: OwnedFd,
    pub(super) ports: OwnedFd,
    pub(super) tally: OwnedFd,
    pub(super) world: OwnedFd,
}

/// Loaded, not attached.
pub(super) struct Loaded {
    pub(super) maps: Maps,
    pub(super) devices: DeviceMaps,
    pub(super) device_events: RingBuf<MapData>,
    /// In the order of [`Hook::NAMES`], and then of [`lsm::HOOKS`].
    pub(super) programs: Vec<(Names, OwnedFd)>,
    /// Why one of the kernel's line could not be loaded, or why it does not stand here.
    pub(super) lsm_trouble: Option<String>,
    pub(super) lsm_absent: Option<String>,
    /// For network devices; none where nothing is to stand on any.
    pub(super) lines: Vec<(Role, OwnedFd)>,
    /// Why one of them could not be loaded.
    pub(super) lines_trouble: Option<String>,
    pub(super) source: Source,
    /// Every map under its name.
    pub(super) pinned: Vec<Pinned>,
}

/// Loads the object on the maps that are pinned, making those that are not.
pub(super) fn load(pins: &Pins, root: &Root, section: &FenceSection) -> Result<Loaded, FenceError> {
    let config = config_bytes(&Config {
        root_level: root.level,
        sample: section.sample,
        marking: Marking::new(section.mark_mask),
    });
    forget_unfit(pins, &config)?;
    let (mut lsm_absent, mut lsm_untold) = (lsm::absent(), None);
    // Only there a program is for one function of the kernel's, which has to be found.
    let types = match &lsm_absent {
        None => Btf::from_sys_fs()
            .inspect_err(|err| {
                lsm_untold = Some(format!("the kernel does not tell its functions: {err}"));
            })
            .ok(),
        Some(_) => None,
    };
    lsm_absent = lsm_absent.or(lsm_untold);
    let of_kernel: &[_] = match types {
        Some(_) => &lsm::HOOKS,
        None => &[],
    };
    let mut loader = EbpfLoader::new();
    // Nothing in the object depends on the kernel's types.
    loader.btf(None);
    for (name, ..) in MAPS {
        loader.map_pin_path(name, pins.path(Kind::Map, name));
    }
    let mut object = loader
        .load(OBJECT)
        .map_err(|err| FenceError::Load(Box::new(err)))?;
    let open = |name| {
        let [map, _] = pins.find(Kind::Map, name)?;
        map.ok_or(FenceError::Missing(name))
    };
    let maps = Maps {
        config: open("CONFIG")?,
        counters: open("COUNTERS")?,
        lease: open("LEASE")?,
        links: open("LINKS")?,
        passed: open("PASSED")?,
        peers: open("PEERS")?,
        policy: open("POLICY")?,
        ports: open("PORTS")?,
        tally: open("TALLY")?,
        world: open("WORLD")?,
    };
    // Before the programs are attached, and never again.
    match bpf::update(maps.config.as_fd(), 0, &config) {
        Ok(()) => {
            bpf::freeze(maps.config.as_fd()).map_err(FenceError::kernel("freeze", "CONFIG"))?
        }
        // Frozen, and found to say what it has to.
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {}
        Err(err) => return Err(FenceError::kernel("write", "CONFIG")(err)),
    }
    let on_devices: &[_] = match lines::wanted(section) {
        true => &lines::PROGRAMS,
        false => &[],
    };
    let hooks = Hook::NAMES.iter().map(|names| names.program);
    let of_kernel_named = of_kernel.iter().map(|names| names.program);
    let wanted: Vec<_> = hooks
        .chain(of_kernel_named)
        .chain(on_devices.iter().map(|it| it.2))
        .collect();
    let mut loaded = verified(&mut object, &wanted, types.as_ref());
    let mut take = |name| {
        loaded
            .remove(name)
            .unwrap_or(Err(FenceError::Missing(name)))
    };
    let mut programs = Vec::new();
    for names in Hook::NAMES {
        programs.push((names, take(names.program)?));
    }
    let mut lsm_trouble = None;
    for names in of_kernel.iter().copied() {
        // Without it the others stand all the same, and statements say what does not.
        match take(names.program) {
            Ok(code) => programs.push((names, code)),
            // Some kernels list the BPF LSM, and take programs for it from nobody.
            Err(err) if not_permitted(&err) => {
                let name = names.program;
                lsm_absent = Some(format!(
                    "the kernel takes no program for the BPF LSM: {name}"
                ));
            }
            Err(err) => {
                let why = format!("{:#}", anyhow::Error::from(err));
                error!(why, "the kernel's line cannot stand");
                lsm_trouble = Some(why);
            }
        }
    }
    let (mut lines, mut lines_trouble) = (Vec::new(), None);
    for (role, _, name, _) in on_devices.iter().copied() {
        // Without it the first line stands all the same, and statements say what does not.
        match take(name) {
            Ok(code) => lines.push((role, code)),
            Err(err) => {
                let why = format!("{:#}", anyhow::Error::from(err));
                error!(why, "a line cannot stand");
                lines_trouble = Some(why);
            }
        }
    }
    let mut source = Source {
        known: false,
        maps: Vec::new(),
    };
    let mut pinned = Vec::new();
    for (name, ..) in MAPS {
        if let [Some(map), _] = pins.find(Kind::Map, name)? {
            let info = bpf::map_info(map.as_fd()).map_err(FenceError::kernel("look at", name))?;
            source.maps.push(info.id);
            pinned.push(Pinned {
                name,
                map,
                id: info.id,
            });
        }
    }
    if let [Some(map), _] = pins.find(Kind::Map, OBJECT_PIN)? {
        let mut digest = [0; 32];
        bpf::lookup(map.as_fd(), 0, &mut digest).map_err(FenceError::kernel("read", OBJECT_PIN))?;
        source.known = digest == object_digest().0;
    }
    let devices = DeviceMaps {
        table: open("DEVICES")?,
        owners: open("DEVICE_OWNERS")?,
        opened: open("DEVICE_OPENED")?,
    };
    let name = "DEVICE_EVENTS";
    let map = object.take_map(name).ok_or(FenceError::Missing(name))?;
    let device_events = RingBuf::try_from(map).map_err(FenceError::Events)?;
    Ok(Loaded {
        maps,
        devices,
        device_events,
        programs,
        lsm_trouble,
        lsm_absent,
        lines,
        lines_trouble,
        source,
        pinned,
    })
}

/// SHA-256 of the object carried inside.
pub(super) fn object_digest() -> Sha256Digest {
    Sha256Digest::of(&[OBJECT])
}

/// Keeps in mind which object the attached programs come from, for the next start.
pub(super) fn remember(pins: &Pins) -> Result<(), FenceError> {
    let digest = object_digest();
    let kernel = |what| FenceError::kernel(what, OBJECT_PIN);
    let map = bpf::create_value_map(OBJECT_PIN, digest.0.len()).map_err(kernel("create"))?;
    bpf::update(map.as_fd(), 0, &digest.0).map_err(kernel("fill"))?;
    bpf::freeze(map.as_fd()).map_err(kernel("freeze"))?;
    pins.replace(Kind::Map, OBJECT_PIN, &map)
}

/// Through the verifier, each in a thread of its own: together they take it most of a second, and
/// it takes as many at a time as there are processors.
fn verified(
    object: &mut Ebpf,
    wanted: &[&'static str],
    types: Option<&Btf>,
) -> BTreeMap<&'static str, Result<OwnedFd, FenceError>> {
    thread::scope(|scope| {
        let mut begun = Vec::new();
        for (name, program) in object.programs_mut() {
            let Some(name) = wanted.iter().find(|wanted| **wanted == name).copied() else {
                continue;
            };
            let work = move || load_one(name, program, types);
            begun.push((name, thread::Builder::new().spawn_scoped(scope, work)));
        }
        let ended = begun.into_iter().map(|(name, thread)| {
            let thread = thread.map_err(FenceError::kernel("start a thread to load", name));
            let died = || FenceError::kernel("load", name)(io::Error::other("its thread died"));
            let loaded = thread.and_then(|it| it.join().unwrap_or_else(|_panicked| Err(died())));
            (name, loaded)
        });
        ended.collect()
    })
}

fn load_one(
    name: &'static str,
    program: &mut Program,
    types: Option<&Btf>,
) -> Result<OwnedFd, FenceError> {
    let of_kernel = lsm::HOOKS.iter().find(|names| names.program == name);
    let of_kernel = of_kernel
        .and_then(|names| lsm::kernel_name(names.hook))
        .zip(types);
    match program {
        Program::LsmCgroup(program) => {
            let (hook, types) = of_kernel.ok_or(FenceError::Missing(name))?;
            program.load(hook, types)
        }
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::CgroupDevice(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => return Err(FenceError::Missing(name)),
    }
    .map_err(refused(name))?;
    let fd = program.fd().map_err(refused(name))?.as_fd();
    fd.try_clone_to_owned()
        .map_err(FenceError::kernel("duplicate", name))
}

/// Pins that this version cannot use, and a configuration that says something else and cannot be
/// changed. Programs that are attached keep what they have until they are replaced.
fn forget_unfit(pins: &Pins, config: &[u8]) -> Result<(), FenceError> {
    for (name, kind, key, value) in MAPS {
        let [Some(map), _] = pins.find(Kind::Map, name)? else {
            continue;
        };
        let info = bpf::map_info(map.as_fd()).map_err(FenceError::kernel("look at", name))?;
        let fits = (info.kind, info.key_size, info.value_size) == (kind, key, value)
            && (name != "COUNTERS" || info.max_entries == counter::COUNT)
            && (name != "CONFIG" || read_config(map.as_fd())? == config)
            // Somebody has frozen it, and it says for good what it says.
            && (name == "CONFIG" || !is_frozen(map.as_fd()));
        if !fits {
            pins.remove(Kind::Map, name)?;
        }
    }
    Ok(())
}

/// No user of bpf(2) can write it any more. The kernel tells that of a descriptor alone.
fn is_frozen(map: BorrowedFd<'_>) -> bool {
    let told = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let told = std::fs::read_to_string(told).unwrap_or_default();
    told.lines().any(|line| {
        line.strip_prefix("frozen:")
            .is_some_and(|rest| rest.trim() == "1")
    })
}

/// As it lies in the map: the kernel's byte order, no padding.
fn config_bytes(config: &Config) -> Vec<u8> {
    let Config {
        root_level,
        sample,
        marking,
    } = config;
    let mut bytes = Vec::with_capacity(size_of::<Config>());
    bytes.extend(root_level.to_ne_bytes());
    bytes.extend(sample.to_ne_bytes());
    bytes.extend(marking.mask.to_ne_bytes());
    bytes.extend([
        marking.shift,
        marking.number_bits,
        marking.bits,
        marking.reserved,
    ]);
    bytes
}

fn read_config(map: BorrowedFd<'_>) -> Result<Vec<u8>, FenceError> {
    let mut value = vec![0; size_of::<Config>()];
    bpf::lookup(map, 0, &mut value).map_err(FenceError::kernel("read", "CONFIG"))?;
    Ok(value)
}

/// The verifier was not even asked.
fn not_permitted(err: &FenceError) -> bool {
    let first: &dyn std::error::Error = err;
    let mut causes = std::iter::successors(Some(first), |it| it.source());
    causes.any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
    })
}

fn refused(name: &'static str) -> impl FnOnce(aya::programs::ProgramError) -> FenceError {
    move |source| FenceError::Program {
        name,
        source: Box::new(source),
    }
}
