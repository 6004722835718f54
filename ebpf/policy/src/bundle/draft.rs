//! A policy that nobody has signed yet, for whoever writes or reviews it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bailiwick_attestation::{FileError, Sha256Digest};
use bailiwick_ebpf_common::WorldImage;

use super::check::{missing, read, wanted, world_of};
use super::{Compiled, WorldSource};
use crate::explain::Explainer;
use crate::kind::Kind;
use crate::model::Model;

/// Files that make a policy, whole and sound, signed by nobody: good for questions, never for a
/// kernel.
#[derive(Debug)]
#[non_exhaustive]
pub struct Draft {
    /// What they say.
    pub model: Model,
    compiled: Compiled,
}

impl Draft {
    /// Reads and compiles the files (path and content), as a node would; `world` is the map of the
    /// newest manifest of kind `world`, for files that hold none.
    pub fn read(
        files: impl IntoIterator<Item = (String, Vec<u8>)>,
        world: Option<&WorldSource>,
    ) -> Result<Self, FileError> {
        let files: BTreeMap<String, Arc<Vec<u8>>> = files
            .into_iter()
            .map(|(path, content)| (path, Arc::new(content)))
            .collect();
        let by_path = files.iter().map(|(path, content)| (path.as_str(), content));
        let by_path = by_path.collect();
        let mut model = read(&by_path)?;
        let world = world_of(&by_path)?
            .or_else(|| world.cloned())
            .ok_or_else(|| missing("world.csv or world.txt", Kind::Policy))?;
        wanted(&model.profile.world, &world).map_err(|refused| FileError {
            file: "profile.toml".to_owned(),
            line: 1,
            key: "world.sha256".to_owned(),
            fault: refused.to_string(),
        })?;
        let compiled = Compiled::of(&mut model, &world, 0, &Sha256Digest([0; 32]))?;
        Ok(Self { model, compiled })
    }

    /// Its world map.
    #[must_use]
    pub fn world_image(&self) -> Box<WorldImage> {
        self.compiled.world.image(0)
    }

    /// What can be asked about it; `world` is its [`Draft::world_image`].
    #[must_use]
    pub fn explainer<'a>(&'a self, world: &'a WorldImage) -> Explainer<'a> {
        Explainer {
            model: &self.model,
            world,
            policy: &self.compiled.policy,
        }
    }
}
