# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of docs/benchmarks/published-profiles.md.

Text between <!-- begin NAME --> and <!-- end NAME --> is replaced; the plots are SVG files in a
folder beside the page that has the page's name.
"""

import os
import re
import statistics

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

import hardware  # noqa: E402
import llm_pilot  # noqa: E402
import replay  # noqa: E402
import ties  # noqa: E402
import validate  # noqa: E402
from derive import PILOT_NAME, step_ms  # noqa: E402
from hardware import GPUS, MODEL  # noqa: E402

ORDER = ("L4", "A10G", "A100-40GB", "A100-80GB", "H100")
COLOUR = {"L4": "#7f7f7f", "A10G": "#1f77b4", "A100-40GB": "#2ca02c", "A100-80GB": "#bcbd22",
          "H100": "#d62728"}
LEFT_OUT_TOKENS = (128, validate.SAGEMAKER_PROMPT, 256, 512, 1024, 2048)
plt.rcParams.update({
    "svg.hashsalt": "medley", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif",
    "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})


def row(p=0, c=0, s=0, d=0):
    return {"prefill_tokens": p, "prefill_context": c, "decode_sequences": s,
            "decode_context_tokens": d}


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |",
             "|" + "|".join("---" if i == 0 else "---:" for i in range(len(header))) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in r) + " |" for r in rows])


# ---- tables -----------------------------------------------------------------------------------

def model_table(profiles):
    rows = []
    for gpu in ORDER:
        m, sheet, limits = profiles[gpu]["step_model"], GPUS[gpu], profiles[gpu]["limits"]
        rows.append((
            gpu, f"{m['fixed_ms']:.2f}", f"{m['sequence_us'] / 1e3:.2f}",
            f"{m['bandwidth_bytes_per_s'] / 1e9:.0f}",
            f"{m['bandwidth_bytes_per_s'] / sheet['bandwidth']:.2f}",
            f"{m['matrix_flops_per_s'] / 1e12:.0f}",
            f"{m['matrix_flops_per_s'] / sheet['matrix']:.2f}",
            f"{m['attention_flops_per_s'] / 1e12:.0f}", f"{limits['kv_tokens']:,}",
            f"{limits['max_model_len']:,}",
            f"{100 * m['fit_error']:.1f} / {100 * m['fit_error_max']:.0f}"))
    return table(("GPU", "fixed ms", "ms per sequence", "GB/s", "MBU", "TFLOP/s", "MFU",
                  "attention TFLOP/s", "KV tokens", "max_model_len", "fit error %, mean / max"), rows)


def fit_table(info):
    rows = []
    for gpu, fit in info["fits"].items():
        data = info["data"][gpu]
        kv = (fit.step_ms - info["fixed_ms"]) * MODEL["kv_bytes_per_token"] / MODEL["weight_bytes"]
        ratio = llm_pilot.window_ms(data, fit, info["fixed_ms"], kv) / data["length"]
        for users in np.unique(data["users"]):
            of = ratio[data["users"] == users]
            rows.append((gpu, int(users), len(of), f"{100 * (np.median(of) - 1):+.1f}",
                         f"{100 * np.mean(abs(of - 1)):.1f}"))
    return table(("GPU", "users", "windows", "median error %", "mean absolute error %"), rows)


def extra_table(info):
    return table(
        ("GPU", "per request before its first token, ms", "per request merged, ms",
         "per prompt token merged, ms"),
        [(gpu, f"{f.request_ms:.1f}", f"{f.join_ms:.1f}", f"{f.merge_ms_per_token:.3f}")
         for gpu, f in info["fits"].items()])


def validation_table(models, limits):
    rows = []
    pairs, _ = validate.pairs_of(models, limits)
    for against, by_gpu in pairs.items():
        joint = validate.scale_of([p for each in by_gpu.values() for p in each])
        for gpu, each in by_gpu.items():
            def errors(factor):
                values = [abs(factor * m / t - 1) for m, t in each]
                return f"{100 * statistics.mean(values):.0f} / {100 * max(values):.0f}"
            rows.append((against, gpu, len(each), errors(1.0), f"{joint:.2f}", errors(joint),
                         f"{validate.scale_of(each):.2f}"))
    return table(("set", "GPU", "rows", "as it is: error %, mean / max", "scale of the engine",
                  "after it: error %, mean / max", "scale of this GPU alone"), rows)


def left_out_rows_table(rows):
    """Model over measured, each measurement in its cell."""
    lines = []
    for name, gpu in dict.fromkeys((r["set"], r["gpu"]) for r in rows):
        of = [r for r in rows if (r["set"], r["gpu"]) == (name, gpu)]
        for batch in sorted({r["batch"] for r in of}):
            cells = {}
            for r in (r for r in of if r["batch"] == batch):
                cells.setdefault(r["tokens"], []).append(
                    f"{r['model_ms']:,.0f} / {r['measured_ms']:,.0f}"
                    f" = {r['model_ms'] / r['measured_ms']:.2f}")
            lines.append((name, gpu, batch) + tuple(
                "; ".join(cells.get(tokens, [""])) for tokens in LEFT_OUT_TOKENS))
    return table(("set", "GPU", "batch or users") + tuple(f"{t:,} tokens" for t in LEFT_OUT_TOKENS),
                 lines)


def left_out_regions_table(rows):
    """Where the models are off, after the engine's one scale factor: by batch and context."""
    scale, lines = validate.scale_by_set(rows), []
    for title, low, high in (("1 sequence", 1, 1), ("2 to 16", 2, 16), ("17 to 64", 17, 64)):
        for size, short, long in (("up to 512", 0, 512), ("1,024 and 2,048", 513, 2048)):
            of = [r for r in rows if low <= r["batch"] <= high and short < r["tokens"] <= long]
            if not of:
                continue
            plain = [r["model_ms"] / r["measured_ms"] for r in of]
            scaled = [scale[r["set"]] * ratio for ratio, r in zip(plain, of)]
            lines.append((title, size, len(of), f"{statistics.geometric_mean(plain):.2f}",
                          f"{statistics.geometric_mean(scaled):.2f}",
                          f"{100 * statistics.mean(abs(x - 1) for x in scaled):.0f} / "
                          f"{100 * max(abs(x - 1) for x in scaled):.0f}"))
    return table(("batch or users", "prompt tokens", "rows", "model over measured, mean",
                  "after the engine's scale", "error then: %, mean / max"), lines)


