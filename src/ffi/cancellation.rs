// SPDX-License-Identifier: GPL-3.0-or-later
//! Stopping calls that block, from another thread.

use super::error::guix_offload_error;
use super::export;
use super::handle::{self, Out};
use crate::ground::cancel::Cancel;

/// A means to stop calls that block. If it is given to a call that makes a lease or a connection, it also stops what is
/// done with that. One cancellation may be given to any number of calls,
/// and may be freed before what was made with it.
pub struct guix_offload_cancellation {
    cancel: Cancel,
}

/// Returns what the argument stands for. NULL stands for one that nobody can cancel.
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
    /// Cancels permanently. Calls that were given this cancellation, or that use a connection made with it, fail with
    /// `GUIX_OFFLOAD_CANCELLED`: calls under way within a second as a rule, later ones at once. A build that is under
    /// way on a machine is stopped. Any thread may call this at any time, but a signal handler must not. NULL is fine.
    pub fn guix_offload_cancellation_cancel(cancellation: *const guix_offload_cancellation) {
        if let Ok(it) = handle::borrow(cancellation, "cancellation") {
            it.cancel.cancel();
        }
    }
}

export! {
    /// Frees a cancellation. That cancels nothing. NULL is fine.
    pub fn guix_offload_cancellation_free(cancellation: *mut guix_offload_cancellation) {
        handle::free(cancellation);
    }
}
