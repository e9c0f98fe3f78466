// SPDX-License-Identifier: GPL-3.0-or-later
//
// guix-offload.hh - guix-offload.h for C++, from C++11 on
//
// One class for each noun of the C header, of the same name without its prefix. Objects own their handle and are moved,
// not copied. A call that fails throws guix_offload::error, and so does a string with a NUL character, which C would
// take for its end. Threads, ownership and what a function does are as the C header says; values of its enums are
// integers here, too, as a newer library may have more of them. There is nothing here to link: this is all inline, and
// keeps no state of its own.
//
//     guix_offload::engine engine;
//     auto machines = guix_offload::machines::load("/etc/guix/machines.scm");
//     guix_offload::request request("x86_64-linux", drv);
//     request.add_closure(engine);
//
//     guix_offload::job job;
//     if (request.lock_outputs(engine) > 0 && job.start(engine, machines, request) == GUIX_OFFLOAD_ACCEPT) {
//         ... select() on job.descriptor(); then:
//         while (auto event = job.next_event())
//             if (event.kind() == GUIX_OFFLOAD_EVENT_LOG) std::cerr << event.text();
//         ... after GUIX_OFFLOAD_EVENT_DONE:
//         job.result();                          // throws what went wrong
//     }

#ifndef GUIX_OFFLOAD_HH
#define GUIX_OFFLOAD_HH

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <guix-offload.h>

namespace guix_offload {

namespace detail {

inline std::string text(const char* text) { return text != nullptr ? text : ""; }

// Frees a handle of type T with the function Free.
template<typename T, void (*Free)(T*)>
struct deleter {
    void operator()(T* handle) const noexcept { Free(handle); }
};

template<typename T, void (*Free)(T*)>
using owner = std::unique_ptr<T, deleter<T, Free>>;

} // namespace detail

// Version of the library, such as "0.1.0".
inline std::string version() { return guix_offload_version(); }

// Was this compiled for the library that it runs with?
inline bool abi_matches() noexcept { return guix_offload_abi_version() == GUIX_OFFLOAD_ABI_VERSION; }

// Errors

// Names of values of the enums of the C header, such as "timed-out"; "unknown": this library has no such value.
inline const char* status_name(std::int32_t status) noexcept { return guix_offload_status_name(status); }
inline const char* reply_name(std::int32_t reply) noexcept { return guix_offload_reply_name(reply); }
inline const char* event_type_name(std::int32_t kind) noexcept { return guix_offload_event_type_name(kind); }

// Why a call failed. what() says what went wrong, and where.
class error : public std::runtime_error {
public:
    // Takes over an error of the C header, and frees it.
    explicit error(guix_offload_error* failure)
        : error(*detail::owner<guix_offload_error, guix_offload_error_free>(failure)) {}
    // Copies an error of the C header that belongs to something else.
    explicit error(const guix_offload_error& failure)
        : std::runtime_error(detail::text(guix_offload_error_message(&failure))),
          code_(guix_offload_error_code(&failure)),
          machine_(detail::text(guix_offload_error_machine(&failure))),
          hint_(detail::text(guix_offload_error_hint(&failure))),
          lines_(detail::text(guix_offload_error_lines(&failure))),
          warning_lines_(detail::text(guix_offload_error_warning_lines(&failure))),
          exit_status_(guix_offload_error_exit_status(&failure)) {}

    // An argument that is wrong.
    explicit error(const std::string& message)
        : std::runtime_error(message), code_(GUIX_OFFLOAD_INVALID_ARGUMENT),
          lines_("guix offload: error: " + message + "\n"), warning_lines_("guix offload: warning: " + message + "\n"),
          exit_status_(1) {}

