// SPDX-License-Identifier: GPL-3.0-or-later
//! Whose fault a failed build is: the build's own, or the machine's, where another one may do better.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use guix_offload::ground::error::ErrorKind;

use crate::cases::with;
use crate::double::says;
use crate::fixture::Scene;
use crate::harness::{Deaf, NAME, build, limits, machine};
use crate::sshd::Sshd;
use crate::wire_bytes::*;

const FAILED: &str = "build of `/gnu/store/x-asked.drv' failed";
const KILLED: &str = "builder for `/gnu/store/x-asked.drv' failed due to signal 9 (Killed)\n";

/// A scene with this derivation to build, which no daemon makes again from its text.
fn scene(derivation: &str) -> Scene {
    let scene = Scene::new();
    scene.register("asked.drv", derivation.as_bytes(), &nar(file(derivation.as_bytes())));
    scene
}

/// What becomes of a build with this log that fails with this status.
#[track_caller]
fn assert_blamed(scene: &Scene, sshd: &Sshd, log: &str, status: u64, kind: ErrorKind) {
    let answer = [number(NEXT), string(log), fails(FAILED, status)].concat();
    let plan = with(scene, |plan| plan.build = says(answer));
    let error = build(scene, &machine(sshd, scene), plan, limits(0, 0), &mut Deaf).unwrap_err();
    assert_eq!(error.kind(), kind, "{log:?} {status}: {error}");
    if kind == ErrorKind::Unavailable {
        assert_eq!(error.machine(), Some(NAME), "{error}");
    }
}

#[test]
fn what_fails_by_itself_is_not_blamed_on_the_machine() {
    let sshd = Sshd::start(&[]);
    let scene_of = |outputs: &str| scene(&format!("Derive([{outputs}],[],[],\"x86_64-linux\",\"b\",[],[])"));
    let (free, fixed) =
        (scene_of(r#"("out","/gnu/store/x","","")"#), scene_of(r#"("out","/gnu/store/x","sha256","ab")"#));
    assert_blamed(&fixed, &sshd, "no such host\n", 1, ErrorKind::BuildFailed);
    assert_blamed(&free, &sshd, "no such host\n", 1, ErrorKind::Daemon);
    let rejected = "builder for `x.drv' failed to produce output path `x'\n";
    assert_blamed(&free, &sshd, rejected, 1, ErrorKind::BuildFailed);
    assert_blamed(&free, &sshd, "about to fail\n", 100, ErrorKind::BuildFailed);
    // Killed, but not for want of memory, of which there is some, as far as is known.
    assert_blamed(&free, &sshd, KILLED, 100, ErrorKind::BuildFailed);
    assert_blamed(&free, &sshd, "failed\n", 101, ErrorKind::TimedOut);
}

/// A server whose `sh` runs `filter` on what the real one says.
pub fn server_that_says(directory: &Path, filter: &str) -> Sshd {
    let fake = directory.join("bin/sh");
    fs::create_dir_all(fake.parent().unwrap()).unwrap();
    fs::write(&fake, format!("#!/bin/sh\n/bin/sh \"$@\" | {filter}\n")).unwrap();
    fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).unwrap();
    Sshd::start(&[&format!(
        "SetEnv PATH={}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        fake.parent().unwrap().display()
    )])
}

#[test]
fn a_machine_that_lacks_memory_or_space_is_blamed() {
    let scene = scene("derive");
    // The kernel there has killed one more process each time that it is asked.
    let count = scene.at("count");
    let more = format!("{{ echo x >>{0}; sed \"s/^kills .*/kills $(wc -l <{0})/\"; }}", count.display());
    let killing = server_that_says(&scene.at("killing"), &more);
    assert_blamed(&scene, &killing, KILLED, 100, ErrorKind::Unavailable);
    assert_blamed(&scene, &killing, "failed with exit code 1\n", 100, ErrorKind::BuildFailed);
    let starved = server_that_says(&scene.at("starved"), "sed 's/^memory .*/memory 9999/'");
    assert_blamed(&scene, &starved, KILLED, 100, ErrorKind::Unavailable);
    for disk in ["store", "build"] {
        let full = server_that_says(&scene.at(disk), &format!("sed 's/^{disk} .*/{disk} 9999/'"));
        assert_blamed(&scene, &full, "failed with exit code 1\n", 100, ErrorKind::Unavailable);
    }
}
