//! Frames between `fence` and `run`, and the client's side of them.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::proto::fence::{
    ApplyLease, ApplyPeers, ApplyPolicy, BreakGlassUsed, Events, Floor, GetOwnPeers, GetState,
    NextEvents, OwnPeers, Request, Response, State, UseBreakGlass, request::Request as Ask,
    response::Response as Answer,
};

/// Longest frame: a policy bundle of 64 MiB and its framing.
pub const MAX_FRAME: usize = 65 << 20;

/// Longest wait for an answer about state; a policy with a whole world map takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
const POLICY_PATIENCE: Duration = Duration::from_secs(120);

/// What went wrong between the two processes.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// No connection, or it broke.
    #[error("fence socket {socket}")]
    Io {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("the fence process did not answer in {0:?}")]
    Timeout(Duration),
    /// The fence looked and refused.
    #[error("the fence refused: {code}: {detail}")]
    Refused {
        /// Stable word.
        code: String,
        /// Why.
        detail: String,
    },
    /// An answer to another question.
    #[error("the fence process gave an answer to another question")]
    Answer,
}

/// One message: length (u32, big-endian), then its bytes. `None` at the end of the stream.
pub async fn read_frame<M: Message + Default>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<M>> {
    let mut len = [0; 4];
    match from.read_exact(&mut len).await {
        Ok(_) => {}
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(err) => return Err(err),
    }
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    if len > MAX_FRAME {
        let fault = format!("a frame of {len} bytes exceeds the limit of {MAX_FRAME}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, fault));
    }
    // Room grows with what arrives: a length is only a claim.
    let mut bytes = Vec::new();
    let bound = u64::try_from(len).unwrap_or(u64::MAX);
    from.take(bound).read_to_end(&mut bytes).await?;
    if bytes.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    M::decode(bytes.as_slice())
        .map(Some)
        .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))
}

/// Writes one message as [`read_frame`] reads it.
pub async fn write_frame(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Message,
) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let len = match u32::try_from(bytes.len()) {
        Ok(len) if bytes.len() <= MAX_FRAME => len,
        _ => return Err(io::ErrorKind::FileTooLarge.into()),
    };
    to.write_all(&len.to_be_bytes()).await?;
    to.write_all(&bytes).await?;
    to.flush().await
}

/// `run`'s side. Connects when asked, and again after a failure.
#[derive(Debug)]
pub struct FenceClient {
    socket: PathBuf,
    stream: Option<UnixStream>,
}