    // A guix_offload_status.
    std::int32_t code() const noexcept { return code_; }
    // Name of the machine with which it happened; empty: none.
    const std::string& machine() const noexcept { return machine_; }
    // What to do about it; empty: no idea.
    const std::string& hint() const noexcept { return hint_; }
    // The lines with which a build hook reports it, and those with which it warns of it and goes on.
    const std::string& lines() const noexcept { return lines_; }
    const std::string& warning_lines() const noexcept { return warning_lines_; }
    // The status with which a build hook that fails so exits: 1, 100 or 101.
    int exit_status() const noexcept { return exit_status_; }

private:
    std::int32_t code_;
    std::string machine_, hint_, lines_, warning_lines_;
    int exit_status_;
};

namespace detail {

// A text as C takes it, which is all of it.
inline const char* c(const std::string& text)
{
    std::size_t end = text.find('\0');
    if (end != std::string::npos) throw error("a NUL character follows '" + text.substr(0, end) + "'");
    return text.c_str();
}

// Calls a function of the C header, giving it these arguments and where to put an error.
template<typename... Parameters, typename... Arguments>
void check(guix_offload_status (*function)(Parameters...), Arguments&&... arguments)
{
    guix_offload_error* failure = nullptr;
    if (function(std::forward<Arguments>(arguments)..., &failure) != GUIX_OFFLOAD_OK) throw error(failure);
}

// The same, for functions that make a handle.
template<typename Owner, typename... Parameters, typename... Arguments>
Owner make(guix_offload_status (*function)(Parameters...), Arguments&&... arguments)
{
    typename Owner::pointer handle = nullptr;
    check(function, &handle, std::forward<Arguments>(arguments)...);
    return Owner(handle);
}

} // namespace detail

// Cancellation

// Stops calls that it was given to, and what is done with their connections, from any thread.
class cancellation {
public:
    cancellation() : handle_(detail::make<owner>(guix_offload_cancellation_new)) {}
    void cancel() const noexcept { guix_offload_cancellation_cancel(handle_.get()); }
    const guix_offload_cancellation* get() const noexcept { return handle_.get(); }

private:
    using owner = detail::owner<guix_offload_cancellation, guix_offload_cancellation_free>;
    owner handle_;
};

namespace detail {
inline const guix_offload_cancellation* get(const cancellation* it) noexcept { return it ? it->get() : nullptr; }
} // namespace detail

// Machines

// A machine that belongs to somebody else: a list, or a connection.
class machine_view {
public:
    explicit machine_view(const guix_offload_machine* handle) noexcept : handle_(handle) {}

    std::string name() const { return detail::text(guix_offload_machine_name(handle_)); }
    unsigned port() const noexcept { return guix_offload_machine_port(handle_); }
    // Is the other one the same machine, perhaps listed for other systems?
    bool is_same(machine_view other) const noexcept
    {
        return guix_offload_machine_is_same(handle_, other.handle_) != 0;
    }
    std::string user() const { return detail::text(guix_offload_machine_user(handle_)); }
    std::string private_key() const { return detail::text(guix_offload_machine_private_key(handle_)); }
    std::string host_key() const { return detail::text(guix_offload_machine_host_key(handle_)); }
    std::string compression() const { return detail::text(guix_offload_machine_compression(handle_)); }
    unsigned compression_level() const noexcept { return guix_offload_machine_compression_level(handle_); }
    std::string daemon_socket() const { return detail::text(guix_offload_machine_daemon_socket(handle_)); }
    unsigned parallel_builds() const noexcept { return guix_offload_machine_parallel_builds(handle_); }
    double speed() const noexcept { return guix_offload_machine_speed(handle_); }
    double overload_threshold() const noexcept { return guix_offload_machine_overload_threshold(handle_); }
    // The index-th of them, counted from 0; NULL: there are no more.
    const char* system(std::size_t index) const noexcept { return guix_offload_machine_system(handle_, index); }
    const char* feature(std::size_t index) const noexcept { return guix_offload_machine_feature(handle_, index); }

    const guix_offload_machine* get() const noexcept { return handle_; }

private:
    const guix_offload_machine* handle_;
};

// A machine of one's own. Setters return the machine, so that they can follow each other.
class machine {
public:
    machine(const std::string& name, const std::string& system, const std::string& user, const std::string& host_key)
        : handle_(detail::make<owner>(guix_offload_machine_new, detail::c(name), detail::c(system), detail::c(user),
                                      detail::c(host_key))) {}

    machine& add_system(const std::string& system) { return set(guix_offload_machine_add_system, detail::c(system)); }
    machine& add_feature(const std::string& feature)
    {
        return set(guix_offload_machine_add_feature, detail::c(feature));
    }
    machine& set_port(unsigned port) { return set(guix_offload_machine_set_port, port); }
    machine& set_private_key(const std::string& file)
    {
        return set(guix_offload_machine_set_private_key, detail::c(file));
    }
    machine& set_compression(const std::string& methods, unsigned level)
    {
        return set(guix_offload_machine_set_compression, detail::c(methods), level);
    }
    machine& set_daemon_socket(const std::string& socket)
    {
        return set(guix_offload_machine_set_daemon_socket, detail::c(socket));
    }
    machine& set_parallel_builds(unsigned builds) { return set(guix_offload_machine_set_parallel_builds, builds); }
    machine& set_speed(double speed) { return set(guix_offload_machine_set_speed, speed); }
    machine& set_overload_threshold(double load) { return set(guix_offload_machine_set_overload_threshold, load); }

