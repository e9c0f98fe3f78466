// SPDX-License-Identifier: GPL-3.0-or-later
//! Moving store items: to a machine before a build, from it afterwards.

mod ask;
mod import_check;
pub mod in_flight;
mod retrieve;
mod send;
pub mod substitutes;
mod throttle;

use std::io::{self, Read};

use crate::report::{Event, Observer};

pub use ask::collected;
pub use retrieve::retrieve_files;
pub use send::{Circumstances, have_gone, import_files, send_files};

/// A reader that reports how many bytes were read, from it and from those before it.
struct CountingReader<'a, R: Read> {
    inner: R,
    bytes: &'a mut u64,
    observer: &'a mut dyn Observer,
}

impl<R: Read> Read for CountingReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        *self.bytes += length as u64;
        self.observer.event(&Event::Transferred { bytes: *self.bytes });
        Ok(length)
    }
}
