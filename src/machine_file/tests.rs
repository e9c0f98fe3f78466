// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests over the whole way from a text to its machines. They need `guile` in PATH.

use std::path::Path;

use super::*;
use crate::machine::HostKey;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI";

/// A text in which `@` stands for the fields that every machine needs, but for the name, and `KEY` for a host key.
fn text(short: &str) -> String {
    short.replace('@', "(systems (list \"x86_64-linux\")) (user \"u\") (host-key \"KEY\")").replace("KEY", KEY)
}

type Outcome = Result<Vec<BuildMachine>, String>;

fn validated(machines: Result<Vec<Rc<Machine>>>) -> Outcome {
    let key = || Ok("/home/u/.ssh/id".into());
    let machines = machines.and_then(|machines| machines.iter().map(|m| fields::build_machine(m, &key)).collect());
    machines.map_err(|error| error.to_string())
}

/// What comes out without Guile; `None` if the text is left to it.
fn in_process(text: &[u8]) -> Option<Outcome> {
    evaluate_plain(Path::new("m.scm"), text).ok().map(validated)
}

fn by_guile(text: &[u8], options: &LoadOptions) -> Outcome {
    let reason =
        NeedsGuile { place: Place { file: "m.scm".into(), line: 1, column: 0 }, what: "this is left to Guile".into() };
    validated(guile::evaluate(&"m.scm".into(), text, &reason, None, options))
}

fn no_guix() -> LoadOptions {
    LoadOptions { guix: "/nonexistent/guix".into(), ..LoadOptions::default() }
}

/// Files that are understood in process.
const PLAIN: &[&str] = &[
    "(list)",
    "'()",
    "(quote ())",
    "; nothing but a comment\n(list) ; and another",
    "(list (build-machine (name \"a\") @))",
    "(list (build-machine (name \"a\") @) (build-machine (name \"b\") @ (port 2222)))",
    "(define a (build-machine (name \"a\") @))\n(list a a)",
    "(define a (build-machine (name \"a\") @))\n(define all (list a))\nall",
    "(define a (build-machine (name \"a\") @))\n(list a (build-machine (inherit a) (name \"b\")))",
    "(define a (build-machine (name \"a\") @))\n(list (build-machine (inherit a) (port 1) (port 2)))",
    "(define a (build-machine (name \"a\") @))\n(define b (build-machine (inherit a) (speed 2)))\n\
     (list (build-machine (inherit b) (port 3)))",
    "(list (build-machine (inherit (build-machine (name \"a\") @)) (name \"b\")))",
    "(define key \"KEY\")\n(list (build-machine (name \"a\") (user \"u\") (systems '(\"s\" \"t\")) (host-key key)))",
    "(define domain \".example.org\")\n(list (build-machine (name (string-append \"a\" domain)) @))",
    "(list (build-machine (name (string-append)) @))",
    "(list (build-machine (name (string-append \"a\" (string-append \"b\" \"c\") \"\")) @))",
    "(list (build-machine (name \"a\") (user name) (system \"s\") (host-key \"KEY\")))",
    "(define user \"u\")(list (build-machine (name \"a\") (user user) (system \"s\") (host-key \"KEY\")))",
    "(define name \"outer\")(list (build-machine (user name) (name \"a\") (system user) (host-key \"KEY\")))",
    "(define a \"1\")(define b a)(define a \"2\")(list (build-machine (name b) @) (build-machine (name a) @))",
    "(list (build-machine (name \"a\") @ (system \"ignored\")))",
    "(list (build-machine (name \"a\") (systems #f) (system \"s\") (user \"u\") (host-key \"KEY\")))",
    "(list (build-machine (name \"a\") @ (speed 2) (parallel-builds 0) (port 65535) (compression-level 9)))",
    "(list (build-machine (name \"a\") @ (speed 0.1) (overload-threshold 0.30)))",
    "(list (build-machine (name \"a\") @ (speed 12345678.12345) (overload-threshold #f)))",
    "(list (build-machine (name \"a\") @ (overload-threshold 1)))",
    "(list (build-machine (name \"a\") @ (features '()) (compression \"none\") (daemon-socket \"/s\")))",
    "(list (build-machine (name \"a\") @ (features (list \"kvm\" (string-append \"b\" \"ig\"))) (private-key \"/k\")))",
    "(define f '(\"kvm\"))(list (build-machine (name \"a\") @ (features f)))",
    "(list (build-machine (name \"z\u{fc}rich\") @ (private-key \"/a \\\"\\\\ b/\u{20ac}\")))",
    "(list\t(build-machine\n\t  (name \"a\")\r\n @))",
    "(use-modules (guix scripts offload))\n(list (build-machine (name \"a\") @))",
    "(define broken (build-machine (name 42) (no-such-field 1) (port) bare))\n(list (build-machine (name \"a\") @))",
    "(define broken (build-machine))\n(list (build-machine (inherit broken) (name \"a\") @))",
    "(define broken (build-machine (port \"22\")))\n(list (build-machine (inherit broken) (port 22) (name \"a\") @))",
    // And files whose errors must be the same, word for word.
    "",
    "(define a (list))",
    "(build-machine (name \"a\") @)",
    "'((build-machine (name \"a\") @))",
    "(list (build-machine (name \"a\") @) \"b\")",
    "42",
    "(list (build-machine))",
    "(list (build-machine (name \"a\") @ (port 1) (port 2)))",
    "(list (build-machine (name \"a\") @ (prot 22)))",
    "(list (build-machine (name \"a\") @\n (port \"22\")))",
    "(list (build-machine (name \"a\") @\n (port 22.5)))",
    "(list (build-machine (name \"a\") @ (port 22 23)))",
    "(list (build-machine (name \"a\") @ (port)))",
    "(list\n (build-machine (name \"a\") @ port))",
    "(list (build-machine (name \"a\") @ (features \"kvm\")))",
    "(list (build-machine (name \"a\") @ (features '(\"kvm\" big))))",
    "(list (build-machine (name \"a\") @ (speed -1)))",
    "(list (build-machine @ (name 'a)))",
    "(list (build-machine (name \"a\") (inherit \"b\") @))",
    "(list (build-machine (inherit \"b\") (name \"a\") @))",
    "(list (build-machine (name \"a\") (user \"u\") (system \"s\") (host-key \"ssh-ed25519 AAAA\")))",
];