    machine_view view() const noexcept { return machine_view(handle_.get()); }
    operator machine_view() const noexcept { return view(); }
    guix_offload_machine* get() const noexcept { return handle_.get(); }

private:
    using owner = detail::owner<guix_offload_machine, guix_offload_machine_free>;

    template<typename... Parameters, typename... Arguments>
    machine& set(guix_offload_status (*function)(Parameters...), Arguments... arguments)
    {
        detail::check(function, handle_.get(), arguments...);
        return *this;
    }

    owner handle_;
};

// A list of machines.
class machines {
public:
    // An empty one.
    machines() : handle_(detail::make<owner>(guix_offload_machines_new)) {}
    // What a machine file returns, less what is malformed; a file that does not exist returns an empty list.
    static machines load(const std::string& file, const cancellation* cancellation = nullptr)
    {
        return machines(detail::make<owner>(guix_offload_machines_load_cancellable, detail::c(file),
                                            detail::get(cancellation)));
    }

    // The same of the file that Guix reads.
    static machines load(const cancellation* cancellation = nullptr)
    {
        return machines(detail::make<owner>(guix_offload_machines_load_cancellable, nullptr,
                                            detail::get(cancellation)));
    }

    // The name of the file that it was loaded from; empty if it was not.
    std::string file() const { return detail::text(guix_offload_machines_file(handle_.get())); }
    // Adds a copy.
    void add(machine_view machine) { detail::check(guix_offload_machines_add, handle_.get(), machine.get()); }
    std::size_t size() const noexcept { return guix_offload_machines_count(handle_.get()); }
    // One of them, which lives until the list is changed; index < size().
    machine_view operator[](std::size_t index) const noexcept
    {
        return machine_view(guix_offload_machines_get(handle_.get(), index));
    }
    // Would the machine file return the same now?
    bool are_current() const noexcept { return guix_offload_machines_are_current(handle_.get()) != 0; }
    // What is wrong in the machine file, such as a machine that was left out.
    std::vector<error> problems() const
    {
        std::vector<error> problems;
        while (const guix_offload_error* problem = guix_offload_machines_problem(handle_.get(), problems.size()))
            problems.emplace_back(*problem);
        return problems;
    }
    // How many of them, the first ones, are about what was left out.
    std::size_t left_out() const noexcept { return guix_offload_machines_left_out(handle_.get()); }
    guix_offload_machines* get() const noexcept { return handle_.get(); }

private:
    using owner = detail::owner<guix_offload_machines, guix_offload_machines_free>;
    explicit machines(owner handle) noexcept : handle_(std::move(handle)) {}
    owner handle_;
};

// Engine

// What all builds of a process share.
class engine {
public:
    engine() : handle_(detail::make<owner>(guix_offload_engine_new)) {}
    // One whose jobs are done by the keeper.
    static engine connect() { return engine(detail::make<owner>(guix_offload_engine_connect)); }
    engine& set_directory(guix_offload_directory which, const std::string& name)
    {
        detail::check(guix_offload_engine_set_directory, handle_.get(), which, detail::c(name));
        return *this;
    }
    engine& set_idle_limit(std::uint32_t seconds)
    {
        detail::check(guix_offload_engine_set_idle_limit, handle_.get(), seconds);
        return *this;
    }
    // A plain function, as any thread calls it: what a C++ function object needs would have to outlive them all.
    engine& set_listener(guix_offload_listener_function listener, void* data)
    {
        detail::check(guix_offload_engine_set_listener, handle_.get(), listener, data);
        return *this;
    }
    std::string directory(guix_offload_directory which) const
    {
        return detail::text(guix_offload_engine_directory(handle_.get(), which));
    }
    std::uint32_t idle_limit() const noexcept { return guix_offload_engine_idle_limit(handle_.get()); }
    guix_offload_engine* get() const noexcept { return handle_.get(); }

private:
    using owner = detail::owner<guix_offload_engine, guix_offload_engine_free>;
    explicit engine(owner handle) : handle_(std::move(handle)) {}
    owner handle_;
};

// Requests

// What is to be built. Setters return the request, so that they can follow each other.
class request {
public:
    request(const std::string& system, const std::string& derivation)
        : handle_(detail::make<owner>(guix_offload_request_new, detail::c(system), detail::c(derivation))) {}

