/* SPDX-License-Identifier: Apache-2.0 */
/* The page of a replay's report, page.html, as the build embeds it. thread: any. */
#ifndef MED_ALLOCATOR_REPLAY_REPORT_PAGE_H
#define MED_ALLOCATOR_REPLAY_REPORT_PAGE_H

#include <stddef.h>

extern const unsigned char MED_REPLAY_PAGE_DATA[];
extern const size_t MED_REPLAY_PAGE_BYTES;

#endif
