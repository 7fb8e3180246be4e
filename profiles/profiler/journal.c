/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal (see journal.h): a table of the facts says how each is written, read and compared.
 * thread: main.
 */
#include "profiles/profiler/journal.h"

#include "base/alloc.h"
#include "base/buf.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FORMAT "medley-profile-journal/1"

enum {
    FILE_BYTES_MAX = 64 << 20,
    LINE_BYTES_MAX = 1 << 16
};

enum kind {
    TEXT,
    COUNT,
    NUMBER
};

static const struct fact {
    const char *name;
    size_t offset;
    enum kind kind;
    bool identity; /* differs: another machine, or another thing to measure */
} fact_table[] = {
#define FACT(field, kind, identity)                                  \
 {                                                                   \
#  field, offsetof(struct med_profiled_facts, field), kind, identity \
 }
    FACT(worker_type, TEXT, false),
    FACT(backend, TEXT, true),
    FACT(device, TEXT, true),
    FACT(gpu, TEXT, true),
    FACT(gpus, COUNT, true),
    FACT(uuid, TEXT, true),
    FACT(host, TEXT, true),
    FACT(driver, TEXT, true),
    FACT(clock_max_mhz, COUNT, true),
    FACT(power_limit_w, COUNT, true),
    FACT(version, TEXT, true),
    FACT(model, TEXT, true),
    FACT(dtype, TEXT, true),
    FACT(kv_dtype, TEXT, true),
    FACT(parameters, NUMBER, true),
    FACT(weight_bytes, NUMBER, true),
    FACT(kv_bytes_per_token, NUMBER, true),
    FACT(layers, COUNT, true),
    FACT(hidden, COUNT, true),
    FACT(heads, COUNT, true),
    FACT(kv_heads, COUNT, true),
    FACT(head_dim, COUNT, true),
    FACT(intermediate, COUNT, true),
    FACT(vocab, COUNT, true),
    FACT(model_len_max, COUNT, true),
    FACT(sequences_max, COUNT, true),
    FACT(batched_tokens_max, COUNT, true),
    FACT(block_tokens, COUNT, true),
    FACT(kv_tokens, COUNT, false),
    FACT(memory_bytes, NUMBER, false),
    FACT(read_bytes_per_s, NUMBER, false),
    FACT(read_spread, NUMBER, false),
    FACT(flops_per_s, NUMBER, false),
    FACT(flops_spread, NUMBER, false),
    FACT(peak_bytes_per_s, NUMBER, false),
    FACT(peak_flops_per_s, NUMBER, false),
    FACT(clock_mhz, COUNT, false),
    FACT(memory_clock_mhz, COUNT, false),
    FACT(power_w, COUNT, false),
    FACT(temperature_c, COUNT, false),
    FACT(time_scale, NUMBER, false),
#undef FACT
};

enum {
    FACTS = sizeof fact_table / sizeof fact_table[0]
};

static const void *fact_at(const struct med_profiled_facts *facts, const struct fact *f)
{
    return (const char *)facts + f->offset;
}

/* ---- writing -------------------------------------------------------------------------------- */

static void put_facts(struct med_json_writer *w, const struct med_profiled_facts *facts)
{
    med_json_begin_object(w, "facts");
    for (size_t i = 0; i < FACTS; i++) {
        const struct fact *f = &fact_table[i];
        const void *at = fact_at(facts, f);
        if (f->kind == TEXT) {
            med_json_put_string(w, f->name, at);
        } else if (f->kind == COUNT) {
            med_json_put_integer(w, f->name, *(const int64_t *)at);
        } else {
            med_json_put_number(w, f->name, *(const double *)at);
        }
    }
    med_json_end_object(w);
}

static int put_on_disk(struct med_journal *j, struct med_json_writer *w, struct med_buf *line,
                       struct med_err *err)
{
    int rc = med_json_writer_finish(w);
    if (rc < 0)
        return med_err_set(err, rc, "%s: %s", j->path, med_err_text(rc));
    for (size_t at = 0; at < line->length;) {
        ssize_t wrote = write(j->fd, line->data + at, line->length - at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return med_err_set(err, MED_E_IO, "%s: %s", j->path, strerror(errno));
        at += (size_t)wrote;
    }
    if (fsync(j->fd) < 0)
        return med_err_set(err, MED_E_IO, "%s: %s", j->path, strerror(errno));
    return 0;
}

static int put_header(struct med_journal *j, struct med_err *err)
{
    struct med_buf line;
    struct med_json_writer w;
    med_buf_init(&line, LINE_BYTES_MAX);
    med_json_writer_init(&w, &line, false);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "format", FORMAT);
    med_json_put_string(&w, "date", j->date);
    med_json_put_string(&w, "command", j->command);
    put_facts(&w, &j->facts);
    med_json_end_object(&w);
    int rc = put_on_disk(j, &w, &line, err);
    med_buf_release(&line);
    return rc;
}

