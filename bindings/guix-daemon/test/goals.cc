// SPDX-License-Identifier: GPL-3.0-or-later
//
// Ten builds at once in a process that is like guix-daemon: it selects, reaps children in a SIGCHLD handler, and forks
// all the while. Runs on a head of the lab. tests/farm/in_guix_daemon.rs makes the derivations and watches the
// machines.
//
//   goals PLAIN FAIL SILENT CHATTY     files that builds.scm printed: 7 builds that succeed, one that fails, one that
//                                      is silent for too long, one that is cancelled when the others are over
//
// Says "cancelled" on standard output and waits for a line of input there, "ok" at the end.
//
//   goals options ANOTHER FAIL         3 builds of mode `another`, one that fails: what their client asked for reaches
//                                      the machine
//
// Says "kept MACHINE TREE", which a failed build left there, and "ok".
//
//   goals many PLAIN                   any number of builds in one request, whose goals are kept to its end, and as
//                                      many local builds meanwhile; at most 1024 files may be open
//
// Says what that took, and "ok".

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <iostream>
#include <set>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "worker.hh"

#define CHECK(condition, detail) \
    do { if (!(condition)) fail(__LINE__, #condition, detail); } while (0)

[[noreturn]] static void fail(int line, const char* condition, const std::string& detail)
{
    std::cerr << __FILE__ << ":" << line << ": not so: " << condition << "\n" << detail << std::endl;
    _exit(1);
}

static std::set<std::string> names(DIR* entries)
{
    CHECK(entries != nullptr, "");
    std::set<std::string> names;
    while (auto entry = readdir(entries))
        if (entry->d_name[0] != '.') names.insert(entry->d_name);
    closedir(entries);
    return names;
}

static std::set<std::string> descriptors()
{
    DIR* entries = opendir("/proc/self/fd");
    std::string self = std::to_string(dirfd(entries));
    auto all = names(entries);
    all.erase(self);
    return all;
}

static std::size_t threads() { return names(opendir("/proc/self/task")).size(); }

// Waits for something that may take a moment, but not more than so many seconds.
template<typename Condition>
static void within(double seconds, const char* what, Condition condition)
{
    double begun = now();
    while (!condition()) {
        CHECK(now() - begun < seconds, what);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
}

// As read(2), which children that end interrupt: guix-daemon's handler is not one that restarts system calls.
static ssize_t readOn(int fd, char* buffer, std::size_t size)
{
    ssize_t length;
    do length = read(fd, buffer, size); while (length == -1 && errno == EINTR);
    return length;
}

static void waitForLine()
{
    char last = 0;
    while (last != '\n' && readOn(STDIN_FILENO, &last, 1) == 1) {}
    CHECK(last == '\n', "no line of input");
}

// Forks a child that writes to a pipe, and returns what that was; guix-daemon's handler reaps it.
template<typename Body>
static std::string fromChild(Body body)
{
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0, "");
    pid_t child = fork();
    CHECK(child != -1, "");
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        body();
        _exit(1);
    }
    close(ends[1]);
    alarm(20); // a child that waits for a lock of a thread that it does not have would never end
    std::string text;
    char buffer[4096];
    ssize_t length;
    while ((length = readOn(ends[0], buffer, sizeof buffer)) > 0) text.append(buffer, length);
    alarm(0);
    close(ends[0]);
    return text;
}

// What a builder would inherit: after exec, nothing but what it was given.
static void checkDescriptorsOfChildren()
{
    auto text = fromChild([] { execlp("ls", "ls", "/proc/self/fd", nullptr); });
    std::istringstream descriptors(text);
    int descriptor, count = 0;
    for (; descriptors >> descriptor; count++) CHECK(descriptor <= 3, text); // 3 is the directory that it lists
    CHECK(count == 4, text);
}

// What guix-daemon does between fork and exec: C++, with memory to allocate and exceptions to throw.
static void checkWorkInChildren()
{
    auto text = fromChild([] {
        try {
            std::vector<std::string> words(1000, "a text too long to be kept in the string itself");
            setenv("GUIX_OFFLOAD_TEST", words[7].c_str(), 1);
            throw std::runtime_error(words[999]);
        } catch (const std::exception& e) {
            std::string text = std::string(e.what()).substr(0, 6) + "\n";
            if (write(STDOUT_FILENO, text.data(), text.size()) != -1) _exit(0);
        }
    });
    CHECK(text == "a text\n", text);
}

static bool anySlotIsHeld()
{
    glob_t files;
    CHECK(glob("/var/guix/offload/*:*/[0-9]*", 0, nullptr, &files) == 0, "");
    bool held = false;
    for (std::size_t i = 0; i < files.gl_pathc; i++) {
        int fd = open(files.gl_pathv[i], O_RDWR | O_CLOEXEC);
        struct flock lock = {};
        lock.l_type = F_WRLCK;
        CHECK(fcntl(fd, F_OFD_GETLK, &lock) == 0, files.gl_pathv[i]);
        held = held || lock.l_type != F_UNLCK;
        close(fd);
    }
    globfree(&files);
    return held;
}

static void replace(const std::string& file, const std::string& text)
{
    std::ofstream(file + ".new") << text;
    CHECK(rename((file + ".new").c_str(), file.c_str()) == 0, file);
}

// The list of machines follows its file, even if Guile has to evaluate that: a child that the handler below reaps.
static void checkMachineFile(Offloader& offloader, const std::string& system)
{
    const std::string file = "/etc/guix/machines.scm";
    std::stringstream text;
    text << std::ifstream(file).rdbuf();
    CHECK(offloader.accepts(system, {}), "");
    CHECK(!offloader.accepts(system, {"kvm"}) && !offloader.accepts("riscv64-linux", {}), "");
    replace(file, "(list)");
    CHECK(!offloader.accepts(system, {}), "");
    replace(file, "(list (build-machine))"); // malformed, so it is left out
    CHECK(!offloader.accepts(system, {}), "");
    replace(file, "(list (build-machine");
    for (int time = 0; time < 2; time++) {
        try {
            offloader.accepts(system, {});
            CHECK(false, "");
        } catch (const guix_offload::error& error) {
            CHECK(error.code() == GUIX_OFFLOAD_CONFIGURATION && error.exit_status() == 1, error.what());
        }
    }
    replace(file, "(begin " + text.str() + ")");
    CHECK(offloader.accepts(system, {}), "");
    replace(file, text.str());
    CHECK(offloader.accepts(system, {}), "");
}

static bool exists(const std::string& file)
{
    struct stat st;
    return lstat(file.c_str(), &st) == 0;
}

static std::vector<Goal> goals;
static Goal &failing() { return goals[7]; }
static Goal &silent() { return goals[8]; }
static Goal &cancelled() { return goals[9]; }

static void runGoals(Offloader& offloader)
{
    Worker worker(offloader);
    for (auto& goal : goals) {
        goal.build.maxSilentTime = 5;
        CHECK(worker.tryBuildHook(goal), goal.build.derivation);
    }
    while (std::count_if(goals.begin(), goals.end(), [](const Goal& goal) { return goal.busy(); }) > 1
           || cancelled().log.empty()) {
        worker.waitForInput();
        checkDescriptorsOfChildren();
        checkWorkInChildren();
        CHECK(threads() == 1, "the library has a thread in this process");
    }
    CHECK(cancelled().busy() && anySlotIsHeld(), cancelled().messages);
    double begun = now();
    std::cout << "cancelled" << std::endl;
    worker.killChild(cancelled());
    CHECK(now() - begun < 1, "cancelling takes too long");
    within(1, "the cancelled build has no slot any more", [] { return !anySlotIsHeld(); });
    CHECK(!worker.busy(), "");
}

static void checkResults()
{
    for (auto& goal : goals) {
        bool plain = &goal < &failing();
        int expected = plain ? 0 : &goal == &failing() ? 100 << 8 : &goal == &silent() ? 101 << 8 : -1;
        CHECK(goal.status == expected,
                  goal.build.derivation + ": " + std::to_string(goal.status) + "\n" + goal.messages + goal.log);
        for (auto& output : goal.build.outputs) CHECK(exists(output) == plain, output);
        auto line = "@ build-remote " + goal.build.derivation + " w";
        CHECK(goal.messages.find(line) != std::string::npos, goal.messages);
    }
    CHECK(failing().log.find("about to fail\n") != std::string::npos, failing().log);
    CHECK(failing().messages.find("guix offload: error: ") != std::string::npos, failing().messages);
    CHECK(cancelled().log.find("1\n") != std::string::npos, cancelled().log);
}

static void run(Offloader& offloader, std::vector<Goal>& goals)
{
    Worker worker(offloader);
    for (auto& goal : goals) CHECK(worker.tryBuildHook(goal), goal.build.derivation);
    while (worker.busy()) worker.waitForInput();
}

// A build that this daemon could do itself is given back to it when no machine can be reached; another one waits.
static void checkDeclined(Offloader& offloader, Goal goal)
{
    const std::string file = "/etc/guix/machines.scm";
    std::stringstream text;
    text << std::ifstream(file).rdbuf();
    auto away = text.str();
    // Nobody listens there.
    const std::string slots = "(parallel-builds", port = "(port 1) ";
    for (std::size_t at = 0; (at = away.find(slots, at)) != std::string::npos; at += port.size() + slots.size())
        away.insert(at, port);
    replace(file, away);
    std::vector<Goal> goals(2, goal);
    goals[0].build.couldBuildHere = true;
    for (auto& one : goals) one.messages = one.log = "";
    Worker worker(offloader);
    for (auto& one : goals) CHECK(worker.tryBuildHook(one), one.build.derivation);
    double begun = now();
    while (goals[0].busy()) {
        CHECK(now() - begun < 20, goals[0].messages);
        worker.waitForInput();
    }
    CHECK(goals[0].isBuiltHere && goals[1].busy(), goals[0].messages);
    CHECK(goals[0].messages.find("no build machine can be reached") != std::string::npos, goals[0].messages);
    CHECK(goals[0].messages.find("Connection refused") != std::string::npos, goals[0].messages);
    worker.killChild(goals[1]);
    replace(file, text.str());
}

// Each option is given to one build alone; the last one has none.
static int checkOptions(const std::string& anotherFile, const std::string& failFile)
{
    auto goals = readGoals(anotherFile);
    CHECK(goals.size() == 3, anotherFile);
    goals.push_back(readGoals(failFile).at(0));
    Goal &talking = goals[0], &repeated = goals[1], &plain = goals[2], &kept = goals[3];
    talking.build.cores = 77;
    talking.build.verbosity = 4;
    repeated.build.rounds = 3;
    kept.build.keepFailed = true;
    Offloader offloader((OffloadDirectories()));
    run(offloader, goals);

    auto has = [](const std::string& text, const char* words) { return text.find(words) != std::string::npos; };
    CHECK(talking.status == 0 && has(talking.log, "cores 77\n"), talking.messages + talking.log);
    CHECK(talking.log.size() > plain.log.size() + 100, "the daemon says no more:\n" + talking.log);
    CHECK(repeated.status == 100 << 8 && has(repeated.messages, "not the same each time"),
              repeated.messages + repeated.log);
    CHECK(!plain.isBuiltHere && !kept.isBuiltHere, "");
    checkDeclined(offloader, plain);
    CHECK(plain.status == 0 && has(plain.log, "cores ") && !has(plain.log, "cores 77"), plain.messages + plain.log);
    CHECK(kept.status == 100 << 8, kept.messages + kept.log);
    const std::string hint = "\nhint: the tree of the failed build is on '";
    auto at = kept.messages.find(hint);
    CHECK(at != std::string::npos && !has(repeated.messages, hint.c_str()), kept.messages + repeated.messages);
    std::string machine, tree;
    std::istringstream rest(kept.messages.substr(at + hint.size()));
    std::getline(rest, machine, '\'');
    std::getline(rest, tree);
    std::cout << "kept " << machine << tree.substr(1) << "\nok" << std::endl;
    return 0;
}

// What a goal has open while its build runs: the lock on each of four outputs, and the log.
struct Files {
    std::vector<int> open;

    bool take()
    {
        while (open.size() < 5) {
            int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
            if (fd == -1) return false;
            open.push_back(fd);
        }
        return true;
    }

    void giveBack()
    {
        for (int fd : open) close(fd);
        open.clear();
    }
};

static int checkMany(const std::string& file)
{
    const int pollInterval = 1; // seconds after which postponed goals are asked for again
    rlimit limit = {1024, 1024};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0, "");
    auto goals = readGoals(file);
    std::vector<Files> files(goals.size());
    Offloader offloader((OffloadDirectories()));
    Worker worker(offloader);
    worker.keepsGoals = true;
    std::size_t done = 0, local = 0, most = 0, open = 0;
    double begun = now(), asked = 0;
    std::set<std::size_t> waiting, running;
    for (std::size_t i = 0; i < goals.size(); i++) waiting.insert(i);
    while (done < goals.size()) {
        if (now() - asked >= pollInterval) {
            asked = now();
            for (auto i = waiting.begin(); i != waiting.end();) {
                CHECK(files[*i].take(), "no descriptor is left for a goal");
                if (worker.tryBuildHook(goals[*i])) {
                    running.insert(*i);
                    i = waiting.erase(i);
                } else {
                    files[*i++].giveBack();
                }
            }
            most = std::max(most, running.size());
            open = std::max(open, descriptors().size());
        }
        if (local < goals.size()) {
            pid_t builder = startBuilder();
            int status = -1;
            alarm(20); // one that waits for a lock of a thread that it does not have would never end
            while (waitpid(builder, &status, 0) == -1) CHECK(errno == EINTR, "");
            alarm(0);
            CHECK(status == 0, std::to_string(status));
            local++;
        }
        worker.waitForInput(0.01);
        CHECK(threads() == 1, "the library has a thread in this process");
        for (auto i = running.begin(); i != running.end();) {
            Goal& goal = goals[*i];
            if (goal.ended == 0) { i++; continue; }
            CHECK(goal.status == 0, goal.build.derivation + "\n" + goal.messages + goal.log);
            files[*i].giveBack();
            i = running.erase(i);
            done++;
        }
    }
    for (auto& goal : goals) CHECK(goal.busy(), "the request still has its goals");
    std::printf("%zu builds in %.1f s, at most %zu at once, %zu descriptors; %zu local ones\nok\n", done, now() - begun,
                most, open, local);
    return 0;
}

