/* SPDX-License-Identifier: MIT */
/*
 * In place of setuid and its kin: a program that gives up rights must not share its
 * memory with a helper that still has them.
 */
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <unistd.h>

/* X(name, parameters, arguments) */
#define FUNCTIONS(X)                                                                     \
	X(setuid, (uid_t user), (user))                                                  \
	X(seteuid, (uid_t user), (user))                                                 \
	X(setreuid, (uid_t real, uid_t user), (real, user))                              \
	X(setresuid, (uid_t real, uid_t user, uid_t saved), (real, user, saved))         \
	X(setgid, (gid_t group), (group))                                                \
	X(setegid, (gid_t group), (group))                                               \
	X(setregid, (gid_t real, gid_t group), (real, group))                            \
	X(setresgid, (gid_t real, gid_t group, gid_t saved), (real, group, saved))

#define STAND_IN(name, parameters, arguments)                                            \
	TDR_EXPORT int name parameters;                                                  \
	int name parameters                                                              \
	{                                                                                \
		int(*next) parameters = (int(*) parameters)dlsym(RTLD_NEXT, #name);      \
		int result;                                                              \
                                                                                         \
		if (!next) {                                                             \
			errno = ENOSYS;                                                  \
			return -1;                                                       \
		}                                                                        \
		result = next arguments;                                                 \
		if (result == 0)                                                         \
			tdr_user_changed();                                              \
		return result;                                                           \
	}
FUNCTIONS(STAND_IN)
