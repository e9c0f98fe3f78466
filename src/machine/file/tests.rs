// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of the whole way from a text to its machines. They need `guile` in PATH.

mod evaluating;
mod keeping;
mod texts;

use std::path::Path;

use self::texts::{ERRORS, GUILE_ERRORS, PLAIN, PROGRAMS};
use super::*;
use crate::machine::HostKey;
use crate::machine::tests::KEY;

/// Completes a text of [`texts`].
fn text(short: &str) -> String {
    let text = short.replace('@', "(systems (list \"x86_64-linux\")) (user \"u\") (host-key \"KEY\")");
    text.replace("KEY", KEY).replace("__", "@")
}

/// The machines, and the errors about those that are left out; or why the file fails.
type Outcome = Result<(Vec<BuildMachine>, Vec<String>), String>;

fn validated(entries: Result<Entries>) -> Outcome {
    let loaded = entries.map(|entries| validate("m.scm", entries, &|| Ok("/home/u/.ssh/id".into())));
    let loaded = loaded.map_err(|error| error.to_string())?;
    for error in &loaded.left_out {
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        assert!(error.hint_text().is_some(), "nothing to do about: {error}");
    }
    Ok((loaded.machines, loaded.left_out.iter().map(Error::to_string).collect()))
}

/// Returns the machines of a file without errors.
fn faultless(outcome: Outcome) -> Vec<BuildMachine> {
    let (machines, left_out) = outcome.unwrap();
    assert!(left_out.is_empty(), "{left_out:?}");
    machines
}

/// Returns the one error of a file: why it fails, or why a machine is left out.
fn fault(outcome: Outcome) -> String {
    match outcome {
        Err(error) => error,
        Ok((_, left_out)) if left_out.len() == 1 => left_out[0].clone(),
        other => panic!("{other:?}"),
    }
}

/// Returns the outcome without Guile; `None` if the text is left to Guile.
fn in_process(text: &[u8]) -> Option<Outcome> {
    evaluate_plain(Path::new("m.scm"), text).ok().map(|entries| validated(Ok(entries)))
}

fn by_guile(text: &[u8], options: &LoadOptions) -> Outcome {
    let reason = NeedsGuile {
        place: SourceLocation { file: "m.scm".into(), line: 1, column: 0 },
        what: "this is left to Guile".into(),
    };
    let program = guile::Program { file: &"m.scm".into(), text, identity: None, reason: &reason };
    validated(guile::evaluate(&program, None, options).map(|(entries, _)| entries))
}

fn no_guix() -> LoadOptions {
    LoadOptions { guix: "/nonexistent/guix".into(), ..LoadOptions::default() }
}

#[test]
fn both_readers_agree() {
    for short in PLAIN {
        let text = text(short);
        let ours = in_process(text.as_bytes()).unwrap_or_else(|| panic!("left to Guile: {text}"));
        assert_eq!(ours, by_guile(text.as_bytes(), &no_guix()), "{text}");
    }
}

#[test]
fn programs_are_left_to_guile() {
    for (short, names) in PROGRAMS {
        let text = text(short);
        assert_eq!(in_process(text.as_bytes()), None, "{text}");
        // No machine may have a name with a control character, so the test looks at the values instead.
        let reason =
            NeedsGuile { place: SourceLocation { file: "m.scm".into(), line: 1, column: 0 }, what: String::new() };
        let program = guile::Program { file: &"m.scm".into(), text: text.as_bytes(), identity: None, reason: &reason };
        let (machines, _) =
            guile::evaluate(&program, None, &no_guix()).unwrap_or_else(|error| panic!("{text}: {error}"));
        let found: Vec<&str> = machines
            .iter()
            .map(|machine| {
                match machine.as_ref().unwrap().fields.iter().find(|field| &*field.name == "name").map(|f| &f.value) {
                    Some(Value::String(name)) => &**name,
                    other => panic!("{text}: {other:?}"),
                }
            })
            .collect();
        assert_eq!(found.join(" "), *names, "{text}");
    }
}

#[test]
fn numbers_keep_their_value_through_guile() {
    let file = text("(list (build-machine (name \"a\") @ (speed 1/3) (overload-threshold 1e-3) (port (* 2 11))))");
    let machines = faultless(by_guile(file.as_bytes(), &no_guix()));
    assert_eq!((machines[0].speed, machines[0].overload_threshold, machines[0].port), (1.0 / 3.0, Some(1e-3), 22));
}

