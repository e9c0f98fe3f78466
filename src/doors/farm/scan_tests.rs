// SPDX-License-Identifier: GPL-3.0-or-later
use super::*;
use crate::doors::farm::tests::reports;
use crate::machine::tests::KEY;

fn question(host: &str) -> Question {
    Question { host: host.into(), ..Question::default() }
}

fn key() -> HostKey {
    HostKey::parse(KEY).unwrap()
}

#[test]
fn a_host_may_have_a_port() {
    let described = |host: &str| described(&question(host)).map(|machine| (machine.name, machine.port));
    let is = |host: &str, name: &str, port| assert_eq!(described(host).unwrap(), (name.to_string(), port), "{host}");
    is("w1", "w1", 22);
    is("w1.example:2222", "w1.example", 2222);
    is("[2001:db8::1]:2222", "2001:db8::1", 2222);
    is("[2001:db8::1]", "2001:db8::1", 22);
    is("2001:db8::1", "2001:db8::1", 22);
    for wrong in ["", ":22", "w1:", "w1:ssh", "w1:70000", "w1:0", "a b", "-oProxyCommand=x"] {
        assert_eq!(described(wrong).unwrap_err().kind(), ErrorKind::InvalidArgument, "{wrong}");
    }
}

#[test]
fn a_key_is_told_with_its_directory() {
    let directories = crate::ground::directories::tests::below(Path::new("/nowhere"));
    let keys = |key: &str| {
        let asked = Question { private_key: Some(key.into()), ..question("w1") };
        private_keys(&directories, &asked, &Cancel::default()).unwrap()
    };
    assert_eq!(keys("/etc/key"), [Path::new("/etc/key")]);
    assert_eq!(keys("key"), [std::env::current_dir().unwrap().join("key")]);
}

#[test]
fn nobody_logs_in_before_the_key_is_confirmed() {
    let machine = BuildMachine { host_key: key(), ..described(&question("w1")).unwrap() };
    let shown = key().fingerprint().unwrap();
    let judge = |verdict, accepted: Option<&str>| {
        let question = Question { accepted: accepted.map(str::to_string), ..question("w1") };
        is_confirmed(&machine, &question, &shown, verdict).map_err(|error| error.kind())
    };
    for verdict in [Verdict::Known, Verdict::Unknown, Verdict::Differs] {
        assert_eq!(judge(verdict, Some(&shown)), Ok(true));
        assert_eq!(judge(verdict, Some("SHA256:other")), Err(ErrorKind::HostKey));
        assert_eq!(judge(verdict, Some("")), Err(ErrorKind::HostKey));
    }
    assert_eq!(judge(Verdict::Known, None), Ok(true));
    assert_eq!(judge(Verdict::Unknown, None), Ok(false));
    assert_eq!(judge(Verdict::Differs, None), Err(ErrorKind::HostKey));
    assert_eq!(judge(Verdict::Revoked, Some(&shown)), Err(ErrorKind::HostKey));
}

#[test]
fn the_form_is_what_a_machine_file_takes() {
    let mut report = reports().remove(0);
    report.machine = BuildMachine {
        port: 2222,
        systems: vec!["x86_64-linux".into(), "i686-linux".into()],
        user: "o\"dd\\".into(),
        private_key: "/keys/a \"key\"".into(),
        parallel_builds: 2,
        ..report.machine
    };
    let scan = Scan { report, fingerprint: "SHA256:abc".into(), verdict: Verdict::Known, confirmed: true };
    let text = scan.text();
    assert!(text.contains(";; ssh knows the machine under this key.\n;; Linux 6.1.0, x86_64, 8 cores, Guix: 1.5.0\n"));
    let read = file::read_plain(Path::new("machines.scm"), format!("(list\n{text})").as_bytes()).unwrap();
    assert_eq!(read.machines, std::slice::from_ref(&scan.report.machine), "{text}");
    let json: serde_json::Value = serde_json::from_str(&scan.json()).unwrap();
    assert_eq!((&json["schema"], &json["cores"], &json["knownToSsh"]), (&1.into(), &8.into(), &true.into()));
    assert!(json["form"].as_str().unwrap().starts_with("(build-machine\n") && json["error"].is_null());
}

