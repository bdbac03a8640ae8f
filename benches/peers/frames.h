/* What the C peers share: the frame format and one connection's echo step. A frame is a big-endian u32 total
 * length first, a 16-byte header included in it. One read, then one write with every whole frame it completed;
 * an incomplete tail waits in the connection. Linux only, and minimal on purpose: this is the floor. */
#ifndef FRAMES_H
#define FRAMES_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 16, READ_SIZE = 65536, MAX_FRAME = READ_SIZE };

struct conn {
    int fd;
    size_t tail_len, out_len, out_sent; /* an incomplete frame; an answer the kernel did not take whole */
    char *tail, *out;
};

enum step { KEEP, WANT_WRITE, CLOSE };

static char read_buf[READ_SIZE];

/* Bytes of whole frames at the front of `data`; -1 if a length is out of range. */
static inline ssize_t whole_frames(const char *data, size_t len) {
    size_t at = 0;
    while (len - at >= 4) {
        uint32_t be;
        memcpy(&be, data + at, 4);
        size_t total = ntohl(be);
        if (total < HEADER || total > MAX_FRAME) return -1;
        if (len - at < total) break;
        at += total;
    }
    return (ssize_t)at;
}

static inline char *copy_of(const char *data, size_t len) {
    char *copy = malloc(len);
    if (!copy) abort();
    return memcpy(copy, data, len);
}

static inline enum step on_readable(struct conn *c) {
    size_t have = c->tail_len;
    if (have) {
        memcpy(read_buf, c->tail, have);
        free(c->tail);
        c->tail = NULL;
        c->tail_len = 0;
    }
    ssize_t n = recv(c->fd, read_buf + have, READ_SIZE - have, 0);
    if (n == 0) return CLOSE;
    if (n < 0 && errno != EAGAIN && errno != EINTR) return CLOSE;
    if (n > 0) have += (size_t)n;
    ssize_t whole = whole_frames(read_buf, have);
    if (whole < 0) return CLOSE;
    if ((size_t)whole < have) {
        c->tail_len = have - (size_t)whole;
        c->tail = copy_of(read_buf + whole, c->tail_len);
    }
    if (whole == 0) return KEEP;
    ssize_t sent = send(c->fd, read_buf, (size_t)whole, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR) return CLOSE;
        sent = 0;
    }
    if (sent == whole) return KEEP;
    c->out_len = (size_t)(whole - sent);
    c->out_sent = 0;
    c->out = copy_of(read_buf + sent, c->out_len);
    return WANT_WRITE;
}

static inline enum step on_writable(struct conn *c) {
    ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR ? WANT_WRITE : CLOSE;
    c->out_sent += (size_t)sent;
    if (c->out_sent < c->out_len) return WANT_WRITE;
    free(c->out);
    c->out = NULL;
    return KEEP;
}

static inline struct conn *conn_new(int fd) {
    struct conn *c = calloc(1, sizeof *c);
    if (!c) abort();
    c->fd = fd;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return c;
}

static inline void conn_free(struct conn *c) {
    close(c->fd);
    free(c->tail);
    free(c->out);
    free(c);
}

static inline uint16_t port_of(int argc, char **argv) {
    if (argc != 3 || strcmp(argv[1], "--port") != 0) {
        fprintf(stderr, "usage: %s --port PORT\n", argv[0]);
        exit(2);
    }
    return (uint16_t)atoi(argv[2]);
}

static inline int listen_on(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(fd, 1024) < 0) {
        perror("listen");
        exit(1);
    }
    return fd;
}

static inline void ready(void) {
    puts("ready");
    fflush(stdout);
}

#endif
