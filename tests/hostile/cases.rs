// SPDX-License-Identifier: GPL-3.0-or-later
//! The lies.

use std::io::Write;

use guix_offload::ground::error::ErrorKind;
use guix_offload::remote::TRUST_TEXT;

use crate::double::{Answer, Plan, hangs_up_after, info, says, says_for_ever};
use crate::fixture::Scene;
use crate::forgeries::forgeries;
use crate::wire_bytes::*;

pub struct Lie {
    pub name: String,
    pub plan: Plan,
    pub kind: ErrorKind,
    /// What the error says.
    pub words: Vec<String>,
}

/// Every lie that is told to a whole build.
pub fn lies(scene: &Scene) -> Vec<Lie> {
    let all = [
        about_archives(scene),
        about_signatures(scene),
        about_names(scene),
        about_frames(scene),
        about_sending(scene),
        about_trust(scene),
        about_building(scene),
    ];
    all.into_iter().flatten().collect()
}

fn lie(name: &str, plan: Plan, kind: ErrorKind, words: &[&str]) -> Lie {
    Lie { name: name.into(), plan, kind, words: words.iter().map(|word| word.to_string()).collect() }
}

/// Plans that differ from the honest one in one answer.
pub fn with(scene: &Scene, change: impl FnOnce(&mut Plan)) -> Plan {
    let mut plan = scene.honest(&[]);
    change(&mut plan);
    plan
}

/// `first`, and a list of a million items, one of which `scene` has.
fn lists_a_million(scene: &Scene, first: Vec<u8>) -> Answer {
    let block = string(scene.path("output").as_str()).repeat(1 << 10);
    std::sync::Arc::new(move |to| {
        to.write_all(&[first.clone(), number(1 << 20)].concat())?;
        (0..1 << 10).try_for_each(|_| to.write_all(&block))
    })
}

/// An export of these frames.
fn export(scene: &Scene, answer: Answer) -> Plan {
    with(scene, |plan| (plan.export, plan.info) = (answer, says(info(1000))))
}

/// What is wrong with the archive itself, or who vouches for it.
fn about_archives(scene: &Scene) -> Vec<Lie> {
    use ErrorKind::{Protocol, Unavailable, Untrusted};
    let exporting = |archive: &[u8]| scene.honest(archive);
    let export = |answer| export(scene, answer);
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
        lie(
            "a key of thirty thousand brackets",
            exporting(
                &good.with_signature(
                    format!("(signature (data) (sig-val) (public-key {}{}))", "(".repeat(30_000), ")".repeat(30_000))
                        .as_bytes(),
                ),
            ),
            Untrusted,
            &[output, "signed by a key", "(public-key ((((("],
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

/// Those forgeries that are told to a whole build; the others are told to what verifies signatures.
const FORGED: [&str; 7] = [
    "a hash before the flag",
    "the signed hash first",
    "the signed hash last",
    "a doubled hash",
    "a display hint of the hash",
    "a data before it",
    "the signed one first",
];

/// A key that is authorized has signed something, if not this: "0" each time.
fn about_signatures(scene: &Scene) -> Vec<Lie> {
    let item = scene.output(nar(file(b"evil\n")));
    let old = sha256(b"0");
    let kinds = [
        ("ECDSA: ", include_str!("../fixtures/archive/ecdsa.signature")),
        ("RSA: ", include_str!("../fixtures/archive/rsa.signature")),
    ];
    let told = kinds.into_iter().flat_map(|(kind, signature)| {
        let forged = forgeries(signature, &old, &item.signed_hash());
        let item = item.clone();
        forged.into_iter().filter(|(name, _)| FORGED.contains(name)).map(move |(name, text)| {
            let plan = scene.honest(&item.with_signature(text.as_bytes()));
            lie(&format!("{kind}{name}"), plan, ErrorKind::Untrusted, &[&item.path])
        })
    });
    told.collect()
}

/// What no file system has, or should have.
fn about_names(scene: &Scene) -> Vec<Lie> {
    let archive = |node: Vec<u8>| scene.honest(&scene.output(nar(node)).signed(&scene.trusted));
    let named = |names: &[&[u8]]| {
        let entries: Vec<_> = names.iter().map(|name| (*name, file(b"evil"))).collect();
        archive(directory(&entries))
    };
    let victim = scene.at("victim");
    let victim = victim.to_str().unwrap();
    let through = |second: Vec<u8>| archive(directory(&[(b"a", symlink(victim)), (b"a", second)]));
    let sized = |size: u64| {
        let node = [strings(&["(", "type", "regular", "contents"]), number(size), vec![b'x'; 64 << 10]].concat();
        export(scene, says_for_ever([number(WRITE), number(u64::MAX), nar(node)].concat(), vec![b'x'; 8]))
    };
    let of_size = |size: u64| with(scene, |plan| plan.info = says(info(size)));
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
        malformed("ten thousand directories", scene.honest(&deep), &["more than 2047 directories"]),
        malformed("a file of 2^63 bytes", sized(1 << 63), &["a file of 9223372036854775808 bytes"]),
        malformed("a file of 2^64-1 bytes", sized(u64::MAX), &["a file of 18446744073709551615 bytes"]),
        malformed("a file of 2^63-1 bytes", sized(i64::MAX as u64), &["more than the 1000 bytes came"]),
        malformed("an output of 2^64-1 bytes", of_size(u64::MAX), &["cannot be true", "18446744073709551615 bytes"]),
        malformed("an output of 2^63-1 bytes", of_size(i64::MAX as u64), &["cannot be true"]),
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
                export(scene, answer)
            },
            &["more than the 1000 bytes came"],
        ),
    ]
}

