// SPDX-License-Identifier: GPL-3.0-or-later
//! What a daemon's log says of its downloads.

/// Longest line of the daemon's log that is looked at, in bytes. Other lines are not about downloads.
const LONGEST_LINE: usize = 4096;

/// Most downloads at once that are counted.
const MOST_AT_ONCE: usize = 100;

/// Counts the bytes of downloads, as the daemon's log tells them: lines `@ download-progress FILE URL SIZE BYTES` and
/// `@ download-succeeded FILE URL SIZE` (Guix's `guix/progress.scm`, `progress-reporter/trace`).
#[derive(Default)]
pub struct Downloads {
    line: Vec<u8>,
    /// Bytes of the downloads that are over.
    over: u64,
    /// The files that are being downloaded, each with its bytes so far.
    current: Vec<(Vec<u8>, u64)>,
}

impl Downloads {
    /// Reads a piece of the log.
    pub fn read(&mut self, text: &[u8]) {
        for &byte in text {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.note(&line);
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(byte);
            }
        }
    }

    fn note(&mut self, line: &[u8]) {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u64>().ok();
        match words[..] {
            [b"@", b"download-progress", file, _, _, bytes] => {
                let Some(bytes) = number(bytes) else { return };
                if let Some((_, known)) = self.current.iter_mut().find(|(name, _)| name == file) {
                    *known = bytes;
                } else if self.current.len() < MOST_AT_ONCE {
                    self.current.push((file.to_vec(), bytes));
                }
            }
            [b"@", b"download-succeeded", file, _, bytes] => {
                self.current.retain(|(name, _)| name != file);
                self.over = self.over.saturating_add(number(bytes).unwrap_or(0));
            }
            _ => {}
        }
    }

    /// Returns how many bytes were downloaded in all.
    pub fn bytes(&self) -> u64 {
        self.current.iter().fold(self.over, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downloads_are_counted_in_whatever_pieces_the_log_comes() {
        let log = "@ substituter-started /s/a substitute\n@ download-started /s/a http://x/a -\n\
                   @ download-progress /s/a http://x/a - 10\n@ download-progress /s/b http://x/b 70 40\n\
                   @ download-progress /s/a http://x/a - 90\nhello\n@ download-progress /s/a http://x/a - many\n";
        for length in [1, 7, 1000] {
            let mut downloads = Downloads::default();
            log.as_bytes().chunks(length).for_each(|piece| downloads.read(piece));
            assert_eq!(downloads.bytes(), 130);
            downloads.read(b"@ download-succeeded /s/a http://x/a 100\n");
            assert_eq!(downloads.bytes(), 140);
            downloads.read(b"@ download-succeeded /s/b http://x/b -\n");
            assert_eq!(downloads.bytes(), 100);
        }
    }

    #[test]
    fn a_log_without_end_takes_no_memory() {
        let mut downloads = Downloads::default();
        downloads.read(&vec![b'x'; 1 << 20]);
        for number in 0..10 * MOST_AT_ONCE {
            downloads.read(format!("\n@ download-progress /s/{number} u - 18446744073709551615\n").as_bytes());
        }
        assert!(downloads.line.capacity() <= 2 * LONGEST_LINE && downloads.current.len() == MOST_AT_ONCE);
        assert_eq!(downloads.bytes(), u64::MAX);
    }
}
