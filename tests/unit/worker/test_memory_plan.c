/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory plan to its edges: what is given is kept, what is not is fitted, what cannot fit is
 * refused with values that would; and the bound on the scheduler's tables holds.
 */
#include "worker/memory_plan.h"

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/rng.h"
#include "tests/check.h"
#include "worker/requests.h"

#define GB INT64_C(1000000000)

/* Linear in each size, as a transformer's is. */
static size_t workspace(void *arg, const struct med_memory_sizes *sizes)
{
    const int64_t *vocab = arg;
    return (size_t)(sizes->sequences_max * *vocab * 4 + sizes->batched_tokens_max * 40000 +
                    sizes->model_len_max * 64);
}

static int64_t vocab = 32000;

/* A 1B model on a machine with 16 GB. */
static struct med_memory_needs needs_of_1b(void)
{
    return (struct med_memory_needs){
        .machine_bytes = 16 * GB,
        .available_bytes = 16 * GB,
        .share = 0.7,
        .weight_bytes = 2500000000,
        .kv_bytes_per_token = 32768,
        .positions_max = 131072,
        .block_tokens = 16,
        .threads = 4,
        .routers = 1,
        .prefix_cache = true,
        .workspace_bytes = workspace,
        .arg = &vocab,
    };
}

/* Llama 2 7B in 16 bits on a GPU of 80 GB, in a machine with little memory of its own. */
static struct med_memory_needs needs_on_gpu(void)
{
    struct med_memory_needs n = needs_of_1b();
    n.weight_bytes = 13476831232;
    n.kv_bytes_per_token = 524288;
    n.positions_max = 4096;
    n.sequences_default = 256;
    n.batched_tokens_default = 2048;
    n.threads = 1;
    n.device = (struct med_memory_device){.total_bytes = 85 * GB,
                                          .free_bytes = 84 * GB,
                                          .share = 0.9,
                                          .reserve_bytes = GB,
                                          .staging_bytes = GB};
    return n;
}

