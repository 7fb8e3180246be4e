/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backend that counts what the one it wraps does: how long steps take, how large they are, what they
 * move and compute by their shape (worker/model/work.h).
 *
 * A step's time runs from its start, or from the end of the step before it if that was under way still,
 * to its end: the times of all steps do not overlap, and their sum is how long the device was busy.
 * Real time. The window is the last WINDOW_S seconds: rates in it are over busy time, so they say how
 * well steps use the device, not how often there are any.
 *
 * thread: engine, one lock per step; med_meter_get: any. owns: the other backend, once new has
 * succeeded.
 */
#ifndef MED_WORKER_METER_H
#define MED_WORKER_METER_H

#include "base/hist.h"
#include "worker/backend.h"
#include "worker/device.h"
#include "worker/model/work.h"

struct med_meter_config {
    struct med_backend backend;
    struct med_work_model work;
    const struct med_device *device; /* outlives the meter */
};

struct med_meter_stats {
    struct med_hist step_s, rows, sequences;
    double busy_s, bytes, flops;                   /* totals */
    double window_bytes_per_s, window_flops_per_s; /* 0: nothing ran */
    struct med_device_stats device;                /* as of the last step */
};

int med_meter_new(const struct med_meter_config *config, struct med_backend *ret_backend,
                  struct med_err *err) MED_MUST_CHECK;
/* backend: one that med_meter_new made. */
void med_meter_get(const struct med_backend *backend, struct med_meter_stats *ret_stats);

#endif
