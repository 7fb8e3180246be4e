/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The option table: precedence, sources, refusals, help, parsers, and memory running out.
 * thread: main.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/options.h"
#include "tests/check.h"

#include <stddef.h>
#include <unistd.h>

struct values {
    bool json;
    bool colour;
    const char *workload;
    int64_t seed;
    double rate;
    int64_t timeout_ns;
    const char *policy;
    struct med_option_list slos;
    const char *token;
};

static const struct med_option table[] = {
    {.name = "workload",
     .short_name = 'w',
     .type = MED_OPT_STRING,
     .offset = offsetof(struct values, workload),
     .unit = "FILE",
     .help = "Requests by size.",
     .group = "Demand"},
    {.name = "rate",
     .short_name = 'r',
     .type = MED_OPT_NUMBER,
     .offset = offsetof(struct values, rate),
     .unit = "REQ/S",
     .default_text = "5",
     .min = 0,
     .max = 1000,
     .help = "Total arrival rate."},
    {.name = "slo",
     .type = MED_OPT_LIST,
     .offset = offsetof(struct values, slos),
     .unit = "OBJECTIVE",
     .help = "One objective."},
    {.name = "timeout",
     .type = MED_OPT_DURATION,
     .offset = offsetof(struct values, timeout_ns),
     .default_text = "30s",
     .min = 0.001,
     .max = 3600,
     .help = "Time for the solver.",
     .group = "Search"},
    {.name = "policy",
     .type = MED_OPT_CHOICE,
     .offset = offsetof(struct values, policy),
     .default_text = "least",
     .choices = "least|random|round-robin",
     .help = "How to choose."},
    {.name = "seed",
     .type = MED_OPT_INTEGER,
     .offset = offsetof(struct values, seed),
     .default_text = "1",
     .min = 0,
     .max = 1e15,
     .help = "Start of the random numbers."},
    {.name = "colour",
     .type = MED_OPT_FLAG,
     .offset = offsetof(struct values, colour),
     .default_text = "true",
     .help = "Use colour.",
     .group = "Output"},
    {.name = "json",
     .type = MED_OPT_FLAG,
     .offset = offsetof(struct values, json),
     .help = "Print one JSON object."},
    {.name = "token",
     .type = MED_OPT_SECRET,
     .offset = offsetof(struct values, token),
     .help = "Key of the workers."},
    {0},
};

static const struct med_program program = {
    .name = "medley plan",
    .synopsis = "[options] [FILE]",
    .summary = "Finds the cheapest mix.",
    .details = "Exit status: 0 done, 2 wrong use.\n",
    .options = table,
    .positional_max = 1,
};

enum {
    ARGS_MAX = 16
};

struct run {
    struct values values;
    struct med_options options;
    struct med_err err;
    int rc;
};

/* Parses words separated by spaces. */
static void run_parse(struct run *run, const char *line)
{
    static char words[1024];
    static char *argv[ARGS_MAX + 2];
    int argc = 0;
    argv[argc++] = (char *)(uintptr_t) "medley-plan";
    (void)snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word && argc <= ARGS_MAX; word = strtok(NULL, " "))
        argv[argc++] = word;
    argv[argc] = NULL;
    *run = (struct run){0};
    run->rc = med_options_parse(&program, argc, argv, &run->values, &run->options, &run->err);
}

static void run_release(struct run *run)
{
    med_options_release(&run->options);
}

static void check_refused(const char *line, const char *sentence)
{
    struct run run;
    run_parse(&run, line);
    CHECK_INT(run.rc, MED_E_USAGE);
    CHECK_INT(run.err.code, MED_E_USAGE);
    CHECK_STR(run.err.text, sentence);
    if (run.rc == 0)
        run_release(&run);
}

static char config_path[] = "/tmp/medley_test_options_XXXXXX";

static void config_write(const char *text)
{
    FILE *file = fopen(config_path, "w");
    REQUIRE(file);
    REQUIRE(fputs(text, file) >= 0);
    REQUIRE(fclose(file) == 0);
}

