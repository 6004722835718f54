//! Studies, jurisdictions and the world map: model, validation, signatures, compilation.
//!
//! | module | holds |
//! |---|---|
//! | [`kind`] | what there is to sign: policy, approvers, world map, break-glass, erasure |
//! | [`bundle`] | what approvers signed, and whether it may take effect |
//! | [`geotag`] | whether a geotag is an approver's word about a node |
//! | [`manifest`] | the one file they sign, read and written |
//! | [`approvers`] | who may approve, and how many of them it takes |
//! | [`content`] | what manifests other than a policy say |
//! | [`ssh`] | SSH signatures over files |
//! | [`model`] | what approvers wrote, parsed whole into checked types |
//! | [`image`] | who may go where: studies and host services, as the kernel reads them |
//! | [`world`] | where addresses lie: a geo database and the operator's sites, likewise |
//! | [`peers`] | addresses of a study, signed by the node that hosts them |
//! | [`explain`] | what the kernel would say to a packet, and which line makes it say so |
//! | [`plan`] | the same, of what was recorded; and what becomes of guests without a TPM |
//!
//! Nothing here touches the kernel, a socket or the disk: callers read files and pass bytes and
//! time in.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod approvers;
pub mod bundle;
pub mod content;
pub mod explain;
pub mod geotag;
pub mod image;
pub mod kind;
pub mod manifest;
pub mod model;
pub mod peers;
pub mod plan;
pub mod ssh;
pub mod world;
