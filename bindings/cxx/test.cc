// SPDX-License-Identifier: GPL-3.0-or-later
// Tests of guix-offload.hh, compiled as every C++ from 11 on by `make check`. No machine is needed.

#include <guix-offload.hh>

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <poll.h>
#include <type_traits>
#include <unistd.h>

using namespace guix_offload;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            std::cerr << __FILE__ << ":" << __LINE__ << ": not so: " << #condition << "\n"; \
            std::exit(1); \
        } \
    } while (0)

// Any key will do: nothing that has it is ever reached.
static const char hostKey[] = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
static const char drv[] = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv";

template<typename T>
constexpr bool onlyMoves()
{
    return !std::is_copy_constructible<T>::value && !std::is_copy_assignable<T>::value
        && std::is_nothrow_move_constructible<T>::value && std::is_nothrow_move_assignable<T>::value;
}
static_assert(onlyMoves<machine>() && onlyMoves<machines>() && onlyMoves<engine>() && onlyMoves<request>()
                  && onlyMoves<items>() && onlyMoves<connection>() && onlyMoves<lease>() && onlyMoves<event>()
                  && onlyMoves<job>() && onlyMoves<hook>() && onlyMoves<report>(),
              "handles have one owner");
// An exception must be copyable, and copying it must not throw.
static_assert(std::is_copy_constructible<error>::value, "errors can be thrown");

// The error with which `call` fails.
template<typename Call>
static error failure(Call call)
{
    try {
        call();
    } catch (const error& e) {
        return e;
    }
    std::cerr << "it did not fail\n";
    std::exit(1);
}

static machine makeMachine() { return machine("127.0.0.1", "x86_64-linux", "nobody", hostKey); }

static void testErrors()
{
    error e = failure([] { machine("a", "x86_64-linux", "root", "nonsense"); });
    CHECK(e.code() == GUIX_OFFLOAD_CONFIGURATION && e.exit_status() == 1);
    CHECK(std::string(e.what()).find("nonsense") != std::string::npos && e.machine().empty());
    CHECK(failure([] { makeMachine().set_port(0); }).code() == GUIX_OFFLOAD_INVALID_ARGUMENT);
    CHECK(failure([] { machines::load("/dev/null/x"); }).code() == GUIX_OFFLOAD_CONFIGURATION);
}

static void testMachineFile()
{
    char file[] = "/tmp/machines-XXXXXX";
    CHECK(close(mkstemp(file)) == 0);
    std::ofstream(file) << "(list (build-machine (name \"m\") (speeed 3)))";
    machines list = machines::load(file);
    CHECK(list.size() == 0 && list.problems().size() == 1 && list.left_out() == 1 && list.are_current());
    CHECK(list.problems()[0].machine() == "m" && !list.problems()[0].hint().empty());
    CHECK(unlink(file) == 0);
}

static void testMachines()
{
    machine m = makeMachine();
    m.set_port(9).set_speed(2.5).set_parallel_builds(3).set_compression("none", 0).set_overload_threshold(-1)
        .set_private_key("/key").set_daemon_socket("/socket").add_system("i686-linux").add_feature("kvm");
    machines list;
    list.add(m);
    machines moved = std::move(list);
    CHECK(moved.size() == 1 && moved.problems().empty());
    machine_view view = moved[0];
    CHECK(view.name() == "127.0.0.1" && view.user() == "nobody" && view.port() == 9 && view.speed() == 2.5);
    CHECK(view.host_key() == hostKey && view.private_key() == "/key" && view.daemon_socket() == "/socket");
    CHECK(view.parallel_builds() == 3 && view.compression() == "none" && view.compression_level() == 0);
    CHECK(view.overload_threshold() < 0 && view.system(1) == std::string("i686-linux") && view.system(2) == nullptr);
    CHECK(view.feature(0) == std::string("kvm") && view.feature(1) == nullptr);

    CHECK(request("i686-linux", drv).add_feature("kvm").matches(moved) == 1);
    CHECK(request("i686-linux", drv).add_feature("big").matches(moved) == 0);
    CHECK(request("riscv64-linux", drv).matches(moved) == 0);
    CHECK(request("i686-linux", drv).set_cores(0).set_rounds(2).set_keep_failed(true).set_verbosity(3)
              .set_patient(false).set_substitutes(false).matches(moved) == 1);
    CHECK(failure([] { request("i686-linux", drv).set_rounds(0); }).code() == GUIX_OFFLOAD_INVALID_ARGUMENT);
    CHECK(failure([] { request("i686-linux", drv).set_verbosity(8); }).code() == GUIX_OFFLOAD_INVALID_ARGUMENT);
    CHECK(machines::load("/nowhere/machines.scm").size() == 0);
    CHECK(machines::load("/nowhere/machines.scm").file() == "/nowhere/machines.scm" && moved.file().empty());
    CHECK(!machines::load().file().empty());
    engine e;
    e.set_directory(GUIX_OFFLOAD_DATABASE_DIRECTORY, "/nowhere");
    e.set_directory(GUIX_OFFLOAD_DAEMON_SOCKET, "/nowhere/socket");
    cancellation c;
    CHECK(failure([&] { request("i686-linux", drv).add_closure(e); }).code() == GUIX_OFFLOAD_STORE);
    CHECK(failure([&] { request("i686-linux", drv).lock_outputs(e, &c); }).code() == GUIX_OFFLOAD_STORE);
    CHECK(view.is_same(view) && !view.is_same(makeMachine().view()));
}

