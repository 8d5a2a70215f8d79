/* Any bytes as a production file: no crash, no leak, a production only without errors, and messages that a terminal can
 * print. */
#include "base/bug.h"
#include "model/production.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Text is told as it is; anything else stands in JSON without quotes. */
static void tell(void *arg, const char *section, const char *key, struct slice value, bool is_text)
{
    int64_t number;
    size_t *count = arg;
    BUG_ON(!section || !*key);
    BUG_ON(!is_text && !slice_is(value, "true") && !slice_is(value, "false") &&
           !slice_to_int(value, 0, INT64_MAX, &number));
    ++*count;
}

static void check_item(const struct item *item)
{
    size_t count = 0;
    item_each_setting(item, tell, &count);
    BUG_ON(count < 20);
    BUG_ON(!item_same_queue(item, item));
    BUG_ON(item->partitions < 1 || (item->partitions > 1 && item->queue_type != QUEUE_FIFO));
    BUG_ON((item->priority.path != NULL) != (item->priority.value_count != 0));
    for (size_t i = 0; i < item->priority.value_count; i++)
        BUG_ON(item->priority.values[i].priority < 0 || item->priority.values[i].priority > 9);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct diagnostics all;
    setenv("HIE_TEST_NUMBER", "12", 1);
    setenv("HIE_TEST_TEXT", "a: [b", 1);
    struct production *production = production_parse(slice_of(data, size), &all);
    BUG_ON((production != NULL) != (all.error_count == 0));
    for (size_t i = 0; i < all.count; i++) {
        BUG_ON(i && all.list[i].line < all.list[i - 1].line);
        for (const char *at = all.list[i].message; *at; at++)
            BUG_ON((unsigned char)*at < ' ' || *at == 0x7F);
    }
    for (size_t i = 0; production && i < production->item_count; i++) {
        const struct item *item = &production->items[i];
        BUG_ON(production_find(production, slice_text(item->id)) != item);
        BUG_ON(!item->class || !item->settings);
        check_item(item);
    }
    for (size_t i = 0; production && i < production->dispatcher.mllp_count; i++)
        BUG_ON(!production->dispatcher.mllp[i].item);
    diagnostics_done(&all);
    production_free(production);
    return 0;
}
