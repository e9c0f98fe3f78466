// SPDX-License-Identifier: GPL-3.0-or-later
//! Guile: the daemon that nobody patched, with our module in place of Guix's script.

use std::path::Path;

use crate::invariants::assert_clean;
use crate::lab::{Host, lab};
use crate::machines::{Hook, Machine};

const HEAD: Host = Host("head");
/// A head with Guix 1.2.0 and Guile 2.2, and with a library that was built for it.
const OLDHEAD: Host = Host("oldhead");
const W1: Host = Host("w1");

const INSTALLED: &str = "/opt/guix-offload";
/// The binding alone, for Guile 3.0 and 2.2.
const BINDINGS: [&str; 2] = ["/opt/guix-offload/share/guile/site/3.0", "/opt/guix-offload/share/guile/site/2.2"];
/// The same with what replaces a module of Guix.
const MODULES: &str = "/opt/guix-offload/share/guix-offload/guile";

/// `guix` itself, run by our program.
const PROGRAM: [&str; 1] = ["GUIX=/opt/guix-offload/libexec/guix-offload-guile"];
/// Our modules first in the load path of Debian's guix 1.5.0, whose launcher does not look at GUILE_LOAD_PATH first.
const LOAD_PATH: [&str; 2] = [
    "GUIX_UNINSTALLED=1",
    "GUILE_SYSTEM_PATH=/opt/guix-offload/share/guix-offload/guile:/usr/share/guile/3.0:/usr/share/guile/site/3.0",
];
/// The same for 1.2.0.
const OLD_LOAD_PATH: [&str; 2] = ["GUIX_UNINSTALLED=1", "GUILE_LOAD_PATH=/opt/guix-offload/share/guix-offload/guile"];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Copies the tests of the modules to a head. Returns where they are.
fn tests_on(head: Host) -> &'static str {
    let tests = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/bindings/guile/tests"));
    copy(tests, &head.file("/root/guile-tests"));
    "/root/guile-tests"
}

/// Has the daemon of `head`, started with `environment`, build on `W1`.
#[track_caller]
fn offload_with(head: Host, environment: &[&str], modes: &[(&str, &str)]) {
    println!("{} with {environment:?}", head.0); // shown if the test fails
    head.write_machines(&[Machine::of(W1)]);
    lab(&[&["restart-daemon", head.0], environment, &["--", "--max-jobs=0"]].concat());
    for (mode, name) in modes {
        let builds = head.build(mode, &["kib=16", "input-kib=16"]);
        assert!(builds.succeeded && builds.log.contains("done with offloaded"), "{}", builds.log);
        // The script does not say how large what it retrieves is.
        assert!(builds.log.contains("(0 MiB) from 'w1'..."), "this is not our hook:\n{}", builds.log);
        assert_eq!(builds.outputs(name).len(), if *mode == "outputs" { 3 } else { 1 }, "{}", builds.results);
    }
    // Compiling modules on the way would take seconds, and leave files in root's home.
    assert!(!head.file("/root/.cache/guile").exists(), "something was compiled");
}

