// SPDX-License-Identifier: GPL-3.0-or-later
//! Time limits of a build that no clock can count.

use guix_offload::daemon::BuildOptions;
use guix_offload::ground::error::ErrorKind;

use crate::alone;
use crate::fixture::Scene;
use crate::harness::{machine, tell_with};
use crate::sshd::Sshd;

#[test]
fn limits_without_end_are_limits() {
    let _alone = alone();
    let (scene, sshd) = (Scene::new(), Sshd::start(&[]));
    scene.register("asked.drv", b"derive", &crate::wire_bytes::nar(crate::wire_bytes::file(b"derive")));
    for limit in [u64::MAX, i64::MAX as u64] {
        let options = BuildOptions {
            max_silent_time: limit,
            timeout: limit,
            print_build_trace: false,
            ..BuildOptions::default()
        };
        // It gets as far as the output, which is no archive.
        let error = tell_with(&scene, &machine(&sshd, &scene), scene.honest(b"none"), options).error().unwrap();
        assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
        assert!(error.to_string().contains("output"), "{error}");
    }
}
