// SPDX-License-Identifier: GPL-3.0-or-later
//! A guix-daemon that says what it is told to say, at the end of a Unix-domain socket. Everything it is asked it
//! understands, so that its lies come at the moment when they are believed.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guix_offload::ground::store_path::StoreDir;
use guix_offload::store::text_item;

use super::wire_bytes::*;

/// What it says in answer to a request, as long as anybody listens.
pub type Answer = Arc<dyn Fn(&mut UnixStream) -> Result<()> + Send + Sync>;

/// An answer of these bytes.
pub fn says(bytes: Vec<u8>) -> Answer {
    Arc::new(move |to| to.write_all(&bytes))
}

/// An answer of these bytes, after which it hangs up.
pub fn hangs_up_after(bytes: Vec<u8>) -> Answer {
    Arc::new(move |to| {
        to.write_all(&bytes)?;
        Err(ErrorKind::ConnectionAborted.into())
    })
}

/// An answer that begins with `first`, goes on with `again` and has no end.
pub fn says_for_ever(first: Vec<u8>, again: Vec<u8>) -> Answer {
    let block = again.repeat((64 << 10) / again.len() + 1);
    Arc::new(move |to| {
        to.write_all(&first)?;
        loop {
            to.write_all(&block)?;
        }
    })
}

/// All its answers.
#[derive(Clone)]
pub struct Plan {
    pub greeting: Answer,
    /// Whether all items are valid there; if none is, all are sent.
    pub has_all: bool,
    /// Instead of saying which items are valid.
    pub valid: Option<Answer>,
    pub options: Answer,
    pub build: Answer,
    pub info: Answer,
    /// Exports what is asked for; `proof` answers for texts, by which it is seen whether it is trusted.
    pub export: Answer,
    pub proof: Answer,
    /// Where texts are added to.
    pub texts: Option<StoreDir>,
    pub import: Answer,
}

impl Plan {
    /// One that has built what is exported as `archive`.
    pub fn honest(archive: &[u8]) -> Plan {
        Plan {
            greeting: says([number(0x6478_696f), number(0x164)].concat()),
            has_all: true,
            valid: None,
            options: says(last()),
            build: says(done()),
            info: says(info(archive.len() as u64)),
            export: says([gives(archive), done()].concat()),
            texts: None,
            proof: says(fails("it has no text to export", 1)),
            import: says([last(), number(0)].concat()),
        }
    }
}

/// What is known about an item whose nar has this size.
pub fn info(size: u64) -> Vec<u8> {
    [last(), string(""), string("0".repeat(64)), number(0), number(1), number(size)].concat()
}

/// A daemon that listens until it is dropped.
pub struct Machine {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Machine {
    pub fn at(socket: &Path, plan: Plan) -> Machine {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let plan = plan.clone();
                // It ends when the other side does.
                std::thread::spawn(move || drop(serve(stream, &plan)));
            }
        });
        Machine { socket: socket.into(), stop }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.socket);
    }
}

fn serve(mut stream: UnixStream, plan: &Plan) -> Result<()> {
    let from = &mut stream.try_clone()?;
    read_number(from)?; // its greeting
    (plan.greeting)(&mut stream)?;
    for _ in 0..3 {
        read_number(from)?; // version, affinity, reserve
    }
    stream.write_all(&last())?;
    let mut text = None;
    loop {
        match read_number(from)? {
            8 => {
                let (name, contents) = (read_string(from)?, read_string(from)?);
                read_strings(from)?; // references
                let store = plan.texts.as_ref().ok_or_else(|| Error::other("no text is expected"))?;
                let (name, contents) = (String::from_utf8_lossy(&name), String::from_utf8_lossy(&contents));
                let (path, _) = text_item(store, &name, &contents).unwrap();
                stream.write_all(&[last(), string(path.as_str())].concat())?;
                text = Some(path);
            }
            9 => {
                read_strings(from)?;
                read_number(from)?; // mode
                (plan.build)(&mut stream)?;
            }
            11 => {
                read_string(from)?;
                stream.write_all(&done())?;
            }
            16 => {
                let item = read_string(from)?;
                read_number(from)?; // sign
                match &text {
                    Some(path) if path.as_str().as_bytes() == item => (plan.proof)(&mut stream)?,
                    _ => (plan.export)(&mut stream)?,
                }
            }
            19 => {
                for _ in 0..9 {
                    read_number(from)?;
                }
                for _ in 0..2 * read_number(from)? {
                    read_string(from)?;
                }
                (plan.options)(&mut stream)?;
            }
            26 => {
                read_string(from)?;
                (plan.info)(&mut stream)?;
            }
            27 => (plan.import)(&mut stream)?,
            31 => {
                let asked = read_strings(from)?;
                match &plan.valid {
                    Some(answer) => answer(&mut stream)?,
                    None => {
                        let valid = if plan.has_all { asked } else { Vec::new() };
                        let mut answer = [last(), number(valid.len() as u64)].concat();
                        valid.iter().for_each(|path| answer.extend(string(path)));
                        stream.write_all(&answer)?;
                    }
                }
            }
            other => return Err(Error::other(format!("a request {other} that no test makes"))),
        }
    }
}

pub fn read_number(from: &mut impl Read) -> Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

pub fn read_string(from: &mut impl Read) -> Result<Vec<u8>> {
    let length = read_number(from)? as usize;
    let mut bytes = vec![0; length.next_multiple_of(8)];
    from.read_exact(&mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

fn read_strings(from: &mut impl Read) -> Result<Vec<Vec<u8>>> {
    (0..read_number(from)?).map(|_| read_string(from)).collect()
}