static void test_defaults_when_nothing_is_given(void)
{
    struct run run;
    run_parse(&run, "");
    REQUIRE(run.rc == MED_OPTIONS_RUN);
    CHECK_STR(run.values.workload, NULL);
    CHECK_DOUBLE(run.values.rate, 5, 0);
    CHECK_INT(run.values.timeout_ns, 30 * MED_NS_PER_S);
    CHECK_STR(run.values.policy, "least");
    CHECK_INT(run.values.seed, 1);
    CHECK(run.values.colour);
    CHECK(!run.values.json);
    CHECK_UINT(run.values.slos.count, 0);
    CHECK_INT(run.options.positional_count, 0);
    CHECK(!med_options_given(&run.options, "rate"));
    run_release(&run);
}

static void test_command_line_in_every_spelling(void)
{
    struct run run;
    run_parse(&run,
              "-w a.json --rate=0.8k in.csv --slo x --slo=y=z --no-colour --json --timeout 1.5m "
              "--policy random --seed 3Ki");
    REQUIRE(run.rc == MED_OPTIONS_RUN);
    CHECK_STR(run.values.workload, "a.json");
    CHECK_DOUBLE(run.values.rate, 800, 0);
    run_release(&run);
}

static void test_command_line_values(void)
{
    struct run run;
    run_parse(&run, "-r7 --slo x --slo=y=z --no-colour --json --timeout 1.5m --policy random "
                    "--seed 3Ki -- --json");
    REQUIRE(run.rc == MED_OPTIONS_RUN);
    CHECK_DOUBLE(run.values.rate, 7, 0);
    REQUIRE(run.values.slos.count == 2);
    CHECK_STR(run.values.slos.values[0], "x");
    CHECK_STR(run.values.slos.values[1], "y=z");
    CHECK(!run.values.colour);
    CHECK(run.values.json);
    CHECK_INT(run.values.timeout_ns, 90 * MED_NS_PER_S);
    CHECK_STR(run.values.policy, "random");
    CHECK_INT(run.values.seed, 3072);
    REQUIRE(run.options.positional_count == 1);
    CHECK_STR(run.options.positional[0], "--json");
    CHECK(med_options_given(&run.options, "slo"));
    CHECK(!med_options_given(&run.options, "log-level"));
    run_release(&run);
}

static void test_last_one_wins_on_the_command_line(void)
{
    struct run run;
    run_parse(&run, "--rate 1 --rate 2 --json --no-json -");
    REQUIRE(run.rc == MED_OPTIONS_RUN);
    CHECK_DOUBLE(run.values.rate, 2, 0);
    CHECK(!run.values.json);
    CHECK_STR(run.options.positional[0], "-");
    run_release(&run);
}

static void test_precedence_of_the_four_sources(void)
{
    config_write(
        "{\"format\": \"medley-config/1\", \"rate\": 10, \"seed\": 10, \"policy\": \"random\","
        " \"slo\": [\"flat\"], \"timeout\": \"10ms\", \"json\": true, \"log-level\": \"error\","
        " \"bench\": {\"anything\": 1},"
        " \"plan\": {\"policy\": \"round-robin\", \"slo\": [\"a\", \"b\"], \"seed\": \"2k\","
        "            \"token\": \"t\"}}");
    REQUIRE(setenv("MEDLEY_RATE", "20", 1) == 0);
    REQUIRE(setenv("MEDLEY_SEED", "20", 1) == 0);
    REQUIRE(setenv("MEDLEY_CONFIG", config_path, 1) == 0);
    struct run run;
    run_parse(&run, "--rate 30");
    CHECK_STR(run.err.text, "");
    REQUIRE(run.rc == MED_OPTIONS_RUN);
    CHECK_DOUBLE(run.values.rate, 30, 0);                 // command line
    CHECK_INT(run.values.seed, 20);                       // environment
    CHECK_STR(run.values.policy, "round-robin");          // the verb's section
    CHECK_INT(run.values.timeout_ns, 10 * MED_NS_PER_MS); // the flat part
    CHECK(run.values.colour);                             // default
    CHECK(run.values.json);
    CHECK_STR(run.values.token, "t");
    REQUIRE(run.values.slos.count == 2);
    CHECK_STR(run.values.slos.values[0], "a");
    CHECK(med_options_given(&run.options, "policy"));
    run_release(&run);

    REQUIRE(setenv("MEDLEY_SLO", "e1,e2,e3", 1) == 0);
    run_parse(&run, "");
    REQUIRE(run.rc == MED_OPTIONS_RUN);
    REQUIRE(run.values.slos.count == 3);
    CHECK_STR(run.values.slos.values[2], "e3");
    run_release(&run);
    run_parse(&run, "--slo c");
    REQUIRE(run.rc == MED_OPTIONS_RUN);
    REQUIRE(run.values.slos.count == 1);
    CHECK_STR(run.values.slos.values[0], "c");
    run_release(&run);
    REQUIRE(unsetenv("MEDLEY_RATE") == 0);
    REQUIRE(unsetenv("MEDLEY_SEED") == 0);
    REQUIRE(unsetenv("MEDLEY_SLO") == 0);
    REQUIRE(unsetenv("MEDLEY_CONFIG") == 0);
}