    request& add_feature(const std::string& feature)
    {
        return set(guix_offload_request_add_feature, detail::c(feature));
    }
    request& add_input(const std::string& item) { return set(guix_offload_request_add_input, detail::c(item)); }
    request& add_output(const std::string& item) { return set(guix_offload_request_add_output, detail::c(item)); }
    // Adds all inputs, and the outputs that are missing.
    request& add_closure(const engine& engine, const cancellation* cancellation = nullptr)
    {
        return set(guix_offload_request_add_closure, engine.get(), detail::get(cancellation));
    }
    // Locks the outputs until this request and its jobs are gone; returns how many of them are left to build.
    std::size_t lock_outputs(const engine& engine, const cancellation* cancellation = nullptr)
    {
        std::size_t missing = 0;
        set(guix_offload_request_lock_outputs, engine.get(), detail::get(cancellation), &missing);
        return missing;
    }
    // Seconds; 0: no limit.
    request& set_limits(std::uint64_t timeout, std::uint64_t max_silent_time)
    {
        return set(guix_offload_request_set_limits, timeout, max_silent_time);
    }
    request& set_build_trace(bool print) { return set(guix_offload_request_set_build_trace, print ? 1 : 0); }
    // As `guix build` has them; without, they are as the machine's daemon is set.
    request& set_cores(std::uint32_t cores) { return set(guix_offload_request_set_cores, cores); }
    request& set_rounds(std::uint32_t rounds) { return set(guix_offload_request_set_rounds, rounds); }
    request& set_keep_failed(bool keep) { return set(guix_offload_request_set_keep_failed, keep ? 1 : 0); }
    // Whether the machine may fetch inputs by itself.
    request& set_substitutes(bool fetch) { return set(guix_offload_request_set_substitutes, fetch ? 1 : 0); }
    request& set_patient(bool patient) { return set(guix_offload_request_set_patient, patient ? 1 : 0); }
    request& set_verbosity(std::uint32_t level) { return set(guix_offload_request_set_verbosity, level); }
    // How many of the machines offer what it requires.
    std::size_t matches(const machines& machines) const noexcept
    {
        return guix_offload_request_matches(handle_.get(), machines.get());
    }
    std::string system() const { return detail::text(guix_offload_request_system(handle_.get())); }
    std::string derivation() const { return detail::text(guix_offload_request_derivation(handle_.get())); }
    std::size_t input_count() const noexcept { return guix_offload_request_input_count(handle_.get()); }
    std::size_t output_count() const noexcept { return guix_offload_request_output_count(handle_.get()); }
    // The index-th of them, counted from 0; NULL: there are no more.
    const char* input(std::size_t index) const noexcept { return guix_offload_request_input(handle_.get(), index); }
    const char* output(std::size_t index) const noexcept { return guix_offload_request_output(handle_.get(), index); }
    guix_offload_request* get() const noexcept { return handle_.get(); }

private:
    using owner = detail::owner<guix_offload_request, guix_offload_request_free>;

    template<typename... Parameters, typename... Arguments>
    request& set(guix_offload_status (*function)(Parameters...), Arguments... arguments)
    {
        detail::check(function, handle_.get(), arguments...);
        return *this;
    }

    owner handle_;
};

// The verbs: choose, connect, send, build, retrieve

// Is told how many bytes have moved, out of an estimate. False, or an exception, which the verb then throws, cancels.
using progress_function = std::function<bool(std::uint64_t bytes, std::uint64_t total)>;
// Is given a piece of a build's log; otherwise the same.
using log_function = std::function<bool(const char* text, std::size_t length)>;

namespace detail {

// A function of the caller's with what it threw: no exception may go through the library.
template<typename Function>
struct callback {
    const Function& function;
    std::exception_ptr thrown;

    template<typename... Arguments>
    static int call(void* data, Arguments... arguments) noexcept
    {
        auto self = static_cast<callback*>(data);
        try {
            return self->function(arguments...) ? 0 : 1;
        } catch (...) {
            self->thrown = std::current_exception();
            return 1;
        }
    }

