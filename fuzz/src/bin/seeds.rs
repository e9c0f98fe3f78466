// SPDX-License-Identifier: GPL-3.0-or-later
//! Writes seeds for the fuzzers into a directory, a directory for each target: what real programs said, as the fixtures
//! of the library's tests recorded it, and machine files of its tests.
//!
//! Arguments: the directory, and files with bundles that `guix archive --export` made.

use std::fs;
use std::path::{Path, PathBuf};

use guix_offload_fuzz::targets::signature::SEPARATOR;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");
/// Literals in here are machine files.
const TEXTS: &str = include_str!("../../../src/machine/file/tests/texts.rs");
const HOST_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI";
const DERIVATION: &str = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv";

fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let seeds = Seeds { directory: arguments.next().expect("where to write to") };
    seeds.restore(arguments);
    seeds.replies();
    seeds.machine_files();
    seeds.signatures();
    seeds.forgeries();
    seeds.requests();
    seeds.calls();
}

struct Seeds {
    directory: PathBuf,
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(FIXTURES).join(name)).expect("a fixture")
}

impl Seeds {
    fn write(&self, target: &str, name: &str, bytes: &[u8]) {
        let directory = self.directory.join(target);
        fs::create_dir_all(&directory).expect("a directory for seeds");
        fs::write(directory.join(name), bytes).expect("a seed");
    }

    /// The items of bundles.
    fn restore(&self, bundles: impl Iterator<Item = PathBuf>) {
        let recorded = fixture("archive/two-items.bundle");
        self.write("restore", "text", &recorded[8..664]);
        self.write("restore", "tree", &recorded[672..]);
        for (number, bundle) in bundles.enumerate() {
            let bytes = fs::read(bundle).expect("a bundle");
            self.write("restore", &format!("export-{number}"), &bytes[8..]);
        }
    }

    /// What the daemons of the recordings said after their greeting, at once and request by request.
    fn replies(&self) {
        for version in ["1.2.0", "1.5.0"] {
            let recording = String::from_utf8(fixture(&format!("daemon/guix-{version}"))).expect("a recording");
            let mut turns: Vec<Vec<u8>> = Vec::new();
            let mut ours = true;
            for line in recording.lines() {
                if line.starts_with('>') {
                    ours = true;
                } else if let Some(hex) = line.strip_prefix("< ") {
                    if std::mem::take(&mut ours) {
                        turns.push(Vec::new());
                    }
                    let digits: String = hex.split_whitespace().collect();
                    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
                    turns.last_mut().expect("a turn").extend((0..digits.len()).step_by(2).map(byte));
                }
            }
            // Magic and version, then LAST; the imports and exports take several turns.
            let requests = [0, 7, 1, 3, 4, 5, 5, 6, 1, 1, 0];
            let all = [&[(requests.len() as u8) << 4 | 2][..], &requests, &turns.concat()].concat();
            self.write("replies", &format!("all-{version}"), &all);
            for (number, turn) in turns.iter().enumerate() {
                for request in 0..8 {
                    let one = [&[1 << 4, request], &turn[..]].concat();
                    self.write("replies", &format!("{version}-{number}-{request}"), &one);
                }
            }
        }
        let probe = "\x01load 0.50\ncores 2\nfree 1024\ntime 990\noffloads yes\nsocket /run/guix.sock\n";
        self.write("replies", "probe", probe.as_bytes());
        let survey =
            "\x01kernel Linux 6.1.0\narchitecture x86_64\nhost w1\ncores 4\nguix guix (GNU Guix) 1.5.0-2.abc\n";
        self.write("replies", "survey", survey.as_bytes());
    }

    fn machine_files(&self) {
        let fields = "(systems (list \"x86_64-linux\")) (user \"u\") (host-key \"KEY\")";
        let literals = TEXTS.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
        for (number, literal) in literals.enumerate() {
            let text = literal.replace("\\n", "\n").replace("\\t", "\t").replace("\\\"", "\"").replace("\\\\", "\\");
            let text = text.replace('@', fields).replace("KEY", HOST_KEY);
            self.write("machine_file", &number.to_string(), text.as_bytes());
        }
    }

    fn signatures(&self) {
        for name in ["ecdsa", "ecdsa-short-r", "ecdsa-short-s", "rsa"] {
            let (acl, signature) = (fixture("archive/acl"), fixture(&format!("archive/{name}.signature")));
            self.write("signature", name, &[&acl[..], SEPARATOR, &signature].concat());
        }
        let acl =
            format!("(acl (entry {} (tag (guix import))))", String::from_utf8_lossy(&fixture("archive/ecdsa.pub")));
        self.write("signature", "one-key", &[acl.as_bytes(), SEPARATOR, &fixture("archive/ecdsa.signature")].concat());
    }

    /// Each signature as it is, and with each kind of change made to the parts of its data.
    fn forgeries(&self) {
        for signature in 0..4u8 {
            self.write("forged", &format!("honest-{signature}"), &[signature]);
            (0..10u8).for_each(|what| {
                let edits = [[what, 4, 7], [1, 10, 19]].concat(); // the flags with the hash; another hash
                self.write("forged", &format!("edit-{signature}-{what}"), &[&[signature], &edits[..]].concat());
            });
        }
    }

    fn requests(&self) {
        let request = format!("1 x86_64-linux {DERIVATION} kvm,big\n");
        let items = format!("{DERIVATION} /gnu/store/0123456789abcdfghijklmnpqrsvwxyz-input \n");
        self.write("request", "one", format!("\0{request}{items}{items}").as_bytes());
        self.write("request", "two", format!("\x01{request}0 i686-linux {DERIVATION} \n{items}{items}").as_bytes());
    }

    /// Each call by itself, and a build with a machine.
    fn calls(&self) {
        let (engine, machine, list) = ([0, 1], [2, 4, 1, 4, 1, 4, 0, 0, 1, 4], [6, 1]);
        let (add, request) = ([8, 0, 0], [10, 1, 4, 1, 4]);
        let all = [&engine[..], &machine, &list, &add, &request].concat();
        self.write("abi", "prepared", &all);
        for (call, arguments) in [
            ("choose", &[12, 4, 0, 0, 0][..]),
            ("connect", &[13, 4, 0, 0]),
            ("cancelled", &[19, 1, 1, 0, 12, 0, 0, 0, 0, 13, 0, 0, 0]),
            ("job", &[14, 0, 0, 0, 15, 0, 0, 2, 15, 0, 1, 2]),
            ("hook", &[16, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1, 1, 1]),
            ("farm", &[17, 0, 0, 0, 0]),
            ("farm-test", &[17, 1, 0, 0, 0]),
            ("free", &[20, 0, 7, 18, 0, 9, 0, 5, 0]),
        ] {
            self.write("abi", call, &[&all[..], arguments].concat());
        }
        (0..21).for_each(|call| self.write("abi", &format!("call-{call}"), &[call, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]));
    }
}