#[test]
fn the_daemon_offloads_through_our_program_or_load_path() {
    for environment in [&PROGRAM[..], &LOAD_PATH] {
        offload_with(HEAD, environment, &[("plain", "plain-0")]);
    }
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn a_head_with_guix_1_2_0_offloads() {
    assert!(OLDHEAD.sh(&["guix-daemon", "--version"]).contains("1.2.0"));
    let modes = [("plain", "plain-0"), ("outputs", "outputs"), ("tree", "tree"), ("chain", "chain-2")];
    for (environment, modes) in
        [(&PROGRAM[..], &modes[..]), (&OLD_LOAD_PATH, &modes[..1]), (&[Hook::Program.variable()], &modes[..1])]
    {
        offload_with(OLDHEAD, environment, modes);
        let failing = OLDHEAD.build("fail", &[]);
        assert!(failing.results.starts_with("failed fail\nerror "), "{}", failing.results);
        assert!(failing.log.contains("about to fail"), "{}", failing.log);
        // The daemon was told that it is the build that failed, not the machine.
        assert!(failing.log.contains("failed with exit code 100"), "{}", failing.log);
    }
    assert_clean(&[OLDHEAD], &[W1]);
}

#[test]
fn the_machine_file_of_a_hook_is_any_program() {
    let plain = crate::machines::text(&[Machine::of(W1)]);
    let program = format!(
        "(use-modules (srfi srfi-1) (guix utils))\n(define machines {plain})\n(map (lambda (machine)\n  \
         (build-machine (inherit machine) (systems (list (or (getenv \"NO-SUCH\") (%current-system))))))\n  machines)\n"
    );
    for hook in Hook::ALL {
        HEAD.offload_through(hook, &[]);
        HEAD.write_machine_file(&program);
        let builds = HEAD.build("plain", &[]);
        assert!(builds.succeeded && builds.log.contains("offloading '"), "{}", builds.log);

        for (text, complaint) in [
            ("(use-modules (srfi srfi-1))\n(error \"nobody knows the machines\")", "nobody knows the machines"),
            ("(use-modules (srfi srfi-1))\n(reduce + 0 '(20 22))", "list of build machines"),
        ] {
            HEAD.write_machine_file(text);
            let ending = crate::hook_by_hand::run_hook(HEAD, hook, 60, 60, &request());
            assert!(ending.said.contains("/etc/guix/machines.scm"), "{hook:?}: {}", ending.said);
            assert!(ending.said.contains(complaint), "{hook:?}: {}", ending.said);
            // Then there are no machines, and this host can build it.
            assert!(ending.status == 0 && ending.said.ends_with("# decline\n"), "{hook:?}: {}", ending.said);
        }
    }
}

/// The daemon says "true", the script listens to "1" only: users see the trace of the daemon here, not that of the
/// machine's too.
#[test]
fn the_trace_of_a_build_is_seen_once_through_either_hook() {
    for hook in Hook::ALL {
        HEAD.offload_through(hook, &[Machine::of(W1)]);
        let builds = HEAD.build("plain", &[]);
        assert!(builds.succeeded, "{}", builds.log);
        let traces: Vec<&str> = builds.log.lines().filter(|line| line.starts_with("@ build-succeeded")).collect();
        assert_eq!(traces.len(), 1, "{hook:?}: {}", builds.log);
    }
}

/// A request for a build that need not exist.
fn request() -> String {
    format!("1 {} /gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv \n", crate::machines::system())
}

#[test]
fn a_library_that_cannot_be_loaded_is_explained() {
    HEAD.write_machines(&[Machine::of(W1)]);
    let library = "GUIX_OFFLOAD_LIBRARY=/srv/elsewhere/libguix_offload.so";
    let command = [&["env", library], &Hook::Guile.command()[1..]].concat();
    let ending = crate::hook_by_hand::run_program(HEAD, &[&command[..], &["offload", "status"]].concat(), "");
    assert_eq!(ending.status, 1, "{}", ending.said);
    for words in ["cannot load '/srv/elsewhere/libguix_offload.so': ", "\nhint: "] {
        assert!(ending.said.contains(words) && !ending.said.contains("Backtrace"), "{words:?} in {}", ending.said);
    }

    // One that was built for a newer C library.
    HEAD.sh(&["cp", &format!("{INSTALLED}/lib/libguix_offload.so"), "/srv"]);
    std::fs::copy(HEAD.file("/srv/libguix_offload.so"), OLDHEAD.file("/srv/libguix_offload.so")).unwrap();
    OLDHEAD.write_machines(&[Machine::of(W1)]);
    let program = format!("{INSTALLED}/libexec/guix-offload-guile");
    let newer = ["env", "GUIX_OFFLOAD_LIBRARY=/srv/libguix_offload.so", &program, "offload", "status"];
    let ending = crate::hook_by_hand::run_program(OLDHEAD, &newer, "");
    assert_eq!(ending.status, 1, "{}", ending.said);
    for words in ["cannot load '/srv/libguix_offload.so': ", "built on this system, or an older one", "ldd "] {
        assert!(ending.said.contains(words) && !ending.said.contains("Backtrace"), "{words:?} in {}", ending.said);
    }
}

#[test]
fn the_module_has_what_the_one_of_guix_has() {
    for (head, guile, modules) in [(HEAD, "guile", MODULES), (OLDHEAD, "guile-2.2", MODULES)] {
        let script = format!("{}/interface.scm", tests_on(head));
        let [stock, ours] = [&[][..], &["-L", modules]]
            .map(|options: &[&str]| head.sh(&[&[guile, "--no-auto-compile"], options, &[script.as_str()]].concat()));
        let exported = |text: &str| -> Vec<String> {
            text.lines().filter(|line| !line.starts_with("private: ")).map(str::to_string).collect()
        };
        let (theirs, here) = (exported(&stock), exported(&ours));
        assert!(theirs.len() > 10, "{stock}");
        if head.0 == "head" {
            assert_eq!(theirs, here);
        } else {
            assert!(theirs.iter().all(|name| here.contains(name)), "{theirs:?} {here:?}");
        }
        let missing: Vec<&str> = stock.lines().filter(|line| !ours.lines().any(|other| other == *line)).collect();
        assert!(stock.contains("private: machine-matches?\n") && missing.is_empty(), "{missing:?}");
    }
}

/// The rest would work too, interpreted, but take longer to start for each build.
#[test]
fn what_was_compiled_for_this_guix_is_what_runs() {
    let script = format!(
        "(with-fluids ((%file-port-name-canonicalization 'absolute))
           (primitive-load \"{INSTALLED}/share/guix-offload/replace.scm\"))
         (display (call-with-input-file \"/proc/self/maps\" (@ (ice-9 textual-ports) get-string-all)))"
    );
    for (head, guile, compiled) in [(HEAD, "guile", "3.0/for-guix-1.5.0"), (OLDHEAD, "guile-2.2", "2.2/for-guix-1.2.0")]
    {
        let mapped = head.sh(&[guile, "--no-auto-compile", "-c", &script]);
        for name in ["offload", "offload/records", "offload/survey"] {
            let file = format!("{INSTALLED}/lib/guix-offload/guile/{compiled}/guix/scripts/{name}.go");
            assert!(mapped.contains(&file), "{file} is not in\n{mapped}");
        }
    }
}

/// Whoever loads the binding keeps Guix's own command.
#[test]
fn the_binding_replaces_nothing() {
    let script = "(use-modules (guix-offload))
                  (display (offload-version))
                  (display \" beside \")
                  (display (search-path %load-path \"guix/scripts/offload.scm\"))";
    for (head, guile, modules) in [(HEAD, "guile", BINDINGS[0]), (OLDHEAD, "guile-2.2", BINDINGS[1])] {
        let said = head.sh(&[guile, "--no-auto-compile", "-L", modules, "-c", script]);
        assert!(said.starts_with(concat!(env!("CARGO_PKG_VERSION"), " beside /usr/share/guile/site/")), "{said}");
    }
}

#[test]
fn the_module_passes_its_own_tests_with_guile_3_0() {
    HEAD.write_machines(&[Machine::of(W1)]);
    lab(&["restart-daemon", HEAD.0]);
    pass_tests(HEAD, "guile", MODULES);
}

#[test]
fn the_module_passes_its_own_tests_with_guile_2_2() {
    OLDHEAD.write_machines(&[Machine::of(W1)]);
    lab(&["restart-daemon", OLDHEAD.0]);
    pass_tests(OLDHEAD, "guile-2.2", MODULES);
}

#[track_caller]
fn pass_tests(head: Host, guile: &str, modules: &str) {
    let tests = tests_on(head);
    for name in ["machine-file.scm", "verbs.scm"] {
        head.sh(&[guile, "--no-auto-compile", "-L", modules, &format!("{tests}/{name}")]);
    }
    head.verify_store();
    // A guix-daemon leaves the output of a build that differs from round to round to its collector.
    W1.sh(&["guix", "gc"]);
}