    // As check, but what the caller's function threw comes before what the library says about that.
    template<typename... Parameters, typename... Arguments>
    void check(guix_offload_status (*verb)(Parameters...), Arguments&&... arguments)
    {
        try {
            detail::check(verb, std::forward<Arguments>(arguments)...);
        } catch (const error&) {
            if (thrown) std::rethrow_exception(thrown);
            throw;
        }
    }

    void* data() noexcept { return this; }
};

} // namespace detail

// Names of store items.
class items {
public:
    explicit items(guix_offload_items* handle = nullptr) noexcept : handle_(handle) {}
    std::size_t size() const noexcept { return guix_offload_items_count(handle_.get()); }
    // The index-th of them, counted from 0; NULL: there are no more.
    const char* operator[](std::size_t index) const noexcept { return guix_offload_items_get(handle_.get(), index); }

private:
    detail::owner<guix_offload_items, guix_offload_items_free> handle_;
};

// A connection that belongs to a lease.
class connection_view {
public:
    explicit connection_view(guix_offload_connection* handle) noexcept : handle_(handle) {}

    machine_view machine() const noexcept { return machine_view(guix_offload_connection_machine(handle_)); }

    // Sends what the machine lacks of the derivation and the inputs; returns what that was.
    items send(const request& request, const progress_function& progress = {})
    {
        guix_offload_items* sent = nullptr;
        detail::callback<progress_function> callback{progress, nullptr};
        callback.check(guix_offload_send, handle_, request.get(), pointer(progress), callback.data(), &sent);
        return items(sent);
    }
    // Builds, the log going to a function, ...
    void build(const request& request, const log_function& log)
    {
        detail::callback<log_function> callback{log, nullptr};
        guix_offload_log_function call = nullptr;
        if (log) call = detail::callback<log_function>::call<const char*, std::size_t>;
        callback.check(guix_offload_build, handle_, request.get(), -1, call, callback.data());
    }
    // ... or to a descriptor; -1: nowhere.
    void build(const request& request, int log_descriptor = -1)
    {
        guix_offload_log_function nobody = nullptr;
        void* nothing = nullptr;
        detail::check(guix_offload_build, handle_, request.get(), log_descriptor, nobody, nothing);
    }
    // Makes the outputs valid in the local store.
    void retrieve(const request& request, const progress_function& progress = {})
    {
        detail::callback<progress_function> callback{progress, nullptr};
        callback.check(guix_offload_retrieve, handle_, request.get(), pointer(progress), callback.data());
    }
    guix_offload_connection* get() const noexcept { return handle_; }

private:
    static guix_offload_progress_function pointer(const progress_function& progress)
    {
        if (!progress) return nullptr;
        return detail::callback<progress_function>::call<std::uint64_t, std::uint64_t>;
    }

    guix_offload_connection* handle_;
};

// A connection of one's own, without a build slot.
class connection {
public:
    connection(const engine& engine, machine_view machine, const cancellation* cancellation = nullptr)
        : handle_(detail::make<owner>(guix_offload_connect, engine.get(), machine.get(), detail::get(cancellation))) {}
    connection_view view() const noexcept { return connection_view(handle_.get()); }

private:
    using owner = detail::owner<guix_offload_connection, guix_offload_connection_free>;
    owner handle_;
};

// A chosen machine, connected to, and a build slot on it; empty until one was chosen.
class lease {
public:
    // Chooses, and returns a guix_offload_reply; this lease is touched only if that is GUIX_OFFLOAD_ACCEPT.
    std::int32_t choose(const engine& engine, const machines& machines, const request& request,
                              const cancellation* cancellation = nullptr)
    {
        guix_offload_lease* handle = nullptr;
        std::int32_t reply = GUIX_OFFLOAD_DECLINE;
        detail::check(guix_offload_choose, &handle, &reply, engine.get(), machines.get(), request.get(),
                      detail::get(cancellation));
        if (handle != nullptr) handle_.reset(handle);
        return reply;
    }
    // The same; `refusals` becomes why machines were not chosen, an error for each.
    std::int32_t choose(const engine& engine, const machines& machines, const request& request,
                        std::vector<error>& refusals, const cancellation* cancellation = nullptr)
    {
        guix_offload_lease* handle = nullptr;
        guix_offload_refusals* list = nullptr;
        std::int32_t reply = GUIX_OFFLOAD_DECLINE;
        detail::check(guix_offload_choose_explained, &handle, &reply, &list, engine.get(), machines.get(),
                      request.get(), detail::get(cancellation));
        detail::owner<guix_offload_refusals, guix_offload_refusals_free> owned(list);
        if (handle != nullptr) handle_.reset(handle);
        refusals.clear();
        for (std::size_t i = 0; i < guix_offload_refusals_count(list); i++)
            refusals.emplace_back(*guix_offload_refusals_get(list, i));
        return reply;
    }
    connection_view connection() const noexcept
    {
        return connection_view(guix_offload_lease_connection(handle_.get()));
    }
    explicit operator bool() const noexcept { return handle_ != nullptr; }
    void reset() noexcept { handle_.reset(); }

private:
    detail::owner<guix_offload_lease, guix_offload_lease_free> handle_;
};

// Jobs

// Something that happened to a job; false: nothing has.
class event {
public:
    explicit event(guix_offload_event* handle = nullptr) noexcept : handle_(handle) {}

