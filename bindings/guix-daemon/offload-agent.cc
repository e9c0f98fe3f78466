// SPDX-License-Identifier: GPL-3.0-or-later

#include "offload-agent.hh"

#include <algorithm>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <unistd.h>

using guix_offload::error;

// No process of Linux has a number beyond this: PID_MAX_LIMIT of a 64-bit kernel.
static const pid_t pidMaxLimit = 4 * 1024 * 1024;

// So much of a log is handed out at once, in bytes, so that a chatty build does not hold up the loop.
static const std::size_t maxLog = 64 * 1024;

// So many descriptors are left to the daemon: a goal has one for its log and one for the lock on each output, and a
// local builder some more.
static const int reserve = 128;

// May this process open as many descriptors as it needs for one more goal, all of them such that select(2) knows?
static bool hasDescriptors()
{
    rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == -1) return true;
    int most = static_cast<int>(std::min<rlim_t>(limit.rlim_cur, FD_SETSIZE));
    int next = open("/dev/null", O_RDONLY | O_CLOEXEC); // the lowest that is free
    if (next == -1) return false;
    close(next);
    return next < std::max(most - reserve, most / 2);
}

OffloadAgent::OffloadAgent(guix_offload::job job, pid_t id, bool couldBuildHere)
    : job_(std::move(job)), id_(id), couldBuildHere_(couldBuildHere) {}

OffloadAgent::~OffloadAgent() { job_.cancel(); }

OffloadOutput OffloadAgent::read()
{
    OffloadOutput output;
    output.messages.swap(problems_);
    while (output.log.size() < maxLog) {
        auto event = job_.next_event();
        if (!event) break;
        if (event.kind() == GUIX_OFFLOAD_EVENT_LOG) output.log += event.text();
        output.messages += event.lines();
        chosen_ = chosen_ || event.kind() == GUIX_OFFLOAD_EVENT_CHOSEN;
        output.over = output.over || event.kind() == GUIX_OFFLOAD_EVENT_DONE;
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
        declined_ = couldBuildHere_ && !chosen_ && failure.code() != GUIX_OFFLOAD_CANCELLED;
        return failure.exit_status() << 8;
    }
}

// The machine file is named here, as the library's own default follows the environment: the daemon has said where its
// configuration is.
Offloader::Offloader(const OffloadDirectories& directories)
    : engine_(guix_offload::engine::connect()), machineFile_(directories.configuration + "/machines.scm"),
      lastId_(pidMaxLimit)
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
    if (!hasDescriptors()) return nullptr;
    guix_offload::request request(build.system, build.derivation);
    for (auto& feature : build.features) request.add_feature(feature);
    for (auto& input : build.inputs) request.add_input(input);
    for (auto& output : build.outputs) request.add_output(output);
    request.set_limits(build.buildTimeout, build.maxSilentTime)
        .set_substitutes(build.useSubstitutes).set_keep_failed(build.keepFailed)
        .set_verbosity(build.verbosity < 7 ? build.verbosity : 7);
    request.set_patient(!build.couldBuildHere);
    if (build.cores >= 0) request.set_cores(build.cores);
    if (build.rounds > 0) request.set_rounds(build.rounds);

    guix_offload::job job;
    try {
        if (job.start(engine_, machines(), request) != GUIX_OFFLOAD_ACCEPT) return nullptr;
    } catch (const error& failure) {
        if (failure.code() == GUIX_OFFLOAD_EXHAUSTED) return nullptr; // some goal is done soon
        throw;
    }
    std::unique_ptr<OffloadAgent> agent(new OffloadAgent(std::move(job), ++lastId_, build.couldBuildHere));
    for (auto& problem : machines_->problems()) agent->problems_ += problem.warning_lines();
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
