// SPDX-License-Identifier: GPL-3.0-or-later
//! Moving store items: to a machine before a build, from it afterwards.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use crate::archive::Acl;
use crate::cancel::{Cancel, Guard};
use crate::daemon::{self, Client, LocalStream};
use crate::error::{Context, Error, ErrorKind, IoContext, Result};
use crate::observer::{Event, Observer};
use crate::remote::Remote;
use crate::store::{Database, Directories, Staging, StorePath};

/// Largest derivation that is exported ahead of time, as a bundle item in bytes.
const MAX_PREPARED: usize = 1 << 20;

/// The local daemon, and the bundle item of the derivation to be built.
///
/// A daemon's first signature takes some 80 ms, in which it starts a helper process. Preparing happens while the SSH
/// connection is set up.
pub struct Local {
    client: Client,
    stream: LocalStream,
    /// An item exported ahead of time.
    prepared: Option<(StorePath, Vec<u8>)>,
}

impl Local {
    /// Connects to the local daemon; `cancel` cuts that off.
    pub fn connect(directories: &Directories, cancel: &Cancel) -> Result<Self> {
        let unusable = |error| ours(error, "be used");
        let stream = LocalStream::connect(directories).map_err(unusable)?;
        let _guard = guard(cancel, &stream);
        let client = Client::handshake(Box::new(stream.clone()), &directories.store).map_err(unusable)?;
        Ok(Local { client, stream, prepared: None })
    }

    /// Cuts the connection off when cancelled, for as long as the guard lives.
    #[must_use]
    pub fn guard(&self, cancel: &Cancel) -> Guard {
        guard(cancel, &self.stream)
    }

    /// Can it be used for another build, as far as is known?
    pub fn is_usable(&self) -> bool {
        self.client.is_idle()
    }

    /// Adds a text file to the local store, protected from the garbage collector while the connection lives.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<StorePath> {
        self.client.add_text(name, text).context(|| "adding a file to the local store")
    }

    /// Imports `archive`, a bundle that holds `item`, which is then protected from the garbage collector while the
    /// connection lives.
    pub fn import(&mut self, item: &StorePath, mut archive: &[u8]) -> Result<()> {
        let imported = self.client.add_temp_root(item).and_then(|()| self.client.import(&mut archive));
        imported.map(|_| ()).map_err(|e| ours(e, &format!("import '{item}'")))
    }

    /// Exports `derivation` ahead of time.
    pub fn prepare(&mut self, derivation: &StorePath) -> Result<()> {
        let info = self.client.path_info(derivation).map_err(|e| ours(e, &format!("look up '{derivation}'")))?;
        if info.nar_size > MAX_PREPARED as u64 {
            return Ok(());
        }
        self.client.export(derivation).map_err(|e| ours(e, &format!("export '{derivation}'")))?;
        let mut item = Vec::new();
        daemon::Export(&mut self.client)
            .read_to_end(&mut item)
            .map_err(|e| ours(Error::io(ErrorKind::Store, "reading", e), &format!("export '{derivation}'")))?;
        self.prepared = Some((derivation.clone(), item));
        Ok(())
    }
}

fn guard(cancel: &Cancel, stream: &LocalStream) -> Guard {
    let stream = stream.clone();
    cancel.guard(move |_| stream.cut_off())
}

/// Sends those of `items`, a closure, that `remote` lacks. Returns what was sent, in the order sent.
pub fn send_files(
    local: &mut Local,
    remote: &mut Remote,
    items: &[StorePath],
    observer: &mut dyn Observer,
) -> Result<Vec<StorePath>> {
    let missing = remote.missing(items).context(|| "asking what is missing")?;
    let (order, bytes) = references_first(&mut local.client, missing)?;
    if order.is_empty() {
        return Ok(order);
    }
    let machine = remote.machine().name.clone();
    observer.event(&Event::Sending { machine: &machine, items: order.len(), bytes });
    let mut bundle = Bundle::new(local, order.iter(), observer);
    let imported = remote.import(&mut bundle, bytes);
    // What the local daemon could not do came up during the import, but says nothing of the machine.
    match bundle.failure {
        Some(failure) => Err(failure),
        None => imported.context(|| format!("sending files to '{machine}'")).map(|()| order),
    }
}

/// `items` with what each refers to before it, and the size of their nars in bytes.
fn references_first(client: &mut Client, items: Vec<StorePath>) -> Result<(Vec<StorePath>, u64)> {
    let mut bytes = 0;
    let mut references: HashMap<StorePath, Vec<StorePath>> = HashMap::new();
    let members: HashSet<StorePath> = items.iter().cloned().collect();
    for item in &items {
        let mut info = client.path_info(item).map_err(|e| ours(e, &format!("look up '{item}'")))?;
        bytes += info.nar_size;
        info.references.retain(|reference| reference != item && members.contains(reference));
        references.insert(item.clone(), info.references);
    }
    let mut order = Vec::with_capacity(items.len());
    // Depth first, with a stack of our own; an item leaves it for `order` after all that it refers to.
    let mut stack: Vec<(StorePath, Vec<StorePath>)> = Vec::new();
    for item in items {
        stack.extend(references.remove(&item).map(|references| (item, references)));
        while let Some((_, rest)) = stack.last_mut() {
            match rest.pop() {
                Some(next) => stack.extend(references.remove(&next).map(|references| (next, references))),
                None => order.extend(stack.pop().map(|(item, _)| item)),
            }
        }
    }
    Ok((order, bytes))
}

