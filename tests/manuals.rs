// SPDX-License-Identifier: GPL-3.0-or-later
//! The manual pages and the completions say what the code says: the commands and options of the program's own help, the
//! fields of the machine file, the functions of the header, the exports of the Guile module.
//! `UPDATE_MANUAL=1 cargo test --test manuals` writes the functions and the exports anew.

#[path = "support/declarations.rs"]
mod declarations;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

type Words = BTreeSet<String>;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The strings of a C program, one after another as the compiler joins them.
fn strings(source: &str) -> String {
    let literals = source.split('"').skip(1).step_by(2);
    literals.collect::<String>().replace("\\n", "\n")
}

/// Returns what the program's help says that it can do: each line that begins with `guix-offload` and a word.
fn usage() -> Vec<String> {
    let directory = std::fs::read_dir(file("bindings/c")).unwrap().map(|entry| entry.unwrap().path());
    let sources = directory.filter(|path| path.extension().is_some_and(|extension| extension == "c"));
    let text: String = sources.map(|path| strings(&std::fs::read_to_string(path).unwrap())).collect();
    let lines = text.lines().map(|line| line.trim_start_matches("Usage: ").trim_start());
    let usage: Vec<String> = lines.filter_map(|line| line.strip_prefix("guix-offload ")).map(str::to_string).collect();
    assert!(usage.iter().any(|line| line.starts_with("status")), "the help is written in another way: {usage:?}");
    usage
}

/// Returns the commands of `usage`: the words in small letters before anything else.
fn commands(usage: &[String]) -> Words {
    let is_command = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    let commands = usage.iter().map(|line| {
        let words = line.split(' ').take_while(|word| is_command(word) && !word.starts_with('-'));
        words.collect::<Vec<_>>().join(" ")
    });
    commands.filter(|command| !command.is_empty()).collect()
}

/// Returns the long options in `text`.
fn options(text: &str) -> Words {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '-');
    words.filter(|word| word.len() > 2 && word.starts_with("--")).map(str::to_string).collect()
}

/// The entries of a list in a manual page, `.It REST`.
fn entries<'a>(page: &'a str, macro_name: &'a str) -> impl Iterator<Item = &'a str> {
    page.lines().filter_map(move |line| line.strip_prefix(".It ")?.strip_prefix(macro_name)?.strip_prefix(' '))
}

#[test]
fn the_page_of_the_program_has_its_commands_and_options() {
    let (page, usage) = (read("docs/man/guix-offload.1"), usage());
    let documented: Vec<String> = entries(&page, "Ic").map(str::to_string).collect();
    assert_eq!(commands(&documented), commands(&usage), "commands in guix-offload.1, and in the program's help");

    let long = |line: &str| line.replace("Fl -", "Fl --");
    let in_page: Words =
        page.lines().filter(|line| line.starts_with('.')).flat_map(|line| options(&long(line))).collect();
    let in_help: Words = usage.iter().flat_map(|line| options(line)).collect();
    assert_eq!(in_page, in_help, "options in guix-offload.1, and in the program's help");
    let listed: Words = entries(&page, "Fl").flat_map(|line| options(&long(&format!("Fl {line}")))).collect();
    assert_eq!(listed, in_help, "options that guix-offload.1 explains");
    // A command has the same options in both.
    for line in &usage {
        let command = commands(std::slice::from_ref(line));
        for entry in documented.iter().filter(|entry| commands(std::slice::from_ref(*entry)) == command) {
            assert_eq!(options(&long(entry)), options(line), "options of {command:?}");
        }
    }
}

/// Returns the words in quotes after each `beginning`.
fn after<'a>(text: &'a str, beginning: &'a str) -> impl Iterator<Item = &'a str> {
    let text = text.split(beginning).skip(1);
    text.filter_map(|rest| Some(rest.trim_start().trim_start_matches('\'').split(['\'', '\n']).next()?.trim()))
}