static void test_environment_when_wrong_then_named(void)
{
    struct run run;
    REQUIRE(setenv("MEDLEY_RATE", "fast", 1) == 0);
    check_refused("", "MEDLEY_RATE: found \"fast\", expected a number from 0 to 1000");
    run_parse(&run, "--rate 1"); // what is overridden cannot stand in the way
    CHECK_INT(run.rc, MED_OPTIONS_RUN);
    run_release(&run);
    REQUIRE(setenv("MEDLEY_RATE", "", 1) == 0);
    run_parse(&run, "");
    REQUIRE(run.rc == MED_OPTIONS_RUN);
    CHECK_DOUBLE(run.values.rate, 5, 0);
    run_release(&run);
    REQUIRE(unsetenv("MEDLEY_RATE") == 0);
    REQUIRE(setenv("MEDLEY_JSON", "yes", 1) == 0);
    run_parse(&run, "");
    CHECK(run.values.json);
    run_release(&run);
    REQUIRE(setenv("MEDLEY_JSON", "maybe", 1) == 0);
    check_refused(
        "", "MEDLEY_JSON: found \"maybe\", expected true or false (or 1, 0, yes, no, on, off)");
    REQUIRE(unsetenv("MEDLEY_JSON") == 0);
}

static void test_command_line_refusals(void)
{
    static const struct {
        const char *line;
        const char *sentence;
    } cases[] = {
        {"--slow x", "unknown option --slow; did you mean --slo?"},
        {"--wrkload x", "unknown option --wrkload; did you mean --workload?"},
        {"--jsno", "unknown option --jsno; did you mean --json?"},
        {"--xyzzy=1", "unknown option --xyzzy; see medley plan --help"},
        {"-q", "unknown option -q; see medley plan --help"},
        {"--rate", "--rate needs a value: --rate REQ/S"},
        {"--workload --json",
         "--workload needs a value (FILE), but the option --json follows; write "
         "--workload=--json if that is the value (see medley plan --help)"},
        {"--rate abc", "--rate: found \"abc\", expected a number from 0 to 1000"},
        {"--rate -1", "--rate: found \"-1\", expected a number from 0 to 1000"},
        {"--rate nan", "--rate: found \"nan\", expected a number from 0 to 1000"},
        {"--rate inf", "--rate: found \"inf\", expected a number from 0 to 1000"},
        {"--rate 1e999", "--rate: found \"1e999\", expected a number from 0 to 1000"},
        {"--rate 5x", "--rate: found \"5x\", expected a number from 0 to 1000"},
        {"--seed 1.5", "--seed: found \"1.5\", expected a whole number from 0 to 1000000000000000"},
        {"--timeout 5",
         "--timeout: found \"5\", expected a duration with its unit (ns, us, ms, s, m, h) "
         "from 1ms to 1h"},
        {"--timeout 2h",
         "--timeout: found \"2h\", expected a duration with its unit (ns, us, ms, s, m, "
         "h) from 1ms to 1h"},
        {"--policy best", "--policy: found \"best\", expected one of least|random|round-robin"},
        {"--json=1", "--json takes no value; use --json or --no-json"},
        {"--no-rate", "--rate takes a value; there is no --no-rate"},
        {"--token=x",
         "--token is a secret, and other users can read command lines; set MEDLEY_TOKEN or "
         "put it into the --config file"},
        {"a b", "unexpected argument \"b\"; usage: medley plan [options] [FILE]"},
        {"a\x1b[2J b\nc", "unexpected argument \"b\\nc\"; usage: medley plan [options] [FILE]"},
        {"--log-level loud",
         "--log-level: found \"loud\", expected one of debug|info|warn|error|off"},
        {"--config /nonexistent/x", "/nonexistent/x: cannot open: No such file or directory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_refused(cases[i].line, cases[i].sentence);
}

static void test_config_refusals(void)
{
    static const struct {
        const char *text;
        const char *sentence; // after "FILE: "
    } cases[] = {
        {"[1]", "$: a config file must hold one object"},
        {"{\"rat\": 1}", "$.rat: medley plan has no such option; did you mean \"rate\"?"},
        {"{\"zzzz\": 1}",
         "$.zzzz: medley plan has no such option; an option of another verb belongs in "
         "that verb's section, as in {\"plan\": {...}}"},
        {"{\"plan\": {\"rats\": 1}}",
         "$.plan.rats: medley plan has no such option; did you mean \"rate\"?"},
        {"{\"bensh\": {}}", "$.bensh: an object here is a verb's section; did you mean \"bench\"?"},
        {"{\"qqqqqq\": {}}",
         "$.qqqqqq: an object here is a verb's section, and medley has no such verb"},
        {"{\"rate\": 1001}", "$.rate: found \"1001\", expected a number from 0 to 1000"},
        {"{\"rate\": true}", "$.rate: found true, expected a number"},
        {"{\"timeout\": 5}", "$.timeout: found a number, expected a duration with its unit, as in "
                             "\"500ms\""},
        {"{\"json\": \"yes\"}", "$.json: found \"yes\", expected true or false"},
        {"{\"slo\": 1}", "$.slo: expected an array of strings"},
        {"{\"slo\": [\"a\", 2]}", "$.slo[1]: found 2, expected a string of 0 to 1048576 bytes"},
        {"{\"config\": \"x\"}", "$.config: --config works on the command line only"},
        {"{\"help\": true}", "$.help: --help works on the command line only"},
        {"{\"format\": \"medley-plan/1\"}", "$.format: found \"medley-plan/1\", expected "
                                            "\"medley-config/1\""},
        {"{\"rate\": 1,}", "line 1, column 12: found '}', expected a key in double quotes"},
    };
    char line[128];
    (void)snprintf(line, sizeof line, "--config %s --rate 3",
                   config_path); // checked though overridden
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char sentence[512];
        config_write(cases[i].text);
        (void)snprintf(sentence, sizeof sentence, "%s: %s", config_path, cases[i].sentence);
        check_refused(line, sentence);
    }
}

static void test_too_few_arguments(void)
{
    struct med_program strict = program;
    strict.positional_min = 1;
    struct run run = {0};
    char *argv[] = {(char *)(uintptr_t) "x", NULL};
    int rc = med_options_parse(&strict, 1, argv, &run.values, &run.options, &run.err);
    CHECK_INT(rc, MED_E_USAGE);
    CHECK_STR(run.err.text, "an argument is missing; usage: medley plan [options] [FILE]");
}

static void test_parsers(void)
{
    static const struct {
        const char *text;
        double value; // NAN: refused
    } numbers[] = {
        {"0", 0},
        {"-0.5", -0.5},
        {"+3", 3},
        {".5", 0.5},
        {"5.", 5},
        {"1e3", 1000},
        {"8k", 8000},
        {"32K", 32000},
        {"1.5M", 1.5e6},
        {"2.3M", 2.3e6},
        {"2G", 2e9},
        {"1T", 1e12},
        {"1Ki", 1024},
        {"1.5Mi", 1572864},
        {"1E-2", 0.01},
        {"", NAN},
        {".", NAN},
        {"-", NAN},
        {"1e", NAN},
        {"e5", NAN},
        {"0x10", NAN},
        {" 1", NAN},
        {"1 ", NAN},
        {"1m", NAN},
        {"1kk", NAN},
        {"1i", NAN},
        {"infinity", NAN},
        {"1e400", NAN},
        {"1e99999999999999999999", NAN},
        {"--1", NAN},
        {"1,5", NAN},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        double value = NAN;
        struct med_err err;
        int rc = med_parse_number(numbers[i].text, "n", -INFINITY, INFINITY, &value, &err);
        CHECK_INT(rc, isnan(numbers[i].value) ? MED_E_USAGE : 0);
        CHECK_DOUBLE(value, numbers[i].value, 0);
    }
    static const struct {
        const char *text;
        int64_t value; // -1: refused
    } integers[] = {
        {"0", 0},
        {"9223372036854775807", INT64_MAX},
        {"9223372036854775808", -1},
        {"1e3", 1000},
        {"1.5k", 1500},
        {"2.3M", 2300000},
        {"1.5", -1},
        {"9007199254740993", INT64_C(9007199254740993)},
        {"10Ti", INT64_C(10995116277760)},
        {"9999999999T", -1},
        {"1e300", -1},
        {"4Ki", 4096},
        {"1.1Ki", -1},
        {"12345678901234567890123456789012345678901234567890123456789012345", -1},
    };
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        int64_t value = -1;
        int rc = med_parse_integer(integers[i].text, "n", 0, INT64_MAX, &value, NULL);
        CHECK_INT(rc, integers[i].value < 0 ? MED_E_USAGE : 0);
        CHECK_INT(value, integers[i].value);
    }
    static const struct {
        const char *text;
        int64_t ns; // -1: refused
    } durations[] = {
        {"0", 0},
        {"1ns", 1},
        {"2us", 2000},
        {"1.5ms", 1500000},
        {"3s", 3 * MED_NS_PER_S},
        {"2m", 120 * MED_NS_PER_S},
        {"1.5h", 5400 * MED_NS_PER_S},
        {"1e3ms", MED_NS_PER_S},
        {"5", -1},
        {"5 s", -1},
        {"-1s", -1},
        {"1d", -1},
        {"s", -1},
        {"1e30h", -1},
        {"0.1ms", 100000},
    };
    for (size_t i = 0; i < sizeof durations / sizeof durations[0]; i++) {
        int64_t ns = -1;
        int rc = med_parse_duration(durations[i].text, "t", 0, INFINITY, &ns, NULL);
        CHECK_INT(rc, durations[i].ns < 0 ? MED_E_USAGE : 0);
        CHECK_INT(ns, durations[i].ns);
    }
    struct med_err err;
    int64_t integer;
    CHECK_INT(med_parse_integer("9", "--n", INT64_MIN, 8, &integer, &err), MED_E_USAGE);
    CHECK_STR(err.text, "--n: found \"9\", expected a whole number <= 8");
    CHECK_INT(med_parse_integer("\x01", "--n", 3, INT64_MAX, &integer, &err), MED_E_USAGE);
    CHECK_STR(err.text, "--n: found \"\\u0001\", expected a whole number >= 3");
}

