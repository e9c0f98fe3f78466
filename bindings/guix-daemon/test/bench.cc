// SPDX-License-Identifier: GPL-3.0-or-later
//
// Times builds in a process that is like guix-daemon, on a head of the lab:
//
//   bench FILE [together]     the builds that builds.scm printed to FILE, one after the other, or all at once
//
// Prints the seconds of each build, then of all.

#include <cstdio>
#include <cstring>
#include <iostream>

#include "worker.hh"

static void finish(Worker& worker)
{
    while (worker.busy()) worker.waitForInput();
}

int main(int argc, char** argv)
try {
    if (argc < 2 || (argc > 2 && std::strcmp(argv[2], "together") != 0)) throw std::runtime_error("see bench.cc for usage");
    auto goals = readGoals(argv[1]);
    Offloader offloader((OffloadSettings()));
    Worker worker(offloader);
    double begun = now();
    for (auto& goal : goals) {
        if (!worker.tryBuildHook(goal)) throw std::runtime_error("refused: " + goal.derivation);
        if (argc == 2) finish(worker);
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
