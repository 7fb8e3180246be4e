/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much memory there is: from a /proc and a /sys that the test writes, control groups of both
 * versions, nested, and files that are odd or missing.
 */
#include "worker/machine.h"

#include "tests/check.h"

#include <sys/stat.h>
#include <unistd.h>

#define KIB(n) (INT64_C(1024) * (n))

static char root[64];

static void put(const char *path, const char *text)
{
    char full[512];
    (void)snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = strchr(full + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    REQUIRE(file != NULL);
    REQUIRE(fputs(text, file) >= 0);
    REQUIRE(fclose(file) == 0);
}

static void drop(const char *path)
{
    char full[512];
    (void)snprintf(full, sizeof full, "%s%s", root, path);
    REQUIRE(unlink(full) == 0);
}

static void check_memory(int64_t total, int64_t available)
{
    struct med_machine_memory m = {0};
    struct med_err err = {0};
    CHECK_INT(med_machine_memory_read(root, &m, &err), 0);
    CHECK_INT(m.total_bytes, total);
    CHECK_INT(m.available_bytes, available);
}

static void test_memory_when_no_group_limits_it_then_the_machines(void)
{
    put("/proc/meminfo", "MemTotal:       16000 kB\nMemFree:  10 kB\nMemAvailable:   9000 kB\n");
    check_memory(KIB(16000), KIB(9000));
    put("/proc/self/cgroup", "0::/a/b\n");
    check_memory(KIB(16000), KIB(9000));
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/b/memory.current", "5000\n");
    check_memory(KIB(16000), KIB(9000));
}

static void test_memory_when_a_group_limits_it_then_the_least_on_the_way(void)
{
    put("/sys/fs/cgroup/a/b/memory.max", "4096000\n");
    put("/sys/fs/cgroup/a/b/memory.current", "1000000\n");
    check_memory(4096000, 3096000);
    put("/sys/fs/cgroup/a/b/memory.stat", "anon 900000\ninactive_file 60000\nactive_file 1\n");
    check_memory(4096000, 3156000);
    put("/sys/fs/cgroup/a/memory.max", "2048000\n");
    put("/sys/fs/cgroup/a/memory.current", "1500000\n");
    check_memory(2048000, 548000);
    put("/sys/fs/cgroup/a/memory.current", "9500000\n"); /* over its limit: it was lowered */
    check_memory(2048000, 0);
    /* In a container the named path is not mounted; the mount's root is the group's own. */
    put("/proc/self/cgroup", "0::/elsewhere/x\n");
    check_memory(KIB(16000), KIB(9000));
    put("/sys/fs/cgroup/memory.max", "1024000\n");
    put("/sys/fs/cgroup/memory.current", "24000\n");
    check_memory(1024000, 1000000);
    drop("/sys/fs/cgroup/memory.max");
}

static void test_memory_when_version_1_limits_it_then_that(void)
{
    put("/proc/self/cgroup", "9:cpu,cpuacct:/c\n4:memory:/d\n0::/\n");
    check_memory(KIB(16000), KIB(9000));
    put("/sys/fs/cgroup/memory/d/memory.limit_in_bytes", "3000000\n");
    put("/sys/fs/cgroup/memory/d/memory.usage_in_bytes", "1000000\n");
    put("/sys/fs/cgroup/memory/d/memory.stat", "inactive_file 1\ntotal_inactive_file 500000\n");
    check_memory(3000000, 2500000);
    put("/sys/fs/cgroup/memory/d/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    check_memory(KIB(16000), KIB(9000));
}

static void test_memory_when_files_are_odd_then_no_limit_or_a_sentence(void)
{
    struct med_machine_memory m;
    struct med_err err = {0};
    put("/proc/self/cgroup", "\n:\n::\nmemory\n4:memory:\n0::");
    check_memory(KIB(16000), KIB(9000));
    put("/proc/self/cgroup", "4:memory:/d\n");
    put("/sys/fs/cgroup/memory/d/memory.limit_in_bytes", "-5\n");
    check_memory(KIB(16000), KIB(9000));
    put("/proc/meminfo", "MemTotal: 16000 kB\n"); /* an old kernel */
    check_memory(KIB(16000), KIB(16000));
    put("/proc/meminfo", "nonsense\n");
    CHECK_INT(med_machine_memory_read(root, &m, &err), MED_E_IO);
    CHECK_CONTAINS(err.text, "/proc/meminfo");
    drop("/proc/meminfo");
    CHECK_INT(med_machine_memory_read(root, &m, &err), MED_E_IO);
}

static void test_memory_when_it_is_this_machines_then_some(void)
{
    struct med_machine_memory m = {0};
    struct med_err err = {0};
    CHECK_INT(med_machine_memory_read("", &m, &err), 0);
    CHECK(m.total_bytes > 0);
    CHECK(m.available_bytes > 0 && m.available_bytes <= m.total_bytes);
}

int main(void)
{
    (void)snprintf(root, sizeof root, "/tmp/medley-machine-%ld", (long)getpid());
    REQUIRE(mkdir(root, 0700) == 0);
    RUN(test_memory_when_no_group_limits_it_then_the_machines);
    RUN(test_memory_when_a_group_limits_it_then_the_least_on_the_way);
    RUN(test_memory_when_version_1_limits_it_then_that);
    RUN(test_memory_when_files_are_odd_then_no_limit_or_a_sentence);
    RUN(test_memory_when_it_is_this_machines_then_some);
    char command[128];
    (void)snprintf(command, sizeof command, "rm -r %s", root);
    CHECK_INT(system(command), 0);
    return check_finish();
}
