//! Who is at the other end of a connection.
//!
//! TLS proves that the peer holds the key of a certificate one of our authorities signed;
//! [`Peer`] is what that certificate says. TLS looks once, when the connection opens: whoever
//! serves a long stream watches [`NodePeer::not_after`] and the registry of streams.

mod peer;
mod serve;
mod tls;

pub use peer::{NodePeer, OperatorPeer, Peer, PeerError};
pub use serve::{Incoming, TlsConnection, listen};
pub(crate) use serve::{
    ReadPeer, accept, anonymous as read_anonymous, node as read_node, operator as read_operator,
};
pub use tls::{ClientAuth, Door, TlsError, read_certificates};
