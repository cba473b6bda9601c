//! The protocol between a server and a guard: frames of a kind, a length and a body.

use std::{ffi::OsString, io};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::checkpoint;

/// Version of the protocol. A guard of another version is not used.
pub(super) const VERSION: u32 = 2;

/// Byte limit of a guard's frame: the line of a checkpoint is the longest.
pub(super) const REPORT_MAX_BYTES: usize = checkpoint::LINE_MAX_BYTES;

/// Byte limit of an error message in a guard's frame.
pub(super) const MESSAGE_MAX_BYTES: usize = 8 * 1024;

/// Byte limit of a server's frame: above any payload, and above the kernel's limit of arguments.
pub(super) const ORDER_MAX_BYTES: usize = 64 * 1024 * 1024;

const HEAD_BYTES: usize = 5;

/// The command to run. Its strings are OS strings, as variables need not be UTF-8.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) argv: Vec<OsString>,
    /// The command's whole environment.
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) working_dir: Option<OsString>,
    /// Whether an earlier attempt has left a checkpoint, which comes in [`Order::EarlierCheckpoint`].
    pub(super) has_checkpoint: bool,
}

/// A message from a server to a guard: [`Order::Start`], then [`Order::Payload`], then [`Order::EarlierCheckpoint`] if
/// there is one, then any of the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Order {
    Start(Start),
    /// The whole standard input of the command.
    Payload(Bytes),
    /// The state that an earlier attempt has left.
    EarlierCheckpoint(Bytes),
    /// A line for the command's descriptor of answers about checkpoints.
    CheckpointAnswer(Bytes),
    /// Send SIGTERM to the command.
    Terminate,
    /// Kill the command.
    Kill,
}

/// The end of a command's first process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    Code(i32),
    Signal(i32),
}

/// A message from a guard to its server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum GuardReport {
    /// The guard holds the lock and waits for [`Order::Start`].
    Ready { version: u32 },
    /// The command runs in its own process group, whose number is `pid`.
    Started { pid: i32 },
    /// The command was not started.
    StartFailed(String),
    /// A line that the command wrote to its progress descriptor.
    Progress(Bytes),
    /// A line that the command wrote to its checkpoint descriptor.
    Checkpoint(Bytes),
    /// The command has ended, and none of its processes is left.
    Ended(Ending),
}

impl Order {
    /// Encodes the frame in two parts, so that a payload is not copied.
    pub(super) fn into_frame(self) -> io::Result<[Bytes; 2]> {
        let (kind, body) = match self {
            Order::Start(start) => (b'S', Bytes::from(serde_json::to_vec(&start)?)),
            Order::Payload(payload) => (b'P', payload),
            Order::EarlierCheckpoint(state) => (b'E', state),
            Order::CheckpointAnswer(line) => (b'A', line),
            Order::Terminate => (b'T', Bytes::new()),
            Order::Kill => (b'K', Bytes::new()),
        };
        Ok([head(kind, &body)?, body])
    }

    pub(super) fn from_frame(frame: Frame) -> io::Result<Self> {
        match frame.kind {
            b'S' => Ok(Order::Start(serde_json::from_slice(&frame.body)?)),
            b'P' => Ok(Order::Payload(frame.body)),
            b'E' => Ok(Order::EarlierCheckpoint(frame.body)),
            b'A' => Ok(Order::CheckpointAnswer(frame.body)),
            b'T' => Ok(Order::Terminate),
            b'K' => Ok(Order::Kill),
            _ => Err(garbled()),
        }
    }
}

impl GuardReport {
    pub(super) fn into_frame(self) -> io::Result<[Bytes; 2]> {
        let (kind, body) = match self {
            GuardReport::Ready { version } => (b'r', Bytes::copy_from_slice(&version.to_be_bytes())),
            GuardReport::Started { pid } => (b's', Bytes::copy_from_slice(&pid.to_be_bytes())),
            GuardReport::StartFailed(message) => (b'f', Bytes::from(message)),
            GuardReport::Progress(line) => (b'p', line),
            GuardReport::Checkpoint(line) => (b'k', line),
            GuardReport::Ended(Ending::Code(code)) => (b'c', Bytes::copy_from_slice(&code.to_be_bytes())),
            GuardReport::Ended(Ending::Signal(signal)) => {
                (b'g', Bytes::copy_from_slice(&signal.to_be_bytes()))
            }
        };
        Ok([head(kind, &body)?, body])
    }

