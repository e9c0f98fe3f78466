// SPDX-License-Identifier: GPL-3.0-or-later
//! The lies, through a real sshd and all layers up to the outcome of the build.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use guix_offload::error::{Class, ErrorKind};

use crate::alone;
use crate::double::{Answer, Plan, hangs_up_after, info, says, says_for_ever};
use crate::scene::Scene;
use crate::sshd::Sshd;
use crate::telling::{NAME, Told, machine, tell};
use crate::words::*;

/// A build of these takes a moment; a lie must not make it much more.
const PROMPTLY: Duration = Duration::from_secs(20);

struct Lie {
    name: &'static str,
    plan: Plan,
    kind: ErrorKind,
    /// What the error says.
    words: Vec<String>,
}

fn lie(name: &'static str, plan: Plan, kind: ErrorKind, words: &[&str]) -> Lie {
    Lie { name, plan, kind, words: words.iter().map(|word| word.to_string()).collect() }
}

/// Plans that differ from the honest one in one answer.
fn with(change: impl FnOnce(&mut Plan)) -> Plan {
    let mut plan = Plan::honest(&[]);
    change(&mut plan);
    plan
}

fn exporting(archive: &[u8]) -> Plan {
    Plan::honest(archive)
}

/// An export of these frames.
fn export(answer: Answer) -> Plan {
    with(|plan| (plan.export, plan.info) = (answer, says(info(1000))))
}

/// What is wrong with the archive itself, or who vouches for it.
fn about_archives(scene: &Scene) -> Vec<Lie> {
    use ErrorKind::{Protocol, Unavailable, Untrusted};
    let output = scene.path("output");
    let good = scene.output(nar(file(b"good\n")));
    let other = scene.output(nar(file(b"other\n")));
    let mut elsewhere = good.clone();
    elsewhere.path = scene.path("elsewhere").as_str().into();
    let referring = |to: &str| {
        let mut item = good.clone();
        item.references = vec![to.to_string()];
        item.signed(&scene.trusted)
    };
    let absent = scene.path("absent");
    let signed = good.signed(&scene.trusted);
    let half = &signed[..signed.len() / 2];
    let mut padded = signed.clone();
    let end_of_contents = padded.windows(5).position(|window| window == b"good\n").unwrap() + 5;
    padded[end_of_contents] = 1;
    let output = output.as_str();
    vec![
        lie("unsigned", exporting(&good.unsigned()), Untrusted, &[output, "is not signed"]),
        lie("a stranger's key", exporting(&good.signed(&scene.stranger)), Untrusted, &[output, "signed by a key"]),
        lie(
            "a signature of other contents",
            exporting(&good.with_signature(&other.signature(&scene.trusted))),
            Untrusted,
            &[output, "its hash is not the one that was signed"],
        ),
        lie("no signature at all", exporting(&good.with_signature(b"trust me")), Untrusted, &[output]),
        lie(
            "another item, well signed",
            exporting(&elsewhere.signed(&scene.trusted)),
            Untrusted,
            &[output, "-elsewhere came instead"],
        ),
        lie("a reference out of the store", exporting(&referring("/etc/passwd")), Protocol, &[output, "/etc/passwd"]),
        lie(
            "a reference into an item",
            exporting(&referring(&format!("{}/x", absent.as_str()))),
            Protocol,
            &[output, "not the name of a store item"],
        ),
        lie("a reference to nothing", exporting(&referring(absent.as_str())), Untrusted, &[output, absent.as_str()]),
        lie("more items than asked", exporting(&signed.repeat(2)), Protocol, &[output, "bytes after"]),
        lie("a truncated archive", exporting(half), Protocol, &[output, "cut off after byte"]),
        lie("half an archive", export(hangs_up_after(gives(half))), Unavailable, &[output, "closed the connection"]),
        lie("padding in the archive", exporting(&padded), Protocol, &[output, "malformed at byte"]),
        lie("no archive", exporting(&[]), Protocol, &[output, "cut off after byte 0"]),
        lie(
            "an export that fails",
            export(says(fails("no \x1b[31mway\n", 1))),
            ErrorKind::Daemon,
            &[output, "no  [31mway"],
        ),
    ]
}

