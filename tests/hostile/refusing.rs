// SPDX-License-Identifier: GPL-3.0-or-later
//! The lies are told, through a real sshd and all layers up to the outcome of the build.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant, UNIX_EPOCH};

use guix_offload::build::engine::Engine;
use guix_offload::ground::error::{Class, ErrorKind, Result};
use guix_offload::report::{Event, Observer};

use crate::alone;
use crate::builder::Builder;
use crate::cases::{Lie, lies, with};
use crate::double::{Answer, Machine, says, says_for_ever};
use crate::fixture::Scene;
use crate::harness::{NAME, Told, build, limited_to, machine, tell, tell_by};
use crate::sshd::Sshd;
use crate::wire_bytes::*;

/// A build of these takes a moment; a lie must not make it much more.
const PROMPTLY: Duration = Duration::from_secs(20);

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
pub fn scene() -> Scene {
    let scene = Scene::new();
    // No name that follows from the contents: it has to be exported.
    scene.register("asked.drv", b"derive", &nar(file(b"derive")));
    let victim = scene.at("victim");
    fs::create_dir(&victim).unwrap();
    let kept = fs::File::create(victim.join("kept")).unwrap();
    (&kept).write_all(b"kept\n").unwrap();
    kept.set_permissions(PermissionsExt::from_mode(0o640)).unwrap();
    kept.set_modified(UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
    scene
}

#[test]
fn no_lie_of_a_machine_is_believed() {
    let _alone = alone();
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let machine = machine(&sshd, &scene);
    let lies = lies(&scene);
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
        let mut plan = scene.honest(&scene.output(nar(node)).signed(&scene.trusted));
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

/// The first build on a connection asks for what is to be judged, the others do not; by a list that is changed, it is
/// judged anew.
#[test]
fn whether_a_machine_is_trusted_is_asked_once_a_connection() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let _alone = alone();
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let machine = machine(&sshd, &scene);
    let (asked, built) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = |answer: Answer, count: &Arc<AtomicUsize>| -> Answer {
        let count = Arc::clone(count);
        Arc::new(move |to| {
            count.fetch_add(1, Ordering::SeqCst);
            answer(to)
        })
    };
    let mut plan = scene.honest(&scene.output(nar(file(b"good\n"))).signed(&scene.trusted));
    (plan.proof, plan.build) = (counted(plan.proof, &asked), counted(plan.build, &built));
    let builder = Builder::new(Engine::new(scene.directories.clone(), Duration::from_secs(60)).unwrap());
    let _double = Machine::at(&scene.at("machine"), plan);
    let build = || {
        let error = tell_by(&builder, &scene, &machine, limited_to(0)).error();
        scene.forget_output();
        (error, asked.load(Ordering::SeqCst), built.load(Ordering::SeqCst))
    };
    for number in 1..=3 {
        let (error, asked, built) = build();
        assert!(error.is_none(), "{error:?}");
        assert_eq!((asked, built), (1, number));
    }
    let acl = scene.directories.acl_file();
    let keys = fs::read(&acl).unwrap();
    fs::write(&acl, "(acl)").unwrap();
    // What it has shown is judged again. The second time, nobody asks it anything any more.
    for _ in 0..2 {
        let (error, asked, built) = build();
        let error = error.expect("it is not authorized any more");
        assert!(
            error.kind() == ErrorKind::Untrusted && error.hint_text().unwrap().contains("guix archive --authorize")
        );
        assert_eq!((asked, built), (1, 3), "{error}");
    }
    // Once the list is changed again it is connected to, and asked before anything else.
    fs::write(&acl, keys).unwrap();
    let (error, asked, built) = build();
    assert!(error.is_none(), "{error:?}");
    assert_eq!((asked, built), (2, 4));
    for (list, why) in [("(acl x)", "not an access control list"), ("", "is empty")] {
        fs::write(&acl, list).unwrap();
        let (error, asked, built) = build();
        let error = error.expect("there is no list");
        assert!(error.kind() == ErrorKind::Configuration && error.to_string().contains(why), "{error}");
        assert_eq!((asked, built), (2, 4), "{error}");
    }
}

#[test]
fn what_has_no_end_is_ended() {
    let _alone = alone();
    // Beside each other, as most of it is waiting; together they stay within what one may use.
    std::thread::scope(|scope| {
        scope.spawn(an_endless_log);
        scope.spawn(endless_words_before_ssh);
    });
}

/// Takes the log less quickly than a machine can make it.
#[derive(Default)]
struct Reader(usize);

impl Observer for Reader {
    fn event(&mut self, _: &Event<'_>) {}

    fn log(&mut self, text: &[u8]) -> Result<()> {
        std::thread::sleep(Duration::from_millis(5));
        self.0 += text.len();
        Ok(())
    }
}

/// It ends with the time that the build may take.
fn an_endless_log() {
    let (scene, sshd) = (scene(), Sshd::start(&[]));
    let frames = [number(NEXT), string([b'x'; 4096])].concat();
    let plan = with(&scene, |plan| plan.build = says_for_ever(vec![], frames));
    let (mut reader, begun) = (Reader::default(), Instant::now());
    let error = build(&scene, &machine(&sshd, &scene), plan, limited_to(1), &mut reader).unwrap_err();
    assert!(reader.0 > 1 << 20, "{} bytes of log", reader.0);
    assert!(begun.elapsed() < PROMPTLY, "{:?}", begun.elapsed());
    assert_eq!(error.class(), Class::Timeout, "{error}");
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
    let told = tell(&scene, &machine, scene.honest(&[]), 0);
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
    let error = tell(&scene, &machine(&sshd, &scene), scene.honest(&[]), 0).error().expect("a failure");
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("Banner")), "{error}");
}
