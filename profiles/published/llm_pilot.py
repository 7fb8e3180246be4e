# SPDX-License-Identifier: Apache-2.0
"""The fit of the reference engine: LLM-Pilot's llama-7b requests on A10, A100-40GB and H100.

The set holds, per request: start, input and output tokens, TTFT, E2E, mean gap between tokens, from
closed loops of 1 to 128 users of 120 s each.  What a decode iteration cost at a given concurrency is
not among them, so it is inferred.  For each request we look at its decode window, from its first
token to its last: (output - 1) gaps.  In that window the engine ran output - 1 decode iterations for
it, and stopped decoding for every prefill of others whose first tokens fall inside the window:

    window = (output - 1) * (fixed + weights/bandwidth + sequence * S + kv * D)
             + sum over prefill batches inside (fixed + max(weights/bandwidth, tokens / rate)
                                                + attention + join * requests + merge * tokens)

S, the sequences that decode together, and D, their context tokens, are means over the window, from
the windows of the other requests; requests whose first tokens come within 3 ms are one prefill
batch.  S is well below the number of users, who also wait for prefills.

The requests of one user alone give the prefill rate without interference:

    TTFT - acknowledgement = request + fixed + max(weights/bandwidth, tokens / rate) + attention

Three terms belong to the measured engine and not to the model, and are estimated so that nothing else
is blamed for them: `request`, what it spends on a request before its first token besides the
iteration (short prompts show it: their iteration is a decode iteration's length); `join` and `merge`,
what it pays to merge a prefilled batch into the running one (it kept keys and values in one tensor,
so it copied them).  An engine with paged KV does not pay the last two.

Points with failed requests are left out as the set's users advise: their clients saw errors, and
the concurrency is not what it says.
"""

import csv
import gzip
import os

import numpy as np
from scipy.optimize import least_squares

# GPU of the set -> most users kept (beyond it requests failed).
USERS_MAX = {"A10": 16, "A100": 32, "H100": 64}
SAME_BATCH_MS = 3.0
WARM_UP_S, END_S = 5.0, 118.0
PREFILL_BANDS = (100, 200, 300, 400, 600)
WINDOW_OUTPUT_MIN = 8      # shorter windows are too coarse for the set's whole milliseconds


class Point:
    """The requests of one GPU at one number of users, as arrays in ms and tokens."""

    def __init__(self, rows):
        rows.sort()
        data = np.array(rows, dtype=float)
        self.start, self.input, self.output, self.ack, self.ttft, self.gap = data.T
        self.start = self.start * 1e3
        self.first = self.start + self.ttft
        # Not start + E2E: that has an iteration more, and the closing of the stream.
        self.end = self.first + self.gap * (self.output - 1)

    def prefill_batches(self):
        """Per batch, in order of time: first tokens' time, prompt tokens, pairs, requests."""
        order = np.argsort(self.first, kind="stable")
        each = self.input * (self.input + 1) / 2
        times, tokens, pairs, requests, last = [], [], [], [], None
        for i in order:
            if last is not None and self.first[i] - last <= SAME_BATCH_MS:
                tokens[-1] += self.input[i]
                pairs[-1] += each[i]
                requests[-1] += 1
            else:
                times.append(self.first[i])
                tokens.append(self.input[i])
                pairs.append(each[i])
                requests.append(1)
            last = self.first[i]
        return np.array(times), np.array(tokens), np.array(pairs), np.array(requests)

    def windows(self):
        """Per request: length, decode iterations, S, D and the prefill batches inside."""
        times, tokens, pairs, requests = self.prefill_batches()
        out = []
        for k in range(len(self.start)):
            if (self.output[k] < WINDOW_OUTPUT_MIN or self.start[k] < WARM_UP_S * 1e3
                    or self.end[k] > END_S * 1e3):
                continue
            begin, end = self.first[k], self.end[k]
            shared = np.clip(np.minimum(self.end, end) - np.maximum(self.first, begin), 0, None)
            middle = (np.minimum(self.end, end) + np.maximum(self.first, begin)) / 2
            done = np.clip((middle - self.first) / np.maximum(self.end - self.first, 1), 0, 1)
            inside = (times > begin + SAME_BATCH_MS) & (times < end - 1)
            out.append((end - begin, self.output[k] - 1, shared.sum() / (end - begin),
                        (shared * (self.input + done * self.output)).sum() / (end - begin),
                        tokens[inside], pairs[inside], requests[inside].sum()))
        return out

    def decoding(self):
        """Mean number of decoding sequences, and their mean context, over the run."""
        begin, end = WARM_UP_S * 1e3, END_S * 1e3
        length = np.clip(np.minimum(self.end, end) - np.maximum(self.first, begin), 0, None)
        context = self.input + self.output / 2
        return length.sum() / (end - begin), (length * context).sum() / length.sum()


