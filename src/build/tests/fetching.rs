// SPDX-License-Identifier: GPL-3.0-or-later
//! What is sent while a machine fetches, and when its fetch ends.

use std::sync::Weak;

use parking_lot::Mutex;

use super::sending::{built, send_at};
use super::*;
use crate::daemon::Substitute;
use crate::remote::fetch::Shared;

/// What a link moves, in bytes a second: sending the large item takes five seconds.
const RATE: f64 = 1e4;
const LARGE: usize = 50_000;

/// The machine's fetch, as long as it is not over.
type Watched = Arc<Mutex<Weak<Shared>>>;

/// Makes `m` fetch `item`, and never get anywhere by itself.
fn fetches(host: &Host, item: &StorePath) -> Watched {
    let watched = Watched::default();
    let (told, item) = (Arc::clone(&watched), item.clone());
    let nar_size = host.scene.database().info(&item).unwrap().unwrap().nar_size;
    host.world.doubles.set_servers(move |_, asked, choose, shared| {
        assert!(asked.contains(&item));
        let offer = Substitute { path: item.clone(), references: Vec::new(), nar_size, download_size: 0 };
        let wanted = choose(vec![offer]);
        assert_eq!(wanted.len(), 1);
        shared.begin(&wanted);
        *told.lock() = Arc::downgrade(&shared);
    });
    watched
}

#[test]
fn what_the_machine_has_fetched_is_protected_until_it_is_asked_again_and_not_sent() {
    let host = Host::new(&["m"]);
    let [large, small] = [("large", LARGE), ("small", 100)].map(|(name, size)| built(&host, name, size, &[]));
    let watched = fetches(&host, &large);
    let (doubles, fetched, fetch) = (Arc::clone(&host.world.doubles), large.clone(), Arc::clone(&watched));
    let asked = Mutex::new(0);
    host.world.doubles.act(move |_, step, _| {
        let fetch = fetch.lock().upgrade();
        match step {
            Step::Import => {
                doubles.give("m", std::slice::from_ref(&fetched));
                fetch.expect("it fetches").end(Ok(()));
            }
            Step::Missing => {
                *asked.lock() += 1;
                assert_eq!(fetch.is_some(), *asked.lock() == 2, "question {}", asked.lock());
            }
            _ => {}
        }
        Ok(())
    });
    let sent = send_at(Some(RATE), &host, &[large, small.clone()]);
    assert_eq!(sent.result.unwrap(), [small]);
    assert_eq!(sent.steps.iter().filter(|step| **step == Step::Missing).count(), 2);
    assert!(watched.lock().upgrade().is_none());
}

#[test]
fn a_fetch_is_over_before_the_machine_is_sent_what_it_fetches() {
    let host = Host::new(&["m"]);
    let [large, small, lost] =
        [("large", LARGE), ("small", 100), ("lost", 100)].map(|(name, size)| built(&host, name, size, &[]));
    host.world.doubles.give("m", std::slice::from_ref(&lost));
    let watched = fetches(&host, &large);
    let (doubles, taken, fetch) = (Arc::clone(&host.world.doubles), lost.clone(), Arc::clone(&watched));
    host.world.doubles.act(move |_, step, _| {
        // While the first items are imported, a collector takes another one, so all is asked and sent again.
        if step == Step::Import && doubles.has("m", &taken) {
            assert!(fetch.lock().upgrade().is_some(), "it fetches");
            doubles.take("m", &taken);
            return Err(Error::new(ErrorKind::Daemon, format!("path `{taken}' is not valid")));
        }
        // The daemon there would hold a lock on what it fetches.
        assert!(step != Step::Import || fetch.lock().upgrade().is_none(), "it still fetches");
        Ok(())
    });
    let items = [large, small, lost];
    assert_eq!(send_at(Some(RATE), &host, &items).result.unwrap().len(), items.len());
}

#[test]
fn a_machine_is_asked_only_if_sending_would_take_long() {
    for (rate, asked) in [(Some(RATE), true), (Some(1e6), false), (None, false)] {
        let host = Host::new(&["m"]);
        let large = built(&host, "large", LARGE, &[]);
        let sent = send_at(rate, &host, std::slice::from_ref(&large));
        assert_eq!(sent.steps.contains(&Step::Fetch), asked, "{rate:?}");
        assert_eq!(sent.result.unwrap(), [large], "no server has it");
    }
}
