# SPDX-License-Identifier: Apache-2.0
"""Worker types that ship as serving points alone: facts of their own, for plans only."""


def profiles(folder):
    return []
