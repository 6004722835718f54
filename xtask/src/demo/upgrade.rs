//! Another build of the agent, for whoever tries an upgrade.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// How the BPF object begins that the agent carries: ELF, 64 bits, little-endian, relocatable, BPF.
const BPF_OBJECT: [u8; 20] = [
    0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 247, 0,
];
/// What only a debugger reads, and every object has.
const WORDS: &[u8] = b"rustc version";

/// Writes the agent with other bytes in the object it carries: to the agent it is another build's,
/// and every program is replaced; to the kernel and to whoever reads it, it does the same.
pub fn another_build(agent: &Path, to: &Path) -> Result<()> {
    let mut bytes = fs::read(agent).with_context(|| format!("read {}", agent.display()))?;
    change(&mut bytes)?;
    fs::write(to, bytes).with_context(|| format!("write {}", to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).context("make it a program")
}

/// One letter, and not a second time: the change of a change is refused.
fn change(bytes: &mut [u8]) -> Result<()> {
    let object = find(bytes, &BPF_OBJECT).context("the agent carries no object")?;
    let words = find(object, WORDS).context("the object has no words to change")?;
    let letter = words.first_mut().context("the words are not empty")?;
    *letter = b'R';
    Ok(())
}

/// From the first occurrence on.
fn find<'a>(bytes: &'a mut [u8], needle: &[u8]) -> Option<&'a mut [u8]> {
    let at = bytes
        .windows(needle.len())
        .position(|part| part == needle)?;
    bytes.get_mut(at..)
}

#[cfg(test)]
mod tests {
    use super::{BPF_OBJECT, WORDS, change};

    #[test]
    fn one_letter_of_the_object_is_changed() {
        let agent = [WORDS, b"..", &BPF_OBJECT, b"....", WORDS, b".", WORDS].concat();
        let mut other = agent.clone();
        change(&mut other).unwrap();
        let changed: Vec<usize> = (0..agent.len())
            .filter(|i| agent[*i] != other[*i])
            .collect();
        // Behind the beginning of the object, and not in front of it.
        assert_eq!(changed, [WORDS.len() + 2 + BPF_OBJECT.len() + 4]);
        for (name, bytes, want) in [
            ("no object", WORDS.to_vec(), "the agent carries no object"),
            (
                "words in front of it alone",
                [WORDS, &BPF_OBJECT].concat(),
                "the object has no words to change",
            ),
            ("empty", Vec::new(), "the agent carries no object"),
        ] {
            let mut bytes = bytes;
            assert_eq!(change(&mut bytes).unwrap_err().to_string(), want, "{name}");
        }
    }
}
