// SPDX-License-Identifier: GPL-3.0-or-later
//! What is sent to a machine that does not want it.

use guix_offload::ground::error::{ErrorKind, Result};
use guix_offload::report::{Event, Observer};

use crate::alone;
use crate::cases::with;
use crate::double::says;
use crate::harness::{build_of, limits, machine};
use crate::refusing::scene;
use crate::sshd::Sshd;
use crate::wire_bytes::*;

/// Size of the input, and what may be on its way, in windows and queues, when the answer comes. In bytes.
const INPUT: usize = 64 << 20;
const ON_ITS_WAY: u64 = 32 << 20;

/// Counts what was sent.
#[derive(Default)]
struct Count(u64);

impl Observer for Count {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Transferred { bytes } = event {
            self.0 = *bytes;
        }
    }

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_refused_at_once_is_not_sent_to_its_end() {
    let _alone = alone(); // the input is in memory
    // The relay feeds the import; without it, nothing is sent that was not asked for.
    let (scene, sshd) = (scene(), Sshd::start(&["AllowStreamLocalForwarding no"]));
    let contents: Vec<u8> = (0..INPUT as u32 / 4).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    let input = scene.register("input", &contents, &nar(file(&contents)));
    // A word of log before it changes nothing.
    let answer = [number(NEXT), string("checking\n"), fails("the key is not trusted", 1)].concat();
    let plan = with(&scene, |plan| (plan.has_all, plan.import) = (false, says(answer)));
    let mut count = Count::default();
    let error = build_of(&scene, &machine(&sshd, &scene), plan, vec![input], limits(0, 0), &mut count).unwrap_err();
    assert!(error.kind() == ErrorKind::Daemon && error.to_string().contains("not trusted"), "{error}");
    assert!(count.0 < ON_ITS_WAY, "{} of {} MiB were sent", count.0 >> 20, INPUT >> 20);
}
