// SPDX-License-Identifier: GPL-3.0-or-later
//! `guix offload explain`: what would become of a build now, and what counts for and against each machine. No machine
//! is asked: what is known of them is what builds have seen, in the histories of this host and in the keeper's memory.
//!
//! The report for programs:
//!
//! ```text
//! {"schema": 1, "derivation": ..., "system": ..., "features": [...],
//!  "reply": "accept", "postpone", "decline", "fail" or "not asked", "why": ..., "keeper": whether one was asked,
//!  "machines": [{"name": ..., "port": ..., "order": 1 and so on, or null if it would not be tried,
//!                "slots": ..., "slotsTaken": ..., "waiting": BUILDS, "load": ..., "overloadThreshold": ...,
//!                "freeSpace": BYTES, "memory": BYTES, "missing": BYTES, "rate": BYTES a second,
//!                "sendingSeconds": ..., "estimatedSeconds": ..., "drained": ..., "leftAloneSeconds": ...,
//!                "against": [{"text": ..., "hint": ...}]}]}
//! ```
//!
//! Every key is always there; what is not known is `null`.

use std::fmt::Write;

use super::{Note, Report};
use crate::build::engine::Engine;
use crate::build::explain::{Explanation, Foreseen};
use crate::choose::standing::Standing;
use crate::doors::hook::is_native;
use crate::doors::keeper::reach;
use crate::ground::error::{Error, ErrorKind, Result, line};
use crate::ground::store_path::{StoreDir, StorePath};
use crate::machine::suitability::mismatches;
use crate::machine::{BuildMachine, Requirements};
use crate::report::json::{array, document, object, or_null, remark, string};
use crate::report::lines;
use crate::report::table::size;
use crate::report::table::table;
use crate::store::{Needs, needs_of};

/// What is asked about.
pub struct Subject {
    derivation: Option<StorePath>,
    needs: Needs,
}

impl Subject {
    /// Reads `what`: a derivation, or a system type, which `features` may follow, separated by commas. Fails with
    /// [`ErrorKind::InvalidArgument`] if it is neither, or if the derivation cannot be read.
    pub fn parse(store: &StoreDir, what: &str, features: &str) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::InvalidArgument, message);
        let features: Vec<_> = features.split(',').filter(|one| !one.is_empty()).map(str::to_string).collect();
        if what.contains('/') || what.ends_with(".drv") {
            let derivation = store.parse(what).map_err(|error| invalid(error.to_string()))?;
            if !derivation.is_derivation() {
                return Err(invalid(format!("'{derivation}' is not a derivation"))
                    .hint("name one that 'guix build -d' prints, or a system type such as x86_64-linux"));
            }
            if !features.is_empty() {
                return Err(invalid("a derivation says itself which features it needs".into()).hint("name it alone"));
            }
            let needs = needs_of(&derivation)?;
            return Ok(Subject { derivation: Some(derivation), needs });
        }
        if what.is_empty() || what.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(invalid(format!("{what:?} is no system type")).hint("one is x86_64-linux"));
        }
        let requirements = Requirements { system: what.into(), features };
        Ok(Subject { derivation: None, needs: Needs { requirements, prefers_local: false } })
    }

    fn requirements(&self) -> &Requirements {
        &self.needs.requirements
    }
}

/// What would become of a build, for people and for programs.
pub struct Answer {
    /// All machines, in the order of [`Explanation::standings`].
    pub reports: Vec<Report>,
    /// Whether a machine would do it.
    pub is_offloaded: bool,
    /// Lines for people.
    pub text: String,
    /// A line for programs.
    pub json: String,
}

/// Asks the keeper what would become of a build, or if there is none, this process's own `engine`, which does not know
/// what machines have.
pub fn explain(engine: &Engine, machines: &[BuildMachine], subject: &Subject) -> Result<Answer> {
    let (requirements, derivation) = (subject.requirements(), subject.derivation.as_ref());
    let asked = reach::explain(engine.directories(), machines, requirements, derivation);
    answer(engine, machines, subject, asked)
}

/// What the keeper contributed.
enum Keeper {
    Answered,
    Absent,
    /// One runs, but gave no answer that can be used.
    Failed(Error),
}

/// Returns the answer of the keeper that was `asked`, or that of this process.
fn answer(
    engine: &Engine,
    machines: &[BuildMachine],
    subject: &Subject,
    asked: Result<Option<Explanation>>,
) -> Result<Answer> {
    let (requirements, derivation) = (subject.requirements(), subject.derivation.as_ref());
    let own = || engine.explain(machines, requirements, derivation);
    let asked = asked.and_then(|asked| asked.map(|explanation| check_machines(explanation, machines)).transpose());
    // The keeper is a side issue: one that does not answer is no reason to fail.
    let (explanation, keeper) = match asked {
        Ok(Some(explanation)) => (explanation, Keeper::Answered),
        Ok(None) => (own()?, Keeper::Absent),
        Err(error) => (own()?, Keeper::Failed(error)),
    };
    let (reply, why) = reply(subject, &explanation);
    let report = |standing: &Standing| {
        let notes = against(standing, requirements);
        Report { notes, ..Report::new(standing.machine.clone(), engine.directories()) }
    };
    Ok(Answer {
        reports: explanation.standings.iter().map(report).collect(),
        is_offloaded: reply == "accept",
        text: text(subject, &explanation, (reply, &why), &keeper),
        json: json(subject, &explanation, (reply, &why), matches!(keeper, Keeper::Answered)),
    })
}