/// What no file system has, or should have.
fn about_names(scene: &Scene) -> Vec<Lie> {
    let archive = |node: Vec<u8>| Plan::honest(&scene.output(nar(node)).signed(&scene.trusted));
    let named = |names: &[&[u8]]| {
        let entries: Vec<_> = names.iter().map(|name| (*name, file(b"evil"))).collect();
        archive(directory(&entries))
    };
    let victim = scene.at("victim");
    let victim = victim.to_str().unwrap();
    let through = |second: Vec<u8>| archive(directory(&[(b"a", symlink(victim)), (b"a", second)]));
    let sized = |size: u64| {
        let node = [strings(&["(", "type", "regular", "contents"]), number(size), vec![b'x'; 64 << 10]].concat();
        export(says_for_ever([number(WRITE), number(u64::MAX), nar(node)].concat(), vec![b'x'; 8]))
    };
    let malformed = |name, plan, words: &[&str]| lie(name, plan, ErrorKind::Protocol, words);
    let open = strings(&["entry", "(", "name", "d", "node", "(", "type", "directory"]);
    let deep = [strings(&["nix-archive-1", "(", "type", "directory"]), open.repeat(9_999)].concat();
    vec![
        malformed("an entry ..", named(&[b".."]), &["at byte", "cannot be called '..'"]),
        malformed("an entry .", named(&[b"."]), &["cannot be called '.'"]),
        malformed("an entry without a name", named(&[b""]), &["cannot be called ''"]),
        malformed("an entry with a slash", named(&[b"../victim/x"]), &["cannot be called '../victim/x'"]),
        malformed("an entry with a zero byte", named(&[b"a\0b"]), &["cannot be called 'a\\x00b'"]),
        malformed("unsorted entries", named(&[b"b", b"a"]), &["'a' comes after 'b'"]),
        malformed("doubled entries", named(&[b"a", b"a"]), &["'a' comes after 'a'"]),
        malformed("a link, then a file through it", through(directory(&[(b"x", file(b"evil"))])), &["comes after"]),
        malformed("a link, then a file in its place", through(file(b"evil")), &["comes after"]),
        malformed("an endless name", named(&[&[b'x'; 256]]), &["file name of 256 bytes"]),
        malformed("an empty target", archive(symlink("")), &["cannot have this target"]),
        malformed("ten thousand directories", Plan::honest(&deep), &["more than 2047 directories"]),
        malformed("a file of 2^63 bytes", sized(1 << 63), &["a file of 9223372036854775808 bytes"]),
        malformed("a file of 2^64-1 bytes", sized(u64::MAX), &["a file of 18446744073709551615 bytes"]),
        // A full disk looks the same, which is this host's trouble.
        lie("a file of 2^63-1 bytes", sized(i64::MAX as u64), ErrorKind::Store, &["MiB, but only"]),
        lie("an output of 2^64-1 bytes", with(|p| p.info = says(info(u64::MAX))), ErrorKind::Store, &["MiB are free"]),
        malformed(
            "more than was announced",
            {
                let files = |name: u64| {
                    let entry = [strings(&["entry", "(", "name"]), string(format!("{name:08}")), strings(&["node"])];
                    [entry.concat(), file(&[7; 1 << 20]), strings(&[")"])].concat()
                };
                let begin = strings(&["nix-archive-1", "(", "type", "directory"]);
                let answer: Answer = std::sync::Arc::new(move |to| {
                    to.write_all(&[number(WRITE), number(u64::MAX), begin.clone()].concat())?;
                    (0..).try_for_each(|name| to.write_all(&files(name)))
                });
                export(answer)
            },
            &["more than the 1000 bytes came"],
        ),
    ]
}