/// Frames out of turn and out of their minds.
fn about_frames(scene: &Scene) -> Vec<Lie> {
    use ErrorKind::{Protocol, Unavailable};
    let export = |answer| export(scene, answer);
    let unknown = number(0xdead);
    let log = |length: u64| [number(NEXT), number(length)].concat();
    let good = scene.output(nar(file(b"good\n"))).signed(&scene.trusted);
    let mut padded = gives(&good[..good.len() - 3]);
    *padded.last_mut().unwrap() = 1;
    let wants = |length: u64| [number(READ), number(length)].concat();
    let building = |answer: Vec<u8>| with(scene, |plan| plan.build = says(answer));
    let asking = |answer: Vec<u8>| with(scene, |plan| plan.valid = Some(says(answer)));
    let many = [last(), number(u64::MAX)].concat();
    let foreign = [last(), number(1), string("/etc/passwd")].concat();
    let greeting = |magic, version| with(scene, |plan| plan.greeting = says([number(magic), number(version)].concat()));
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
        lie(
            "a million valid items",
            with(scene, |plan| plan.valid = Some(lists_a_million(scene, last()))),
            Protocol,
            &["1048576 times", "more than"],
        ),
        lie(
            "a million references",
            with(scene, |plan| {
                plan.info = lists_a_million(scene, [last(), string(""), string("0".repeat(64))].concat());
            }),
            Protocol,
            &["1048576 times", "more than 65536"],
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
        lie(
            "an endless export of nothing",
            export(says_for_ever(vec![], gives(b""))),
            Protocol,
            &["more than 1024 KiB"],
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
            with(scene, |plan| plan.greeting = hangs_up_after(vec![])),
            Unavailable,
            &["closed the connection"],
        ),
        lie(
            "no answer to a build",
            with(scene, |plan| plan.build = hangs_up_after(vec![])),
            Unavailable,
            &["closed the connection"],
        ),
        lie(
            "an endless log where there is none",
            with(scene, |plan| plan.valid = Some(says_for_ever(vec![], [number(NEXT), string("la ")].concat()))),
            Protocol,
            &["missing", "more than 1024 KiB of log"],
        ),
    ]
}

