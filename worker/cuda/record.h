/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Batches on the device: the one copy that takes a batch there, and decode steps recorded as graphs.
 *
 * A batch's index arrays and attention's plan are packed into pinned memory (one buffer per slot that may
 * be under way) and cross in one copy, to addresses that never change.  A batch of decodes alone is
 * padded to the next recorded size and its graph replayed; any other is queued op by op.
 * Rows of padding: id 0, source -1, position 0, slot -1, no attention.
 * thread: engine. errors: as internal.h.
 */
#ifndef MED_WORKER_CUDA_RECORD_H
#define MED_WORKER_CUDA_RECORD_H

#include "worker/cuda/internal.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t med_cuda_recorder_bytes(const struct med_ops_sizes *sizes); /* on the device */
int med_cuda_recorder_new(struct med_cuda *d);
void med_cuda_recorder_free(struct med_cuda *d);

int med_cuda_record(void *device, med_ops_forward *forward, void *arg, struct med_err *err);
int med_cuda_run(void *device, const struct med_ops_batch *host, med_ops_forward *forward,
                 void *arg);
int med_cuda_mark(void *device, int slot);
int med_cuda_wait(void *device, int slot);

#ifdef __cplusplus
}
#endif

#endif