    explicit operator bool() const noexcept { return handle_ != nullptr; }
    // A guix_offload_event_type; -1: nothing has.
    std::int32_t kind() const noexcept { return guix_offload_event_kind(handle_.get()); }
    std::string machine() const { return detail::text(guix_offload_event_machine(handle_.get())); }
    // What to do about it; empty: that is not known.
    std::string hint() const { return detail::text(guix_offload_event_hint(handle_.get())); }
    // The lines that a build hook shows of it; empty: none.
    std::string lines() const { return detail::text(guix_offload_event_lines(handle_.get())); }
    std::size_t items() const noexcept { return guix_offload_event_items(handle_.get()); }
    std::uint64_t bytes() const noexcept { return guix_offload_event_bytes(handle_.get()); }
    std::string text() const
    {
        std::size_t length = 0;
        const char* text = guix_offload_event_text(handle_.get(), &length);
        return text != nullptr ? std::string(text, length) : std::string();
    }

private:
    detail::owner<guix_offload_event, guix_offload_event_free> handle_;
};

// A build that is under way, or over; empty until it was started. Destroying it cancels it.
class job {
public:
    // Starts it, and returns a guix_offload_reply; this object is touched only if that is GUIX_OFFLOAD_ACCEPT.
    std::int32_t start(const engine& engine, const machines& machines, const request& request)
    {
        guix_offload_job* handle = nullptr;
        std::int32_t reply = GUIX_OFFLOAD_DECLINE;
        detail::check(guix_offload_job_start, &handle, &reply, engine.get(), machines.get(), request.get());
        if (handle != nullptr) handle_.reset(handle);
        return reply;
    }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

    // Readable while there is an event, and once the job is over; for select and poll only.
    int descriptor() const noexcept { return guix_offload_job_descriptor(handle_.get()); }
    event next_event() const noexcept { return event(guix_offload_job_next_event(handle_.get())); }
    // False: it is not over yet after so many milliseconds; negative: as long as it takes.
    bool wait(std::int64_t milliseconds = -1) const noexcept
    {
        return guix_offload_job_wait(handle_.get(), milliseconds) == 1;
    }
    // The machine that does it, or was the last to try; empty: none was chosen yet.
    std::string machine() const { return detail::text(guix_offload_job_machine(handle_.get())); }
    void cancel() const noexcept { guix_offload_job_cancel(handle_.get()); }
    // Returns if the outputs are valid; else throws why not.
    void result() const { detail::check(guix_offload_job_result, handle_.get()); }

private:
    detail::owner<guix_offload_job, guix_offload_job_free> handle_;
};

// Build hook

// Serves guix-daemon's requests in its own line protocol.
class hook {
public:
    explicit hook(const engine& engine) : handle_(detail::make<owner>(guix_offload_hook_new, engine.get())) {}

    hook& set_machine_file(const std::string& file) { return set(guix_offload_hook_set_machine_file, detail::c(file)); }
    // What the machine file returns, for as long as it does not change.
    hook& set_machines(const machines& machines) { return set(guix_offload_hook_set_machines, machines.get()); }
    hook& set_limits(std::uint64_t timeout, std::uint64_t max_silent_time)
    {
        return set(guix_offload_hook_set_limits, timeout, max_silent_time);
    }
    hook& set_build_trace(bool print) { return set(guix_offload_hook_set_build_trace, print ? 1 : 0); }
    // Returns what the process should exit with.
    int serve(int input, int output, int log, const cancellation* cancellation = nullptr)
    {
        int exit_status = 1;
        detail::check(guix_offload_hook_serve_cancellable, handle_.get(), input, output, log, &exit_status,
                      detail::get(cancellation));
        return exit_status;
    }

private:
    using owner = detail::owner<guix_offload_hook, guix_offload_hook_free>;

