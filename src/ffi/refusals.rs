// SPDX-License-Identifier: GPL-3.0-or-later
//! Why machines were not chosen.

use super::error::guix_offload_error;
use super::{export, handle};
use crate::ground::error::Error;

/// Why machines were not chosen: an error for each.
pub struct guix_offload_refusals {
    errors: Vec<guix_offload_error>,
}

impl guix_offload_refusals {
    pub(super) fn new(errors: Vec<Error>) -> Self {
        guix_offload_refusals { errors: errors.into_iter().map(Into::into).collect() }
    }
}

export! {
    /// Frees a list of refusals. NULL is fine.
    pub fn guix_offload_refusals_free(refusals: *mut guix_offload_refusals) {
        handle::free(refusals);
    }
}

export! {
    /// Returns the number of refusals; 0 if `refusals` is NULL.
    pub fn guix_offload_refusals_count(refusals: *const guix_offload_refusals) -> usize {
        handle::look(refusals, 0, |refusals| refusals.errors.len())
    }
}

export! {
    /// Returns the `index`th refusal, counted from 0: why the machine that it names was not chosen; NULL if there are
    /// no more. It belongs to the list, and lives as long as that.
    pub fn guix_offload_refusals_get(
        refusals: *const guix_offload_refusals,
        index: usize,
    ) -> *const guix_offload_error {
        handle::look(refusals, std::ptr::null(), |refusals| {
            refusals.errors.get(index).map_or(std::ptr::null(), std::ptr::from_ref)
        })
    }
}
