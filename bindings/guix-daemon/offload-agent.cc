// SPDX-License-Identifier: GPL-3.0-or-later

#include "offload-agent.hh"

#include <sys/select.h>

using guix_offload::error;

// No process of Linux has a number beyond this: PID_MAX_LIMIT of a 64-bit kernel.
static const pid_t pidMaxLimit = 4 * 1024 * 1024;

// So much of a log is handed out at once, in bytes, so that a chatty build does not hold up the loop.
static const std::size_t maxLog = 64 * 1024;

static std::string amount(const guix_offload::event& event)
{
    return std::to_string(event.items()) + (event.items() == 1 ? " store item (" : " store items (")
        + std::to_string((event.bytes() + (512 << 10)) >> 20) + " MiB)";
}

// The line with which `guix offload` reports this; empty: it does not.
static std::string message(const guix_offload::event& event, const std::string& derivation)
{
    const std::string machine = "'" + event.machine() + "'";
    switch (event.kind()) {
    case GUIX_OFFLOAD_EVENT_QUEUED:
        return "guix offload: all build machines are busy, waiting for a build slot\n";
    case GUIX_OFFLOAD_EVENT_PASSED_OVER:
        return "guix offload: skipping machine " + machine + ": " + event.text() + "\n";
    case GUIX_OFFLOAD_EVENT_SENDING:
        return "guix offload: sending " + amount(event) + " to " + machine + "...\n";
    case GUIX_OFFLOAD_EVENT_BUILDING:
        return "offloading '" + derivation + "' to " + machine + "...\n"
            + "@ build-remote " + derivation + " " + event.machine() + "\n";
    case GUIX_OFFLOAD_EVENT_RETRIEVING:
        return "retrieving " + amount(event) + " from " + machine + "...\n";
    case GUIX_OFFLOAD_EVENT_RETRYING:
        return "guix offload: machine " + machine + " failed, trying another one: " + event.text() + "\n";
    default:
        return "";
    }
}

static std::string message(const error& failure)
{
    std::string text = "guix offload: error: ";
    if (!failure.machine().empty() && std::string(failure.what()).find(failure.machine()) == std::string::npos)
        text += "machine '" + failure.machine() + "': ";
    text += failure.what();
    if (!failure.hint().empty()) text += "\nhint: " + failure.hint();
    return text + "\n";
}

OffloadAgent::OffloadAgent(guix_offload::job job, std::string derivation, pid_t id)
    : job_(std::move(job)), derivation_(std::move(derivation)), id_(id) {}

OffloadAgent::~OffloadAgent()
{
    job_.cancel();
    job_.wait();
}

OffloadOutput OffloadAgent::read()
{
    OffloadOutput output;
    output.messages.swap(problems_);
    while (output.log.size() < maxLog) {
        auto event = job_.next_event();
        if (!event) break;
        if (event.kind() == GUIX_OFFLOAD_EVENT_LOG) {
            output.log += event.text();
        } else if (event.kind() == GUIX_OFFLOAD_EVENT_DONE) {
            output.over = true;
            try {
                job_.result();
                output.messages += "done with offloaded '" + derivation_ + "'\n";
            } catch (const error& failure) {
                output.messages += message(failure);
            }
        } else {
            output.messages += message(event, derivation_);
        }
    }
    return output;
}

int OffloadAgent::wait()
{
    job_.wait();
    id_ = -1;
    try {
        job_.result();
        return 0;
    } catch (const error& failure) {
        return failure.exit_status() << 8;
    }
}

Offloader::Offloader(const OffloadDirectories& directories)
    : machineFile_(directories.configuration + "/machines.scm"), lastId_(pidMaxLimit)
{
    engine_.set_directory(GUIX_OFFLOAD_STORE_DIRECTORY, directories.store)
        .set_directory(GUIX_OFFLOAD_STATE_DIRECTORY, directories.state)
        .set_directory(GUIX_OFFLOAD_DATABASE_DIRECTORY, directories.database)
        .set_directory(GUIX_OFFLOAD_CONFIGURATION_DIRECTORY, directories.configuration)
        .set_directory(GUIX_OFFLOAD_DAEMON_SOCKET, directories.daemonSocket);
}

bool Offloader::accepts(const std::string& system, const std::vector<std::string>& features)
{
    guix_offload::request request(system, "");
    for (auto& feature : features) request.add_feature(feature);
    return request.matches(machines()) > 0;
}

std::unique_ptr<OffloadAgent> Offloader::start(const OffloadBuild& build)
{
    guix_offload::request request(build.system, build.derivation);
    for (auto& feature : build.features) request.add_feature(feature);
    for (auto& input : build.inputs) request.add_input(input);
    for (auto& output : build.outputs) request.add_output(output);
    request.set_limits(build.buildTimeout, build.maxSilentTime).set_build_trace(build.printBuildTrace)
        .set_keep_failed(build.keepFailed).set_verbosity(build.verbosity < 7 ? build.verbosity : 7);
    if (build.cores >= 0) request.set_cores(build.cores);
    if (build.rounds > 0) request.set_rounds(build.rounds);

    guix_offload::job job;
    if (job.start(engine_, machines(), request) != GUIX_OFFLOAD_ACCEPT) return nullptr;
    // More than select(2) can tell apart, in a process that may open so many.
    if (job.descriptor() >= FD_SETSIZE) return nullptr;
    std::unique_ptr<OffloadAgent> agent(new OffloadAgent(std::move(job), build.derivation, ++lastId_));
    for (auto& problem : machines_->problems())
        agent->problems_ += std::string("guix offload: warning: ") + problem.what() + "\nhint: " + problem.hint() + "\n";
    return agent;
}

// The list of machines, read again when the file has changed, or what it reads. While what is there is wrong, it is
// read, and the error thrown, each time.
const guix_offload::machines& Offloader::machines()
{
    if (!machines_ || !machines_->are_current()) {
        machines_.reset();
        machines_.reset(new guix_offload::machines(guix_offload::machines::load(machineFile_)));
    }
    return *machines_;
}
