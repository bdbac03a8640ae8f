/* A minimal poll(2) echo server of frames: the floor that netlib's `poll` back end is held to. */
#define _GNU_SOURCE
#include "frames.h"
#include <poll.h>

enum { MAX_CONNS = 20000 };

static struct pollfd fds[MAX_CONNS + 1]; /* entry 0: the listener */
static struct conn *conns[MAX_CONNS + 1];

int main(int argc, char **argv) {
    nfds_t count = 1;
    fds[0] = (struct pollfd){.fd = listen_on(port_of(argc, argv)), .events = POLLIN};
    ready();
    for (;;) {
        int n = poll(fds, count, -1);
        int accepting = n > 0 && fds[0].revents;
        if (accepting) n--;
        for (nfds_t i = 1; i < count && n > 0; i++) {
            if (!fds[i].revents) continue;
            n--;
            struct conn *c = conns[i];
            enum step step = c->out ? on_writable(c) : on_readable(c);
            if (step == CLOSE) {
                conn_free(c);
                count--;
                fds[i] = fds[count];
                conns[i] = conns[count];
                i--;
            } else {
                fds[i].events = step == WANT_WRITE ? POLLOUT : POLLIN;
            }
        }
        int fd;
        while (accepting && count <= MAX_CONNS &&
               (fd = accept4(fds[0].fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
            fds[count] = (struct pollfd){.fd = fd, .events = POLLIN};
            conns[count++] = conn_new(fd);
        }
    }
}
