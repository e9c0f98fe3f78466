// SPDX-License-Identifier: GPL-3.0-or-later
//! The stream to the daemon of this host.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::net::SendFlags;

use super::Stream;
use crate::ground::directories::Directories;
use crate::ground::error::{ErrorKind, IoContext, Result};

/// A connection to the daemon of this host, which any thread can cut off.
#[derive(Clone)]
pub struct LocalStream(Arc<UnixStream>);

impl LocalStream {
    /// Connects to the daemon of this host, whose directories are `directories`.
    pub fn connect(directories: &Directories) -> Result<Self> {
        let socket = &directories.daemon_socket;
        let stream = UnixStream::connect(socket)
            .io_context(ErrorKind::Store, || format!("connecting to '{}'", socket.display()))?;
        Ok(LocalStream(Arc::new(stream)))
    }

    /// Makes all reads and writes fail, including those that wait.
    pub fn cut_off(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Read for LocalStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buffer)
    }
}

impl Write for LocalStream {
    /// Writes without raising SIGPIPE if the daemon is gone: the signal could end the host process.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&*self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for LocalStream {}
