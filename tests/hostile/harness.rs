// SPDX-License-Identifier: GPL-3.0-or-later
//! Has the double behind sshd tell a lie to a whole build, and looks at what comes of it.

use std::time::{Duration, Instant};

use guix_offload::build::engine::Engine;
use guix_offload::daemon::BuildOptions;
use guix_offload::ground::error::{Error, Result};
use guix_offload::ground::store_path::StorePath;
use guix_offload::machine::{BuildMachine, HostKey};
use guix_offload::report::{Event, Observer};

use crate::builder::Builder;
use crate::double::{Machine, Plan};
use crate::fixture::Scene;
use crate::sshd::Sshd;

/// How the machine is called in errors.
pub const NAME: &str = "127.0.0.1";

/// More memory than this no lie may cost, in bytes: an SSH window is 8 MiB, and the double is in this process, too.
const MEMORY: u64 = 32 << 20;

/// What came of it.
pub struct Told {
    pub result: Result<()>,
    /// Why the machine was passed over, if it was.
    pub passed_over: Option<Error>,
    /// How often it was told that bytes have moved, and how many.
    pub transferred: usize,
    pub bytes: u64,
    pub time: Duration,
}

impl Told {
    /// The error: of the build, or of connecting.
    pub fn error(self) -> Option<Error> {
        self.result.err().or(self.passed_over)
    }
}

#[derive(Default)]
struct Listener {
    passed_over: Option<Error>,
    transferred: usize,
    bytes: u64,
}

impl Observer for Listener {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::PassedOver { reason, .. } => self.passed_over = Some((*reason).clone()),
            Event::Transferred { bytes } => (self.transferred, self.bytes) = (self.transferred + 1, *bytes),
            _ => {}
        }
    }

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Takes note of nothing.
pub struct Deaf;

impl Observer for Deaf {
    fn event(&mut self, _: &Event<'_>) {}

    fn log(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// The machine that `sshd` leads to, with the double's socket in `scene`.
pub fn machine(sshd: &Sshd, scene: &Scene) -> BuildMachine {
    BuildMachine {
        port: sshd.port(),
        systems: vec!["x86_64-linux".into()],
        daemon_socket: scene.at("machine").to_str().unwrap().into(),
        overload_threshold: None,
        ..BuildMachine::new(NAME, "root", sshd.user_key(), HostKey::parse(&sshd.host_key()).unwrap())
    }
}

/// Has a build done by a machine that acts by `plan`, within so many seconds.
pub fn tell(scene: &Scene, machine: &BuildMachine, plan: Plan, timeout: u64) -> Told {
    tell_with(scene, machine, plan, limited_to(timeout))
}

/// Options of a build that may take so many seconds; 0: as long as it likes.
pub fn limited_to(timeout: u64) -> BuildOptions {
    limits(0, timeout)
}

/// Limits of time in seconds; 0: none.
pub fn limits(max_silent_time: u64, timeout: u64) -> BuildOptions {
    BuildOptions { max_silent_time, timeout, print_build_trace: false, ..BuildOptions::default() }
}

/// Has a build done by a machine that acts by `plan`, with `options`.
pub fn tell_with(scene: &Scene, machine: &BuildMachine, plan: Plan, options: BuildOptions) -> Told {
    let _double = acting(scene, plan);
    tell_by(&builder(scene), scene, machine, options)
}

/// As [`tell_with`], by `builder`; the machine acts by itself.
pub fn tell_by(builder: &Builder, scene: &Scene, machine: &BuildMachine, options: BuildOptions) -> Told {
    let (mut listener, begun) = (Listener::default(), Instant::now());
    let before = reset_peak();
    let machines = std::slice::from_ref(machine);
    let result = builder.build_on(scene, machines, Vec::new(), options, &mut listener);
    let time = begun.elapsed();
    let used = peak().saturating_sub(before);
    assert!(used < MEMORY, "{} MiB of memory were used", used >> 20);
    let Listener { passed_over, transferred, bytes } = listener;
    Told { result, passed_over, transferred, bytes, time }
}

/// Has a build done by a machine that acts by `plan`, whatever that takes.
pub fn build(
    scene: &Scene,
    machine: &BuildMachine,
    plan: Plan,
    options: BuildOptions,
    observer: &mut dyn Observer,
) -> Result<()> {
    build_of(scene, machine, plan, Vec::new(), options, observer)
}

/// As [`build`], of `inputs`.
pub fn build_of(
    scene: &Scene,
    machine: &BuildMachine,
    plan: Plan,
    inputs: Vec<StorePath>,
    options: BuildOptions,
    observer: &mut dyn Observer,
) -> Result<()> {
    let _double = acting(scene, plan);
    builder(scene).build_on(scene, std::slice::from_ref(machine), inputs, options, observer)
}

fn builder(scene: &Scene) -> Builder {
    Builder::new(Engine::new(scene.directories.clone(), Duration::ZERO).unwrap())
}

/// The double, and nothing that is remembered of the machine, or it would be left alone.
fn acting(scene: &Scene, plan: Plan) -> Machine {
    let _ = std::fs::remove_dir_all(scene.at("offload"));
    Machine::at(&scene.at("machine"), plan)
}

/// Makes the memory that is used now the most that was ever used, and returns it, in bytes.
pub fn reset_peak() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").expect("resetting the peak of memory");
    peak()
}

/// The most memory used since, in bytes.
pub fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak of memory");
    line.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}
