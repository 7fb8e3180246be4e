/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every queue, buffer, name and file has its maximum here, so that "what happens when it is full"
 * can be asked of one page.  Each value's comment says what the code does at the maximum.
 */
#ifndef MED_BASE_LIMITS_H
#define MED_BASE_LIMITS_H

enum {
    /* Files: larger is refused with a sentence before it is read. */
    MED_LIMIT_JSON_BYTES = 64 << 20,    /* plan, profile, catalogue, workload, config */
    MED_LIMIT_JSON_DEPTH = 64,          /* nesting; deeper is refused */
    MED_LIMIT_JSON_VALUES = 4 << 20,    /* of one text, keys not counted; more is refused before the
                                          * tree is built, which takes some 80 bytes for each. A
                                          * tokenizer of 262,144 tokens has 2 million */
    MED_LIMIT_LOG_FILE_ROWS = 50000000, /* rows of a request log; more is refused */
    MED_LIMIT_LOG_LINE_BYTES = 64 << 10, /* one line of a request log */
    MED_LIMIT_NAME_BYTES = 128,          /* worker type, instance, model, GPU: longer is refused */
    MED_LIMIT_TEXT_BYTES = 16 << 10,     /* source, reason, warning of a file: longer is refused */

    /* Planning sizes: more is refused with a sentence. */
    MED_LIMIT_EDGES = 64,           /* bucket edges per axis */
    MED_LIMIT_BUCKETS = 4096,       /* buckets of a workload */
    MED_LIMIT_WORKER_TYPES = 64,    /* profiles of a plan */
    MED_LIMIT_INSTANCES = 512,      /* rows of a catalogue */
    MED_LIMIT_PROFILE_ROWS = 65536, /* steps or serving rows of a profile */
    MED_LIMIT_SLOS = 8,             /* objectives of a plan */
    MED_LIMIT_SOURCES = 256,        /* sources of a profile, and its validations */
    MED_LIMIT_RATE_WINDOWS = 10080, /* rate_over_time of a workload: a week of minutes */
    MED_LIMIT_MESSAGES = 4096,      /* reasons or warnings of a plan */

    /* Models: more is refused with a sentence, before anything is allocated for it. */
    MED_LIMIT_MODEL_LAYERS = 1024,
    MED_LIMIT_MODEL_WIDTH = 1 << 20,                /* hidden, intermediate, heads x head_dim */
    MED_LIMIT_VOCAB = 1 << 22,                      /* rows of the embedding */
    MED_LIMIT_SAFETENSORS_HEADER_BYTES = 100000000, /* the format's own limit */
    MED_LIMIT_SAFETENSORS_FILES = 4096,             /* shards of one model */
    MED_LIMIT_TOKENIZER_BYTES = 256 << 20,          /* tokenizer.json */
    MED_LIMIT_TOKEN_BYTES = 8 << 10,                /* one token of a vocabulary */
    MED_LIMIT_REGEX_STEPS = 10000000,               /* one search of a pre-tokenizer's pattern */
    MED_LIMIT_CHAT_TEMPLATE_BYTES = 256 << 10,      /* text of a chat template */
    MED_LIMIT_CHAT_MESSAGES = 16384,                /* messages of one request */
    MED_LIMIT_CHAT_PROGRAM_BYTES = 64 << 20,        /* a parsed chat template */
    MED_LIMIT_CHAT_RENDER_BYTES = 64 << 20, /* what one render may hold besides its output */
    MED_LIMIT_CHAT_STEPS = 20000000,        /* work of one render; more ends it */

    /* Sampling: outside is INVALID_ARGUMENT. */
    MED_LIMIT_TOP_LOGPROBS = 20,    /* alternatives per token */
    MED_LIMIT_LOGIT_BIAS = 1024,    /* entries of one request */
    MED_LIMIT_STOP_TOKENS = 256,    /* stop_token_ids of one request */
    MED_LIMIT_STOP_STRINGS = 16,    /* stop strings of one request */
    MED_LIMIT_STOP_BYTES = 1 << 10, /* one stop string */
    MED_LIMIT_CHOICES = 128,        /* n of one request */
    MED_LIMIT_PROMPTS = 256,        /* prompts of one HTTP request */
    MED_LIMIT_ANSWER_LOGPROB_BYTES = 64
                                     << 20, /* of one request's answers together, in the router */

    /* Requests: outside is INVALID_ARGUMENT before anything is accepted. */
    MED_LIMIT_PROMPT_TOKENS = 1 << 20, /* token ids of one prompt */
    MED_LIMIT_PROMPT_BYTES = 4 << 20,  /* text of one prompt, a chat's template applied */
    MED_LIMIT_OUTPUT_TOKENS = 1 << 20, /* max_tokens of one request */
    MED_LIMIT_REQUEST_ID_BYTES = 128,
    MED_LIMIT_TRACEPARENT_BYTES = 55, /* exactly; version 00 of W3C's Trace Context */
    MED_LIMIT_ENCODE_BYTES =
        256 << 20, /* text that waits to be encoded; more is RESOURCE_EXHAUSTED */
    MED_LIMIT_ANSWER_BYTES =
        16 << 20, /* text of a choice that was not passed on; then it is ended */

    /* The worker link: a larger frame ends the connection with a logged reason. */
    MED_LIMIT_FRAME_BYTES = 8 << 20,
    MED_LIMIT_LINK_WRITE_BYTES = 32
                                 << 20, /* unsent bytes to one worker; then it counts as stalled */
    MED_LIMIT_LINK_REPLY_BYTES = 8 << 20, /* unsent bytes to one router; then the worker redials */
    MED_LIMIT_LINKS = 8192,               /* worker connections; more are closed at accept */
    MED_LIMIT_WORKER_REQUESTS = 16384,    /* held by one worker; more are refused, not started */

    /* The gRPC door. */
    MED_LIMIT_USER_BYTES = 512, /* a request's `user` */
    MED_LIMIT_GRPC_MESSAGE_BYTES = 8 << 20,
    MED_LIMIT_CALLS = 16384,       /* calls in flight; more are RESOURCE_EXHAUSTED */
    MED_LIMIT_HEALTH_CALLS = 1024, /* of them Health's, which need no key */
    MED_LIMIT_CALL_TOKENS_UNSENT =
        65536, /* tokens a slow reader may lag; then the call is cancelled */

    /* The HTTP door. */
    MED_LIMIT_HTTP_HEADER_BYTES = 16 << 10,  /* 431 */
    MED_LIMIT_HTTP_BODY_BYTES = 16 << 20,    /* 413 */
    MED_LIMIT_HTTP_BODIES_BYTES = 512 << 20, /* of all requests that are held; 503 */
    MED_LIMIT_HTTP_UNSENT_BYTES = 1 << 20,   /* of a streamed answer; then its writes fail */
    MED_LIMIT_HTTP_CONNECTIONS = 16384,      /* more are closed at accept */

    /* Queues between threads: a full one returns MED_E_AGAIN and the sender still owns. */
    MED_LIMIT_MAILBOX_MESSAGES = 65536,

    /* Dispatch. */
    MED_LIMIT_WORKERS = 8192,        /* workers of one router */
    MED_LIMIT_QUEUE_REQUESTS = 4096, /* default of --queue-max; more is RESOURCE_EXHAUSTED */
};

#endif
