// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine that no machine file has yet: what its SSH server shows, and once the host key is confirmed, what it is.
//! The result is a `build-machine` form.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ssh_known::{Known, Verdict, name_of};
use super::{MachineState, Report, connect, text};
use crate::ground::cancel::Cancel;
use crate::ground::directories::Directories;
use crate::ground::error::{Error, ErrorKind, Result};
use crate::machine::{BuildMachine, HostKey, default_private_key, file};
use crate::remote::{Limits, Survey, quoted};
use crate::report::json::document_of;
use crate::ssh::shown_host_key;

/// The types of host key that are asked for, best first.
const TYPES: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/// Most private keys that are tried: servers refuse more attempts than six.
const MAX_KEYS: usize = 5;

/// The number of cores for which one build is suggested.
const CORES_A_BUILD: u32 = 4;

/// What is to be scanned, and how.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// `HOST` or `HOST:PORT`, an IPv6 address in brackets.
    pub host: String,
    /// Account to log in to; `None`: root.
    pub user: Option<String>,
    /// The fingerprint of the host key, if the user has confirmed it.
    pub accepted: Option<String>,
    /// The private key to log in with; `None`: those that the machine file names, and the user's.
    pub private_key: Option<PathBuf>,
}

/// What was found out.
pub struct Scan {
    /// The machine. If there is a `failure`, the host key is not confirmed, or logging in failed.
    pub report: Report,
    fingerprint: String,
    verdict: Verdict,
    /// Whether ssh knows the host key, or the user has confirmed it.
    confirmed: bool,
}

/// Scans a machine. Logs in only if ssh knows the host key, or the user has confirmed it.
///
/// Fails if it is cancelled, if the server cannot be reached, and with [`ErrorKind::HostKey`] if the key is revoked, is
/// not the one that the user has confirmed, or is not the one that ssh knows and the user has confirmed none.
pub fn scan(directories: &Directories, question: &Question, cancel: &Cancel) -> Result<Scan> {
    let mut machine = described(question)?;
    let known = Known::of(&machine, cancel)?;
    machine.host_key = ask_for_key(&machine, &known, cancel)?;
    let fingerprint = machine.host_key.fingerprint()?;
    let verdict = known.judge(&machine.host_key);
    let confirmed = is_confirmed(&machine, question, &fingerprint, verdict)?;
    let mut report = Report::new(machine, directories);
    if !confirmed {
        report.failure = Some(unconfirmed(&report.machine, question, &fingerprint));
        return Ok(Scan { report, fingerprint, verdict, confirmed });
    }
    match look_at(directories, &mut report.machine, question, cancel) {
        Ok(state) => {
            let cores = state.survey.cores.max(1);
            report.machine.systems = systems_of(&state.survey);
            report.machine.parallel_builds = cores.div_ceil(CORES_A_BUILD);
            report.state = Some(state);
        }
        Err(error) => report.failure = Some(error),
    }
    cancel.check()?;
    Ok(Scan { report, fingerprint, verdict, confirmed })
}

/// Returns the machine as the question describes it, with nobody's host key and no private key.
fn described(question: &Question) -> Result<BuildMachine> {
    let invalid = |what: &str| {
        let message = format!("'{}' is no HOST or HOST:PORT: {what}", question.host);
        Error::new(ErrorKind::InvalidArgument, message)
    };
    let (name, port) = match question.host.rsplit_once(':') {
        // An IPv6 address without brackets has no port.
        Some((name, _)) if name.contains(':') && !name.ends_with(']') => (question.host.as_str(), None),
        Some((name, port)) => (name, Some(port)),
        None => (question.host.as_str(), None),
    };
    let port = match port.map(str::parse::<u16>) {
        None => BuildMachine::DEFAULT_PORT,
        Some(Ok(port)) => port,
        Some(Err(_)) => return Err(invalid("the port is no number up to 65535")),
    };
    let user = question.user.as_deref().unwrap_or("root");
    let machine = BuildMachine::new(name, user, "", HostKey::of_nobody(TYPES[0]));
    let machine = BuildMachine { port, ..machine };
    machine.admit().map_err(|flaw| Error::new(ErrorKind::InvalidArgument, flaw.error(name).to_string()))
}