/// Files that are left to Guile, and the names that their machines have.
const PROGRAMS: &[(&str, &str)] = &[
    ("(map (lambda (n) (build-machine (name n) @)) '(\"a\" \"b\"))", "a b"),
    ("(list (build-machine (name \"a\") @ (speed 1/2)))", "a"),
    ("(list (build-machine (name \"a\") @ (overload-threshold #false)))", "a"),
    ("(list (build-machine (name \"a\") @ (overload-threshold .5)))", "a"),
    ("(list (build-machine (name \"a\") @ (port #x16)))", "a"),
    ("(list (build-machine (name \"\\x41;\") @))", "A;"),
    ("(list (build-machine (name \"a\\\n   b\") @))", "a   b"),
    ("#!/usr/bin/guile\n!#\n(list (build-machine (name \"a\") @))", "a"),
    ("#| block |# (list #;(ignored) (build-machine (name \"a\") @))", "a"),
    ("(let ((n \"a\")) (list (build-machine (name n) @)))", "a"),
    ("(define (m n) (build-machine (name n) @)) (cons (m \"a\") (list (m \"b\")))", "a b"),
    ("`(,(build-machine (name \"a\") @))", "a"),
    ("(define-syntax-rule (m n) (build-machine (name n) @)) (list (m \"a\"))", "a"),
    ("(use-modules (srfi srfi-1)) (append-map (lambda (n) (list (build-machine (name n) @))) '(\"a\"))", "a"),
    ("(use-modules ((guix scripts offload) #:select (build-machine))) (list (build-machine (name \"a\") @))", "a"),
    ("(define a (build-machine (name \"a\") @)) (list (build-machine (inherit a) (name (build-machine-user a))))", "u"),
    ("(define a (build-machine (name \"a\") @)) (filter (lambda (m) (= 22 (build-machine-port m))) (list a))", "a"),
    ("(display \"(end 0)\") (newline) (list (build-machine (name \"a\") @))", "a"),
    ("(define list vector) (vector->list (list (build-machine (name \"a\") @)))", "a"),
    (
        "(define \u{3bb}x \"\u{3bb} \\\" \\\\ \\t \u{1f600}\") (list (build-machine (name \u{3bb}x) @))",
        "\u{3bb} \" \\ \t \u{1f600}",
    ),
    ("(list (build-machine (name (or (getenv \"CARGO_PKG_NAME\") \"no\")) @))", "guix-offload"),
    ("\u{c}\n(list (build-machine (name \"a\") @))", "a"),
];

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
        // No machine gets a name with a control character, so the values are looked at instead.
        let reason = NeedsGuile { place: Place { file: "m.scm".into(), line: 1, column: 0 }, what: String::new() };
        let machines = guile::evaluate(&"m.scm".into(), text.as_bytes(), &reason, None, &no_guix());
        let machines = machines.unwrap_or_else(|error| panic!("{text}: {error}"));
        let found: Vec<&str> = machines
            .iter()
            .map(|machine| match machine.fields.iter().find(|field| &*field.name == "name").map(|f| &f.value) {
                Some(Value::String(name)) => &**name,
                other => panic!("{text}: {other:?}"),
            })
            .collect();
        assert_eq!(found.join(" "), *names, "{text}");
    }
}

