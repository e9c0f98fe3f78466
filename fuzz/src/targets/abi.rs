// SPDX-License-Identifier: GPL-3.0-or-later
//! Sequences of calls of the C ABI, in any order, with any mixture of handles that live and NULL, of right and wrong
//! values.
#![allow(clippy::undocumented_unsafe_blocks)] // All handles are NULL or alive: see `Handles`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::{null, null_mut};

use guix_offload::ffi::cancellation::*;
use guix_offload::ffi::connection::*;
use guix_offload::ffi::engine::*;
use guix_offload::ffi::error::{guix_offload_error_code, guix_offload_status_name};
use guix_offload::ffi::farm::*;
use guix_offload::ffi::hook::*;
use guix_offload::ffi::job::*;
use guix_offload::ffi::journal::*;
use guix_offload::ffi::keeper::*;
use guix_offload::ffi::machine::*;
use guix_offload::ffi::machines::*;
use guix_offload::ffi::refusals::*;
use guix_offload::ffi::request::*;
use guix_offload::ffi::setup::*;
use guix_offload::ffi::upkeep::*;
use guix_offload::ffi::version::*;

use super::abi_world::{DERIVATION, Files, Handles, read, succeeds};
use super::bytes::Bytes;

/// So many calls a run.
const MAX_CALLS: usize = 40;

/// No call that works may take longer, in milliseconds; a job that was cancelled is over by then.
const PATIENCE: i64 = 20_000;

struct World<'a> {
    input: Bytes<'a>,
    jobs: Handles<guix_offload_job>,
    reports: Handles<guix_offload_report>,
    hooks: Handles<guix_offload_hook>,
    requests: Handles<guix_offload_request>,
    lists: Handles<guix_offload_machines>,
    machines: Handles<guix_offload_machine>,
    cancellations: Handles<guix_offload_cancellation>,
    engines: Handles<guix_offload_engine>,
    files: Files,
}

pub fn run(data: &[u8]) {
    let mut world = World {
        input: Bytes(data),
        jobs: Handles::new(end_job),
        reports: Handles::new(guix_offload_report_free),
        hooks: Handles::new(guix_offload_hook_free),
        requests: Handles::new(guix_offload_request_free),
        lists: Handles::new(guix_offload_machines_free),
        machines: Handles::new(guix_offload_machine_free),
        cancellations: Handles::new(guix_offload_cancellation_free),
        engines: Handles::new(guix_offload_engine_free),
        files: Files::new(),
    };
    for _ in 0..MAX_CALLS {
        if world.input.is_empty() {
            break;
        }
        world.call();
    }
}

/// Hears that a machine has answered.
unsafe extern "C" fn hear(_: *mut c_void, machine: *const c_char, state: *const c_char) -> c_int {
    assert!(read(machine).is_some() && read(state).is_some());
    0
}

/// Frees a job, once it is over, so that none of its threads outlives the run.
unsafe extern "C" fn end_job(job: *mut guix_offload_job) {
    unsafe {
        guix_offload_job_cancel(job);
        assert!(job.is_null() || guix_offload_job_wait(job, PATIENCE) == 1, "a job does not end");
        succeeds(|error| guix_offload_job_result(job, error));
        guix_offload_job_free(job);
    }
}

