/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client asks for, from the door that took it to the outcomes that end it.
 *
 * A query is one call of a client: its prompt, its parameters, and the choices to generate from
 * them.  A request is one choice: what dispatch sends to a worker, its tokens and its text.
 * Everything that belongs to a call hangs from one struct med_query.  The door makes it, fills what
 * the client asked for, and gives it to the router with submit.  From a submit that took it until
 * on_end the router borrows it; the door owns it all the time and frees it, at one place, when the
 * answer has been written or dropped.
 *
 * The prompt is kept for sending it to another worker; all output tokens are kept too, so that a
 * door needs no queue of its own: it remembers how much it has passed on.
 * thread: loop.
 */
#ifndef MED_ROUTER_REQUEST_H
#define MED_ROUTER_REQUEST_H

#include "base/err.h"
#include "base/limits.h"
#include "router/answer.h"
#include "router/dispatch/dispatch.h"
#include "router/tokenizer/chat_template.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct med_query;
struct med_req;

/* What the router tells a door. Neither may call back into the router. */
struct med_door_ops {
    /* A choice's answer has grown, or the choice has ended well.  < 0: the client lags too far; the
     * query is then cancelled, and ends with this code. */
    int (*on_progress)(struct med_query *query, struct med_req *req);
    /* Exactly once per query that submit took: all choices are over. end_code and end_text of the
     * query say how; a refusal after encoding comes here too. */
    void (*on_end)(struct med_query *query);
};

struct med_req_sampling {
    bool has_temperature, has_top_p, has_top_k, has_seed, has_min_p, has_repetition_penalty;
    bool has_logprobs;
    bool ignore_eos, include_stop;
    bool keep_special; /* special tokens stay in texts */
    float temperature; /* [0, 2] */
    float top_p;       /* (0, 1] */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;
    float min_p;                               /* [0, 1] */
    float repetition_penalty;                  /* (0, 2] */
    float presence_penalty, frequency_penalty; /* [-2, 2] */
    uint32_t *bias_ids;                        /* owned */
    float *biases;                             /* owned; as many, [-100, 100] */
    size_t bias_count;
    uint32_t min_tokens;
    char **stops; /* owned, each too */
    size_t stop_count;
    uint32_t *stop_ids; /* owned */
    size_t stop_id_count;
    uint32_t logprobs; /* of the likeliest, besides the chosen one's */
};

enum med_input_kind {
    MED_INPUT_NONE,
    MED_INPUT_TOKENS,
    MED_INPUT_TEXT,
    MED_INPUT_CHAT
};
const char *med_input_kind_field(enum med_input_kind kind); /* "tokens.ids", "text", "chat" */

/* Text of a prompt; given away while a thread of the pool encodes it. */
struct med_input {
    enum med_input_kind kind;
    char *text; /* owned; MED_INPUT_TEXT */
    size_t text_bytes;
    struct med_chat_message *messages; /* owned, with their strings; MED_INPUT_CHAT */
    size_t message_count;
    bool add_generation_prompt;
    bool without_special; /* nothing is added to the tokens of a text: no beginning of sequence */
};
void med_input_release(struct med_input *input);
/* Text to be encoded, before a template is applied; 0 for token ids. */
size_t med_input_bytes(const struct med_input *input);

/* Logprobs of one output token, and of the likeliest. */
struct med_req_logprob {
    uint32_t id;
    float logprob;
};

/* One choice. */
struct med_req {
    struct med_query *query;
    uint32_t index;
    uint64_t seed;
    uint64_t id; /* dispatch's name for it; 0: not submitted or ended */
    int64_t first_sent_ns, sent_ns, first_token_ns, last_token_ns, ended_ns; /* 0: not yet */
    uint32_t *output; /* owned; position i is output token i */
    size_t output_count, output_capacity;
    /* owned; if the query asks for them and the worker knows them: 1 + sampling.logprobs rows for each output token, the
     * chosen one first; unused rows at the end have logprob 1. */
    struct med_req_logprob *logprobs;
    size_t logprob_capacity;                    /* in output tokens */
    struct med_answer answer;                   /* its text */
    char worker_type[MED_LIMIT_NAME_BYTES + 1]; /* of the worker it was last sent to */
    char worker_id[MED_LIMIT_NAME_BYTES + 1];
    size_t type;                                  /* index of worker_type */
    int64_t predicted_ttft_ns, predicted_tpot_ns; /* 0: not known */
    int64_t predicted_output_tokens;              /* at submit; 0: not known */
    int input_row, output_row;                    /* its predicted bucket, dispatch's */
    uint32_t attempts;
    size_t output_before;   /* tokens of its output when it was last sent */
    uint32_t resumes;       /* times that it went on elsewhere after a token */
    uint32_t cached_tokens; /* as its worker said at the end */