#[test]
fn numbers_keep_their_value_through_guile() {
    let file = text("(list (build-machine (name \"a\") @ (speed 1/3) (overload-threshold 1e-3) (port (* 2 11))))");
    let machines = by_guile(file.as_bytes(), &no_guix()).unwrap();
    assert_eq!((machines[0].speed, machines[0].overload_threshold, machines[0].port), (1.0 / 3.0, Some(1e-3), 22));
}

#[test]
fn defaults_are_those_of_guix() {
    let machines = in_process(text("(list (build-machine (name \"a\") @))").as_bytes()).unwrap().unwrap();
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
fn the_default_key_is_the_first_that_exists() {
    let home = Scratch::new("home");
    let ssh = home.0.join(".ssh");
    std::fs::create_dir(&ssh).unwrap();
    assert_eq!(default_key(Some(&home.0)).unwrap(), ssh.join("id_ed25519"));
    std::fs::write(ssh.join("id_rsa"), "").unwrap();
    assert_eq!(default_key(Some(&home.0)).unwrap(), ssh.join("id_rsa"));
    std::fs::write(ssh.join("id_ed25519"), "").unwrap();
    assert_eq!(default_key(Some(&home.0)).unwrap(), ssh.join("id_ed25519"));
    assert!(default_key(None).unwrap_err().hint_text().unwrap().contains("private-key"));
}

#[test]
fn the_home_directory_is_that_of_the_user_database() {
    let id = std::process::Command::new("id").arg("-u").output().unwrap().stdout;
    let id = String::from_utf8(id).unwrap();
    let entry = std::process::Command::new("getent").args(["passwd", id.trim()]).output().unwrap().stdout;
    let entry = String::from_utf8(entry).unwrap();
    assert_eq!(home_directory().unwrap(), PathBuf::from(entry.split(':').nth(5).unwrap()));
}

/// A text, and how its error starts: place, machine, field, and what was expected.
const ERRORS: &[(&str, &str)] = &[
    (
        "(list (build-machine (name \"a\") @\n  (port \"22\")))",
        "m.scm:2:2: machine 'a', field 'port': expected an integer from 1 to 65535, got the string \"22\"",
    ),
    (
        "(list (build-machine (name \"a\") @\n\t(port 0)))",
        "m.scm:2:8: machine 'a', field 'port': expected an integer from 1 to 65535, got 0",
    ),
    (
        "(list (build-machine (name \"a\") @\n (port 65536)))",
        "m.scm:2:1: machine 'a', field 'port': expected an integer",
    ),
    (
        "(list (build-machine (name \"a\") @\n (compression-level 10)))",
        "m.scm:2:1: machine 'a', field 'compression-level': expected an integer from 0 to 9, got 10",
    ),
    (
        "(list (build-machine (name \"a\") @\n (parallel-builds -1)))",
        "m.scm:2:1: machine 'a', field 'parallel-builds': expected an integer from 0 to 4294967295, got -1",
    ),
    (
        "(list (build-machine (name \"a\") @\n (speed #t)))",
        "m.scm:2:1: machine 'a', field 'speed': expected a number that is not negative, got #t",
    ),
    (
        "(list (build-machine (name \"a\") @\n (overload-threshold \"80%\")))",
        "m.scm:2:1: machine 'a', field 'overload-threshold': expected a number that is not negative, or #f, got the string",
    ),
    (
        "(list (build-machine (name \"a\") @\n (features \"kvm\")))",
        "m.scm:2:1: machine 'a', field 'features': expected a list of strings, got the string \"kvm\"",
    ),
    (
        "(list (build-machine (name \"a\") @\n (features '(\"kvm\" 7))))",
        "m.scm:2:1: machine 'a', field 'features': expected a list of strings, but element 2 of it is 7",
    ),
    (
        "(list (build-machine (name \"a\") @\n (daemon-socket \"\")))",
        "m.scm:2:1: machine 'a', field 'daemon-socket': expected a string that is not empty, got the string \"\"",
    ),
    (
        "(list (build-machine (name \"a\") @\n (privat-key \"/k\")))",
        "m.scm:2:1: machine 'a', field 'privat-key': there is no such field",
    ),
    (
        "(list (build-machine (name \"a\") @\n (user \"v\")))",
        "m.scm:2:1: machine 'a', field 'user': the field is given twice",
    ),
    (
        "(list (build-machine (name \"a\") @\n (port 22 23)))",
        "m.scm:2:1: machine 'a', field 'port': expected one value, as in (port VALUE)",
    ),
    (
        "(list\n (build-machine (name \"a\") (system \"s\") (user \"u\")))",
        "m.scm:2:1: machine 'a': field 'host-key' is missing",
    ),
    (
        "(list\n (build-machine (name \"a\") (user \"u\") (host-key \"KEY\")))",
        "m.scm:2:1: machine 'a': field 'systems' is missing",
    ),
    ("(list (build-machine @))", "m.scm:1:6: build-machine without a name: field 'name' is missing"),
    (
        "(list (build-machine (name 'a) @))",
        "m.scm:1:21: build-machine without a name, field 'name': expected a string that is not empty, got the symbol a",
    ),
    ("(list (build-machine (name \"a/b\") @))", "m.scm:1:21: machine 'a/b', field 'name': expected a host name"),
    ("(list (build-machine (name \"..\") @))", "m.scm:1:21: machine '..', field 'name': expected a host name"),
    (
        "(list (build-machine (name \"a\") (user \"u\") (system \"s\")\n (host-key \"ssh-rsa AAAA\")))",
        "m.scm:2:1: machine 'a', field 'host-key': \"ssh-rsa AAAA\" is not a host key",
    ),
    (
        "(list (build-machine (name \"a\") (user \"u\") (system \"s\")\n (host-key 42)))",
        "m.scm:2:1: machine 'a', field 'host-key': expected a string",
    ),
    (
        "(list (build-machine (name \"a\")\n (inherit \"b\") @))",
        "m.scm:2:1: machine 'a', field 'inherit': expected a build machine, got the string \"b\"",
    ),
    ("(list)\n\n 42", "m.scm:3:1: the file must return a list of build machines, but this last form returns 42"),
    (
        "(list (build-machine (name \"a\") @) 'b)",
        "m.scm:1:0: the file must return a list of build machines, but this last form returns a list whose element 2 is the symbol b",
    ),
    ("", "m.scm:1:0: the file must return a list of build machines, but this last form returns no value"),
];

#[test]
fn errors_say_where_and_what() {
    for (short, message) in ERRORS {
        let text = text(short);
        let error = in_process(text.as_bytes()).unwrap_or_else(|| panic!("left to Guile: {text}")).unwrap_err();
        assert!(error.starts_with(message), "{text}\n got {error}\nnot {message}");
    }
}

/// Errors of programs: a text, and how its error starts.
const GUILE_ERRORS: &[(&str, &str)] = &[
    ("(define x 1)\n (list nobody)", "m.scm:2:1: Unbound variable: nobody"),
    ("(list (build-machine\n  (name nobody)))", "m.scm:2:2: Unbound variable: nobody"),
    ("(list (build-machine (name \"a\")\n  (user (car '()))))", "m.scm:2:2: In procedure car: "),
    ("(list\n (let ((x)) x))", "m.scm:2:1: "),
    ("(list\n (foo", "m.scm:2:5: unexpected end of input"),
    ("(list \"foo", "m.scm:1:10: unexpected end of input"),
    ("(list))", "m.scm:1:7: unexpected \")\""),
    ("(use-modules\n (no such module))", "m.scm:1:0: no code for module (no such module)"),
    ("(error \"I give up:\" 'now)", "m.scm:1:0: I give up: now"),
    ("(throw 'strange 1 2)", "m.scm:1:0: Throw to key `strange' with args `(1 2)'"),
    ("(list)\n (exit 3)", "m.scm:2:1: the file calls 'exit'"),
    ("(list)(primitive-_exit 3)", "m.scm:1:0: Guile ended without a result"),
    ("(values 1/2)", "m.scm:1:0: the file must return a list of build machines, but this last form returns 0.5"),
    (
        "(list car)",
        "m.scm:1:0: the file must return a list of build machines, but this last form returns a list whose element 1 is #<procedure car",
    ),
    (
        "(map (lambda (n)\n (build-machine (name n) @ (speed (/ -1 2)))) '(\"a\"))",
        "m.scm:2:162: machine 'a', field 'speed': expected a number that is not negative, got -0.5",
    ),
    (
        "(cons* (build-machine (name \"a\") @\n (port 'x)) '())",
        "m.scm:2:1: machine 'a', field 'port': expected an integer",
    ),
    ("(let ((l (list 1))) (set-cdr! l l) l)", "m.scm:1:0: the file must return a list of build machines"),
    (
        "(list (build-machine (name \"a\") @ (features (iota 1000))))",
        "m.scm:1:169: machine 'a', field 'features': expected a list of strings, got a list of 1000 elements",
    ),
];

#[test]
fn errors_of_programs_say_where_and_what() {
    for (short, message) in GUILE_ERRORS {
        let text = text(short);
        assert_eq!(in_process(text.as_bytes()), None, "{text}");
        let error = by_guile(text.as_bytes(), &no_guix()).unwrap_err();
        assert!(error.starts_with(message), "{text}\n got {error}\nnot {message}");
    }
}

#[test]
fn without_a_guile_the_error_names_the_form() {
    let file = Scratch::new("m.scm");
    std::fs::write(&file.0, "(define a 1)\n (map a b)").unwrap();
    let options = LoadOptions { guile: "/nonexistent/guile".into(), ..no_guix() };
    let error = load(&file.0, &options).unwrap_err();
    let expected = "'map' is left to Guile, but there is neither '/nonexistent/guile' nor '/nonexistent/guix'";
    assert_eq!(error.to_string(), format!("{}:2:1: {expected}", file.0.display()));
    assert!(error.hint_text().unwrap().contains("install Guile"));
}

#[test]
fn guile_is_stopped_when_the_time_is_up() {
    let options = LoadOptions { time_limit: Duration::from_millis(500), ..no_guix() };
    let started = std::time::Instant::now();
    let error = by_guile(b"(let loop () (loop))", &options).unwrap_err();
    assert_eq!(error, "m.scm:1:0: Guile was not done with the file within 500ms");
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// A `guix` whose `repl` is Guile: it gets what plain `guile` fails at.
#[test]
fn guix_repl_comes_second() {
    let scratch = Scratch::new("guix");
    let module = scratch.0.join("load-path/my");
    std::fs::create_dir_all(&module).unwrap();
    std::fs::write(module.join("farm.scm"), "(define-module (my farm) #:export (farm)) (define farm \"farm\")")
        .unwrap();
    let guix = scratch.0.join("guix");
    let script = format!(
        "#!/bin/sh\n[ \"$*\" = 'repl -t machine' ] || exit 9\necho '(repl-version 0 1 1)'\n\
         exec guile --no-auto-compile -q -L {} -c '(primitive-eval (read))'\n",
        scratch.0.join("load-path").display()
    );
    std::fs::write(&guix, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&guix, mode).unwrap();

    let file = text("(use-modules (my farm)) (list (build-machine (name farm) @))");
    let names = |options: &LoadOptions| {
        by_guile(file.as_bytes(), options).map(|machines| machines.into_iter().map(|m| m.name).collect::<Vec<_>>())
    };
    let options = LoadOptions { guix, ..LoadOptions::default() };
    assert_eq!(names(&options).unwrap(), ["farm"]);
    assert_eq!(names(&LoadOptions { guile: "/nonexistent/guile".into(), ..options }).unwrap(), ["farm"]);
    let error = names(&LoadOptions { guix: "/bin/false".into(), ..no_guix() }).unwrap_err();
    assert_eq!(error, "m.scm:1:0: no code for module (my farm)");
}

/// The record of Guix itself, from a module that makes one like it.
#[test]
fn records_of_guix_are_read() {
    let file = String::from(
        "(define-module (fake) #:use-module (srfi srfi-9))
         (define-record-type <location> (location file line column) location? (file f) (line l) (column c))
         (define-record-type <build-machine> (make name port systems user host-key location) m?
           (name n) (port p) (systems s) (user u) (host-key h) (location o))
         (list (make \"a\" 44 '(\"s\") \"u\" \"KEY\" (location \"other.scm\" 7 3))
               ((@ (guix scripts offload) build-machine-port) (make \"b\" 1 #f #f #f #f)))",
    )
    .replace("KEY", KEY);
    // The second element is not a machine, so that the error shows what the accessor gives.
    let error = by_guile(file.as_bytes(), &no_guix()).unwrap_err();
    assert!(error.ends_with("this last form returns a list whose element 2 is 1"), "{error}");
    let file = file.replace("((@ (guix scripts offload) build-machine-port) (make \"b\" 1 #f #f #f #f))", "");
    let machines = by_guile(file.as_bytes(), &no_guix()).unwrap();
    assert_eq!((&*machines[0].name, machines[0].port), ("a", 44));
    let error = by_guile(file.replace("44", "'x").as_bytes(), &no_guix()).unwrap_err();
    assert!(error.starts_with("other.scm:7:3: machine 'a', field 'port': expected an integer"), "{error}");
}

#[test]
fn a_file_that_is_no_text_is_an_error() {
    let garbage: Vec<u8> = (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let deep = vec![b'('; 2 << 20];
    for bytes in [&garbage[..], &deep, b"\0\0\0", b"(list \"\xff\" 1)", b"\xff\xfe"] {
        assert_eq!(in_process(bytes), None);
        let error = by_guile(bytes, &no_guix()).unwrap_err();
        assert!(error.starts_with("m.scm:"), "{error}");
        assert!(error.len() < 1000);
    }
    // In a comment, it does no harm.
    let file = [b"; Andr\xe9\n", text("(list (build-machine (name \"a\") @))").as_bytes()].concat();
    assert_eq!(by_guile(&file, &no_guix()).unwrap().len(), 1);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let scratch = Scratch::new("unreadable");
    let options = no_guix();
    assert_eq!(load(&scratch.0.join("none"), &options).unwrap(), None);
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

/// The stack of a test is small, and its time is not: an overflow would show, and so would quadratic time.
#[test]
fn many_machines() {
    let a = text("(define a (build-machine (name \"a\") @))\n");
    let forms = a.clone() + &"(list (build-machine (inherit a)))\n".repeat(100_000);
    assert_eq!(in_process(forms.as_bytes()).unwrap().unwrap().len(), 1);

    let computed = |count: u32| a.clone() + &format!("(make-list {count} a)");
    assert_eq!(by_guile(computed(10_000).as_bytes(), &no_guix()).unwrap().len(), 10_000);
    let error = by_guile(computed(100_000).as_bytes(), &no_guix()).unwrap_err();
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
fn a_program_may_load_files_beside_it() {
    let scratch = Scratch::new("load");
    std::fs::write(scratch.0.join("key.scm"), "(define key \"KEY\")".replace("KEY", KEY)).unwrap();
    let file = scratch.0.join("machines.scm");
    let name = "(name (basename (current-filename)))";
    let machine = format!("(build-machine {name} (user \"u\") (system \"s\") (host-key key) (private-key \"/k\"))");
    std::fs::write(&file, format!("(load \"key.scm\") (list {machine})")).unwrap();
    let machines = load(&file, &no_guix()).unwrap().unwrap();
    assert_eq!(machines[0].name, "machines.scm");
}

/// A directory, or the name of a file, that is gone after the test.
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