static int keep_point(struct med_journal *j, const struct med_journal_point *point)
{
    if (j->count == MED_GRID_POINTS_MAX)
        return MED_E_LIMIT;
    j->points[j->count++] = *point;
    return 0;
}

int med_journal_add(struct med_journal *j, const struct med_journal_point *p, struct med_err *err)
{
    struct med_buf line;
    struct med_json_writer w;
    med_buf_init(&line, LINE_BYTES_MAX);
    med_json_writer_init(&w, &line, false);
    med_json_begin_object(&w, NULL);
    med_json_put_integer(&w, "prefill_tokens", p->point.prefill_tokens);
    med_json_put_integer(&w, "prefill_context", p->point.prefill_context);
    med_json_put_integer(&w, "decode_sequences", p->point.decode_sequences);
    med_json_put_integer(&w, "decode_context", p->point.decode_context);
    if (p->impossible) {
        med_json_put_bool(&w, "impossible", true);
    } else {
        med_json_put_integer(&w, "decode_context_tokens", p->decode_context_tokens);
        med_json_put_number(&w, "ms_p50", p->ms_p50);
        med_json_put_number(&w, "ms_p99", p->ms_p99);
        med_json_put_integer(&w, "repeats", p->repeats);
        med_json_put_number(&w, "error", p->error);
        med_json_put_integer(&w, "clock_mhz", p->clock_mhz);
        med_json_put_number(&w, "seconds", p->seconds);
    }
    med_json_end_object(&w);
    int rc = put_on_disk(j, &w, &line, err);
    med_buf_release(&line);
    if (rc >= 0 && keep_point(j, p) < 0)
        rc = med_err_set(err, MED_E_LIMIT, "%s: more than %d points", j->path, MED_GRID_POINTS_MAX);
    return rc;
}

/* ---- reading -------------------------------------------------------------------------------- */

static int read_facts(const struct med_json_at *root, struct med_profiled_facts *facts,
                      struct med_err *err)
{
    struct med_json_at at;
    int rc = med_json_object(root, "facts", &at, err);
    for (size_t i = 0; i < FACTS && rc >= 0; i++) {
        const struct fact *f = &fact_table[i];
        char *to = (char *)facts + f->offset;
        const char *text = NULL;
        if (f->kind == TEXT) {
            rc = med_json_string(&at, f->name, -(MED_PROFILED_TEXT - 1), &text, err);
            if (rc >= 0)
                (void)snprintf(to, MED_PROFILED_TEXT, "%s", text);
        } else if (f->kind == COUNT) {
            rc = med_json_integer(&at, f->name, 0, INT64_C(1) << 53, (int64_t *)(void *)to, err);
        } else {
            rc = med_json_number(&at, f->name, 0, 1e300, (double *)(void *)to, err);
        }
    }
    return rc;
}

static int read_header(struct med_journal *j, const struct med_json_at *root, struct med_err *err)
{
    const char *text = NULL;
    int rc = med_json_expect_format(root, FORMAT, err);
    if (rc >= 0)
        rc = med_json_string(root, "date", sizeof j->date - 1, &text, err);
    if (rc >= 0)
        (void)snprintf(j->date, sizeof j->date, "%s", text);
    if (rc >= 0)
        rc = med_json_string(root, "command", -(MED_PROFILED_TEXT - 1), &text, err);
    if (rc >= 0)
        (void)snprintf(j->command, sizeof j->command, "%s", text);
    return rc < 0 ? rc : read_facts(root, &j->facts, err);
}

static int read_point(struct med_journal *j, const struct med_json_at *at, struct med_err *err)
{
    struct med_journal_point p = {.impossible = med_json_has(at, "impossible")};
    const struct {
        const char *name;
        int64_t *to;
        bool measured;
    } counts[] = {
        {"prefill_tokens", &p.point.prefill_tokens, false},
        {"prefill_context", &p.point.prefill_context, false},
        {"decode_sequences", &p.point.decode_sequences, false},
        {"decode_context", &p.point.decode_context, false},
        {"decode_context_tokens", &p.decode_context_tokens, true},
        {"repeats", &p.repeats, true},
        {"clock_mhz", &p.clock_mhz, true},
    };
    int rc = 0;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0] && rc >= 0; i++) {
        if (!counts[i].measured || !p.impossible)
            rc = med_json_integer(at, counts[i].name, 0, INT64_C(1) << 40, counts[i].to, err);
    }
    if (rc >= 0 && !p.impossible)
        rc = med_json_positive(at, "ms_p50", 1e9, &p.ms_p50, err);
    if (rc >= 0 && !p.impossible)
        rc = med_json_positive(at, "ms_p99", 1e9, &p.ms_p99, err);
    if (rc >= 0 && !p.impossible)
        rc = med_json_number(at, "error", 0, 1e9, &p.error, err);
    if (rc >= 0 && med_json_has(at, "seconds"))
        rc = med_json_number(at, "seconds", 0, 1e9, &p.seconds, err);
    if (rc >= 0)
        rc = keep_point(j, &p);
    return rc;
}

