/* References of a claim: what it holds is freed with the last one. The order of entry ids. */
#include "base/mem.h"
#include "queue/queue.h"

#include <check.h>
#include <stdlib.h>

static int released;

static void release(void *replies)
{
    ck_assert_ptr_eq(replies, &released);
    released++;
}

START_TEST(freed_with_the_last_reference)
{
    struct queue_claimed *claimed = mem_alloc(sizeof(*claimed));
    claimed->entries = mem_array(3, sizeof(*claimed->entries));
    claimed->references = 1;
    claimed->replies = &released;
    claimed->release = release;
    queue_claimed_ref(claimed);
    queue_claimed_ref(claimed);
    queue_claimed_unref(claimed);
    queue_claimed_unref(claimed);
    ck_assert_int_eq(released, 0);
    claimed->entries[2].malformed = true; /* still there */
    queue_claimed_unref(claimed);
    ck_assert_int_eq(released, 1);
}
END_TEST

START_TEST(nothing_to_release)
{
    queue_claimed_unref(NULL);
    struct queue_claimed *claimed = mem_alloc(sizeof(*claimed));
    claimed->references = 1;
    queue_claimed_unref(claimed);
}
END_TEST

START_TEST(entry_ids_stand_as_in_the_stream)
{
    static const char *const rising[] = {
        "0-1",  "9-0",   "9-1",
        "9-2",  "9-10",  "10-0",
        "10-9", "11-10", "18446744073709551615-18446744073709551615"};
    enum { COUNT = sizeof(rising) / sizeof(rising[0]) };
    for (int i = 0; i < COUNT; i++) {
        for (int j = 0; j < COUNT; j++) {
            int order = queue_entry_id_compare(rising[i], rising[j]);
            ck_assert_int_eq((order > 0) - (order < 0), (i > j) - (i < j));
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("queue claimed");
    TCase *tests = tcase_create("claimed");
    tcase_add_test(tests, freed_with_the_last_reference);
    tcase_add_test(tests, nothing_to_release);
    tcase_add_test(tests, entry_ids_stand_as_in_the_stream);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