#[test]
fn an_unconfirmed_key_says_what_to_do_next() {
    let mut report = reports().remove(2);
    report.machine = BuildMachine { private_key: "".into(), systems: vec![], ..report.machine };
    report.failure = Some(unconfirmed(&report.machine, &question("away"), "SHA256:abc"));
    let scan = Scan { report, fingerprint: "SHA256:abc".into(), verdict: Verdict::Unknown, confirmed: false };
    let text = scan.text();
    assert!(text.contains(";; Nobody has confirmed this key yet.\n"), "{text}");
    assert!(text.contains("ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub"), "{text}");
    assert!(text.contains("guix-offload scan away root --accept=SHA256:abc\n"), "{text}");
    assert!(!text.contains("private-key") && !text.contains("parallel-builds"), "{text}");
    // The key that was named is still needed then.
    let asked = Question { private_key: Some("/a b/key".into()), ..question("away") };
    let error = unconfirmed(&scan.report.machine, &asked, "SHA256:abc");
    let command = "guix-offload scan away root --accept=SHA256:abc --key='/a b/key'";
    assert!(error.hint_text().unwrap().ends_with(command), "{:?}", error.hint_text());
}

#[test]
fn a_key_that_ssh_knows_otherwise_says_how_to_forget_it() {
    for (host, entry) in [("w1", "w1"), ("w1:2222", "'[w1]:2222'"), ("2001:db8::1", "2001:db8::1")] {
        let machine = BuildMachine { host_key: key(), ..described(&question(host)).unwrap() };
        let error = is_confirmed(&machine, &question(host), "SHA256:abc", Verdict::Differs).unwrap_err();
        let hint = error.hint_text().unwrap();
        assert!(hint.contains(&format!("run: ssh-keygen -R {entry}, and scan it again;")), "{hint}");
    }
}

#[test]
fn a_machine_without_space_is_described_and_told() {
    let report = reports().remove(1);
    let text = Scan { report, fingerprint: "SHA256:abc".into(), verdict: Verdict::Known, confirmed: true }.text();
    let warning = ";; warning: it is low on disk space (1.0 MiB free)\n;; hint: free some space there: ssh ";
    assert!(text.contains(warning) && text.contains("(parallel-builds 4)"), "{text}");
}

#[test]
fn a_confirmed_key_that_changes_afterwards_was_confirmed() {
    let mut report = reports().remove(2);
    report.failure = Some(Error::new(ErrorKind::HostKey, "it shows another one"));
    let scan = Scan { report, fingerprint: "SHA256:abc".into(), verdict: Verdict::Unknown, confirmed: true };
    let (text, json) = (scan.text(), scan.json());
    assert!(text.contains(";; It was confirmed with --accept.\n") && text.contains(";; error: "), "{text}");
    assert!(json.contains("\"state\":\"host key differs\""), "{json}");
}

#[test]
fn there_is_room_for_the_users_own_keys() {
    let directory = tempfile::tempdir().unwrap();
    let key = |name: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, "").unwrap();
        file
    };
    let listed: Vec<PathBuf> = (0..9).map(|number| key(&number.to_string())).collect();
    let own = [key("id_ed25519"), key("id_rsa")];
    let missing = directory.path().join("missing");
    assert_eq!(to_try(listed.clone(), &own), [&listed[..3], &own[..]].concat());
    assert_eq!(to_try(listed.clone(), std::slice::from_ref(&missing)), listed[..5]);
    assert_eq!(to_try(vec![own[1].clone(), missing, own[1].clone()], &own), [own[1].clone(), own[0].clone()]);
}

#[test]
fn systems_follow_from_kernel_and_hardware() {
    let systems = |kernel: &str, architecture: &str| {
        systems_of(&Survey { kernel: kernel.into(), architecture: architecture.into(), ..Survey::default() }).join(" ")
    };
    assert_eq!(systems("Linux 6.1", "x86_64"), "x86_64-linux i686-linux");
    assert_eq!(systems("Linux 6.1", "aarch64"), "aarch64-linux");
    assert_eq!(systems("GNU 0.9", "i686-AT386"), "i586-gnu");
    assert_eq!(systems("Linux 6.1", "m68k"), "");
}