/// What is said while it is sent something.
fn about_sending(scene: &Scene) -> Vec<Lie> {
    use ErrorKind::Protocol;
    let importing = |answer: Vec<u8>| {
        with(scene, |plan| {
            plan.has_all = false;
            plan.import = says(answer);
        })
    };
    let wanting = with(scene, |plan| {
        plan.has_all = false;
        plan.import = says_for_ever(vec![], [number(READ), number(1 << 20)].concat());
    });
    vec![
        lie("READ of 0 bytes", importing([number(READ), number(0)].concat()), Protocol, &["sending", "0 bytes"]),
        lie("READ without an end", wanting, Protocol, &["sending", "asked for more than there is"]),
        lie("data during an import", importing(gives(b"x")), Protocol, &["sending", "during an import"]),
        lie("an unknown frame in an import", importing(number(7)), Protocol, &["sending", "unknown type 0x7"]),
        lie("2^64-1 imported items", importing([last(), number(u64::MAX)].concat()), Protocol, &["sending", "times"]),
        lie("an import that fails", importing(fails("no room", 1)), ErrorKind::Daemon, &["sending", "no room"]),
    ]
}

/// What is said when it is to be seen whether what it signs is trusted: before it builds anything.
fn about_trust(scene: &Scene) -> Vec<Lie> {
    use ErrorKind::{Protocol, Untrusted};
    let (text, name) = (scene.proof(), TRUST_TEXT.0);
    let never = || says(fails("it was told to build all the same", 1));
    let proving = |proof: Answer| with(scene, |plan| (plan.proof, plan.build) = (proof, never()));
    let proof = |bytes: &[u8]| proving(says([gives(bytes), done()].concat()));
    let signed = text.signed(&scene.trusted);
    let mut other = text.clone();
    other.path = scene.path("other").as_str().into();
    let no_key = "getting attributes of path `/etc/guix/signing-key.sec': No such file or directory";
    let endless = says_for_ever([number(WRITE), number(u64::MAX)].concat(), nar(file(b"x")));
    vec![
        lie("an unsigned text", proof(&text.unsigned()), Untrusted, &[name, "is not signed"]),
        lie("a text of a stranger", proof(&text.signed(&scene.stranger)), Untrusted, &[name, "by a key"]),
        lie("another text", proof(&other.signed(&scene.trusted)), Untrusted, &["-other came instead"]),
        lie("two texts", proof(&signed.repeat(2)), Protocol, &[name, "bytes came after"]),
        lie("half a text", proof(&signed[..signed.len() / 2]), Protocol, &[name, "cut off"]),
        lie("no key to sign with", proving(says(fails(no_key, 1))), Untrusted, &["cannot sign"]),
        lie("a text without an end", proving(endless), Protocol, &["more than 64 KiB of a short text"]),
    ]
}

/// Failures that are not the build's.
fn about_building(scene: &Scene) -> Vec<Lie> {
    use ErrorKind::{Daemon, Unavailable};
    let log = |text: &str| [number(NEXT), string(text)].concat();
    let building = |log: Vec<u8>, message: &str, status| {
        with(scene, |plan| plan.build = says([log, fails(message, status)].concat()))
    };
    let failed = "build of `/gnu/store/x-asked.drv' failed";
    let full = "note: build failure may have been caused by lack of free disk space\n";
    let status = fails("no", 100);
    vec![
        lie("no space to build in", building(log(full), failed, 1), Unavailable, &["building", failed, "disk space"]),
        lie("a hook of its own that failed", building(vec![], failed, 1), Daemon, &["building", failed]),
        lie(
            "a missing input",
            building(log("cannot build derivation `x.drv': 1 dependencies couldn't be built\n"), failed, 1),
            Daemon,
            &["building", failed],
        ),
        lie(
            "a question that failed as a build does",
            with(scene, |p| p.valid = Some(says(status))),
            Daemon,
            &["missing", "no"],
        ),
        lie(
            "an import that failed as a build does",
            with(scene, |plan| (plan.has_all, plan.import) = (false, says(fails("no", 100)))),
            Daemon,
            &["sending", "no"],
        ),
    ]
}
