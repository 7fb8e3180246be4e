/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley ask: asks a running router something and streams the answer.
 *
 * One call; text goes to standard output as it comes, everything else to standard error.  The first
 * SIGINT or SIGTERM cancels the call, so that the worker stops; a second one ends the program.
 * threads: main, and the client's own.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/options.h"
#include "router/ask/show.h"
#include "router/grpc_client.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    LOOK_MS = 50, /* how soon a signal is seen */
    ANSWER_BYTES = 64 << 20,
    MESSAGES_MAX = 2
};

struct options {
    const char *target, *tls_ca, *api_key_file, *model, *system, *request_id;
    int64_t tokens_max, seed;
    double temperature, top_p;
    struct med_option_list stops;
    bool raw, echo, json, stats;
    int64_t timeout_ns, connect_timeout_ns;
};

#define FIELD(name) offsetof(struct options, name)

// clang-format off
static const struct med_option option_table[] = {
    {.name = "target", .type = MED_OPT_STRING, .offset = FIELD(target), .unit = "HOST:PORT",
     .default_text = "127.0.0.1:7070", .group = "Router",
     .help = "The router's gRPC door; unix:PATH is taken too."},
    {.name = "tls-ca", .type = MED_OPT_STRING, .offset = FIELD(tls_ca), .unit = "FILE",
     .help = "Speaks TLS, and checks the router's certificate with these PEM authorities; system: with the "
             "system's."},
    {.name = "api-key-file", .type = MED_OPT_STRING, .offset = FIELD(api_key_file), .unit = "FILE",
     .help = "The first line is the API key that is presented."},
    {.name = "target-model", .type = MED_OPT_STRING, .offset = FIELD(model), .unit = "NAME",
     .help = "The model's name; another than the served one is refused. Default: the one that is served."},
    {.name = "request-id", .type = MED_OPT_STRING, .offset = FIELD(request_id), .unit = "ID",
     .help = "Named in the logs of router and worker. Default: the router makes one."},
    {.name = "connect-timeout", .type = MED_OPT_DURATION, .offset = FIELD(connect_timeout_ns),
     .unit = "TIME", .default_text = "10s", .min = 0.01, .max = 3600,
     .help = "How long connecting may take; where nobody listens it fails at once."},
    {.name = "timeout", .type = MED_OPT_DURATION, .offset = FIELD(timeout_ns), .unit = "TIME",
     .default_text = "0s", .min = 0, .max = 86400,
     .help = "The call's deadline; 0: none."},
    {.name = "system", .type = MED_OPT_STRING, .offset = FIELD(system), .unit = "TEXT",
     .group = "Prompt", .help = "A system message before the prompt."},
    {.name = "raw", .type = MED_OPT_FLAG, .offset = FIELD(raw),
     .help = "Completes PROMPT as it is, instead of answering it as a chat's user message."},
    {.name = "echo", .type = MED_OPT_FLAG, .offset = FIELD(echo),
     .help = "The answer begins with the prompt's text; with --raw."},
    {.name = "max-tokens", .type = MED_OPT_INTEGER, .offset = FIELD(tokens_max), .unit = "TOKENS",
     .default_text = "0", .min = 0, .max = MED_LIMIT_OUTPUT_TOKENS, .group = "Sampling",
     .help = "Most tokens to generate; 0: the rest of the context, with --raw 16."},
    {.name = "temperature", .type = MED_OPT_NUMBER, .offset = FIELD(temperature), .unit = "X",
     .min = 0, .max = 2, .help = "0: always the likeliest token. Default: the model's."},
    {.name = "top-p", .type = MED_OPT_NUMBER, .offset = FIELD(top_p), .unit = "X", .min = 0, .max = 1,
     .help = "Draws from the likeliest tokens of this probability together. Default: the model's."},
    {.name = "seed", .type = MED_OPT_INTEGER, .offset = FIELD(seed), .unit = "N", .min = 0,
     .max = 9e15, .help = "The same seed gives the same draws. Default: the router draws one."},
    {.name = "stop", .type = MED_OPT_LIST, .offset = FIELD(stops), .unit = "TEXT",
     .help = "The answer ends before this text; may be given up to 16 times."},
    {.name = "json", .type = MED_OPT_FLAG, .offset = FIELD(json), .group = "Output",
     .help = "One JSON object at the end, instead of the text as it comes."},
    {.name = "stats", .type = MED_OPT_FLAG, .offset = FIELD(stats),
     .help = "Tells on standard error how long the first token took, and tokens per second."},
    {0},
};
// clang-format on