/// The bundle of `items`, exported by the local daemon as it is read: `1` and an item, again and again, then `0`.
struct Bundle<'a, I> {
    local: &'a mut Local,
    items: I,
    /// Bytes at hand, of which those from `position` on come next.
    pending: Vec<u8>,
    position: usize,
    /// Whether the daemon has more of the current item.
    exporting: bool,
    ended: bool,
    sent: u64,
    /// What the local daemon could not do.
    failure: Option<Error>,
    observer: &'a mut dyn Observer,
}

impl<'a, I: Iterator<Item = &'a StorePath>> Bundle<'a, I> {
    fn new(local: &'a mut Local, items: I, observer: &'a mut dyn Observer) -> Self {
        let (pending, position, exporting, ended) = (Vec::new(), 0, false, false);
        Bundle { local, items, pending, position, exporting, ended, sent: 0, failure: None, observer }
    }

    /// Begins the next item, or ends the bundle.
    fn next_item(&mut self) -> Result<()> {
        let next = self.items.next();
        self.pending = u64::from(next.is_some()).to_le_bytes().to_vec();
        self.position = 0;
        match next {
            None => self.ended = true,
            Some(item) => match self.local.prepared.take_if(|(prepared, _)| prepared == item) {
                Some((_, prepared)) => self.pending.extend_from_slice(&prepared),
                None => {
                    self.local.client.export(item).map_err(|e| ours(e, &format!("export '{item}'")))?;
                    self.exporting = true;
                }
            },
        }
        Ok(())
    }

    fn next_bytes(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            if self.position < self.pending.len() {
                let length = buffer.len().min(self.pending.len() - self.position);
                buffer[..length].copy_from_slice(&self.pending[self.position..][..length]);
                self.position += length;
                return Ok(length);
            }
            if self.exporting {
                match self.local.client.read_export(buffer).map_err(|e| ours(e, "export"))? {
                    0 => self.exporting = false,
                    length => return Ok(length),
                }
            } else if self.ended {
                return Ok(0);
            } else {
                self.next_item()?;
            }
        }
    }
}

impl<'a, I: Iterator<Item = &'a StorePath>> Read for Bundle<'a, I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.next_bytes(buffer).inspect_err(|error| self.failure = Some(error.clone()))?;
        self.sent += length as u64;
        self.observer.event(&Event::Transferred { bytes: self.sent });
        Ok(length)
    }
}

/// A failure of the local daemon, which could not do `what`: no machine is to blame, and no other would do better.
fn ours(error: Error, what: &str) -> Error {
    let kind = if error.kind() == ErrorKind::Exhausted { ErrorKind::Exhausted } else { ErrorKind::Store };
    Error::new(kind, format!("the local daemon cannot {what}: {error}"))
}

/// Brings `outputs` of `derivation`, which `remote` built, into the store and makes them valid, all of them or none.
///
/// Whoever calls holds the locks on the outputs, as guix-daemon does for its hook.
pub fn retrieve_files(
    directories: &Directories,
    local: &mut Local,
    remote: &mut Remote,
    derivation: &StorePath,
    outputs: &[StorePath],
    cancel: &Cancel,
    observer: &mut dyn Observer,
) -> Result<()> {
    let machine = remote.machine().name.clone();
    let acl = Acl::load(&directories.acl_file())?;
    let mut database = Database::open(directories)?;
    let mut bytes = 0;
    for output in outputs {
        bytes += remote.path_info(output).context(|| format!("looking up '{output}'"))?.nar_size;
    }
    require_space(directories, bytes)?;
    observer.event(&Event::Retrieving { machine: &machine, items: outputs.len(), bytes });
    let mut staging = Staging::new(directories, &mut |path| {
        local.client.add_temp_root(path).map_err(|e| ours(e, "protect a temporary directory"))
    })?;
    let mut received = 0;
    for output in outputs {
        let archive = remote.export(output).context(|| format!("retrieving '{output}'"))?;
        let mut archive = Counted { inner: archive, bytes: &mut received, observer };
        staging.receive(&mut archive, &acl, output, Some(derivation)).context(|| format!("retrieving '{output}'"))?;
        // What the daemon says after the item: that it is complete.
        if archive.read(&mut [0; 1]).io_context(ErrorKind::Protocol, || format!("retrieving '{output}'"))? != 0 {
            return Err(Error::new(ErrorKind::Protocol, format!("'{machine}' sent bytes after '{output}'")));
        }
        observer.event(&Event::Verified { item: output });
    }
    observer.event(&Event::Received);
    // Whoever cancels may have lost the locks on the outputs.
    cancel.check()?;
    staging.commit(&mut database).map(|_| ()).context(|| format!("registering the outputs of '{derivation}'"))
}

/// Refuses early what could only fill the disk.
fn require_space(directories: &Directories, bytes: u64) -> Result<()> {
    let store = directories.store.as_str();
    let free = fs2::available_space(store).io_context(ErrorKind::Store, || format!("free space of '{store}'"))?;
    if free < bytes {
        return Err(Error::new(
            ErrorKind::Store,
            format!("{} MiB are free in '{store}', but the outputs take {} MiB", free >> 20, bytes >> 20),
        )
        .hint("free some space, for instance with 'guix gc'"));
    }
    Ok(())
}

/// A stream that reports how much was read from it.
struct Counted<'a, R: Read> {
    inner: R,
    bytes: &'a mut u64,
    observer: &'a mut dyn Observer,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        *self.bytes += length as u64;
        self.observer.event(&Event::Transferred { bytes: *self.bytes });
        Ok(length)
    }
}
