/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the frames of a worker's link say, both ways, without a socket: every field of Generate as it
 * was sent, Tokens with logprobs in pieces, the counters of Stats; and what no router may send.
 */
#include "worker/link_internal.h"

#include "base/limits.h"
#include "tests/check.h"

#include <math.h>

struct ends {
    struct med_uplink_connection connection;
    struct med_uplink link;
    struct med_uplink_hello hello;
    int generates;
    struct med_uplink_generate got; /* arrays are not kept; see the copies */
    uint32_t bias_ids[8], stop_ids[8], output[8];
    float biases[8];
};

static int on_generate(void *arg, struct med_uplink *link, const struct med_uplink_generate *g,
                       struct med_err *err)
{
    struct ends *e = arg;
    (void)link;
    (void)err;
    e->generates++;
    e->got = *g;
    REQUIRE(g->bias_id_count <= 8 && g->bias_count <= 8 && g->stop_count <= 8);
    REQUIRE(g->output_count <= 8);
    for (size_t i = 0; i < g->output_count; i++)
        e->output[i] = g->output[i];
    for (size_t i = 0; i < g->bias_id_count; i++)
        e->bias_ids[i] = g->bias_ids[i];
    for (size_t i = 0; i < g->bias_count; i++)
        e->biases[i] = g->biases[i];
    for (size_t i = 0; i < g->stop_count; i++)
        e->stop_ids[i] = g->stop_ids[i];
    return 0;
}

static void get_stats(void *arg, struct med_uplink_stats *ret_stats)
{
    (void)arg;
    *ret_stats = (struct med_uplink_stats){
        .running = 1, .preemptions = 2, .prefix_queries = UINT64_MAX, .prefix_hits = 4};
}

/* A link that is up, its bytes going nowhere. */
static void ends_init(struct ends *e)
{
    *e = (struct ends){.hello = {.worker_id = "w",
                                 .worker_type = "t",
                                 .model = "m",
                                 .backend = "cpu",
                                 .vocab_tokens = 128256}};
    e->link = (struct med_uplink){
        .config = {.hello = &e->hello,
                   .ops = {.on_generate = on_generate, .get_stats = get_stats, .arg = e}},
        .state = MED_UPLINK_STATE_UP,
        .connection = &e->connection};
    med_buf_init(&e->link.out, 64 << 20);
    med_frame_reader_init(&e->link.reader);
}

static void ends_release(struct ends *e)
{
    med_buf_release(&e->link.out);
    med_frame_reader_release(&e->link.reader);
}

/* As if the router had sent it. */
static int take(struct ends *e, const Medley__Link__Frame *frame, struct med_err *err)
{
    struct med_buf wire;
    med_buf_init(&wire, 64 << 20);
    REQUIRE(med_frame_write(&wire, frame) == 0);
    int rc = med_uplink_take_bytes(&e->link, wire.data, wire.length, err);
    med_buf_release(&wire);
    return rc;
}

static int take_generate(struct ends *e, Medley__Link__Generate *g)
{
    struct med_err err = {0};
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    g->request_id = "r";
    frame.body_case = MEDLEY__LINK__FRAME__BODY_GENERATE;
    frame.generate = g;
    return take(e, &frame, &err);
}

static void test_generate_when_silent_then_nothing_is_said(void)
{
    struct ends e;
    Medley__Link__Generate g = MEDLEY__LINK__GENERATE__INIT;
    ends_init(&e);
    CHECK_INT(take_generate(&e, &g), 0);
    CHECK_INT(e.generates, 1);
    CHECK(!e.got.has_temperature && !e.got.has_top_p && !e.got.has_top_k && !e.got.has_min_p);
    CHECK(!e.got.has_repetition_penalty && !e.got.has_seed && !e.got.has_logprobs);
    CHECK_DOUBLE(e.got.presence_penalty, 0, 0);
    CHECK_DOUBLE(e.got.frequency_penalty, 0, 0);
    CHECK_UINT(e.got.tokens_min, 0);
    CHECK_UINT(e.got.bias_id_count + e.got.bias_count + e.got.stop_count, 0);
    CHECK_UINT(e.got.output_count, 0);
    ends_release(&e);
}

