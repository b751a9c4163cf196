/* SPDX-License-Identifier: MIT */
/* Stands in for libteardown-run.so where the command is tested, not what it loads. */
const char td_preloaded[] = "preloaded";