static const struct med_program program = {
    .name = "medley ask",
    .synopsis = "[options] PROMPT",
    .summary = "Asks a running router something and streams the answer.",
    .details =
        "PROMPT \"-\" is read from standard input. The router needs the model's tokenizer\n"
        "(`medley router --model DIR`, `medley up --model DIR`), and for a chat its template.\n"
        "On a terminal, control characters of the answer are shown as \"?\".\n"
        "Ctrl-C cancels the call and stops the worker.\n"
        "\n"
        "Exit status: 0 the answer is whole, 1 the call failed or was cancelled, 2 wrong usage,\n"
        "or the router finds the request invalid.\n"
        "\n"
        "Examples:\n"
        "  medley ask \"Who are you?\"\n"
        "  medley ask --raw --max-tokens 40 --seed 1 --stats \"It is a truth\"\n"
        "  medley ask --system \"Answer in one sentence.\" - < question.txt\n",
    .options = option_table,
    .positional_min = 1,
    .positional_max = 1,
};

static volatile sig_atomic_t stop_requested;

static void on_signal(int number)
{
    if (stop_requested) {
        struct sigaction action = {.sa_handler = SIG_DFL};
        (void)sigaction(number, &action, NULL);
        (void)raise(number);
    }
    stop_requested = 1;
}

static void catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)signal(SIGPIPE, SIG_IGN); // a reader that goes away is an error of fflush
}

/* thread: main */
struct ask {
    const struct options *options;
    const struct med_options *given;
    struct med_buf prompt;
    struct med_buf answer, shown;
    bool terminal;
    bool output_lost; // standard output cannot be written
    int64_t start_ns, first_ns, last_ns, end_ns;
    uint32_t tokens;
};

/* ---- output ---- */

static void show(struct ask *ask, const char *text, size_t bytes)
{
    med_buf_clear(&ask->shown);
    int rc = ask->terminal ? med_ask_make_harmless(text, bytes, &ask->shown)
                           : med_buf_append(&ask->shown, text, bytes);
    if (rc < 0 || fwrite(ask->shown.data, 1, ask->shown.length, stdout) != ask->shown.length ||
        fflush(stdout) != 0)
        ask->output_lost = true;
}

static void on_text(struct ask *ask, const struct med_grpc_event *event)
{
    if (event->count > 0 && ask->tokens == 0)
        ask->first_ns = event->at_ns;
    ask->tokens += event->count;
    ask->last_ns = event->at_ns;
    if (event->text_bytes == 0)
        return;
    if (!ask->options->json)
        show(ask, event->text, event->text_bytes);
    if (med_buf_append(&ask->answer, event->text, event->text_bytes) < 0)
        ask->output_lost = true;
}

static const char *finish_name(int reason)
{
    return reason == 1 ? "stop" : reason == 2 ? "length" : "";
}

static double seconds(int64_t ns)
{
    return (double)ns / (double)MED_NS_PER_S;
}

/* Between the first and the last token; 0: there are not two. */
static double tokens_per_s(const struct ask *ask)
{
    return ask->tokens > 1 && ask->last_ns > ask->first_ns
               ? (ask->tokens - 1) / seconds(ask->last_ns - ask->first_ns)
               : 0;
}

static void print_stats(const struct ask *ask, const struct med_grpc_call_end *end)
{
    if (ask->tokens > 0) {
        (void)fprintf(stderr, "first token after %.3f s, ", seconds(ask->first_ns - ask->start_ns));
    }
    (void)fprintf(stderr,
                  "%u tokens in %.3f s (%.1f tokens/s after the first); prompt %u tokens, %u "
                  "cached; %s, ended by %s\n",
                  ask->tokens, seconds(ask->end_ns - ask->start_ns), tokens_per_s(ask),
                  end->prompt_tokens, end->cached_tokens, end->worker_type,
                  end->stop[0] != '\0' ? "a stop string" : finish_name(end->finish_reason));
}