def recorded_table(rows):
    """The published model against steps that our own engine took, which no fit of it saw."""
    scale, lines = validate.scale_of([(r["model_ms"], r["measured_ms"]) for r in rows]), []
    for kind in sorted({r["kind"] for r in rows}) + [None]:
        ratios = [r["model_ms"] / r["measured_ms"] for r in rows if kind in (None, r["kind"])]
        lines.append((kind or "all", len(ratios), f"{min(ratios):.2f}",
                      f"{statistics.geometric_mean(ratios):.2f}", f"{max(ratios):.2f}",
                      f"{100 * statistics.mean(abs(x - 1) for x in ratios):.0f}",
                      f"{100 * statistics.mean(abs(scale * x - 1) for x in ratios):.0f}"))
    return table(("steps", "rows", "model over measured, least", "mean", "most", "mean error %",
                  f"after one scale of {scale:.2f}"), lines)


def draw_recorded(folder, rows):
    figure, axis = plt.subplots(figsize=(5.5, 3.6))
    for kind, marker in zip(sorted({r["kind"] for r in rows}), "osD^"):
        of = [r for r in rows if r["kind"] == kind]
        axis.plot([r["measured_ms"] for r in of], [r["model_ms"] for r in of], marker, markersize=4,
                  alpha=0.7, label=kind)
    ends = np.array([4, 200])
    axis.plot(ends, ends, "k-", linewidth=0.8)
    axis.fill_between(ends, ends / 1.25, ends * 1.25, color="k", alpha=0.08, linewidth=0)
    axis.set(xscale="log", yscale="log", xlabel="step of Medley's engine, ms",
             ylabel="published H100 model, ms (grey: within 25 %)")
    axis.legend(frameon=False, fontsize=7)
    save(figure, folder, "recorded")


def replay_table(profiles, points):
    rows = []
    back = {pilot: gpu for gpu, pilot in PILOT_NAME.items()}
    for (name, users), point in points.items():
        gpu = back[name]
        requests = [(int(i), int(o)) for i, o in zip(point.input, point.output)]
        ack = float(np.median(point.ack))
        rate, ttft, tpot = replay.closed_loop(step_ms, profiles[gpu]["step_model"],
                                              hardware.kv_tokens(gpu), requests, users, ack)
        several = point.output > 1
        rows.append((name, users, f"{len(requests) / 120:.1f}", f"{rate:.1f}",
                     f"{point.ttft.mean():.0f}", f"{ttft + ack:.0f}",
                     f"{point.gap[several].mean():.1f}", f"{tpot:.1f}",
                     f"{rate / (len(requests) / 120):.2f}"))
    return table(("GPU", "users", "requests/s measured", "model", "mean TTFT ms measured", "model",
                  "mean TPOT ms measured", "model", "requests/s, model over measured"), rows)


