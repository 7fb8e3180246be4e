/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backend that has computed once before it says that it is ready.
 *
 * It wraps another one: init is the other's init and one batch, a prompt of some tens of tokens from
 * which one is sampled, so that what a first step costs (buffers of a BLAS, pages, caches) is paid
 * before READY, and weights that yield no number at all are found there.  The cache holds nonsense
 * afterwards, which nobody has been promised anything of.
 *
 * thread: engine; release afterwards. owns: the other backend, once new has succeeded.
 */
#ifndef MED_WORKER_WARM_UP_H
#define MED_WORKER_WARM_UP_H

#include "worker/backend.h"

struct med_warm_up_config {
    struct med_backend backend;
    struct med_scheduler_config scheduler; /* what a batch may be */
    int64_t vocab_tokens;
};

int med_warm_up_new(const struct med_warm_up_config *config, struct med_backend *ret_backend,
                    struct med_err *err) MED_MUST_CHECK;
/* Real seconds that the batch took; after init. */
double med_warm_up_seconds(const struct med_backend *backend);

#endif
