// SPDX-License-Identifier: GPL-3.0-or-later
//
// Offloading inside guix-daemon: what takes the place of the `guix offload` processes and of `Agent` for them. README.md
// beside this says where in nix/libstore/build.cc it goes.
//
// A Worker has one Offloader; a DerivationGoal that is offloaded has one OffloadAgent. All calls are made by the thread
// that runs the Worker's loop, and none blocks: the builds run in threads of the library, which block all signals.

#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <sys/types.h>
#include <vector>

#include <guix-offload.hh>

// What the daemon's settings say.
struct OffloadSettings {
    std::string storeDir = "/gnu/store";
    std::string stateDir = "/var/guix";
    std::string dbDir = "/var/guix/db";
    std::string confDir = "/etc/guix";
    std::string daemonSocket = "/var/guix/daemon-socket/socket";
    std::uint64_t buildTimeout = 0;  // seconds; 0: no limit
    std::uint64_t maxSilentTime = 0; // seconds; 0: no limit
    bool printBuildTrace = false;
};

// What an agent has to say since it was last asked.
struct OffloadOutput {
    std::string messages; // whole lines, for the user
    std::string log;      // of the build, any bytes
    bool over = false;    // nothing more will come: OffloadAgent::wait() tells the status
};

// One build on another machine. Destroying it cancels the build: its slot is free and the build there dead within a
// second, and the outputs are not touched any more after that.
class OffloadAgent {
public:
    OffloadAgent(OffloadAgent&&) = default;

    // A number for the Worker's `children` and for build traces. It is no process's: larger than any is on Linux, so
    // that a signal sent to it by mistake reaches nobody.
    pid_t id() const { return id_; }

    // To be selected for reading. Not to be read from: read() does that.
    int descriptor() const { return job_.descriptor(); }

    // What happened since the last time. To be called when descriptor() is readable.
    OffloadOutput read();

    // Waits for the end, which has come if read() said so, and returns the status of a `guix offload` process, as
    // waitpid(2) would: exit statuses 0, 1 (try again), 100 (the build failed) or 101 (it took too long).
    int wait() const;

private:
    friend class Offloader;
    OffloadAgent(guix_offload::job job, std::string derivation, pid_t id);

    guix_offload::job job_;
    std::string derivation_;
    pid_t id_;
    std::set<std::string> said_;
};

// The offloading side of a Worker: connections to machines, kept between builds, and the list of machines.
class Offloader {
public:
    using Paths = std::vector<std::string>;

    // Does nothing yet. Throws guix_offload::error, as all below.
    explicit Offloader(const OffloadSettings& settings);

    // Is there a machine for builds of this system that require these features? If not, the reply is "decline".
    bool accepts(const std::string& system, const Paths& features);

    // Starts to build `derivation`. `inputs` is the closure of all it needs, and the goal holds the locks on `outputs`.
    // NULL: not now, too many builds are running; the reply is "postpone".
    std::unique_ptr<OffloadAgent> start(const std::string& derivation, const std::string& system, const Paths& features,
                                        const Paths& inputs, const Paths& outputs);

private:
    const guix_offload::machines& machines();
    guix_offload::request request(const std::string& derivation, const std::string& system, const Paths& features);

    // What tells one state of a file from another without reading it.
    struct Version {
        std::int64_t device, inode, size, seconds, nanoseconds;
        bool operator==(const Version& other) const;
    };
    static Version version(const std::string& file);

    OffloadSettings settings_;
    guix_offload::engine engine_;
    std::string machineFile_;
    std::unique_ptr<guix_offload::machines> machines_;
    Version machinesVersion_;
    pid_t lastId_;
};
