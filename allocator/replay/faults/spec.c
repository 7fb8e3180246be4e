/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The grammar of faults: what follows --faults.
 *
 *     FAULT;FAULT...     FAULT = KIND@TIME:TARGET[,KEY=VALUE...]  or  random[,KEY=VALUE...]
 *
 * Keys: for (all but plan), factor (slow), by (delay), start (plan); of random: every, kinds.  Targets are looked up
 * when the fleet is known (faults/run.c).  thread: main.
 */
#include "allocator/replay/faults/faults.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/options.h"

#include <stdlib.h>
#include <string.h>

#define TIME_MAX_S     1e8
#define EVERY_NS       (30 * MED_NS_PER_S)
#define BY_NS          (100 * MED_NS_PER_MS)
#define FACTOR_DEFAULT 2
/* What `random` draws unless told: all that strikes one worker. */
#define KINDS_DEFAULT ((UINT32_C(1) << MED_FAULT_PLAN) - 1)

struct parser {
    struct med_fault_schedule *schedule;
    size_t number; /* of the fault, from 1 */
    char what[64]; /* "--faults: fault 2" */
    struct med_err *err;
};

static int fail(const struct parser *p, const char *found, const char *expected)
{
    return med_err_set(p->err, MED_E_USAGE, "%s: found \"%s\", expected %s", p->what, found,
                       expected);
}

/* Cuts `text` at the first `separator`; what follows, or NULL. */
static char *cut(char *text, char separator)
{
    char *at = strchr(text, separator);
    if (at)
        *at++ = '\0';
    return at;
}

/* Of those that a user may name. MED_FAULT_COUNT: none. */
static enum med_fault find_kind(const char *name)
{
    for (int kind = 0; kind < MED_FAULT_CANCEL; kind++) {
        if (strcmp(name, med_fault_name((enum med_fault)kind)) == 0)
            return (enum med_fault)kind;
    }
    return MED_FAULT_COUNT;
}

static int parse_time(const struct parser *p, const char *key, const char *text, double min_s,
                      int64_t *ret_ns)
{
    char what[96];
    (void)snprintf(what, sizeof what, "%s: %s", p->what, key);
    return med_parse_duration(text, what, min_s, TIME_MAX_S, ret_ns, p->err);
}

/* ---- random ---- */

static int parse_kinds(struct parser *p, char *text)
{
    p->schedule->kinds = 0;
    for (char *name = text; name;) {
        char *next = cut(name, '+');
        enum med_fault kind = find_kind(name);
        if (kind >= MED_FAULT_PLAN) {
            return fail(p, name,
                        "kinds that strike one worker, joined by +: crash, hang, stall, slow, lie, "
                        "drop, delay, partition, drain");
        }
        p->schedule->kinds |= UINT32_C(1) << kind;
        name = next;
    }
    return 0;
}

static int parse_random(struct parser *p, char *keys)
{
    if (p->schedule->every_ns > 0)
        return fail(p, "random", "it once");
    p->schedule->every_ns = EVERY_NS;
    p->schedule->kinds = KINDS_DEFAULT;
    int rc = 0;
    for (char *key = keys; rc == 0 && key;) {
        char *next = cut(key, ',');
        char *value = cut(key, '=');
        if (value && strcmp(key, "every") == 0) {
            rc = parse_time(p, key, value, 0.001, &p->schedule->every_ns);
        } else if (value && strcmp(key, "kinds") == 0) {
            rc = parse_kinds(p, value);
        } else {
            rc = fail(p, key, "every=TIME or kinds=KIND+KIND");
        }
        key = next;
    }
    return rc;
}

/* ---- one fault ---- */

static int parse_key(struct parser *p, struct med_fault_event *event, const char *key,
                     const char *value)
{
    char what[96];
    (void)snprintf(what, sizeof what, "%s: %s", p->what, key);
    if (strcmp(key, "for") == 0 && event->kind != MED_FAULT_PLAN)
        return parse_time(p, key, value, 0.001, &event->for_ns);
    if (strcmp(key, "start") == 0 && event->kind == MED_FAULT_PLAN)
        return parse_time(p, key, value, 0, &event->for_ns);
    if (strcmp(key, "by") == 0 && event->kind == MED_FAULT_DELAY)
        return parse_time(p, key, value, 1e-6, &event->by_ns);
    if (strcmp(key, "factor") == 0 && event->kind == MED_FAULT_SLOW)
        return med_parse_number(value, what, 1, 1e6, &event->factor, p->err);
    return fail(p, key,
                event->kind == MED_FAULT_PLAN    ? "start=TIME"
                : event->kind == MED_FAULT_SLOW  ? "for=TIME or factor=NUMBER"
                : event->kind == MED_FAULT_DELAY ? "for=TIME or by=TIME"
                                                 : "for=TIME");
}

