// SPDX-License-Identifier: GPL-3.0-or-later
//! How long Guile's result for a file is used.

use super::*;

/// A machine file, and how often Guile is started for it.
struct Kept {
    scratch: Scratch,
    options: LoadOptions,
}

impl Kept {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let guile = scratch.0.join("guile");
        let script = format!("#!/bin/sh\necho >>{}\nexec guile \"$@\"\n", scratch.0.join("started").display());
        std::fs::write(&guile, script).unwrap();
        std::fs::set_permissions(&guile, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let options = LoadOptions { guile, cache: Some(scratch.0.join("offload")), ..no_guix() };
        Kept { scratch, options }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    fn write(&self, short: &str) {
        let beside = format!("{}/", self.scratch.0.display());
        std::fs::write(self.at("m.scm"), text(&short.replace("BESIDE/", &beside))).unwrap();
    }

    /// Reads the file `times` times. Returns the names of the machines, or the errors, and how often Guile was started.
    fn load(&self, times: usize) -> (Vec<String>, usize) {
        let started = || std::fs::read_to_string(self.at("started")).map_or(0, |text| text.lines().count());
        let before = started();
        let names = (0..times).map(|_| match load(&self.at("m.scm"), &self.options) {
            Ok(loaded) => {
                let names: Vec<String> = loaded.unwrap().machines.into_iter().map(|machine| machine.name).collect();
                names.join(" ")
            }
            Err(error) => error.to_string(),
        });
        (names.collect(), started() - before)
    }

    /// Makes all results that are kept older by `seconds`.
    fn age(&self, seconds: u64) {
        for file in std::fs::read_dir(self.at("offload/.machines")).unwrap() {
            let file = file.unwrap().path();
            let content = std::fs::read_to_string(&file).unwrap();
            let (header, rest) = content.split_once('\n').unwrap();
            let (key, at) = header.rsplit_once(' ').unwrap();
            let at = at.parse::<u64>().unwrap() - 1000 * seconds;
            std::fs::write(&file, format!("{key} {at}\n{rest}")).unwrap();
        }
    }
}

/// Waits until the times of files tell the next change from the last one.
fn settle() {
    std::thread::sleep(Duration::from_millis(3100));
}

#[test]
fn a_file_is_evaluated_once_a_change() {
    let kept = Kept::new("once");
    kept.write("(map (lambda (n) (build-machine (name n) @)) '(\"a\" \"b\"))");
    assert_eq!(kept.load(5), (vec!["a b".to_string(); 5], 1));
    kept.age(300);
    assert_eq!(kept.load(2).1, 0, "it depends on nothing else");
    kept.age(301);
    assert_eq!(kept.load(2).1, 1, "it is read now and then");
    kept.write("(map (lambda (n) (build-machine (name n) @)) '(\"a\" \"c\"))");
    assert_eq!(kept.load(5), (vec!["a c".to_string(); 5], 1));
    kept.write("(map (lambda (n) (build-machine (name n) @)) '(\"a\" \"c\"))");
    assert_eq!(kept.load(2).1, 1, "it was written, if with the same text");
    // A malformed machine is reported each time.
    kept.write("(map (lambda (n) (build-machine (name n))) '(\"a\"))");
    for _ in 0..2 {
        assert_eq!(load(&kept.at("m.scm"), &kept.options).unwrap().unwrap().left_out.len(), 1);
    }
    assert_eq!(kept.load(1).1, 0);
    let nowhere = LoadOptions { cache: None, ..kept.options.clone() };
    load(&kept.at("m.scm"), &nowhere).unwrap();
    assert_eq!(kept.load(0).1, 0);
}

#[test]
fn a_change_of_what_a_file_reads_is_a_change() {
    let kept = Kept::new("reads");
    std::fs::write(kept.at("name"), "a").unwrap();
    settle();
    kept.write(
        "((__ (srfi srfi-1) append-map) (lambda (n) (list (build-machine (name n) @)))
           (list (call-with-input-file \"BESIDE/name\" (__ (ice-9 textual-ports) get-string-all))
                 (if (file-exists? \"BESIDE/more\") \"more\" \"no\")))",
    );
    assert_eq!(kept.load(3), (vec!["a no".to_string(); 3], 1));
    kept.age(300);
    assert_eq!(kept.load(1).1, 0);
    std::fs::write(kept.at("name"), "b").unwrap();
    settle();
    assert_eq!(kept.load(3), (vec!["b no".to_string(); 3], 1));
    std::fs::write(kept.at("more"), "").unwrap();
    settle();
    assert_eq!(kept.load(3), (vec!["b more".to_string(); 3], 1));
    std::fs::remove_file(kept.at("more")).unwrap();
    assert_eq!(kept.load(3), (vec!["b no".to_string(); 3], 1));
    // Two changes may be so near each other that the second has the time of the first.
    std::fs::write(kept.at("name"), "c").unwrap();
    assert_eq!(kept.load(2), (vec!["c no".to_string(); 2], 2));
}

#[test]
fn what_fails_is_never_kept() {
    let kept = Kept::new("fails");
    kept.write("(map (lambda (n) (build-machine (name n) @)) (call-with-input-file \"BESIDE/names\" read))");
    let (errors, started) = kept.load(2);
    assert!(started == 2 && errors.iter().all(|error| error.contains("No such file or directory")), "{errors:?}");
    std::fs::write(kept.at("names"), "(\"a\")").unwrap();
    assert_eq!(kept.load(1).0, ["a"]);
}

#[test]
fn what_depends_on_more_is_kept_for_seconds() {
    std::fs::write(std::env::temp_dir().join(format!("guix-offload-{}-loaded", std::process::id())), "\"a\"").unwrap();
    let loaded = Scratch(std::env::temp_dir().join(format!("guix-offload-{}-loaded", std::process::id())));
    settle();
    for (i, name) in [
        "(if (gethostname) \"a\" \"b\")",
        "(if (current-time) \"a\" \"b\")",
        "(if (zero? (system* \"true\")) \"a\" \"b\")",
        "(begin (use-modules (ice-9 popen)) \"a\")",
        "(begin (__ (ice-9 popen) open-pipe*) \"a\")",
        "(if (eval '(gettimeofday) (current-module)) \"a\" \"b\")",
        "(begin (opendir \"/\") \"a\")",
        "(primitive-load \"LOADED\")",
        "(call-with-input-file \"/proc/version\" (lambda (port) (if (read-char port) \"a\" \"b\")))",
        "(begin (call-with-input-file \"/dev/null\" read-char) \"a\")",
        "((module-ref (resolve-module '(guile)) 'gethostname))",
    ]
    .iter()
    .enumerate()
    {
        let kept = Kept::new(&format!("volatile-{i}"));
        let name = name.replace("LOADED", &loaded.0.display().to_string());
        kept.write(&format!("(let ((n {name})) (list (build-machine (name \"a\") @)))"));
        assert_eq!(kept.load(2), (vec!["a".to_string(); 2], 1), "{name}");
        kept.age(6);
        assert_eq!(kept.load(1).1, 1, "{name}");
    }
    let kept = Kept::new("loads");
    kept.write(&format!("(list (build-machine (name (primitive-load {:?})) @))", loaded.0));
    assert_eq!(kept.load(2), (vec!["a".to_string(); 2], 1));
    std::fs::write(&loaded.0, "\"b\"").unwrap();
    assert_eq!(kept.load(1), (vec!["b".to_string()], 1));
}

/// All tests share one environment, so this one starts itself in other processes.
#[test]
fn another_environment_is_another_result() {
    if let Some(scratch) = std::env::var_os("GUIX_KEEPING") {
        let file = Path::new(&scratch).join("m.scm");
        let options = LoadOptions { cache: Some(Path::new(&scratch).join("offload")), ..no_guix() };
        println!("named {}", load(&file, &options).unwrap().unwrap().machines[0].name);
        return;
    }
    let kept = Kept::new("environment");
    kept.write("(map (lambda (n) (build-machine (name n) @)) (list (getenv \"GUIX_FARM\")))");
    let this = std::thread::current().name().unwrap().to_string();
    for name in ["one", "other", "one"] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &this, "--nocapture"]).env("GUIX_KEEPING", &kept.scratch.0).env("GUIX_FARM", name);
        let said = command.output().unwrap().stdout;
        assert!(String::from_utf8_lossy(&said).contains(&format!("named {name}\n")));
    }
}