/// Returns the host key that the server shows: of a type that ssh knows for it, if it has one.
fn ask_for_key(machine: &BuildMachine, known: &Known, cancel: &Cancel) -> Result<HostKey> {
    let mut types: Vec<&str> = TYPES.into_iter().filter(|one| known.types().any(|known| known == *one)).collect();
    types.extend(TYPES.iter().filter(|one| !known.types().any(|known| known == **one)));
    let mut failure = None;
    for algorithm in types {
        let asked = BuildMachine { host_key: HostKey::of_nobody(algorithm), ..machine.clone() };
        match shown_host_key(&asked, Limits::DEFAULT.step, cancel) {
            Ok(key) => return Ok(key),
            // It has no key of this type.
            Err(error) if error.kind() == ErrorKind::HostKey => failure = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| Error::new(ErrorKind::HostKey, "it has no host key")))
}

/// Returns whether the key is the machine's, as ssh knows or the user says.
fn is_confirmed(machine: &BuildMachine, question: &Question, shown: &str, verdict: Verdict) -> Result<bool> {
    let name = &machine.name;
    let refuse = |why: String| Error::new(ErrorKind::HostKey, why).on_machine(name);
    match (verdict, question.accepted.as_deref()) {
        (Verdict::Revoked, _) => {
            Err(refuse(format!("the host key of '{name}', {shown}, is revoked in the files of hosts that ssh knows")))
        }
        (_, Some(accepted)) if accepted == shown => Ok(true),
        (_, Some(accepted)) => Err(refuse(format!("the host key of '{name}' is {shown}, not {accepted}"))
            .hint(format!("see on '{name}' which one it is: {}", listing(machine)))),
        (Verdict::Known, None) => Ok(true),
        (Verdict::Unknown, None) => Ok(false),
        (Verdict::Differs, None) => {
            let known = name_of(machine);
            let entry = if known == *name { known } else { quoted(&known) };
            Err(refuse(format!("the host key of '{name}' is {shown}, but ssh knows '{name}' under another one")).hint(
                format!(
                    "if the machine was installed anew, run: ssh-keygen -R {entry}, and scan it again; if not, \
                     somebody may be in between"
                ),
            ))
        }
    }
}

/// Returns the command that shows the fingerprint of the host key, on the machine itself.
fn listing(machine: &BuildMachine) -> String {
    let name = match machine.host_key.algorithm() {
        "ssh-ed25519" => "ed25519",
        "ssh-rsa" => "rsa",
        _ => "ecdsa",
    };
    format!("ssh-keygen -l -f /etc/ssh/ssh_host_{name}_key.pub")
}

fn unconfirmed(machine: &BuildMachine, question: &Question, fingerprint: &str) -> Error {
    let name = &machine.name;
    let port = if machine.port == BuildMachine::DEFAULT_PORT { String::new() } else { format!(":{}", machine.port) };
    let host = if name.contains(':') { format!("[{name}]{port}") } else { format!("{name}{port}") };
    let key = question.private_key.as_ref().map(|file| format!(" --key={}", quoted(&file.to_string_lossy())));
    let key = key.unwrap_or_default();
    let command = format!("guix-offload scan {host} {} --accept={fingerprint}{key}", machine.user);
    Error::new(ErrorKind::HostKey, format!("ssh does not know '{name}', so nobody has confirmed its host key"))
        .on_machine(name)
        .hint(format!("if '{}' prints the same fingerprint on '{name}' itself, run: {command}", listing(machine)))
}