def tie_table(info):
    runs, rows = info["runs"], []
    for gpu, anchor in (("L4", "A100-40GB"), ("A100-80GB", "A100-40GB"), ("RTX3090", "A100-40GB"),
                        ("H100", "A100-40GB"), ("H200", "H100")):
        spread = ties.ratio_errors(runs, gpu, anchor)
        rows.append((f"{gpu} / {anchor}", f"{ties.decode_ratio(runs, gpu, anchor):.3f}",
                     f"{ties.prefill_ratio(runs, gpu, anchor):.3f}",
                     f"{100 * statistics.mean(spread):.0f}"))
    fits = info["fits"]
    own = (fits["H100"].step_ms / fits["A100"].step_ms,
           fits["H100"].prefill_ms_per_token / fits["A100"].prefill_ms_per_token)
    rows.append(("H100 / A100-40GB in LLM-Pilot's fit, for comparison", f"{own[0]:.3f}",
                 f"{own[1]:.3f}", ""))
    return table(("GPUs", "iteration of one sequence", "prefill time per token",
                  "other ratios, mean error %"), rows)


# ---- plots ------------------------------------------------------------------------------------

def save(figure, folder, name):
    figure.tight_layout()
    path = os.path.join(folder, name + ".svg")
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    with open(path, encoding="utf-8") as file:  # trailing blanks are matplotlib's
        text = re.sub(r"[ \t]+\n", "\n", file.read())
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def published(profile, source):
    return [r for r in profile["steps"] if r["source"] == source]


def draw_decode(folder, profiles):
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.9))
    for axis, gpu in zip(axes, ("A10G", "A100-40GB", "H100")):
        profile = profiles[gpu]
        rows = [r for r in published(profile, "llm-pilot-decode")]
        many = [r for r in rows if "ms_p99" in r]
        alone = [r for r in rows if "ms_p99" not in r]
        top = max(r["decode_sequences"] for r in rows)
        mean = statistics.mean(r["decode_context_tokens"] / r["decode_sequences"] for r in many)
        s = np.arange(1, top + 2)
        axis.plot(s, [step_ms(profile["step_model"], row(s=n, d=n * mean)) for n in s],
                  color=COLOUR[gpu], label=f"model, context {mean:.0f}")
        axis.plot([r["decode_sequences"] for r in many], [r["ms_p50"] for r in many], "ko",
                  markersize=4, label="median gap, by users")
        axis.plot([r["decode_sequences"] for r in alone], [r["ms_p50"] for r in alone], "k_",
                  markersize=8, label="one user, by context")
        axis.set(title=f"{PILOT_NAME[gpu]} (LLM-Pilot)", xlabel="decoding sequences (mean)", ylim=(0, None))
        axis.legend(frameon=False, fontsize=7)
    axes[0].set_ylabel("ms per decode iteration")
    save(figure, folder, "decode")


def draw_prefill(folder, profiles, points, info):
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 2.9))
    for axis, gpu in zip(axes, ("A10G", "A100-40GB", "H100")):
        pilot = PILOT_NAME[gpu]
        alone, fit = points[pilot, 1], info["fits"][pilot]
        keep = (alone.start > 5e3) & (alone.ttft > alone.ack)
        tokens = alone.input[keep]
        ms = (alone.ttft - alone.ack)[keep] - fit.request_ms
        edges = (1, 50, 100, 150, 200, 300, 400, 600, 900)
        for low, high in zip(edges, edges[1:]):
            inside = (tokens >= low) & (tokens < high)
            if inside.sum() >= 3:
                q = np.quantile(ms[inside], (0.25, 0.5, 0.75))
                axis.errorbar(np.median(tokens[inside]), q[1], yerr=[[q[1] - q[0]], [q[2] - q[1]]],
                              fmt="ko", markersize=4, capsize=2)
        p = np.arange(1, 900, 4)
        axis.plot(p, [step_ms(profiles[gpu]["step_model"], row(p=n)) for n in p], color=COLOUR[gpu],
                  label="model")
        axis.set(title=f"{pilot} (LLM-Pilot)", xlabel="prompt tokens", ylim=(0, None))
        axis.legend(frameon=False, fontsize=7)
    axes[0].set_ylabel("ms per prefill, median and quartiles")
    save(figure, folder, "prefill")


