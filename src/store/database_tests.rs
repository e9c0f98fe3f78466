// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of the store database, on a database with Guix's layout.

use std::path::Path;

use super::*;
use crate::ground::store_path::StoreDir;

/// The tables of schema version 7 that matter here, with their constraints.
const TABLES: &str = include_str!("../../tests/fixtures/tables.sql");

/// Creates a store database in `directory` in which nothing is valid.
pub fn create(directory: &Path) -> Directories {
    let connection = Connection::open(directory.join("db.sqlite")).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection.execute_batch(TABLES).unwrap();
    std::fs::write(directory.join("schema"), "7").unwrap();
    Directories {
        store: StoreDir::new("/gnu/store").unwrap(),
        state: directory.into(),
        database: directory.into(),
        configuration: directory.into(),
        daemon_socket: directory.join("socket"),
    }
}

/// Returns the item `/gnu/store/LETTER...-LETTER`, which refers to those of `references`.
fn item(letter: char, references: &str) -> ValidPath {
    let path = |letter: char| {
        let name = format!("/gnu/store/{}-{letter}", letter.to_string().repeat(32));
        StoreDir::new("/gnu/store").unwrap().parse(&name).unwrap()
    };
    ValidPath {
        path: path(letter),
        nar_hash: [0x1f; 32],
        nar_size: 96,
        deriver: None,
        references: references.chars().map(path).collect(),
    }
}

fn query(directories: &Directories, sql: &str) -> Vec<String> {
    let connection = Connection::open(directories.database.join("db.sqlite")).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(|row| row.unwrap()).collect()
}

#[test]
fn what_was_registered_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = Database::open(&create(directory.path()), &Cancel::default()).unwrap();
    let (a, b) = (item('a', ""), ValidPath { deriver: Some(item('a', "").path), ..item('b', "ab") });
    assert_eq!(database.info(&a.path).unwrap(), None);
    register(&mut database, &[a.clone(), b.clone()]).unwrap();
    assert_eq!(database.info(&a.path).unwrap(), Some(a));
    assert_eq!(database.info(&b.path).unwrap().as_ref(), Some(&b));

    database.connection.execute("UPDATE ValidPaths SET hash = 'sha256:12' WHERE path = ?", [b.path.as_str()]).unwrap();
    let error = database.info(&b.path).unwrap_err();
    assert!(error.kind() == ErrorKind::Store && error.to_string().contains("malformed"), "{error}");
}

const ROWS: &str = "SELECT path || ' ' || hash || ' ' || ifnull(deriver, 'none') || ' ' || narSize FROM ValidPaths";
const REFERENCES: &str = "SELECT substr(a.path, -1) || substr(b.path, -1) FROM Refs
    JOIN ValidPaths a ON referrer = a.id JOIN ValidPaths b ON reference = b.id ORDER BY 1";

fn register(database: &mut Database, items: &[ValidPath]) -> Result<Vec<StorePath>> {
    database.register(items, |_| Ok(()))
}

#[test]
fn items_are_registered_with_what_they_refer_to() {
    let scratch = tempfile::tempdir().unwrap();
    let directories = create(scratch.path());
    let mut database = Database::open(&directories, &Cancel::default()).unwrap();
    // Referrers come first. `a` refers to itself and has a deriver that is valid; the deriver of `b` is not valid.
    let derived = |item: ValidPath, by: char| ValidPath { deriver: Some(self::item(by, "").path), ..item };
    let items = [derived(item('a', "bca"), 'b'), derived(item('b', "c"), 'x'), item('c', "")];
    assert!(!database.is_valid(&items[0].path).unwrap());
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(register(&mut database, &items).unwrap().len(), 3);
    assert!(items.iter().all(|item| database.is_valid(&item.path).unwrap()));

    let path = |letter| item(letter, "").path;
    let hash = format!("sha256:{}", "1f".repeat(32));
    let expected = [
        format!("{} {hash} none 96", path('c')),
        format!("{} {hash} none 96", path('b')),
        format!("{} {hash} {} 96", path('a'), path('b')),
    ];
    assert_eq!(query(&directories, ROWS), expected);
    assert_eq!(query(&directories, REFERENCES), ["aa", "ab", "ac", "bc"]);
    let times = query(&directories, &format!("SELECT path FROM ValidPaths WHERE registrationTime < {before}"));
    assert!(times.is_empty());
}