def read_points(folder):
    rows = {}
    path = os.path.join(folder, "requests_llama-7b.csv.gz")
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        for r in csv.DictReader(file):
            gpu, users = r["gpu"], int(r["concurrent_users"])
            if int(r["n_gpus"]) == 1 and gpu in USERS_MAX and users <= USERS_MAX[gpu]:
                rows.setdefault((gpu, users), []).append(tuple(
                    float(r[key] or 0) for key in ("start_s", "input_tokens", "output_tokens", "ack_ms",
                                              "ttft_ms", "itl_ms_mean")))
    return {key: Point(value) for key, value in sorted(rows.items())}


def read_summary(folder):
    """(gpu, users) -> the set's own percentiles of the gap between tokens."""
    out = {}
    with open(os.path.join(folder, "summary.csv"), newline="", encoding="utf-8") as file:
        for r in csv.DictReader(file):
            if r["model"] == "llama-7b" and int(r["n_gpus"]) == 1 and r["gpu"] in USERS_MAX:
                out[r["gpu"], int(r["concurrent_users"])] = {
                    key: float(r[key]) for key in r if key not in ("model", "gpu")}
    return out


class Fit:
    """step_ms: an iteration without sequences; sequence_ms, join_ms, request_ms: of each."""

    def __init__(self, step_ms, sequence_ms, prefill_ms_per_token, join_ms, merge_ms_per_token,
                 request_ms):
        self.step_ms = step_ms
        self.sequence_ms = sequence_ms
        self.prefill_ms_per_token = prefill_ms_per_token
        self.join_ms = join_ms
        self.merge_ms_per_token = merge_ms_per_token
        self.request_ms = request_ms


def prepare(points, gpu):
    """Everything of one GPU in flat arrays, and a weight that gives each point the same say."""
    lengths, iterations, sequences, contexts, weight, users = [], [], [], [], [], []
    batch_tokens, batch_pairs, batch_of, joined = [], [], [], []
    for (name, count), point in points.items():
        if name != gpu:
            continue
        windows = point.windows()
        for length, n, s, d, tokens, pairs, requests in windows:
            batch_tokens.extend(tokens)
            batch_pairs.extend(pairs)
            batch_of.extend([len(lengths)] * len(tokens))
            lengths.append(length)
            joined.append(requests)
            iterations.append(n)
            sequences.append(s)
            contexts.append(d)
            weight.append(1 / np.sqrt(len(windows)))
            users.append(count)
    alone = points[gpu, 1]
    keep = (alone.start > WARM_UP_S * 1e3) & (alone.ttft > alone.ack)
    return {
        "length": np.array(lengths), "n": np.array(iterations), "s": np.array(sequences),
        "d": np.array(contexts), "weight": np.array(weight), "users": np.array(users),
        "tokens": np.array(batch_tokens), "pairs": np.array(batch_pairs),
        "of": np.array(batch_of, dtype=int),
        "joined": np.array(joined),
        "prefill_tokens": alone.input[keep], "prefill_ms": (alone.ttft - alone.ack)[keep],
    }


def prefill_ms(fit, fixed_ms, tokens, pairs, pair_over_token):
    """pair_over_token: time of an attention pair over time of a prompt token's matrix work."""
    return (fixed_ms + np.maximum(fit.step_ms - fixed_ms, tokens * fit.prefill_ms_per_token)
            + pairs * pair_over_token * fit.prefill_ms_per_token)