static void testJobs(const std::string& state)
{
    engine e;
    e.set_directory(GUIX_OFFLOAD_STATE_DIRECTORY, state);
    machines list;
    request r("x86_64-linux", drv);
    job j;
    CHECK(!j && j.start(e, list, r) == GUIX_OFFLOAD_DECLINE && !j && j.descriptor() == -1);
    list.add(makeMachine().set_port(1).set_private_key("/nowhere/key"));
    CHECK(failure([&] { job().start(e, list, request("x86_64-linux", "x")); }).code() == GUIX_OFFLOAD_INVALID_ARGUMENT);
    CHECK(j.start(e, list, r) == GUIX_OFFLOAD_ACCEPT && j);

    // Its private key is missing: a matter of configuration, so the job fails at once.
    bool passedOver = false, done = false;
    while (!done) {
        pollfd descriptor = {j.descriptor(), POLLIN, 0};
        CHECK(poll(&descriptor, 1, 20000) == 1);
        while (event happened = j.next_event()) {
            if (happened.kind() == GUIX_OFFLOAD_EVENT_PASSED_OVER) {
                passedOver = true;
                CHECK(happened.machine() == "127.0.0.1" && happened.text().find("/nowhere/key") != std::string::npos);
                CHECK(!happened.hint().empty());
            }
            done = happened.kind() == GUIX_OFFLOAD_EVENT_DONE;
        }
    }
    CHECK(passedOver && j.wait(0));
    CHECK(failure([&] { j.result(); }).machine() == "127.0.0.1");
    CHECK(j.machine().empty());
    job other = std::move(j);
    CHECK(!j && other);
}

