/* The offload threads with real threads: everything completes once, on the loop; withdrawing and freeing at each
 * moment of a work's life. */
#include "base/mem.h"
#include "offload.h"

#include <check.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

enum { MANY = 1000 };

static struct loop *loop;
static int done_count;

struct test_work {
    struct offload_work work; /* first: cast from it */
    sem_t *gate;              /* run waits for it; NULL: goes on */
    sem_t *begun;             /* run posts it */
    pthread_t ran_in;
    int runs, dones;
    int stop_at;           /* stops the loop when done_count reaches it */
    struct offload *again; /* done submits it once more */
    struct offload *victims_offload;
    struct test_work *victim; /* done withdraws it */
    bool victim_ran;
};

static void run(struct offload_work *work)
{
    struct test_work *test = (struct test_work *)work;
    test->ran_in = pthread_self();
    test->runs++;
    if (test->begun)
        sem_post(test->begun);
    if (test->gate)
        sem_wait(test->gate);
}

static void done(struct offload_work *work)
{
    struct test_work *test = (struct test_work *)work;
    test->dones++;
    done_count++;
    if (test->again) {
        struct offload *again = test->again;
        test->again = NULL;
        offload_submit(again, work);
        return;
    }
    if (test->victim) {
        test->victim_ran = offload_withdraw(test->victims_offload, &test->victim->work);
        test->victim = NULL;
    }
    if (done_count >= test->stop_at)
        loop_stop(loop);
}

static struct test_work new_work(int stop_at)
{
    return (struct test_work){.work = {.run = run, .done = done}, .stop_at = stop_at};
}

static void on_late(void *arg)
{
    (void)arg;
    ck_abort_msg("the loop was not stopped in time");
}

static void run_loop(void)
{
    struct loop_timer late;
    loop_timer_init(&late, loop, on_late, NULL);
    loop_timer_set(&late, 20000);
    loop_run(loop);
    loop_timer_done(&late);
}

static void on_over(void *arg)
{
    loop_stop(arg);
}

/* For what must not happen. */
static void run_loop_briefly(void)
{
    struct loop_timer over;
    loop_timer_init(&over, loop, on_over, loop);
    loop_timer_set(&over, 30);
    loop_run(loop);
    loop_timer_done(&over);
}

static void setup(void)
{
    loop = loop_new();
    done_count = 0;
}

static void teardown(void)
{
    loop = loop_free(loop);
}

START_TEST(many_complete_once_each_in_other_threads)
{
    struct offload *offload = offload_new(loop, 4);
    struct test_work *works = mem_array(MANY, sizeof(*works));
    for (int i = 0; i < MANY; i++) {
        works[i] = new_work(MANY);
        offload_submit(offload, &works[i].work);
    }
    ck_assert_int_eq(done_count, 0); /* never from inside submit */
    run_loop();
    for (int i = 0; i < MANY; i++) {
        ck_assert_int_eq(works[i].runs, 1);
        ck_assert_int_eq(works[i].dones, 1);
        ck_assert(!pthread_equal(works[i].ran_in, pthread_self()));
    }
    offload_free(offload);
    free(works);
}
END_TEST

START_TEST(threads_run_side_by_side)
{
    struct offload *offload = offload_new(loop, 2);
    sem_t gate, begun;
    sem_init(&gate, 0, 0);
    sem_init(&begun, 0, 0);
    struct test_work first = new_work(2), second = new_work(2);
    first.gate = second.gate = &gate;
    first.begun = second.begun = &begun;
    offload_submit(offload, &first.work);
    offload_submit(offload, &second.work);
    sem_wait(&begun);
    sem_wait(&begun); /* both are inside run at once, or this waits for ever */
    sem_post(&gate);
    sem_post(&gate);
    run_loop();
    ck_assert_int_eq(done_count, 2);
    offload_free(offload);
}
END_TEST

START_TEST(a_completion_may_submit_again)
{
    struct offload *offload = offload_new(loop, 1);
    struct test_work work = new_work(2);
    work.again = offload;
    offload_submit(offload, &work.work);
    run_loop();
    ck_assert_int_eq(work.runs, 2);
    ck_assert_int_eq(work.dones, 2);
    offload_free(offload);
}
END_TEST

START_TEST(without_threads_it_runs_where_it_is_submitted)
{
    struct offload *offload = offload_new(loop, 0);
    struct test_work work = new_work(1), victim = new_work(1);
    offload_submit(offload, &work.work);
    ck_assert_int_eq(work.runs, 1);
    ck_assert(pthread_equal(work.ran_in, pthread_self()));
    ck_assert_int_eq(done_count, 0); /* its completion comes on the loop all the same */
    offload_submit(offload, &victim.work);
    ck_assert(offload_withdraw(offload, &victim.work));
    run_loop();
    ck_assert_int_eq(work.dones, 1);
    ck_assert_int_eq(victim.dones, 0);
    offload_free(offload);
}
END_TEST