impl FenceClient {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            stream: None,
        }
    }

    /// State of fence and policy.
    pub async fn state(&mut self) -> Result<State, IpcError> {
        match self.ask(Ask::GetState(GetState {}), PATIENCE).await? {
            Answer::State(state) => Ok(state),
            _ => Err(IpcError::Answer),
        }
    }

    /// Hands over what approvers signed.
    pub async fn apply_policy(&mut self, policy: ApplyPolicy) -> Result<(), IpcError> {
        self.done(Ask::ApplyPolicy(policy), POLICY_PATIENCE).await
    }

    /// Says what the TPM remembers.
    pub async fn set_floor(&mut self, floor: Floor) -> Result<(), IpcError> {
        self.done(Ask::SetFloor(floor), PATIENCE).await
    }

    /// Hands over a lease.
    pub async fn apply_lease(&mut self, lease: ApplyLease) -> Result<(), IpcError> {
        self.done(Ask::ApplyLease(lease), PATIENCE).await
    }

    /// Which of the host's addresses may be signed for.
    pub async fn own_peers(&mut self, ask: GetOwnPeers) -> Result<OwnPeers, IpcError> {
        match self.ask(Ask::GetOwnPeers(ask), PATIENCE).await? {
            Answer::OwnPeers(own) => Ok(own),
            _ => Err(IpcError::Answer),
        }
    }

    /// Hands over every peer entry there is.
    pub async fn apply_peers(&mut self, peers: ApplyPeers) -> Result<(), IpcError> {
        self.done(Ask::ApplyPeers(peers), POLICY_PATIENCE).await
    }

    /// Hands over what approvers signed for an emergency.
    pub async fn break_glass(&mut self, glass: UseBreakGlass) -> Result<BreakGlassUsed, IpcError> {
        match self.ask(Ask::UseBreakGlass(glass), PATIENCE).await? {
            Answer::BreakGlassUsed(used) => Ok(used),
            _ => Err(IpcError::Answer),
        }
    }

    /// Acknowledges events and asks for more.
    pub async fn next_events(&mut self, next: NextEvents) -> Result<Events, IpcError> {
        match self.ask(Ask::NextEvents(next), PATIENCE).await? {
            Answer::Events(events) => Ok(events),
            _ => Err(IpcError::Answer),
        }
    }

    async fn done(&mut self, ask: Ask, patience: Duration) -> Result<(), IpcError> {
        match self.ask(ask, patience).await? {
            Answer::Done(_) => Ok(()),
            _ => Err(IpcError::Answer),
        }
    }

    async fn ask(&mut self, ask: Ask, patience: Duration) -> Result<Answer, IpcError> {
        let request = Request { request: Some(ask) };
        let again = self.stream.is_some();
        let mut outcome = timeout(patience, self.exchange(&request)).await;
        if again && matches!(outcome, Ok(Err(_))) {
            // The process at the other end was restarted since; every request may be repeated.
            outcome = timeout(patience, self.exchange(&request)).await;
        }
        let answer = match outcome {
            Ok(Ok(answer)) => answer,
            Ok(Err(source)) => {
                self.stream = None;
                return Err(IpcError::Io {
                    socket: self.socket.clone(),
                    source,
                });
            }
            Err(_elapsed) => {
                // The late answer would be taken for the next one.
                self.stream = None;
                return Err(IpcError::Timeout(patience));
            }
        };
        match answer.response {
            Some(Answer::Refusal(refusal)) => Err(IpcError::Refused {
                code: refusal.code,
                detail: refusal.detail,
            }),
            Some(answer) => Ok(answer),
            None => Err(IpcError::Answer),
        }
    }

    async fn exchange(&mut self, request: &Request) -> io::Result<Response> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => UnixStream::connect(&self.socket).await?,
        };
        write_frame(&mut stream, request).await?;
        let answer = read_frame(&mut stream).await?;
        let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::ReadBuf;

    use super::*;

    /// Bytes, then an error that is not the end.
    struct Breaks<'a>(&'a [u8]);

    impl AsyncRead for Breaks<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let (now, later) = self.0.split_at(self.0.len().min(buf.remaining()));
            buf.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_frame_is_whole_or_an_error() {
        let request = Request {
            request: Some(Ask::GetState(GetState {})),
        };
        let mut good = Vec::new();
        write_frame(&mut good, &request).await.unwrap();
        let read = read_frame::<Request>(&mut good.as_slice()).await.unwrap();
        assert_eq!(read, Some(request));
        let none = read_frame::<Request>(&mut [].as_slice()).await.unwrap();
        assert_eq!(none, None, "the end between two frames");

        let most = u32::try_from(MAX_FRAME).unwrap();
        let (one_short, _) = good.split_at(good.len() - 1);
        let cases: &[(&str, &[u8], io::ErrorKind)] = &[
            ("one byte short", one_short, io::ErrorKind::UnexpectedEof),
            (
                "the longest, not there",
                &most.to_be_bytes(),
                io::ErrorKind::UnexpectedEof,
            ),
            (
                "too long",
                &(most + 1).to_be_bytes(),
                io::ErrorKind::InvalidData,
            ),
            ("4 GiB - 1", &[0xff; 4], io::ErrorKind::InvalidData),
            (
                "not a message",
                &[0, 0, 0, 1, 0xff],
                io::ErrorKind::InvalidData,
            ),
        ];
        for (name, bytes, want) in cases {
            let mut from = *bytes;
            let refused = read_frame::<Request>(&mut from).await.unwrap_err();
            assert_eq!(refused.kind(), *want, "{name}");
        }
        for cut in [0, 4] {
            let mut from = Breaks(&good[..cut]);
            let refused = read_frame::<Request>(&mut from).await.unwrap_err();
            assert_eq!(
                refused.kind(),
                io::ErrorKind::ConnectionReset,
                "after {cut} bytes"
            );
        }
    }
}
