/* The server of byte streams: connections above its maximum. */
#include "link/stream_server.h"

#include "http_peer.h"

static struct loop *loop;
static unsigned open_count, gone_count, refused_count;

static void on_open(void *arg, struct stream *stream)
{
    open_count++;
    stream_set_data(stream, arg);
}

static void on_bytes(void *data, struct slice bytes)
{
    (void)data;
    (void)bytes;
}

static void on_nothing(void *data)
{
    (void)data;
}

static void on_gone(void *data)
{
    (void)data;
    gone_count++;
}

static void on_refused(void *arg)
{
    ck_assert_ptr_eq(arg, &loop);
    refused_count++;
}

START_TEST(above_the_maximum_is_refused_and_told)
{
    struct stream_server_options options = {.listen = "127.0.0.1:0",
                                            .max_connections = 1,
                                            .write_timeout_ms = 10000,
                                            .on_open = on_open,
                                            .on_bytes = on_bytes,
                                            .on_end = on_nothing,
                                            .on_gone = on_gone,
                                            .on_drained = on_nothing,
                                            .on_refused = on_refused,
                                            .arg = &loop};
    struct stream_server *server;
    struct err err;
    loop = loop_new();
    ck_assert_int_eq(stream_server_start(loop, &options, &server, &err), 0);
    struct peer *first = peer_open(loop, stream_server_port(server));
    wait_until(loop, open_count == 1);
    struct peer *second = peer_open(loop, stream_server_port(server));
    wait_until(loop, peer_ended(second));
    ck_assert_uint_eq(refused_count, 1);
    ck_assert_uint_eq(open_count, 1);
    ck_assert(!peer_ended(first));
    peer_reset(first); /* its place is free again */
    wait_until(loop, gone_count == 1);
    peer_close(second);
    second = peer_open(loop, stream_server_port(server));
    wait_until(loop, open_count == 2);
    ck_assert_uint_eq(refused_count, 1);
    peer_close(second);
    stream_server_free(server);
    loop_free(loop);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("stream_server");
    TCase *cases = tcase_create("stream_server");
    tcase_set_timeout(cases, 60);
    tcase_add_test(cases, above_the_maximum_is_refused_and_told);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
