# SPDX-License-Identifier: Apache-2.0
"""Replays LLM-Pilot's closed loops on the step model: is a whole run predicted, not only a step?

Each run's own requests, in the order of their starts, are sent by as many users as the run had; a
user sends the next one when the last has ended.  The engine decodes first and fills the token budget
with prefill chunks, in one iteration: the reference engine of the profiles, not the measured one,
which stopped decoding to prefill and copied keys and values to merge.  The difference between the two
is therefore part of the error.
"""

from collections import deque

from hardware import BATCHED_TOKENS_MAX


class _Running:
    def __init__(self, prompt, output, sent_ms):
        self.prompt, self.output, self.sent_ms = prompt, output, sent_ms
        self.prefilled = self.made = 0
        self.first_ms = None


def closed_loop(step_ms, model, kv_tokens, requests, users, pause_ms):
    """requests/s, mean TTFT and mean TPOT in ms; pause_ms: from an answer to the next request."""
    waiting = deque((0.0, r) for r in requests[:users])
    left = deque(requests[users:])
    running, now, finished, ttft, tpot = [], 0.0, 0, [], []
    held = 0
    while waiting or running:
        while waiting and waiting[0][0] <= now and held + sum(waiting[0][1]) <= kv_tokens:
            sent, (prompt, output) = waiting.popleft()
            running.append(_Running(prompt, output, sent))
            held += prompt + output
        if not running:
            now = max(now, waiting[0][0])
            continue
        decoding = [r for r in running if r.prefilled == r.prompt]
        context = sum(r.prompt + r.made for r in decoding)
        budget, chunk, pairs = BATCHED_TOKENS_MAX - len(decoding), 0, 0.0
        for r in running:
            if r.prefilled < r.prompt and budget > 0:
                part = min(budget, r.prompt - r.prefilled)
                pairs += part * r.prefilled + part * (part + 1) / 2
                r.prefilled += part
                chunk += part
                budget -= part
        row = {"prefill_tokens": chunk, "decode_sequences": len(decoding),
               "decode_context_tokens": context,
               "prefill_context": (pairs / chunk - (chunk + 1) / 2) if chunk else 0}
        now += step_ms(model, row)
        for r in list(running):
            if r.prefilled < r.prompt:
                continue
            r.made += 1
            r.first_ms = r.first_ms or now
            if r.made == r.output:
                running.remove(r)
                held -= r.prompt + r.output
                finished += 1
                ttft.append(r.first_ms - r.sent_ms)
                if r.output > 1:
                    tpot.append((now - r.first_ms) / (r.output - 1))
                if left:
                    waiting.append((now + pause_ms, left.popleft()))
    return 1e3 * finished / now, sum(ttft) / len(ttft), sum(tpot) / len(tpot)