    bool ended;
    enum med_outcome outcome;
    int end_code;             /* 0 for stop and length */
    char worker_message[256]; /* a sentence, if its worker failed it */
    size_t tokens_told;       /* the door's: tokens written, */
    size_t chars_told;        /* ... the characters that spell them, where somebody counts, */
    bool end_told;            /* ... and its end */
};

struct med_query {
    /* What the client asked for; the door fills it. */
    char request_id[MED_LIMIT_REQUEST_ID_BYTES + 1];   /* "" until submit makes one */
    char traceparent[MED_LIMIT_TRACEPARENT_BYTES + 1]; /* W3C trace context; "": none */
    char *model; /* owned; NULL or "": the one that is served */
    struct med_input input;
    uint32_t *prompt; /* owned; the door's if the input is token ids, else the router's */
    size_t prompt_count;
    uint32_t prompt_keep;  /* only the last tokens of a longer prompt count; 0: all */
    uint32_t tokens_max;   /* 0: a default, see med_query_check_prompt */
    uint32_t choice_count; /* 0: 1, set by check */
    bool echo;
    int32_t priority; /* lower is sooner; 0: as usual */
    char *user;       /* owned; who asks, as the client names them; NULL: not known */
    struct med_req_sampling sampling;
    uint32_t emulated_output_tokens; /* passed on, never looked at */
    int64_t deadline_ns;             /* fleet time; 0: none */
    const struct med_door_ops *door;
    void *door_call; /* the door's own */

    /* The router's. */
    bool taken;          /* submit took it, and it has not ended */
    int64_t received_ns; /* real time of a monotonic clock: when it was made */
    int64_t arrived_ns;
    int64_t admitted_ns; /* all checks passed, dispatch has it; 0: it never had */
    void (*on_free)(struct med_query *query); /* of the router; NULL: none */
    void *router;                             /* its argument */
    void *encoding;                           /* while its prompt is encoded in the pool */
    struct med_req *choices;                  /* owned; [choice_count], NULL until it is accepted */
    size_t choices_open;                      /* that dispatch has */
    struct med_query *doomed_next; /* in the router's list of those whose choices are to end */
    bool doomed;

    /* How it ended, or why submit refused it. */
    bool ended;
    int end_code;   /* 0: every choice ended with stop or length */
    int abort_code; /* why it was ended early: the client lags, or the drain's time is over */
    char end_text[MED_ERR_TEXT_MAX]; /* a sentence when end_code < 0 */
    bool too_long;           /* refused because prompt and max_tokens do not fit the context */
    uint32_t retry_after_ms; /* real time; 0: no hint */
};

enum {
    MED_REQ_TOKENS_MAX_DEFAULT = 16
};

/* A door makes it before it parses, so that the router's own time counts from there. */
struct med_query *med_query_new(void);
void med_query_free(struct med_query *query);

/* What checks need to know of the router. */
struct med_query_limits {
    int64_t vocab_tokens;   /* ids are below it; 1 to 2^31 */
    bool has_tokenizer;     /* text and what works on text can be had */
    bool has_chat_template; /* chat too */
    struct med_dispatch_context context;
};

/* Checks every field that the client set, apart from model, deadline and what needs the prompt's
 * tokens; the sentence names field, value and what was expected. */
int med_query_check(struct med_query *query, const struct med_query_limits *limits,
                    struct med_err *err) MED_MUST_CHECK;
/* Leaves prompt_keep tokens of the prompt, its last ones. */
void med_query_cut_prompt(struct med_query *query);
/* The rest, when query->prompt is there; puts defaults in: max_tokens 0 is the rest of the
 * context, at most 16 if it is no chat, and what the logprobs have room for. */
int med_query_check_prompt(struct med_query *query, const struct med_query_limits *limits,
                           struct med_err *err) MED_MUST_CHECK;

/* Makes query->choices, with their seeds; a seed of its own if the client gave none. */
int med_query_make_choices(struct med_query *query, uint64_t drawn_seed) MED_MUST_CHECK;
/* The seed of choice `index`: the first has the seed itself. */
uint64_t med_query_choice_seed(uint64_t seed, uint32_t index);

/* Adds ids to the output. */
int med_req_append_output(struct med_req *req, const uint32_t *ids, size_t count) MED_MUST_CHECK;
/* Room for the rows of output token `token`, all unused; its first row. NULL: no memory. */
struct med_req_logprob *med_req_add_logprobs(struct med_req *req, size_t token);
/* Rows per token. */
size_t med_req_logprob_rows(const struct med_req *req);

#endif