def draw_left_out(folder, models, limits):
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.1))
    rows = validate.sagemaker_pairs(models["A10G"])
    axes[0].plot([r[0] for r in rows], [r[2] for r in rows], "ko-", label="SageMaker, TGI 1.0.3")
    axes[0].plot([r[0] for r in rows], [r[1] for r in rows], "o-", color=COLOUR["A10G"],
                 label="model")
    axes[0].set(title="A10G", xlabel="users", ylabel="ms per token", ylim=(0, None))
    for axis, gpu in zip(axes[1:], ("A100-40GB", "H100")):
        for against, marker in (("anl-vllm", "o"), ("anl-trtllm", "^")):
            rows, _ = validate.anl_pairs(gpu, against, models[gpu], limits[gpu])
            for batch, colour in ((1, "#1f77b4"), (16, "#2ca02c"), (32, "#ff7f0e"), (64, "#d62728")):
                chosen = sorted(r for r in rows if r[1] == batch)
                if chosen:
                    axis.plot([r[0] for r in chosen], [r[2] / r[3] for r in chosen], marker + "-",
                              color=colour, markersize=4, linewidth=0.8,
                              label=f"{validate.ANL_ENGINE[against]}, batch {batch}")
        axis.set(title=gpu, xlabel="input = output tokens", ylabel="latency, model over measured",
                 xscale="log", ylim=(0, 6))
        axis.axhline(1, color="k", linewidth=0.8)
        axis.set_xticks([128, 256, 512, 1024, 2048], ["128", "256", "512", "1024", "2048"])
        axis.minorticks_off()
    axes[0].legend(frameon=False, fontsize=6)
    axes[1].legend(frameon=False, fontsize=6, ncols=2, loc="upper right")
    save(figure, folder, "left-out")


def draw_left_out_points(folder, rows):
    """Every measurement left out: what the model says over what was measured."""
    scale = validate.scale_by_set(rows)
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharex=True, sharey=True)
    for axis, scaled in zip(axes, (False, True)):
        for name, marker in (("sagemaker", "s"), ("anl-vllm", "o"), ("anl-trtllm", "^")):
            for gpu in ORDER:
                of = [r for r in rows if (r["set"], r["gpu"]) == (name, gpu)]
                if not of:
                    continue
                factor = scale[name] if scaled else 1.0
                axis.plot([r["measured_ms"] for r in of], [factor * r["model_ms"] for r in of],
                          marker, color=COLOUR[gpu], markersize=4, alpha=0.8,
                          label=f"{gpu}, {name}")
        ends = np.array([20, 4e5])
        axis.plot(ends, ends, "k-", linewidth=0.8)
        axis.fill_between(ends, ends / 1.25, ends * 1.25, color="k", alpha=0.08, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel="measured, ms",
                 title="after one scale factor per engine" if scaled else "as it is")
    axes[0].set_ylabel("model, ms (grey: within 25 %)")
    axes[0].legend(frameon=False, fontsize=7)
    save(figure, folder, "left-out-points")


def draw_all(folder, profiles):
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.1))
    for gpu in ORDER:
        profile = profiles[gpu]
        limits, m = profile["limits"], profile["step_model"]
        top = min(128, limits["kv_tokens"] // 1024)
        s = np.arange(1, top + 1)
        axes[0].plot(s, [step_ms(m, row(s=n, d=n * 1024)) for n in s], color=COLOUR[gpu], label=gpu)
        if top < 128:
            axes[0].plot(top, step_ms(m, row(s=top, d=top * 1024)), "x", color=COLOUR[gpu])
        c = np.linspace(16, limits["max_model_len"], 60)
        axes[1].plot(c, [step_ms(m, row(s=1, d=n)) for n in c], color=COLOUR[gpu], label=gpu)
    axes[0].set(xlabel="decoding sequences of 1,024 tokens (x: the KV cache is full)",
                ylabel="ms per decode iteration", ylim=(0, None))
    axes[1].axvspan(0, 946, color="k", alpha=0.08, linewidth=0)
    axes[1].set(xlabel="context of one sequence (grey: measured)", ylabel="ms per decode iteration",
                ylim=(0, None))
    axes[0].legend(frameon=False, fontsize=7)
    save(figure, folder, "all")


def write(path, profiles, models, points, info):
    limits = {gpu: profile["limits"] for gpu, profile in profiles.items()}
    folder = os.path.splitext(path)[0]
    os.makedirs(folder, exist_ok=True)
    draw_decode(folder, profiles)
    draw_prefill(folder, profiles, points, info)
    draw_left_out(folder, models, limits)
    left_out = validate.left_out_rows(models, limits)
    draw_left_out_points(folder, left_out)
    recorded = validate.recorded_rows(models["H100"], "h100-llama-2-7b-bf16")
    draw_recorded(folder, recorded)
    draw_all(folder, profiles)
    tables = {"models": model_table(profiles), "windows": fit_table(info),
              "extra": extra_table(info), "left-out": validation_table(models, limits),
              "recorded": recorded_table(recorded),
              "left-out-rows": left_out_rows_table(left_out),
              "left-out-regions": left_out_regions_table(left_out),
              "replay": replay_table(profiles, points), "ties": tie_table(info)}
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for name, content in tables.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = text.partition(begin)
        _, also, after = rest.partition(end)
        if not found or not also:
            raise SystemExit(f"{path}: expected the marks of table {name}")
        text = before + begin + content + "\n" + end + after
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
