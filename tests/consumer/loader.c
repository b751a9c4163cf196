/* SPDX-License-Identifier: MIT */
/*
 * Loads a module that linked the library, uses it and unloads it.
 * usage: loader MODULE stays|goes
 *   stays  with work pending and threads that have used it: it is linked to stay
 *   goes   with all of its engines destroyed: it may be unloaded for real
 */
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int function(void);

static sem_t entered, unloaded;
static function *use, *enter;

static void must(const char *what, int is)
{
	if (is)
		return;
	fprintf(stderr, "%s\n", what);
	_exit(EXIT_FAILURE);
}

static function *find(void *module, const char *name)
{
	function *found;
	void *symbol = dlsym(module, name);

	must(name, symbol != NULL);
	memcpy(&found, &symbol, sizeof(found));
	return found;
}

/* Uses it before and after, and ends, which is told to it. */
static void *use_by_thread(void *arg)
{
	(void)arg;
	must("use", use() == 0);
	must("enter", enter() == 0);
	sem_post(&entered);
	sem_wait(&unloaded);
	must("use after dlclose", use() == 0);
	return NULL;
}

static void *do_nothing(void *arg)
{
	return arg;
}

static void fork_and_start_a_thread(void)
{
	pthread_t thread;
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(7);
	must("fork", waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
			     WEXITSTATUS(status) == 7);
	must("thread", pthread_create(&thread, NULL, do_nothing, NULL) == 0 &&
			       pthread_join(thread, NULL) == 0);
}

static void stays(const char *path)
{
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	pthread_t thread;

	must("dlopen", module != NULL);
	use = find(module, "module_use");
	enter = find(module, "module_enter");
	sem_init(&entered, 0, 0);
	sem_init(&unloaded, 0, 0);
	must("thread", pthread_create(&thread, NULL, use_by_thread, NULL) == 0);
	sem_wait(&entered);
	must("use", use() == 0);
	must("dlclose", dlclose(module) == 0);
	must("it is gone", dlopen(path, RTLD_NOW | RTLD_NOLOAD) != NULL);
	sem_post(&unloaded);
	pthread_join(thread, NULL);
	fork_and_start_a_thread();
}

static void goes(const char *path)
{
	for (int i = 0; i < 3; i++) {
		void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);

		must("dlopen", module != NULL);
		must("use", find(module, "module_use_and_clear")() == 0);
		must("dlclose", dlclose(module) == 0);
		must("it stays", dlopen(path, RTLD_NOW | RTLD_NOLOAD) == NULL);
		fork_and_start_a_thread();
	}
}

int main(int argc, char **argv)
{
	must("usage: loader MODULE stays|goes", argc == 3);
	if (strcmp(argv[2], "goes") == 0)
		goes(argv[1]);
	else
		stays(argv[1]);
	printf("the module %s\n", argv[2]);
	return EXIT_SUCCESS;
}