static int print_json(const struct ask *ask, const struct med_grpc_call_end *end)
{
    struct med_json_writer w;
    struct med_buf out;
    med_buf_init(&out, (size_t)7 * ANSWER_BYTES);
    med_json_writer_init(&w, &out, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "request_id", end->request_id);
    med_json_put_string(&w, "text", ask->answer.data != NULL ? ask->answer.data : "");
    med_json_put_string(&w, "finish_reason", finish_name(end->finish_reason));
    med_json_put_string(&w, "stop", end->stop);
    med_json_put_integer(&w, "prompt_tokens", end->prompt_tokens);
    med_json_put_integer(&w, "cached_tokens", end->cached_tokens);
    med_json_put_integer(&w, "completion_tokens", end->completion_tokens);
    med_json_put_string(&w, "worker_type", end->worker_type);
    med_json_put_number(&w, "ttft_s", ask->tokens > 0 ? seconds(ask->first_ns - ask->start_ns) : 0);
    med_json_put_number(&w, "e2e_s", seconds(ask->end_ns - ask->start_ns));
    med_json_put_number(&w, "tokens_per_s", tokens_per_s(ask));
    med_json_end_object(&w);
    int rc = med_json_writer_finish(&w);
    if (rc == 0 && (fwrite(out.data, 1, out.length, stdout) != out.length || fflush(stdout) != 0))
        rc = MED_E_IO;
    med_buf_release(&out);
    return rc;
}

/* ---- the call ---- */

static int64_t real_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); // always succeeds on Linux
    return (int64_t)now.tv_sec * MED_NS_PER_S + now.tv_nsec;
}

/* Takes events until the call's end. */
static void follow(struct ask *ask, struct med_grpc_client *client, struct med_grpc_call *call)
{
    bool cancelled = false;
    for (;;) {
        if ((stop_requested || ask->output_lost) && !cancelled) {
            med_grpc_call_cancel(call);
            cancelled = true;
        }
        struct med_grpc_event *event =
            med_grpc_client_wait(client, real_now_ns() + LOOK_MS * MED_NS_PER_MS);
        while (event != NULL) {
            struct med_grpc_event *next = med_grpc_event_next(event);
            if (event->end) {
                ask->end_ns = event->at_ns;
                return; // the last event of the only call
            }
            on_text(ask, event);
            med_grpc_event_free(event);
            event = next;
        }
    }
}

/* The status of the call as one of ours. */
static int end_code(const struct ask *ask, const struct med_grpc_call_end *end, struct med_err *err)
{
    if (ask->output_lost)
        return med_err_set(err, MED_E_IO, "standard output cannot be written: %s", strerror(errno));
    if (stop_requested && end->status != 0)
        return med_err_set(err, MED_E_CANCELLED, "cancelled after %u tokens", ask->tokens);
    if (end->status == 0)
        return 0;
    const char *name = med_grpc_status_name(end->status);
    bool wrong = strcmp(name, "INVALID_ARGUMENT") == 0 || strcmp(name, "NOT_FOUND") == 0;
    return med_err_set(err, wrong ? MED_E_INVALID : MED_E_IO, "%s: %s", name, end->details);
}

