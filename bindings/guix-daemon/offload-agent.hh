// SPDX-License-Identifier: GPL-3.0-or-later
//
// Offloading inside guix-daemon: what takes the place of the `guix offload` processes and of `Agent` for them.
// README.md beside this says where in nix/libstore/build.cc it goes.
//
// A process has one Offloader; a DerivationGoal that is offloaded has one OffloadAgent. All calls are made by the
// thread that runs the Worker's loop. The builds run in the keeper, a process of the library's. In the daemon's there
// is no other thread, so it may start builders with clone(2).

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <sys/types.h>
#include <vector>

#include <guix-offload.hh>

// Where the daemon has things.
struct OffloadDirectories {
    std::string store = "/gnu/store";
    std::string state = "/var/guix";
    std::string database = "/var/guix/db";
    std::string configuration = "/etc/guix";
    std::string daemonSocket = "/var/guix/daemon-socket/socket";
};

// What a goal wants built.
struct OffloadBuild {
    std::string derivation;
    std::string system;
    std::vector<std::string> features;
    std::vector<std::string> inputs;  // the closure of all that the build needs
    std::vector<std::string> outputs; // those that are missing; the goal holds the locks on them
    std::uint64_t buildTimeout = 0;   // seconds; 0: no limit
    std::uint64_t maxSilentTime = 0;  // seconds; 0: no limit
    // Whether this daemon can start to build it by itself: then it does, when no machine can be reached or used.
    bool couldBuildHere = false;
    // What the client asked for; negative: as the machine's daemon is set.
    int cores = -1;
    int rounds = -1; // the daemon's setting "build-repeat" and one
    bool keepFailed = false;
    bool useSubstitutes = true;
    unsigned verbosity = 0;
};

// What an agent has to say since it was last asked.
struct OffloadOutput {
    std::string messages; // whole lines, for the user
    std::string log;      // of the build, any bytes
    bool over = false;    // nothing more will come: OffloadAgent::wait() tells the status
};

// One build on another machine.
class OffloadAgent {
public:
    OffloadAgent(const OffloadAgent&) = delete;

    // Cancels the build unless it is over. From now on nothing of it touches the outputs, as whoever gives up a goal
    // gives up its locks next. The build there is dead, and its slot free, within a second.
    ~OffloadAgent();

    // A number for the Worker's `children` and for build traces; -1 after wait(). It is no process's: larger than any
    // is on Linux, so that a signal sent to it by mistake reaches nobody.
    pid_t id() const { return id_; }

    // To be selected for reading; all agents have the same one. Not to be read from: read() does that.
    int descriptor() const { return job_.descriptor(); }

    // What happened since the last time. To be called, for each agent, when descriptor() is readable. Makes outputs
    // valid when they are here.
    OffloadOutput read();

    // Waits for the end, which has come if read() said so, and returns the status of a `guix offload` process, as
    // waitpid(2) would: exit statuses 0, 1 (try again), 100 (the build failed) or 101 (it took too long).
    int wait();

    // After wait(): is it to be built here instead, as OffloadBuild::couldBuildHere allows? The messages say why.
    bool declined() const { return declined_; }

private:
    friend class Offloader;
    OffloadAgent(guix_offload::job job, pid_t id, bool couldBuildHere);

    guix_offload::job job_;
    pid_t id_;
    bool couldBuildHere_;
    bool chosen_ = false; // some machine has begun with it
    bool declined_ = false;
    std::string problems_; // of the machine file, until they are read
};

// What all goals of a process share: the connection to the keeper, and the list of machines.
class Offloader {
public:
    // Does nothing yet: the first build starts the keeper if there is none. Throws guix_offload::error, as all below.
    explicit Offloader(const OffloadDirectories& directories);

    // Is there a machine for builds of this system that require these features? If not, the reply is "decline".
    bool accepts(const std::string& system, const std::vector<std::string>& features);

    // Starts to build. NULL: not now, as too many builds are running or descriptors are open; the reply is "postpone".
    std::unique_ptr<OffloadAgent> start(const OffloadBuild& build);

private:
    const guix_offload::machines& machines();

    guix_offload::engine engine_;
    std::string machineFile_;
    std::unique_ptr<guix_offload::machines> machines_;
    pid_t lastId_;
};
