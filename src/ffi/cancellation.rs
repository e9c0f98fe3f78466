// SPDX-License-Identifier: GPL-3.0-or-later
//! Stopping verbs that block, from another thread.

use super::error::guix_offload_error;
use super::export;
use super::handle::{self, Out};
use crate::cancel::Cancel;

/// A way to stop verbs that block: it is given to `guix_offload_choose` or `guix_offload_connect`, and holds for what is
/// done with the connection that comes of it, too. One may be given to any number of calls. What was made with it keeps
/// what it needs of it: it may be freed before.
pub struct guix_offload_cancellation {
    cancel: Cancel,
}

/// What the argument stands for, NULL for one that nobody can cancel.
pub(super) fn cancel_of(cancellation: *const guix_offload_cancellation) -> Cancel {
    handle::borrow(cancellation, "cancellation").map_or_else(|_| Cancel::default(), |it| it.cancel.clone())
}

export! {
    /// Makes a cancellation. The caller frees it with `guix_offload_cancellation_free`.
    ///
    /// Fails with `GUIX_OFFLOAD_INVALID_ARGUMENT` if `cancellation` is NULL.
    pub fn guix_offload_cancellation_new(
        cancellation: *mut *mut guix_offload_cancellation,
        error: *mut *mut guix_offload_error,
    ) -> guix_offload_status {
        Out::new(cancellation, "cancellation")?.give(guix_offload_cancellation { cancel: Cancel::default() });
        Ok(())
    }
}

export! {
    /// Cancels, for good: the calls under way that it was given to, or whose connection was made with it, return with
    /// `GUIX_OFFLOAD_CANCELLED`, as a rule within a second, and later ones fail so at once. A build that is under way on
    /// a machine is stopped. Any thread, at any time, but not a signal handler. NULL is fine.
    pub fn guix_offload_cancellation_cancel(cancellation: *const guix_offload_cancellation) {
        if let Ok(it) = handle::borrow(cancellation, "cancellation") {
            it.cancel.cancel();
        }
    }
}

export! {
    /// Frees a cancellation, which cancels nothing. NULL is fine.
    pub fn guix_offload_cancellation_free(cancellation: *mut guix_offload_cancellation) {
        handle::free(cancellation);
    }
}
