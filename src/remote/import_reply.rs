// SPDX-License-Identifier: GPL-3.0-or-later
//! The frames that the daemon sends while an import is fed to it. They are kept for the later reader, and searched for
//! the answer: once it is there, nothing more need be sent.

use crate::daemon::LOG_FRAME;
use crate::ground::words::{number_at, padding};

/// Longest reply to an import, in bytes, that is kept while the import is sent. A longer one counts as an answer.
const MOST: usize = 1 << 20;

/// The frames in the order in which they came. All their words have 8 bytes.
#[derive(Default)]
pub struct ImportReply {
    bytes: Vec<u8>,
    /// How many of the bytes were read.
    read: usize,
    /// Where the next frame begins.
    next: usize,
}

impl ImportReply {
    /// Appends `bytes`, which came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns whether the answer is there. Only pieces of log come before it.
    pub fn is_answered(&mut self) -> bool {
        let word = |at: usize| number_at(&self.bytes, at);
        while let Some(tag) = word(self.next) {
            if tag != LOG_FRAME {
                return true;
            }
            let Some(length) = word(self.next + 8) else { break };
            let Ok(whole) = usize::try_from(length.saturating_add(padding(length) as u64)) else { return true };
            self.next = self.next.saturating_add(16).saturating_add(whole);
        }
        self.bytes.len() > MOST
    }

    /// Moves bytes that came to `buffer`, as many as fit, and returns their number; 0: none are left.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(self.bytes.len() - self.read);
        buffer[..length].copy_from_slice(&self.bytes[self.read..][..length]);
        self.read += length;
        if self.read == self.bytes.len() {
            *self = ImportReply::default();
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn an_answer_is_found_behind_log_however_it_comes() {
        // Logs of 0, 8 and 9 bytes, one of which looks like an answer.
        let log = words(&[LOG_FRAME, 0, LOG_FRAME, 8, 0x616c_7473, LOG_FRAME, 9, 1, 2]);
        let all = [log.clone(), words(&[0x6378_7470])].concat();
        for piece in 1..all.len() {
            let mut import_reply = ImportReply::default();
            let mut seen = 0;
            for bytes in all.chunks(piece) {
                import_reply.push(bytes);
                seen += bytes.len();
                assert_eq!(import_reply.is_answered(), seen == all.len(), "{seen} bytes in pieces of {piece}");
            }
            let mut read = vec![0; all.len() + 1];
            assert_eq!((import_reply.read(&mut read), &read[..all.len()]), (all.len(), &all[..]));
            assert_eq!(import_reply.read(&mut read), 0);
        }
    }

    #[test]
    fn a_daemon_that_only_talks_is_answered_to() {
        let mut import_reply = ImportReply::default();
        import_reply.push(&words(&[LOG_FRAME, 2 << 20]));
        import_reply.push(&vec![0; MOST]);
        assert!(import_reply.is_answered());
        let mut import_reply = ImportReply::default();
        import_reply.push(&words(&[LOG_FRAME, u64::MAX - 7]));
        assert!(!import_reply.is_answered());
    }
}