static void testVerbs(const std::string& state)
{
    engine e;
    e.set_directory(GUIX_OFFLOAD_STATE_DIRECTORY, state);
    machine m = makeMachine();
    m.set_port(1).set_private_key("/nowhere/key");
    e.set_idle_limit(1);
    e.set_listener(nullptr, nullptr);
    error failed = failure([&] { connection(e, m); });
    CHECK(failed.machine() == "127.0.0.1" && failed.code() == GUIX_OFFLOAD_CONFIGURATION);
    CHECK(!lease() && items().size() == 0 && items()[0] == nullptr);
    CHECK(!event() && event().kind() == -1 && event().text().empty() && event().hint().empty());
    cancellation c;
    c.cancel();
    machines list;
    list.add(m);
    CHECK(failure([&] { connection(e, m, &c); }).code() == GUIX_OFFLOAD_CANCELLED);
    CHECK(failure([&] { lease().choose(e, list, request("x86_64-linux", "x.drv"), &c); }).code()
              == GUIX_OFFLOAD_CANCELLED);
    CHECK(failure([&] { report::test(e, list, &c); }).code() == GUIX_OFFLOAD_CANCELLED);
    CHECK(failure([&] { report::status(e, list, &c); }).code() == GUIX_OFFLOAD_CANCELLED);
    CHECK(failure([&] { machines::load(&c); }).code() == GUIX_OFFLOAD_CANCELLED);
    CHECK(failure([&] { machines::load("/nowhere", &c); }).code() == GUIX_OFFLOAD_CANCELLED);
    std::vector<error> refusals;
    CHECK(lease().choose(e, list, request("i686-linux", drv), refusals) == GUIX_OFFLOAD_DECLINE);
    CHECK(refusals.size() == 1 && refusals[0].machine() == "127.0.0.1");
    CHECK(e.idle_limit() == 1 && e.directory(GUIX_OFFLOAD_STATE_DIRECTORY) == state);
    request r("x86_64-linux", drv);
    r.add_input(drv).add_output(drv);
    CHECK(r.system() == "x86_64-linux" && r.derivation() == drv && r.input_count() == 1 && r.output_count() == 1);
    CHECK(r.input(0) == std::string(drv) && r.output(0) == std::string(drv) && r.input(1) == nullptr);
    CHECK(status_name(GUIX_OFFLOAD_TIMED_OUT) == std::string("timed-out"));
    CHECK(reply_name(GUIX_OFFLOAD_ACCEPT) == std::string("accept"));
    CHECK(event_type_name(-1) == std::string("unknown"));
    hook h(e);
    CHECK(failure([&] { h.serve(0, 1, 2, &c); }).code() == GUIX_OFFLOAD_CANCELLED);
    h.set_limits(1, 2).set_build_trace(true).set_machine_file("/nowhere");
    CHECK(failure([&] { h.serve(-1, 1, 2); }).code() == GUIX_OFFLOAD_INVALID_ARGUMENT);
}

// What C would take for the end of a text does not cut it short.
static void testNulCharacters()
{
    const std::string nul("a\0b", 3);
    engine e;
    hook h(e);
    const std::vector<std::function<void()>> calls = {
        [&] { machine(nul, "x86_64-linux", "u", hostKey); },
        [&] { machine("m", nul, "u", hostKey); },
        [&] { machine("m", "x86_64-linux", nul, hostKey); },
        [&] { machine("m", "x86_64-linux", "u", hostKey + nul); },
        [&] { makeMachine().add_system(nul); },
        [&] { makeMachine().add_feature(nul); },
        [&] { makeMachine().set_private_key(nul); },
        [&] { makeMachine().set_compression(nul, 1); },
        [&] { makeMachine().set_daemon_socket("/" + nul); },
        [&] { machines::load("/nowhere" + nul); },
        [&] { e.set_directory(GUIX_OFFLOAD_STATE_DIRECTORY, "/" + nul); },
        [&] { request(nul, drv); },
        [&] { request("x86_64-linux", drv + nul); },
        [&] { request("x86_64-linux", drv).add_feature(nul); },
        [&] { request("x86_64-linux", drv).add_input(drv + nul); },
        [&] { request("x86_64-linux", drv).add_output(drv + nul); },
        [&] { h.set_machine_file("/nowhere" + nul); },
    };
    for (auto& call : calls) {
        error e = failure(call);
        CHECK(e.code() == GUIX_OFFLOAD_INVALID_ARGUMENT && std::string(e.what()).find("NUL") != std::string::npos);
    }
}

