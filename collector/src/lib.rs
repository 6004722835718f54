//! The Verifier: enrols nodes, appraises their evidence, records it, answers, alerts.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | the daemon's one file |
//! | [`init`] | keys and certificates in the state folder |
//! | [`approve`] | an approver looks at an applicant, and believes nobody |
//! | [`auth`] | TLS, and who is at the other end |
//! | [`cas`] | which CA issues, and whose certificates count |
//! | [`keys`] | keys of what nodes sealed, and their end |
//! | [`ingest`] | the evidence port: challenges, streams, what is accepted |
//! | [`appraise`] | from a verified statement to a result and a lease |
//! | [`outward`] | what others believe of an affirmed node |
//! | [`place`] | what is beside a node, and what was when somebody stood there |
//! | [`plan`] | what another profile would say |
//! | [`record`] | the store and the log |
//! | [`recorded`] | a stored statement read again under its AK |
//! | [`direct`] | what approvers signed |
//! | [`enroll`] | the enrolment port: which TPM is let in as what |
//! | [`identity`] | whose word a node's AK is |
//! | [`query`] | what operators ask |
//! | [`run`] | starts every part |
//! | [`standing`] | who has standing now, who is told of whom, what is held back |
//! | [`alert`] | who is told, and when |
//! | [`verify`] | one stored statement, appraised again by an auditor |

pub mod alert;
pub mod appraise;
pub mod approve;
pub mod auth;
pub mod cas;
pub mod clock;
pub mod config;
pub mod direct;
mod doors;
pub mod endorsements;
pub mod enroll;
pub mod identity;
pub mod ingest;
pub mod init;
pub mod keys;
pub mod outward;
pub mod place;
pub mod plan;
pub mod proto;
pub mod query;
mod quiet;
pub mod record;
pub mod recorded;
pub mod run;
pub mod standing;
pub mod verify;