impl World<'_> {
    /// One call, and what it promises.
    fn call(&mut self) {
        match self.input.byte() % 23 {
            0 => self.new_engine(),
            1 => self.set_directory(),
            2 | 3 => self.new_machine(),
            4 => self.change_machine(),
            5 => read_machine(self.machines.pick(&mut self.input)),
            6 => self.new_list(),
            7 => self.load_list(),
            8 => self.add_to_list(),
            9 => self.read_list(),
            10 => self.new_request(),
            11 => self.change_request(),
            12 => self.choose(),
            13 => self.connect(),
            14 => self.start_job(),
            15 => self.watch_job(),
            16 => self.hook(),
            17 => self.farm(),
            18 => self.without_a_connection(),
            19 => self.cancellation(),
            20 => {
                self.keeper();
                self.upkeep();
            }
            21 => self.journal(),
            _ => self.free(),
        }
    }

    fn new_engine(&mut self) {
        let mut engine: *mut guix_offload_engine = null_mut();
        let out = if self.input.byte() == 0 { null_mut() } else { &mut engine as *mut _ };
        let given = succeeds(|error| unsafe { guix_offload_engine_new(out, error) });
        assert_eq!(given, !engine.is_null());
        // Never the store of this host.
        for (which, name) in [(1, "state"), (2, "state"), (3, ""), (4, "state/socket")] {
            let name = self.files.scratch.path().join(name);
            let name = self.files.text(name.as_os_str().as_encoded_bytes());
            let set = succeeds(|error| unsafe { guix_offload_engine_set_directory(engine, which, name, error) });
            assert_eq!(set, !engine.is_null());
        }
        self.engines.keep(engine);
    }

    fn set_directory(&mut self) {
        let (engine, seconds) = (self.engines.pick(&mut self.input), self.input.pick(&[0, 1, u32::MAX]));
        let set = succeeds(|error| unsafe { guix_offload_engine_set_idle_limit(engine, seconds, error) });
        assert_eq!(set, !engine.is_null());
        let engine = self.engines.pick(&mut self.input);
        let which = self.input.pick(&[0, 1, 2, 3, 4, 5, -1, i32::MIN]);
        let name = self.files.name(&mut self.input);
        succeeds(|error| unsafe { guix_offload_engine_set_directory(engine, which, name, error) });
    }

    fn new_machine(&mut self) {
        let mut machine = null_mut();
        let (files, input) = (&mut self.files, &mut self.input);
        let (name, system) = (files.address(input), files.system(input));
        let (user, host_key) = (files.any_of(&["user"], input), files.host_key(input));
        let given =
            succeeds(|error| unsafe { guix_offload_machine_new(&mut machine, name, system, user, host_key, error) });
        assert_eq!(given, !machine.is_null());
        if !machine.is_null() {
            let key = files.scratch.path().join("key");
            let key = files.text(key.as_os_str().as_encoded_bytes());
            unsafe {
                assert_eq!(guix_offload_machine_set_port(machine, 1, null_mut()) as i32, 0);
                assert_eq!(guix_offload_machine_set_private_key(machine, key, null_mut()) as i32, 0);
            }
        }
        self.machines.keep(machine);
    }

    fn change_machine(&mut self) {
        let machine = self.machines.pick(&mut self.input);
        let (files, input) = (&mut self.files, &mut self.input);
        let what = input.byte() % 9;
        let number = input.pick(&[0, 1, 2, 9, 10, 65_535, 65_536, u32::MAX]);
        let real = input.pick(&[0.0, 1.5, -1.0, f64::NAN, f64::INFINITY, f64::MAX, f64::MIN_POSITIVE]);
        succeeds(|error| unsafe {
            match what {
                0 => guix_offload_machine_add_system(machine, files.system(input), error),
                1 => guix_offload_machine_add_feature(machine, files.any_of(&["kvm"], input), error),
                2 => guix_offload_machine_set_port(machine, number, error),
                3 => guix_offload_machine_set_private_key(machine, files.name(input), error),
                4 => guix_offload_machine_set_compression(machine, files.any_of(&["zlib"], input), number, error),
                5 => guix_offload_machine_set_daemon_socket(machine, files.any_of(&["/s"], input), error),
                6 => guix_offload_machine_set_parallel_builds(machine, number, error),
                7 => guix_offload_machine_set_speed(machine, real, error),
                _ => guix_offload_machine_set_overload_threshold(machine, real, error),
            }
        });
    }

    fn new_list(&mut self) {
        let mut list: *mut guix_offload_machines = null_mut();
        let out = if self.input.byte() == 0 { null_mut() } else { &mut list as *mut _ };
        let given = succeeds(|error| unsafe { guix_offload_machines_new(out, error) });
        assert_eq!(given, !list.is_null());
        self.lists.keep(list);
    }

    fn load_list(&mut self) {
        let mut list: *mut guix_offload_machines = null_mut();
        let name = self.files.name(&mut self.input);
        // What is no machine file must not be given to Guile, which would take its time.
        let plain = read_any(name).is_none_or(|name| !name.ends_with("key"));
        let name = if plain { name } else { null() };
        let cancel = self.cancellations.pick(&mut self.input);
        let given = succeeds(|error| unsafe { guix_offload_machines_load_cancellable(&mut list, name, cancel, error) });
        assert_eq!(given, !list.is_null());
        self.lists.keep(list);
    }

    fn add_to_list(&mut self) {
        let (list, machine) = (self.lists.pick(&mut self.input), self.machines.pick(&mut self.input));
        let before = unsafe { guix_offload_machines_count(list) };
        // Connecting to each takes its time.
        if before < 3 {
            let added = succeeds(|error| unsafe { guix_offload_machines_add(list, machine, error) });
            assert_eq!(unsafe { guix_offload_machines_count(list) }, before + usize::from(added));
        }
    }

    fn read_list(&mut self) {
        let list = self.lists.pick(&mut self.input);
        let count = unsafe { guix_offload_machines_count(list) };
        for index in [0, 1, count, usize::MAX] {
            let machine = unsafe { guix_offload_machines_get(list, index) };
            assert_eq!(!machine.is_null(), index < count);
            read_machine(machine);
            let other = self.machines.last();
            let same =
                unsafe { [guix_offload_machine_is_same(machine, other), guix_offload_machine_is_same(other, machine)] };
            assert!(same[0] == same[1] && (same[0] == 0 || !machine.is_null()));
            assert_eq!(unsafe { guix_offload_machine_is_same(machine, machine) } == 1, !machine.is_null());
        }
        let loaded = read(unsafe { guix_offload_machines_file(list) }).is_some();
        assert!(loaded || unsafe { guix_offload_machines_are_current(list) } == 0);
        assert!(loaded || unsafe { guix_offload_machines_left_out(list) } == 0);
        for index in [0, usize::MAX] {
            let problem = unsafe { guix_offload_machines_problem(list, index) };
            assert!(problem.is_null() || unsafe { guix_offload_error_code(problem) } < 0);
        }
    }

    fn new_request(&mut self) {
        let mut request = null_mut();
        let (files, input) = (&mut self.files, &mut self.input);
        let (system, item) = (files.system(input), files.item(input));
        let given = succeeds(|error| unsafe { guix_offload_request_new(&mut request, system, item, error) });
        assert_eq!(given, !request.is_null());
        self.requests.keep(request);
    }

    fn change_request(&mut self) {
        let (engine, cancel) = (self.engines.pick(&mut self.input), self.cancellations.pick(&mut self.input));
        let request = self.requests.pick(&mut self.input);
        let (files, input) = (&mut self.files, &mut self.input);
        succeeds(|error| unsafe {
            match input.byte() % 13 {
                0 => guix_offload_request_add_feature(request, files.any_of(&["kvm"], input), error),
                1 => guix_offload_request_add_input(request, files.item(input), error),
                2 => guix_offload_request_add_output(request, files.item(input), error),
                3 => guix_offload_request_set_limits(request, input.pick(&[0, 1, u64::MAX]), u64::MAX, error),
                4 => guix_offload_request_set_cores(request, input.pick(&[0, 1, u32::MAX]), error),
                5 => guix_offload_request_set_rounds(request, input.pick(&[0, 1, u32::MAX]), error),
                6 => guix_offload_request_set_keep_failed(request, input.pick(&[0, 1, 2, -1]), error),
                7 => guix_offload_request_set_verbosity(request, input.pick(&[0, 7, 8, u32::MAX]), error),
                8 => guix_offload_request_set_patient(request, input.pick(&[0, 1, 2, -1]), error),
                9 => guix_offload_request_set_substitutes(request, input.pick(&[0, 1, 2, -1]), error),
                10 => guix_offload_request_add_closure(request, engine, cancel, error),
                11 => guix_offload_request_lock_outputs(request, engine, cancel, null_mut(), error),
                _ => guix_offload_request_set_build_trace(request, input.pick(&[0, 1, 2, -1]), error),
            }
        });
    }

    fn choose(&mut self) {
        let (mut lease, mut reply) = (null_mut(), -1);
        let cancel = self.cancellations.pick(&mut self.input);
        let (engine, list, request) = self.for_a_build();
        let (mut refusals, explained) = (null_mut(), self.input.flag());
        let done = succeeds(|error| unsafe {
            if explained {
                guix_offload_choose_explained(
                    &mut lease,
                    &mut reply,
                    &mut refusals,
                    engine,
                    list,
                    request,
                    cancel,
                    error,
                )
            } else {
                guix_offload_choose(&mut lease, &mut reply, engine, list, request, cancel, error)
            }
        });
        assert_eq!(refusals.is_null(), !(done && explained));
        unsafe {
            let count = guix_offload_refusals_count(refusals);
            assert!(count <= guix_offload_machines_count(list));
            for index in [0, count, usize::MAX] {
                let refusal = guix_offload_refusals_get(refusals, index);
                assert_eq!(guix_offload_error_code(refusal) < 0, index < count);
            }
            guix_offload_refusals_free(refusals);
        }
        assert!(lease.is_null(), "nobody is there");
        assert_eq!(done, [0, 1].contains(&reply));
        unsafe { guix_offload_lease_free(lease) };
    }

    fn connect(&mut self) {
        let mut connection = null_mut();
        let cancel = self.cancellations.pick(&mut self.input);
        let (engine, machine) = (self.engines.pick(&mut self.input), self.machines.pick(&mut self.input));
        let done = succeeds(|error| unsafe { guix_offload_connect(&mut connection, engine, machine, cancel, error) });
        assert!(!done && connection.is_null());
    }

    fn start_job(&mut self) {
        let (mut job, mut reply) = (null_mut(), -1);
        let (engine, list, request) = self.for_a_build();
        let done =
            succeeds(|error| unsafe { guix_offload_job_start(&mut job, &mut reply, engine, list, request, error) });
        assert_eq!(done, reply != -1);
        assert_eq!(!job.is_null(), reply == 2);
        self.jobs.keep(job);
    }

    fn for_a_build(&mut self) -> (*mut guix_offload_engine, *mut guix_offload_machines, *mut guix_offload_request) {
        let input = &mut self.input;
        (self.engines.pick(input), self.lists.pick(input), self.requests.pick(input))
    }

    fn watch_job(&mut self) {
        let job = self.jobs.pick(&mut self.input);
        unsafe {
            assert_eq!(guix_offload_job_descriptor(job) < 0, job.is_null());
            if self.input.flag() {
                guix_offload_job_cancel(job);
            }
            guix_offload_job_wait(job, self.input.pick(&[0, 1, 3]));
            assert!(read(guix_offload_job_machine(job)).is_none(), "nobody is there");
            read_event(guix_offload_job_next_event(job));
        }
    }

    fn hook(&mut self) {
        let mut hook = null_mut();
        let engine = self.engines.pick(&mut self.input);
        let given = succeeds(|error| unsafe { guix_offload_hook_new(&mut hook, engine, error) });
        assert_eq!(given, !hook.is_null());
        self.hooks.keep(hook);
        let (hook, name) = (self.hooks.pick(&mut self.input), self.files.name(&mut self.input));
        let name = if read_any(name).is_some_and(|name| name.ends_with("key")) { null() } else { name };
        let (list, trace) = (self.lists.pick(&mut self.input), self.input.pick(&[0, 1, 2]));
        unsafe {
            if self.input.flag() {
                succeeds(|error| guix_offload_hook_set_machine_file(hook, name, error));
            }
            if self.input.flag() {
                succeeds(|error| guix_offload_hook_set_machines(hook, list, error));
            }
            succeeds(|error| guix_offload_hook_set_limits(hook, 1, 1, error));
            succeeds(|error| guix_offload_hook_set_build_trace(hook, trace, error));
        }
        let (input, output) = (self.requests_of_a_daemon(), self.files.file(b""));
        let descriptor = |file: &File, right: bool| if right { file.as_raw_fd() } else { -1 };
        let (from, to) = (descriptor(&input, self.input.byte() != 0), descriptor(&output, self.input.byte() != 0));
        let mut status: c_int = -1;
        let cancel = self.cancellations.pick(&mut self.input);
        let served = succeeds(|error| unsafe {
            guix_offload_hook_serve_cancellable(hook, from, to, to, &mut status, cancel, error)
        });
        assert_eq!(served, status != -1);
    }

    /// Lines that guix-daemon might say, or anything.
    fn requests_of_a_daemon(&mut self) -> File {
        let length = usize::from(self.input.byte() % 64);
        let text = if self.input.flag() {
            format!("1 x86_64-linux {DERIVATION} \n").into_bytes()
        } else {
            self.input.take(length).to_vec()
        };
        self.files.file(&text)
    }

    fn farm(&mut self) {
        let mut report = null_mut();
        let (tests, tells) = (self.input.flag(), self.input.flag());
        let examine = if tests { guix_offload_farm_test } else { guix_offload_farm_status };
        let each = if tests { guix_offload_farm_test_each } else { guix_offload_farm_status_each };
        let (engine, list) = (self.engines.pick(&mut self.input), self.lists.pick(&mut self.input));
        let cancel = self.cancellations.pick(&mut self.input);
        let given = succeeds(|error| unsafe {
            match tells {
                true => each(&mut report, engine, list, Some(hear), null_mut(), cancel, error),
                false => examine(&mut report, engine, list, error),
            }
        });
        assert_eq!(given, !report.is_null());
        self.reports.keep(report);
        read_report(self.reports.pick(&mut self.input));
    }

    /// Its name is none of a machine, as a rule.
    fn upkeep(&mut self) {
        let (engine, list) = (self.engines.pick(&mut self.input), self.lists.pick(&mut self.input));
        let name = if self.input.flag() { Some(c"127.0.0.1") } else { None };
        let name = name.map_or(std::ptr::null(), |name| name.as_ptr());
        let (what, features) = if self.input.flag() { (c"x86_64-linux", c"kvm") } else { (c"/x.drv", c"") };
        let (what, features) = (what.as_ptr(), features.as_ptr());
        let mut reports = [null_mut(); 4];
        let given = unsafe {
            [
                succeeds(|error| guix_offload_farm_drain(&mut reports[0], engine, list, name, error)),
                succeeds(|error| guix_offload_farm_explain(&mut reports[1], engine, list, what, features, error)),
                succeeds(|error| guix_offload_farm_drained(&mut reports[2], engine, list, error)),
                succeeds(|error| guix_offload_farm_resume(&mut reports[3], engine, list, name, error)),
            ]
        };
        // Its failures may be more than its machines.
        let mut checked = null_mut();
        assert_eq!(
            succeeds(|error| unsafe { guix_offload_farm_check(&mut checked, engine, list, error) }),
            !checked.is_null()
        );
        unsafe { guix_offload_report_free(checked) };
        for (report, given) in reports.into_iter().zip(given) {
            assert_eq!(given, !report.is_null());
            read_report(report);
            self.reports.keep(report);
        }
    }

    /// None runs: its directory is that of this run.
    fn keeper(&mut self) {
        let (mut report, mut stopped) = (null_mut(), -1);
        let engine = self.engines.pick(&mut self.input);
        let given = succeeds(|error| unsafe { guix_offload_keeper_status(&mut report, engine, error) });
        assert_eq!(given, !report.is_null());
        self.reports.keep(report);
        if succeeds(|error| unsafe { guix_offload_keeper_stop(engine, &mut stopped, error) }) {
            assert_eq!(stopped, 0);
        }
    }

    /// No build is ever done.
    fn journal(&mut self) {
        let mut report = null_mut();
        let (which, count) = (self.input.byte() % 3, usize::from(self.input.byte()));
        let engine = self.engines.pick(&mut self.input);
        let given = succeeds(|error| unsafe {
            match which {
                0 => guix_offload_journal_log(&mut report, engine, count, error),
                1 => guix_offload_journal_stats(&mut report, engine, error),
                _ => guix_offload_journal_metrics(&mut report, engine, error),
            }
        });
        assert_eq!(given, !report.is_null());
        self.reports.keep(report);
        let machine = self.machines.pick(&mut self.input);
        let cancel = self.cancellations.pick(&mut self.input);
        // This host has no key.
        assert!(!succeeds(|error| unsafe {
            guix_offload_authorize_cancellable(&mut null_mut(), engine, machine, report, cancel, error)
        }));
        // No host is asked: the fuzzer would choose which.
        assert!(!succeeds(|error| unsafe {
            guix_offload_scan_cancellable(&mut null_mut(), engine, null(), null(), null(), null(), cancel, error)
        }));
    }

    /// There is none to be had: the calls that take one say so.
    fn without_a_connection(&mut self) {
        let request = self.requests.pick(&mut self.input);
        let none = null_mut::<guix_offload_connection>();
        let mut sent = null_mut();
        unsafe {
            assert!(!succeeds(|error| guix_offload_send(none, request, None, null_mut(), &mut sent, error)));
            assert!(!succeeds(|error| guix_offload_build(none, request, -1, None, null_mut(), error)));
            assert!(!succeeds(|error| guix_offload_retrieve(none, request, None, null_mut(), error)));
            assert!(sent.is_null() && guix_offload_items_get(sent, 0).is_null() && guix_offload_items_count(sent) == 0);
            assert!(guix_offload_lease_connection(null_mut()).is_null());
            assert!(guix_offload_connection_machine(none).is_null());
            guix_offload_items_free(sent);
            guix_offload_connection_free(none);
            assert_eq!(guix_offload_abi_version(), GUIX_OFFLOAD_ABI_VERSION);
            assert!(read(guix_offload_version()).is_some());
            let list = self.lists.last();
            assert!(guix_offload_request_matches(request, list) <= guix_offload_machines_count(list));
            assert_eq!(read(guix_offload_request_system(request)).is_none(), request.is_null());
            assert_eq!(read(guix_offload_request_derivation(request)).is_none(), request.is_null());
            let [inputs, outputs] = [guix_offload_request_input_count, guix_offload_request_output_count];
            assert!(read(guix_offload_request_input(request, inputs(request))).is_none());
            assert!(read(guix_offload_request_output(request, outputs(request))).is_none());
            read(guix_offload_request_input(request, 0));
            let (engine, which) = (self.engines.last(), i32::from(self.input.byte()) - 2);
            let is_one = (0..5).contains(&which) && !engine.is_null();
            assert_eq!(read(guix_offload_engine_directory(engine, which)).is_some(), is_one);
            guix_offload_engine_idle_limit(engine);
            for name in [guix_offload_status_name, guix_offload_reply_name, guix_offload_event_type_name] {
                assert!(read(name(which)).is_some());
            }
        }
    }

    fn cancellation(&mut self) {
        let mut cancellation: *mut guix_offload_cancellation = null_mut();
        let out = if self.input.byte() == 0 { null_mut() } else { &mut cancellation as *mut _ };
        let given = succeeds(|error| unsafe { guix_offload_cancellation_new(out, error) });
        assert_eq!(given, !cancellation.is_null());
        self.cancellations.keep(cancellation);
        if self.input.flag() {
            unsafe { guix_offload_cancellation_cancel(self.cancellations.pick(&mut self.input)) };
        }
    }

    fn free(&mut self) {
        let index = usize::from(self.input.byte() % 5);
        match self.input.byte() % 8 {
            0 => self.jobs.free_one(index),
            1 => self.reports.free_one(index),
            2 => self.hooks.free_one(index),
            3 => self.requests.free_one(index),
            4 => self.lists.free_one(index),
            5 => self.machines.free_one(index),
            6 => self.cancellations.free_one(index),
            _ => self.engines.free_one(index),
        }
    }
}

