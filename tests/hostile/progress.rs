// SPDX-License-Identifier: GPL-3.0-or-later
//! What is told of a transfer, whose pieces are as small as a machine likes.

use crate::alone;
use crate::fixture::Scene;
use crate::harness::{machine, tell};
use crate::sshd::Sshd;
use crate::wire_bytes::*;

/// An archive of many files has many tokens of 8 to 16 bytes, each of which is read by itself.
#[test]
fn an_archive_of_small_pieces_is_told_of_in_large_ones() {
    let _alone = alone();
    let (scene, sshd) = (Scene::new(), Sshd::start(&[]));
    let names: Vec<String> = (0..3000).map(|number| format!("{number:05}")).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_bytes(), file(b"x"))).collect();
    let archive = scene.output(nar(directory(&entries))).signed(&scene.trusted);
    let told = tell(&scene, &machine(&sshd, &scene), scene.honest(&archive), 0);
    told.result.unwrap();
    // One for 64 KiB, ten a second, and the last one.
    let most = archive.len() / (64 << 10) + told.time.as_millis() as usize / 100 + 2;
    assert!(told.transferred <= most, "{} times for {} bytes in {:?}", told.transferred, archive.len(), told.time);
    assert!(told.bytes > archive.len() as u64 / 2, "only {} bytes were told of", told.bytes);
}
