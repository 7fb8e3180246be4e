/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside the OpenAI door: what its files share.  thread: loop, apart from a job's fields in the pool.
 *
 * door.c      life, routing, pings, what ends later
 * body.c      bodies: read here or in the thread pool; /tokenize and /detokenize
 * exchange.c  a call from its queries to the end of its answer
 * wire.c      the HTTP server's side: heads, answers, streams
 * models.c    /v1/models
 */
#ifndef MED_ROUTER_OPENAI_DOOR_INTERNAL_H
#define MED_ROUTER_OPENAI_DOOR_INTERNAL_H

#include "router/openai/door.h"
#include "router/openai/write.h"

enum med_openai_route {
    MED_OPENAI_ROUTE_COMPLETIONS,
    MED_OPENAI_ROUTE_CHAT,
    MED_OPENAI_ROUTE_TOKENIZE,
    MED_OPENAI_ROUTE_DETOKENIZE,
    MED_OPENAI_ROUTE_MODELS,
    MED_OPENAI_ROUTE_MODEL,
    MED_OPENAI_ROUTE_UNKNOWN, /* below /v1/ */
    MED_OPENAI_ROUTE_NONE
};

struct med_openai_job;
struct med_openai_exchange;

/* A query of an exchange: what query->door_call points to. */
struct med_openai_part {
    struct med_openai_exchange *x;
    uint32_t first; /* index of its first choice */
};

/* One HTTP request of this door, until its answer has been given away or its client is gone. */
struct med_openai_exchange {
    struct med_openai_door *door;
    struct med_openai_exchange *next, *prev; /* in door->first */
    struct med_http_exchange *http;          /* NULL: the client is gone, or the answer given */
    enum med_openai_route route;
    char id[MED_LIMIT_REQUEST_ID_BYTES + 1];
    char traceparent[MED_LIMIT_TRACEPARENT_BYTES + 1]; /* "": none */
    int64_t received_ns;                               /* as med_query has it */
    int64_t deadline_ns;                               /* fleet time; 0: none */
    struct med_openai_job *job;                        /* while its body is read in the pool */

    struct med_openai_call call;
    struct med_openai_style style;
    struct med_openai_part *parts; /* owned; [call.query_count] */
    bool *role_told;               /* owned; of each choice of a chat */
    size_t open;  /* queries that the router has, and 1 while some are being given or cancelled */
    bool started; /* the status line is out: it is a stream */
    bool failed;  /* error says why */
    bool lagging; /* its client does not read */
    bool blocked; /* nothing is written until med_openai_drained */
    bool broken;  /* what there is cannot be written */
    bool doomed;  /* the queries that are left are to be cancelled */
    bool buried;  /* in door->buried */
    uint64_t written_ms; /* of the loop's clock: when something was last sent */
    struct med_openai_error error;
};

struct med_openai_door {
    uv_loop_t *loop;
    const struct med_clock *clock; /* fleet time */
    struct med_clock real;
    struct med_openai_host host;
    struct med_openai_config config;
    char *model_name; /* owned */
    uv_timer_t ping;
    uv_timer_t later;                   /* armed while an exchange is doomed or buried */
    struct med_openai_exchange *first;  /* of those that are open */
    struct med_openai_exchange *buried; /* linked by next */
    size_t exchange_count;              /* buried ones too */
    size_t doomed_count, job_count;
    size_t job_bytes;       /* of bodies in the pool */
    struct med_buf scratch; /* what is being written */
    uint32_t boot;          /* makes request ids differ between starts */
    uint64_t counter;
    int64_t started_s; /* since 1970 */
    int callbacks;     /* of the router that are running: none of it may be called */
    int handles_open;
    bool closing;
    void (*on_closed)(void *arg);
    void *on_closed_arg;
};

/* ---- door.c ---- */
/* The exchange is over: nobody knows it any more, and its memory goes before the loop sleeps again,
 * since the router may still be looking at its queries. */
void med_openai_bury(struct med_openai_exchange *x);
/* Its queries are cancelled before the loop sleeps again. */
void med_openai_doom(struct med_openai_exchange *x);
/* A job is over. */
void med_openai_job_gone(struct med_openai_door *door, size_t bytes);

/* ---- body.c ---- */
/* Reads the body and does what it says, now or when the pool has read it. */
void med_openai_body(struct med_openai_exchange *x, const char *bytes, size_t count);
void med_openai_job_forget(struct med_openai_job *job);

/* ---- exchange.c ---- */
/* Gives the queries of x->call to the router. */
void med_openai_start(struct med_openai_exchange *x);
void med_openai_cancel(struct med_openai_exchange *x);
/* The client is gone: nothing more is written. */
void med_openai_gone(struct med_openai_exchange *x);
/* There is room for more. */
void med_openai_drained(struct med_openai_exchange *x);
/* A comment, if nothing was sent for so long and a worker has the request. */
void med_openai_ping(struct med_openai_exchange *x, uint64_t now_ms);
/* Answers with an error and ends the exchange. */
void med_openai_refuse(struct med_openai_exchange *x, int code, const char *text,
                       const struct med_query *query);

/* ---- wire.c ---- */
/* The whole answer: the body is scratch, as JSON.  The exchange is buried. */
void med_openai_answer(struct med_openai_exchange *x, int status);
void med_openai_answer_error(struct med_openai_exchange *x, const struct med_openai_error *error);
/* Sends scratch; the first time with 200 and the heads of a stream before it.  MED_E_AGAIN: it does not fit
 * now, and med_openai_drained will say when it does. */
int med_openai_stream_write(struct med_openai_exchange *x) MED_MUST_CHECK;
/* All has been given.  The exchange is buried. */
void med_openai_stream_end(struct med_openai_exchange *x);
/* Cuts the connection: its client does not read.  The exchange is buried. */
void med_openai_stream_abort(struct med_openai_exchange *x);

/* ---- models.c ---- */
void med_openai_models(struct med_openai_exchange *x);
/* `name` is percent-encoded. */
void med_openai_model(struct med_openai_exchange *x, const char *name);

#endif
