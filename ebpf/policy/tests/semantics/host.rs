//! The table's policy, compiled, and the verdict function on it.

use std::sync::Arc;

use bailiwick_attestation::Sha256Digest;
use bailiwick_ebpf_common::verdict::{keeps_up, served};
use bailiwick_ebpf_common::{
    Flow, Line, Loopback, PolicyImage, Question, Verdict, Whose, WorldImage, judge,
};
use bailiwick_policy::bundle::{WorldKind, WorldSource};
use bailiwick_policy::image::{compile, subjects};
use bailiwick_policy::model::{Files, Model};
use bailiwick_policy::world::World;

use crate::table::{self, From};

/// A policy with its images, on the host.
pub(crate) struct Host {
    model: Model,
    image: Box<PolicyImage>,
    world: Box<WorldImage>,
}

/// What a packet meets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct State {
    pub(crate) from: From,
    pub(crate) ingress: bool,
    pub(crate) lease: bool,
    pub(crate) signed: bool,
    pub(crate) line: Line,
    pub(crate) translated: bool,
    pub(crate) loopback: Loopback,
}

impl Host {
    /// With cgroups below `root`.
    pub(crate) fn new(root: &str) -> Self {
        let files = table::files(root);
        let of = |path: &str| {
            let found = files.iter().find(|(name, _)| *name == path);
            found.map_or(&b""[..], |(_, text)| text.as_bytes())
        };
        let studies: Vec<(&str, &[u8])> = files
            .iter()
            .filter(|(path, _)| path.starts_with("studies/"))
            .map(|(path, text)| (*path, text.as_bytes()))
            .collect();
        let model = Model::parse(&Files {
            studies: &studies,
            host_fence: of("host-fence.toml"),
            sites: of("sites.toml"),
            inventory: b"",
            collector: b"",
            profile: b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\n\
                       tpm={bank=\"sha256\",require=[0]}\n",
            guest_profile: None,
        })
        .unwrap();
        let source = WorldSource {
            kind: WorldKind::Csv,
            bytes: Arc::new(table::WORLD.as_bytes().to_vec()),
        };
        let world = World::compile(&source, &model.sites).unwrap();
        let image = compile(&model, &world.codes, 1, &Sha256Digest([7; 32])).unwrap();
        Self {
            world: world.image(1),
            model,
            image,
        }
    }

    pub(crate) fn verdict(&self, bytes: &[u8], state: State) -> Verdict {
        let whose = match state.from {
            From::Named(name) => {
                let all = subjects(&self.model);
                let at = all.iter().position(|who| who.name() == name).unwrap();
                Whose::subject(u32::try_from(at).unwrap())
            }
            From::Nobody => Whose::NOBODY,
            From::Unmarked => Whose::UNMARKED,
            From::Kernel => Whose::KERNEL,
        };
        let flow = match Flow::parse(bytes) {
            Ok(flow) => flow,
            Err(fault) => return Verdict::deny(fault.rule()),
        };
        let whose = if whose == Whose::KERNEL {
            served(&self.image, &flow, state.ingress)
        } else {
            whose
        };
        judge(&Question {
            world: Some(&self.world),
            policy: &self.image,
            line: state.line,
            whose,
            translated: state.translated,
            attested: state.lease,
            peer: state.signed,
            ingress: state.ingress,
            essential: keeps_up(&self.image, &flow, state.ingress),
            loopback: state.loopback,
            flow: &flow,
            zero: 0,
        })
    }
}