/// Logs in and looks at the machine. Sets its private key to the one that logs in.
fn look_at(
    directories: &Directories,
    machine: &mut BuildMachine,
    question: &Question,
    cancel: &Cancel,
) -> Result<MachineState> {
    let mut refusal = None;
    for key in private_keys(directories, question, cancel)? {
        machine.private_key = key;
        let connected = connect(directories, machine, cancel)
            .and_then(|(remote, _guard)| Ok(MachineState { probe: *remote.probe(), survey: remote.survey()? }));
        match connected {
            Ok(state) => return Ok(state),
            // Another key may do. If none does, the first one that the server refused says most.
            Err(error) if matches!(error.kind(), ErrorKind::Authentication | ErrorKind::Configuration) => {
                refusal.get_or_insert((error, machine.private_key.clone()));
            }
            Err(error) => return Err(error.on_machine(&machine.name)),
        }
    }
    let (error, key) = refusal.unwrap_or_else(|| {
        let error = Error::new(ErrorKind::Configuration, "there is no private key to log in with");
        (error.hint("make one with ssh-keygen, or name one with --key=FILE"), PathBuf::new())
    });
    machine.private_key = key;
    Err(error.on_machine(&machine.name))
}

/// Returns the private keys to try: the one that is named, or those of the machine file and the user's that exist.
fn private_keys(directories: &Directories, question: &Question, cancel: &Cancel) -> Result<Vec<PathBuf>> {
    if let Some(key) = &question.private_key {
        // The machine file is read in other directories.
        return Ok(vec![std::path::absolute(key).unwrap_or_else(|_| key.clone())]);
    }
    let (cache, cancel) = (Some(directories.offload_state()), cancel.clone());
    let options = file::LoadOptions { cache, cancel, ..Default::default() };
    // A machine file that cannot be read is no reason not to describe another machine.
    let loaded = file::load(&directories.machine_file(), &options).ok().flatten();
    let listed = loaded.into_iter().flat_map(|loaded| loaded.machines).map(|machine| machine.private_key).collect();
    let own = default_private_key()?;
    Ok(to_try(listed, &[own.with_file_name("id_ed25519"), own.with_file_name("id_rsa")]))
}