/// Frames out of turn and out of their minds.
fn about_frames(scene: &Scene) -> Vec<Lie> {
    use ErrorKind::{Protocol, Unavailable};
    let unknown = number(0xdead);
    let log = |length: u64| [number(NEXT), number(length)].concat();
    let good = scene.output(nar(file(b"good\n"))).signed(&scene.trusted);
    let mut padded = gives(&good[..good.len() - 3]);
    *padded.last_mut().unwrap() = 1;
    let wants = |length: u64| [number(READ), number(length)].concat();
    let building = |answer: Vec<u8>| with(|plan| plan.build = says(answer));
    let asking = |answer: Vec<u8>| with(|plan| plan.valid = Some(says(answer)));
    let many = [last(), number(u64::MAX)].concat();
    let foreign = [last(), number(1), string("/etc/passwd")].concat();
    let greeting = |magic, version| with(|plan| plan.greeting = says([number(magic), number(version)].concat()));
    let out_of_turn = "a frame out of turn";
    vec![
        lie(
            "an unknown frame while building",
            building(unknown.clone()),
            Protocol,
            &["unknown type 0xdead", "building"],
        ),
        lie("an unknown frame in an export", export(says(unknown.clone())), Protocol, &["unknown type 0xdead"]),
        lie("an unknown frame at the start", asking(unknown), Protocol, &["unknown type 0xdead", "missing"]),
        lie("a log of 2^64-1 bytes", building(log(u64::MAX)), Protocol, &["18446744073709551615 bytes"]),
        lie(
            "an error of 2^64-1 bytes",
            building([number(ERROR), number(u64::MAX)].concat()),
            Protocol,
            &["an error message"],
        ),
        lie("2^64-1 valid items", asking(many), Protocol, &["18446744073709551615 times"]),
        lie("a valid item out of the store", asking(foreign), Protocol, &["/etc/passwd"]),
        lie(
            "data of 2^64-1 bytes",
            export(hangs_up_after([number(WRITE), number(u64::MAX), good.clone()].concat())),
            Unavailable,
            &["closed the connection"],
        ),
        lie(
            "padding after data",
            export(says([padded, gives(&good[good.len() - 3..]), done()].concat())),
            Protocol,
            &["padding that is not zero"],
        ),
        lie("READ in an export", export(says(wants(8))), Protocol, &["asked for data during an export"]),
        lie("READ while building", building(wants(8)), Protocol, &[out_of_turn]),
        lie("READ at the start", asking(wants(8)), Protocol, &[out_of_turn]),
        lie("data while building", building(gives(b"x")), Protocol, &[out_of_turn]),
        lie("a greeting of somebody else", greeting(0x2d48_5353, 0x164), Protocol, &["not guix-daemon"]),
        lie("a version from the future", greeting(0x6478_696f, 0x264), Protocol, &["version 0x264"]),
        lie("a version from the past", greeting(0x6478_696f, 0x160), Protocol, &["version 0x160"]),
        lie(
            "no greeting",
            with(|plan| plan.greeting = hangs_up_after(vec![])),
            Unavailable,
            &["closed the connection"],
        ),
        lie(
            "no answer to a build",
            with(|plan| plan.build = hangs_up_after(vec![])),
            Unavailable,
            &["closed the connection"],
        ),
        lie(
            "an endless log where there is none",
            with(|plan| plan.valid = Some(says_for_ever(vec![], [number(NEXT), string("la ")].concat()))),
            Protocol,
            &["missing", "more than 1024 KiB of log"],
        ),
    ]
}

/// What is said while it is sent something.
fn about_sending() -> Vec<Lie> {
    use ErrorKind::Protocol;
    let importing = |answer: Vec<u8>| {
        with(|plan| {
            plan.has_all = false;
            plan.import = says(answer);
        })
    };
    vec![
        lie("READ of 0 bytes", importing([number(READ), number(0)].concat()), Protocol, &["sending", "0 bytes"]),
        lie("data during an import", importing(gives(b"x")), Protocol, &["sending", "during an import"]),
        lie("an unknown frame in an import", importing(number(7)), Protocol, &["sending", "unknown type 0x7"]),
        lie("2^64-1 imported items", importing([last(), number(u64::MAX)].concat()), Protocol, &["sending", "times"]),
        lie("an import that fails", importing(fails("no room", 1)), ErrorKind::Daemon, &["sending", "no room"]),
    ]
}

#[track_caller]
fn assert_refused(scene: &Scene, lie: &Lie, told: Told) {
    let Lie { name, kind, words, .. } = lie;
    assert!(told.time < PROMPTLY, "{name}: it took {:?}", told.time);
    let error = told.error().unwrap_or_else(|| panic!("{name}: it was believed"));
    assert_eq!(error.kind(), *kind, "{name}: {error}");
    assert_eq!(error.class(), Class::Transient, "{name}: {error}");
    words.iter().for_each(|word| assert!(error.to_string().contains(word), "{name}: {word:?} not in: {error}"));
    assert!(!error.to_string().contains('\x1b'), "{name}: {error}");
    if *kind != ErrorKind::Store {
        assert_eq!(error.machine(), Some(NAME), "{name}: {error}");
    }
    assert!(!scene.database().is_valid(&scene.path("output")).unwrap(), "{name}: it is valid");
    assert_eq!(scene.names(), [scene.path("asked.drv").base_name()], "{name}: what is in the store");
    // What a link in an archive could have led to.
    let victim = fs::metadata(scene.at("victim/kept")).unwrap();
    assert_eq!((victim.mode() & 0o7777, victim.mtime(), victim.len()), (0o640, 1000, 5), "{name}: another's file");
    assert_eq!(fs::read_dir(scene.at("victim")).unwrap().count(), 1, "{name}: another's directory");
}

