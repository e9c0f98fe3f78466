// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds that succeed: what arrives is what was built, and what is registered is what the stock script registers.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::invariants::{assert_clean, database};
use crate::lab::{Builds, Host, lab};
use crate::machines::{Hook, Machine};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");

#[test]
fn inputs_are_sent_and_a_chain_of_builds_works() {
    for hook in Hook::ALL {
        HEAD.offload_through(hook, &[Machine::of(W1)]);
        W1.sh(&["guix", "gc"]); // now it lacks everything
        let builds = HEAD.build("chain", &["input-kib=64", "inputs=5"]);
        builds.assert_succeeded();
        // The derivation, busybox, five small inputs and a large one; then the second derivation: the rest is there.
        for line in ["sending 8 store items (2 MiB) to 'w1'...", "sending 1 store item (0 MiB) to 'w1'..."] {
            assert_eq!(builds.log.matches(line).count(), 1, "{line} in\n{}", builds.log);
        }
        let (first, second) = (builds.outputs("chain-1")[0], builds.outputs("chain-2")[0]);
        let text = std::fs::read_to_string(HEAD.file(second)).unwrap();
        assert!(text.starts_with(&std::fs::read_to_string(HEAD.file(first)).unwrap()), "{text}");
        assert!(HEAD.sh(&["guix", "gc", "--references", second]).contains("-busybox\n"));
        for done in ["found valid signature for", "done with offloaded", "@ build-remote"] {
            assert_eq!(builds.log.matches(done).count(), 2, "{done} in\n{}", builds.log);
        }
        assert_clean(&[HEAD], &[W1]);
    }
}

#[test]
fn outputs_that_refer_to_each_other_arrive_together() {
    for hook in Hook::ALL {
        HEAD.offload_through(hook, &[Machine::of(W1)]);
        let builds = HEAD.build("outputs", &[]);
        assert!(
            builds.succeeded && builds.log.contains("retrieving 3 store items"),
            "{}{}",
            builds.log,
            builds.results
        );
        let outputs = builds.outputs("outputs");
        let doc = outputs.iter().find(|output| output.ends_with("-doc")).unwrap();
        let out = outputs.iter().find(|output| output.ends_with("-outputs")).unwrap();
        assert_eq!(HEAD.sh(&["guix", "gc", "--references", out]).trim_end(), *doc);
        assert_eq!(HEAD.sh(&["guix", "gc", "--references", doc]), "");
        assert_same_files(&builds, "outputs");
        assert_clean(&[HEAD], &[W1]);
    }
}

#[test]
fn files_of_all_kinds_arrive_as_they_are() {
    for hook in Hook::ALL {
        HEAD.offload_through(hook, &[Machine::of(W1)]);
        let builds = HEAD.build("tree", &[]);
        builds.assert_succeeded();
        let [output] = builds.outputs("tree")[..] else { panic!("one output expected:\n{}", builds.results) };
        let files = tree(&HEAD.file(output));
        for (name, looks) in [
            ("empty", "directory 555"),
            ("with spaces", "directory 555"),
            ("with spaces/日 ✓", "file 444"),
            ("grün/link", "link to ../with spaces"),
            ("dangling", "link to /nowhere/at/all"),
            ("empty-file", "file 444"),
            ("run", "file 555"),
        ] {
            assert!(files.get(name).is_some_and(|file| file.starts_with(looks)), "{name}: {:?}", files.get(name));
        }
        assert_same_files(&builds, "tree");
        assert_clean(&[HEAD], &[W1]);
    }
}

#[test]
fn what_is_registered_is_what_the_stock_script_registers() {
    let nonce = format!("nonce=registered-{}", std::process::id());
    let settings = [nonce.as_str(), "kib=16", "inputs=2"];
    let build = || {
        let names = [("outputs", "outputs"), ("tree", "tree"), ("plain", "plain-0")];
        let running = names.map(|(mode, name)| (HEAD.start_build(mode, &settings), name));
        let finished = running.map(|(building, name)| (building.finish(), name));
        let outputs: Vec<String> = finished
            .iter()
            .inspect(|(builds, _)| assert!(builds.succeeded, "{}{}", builds.log, builds.results))
            .flat_map(|(builds, name)| builds.outputs(name).into_iter().map(str::to_string))
            .collect();
        (outputs, finished.map(|(builds, _)| builds.log).concat())
    };
    HEAD.offload_through(Hook::Program, &[Machine::of(W1)]);
    let (outputs, _) = build();
    let ours = registered(&outputs);
    assert!(ours.len() == 5 && ours.values().all(|item| item.contains(".drv")), "{ours:?}");
    let forget = || {
        HEAD.sh(&[&["guix", "gc", "--delete"], &outputs.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat())
    };

    // The machine keeps the outputs: the others retrieve the very same ones.
    forget();
    HEAD.offload_through(Hook::Guile, &[Machine::of(W1)]);
    let (again, log) = build();
    assert!(again == outputs && log.contains("found valid signature for"), "nothing was retrieved:\n{log}");
    assert_eq!(registered(&outputs), ours);

    forget();
    lab(&["restart-daemon", "head", "--", "--max-jobs=0"]);
    let (again, log) = build();
    assert!(again == outputs && log.contains("importing file or directory"), "the script did not retrieve:\n{log}");
    assert_eq!(registered(&outputs), ours);
    assert_clean(&[HEAD], &[W1]);
}

/// What the head's database says of items, but for when.
fn registered(items: &[String]) -> BTreeMap<String, String> {
    let database = database(HEAD);
    let describe = |item: &str| {
        let row = database.query_row("SELECT hash, narSize, deriver FROM ValidPaths WHERE path = ?", [item], |row| {
            Ok(format!("{} {} {}", row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
        });
        let shown = |option| HEAD.sh(&["guix", "gc", option, item]);
        format!("{} {:?} {:?}", row.expect("a valid item"), shown("--references"), shown("--derivers"))
    };
    items.iter().map(|item| (item.clone(), describe(item))).collect()
}

/// What was built on `w1` is on the head, to the last bit that Guix cares for.
#[track_caller]
fn assert_same_files(builds: &Builds, name: &str) {
    for output in builds.outputs(name) {
        assert_eq!(tree(&HEAD.file(output)), tree(&W1.file(output)), "{output}");
    }
}

/// Name and looks of every file in a tree; that of its root is empty.
fn tree(root: &Path) -> BTreeMap<String, String> {
    fn visit(file: &Path, root: &Path, files: &mut BTreeMap<String, String>) {
        let metadata = file.symlink_metadata().unwrap();
        let (mode, time) = (metadata.mode() & 0o7777, metadata.mtime());
        let looks = if metadata.is_symlink() {
            format!("link to {} of {time}", file.read_link().unwrap().display())
        } else if metadata.is_dir() {
            for entry in file.read_dir().unwrap() {
                visit(&entry.unwrap().path(), root, files);
            }
            format!("directory {mode:o} of {time}")
        } else {
            format!("file {mode:o} of {time} with {:?}", std::fs::read(file).unwrap())
        };
        let name = file.strip_prefix(root).unwrap().as_os_str().as_bytes();
        files.insert(String::from_utf8(name.to_vec()).expect("a name in UTF-8"), looks);
    }
    let mut files = BTreeMap::new();
    visit(root, root, &mut files);
    files
}
