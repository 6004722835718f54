//! Accepts connections and does the TLS handshake of each in a task of its own.
//!
//! tonic's own TLS hides the peer's certificate from a service that wants more than its bytes,
//! and lets one slow handshake hold up the next.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{Door, NodePeer, OperatorPeer, Peer, PeerError};

/// Handshakes under way at once on one port; more wait in the kernel's backlog.
const HANDSHAKES: usize = 256;
/// Longest handshake. A TPM signs in tens of milliseconds; the rest is the network.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Connections ready for the server and not yet taken; more hold up their handshakes.
const READY: usize = 64;

/// How to read a client's certificate on this port.
pub(crate) type ReadPeer = fn(&[u8]) -> Result<Peer, PeerError>;

/// For the enrolment port, where nobody is asked for one.
pub(crate) fn anonymous(_der: &[u8]) -> Result<Peer, PeerError> {
    Ok(Peer::Anonymous)
}

/// For the evidence port.
pub(crate) fn node(der: &[u8]) -> Result<Peer, PeerError> {
    NodePeer::parse(der).map(Peer::Node)
}

/// For the query port.
pub(crate) fn operator(der: &[u8]) -> Result<Peer, PeerError> {
    OperatorPeer::parse(der).map(Peer::Operator)
}

/// An accepted connection whose peer is known.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

/// Connections of one port, for `serve_with_incoming`.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<TlsConnection>);

/// Takes over a listening socket until `stop`.
pub(crate) fn accept(
    listener: TcpListener,
    doors: watch::Receiver<Arc<Door>>,
    read: ReadPeer,
    stop: CancellationToken,
) -> Incoming {
    let (ready, incoming) = mpsc::channel(READY);
    tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (tcp, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: give the others time to close.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (door, ready) = (Arc::clone(&doors.borrow()), ready.clone());
            tokio::spawn(async move {
                let Some(config) = door.config.clone() else {
                    debug!(%from, "nobody is let in: approvers list no CA of this collector");
                    return;
                };
                let acceptor = TlsAcceptor::from(config);
                let shaken = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(tcp)).await;
                drop(permit);
                match shaken {
                    Ok(Ok(stream)) => hand_over(stream, from, (&door, read), &ready).await,
                    Ok(Err(error)) => debug!(%from, %error, "TLS handshake refused"),
                    Err(_elapsed) => debug!(%from, "TLS handshake took too long"),
                }
            });
        }
    });
    Incoming(incoming)
}

async fn hand_over(
    stream: TlsStream<TcpStream>,
    from: SocketAddr,
    (door, read): (&Door, ReadPeer),
    ready: &mpsc::Sender<TlsConnection>,
) {
    let certificate = stream.get_ref().1.peer_certificates();
    let peer = match certificate.and_then(<[_]>::first) {
        None => Peer::Anonymous,
        Some(certificate) => match read(certificate) {
            Ok(Peer::Node(node)) => Peer::Node(NodePeer {
                issuer: door.issuer(certificate),
                ..node
            }),
            Ok(peer) => peer,
            Err(error) => {
                debug!(%from, %error, "connection refused");
                return;
            }
        },
    };
    if let Err(_closed) = ready.send(TlsConnection { stream, peer }).await {
        debug!(%from, "connection came while the server stops");
    }
}

/// Binds a port and says which one it became.
pub async fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

impl tokio_stream::Stream for Incoming {
    type Item = std::io::Result<TlsConnection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