static void testReports(const std::string& state)
{
    engine e;
    e.set_directory(GUIX_OFFLOAD_STATE_DIRECTORY, state);
    machines list;
    list.add(makeMachine().set_port(1).set_private_key("/nowhere/key").set_parallel_builds(2));
    CHECK(report::test(e, machines()).size() == 0);
    CHECK(report::keeper(e).text() == "no keeper is running\n" && !stop_keeper(e));
    CHECK(!report::log(e).text().empty() && report::log(e, 5).json().find("{\"schema\":1,\"builds\":[") == 0);
    CHECK(report::stats(e).size() == 0 && report::metrics(e).text().find("# HELP guix_offload_") == 0);
    for (const report& r : {report::test(e, list), report::status(e, list)}) {
        CHECK(r.size() == 1 && r.failures() == 1 && r.machine(0).parallel_builds() == 2);
        CHECK(r.text().find("/nowhere/key") != std::string::npos && r.json().find("\"schema\"") == 1);
        CHECK(r.failure(0) && r.failure(0)->code() == GUIX_OFFLOAD_CONFIGURATION && !r.failure(1));
        CHECK(r.state(0) == "misconfigured" && !r.reachable(0) && r.load(0) == -1 && r.cores(0) == 0);
        CHECK(r.passed(0, 0) == nullptr && r.note(0, 0) == nullptr && r.note_hint(0, 0) == nullptr);
        CHECK(r.slots_taken(1) == -1 && r.free_space(0) == 0 && r.clock_difference(0) == 0);
        CHECK((r.guix_version(0) + r.kernel(0) + r.architecture(0) + r.host_name(0)).empty());
    }
    CHECK(report::drain(e, list, "127.0.0.1").state(0) == "drained" && report::drained(e, list).size() == 1);
    CHECK(report::resume(e, list, "127.0.0.1").failures() == 0 && report::drained(e, list).size() == 0);
    CHECK(report::check(e, list).failures() == 1);
    CHECK(report::check(e, list).text().find("/nowhere/key") != std::string::npos);
    CHECK(report::explain(e, list, "i686-linux", "kvm").failures() == 1);
    CHECK(std::string(report::explain(e, list, "i686-linux").note(0, 0)).find("i686-linux") != std::string::npos);
    CHECK(failure([&] { report::scan(e, "a b"); }).code() == GUIX_OFFLOAD_INVALID_ARGUMENT);
    CHECK(failure([&] { report::scan(e, "127.0.0.1:1", "u"); }).code() == GUIX_OFFLOAD_UNAVAILABLE);
    e.set_directory(GUIX_OFFLOAD_CONFIGURATION_DIRECTORY, state);
    machine m = makeMachine();
    CHECK(failure([&] { report::authorize(e, m.view()); }).code() == GUIX_OFFLOAD_STORE);
    CHECK(failure([&] { report::authorize(e, m.view(), report::log(e)); }).code() == GUIX_OFFLOAD_INVALID_ARGUMENT);
    std::string told;
    auto tell = [&](const char* name, const char* state) { told += std::string(name) + state + " "; return true; };
    CHECK(report::test(e, list, tell).failures() == 1 && report::status(e, list, tell).failures() == 1);
    std::string one = list[0].name() + "misconfigured ";
    CHECK(told == one + one);
    auto enough = [](const char*, const char*) -> bool { throw std::runtime_error("enough"); };
    try { report::status(e, list, enough); CHECK(false); } catch (const std::runtime_error& x) {
        CHECK(std::string(x.what()) == "enough");
    }
    hook(e).set_machine_file("/nowhere").set_machines(list);
}

// A verb that calls back, as those of the library do, and is cancelled.
static guix_offload_status verb(guix_offload_progress_function progress, void* data, guix_offload_error** failure)
{
    if (progress(data, 1, 2) == 0) return GUIX_OFFLOAD_OK;
    guix_offload_machine* none = nullptr;
    guix_offload_machine_new(&none, nullptr, nullptr, nullptr, nullptr, failure);
    return GUIX_OFFLOAD_CANCELLED;
}

static void testCallbacks()
{
    using callback = detail::callback<progress_function>;
    auto run = [](const progress_function& function) {
        callback c{function, nullptr};
        c.check(verb, callback::call<std::uint64_t, std::uint64_t>, c.data());
    };
    std::uint64_t seen = 0;
    run([&](std::uint64_t bytes, std::uint64_t total) { seen = bytes + total; return true; });
    CHECK(seen == 3);
    failure([&] { run([](std::uint64_t, std::uint64_t) { return false; }); });
    try {
        run([](std::uint64_t, std::uint64_t) -> bool { throw 7; });
        CHECK(false);
    } catch (int thrown) {
        CHECK(thrown == 7);
    }
}

int main(int, char** argv)
{
    CHECK(abi_matches() && !version().empty());
    testErrors();
    testMachines();
    testMachineFile();
    testJobs(argv[1]);
    testVerbs(argv[1]);
    testNulCharacters();
    testReports(argv[1]);
    testCallbacks();
    return 0;
}