#[test]
fn the_completions_know_the_commands_and_options() {
    let usage = usage();
    let first_words = |commands: &Words| -> Words {
        commands.iter().map(|command| command.split(' ').next().unwrap().to_string()).collect()
    };
    let (commands, first) = (commands(&usage), first_words(&commands(&usage)));
    let second = |of: &str| -> Words {
        let ones = commands.iter().filter_map(|command| command.strip_prefix(of)?.strip_prefix(' '));
        ones.map(str::to_string).collect()
    };
    let in_help: Words = usage.iter().flat_map(|line| options(line)).collect();
    let split = |text: &str| -> Words { text.split_whitespace().map(str::to_string).collect() };

    let bash = read("bindings/c/completion/guix-offload.bash");
    assert_eq!(split(after(&bash, "commands=").next().unwrap()), first, "bash");
    assert_eq!(split(after(&bash, "options=").next().unwrap()), in_help, "bash");
    let zsh = read("bindings/c/completion/guix-offload.zsh");
    let described = zsh.split("commands=(").nth(1).unwrap().split("\n)").next().unwrap();
    assert_eq!(
        described
            .lines()
            .filter_map(|line| line.trim().strip_prefix('\'')?.split(':').next())
            .map(str::to_string)
            .collect::<Words>(),
        first,
        "zsh"
    );
    assert_eq!(options(zsh.split("options=(").nth(1).unwrap().split("\n)").next().unwrap()), in_help, "zsh");
    let fish = read("bindings/c/completion/guix-offload.fish");
    let fish: String =
        fish.lines().filter(|line| line.starts_with("complete ")).map(|line| format!("{line}\n")).collect();
    let subcommands = fish.lines().filter(|line| line.contains("__fish_use_subcommand"));
    assert_eq!(
        subcommands
            .map(|line| after(line, " -a ").next().unwrap().split(' ').next().unwrap().to_string())
            .collect::<Words>(),
        first,
        "fish"
    );
    assert_eq!(
        after(&fish, " -l ").map(|rest| format!("--{}", rest.split(' ').next().unwrap())).collect::<Words>(),
        in_help,
        "fish"
    );

    for command in &first {
        let expected = second(command);
        if expected.is_empty() {
            continue;
        }
        let words = expected.iter().cloned().collect::<Vec<_>>().join(" ");
        for (shell, text) in [("bash", &bash), ("zsh", &zsh), ("fish", &fish)] {
            assert!(text.contains(&words), "{shell} does not have '{words}', in this order, after '{command}'");
        }
    }
}

#[test]
fn the_page_of_the_machine_file_has_its_fields() {
    let source = read("src/machine/file/fields.rs");
    let list = source.split("const FIELDS: ").nth(1).unwrap().split("= [").nth(1).unwrap().split(']').next().unwrap();
    let fields: Words = list.split('"').skip(1).step_by(2).map(str::to_string).collect();
    assert!(fields.len() > 10, "{fields:?}");
    let page = read("docs/man/guix-offload.machines.5");
    let documented: Words = entries(&page, "Li").map(str::to_string).collect();
    assert_eq!(documented, fields);
    // Defaults are numbers and texts of `BuildMachine`.
    let machine = read("src/machine/mod.rs");
    for (field, value) in [
        ("port", "DEFAULT_PORT: u16 = "),
        ("parallel-builds", "DEFAULT_PARALLEL_BUILDS: u32 = "),
        ("speed", "DEFAULT_SPEED: f64 = "),
        ("overload-threshold", "DEFAULT_OVERLOAD_THRESHOLD: f64 = "),
        ("compression-level", "DEFAULT_COMPRESSION_LEVEL: u8 = "),
        ("compression", "DEFAULT_COMPRESSION: &str = "),
        ("daemon-socket", "DEFAULT_DAEMON_SOCKET: &str = "),
    ] {
        let default = machine.split(value).nth(1).unwrap().split(';').next().unwrap().trim_matches('"');
        let default = default.strip_suffix(".0").unwrap_or(default);
        let entry = page.split(&format!(".It Li {field}\n")).nth(1).unwrap().split("\n.It ").next().unwrap();
        let said = entry.split("Default:").nth(1).unwrap_or_else(|| panic!("{field} has no default"));
        let said = said.trim().trim_start_matches(".Pa ").trim_start_matches(".Qq ").trim_end_matches("\n.El");
        assert_eq!(said.lines().next().unwrap().trim_end_matches('.').trim_end(), default, "{field}");
    }
}

