/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Models of a known shape with random weights: speed does not depend on what the weights are.
 *
 * thread: main. owns: a shaped checkpoint's weights lie in one allocation.
 */
#ifndef MED_WORKER_MODEL_SHAPE_H
#define MED_WORKER_MODEL_SHAPE_H

#include "worker/model/checkpoint.h"

/* The names, separated by |, for an option's choices. */
extern const char MED_SHAPES[];

/* dtype: of the weights.  shared: all matrices come from the same memory, as large as the largest, for
 * a device that copies them: one that reads them where they are would find them in its caches.
 * errors: MED_E_INVALID no such shape, MED_E_NOMEM. */
int med_shape_new(const char *name, enum med_dtype dtype, bool shared, uint64_t seed,
                  struct med_checkpoint *ret_checkpoint, void **ret_memory,
                  struct med_err *err) MED_MUST_CHECK;
void med_shape_free(struct med_checkpoint *checkpoint, void *memory);

#endif
