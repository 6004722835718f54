//! Policies from the outside: real `ssh-keygen`, real files, and those who would cheat.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

mod attacks;
mod confirmed;
mod example;
mod geotags;
mod images;
mod keys;
mod kinds;
mod rotation;
mod side_by_side;
mod support;
