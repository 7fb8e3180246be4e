/* SPDX-License-Identifier: Apache-2.0 */
/*
 * medley-worker: serves one model on one device group.
 *
 * Reads options, profile and model, settles the sizes, checks that they fit the memory, and hands over
 * to the service (worker/setup.h says which file does what).  With --dry-run it prints the memory plan
 * instead.  thread: main, which becomes the loop.  Holds no state of a running worker.
 */
#include "worker/setup.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

static int run(struct med_setup *setup, struct med_err *err)
{
    int rc = med_setup_begin(setup, err);
    if (rc >= 0)
        rc = med_setup_settle(setup, err);
    if (rc < 0)
        return rc;
    return setup->options.dry_run ? setup->kind->print(setup, err) : med_setup_serve(setup, err);
}

int main(int argc, char **argv)
{
    static struct med_setup setup;
    struct med_options options;
    struct med_err err = {0};
    struct timespec now;
    int exit_status = 0;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    setup.service.started_ns = (int64_t)now.tv_sec * MED_NS_PER_S + now.tv_nsec;
    if (med_options_main(&med_worker_program, argc, argv, &setup.options, &options, &exit_status) !=
        MED_OPTIONS_RUN)
        return exit_status;
    setup.parsed = &options;
    int rc = run(&setup, &err);
    if (rc < 0)
        (void)fprintf(stderr, "%s: %s\n", med_worker_program.name, err.text);
    if (rc == MED_E_CUDA) {
        /* A GPU that is dead keeps whoever asks it anything waiting, and what libraries do at an exit
         * asks it. */
        (void)fflush(NULL);
        _exit(med_err_exit_status(rc));
    }
    med_setup_release(&setup);
    med_options_release(&options);
    return rc < 0 ? med_err_exit_status(rc) : 0;
}
