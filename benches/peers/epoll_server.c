/* A minimal epoll echo server of frames, level-triggered: the floor that netlib's epoll back ends are held to. */
#define _GNU_SOURCE
#include "frames.h"
#include <sys/epoll.h>

int main(int argc, char **argv) {
    int listener = listen_on(port_of(argc, argv));
    int ep = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL}; /* NULL: the listener */
    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &ev);
    ready();
    static struct epoll_event events[1024];
    for (;;) {
        int n = epoll_wait(ep, events, 1024, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!c) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
                    ev.events = EPOLLIN;
                    ev.data.ptr = conn_new(fd);
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
                }
                continue;
            }
            int writing = c->out != NULL;
            enum step step = writing ? on_writable(c) : on_readable(c);
            if (step == CLOSE) {
                conn_free(c);
            } else if ((step == WANT_WRITE) != writing) {
                ev.events = writing ? EPOLLIN : EPOLLOUT;
                ev.data.ptr = c;
                epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &ev);
            }
        }
    }
}