def lone_prefill_ms(data, fit, fixed_ms):
    tokens = data["prefill_tokens"]
    return fit.request_ms + prefill_ms(fit, fixed_ms, tokens, tokens * (tokens + 1) / 2,
                                       data["pair_over_token"])


def window_ms(data, fit, fixed_ms, kv_ms_per_token):
    """The decode windows as the model and the measured engine's merges have them."""
    batch = (prefill_ms(fit, fixed_ms, data["tokens"], data["pairs"], data["pair_over_token"])
             + data["tokens"] * fit.merge_ms_per_token)
    stopped = np.bincount(data["of"], weights=batch, minlength=len(data["length"]))
    return (data["n"] * (fit.step_ms + fit.sequence_ms * data["s"] + kv_ms_per_token * data["d"])
            + stopped + fit.join_ms * data["joined"])


def prefill_weights(tokens):
    """Each band of prompt lengths has the same say: nine in ten prompts are short."""
    band = np.searchsorted(PREFILL_BANDS, tokens)
    counts = np.bincount(band, minlength=len(PREFILL_BANDS) + 1)
    return 1 / np.sqrt(counts[band])


def fit_gpu(data, fixed_ms, kv_over_weights):
    """Least squares on the logarithms, robust against outliers; windows and lone prefills at once.

    kv_over_weights: KV bytes of a token over weight bytes; KV is read at the weights' bandwidth.
    The prefill rate is in both, but merge_ms_per_token takes up what the windows would change it.
    """
    weight_alone = prefill_weights(data["prefill_tokens"])

    def residuals(theta):
        fit = Fit(*np.exp(theta))
        kv = (fit.step_ms - fixed_ms) * kv_over_weights
        window = window_ms(data, fit, fixed_ms, kv)
        alone = lone_prefill_ms(data, fit, fixed_ms)
        return np.concatenate([
            np.log(window / data["length"]) * data["weight"],
            np.log(alone / data["prefill_ms"]) * weight_alone])

    alone = data["users"] == 1
    start = np.log([np.median(data["length"][alone] / data["n"][alone]), 0.8, 0.1, 3.0, 0.02, 3.0])
    scale = 0.05 * np.median(data["weight"])
    result = least_squares(residuals, start, loss="soft_l1", f_scale=scale,
                           bounds=(np.log(1e-4), np.log(1e3)))
    return Fit(*np.exp(result.x))


def fit_all(points, bandwidths, pair_over_token, weight_bytes, kv_bytes, mbu_max):
    """One fixed cost for the engine, one bandwidth and matrix rate for each GPU.

    One user's iteration is fixed + weights/(mbu * bandwidth).  Three GPUs cannot tell three MBUs and
    a fixed cost apart: the fixed cost is the one that lets a single MBU describe all three best,
    under the bound that no GPU's own MBU exceeds mbu_max; then each GPU gets its own MBU.
    """
    data = {gpu: prepare(points, gpu) for gpu in USERS_MAX}
    for gpu, ratio in pair_over_token.items():
        data[gpu]["pair_over_token"] = ratio
    fixed_ms = 3.0
    for _ in range(20):
        fits = {gpu: fit_gpu(data[gpu], fixed_ms, kv_bytes / weight_bytes) for gpu in data}
        ideal = {gpu: weight_bytes / bandwidths[gpu] * 1e3 for gpu in data}

        def residuals(theta):
            return [(theta[0] + ideal[g] / theta[1]) / fits[g].step_ms - 1 for g in data]

        bound = min(fits[g].step_ms - ideal[g] / mbu_max for g in data)
        result = least_squares(residuals, [min(1.0, bound / 2), 0.8],
                               bounds=([0, 0.1], [bound, mbu_max]))
        step = abs(result.x[0] - fixed_ms)
        fixed_ms = float(result.x[0])
        if step < 1e-6:
            break
    return fixed_ms, float(result.x[1]), fits, data
