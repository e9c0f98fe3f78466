// SPDX-License-Identifier: GPL-3.0-or-later
//! The keeper: one process per host and user that does the builds of all hooks. Its connections stay open from one
//! build to the next.
//!
//! A hook reads guix-daemon's lines and the machine file itself. The keeper does the rest, over a socket: [`client`] is
//! the hook's side, which [`reach`] connects; [`server`] is the keeper, whose threads serve clients in
//! [`hook_server`] and speak through [`voice`]. [`place`] is where they meet. [`message`] has what they say, and
//! [`socket`] how that travels.
//!
//! ```text
//! hook:    Hello                        who it is: version, directories, namespaces
//! keeper:  Welcome, or hangs up
//! hook:    Ask                          again after Declined and Postponed
//! keeper:  Event, Log, Aside...         any number of times, also further on
//! keeper:  CouldBuildHere               if that matters; the hook answers BuildsHere
//! keeper:  Declined, Postponed, Accepted or Failed
//! hook:    Work                         after Accepted
//! keeper:  MakeValid                    the outputs are here; the hook answers MadeValid
//! keeper:  Done or Failed
//! ```
//!
//! A process with jobs says `Link` after `Welcome`. [`link`] is its side, [`link_server`] the keeper's. Each message
//! then has the number of a job:
//!
//! ```text
//! process: Start
//! keeper:  Accepted                     or Retires: the process needs another keeper
//! keeper:  Event, Log, Aside...         any number of times; Taken says how much of the log was taken
//! keeper:  MakeValid                    the outputs are here; the process answers MadeValid
//! keeper:  Done or Failed               the process may say Cancel at any time before
//! ```
//!
//! An administrator says one thing instead of `Hello`: `Inspect`, which the keeper answers with a [`report`],
//! `Explain`, which it answers with `Explained`, or `Retire`, which it answers with `Retires`.
//!
//! A hook that is killed cannot do harm later: guix-daemon gives up the locks on the outputs when the hook ends. So the
//! hook, not the keeper, makes outputs valid. The keeper notices the end of the hook and cancels the build.
//!
//! If the keeper fails before `Accepted`, the hook does the build by itself. If it fails later, the build fails, and
//! may be tried again.

pub mod activity;
pub mod client;
mod hook_server;
pub mod link;
mod link_server;
pub mod message;
mod owned_event;
pub mod place;
pub mod reach;
pub mod report;
pub mod server;
mod socket;
mod voice;