static void test_generate_when_it_says_all_then_all_arrives_even_zeros(void)
{
    struct ends e;
    uint32_t ids[] = {1, UINT32_MAX}, stops[] = {7, 8, 9}, said[] = {0, 5, UINT32_MAX};
    float biases[] = {-100, 0.5F};
    Medley__Link__Generate g = MEDLEY__LINK__GENERATE__INIT;
    g.temperature_value_case = MEDLEY__LINK__GENERATE__TEMPERATURE_VALUE_TEMPERATURE;
    g.top_p_value_case = MEDLEY__LINK__GENERATE__TOP_P_VALUE_TOP_P;
    g.top_p = 0.25F;
    g.top_k_value_case = MEDLEY__LINK__GENERATE__TOP_K_VALUE_TOP_K;
    g.min_p_value_case = MEDLEY__LINK__GENERATE__MIN_P_VALUE_MIN_P;
    g.min_p = 0.125F;
    g.repetition_penalty_value_case =
        MEDLEY__LINK__GENERATE__REPETITION_PENALTY_VALUE_REPETITION_PENALTY;
    g.repetition_penalty = 1.5F;
    g.seed_value_case = MEDLEY__LINK__GENERATE__SEED_VALUE_SEED;
    g.seed = UINT64_MAX;
    g.logprobs_value_case = MEDLEY__LINK__GENERATE__LOGPROBS_VALUE_LOGPROBS;
    g.presence_penalty = -0.5F;
    g.frequency_penalty = NAN; /* passed on: whoever makes the request refuses it */
    g.min_tokens = 3;
    g.bias_ids = ids;
    g.n_bias_ids = 2;
    g.biases = biases;
    g.n_biases = 2;
    g.stop_token_ids = stops;
    g.n_stop_token_ids = 3;
    g.output = said;
    g.n_output = 3;
    g.ignore_eos = 1;
    ends_init(&e);
    CHECK_INT(take_generate(&e, &g), 0);
    CHECK(e.got.has_temperature && e.got.has_top_p && e.got.has_top_k && e.got.has_min_p);
    CHECK(e.got.has_repetition_penalty && e.got.has_seed && e.got.has_logprobs);
    CHECK_DOUBLE(e.got.temperature, 0, 0);
    CHECK_DOUBLE(e.got.top_p, 0.25, 0);
    CHECK_UINT(e.got.top_k, 0);
    CHECK_DOUBLE(e.got.min_p, 0.125, 0);
    CHECK_DOUBLE(e.got.repetition_penalty, 1.5, 0);
    CHECK_DOUBLE(e.got.presence_penalty, -0.5, 0);
    CHECK(isnan(e.got.frequency_penalty));
    CHECK_UINT(e.got.seed, UINT64_MAX);
    CHECK_UINT(e.got.logprobs, 0);
    CHECK_UINT(e.got.tokens_min, 3);
    CHECK_UINT(e.bias_ids[1], UINT32_MAX);
    CHECK_DOUBLE(e.biases[0], -100, 0);
    CHECK_UINT(e.got.stop_count, 3);
    CHECK_UINT(e.stop_ids[2], 9);
    CHECK_UINT(e.got.output_count, 3);
    CHECK_UINT(e.output[0] + e.output[1], 5);
    CHECK_UINT(e.output[2], UINT32_MAX);
    ends_release(&e);
}

static void test_generate_when_bias_arrays_disagree_then_both_counts_arrive(void)
{
    struct ends e;
    uint32_t ids[] = {1, 2, 3};
    float biases[] = {1};
    Medley__Link__Generate g = MEDLEY__LINK__GENERATE__INIT;
    g.bias_ids = ids;
    g.n_bias_ids = 3;
    g.biases = biases;
    g.n_biases = 1;
    ends_init(&e);
    CHECK_INT(take_generate(&e, &g), 0);
    CHECK_UINT(e.got.bias_id_count, 3);
    CHECK_UINT(e.got.bias_count, 1);
    ends_release(&e);
}

static void test_frames_when_no_router_sends_them_then_protocol_error(void)
{
    struct ends e;
    struct med_err err = {0};
    Medley__Link__Frame frame = MEDLEY__LINK__FRAME__INIT;
    Medley__Link__Tokens tokens = MEDLEY__LINK__TOKENS__INIT;
    frame.body_case = MEDLEY__LINK__FRAME__BODY_TOKENS;
    frame.tokens = &tokens;
    ends_init(&e);
    CHECK_INT(take(&e, &frame, &err), MED_E_PROTO);
    CHECK_CONTAINS(err.text, "which a router does not send");
    e.link.state = MED_UPLINK_STATE_GREETING;
    CHECK_INT(take(&e, &frame, &err), MED_E_PROTO);
    CHECK_CONTAINS(err.text, "expected Welcome");
    ends_release(&e);
}

/* The next frame that was sent; free it with med_frame_free. */
static Medley__Link__Frame *sent(struct ends *e, struct med_frame_reader *reader)
{
    struct med_err err = {0};
    Medley__Link__Frame *frame = NULL;
    REQUIRE(med_frame_reader_feed(reader, e->link.out.data, e->link.out.length, &err) == 0);
    med_buf_clear(&e->link.out);
    int rc = med_frame_reader_next(reader, &frame, &err);
    REQUIRE(rc >= 0);
    return rc == 1 ? frame : NULL;
}

enum {
    COUNT = 150,
    TOP = 3
};

