/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MED_ASSERT: for Medley's own bugs, on in every build; prints the place and the condition and
 * aborts.  Bad input is never an assert.  thread: any.
 */
#ifndef MED_BASE_ASSERT_H
#define MED_BASE_ASSERT_H

_Noreturn void med_assert_fail(const char *file, int line, const char *condition);

#define MED_ASSERT(condition) \
 ((condition) ? (void)0 : med_assert_fail(__FILE__, __LINE__, #condition))

#endif
