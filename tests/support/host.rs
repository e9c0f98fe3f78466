// SPDX-License-Identifier: GPL-3.0-or-later
//! The host that is lied to: a store and a database in a scratch directory, and a daemon that does nothing wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use guix_offload::archive::KeyPair;
use guix_offload::ground::cancel::Cancel;
use guix_offload::ground::directories::Directories;
use guix_offload::ground::store_path::{StoreDir, StorePath};
use guix_offload::remote::TRUST_TEXT;
use guix_offload::store::{Database, text_item};
use rusqlite::Connection;

use super::double::{Machine, Plan, says};
use super::wire_bytes::{Item, done, gives};

/// The tables of the store's database that matter here.
const TABLES: &str = include_str!("../fixtures/tables.sql");

const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/archive");

/// Keys that sign no archive here, but may: a machine has seen signatures of theirs.
const ECDSA: &str = include_str!("../fixtures/archive/ecdsa.pub");
const RSA: &str = include_str!("../fixtures/archive/rsa.pub");

pub struct Scene {
    scratch: tempfile::TempDir,
    pub directories: Directories,
    /// The key whose archives may come in, and another one.
    pub trusted: KeyPair,
    pub stranger: KeyPair,
    /// Serves the local daemon's socket.
    _daemon: Machine,
}

impl Scene {
    pub fn new() -> Scene {
        let scratch = tempfile::Builder::new().prefix("guix-offload-hostile").tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("store")).unwrap();
        let database = Connection::open(at("db.sqlite")).unwrap();
        database.pragma_update(None, "journal_mode", "wal").unwrap();
        database.pragma_update(None, "synchronous", "off").unwrap();
        database.execute_batch(TABLES).unwrap();
        fs::write(at("schema"), "7").unwrap();
        let keys = |name: &str| {
            fs::create_dir(at(name)).unwrap();
            for half in ["pub", "sec"] {
                let copy = at(name).join(format!("signing-key.{half}"));
                fs::copy(format!("{KEYS}/{name}.{half}"), &copy).unwrap();
                fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
            }
            KeyPair::load(&at(name)).unwrap()
        };
        let (trusted, stranger) = (keys("signing-ecc"), keys("signing-rsa"));
        let key = fs::read_to_string(at("signing-ecc/signing-key.pub")).unwrap();
        let entry = |key: &str| format!("(entry {key} (tag (guix import)))");
        let known = [&key, ECDSA, RSA].map(entry);
        fs::write(at("acl"), format!("(acl {})", known.concat())).unwrap();
        ["pub", "sec"].iter().for_each(|half| {
            let name = format!("signing-key.{half}");
            fs::copy(at("signing-ecc").join(&name), at(&name)).unwrap();
        });
        let directories = Directories {
            store: StoreDir::new(at("store").to_str().unwrap()).unwrap(),
            state: scratch.path().into(),
            database: scratch.path().into(),
            configuration: scratch.path().into(),
            daemon_socket: at("daemon"),
        };
        let daemon = Machine::at(&directories.daemon_socket, Plan::honest(&[]));
        Scene { scratch, directories, trusted, stranger, _daemon: daemon }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A name in the store.
    pub fn path(&self, name: &str) -> StorePath {
        let store = &self.directories.store;
        let digit = name.bytes().fold(0u8, |sum, byte| sum.wrapping_add(byte)) % 10;
        store.parse(&format!("{}/{}-{name}", store.as_str(), digit.to_string().repeat(32))).unwrap()
    }

    /// The item that is asked for: `nar` under the name of the output.
    pub fn output(&self, nar: Vec<u8>) -> Item {
        Item { nar, path: self.path("output").as_str().into(), references: Vec::new(), deriver: String::new() }
    }

    /// A machine that acts honestly: it has the derivation, signs, and has built what it exports as `archive`.
    pub fn honest(&self, archive: &[u8]) -> Plan {
        let proof = says([gives(&self.proof().signed(&self.trusted)), done()].concat());
        let texts = Some(self.directories.store.clone());
        Plan { proof, texts, ..Plan::honest(archive) }
    }

    /// The text by which it is seen whether a machine is trusted.
    pub fn proof(&self) -> Item {
        let (name, text) = TRUST_TEXT;
        let (path, nar) = text_item(&self.directories.store, name, text).unwrap();
        Item { nar, path: path.as_str().into(), references: Vec::new(), deriver: String::new() }
    }

    /// Makes an item valid that has this nar.
    pub fn register(&self, name: &str, contents: &[u8], nar: &[u8]) -> StorePath {
        let path = self.path(name);
        self.register_as(&path, contents, nar, &[]);
        path
    }

    /// Makes `path` valid, which has this nar, and refers to these.
    pub fn register_as(&self, path: &StorePath, contents: &[u8], nar: &[u8], references: &[&StorePath]) {
        fs::write(path.as_str(), contents).unwrap();
        let hash: String = super::wire_bytes::sha256(nar).iter().map(|byte| format!("{byte:02x}")).collect();
        let row = rusqlite::params![path.as_str(), format!("sha256:{hash}"), nar.len() as i64];
        let database = Connection::open(self.at("db.sqlite")).unwrap();
        database.pragma_update(None, "synchronous", "off").unwrap();
        database
            .execute("INSERT INTO ValidPaths (path, hash, registrationTime, narSize) VALUES (?, ?, 1, ?)", row)
            .unwrap();
        for reference in references {
            let row = [path.as_str(), reference.as_str()];
            let id = |number| format!("(SELECT id FROM ValidPaths WHERE path = ?{number})");
            database.execute(&format!("INSERT INTO Refs VALUES ({}, {})", id(1), id(2)), row).unwrap();
        }
    }

    pub fn database(&self) -> Database {
        Database::open(&self.directories, &Cancel::default()).unwrap()
    }

    /// What is in the store, but for `.links`, which must be empty.
    pub fn names(&self) -> Vec<String> {
        let list = |directory: &Path| {
            let entries = fs::read_dir(directory).into_iter().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let store = self.at("store");
        assert_eq!(list(&store.join(".links")), [""; 0], ".links");
        list(&store).into_iter().filter(|name| name != ".links").collect()
    }

    /// Takes the output out of the store again.
    pub fn forget_output(&self) {
        let path = self.path("output");
        Connection::open(self.at("db.sqlite"))
            .unwrap()
            .execute("DELETE FROM ValidPaths WHERE path = ?", [path.as_str()])
            .unwrap();
        let store = fs::File::open(self.at("store")).unwrap();
        guix_offload::store::remove_tree(std::os::fd::AsFd::as_fd(&store), path.base_name().as_bytes()).unwrap();
    }
}
