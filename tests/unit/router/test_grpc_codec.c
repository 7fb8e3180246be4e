/* SPDX-License-Identifier: Apache-2.0 */
/* GenerateRequest in, chunks and responses out; bytes are made and read with the generated types. */
#include "base/alloc.h"
#include "inference.pb-c.h"
#include "router/grpc_codec.h"
#include "tests/check.h"

static size_t pack_request(uint8_t *out, uint32_t *ids, size_t count, bool sampling_set)
{
    static char model[] = "m";
    static char request_id[] = "id";
    Medley__V1__TokenIds tokens = MEDLEY__V1__TOKEN_IDS__INIT;
    Medley__V1__Sampling sampling = MEDLEY__V1__SAMPLING__INIT;
    Medley__V1__GenerateRequest request = MEDLEY__V1__GENERATE_REQUEST__INIT;
    tokens.ids = ids;
    tokens.n_ids = count;
    request.model = model;
    request.request_id = request_id;
    request.input_case = MEDLEY__V1__GENERATE_REQUEST__INPUT_TOKENS;
    request.tokens = &tokens;
    request.max_tokens = 9;
    request.emulated_output_tokens = 4;
    if (sampling_set) {
        sampling.temperature_value_case = MEDLEY__V1__SAMPLING__TEMPERATURE_VALUE_TEMPERATURE;
        sampling.temperature = 0;
        request.sampling = &sampling;
    }
    return medley__v1__generate_request__pack(&request, out);
}

static void test_a_request_is_read_with_what_is_set_and_what_is_not(void)
{
    uint32_t ids[] = {1, 300, UINT32_MAX};
    uint8_t bytes[128];
    struct med_err err = {0};
    for (int set = 0; set < 2; set++) {
        struct med_req *req = med_req_new();
        REQUIRE(req != NULL);
        size_t count = pack_request(bytes, ids, 3, set == 1);
        CHECK_INT(med_grpc_codec_read_generate(bytes, count, req, &err), 0);
        CHECK_STR(req->model, "m");
        CHECK_STR(req->request_id, "id");
        CHECK_UINT(req->prompt_count, 3);
        CHECK_UINT(req->prompt[2], UINT32_MAX);
        CHECK_UINT(req->tokens_max, 9);
        CHECK_UINT(req->emulated_output_tokens, 4);
        CHECK_INT(req->sampling.has_temperature, set);
        CHECK_INT(req->sampling.has_seed, 0);
        med_req_free(req);
    }
}

static void test_a_cut_request_is_refused_or_a_shorter_one(void)
{
    uint32_t ids[] = {1, 2, 3, 4};
    uint8_t bytes[128];
    size_t count = pack_request(bytes, ids, 4, true);
    int64_t before = med_alloc_bytes_live();
    int refused = 0;
    for (size_t n = 0; n < count; n++) {
        struct med_err err = {0};
        struct med_req *req = med_req_new();
        REQUIRE(req != NULL);
        int rc = med_grpc_codec_read_generate(bytes, n, req, &err);
        CHECK(rc == 0 || (rc == MED_E_INVALID && err.text[0] != '\0'));
        refused += rc < 0;
        med_req_free(req);
    }
    CHECK(refused > 0);
    CHECK_INT(med_alloc_bytes_live(), before);
}

static struct med_req *ended_request(size_t tokens)
{
    struct med_req *req = med_req_new();
    REQUIRE(req != NULL);
    for (uint32_t i = 0; i < tokens; i++)
        CHECK_INT(med_req_append_output(req, &(uint32_t){i * 1000}, 1), 0);
    (void)snprintf(req->request_id, sizeof(req->request_id), "r1");
    (void)snprintf(req->worker_type, sizeof(req->worker_type), "t1");
    req->prompt_count = 7;
    req->ended = true;
    req->outcome = MED_OUTCOME_LENGTH;
    return req;
}

static void test_chunks_hold_their_range_and_the_last_one_the_end(void)
{
    struct med_req *req = ended_request(10);
    struct med_buf out;
    med_buf_init(&out, 4096);
    for (int last = 0; last < 2; last++) {
        med_buf_clear(&out);
        CHECK_INT(med_grpc_codec_write_chunk(req, 4, 10, last == 1, &out), 0);
        Medley__V1__GenerateChunk *chunk =
            medley__v1__generate_chunk__unpack(NULL, out.length, (const uint8_t *)out.data);
        REQUIRE(chunk != NULL);
        CHECK_UINT(chunk->position, 4);
        CHECK_UINT(chunk->tokens->n_ids, 6);
        CHECK_UINT(chunk->tokens->ids[5], 9000);
        CHECK_INT(chunk->usage != NULL, last);
        CHECK_INT((int)chunk->finish_reason, last ? 2 : 0);
        if (last)
            CHECK_UINT(chunk->usage->completion_tokens, 10);
        medley__v1__generate_chunk__free_unpacked(chunk, NULL);
    }
    med_buf_release(&out);
    med_req_free(req);
}

static void test_a_response_holds_everything(void)
{
    struct med_req *req = ended_request(3);
    struct med_buf out;
    med_buf_init(&out, 4096);
    CHECK_INT(med_grpc_codec_write_response(req, &out), 0);
    Medley__V1__GenerateResponse *response =
        medley__v1__generate_response__unpack(NULL, out.length, (const uint8_t *)out.data);
    REQUIRE(response != NULL);
    CHECK_STR(response->request_id, "r1");
    CHECK_STR(response->worker_type, "t1");
    REQUIRE(response->n_choices == 1);
    CHECK_UINT(response->choices[0]->tokens->n_ids, 3);
    CHECK_UINT(response->usage->prompt_tokens, 7);
    CHECK_INT((int)response->choices[0]->finish_reason, 2);
    medley__v1__generate_response__free_unpacked(response, NULL);
    med_buf_release(&out);
    med_req_free(req);
}

static void test_every_allocation_may_fail(void)
{
    uint32_t ids[] = {1, 2, 3, 4};
    uint8_t bytes[128];
    size_t count = pack_request(bytes, ids, 4, true);
    int64_t before = med_alloc_bytes_live();
    for (uint64_t nth = 1; nth < 16; nth++) {
        struct med_err err = {0};
        struct med_req *req = med_req_new();
        REQUIRE(req != NULL);
        (void)med_alloc_fail_nth(nth);
        int rc = med_grpc_codec_read_generate(bytes, count, req, &err);
        (void)med_alloc_fail_nth(0);
        CHECK(rc == 0 || rc == MED_E_NOMEM || rc == MED_E_INVALID);
        med_req_free(req);
        CHECK_INT(med_alloc_bytes_live(), before);
    }
}

int main(void)
{
    RUN(test_a_request_is_read_with_what_is_set_and_what_is_not);
    RUN(test_a_cut_request_is_refused_or_a_shorter_one);
    RUN(test_chunks_hold_their_range_and_the_last_one_the_end);
    RUN(test_a_response_holds_everything);
    RUN(test_every_allocation_may_fail);
    return check_finish();
}
