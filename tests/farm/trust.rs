// SPDX-License-Identifier: GPL-3.0-or-later
//! What is given away and what is listened to: nothing but what the machine file says.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::hosts::configure_ssh;
use crate::invariants::assert_clean;
use crate::lab::{Host, lab};
use crate::machines::{Machine, PROGRAM, quoted};

const HEAD: Host = Host("head");
const W1: Host = Host("w1");
const OLD: Host = Host("old");

/// The key that machines let in.
const KEY: &str = "/etc/guix/offload_key";

#[test]
fn no_key_but_the_named_one_is_offered_and_no_other_file_of_ssh_is_read() {
    // Whoever looked at any of this would be let in, or could not even connect.
    let others = format!(
        "umask 077; cp {KEY} /root/.ssh/id_ed25519; rm -f /etc/guix/unknown_key*
         ssh-keygen -q -t ed25519 -N '' -f /etc/guix/unknown_key
         printf 'Host *\\n ProxyCommand touch /root/pwned\\n' >/root/.ssh/config
         echo '@revoked * '$(ssh-keyscan -t ed25519 w1 2>/dev/null | cut -d' ' -f2-) >/root/.ssh/known_hosts
         ssh-agent -a /root/agent >/root/agent.env
         . /root/agent.env; ssh-add -q {KEY}; ssh-add -l"
    );
    assert!(HEAD.sh(&["sh", "-c", &others]).contains("ED25519"), "the agent has no key");
    let test = "export SSH_AUTH_SOCK=/root/agent; strace -f -e trace=%file,connect -o /root/trace \"$@\" 2>&1";
    let command = ["sh", "-c", test, "sh", PROGRAM, "offload", "test"];

    HEAD.write_machines(&[Machine::of(W1).with("private-key", quoted("/etc/guix/unknown_key"))]);
    let refused = HEAD.run(&command);
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success() && said.contains("does not let user root in"), "{said}");

    HEAD.write_machines(&[Machine::of(W1)]);
    let said = HEAD.sh(&command);
    let trace = fs::read_to_string(HEAD.file("/root/trace")).unwrap();
    assert!(trace.contains(&format!("\"{KEY}\"")), "{said}\n{trace}");
    for file in ["/.ssh/", "known_hosts", "ssh_config", "agent"] {
        assert!(!trace.contains(file), "it looks for {file}:\n{trace}");
    }
    HEAD.sh(&["sh", "-c", ". /root/agent.env; kill $SSH_AGENT_PID; cd /root/.ssh; rm id_ed25519 config known_hosts"]);
    assert!(!HEAD.file("/root/pwned").exists());
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn secrets_are_told_to_nobody() {
    HEAD.sh(&["rm", "-rf", "/var/guix/offload"]); // where the stock script may have left files of its own
    let (trace, said) = ("/var/guix/offload-trace", "/var/guix/offload-said");
    let decisions = "/var/guix/offload-log";
    // What could be quoted: a key that works, one that others can read, one that is damaged.
    let key = fs::read_to_string(HEAD.file(KEY)).unwrap();
    let (open, damaged) = ("/etc/guix/open_key", "/etc/guix/damaged_key");
    for (name, text, mode) in [(open, key.clone(), 0o644), (damaged, key.replacen("AAAA", "BBBB", 1), 0o600)] {
        fs::write(HEAD.file(name), text).unwrap();
        fs::set_permissions(HEAD.file(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut log = String::new();
    for (private_key, succeeds) in [(KEY, true), (open, true), (damaged, false)] {
        HEAD.write_machines(&[Machine::of(W1).with("private-key", quoted(private_key))]);
        let [tracing, logging] = [format!("GUIX_OFFLOAD_TRACE={trace}"), format!("GUIX_OFFLOAD_LOG={decisions}")];
        lab(&["restart-daemon", "head", &format!("GUIX={PROGRAM}"), &tracing, &logging, "--", "--max-jobs=0"]);
        let builds = HEAD.build("outputs", &["input-kib=16"]);
        assert_eq!(builds.succeeded, succeeds, "{private_key}:\n{}{}", builds.log, builds.results);
        log += &(builds.log + &builds.results);
    }
    assert!(log.contains(&format!("run 'chmod 600 {open}'")) && log.contains(damaged), "{log}");
    assert!(fs::read_to_string(HEAD.file(trace)).unwrap().contains("\"phase\":\"build\""));
    assert!(fs::read_to_string(HEAD.file(decisions)).unwrap().contains(": w1: chosen\n"));
    fs::write(HEAD.file(said), &log).unwrap();

    let private = key.lines().filter(|line| !line.contains("-----")).map(|line| line[..line.len().min(30)].to_string());
    let signing = [HEAD, W1].map(|host| {
        let key = fs::read_to_string(host.file("/etc/guix/signing-key.sec")).unwrap();
        key.split_once("(d #").expect("the secret part").1[..30].to_string()
    });
    let secrets: Vec<String> = private.chain(signing).collect();
    assert!(secrets.len() >= 6 && secrets[0].starts_with("b3BlbnNzaC1rZXkt"));
    for (host, files) in [(HEAD, &["/var/guix/offload", "/var/log", trace, decisions, said][..]), (W1, &["/var/log"])] {
        for secret in &secrets {
            let found = host.run(&[&["grep", "-rlF", "--", secret], files].concat());
            assert_eq!(
                found.status.code(),
                Some(1),
                "{} has {secret} in {}",
                host.0,
                String::from_utf8_lossy(&found.stdout)
            );
        }
    }
    for name in [trace, decisions] {
        fs::remove_file(HEAD.file(name)).unwrap();
    }
    // All that is shared with other hooks is private to this user.
    let open = HEAD.sh(&["find", "/var/guix/offload", "-type", "f", "!", "-perm", "600"]);
    assert_eq!(open, "");
    assert_clean(&[HEAD], &[W1]);
}

#[test]
fn no_shell_reads_the_name_of_a_socket() {
    let socket = "/var/guix/a 'b' \"c\" $(touch pwned) `touch pwned` ; touch pwned & | > < * ? \\ # ~/socket";
    for (machine, forwarding) in [(W1, "yes"), (W1, "no"), (OLD, "no")] {
        configure_ssh(machine, &format!("AllowStreamLocalForwarding {forwarding}"));
        lab(&["restart-daemon", machine.0, "--", &format!("--listen={socket}")]);
        HEAD.offload_with_our_hook(&[Machine::of(machine).with("daemon-socket", format!("{socket:?}"))]);
        let builds = HEAD.build("plain", &[]);
        assert!(builds.succeeded, "{}:\n{}{}", machine.0, builds.log, builds.results);
        configure_ssh(machine, "");
        lab(&["restart-daemon", machine.0]);
    }
    for host in [HEAD, W1, OLD] {
        assert_eq!(host.sh(&["find", "/", "-xdev", "-name", "pwned"]), "", "{}", host.0);
    }
    assert_clean(&[HEAD], &[W1, OLD]);
}

#[test]
fn links_in_the_state_directory_are_refused() {
    HEAD.sh(&[
        "sh",
        "-c",
        "cd /var/guix; mkdir -p offload; rm -rf offload/w1:22; mkdir /root/elsewhere; \
         ln -s /root/elsewhere /var/guix/offload/w1:22",
    ]);
    HEAD.offload_with_our_hook(&[Machine::of(W1)]);
    let builds = HEAD.build("plain", &[]);
    assert!(!builds.succeeded, "{}{}", builds.log, builds.results);
    assert!(
        builds.log.contains("/var/guix/offload/w1:22") && builds.log.contains("links are not followed"),
        "{}",
        builds.log
    );
    assert_eq!(HEAD.sh(&["ls", "/root/elsewhere"]), "");
    HEAD.sh(&["sh", "-c", "rm /var/guix/offload/w1:22; rmdir /root/elsewhere"]);
    let builds = HEAD.build("plain", &[]);
    builds.assert_succeeded();
    assert_clean(&[HEAD], &[W1]);
}
