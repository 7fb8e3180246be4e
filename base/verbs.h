/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verbs of the medley command, once: the dispatcher lists those whose programs are installed, and
 * a shared config file may hold one section per verb.
 */
#ifndef MED_BASE_VERBS_H
#define MED_BASE_VERBS_H

// clang-format off
/*  verb      one line for `medley --help` */
#define MED_VERB_MAP(X) \
    X("plan",     "find the cheapest mix of GPU instances for a workload, a rate and objectives") \
    X("replay",   "simulate a plan against a request trace, on a virtual clock") \
    X("workload", "turn request logs into a workload file, or print the shape of one") \
    X("profile",  "measure a server and write a profile") \
    X("worker",   "serve one model on one device group") \
    X("router",   "take requests and send each to the worker that suits it") \
    X("up",       "run the router and the workers of a plan on this machine") \
    X("ask",      "ask a running router something and stream the answer") \
    X("bench",    "generate load and report latency, throughput and cost") \
    X("deploy",   "render a plan for Kubernetes, Slurm or systemd") \
    X("engine-bench", "time the engine's iterations on this machine's CPU") \
    X("gpu-limits", "measure the read bandwidth and the matrix rate of a GPU (CUDA builds)")
// clang-format on

#endif
