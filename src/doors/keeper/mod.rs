// SPDX-License-Identifier: GPL-3.0-or-later
//! The keeper: one process of a host and user that does the builds of all hooks, with connections that stay warm from
//! one build to the next.
//!
//! A hook reads guix-daemon's lines and the machine file itself. For the rest it has the keeper, over a socket:
//! [`client`] is the hook's side, [`server`] the keeper's, [`place`] is where they meet, and [`message`] what they say.
//!
//! ```text
//! hook:    Hello                        who it is: version, directories, namespaces
//! keeper:  Welcome, or hangs up
//! hook:    Ask                          again after Declined and Postponed
//! keeper:  Told, Log...                 any number of times, also further on
//! keeper:  CouldBuildHere               if that matters; the hook answers BuildsHere
//! keeper:  Declined, Postponed, Accepted or Failed
//! hook:    Work                         after Accepted
//! keeper:  MakeValid                    the outputs are here; the hook answers MadeValid
//! keeper:  Done or Failed
//! ```
//!
//! Whoever looks after it says one thing instead, and needs not be its hook: `Inspect`, which is answered by a
//! [`report`], or `Retire`.
//!
//! A hook that is killed cannot do harm later: guix-daemon gives up its locks on the outputs with the hook, so it is
//! the hook, not the keeper, that makes outputs valid. Its end is seen by the keeper, which cancels the build.
//!
//! Any failure of the keeper before `Accepted` has the hook do the build by itself; after that, the build fails as one
//! that may be tried again.

pub mod client;
pub mod link;
mod link_server;
pub mod message;
pub mod place;
pub mod report;
pub mod server;
