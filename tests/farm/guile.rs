// SPDX-License-Identifier: GPL-3.0-or-later
//! Guile: the daemon that nobody patched, with our module in place of Guix's script.

use std::path::Path;

use crate::lab::{Host, lab};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const OLD: Host = Host("old");

/// Where the heads see what is installed.
const MODULES: &str = "/opt/guix-offload/share/guile/site/3.0";
const HOOK: [&str; 1] = ["GUIX=/opt/guix-offload/libexec/guix-offload-guile"];
/// Debian's guix looks at GUILE_LOAD_PATH last, and only without GUIX_UNINSTALLED at its own modules first of all.
const ENVIRONMENT: [&str; 2] = [
    "GUIX_UNINSTALLED=1",
    "GUILE_SYSTEM_PATH=/opt/guix-offload/share/guile/site/3.0:/usr/share/guile/3.0:/usr/share/guile/site/3.0",
];

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

fn bindings() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/bindings/guile"))
}

/// Has the daemon of `head`, started with `environment`, build on `W1`.
#[track_caller]
fn offload_with(head: Host, environment: &[&str]) {
    head.offload_to(&[W1]);
    let restart = [&["restart-daemon", head.0], environment, &["--", "--max-jobs=0"]].concat();
    lab(&restart);
    for (mode, outputs) in [("plain", 1), ("outputs", 3)] {
        let builds = head.build(mode, &["kib=16", "input-kib=16"]);
        assert!(builds.succeeded && builds.log.contains("done with offloaded"), "{}", builds.log);
        // The script does not say how large what it retrieves is.
        assert!(builds.log.contains("(0 MiB) from 'w1'..."), "this is not our hook:\n{}", builds.log);
        let name = if mode == "plain" { "plain-0" } else { mode };
        assert_eq!(builds.outputs(name).len(), outputs, "{}", builds.results);
    }
    let failing = head.build("fail", &[]);
    assert!(failing.results.starts_with("failed fail\nerror "), "{}", failing.results);
    // The daemon was told that it is the build that failed, not the machine.
    assert!(failing.log.contains("failed with exit code 100"), "{}", failing.log);
    head.verify_store();
}

#[test]
fn the_daemon_offloads_through_the_program_for_guile() {
    offload_with(HEAD, &HOOK);
}

#[test]
fn a_daemon_without_privileges_does_too() {
    offload_with(Host("uhead"), &HOOK);
}

#[test]
fn the_daemon_offloads_through_modules_that_the_environment_names() {
    offload_with(HEAD, &ENVIRONMENT);
}

#[test]
fn the_machine_file_of_a_hook_is_any_program() {
    HEAD.offload_to(&[W1]);
    let file = HEAD.file("/etc/guix/machines.scm");
    let plain = std::fs::read_to_string(&file).unwrap();
    let program = format!(
        "(use-modules (srfi srfi-1) (guix utils))\n(define machines {plain})\n(map (lambda (machine)\n  \
         (build-machine (inherit machine) (systems (list (or (getenv \"NO-SUCH\") (%current-system))))))\n  machines)\n"
    );
    std::fs::write(&file, program).unwrap();
    lab(&[&["restart-daemon", HEAD.0], &HOOK[..], &["--", "--max-jobs=0"]].concat());
    let builds = HEAD.build("plain", &[]);
    assert!(builds.succeeded && builds.log.contains("offloading '"), "{}", builds.log);

    std::fs::write(&file, "(error \"nobody knows the machines\")").unwrap();
    let builds = HEAD.build("plain", &["timeout=20"]);
    assert!(!builds.succeeded, "{}", builds.log);
    assert!(builds.log.contains("failed to load machine file '/etc/guix/machines.scm'"), "{}", builds.log);
    assert!(builds.log.contains("nobody knows the machines"), "{}", builds.log);
}

#[test]
fn the_module_passes_its_own_tests_with_guile_3_0() {
    copy(&bindings().join("tests"), &HEAD.file("/root/guile-tests"));
    HEAD.offload_to(&[W1]);
    lab(&["restart-daemon", HEAD.0]);
    for tests in ["machine-file.scm", "verbs.scm"] {
        HEAD.sh(&["guile", "--no-auto-compile", "-L", MODULES, &format!("/root/guile-tests/{tests}")]);
    }
    HEAD.verify_store();
}

/// Guix 1.2.0. The library is not for so old a Debian, so this is the module's own part.
#[test]
fn the_module_passes_its_own_tests_with_guile_2_2() {
    copy(bindings(), &OLD.file("/root/guile"));
    OLD.sh(&["guile-2.2", "--no-auto-compile", "-L", "/root/guile", "/root/guile/tests/machine-file.scm"]);
    let version = OLD.sh(&["env", "GUIX_UNINSTALLED=1", "GUILE_LOAD_PATH=/root/guile", "guix", "offload", "--version"]);
    assert!(version.starts_with("guix offload (GNU Guix) 1.2.0\n"), "{version}");
}