    template<typename... Parameters, typename... Arguments>
    hook& set(guix_offload_status (*function)(Parameters...), Arguments... arguments)
    {
        detail::check(function, handle_.get(), arguments...);
        return *this;
    }

    owner handle_;
};

// Keeper

// For a program that the library starts: see guix_offload_keeper_serve.
inline void serve_as_keeper(int listener, int lock) { detail::check(guix_offload_keeper_serve, listener, lock); }

// Has the keeper end once its builds are done; false: none is running.  What it is doing: report::keeper.
inline bool stop_keeper(const engine& engine)
{
    std::int32_t stopped = 0;
    detail::check(guix_offload_keeper_stop, engine.get(), &stopped);
    return stopped != 0;
}

// All machines at once: test, status

// Is told the name and the state of a machine that has answered, or failed; otherwise as progress_function.
using answered_function = std::function<bool(const char* machine, const char* state)>;

// What was found out about machines, each of which has an index, below size().
class report {
public:
    // Tests all machines, ...
    static report test(const engine& engine, const machines& machines, const cancellation* cancellation = nullptr)
    {
        return each(guix_offload_farm_test_each, engine, machines, nullptr, cancellation);
    }
    static report test(const engine& engine, const machines& machines, const answered_function& answered,
                       const cancellation* cancellation = nullptr)
    {
        return each(guix_offload_farm_test_each, engine, machines, answered, cancellation);
    }
    // ... or asks how they are doing.
    static report status(const engine& engine, const machines& machines, const cancellation* cancellation = nullptr)
    {
        return each(guix_offload_farm_status_each, engine, machines, nullptr, cancellation);
    }
    static report status(const engine& engine, const machines& machines, const answered_function& answered,
                         const cancellation* cancellation = nullptr)
    {
        return each(guix_offload_farm_status_each, engine, machines, answered, cancellation);
    }

    // What is wrong with machines that were loaded from a file, without connecting, and whether guix-daemon uses this.
    static report check(const engine& engine, const machines& machines)
    {
        return report(detail::make<owner>(guix_offload_farm_check, engine.get(), machines.get()));
    }
    // Lets the machine called name, or NAME:PORT, have no new builds, ...
    static report drain(const engine& engine, const machines& machines, const std::string& name)
    {
        return report(detail::make<owner>(guix_offload_farm_drain, engine.get(), machines.get(), detail::c(name)));
    }
    // ... or builds again.
    static report resume(const engine& engine, const machines& machines, const std::string& name)
    {
        return report(detail::make<owner>(guix_offload_farm_resume, engine.get(), machines.get(), detail::c(name)));
    }
    // Those machines that are drained.
    static report drained(const engine& engine, const machines& machines)
    {
        return report(detail::make<owner>(guix_offload_farm_drained, engine.get(), machines.get()));
    }

    // What would become of a build of a derivation, or of one for a system type that needs features, such as "kvm,x".
    static report explain(const engine& engine, const machines& machines, const std::string& what,
                          const std::string& features = "")
    {
        return report(detail::make<owner>(guix_offload_farm_explain, engine.get(), machines.get(), detail::c(what),
                                          detail::c(features)));
    }

    // What the keeper is doing, without a machine.
    static report keeper(const engine& engine)
    {
        return report(detail::make<owner>(guix_offload_keeper_status, engine.get()));
    }

    // A machine that no machine file has yet: its text is a form for that; empty strings: not given.
    static report scan(const engine& engine, const std::string& host, const std::string& user = "",
                       const std::string& accepted = "", const std::string& private_key = "",
                       const cancellation* cancellation = nullptr)
    {
        auto given = [](const std::string& text) { return text.empty() ? nullptr : detail::c(text); };
        return report(detail::make<owner>(guix_offload_scan_cancellable, engine.get(), detail::c(host), given(user),
                                          given(accepted), given(private_key), detail::get(cancellation)));
    }

    // The signing keys of this host and of the machine, ...
    static report authorize(const engine& engine, machine_view machine, const cancellation* cancellation = nullptr)
    {
        return report(detail::make<owner>(guix_offload_authorize_cancellable, engine.get(), machine.get(), nullptr,
                                          detail::get(cancellation)));
    }
    // ... and once the user has confirmed those that a report shows, their exchange, and a test of the machine.
    static report authorize(const engine& engine, machine_view machine, const report& confirmed,
                            const cancellation* cancellation = nullptr)
    {
        return report(detail::make<owner>(guix_offload_authorize_cancellable, engine.get(), machine.get(),
                                          confirmed.get(), detail::get(cancellation)));
    }

