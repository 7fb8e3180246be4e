/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies: short ones are read at once, long ones in libuv's thread pool, which gets a copy of them so
 * that the client may go meanwhile.  /tokenize and /detokenize are done in the same place, for the
 * same reason.  What the pool holds is bounded; more is refused as overload.
 * Runs on the loop; `run` in a thread of the pool, which sees the job's own fields and the model only.
 */
#include "router/openai/door_internal.h"

#include "base/alloc.h"
#include "base/assert.h"
#include "router/openai/read.h"

#include <inttypes.h>
#include <string.h>

enum {
    INLINE_BYTES = 16 << 10 /* longer bodies go to the pool */
};

struct med_openai_job {
    uv_work_t work;
    struct med_openai_door *door;
    struct med_openai_exchange *x; // NULL: its client is gone
    /* The pool's from uv_queue_work until the job is over. */
    enum med_openai_route route;
    struct med_router_model *model;
    const char *bytes;
    char *copy; // owned; NULL: `bytes` are the HTTP server's
    size_t count;
    int rc;
    struct med_err err;
    struct med_openai_call call;
    struct med_openai_text text;
    struct med_token_ids ids; // of /tokenize
    struct med_buf prompt;    // of /detokenize
};

/* ---- in the pool, or on the loop ---- */

static int need_tokenizer(const struct med_openai_job *job, struct med_err *err)
{
    const struct med_input *input = &job->text.input;
    if (job->model == NULL) {
        return med_err_set(err, MED_E_INVALID,
                           "this router has no tokenizer; start it with --model DIR (a folder with "
                           "the model's tokenizer.json)");
    }
    if (job->route == MED_OPENAI_ROUTE_TOKENIZE && input->kind == MED_INPUT_CHAT &&
        job->model->chat_template == NULL) {
        return med_err_set(err, MED_E_INVALID,
                           "chat.messages: the served model has no chat template; send a prompt");
    }
    return 0;
}

static void tokenize(struct med_openai_job *job)
{
    job->rc = med_openai_read_tokenize(job->bytes, job->count, &job->text, &job->err);
    if (job->rc == 0)
        job->rc = need_tokenizer(job, &job->err);
    if (job->rc == 0 && (job->text.input.kind == MED_INPUT_CHAT || job->text.input.text_bytes > 0))
        job->rc = med_router_model_encode(job->model, &job->text.input, &job->ids, &job->err);
}

static void detokenize(struct med_openai_job *job)
{
    const struct med_openai_text *text = &job->text;
    job->rc = med_openai_read_detokenize(job->bytes, job->count, &job->text, &job->err);
    if (job->rc == 0)
        job->rc = need_tokenizer(job, &job->err);
    if (job->rc < 0)
        return;
    int64_t vocab = med_tokenizer_vocab(job->model->tokenizer);
    for (size_t i = 0; i < text->id_count; i++) {
        if (text->ids[i] >= vocab) {
            job->rc = med_err_set(&job->err, MED_E_INVALID,
                                  "tokens[%zu]: found %" PRIu32 ", expected 0 to %" PRId64
                                  ", the model's vocabulary",
                                  i, text->ids[i], vocab - 1);
            return;
        }
    }
    job->rc = med_tokenizer_decode(job->model->tokenizer, text->ids, text->id_count,
                                   !text->keep_special, &job->prompt);
    if (job->rc == MED_E_LIMIT) {
        job->rc = med_err_set(&job->err, MED_E_INVALID,
                              "tokens: found %zu that spell more than %d bytes, which is the most "
                              "that is answered",
                              text->id_count, MED_LIMIT_ANSWER_BYTES);
    }
}

static void run_job(struct med_openai_job *job)
{
    switch (job->route) {
    case MED_OPENAI_ROUTE_COMPLETIONS:
        job->rc =
            med_openai_read(MED_OPENAI_COMPLETIONS, job->bytes, job->count, &job->call, &job->err);
        break;
    case MED_OPENAI_ROUTE_CHAT:
        job->rc = med_openai_read(MED_OPENAI_CHAT, job->bytes, job->count, &job->call, &job->err);
        break;
    case MED_OPENAI_ROUTE_TOKENIZE:
        tokenize(job);
        break;
    default:
        detokenize(job);
        break;
    }
}

/* thread: pool */
static void run(uv_work_t *work)
{
    run_job(work->data);
}

/* ---- on the loop ---- */

static int check_model(const struct med_openai_exchange *x, const char *model, struct med_err *err)
{
    if (model == NULL || model[0] == '\0' || strcmp(model, x->door->model_name) == 0)
        return 0;
    return med_err_set(err, MED_E_NOT_FOUND,
                       "model: found another name than \"%s\", which is served here",
                       x->door->model_name);
}