#[test]
fn defaults_are_those_of_guix() {
    let machines = faultless(in_process(text("(list (build-machine (name \"a\") @))").as_bytes()).unwrap());
    let expected = BuildMachine {
        name: "a".into(),
        port: 22,
        systems: vec!["x86_64-linux".into()],
        user: "u".into(),
        private_key: "/home/u/.ssh/id".into(),
        host_key: HostKey::parse(KEY).unwrap(),
        compression: "zlib@openssh.com,zlib".into(),
        compression_level: 3,
        daemon_socket: "/var/guix/daemon-socket/socket".into(),
        parallel_builds: 1,
        speed: 1.0,
        features: vec![],
        overload_threshold: Some(0.8),
    };
    assert_eq!(machines, [expected]);
}

#[test]
fn errors_say_where_and_what() {
    for (short, message) in ERRORS {
        let text = text(short);
        let error = fault(in_process(text.as_bytes()).unwrap_or_else(|| panic!("left to Guile: {text}")));
        assert!(error.starts_with(message), "{text}\n got {error}\nnot {message}");
    }
}

#[test]
fn a_machine_that_is_malformed_is_left_out_and_the_others_are_used() {
    let bad = [
        ("(build-machine (name \"b\") (user \"u\") (system \"s\") (host-key \"\"))", "machine 'b', field 'host-key': "),
        ("(build-machine (name \"b\") @ (colour \"red\"))", "machine 'b', field 'colour': there is no such field"),
        ("(build-machine (name \"b\") @ (port))", "machine 'b', field 'port': expected one value"),
        ("(build-machine @)", "build-machine without a name: field 'name' is missing"),
        ("\"b\"", "list whose element 2 is the string \"b\""),
    ];
    for (form, complaint) in bad {
        let file = text(&format!("(list (build-machine (name \"a\") @)\n {form}\n (build-machine (name \"c\") @))"));
        for outcome in [in_process(file.as_bytes()).unwrap(), by_guile(file.as_bytes(), &no_guix())] {
            let (machines, left_out) = outcome.unwrap();
            assert_eq!(machines.iter().map(|machine| &*machine.name).collect::<Vec<_>>(), ["a", "c"], "{form}");
            assert!(left_out.len() == 1 && left_out[0].starts_with("m.scm:"), "{left_out:?}");
            assert!(left_out[0].contains(complaint), "{left_out:?}");
        }
    }
}

#[test]
fn an_account_or_a_port_in_the_name_is_refused_with_the_field_to_use() {
    for (name, hint) in [
        ("root__w1", "use (user \"root\") and (name \"w1\"); until then, no build goes there"),
        ("w1:2222", "use (port 2222) and (name \"w1\"); until then, no build goes there"),
    ] {
        let file = text(&format!("(list (build-machine (name {name:?}) @))"));
        let loaded = read_plain(Path::new("m.scm"), file.as_bytes()).unwrap();
        assert!(loaded.machines.is_empty() && loaded.left_out[0].to_string().starts_with("m.scm:1:21: machine '"));
        assert_eq!(loaded.left_out[0].hint_text(), Some(hint));
    }
}

#[test]
fn an_address_in_brackets_is_taken_without_them() {
    let file = text("(list (build-machine (name \"[fe80::1%eth0]\") @))");
    assert_eq!(faultless(in_process(file.as_bytes()).unwrap())[0].name, "fe80::1%eth0");
}

#[test]
fn a_system_that_nobody_asks_for_is_a_warning() {
    let file = text(
        "(list (build-machine (name \"a\") @)\n(build-machine (inherit (build-machine (name \"b\") @))\n \
         (systems '(\"x86_64-linux\" \"x86_64_linux\"))))",
    );
    let loaded = read_plain(Path::new("m.scm"), file.as_bytes()).unwrap();
    assert_eq!((loaded.machines.len(), loaded.left_out.len(), loaded.warnings.len()), (2, 0, 1));
    let (warning, hint) = (loaded.warnings[0].to_string(), loaded.warnings[0].hint_text().unwrap());
    assert!(warning.starts_with("m.scm:3:1: machine 'b', field 'systems': Guix has no system type \"x86_64_linux\""));
    assert_eq!(hint, "use \"x86_64-linux\"");
}