    pub(super) fn from_frame(mut frame: Frame) -> io::Result<Self> {
        let body = &mut frame.body;
        match frame.kind {
            b'r' => Ok(GuardReport::Ready { version: body.try_get_u32().map_err(|_| garbled())? }),
            b's' => Ok(GuardReport::Started { pid: body.try_get_i32().map_err(|_| garbled())? }),
            b'f' => Ok(GuardReport::StartFailed(String::from_utf8_lossy(body).into_owned())),
            b'p' => Ok(GuardReport::Progress(frame.body)),
            b'k' => Ok(GuardReport::Checkpoint(frame.body)),
            b'c' => Ok(GuardReport::Ended(Ending::Code(body.try_get_i32().map_err(|_| garbled())?))),
            b'g' => Ok(GuardReport::Ended(Ending::Signal(body.try_get_i32().map_err(|_| garbled())?))),
            _ => Err(garbled()),
        }
    }
}

/// A complete frame.
#[derive(Debug)]
pub(super) struct Frame {
    kind: u8,
    body: Bytes,
}

/// A decoder of frames from a stream of bytes.
#[derive(Debug)]
pub(super) struct FrameDecoder {
    bytes: BytesMut,
    max_bytes: usize,
}

impl FrameDecoder {
    pub(super) fn new(max_bytes: usize) -> Self {
        FrameDecoder { bytes: BytesMut::new(), max_bytes }
    }

    /// Returns the buffer for the next bytes of the stream.
    pub(super) fn space(&mut self) -> &mut BytesMut {
        self.bytes.reserve(4 * 1024);
        &mut self.bytes
    }

    /// Returns the next complete frame, if there is one.
    ///
    /// # Errors
    /// When a frame is over the limit.
    pub(super) fn next(&mut self) -> io::Result<Option<Frame>> {
        let Some((head, _)) = self.bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [kind, length @ ..] = *head;
        let length = u32::from_be_bytes(length) as usize;
        if length > self.max_bytes {
            return Err(garbled());
        }
        if self.bytes.len() < HEAD_BYTES + length {
            self.bytes.reserve(HEAD_BYTES + length - self.bytes.len());
            return Ok(None);
        }
        self.bytes.advance(HEAD_BYTES);
        Ok(Some(Frame { kind, body: self.bytes.split_to(length).freeze() }))
    }
}

fn head(kind: u8, body: &Bytes) -> io::Result<Bytes> {
    let length = u32::try_from(body.len()).map_err(|_| garbled())?;
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    head.put_u8(kind);
    head.put_u32(length);
    Ok(head.freeze())
}

fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a frame of the guard's protocol")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn through<T>(frame: [Bytes; 2], read: fn(Frame) -> io::Result<T>) -> T {
        let mut decoder = FrameDecoder::new(1024);
        let bytes = frame.concat();
        for byte in &bytes[..bytes.len() - 1] {
            decoder.space().put_u8(*byte);
            assert!(decoder.next().unwrap().is_none());
        }
        decoder.space().put_u8(bytes[bytes.len() - 1]);
        let message = read(decoder.next().unwrap().unwrap()).unwrap();
        assert!(decoder.next().unwrap().is_none());
        message
    }

    #[test]
    fn every_message_comes_back_from_its_frame() {
        let start = Start {
            argv: vec!["a b".into(), "".into()],
            env: vec![("NAME".into(), OsString::from_vec(vec![0xff, b'=']))],
            working_dir: Some("/".into()),
            has_checkpoint: true,
        };
        for order in [
            Order::Start(start),
            Order::Payload(Bytes::from_static(b"\0\n")),
            Order::EarlierCheckpoint(Bytes::from_static(b"\0\n")),
            Order::CheckpointAnswer(Bytes::from_static(b"committed 1\n")),
            Order::Terminate,
            Order::Kill,
        ] {
            assert_eq!(through(order.clone().into_frame().unwrap(), Order::from_frame), order);
        }
        for report in [
            GuardReport::Ready { version: VERSION },
            GuardReport::Started { pid: 1 },
            GuardReport::StartFailed("why".into()),
            GuardReport::Progress(Bytes::from_static(b"0.5")),
            GuardReport::Checkpoint(Bytes::from_static(b"keep \0")),
            GuardReport::Ended(Ending::Code(255)),
            GuardReport::Ended(Ending::Signal(9)),
        ] {
            assert_eq!(through(report.clone().into_frame().unwrap(), GuardReport::from_frame), report);
        }
    }

    #[test]
    fn garbage_is_an_error_before_it_takes_memory() {
        let mut decoder = FrameDecoder::new(16);
        decoder.space().put_slice(b"r\0\0\0\x11");
        assert!(decoder.next().is_err());
        let mut decoder = FrameDecoder::new(16);
        decoder.space().put_slice(b"?\0\0\0\0s\0\0\0\x01x");
        assert!(GuardReport::from_frame(decoder.next().unwrap().unwrap()).is_err());
        assert!(GuardReport::from_frame(decoder.next().unwrap().unwrap()).is_err());
    }
}