#[test]
fn what_is_valid_already_is_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let directories = create(scratch.path());
    let mut database = Database::open(&directories, &Cancel::default()).unwrap();
    register(&mut database, &[item('a', "")]).unwrap();
    let before = query(&directories, ROWS);
    let changed = ValidPath { nar_hash: [2; 32], nar_size: 5, ..item('a', "a") };
    let mut installed = Vec::new();
    let registered = database.register(&[changed, item('b', "a")], |item| {
        installed.push(item.path.clone());
        Ok(())
    });
    assert_eq!(registered.unwrap(), [item('b', "").path]);
    assert_eq!(installed, [item('b', "").path]);
    assert_eq!(query(&directories, ROWS)[..1], before);
    assert_eq!(query(&directories, REFERENCES), ["ba"]);
}

#[test]
fn all_are_registered_or_none() {
    let scratch = tempfile::tempdir().unwrap();
    let directories = create(scratch.path());
    let mut database = Database::open(&directories, &Cancel::default()).unwrap();
    let mut rejected = |items: &[ValidPath]| register(&mut database, items).unwrap_err().to_string();

    let why = rejected(&[item('a', ""), item('b', "ax")]);
    assert!(why.contains("bbb-b refers to /gnu/store/xxx"), "{why}");
    assert!(rejected(&[item('a', "b"), item('b', "a"), item('c', "")]).contains("circle"));
    assert!(rejected(&[item('a', ""), item('a', "")]).contains("UNIQUE"));
    let derivation = StoreDir::new("/gnu/store").unwrap().parse(&format!("{}.drv", item('d', "").path)).unwrap();
    let why = rejected(&[item('a', ""), ValidPath { path: derivation, ..item('d', "") }]);
    assert!(why.contains("only guix-daemon"), "{why}");
    assert!(rejected(&[item('a', ""), ValidPath { nar_size: u64::MAX, ..item('b', "") }]).contains("too large"));

    let result = database.register(&[item('a', ""), item('b', "")], |item| {
        let refused = Error::new(ErrorKind::Store, "no room");
        if item.path.as_str().ends_with('b') { Err(refused) } else { Ok(()) }
    });
    assert_eq!(result.unwrap_err().to_string(), "no room");
    assert!(query(&directories, ROWS).is_empty());
}

#[test]
fn nobody_else_registers_while_an_item_is_put_in_place() {
    let scratch = tempfile::tempdir().unwrap();
    let directories = create(scratch.path());
    let other = Connection::open(directories.database.join("db.sqlite")).unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    let mut database = Database::open(&directories, &Cancel::default()).unwrap();
    let write = "INSERT INTO ValidPaths (path, hash, registrationTime) VALUES ('x', 'y', 1)";
    let mut attempt = None;
    let registered = database.register(&[item('a', "")], |_| {
        attempt = Some(other.execute(write, []));
        Ok(())
    });
    registered.unwrap();
    assert!(attempt.unwrap().unwrap_err().to_string().contains("locked"));
    other.execute(write, []).unwrap();
}

