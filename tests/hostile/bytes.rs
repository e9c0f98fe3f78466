// SPDX-License-Identifier: GPL-3.0-or-later
//! All that a machine says while an item is retrieved, cut off at every byte, and with every byte changed: without SSH,
//! as there are thousands of them.

use std::io::{Read, Result, Write};
use std::time::{Duration, Instant};

use guix_offload::archive::Acl;
use guix_offload::daemon::{Client, ExportReader, Stream};
use guix_offload::ground::error::{Class, Error, ErrorKind};
use guix_offload::store::{Database, Staging};

use crate::alone;
use crate::double::info;
use crate::fixture::Scene;
use crate::harness::{peak, reset_peak};
use crate::wire_bytes::*;

/// Says what it says, and then nothing.
struct Said {
    bytes: Vec<u8>,
    position: usize,
}

impl Read for Said {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = (&self.bytes[self.position..]).read(buffer)?;
        self.position += count;
        Ok(count)
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Stream for Said {}

/// The greeting, what is known about the output, and the output: an executable and a link in a directory.
fn conversation(scene: &Scene) -> (Vec<u8>, usize) {
    let node = directory(&[(b"file", file(b"good\n")), (b"link", symlink("file"))]);
    let item = scene.output(nar(node)).signed(&scene.trusted);
    let greeting = [number(0x6478_696f), number(0x164), last()].concat();
    let before = [greeting, info(item.len() as u64)].concat();
    let signature = before.len() + 16 + item.windows(10).position(|window| window == b"(signature").unwrap();
    (before.into_iter().chain(gives(&item)).chain(done()).collect(), signature)
}

/// Retrieves the output from who says `bytes`.
fn retrieve(
    scene: &Scene,
    acl: &Acl,
    database: &mut Database,
    bytes: Vec<u8>,
) -> guix_offload::ground::error::Result<()> {
    let output = scene.path("output");
    let mut client = Client::handshake(Box::new(Said { bytes, position: 0 }), &scene.directories.store)?;
    client.path_info(&output)?;
    client.export(&output)?;
    let mut staging = Staging::new(&scene.directories, &mut |_| Ok(()))?;
    let mut archive = ExportReader(&mut client);
    staging.receive(&mut archive, acl, &output, None)?;
    if archive.read(&mut [0; 1]).map_err(|error| Error::io(ErrorKind::Protocol, "the end", error))? != 0 {
        return Err(Error::new(ErrorKind::Protocol, "bytes after the item"));
    }
    staging.commit(database).map(|_| ())
}

/// Retrieves from each of `conversations`, which are at most so many bytes of memory to take.
fn assert_refused(scene: &Scene, conversations: impl Iterator<Item = (String, bool, Vec<u8>)>) -> usize {
    let acl = Acl::load(&scene.directories.acl_file()).unwrap();
    let mut database = scene.database();
    let (before, mut count) = (reset_peak(), 0);
    for (what, may_pass, bytes) in conversations {
        let begun = Instant::now();
        let result = retrieve(scene, &acl, &mut database, bytes);
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {:?}", begun.elapsed());
        let is_valid = database.is_valid(&scene.path("output")).unwrap();
        assert_eq!(result.is_ok(), is_valid, "{what}");
        match result {
            Ok(()) => {
                // What may be changed changes nothing that is vouched for.
                assert!(may_pass, "{what} is believed");
                let output = scene.path("output");
                assert_eq!(std::fs::read(format!("{}/file", output.as_str())).unwrap(), b"good\n", "{what}");
                scene.forget_output();
            }
            Err(error) => {
                assert_eq!(error.class(), Class::Transient, "{what}: {error}");
                assert!(!error.to_string().is_empty());
            }
        }
        assert_eq!(scene.names(), [""; 0], "{what}");
        count += 1;
    }
    let used = peak().saturating_sub(before); // other tests begin to count anew
    assert!(used < 16 << 20, "{} KiB of memory", used >> 10);
    count
}

#[test]
fn what_is_cut_off_at_any_byte_is_refused() {
    let _alone = alone();
    let scene = Scene::new();
    let (whole, _) = conversation(&scene);
    let cuts = (0..whole.len()).map(|length| (format!("the first {length} bytes"), false, whole[..length].to_vec()));
    assert_eq!(assert_refused(&scene, cuts), whole.len());
    assert_eq!(assert_refused(&scene, [("all".to_string(), true, whole.clone())].into_iter()), 1);
}

#[test]
fn what_is_changed_at_any_byte_is_refused_or_means_nothing() {
    let _alone = alone();
    let scene = Scene::new();
    let (whole, signature) = conversation(&scene);
    // What may change is not signed: the version, what was told of the output beforehand, the layout of the signature,
    // the number at the end.
    let archive = [number(0x6478_696f), number(0x164), last()].concat().len() + info(0).len() + 16;
    let end = whole.len() - 16;
    let may_pass = |at: usize| at < archive || (signature..end).contains(&at) || at >= end + 8;
    let changed = (0..whole.len()).map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        (format!("bit {} of byte {at} changed", at % 8), may_pass(at), bytes)
    });
    assert_eq!(assert_refused(&scene, changed), whole.len());
}