/// Checks that the keeper's `explanation` is about `machines`: it may be the keeper of another user, and a machine's
/// name and port become the name of a directory.
fn check_machines(explanation: Explanation, machines: &[BuildMachine]) -> Result<Explanation> {
    let named = |message: String| {
        Err(Error::new(ErrorKind::Protocol, message)
            .context("the keeper's answer")
            .hint("it may be of another version: it ends by itself once its builds are done"))
    };
    let standings = &explanation.standings;
    if let Some(other) = standings.iter().find(|standing| !machines.contains(&standing.machine)) {
        return named(format!("it tells of {:?}, which it was not asked about", other.machine.label()));
    }
    let is_told = |machine: &&BuildMachine| standings.iter().any(|standing| standing.machine == **machine);
    match machines.iter().find(|machine| !is_told(machine)) {
        Some(machine) => named(format!("it does not tell of '{}'", machine.label())),
        None if standings.len() != machines.len() => named("it tells of a machine more than once".into()),
        None => Ok(explanation),
    }
}

/// Returns the answer that guix-daemon gets, in a word, and why.
fn reply(subject: &Subject, explanation: &Explanation) -> (&'static str, String) {
    let Requirements { system, features } = subject.requirements();
    let name = |index: usize| explanation.standings.get(index).map_or("?", |it| &it.machine.name);
    let here = "guix-daemon builds it here; if it must not (--max-jobs=0)";
    let native = is_native(system);
    if subject.needs.prefers_local && native {
        return ("not asked", "guix-daemon builds it here: its 'preferLocalBuild' says so".into());
    }
    match &explanation.foreseen {
        Foreseen::Room => ("accept", "a slot is free, by what a machine said a moment ago".into()),
        Foreseen::Machine(index) => {
            ("accept", format!("'{}' is asked first, and is taken if it answers and has room", name(*index)))
        }
        Foreseen::Waits(Some(index)) => {
            ("accept", format!("it waits for a slot of '{}', which has its inputs", name(*index)))
        }
        Foreseen::Waits(None) => ("accept", "it waits for a slot: all are taken, and one is free soon".into()),
        Foreseen::Busy => ("postpone", "all slots are taken, and none is known to be free soon".into()),
        Foreseen::NoRoom => {
            ("postpone", "those machines that work are overloaded, low on disk space or short of memory".into())
        }
        Foreseen::Away if native => {
            ("decline", format!("no machine can be used now, so {here}, the answer is to postpone it"))
        }
        Foreseen::Away => ("postpone", "no machine can be used now".into()),
        Foreseen::Misconfigured(error) if native => {
            ("decline", format!("all machines are misconfigured, so {here}, it fails: {}", lines::describe(error)))
        }
        Foreseen::Misconfigured(error) => {
            ("fail", format!("all machines are misconfigured: {}", lines::describe(error)))
        }
        Foreseen::Never if features.is_empty() => ("decline", format!("no machine builds for {system}")),
        Foreseen::Never => ("decline", format!("no machine builds for {system} and offers {}", features.join(", "))),
    }
}

/// Returns what counts against a machine.
fn against(standing: &Standing, requirements: &Requirements) -> Vec<Note> {
    let Standing { machine, unsuitable, left_alone, .. } = standing;
    let mut notes: Vec<_> =
        mismatches(machine, requirements).into_iter().map(|text| Note { text, hint: None }).collect();
    let mut note = |text: String, hint: Option<String>| notes.push(Note { text, hint });
    let has_slots = machine.parallel_builds > 0;
    if has_slots && standing.taken.is_some_and(|taken| taken >= machine.parallel_builds) {
        note("all its slots are taken".into(), None);
    } else if has_slots && standing.waiting > 0 && !standing.has_free_slot() {
        note(format!("{} builds wait for its free slots", standing.waiting), None);
    }
    if let Some(left_alone) = left_alone {
        let time = left_alone.time.map(|time| format!("it is left alone for another {} s: ", time.as_secs()));
        note(time.unwrap_or_default() + &left_alone.reason, left_alone.hint.clone());
        if left_alone.can_be_started {
            let name = &machine.name;
            note(format!("if it still cannot be reached, and no other machine is free, '{name}.start' is run"), None);
        }
    }
    let is_said = |unsuitable: &&Error| left_alone.as_ref().is_some_and(|it| it.reason == unsuitable.to_string());
    if let Some(unsuitable) = unsuitable.as_ref().filter(|unsuitable| !is_said(unsuitable)) {
        note(format!("as it was seen last: {unsuitable}"), unsuitable.hint_text().map(str::to_string));
    }
    notes
}

