// SPDX-License-Identifier: GPL-3.0-or-later
//! A process that does jobs, one by one: `c-tests/jobs.c`, on a head.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::abi::{PROGRAMS, Request};
use crate::lab::Host;

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/lab");

/// What a build that nothing disturbs says.
const UNDISTURBED: [&str; 6] = ["chosen", "sending", "building", "retrieving", "done", "ok"];

/// A process that runs jobs.
pub struct Jobs {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Jobs {
    /// One that has such an engine (see [`crate::abi::ENGINES`]), which keeps idle connections for so many seconds.
    pub fn new(engine: &str, idle_limit: &str) -> Jobs {
        HEAD.offload_to(&[W1]);
        let mut child = Command::new(LAB)
            .args(["sh", HEAD.0, "env", engine, &format!("{PROGRAMS}/jobs"), idle_limit])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the lab's script starts");
        let (input, output) = (child.stdin.take(), child.stdout.take().unwrap());
        Jobs { child, input, lines: BufReader::new(output).lines() }
    }

    /// Starts a job.
    pub fn start(&mut self, request: &Request) {
        writeln!(self.input.as_mut().unwrap(), "{}", request.file()).unwrap();
    }

    /// The lines that it says up to one that begins with one of these words, including.
    #[track_caller]
    pub fn lines_until(&mut self, words: &[&str]) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.lines.next().expect("the program goes on").unwrap();
            lines.push(line.clone());
            if words.iter().any(|word| line.starts_with(word)) {
                return lines;
            }
        }
    }

    /// Waits for the end of a job, during which nothing unusual may happen.
    #[track_caller]
    pub fn succeed(&mut self) {
        assert_eq!(self.lines_until(&["ok", "failed"]), UNDISTURBED);
    }

    /// Does a job, during which nothing unusual may happen.
    #[track_caller]
    pub fn run(&mut self, request: &Request) {
        self.start(request);
        self.succeed();
        request.check_present();
    }

    /// Ends the process, which looks for what was left open.
    #[track_caller]
    pub fn end(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }
}