    // The last builds of this host that are over; 0: all that its journal has.
    static report log(const engine& engine, std::size_t count = 0)
    {
        return report(detail::make<owner>(guix_offload_journal_log, engine.get(), count));
    }
    // What they add up to, machine by machine, ...
    static report stats(const engine& engine)
    {
        return report(detail::make<owner>(guix_offload_journal_stats, engine.get()));
    }
    // ... and the same as a text for Prometheus.
    static report metrics(const engine& engine)
    {
        return report(detail::make<owner>(guix_offload_journal_metrics, engine.get()));
    }

    // All of it, for people, and for programs.
    std::string text() const { return detail::text(guix_offload_report_text(get())); }
    std::string json() const { return detail::text(guix_offload_report_json(get())); }
    std::size_t size() const noexcept { return guix_offload_report_count(get()); }
    // How many machines failed.
    std::size_t failures() const noexcept { return guix_offload_report_failures(get()); }

    machine_view machine(std::size_t index) const noexcept
    {
        return machine_view(guix_offload_report_machine(get(), index));
    }
    // Why the machine failed; empty: it did not.
    std::unique_ptr<error> failure(std::size_t index) const
    {
        const guix_offload_error* failure = guix_offload_report_error(get(), index);
        return std::unique_ptr<error>(failure != nullptr ? new error(*failure) : nullptr);
    }
    // What it was found to do; what is odd about it, and what to do about that. NULL: there are no more, or no idea.
    const char* passed(std::size_t index, std::size_t number) const noexcept
    {
        return guix_offload_report_passed(get(), index, number);
    }
    const char* note(std::size_t index, std::size_t number) const noexcept
    {
        return guix_offload_report_note(get(), index, number);
    }
    const char* note_hint(std::size_t index, std::size_t number) const noexcept
    {
        return guix_offload_report_note_hint(get(), index, number);
    }
    std::string state(std::size_t index) const { return detail::text(guix_offload_report_state(get(), index)); }
    bool reachable(std::size_t index) const noexcept { return guix_offload_report_reachable(get(), index) == 1; }
    std::int64_t slots_taken(std::size_t index) const noexcept { return guix_offload_report_slots_taken(get(), index); }
    double load(std::size_t index) const noexcept { return guix_offload_report_load(get(), index); }
    std::uint32_t cores(std::size_t index) const noexcept { return guix_offload_report_cores(get(), index); }
    std::uint64_t free_space(std::size_t index) const noexcept { return guix_offload_report_free_space(get(), index); }
    std::int64_t clock_difference(std::size_t index) const noexcept
    {
        return guix_offload_report_clock_difference(get(), index);
    }
    // Empty: not known.
    std::string guix_version(std::size_t index) const
    {
        return detail::text(guix_offload_report_guix_version(get(), index));
    }
    std::string kernel(std::size_t index) const { return detail::text(guix_offload_report_kernel(get(), index)); }
    std::string architecture(std::size_t index) const
    {
        return detail::text(guix_offload_report_architecture(get(), index));
    }
    std::string host_name(std::size_t index) const { return detail::text(guix_offload_report_host_name(get(), index)); }

private:
    using owner = detail::owner<guix_offload_report, guix_offload_report_free>;
    using question = guix_offload_status (*)(guix_offload_report**, const guix_offload_engine*,
                                             const guix_offload_machines*, guix_offload_answered_function, void*,
                                             const guix_offload_cancellation*, guix_offload_error**);
    static report each(question ask, const engine& engine, const machines& machines, const answered_function& answered,
                       const cancellation* cancellation)
    {
        detail::callback<answered_function> callback{answered, nullptr};
        guix_offload_report* made = nullptr;
        callback.check(ask, &made, engine.get(), machines.get(),
                       answered ? detail::callback<answered_function>::call<const char*, const char*> : nullptr,
                       callback.data(), detail::get(cancellation));
        return report(owner(made));
    }
    explicit report(owner handle) noexcept : handle_(std::move(handle)) {}
    const guix_offload_report* get() const noexcept { return handle_.get(); }
    owner handle_;
};

} // namespace guix_offload

#endif // GUIX_OFFLOAD_HH
