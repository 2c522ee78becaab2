// Containers, strings and smart pointers of one user, each with a size of its own.
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#define NOINLINE __attribute__((noinline, noclone))

struct Record {
    char bytes[5000];
};

namespace app {
template <class T> struct Store {
    std::vector<T> items;
    NOINLINE void keep(const T &item) {
        items.push_back(item);
        asm volatile(""); // no tail call: the frame would be gone
    }
};

NOINLINE std::shared_ptr<Record> share() { return std::make_shared<Record>(); }
NOINLINE std::string *text() { return new std::string(6000, 'x'); }
NOINLINE void count(std::map<int, Record> &records) { records[7]; }
NOINLINE void in_thread() {
    char *volatile p = new char[8000];
    (void)p;
}
} // namespace app

int main() {
    static app::Store<Record> store;
    static std::map<int, Record> records;
    static std::shared_ptr<Record> shared;
    std::puts("ready");
    std::fflush(stdout);
    char line[64];
    while (std::fgets(line, sizeof line, stdin)) {
        store.keep(Record());
        shared = app::share();
        app::text();
        app::count(records);
        std::thread(app::in_thread).join();
        std::puts("expect app 1 1\ntotal 1 1");
        std::fflush(stdout);
    }
}