/// A text of ours, if it is one.
fn read_any<'a>(text: *const std::ffi::c_char) -> Option<&'a str> {
    if text.is_null() { None } else { unsafe { CStr::from_ptr(text) }.to_str().ok() }
}

fn read_machine(machine: *const guix_offload_machine) {
    unsafe {
        let texts = [
            guix_offload_machine_name(machine),
            guix_offload_machine_user(machine),
            guix_offload_machine_private_key(machine),
            guix_offload_machine_host_key(machine),
            guix_offload_machine_compression(machine),
            guix_offload_machine_daemon_socket(machine),
        ];
        assert!(texts.iter().all(|text| read(*text).is_some() != machine.is_null()));
        assert!(guix_offload_machine_port(machine) <= 65_535 && guix_offload_machine_compression_level(machine) <= 9);
        guix_offload_machine_parallel_builds(machine);
        assert!(guix_offload_machine_speed(machine) >= 0.0);
        assert!(guix_offload_machine_overload_threshold(machine).is_finite());
        assert!(read(guix_offload_machine_system(machine, usize::MAX)).is_none());
        read(guix_offload_machine_system(machine, 0));
        read(guix_offload_machine_feature(machine, 0));
    }
}

fn read_event(event: *mut guix_offload_event) {
    unsafe {
        assert!((-1..=10).contains(&guix_offload_event_kind(event)));
        read(guix_offload_event_machine(event));
        read(guix_offload_event_hint(event));
        assert_eq!(read(guix_offload_event_lines(event)).is_none(), event.is_null());
        guix_offload_event_items(event);
        guix_offload_event_bytes(event);
        let mut length = usize::MAX;
        let text = guix_offload_event_text(event, &mut length);
        assert_eq!(text.is_null(), event.is_null());
        if !text.is_null() {
            assert_eq!(*text.add(length), 0);
        }
        guix_offload_event_free(event);
    }
}