/// A scene with a derivation to send and something to harm.
fn scene() -> Scene {
    let scene = Scene::new();
    // No name that follows from the contents: it has to be exported.
    scene.register("asked.drv", b"derive", &nar(file(b"derive")));
    let victim = scene.at("victim");
    fs::create_dir(&victim).unwrap();
    let kept = fs::File::create(victim.join("kept")).unwrap();
    (&kept).write_all(b"kept\n").unwrap();
    kept.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    kept.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
    scene
}

#[test]
fn no_lie_of_a_machine_is_believed() {
    let _alone = alone();
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let machine = machine(&sshd, &scene);
    let lies = [about_archives(&scene), about_names(&scene), about_frames(&scene), about_sending()];
    let lies: Vec<Lie> = lies.into_iter().flatten().collect();
    let mut table = String::new();
    for lie in &lies {
        let told = tell(&scene, &machine, lie.plan.clone(), 0);
        table += &format!("{:>6} ms  {}\n", told.time.as_millis(), lie.name);
        assert_refused(&scene, lie, told);
    }
    println!("{table}{} lies", lies.len());
}

#[test]
fn an_honest_machine_is_believed_and_its_links_are_not_followed() {
    let _alone = alone();
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let machine = machine(&sshd, &scene);
    let kept = scene.at("victim/kept");
    let victim = scene.at("victim");
    let nodes = [
        symlink(kept.to_str().unwrap()),
        symlink(victim.to_str().unwrap()),
        directory(&[
            (b"a", symlink(victim.to_str().unwrap())),
            (b"b", symlink(kept.to_str().unwrap())),
            (b"c", file(b"x")),
        ]),
    ];
    for node in nodes {
        let mut plan = Plan::honest(&scene.output(nar(node)).signed(&scene.trusted));
        // Nobody who says this is from the future that matters.
        plan.greeting = says([number(0x6478_696f), number(0x1ff)].concat());
        let told = tell(&scene, &machine, plan, 0);
        told.result.unwrap();
        assert!(scene.database().is_valid(&scene.path("output")).unwrap());
        let before = fs::metadata(&kept).unwrap();
        assert_eq!((before.mode() & 0o7777, before.mtime()), (0o640, 1000));
        // Removing does not follow them either.
        scene.forget_output();
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);
    }
}

#[test]
fn what_has_no_end_is_ended() {
    // Beside other tests, as most of it is waiting; together they stay within what one may use.
    std::thread::scope(|scope| {
        scope.spawn(an_endless_log);
        scope.spawn(endless_words_before_ssh);
    });
}

/// It ends with the time that the build may take.
fn an_endless_log() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let frames = [number(NEXT), string([b'x'; 4096])].concat();
    let plan = with(|plan| plan.build = says_for_ever(vec![], frames));
    let told = tell(&scene, &machine(&sshd, &scene), plan, 1);
    assert!(told.log > 1 << 20, "{} bytes of log", told.log);
    assert!(told.time < PROMPTLY, "{:?}", told.time);
    assert_eq!(told.error().unwrap().class(), Class::Timeout);
}

fn endless_words_before_ssh() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut machine = machine(&sshd, &scene);
    machine.port = listener.local_addr().unwrap().port();
    let talker = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut sent = 0u64;
        while client.write_all(&[b'x'; 64 << 10]).is_ok() {
            sent += 64 << 10;
        }
        sent
    });
    let told = tell(&scene, &machine, Plan::honest(&[]), 0);
    assert!(talker.join().unwrap() > 1 << 20);
    assert!(told.time < PROMPTLY, "{:?}", told.time);
    let error = told.error().expect("no SSH");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Protocol), "{error}");
}

#[test]
fn a_banner_that_is_too_long_is_said_to_be_one() {
    let _alone = alone();
    let scene = scene();
    let file = scene.at("banner");
    fs::write(&file, "All work and no play.\n".repeat((255 << 10) / 22)).unwrap();
    let sshd = Sshd::start(&[&format!("Banner {}", file.display())]);
    let error = tell(&scene, &machine(&sshd, &scene), Plan::honest(&[]), 0).error().expect("a failure");
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("Banner")), "{error}");
}
