// SPDX-License-Identifier: GPL-3.0-or-later
//! Short programs for the `sh` of a machine, and the parts that several of them share. Each line that a program prints
//! is a word and a value.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::ground::error::{ErrorKind, IoContext, Result};
use crate::ground::store_path::StoreDir;
use crate::ssh::{Channel, Session};

/// Longest part of a program's output that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// A program that prints how much memory there is and how much of that is available, in KiB.
pub const MEMORY: &str = "while read -r word size rest; do case $word in \
     MemTotal:) echo total-memory $size ;; MemAvailable:) echo memory $size; break ;; esac; done </proc/meminfo\n";

/// A program that prints how many processes the kernel has killed for lack of memory.
pub const KILLS: &str =
    "while read -r word count; do [ \"$word\" = oom_kill ] && echo kills $count && break; done </proc/vmstat\n";

/// Returns a program that prints `word` and how much space is free where the store is, in KiB.
pub fn free_space(store: &StoreDir, word: &str) -> String {
    let store = quoted(store.as_str());
    format!("df -P -k {store} | {{ read -r title; read -r fs size used free rest; echo {word} $free; }}\n")
}

/// Starts `program`, which has nothing to read. Returns at once.
pub fn start(session: &Session, program: &str) -> Channel {
    let channel = session.exec(&command(program));
    let _ = channel.close_write(); // if the session has failed, reading the answer says so
    channel
}

/// Waits at most `limit` for the output of a program, and returns it. `doing` names the action in errors.
pub fn answer(channel: &mut Channel, limit: Duration, doing: &'static str) -> Result<String> {
    channel.set_deadline(Some(Instant::now() + limit));
    let mut bytes = Vec::new();
    channel.take(MAX_ANSWER).read_to_end(&mut bytes).io_context(ErrorKind::Unavailable, || doing)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the rest of the line of `text` that begins with `word`.
pub fn value<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).map(str::trim)
}

/// Returns `text`, quoted as one word of the shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns the command that makes `sh` run `program`. It means the same to every login shell: characters that a shell
/// may interpret are written in octal, for `printf`. The program is part of the command, because input to a command
/// takes another round trip.
fn command(program: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b' ' | b'/' | b'.' | b'_' | b'-' => char::from(byte).to_string(),
        _ => format!(r"\0{byte:03o}"),
    };
    let encoded: String = program.bytes().map(encode).collect();
    format!("sh -c 'eval \"$(printf %b \"$1\")\"' sh '{encoded}'")
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// Returns what `sh`, started in `directory` by the login shell `shell`, prints for `program`.
    pub fn run_by(shell: &str, program: &str, directory: &Path) -> String {
        let run = Command::new(shell).args(["-c", &command(program)]).current_dir(directory).output().unwrap();
        String::from_utf8(run.stdout).unwrap()
    }

    #[test]
    fn a_program_means_the_same_to_every_login_shell() {
        let program = "x='a\\0101 \\n!1 \"$HOME\" `id` %s é'\nfor y in 1 2; do\n  printf '%s %d\\n' \"$x\" $y\ndone\n";
        let said = "a\\0101 \\n!1 \"$HOME\" `id` %s é";
        let mut tried = 0;
        for shell in ["sh", "bash", "dash", "busybox", "zsh", "fish", "csh", "tcsh", "ksh"] {
            if Command::new(shell).args(["-c", "true"]).output().is_ok_and(|run| run.status.success()) {
                assert_eq!(run_by(shell, program, Path::new("/")), format!("{said} 1\n{said} 2\n"), "{shell}");
                tried += 1;
            }
        }
        assert!(tried >= 3, "only {tried} shells are here");
    }
}
