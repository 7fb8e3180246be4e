/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One check macro per failure source of the CUDA folder, with a goto form: they put the expression,
 * its place and the library's own words into err, set rc to MED_E_CUDA and leave.  They never exit.
 * thread: the one that owns the context.
 */
#ifndef MED_WORKER_CUDA_CHECK_H
#define MED_WORKER_CUDA_CHECK_H

#include "base/err.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#define MED_CUDA_GOTO(expression, rc, out, err)                                            \
 do {                                                                                      \
  cudaError_t status_ = (expression);                                                      \
  if (status_ != cudaSuccess) {                                                            \
   (void)cudaGetLastError(); /* the error is reported here, once */                        \
   (rc) = med_err_set((err), MED_E_CUDA, "%s:%d: %s: %s", __FILE__, __LINE__, #expression, \
                      cudaGetErrorString(status_));                                        \
   goto out;                                                                               \
  }                                                                                        \
 } while (0)

#define MED_CUBLAS_GOTO(expression, rc, out, err)                                          \
 do {                                                                                      \
  cublasStatus_t status_ = (expression);                                                   \
  if (status_ != CUBLAS_STATUS_SUCCESS) {                                                  \
   (rc) = med_err_set((err), MED_E_CUDA, "%s:%d: %s: %s", __FILE__, __LINE__, #expression, \
                      cublasLtGetStatusString(status_));                                   \
   goto out;                                                                               \
  }                                                                                        \
 } while (0)

/* The same inside a device's ops, where the device (struct med_cuda *d) keeps the first failure: put
 * MED_E_CUDA into rc and leave, or return it. */
#define MED_CUDA_OP_GOTO(expression, d, rc, out)                                            \
 do {                                                                                       \
  cudaError_t status_ = (expression);                                                       \
  if (status_ != cudaSuccess) {                                                             \
   (void)cudaGetLastError();                                                                \
   (rc) = med_cuda_fail((d), __FILE__, __LINE__, #expression, cudaGetErrorString(status_)); \
   goto out;                                                                                \
  }                                                                                         \
 } while (0)

#define MED_CUDA_OP_TRY(expression, d)                                                      \
 do {                                                                                       \
  cudaError_t status_ = (expression);                                                       \
  if (status_ != cudaSuccess) {                                                             \
   (void)cudaGetLastError();                                                                \
   return med_cuda_fail((d), __FILE__, __LINE__, #expression, cudaGetErrorString(status_)); \
  }                                                                                         \
 } while (0)

#define MED_CUBLAS_OP_TRY(expression, d)                                                         \
 do {                                                                                            \
  cublasStatus_t status_ = (expression);                                                         \
  if (status_ != CUBLAS_STATUS_SUCCESS)                                                          \
   return med_cuda_fail((d), __FILE__, __LINE__, #expression, cublasLtGetStatusString(status_)); \
 } while (0)

#endif
