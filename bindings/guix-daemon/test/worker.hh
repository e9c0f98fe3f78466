// SPDX-License-Identifier: GPL-3.0-or-later
//
// guix-daemon's Worker and its goals in miniature: the calls that the daemon would make, in the order in which it would
// make them. Functions have the names of those in nix/libstore/build.cc whose part they play.

#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <sched.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "offload-agent.hh"

inline double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A builder as guix-daemon starts one: with clone(2), so that the C library does not look after the locks of malloc;
// before it executes a program, it allocates memory, formats, throws, and changes the environment.
inline pid_t startBuilder()
{
    static char stack[256 * 1024];
    auto child = [](void*) -> int {
        try {
            std::vector<std::string> words(1000, "a text too long to be kept in the string itself");
            setenv("GUIX_OFFLOAD_TEST", words[7].c_str(), 1);
            throw std::runtime_error(words[999] + std::to_string(getpid()));
        } catch (const std::exception&) {
            execlp("true", "true", nullptr);
        }
        _exit(1);
    };
    // Without CLONE_VM, so the child has a copy of the stack.
    pid_t pid = clone(child, stack + sizeof stack, SIGCHLD, nullptr);
    if (pid == -1) throw std::runtime_error("clone");
    return pid;
}

struct Goal {
    OffloadBuild build;

    std::shared_ptr<OffloadAgent> hook;
    std::string messages, log;
    int status = -1; // as of waitpid(2), once it is over
    bool isBuiltHere = false;
    double started = 0, ended = 0;

    bool busy() const { return hook != nullptr; }
};

// The builds that `builds.scm -- MODE print=1` printed to a file.
inline std::vector<Goal> readGoals(const std::string& file)
{
    std::vector<Goal> goals(1);
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string kind, word;
        words >> kind;
        Goal& goal = goals.back();
        if (kind == "derivation") words >> goal.build.system >> goal.build.derivation;
        else if (kind == "input" && words >> word) goal.build.inputs.push_back(word);
        else if (kind == "output" && words >> word) goal.build.outputs.push_back(word);
        else if (kind == "end") goals.emplace_back();
        else throw std::runtime_error(file + ": " + line);
    }
    goals.pop_back(); // what comes after the last end
    if (goals.empty()) throw std::runtime_error(file + ": no builds");
    return goals;
}

class Worker {
public:
    explicit Worker(Offloader& offloader) : offloader_(offloader) {}

    // False: declined or postponed.
    bool tryBuildHook(Goal& goal)
    {
        if (!offloader_.accepts(goal.build.system, goal.build.features)) return false;
        goal.started = now();
        goal.hook = offloader_.start(goal.build);
        if (!goal.hook) return false;
        children_[goal.hook->id()] = &goal;
        return true;
    }

    void killChild(Goal& goal)
    {
        if (goal.hook && goal.hook->id() != -1) children_.erase(goal.hook->id());
        goal.hook.reset();
    }

    bool busy() const { return !children_.empty(); }

    // Whether goals that are done stay as they are until their request is: guix-daemon's do.
    bool keepsGoals = false;

    void waitForInput(double seconds = 1)
    {
        fd_set fds;
        FD_ZERO(&fds);
        int fdMax = 0;
        for (auto& child : children_) {
            int fd = child.second->hook->descriptor();
            FD_SET(fd, &fds);
            fdMax = std::max(fdMax, fd + 1);
        }
        timeval timeout = {static_cast<time_t>(seconds), static_cast<suseconds_t>(seconds * 1e6) % 1000000};
        if (select(fdMax, &fds, nullptr, nullptr, &timeout) == -1) {
            if (errno == EINTR) return;
            throw std::runtime_error("select");
        }
        auto children = children_;
        for (auto& child : children) {
            Goal& goal = *child.second;
            if (!FD_ISSET(goal.hook->descriptor(), &fds)) continue;
            auto output = goal.hook->read();
            goal.messages += output.messages;
            goal.log += output.log;
            if (output.over) buildDone(goal);
        }
    }

private:
    void buildDone(Goal& goal)
    {
        pid_t savedPid = goal.hook->id();
        goal.status = goal.hook->wait();
        goal.isBuiltHere = goal.hook->declined();
        goal.ended = now();
        children_.erase(savedPid);
        if (!keepsGoals) killChild(goal);
    }

    Offloader& offloader_;
    std::map<pid_t, Goal*> children_;
};
