/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of one token, whole characters or not.  thread: any.
 */
#include "router/tokenizer/internal.h"
#include "router/tokenizer/tokenizer.h"

int med_tokenizer_token_bytes(const struct med_tokenizer *tokenizer, uint32_t id,
                              struct med_buf *out)
{
    const struct vocab *vocab = &tokenizer->vocab;
    if (id >= vocab->count || vocab->tokens[id].flags == 0)
        return 0;
    const struct token *token = &vocab->tokens[id];
    return med_buf_append(out, vocab->text.data + token->piece, token->piece_bytes);
}
