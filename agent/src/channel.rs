//! A gRPC channel over one connection that stands already.
//!
//! tonic would connect again by itself, silently and as often as it likes; here a lost connection
//! is an error that the uplink sees, waits after, and logs.

use std::{
    future::{Ready, ready},
    io,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint as Http, Uri};

use crate::{
    config::Endpoint,
    tls::{self, ConnectError, Connection},
};

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No HTTP/2 on it.
    #[error("HTTP/2 with {endpoint}")]
    Http {
        /// Where to.
        endpoint: Endpoint,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects and speaks HTTP/2.
pub async fn open(endpoint: &Endpoint, config: Arc<ClientConfig>) -> Result<Channel, ChannelError> {
    let connection = tls::connect(endpoint, config).await?;
    let failed = |source| ChannelError::Http {
        endpoint: endpoint.clone(),
        source,
    };
    // TLS is ours, so the URI says http; the authority is what the server sees.
    Http::from_shared(format!("http://{endpoint}"))
        .map_err(failed)?
        .http2_keep_alive_interval(std::time::Duration::from_secs(30))
        .keep_alive_timeout(std::time::Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .connect_with_connector(Once(Some(connection)))
        .await
        .map_err(failed)
}

struct Once(Option<Connection>);

impl tower::Service<Uri> for Once {
    type Response = TokioIo<Connection>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        ready(match self.0.take() {
            Some(connection) => Ok(TokioIo::new(connection)),
            None => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the connection to the collector is lost",
            )),
        })
    }
}