static int call_router(struct ask *ask, struct med_grpc_client *client,
                       const struct med_clock *clock, struct med_err *err)
{
    const struct options *o = ask->options;
    struct med_grpc_client_message messages[MESSAGES_MAX];
    size_t count = 0;
    if (!o->raw && o->system != NULL)
        messages[count++] = (struct med_grpc_client_message){"system", o->system};
    if (!o->raw)
        messages[count++] = (struct med_grpc_client_message){"user", ask->prompt.data};
    struct med_grpc_client_request request = {
        .model = o->model,
        .messages = messages,
        .message_count = count,
        .text = ask->prompt.data,
        .max_tokens = (uint32_t)o->tokens_max,
        .request_id = o->request_id,
        .has_seed = med_options_given(ask->given, "seed"),
        .seed = (uint64_t)o->seed,
        .has_temperature = med_options_given(ask->given, "temperature"),
        .temperature = (float)o->temperature,
        .has_top_p = med_options_given(ask->given, "top-p"),
        .top_p = (float)o->top_p,
        .stops = o->stops.values,
        .stop_count = o->stops.count,
        .echo = o->echo,
        .wants_text = true,
        .timeout_real_ns = o->timeout_ns,
    };
    struct med_grpc_call *call = NULL;
    struct med_grpc_call_end end;
    ask->start_ns = med_clock_now_ns(clock);
    int rc = med_grpc_client_start(client, &request, NULL, &call);
    if (rc < 0)
        return med_err_set(err, rc, "the request cannot be sent: %s", med_err_text(rc));
    follow(ask, client, call);
    med_grpc_call_get_end(call, &end);
    rc = end_code(ask, &end, err);
    if (!o->json && ask->answer.length > 0 && ask->answer.data[ask->answer.length - 1] != '\n')
        (void)puts("");
    if (rc == 0 && o->json)
        rc = print_json(ask, &end);
    if (rc == 0 && o->stats)
        print_stats(ask, &end);
    med_grpc_call_free(call);
    return rc;
}

/* ---- the prompt ---- */

static int read_prompt(struct ask *ask, const char *given, struct med_err *err)
{
    int rc;
    if (strcmp(given, "-") == 0) {
        rc = med_buf_read_file(&ask->prompt, "-", err);
    } else {
        rc = med_buf_append_str(&ask->prompt, given);
        if (rc < 0)
            (void)med_err_set(err, rc, "PROMPT: %s", med_err_text(rc));
    }
    if (rc < 0)
        return rc;
    if (ask->prompt.length == 0)
        return med_err_set(err, MED_E_USAGE, "PROMPT: found none, expected some text");
    const char *zero = memchr(ask->prompt.data, '\0', ask->prompt.length);
    if (zero != NULL) {
        return med_err_set(err, MED_E_USAGE,
                           "PROMPT: found a zero byte at position %td, expected text",
                           zero - ask->prompt.data);
    }
    return 0;
}

static int check_options(const struct options *o, struct med_err *err)
{
    if (o->raw && o->system != NULL)
        return med_err_set(err, MED_E_USAGE, "--system: goes with a chat, not with --raw");
    if (o->echo && !o->raw)
        return med_err_set(err, MED_E_USAGE, "--echo: goes with --raw");
    return 0;
}

static int run(struct ask *ask, const char *prompt, struct med_err *err)
{
    const struct med_grpc_client_security security = {.tls_ca = ask->options->tls_ca,
                                                      .api_key_file = ask->options->api_key_file};
    struct med_grpc_client *client = NULL;
    struct med_clock clock;
    med_clock_init_real(&clock, 1);
    int rc = check_options(ask->options, err);
    if (rc == 0)
        rc = read_prompt(ask, prompt, err);
    if (rc == 0) {
        rc = med_grpc_client_new(ask->options->target, &clock, ask->options->connect_timeout_ns,
                                 false, &security, &client, err);
    }
    if (rc == 0)
        rc = call_router(ask, client, &clock, err);
    med_grpc_client_free(client);
    return rc;
}

int main(int argc, char **argv)
{
    struct options values = {0};
    struct med_options options;
    struct med_err err = {0};
    int status = 0;
    if (med_options_main(&program, argc, argv, &values, &options, &status) == MED_OPTIONS_DONE)
        return status;
    catch_signals();
    struct ask ask = {
        .options = &values, .given = &options, .terminal = isatty(STDOUT_FILENO) == 1};
    med_buf_init(&ask.prompt, MED_LIMIT_PROMPT_BYTES);
    med_buf_init(&ask.answer, ANSWER_BYTES);
    med_buf_init(&ask.shown, ANSWER_BYTES);
    int rc = run(&ask, options.positional[0], &err);
    if (rc < 0) {
        (void)fprintf(stderr, "medley ask: %s\n", err.text);
        status = med_err_exit_status(rc);
    }
    med_buf_release(&ask.prompt);
    med_buf_release(&ask.answer);
    med_buf_release(&ask.shown);
    med_options_release(&options);
    return status;
}