static void handleChild(int)
{
    int saved = errno;
    while (waitpid(-1, nullptr, WNOHANG) > 0) {}
    errno = saved;
}

int main(int argc, char** argv)
try {
    CHECK(guix_offload::abi_matches(), "");
    if (argc == 3 && std::string(argv[1]) == "many") return checkMany(argv[2]);
    if (argc == 4 && std::string(argv[1]) == "options") return checkOptions(argv[2], argv[3]);
    CHECK(argc == 5, "usage: goals PLAIN FAIL SILENT CHATTY");
    struct sigaction action = {};
    action.sa_handler = handleChild;
    sigfillset(&action.sa_mask);
    sigaction(SIGCHLD, &action, nullptr);
    for (int i = 1; i < argc; i++)
        for (auto& goal : readGoals(argv[i])) goals.push_back(goal);
    CHECK(goals.size() == 10, std::to_string(goals.size()));

    for (auto& inherited : descriptors())
        if (std::stoi(inherited) > STDERR_FILENO) close(std::stoi(inherited));
    auto before = descriptors();
    CHECK(threads() == 1, "");
    {
        Offloader offloader((OffloadDirectories()));
        CHECK(descriptors() == before && threads() == 1, "");
        checkMachineFile(offloader, goals[0].build.system);
        runGoals(offloader);
        waitForLine(); // the machines have been looked at
    }
    CHECK(threads() == 1 && descriptors() == before, "");
    CHECK(!anySlotIsHeld(), "");
    checkResults();
    std::cout << "ok" << std::endl;
    return 0;
} catch (const std::exception& e) {
    std::cerr << "goals: " << e.what() << std::endl;
    return 1;
}
