/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The test header: one program per file, one function per behaviour.
 *
 *     static void test_thing_when_full_then_refuses(void) { CHECK_INT(thing_add(...), MED_E_LIMIT);
 * } int main(void) { RUN(test_thing_when_full_then_refuses); return check_finish(); }
 *
 * A failed check prints place, expression and both values, counts, and goes on (REQUIRE stops the
 * program, for what later lines rely on).  Checks are on in every build.  check_seed() is what a
 * randomised test starts from: MEDLEY_TEST_SEED if set, else a fixed number; it is printed.
 * thread: main; other threads report through their own results.
 */
#ifndef MED_TESTS_CHECK_H
#define MED_TESTS_CHECK_H

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
# define CHECK_UNUSED __attribute__((unused))
#else
# define CHECK_UNUSED
#endif

static int check_failures;
static int check_count;

CHECK_UNUSED static bool check_note(bool ok)
{
    check_count++;
    if (!ok)
        check_failures++;
    return ok;
}

CHECK_UNUSED static void check_int(const char *file, int line, const char *what, int64_t got,
                                   int64_t want)
{
    if (!check_note(got == want))
        (void)fprintf(stderr, "%s:%d: %s: got %" PRId64 ", want %" PRId64 "\n", file, line, what,
                      got, want);
}

CHECK_UNUSED static void check_uint(const char *file, int line, const char *what, uint64_t got,
                                    uint64_t want)
{
    if (!check_note(got == want))
        (void)fprintf(stderr, "%s:%d: %s: got %" PRIu64 ", want %" PRIu64 "\n", file, line, what,
                      got, want);
}

/* tolerance is absolute; NAN equals NAN. */
CHECK_UNUSED static void check_double(const char *file, int line, const char *what, double got,
                                      double want, double tolerance)
{
    bool ok = (isnan(got) && isnan(want)) || got == want || fabs(got - want) <= tolerance;
    if (!check_note(ok))
        (void)fprintf(stderr, "%s:%d: %s: got %.17g, want %.17g (tolerance %g)\n", file, line, what,
                      got, want, tolerance);
}

CHECK_UNUSED static void check_str(const char *file, int line, const char *what, const char *got,
                                   const char *want)
{
    bool ok = got && want ? strcmp(got, want) == 0 : got == want;
    if (!check_note(ok))
        (void)fprintf(stderr, "%s:%d: %s:\n  got  %s%s%s\n  want %s%s%s\n", file, line, what,
                      got ? "\"" : "", got ? got : "NULL", got ? "\"" : "", want ? "\"" : "",
                      want ? want : "NULL", want ? "\"" : "");
}

CHECK_UNUSED static void check_contains(const char *file, int line, const char *what,
                                        const char *got, const char *part)
{
    if (!check_note(got && strstr(got, part)))
        (void)fprintf(stderr, "%s:%d: %s:\n  got  \"%s\"\n  want it to contain \"%s\"\n", file,
                      line, what, got ? got : "NULL", part);
}

CHECK_UNUSED static bool check_true(const char *file, int line, const char *what, bool got)
{
    if (!check_note(got))
        (void)fprintf(stderr, "%s:%d: %s: got false, want true\n", file, line, what);
    return got;
}

#define CHECK(condition)     ((void)check_true(__FILE__, __LINE__, #condition, (condition)))
#define CHECK_INT(got, want) check_int(__FILE__, __LINE__, #got, (int64_t)(got), (int64_t)(want))
#define CHECK_UINT(got, want) \
 check_uint(__FILE__, __LINE__, #got, (uint64_t)(got), (uint64_t)(want))
#define CHECK_DOUBLE(got, want, tolerance) \
 check_double(__FILE__, __LINE__, #got, (got), (want), (tolerance))
#define CHECK_STR(got, want)      check_str(__FILE__, __LINE__, #got, (got), (want))
#define CHECK_CONTAINS(got, part) check_contains(__FILE__, __LINE__, #got, (got), (part))
#define REQUIRE(condition)                                      \
 do {                                                           \
  if (!check_true(__FILE__, __LINE__, #condition, (condition))) \
   exit(1);                                                     \
 } while (0)

/* Runs one test function and names it if it failed. */
#define RUN(test)                               \
 do {                                           \
  int failures_before = check_failures;         \
  test();                                       \
  if (check_failures != failures_before)        \
   (void)fprintf(stderr, "FAILED %s\n", #test); \
 } while (0)

CHECK_UNUSED static uint64_t check_seed(void)
{
    static bool printed;
    const char *text = getenv("MEDLEY_TEST_SEED");
    uint64_t seed = 20240917;
    if (text && *text) {
        char *end;
        seed = strtoull(text, &end, 0);
        if (*end != '\0') {
            (void)fprintf(stderr, "MEDLEY_TEST_SEED=%s is not a number\n", text);
            exit(1);
        }
    }
    if (!printed)
        (void)printf("seed %" PRIu64 " (set MEDLEY_TEST_SEED to change it)\n", seed);
    printed = true;
    return seed;
}

/* What main returns. */
CHECK_UNUSED static int check_finish(void)
{
    (void)printf("%d checks, %d failed\n", check_count, check_failures);
    return check_failures || check_count == 0 ? 1 : 0;
}

#endif