/* Runs with standard output in a file and reads it back. */
static void run_captured(const char *line, char *out, size_t out_bytes, int *ret_rc)
{
    (void)fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    FILE *file = tmpfile();
    REQUIRE(saved >= 0 && file);
    REQUIRE(dup2(fileno(file), STDOUT_FILENO) >= 0);
    struct run run;
    run_parse(&run, line);
    REQUIRE(dup2(saved, STDOUT_FILENO) >= 0);
    (void)close(saved);
    rewind(file);
    size_t count = fread(out, 1, out_bytes - 1, file);
    out[count] = '\0';
    (void)fclose(file);
    *ret_rc = run.rc;
    run_release(&run);
}

static void test_help_fits_and_names_everything(void)
{
    static char text[16384];
    int rc;
    run_captured("--help", text, sizeof text, &rc);
    CHECK_INT(rc, MED_OPTIONS_DONE);
    for (const struct med_option *option = table; option->name; option++) {
        CHECK_CONTAINS(text, option->name);
        CHECK_CONTAINS(text, option->help);
    }
    CHECK_CONTAINS(text, "Usage: medley plan [options] [FILE]\n");
    CHECK_CONTAINS(text, "  -r, --rate REQ/S ");
    CHECK_CONTAINS(text, "[from 0 to 1000; default 5]");
    CHECK_CONTAINS(text, "[from 1ms to 1h; default 30s]");
    CHECK_CONTAINS(text, "--[no-]colour");
    CHECK_CONTAINS(text, "\nCommon:\n");
    CHECK_CONTAINS(text, "Exit status: 0 done");
    CHECK(!strstr(text, "help-markdown"));
    for (const char *line = text; *line;) {
        size_t length = strcspn(line, "\n");
        CHECK(length <= 100);
        CHECK(length == 0 || line[length - 1] != ' ');
        line += length + (line[length] == '\n');
    }
    run_captured("--version", text, sizeof text, &rc);
    CHECK_INT(rc, MED_OPTIONS_DONE);
    CHECK_STR(text, "medley plan " MED_VERSION "\n");
    run_captured("--help-markdown", text, sizeof text, &rc);
    CHECK_INT(rc, MED_OPTIONS_DONE);
    CHECK_CONTAINS(text, "| `-r, --rate REQ/S` | from 0 to 1000; default 5 | `MEDLEY_RATE` | Total "
                         "arrival rate. |\n");
    CHECK_CONTAINS(text, "least\\|random\\|round-robin");
}