START_TEST(withdrawn_before_it_began)
{
    struct offload *offload = offload_new(loop, 1);
    sem_t gate, begun;
    sem_init(&gate, 0, 0);
    sem_init(&begun, 0, 0);
    struct test_work head = new_work(2), victim = new_work(2), tail = new_work(2);
    head.gate = &gate;
    head.begun = &begun;
    offload_submit(offload, &head.work);
    sem_wait(&begun);
    offload_submit(offload, &victim.work);
    offload_submit(offload, &tail.work);
    ck_assert(!offload_withdraw(offload, &victim.work));
    sem_post(&gate);
    run_loop();
    ck_assert_int_eq(victim.runs + victim.dones, 0);
    ck_assert_int_eq(tail.dones, 1);
    offload_free(offload);
}
END_TEST

START_TEST(the_last_of_the_queue_withdrawn_then_another_submitted)
{
    struct offload *offload = offload_new(loop, 1);
    sem_t gate, begun;
    sem_init(&gate, 0, 0);
    sem_init(&begun, 0, 0);
    struct test_work head = new_work(2), victim = new_work(2), tail = new_work(2);
    head.gate = &gate;
    head.begun = &begun;
    offload_submit(offload, &head.work);
    sem_wait(&begun);
    offload_submit(offload, &victim.work);
    ck_assert(!offload_withdraw(offload, &victim.work));
    offload_submit(offload, &tail.work);
    sem_post(&gate);
    run_loop();
    ck_assert_int_eq(tail.dones, 1);
    offload_free(offload);
}
END_TEST

static void *open_gate(void *gate)
{
    struct timespec little = {.tv_nsec = 20000000};
    nanosleep(&little, NULL);
    sem_post(gate);
    return NULL;
}

START_TEST(withdrawn_while_it_runs_waits_for_it)
{
    struct offload *offload = offload_new(loop, 1);
    sem_t gate, begun;
    sem_init(&gate, 0, 0);
    sem_init(&begun, 0, 0);
    struct test_work work = new_work(1);
    work.gate = &gate;
    work.begun = &begun;
    offload_submit(offload, &work.work);
    sem_wait(&begun);
    pthread_t opener;
    pthread_create(&opener, NULL, open_gate, &gate);
    ck_assert(offload_withdraw(offload, &work.work));
    pthread_join(opener, NULL);
    run_loop_briefly();
    ck_assert_int_eq(work.runs, 1);
    ck_assert_int_eq(work.dones, 0);
    offload_free(offload);
}
END_TEST

START_TEST(withdrawn_by_the_completion_of_another)
{
    struct offload *offload = offload_new(loop, 1);
    sem_t begun;
    sem_init(&begun, 0, 0);
    struct test_work first = new_work(1), victim = new_work(1);
    first.begun = victim.begun = &begun;
    first.victim = &victim;
    first.victims_offload = offload;
    offload_submit(offload, &first.work);
    offload_submit(offload, &victim.work);
    sem_wait(&begun);
    sem_wait(&begun); /* both have begun before the loop hears of either */
    run_loop();
    run_loop_briefly();
    ck_assert(first.victim_ran);
    ck_assert_int_eq(victim.dones, 0);
    offload_free(offload);
}
END_TEST

START_TEST(free_completes_what_runs_and_drops_what_waits)
{
    struct offload *offload = offload_new(loop, 1);
    sem_t gate, begun;
    sem_init(&gate, 0, 0);
    sem_init(&begun, 0, 0);
    struct test_work runs = new_work(99), waits = new_work(99);
    runs.gate = &gate;
    runs.begun = &begun;
    offload_submit(offload, &runs.work);
    offload_submit(offload, &waits.work);
    sem_wait(&begun);
    pthread_t opener;
    pthread_create(&opener, NULL, open_gate, &gate);
    ck_assert_ptr_null(offload_free(offload));
    pthread_join(opener, NULL);
    ck_assert_int_eq(runs.dones, 1);
    ck_assert_int_eq(waits.runs + waits.dones, 0);
    ck_assert_ptr_null(offload_free(NULL));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("offload");
    TCase *tests = tcase_create("all");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, many_complete_once_each_in_other_threads);
    tcase_add_test(tests, threads_run_side_by_side);
    tcase_add_test(tests, a_completion_may_submit_again);
    tcase_add_test(tests, without_threads_it_runs_where_it_is_submitted);
    tcase_add_test(tests, withdrawn_before_it_began);
    tcase_add_test(tests, the_last_of_the_queue_withdrawn_then_another_submitted);
    tcase_add_test(tests, withdrawn_while_it_runs_waits_for_it);
    tcase_add_test(tests, withdrawn_by_the_completion_of_another);
    tcase_add_test(tests, free_completes_what_runs_and_drops_what_waits);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