#[test]
fn a_locked_database_is_waited_for_unless_that_is_cancelled() {
    let scratch = tempfile::tempdir().unwrap();
    let directories = create(scratch.path());
    let mut other = Connection::open(directories.database.join("db.sqlite")).unwrap();
    let cancel = Cancel::default();
    let mut database = Database::open(&directories, &cancel).unwrap();
    let mut installed = 0;
    let mut attempt = |items: &[ValidPath]| {
        let result = database.register(items, |_| {
            installed += 1;
            Ok(())
        });
        (result, installed)
    };

    // Locked for longer than SQLite waits by itself.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let theirs = &mut other;
    let (result, installed) = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(3 * BUSY_TIMEOUT);
            theirs.execute_batch("COMMIT").unwrap();
        });
        attempt(&[item('a', "")])
    });
    assert_eq!((result.unwrap(), installed), (vec![item('a', "").path], 1));

    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let (result, installed) = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(50));
            cancel.cancel();
        });
        attempt(&[item('b', "")])
    });
    assert_eq!((result.unwrap_err().kind(), installed), (ErrorKind::Cancelled, 1));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn nothing_is_put_in_place_once_cancelled() {
    let scratch = tempfile::tempdir().unwrap();
    let directories = create(scratch.path());
    let cancel = Cancel::default();
    let mut database = Database::open(&directories, &Cancel::default()).unwrap();
    database.obey(&cancel);
    let mut installed = Vec::new();
    let result = database.register(&[item('a', ""), item('b', "")], |item| {
        installed.push(item.path.clone());
        cancel.cancel();
        Ok(())
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(installed, [item('a', "").path]);
    assert!(query(&directories, ROWS).is_empty());
}

/// Needs root, who can become somebody else in one thread.
#[test]
fn a_database_that_may_not_be_used_says_who_must_be_let_in() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let directories = create(scratch.path());
    Database::open(&directories, &Cancel::default()).unwrap();
    let file = directories.database.join("db.sqlite");
    for mode in [0o644, 0o600] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        let error = crate::store::tests::as_nobody(|| Database::open(&directories, &Cancel::default()).map(|_| ()))
            .expect_err("it may be written to");
        assert_eq!(error.kind(), ErrorKind::Store, "{error}");
        assert!(error.to_string().contains("db.sqlite"), "{error}");
        assert!(
            error.hint_text().unwrap().contains(&format!("chown -R 65534 {}", scratch.path().display())),
            "{error}"
        );
    }
}

#[test]
fn a_database_that_is_missing_or_of_another_schema_is_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    let directories = create(scratch.path());
    for version in ["8", "", "seven"] {
        std::fs::write(directories.database.join("schema"), version).unwrap();
        assert!(Database::open(&directories, &Cancel::default()).is_err(), "{version:?}");
    }
    std::fs::write(directories.database.join("schema"), "7\n").unwrap();
    Database::open(&directories, &Cancel::default()).unwrap();
    std::fs::remove_file(directories.database.join("db.sqlite")).unwrap();
    let error = Database::open(&directories, &Cancel::default()).err().unwrap();
    assert!(error.to_string().contains("db.sqlite"), "{error}");
    assert!(!directories.database.join("db.sqlite").exists(), "it was not created");
    std::fs::remove_file(directories.database.join("schema")).unwrap();
    assert_eq!(Database::open(&directories, &Cancel::default()).err().unwrap().kind(), ErrorKind::Store);
}

#[test]
fn settings_are_those_of_guix_daemon() {
    let scratch = tempfile::tempdir().unwrap();
    let database = Database::open(&create(scratch.path()), &Cancel::default()).unwrap();
    let setting = |name: &str| database.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(setting("foreign_keys"), 1);
    assert_eq!(setting("synchronous"), 1);
    // guix-daemon waits for an hour inside SQLite. Here a wait is as long, but SQLite waits only for moments.
    assert!(setting("busy_timeout") <= 500 && LOCK_TIMEOUT >= Duration::from_secs(60 * 60));
    assert_eq!(setting("wal_autocheckpoint"), 40_000);
    let mode: String = database.connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[test]
fn heads_are_what_no_other_item_refers_to() {
    let directory = tempfile::tempdir().unwrap();
    let mut database = Database::open(&create(directory.path()), &Cancel::default()).unwrap();
    let (a, b, c, d) = (item('a', "a"), item('b', "ab"), item('c', "a"), item('d', "bc"));
    register(&mut database, &[a.clone(), b.clone(), c.clone(), d.clone()]).unwrap();
    let paths = |items: &[&ValidPath]| items.iter().map(|item| item.path.clone()).collect::<Vec<_>>();
    let heads = |items: &[&ValidPath], others: &[ValidPath]| database.heads(&paths(items), others).unwrap();
    assert_eq!(heads(&[&a, &b, &c, &d], &[]), paths(&[&d]));
    assert_eq!(heads(&[&a, &b, &c], &[]), paths(&[&b, &c]));
    // An item that refers only to itself is a head. So is an item that is not known.
    assert_eq!(heads(&[&a, &item('g', "")], &[]), paths(&[&a, &item('g', "")]));
    assert_eq!(heads(&[&a, &b, &c], &[d]), paths(&[]));
    assert_eq!(heads(&[&a, &b, &c], &[item('f', "cz")]), paths(&[&b]));
}