#[test]
fn the_info_manual_has_what_the_guile_module_exports() {
    let output = std::process::Command::new("guile")
        .args(["--no-auto-compile", "-L", "bindings/guile", "docs/texinfo/guile.scm"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("guile starts");
    assert!(output.status.success(), "guile.scm: {}", String::from_utf8_lossy(&output.stderr));
    let (name, text) = ("docs/texinfo/guile.texi", String::from_utf8(output.stdout).unwrap());
    if std::env::var_os("UPDATE_MANUAL").is_some() {
        std::fs::write(file(name), &text).unwrap();
    }
    assert_eq!(read(name), text, "{name} is out of date: UPDATE_MANUAL=1 cargo test --test manuals");
}

#[test]
fn the_info_manual_has_the_commands_and_variables_of_the_pages() {
    let (info, page) = (read("docs/texinfo/guix-offload.texi"), read("docs/man/guix-offload.1"));
    let items: Vec<&str> = info.lines().filter_map(|line| line.strip_prefix("@item ")).collect();
    let in_info: Vec<String> =
        items.iter().filter_map(|item| item.strip_prefix("guix-offload ")).map(str::to_string).collect();
    // `offload` is what guix-daemon says.
    let in_help: Words = commands(&usage()).into_iter().filter(|command| command != "offload").collect();
    assert_eq!(commands(&in_info), in_help);
    let is_variable = |item: &&&str| item.starts_with("GUIX_") && !item.contains('=');
    let variables: Words = items.iter().filter(is_variable).map(|item| item.to_string()).collect();
    assert_eq!(variables, entries(&page, "Ev").map(str::to_string).collect::<Words>());
}

#[test]
fn one_version_is_about_to_be_released() {
    let version = env!("CARGO_PKG_VERSION");
    let changes = read("CHANGELOG.md");
    assert_eq!(changes.lines().find(|line| line.starts_with("## ")), Some(&*format!("## {version}")), "CHANGELOG.md");
    let package = format!("guix-offload ({version}-");
    assert!(read("debian/changelog").starts_with(&package), "debian/changelog does not begin with {package}");
}

/// Returns `text` as lines of a manual page, none of which is taken for a macro. What is between backticks is in
/// italics.
fn prose(text: &str) -> String {
    let mut lines = vec![String::new()];
    let parts = text.replace('\\', "\\e");
    let parts = parts.split('`').enumerate();
    let text: String =
        parts.map(|(at, part)| if at % 2 == 1 { format!("\\fI{part}\\fR") } else { part.into() }).collect();
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if line.len() + word.len() >= 100 {
            lines.push(word.to_string());
        } else {
            *line += if line.is_empty() { "" } else { " " };
            *line += word;
        }
    }
    let escaped = lines.iter().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}\n"),
        false => format!("{line}\n"),
    });
    escaped.collect()
}

/// Returns the first sentence of `text`.
fn first_sentence(text: &str) -> &str {
    let end = text
        .match_indices(". ")
        .map(|(at, _)| at)
        .find(|at| text[at + 2..].starts_with(|c: char| c.is_ascii_uppercase() || c == '`'));
    end.map_or(text, |at| &text[..=at])
}

/// Returns the functions of the header as sections of a manual page.
fn reference() -> String {
    let mut page = String::from(".Sh FUNCTIONS\n");
    let mut section = String::new();
    for function in declarations::functions(&read("include/guix-offload.h")) {
        if function.section != section {
            section = function.section.clone();
            page += &format!(".Ss {section}\n");
        }
        page += &format!(".Pp\n.Ft {}\n.Fo {}\n", function.result, function.name);
        function.parameters.iter().for_each(|parameter| page += &format!(".Fa \"{parameter}\"\n"));
        page += &format!(
            ".Fc\n.Bd -ragged -offset indent -compact\n{}.Ed\n",
            prose(first_sentence(&function.documentation))
        );
    }
    page
}

#[test]
fn the_page_of_the_library_has_its_functions() {
    const NAME: &str = "docs/man/libguix_offload.3";
    const BEGINNING: &str = "cargo test --test manuals\n";
    let page = read(NAME);
    let (before, rest) = page.split_once(BEGINNING).unwrap();
    let (_, after) = rest.split_once(".Sh SEE ALSO\n").unwrap();
    let expected = format!("{before}{BEGINNING}{}.Sh SEE ALSO\n{after}", reference());
    if std::env::var_os("UPDATE_MANUAL").is_some() {
        std::fs::write(file(NAME), &expected).unwrap();
    }
    assert!(read(NAME) == expected, "stale: run 'UPDATE_MANUAL=1 cargo test --test manuals' and commit {NAME}");
    for line in read("c-tests/symbols.txt").lines() {
        assert!(expected.contains(&format!("\n.Fo {line}\n")), "{NAME} lacks {line}");
    }
}
