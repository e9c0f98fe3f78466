// SPDX-License-Identifier: GPL-3.0-or-later
//! The messages from the keeper to a client. Any thread of the keeper may send them.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::doors::keeper::activity::Activity;
use crate::doors::keeper::message::FromKeeper;
use crate::doors::keeper::owned_event::OwnedEvent;
use crate::doors::keeper::socket::send;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::report::{Aside, Event, Observer};

/// The build of a hook, under [`OF_HOOK`], or the builds of a link, under the numbers of their jobs.
pub(super) type Activities = Arc<Mutex<BTreeMap<u64, Activity>>>;

/// The key of a hook's build in [`Activities`].
const OF_HOOK: u64 = 0;

/// The sender of messages to a client. Any thread may use it.
#[derive(Clone)]
pub(super) struct Voice {
    pub(super) stream: Arc<UnixStream>,
    /// Held while a message is sent.
    writing: Arc<Mutex<()>>,
    pub(super) activities: Activities,
}

impl Voice {
    pub(super) fn new(stream: Arc<UnixStream>, activities: Activities) -> Self {
        Voice { stream, writing: Arc::default(), activities }
    }

    /// Records what the keeper does for the hook; `None`: nothing.
    pub(super) fn note(&self, activity: Option<Activity>) {
        let mut activities = self.activities.lock();
        activities.remove(&OF_HOOK);
        activities.extend(activity.map(|activity| (OF_HOOK, activity)));
    }

    pub(super) fn say(&self, message: &impl Serialize) -> Result<()> {
        let _writing = self.writing.lock();
        send(&mut &*self.stream, message)
    }
}

/// Reports to the hook.
impl Observer for Voice {
    fn event(&mut self, event: &Event<'_>) {
        if let Some(activity) = self.activities.lock().get_mut(&OF_HOOK) {
            activity.note(event);
        }
        let _ = self.say(&FromKeeper::Event(OwnedEvent::from(event))); // a hook that is gone is noticed elsewhere
    }

    fn aside(&self) -> Option<Aside> {
        let voice = self.clone();
        Some(Arc::new(move |line| {
            let _ = voice.say(&FromKeeper::Aside(line.into()));
        }))
    }

    fn log(&mut self, text: &[u8]) -> Result<()> {
        self.say(&FromKeeper::Log(text.to_vec())).map_err(|_| Error::new(ErrorKind::Cancelled, "the hook ended"))
    }
}