static void test_options_main_exit_status(void)
{
    struct values values = {0};
    struct med_options options;
    int status = -1;
    char *wrong[] = {(char *)(uintptr_t) "medley-plan", (char *)(uintptr_t) "--nope", NULL};
    CHECK_INT(med_options_main(&program, 2, wrong, &values, &options, &status), MED_OPTIONS_DONE);
    CHECK_INT(status, 2);
    med_options_release(&options); // allowed after a failure
    char *right[] = {(char *)(uintptr_t) "medley-plan", NULL};
    CHECK_INT(med_options_main(&program, 1, right, &values, &options, &status), MED_OPTIONS_RUN);
    med_options_release(&options);
}

static void test_every_allocation_failing_in_turn(void)
{
    config_write(
        "{\"rate\": 10, \"slo\": [\"x\"], \"plan\": {\"slo\": [\"a\", \"b\"], \"seed\": 4}}");
    REQUIRE(setenv("MEDLEY_SLO", "p,q", 1) == 0);
    char line[128];
    (void)snprintf(line, sizeof line, "--config %s file", config_path);
    int64_t live = med_alloc_bytes_live();
    uint64_t n = 1;
    for (;; n++) {
        struct run run;
        (void)med_alloc_fail_nth(n);
        run_parse(&run, line);
        (void)med_alloc_fail_nth(0);
        if (run.rc == MED_OPTIONS_RUN) {
            CHECK_UINT(run.values.slos.count, 2);
            run_release(&run);
            break;
        }
        CHECK_INT(run.rc, MED_E_NOMEM);
        CHECK_CONTAINS(run.err.text, "memory is exhausted");
        CHECK_INT(med_alloc_bytes_live(), live);
        REQUIRE(n < 1000);
    }
    CHECK(n > 20);
    CHECK_INT(med_alloc_bytes_live(), live);
    REQUIRE(unsetenv("MEDLEY_SLO") == 0);
}

int main(void)
{
    int fd = mkstemp(config_path);
    REQUIRE(fd >= 0);
    (void)close(fd);
    RUN(test_defaults_when_nothing_is_given);
    RUN(test_command_line_in_every_spelling);
    RUN(test_command_line_values);
    RUN(test_last_one_wins_on_the_command_line);
    RUN(test_precedence_of_the_four_sources);
    RUN(test_environment_when_wrong_then_named);
    RUN(test_command_line_refusals);
    RUN(test_config_refusals);
    RUN(test_too_few_arguments);
    RUN(test_parsers);
    RUN(test_help_fits_and_names_everything);
    RUN(test_options_main_exit_status);
    RUN(test_every_allocation_failing_in_turn);
    (void)unlink(config_path);
    return check_finish();
}