static struct med_memory_plan plan_of(const struct med_memory_needs *needs)
{
    struct med_memory_plan plan = {0};
    struct med_err err = {0};
    int rc = med_memory_plan_make(needs, &plan, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s\n", err.text);
    REQUIRE(rc == 0);
    return plan;
}

/* What every plan keeps. */
static void check_plan(const struct med_memory_needs *n, const struct med_memory_plan *p)
{
    const int64_t served = p->scheduler_bytes + p->request_bytes + p->process_bytes;
    const int64_t computed = p->weight_bytes + p->workspace_bytes + p->kv_bytes;
    if (n->device.total_bytes > 0) {
        CHECK_INT(p->total_bytes, served + n->device.staging_bytes);
        CHECK_INT(p->device_total_bytes, computed + n->device.reserve_bytes);
        CHECK(p->device_total_bytes <= p->device_budget_bytes);
        CHECK(p->device_budget_bytes <= n->device.free_bytes);
        CHECK((double)p->device_budget_bytes <= n->device.share * (double)n->device.total_bytes);
    } else {
        CHECK_INT(p->total_bytes, computed + served);
        CHECK_INT(p->device_total_bytes, 0);
    }
    CHECK(p->total_bytes <= p->budget_bytes);
    CHECK(p->budget_bytes <= n->available_bytes);
    CHECK((double)p->budget_bytes <= n->share * (double)n->machine_bytes);
    CHECK_INT(p->sizes.kv_tokens, p->kv_blocks * n->block_tokens);
    CHECK(p->sizes.model_len_max >= 1 && p->sizes.model_len_max <= n->positions_max);
    CHECK(p->sizes.model_len_max <= p->sizes.kv_tokens);
    CHECK(p->sizes.batched_tokens_max >= p->sizes.sequences_max);
    const struct med_memory_sizes *g = &n->given;
    CHECK(g->model_len_max == 0 || g->model_len_max == p->sizes.model_len_max);
    CHECK(g->sequences_max == 0 || g->sequences_max == p->sizes.sequences_max);
    CHECK(g->batched_tokens_max == 0 || g->batched_tokens_max == p->sizes.batched_tokens_max);
    CHECK(g->kv_tokens == 0 ||
          g->kv_tokens / n->block_tokens * n->block_tokens == p->sizes.kv_tokens);
}

static void test_plan_when_nothing_is_given_then_all_is_used(void)
{
    struct med_memory_needs n = needs_of_1b();
    struct med_memory_plan p = plan_of(&n);
    check_plan(&n, &p);
    CHECK_INT(p.sizes.model_len_max, 131072);
    CHECK_INT(p.sizes.sequences_max, 64);
    CHECK_INT(p.sizes.batched_tokens_max, 512);
    /* One more block would not fit. */
    int64_t block = n.block_tokens * (n.kv_bytes_per_token + 4) + 88;
    CHECK(p.budget_bytes - p.total_bytes < block);
}

static void test_plan_when_memory_abounds_then_cache_ends_with_its_use(void)
{
    struct med_memory_needs n = needs_of_1b();
    n.machine_bytes = n.available_bytes = 10000 * GB;
    n.positions_max = 1000;
    struct med_memory_plan p = plan_of(&n);
    check_plan(&n, &p);
    CHECK_INT(p.sizes.model_len_max, 1000);
    CHECK_INT(p.kv_blocks, 64 * 63 + 64 * 63 / 2);
    n.prefix_cache = false;
    p = plan_of(&n);
    CHECK_INT(p.kv_blocks, 64 * 63);
}

static void test_plan_when_memory_is_short_then_sequences_are_shorter(void)
{
    struct med_memory_needs n = needs_of_1b();
    n.available_bytes = n.machine_bytes = 5 * GB;
    struct med_memory_plan p = plan_of(&n);
    check_plan(&n, &p);
    CHECK(p.sizes.model_len_max < 131072 && p.sizes.model_len_max >= 256);
    CHECK_INT(p.sizes.sequences_max, 64);
    /* Given one token more, it is refused, with exactly this length as advice. */
    struct med_err err = {0};
    char advice[64];
    n.given.model_len_max = p.sizes.model_len_max + n.block_tokens;
    (void)snprintf(advice, sizeof advice, "--max-model-len %" PRId64 " would fit",
                   p.sizes.model_len_max);
    n.given.sequences_max = 64;
    n.given.batched_tokens_max = 512;
    CHECK_INT(med_memory_plan_make(&n, &p, &err), MED_E_USAGE);
    CHECK_CONTAINS(err.text, advice);
    n.given.model_len_max -= n.block_tokens;
    p = plan_of(&n);
    check_plan(&n, &p);
}

static void test_plan_when_memory_is_scarce_then_batches_are_smaller(void)
{
    struct med_memory_needs n = needs_of_1b();
    vocab = 128256;
    n.available_bytes = n.machine_bytes = 3900000000;
    struct med_memory_plan p = plan_of(&n);
    check_plan(&n, &p);
    CHECK(p.sizes.sequences_max <= 64);
    n.given.model_len_max = 1500; /* it is kept, whatever else must give way */
    p = plan_of(&n);
    check_plan(&n, &p);
    CHECK_INT(p.sizes.model_len_max, 1500);
    vocab = 32000;
}

static void test_plan_when_weights_do_not_fit_then_says_which_share_would(void)
{
    struct med_memory_needs n = needs_of_1b();
    struct med_memory_plan p;
    struct med_err err = {0};
    n.weight_bytes = 12 * GB;
    CHECK_INT(med_memory_plan_make(&n, &p, &err), MED_E_USAGE);
    CHECK_CONTAINS(err.text, "weights of 12.00 GB");
    const char *at = strstr(err.text, "--memory-utilization ");
    REQUIRE(at != NULL);
    n.share = strtod(at + strlen("--memory-utilization "), NULL);
    CHECK(n.share > 0.75 && n.share < 0.85);
    p = plan_of(&n);
    check_plan(&n, &p);
    /* No share helps where others hold the memory. */
    n.available_bytes = 11 * GB;
    CHECK_INT(med_memory_plan_make(&n, &p, &err), MED_E_USAGE);
    CHECK_CONTAINS(err.text, "of free memory");
    CHECK(strstr(err.text, "--memory-utilization") == NULL);
}

static void test_plan_when_on_a_gpu_then_its_memory_is_used_and_the_machines_is_not(void)
{
    struct med_memory_needs n = needs_on_gpu();
    struct med_memory_plan p = plan_of(&n);
    check_plan(&n, &p);
    CHECK_INT(p.sizes.sequences_max, 256);
    CHECK_INT(p.sizes.batched_tokens_max, 2048);
    CHECK_INT(p.sizes.model_len_max, 4096);
    /* One more block would not fit. */
    CHECK(p.device_budget_bytes - p.device_total_bytes < n.block_tokens * n.kv_bytes_per_token);
    CHECK(p.total_bytes < 4 * GB);
    /* What others hold is not ours, whatever the share. */
    n.device.free_bytes = 30 * GB;
    n.device.share = 1;
    p = plan_of(&n);
    check_plan(&n, &p);
    CHECK_INT(p.device_budget_bytes, 30 * GB);
}

static void test_plan_when_the_gpu_is_too_small_then_its_share_is_named(void)
{
    struct med_memory_needs n = needs_on_gpu();
    struct med_memory_plan p;
    struct med_err err = {0};
    n.device.total_bytes = n.device.free_bytes = 20 * GB;
    n.device.share = 0.5;
    CHECK_INT(med_memory_plan_make(&n, &p, &err), MED_E_USAGE);
    CHECK_CONTAINS(err.text, "10.00 GB of the GPU that may be used (0.5 of 20.00 GB");
    const char *at = strstr(err.text, "--gpu-memory-utilization ");
    REQUIRE(at != NULL);
    n.device.share = strtod(at + strlen("--gpu-memory-utilization "), NULL);
    CHECK(n.device.share > 0.7 && n.device.share < 0.85);
    p = plan_of(&n);
    check_plan(&n, &p);
    n.device.free_bytes = 12 * GB;
    CHECK_INT(med_memory_plan_make(&n, &p, &err), MED_E_USAGE);
    CHECK_CONTAINS(err.text, "GB more of free GPU memory");
    /* A cache that does not fit: the value that would, to the token. */
    n = needs_on_gpu();
    n.given.kv_tokens = 1 << 20;
    REQUIRE(med_memory_plan_make(&n, &p, &err) == MED_E_USAGE);
    const char *advice = strchr(err.text, ';');
    at = advice ? strstr(advice, "--kv-tokens ") : NULL;
    REQUIRE(at != NULL);
    n.given.kv_tokens = strtoll(at + strlen("--kv-tokens "), NULL, 10);
    p = plan_of(&n);
    check_plan(&n, &p);
    n.given.kv_tokens += n.block_tokens;
    CHECK_INT(med_memory_plan_make(&n, &p, &err), MED_E_USAGE);
}

static void test_plan_when_the_machine_is_too_small_for_a_gpu_then_its_share_is_named(void)
{
    struct med_memory_needs n = needs_on_gpu();
    struct med_memory_plan p;
    struct med_err err = {0};
    n.machine_bytes = n.available_bytes = 1400000000;
    CHECK_INT(med_memory_plan_make(&n, &p, &err), MED_E_USAGE);
    CHECK_CONTAINS(err.text, "of the machine's memory that may be used");
    CHECK_CONTAINS(err.text, "--memory-utilization 0.");
    CHECK(strstr(err.text, "--gpu-memory-utilization") == NULL);
}

static void test_plan_when_given_values_do_not_agree_then_refused_by_name(void)
{
    static const struct {
        struct med_memory_sizes given;
        const char *text;
    } rows[] = {
        {{.model_len_max = 131073}, "131072 positions"},
        {{.kv_tokens = 15}, "at least one block of 16 tokens"},
        {{.model_len_max = 33, .kv_tokens = 47}, "the KV cache has 32 tokens"},
        {{.sequences_max = 9, .batched_tokens_max = 8}, "could not decode"},
        {{.kv_tokens = INT64_MAX}, "--kv-tokens"},
        {{.kv_tokens = 1 << 30}, "--kv-tokens "},
        {{.sequences_max = 1 << 30}, "--max-num-seqs "},
        {{.batched_tokens_max = 1 << 30}, "--max-num-batched-tokens "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct med_memory_needs n = needs_of_1b();
        struct med_memory_plan p;
        struct med_err err = {0};
        n.given = rows[i].given;
        CHECK_INT(med_memory_plan_make(&n, &p, &err), MED_E_USAGE);
        CHECK_CONTAINS(err.text, rows[i].text);
    }
}

static void test_plan_when_a_size_is_advised_then_it_fits_and_one_more_does_not(void)
{
    static const char *const options[] = {"--kv-tokens", "--max-num-seqs",
                                          "--max-num-batched-tokens"};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        struct med_memory_needs n = needs_of_1b();
        struct med_memory_plan p;
        struct med_err err = {0};
        int64_t *const sizes[] = {&n.given.kv_tokens, &n.given.sequences_max,
                                  &n.given.batched_tokens_max};
        n.given.model_len_max = 4096;
        n.given.sequences_max = 8;
        n.given.batched_tokens_max = 100000;
        *sizes[i] = i == 0 ? 1 << 28 : i == 1 ? 100000 : 1 << 20;
        REQUIRE(med_memory_plan_make(&n, &p, &err) == MED_E_USAGE);
        char wanted[64];
        (void)snprintf(wanted, sizeof wanted, "%s ", options[i]);
        /* The advice is behind the semicolon; the option is first named where it is refused. */
        const char *advice = strchr(err.text, ';');
        const char *at = advice ? strstr(advice, wanted) : NULL;
        REQUIRE(at != NULL);
        *sizes[i] = strtoll(at + strlen(wanted), NULL, 10);
        CHECK(*sizes[i] > 0);
        p = plan_of(&n);
        check_plan(&n, &p);
        *sizes[i] += i == 0 ? n.block_tokens : 1;
        CHECK_INT(med_memory_plan_make(&n, &p, &err), MED_E_USAGE);
    }
}

static void test_plan_when_sizes_are_random_then_it_keeps_its_promises(void)
{
    struct med_rng rng;
    med_rng_init(&rng, check_seed(), 5);
    int made = 0, refused = 0;
    for (int i = 0; i < 3000; i++) {
        const bool on_gpu = med_rng_below(&rng, 2) == 1;
        struct med_memory_needs n = on_gpu ? needs_on_gpu() : needs_of_1b();
        if (on_gpu) {
            n.device.total_bytes = (int64_t)(med_rng_uniform(&rng) * 90e9) + 1;
            n.device.free_bytes = (int64_t)(med_rng_uniform(&rng) * (double)n.device.total_bytes);
            n.device.share = 0.01 + 0.99 * med_rng_uniform(&rng);
        }
        n.machine_bytes = (int64_t)(med_rng_uniform(&rng) * 64e9) + 1;
        n.available_bytes = (int64_t)(med_rng_uniform(&rng) * (double)n.machine_bytes);
        n.share = 0.01 + 0.99 * med_rng_uniform(&rng);
        n.weight_bytes = (int64_t)(med_rng_uniform(&rng) * 20e9);
        n.positions_max = 1 + med_rng_below(&rng, 200000);
        n.block_tokens = 1 + med_rng_below(&rng, 64);
        n.prefix_cache = med_rng_below(&rng, 2) == 1;
        if (med_rng_below(&rng, 3) == 0)
            n.given.model_len_max = 1 + med_rng_below(&rng, (uint32_t)n.positions_max);
        if (med_rng_below(&rng, 3) == 0)
            n.given.sequences_max = 1 + med_rng_below(&rng, 300);
        if (med_rng_below(&rng, 3) == 0)
            n.given.batched_tokens_max = 1 + med_rng_below(&rng, 3000);
        if (med_rng_below(&rng, 3) == 0)
            n.given.kv_tokens = 1 + med_rng_below(&rng, 400000);
        struct med_memory_plan p;
        struct med_err err = {0};
        int rc = med_memory_plan_make(&n, &p, &err);
        if (rc == 0) {
            check_plan(&n, &p);
            made++;
        } else {
            CHECK_INT(rc, MED_E_USAGE);
            CHECK(err.text[0] != '\0');
            CHECK(strlen(err.text) < MED_ERR_TEXT_MAX - 1); /* it is whole */
            refused++;
        }
    }
    CHECK(made > 300 && refused > 300);
}

static void test_requests_when_they_are_the_largest_then_one_always_has_room(void)
{
    for (int64_t len = 2; len <= 1 << 20; len *= 8) {
        struct med_memory_needs n = needs_of_1b();
        n.machine_bytes = n.available_bytes = 1000 * GB;
        n.positions_max = len;
        n.given.sequences_max = 1;
        struct med_memory_plan p = plan_of(&n);
        size_t largest = med_request_bytes(1, len - 1, MED_LIMIT_TOP_LOGPROBS, MED_LIMIT_LOGIT_BIAS,
                                           MED_LIMIT_STOP_TOKENS);
        CHECK((int64_t)largest <= p.request_bytes);
        size_t plain = med_request_bytes(1, len - 1, -1, 0, 0);
        CHECK(2 * (int64_t)plain <= p.request_bytes);
    }
}

static void test_scheduler_bytes_when_it_is_made_then_within_the_bound(void)
{
    static const struct {
        int64_t len, sequences, blocks, block_tokens, table;
        bool cache;
    } rows[] = {{512, 64, 6144, 16, 16384, true}, {512, 64, 6144, 16, 16384, false},
                {64, 1, 4, 16, 16384, true},      {131072, 64, 20000, 16, 16384, true},
                {4096, 512, 300000, 16, 5, true}, {4096, 512, 65537, 1, 5, true},
                {8192, 8, 4097, 256, 1000, true}, {1000, 300, 40000, 32, 9000, false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct med_scheduler_config config = {.block_tokens = rows[i].block_tokens,
                                              .kv_tokens = rows[i].blocks * rows[i].block_tokens,
                                              .model_len_max = rows[i].len,
                                              .sequences_max = rows[i].sequences,
                                              .batched_tokens_max = rows[i].sequences,
                                              .table_max = rows[i].table,
                                              .prefix_cache = rows[i].cache};
        struct med_memory_sizes sizes = {.model_len_max = rows[i].len,
                                         .sequences_max = rows[i].sequences,
                                         .kv_tokens = config.kv_tokens};
        struct med_scheduler *scheduler;
        struct med_requests requests;
        struct med_err err = {0};
        int64_t before = med_alloc_bytes_live();
        REQUIRE(med_scheduler_new(&config, &scheduler, &err) == 0);
        REQUIRE(med_requests_init(&requests, rows[i].table) == 0);
        int64_t taken = med_alloc_bytes_live() - before;
        int64_t bound =
            med_memory_scheduler_bytes(&sizes, rows[i].block_tokens, rows[i].table, rows[i].cache);
        CHECK(taken <= bound + 4096);
        CHECK(bound <= 2 * taken + (1 << 16)); /* and it means something */
        med_requests_release(&requests);
        med_scheduler_free(scheduler);
    }
}

static int64_t json_number(const struct med_json_at *at, const char *key)
{
    struct med_err err = {0};
    int64_t value = -1;
    CHECK_INT(med_json_integer(at, key, 0, INT64_C(1) << 52, &value, &err), 0);
    return value;
}

static void test_print_when_on_a_gpu_then_both_memories_are_there(void)
{
    struct med_memory_needs n = needs_on_gpu();
    struct med_memory_plan p = plan_of(&n);
    const struct med_memory_title title = {.worker_type = "cuda-x",
                                           .model = "x",
                                           .model_dir = "x",
                                           .architecture = "LlamaForCausalLM",
                                           .backend = "cuda",
                                           .device = "NVIDIA X",
                                           .dtype = "bfloat16",
                                           .kv_dtype = "bfloat16",
                                           .batching = "continuous",
                                           .threads = 1};
    struct med_buf text;
    med_buf_init(&text, 1 << 16);
    REQUIRE(med_memory_plan_text(&p, &title, &text) == 0);
    REQUIRE(med_buf_append(&text, "", 1) == 0);
    CHECK_CONTAINS(text.data, "GPU memory                85.000 GB, 84.000 GB of it free");
    CHECK_CONTAINS(text.data, "(--gpu-memory-utilization 0.9)");
    CHECK_CONTAINS(text.data, "(--memory-utilization 0.7)");
    CHECK_CONTAINS(text.data, "  staging                  1.000 GB");
    med_buf_clear(&text);
    REQUIRE(med_memory_plan_json(&p, &title, &text) == 0);
    struct med_json_doc doc;
    struct med_err err = {0};
    REQUIRE(med_json_parse(text.data, text.length, "plan", &doc, &err) == 0);
    struct med_json_at root = med_json_root(&doc), bytes, gpu, gpu_bytes;
    REQUIRE(med_json_object(&root, "bytes", &bytes, &err) == 0);
    REQUIRE(med_json_object(&root, "gpu", &gpu, &err) == 0);
    REQUIRE(med_json_object(&gpu, "bytes", &gpu_bytes, &err) == 0);
    CHECK_INT(json_number(&gpu_bytes, "total"), p.device_total_bytes);
    CHECK_INT(json_number(&gpu_bytes, "weights"), p.weight_bytes);
    CHECK_INT(json_number(&gpu_bytes, "kv_cache"), p.kv_bytes);
    CHECK_INT(json_number(&gpu_bytes, "budget"), p.device_budget_bytes);
    CHECK_INT(json_number(&bytes, "weights"), 0);
    CHECK_INT(json_number(&bytes, "total"), p.total_bytes);
    CHECK_INT(json_number(&bytes, "staging"), GB);
    med_json_free(&doc);
    med_buf_release(&text);
}

static void test_print_when_asked_then_table_and_json_hold_the_numbers(void)
{
    struct med_memory_needs n = needs_of_1b();
    n.given.sequences_max = 7;
    struct med_memory_plan p = plan_of(&n);
    const struct med_memory_title title = {.worker_type = "cpu-x",
                                           .model = "x",
                                           .model_dir = "/models/x \"y\"",
                                           .architecture = "LlamaForCausalLM",
                                           .backend = "cpu",
                                           .device = "BLAS",
                                           .dtype = "bfloat16",
                                           .kv_dtype = "float16",
                                           .batching = "static",
                                           .parameters = 1236000000,
                                           .threads = 4};
    struct med_buf text;
    med_buf_init(&text, 1 << 16);
    REQUIRE(med_memory_plan_text(&p, &title, &text) == 0);
    REQUIRE(med_buf_append(&text, "", 1) == 0);
    CHECK_CONTAINS(text.data, "max-num-seqs                   7, as given");
    CHECK_CONTAINS(text.data, "131072 tokens, fitted");
    CHECK_CONTAINS(text.data, "bfloat16, KV cache float16");
    med_buf_clear(&text);
    REQUIRE(med_memory_plan_json(&p, &title, &text) == 0);
    struct med_json_doc doc;
    struct med_err err = {0};
    REQUIRE(med_json_parse(text.data, text.length, "plan", &doc, &err) == 0);
    struct med_json_at root = med_json_root(&doc), bytes;
    int64_t value = 0;
    CHECK_INT(med_json_integer(&root, "kv_tokens", 0, INT64_C(1) << 52, &value, &err), 0);
    CHECK_INT(value, p.sizes.kv_tokens);
    REQUIRE(med_json_object(&root, "bytes", &bytes, &err) == 0);
    CHECK_INT(med_json_integer(&bytes, "total", 0, INT64_C(1) << 52, &value, &err), 0);
    CHECK_INT(value, p.total_bytes);
    med_json_free(&doc);
    med_buf_release(&text);
}

int main(void)
{
    RUN(test_plan_when_nothing_is_given_then_all_is_used);
    RUN(test_plan_when_memory_abounds_then_cache_ends_with_its_use);
    RUN(test_plan_when_memory_is_short_then_sequences_are_shorter);
    RUN(test_plan_when_memory_is_scarce_then_batches_are_smaller);
    RUN(test_plan_when_weights_do_not_fit_then_says_which_share_would);
    RUN(test_plan_when_on_a_gpu_then_its_memory_is_used_and_the_machines_is_not);
    RUN(test_plan_when_the_gpu_is_too_small_then_its_share_is_named);
    RUN(test_plan_when_the_machine_is_too_small_for_a_gpu_then_its_share_is_named);
    RUN(test_plan_when_given_values_do_not_agree_then_refused_by_name);
    RUN(test_plan_when_a_size_is_advised_then_it_fits_and_one_more_does_not);
    RUN(test_plan_when_sizes_are_random_then_it_keeps_its_promises);
    RUN(test_requests_when_they_are_the_largest_then_one_always_has_room);
    RUN(test_scheduler_bytes_when_it_is_made_then_within_the_bound);
    RUN(test_print_when_on_a_gpu_then_both_memories_are_there);
    RUN(test_print_when_asked_then_table_and_json_hold_the_numbers);
    return check_finish();
}