#[test]
fn a_key_that_others_can_read_is_a_warning() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::set_permissions(key.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let file = text(&format!("(list (build-machine (name \"a\") @\n (private-key {:?})))", key.path()));
    let loaded = read_plain(Path::new("m.scm"), file.as_bytes()).unwrap();
    assert_eq!((loaded.machines.len(), loaded.warnings.len()), (1, 1));
    let (warning, hint) = (loaded.warnings[0].to_string(), loaded.warnings[0].hint_text().unwrap());
    assert!(warning.starts_with("m.scm:2:1: machine 'a', field 'private-key': ") && warning.contains("mode is 0644"));
    assert!(hint.starts_with(&format!("run 'chmod 600 {}'", key.path().display())), "{hint}");
}

#[test]
fn what_is_no_list_has_no_machines() {
    for file in ["42", "(list)\n(define a 1)"] {
        for outcome in [in_process(file.as_bytes()).unwrap(), by_guile(file.as_bytes(), &no_guix())] {
            let (machines, left_out) = outcome.unwrap();
            assert!(machines.is_empty() && left_out.len() == 1, "{left_out:?}");
            assert!(left_out[0].contains("the file must return a list of build machines"), "{left_out:?}");
        }
    }
}

#[test]
fn of_many_that_are_left_out_only_some_are_told() {
    let (machines, left_out) = by_guile(b"(iota 5000)", &no_guix()).unwrap();
    assert_eq!((machines.len(), left_out.len()), (0, MAX_TOLD + 1));
    assert_eq!(left_out[MAX_TOLD], "m.scm:1:0: 4980 more machines are malformed");
}

