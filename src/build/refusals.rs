// SPDX-License-Identifier: GPL-3.0-or-later
//! Why the machines of a list do not get a build.

use crate::ground::error::{Error, ErrorKind, Result};
use crate::machine::suitability::mismatches;
use crate::machine::{BuildMachine, Requirements};
use crate::report::{Event, Observer};

/// The reason for each machine that does not get a build: an error with its name. Collects what happens during a
/// choice.
#[derive(Debug, Default)]
pub struct Refusals(Vec<Error>);

impl Refusals {
    /// Adds why `machine` does not get the build, in place of an earlier reason.
    fn add(&mut self, machine: &str, reason: &Error) {
        let reason = reason.clone().on_machine(machine);
        match self.0.iter_mut().find(|known| known.machine() == Some(machine)) {
            Some(known) => *known = reason,
            None => self.0.push(reason),
        }
    }

    /// Returns the reasons. Adds those of `machines` that cannot do a build with these requirements. If none
    /// `is_chosen`, all other machines without a reason have no free slot.
    pub fn of(mut self, machines: &[BuildMachine], requirements: &Requirements, is_chosen: bool) -> Vec<Error> {
        for machine in machines {
            let is_told = self.0.iter().any(|known| known.machine() == Some(&machine.name));
            let reason = mismatches(machine, requirements).into_iter().next();
            let reason = reason.or_else(|| (!is_chosen).then(|| "all of its build slots are taken".to_string()));
            if let Some(reason) = reason.filter(|_| !is_told) {
                self.add(&machine.name, &Error::new(ErrorKind::Unavailable, reason));
            }
        }
        self.0
    }
}

impl Observer for Refusals {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::PassedOver { machine, reason } = event {
            self.add(machine, reason);
        }
    }

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::machine;

    #[test]
    fn each_machine_that_is_not_chosen_has_one_reason() {
        let with = |name: &str, change: &dyn Fn(&mut BuildMachine)| {
            let mut machine = machine(name);
            machine.systems = vec!["x86_64-linux".into()];
            machine.features = vec!["kvm".into()];
            machine.parallel_builds = 1;
            change(&mut machine);
            machine
        };
        let machines = [
            with("closed", &|_| {}),
            with("busy", &|_| {}),
            with("other", &|machine| machine.systems = vec!["i686-linux".into()]),
            with("plain", &|machine| machine.features.clear()),
            with("off", &|machine| machine.parallel_builds = 0),
        ];
        let requirements = Requirements { system: "x86_64-linux".into(), features: vec!["kvm".into()] };
        let said = |is_chosen| {
            let mut refusals = Refusals::default();
            for text in ["slow", "refused"] {
                let reason = Error::new(ErrorKind::Unavailable, text).hint("start it");
                refusals.event(&Event::PassedOver { machine: "closed", reason: &reason });
            }
            let reasons = refusals.of(&machines, &requirements, is_chosen);
            reasons.iter().map(|it| format!("{}: {it}", it.machine().unwrap())).collect::<Vec<_>>()
        };
        let common = [
            "other: it does not build for 'x86_64-linux'",
            "plain: it does not offer kvm",
            "off: it gets no builds: 'parallel-builds' is 0",
        ];
        let told = [&["closed: refused", "busy: all of its build slots are taken"], &common[..]];
        assert_eq!(said(false), told.concat());
        assert_eq!(said(true), [&["closed: refused"], &common[..]].concat());
    }
}
