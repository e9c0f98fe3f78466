// SPDX-License-Identifier: GPL-3.0-or-later
//! What is sent to several machines at once is compressed once.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

use crate::ground::gcrypt::sha256;

/// Most bytes of compressed forms that are kept, for machines that are sent the same a little later.
const KEPT: usize = 8 << 20;

/// The forms that imports share. They are there while an import is.
static SHARED: Mutex<Weak<CompressedForms>> = Mutex::new(Weak::new());

/// The SHA-256 of some bytes, and the level at which they are compressed.
type Key = ([u8; 32], i32);

/// Compressed forms, each a zstd frame.
#[derive(Default)]
pub struct CompressedForms {
    forms: Mutex<Forms>,
    changed: Condvar,
}

#[derive(Default)]
struct Forms {
    /// `None`: it is being made.
    by_key: HashMap<Key, Option<Arc<Vec<u8>>>>,
    /// Those that are made, the oldest first.
    made: VecDeque<Key>,
    bytes: usize,
}

impl CompressedForms {
    /// Returns the forms of the imports that run in this process.
    pub fn shared() -> Arc<CompressedForms> {
        Self::of_those_who_hold(&SHARED)
    }

    fn of_those_who_hold(shared: &Mutex<Weak<CompressedForms>>) -> Arc<CompressedForms> {
        let mut shared = shared.lock();
        shared.upgrade().unwrap_or_else(|| {
            let forms = Arc::default();
            *shared = Arc::downgrade(&forms);
            forms
        })
    }

    /// Returns whether there is another import that may want the same.
    pub fn are_shared(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }

    /// Compresses `bytes` at `level`, unless that was done a moment ago. If another thread is at it, waits for it.
    pub fn compress(&self, bytes: &[u8], level: i32) -> io::Result<Arc<Vec<u8>>> {
        self.make((sha256(bytes)?, level), || zstd::bulk::compress(bytes, level))
    }

    fn make(&self, key: Key, make: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<Arc<Vec<u8>>> {
        let mut forms = self.forms.lock();
        loop {
            match forms.by_key.get(&key) {
                Some(Some(form)) => return Ok(Arc::clone(form)),
                Some(None) => self.changed.wait(&mut forms),
                None => break,
            }
        }
        forms.by_key.insert(key, None);
        drop(forms);
        let mut making = Making { forms: self, key, form: None };
        let form = Arc::new(make()?);
        making.form = Some(Arc::clone(&form));
        Ok(form)
    }
}

/// A form that is being made. When dropped, it is kept, or may be made by another.
struct Making<'a> {
    forms: &'a CompressedForms,
    key: Key,
    form: Option<Arc<Vec<u8>>>,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut forms = self.forms.forms.lock();
        forms.by_key.remove(&self.key);
        if let Some(form) = self.form.take() {
            forms.keep(self.key, form);
        }
        self.forms.changed.notify_all();
    }
}

impl Forms {
    fn keep(&mut self, key: Key, form: Arc<Vec<u8>>) {
        self.bytes += form.len();
        self.by_key.insert(key, Some(form));
        self.made.push_back(key);
        while self.bytes > KEPT {
            let Some(oldest) = self.made.pop_front() else { break };
            let removed = self.by_key.remove(&oldest).flatten();
            self.bytes -= removed.map_or(0, |form| form.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn key(number: u8) -> Key {
        ([number; 32], 3)
    }

    #[test]
    fn a_form_can_be_decompressed() {
        let bytes = vec![7; 1 << 20];
        let forms = CompressedForms::default();
        let form = forms.compress(&bytes, 3).unwrap();
        assert!(zstd::bulk::decompress(&form, bytes.len()).unwrap() == bytes);
        assert!(Arc::ptr_eq(&form, &forms.compress(&bytes, 3).unwrap()));
        assert!(!Arc::ptr_eq(&form, &forms.compress(&bytes, 5).unwrap()));
    }

    #[test]
    fn of_those_that_want_the_same_at_once_one_makes_it() {
        let (forms, times) = (CompressedForms::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let form = forms.make(key(1), || {
                        times.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(50));
                        Ok(vec![9])
                    });
                    assert_eq!(*form.unwrap(), [9]);
                });
            }
        });
        assert_eq!(times.into_inner(), 1);
    }

    #[test]
    fn what_could_not_be_made_is_made_by_another() {
        let forms = CompressedForms::default();
        forms.make(key(1), || Err(io::Error::other("no memory"))).unwrap_err();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| forms.make(key(1), || panic!("oops"))));
        assert!(panicked.is_err());
        assert_eq!(*forms.make(key(1), || Ok(vec![1])).unwrap(), [1]);
    }

    #[test]
    fn the_oldest_go_first_and_all_with_the_last_import() {
        let forms = CompressedForms::default();
        for number in 0..10 {
            forms.make(key(number), || Ok(vec![number; KEPT / 4])).unwrap();
        }
        forms.make(key(9), || panic!("it is kept")).unwrap();
        forms.make(key(6), || panic!("it is kept")).unwrap();
        assert_eq!(*forms.make(key(5), || Ok(vec![0])).unwrap(), [0]);
        assert!(forms.forms.lock().bytes <= KEPT);

        let imports = Mutex::default();
        let first = CompressedForms::of_those_who_hold(&imports);
        assert!(!first.are_shared());
        let second = CompressedForms::of_those_who_hold(&imports);
        assert!(first.are_shared() && second.are_shared());
        first.make(key(1), || Ok(vec![1])).unwrap();
        drop(first);
        second.make(key(1), || panic!("it is kept")).unwrap();
        drop(second);
        assert!(CompressedForms::of_those_who_hold(&imports).forms.lock().by_key.is_empty());
    }
}
