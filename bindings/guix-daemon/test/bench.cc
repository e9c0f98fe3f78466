// SPDX-License-Identifier: GPL-3.0-or-later
//
// Times builds in a process that is like guix-daemon, on a head of the lab:
//
//   bench FILE              the builds that builds.scm printed to FILE, one after the other
//   bench FILE together     all at once
//   bench FILE COMMAND      one after the other, and before each this shell command, which is not timed
//
// Prints the seconds of each build, then of all. README.md beside offload-agent.hh says how to compile it.

#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "worker.hh"

static void finish(Worker& worker)
{
    while (worker.busy()) worker.waitForInput();
}

int main(int argc, char** argv)
try {
    if (argc < 2) throw std::runtime_error("see bench.cc for usage");
    const std::string between = argc > 2 ? argv[2] : "true";
    const bool together = between == "together";
    auto goals = readGoals(argv[1]);
    Offloader offloader((OffloadDirectories()));
    Worker worker(offloader);
    double begun = now();
    for (auto& goal : goals) {
        if (!together && std::system(between.c_str()) != 0) throw std::runtime_error(between);
        if (!worker.tryBuildHook(goal)) throw std::runtime_error("refused: " + goal.build.derivation);
        if (!together) finish(worker);
    }
    finish(worker);
    double total = now() - begun;
    for (auto& goal : goals) {
        if (goal.status != 0) throw std::runtime_error(goal.messages + goal.log);
        std::printf("%.4f\n", goal.ended - goal.started);
    }
    std::printf("total %.4f\n", total);
} catch (const std::exception& e) {
    std::cerr << "bench: " << e.what() << std::endl;
    return 1;
}