static int write_ids(struct med_openai_exchange *x, const struct med_openai_job *job)
{
    const struct med_openai_host *host = &x->door->host;
    struct med_buf *out = &x->door->scratch;
    struct med_buf spelled;
    int64_t context = host->context_tokens(host->self);
    med_buf_init(&spelled, (size_t)2 * MED_LIMIT_TOKEN_BYTES);
    med_buf_clear(out);
    int rc = med_buf_printf(out, "{\"count\":%zu,\"max_model_len\":", job->ids.count);
    if (rc == 0) {
        rc = context > 0 ? med_buf_printf(out, "%" PRId64, context)
                         : med_buf_append_str(out, "null");
    }
    if (rc == 0)
        rc = med_buf_append_str(out, ",\"tokens\":[");
    for (size_t i = 0; rc == 0 && i < job->ids.count; i++)
        rc = med_buf_printf(out, i > 0 ? ",%" PRIu32 : "%" PRIu32, job->ids.ids[i]);
    if (rc == 0)
        rc = med_buf_append_str(out, job->text.strings ? "],\"token_strs\":[" : "]");
    for (size_t i = 0; rc == 0 && job->text.strings && i < job->ids.count; i++) {
        med_buf_clear(&spelled);
        rc = med_tokenizer_token_bytes(job->model->tokenizer, job->ids.ids[i], &spelled);
        if (rc == 0 && i > 0)
            rc = med_buf_append_str(out, ",");
        if (rc == 0)
            rc = med_openai_write_string(out, spelled.data, spelled.length);
    }
    if (rc == 0)
        rc = med_buf_append_str(out, job->text.strings ? "]}\n" : "}\n");
    med_buf_release(&spelled);
    return rc;
}

static int write_prompt(struct med_openai_exchange *x, const struct med_openai_job *job)
{
    struct med_buf *out = &x->door->scratch;
    med_buf_clear(out);
    int rc = med_buf_append_str(out, "{\"prompt\":");
    if (rc == 0)
        rc = med_openai_write_string(out, job->prompt.data, job->prompt.length);
    return rc == 0 ? med_buf_append_str(out, "}\n") : rc;
}

static void job_release(struct med_openai_job *job)
{
    med_openai_call_release(&job->call);
    med_openai_text_release(&job->text);
    med_free(job->ids.ids);
    med_buf_release(&job->prompt);
    med_free(job->copy);
}

/* What has been read is done or answered. */
static void job_done(struct med_openai_job *job)
{
    struct med_openai_exchange *x = job->x;
    struct med_err err = job->err;
    int rc = job->rc;
    if (job->route == MED_OPENAI_ROUTE_COMPLETIONS || job->route == MED_OPENAI_ROUTE_CHAT) {
        x->call = job->call;
        job->call = (struct med_openai_call){0};
        if (rc < 0) {
            med_openai_refuse(x, rc, err.text, NULL);
        } else {
            med_openai_start(x);
        }
        return;
    }
    if (rc == 0)
        rc = check_model(x, job->text.model, &err);
    if (rc == 0 && job->route == MED_OPENAI_ROUTE_TOKENIZE)
        rc = write_ids(x, job);
    if (rc == 0 && job->route == MED_OPENAI_ROUTE_DETOKENIZE)
        rc = write_prompt(x, job);
    if (rc < 0) {
        med_openai_refuse(x, rc, err.text, NULL);
    } else {
        med_openai_answer(x, 200);
    }
}

static void job_init(struct med_openai_job *job, struct med_openai_exchange *x, const char *bytes,
                     size_t count)
{
    *job = (struct med_openai_job){
        .door = x->door,
        .x = x,
        .route = x->route,
        .model = x->door->config.model,
        .bytes = bytes,
        .count = count,
    };
    med_buf_init(&job->prompt, MED_LIMIT_ANSWER_BYTES);
}

static void on_done(uv_work_t *work, int status)
{
    struct med_openai_job *job = work->data;
    struct med_openai_door *door = job->door;
    size_t count = job->count;
    if (job->x != NULL) {
        MED_ASSERT(status == 0); // only a job that was forgotten is taken back
        job->x->job = NULL;
        job_done(job);
    }
    job_release(job);
    med_free(job);
    med_openai_job_gone(door, count);
}

void med_openai_job_forget(struct med_openai_job *job)
{
    job->x = NULL;
    (void)uv_cancel((uv_req_t *)&job->work); // fails when it runs; on_done comes in either case
}

static int queue_job(struct med_openai_exchange *x, const char *bytes, size_t count)
{
    struct med_openai_door *door = x->door;
    if (door->job_bytes + count > MED_LIMIT_ENCODE_BYTES)
        return MED_E_OVERLOAD;
    struct med_openai_job *job = med_alloc(sizeof(*job));
    char *copy = med_alloc(count);
    if (job == NULL || copy == NULL) {
        med_free(job);
        med_free(copy);
        return MED_E_NOMEM;
    }
    memcpy(copy, bytes, count);
    job_init(job, x, copy, count);
    job->copy = copy;
    job->work.data = job;
    int rc = uv_queue_work(door->loop, &job->work, run, on_done);
    if (rc < 0) {
        job_release(job);
        med_free(job);
        return rc;
    }
    x->job = job;
    door->job_count++;
    door->job_bytes += count;
    return 0;
}

void med_openai_body(struct med_openai_exchange *x, const char *bytes, size_t count)
{
    if (count > INLINE_BYTES) {
        int rc = queue_job(x, bytes, count);
        if (rc < 0)
            med_openai_refuse(x, rc, NULL, NULL);
        return;
    }
    struct med_openai_job job;
    job_init(&job, x, bytes, count);
    run_job(&job);
    job_done(&job);
    job_release(&job);
}