fn text(subject: &Subject, explanation: &Explanation, (reply, why): (&str, &str), keeper: &Keeper) -> String {
    let Requirements { system, features } = subject.requirements();
    let needs = [system].into_iter().chain(features).map(String::as_str).collect::<Vec<_>>().join(", ");
    let what = subject.derivation.as_ref().map_or_else(|| "a build".into(), ToString::to_string);
    let mut text =
        format!("{}\n{}\n\n", line(format!("{what} needs {needs}")), line(format!("answer: {reply}: {why}")));
    let none = || "-".to_string();
    let mut rows = vec![
        ["order", "machine", "slots", "load", "free space", "memory", "lacks", "to send", "estimate"]
            .map(str::to_string),
    ];
    rows.extend(explanation.standings.iter().enumerate().map(|(index, it)| {
        let is_tried = index < explanation.tried;
        let taken = it.taken.map_or_else(|| "?".into(), |taken| taken.to_string());
        [
            if is_tried { (index + 1).to_string() } else { none() },
            line(it.machine.label()),
            format!("{taken}/{}", it.machine.parallel_builds),
            it.load.map_or_else(none, |load| format!("{load:.2}")),
            it.free_space.map_or_else(none, size),
            it.memory.map_or_else(none, size),
            it.missing.map_or_else(none, size),
            it.missing.map_or_else(none, |_| format!("{:.1} s", it.sending)),
            if is_tried { format!("{:.1} s", it.cost) } else { none() },
        ]
    }));
    text += &table(&rows);
    let mut first = true;
    for it in &explanation.standings {
        for Note { text: note, hint } in against(it, subject.requirements()) {
            text += if std::mem::take(&mut first) { "\n" } else { "" };
            writeln!(text, "{}", line(format!("{}: {note}", it.machine.label()))).unwrap_or_default();
            if let Some(hint) = hint {
                writeln!(text, "  {}", lines::hint(&hint)).unwrap_or_default();
            }
        }
    }
    if let Some(error) = &explanation.unknown_inputs {
        writeln!(text, "\n{}", line(format!("what it reads is not known: {error}"))).unwrap_or_default();
    } else if subject.derivation.is_some() {
        text += match keeper {
            Keeper::Answered => "",
            Keeper::Absent => "\nno keeper runs, so it is not known what the machines have\n",
            Keeper::Failed(_) => "\nthe keeper has not told what the machines have\n",
        };
    }
    if let Keeper::Failed(error) = keeper {
        text += &lines::text(&lines::of_warning(error));
    }
    text
}

fn json(subject: &Subject, explanation: &Explanation, (reply, why): (&str, &str), by_keeper: bool) -> String {
    let Requirements { system, features } = subject.requirements();
    let number = |value: Option<u64>| or_null(value.map(|value| value.to_string()));
    let real = |value: Option<f64>| or_null(value.filter(|value| value.is_finite()).map(|value| value.to_string()));
    let machine = |(index, it): (usize, &Standing)| {
        let is_tried = index < explanation.tried;
        let left_alone = it.left_alone.as_ref();
        let against = against(it, subject.requirements());
        object(&[
            ("name", string(&it.machine.name)),
            ("port", it.machine.port.to_string()),
            ("order", number(is_tried.then_some(index as u64 + 1))),
            ("slots", it.machine.parallel_builds.to_string()),
            ("slotsTaken", number(it.taken.map(u64::from))),
            ("waiting", it.waiting.to_string()),
            ("load", real(it.load)),
            ("overloadThreshold", real(it.machine.overload_threshold)),
            ("freeSpace", number(it.free_space)),
            ("memory", number(it.memory)),
            ("missing", number(it.missing)),
            ("rate", real(it.rate)),
            ("sendingSeconds", real(it.missing.map(|_| it.sending))),
            ("estimatedSeconds", real(Some(it.cost).filter(|_| is_tried))),
            ("drained", left_alone.is_some_and(|it| it.is_drained).to_string()),
            ("leftAloneSeconds", number(left_alone.and_then(|it| it.time).map(|time| time.as_secs()))),
            ("against", array(against.iter().map(|note| remark(&note.text, note.hint.as_deref())))),
        ])
    };
    document(&[
        ("derivation", or_null(subject.derivation.as_ref().map(|derivation| string(derivation.as_str())))),
        ("system", string(system)),
        ("features", array(features.iter().map(|feature| string(feature)))),
        ("reply", string(reply)),
        ("why", string(why)),
        ("keeper", by_keeper.to_string()),
        ("machines", array(explanation.standings.iter().enumerate().map(machine))),
    ])
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
