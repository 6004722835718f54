//! What the rows' approver signs.

use std::collections::BTreeMap;

pub(crate) const WORLD: &str = "192.0.2.0/24,DE\n198.51.100.0/24,US\n203.0.113.0/24,FR\n\
                     2001:db8:1::/48,DE\n2001:db8:2::/48,US\n";

const PROFILE: &str = "name = \"rows\"\nlease_seconds = 60\nmax_silence_seconds = 60\n[tpm]\n\
                       bank = \"sha256\"\nrequire = [0]\n";

pub(crate) const HOST_FENCE: &str = "[[service]]\nname = \"management\"\naddress = \"203.0.113.9/32\"\n\
     protocol = \"udp\"\nports = \"5000\"\n\
     [[service]]\nname = \"management6\"\naddress = \"2001:db8:2::9/128\"\n\
     protocol = \"udp\"\nports = \"5000\"\n";

/// What is not always the same.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Where the study `cardio` may go.
    pub(crate) jurisdictions: Vec<String>,
    /// Likewise, by address.
    pub(crate) prefixes: Vec<String>,
    /// In place of files that would be written, and beside them.
    pub(crate) instead: Vec<(String, String)>,
    /// Files that are left out.
    pub(crate) without: Vec<String>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            jurisdictions: vec!["DE".to_owned()],
            prefixes: Vec::new(),
            instead: Vec::new(),
            without: Vec::new(),
        }
    }
}

impl Terms {
    pub(crate) fn to(jurisdictions: &[&str]) -> Self {
        Self {
            jurisdictions: jurisdictions.iter().map(|&code| code.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// One file otherwise than always.
    pub(crate) fn with(mut self, path: &str, text: impl Into<String>) -> Self {
        self.instead.push((path.to_owned(), text.into()));
        self
    }

    /// Its world map comes in a manifest of its own.
    pub(crate) fn without_world(mut self) -> Self {
        self.without.push("world.csv".to_owned());
        self
    }

    /// The files of a bundle. `root` is the fence root, as policies spell it. No node here has a
    /// lease: what is allowed is allowed without one.
    pub(crate) fn files(&self, root: &str) -> BTreeMap<String, Vec<u8>> {
        let Self {
            jurisdictions,
            prefixes,
            ..
        } = self;
        let cardio = study(
            root,
            "cardio",
            "\"10.9.1.1/32\", \"2001:db8:9::1/128\"",
            &format!(
                "jurisdictions = {jurisdictions:?}\nprefixes = {prefixes:?}\n\
                 services = [\"management\", \"management6\"]\n"
            ),
        );
        let neuro = study(
            root,
            "neuro",
            "\"10.9.2.1/32\"",
            "jurisdictions = [\"FR\"]\n",
        );
        let mut files = BTreeMap::from(
            [
                ("studies/cardio.toml", cardio.as_str()),
                ("studies/neuro.toml", neuro.as_str()),
                ("host-fence.toml", HOST_FENCE),
                ("sites.toml", ""),
                ("inventory.toml", ""),
                ("collector.toml", ""),
                ("profile.toml", PROFILE),
                ("world.csv", WORLD),
            ]
            .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())),
        );
        for (path, text) in &self.instead {
            files.insert(path.clone(), text.as_bytes().to_vec());
        }
        for path in &self.without {
            files.remove(path);
        }
        files
    }
}

/// A study of the rows.
pub(crate) fn study(root: &str, name: &str, own: &str, unattested: &str) -> String {
    format!(
        "name = \"{name}\"\nmode = \"enforce\"\n[select]\ncgroups = [\"{root}/studies/{name}\"]\n\
         [devices]\nraw_sockets = true\n\
         [allow]\n[peers]\naddresses = [{own}]\n[unattested]\n{unattested}"
    )
}