/// The files of `tests/fixtures/machines`, shaped like those of real farms; their comments say what is special in each.
#[test]
fn files_as_they_are_in_use_are_read_alike_by_both_readers() {
    let scratch = Scratch::new("in-use");
    std::fs::write(scratch.0.join("host_key.pub"), format!("{KEY} root@vm\n")).unwrap();
    std::fs::write(scratch.0.join("check.scm"), "(begin (use-modules (srfi srfi-34)) (guard (c (#t #f)) (->bool 1)))")
        .unwrap();
    let at = |name: &str| scratch.0.join(name).display().to_string();
    let file = |number: u32| {
        let name = format!("{}/tests/fixtures/machines/{number:02}.scm", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(name).unwrap();
        let text = text.replace("/etc/childhurd/etc/ssh/ssh_host_ed25519_key.pub", &at("host_key.pub"));
        let text = text.replace("/etc/build-vm/etc/ssh/ssh_host_ed25519_key.pub", &at("host_key.pub"));
        let check = "/gnu/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-check-build-vm-availability.scm";
        text.replace(check, &at("check.scm"))
    };
    for (number, plain, expected) in [
        (1, false, "localhost:10022 i586-gnu offloading 1 1.8 1"),
        (2, false, "localhost:11022 x86_64-linux,i686-linux offloading 1 0.8 1"),
        (3, false, "192.0.2.29:22 aarch64-linux root 1 0.8 1"),
        (4, true, "192.0.2.104:22 x86_64-linux,i686-linux alice 2 0.8 1"),
        (5, true, "www.example.org:22 aarch64-linux root 1 0.8 1; three.local:22 x86_64-linux root 1 0.8 1"),
        (6, true, "four.local:2222 x86_64-linux alice 1 0.8 1"),
        (7, true, "builder.tailnet.example:22 x86_64-linux guix-offload 1 0.8 6"),
        (8, true, ""),
    ] {
        let text = file(number);
        let shown = |machine: BuildMachine| {
            let BuildMachine { name, port, user, speed, parallel_builds, .. } = &machine;
            let (systems, load) = (machine.systems.join(","), machine.overload_threshold.unwrap());
            assert_eq!(machine.host_key, HostKey::parse(KEY).unwrap());
            format!("{name}:{port} {systems} {user} {speed} {load} {parallel_builds}")
        };
        let by_guile = faultless(by_guile(text.as_bytes(), &no_guix()));
        let in_process = in_process(text.as_bytes()).map(faultless);
        assert_eq!(in_process, plain.then(|| by_guile.clone()), "{number}");
        assert_eq!(by_guile.into_iter().map(shown).collect::<Vec<_>>().join("; "), expected, "{number}");
    }
}

#[test]
fn a_file_that_is_no_text_is_an_error() {
    let garbage: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let deep = vec![b'('; 2 << 20];
    for bytes in [&garbage[..], &deep, b"\0\0\0", b"(list \"\xff\")", b"\xff\xfe"] {
        assert_eq!(in_process(bytes), None);
        let error = fault(by_guile(bytes, &no_guix()));
        assert!(error.starts_with("m.scm:"), "{error}");
        assert!(error.len() < 1000);
    }
    // In a comment, the byte does no harm.
    let file = [b"; Andr\xe9\n", text("(list (build-machine (name \"a\") @))").as_bytes()].concat();
    assert_eq!(faultless(by_guile(&file, &no_guix())).len(), 1);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let scratch = Scratch::new("unreadable");
    let options = no_guix();
    assert!(load(&scratch.0.join("none"), &options).unwrap().is_none());
    let message = |path: &Path| load(path, &options).unwrap_err().to_string();
    assert!(message(&scratch.0).ends_with(": the machine file is a directory"));
    assert!(message(Path::new("/dev/null")).ends_with(": the machine file is not a regular file"));
    // Unreadable even for root: a link to itself.
    let link = scratch.0.join("loop");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    assert!(message(&link).contains("reading the machine file: Too many levels"));
    let long = scratch.0.join("long");
    File::create(&long).unwrap().set_len(MAX_FILE + 1).unwrap();
    assert!(message(&long).ends_with(": the machine file has more than 4 MiB"));
}

/// The stack of a test is small, so an overflow would show. Quadratic time would show, too.
#[test]
fn many_machines() {
    let a = text("(define a (build-machine (name \"a\") @))\n");
    let forms = a.clone() + &"(list (build-machine (inherit a)))\n".repeat(100_000);
    assert_eq!(faultless(in_process(forms.as_bytes()).unwrap()).len(), 1);

    let patient = LoadOptions { time_limit: Duration::from_secs(600), ..no_guix() };
    let computed = |count: u32| a.clone() + &format!("(make-list {count} a)");
    assert_eq!(faultless(by_guile(computed(10_000).as_bytes(), &patient)).len(), 10_000);
    let error = by_guile(computed(100_000).as_bytes(), &patient).unwrap_err();
    assert_eq!(error, "m.scm:1:0: the file returns more machines than there is room for");

    // Guile itself takes long over this one, or runs out of stack.
    let list = a + "(list " + &"(build-machine (inherit a))\n".repeat(100_000) + ")";
    assert_eq!(in_process(list.as_bytes()), None);
    let options = LoadOptions { time_limit: Duration::from_millis(500), ..no_guix() };
    assert_eq!(
        by_guile(list.as_bytes(), &options).unwrap_err(),
        "m.scm:1:0: Guile was not done with the file within 500ms"
    );
}

#[test]
fn what_makes_much_of_little_is_left_to_guile() {
    let join =
        "(define a ((__ (srfi srfi-1) append-map) (lambda (x) (if (build-machine? x) (list x) x)) (list a a)))\n";
    let machine = "(define a (list (build-machine (name \"a\") @)))\n";
    let many_fields: String = (0..200).map(|number| format!("(f{number} 1)\n")).collect();
    let ends_well = "(list)";
    let text = |parts: &[&str]| text(&(parts.concat() + ends_well));
    let string = format!("(define s \"{}\")\n", "x\n".repeat(30_000));
    for (what, text) in [
        ("lists that are joined", text(&[machine, &join.repeat(18)])),
        ("strings", text(&[&string, &"(define t (string-append s))\n".repeat(1_200)])),
        (
            "machines that are inherited",
            text(&[
                &format!("(define m (build-machine {many_fields}))\n"),
                &"(define n (build-machine (inherit m)))\n".repeat(6_000),
            ]),
        ),
        (
            "machines within each other",
            text(&[&format!(
                "(define m (build-machine {many_fields}(x (list {}))))\n",
                "(build-machine)\n".repeat(200)
            )
            .repeat(30)]),
        ),
    ] {
        assert!(in_process(text.as_bytes()).is_none(), "{what}");
    }
    let less = text(&[machine, &join.repeat(8), &string, &"(define t (string-append s))\n".repeat(100)]);
    assert!(in_process(less.as_bytes()).is_some());
}

/// A directory, or the name of a file, which is removed after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("guix-offload-{}-{name}", std::process::id()));
        if !name.contains('.') {
            std::fs::create_dir(&path).unwrap();
        }
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0).or_else(|_| std::fs::remove_file(&self.0));
    }
}
