//! A bundle in slices, both ways.

use std::sync::Arc;

use bailiwick_attestation::proto::v1::PolicyChunk;

/// Bytes of one slice.
const CHUNK: usize = 256 * 1024;
/// Most bytes of a serialized bundle: 64 MiB of files and what protocol buffers put around them.
pub const BUNDLE_BYTES: usize = 65 * 1024 * 1024;

/// An upload that is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CollectRefused {
    /// More than any policy has.
    #[error("the bundle exceeds {BUNDLE_BYTES} bytes")]
    TooLarge,
    /// A slice without content; a sender could send them for ever.
    #[error("a slice is empty")]
    Empty,
}

/// The slices of a serialized bundle, in order.
pub fn chunks(bundle: Arc<Vec<u8>>) -> impl Iterator<Item = PolicyChunk> {
    let count = bundle.len().div_ceil(CHUNK);
    (0..count).map(move |at| PolicyChunk {
        data: bundle
            .iter()
            .skip(at * CHUNK)
            .take(CHUNK)
            .copied()
            .collect(),
    })
}

/// Puts slices together.
#[derive(Debug, Default)]
pub struct Collect(Vec<u8>);

impl Collect {
    /// Takes the next slice.
    pub fn push(&mut self, chunk: &PolicyChunk) -> Result<(), CollectRefused> {
        if chunk.data.is_empty() {
            return Err(CollectRefused::Empty);
        }
        if self.0.len().saturating_add(chunk.data.len()) > BUNDLE_BYTES {
            return Err(CollectRefused::TooLarge);
        }
        self.0.extend_from_slice(&chunk.data);
        Ok(())
    }

    /// The whole.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sliced_comes_together_again() {
        for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let bundle: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut collect = Collect::default();
            for chunk in chunks(Arc::new(bundle.clone())) {
                collect.push(&chunk).unwrap();
            }
            assert_eq!(collect.finish(), bundle, "{len}");
        }
    }

    #[test]
    fn an_upload_ends() {
        let mut collect = Collect::default();
        let empty = PolicyChunk::default();
        assert_eq!(collect.push(&empty), Err(CollectRefused::Empty));
        let chunk = PolicyChunk {
            data: vec![0; 16 * 1024 * 1024],
        };
        for _ in 0..4 {
            collect.push(&chunk).unwrap();
        }
        assert_eq!(collect.push(&chunk), Err(CollectRefused::TooLarge));
        let rest = PolicyChunk {
            data: vec![0; BUNDLE_BYTES - 64 * 1024 * 1024],
        };
        collect.push(&rest).unwrap();
        let one = PolicyChunk { data: vec![0] };
        assert_eq!(collect.push(&one), Err(CollectRefused::TooLarge));
    }
}
