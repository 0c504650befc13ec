/* A clock that is wrong: a library to be loaded before all others (LD_PRELOAD), which adds CLJ_CLOCK_AHEAD seconds to the time of day.
   Clocks that count from the start of the machine stay; so do programs that ask the kernel without the C library, such as Go's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long ahead(void) {
    static long seconds, known;
    if (!known) {
        const char *said = getenv("CLJ_CLOCK_AHEAD");
        seconds = said ? atol(said) : 0;
        known = 1;
    }
    return seconds;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

int clock_gettime(clockid_t clock, struct timespec *at) {
    REAL(clock_gettime);
    int failed = real(clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    REAL(gettimeofday);
    int failed = real(at, zone);
    if (!failed) at->tv_sec += ahead();
    return failed;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

/* What waits until a time of day is told the kernel's. */
int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until) {
    REAL(sem_timedwait);
    struct timespec kernels = {until->tv_sec - ahead(), until->tv_nsec};
    return real(sem, &kernels);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    REAL(pthread_mutex_timedlock);
    struct timespec kernels = {until->tv_sec - ahead(), until->tv_nsec};
    return real(mutex, &kernels);
}