static int read_plan(struct parser *p, struct med_fault_event *event)
{
    struct med_fault_schedule *s = p->schedule;
    if (s->plan_count == MED_FAULT_PLANS_MAX)
        return fail(p, event->target, "at most 8 plans");
    int rc = med_plan_read_file(event->target, &s->plans[s->plan_count], p->err);
    if (rc < 0)
        return rc;
    event->plan = s->plan_count++;
    if (s->plans[event->plan].status == MED_PLAN_INFEASIBLE) {
        return med_err_set(p->err, MED_E_INFEASIBLE, "%s: an infeasible plan has no fleet",
                           event->target);
    }
    return 0;
}

static int parse_event(struct parser *p, enum med_fault kind, char *time, struct med_fault_event *e)
{
    char *keys = cut(time, ',');
    char *target = cut(time, ':');
    *e = (struct med_fault_event){.kind = kind, .factor = FACTOR_DEFAULT, .by_ns = BY_NS};
    int rc = parse_time(p, "time", time, 0, &e->at_ns);
    if (rc < 0)
        return rc;
    if (!target || !*target || strlen(target) >= sizeof e->target) {
        return fail(p, target ? target : time,
                    kind == MED_FAULT_PLAN ? "plan@TIME:FILE"
                                           : "KIND@TIME:TARGET, a worker, a worker type or all");
    }
    memcpy(e->target, target, strlen(target) + 1);
    for (char *key = keys; rc == 0 && key;) {
        char *next = cut(key, ',');
        char *value = cut(key, '=');
        rc = value ? parse_key(p, e, key, value) : fail(p, key, "KEY=VALUE");
        key = next;
    }
    if (rc == 0 && kind == MED_FAULT_STALL && e->for_ns == 0) {
        return med_err_set(p->err, MED_E_USAGE,
                           "%s: found stall without an end, expected for=TIME: a worker that beats "
                           "is never given up",
                           p->what);
    }
    return rc == 0 && kind == MED_FAULT_PLAN ? read_plan(p, e) : rc;
}

static int parse_fault(struct parser *p, char *text)
{
    (void)snprintf(p->what, sizeof p->what, "--faults: fault %zu", p->number);
    char *time = cut(text, '@');
    if (!time) {
        char *keys = cut(text, ',');
        return strcmp(text, "random") == 0 ? parse_random(p, keys)
                                           : fail(p, text, "KIND@TIME:TARGET or random");
    }
    enum med_fault kind = find_kind(text);
    if (kind == MED_FAULT_COUNT) {
        return fail(p, text,
                    "crash, hang, stall, slow, lie, drop, delay, partition, drain or plan");
    }
    if (p->schedule->count == MED_FAULTS_MAX)
        return fail(p, text, "at most 256 faults");
    struct med_fault_event event;
    int rc = parse_event(p, kind, time, &event);
    if (rc < 0)
        return rc;
    /* By time; those of one time as they were written. */
    size_t place = p->schedule->count++;
    for (; place > 0 && p->schedule->events[place - 1].at_ns > event.at_ns; place--)
        p->schedule->events[place] = p->schedule->events[place - 1];
    p->schedule->events[place] = event;
    return 0;
}

int med_fault_schedule_parse(const char *text, uint64_t seed,
                             struct med_fault_schedule *ret_schedule, struct med_err *err)
{
    struct parser p = {.schedule = ret_schedule, .err = err};
    *ret_schedule = (struct med_fault_schedule){.seed = seed};
    char *copy = med_strdup(text);
    if (!copy)
        return med_err_set(err, MED_E_NOMEM, "no memory for faults");
    int rc = 0;
    for (char *fault = copy; rc == 0 && fault;) {
        char *next = cut(fault, ';');
        p.number++;
        rc = parse_fault(&p, fault);
        fault = next;
    }
    med_free(copy);
    return rc;
}

void med_fault_schedule_release(struct med_fault_schedule *schedule)
{
    for (size_t i = 0; i < schedule->plan_count; i++)
        med_plan_release(&schedule->plans[i]);
    schedule->plan_count = schedule->count = 0;
}
