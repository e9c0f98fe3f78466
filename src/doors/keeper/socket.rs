// SPDX-License-Identifier: GPL-3.0-or-later
//! How a message travels on the keeper's socket: its length, four bytes in native order, then its postcard encoding.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use rustix::net::SendFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ground::error::{Error, ErrorKind, IoContext, Result};

/// Longest message on the keeper's socket, in bytes: a message may have two lists of items, each as long as a hook
/// accepts.
const MAX_MESSAGE: u32 = 256 << 20;

const SOCKET: &str = "the keeper's socket";

/// A socket that raises no SIGPIPE when the other end is gone: threads of the host may not block that signal.
pub struct Socket<'a>(pub &'a UnixStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends one message.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> Result<()> {
    to.write_all(&encode(message)?).io_context(ErrorKind::Unavailable, || SOCKET)
}

/// Encodes a message as it is sent.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let encoded = postcard::to_extend(message, vec![0; 4])
        .map_err(|error| Error::new(ErrorKind::Internal, format!("a message cannot be encoded: {error}")));
    let mut encoded = encoded?;
    let length = u32::try_from(encoded.len() - 4).ok().filter(|length| *length <= MAX_MESSAGE);
    let length = length.ok_or_else(|| Error::new(ErrorKind::Exhausted, "a message to the keeper is too long"))?;
    encoded[..4].copy_from_slice(&length.to_ne_bytes());
    Ok(encoded)
}

/// Receives one message.
pub fn receive<M: DeserializeOwned>(from: &mut impl Read) -> Result<M> {
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => closed(),
        _ => Error::io(ErrorKind::Unavailable, SOCKET, error),
    })?;
    let mut encoded = Vec::new();
    from.take(checked(length)?).read_to_end(&mut encoded).io_context(ErrorKind::Unavailable, || SOCKET)?;
    decode(&encoded)
}

/// Decodes the message that begins after the first `taken` bytes of `received`, and adds its length to `taken`. `None`:
/// the message is not complete yet.
pub fn take<M: DeserializeOwned>(received: &[u8], taken: &mut usize) -> Result<Option<M>> {
    let rest = &received[*taken..];
    let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let length = checked(*length)? as usize;
    let Some(encoded) = rest.get(..length) else { return Ok(None) };
    *taken += 4 + length;
    decode(encoded).map(Some)
}

/// Returns the error that says that the other end is gone.
pub fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the keeper's socket was closed")
}

fn checked(length: [u8; 4]) -> Result<u64> {
    let length = u32::from_ne_bytes(length);
    if length > MAX_MESSAGE {
        let message = format!("a message of {length} bytes came from the keeper's socket");
        return Err(Error::new(ErrorKind::Protocol, message));
    }
    Ok(length.into())
}

fn decode<M: DeserializeOwned>(encoded: &[u8]) -> Result<M> {
    postcard::from_bytes(encoded).map_err(|error| {
        Error::new(ErrorKind::Protocol, format!("a message on the keeper's socket is malformed: {error}"))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::doors::keeper::message::FromKeeper;
    use crate::ground::store_path::{StoreDir, StorePath};

    /// Returns `message` as it arrives.
    pub fn through<M: Serialize + DeserializeOwned>(message: &M) -> M {
        let mut bytes = Vec::new();
        send(&mut bytes, message).unwrap();
        receive(&mut &bytes[..]).unwrap()
    }

    pub fn item(name: &str) -> StorePath {
        StoreDir::new("/other/store").unwrap().parse(&format!("/other/store/{}-{name}", "a".repeat(32))).unwrap()
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let mut bytes = Vec::new();
        send(&mut bytes, &FromKeeper::Aside("a line".into())).unwrap();
        let refused = |bytes: &[u8]| receive::<FromKeeper>(&mut &bytes[..]).unwrap_err().kind();
        assert_eq!(refused(&bytes[..3]), ErrorKind::Unavailable, "cut in its length");
        assert_eq!(refused(&bytes[..bytes.len() - 1]), ErrorKind::Protocol, "cut");
        assert_eq!(refused(&u32::MAX.to_ne_bytes()), ErrorKind::Protocol, "too long");
        let mut other = bytes.clone();
        other[4] = 200;
        assert_eq!(refused(&other), ErrorKind::Protocol, "no kind of message");
        // An invalid name of a store item.
        let mut invalid = Vec::new();
        send(&mut invalid, &"not a store item").unwrap();
        assert_eq!(receive::<StorePath>(&mut &invalid[..]).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