/// Returns the keys that exist, each once: those that machine files name, and then the user's `own`, for which there is
/// always room.
fn to_try(listed: Vec<PathBuf>, own: &[PathBuf]) -> Vec<PathBuf> {
    let mut keys: Vec<PathBuf> = Vec::new();
    for key in listed.into_iter().chain(own.iter().cloned()).filter(|key| key.exists()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let mut room = MAX_KEYS.saturating_sub(keys.iter().filter(|key| own.contains(key)).count());
    keys.retain(|key| {
        let is_listed = !own.contains(key);
        let fits = !is_listed || room > 0;
        room -= usize::from(is_listed && fits);
        fits
    });
    keys
}

/// Returns the systems that a machine builds for by itself.
fn systems_of(survey: &Survey) -> Vec<String> {
    let is_hurd = survey.kernel.starts_with("GNU");
    let systems: &[&str] = match survey.architecture.as_str() {
        "x86_64" if is_hurd => &["x86_64-gnu"],
        "i386" | "i586" | "i686" | "i686-AT386" if is_hurd => &["i586-gnu"],
        "x86_64" => &["x86_64-linux", "i686-linux"],
        "i386" | "i586" | "i686" => &["i686-linux"],
        "aarch64" => &["aarch64-linux"],
        "armv7l" | "armv8l" => &["armhf-linux"],
        "ppc64le" => &["powerpc64le-linux"],
        "ppc" => &["powerpc-linux"],
        "riscv64" => &["riscv64-linux"],
        "loongarch64" => &["loongarch64-linux"],
        _ => &[],
    };
    systems.iter().map(|system| system.to_string()).collect()
}

impl Scan {
    /// Returns the form, and in comments what is to be known about it.
    pub fn text(&self) -> String {
        let Report { machine, state, failure, .. } = &self.report;
        let mut comments = vec![format!("host key: {} {}", machine.host_key.algorithm(), self.fingerprint)];
        comments.push(match (self.verdict, self.confirmed) {
            (Verdict::Known, _) => "ssh knows the machine under this key.".into(),
            (_, false) => "Nobody has confirmed this key yet.".into(),
            (_, true) => "It was confirmed with --accept.".to_string(),
        });
        if let Some(MachineState { survey, .. }) = state {
            let version = if survey.guix_version.is_empty() { "not in PATH" } else { &survey.guix_version };
            let Survey { kernel, architecture, cores, .. } = survey;
            comments.push(format!("{kernel}, {architecture}, {cores} cores, Guix: {version}"));
        }
        // The form is right, but for now the machine gets no builds.
        if let Some(unsuitable) = self.report.unsuitable() {
            let error = unsuitable.error(machine);
            comments.push(format!("warning: {error}"));
            comments.extend(error.hint_text().map(|hint| format!("hint: {hint}")));
        }
        if let Some(error) = failure {
            comments.push(format!("error: {error}"));
            comments.extend(error.hint_text().map(|hint| format!("hint: {hint}")));
        }
        let mut text = String::new();
        comments.iter().for_each(|comment| writeln!(text, ";; {comment}").unwrap_or_default());
        text + &self.form() + "\n"
    }

    /// Returns the form, as Scheme.
    fn form(&self) -> String {
        let machine = &self.report.machine;
        let mut fields = vec![format!("(name {})", literal(&machine.name))];
        if machine.port != BuildMachine::DEFAULT_PORT {
            fields.push(format!("(port {})", machine.port));
        }
        let systems: Vec<String> = machine.systems.iter().map(|system| literal(system)).collect();
        fields.push(format!("(systems '({}))", systems.join(" ")));
        fields.push(format!("(user {})", literal(&machine.user)));
        fields.push(format!("(host-key {})", literal(&machine.host_key.to_string())));
        if machine.private_key != Path::new("") {
            fields.push(format!("(private-key {})", literal(&machine.private_key.to_string_lossy())));
        }
        if self.report.state.is_some() {
            fields.push(format!("(parallel-builds {})", machine.parallel_builds));
        }
        format!("(build-machine\n  {})", fields.join("\n  "))
    }

    /// Returns all of it as a line of JSON:
    ///
    /// ```text
    /// {"schema": 1, "name": ..., "port": ..., "user": ..., "hostKey": "TYPE BASE64", "fingerprint": "SHA256:...",
    ///  "knownToSsh": ..., "state": ..., "privateKey": ..., "systems": [...], "parallelBuilds": ..., "cores": ...,
    ///  "guixVersion": ..., "form": ..., "error": {"text": ..., "hint": ...}}
    /// ```
    ///
    /// What is not known is null.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Remark<'a> {
            text: String,
            hint: Option<&'a str>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            name: &'a str,
            port: u16,
            user: &'a str,
            host_key: String,
            fingerprint: &'a str,
            known_to_ssh: bool,
            state: &'a str,
            private_key: Option<&'a Path>,
            systems: &'a [String],
            parallel_builds: Option<u32>,
            cores: Option<u32>,
            guix_version: Option<&'a str>,
            form: String,
            error: Option<Remark<'a>>,
        }
        let Report { machine, state, failure, .. } = &self.report;
        let survey = state.as_ref().map(|state| &state.survey);
        let document = Document {
            name: &machine.name,
            port: machine.port,
            user: &machine.user,
            host_key: machine.host_key.to_string(),
            fingerprint: &self.fingerprint,
            known_to_ssh: self.verdict == Verdict::Known,
            state: if self.confirmed { text::state(&self.report) } else { "unconfirmed" },
            private_key: state.as_ref().map(|_| &*machine.private_key),
            systems: &machine.systems,
            parallel_builds: state.as_ref().map(|_| machine.parallel_builds),
            cores: survey.map(|survey| survey.cores).filter(|cores| *cores > 0),
            guix_version: survey.map(|survey| &*survey.guix_version).filter(|version| !version.is_empty()),
            form: self.form(),
            error: failure.as_ref().map(|error| Remark { text: error.to_string(), hint: error.hint_text() }),
        };
        document_of(&document)
    }
}

/// Returns `text` as a string of Scheme.
fn literal(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
