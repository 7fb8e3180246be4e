/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley-gpu-limits: measures what a GPU can do at most and prints it, for a person or as the
 * `hardware` object of a profile.  One thread, no network.
 */
#include "base/json.h"
#include "base/log.h"
#include "base/options.h"
#include "worker/cuda/limits.h"

#include <stddef.h>
#include <stdio.h>

struct gpu_limits_options {
    int64_t device;
    int64_t read_bytes;
    int64_t dim;
    int64_t repeats;
    bool json;
};

static const struct med_option OPTIONS[] = {
    {.name = "device",
     .type = MED_OPT_INTEGER,
     .offset = offsetof(struct gpu_limits_options, device),
     .unit = "N",
     .default_text = "0",
     .min = 0,
     .max = 1023,
     .help = "CUDA device to measure",
     .group = "Measurement"},
    {.name = "read-bytes",
     .type = MED_OPT_INTEGER,
     .offset = offsetof(struct gpu_limits_options, read_bytes),
     .unit = "BYTES",
     .default_text = "4Gi",
     .min = 1 << 20,
     .max = 1e12,
     .help = "size of the buffer that is read; far more than the cache"},
    {.name = "dim",
     .type = MED_OPT_INTEGER,
     .offset = offsetof(struct gpu_limits_options, dim),
     .unit = "N",
     .default_text = "8192",
     .min = 16,
     .max = 65536,
     .help = "size of the square bf16 product, a multiple of 16"},
    {.name = "repeats",
     .type = MED_OPT_INTEGER,
     .offset = offsetof(struct gpu_limits_options, repeats),
     .unit = "N",
     .default_text = "20",
     .min = 3,
     .max = 1000,
     .help = "timed runs of each; the median counts"},
    {.name = "json",
     .type = MED_OPT_FLAG,
     .offset = offsetof(struct gpu_limits_options, json),
     .help = "print one JSON object",
     .group = "Output"},
    {.name = NULL},
};

static const struct med_program PROGRAM = {
    .name = "medley gpu-limits",
    .synopsis = "[options]",
    .summary = "Measures the read bandwidth and the bf16 matrix rate of a GPU.",
    .details =
        "The two rates are the roofs of the latency model. Both results are checked against\n"
        "exact arithmetic; a wrong one is an error, not a measurement.",
    .options = OPTIONS,
};

static void print_text(const struct med_cuda_limits *l)
{
    printf("%s, compute %d.%d, %d multiprocessors, %.1f GiB, CUDA %d.%d\n", l->name,
           l->compute_major, l->compute_minor, l->multiprocessors,
           l->memory_bytes / (1024.0 * 1024 * 1024), l->runtime_version / 1000,
           l->runtime_version % 1000 / 10);
    printf("  read bandwidth  %7.0f GB/s      spread %4.1f %%\n", l->read_bytes_per_s * 1e-9,
           l->read_spread * 100);
    printf("  bf16 products   %7.0f TFLOP/s   spread %4.1f %%   error %.1e\n",
           l->matrix_flops_per_s * 1e-12, l->matrix_spread * 100, l->matrix_error);
}

static int print_json(const struct med_cuda_limits *l)
{
    struct med_buf text;
    struct med_json_writer w;
    med_buf_init(&text, 1 << 16);
    med_json_writer_init(&w, &text, true);
    med_json_begin_object(&w, NULL);
    med_json_put_string(&w, "name", l->name);
    med_json_put_integer(&w, "compute_major", l->compute_major);
    med_json_put_integer(&w, "compute_minor", l->compute_minor);
    med_json_put_integer(&w, "multiprocessors", l->multiprocessors);
    med_json_put_integer(&w, "driver_version", l->driver_version);
    med_json_put_integer(&w, "runtime_version", l->runtime_version);
    med_json_put_number(&w, "memory_bytes", l->memory_bytes);
    med_json_put_number(&w, "bandwidth_bytes_per_s", l->read_bytes_per_s);
    med_json_put_number(&w, "bandwidth_spread", l->read_spread);
    med_json_put_number(&w, "matrix_flops_per_s", l->matrix_flops_per_s);
    med_json_put_number(&w, "matrix_spread", l->matrix_spread);
    med_json_put_number(&w, "matrix_error", l->matrix_error);
    med_json_end_object(&w);
    int rc = med_json_writer_finish(&w);
    if (rc >= 0)
        (void)fputs(text.data, stdout); /* a failed write shows in fflush below */
    med_buf_release(&text);
    return rc;
}

int main(int argc, char **argv)
{
    struct gpu_limits_options values = {0};
    struct med_options options;
    struct med_cuda_limits limits;
    struct med_err err = {0};
    int exit_status = 0;
    if (med_options_main(&PROGRAM, argc, argv, &values, &options, &exit_status) != MED_OPTIONS_RUN)
        return exit_status;
    int rc =
        med_cuda_limits_measure((int)values.device, (uint64_t)values.read_bytes & ~UINT64_C(15),
                                (int)values.dim, (int)values.repeats, &limits, &err);
    if (rc < 0) {
        MED_ERROR("%s", err.text[0] ? err.text : med_err_text(rc));
    } else if (values.json) {
        rc = print_json(&limits);
    } else {
        print_text(&limits);
    }
    if (rc >= 0 && fflush(stdout) != 0)
        rc = MED_E_IO;
    med_options_release(&options);
    return med_err_exit_status(rc);
}