fn read_report(report: *const guix_offload_report) {
    unsafe {
        let count = guix_offload_report_count(report);
        guix_offload_report_failures(report); // of a check or an explanation, not of machines alone
        assert_eq!(read(guix_offload_report_text(report)).is_none(), report.is_null());
        assert_eq!(read(guix_offload_report_json(report)).is_none(), report.is_null());
        for index in [0, count, usize::MAX] {
            assert_eq!(guix_offload_report_machine(report, index).is_null(), index >= count);
            assert_eq!(guix_offload_report_error(report, index).is_null(), index >= count);
            let texts = [
                guix_offload_report_passed(report, index, 0),
                guix_offload_report_note(report, index, 0),
                guix_offload_report_note_hint(report, index, 0),
                guix_offload_report_state(report, index),
                guix_offload_report_guix_version(report, index),
                guix_offload_report_kernel(report, index),
                guix_offload_report_architecture(report, index),
                guix_offload_report_host_name(report, index),
            ];
            assert!(texts.iter().all(|text| index < count || read(*text).is_none()));
            assert_eq!(guix_offload_report_reachable(report, index), 0);
            guix_offload_report_slots_taken(report, index);
            guix_offload_report_load(report, index);
            guix_offload_report_cores(report, index);
            guix_offload_report_free_space(report, index);
            guix_offload_report_clock_difference(report, index);
        }
    }
}
