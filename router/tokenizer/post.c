/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The post-processor: the ids that stand before and behind every text (BOS, EOS).
 *
 * TemplateProcessing for a single text is all that changes ids; ByteLevel's only moves offsets.
 * tokenizer_config.json replaces it when it says add_bos_token or add_eos_token, as the transformers
 * package does.  thread: the loader's.
 */
#include "router/tokenizer/internal.h"

#include "base/limits.h"

#include <string.h>

static int add_id(uint32_t *ids, size_t *count, uint32_t id, const struct med_json_at *at,
                  struct med_err *err)
{
    if (*count == TOKENIZER_AFFIX_MAX)
        return med_json_fail(at, NULL, err, "more than %d added tokens", TOKENIZER_AFFIX_MAX);
    ids[(*count)++] = id;
    return 0;
}

/* The ids of a special token that the template names. */
static int add_special(uint32_t *ids, size_t *count, const struct med_json_at *item,
                       const struct med_json_at *names, const struct vocab *vocab,
                       struct med_err *err)
{
    struct med_json_at special;
    struct med_json_at named;
    struct med_json_at list;
    struct med_json_at one = {0};
    const char *name;
    size_t index;
    int rc = med_json_object(item, "SpecialToken", &special, err);
    if (rc == 0)
        rc = med_json_string(&special, "id", MED_LIMIT_TOKEN_BYTES, &name, err);
    if (rc == 0)
        rc = med_json_object(names, name, &named, err);
    if (rc == 0)
        rc = med_json_array(&named, "ids", &list, err);
    while (rc == 0 && med_json_next(&list, &index, &one, NULL)) {
        int64_t id;
        rc = med_json_integer_here(&one, 0, MED_LIMIT_VOCAB - 1, &id, err);
        if (rc == 0 && ((size_t)id >= vocab->count || !vocab->tokens[id].flags))
            rc = med_json_fail(&one, NULL, err, "no token has the id %lld", (long long)id);
        if (rc == 0)
            rc = add_id(ids, count, (uint32_t)id, &one, err);
    }
    return rc;
}

static int parse_template(struct post *post, const struct med_json_at *at,
                          const struct vocab *vocab, struct med_err *err)
{
    static const char *const known[] = {"type", "single", "pair", "special_tokens", NULL};
    static const char *const item_known[] = {"SpecialToken", "Sequence", NULL};
    struct med_json_at single;
    struct med_json_at names;
    struct med_json_at item = {0};
    size_t index;
    size_t sequences = 0;
    int rc = med_json_keys(at, known, err);
    if (rc == 0)
        rc = med_json_array(at, "single", &single, err);
    if (rc == 0)
        rc = med_json_object(at, "special_tokens", &names, err);
    while (rc == 0 && med_json_next(&single, &index, &item, NULL)) {
        rc = med_json_keys(&item, item_known, err);
        if (rc < 0)
            break;
        if (med_json_has(&item, "Sequence")) {
            struct med_json_at sequence;
            const char *id;
            rc = med_json_object(&item, "Sequence", &sequence, err);
            if (rc == 0)
                rc = med_json_string(&sequence, "id", 8, &id, err);
            if (rc == 0 && (strcmp(id, "A") != 0 || sequences++))
                rc = med_json_fail(&sequence, "id", err, "expected \"A\" once, and no other");
        } else if (sequences) {
            rc = add_special(post->after, &post->after_count, &item, &names, vocab, err);
        } else {
            rc = add_special(post->before, &post->before_count, &item, &names, vocab, err);
        }
    }
    if (rc == 0 && sequences != 1)
        rc = med_json_fail(&single, NULL, err, "has no Sequence \"A\", the text itself");
    return rc;
}

int post_parse(struct post *post, const struct med_json_at *root, const struct vocab *vocab,
               struct med_err *err)
{
    struct med_json_at items[TOKENIZER_STEPS_MAX];
    const char *type;
    size_t count;
    bool has_template = false;
    int rc = component_list(root, "post_processor", "processors", items, &count, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        rc = component_type(&items[i], &type, err);
        if (rc < 0)
            break;
        if (strcmp(type, "TemplateProcessing") == 0) {
            if (has_template)
                return med_json_fail(&items[i], "type", err, "a second TemplateProcessing");
            has_template = true;
            rc = parse_template(post, &items[i], vocab, err);
        } else if (strcmp(type, "ByteLevel") != 0) {
            rc = med_json_fail(&items[i], "type", err,
                               "found \"%.64s\", expected TemplateProcessing, ByteLevel or a "
                               "Sequence of them",
                               type);
        }
    }
    return rc;
}

/* ---- tokenizer_config.json ---- */

/* bos_token and eos_token are a text or an object with it. */
static int add_configured(uint32_t *ids, size_t *count, const struct med_json_at *config,
                          const char *key, const struct vocab *vocab, struct med_err *err)
{
    struct med_json_at object;
    const char *text;
    int rc;
    if (!med_json_has(config, key))
        return 0; // the transformers package then adds none
    if (med_json_object(config, key, &object, NULL) == 0) {
        rc = med_json_string(&object, "content", MED_LIMIT_TOKEN_BYTES, &text, err);
    } else {
        rc = med_json_string(config, key, MED_LIMIT_TOKEN_BYTES, &text, err);
    }
    if (rc < 0)
        return rc;
    uint32_t id = vocab_find(vocab, text, strlen(text), TOKEN_MODEL | TOKEN_ADDED);
    if (id == TOKENIZER_NO_ID)
        return med_json_fail(config, key, err, "\"%.64s\" is no token of tokenizer.json", text);
    return add_id(ids, count, id, config, err);
}

int post_parse_config(struct post *post, const struct med_json_at *config,
                      const struct vocab *vocab, struct med_err *err)
{
    bool bos = false;
    bool eos = false;
    if (!med_json_has(config, "add_bos_token") && !med_json_has(config, "add_eos_token"))
        return 0;
    int rc = component_bool(config, "add_bos_token", false, &bos, err);
    if (rc == 0)
        rc = component_bool(config, "add_eos_token", false, &eos, err);
    if (rc < 0)
        return rc;
    *post = (struct post){0};
    if (bos)
        rc = add_configured(post->before, &post->before_count, config, "bos_token", vocab, err);
    if (rc == 0 && eos)
        rc = add_configured(post->after, &post->after_count, config, "eos_token", vocab, err);
    return rc;
}
