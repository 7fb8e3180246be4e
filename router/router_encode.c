/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prompts that are encoded in libuv's thread pool: those too long for the loop.
 *
 * A job takes the query's text away with it, so that the query may end meanwhile: the job forgets it
 * then, and its memory goes when the pool is through with it.  A job that has not begun is taken back.
 * The text of all jobs together is bounded.
 *
 * Runs on the loop; `run` in a thread of the pool, which sees the job's own fields and the model only.
 */
#include "router/router_internal.h"

#include "base/alloc.h"
#include "base/assert.h"

#include <stdlib.h>

struct med_router_encoding {
    uv_work_t work;
    struct med_router *router;
    struct med_router_encoding *next, *prev; // in router->encodings
    struct med_query *query;                 // NULL: it has ended
    size_t bytes;
    /* The pool's from uv_queue_work until the job is over. */
    struct med_input input;
    struct med_token_ids ids;
    struct med_err err;
    int rc;
};

/* thread: pool */
static void run(uv_work_t *work)
{
    struct med_router_encoding *job = work->data;
    job->rc = med_router_model_encode(job->router->config.model, &job->input, &job->ids, &job->err);
}

static void job_free(struct med_router_encoding *job)
{
    med_input_release(&job->input);
    med_free(job->ids.ids);
    med_free(job);
}

static void on_done(uv_work_t *work, int status)
{
    struct med_router_encoding *job = work->data;
    struct med_router *router = job->router;
    struct med_query *query = job->query;
    if (job->prev != NULL) {
        job->prev->next = job->next;
    } else {
        router->encodings = job->next;
    }
    if (job->next != NULL)
        job->next->prev = job->prev;
    router->encoding_bytes -= job->bytes;
    router->parts_open--;
    if (query != NULL) {
        MED_ASSERT(status == 0); // only a job without a query is taken back
        query->encoding = NULL;
        query->input = job->input;
        job->input = (struct med_input){0};
        query->prompt = job->ids.ids;
        query->prompt_count = job->ids.count;
        job->ids = (struct med_token_ids){0};
        med_router_encoded(router, query, job->rc, &job->err);
    }
    job_free(job);
}

int med_router_encode(struct med_router *router, struct med_query *query, struct med_err *err)
{
    size_t bytes = med_input_bytes(&query->input);
    if (router->encoding_bytes + bytes > MED_LIMIT_ENCODE_BYTES) {
        query->retry_after_ms = router->retry_after_ms;
        return med_err_set(err, MED_E_OVERLOAD,
                           "%zu bytes of text wait to be encoded already; try again in %u ms",
                           router->encoding_bytes, query->retry_after_ms);
    }
    struct med_router_encoding *job = med_calloc(1, sizeof(*job));
    if (job == NULL)
        return med_err_set(err, MED_E_NOMEM, "%s", med_err_text(MED_E_NOMEM));
    job->work.data = job;
    job->router = router;
    job->query = query;
    job->bytes = bytes;
    job->input = query->input;
    int rc = uv_queue_work(router->loop, &job->work, run, on_done);
    if (rc < 0) {
        med_free(job);
        return med_err_set(err, rc, "a prompt cannot be encoded: %s", uv_strerror(rc));
    }
    query->input = (struct med_input){.kind = job->input.kind};
    query->encoding = job;
    job->next = router->encodings;
    if (job->next != NULL)
        job->next->prev = job;
    router->encodings = job;
    router->encoding_bytes += bytes;
    router->parts_open++;
    return 0;
}

void med_router_encode_forget(struct med_router *router, struct med_query *query)
{
    struct med_router_encoding *job = query->encoding;
    MED_ASSERT(job->router == router);
    MED_ASSERT(job->query == query);
    job->query = NULL;
    query->encoding = NULL;
    (void)uv_cancel((uv_req_t *)&job->work); // fails when it runs; on_done comes in either case
}

void med_router_encode_abort_all(struct med_router *router)
{
    for (struct med_router_encoding *job = router->encodings; job != NULL; job = job->next) {
        if (job->query == NULL)
            continue;
        job->query->abort_code = MED_E_DRAINING;
        med_router_cancel(router, job->query, MED_OUTCOME_ABORT_DEADLINE);
    }
}
