//! Studies, jurisdictions and the world map: model, validation, signatures, compilation.
//!
//! | module | holds |
//! |---|---|
//! | [`bundle`] | what approvers signed, and whether it may take effect |
//! | [`manifest`] | the one file they sign, read and written |
//! | [`approvers`] | who may approve, and how many of them it takes |
//! | [`ssh`] | SSH signatures over files |
//! | [`model`] | what approvers wrote, parsed whole into checked types |
//!
//! Nothing here touches the kernel, a socket or the disk: callers read files and pass bytes and
//! time in.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod approvers;
pub mod bundle;
pub mod manifest;
pub mod model;
pub mod ssh;