static int read_line(struct med_journal *j, const char *line, size_t bytes, bool first,
                     struct med_err *err)
{
    struct med_json_doc doc;
    int rc = med_json_parse(line, bytes, j->path, &doc, err);
    if (rc < 0)
        return rc;
    struct med_json_at root = med_json_root(&doc);
    rc = first ? read_header(j, &root, err) : read_point(j, &root, err);
    med_json_free(&doc);
    return rc;
}

static int differ(const struct med_journal *j, const struct fact *f, const char *was,
                  const char *is, struct med_err *err)
{
    return med_err_set(err, MED_E_INVALID,
                       "%s was begun with another %s (%s, now %s), and a profile never mixes two; "
                       "--fresh forgets what it holds, another --output begins a new one",
                       j->path, f->name, was, is);
}

static int compare_facts(const struct med_journal *j, const struct med_profiled_facts *now,
                         struct med_err *err)
{
    for (size_t i = 0; i < FACTS; i++) {
        const struct fact *f = &fact_table[i];
        const void *was = fact_at(&j->facts, f), *is = fact_at(now, f);
        char texts[2][32];
        if (!f->identity)
            continue;
        if (f->kind == TEXT) {
            if (strcmp(was, is) != 0)
                return differ(j, f, was, is, err);
            continue;
        }
        double a = f->kind == COUNT ? (double)*(const int64_t *)was : *(const double *)was;
        double b = f->kind == COUNT ? (double)*(const int64_t *)is : *(const double *)is;
        if (a == b)
            continue;
        (void)snprintf(texts[0], sizeof texts[0], "%.15g", a);
        (void)snprintf(texts[1], sizeof texts[1], "%.15g", b);
        return differ(j, f, texts[0], texts[1], err);
    }
    return 0;
}

/* Reads all whole lines, and cuts off what is behind them. */
static int read_all(struct med_journal *j, const struct med_profiled_facts *now,
                    struct med_err *err)
{
    struct med_buf text;
    med_buf_init(&text, FILE_BYTES_MAX);
    int rc = med_buf_read_file(&text, j->path, err);
    size_t at = 0;
    while (rc >= 0 && at < text.length) {
        const char *end = memchr(text.data + at, '\n', text.length - at);
        if (!end)
            break;
        size_t bytes = (size_t)(end - (text.data + at));
        rc = read_line(j, text.data + at, bytes, at == 0, err);
        if (rc >= 0 && at == 0)
            rc = compare_facts(j, now, err);
        at += bytes + 1;
    }
    med_buf_release(&text);
    if (rc >= 0 && (ftruncate(j->fd, (off_t)at) < 0 || lseek(j->fd, 0, SEEK_END) < 0))
        rc = med_err_set(err, MED_E_IO, "%s: %s", j->path, strerror(errno));
    return rc < 0 ? rc : at > 0;
}

static void today(char out[11])
{
    time_t now = time(NULL);
    struct tm parts;
    (void)gmtime_r(&now, &parts);
    (void)strftime(out, 11, "%Y-%m-%d", &parts);
}

int med_journal_open(struct med_journal *journal, const char *path,
                     const struct med_profiled_facts *facts, const char *command, bool fresh,
                     struct med_err *err)
{
    *journal = (struct med_journal){.fd = -1, .path = med_strdup(path)};
    journal->points = med_calloc(MED_GRID_POINTS_MAX, sizeof journal->points[0]);
    if (!journal->path || !journal->points) {
        med_journal_close(journal);
        return med_err_set(err, MED_E_NOMEM, "no memory for a journal");
    }
    journal->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (fresh ? O_TRUNC : 0), 0644);
    if (journal->fd < 0) {
        int rc = med_err_set(err, MED_E_IO, "%s: %s", path, strerror(errno));
        med_journal_close(journal);
        return rc;
    }
    int rc = read_all(journal, facts, err);
    if (rc == 0) { /* empty */
        journal->facts = *facts;
        today(journal->date);
        (void)snprintf(journal->command, sizeof journal->command, "%s", command);
        rc = put_header(journal, err);
    }
    if (rc < 0)
        med_journal_close(journal);
    return rc < 0 ? rc : 0;
}

void med_journal_close(struct med_journal *journal)
{
    if (journal->fd >= 0)
        (void)close(journal->fd);
    med_free(journal->path);
    med_free(journal->points);
    *journal = (struct med_journal){.fd = -1};
}