static void test_tokens_when_with_logprobs_then_complete_in_pieces(void)
{
    static uint32_t ids[COUNT], ranks[COUNT], top_ids[COUNT * TOP];
    static float logprobs[COUNT], top_logprobs[COUNT * TOP];
    struct ends e;
    struct med_frame_reader reader;
    for (uint32_t i = 0; i < COUNT; i++) {
        ids[i] = i * 7;
        ranks[i] = i + 1;
        logprobs[i] = -(float)i;
        for (uint32_t k = 0; k < TOP; k++) {
            top_ids[i * TOP + k] = k < i % 4 ? i + k : MED_UPLINK_NO_ID; /* 0 to 3 are there */
            top_logprobs[i * TOP + k] = -(float)k;
        }
    }
    const struct med_uplink_logprobs all = {.logprobs = logprobs,
                                            .ranks = ranks,
                                            .top = TOP,
                                            .top_ids = top_ids,
                                            .top_logprobs = top_logprobs};
    const struct med_uplink_tokens tokens = {.request = 9,
                                             .attempt = 2,
                                             .position = 1000,
                                             .ids = ids,
                                             .count = COUNT,
                                             .at_ns = 5,
                                             .logprobs = &all};
    ends_init(&e);
    med_frame_reader_init(&reader);
    med_uplink_send_tokens(&e.link, &tokens);
    uint32_t seen = 0;
    for (Medley__Link__Frame *f = sent(&e, &reader); f; f = sent(&e, &reader)) {
        REQUIRE(f->body_case == MEDLEY__LINK__FRAME__BODY_TOKENS);
        CHECK_UINT(f->tokens->request, 9);
        CHECK_UINT(f->tokens->position, 1000 + seen);
        REQUIRE(f->tokens->n_ids == f->tokens->n_logprobs);
        for (size_t i = 0; i < f->tokens->n_ids; i++, seen++) {
            const Medley__Link__TokenLogprobs *p = f->tokens->logprobs[i];
            CHECK_UINT(f->tokens->ids[i], seen * 7);
            CHECK_UINT(p->rank, seen + 1);
            CHECK_DOUBLE(p->logprob, -(double)seen, 0);
            REQUIRE(p->n_top_ids == seen % 4 && p->n_top_logprobs == seen % 4);
            for (uint32_t k = 0; k < seen % 4; k++) {
                CHECK_UINT(p->top_ids[k], seen + k);
                CHECK_DOUBLE(p->top_logprobs[k], -(double)k, 0);
            }
        }
        med_frame_free(f);
    }
    CHECK_UINT(seen, COUNT);
    med_frame_reader_release(&reader);
    ends_release(&e);
}

static void test_tokens_when_without_logprobs_then_one_frame(void)
{
    static const uint32_t ids[5000];
    const struct med_uplink_tokens tokens = {.ids = ids, .count = 5000};
    struct ends e;
    struct med_frame_reader reader;
    ends_init(&e);
    med_frame_reader_init(&reader);
    med_uplink_send_tokens(&e.link, &tokens);
    Medley__Link__Frame *f = sent(&e, &reader);
    REQUIRE(f != NULL);
    CHECK_UINT(f->tokens->n_ids, 5000);
    CHECK_UINT(f->tokens->n_logprobs, 0);
    med_frame_free(f);
    CHECK(sent(&e, &reader) == NULL);
    med_frame_reader_release(&reader);
    ends_release(&e);
}

static void test_hello_stats_and_finish_when_sent_then_the_new_fields_are_there(void)
{
    struct ends e;
    struct med_frame_reader reader;
    const struct med_uplink_finish finish = {
        .request = 3, .attempt = 1, .ending = MED_UPLINK_STOP, .cached_tokens = 48};
    ends_init(&e);
    med_frame_reader_init(&reader);
    med_uplink_put_hello(&e.link);
    med_uplink_put_stats(&e.link);
    med_uplink_send_finish(&e.link, &finish);
    Medley__Link__Frame *f = sent(&e, &reader);
    REQUIRE(f && f->body_case == MEDLEY__LINK__FRAME__BODY_HELLO);
    CHECK_UINT(f->hello->vocab_tokens, 128256);
    med_frame_free(f);
    f = sent(&e, &reader);
    REQUIRE(f && f->body_case == MEDLEY__LINK__FRAME__BODY_STATS);
    CHECK_UINT(f->stats->prefix_queries, UINT64_MAX);
    CHECK_UINT(f->stats->prefix_hits, 4);
    med_frame_free(f);
    f = sent(&e, &reader);
    REQUIRE(f && f->body_case == MEDLEY__LINK__FRAME__BODY_FINISH);
    CHECK_UINT(f->finish->cached_tokens, 48);
    CHECK_INT(f->finish->ending, MEDLEY__LINK__ENDING__ENDING_STOP);
    CHECK_STR(f->finish->message, "");
    med_frame_free(f);
    /* A link that is not up sends nothing of requests. */
    e.link.state = MED_UPLINK_STATE_WAITING;
    med_uplink_send_finish(&e.link, &finish);
    CHECK_UINT(e.link.out.length, 0);
    med_frame_reader_release(&reader);
    ends_release(&e);
}

int main(void)
{
    RUN(test_generate_when_silent_then_nothing_is_said);
    RUN(test_generate_when_it_says_all_then_all_arrives_even_zeros);
    RUN(test_generate_when_bias_arrays_disagree_then_both_counts_arrive);
    RUN(test_frames_when_no_router_sends_them_then_protocol_error);
    RUN(test_tokens_when_with_logprobs_then_complete_in_pieces);
    RUN(test_tokens_when_without_logprobs_then_one_frame);
    RUN(test_hello_stats_and_finish_when_sent_then_the_new_fields_are_there);
    return check_finish();
}
