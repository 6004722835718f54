//! What whole-system tests share: the parts of a machine, each a process or folder of its own.

pub mod swtpm;
