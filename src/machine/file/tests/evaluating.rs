// SPDX-License-Identifier: GPL-3.0-or-later
//! Files that are evaluated by Guile.

use super::*;

#[test]
fn errors_of_programs_say_where_and_what() {
    for (short, message) in GUILE_ERRORS {
        let text = text(short);
        assert_eq!(in_process(text.as_bytes()), None, "{text}");
        let error = fault(by_guile(text.as_bytes(), &no_guix()));
        assert!(error.starts_with(message), "{text}\n got {error}\nnot {message}");
    }
}

#[test]
fn without_a_guile_the_error_names_the_form() {
    let file = Scratch::new("m.scm");
    std::fs::write(&file.0, "(define a 1)\n (map a b)").unwrap();
    let options = LoadOptions { guile: "/nonexistent/guile".into(), ..no_guix() };
    let error = load(&file.0, &options).unwrap_err();
    let expected = "'map' is left to Guile, but there is neither '/nonexistent/guile' nor '/nonexistent/guix'";
    assert_eq!(error.to_string(), format!("{}:2:1: {expected}", file.0.display()));
    assert!(error.hint_text().unwrap().contains("install Guile"));
}

#[test]
fn guile_is_stopped_when_the_time_is_up() {
    let options = LoadOptions { time_limit: Duration::from_millis(500), ..no_guix() };
    let started = std::time::Instant::now();
    let error = by_guile(b"(let loop () (loop))", &options).unwrap_err();
    assert_eq!(error, "m.scm:1:0: Guile was not done with the file within 500ms");
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// The `guix` here runs Guile as its `repl`. It gets what plain `guile` fails at.
#[test]
fn guix_repl_comes_second() {
    let scratch = Scratch::new("guix");
    let module = scratch.0.join("load-path/my");
    std::fs::create_dir_all(&module).unwrap();
    std::fs::write(module.join("farm.scm"), "(define-module (my farm) #:export (farm)) (define farm \"farm\")")
        .unwrap();
    let guix = scratch.0.join("guix");
    let script = format!(
        "#!/bin/sh\n[ \"$*\" = 'repl -t machine' ] || exit 9\necho '(repl-version 0 1 1)'\n\
         exec guile --no-auto-compile -q -L {} -c '(primitive-eval (read))'\n",
        scratch.0.join("load-path").display()
    );
    std::fs::write(&guix, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&guix, mode).unwrap();

    let file = text("(use-modules (my farm)) (list (build-machine (name farm) @))");
    let names = |options: &LoadOptions| {
        by_guile(file.as_bytes(), options).map(|(machines, _)| machines.into_iter().map(|m| m.name).collect::<Vec<_>>())
    };
    let options = LoadOptions { guix, ..LoadOptions::default() };
    assert_eq!(names(&options).unwrap(), ["farm"]);
    assert_eq!(names(&LoadOptions { guile: "/nonexistent/guile".into(), ..options }).unwrap(), ["farm"]);
    let error = names(&LoadOptions { guix: "/bin/false".into(), ..no_guix() }).unwrap_err();
    assert_eq!(error, "m.scm:1:0: no code for module (my farm)");
}

/// Records like those of Guix itself, from a module that defines such a type.
#[test]
fn records_of_guix_are_read() {
    let file = String::from(
        "(define-module (fake) #:use-module (srfi srfi-9))
         (define-record-type <location> (location file line column) location? (file f) (line l) (column c))
         (define-record-type <build-machine> (make name port systems user host-key location) m?
           (name n) (port p) (systems s) (user u) (host-key h) (location o))
         (list (make \"a\" 44 '(\"s\") \"u\" \"KEY\" (location \"other.scm\" 7 3))
               ((@ (guix scripts offload) build-machine-port) (make \"b\" 1 #f #f #f #f)))",
    )
    .replace("KEY", KEY);
    // The second element is not a machine, so that the error shows what the accessor gives.
    let error = fault(by_guile(file.as_bytes(), &no_guix()));
    assert!(error.ends_with("this last form returns a list whose element 2 is 1"), "{error}");
    let file = file.replace("((@ (guix scripts offload) build-machine-port) (make \"b\" 1 #f #f #f #f))", "");
    let machines = faultless(by_guile(file.as_bytes(), &no_guix()));
    assert_eq!((&*machines[0].name, machines[0].port), ("a", 44));
    let error = fault(by_guile(file.replace("44", "'x").as_bytes(), &no_guix()));
    assert!(error.starts_with("other.scm:7:3: machine 'a', field 'port': expected an integer"), "{error}");
}

/// Records of a type of another module, with unknown fields and without optional ones.
#[test]
fn records_of_another_type_are_read() {
    let file = String::from(
        "(use-modules (srfi srfi-9) (ice-9 match))
         (define-record-type build-machine (make name systems user host-key speed weight) m?
           (name n) (systems s) (user u) (host-key h) (speed f) (weight w))
         (list (make \"a\" '(\"x86_64-linux\") \"u\" \"KEY\" (delay 2) 7))",
    );
    let machines = faultless(by_guile(file.replace("KEY", KEY).as_bytes(), &no_guix()));
    assert_eq!((&*machines[0].name, machines[0].port, machines[0].speed), ("a", 22, 2.0));
    let error = fault(by_guile(file.replace("\"u\"", "'u").as_bytes(), &no_guix()));
    assert!(error.starts_with("m.scm:4:9: machine 'a', field 'user': expected a string"), "{error}");
}

#[test]
fn a_program_may_load_files_beside_it() {
    let scratch = Scratch::new("load");
    std::fs::write(scratch.0.join("key.scm"), "(define key \"KEY\")".replace("KEY", KEY)).unwrap();
    let file = scratch.0.join("machines.scm");
    let name = "(name (basename (current-filename)))";
    let machine = format!("(build-machine {name} (user \"u\") (system \"s\") (host-key key) (private-key \"/k\"))");
    std::fs::write(&file, format!("(load \"key.scm\") (list {machine})")).unwrap();
    let machines = load(&file, &no_guix()).unwrap().unwrap();
    assert_eq!(machines.machines[0].name, "machines.scm");
}

/// All tests share one environment, so this one starts itself in another process.
#[test]
fn a_program_sees_what_concerns_guix_of_the_environment() {
    let given = [
        ("GUIX_FARM", "seen"),
        ("LC_MESSAGES", "C"),
        ("SSH_AUTH_SOCK", "/run/agent"),
        ("LD_DEBUG_OUTPUT", "/nonexistent/x"),
        ("NOTIFY_SOCKET", "/run/notify"),
        ("SECRET", "s3cret"),
    ];
    if std::env::var_os("GUIX_FARM").is_none() {
        let name = std::thread::current().name().unwrap().to_string();
        let program = std::env::current_exe().unwrap();
        let mut command = std::process::Command::new(program);
        let output = command.args(["--exact", &name, "--nocapture"]).envs(given).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let names: Vec<String> = given.iter().map(|(name, _)| format!("{name:?}")).collect();
    let program = format!(
        "(list (build-machine (name \"a\") @ (features (map (lambda (n) (or (getenv n) \"-\")) (list {})))))",
        names.join(" ")
    );
    let machines = faultless(by_guile(text(&program).as_bytes(), &no_guix()));
    assert_eq!(machines[0].features, ["seen", "C", "-", "-", "-", "-"]);
}
