// SPDX-License-Identifier: GPL-3.0-or-later
//! The survey of a machine, for people who look at their machines: kernel, cores, version of Guix.
//!
//! It is a program for the remote `sh`, as in [`super::probe`], but a slower one: starting `guix` takes most of a
//! second. No build waits for it.

use std::time::Duration;

use super::shell;
use crate::ground::error::{Result, line};
use crate::ssh::Session;

const PROGRAM: &str = "\
    echo kernel $(uname -s -r)\n\
    echo architecture $(uname -m)\n\
    echo host $(uname -n)\n\
    echo cores $(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)\n\
    echo guix $(guix --version 2>/dev/null | head -n 1)\n";

/// A machine's answer. Fields that it does not answer are empty or 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Name and release of its kernel.
    pub kernel: String,
    /// Its hardware, such as `x86_64`.
    pub architecture: String,
    /// Its own host name.
    pub host_name: String,
    /// How many cores it has.
    pub cores: u32,
    /// Version of the `guix` that a non-interactive SSH session of the remote user finds.
    pub guix_version: String,
}

/// Runs the program over `session`. The machine has `limit` for its answer.
pub fn survey(session: &Session, limit: Duration) -> Result<Survey> {
    let mut channel = shell::start(session, PROGRAM);
    Ok(Survey::parse(&shell::answer(&mut channel, limit, "asking what machine it is")?))
}

impl Survey {
    /// Parses an answer.
    pub fn parse(text: &str) -> Self {
        let value = |word: &str| line(shell::value(text, word).unwrap_or_default().to_string());
        Survey {
            kernel: value("kernel"),
            architecture: value("architecture"),
            host_name: value("host"),
            cores: value("cores").parse().unwrap_or(0),
            // "guix (GNU Guix) 1.5.0"
            guix_version: value("guix").split(' ').next_back().unwrap_or_default().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let survey = Survey::parse(
            "kernel Linux 6.1.0\narchitecture x86_64\nhost w1\ncores 4\nguix guix (GNU Guix) 1.5.0-2.abc\n",
        );
        assert_eq!((survey.kernel.as_str(), survey.architecture.as_str()), ("Linux 6.1.0", "x86_64"));
        assert_eq!((survey.host_name.as_str(), survey.cores), ("w1", 4));
        assert_eq!(survey.guix_version, "1.5.0-2.abc");
    }

    #[test]
    fn an_answer_does_nothing_to_a_terminal() {
        assert_eq!(Survey::parse("host a\x1b[2J\rb\n").host_name, "a [2J b");
    }

    #[test]
    fn what_is_not_said_is_empty() {
        assert_eq!(Survey::parse("cores \nguix \n"), Survey::default());
    }
}
