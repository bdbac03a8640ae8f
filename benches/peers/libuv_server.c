/* The same echo on libuv, by its cheapest idiom: one shared read buffer, `uv_try_write`, and a queued write for
 * what the kernel does not take. */
#define _GNU_SOURCE
#include "frames.h"
#include <uv.h>

static uv_loop_t *loop;

struct client {
    uv_tcp_t tcp; /* first, so that a handle is its client */
    size_t tail_len;
    char *tail;
};

struct write {
    uv_write_t req;
    char *data;
};

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    struct client *c = (struct client *)handle;
    (void)suggested;
    if (c->tail_len) memcpy(read_buf, c->tail, c->tail_len);
    *buf = uv_buf_init(read_buf + c->tail_len, (unsigned)(READ_SIZE - c->tail_len));
}

static void on_close(uv_handle_t *handle) {
    struct client *c = (struct client *)handle;
    free(c->tail);
    free(c);
}

static void on_written(uv_write_t *req, int status) {
    struct write *w = (struct write *)req;
    (void)status;
    free(w->data);
    free(w);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    struct client *c = (struct client *)stream;
    (void)buf;
    if (n == 0) return;
    size_t have = c->tail_len + (n > 0 ? (size_t)n : 0);
    ssize_t whole = n < 0 ? -1 : whole_frames(read_buf, have);
    if (whole < 0) {
        uv_close((uv_handle_t *)stream, on_close);
        return;
    }
    if (c->tail_len) {
        free(c->tail);
        c->tail = NULL;
    }
    c->tail_len = have - (size_t)whole;
    if (c->tail_len) c->tail = copy_of(read_buf + whole, c->tail_len);
    if (whole == 0) return;
    uv_buf_t out = uv_buf_init(read_buf, (unsigned)whole);
    int sent = uv_try_write(stream, &out, 1);
    if (sent < 0) sent = 0;
    if (sent == whole) return;
    struct write *w = malloc(sizeof *w);
    if (!w) abort();
    w->data = copy_of(read_buf + sent, (size_t)(whole - sent));
    out = uv_buf_init(w->data, (unsigned)(whole - sent));
    uv_write(&w->req, stream, &out, 1, on_written);
}

static void on_connection(uv_stream_t *server, int status) {
    if (status < 0) return;
    struct client *c = calloc(1, sizeof *c);
    if (!c) abort();
    uv_tcp_init(loop, &c->tcp);
    if (uv_accept(server, (uv_stream_t *)&c->tcp) < 0) {
        uv_close((uv_handle_t *)&c->tcp, on_close);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
}

int main(int argc, char **argv) {
    uv_tcp_t server;
    struct sockaddr_in addr;
    loop = uv_default_loop();
    uv_tcp_init(loop, &server);
    uv_ip4_addr("127.0.0.1", port_of(argc, argv), &addr);
    if (uv_tcp_bind(&server, (struct sockaddr *)&addr, 0) < 0 ||
        uv_listen((uv_stream_t *)&server, 1024, on_connection) < 0) {
        fprintf(stderr, "listen failed\n");
        return 1;
    }
    ready();
    return uv_run(loop, UV_RUN_DEFAULT);
}
